"""Instantaneous power of every source of the network in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from imac_torch.errors import SolverError
from imac_torch.transient.drive import DrivePoint
from imac_torch.transient.lines import Ends, LineState
from imac_torch.transient.preparation import DynamicLayer
from imac_torch.transient.state import NeuronState, present, with_bias


class Powers(NamedTuple):
    """Powers at one time; (6, B) each: parts of :class:`imac_torch.results.solution.BySource`.

    Attributes:
        total: W; amplifiers are NaN where not asked for.
        charging: W, the part of it whose integral is the difference of :attr:`stored`, whatever the
            time steps: what moves charge between constant voltages, and what the inputs' closed
            form delivers.
        stored: J.
    """

    total: Tensor
    charging: Tensor
    stored: Tensor


def source_powers(
    layers: Sequence[DynamicLayer],
    point: DrivePoint,
    lines: Sequence[LineState | None],
    neurons: Sequence[NeuronState],
    *,
    amplifiers: bool,
) -> Powers:
    """Power of every kind of source.

    Args:
        layers: In order.
        point: The first layer's crossbars.
        lines: Of the layers from the second on; None for the first.
        neurons: Of every layer.
        amplifiers: Whether to compute the amplifiers' power; NaN if not.
    """
    vdd = float(layers[0].static.vdd)
    bias = point.bias
    nothing = torch.zeros_like(bias)
    supply, shifts, delivered, supplied = nothing, nothing, nothing, nothing
    charging, stored = ([nothing, nothing], [nothing, nothing])  # of supply and level shift
    for k, (layer, state) in enumerate(zip(layers, neurons, strict=True)):
        neuron = layer.static.neuron
        static = neuron.power(
            vdd, state.gates, state.outputs, state.gate_current, state.supply_current
        )
        supply, shifts = supply + static.supply, shifts + static.level_shift
        charging[0] = charging[0] + vdd * state.supply_rate.sum(-1)
        charging[1] = charging[1] + (neuron.level_shift * state.gate_rate).sum(-1)
        stored[0] = stored[0] + vdd * state.supply_charge.sum(-1)
        stored[1] = stored[1] + (neuron.level_shift * state.gate_charge).sum(-1)
        if k:
            voltages = with_bias(neurons[k - 1].outputs, vdd)
            bias = bias + vdd * layer.lines.bias_current(present(lines[k]), voltages)
        read_out, drawn = layer.ports.read_out, static.drawn + state.gate_rate
        if not amplifiers and read_out.rails is None:
            continue
        ends = line_ends(layers, point, lines, neurons, k)
        if amplifiers:
            delivered = delivered + read_out.power(
                ends.positive, ends.negative, state.combined, drawn,
                behind=layer.slow.behind(state.lag), amplifiers=ends.amplifiers,
            )  # fmt: skip
        if read_out.rails is not None and ends.amplifiers is not None:
            output = state.lag[-1] if layer.slow.each else ends.output(read_out)
            onward = read_out.combination.current(output, state.combined, drawn)
            taken = read_out.supplied(ends.amplifiers, ends.positive, ends.negative, onward)
            supplied = supplied + taken.sum((-1, -2))
    if not amplifiers:
        delivered = torch.full_like(bias, torch.nan)
    return assembled(point, bias, (supply, shifts), charging, stored, (delivered, supplied))


def assembled(
    point: DrivePoint,
    bias: Tensor,
    resting: tuple[Tensor, Tensor],
    charging: Sequence[Tensor],
    stored: Sequence[Tensor],
    amplifiers: tuple[Tensor, Tensor],
) -> Powers:
    """Powers of every kind of source from (B,) each.

    Args:
        point: The first layer's crossbars.
        bias: W, of all bias lines.
        resting: W of vdd and of the level shifts, without what moves charge.
        charging: W of both that do.
        stored: J of both.
        amplifiers: W that their outputs deliver, and that their supplies do.
    """
    nothing = torch.zeros_like(bias)
    known, work = [nothing, nothing], torch.zeros_like(torch.stack([nothing, nothing]))
    if point.energy is not None:
        known, work = [point.inputs, point.bias], point.energy
    moving = torch.stack([*known, *charging, nothing, nothing])
    inputs = point.inputs - known[0]
    rest = torch.stack([inputs, bias - known[1], *resting, *amplifiers])
    kept = torch.stack([*work, *stored, nothing, nothing])
    return Powers(rest + moving, moving, kept)


def line_ends(
    layers: Sequence[DynamicLayer],
    point: DrivePoint,
    lines: Sequence[LineState | None],
    neurons: Sequence[NeuronState],
    k: int,
) -> Ends:
    """Where the lines of layer k end.

    Raises:
        SolverError: Those of the first layer were not asked for.
    """
    if k == 0:
        if point.ends is None:
            raise SolverError("the ends of the first layer's lines are missing")
        return point.ends
    voltages = with_bias(neurons[k - 1].outputs, float(layers[0].static.vdd))
    return layers[k].lines.ends(present(lines[k]), voltages)
