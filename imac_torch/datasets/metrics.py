"""How good outputs of a model are: accuracy, or a metric of the user's, over batches."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from imac_torch.datasets.batches import check_labels, chosen
from imac_torch.errors import DataError

__all__ = [
    "Accuracy", "Metric", "Scorer", "samples_in_run", "samples_of", "scorer", "tensors_in",
    "unsolved",
]  # fmt: skip

Part = TypeVar("Part")


@runtime_checkable
class Accumulating(Protocol):
    """A metric that collects, as those of torchmetrics do."""

    def update(self, outputs: Any, targets: Any) -> object:  # noqa: ANN401
        """Take outputs and targets of one batch."""

    def compute(self) -> Any:  # noqa: ANN401
        """The value so far, a number."""


Metric = Callable[[Any, Any], "float | Tensor"] | Accumulating
"""Of (outputs, targets) of one batch, whose mean over samples counts; or one that collects."""


class Scorer(ABC, Generic[Part]):
    """Scores batches.

    Attributes:
        name: Of the score.
        parts: Of every batch so far.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts: list[Part] = []

    def add(self, outputs: Any, targets: Any, count: int, bad: Tensor) -> None:  # noqa: ANN401
        """One batch more.

        Args:
            outputs: Of the model.
            targets: What they are compared with.
            count: Samples.
            bad: (count,) bool, samples that were not solved; they are left out.

        Raises:
            DataError: The score is not of such outputs.
        """
        self.parts.append(self._part(outputs, targets, count, bad))

    @abstractmethod
    def _part(self, outputs: Any, targets: Any, count: int, bad: Tensor) -> Part:  # noqa: ANN401
        ...

    @abstractmethod
    def value(self) -> float:
        """The score; NaN if no sample was solved."""

    def tensors(self) -> dict[str, Tensor]:
        """``labels`` and ``predictions`` (B,) of classifications."""
        return {}


class Accuracy(Scorer[tuple[Tensor, Tensor]]):
    """Share of right classes, samples that were not solved left out."""

    def __init__(self) -> None:
        super().__init__("accuracy")

    def _part(
        self, outputs: Any, targets: Any, count: int, bad: Tensor  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
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
        labels = check_labels(targets, outputs, classes=outputs.shape[1]).cpu()
        found = chosen(outputs.detach()).cpu()
        # -2 is no class either: the sample was not solved, and does not count.
        return labels, torch.where(bad, -2, found)

    def value(self) -> float:
        """See :class:`Scorer`."""
        labels, found = (torch.cat(part) for part in zip(*self.parts, strict=True))
        return float((found == labels)[found > -2].double().mean())

    def tensors(self) -> dict[str, Tensor]:
        """See :class:`Scorer`."""
        labels, found = (torch.cat(part) for part in zip(*self.parts, strict=True))
        return {"labels": labels, "predictions": found.clamp(min=-1)}


class _Mean(Scorer[tuple[float, int]]):
    """Mean over samples of a function of batches."""

    def __init__(self, metric: Callable[[Any, Any], float | Tensor], name: str) -> None:
        super().__init__(name)
        self.metric = metric

    def _part(
        self, outputs: Any, targets: Any, count: int, bad: Tensor  # noqa: ANN401
    ) -> tuple[float, int]:
        outputs, targets, count = _solved(outputs, targets, count, bad)
        return (_number(self.metric(outputs, targets), self.name) if count else 0.0), count

    def value(self) -> float:
        """See :class:`Scorer`."""
        samples = sum(count for _, count in self.parts)
        return sum(v * count for v, count in self.parts) / samples if samples else math.nan


class _Collecting(Scorer[None]):
    """A metric that collects itself."""

    def __init__(self, metric: Accumulating, name: str) -> None:
        super().__init__(name)
        self.metric = metric

    def _part(self, outputs: Any, targets: Any, count: int, bad: Tensor) -> None:  # noqa: ANN401
        outputs, targets, count = _solved(outputs, targets, count, bad)
        if count:
            self.metric.update(outputs, targets)

    def value(self) -> float:
        """See :class:`Scorer`."""
        return _number(self.metric.compute(), self.name)


def scorer(metric: Metric | None) -> Scorer[Any]:
    """What scores batches by a metric; None: accuracy of (B, classes) by class indices (B,)."""
    if metric is None:
        return Accuracy()
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


def _solved(outputs: Any, targets: Any, count: int, bad: Tensor) -> tuple[Any, Any, int]:  # noqa: ANN401
    """Outputs and targets of the samples that were solved."""
    if not bool(bad.any()):
        return outputs, targets, count
    good = ~bad
    return *samples_of((outputs, targets), count, good), int(good.sum())


def samples_of(value: Any, count: int, which: Tensor | slice) -> Any:  # noqa: ANN401 - as given
    """Some of the samples in all tensors that have as many.

    Args:
        value: Tensors, in tuples, lists and dicts.
        count: Samples.
        which: (count,) bool, or a slice.
    """

    def cut(item: object) -> object:
        if not isinstance(item, Tensor) or not item.ndim or len(item) != count:
            return item
        return item[which.to(item.device) if isinstance(which, Tensor) else which]

    return tree_map(cut, value)


def unsolved(outputs: Any, count: int) -> Tensor:  # noqa: ANN401 - what models give
    """(B,) whether an output of a sample is no number."""
    found = torch.zeros(count, dtype=torch.bool, device="cpu")
    for value in tensors_in(outputs):
        if value.ndim and len(value) == count and value.is_floating_point():
            found |= value.detach().isnan().reshape(count, -1).any(1).cpu()
    return found


def tensors_in(value: Any) -> list[Tensor]:  # noqa: ANN401 - what models give and take
    """Tensors in tuples, lists and dicts, in order."""
    return [item for item in tree_leaves(value) if isinstance(item, Tensor)]


def samples_in_run(arguments: Any) -> int:  # noqa: ANN401 - what models take
    """Samples of a run: the length of the first tensor among its arguments.

    Raises:
        DataError: There is none.
    """
    tensors = tensors_in(arguments)
    if not tensors or not tensors[0].ndim:
        raise DataError("there is no tensor with samples among the inputs")
    return len(tensors[0])
