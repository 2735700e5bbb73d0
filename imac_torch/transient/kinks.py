"""Curves of neurons that bend within a step: there waveforms have a corner that no parabola sees.

Where a gate passes a kink of its neuron's curve (a rectifier's), or all of a steep curve's bend at
once, the output (or, where that holds charge, its derivative) has a corner at a time of its own.
Samples share their steps, and have so many corners that no step can end at each. Therefore their
size is bounded instead: a corner by which a slope changes by s is missed by at most
:data:`MISSED`·s·w by whatever :func:`imac_torch.results.waveform.sample` makes of points around it,
w being the longest of the interval that it is in and the two beside it. Where the output holds
charge, s is that of an output without, times the part of the current that does not charge it; the
points are off then, too (a trapezoid in which a rate bends), by up to :data:`HELD`·s·w more. Such
corners are known by the slopes of the curve at the points, which every Newton system has in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.transient.accuracy import Earlier
from imac_torch.transient.lines import Lines
from imac_torch.transient.preparation import DynamicLayer
from imac_torch.transient.state import StageState

MISSED: Final = 0.154
"""Largest over all places of the corner and ratios of steps from a quarter to two."""
HELD: Final = 0.105
"""The same of one charge at the output: times the square of the part of a stage's conductance that
is the charge's, what it adds to that; found by the same search."""
BENT: Final = 0.1
"""Slopes of a curve at two neighbouring points whose ratio is less have a corner in between: points
do not resolve what is there. Where they do, differences of outputs say more."""


class Kinks(NamedTuple):
    """What corners do to outputs.

    Attributes:
        errors: (layers, B) V, the most that is missed of an output between the points.
        met: (layers, B) bool: there is a corner in the layer, or in one before.
    """

    errors: Tensor
    met: Tensor


def slopes(state: StageState) -> list[Tensor]:
    """(B, M) S of every layer: output current by gate voltage, without what charges make of it."""
    return [
        system.newton.transfer + state.sigma * system.output_by_gate for system in state.systems
    ]


def met_kinks(
    layers: Sequence[DynamicLayer],
    step: float,
    states: tuple[StageState, StageState, StageState],
    start: Sequence[Tensor] | None,
    earlier: Earlier | None,
) -> Kinks:
    """Corners from the stage before to the end of a step.

    Args:
        layers: In order.
        step: s.
        states: At the start, the stage and the end.
        start: :func:`slopes` at the start; None: not known.
        earlier: The stage before.
    """
    end = states[-1]
    known = [None if earlier is None else earlier.slopes, start, *map(slopes, states[1:])]
    first = None if earlier is None else earlier.neurons
    passed = [first, *(state.neurons for state in states)]
    reach = end.neurons[0].gates.new_zeros(len(end.neurons[0].gates))
    seen = torch.zeros_like(reach, dtype=torch.bool)
    errors, met = [], []
    for k, layer in enumerate(layers):
        gates, curves = zip(*(
            (neurons[k].gates, slope[k])
            for neurons, slope in zip(passed, known, strict=True)
            if neurons is not None and slope is not None
        ), strict=True)  # fmt: skip
        curve = torch.stack(curves)
        system = end.systems[k].newton
        if k and bool(seen.any()):
            lines: Lines = layer.lines
            reach = reach * lines.matrices(step).transfer[:, :-1].abs().max()
            for rate in layer.slow.lag.rates:
                reach = reach * rate / (end.sigma + rate)
            largest = curve.abs().amax(0) / (system.gate * system.diagonal).abs()
            reach = reach * largest.amax(-1)
        size = curve.abs()
        bent = torch.minimum(size[1:], size[:-1]) < BENT * torch.maximum(size[1:], size[:-1])
        if bool(bent.any()):
            bends = torch.where(bent, curve.diff(dim=0).abs(), 0.0)
            held = end.sigma * end.systems[k].output_by_output / system.diagonal
            part = MISSED + HELD * held.square()
            passed_by = torch.stack(gates).diff(dim=0).abs()
            # Beside a corner of an earlier interval, which is done, only what comes now counts.
            done = len(bends) - 2
            missed = torch.stack([
                bend * passed_by[max(at - 1, at < done) : at + 2].amax(0)
                for at, bend in enumerate(bends)
            ]).amax(0)
            missed = part * missed / system.diagonal
            reach = torch.maximum(reach, missed.amax(-1))
            seen = seen | bent.any(0).any(-1)
        errors.append(reach)
        met.append(seen)
    return Kinks(torch.stack(errors), torch.stack(met))
