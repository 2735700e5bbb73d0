"""Numbers of memory and access devices that a circuit is differentiated by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from imac_torch.cells.parameters import device_numbers, device_with
from imac_torch.config import Config
from imac_torch.config.assignment import apply_overrides
from imac_torch.errors import ConversionError
from imac_torch.model.linear import IMACLinear

__all__ = ["config_with", "device_parameters", "devices_at"]


def device_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Numbers of a model's memory and access devices, for :func:`devices_at`.

    Args:
        module: An :class:`IMACNetwork`, or any module with :class:`IMACLinear` layers in it.

    Returns:
        float64, in the units of the configuration, by its paths: ``device.cell.sinh.v0``, or where
        layers have different ones ``layers."fc1".device.cell.sinh.v0``. A table's
        ``currents_by_state`` is (states, voltages), others are 0-dimensional. Empty where cells
        are resistors alone.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for layer in _layers(module):
        for path, value in device_numbers(layer.config).items():
            found.setdefault(path, {})[layer.name] = value
    result = {}
    for path, values in found.items():
        first, *others = values.values()
        if all(torch.equal(first, other) for other in others):
            result[f"device.{path}"] = first
        else:
            result.update({f'layers."{name}".device.{path}': x for name, x in values.items()})
    return result


@contextmanager
def devices_at(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Give cells other numbers for a while; circuits are differentiable by them.

    What devices were programmed to stays, and so do gains: this is one chip whose physics is not
    quite known, to be fitted, or whose sensitivity is wanted::

        numbers = imac_torch.device_parameters(network)
        numbers["device.cell.sinh.v0"].requires_grad_()
        with imac_torch.devices_at(network, numbers):
            loss = (network(inputs) - measured).square().mean()
        loss.backward()

    Files that are written inside hold the configuration's numbers; netlists have these.
    :func:`config_with` makes a configuration of them.

    Args:
        module: An :class:`IMACNetwork`, or any module with :class:`IMACLinear` layers in it.
        values: Some of :func:`device_parameters`, by the same paths; a path of a layer goes
            before one of all layers.

    Raises:
        ConversionError: There is no such number.
        ConfigError: One is not allowed.
    """
    layers = list(_layers(module))
    own = [_of_layer(layer, values) for layer in layers]
    unknown = [path for path in values if not any(path in used for _, used in own)]
    if unknown:
        raise ConversionError(
            f"{unknown[0]}: no layer has it; cells have "
            f"{', '.join(device_parameters(module)) or 'no numbers: they are resistors'}"
        )
    before = [layer.matrix.numbers for layer in layers]
    for layer, (numbers, _) in zip(layers, own, strict=True):
        device_with(layer.config.device, numbers)  # refused here if a number is not allowed
        layer.matrix.numbers = numbers
    try:
        yield
    finally:
        for layer, own_before in zip(layers, before, strict=True):
            layer.matrix.numbers = own_before


def config_with(config: Config, values: Mapping[str, Tensor]) -> Config:
    """A configuration with the numbers that were found, to convert with and to save.

    Args:
        config: Of the network.
        values: By their paths, see :func:`device_parameters`.

    Raises:
        ConfigError: There is no such number, or it is not allowed.
    """
    return apply_overrides(config, {path: x.detach().tolist() for path, x in values.items()})


def _of_layer(
    layer: IMACLinear, values: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], set[str]]:
    """Numbers by their paths in the section, and the paths that say something of the layer."""
    numbers, used = {}, set()
    for path in device_numbers(layer.config):
        own = f'layers."{layer.name}".device.{path}', f"device.{path}"
        said = [item for item in own if item in values]
        used.update(said)
        if said:
            numbers[path] = values[said[0]].to(torch.float64)
    return numbers, used


def _layers(module: nn.Module) -> Iterator[IMACLinear]:
    return (part for part in module.modules() if isinstance(part, IMACLinear))
