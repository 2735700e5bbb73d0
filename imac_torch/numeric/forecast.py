"""How long work will take, told before most of it is done, from the rate of this machine.

Told by the logger ``imac_torch`` at level INFO (``logging.basicConfig(level="INFO")``); the command
line shows it on standard error. Work that has a progress bar shows its remaining time there.
"""

from __future__ import annotations

import logging
import time
from typing import Final

__all__ = ["LONG", "Forecast", "announce", "elimination_operations"]

LONG: Final = 20.0
"""s. Nobody is told of less."""
MUCH: Final = 2**30
"""Bytes. Nobody is told of less."""
_LOG: Final = logging.getLogger("imac_torch")
clock = time.perf_counter


def announce(what: str, seconds: float, needed: int = 0) -> None:
    """Say how long work will take, and of how much memory, if that is long or much."""
    if seconds >= LONG or needed >= MUCH:
        unit, size = next(
            (unit, size)
            for unit, size in (("h", 3600), ("min", 60), ("s", 1))
            if seconds >= size or size == 1
        )
        memory = f" and {needed / 2**30:.2g} GiB of memory" if needed >= MUCH else ""
        _LOG.info("%s will take about %.2g %s%s", what, seconds / size, unit, memory)


class Forecast:
    """Says once how long a loop will take: as soon as its first part is done."""

    def __init__(self, what: str, total: float) -> None:
        self.what = what
        self.total = total
        self._started: float | None = clock()

    def done(self, parts: float) -> None:
        """So many parts are done; only the first call counts, and only where more are to come."""
        if self._started is not None and parts < self.total:
            announce(self.what, (clock() - self._started) * self.total / parts)
        self._started = None


def elimination_operations(blocks: int, rows: int, columns: int, *, tiles: bool) -> float:
    """Multiplications and additions of an elimination, about.

    Rows: each inverts and multiplies matrices of K×K, four times K³ in all. Tiles: 175·R·K².
    """
    return (175.0 if tiles else 4.0 * columns) * blocks * rows * columns**2
