"""What a solved circuit looks like, whichever engine solved it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor


class Status(IntEnum):
    """Outcome for one sample."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    """Newton's method stopped at its limit of iterations; raise ``max_iterations``."""
    NOT_FINITE = 2
    """A voltage or current is not finite; look at the inputs of this sample."""
    FAILED = 3
    """The external simulator gave no result for this sample; see its log."""


@dataclass(frozen=True)
class Power:
    """Power delivered by each kind of source; (..., B) W.

    Attributes:
        inputs: By the input sources.
        bias: By vdd into the bias lines.
        neurons: By vdd into the neurons.
        level_shift: By the level-shift sources.
        amplifiers: By the amplifiers' ideal outputs. With partitions tied together through
            1 mΩ this is an artefact of ideal sources fighting each other, not a prediction.
    """

    inputs: Tensor
    bias: Tensor
    neurons: Tensor
    level_shift: Tensor
    amplifiers: Tensor

    @property
    def supply(self) -> Tensor:
        """By vdd: bias lines and neurons."""
        return self.bias + self.neurons

    @property
    def total(self) -> Tensor:
        """Inputs and vdd: what HSPICE's POWER counts, controlled sources left out."""
        return self.inputs + self.bias + self.neurons


@dataclass(frozen=True)
class LayerSolution:
    """Voltages of one layer.

    Attributes:
        inputs: (..., B, N) V, at the input lines.
        combined: (..., B, M) V, of the ideal combined amplifier source (z without load).
        gates: (..., B, M) V, of the neurons.
        outputs: (..., B, M) V, of the neurons.
    """

    inputs: Tensor
    combined: Tensor
    gates: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class Solution:
    """A batch of solved samples.

    Attributes:
        outputs: (..., B, M) V, of the last layer; NaN where a sample did not converge.
        layers: Voltages per layer; empty where an engine does not give them.
        power: Power per sample, or None where it was not asked for.
        status: (..., B) int64, a :class:`Status` per sample.
        residual: (..., B) A, largest violation of Kirchhoff's current law.
        iterations: (..., B) int64, of Newton's method, all layers.
    """

    outputs: Tensor
    layers: tuple[LayerSolution, ...]
    power: Power | None
    status: Tensor
    residual: Tensor
    iterations: Tensor

    @property
    def converged(self) -> Tensor:
        """(..., B) bool."""
        return self.status == int(Status.CONVERGED)


def concatenate(parts: list[Solution]) -> Solution:
    """Join solutions of consecutive batches along the sample dimension."""

    def join(tensors: list[Tensor], dim: int) -> Tensor:
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=dim)

    first = parts[0]
    layers = tuple(
        LayerSolution(*(
            join([getattr(part.layers[k], field.name) for part in parts], -2)
            for field in fields(LayerSolution)
        ))
        for k in range(len(first.layers))
    )
    power = None
    powers = [part.power for part in parts if part.power is not None]
    if len(powers) == len(parts):
        power = Power(*(
            join([getattr(item, field.name) for item in powers], -1) for field in fields(Power)
        ))
    return Solution(
        outputs=join([part.outputs for part in parts], -2),
        layers=layers,
        power=power,
        status=join([part.status for part in parts], -1),
        residual=join([part.residual for part in parts], -1),
        iterations=join([part.iterations for part in parts], -1),
    )
