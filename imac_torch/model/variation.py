"""Devices drawn anew for every training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from imac_torch.devices.model import DeviceModel, DeviceSample
from imac_torch.errors import ConversionError
from imac_torch.model.linear import IMACLinear

_SEEDS = 2**62


@contextmanager
def varied(
    module: nn.Module, devices: DeviceModel, generator: torch.Generator
) -> Iterator[None]:
    """Give every analog layer of a model one fresh sample of its devices, for a while.

    For training that is to withstand spread: one sample per step, drawn around the present
    weights, through which the loss is differentiated::

        for images, labels in loader:
            with varied(network, devices, generator):
                loss = criterion(network(images), labels)
            loss.backward()

    Inside, the sample stays the same, for the ideal circuit (a layer's ``forward``), the whole
    circuit with its wires and netlists alike. All images of the step see it; effects of a read
    cycle are drawn once too. Effects of every read in the layers' own configuration
    (``device.effects.read_noise``) are of other reads than before, as outside one for every
    image, so that no two steps see the same noise: with an empty ``DeviceModel()`` that is all
    that happens. Amplifier gains are those of nominal devices. Blocks can be nested;
    the inner one replaces the outer one's sample.

    Gradients are those of the effects: a stuck or open cell gives none to its weight, and
    :class:`imac_torch.devices.effects.Levels` passes them straight through its rounding.

    Args:
        module: An :class:`IMACNetwork`, or any module with :class:`IMACLinear` layers in it.
        devices: What happens to the devices, on top of the layers' own spread.
        generator: On the CPU; it advances by one number per layer, and by one more where the
            layer's own devices differ from read to read.

    Raises:
        ConversionError: There is no analog layer in the module.
    """
    layers = [part for part in module.modules() if isinstance(part, IMACLinear)]
    if not layers:
        raise ConversionError(
            f"{type(module).__name__} has no IMACLinear layer whose devices could vary; convert "
            "the model, or build it of IMACLinear"
        )
    before = [(layer.matrix.sample, layer.matrix.devices) for layer in layers]
    for layer in layers:
        matrix = layer.matrix
        matrix.sample = DeviceSample.seeded(devices, _seed(generator))
        if matrix.varies_by_read:
            reads = torch.Generator().manual_seed(_seed(generator)).get_state()
            matrix.devices = tuple(replace(own, read=reads) for own in matrix.devices)
    try:
        yield
    finally:
        for layer, (sample, own) in zip(layers, before, strict=True):
            layer.matrix.sample, layer.matrix.devices = sample, own


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(_SEEDS, (), generator=generator, device="cpu"))
