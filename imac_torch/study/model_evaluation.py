"""Evaluate models with several circuits, or by a metric of the user's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from imac_torch.base.progress import progress_bar
from imac_torch.circuit.engine import Engine
from imac_torch.config import Noise
from imac_torch.datasets.batches import samples_in, taken
from imac_torch.datasets.metrics import (
    Metric,
    Scorer,
    samples_in_run,
    samples_of,
    scorer,
    tensors_in,
    unsolved,
)
from imac_torch.errors import DataError, SolverError
from imac_torch.model.inputs import Arguments, arguments_of
from imac_torch.model.network import IMACNetwork, evaluating
from imac_torch.model.noisy import hearing
from imac_torch.numeric.modes import lasting
from imac_torch.reports.area import AreaModel
from imac_torch.reports.model_report import ModelReport, Score
from imac_torch.reports.report import environment
from imac_torch.study.interruption import keeping
from imac_torch.study.segments import Watch, critical_path
from imac_torch.study.settling import check_measurable
from imac_torch.transient.options import TimingOptions

__all__ = ["Asked", "evaluate_model"]


@dataclass(frozen=True)
class Asked:
    """What :func:`imac_torch.evaluate` is asked for; see there."""

    network: IMACNetwork
    loader: Iterable[object]
    reference: nn.Module | None
    engine: Engine | None
    first: int
    limit: int | None
    timing: bool | TimingOptions
    noise: bool | Noise
    generator: torch.Generator | None
    seed: int | None
    progress: bool


@lasting()
def evaluate_model(asked: Asked, metric: Metric | None, area: AreaModel | str) -> ModelReport:
    """:func:`imac_torch.evaluate` of a model with several circuits, or with a metric."""
    network, reference, engine = asked.network, asked.reference, asked.engine
    timing, shown = asked.timing, asked.progress
    options = TimingOptions() if timing is True else timing or None
    if options is not None:
        if not (network.engine if engine is None else engine).measures_time:
            raise SolverError("timing is measured by the native engine; leave engine out")
        for path, segment in network.segments.items():
            check_measurable(path, segment)
    software = None if reference is None else scorer(metric)
    run = _Run(network, scorer(metric), software, area, asked.seed)
    total = samples_in(asked.loader, asked.first, asked.limit)
    with keeping(lambda: run.samples, run.report), _engine(network, engine), evaluating(
        network, reference
    ), hearing(network.segments, asked.noise, asked.generator) as run.watch.heard, progress_bar(
        network.engine.name, total, "samples", shown=shown
    ) as advance:
        batches = argument_batches(asked.loader, first=asked.first, limit=asked.limit)
        for arguments, targets, count in batches:
            moved = tree_map_only(Tensor, lambda item: item.to(network.device), arguments)
            first_of = None if metric is None else tensors_in(moved)[0]
            with run.watch.batch(count, first_of):
                outputs = network(*moved[0], **moved[1])
            wanted = None if reference is None else reference(*moved[0], **moved[1])
            run.add(outputs, wanted, targets, count)
            advance(count)
        if options is None:
            return run.report()
        with progress_bar(
            "transients", len(network.segments), "circuits", shown=shown
        ) as measured:
            return run.report(timing=options, advance=measured)


@dataclass
class _Run:
    """What has been evaluated of a model so far.

    Attributes:
        network: The model.
        circuit: Scores its outputs.
        software: Scores the reference's; None: there is none.
        area: Model of the arrays' area, or its name.
        seed: For the record.
        started: When it began.
        samples: That are finished.
        failures: Of those.
    """

    network: IMACNetwork
    circuit: Scorer[Any]
    software: Scorer[Any] | None
    area: AreaModel | str
    seed: int | None
    started: float = field(default_factory=time.perf_counter)
    samples: int = 0
    failures: int = 0

    def __post_init__(self) -> None:
        self.watch = Watch(self.network.model, self.network.segments)

    def add(self, outputs: Any, wanted: Any, targets: Any, count: int) -> None:  # noqa: ANN401
        """One batch more."""
        bad = unsolved(outputs, count)
        self.circuit.add(outputs, targets, count, bad)
        if self.software is not None:
            try:
                self.software.add(wanted, targets, count, bad)
            except BaseException:
                self.circuit.parts.pop()  # the batch is not finished
                raise
        self.failures += int(bad.sum())
        self.samples += count

    def report(
        self,
        stopped: str = "",
        *,
        timing: TimingOptions | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> ModelReport:
        """Of what has been evaluated.

        Args:
            stopped: What ended the run early.
            timing: How circuits are measured in time; None: they are not.
            advance: Called with 1 for every circuit that was.

        Raises:
            SolverError: Not a single sample was solved, or a circuit could not be measured.
        """
        if self.failures == self.samples:
            raise SolverError(
                f"none of {self.samples} samples was solved; look at one circuit with "
                "network.segments[...].solve(rows)"
            )
        network = self.network
        segments = self.watch.figures(self.area, timing, advance)
        drawn = next(iter(self.watch.heard.values()), None)
        tensors = self.circuit.tensors()
        agreement = None
        if tensors and self.software is not None:
            tensors["reference"] = self.software.tensors()["predictions"]
            solved = tensors["predictions"] >= 0
            same = (tensors["predictions"] == tensors["reference"])[solved]
            agreement = float(same.double().mean())
        software = None if self.software is None else self.software.value()
        return ModelReport(
            samples=self.samples,
            failures=self.failures,
            score=Score(self.circuit.name, self.circuit.value(), software),
            agreement=agreement,
            segments=segments,
            latency=critical_path(network.model, {item.path: item.latency for item in segments}),
            settled=critical_path(network.model, {item.path: item.settled for item in segments}),
            config=network.config.replace(noise=drawn.settings) if drawn else network.config,
            layers=network.records,
            engine=_described(network),
            environment=environment(),
            seed=self.seed,
            seconds=time.perf_counter() - self.started,
            stopped=stopped,
            tensors=tensors,
            programming=network.programming(),
        )


def argument_batches(
    loader: Iterable[object], *, first: int = 0, limit: int | None = None
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
        count = samples_in_run(arguments)
        wanted = batch[1]
        if isinstance(wanted, Tensor) and wanted.ndim and count and len(wanted) % count:
            raise DataError(
                f"{where}: inputs {tuple(tensors_in(arguments)[0].shape)} are {count} samples, by "
                f"their first dimension, which targets {tuple(wanted.shape)} are not"
            )
        return (arguments, batch[1], count), count

    def cut(
        batch: tuple[Arguments, Any, int], which: slice
    ) -> tuple[Arguments, Any, int]:
        arguments, targets, count = batch
        return *samples_of((arguments, targets), count, which), which.stop - which.start

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
