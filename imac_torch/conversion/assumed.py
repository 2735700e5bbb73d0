"""Ranges of layers before a circuit is solved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from imac_torch.conversion.outputs import activations
from imac_torch.conversion.search import HEADROOM, SAME
from imac_torch.mapping.states import InputStatistics
from imac_torch.model.linear import IMACLinear
from imac_torch.numeric.modes import lasting

__all__ = ["assume_ranges", "corners"]

CORNERS: Final = 256
"""Input vectors that stand for data where there are none."""
CORNER_MARGIN: Final = 1.5
"""How much larger outputs may be for data; ReLUs that clip lose more than others that do not."""


def corners(layer: IMACLinear) -> Tensor:
    """(B, N) inputs of a network's first layer where there are no data.

    Each is at plus or minus full scale, independent of the others: what images of dark backgrounds
    are like.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (CORNERS, layer.in_features)
    signs = torch.randint(0, 2, shape, generator=generator, device="cpu") * 2.0 - 1.0
    return signs.to(layer.weight.device) * layer.scaling.input_scale


def _choose_range(
    layer: IMACLinear, driven: Sequence[IMACLinear], outputs: Tensor, smallest: float
) -> None:
    """Least expected error of a layer and of the one that it drives, gains not being chosen yet."""
    found = []
    statistics = InputStatistics.of(outputs)
    for factor in HEADROOM:
        scale = smallest * factor / HEADROOM[0]
        layer.scaling = replace(layer.scaling, output_scale=scale)
        error = layer.matrix.least_expected_error()
        for item in driven:
            item.scaling = replace(item.scaling, input_scale=scale)
            item.matrix.set_input_statistics(statistics.over(scale))
            error = math.hypot(error, item.matrix.least_expected_error())
            item.matrix.matched_gain.fill_(math.nan)
        found.append((error, layer.scaling))
    least = min(error for error, _ in found)
    layer.scaling = next(scaling for error, scaling in found if error <= SAME * least)
    layer.matrix.matched_gain.fill_(math.nan)


@lasting()
def assume_ranges(
    layers: Sequence[IMACLinear],
    which: Sequence[bool],
    features: Tensor | None = None,
) -> None:
    """Ranges of layers before the circuit is solved, and what follows from them.

    Without data, :func:`corners` are carried through the software layers. Circuits
    whose gain is given and whose scheme does not solve for conductances have the range that their
    gain gives them; ranges of the scheme 'matched' are larger than the outputs need where it is
    expected to err less then.

    Args:
        layers: Of one network.
        which: Layers that may be changed; the others have been trained or calibrated.
        features: (B, N) inputs of the first layer, if there are data.
    """
    margin = HEADROOM[0]
    if features is None:
        margin = CORNER_MARGIN
        features = corners(layers[0])
    software = activations(layers, features)
    for index, (layer, free) in enumerate(zip(layers, which, strict=True)):
        if not free:
            continue
        if index > 0:
            scale = layers[index - 1].scaling.output_scale
            layer.scaling = replace(layer.scaling, input_scale=scale)
            if layer.matrix.matched:
                rows = layer.by_group(software[index]) / scale
                layer.matrix.set_input_statistics(InputStatistics.of(rows))
        if layer.matrix.matched:
            layer.matrix.trim.zero_()
            layer.matrix.matched_gain.fill_(math.nan)
        largest = float(software[index + 1].abs().max())
        if layer.activation.scale is not None or not 0.0 < largest < math.inf:
            continue
        layer.scaling = replace(layer.scaling, output_scale=margin * largest)
        if layer.matrix.matched:
            after = zip(layers[index + 1 : index + 2], which[index + 1 : index + 2], strict=True)
            driven = [item for item, changes in after if changes and item.matrix.matched]
            _choose_range(layer, driven, software[index + 1], margin * largest)
        elif not layer.matrix.matched and layer.config.amplifier.gain is not None:
            slope = layer.matrix.transfer_slope()
            if 0.0 < slope < math.inf:
                scale = layer.scaling.output_scale / slope
                layer.scaling = replace(layer.scaling, output_scale=scale)
