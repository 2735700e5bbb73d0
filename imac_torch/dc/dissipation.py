"""Where the power of the sources goes: cells and wires, read-outs, neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from imac_torch.dc.layer import PreparedLayer
from imac_torch.dc.newton import NewtonOptions
from imac_torch.results.solution import Dissipation, LayerSolution, Solution


def dissipated(
    layers: Sequence[PreparedLayer], solution: Solution, options: NewtonOptions
) -> Dissipation:
    """The power of a solved batch by where it becomes heat.

    Everything follows from the voltages: what flows into the lines of a layer and does not leave
    them at their ends stays in cells and wires; what read-outs take there and from their supplies
    (or, ideal ones, put out) and do not hand to neurons stays in them; and so on to the next layer.
    What vdd delivers into cells whose gates inputs hold is of cells, too.

    Args:
        layers: In order.
        solution: Of them.
        options: Layers of curved cells are solved again.

    Returns:
        (…, B, L) W; NaN where a sample did not converge.
    """
    sampled = any(layer.shape[0] is not None for layer in layers)
    cells: list[Tensor] = []
    read_outs: list[Tensor] = []
    neurons: list[Tensor] = []
    sums: list[Tensor] = []
    for layer, found in zip(layers, solution.layers, strict=True):
        found = found if sampled else LayerSolution(
            *(getattr(found, part.name)[None] for part in fields(found))
        )
        static = layer.neuron.static_power(layer.vdd, found.gates, found.outputs)
        driven = layer.driven_at(found, static.drawn, options)
        taken, power = driven.absorbed(), driven.power(static.drawn, first=True)
        read_out = layer.read_out
        supplied, meeting = read_out.rails is not None, read_out.combination
        handed = (
            (found.combined - static.drawn * meeting.series_resistance) * static.drawn
        ).sum(-1)
        nothing = torch.zeros_like(handed)
        if neurons:  # those before drive these lines
            neurons[-1] = neurons[-1] - power.inputs
        cells.append(power.inputs + power.bias - taken)
        read_outs.append(
            taken
            + (power.amplifier_supply if supplied else power.amplifiers)
            - (handed if meeting.tied else nothing)
        )
        sums.append(nothing if meeting.tied else handed)
        neurons.append(static.supply + static.level_shift + handed)
    parts = (torch.stack(part, dim=-1) for part in (cells, read_outs, neurons, sums))
    good = solution.converged if sampled else solution.converged[None]
    kept = (torch.where(good[..., None], part, torch.nan) for part in parts)
    return Dissipation(*(part if sampled else part[0] for part in kept))
