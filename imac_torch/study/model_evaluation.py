"""Evaluate models with several circuits, or by a metric of the user's."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from imac_torch.base.progress import progress_bar
from imac_torch.circuit.engine import Engine
from imac_torch.datasets.batches import check_labels, chosen, samples_in, taken
from imac_torch.errors import DataError, SolverError
from imac_torch.model.inputs import Arguments, arguments_of
from imac_torch.model.network import IMACNetwork, evaluating
from imac_torch.numeric.modes import lasting
from imac_torch.reports.area import AreaModel
from imac_torch.reports.model_report import ModelReport, Score
from imac_torch.reports.report import environment
from imac_torch.study.segments import Watch, critical_path

__all__ = ["Metric", "evaluate_model"]


@runtime_checkable
class Accumulating(Protocol):
    """A metric that collects, as those of torchmetrics do."""

    def update(self, outputs: Any, targets: Any) -> object:  # noqa: ANN401
        """Take outputs and targets of one batch."""

    def compute(self) -> Any:  # noqa: ANN401
        """The value so far, a number."""


Metric = Callable[[Any, Any], "float | Tensor"] | Accumulating
"""Of (outputs, targets) of one batch, whose mean over samples counts; or one that collects."""


@lasting()
def evaluate_model(
    network: IMACNetwork,
    loader: Iterable[object],
    *,
    reference: nn.Module | None = None,
    metric: Metric | None = None,
    engine: Engine | None = None,
    first: int = 0,
    limit: int | None = None,
    area: AreaModel | str = "imac-sim",
    seed: int | None = None,
    progress: bool = True,
) -> ModelReport:
    """:func:`imac_torch.evaluate` of a model with several circuits, or with a metric.

    Args:
        network: A converted model.
        loader: Yields pairs (inputs, targets); inputs are a tensor, a tuple or list of several, or
            a dict of named ones.
        reference: The software model to compare with, run in evaluation mode.
        metric: See :data:`Metric`; None: accuracy, of (B, classes) outputs and (B,) class indices.
        engine: None for the network's own.
        first: Samples to skip.
        limit: Samples to take, None for all.
        area: Model of the arrays' area, or its name.
        seed: Seed that the run's randomness came from, for the record.
        progress: Show a progress bar.

    Raises:
        DataError: The loader's batches are no such pairs, there are too few samples, or outputs
            are not what the score is of.
        SolverError: Not a single sample was solved.
    """
    started = time.perf_counter()
    watch = Watch(network.segments)
    circuit, software = _scorer(metric), None if reference is None else _scorer(metric)
    failures, total = 0, samples_in(loader, first, limit)
    with _engine(network, engine), evaluating(network, reference), progress_bar(
        network.engine.name, total, "samples", shown=progress
    ) as advance:
        for arguments, targets, count in _batches(loader, first, limit):
            moved = tree_map_only(Tensor, lambda item: item.to(network.device), arguments)
            with watch.batch(count):
                outputs = network(*moved[0], **moved[1])
            bad = _bad(outputs, count)
            failures += int(bad.sum())
            circuit.add(outputs, targets, count, bad)
            if reference is not None and software is not None:
                wanted = reference(*moved[0], **moved[1])
                software.add(wanted, targets, count, bad)
            advance(count)
        if failures == watch.samples:
            raise SolverError(
                f"none of {watch.samples} samples was solved; look at one circuit with "
                "network.segments[...].solve(rows)"
            )
        segments = watch.figures(area)
        described = _described(network)
    latency = critical_path(network.model, {item.path: item.latency for item in segments})
    tensors = circuit.tensors()
    agreement = None
    if tensors and software is not None:
        tensors["reference"] = software.tensors()["predictions"]
        solved = tensors["predictions"] >= 0
        agreement = float(
            (tensors["predictions"] == tensors["reference"])[solved].double().mean()
        )
    return ModelReport(
        samples=watch.samples,
        failures=failures,
        score=Score(
            circuit.name, circuit.value(), None if software is None else software.value()
        ),
        agreement=agreement,
        segments=segments,
        latency=latency,
        config=network.config,
        layers=network.records,
        engine=described,
        environment=environment(),
        seed=seed,
        seconds=time.perf_counter() - started,
        tensors=tensors,
    )


@dataclass
class _Accuracy:
    """Share of right classes, samples that were not solved left out."""

    name: str = "accuracy"
    labels: list[Tensor] = field(default_factory=list)
    predictions: list[Tensor] = field(default_factory=list)
    solved: list[Tensor] = field(default_factory=list)

    def add(self, outputs: Any, targets: Any, count: int, bad: Tensor) -> None:  # noqa: ANN401
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != count:
            what = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise DataError(
                f"accuracy is of outputs (B, classes), the model gives {what}; pass "
                "metric=function(outputs, targets)"
            )
        if outputs.shape[1] == 1:
            raise DataError(
                "accuracy is of one output per class, the model has one; pass "
                "metric=function(outputs, targets), for example with a threshold"
            )
        labels = check_labels(targets, outputs, classes=outputs.shape[1])
        self.labels.append(labels.cpu())
        self.predictions.append(torch.where(bad, -1, chosen(outputs.detach())).cpu())
        self.solved.append(~bad.cpu())

    def value(self) -> float:
        solved = torch.cat(self.solved)
        right = torch.cat(self.predictions) == torch.cat(self.labels)
        return float(right[solved].double().mean())

    def tensors(self) -> dict[str, Tensor]:
        return {"labels": torch.cat(self.labels), "predictions": torch.cat(self.predictions)}


@dataclass
class _Mean:
    """Mean over samples of a function of batches."""

    metric: Callable[[Any, Any], float | Tensor]
    name: str
    total: float = 0.0
    samples: int = 0

    def add(self, outputs: Any, targets: Any, count: int, bad: Tensor) -> None:  # noqa: ANN401
        outputs, targets, count = _without(outputs, targets, count, bad)
        if count:
            self.total += count * _number(self.metric(outputs, targets), self.name)
            self.samples += count

    def value(self) -> float:
        return self.total / self.samples if self.samples else math.nan

    def tensors(self) -> dict[str, Tensor]:
        return {}


@dataclass
class _Collecting:
    """A metric that collects itself."""

    metric: Accumulating
    name: str

    def add(self, outputs: Any, targets: Any, count: int, bad: Tensor) -> None:  # noqa: ANN401
        outputs, targets, count = _without(outputs, targets, count, bad)
        if count:
            self.metric.update(outputs, targets)

    def value(self) -> float:
        return _number(self.metric.compute(), self.name)

    def tensors(self) -> dict[str, Tensor]:
        return {}


def _scorer(metric: Metric | None) -> _Accuracy | _Mean | _Collecting:
    if metric is None:
        return _Accuracy()
    name = str(getattr(metric, "__name__", type(metric).__name__))
    if isinstance(metric, Accumulating):
        own = copy.deepcopy(metric)  # one for the circuit, one for software
        if hasattr(own, "reset"):
            own.reset()
        return _Collecting(own, name)
    return _Mean(metric, name)


def _number(value: object, name: str) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise DataError(f"the metric {name} gives no number: {error}") from None


def _without(outputs: Any, targets: Any, count: int, bad: Tensor) -> tuple[Any, Any, int]:  # noqa: ANN401
    """Outputs and targets of the samples that were solved."""
    if not bool(bad.any()):
        return outputs, targets, count
    good = ~bad
    return *_samples((outputs, targets), count, good), int(good.sum())


def _samples(value: Any, count: int, which: Tensor | slice) -> Any:  # noqa: ANN401 - as given
    """Some of the samples in all tensors that have as many."""

    def cut(item: object) -> object:
        if not isinstance(item, Tensor) or not item.ndim or len(item) != count:
            return item
        return item[which.to(item.device) if isinstance(which, Tensor) else which]

    return tree_map(cut, value)


def _bad(outputs: Any, count: int) -> Tensor:  # noqa: ANN401 - what models give
    """(B,) whether an output of a sample is no number."""
    found = torch.zeros(count, dtype=torch.bool, device="cpu")
    for value in _tensors(outputs):
        if value.ndim and len(value) == count and value.is_floating_point():
            found |= value.detach().isnan().reshape(count, -1).any(1).cpu()
    return found


def _tensors(value: Any) -> list[Tensor]:  # noqa: ANN401 - what models give and take
    return [item for item in tree_leaves(value) if isinstance(item, Tensor)]


def _batches(
    loader: Iterable[object], first: int, limit: int | None
) -> Iterator[tuple[Arguments, Any, int]]:
    """Inputs, targets and how many samples, of the samples asked for.

    Raises:
        DataError: A batch is no pair, or there are too few samples.
    """

    def read(batch: object, where: str) -> tuple[tuple[Arguments, Any, int], int]:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(
                f"{where}: expected a pair (inputs, targets), several inputs being a tuple "
                f"or a dict, got a {type(batch).__name__}"
            )
        arguments = arguments_of(batch[0])
        tensors = _tensors(arguments)
        if not tensors or not tensors[0].ndim:
            raise DataError(f"{where}: there is no tensor among its inputs")
        count = len(tensors[0])
        return (arguments, batch[1], count), count

    def cut(
        batch: tuple[Arguments, Any, int], which: slice
    ) -> tuple[Arguments, Any, int]:
        arguments, targets, count = batch
        return *_samples((arguments, targets), count, which), which.stop - which.start

    return taken(loader, read, cut, first=first, limit=limit)


@contextmanager
def _engine(network: IMACNetwork, engine: Engine | None) -> Iterator[None]:
    """Let another engine solve meanwhile."""
    before = {path: segment.engine for path, segment in network.segments.items()}
    try:
        if engine is not None:
            network.engine = engine
        yield
    finally:
        for path, segment in network.segments.items():
            segment.engine = before[path]


def _described(network: IMACNetwork) -> dict[str, str]:
    """The engine's name and settings, those of the first circuit that has been used."""
    segment = next(iter(network.segments.values()))
    return segment.engine.bind(segment).description()
