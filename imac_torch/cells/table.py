"""Memory devices as they were measured: currents over voltages, for one state or several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from imac_torch.base.units import spice_number
from imac_torch.cells.base import Cell, CellCurrents
from imac_torch.config import Memristor
from imac_torch.errors import ConfigError

__all__ = ["Table", "measured_device"]


@dataclass(frozen=True)
class Table(Cell):
    """Currents of several states, straight lines between voltages and between states.

    A device of conductance g at small voltages carries the mean of its two neighbouring states'
    currents, weighted so that its slope at 0 V is g; beyond the first and last state it is a
    multiple of that one. Every state thus keeps its measured currents, and netlists have the same.

    Attributes:
        voltages: V, ascending, 0 among them.
        currents_by_state: A, one row per state, as many as voltages, ascending, 0 at 0 V. Rows are
            in the order of their slopes at 0 V.
        tensor: The same where they are differentiated.
    """

    voltages: tuple[float, ...]
    currents_by_state: tuple[tuple[float, ...], ...]
    tensor: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: They are no such table.
        """
        voltages = self.voltages
        if len(voltages) < 3 or 0.0 not in voltages[1:-1] or not _ascending(voltages):
            some = ", ".join(f"{voltage:g}" for voltage in voltages[:5])
            raise ConfigError(
                "voltages of a table are at least three ascending numbers with 0 inside, got "
                f"{some}{', …' if len(voltages) > 5 else ''} V; interpolate measurements at such "
                "voltages, each branch of a sweep that comes back by itself"
            )
        zero = voltages.index(0.0)
        if not self.currents_by_state:
            raise ConfigError("a table has the currents of one state at least")
        for number, row in enumerate(self.currents_by_state, start=1):
            if len(row) != len(voltages) or not _ascending(row) or row[zero] != 0.0:
                raise ConfigError(
                    f"currents of state {number} are not {len(voltages)} ascending numbers, one "
                    "per voltage, with 0 A at 0 V"
                )
        if not _ascending([*self.conductances, math.inf]):
            raise ConfigError(
                "states are not in the order of their conductances at 0 V: "
                f"{', '.join(f'{g:.4g} S' for g in self.conductances)}"
            )

    @cached_property
    def conductances(self) -> tuple[float, ...]:
        """S, slopes at 0 V: means of both sides."""
        zero = self.voltages.index(0.0)
        span = self.voltages[zero + 1] - self.voltages[zero - 1]
        return tuple((row[zero + 1] - row[zero - 1]) / span for row in self.currents_by_state)

    def numbers(self) -> dict[str, object]:
        """See :class:`Cell`."""
        return {"currents_by_state": self.currents_by_state}

    def of_tensors(self, values: Mapping[str, Tensor]) -> Table:
        """See :class:`Cell`."""
        return replace(self, tensor=values.get("currents_by_state"))

    @property
    def bend(self) -> float:
        """See :class:`Cell`."""
        return min(b - a for a, b in pairwise(self.voltages))

    def inside(self, across: Tensor, end: Tensor | None = None) -> Tensor:
        """See :class:`Cell`."""
        return (across >= self.voltages[0]) & (across <= self.voltages[-1])

    def currents(
        self, conductance: Tensor, across: Tensor, end: Tensor | None = None
    ) -> CellCurrents:
        """See :class:`Cell`; beyond the measured voltages the last slope goes on."""
        voltages = conductance.new_tensor(self.voltages)
        table = self.tensor
        table = conductance.new_tensor(self.currents_by_state) if table is None else table
        slopes = table.diff(dim=1) / voltages.diff()
        zero = self.voltages.index(0.0)
        span = self.voltages[zero + 1] - self.voltages[zero - 1]
        known = (table[:, zero + 1] - table[:, zero - 1]) / span
        first, low, high = self._states(conductance, known)
        piece = torch.searchsorted(voltages, across.detach().contiguous(), right=True) - 1
        piece = piece.clamp(0, len(voltages) - 2)
        first = first.expand_as(piece)
        second = (first + 1).clamp(max=len(table) - 1)
        offset = across - voltages[piece]
        slope = low * slopes[first, piece] + high * slopes[second, piece]
        start = low * table[first, piece] + high * table[second, piece]
        return CellCurrents(start + slope * offset, slope)

    @staticmethod
    def _states(conductance: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Index of the state below, and the weights of that one and of the next."""
        if len(known) == 1:
            weight = conductance / known[0]
            return torch.zeros_like(conductance, dtype=torch.int64), weight, weight * 0.0
        index = torch.searchsorted(known.detach(), conductance.detach().contiguous(), right=True)
        index = index - 1
        first = index.clamp(0, len(known) - 2)
        high = (conductance - known[first]) / (known[first + 1] - known[first])
        below, above = index < 0, conductance >= known[-1]
        low = torch.where(below, conductance / known[0], 1.0 - high)
        low = torch.where(above, 0.0, low)
        high = torch.where(below, 0.0, torch.where(above, conductance / known[-1], high))
        return first, low, high

    def lines(self, name: str, first: str, second: str, resistance: str) -> list[str]:
        """See :class:`Cell`: a sum of ``|v - v_k|``, which is the same broken line."""
        one = torch.tensor([1.0 / float(resistance)], dtype=torch.float64, device="cpu")
        at = torch.tensor(self.voltages, dtype=torch.float64, device="cpu")
        found, slope = self.currents(one.expand_as(at), at)[:2]
        slopes = [*slope[:-1].tolist()]
        across = f"v({first},{second})"
        mean = (slopes[0] + slopes[-1]) / 2.0
        terms = [f"{spice_number(mean)}*{across}"]
        constant = float(found[0]) - mean * self.voltages[0]
        for voltage, before, after in zip(self.voltages[1:], slopes, slopes[1:], strict=False):
            half = (after - before) / 2.0
            if half != 0.0:
                terms.append(f"{spice_number(half)}*abs({across}-({spice_number(voltage)}))")
                constant -= half * (voltage - self.voltages[0])
        terms.append(spice_number(constant))
        return [f"G{name} {first} {second} cur='{'+'.join(f'({item})' for item in terms)}'"]


def measured_device(path: str | Path) -> Memristor:
    """A memory device of measured currents.

    Args:
        path: CSV: a column of voltages (V, in one direction, 0 among them) and one of currents (A)
            per state, each with a name in the first row. Fields are apart by commas, by tabs, or
            by semicolons, with which numbers may have a decimal comma; lines that begin with ``#``
            are skipped.

    Returns:
        Its end states are the slopes of the first and last state at 0 V, its states are as many as
        the columns, its currents are those of the table. The numbers are in the configuration, not
        the name of the file.

    Raises:
        ConfigError: The file does not hold such a table; the message has the line.
        OSError: See :func:`imac_torch.base.files.read_bytes`.
    """
    numbers = _numbers(Path(path))
    if numbers[0][0] > numbers[-1][0]:
        numbers.reverse()
    columns = [tuple(column) for column in zip(*numbers, strict=True)]
    at_zero = [row for row in numbers if row[0] == 0.0]
    if at_zero and any(at_zero[0][1:]):
        raise ConfigError(
            f"{path}: currents at 0 V are {at_zero[0][1:]} A, not 0: an offset of the instrument; "
            "subtract it from its column"
        )
    states = sorted(columns[1:], key=lambda row: sum(map(abs, row)))
    try:
        table = Table(columns[0], tuple(states))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    low, high = table.conductances[0], table.conductances[-1]
    return Memristor(
        rlow=1.0 / high,
        rhigh=1.0 / low,
        states=len(states),
        cell={
            "table": {"voltages": list(columns[0]), "currents_by_state": [*map(list, states)]}
        },
    )


def _numbers(path: Path) -> list[list[float]]:
    """What stands below the names of a CSV file, row by row, all of one length.

    Raises:
        ConfigError: Something else stands there.
    """
    from imac_torch.base.files import read_text

    lines = [
        (number, line.rstrip())
        for number, line in enumerate(read_text(path, encoding="utf-8-sig").splitlines(), start=1)
        if line.strip(" ,;\t\r") and not line.lstrip().startswith("#")
    ]
    if len(lines) < 2:
        raise ConfigError(f"{path}: a table has a row of names and rows of numbers below it")
    first = lines[0][1]
    apart = max(";\t,", key=first.count)
    rows = [(number, line.rstrip(apart).split(apart)) for number, line in lines]
    names = rows[0][1]
    if all(map(_is_number, names)):
        raise ConfigError(
            f"{path}, line {rows[0][0]}: the first row has the names of the columns, not numbers"
        )
    if len(names) < 3:
        raise ConfigError(
            f"{path}: a table has a column of voltages and two of currents or more, one per state, "
            f"apart by commas, semicolons or tabs; its first row is {first!r}"
        )
    found = []
    for number, row in rows[1:]:
        items = [item.replace(",", ".") if apart == ";" else item for item in row]
        wrong = [item for item in items if not _is_number(item)]
        if wrong or len(row) != len(names):
            problem = f"{wrong[0]!r} is no number" if wrong else f"{len(row)} numbers"
            raise ConfigError(
                f"{path}, line {number}: {problem}; the first row names {len(names)} columns, and "
                "every row below it has a number in each"
            )
        found.append([float(item) for item in items])
    return found


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _ascending(numbers: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(numbers))
