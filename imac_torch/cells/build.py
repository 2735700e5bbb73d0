"""Bit cells as configurations ask for them, and kinds of users' own."""

from __future__ import annotations

from imac_torch.cells.base import Cell
from imac_torch.cells.series import Access, Ohmic
from imac_torch.config import Config, Memristor
from imac_torch.config.kinds import ACCESS_KINDS, CELL_KINDS
from imac_torch.config.named import build_named, register_named
from imac_torch.errors import ConfigError

__all__ = ["build_cell", "parts", "register_access", "register_cell", "series_resistance"]


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
    if memory is None and (access is None or access.ohms() is not None):
        return None
    if access is None:
        return memory
    access = access.of_circuit(circuit)
    if memory is not None and memory.gated:
        raise ConfigError(
            f"{memory}: the input line holds its gate, there is no place for {access} as well"
        )
    return access.behind(Ohmic() if memory is None else memory)


def series_resistance(device: Memristor) -> float:
    """Ω, in series with memory devices that are resistors: the two are one resistor. Else 0."""
    access = _access(device)
    ohms = None if access is None else access.ohms()
    return 0.0 if ohms is None or _memory(device) is not None else ohms


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
