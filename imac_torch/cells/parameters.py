"""Numbers of memory and access devices as tensors: circuits have gradients by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from imac_torch.cells.base import Cell
from imac_torch.cells.build import parts
from imac_torch.config import Config, Memristor

__all__ = ["cell_of_tensors", "device_numbers", "device_with"]

BEND = "bend"
"""Path that is short for that of v0 of a sinh."""


def device_numbers(config: Config) -> dict[str, Tensor]:
    """Numbers of a (per-layer) configuration that currents of cells are differentiable by.

    Returns:
        float64 by paths in the section ``device``: ``cell.sinh.v0``, ``access.finfet.gate``; a
        table's ``currents_by_state`` is (states, voltages).
    """
    device, found = config.device, {}
    for field, part in zip(("cell", "access"), parts(device), strict=True):
        if part is None:
            continue
        label = next(iter(getattr(device, field) or {}), "")
        for name, value in part.of_circuit(config).numbers().items():
            path = f"{field}.{label}.{name}" if label else BEND
            found[path] = torch.tensor(value, dtype=torch.float64, device="cpu")
    return found


def device_with(device: Memristor, values: Mapping[str, Tensor]) -> Memristor:
    """A section with other numbers, by their paths in it.

    Raises:
        ConfigError: One is not allowed.
    """
    changes: dict[str, Any] = {}
    for path, value in values.items():
        number = value.detach().tolist()
        if path == BEND:
            changes[BEND] = number
            continue
        field, label, name = path.split(".")
        tables = changes.setdefault(field, {k: dict(v) for k, v in getattr(device, field).items()})
        tables[label][name] = number
    return device.replace(**changes)


def cell_of_tensors(cell: Cell, values: Mapping[str, Tensor]) -> Cell:
    """The same cell for :meth:`~imac_torch.cells.Cell.currents`, with tensors in place of numbers.

    Args:
        cell: With the same numbers.
        values: By their paths, see :func:`device_numbers`.
    """
    found: dict[str, dict[str, Tensor]] = {"cell": {}, "access": {}}
    for path, value in values.items():
        field, _, name = ("cell", "", "v0") if path == BEND else path.split(".")
        found[field][name] = value
    return cell.of_both(found["cell"], found["access"])
