"""Analog layers of software ones, and what they lose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch

from imac_torch.config import Config
from imac_torch.conversion.ablation import Losses, finer
from imac_torch.conversion.layers import Source
from imac_torch.errors import ConversionError
from imac_torch.model.linear import IMACLinear, Scaling
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.activations import Activation

__all__ = ["analog_layer", "losses_of"]

LARGE_ERROR: Final = 0.1
"""Relative rounding error of weights from which a conversion warns."""
LARGE_READ_OUT_ERROR: Final = 0.2
"""Likewise of a read-out's outputs: with fewer, the largest output mostly stays the largest."""
MATCHED: Final = "mapping.scheme = 'matched'"


@lasting()  # what becomes part of a network must serve in every mode
def analog_layer(
    path: str,
    source: Source,
    activation: Activation,
    config: Config,
    index: int,
    count: int,
) -> IMACLinear:
    """The analog layer that holds what a software layer computes.

    Args:
        path: Of the software layer.
        source: What it is made of; the layer's parameters are copies.
        activation: What follows it.
        config: The network's.
        index: Of the layer among the analog ones.
        count: Of analog layers.

    Raises:
        ConversionError: It does not fit into the arrays, or devices of a trained layer do not fit.
    """
    trained = source.trained
    scaling = trained.scaling if trained is not None else Scaling(
        input_scale=config.supplies.input_scale if index == 0 else 1.0
    )
    outputs, inputs = source.weight.shape
    layer = IMACLinear(
        inputs,
        outputs,
        bias=source.bias is not None,
        activation=activation,
        config=config.for_layer(index, path, count),
        scaling=scaling,
        name=path,
        initialise=False,
    )
    layer.matrix.partitions()  # refused here if there are none, before anything is solved
    with torch.no_grad():
        layer.weight.copy_(source.weight).requires_grad_(source.weight.requires_grad)
        if layer.bias is not None and source.bias is not None:
            layer.bias.copy_(source.bias).requires_grad_(source.bias.requires_grad)
        if trained is not None:
            slices, asked = trained.matrix.slicing.count, layer.matrix.slicing.count
            if slices != asked:
                raise ConversionError(
                    f"{path}: the layer's devices are those of {slices} slices, the "
                    f"configuration asks for {asked}; build it with the configuration that it is "
                    "converted with"
                )
            layer.matrix.devices = trained.matrix.devices
            if trained.config == layer.config:  # calibration holds for the same circuit only
                for name, buffer in trained.named_buffers():
                    layer.get_buffer(name).copy_(buffer)
    return layer.to(source.weight.device)


def losses_of(layers: Sequence[IMACLinear], *, ranges: bool) -> Losses:
    """What layers that were not trained as a circuit lose, and what helps.

    Args:
        layers: Those.
        ranges: Whether ranges of ReLUs come from data.
    """
    losses = Losses()
    for layer in layers:
        _rounding_losses(layer, losses)
        if layer.activation.function.bounded:
            continue
        matched = [] if layer.matrix.matched else [MATCHED]
        if matched and (lost := layer.matrix.read_out_error()) > LARGE_READ_OUT_ERROR:
            losses.add(
                f"{layer.name}: its lines float, so that without wires, too, outputs are off by "
                f"{100 * lost:.0f} % (rms) of what the weights mean",
                matched,
            )
        if layer.activation.function.clips and not ranges:
            losses.add(
                f"{layer.name}: the range of its ReLU is not known, outputs above "
                f"{layer.scaling.output_scale:.3g} are clipped at vdd",
                [*matched, "convert(…, samples=…) or --calibrate, which fit ranges to data"],
            )
    return losses


def _rounding_losses(layer: IMACLinear, losses: Losses) -> None:
    """What levels cost a layer's weights and its bias."""
    rounded, levels = layer.matrix.quantized(), layer.config.mapping.levels
    moves = f"{layer.name}: rounding to {levels} levels moves the"
    if rounded.error > LARGE_ERROR:
        culprit, advice = "", []
        if layer.bias is not None:
            weight, bias = layer.weight.detach().abs().max(), layer.bias.detach().abs().max()
            if float(bias) > float(weight * layer.scaling.input_scale):
                culprit = (
                    f", because the bias (up to {float(bias):.3g}, weights up to "
                    f"{float(weight):.3g}) sets the full scale"
                )
                advice.append("centred inputs of the layer, or mapping.levels = 'continuous'")
        if not layer.matrix.matched:
            advice.append(MATCHED)
        losses.add(
            f"{moves} weights by {100 * rounded.error:.0f} % (rms){culprit}",
            [*advice, "training with the levels (docs/fine_tuning.md)"],
        )
    if LARGE_ERROR < rounded.bias_error < math.inf:
        losses.add(f"{moves} bias by {100 * rounded.bias_error:.0f} % (rms)")
    if max(rounded.error, rounded.bias_error) > LARGE_ERROR:
        losses.advise(finer(layer.config.mapping))
    if rounded.lost_zeros:
        losses.add(
            f"{layer.name}: {rounded.lost_zeros} of its weights and biases are 0, which is none of "
            f"the {levels} levels: each has become the nearest one",
            [
                "levels with 0 among them ('ternary', an odd number)",
                *([] if layer.bias is None else ["bias=False for a bias that is 0"]),
            ],
        )
