"""Bit cells as configurations ask for them, and kinds of users' own."""

from __future__ import annotations

from dataclasses import replace

from imac_torch.cells.base import Cell
from imac_torch.cells.capacitance import CellCapacitance
from imac_torch.cells.series import Access, Ohmic, Series
from imac_torch.config import Config, Memristor
from imac_torch.config.kinds import ACCESS_KINDS, CELL_KINDS
from imac_torch.config.named import build_named, register_named
from imac_torch.errors import ConfigError

__all__ = [
    "build_cell",
    "cell_capacitance",
    "parts",
    "register_access",
    "register_cell",
    "series_resistance",
]


def build_cell(device: Memristor, config: Config | None = None) -> Cell | None:
    """The bit cell of a (per-layer) configuration; None: a resistor.

    Args:
        device: What says what it is.
        config: Whose section it is, with supplies and temperature; None: those by default.

    Raises:
        ConfigError: There is no such kind.
    """
    circuit = Config() if config is None else config
    memory, access = parts(device)
    memory = None if memory is None else memory.of_circuit(circuit)
    if memory is None and (access is None or _one_resistor(device, access)):
        return None
    if access is None:
        return memory
    access = access.of_circuit(circuit)
    if memory is not None and memory.gated:
        raise ConfigError(
            f"{memory}: the input line holds its gate, there is no place for {access} as well"
        )
    cell = access.behind(Ohmic() if memory is None else memory)
    held = cell_capacitance(device, circuit)
    if isinstance(cell, Series):
        return replace(cell, capacitance=held)
    if any(held):
        raise ConfigError(
            f"{cell}: device.capacitance and device.access_capacitance are not known of the node "
            "behind a transistor that the input line switches; leave them out"
        )
    return cell


def cell_capacitance(device: Memristor, config: Config) -> CellCapacitance:
    """What the bit cells of a (per-layer) configuration hold charge with.

    Raises:
        ConfigError: The access device has capacitances of its own.
    """
    access = _access(device)
    if access is None:
        return CellCapacitance(memory=device.capacitance)
    node, line = access.of_circuit(config).terminal_capacitances()
    if node > 0.0 and device.access_capacitance > 0.0:
        raise ConfigError(
            f"device.access_capacitance = {device.access_capacitance} F: {access} has the charges "
            "of its model, leave it out"
        )
    return CellCapacitance(device.capacitance, device.access_capacitance, node, line)


def _one_resistor(device: Memristor, access: Access) -> bool:
    """Whether an access device and resistors are one, no charge being held between them."""
    held = device.capacitance > 0.0 or device.access_capacitance > 0.0
    return access.ohms() is not None and not held


def series_resistance(device: Memristor) -> float:
    """Ω, in series with memory devices that are resistors: the two are one resistor. Else 0."""
    access = _access(device)
    if access is None or _memory(device) is not None or not _one_resistor(device, access):
        return 0.0
    return access.ohms() or 0.0


def parts(device: Memristor) -> tuple[Cell | None, Access | None]:
    """Memory and access device; None: a resistor, and nothing."""
    return _memory(device), _access(device)


def _memory(device: Memristor) -> Cell | None:
    tables = device.cell if device.bend is None else {"sinh": {"v0": device.bend}}
    for label, settings in (tables or {}).items():
        found: Cell = build_named(CELL_KINDS, label, settings)
        return found.of_device(device)
    return None


def _access(device: Memristor) -> Access | None:
    for label, settings in (device.access or {}).items():
        found: Access = build_named(ACCESS_KINDS, label, settings)
        return found
    return None


def register_cell(name: str, cell: type[Cell]) -> type[Cell]:
    """Add a kind of memory device of your own, for ``device.cell``.

    Args:
        name: As configurations have it.
        cell: A dataclass; its fields are its parameters.

    Raises:
        ConfigError: It is no dataclass, or the name is no identifier or one of the package's own.
    """
    register_named(CELL_KINDS, name, cell)
    return cell


def register_access(name: str, access: type[Access]) -> type[Access]:
    """Add a kind of access device of your own, for ``device.access``.

    Args:
        name: As configurations have it.
        access: A dataclass; its fields are its parameters.

    Raises:
        ConfigError: It is no dataclass, or the name is no identifier or one of the package's own.
    """
    register_named(ACCESS_KINDS, name, access)
    return access
