"""What amplifiers that are not ideal make of sums of weighted inputs, before anybody runs it.

Every amplifier of a read-out of the kind 'transimpedance' carries the whole current of its line:
with inputs of one sign both of a pair may end at the same rail, and their difference is 0 whatever
the weights. Gains of amplifiers follow from weights and ranges, so that this happens with settings
that look harmless.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from imac_torch.conversion.losses import Losses, remedies
from imac_torch.conversion.outputs import activations, relative_error
from imac_torch.dc.native import Native
from imac_torch.dc.network import PortLayer, eliminated
from imac_torch.dc.newton import NewtonOptions
from imac_torch.model.linear import IMACLinear
from imac_torch.model.ranges import MARGIN
from imac_torch.model.segment import Segment

__all__ = ["amplifier_losses", "driving", "make_room", "room", "sums"]

LARGE: Final = 0.1
"""Relative error of a layer's sums, rms, that is worth a word."""
ENOUGH: Final = 256
"""Input vectors that are looked at."""


def sums(lines: PortLayer, volts: Tensor, vdd: float) -> tuple[Tensor, Tensor]:
    """(B, M) V at the neurons, twice: of amplifiers as they are, and of linear ones.

    Args:
        lines: A layer with its amplifiers.
        volts: (B, G·N) on its lines.
        vdd: V of the bias line.
    """
    transfer = lines.ports.transfer
    bias = vdd * transfer[..., None, :, -1]
    linear = lines.by_groups(volts) @ transfer[..., :-1].mT + bias
    if lines.ports.groups > 1:
        linear = linear.transpose(0, 1).flatten(1)
    if lines.ports.feedback is None:
        return linear, linear
    return lines.drive(volts[None], None, NewtonOptions()).combined[0], linear


def room(lines: PortLayer, volts: Tensor) -> float:
    """How much larger a full scale keeps amplifiers from their rails, at least 1.

    Their largest output without limits relative to the rail that it is nearer to.

    Args:
        lines: A layer with its amplifiers.
        volts: (B, G·N) on its lines.
    """
    network, real = lines.network, lines.network.read_out.imperfections
    if real is None or network.feedback is None:
        return 1.0
    outputs = network.feedback.outputs_at(network.blocks(lines.lines(volts[None])), None)
    pairs = ((float(outputs.min()), real.swing[0]), (float(outputs.max()), real.swing[1]))
    # A rail of the other sign, or at ground, is none that smaller outputs keep away from.
    ratios = [MARGIN * value / rail for value, rail in pairs if value * rail > 0.0]
    return max([1.0, *(ratio for ratio in ratios if ratio < math.inf)])


@torch.no_grad()
def make_room(segment: Segment, features: Tensor, kept: Collection[str]) -> None:
    """Give layers so large a full scale that data do not drive amplifiers to their rails.

    Outputs of amplifiers are proportional to the gain where lines end at virtual ground, nearly so
    where they do not, and the gain is inverse to the full scale. So each layer's grows by what its
    amplifiers would put out, were they unlimited, relative to their swing. What it drives has
    smaller inputs then, and a gain that is larger by as much.

    Args:
        segment: A circuit whose ranges are known; layers that find their gain from data are left.
        features: (B, G·N) inputs in software units.
        kept: Names of layers whose full scale stays.
    """
    layers = list(segment.analog_layers())
    if all(layer.config.amplifier.linear for layer in layers):
        return
    software = activations(layers, features[:: -(-len(features) // ENOUGH)])
    for index, layer in enumerate(layers):
        free = not layer.matrix.matched and layer.config.amplifier.gain is None
        if not free or layer.name in kept or layer.activation.scale is not None:
            continue
        wider = room(_lines(segment, index), _volts(segment, software)[index])
        if wider > 1.0:
            scale = wider * layer.scaling.output_scale
            layer.scaling = replace(layer.scaling, output_scale=scale)
            for after in layers[index + 1 : index + 2]:
                after.scaling = replace(after.scaling, input_scale=scale)


@torch.no_grad()
def amplifier_losses(segment: Segment, features: Tensor, losses: Losses) -> None:
    """Say which layers' amplifiers cannot put out what the weights ask for, and what would help.

    Every layer gets what software says that it should; cells are taken as ohmic.

    Args:
        segment: A circuit whose ranges are known.
        features: (B, G·N) inputs in software units.
        losses: What it is added to.
    """
    layers = list(segment.analog_layers())
    if all(layer.config.amplifier.linear for layer in layers):
        return
    software = activations(layers, features[:: -(-len(features) // ENOUGH)])
    volts = _volts(segment, software)
    for index, layer in enumerate(layers):
        if layer.config.amplifier.linear:
            continue
        found, wanted = sums(_lines(segment, index), volts[index], layer.config.supplies.vdd)
        good = found.isfinite().all(-1)
        error = relative_error(found[good], wanted[good])
        if error > LARGE:
            advice = remedies("amplifiers", layer.config)
            if layer.config.amplifier.gain is not None:
                advice = ["a smaller amplifier.gain", *advice]
            elif not layer.matrix.matched:
                advice = [
                    "mapping.scheme = 'matched' with convert(…, samples=…), which finds gains "
                    "and ranges for what amplifiers can put out", *advice,
                ]  # fmt: skip
            losses.add(
                f"{layer.name}: amplifiers that are not ideal{layer.config.amplifier.described()} "
                f"move its sums of weighted inputs by {100 * error:.0f} % (rms)", advice,
            )


def driving(
    layers: Sequence[IMACLinear], volts: Tensor, software: Sequence[Tensor]
) -> list[Tensor]:
    """What drives every layer where those before it give what software says, (B, G·N) V each.

    Args:
        layers: Of one circuit.
        volts: On the lines of the first.
        software: Its inputs, then outputs of every layer, in software units.
    """
    after = (
        values / layer.scaling.output_scale * layer.config.supplies.vdd
        for layer, values in zip(layers, software[1:-1], strict=False)
    )
    return [volts, *after]


def _volts(segment: Segment, software: Sequence[Tensor]) -> list[Tensor]:
    first = segment.voltages(segment.within(software[0]))
    return driving(list(segment.analog_layers()), first, software)


def _lines(segment: Segment, index: int) -> PortLayer:
    """A layer with ohmic cells, which every kind of amplifier is known with."""
    native = segment.engine if isinstance(segment.engine, Native) else Native()
    parts = segment.parts()
    crossbar, neuron = parts[index]
    if all(item.cell is None for item, _ in parts):
        prepared = segment.prepare(native).layers[index]
    else:
        (prepared,) = native.prepare([(replace(crossbar, cell=None), neuron)]).layers
    return eliminated(prepared, f"layer {index + 1}")
