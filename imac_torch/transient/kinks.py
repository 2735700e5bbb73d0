"""Kinks of neurons' curves within a step: there waveforms bend where no parabola sees it.

Where a neuron's gate passes a voltage at which the slope of its curve jumps, its output (or, where
that holds charge, the output's derivative) has a corner at a time of its own. Samples share their
steps, and have so many of them that no step can end at each. Therefore their size is bounded
instead: a corner by which a slope changes by s is missed by at most :data:`MISSED`·s·w by whatever
:func:`imac_torch.results.waveform.sample` makes of points around it, w being the longest of the
interval that the corner is in and the two beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.transient.accuracy import Earlier
from imac_torch.transient.lines import Lines
from imac_torch.transient.preparation import DynamicStage
from imac_torch.transient.state import StageState

MISSED: Final = 0.154
"""Largest over all places of the corner and ratios of steps from a quarter to two."""


class Kinks(NamedTuple):
    """What kinks do to outputs.

    Attributes:
        errors: (layers, B) V, the most that is missed of an output between the points.
        met: (layers, B) bool: there is a kink in the layer, or in one before.
    """

    errors: Tensor
    met: Tensor


def met_kinks(
    stages: Sequence[DynamicStage],
    step: float,
    states: tuple[StageState, StageState, StageState],
    earlier: Earlier | None,
) -> Kinks | None:
    """Kinks from the stage before to the end of a step.

    Args:
        stages: The layers.
        step: s.
        states: At the start, the stage and the end.
        earlier: The stage before.

    Returns:
        None where no layer's curve has any.
    """
    if not any(stage.neurons.kinks for stage in stages):
        return None
    end = states[-1]
    batch = len(end.neurons[0].gates)
    reach = end.neurons[0].gates.new_zeros(batch)
    seen = torch.zeros_like(reach, dtype=torch.bool)
    errors, met = [], []
    for k, stage in enumerate(stages):
        system = end.systems[k].newton
        if k:
            lines: Lines = stage.lines
            reach = reach * lines.matrices(step).transfer[:, :-1].abs().max()
            if stage.pole is not None:
                reach = reach * stage.pole / (end.sigma + stage.pole)
            passed = torch.maximum(system.transfer, states[1].systems[k].newton.transfer)
            reach = reach * (passed / (system.gate * system.diagonal)).abs().amax(-1)
        points = [state.neurons[k].gates for state in states]
        if earlier is not None:
            points.insert(0, earlier.neurons[k].gates)
        gates = torch.stack(points)
        low, high = gates.amin(0), gates.amax(0)
        moved = MISSED * gates.diff(dim=0).abs().amax(0) / system.diagonal
        for voltage, jump in stage.neurons.kinks:
            within = (low <= voltage) & (voltage <= high)
            reach = torch.maximum(reach, torch.where(within, jump * moved, 0.0).amax(-1))
            seen = seen | within.any(-1)
        errors.append(reach)
        met.append(seen)
    return Kinks(torch.stack(errors), torch.stack(met))
