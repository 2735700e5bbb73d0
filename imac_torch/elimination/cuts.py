"""How a block is cut into tiles, in which order these are joined, and what work that is."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypeAlias

from imac_torch.elimination.blocks import Advance

Direction: TypeAlias = Literal["side by side", "downwards"]

BASE: Final = 16
"""Least rows and columns of the tiles that are not cut further."""
WIDTH: Final = 4
"""Columns per row up to which tiles are merged side by side before they are merged downwards.

Every row is two lines that cross a tile and every column one. Merges that cut few lines of tiles
that have many others come last: with tiles that are kept square 1024×1024 takes 1.6 times as many
operations. Four bands as wide as the array remain, which are joined from below: what is below has
inputs at its top only. That is a tenth less than joining two and two. Cuts at other places than
halves (dynamic programming over all rectangles) would save another twelfth.
"""


@dataclass(frozen=True)
class Cuts:
    """A block of any size as smallest tiles of equal size.

    Attributes:
        row_levels: How often its rows are halved.
        column_levels: How often its columns are.
        base_rows: Rows of the smallest tiles.
        base_columns: Their columns.
    """

    row_levels: int
    column_levels: int
    base_rows: int
    base_columns: int

    @classmethod
    def of(cls, rows: int, columns: int) -> Cuts:
        """Those of so many rows and columns."""
        down, across = _levels(rows), _levels(columns)
        return cls(down, across, -(-rows // 2**down), -(-columns // 2**across))

    @property
    def smallest(self) -> int:
        """How many smallest tiles there are."""
        return 1 << (self.row_levels + self.column_levels)

    @cached_property
    def merges(self) -> tuple[Direction, ...]:
        """In which order tiles are merged."""
        rows, columns = self.base_rows, self.base_columns
        row_levels, column_levels = self.row_levels, self.column_levels
        order: list[Direction] = []
        while row_levels or column_levels:
            if column_levels and (columns < WIDTH * rows or not row_levels):
                order.append("side by side")
                columns, column_levels = 2 * columns, column_levels - 1
            else:
                order.append("downwards")
                rows, row_levels = 2 * rows, row_levels - 1
        return tuple(order)

    @property
    def bands(self) -> int:
        """Tiles as wide as the block, which are joined from below."""
        merged = len(self.merges)
        while merged and self.merges[merged - 1] == "downwards":
            merged -= 1
        return 1 << (len(self.merges) - merged)

    @cached_property
    def works(self) -> tuple[float, ...]:
        """About the operations of one tile: of the smallest, then after every round of merging."""
        rows, columns = self.base_rows, self.base_columns
        works = [float(rows * columns * (2 * columns + 2 * rows) ** 2)]
        for direction in self.merges:
            if direction == "downwards":
                edges = 2 * columns + 8 * rows
                works.append(_join_work(columns, edges, edges))
                rows *= 2
            else:
                edges = 4 * columns + 4 * rows
                works.append(_join_work(2 * rows, edges, edges))
                columns *= 2
        return tuple(works)

    def band_work(self, band: int) -> float:
        """Of joining a band to all that is below."""
        columns = self.base_columns << self.column_levels
        below = (self.bands - band) * (self.base_rows << self.row_levels) // self.bands
        return _join_work(columns, columns, columns + 2 * below)

    @property
    def work(self) -> float:
        """Of the whole block."""
        rounds = len(self.merges) - self.bands.bit_length() + 2
        each = sum((self.smallest >> k) * work for k, work in enumerate(self.works[:rounds]))
        return each + sum(self.band_work(band) for band in range(self.bands - 1))


def _levels(count: int) -> int:
    """How often ``count`` lines are halved, to leave BASE or a little more."""
    return max(0, (count // BASE).bit_length() - 1)


def _join_work(lines: int, inputs: int, outputs: int) -> float:
    """Of joining two tiles: an inverse, and products with what comes in and with what goes out."""
    return float(lines * (lines * lines + lines * inputs + inputs * outputs))


class Tell:
    """Work that is done as so many smallest tiles, told from any thread.

    Args:
        advance: Called with the number of tiles.
        tiles: Of all blocks.
        total: Work of all blocks.
    """

    def __init__(self, advance: Advance, tiles: int, total: float) -> None:
        self.advance = advance
        self.share = tiles / total * (1.0 + 1e-12)  # the last one is told, too
        self.work = 0.0
        self.told = 0
        self.lock = threading.Lock()

    def __call__(self, work: float) -> None:
        """So much more is done."""
        with self.lock:
            self.work += work
            due = int(self.work * self.share) - self.told
            self.told += due
        if due:
            self.advance(due)
