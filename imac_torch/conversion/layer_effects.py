"""What became of the weights of layers in their crossbars."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.elimination.ports import eliminate_layer
from imac_torch.errors import ConversionError
from imac_torch.mapping.quantization import deviation
from imac_torch.model.network import IMACNetwork
from imac_torch.numeric.modes import lasting

__all__ = ["LayerEffect", "layer_effects"]


@dataclass(frozen=True)
class LayerEffect:
    """What became of one layer's weights in the circuit.

    Attributes:
        layer: Path.
        wanted: (M, N+1) software weights, bias last.
        effective: (M, N+1) weights of the circuit's linear part, wires, spread and partitions
            included.
        error: Weight error (:func:`imac_torch.mapping.quantization.weight_error`), the bias left
            out.
        bias_error: The same of the bias; infinite where that is 0 and the circuit's is not.
        gain: Slope of the effective on the wanted weights by least squares, the bias left out:
            below 1 the signal is attenuated.
        worst: Row, column and difference of the cells that are furthest off.
    """

    layer: str
    wanted: Tensor
    effective: Tensor
    error: float
    bias_error: float
    gain: float
    worst: tuple[tuple[int, int, float], ...]


@lasting()
def layer_effects(network: IMACNetwork, worst: int = 10) -> tuple[LayerEffect, ...]:
    """Effective weights of every layer's crossbars against the wanted ones.

    Cells that are no resistors are taken as lines see them.

    Args:
        network: A converted model.
        worst: How many cells to name.

    Raises:
        ConversionError: ``worst`` is not positive.
        SolverError: Inputs hold gates.
    """
    if worst < 1:
        raise ConversionError(f"worst = {worst} must be at least 1")
    effects = []
    for layer in network.analog_layers():
        ports, _ = eliminate_layer(layer.matrix.seen_crossbar())
        # Outputs of groups follow one another, of the same columns each.
        effective = layer.matrix.weights_of(ports.transfer.flatten(0, -2))
        effective[:, :-1] /= layer.scaling.input_scale
        bias = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
        wanted = torch.cat([layer.weight, bias[:, None]], dim=1).to(torch.float64)
        difference = effective - wanted
        signal = wanted[:, :-1]
        power = signal.square().sum().clamp(min=1e-300)
        errors = deviation(effective, wanted)
        order = difference.abs().reshape(-1).argsort(descending=True)[:worst].tolist()
        columns = wanted.shape[1]
        named = tuple(
            (index // columns, index % columns, float(difference.reshape(-1)[index]))
            for index in order
        )
        effects.append(
            LayerEffect(
                layer.name,
                wanted,
                effective,
                errors.weights,
                errors.bias,
                float((effective[:, :-1] * signal).sum() / power),
                named,
            )
        )
    return tuple(effects)
