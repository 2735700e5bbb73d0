"""Analog layers of software ones, and what they lose."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from imac_torch.base.units import quantity
from imac_torch.config import Config, LayerConfig, Place, Unread
from imac_torch.conversion.layers import Source
from imac_torch.conversion.losses import Losses, finer
from imac_torch.errors import ConversionError, SettingWarning
from imac_torch.model.linear import IMACLinear, Scaling
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.activations import Activation
from imac_torch.periphery.neuron.choice import computes, kind_for

__all__ = [
    "Placed", "analog_layer", "check_config", "losses_of", "places_of", "trained_config",
    "warn_of_ties", "warn_of_unread",
]  # fmt: skip

LARGE_ERROR: Final = 0.1
"""Relative rounding error of weights from which a conversion warns."""
LARGE_READ_OUT_ERROR: Final = 0.2
"""Likewise of a read-out's outputs: with fewer, the largest output mostly stays the largest."""
LARGE_LOSS = 0.5
"""Likewise of sums for inputs that are not known: what data show is mostly less."""
TIED: Final = 1.0
"""Ω, below which tied outputs of amplifiers are sources that are tied."""
MATCHED: Final = "mapping.scheme = 'matched'"


@dataclass(frozen=True)
class Placed:
    """What an analog layer is to be made of, and where it stands.

    Attributes:
        path: Of the software layer.
        source: What it computes.
        activation: What follows it.
        first: Whether it is the first layer of its circuit.
        last: Whether it is the last one.
    """

    path: str
    source: Source
    activation: Activation
    first: bool
    last: bool


def trained_config(layers: Sequence[Placed]) -> Config:
    """What the model's IMACLinear layers were built with; the default if there are none.

    Raises:
        ConversionError: They disagree on what a circuit has only one of.
    """
    trained = [
        (layer.path, layer.source.trained) for layer in layers if layer.source.trained is not None
    ]
    if not trained:
        return Config()
    first, common = trained[0][0], trained[0][1].config
    overrides = {}
    for path, layer in trained:
        for name in ("supplies", "interconnect", "timing", "temperature"):
            if getattr(layer.config, name) != getattr(common, name):
                raise ConversionError(
                    f"{path} and {first} were built with different {name}; pass a config"
                )
        changed = {
            name: getattr(layer.config, name).model_dump()
            for name in LayerConfig.model_fields
            if getattr(layer.config, name) != getattr(common, name)
        }
        if changed:
            overrides[path] = LayerConfig(**changed)
    return common.replace(layers=overrides)


def layer_config(
    config: Config, path: str, index: int, count: int, activation: Activation
) -> Config:
    """What of a network's configuration holds for a layer.

    The network's kind of neuron (with its sub-circuit or table) is for the activations that it
    computes; others have their own kind, as they have without it.

    Args:
        config: The network's.
        path: Of the layer.
        index: Of the layer among the analog ones.
        count: Of analog layers.
        activation: What follows it.
    """
    own = config.for_layer(index, path, count)
    said = "kind" in config.layers.get(path, LayerConfig()).neuron
    if said or activation.function.read_out or computes(own.neuron.kind, activation):
        return own
    neuron = own.neuron.replace(kind=None, subcircuit=None, table=None)
    return own.replace(neuron=neuron)


def check_config(config: Config, layers: Sequence[Placed]) -> None:
    """Refuse settings of layers that there are not, and a neuron that is nobody's.

    Raises:
        ConversionError: There are some.
    """
    kind = config.neuron.kind
    hidden = [
        layer for layer in layers
        if not layer.activation.function.read_out
        and "kind" not in config.layers.get(layer.path, LayerConfig()).neuron
    ]  # fmt: skip
    if hidden and not any(computes(kind, layer.activation) for layer in hidden):
        kind_for(hidden[0].activation, kind, where=hidden[0].path)

    paths = {layer.path for layer in layers}
    unknown = set(config.layers) - paths
    if unknown:
        raise ConversionError(
            f"Config.layers names {', '.join(sorted(unknown))}; the analog layers are "
            f"{', '.join(sorted(paths))}"
        )


def converts_alone(config: Config, path: str) -> bool:
    """Whether a layer has converters behind it wherever it stands: it is a circuit of its own."""
    override = config.layers.get(path, LayerConfig()).converter
    return bool(override.get("after", config.converter.after) != "segment")


def places_of(layers: Sequence[Placed], config: Config) -> list[Place]:
    """The layers, as far as what they read of a configuration depends on them."""
    places = []
    alone = [converts_alone(config, layer.path) for layer in layers]
    for index, layer in enumerate(layers):
        trained = layer.source.trained
        scaling = None if trained is None else trained.scaling
        own = layer_config(config, layer.path, index, len(layers), layer.activation)
        kind = kind_for(layer.activation, own.neuron.kind, where=layer.path)
        places.append(
            Place(
                name=layer.path,
                config=own,
                reads=kind.reads,
                ideal=kind.ideal,
                active=not kind.activation.read_out or own.neuron.kind == kind.name,
                inputs=layer.source.weight.shape[1],
                first=layer.first or alone[index] or alone[index - 1],
                last=layer.last or alone[index] or alone[index + 1],
                scaled=layer.first
                and (scaling is None or scaling.input_scale == config.supplies.input_scale),
            )
        )
    return places


def warn_of_unread(found: Sequence[Unread]) -> None:
    """Warn of settings that nothing reads, where the caller's caller stands.

    Warns:
        SettingWarning: There are some.
    """
    if found:
        warnings.warn(
            f"settings without effect in this circuit: {'; '.join(map(str, found))}",
            SettingWarning,
            stacklevel=4,
        )


def warn_of_ties(places: Sequence[Place]) -> None:
    """Warn of amplifiers with supplies whose outputs are tied by next to nothing.

    Ideal ones have no supplies, and what they deliver is in no report.

    Warns:
        SettingWarning: There are some.
    """
    found = [
        place for place in places
        if place.counted and place.parts > 1 and place.config.amplifier.combine == "average"
        and place.config.amplifier.output_resistance < TIED
    ]  # fmt: skip
    if found:
        resistance = quantity(found[0].config.amplifier.output_resistance, "Ω")
        warnings.warn(
            f"{', '.join(place.name for place in found)}: amplifiers have supplies, and outputs of "
            f"partitions meet through amplifier.output_resistance = {resistance}: they fight each "
            "other with amperes, which are counted; set what the amplifier has, or combine = 'sum'",
            SettingWarning,
            stacklevel=4,
        )


@lasting()  # what becomes part of a network must serve in every mode
def analog_layer(
    path: str,
    source: Source,
    activation: Activation,
    config: Config,
    index: int,
    count: int,
    *,
    dtype: torch.dtype = torch.float64,
) -> IMACLinear:
    """The analog layer that holds what a software layer computes.

    Args:
        path: Of the software layer.
        source: What it is made of; the layer's parameters are copies.
        activation: What follows it.
        config: The network's.
        index: Of the layer among the analog ones.
        count: Of analog layers.
        dtype: Of its weights.

    Raises:
        ConversionError: It does not fit into the arrays, or devices of a trained layer do not fit.
    """
    trained = source.trained
    scaling = trained.scaling if trained is not None else Scaling(
        input_scale=config.supplies.input_scale if index == 0 else 1.0,
        output_scale=1.0 if activation.scale is None else activation.scale,
    )
    outputs, inputs = source.weight.shape
    layer = IMACLinear(
        inputs,
        outputs,
        bias=source.bias is not None,
        activation=activation,
        config=layer_config(config, path, index, count, activation),
        scaling=scaling,
        name=path,
        dtype=dtype,
        initialise=False,
        groups=source.positions.groups,
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


@lasting()
def losses_of(layers: Sequence[IMACLinear], *, ranges: bool) -> Losses:
    """What layers that were not trained as a circuit lose, and what helps.

    Args:
        layers: Those.
        ranges: Whether ranges of ReLUs come from data.
    """
    losses = Losses()
    for layer in layers:
        _rounding_losses(layer, losses)
        if not layer.matrix.matched and layer.config.amplifier.gain is None:
            _, lacking = layer.matrix.least_squares_gain()
            if lacking:
                layer.matrix.warned = True
                losses.add(lacking, [MATCHED, "more columns (crossbar.columns)", "smaller weights"])
        if layer.matrix.matched and not ranges:
            _range_losses(layer, losses)
        if layer.activation.function.bounded:
            continue
        matched = [] if layer.matrix.matched else [MATCHED]
        if matched and (lost := layer.matrix.read_out_error()) > LARGE_READ_OUT_ERROR:
            losses.add(
                f"{layer.name}: its lines float, so that without wires, too, outputs are off by "
                f"{100 * lost:.0f} % (rms) of what the weights mean",
                matched,
            )
        if layer.activation.function.clips and layer.activation.scale is None and not ranges:
            losses.add(
                f"{layer.name}: the range of its ReLU is not known, outputs above "
                f"{layer.scaling.output_scale:.3g} are clipped at vdd",
                [*matched, "convert(…, samples=…) or --calibrate, which fit ranges to data"],
            )
    return losses


def _range_losses(layer: IMACLinear, losses: Losses) -> None:
    """What limits of devices and amplifiers cost rows that are solved for."""
    lost, gain = layer.matrix.match().error, layer.config.amplifier.gain
    if lost > LARGE_LOSS:
        losses.add(
            f"{layer.name}: with these devices and a gain of {layer.matrix.gain():.3g} its sums of "
            f"weighted inputs are off by {100 * lost:.0f} % (rms)",
            [
                *([] if gain is None else ["amplifier.gain = None"]),
                "convert(…, samples=…) or --calibrate, which fit circuits to data",
                "devices with a larger ratio of device.rhigh to device.rlow",
            ],
        )


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
