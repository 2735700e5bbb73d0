"""Devices drawn anew for every training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    cycle are drawn once too. Amplifier gains are those of nominal devices. Blocks can be nested;
    the inner one replaces the outer one's sample.

    Gradients are those of the effects: a stuck or open cell gives none to its weight, and
    :class:`imac_torch.devices.effects.Levels` passes them straight through its rounding.

    Args:
        module: An :class:`IMACNetwork`, or any module with :class:`IMACLinear` layers in it.
        devices: What happens to the devices, on top of the layers' own spread.
        generator: On the CPU; it advances by one number per layer.

    Raises:
        ConversionError: There is no analog layer in the module.
    """
    layers = [part for part in module.modules() if isinstance(part, IMACLinear)]
    if not layers:
        raise ConversionError(
            f"{type(module).__name__} has no IMACLinear layer whose devices could vary; convert "
            "the model, or build it of IMACLinear"
        )
    before = [layer.matrix.sample for layer in layers]
    for layer in layers:
        seed = int(torch.randint(_SEEDS, (), generator=generator, device="cpu"))
        layer.matrix.sample = DeviceSample.seeded(devices, seed)
    try:
        yield
    finally:
        for layer, sample in zip(layers, before, strict=True):
            layer.matrix.sample = sample
