"""What software gives, and how far outputs of circuits are from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from imac_torch.datasets.batches import check_labels, chosen
from imac_torch.datasets.metrics import Metric, samples_in_run, scorer, tensors_in, unsolved
from imac_torch.errors import DataError, MappingError
from imac_torch.model.inputs import Arguments, arguments_of
from imac_torch.model.linear import IMACLinear
from imac_torch.model.network import Chain, IMACNetwork, evaluating
from imac_torch.model.positions import Vectors

__all__ = [
    "Outputs", "Scored", "activations", "relative_error", "runs_of", "software_activations",
]  # fmt: skip


def software_activations(network: IMACNetwork, features: Tensor) -> list[Tensor]:
    """Activations of the software model on the analog layers' own weights.

    Args:
        network: A converted model.
        features: (B, N), what the digital part gives.

    Returns:
        Inputs of the first layer, then the outputs of every layer, (B, …) float64 each.
    """
    return activations(list(network.analog_layers()), features)


def activations(layers: Sequence[IMACLinear], features: Tensor) -> list[Tensor]:
    """:func:`software_activations` of layers.

    Args:
        layers: Of one circuit.
        features: (B, G·N) inputs of the first layer.
    """
    found = [features.to(torch.float64)]
    for layer in layers:
        weight = layer.weight.to(torch.float64)
        bias = None if layer.bias is None else layer.bias.to(torch.float64)
        through = Vectors(groups=layer.groups).through(found[-1], weight, bias)
        found.append(layer.activation.apply(through))
    return found


def relative_error(found: Tensor, wanted: Tensor, scale: float = 1.0) -> float:
    """Rms difference relative to the rms of what varies from sample to sample.

    Args:
        found: (B, M).
        wanted: (B, M).
        scale: What it is relative to where all wanted outputs are 0; where they only do not vary,
            that is their rms.

    Returns:
        Infinite if there is no sample.
    """
    if len(found) == 0:
        return math.inf
    rms = float(wanted.square().mean().sqrt())
    spread = float((wanted - wanted.mean(0)).square().mean().sqrt())
    reference = spread if spread > 1e-12 * rms else rms if rms > 0.0 else scale
    return float((found - wanted).square().mean().sqrt()) / reference


def runs_of(samples: object) -> list[Arguments]:
    """Samples as arguments of runs: one tensor, or batches, each of which may be several inputs.

    Raises:
        MappingError: There are none.
    """
    batches = [samples] if isinstance(samples, Tensor | Mapping) else list(samples)  # type: ignore[call-overload]
    found = [arguments_of(batch) for batch in batches]
    if not found or not any(
        item.numel()
        for run in found
        for item in _pytree.tree_leaves(run)
        if isinstance(item, Tensor)
    ):
        raise MappingError("samples: at least one is needed")
    return found


@dataclass(frozen=True)
class Outputs:
    """What a model gives in some runs.

    Attributes:
        given: Of every run, as the model gives it.
    """

    given: tuple[Any, ...]

    @classmethod
    def of(
        cls, network: IMACNetwork, runs: Sequence[Arguments], *, software: bool = False
    ) -> Outputs:
        """Run a model in evaluation mode.

        Args:
            network: The model.
            runs: Arguments of its forward.
            software: Whether software layers stand in the places of circuits.
        """
        forward = network.software if software else network
        with evaluating(network):
            return cls(tuple(forward(*positional, **named) for positional, named in runs))

    def error(self, wanted: Outputs) -> float:
        """:func:`relative_error` of all numbers, those of samples that were not solved left out."""
        found, other = self._values(), wanted._values()
        good = found.isfinite().all(1)
        return relative_error(found[good], other[good])

    def difference(self, other: Outputs) -> float:
        """Rms difference, those of samples that were not solved left out; NaN if none was."""
        found = self._values() - other._values()
        return float(found[found.isfinite().all(1)].square().mean().sqrt())

    def joined(self) -> Tensor:
        """(B, …): outputs of all runs.

        Raises:
            DataError: They are no tensors, or differ in shape.
        """
        tensors = [item for item in self.given if isinstance(item, Tensor)]
        if len(tensors) < len(self.given) or len({item.shape[1:] for item in tensors}) > 1:
            raise DataError("outputs are no tensors of one shape, and cannot be kept as one")
        return torch.cat(tensors)

    def _values(self) -> Tensor:
        """(B, K) float64: sample by sample, or one by one where runs differ in shape."""
        rows = []
        for given in self.given:
            parts = [part.detach() for part in tensors_in(given) if part.is_floating_point()]
            lengths = {len(part) if part.ndim else 0 for part in parts}
            alike = len(lengths) == 1 and lengths != {0}
            flat = [part.flatten(1) if part.ndim > 1 else part[:, None] for part in parts] if (
                alike
            ) else [part.reshape(-1, 1) for part in parts]
            rows.append(torch.cat(flat, dim=1 if alike else 0).to(torch.float64))
        if len({row.shape[1] for row in rows}) > 1:
            rows = [row.reshape(-1, 1) for row in rows]
        return torch.cat(rows)

    def agrees(self, wanted: Outputs) -> Tensor | None:
        """(B,) bool, whether the largest output is that of others; None: they are no vectors."""
        if not all(
            isinstance(item, Tensor) and item.ndim == 2 and item.shape[1] > 1
            for item in self.given
        ):
            return None
        found, other = torch.cat(self.given), torch.cat(wanted.given)
        return (found.argmax(-1) == other.argmax(-1)) & found.isfinite().all(-1)


@dataclass(frozen=True)
class Scored:
    """Data with what outputs for them are compared with.

    Attributes:
        runs: Arguments of a model's forward.
        targets: Of every run; None: there are none.
        metric: See :func:`imac_torch.evaluate`; None: accuracy.
        threshold: See :attr:`IMACNetwork.threshold`; of models of one circuit.
        counts: Samples of every run.
    """

    runs: list[Arguments]
    targets: list[Any] | None
    metric: Metric | None
    threshold: float | None
    counts: list[int]

    @classmethod
    def of(
        cls, network: IMACNetwork, inputs: Any, labels: Any, metric: Metric | None  # noqa: ANN401
    ) -> Scored:
        """Of data as :func:`imac_torch.ablate` takes them.

        Raises:
            DataError: Labels and inputs do not match.
            MappingError: There are no inputs.
        """
        runs = runs_of(inputs)
        counts = [samples_in_run(run) for run in runs]
        threshold, targets = None, labels
        if labels is not None:
            if isinstance(network.model, Chain) and metric is None:
                labels = check_labels(labels, inputs, classes=network.classes)
                threshold = network.threshold
            targets = [labels] if len(runs) == 1 and not isinstance(labels, list) else labels
            if isinstance(targets, Tensor):
                targets = list(targets.split(counts)) if len(targets) == sum(counts) else []
            if len(targets) != len(runs):
                raise DataError(f"there are {len(runs)} batches of inputs, labels do not match")
        return cls(runs, targets, metric, threshold, counts)

    @property
    def samples(self) -> int:
        """Of all runs."""
        return sum(self.counts)

    def scores(self, outputs: Outputs) -> tuple[float, float, int]:
        """Accuracy, score, and how many samples were not solved.

        Without targets both are NaN; with a metric the accuracy is, without one they are equal.

        Raises:
            DataError: Accuracy is not of such outputs.
        """
        bad = [
            unsolved(item, count) for item, count in zip(outputs.given, self.counts, strict=True)
        ]
        failed = int(torch.cat(bad).sum())
        if self.targets is None:
            return math.nan, math.nan, failed
        if self.metric is None:
            right = [
                (self._answers(item).cpu() == target.cpu()) & ~lost
                for item, target, lost in zip(outputs.given, self.targets, bad, strict=True)
            ]
            accuracy = float(torch.cat(right).double().mean())
            return accuracy, accuracy, failed
        own = scorer(self.metric)
        for part in zip(outputs.given, self.targets, self.counts, bad, strict=True):
            own.add(*part)
        return math.nan, own.value(), failed

    def _answers(self, outputs: Any) -> Tensor:  # noqa: ANN401 - what models give
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            raise DataError(
                "accuracy is of outputs (B, classes), this model gives others; pass "
                "metric=function(outputs, targets), or leave labels out"
            )
        return chosen(outputs, self.threshold)
