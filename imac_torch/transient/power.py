"""Instantaneous power of every source of the network in time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imac_torch.errors import SolverError
from imac_torch.transient.drive import DrivePoint
from imac_torch.transient.lines import LineState
from imac_torch.transient.preparation import DynamicStage
from imac_torch.transient.state import NeuronState, present, with_bias


def source_powers(
    stages: Sequence[DynamicStage],
    point: DrivePoint,
    lines: Sequence[LineState | None],
    neurons: Sequence[NeuronState],
    *,
    amplifiers: bool,
) -> Tensor:
    """(5, B) W: inputs, bias, neurons, level shift, amplifiers.

    Args:
        stages: The layers.
        point: The first layer's crossbars.
        lines: Of the layers from the second on; None for the first.
        neurons: Of every layer.
        amplifiers: Whether to compute the amplifiers' power; NaN if not.
    """
    vdd = float(stages[0].static.vdd)
    bias = point.bias
    supply = torch.zeros_like(bias)
    shifts = torch.zeros_like(bias)
    delivered = torch.zeros_like(bias)
    for k, (stage, state) in enumerate(zip(stages, neurons, strict=True)):
        neuron = stage.static.neuron
        supply = supply + vdd * (state.supply_current + state.supply_rate).sum(-1)
        feedback = (state.outputs - state.gates) * neuron.feedback_conductance
        drawn = state.gate_current + state.gate_rate - feedback
        shifts = shifts + (neuron.level_shift * drawn).sum(-1)
        ends = (point.positive_end, point.negative_end)
        if k:
            own = present(lines[k])
            voltages = with_bias(neurons[k - 1].outputs, vdd)
            bias = bias + vdd * stage.lines.bias_current(own, voltages)
            if amplifiers:
                ends = stage.lines.end_voltages(own, voltages)
        if amplifiers:
            delivered = delivered + _amplifier_power(stage, ends, state.pole, drawn)
    if not amplifiers:
        delivered = torch.full_like(bias, torch.nan)
    return torch.stack([point.inputs, bias, supply, shifts, delivered])


def _amplifier_power(
    stage: DynamicStage, ends: tuple[Tensor | None, Tensor | None], combined: Tensor, drawn: Tensor
) -> Tensor:
    """(B,) W, as :mod:`imac_torch.dc.network` counts it."""
    positive, negative = ends
    if positive is None or negative is None:
        raise SolverError("the ends of the first layer's lines are missing")
    return stage.static.ports.read_out.power(positive, negative, combined, drawn)
