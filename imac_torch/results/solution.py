"""What a solved circuit looks like, whichever engine solved it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final

import torch
from torch import Tensor

from imac_torch.base.shown import Brief, Shown, Table

SHOWN = 20
"""Samples that a notebook shows of a solution."""


class Status(IntEnum):
    """Outcome for one sample."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    """Newton's method stopped at its limit of iterations."""
    NOT_FINITE = 2
    """A voltage or current is not finite."""
    FAILED = 3
    """The simulator or the transient of this sample gave no result."""
    OUTSIDE = 4
    """A neuron, amplifier or bit cell left the range of its model."""

    @property
    def advice(self) -> str:
        """What to do about it; empty of samples that are solved."""
        return ADVICE.get(self, "")


ADVICE: Final = {
    Status.MAX_ITERATIONS: "Newton's method stopped at its limit: raise it, "
    "Native(newton=NewtonOptions(max_iterations=...))",
    Status.NOT_FINITE: "a voltage or current is not finite: look at the inputs of such a sample",
    Status.FAILED: "no result: the simulator's log in its run directory says why",
    Status.OUTSIDE: "a neuron, amplifier or bit cell left the range of its table: take a smaller "
    "amplifier.gain or smaller inputs, an amplifier that drives more, or measure a wider table "
    "(tabulate_neuron(input_range=...), tabulate_amplifier(plus=...), `imac-torch characterize`)",
}


def failures_in_words(status: Tensor) -> str:
    """How many samples of each status were not solved, and what to do; empty if all were."""
    found = [(Status(int(code)), int((status == code).sum())) for code in status.unique()]
    return "; ".join(f"{count} {code.name}: {code.advice}" for code, count in found if code)


@dataclass(frozen=True)
class BySource(Brief):
    """What each kind of source delivers, as tensors of one shape.

    Attributes:
        inputs: By the input sources.
        bias: By vdd into the bias lines.
        neurons: By vdd into the neurons.
        level_shift: By the level-shift sources.
        amplifiers: By the amplifiers' outputs. With ideal ones tied together through 1 mΩ this
            is an artefact of sources fighting each other, not a prediction.
        amplifier_supply: By vdd and vss into the amplifiers that have supplies
            (``amplifier.quiescent_current``); 0 of ideal ones.
    """

    inputs: Tensor
    bias: Tensor
    neurons: Tensor
    level_shift: Tensor
    amplifiers: Tensor
    amplifier_supply: Tensor

    @property
    def supply(self) -> Tensor:
        """By vdd into bias lines and neurons."""
        return self.bias + self.neurons

    @property
    def total(self) -> Tensor:
        """Inputs and supplies: with ideal amplifiers what HSPICE's POWER counts."""
        return self.inputs + self.bias + self.neurons + self.amplifier_supply


@dataclass(frozen=True)
class Power(BySource):
    """Power delivered by each kind of source; (..., B) W. Its parts: :class:`BySource`."""


@dataclass(frozen=True)
class Dissipation(Brief):
    """Power by where it becomes heat, in every layer; (..., B, L) W.

    Together they are what the sources deliver: inputs, vdd, level shifts, the supplies of
    amplifiers or (of ideal ones) their outputs, and ideal sums.

    Attributes:
        cells: In cells and wires.
        amplifiers: In read-outs: amplifiers, their resistors, those in which outputs meet. Ideal
            amplifiers take nothing, and what their outputs deliver is no power of a circuit.
        neurons: In neurons.
        sums: Not heat, but what ideal sums deliver to neurons.
    """

    cells: Tensor
    amplifiers: Tensor
    neurons: Tensor
    sums: Tensor


@dataclass(frozen=True)
class LayerSolution(Brief):
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
class Solution(Shown):
    """A batch of solved samples.

    Attributes:
        outputs: (..., B, M) V, of the last layer; NaN where a sample did not converge.
        layers: Voltages per layer; empty where an engine does not give them.
        power: Power per sample, NaN where one did not converge; None where not asked for.
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

    def tables(self) -> tuple[Table]:
        """The first samples: status, largest output, output voltages."""
        outputs = self.outputs.detach().cpu().reshape(-1, self.outputs.shape[-1])
        status = self.status.cpu().reshape(-1)
        solved = int((status == int(Status.CONVERGED)).sum())
        rows = [
            (
                str(sample),
                Status(int(status[sample])).name,
                str(int(outputs[sample].argmax())) if status[sample] == 0 else "–",
                ", ".join(f"{value:.4g}" for value in outputs[sample].tolist()),
            )
            for sample in range(min(SHOWN, len(status)))
        ]
        title = f"imac_torch solution: {solved} of {len(status)} samples solved"
        if len(status) > SHOWN:
            title += f", the first {SHOWN}"
        headings = ("sample", "status", "largest output", "outputs, V")
        told = failures_in_words(status)
        return (Table(title, rows, headings, notes=f"{told}\n" if told else ""),)


def combine(function: Callable[..., Tensor], *solutions: Solution) -> Solution:
    """Apply a function to corresponding tensors of solutions.

    Args:
        function: Takes one tensor per solution, and ``dim``, the sample dimension counted from
            the end.
        solutions: With the same layers; power is kept only where all have it.
    """
    first = solutions[0]
    layers = tuple(
        LayerSolution(*(
            function(*(getattr(item.layers[k], part.name) for item in solutions), dim=-2)
            for part in fields(LayerSolution)
        ))
        for k in range(len(first.layers))
    )
    powers = [item.power for item in solutions if item.power is not None]
    power = None
    if len(powers) == len(solutions):
        power = Power(*(
            function(*(getattr(item, part.name) for item in powers), dim=-1)
            for part in fields(Power)
        ))
    return Solution(
        outputs=function(*(item.outputs for item in solutions), dim=-2),
        layers=layers,
        power=power,
        status=function(*(item.status for item in solutions), dim=-1),
        residual=function(*(item.residual for item in solutions), dim=-1),
        iterations=function(*(item.iterations for item in solutions), dim=-1),
    )


def concatenate(parts: Sequence[Solution]) -> Solution:
    """Join solutions of consecutive batches along the sample dimension."""
    if len(parts) == 1:
        return parts[0]
    return combine(lambda *tensors, dim: torch.cat(tensors, dim=dim), *parts)


def replace_samples(solution: Solution, index: Tensor, other: Solution) -> Solution:
    """A solution with the samples at ``index`` (int64) taken from another one, in order."""
    return combine(
        lambda tensor, new, dim: tensor.index_copy(tensor.ndim + dim, index, new), solution, other
    )
