"""Memory that work will take, from shapes alone, compared with what is free before it begins.

Every formula is in bytes of float64 and counts what lives at the peak. Measured peaks are within a
factor 3 of it, either way (``tests/test_budget.py``).

Dimension letters: B images, S samples, C = N+1 columns, M outputs, rows of all slices included;
R×K cells of each of the blocks (partitions) that a layer is cut into.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import torch

from imac_torch.errors import SolverMemoryError

__all__ = ["fitting", "free_memory", "require_memory"]

SMALL: Final = 256 * 2**20
"""Bytes below which nobody is asked: looking takes longer than such work is worth."""
CHUNK_BYTES: Final = 256 * 2**20
"""Intermediate admittances of a row recursion kept at a time; beyond, done in parts or again."""
FACTORISATIONS: Final = 6
"""Step sizes whose factorised crossbars are kept: each is as large as all rows' matrices."""
REDUCED_STEP_SIZES: Final = 64
"""Step sizes that a transient typically meets, each with matrices of its own."""
POINTS: Final = 200
"""Time points assumed for a period with step control, two per step: it decides while it runs."""


def require_memory(
    needed: int, what: str, advice: str, device: torch.device | None = None
) -> None:
    """Refuse work that cannot fit, before minutes go into it.

    Args:
        needed: Bytes at its peak.
        what: The work, in words.
        advice: What to change.
        device: Where it will be done; None: the CPU.

    Raises:
        SolverMemoryError: Less is free.
    """
    if needed < SMALL:
        return
    free = free_memory(device)
    if free is not None and needed > free:
        raise SolverMemoryError(
            f"{what} takes about {needed / 2**30:.2g} GiB of memory, {free / 2**30:.2g} GiB are "
            f"free: {advice}",
            needed=needed,
            free=free,
        )


def fitting(count: int, each: int, device: torch.device | None = None) -> int:
    """How many of ``count`` equal items of ``each`` bytes fit at a time; at least 1."""
    free = None if count * each < SMALL else free_memory(device)
    return max(1, count if free is None else min(count, free // each))


def free_memory(device: torch.device | None = None, root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take, or None where that is not known.

    On the CPU the smallest of what Linux calls available (proc(5), ``MemAvailable``) and what the
    control groups of the process leave (cgroups(7), versions 1 and 2, those above included:
    containers, batch systems). Files that a group has cached and not used lately are free, too.

    Args:
        device: None: the CPU.
        root: Where ``proc`` and ``sys`` are.
    """
    if device is not None and device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    found = [_number(root / "proc/meminfo", "MemAvailable:", 1024)]
    found += [_left(place, *names) for place, names in _groups(root)]
    known = [value for value in found if value is not None]
    return min(known) if known else None


_VERSION_1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2: Final = ("memory.max", "memory.current", "inactive_file")


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Directories of the process's control groups up to the top, and names of their files."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in [*lines, "0::/"]:
        _, controllers, path = line.split(":", 2)
        own = Path(path.lstrip("/"))
        if "memory" in controllers.split(","):
            places, names = [top / "memory"], _VERSION_1
        elif not controllers:
            places, names = [top, top / "unified"], _VERSION_2
        else:
            continue
        for place in places:
            for part in (own, *own.parents):
                yield place / part, names


def _left(place: Path, limit: str, used: str, cached: str) -> int | None:
    """Limit minus use. "max" is no number: no limit; version 1 has an absurdly large one."""
    most, taken = _number(place / limit), _number(place / used)
    if most is None or taken is None:
        return None
    return max(0, most - taken + (_number(place / "memory.stat", cached) or 0))


def _number(path: Path, name: str = "", unit: int = 1) -> int | None:
    """The number in a file, or behind a name at the beginning of a line of it."""
    try:
        lines = path.read_text().splitlines()
        found = [line.split()[:2][-1] for line in lines if line.split()[:1] == [name] or not name]
        return unit * int(found[0])
    except (OSError, ValueError, IndexError):
        return None


def elimination_bytes(
    blocks: int,
    rows: int,
    columns: int,
    *,
    method: Literal["rows", "tiles"],
    compiled: bool,
    threads: int = 1,
    gradients: bool = False,
    in_place: bool = False,
) -> int:
    """Elimination of blocks, results included, and what its gradients keep and take.

    Results are (K, K) and twice (R, K) per block, padded cells twice (R, K); of blocks in place
    (read and written where layers have them) only line ends and (K, K). Compiled rows keep
    twice (K, K) and six times (R, K) per thread; torch holds eight (R, K, K) per block, as many
    blocks at a time as a chunk takes. Tiles hold, at the last merge, the matrices of the whole
    block, K·(K + 2·R), of its upper and lower half, 2·K·(2·K + R) and K·(K + R), and three K² of
    the lines between them; one block is done after the other, and of smaller tiles some are alive.
    Every further thread has a band of rows or a block of its own in work.

    With gradients compiled rows keep (R, K, K) per block where all of these are no more than a
    chunk, and take it once more per thread on the way back, twice where they were not kept; torch
    keeps thirteen per block. Tiles record every merge: the rows of the smallest tiles, some 650
    numbers per cell, and at each level some 50 (the squares of all tiles' ports, 36, and more).
    """
    results = 8 * blocks * (columns * columns + (2 if in_place else 6) * rows * columns)
    work = 8 * rows * columns * columns
    if gradients:
        results *= 2
        if method == "tiles":
            levels = math.log2(max(1.0, rows / 16)) + math.log2(max(1.0, columns / 16))
            return results + int(8 * blocks * rows * columns * (650 + 50 * levels))
        if not compiled:
            return results + 13 * blocks * work
        own = min(blocks, threads) * work
        return results + own + (blocks * work if blocks * work <= CHUNK_BYTES else own)
    if method == "tiles":
        return results + 8 * columns * (12 * columns + 8 * rows + 8 * columns * (threads - 1))
    if not compiled:
        return results + max(8 * work, min(8 * work * blocks, CHUNK_BYTES))
    return results + min(blocks, threads) * 8 * columns * (2 * columns + 6 * rows)


def map_bytes(blocks: int, rows: int, columns: int, images: int) -> int:
    """A map of the voltages inside a layer: eight (R, K, K) per block, twelve voltages per cell."""
    return 8 * blocks * rows * columns * (8 * columns + 12 * images)


def sample_bytes(
    outputs: int, inputs: int, horizontal: int, vertical: int, columns: int, images: int
) -> int:
    """One sample of one layer's devices with the voltages of its images.

    Conductances before and after padding, ends (ten numbers per cell); admittances of all blocks
    and their sums (four); and :func:`image_bytes`.

    Args:
        outputs: M.
        inputs: C.
        horizontal: H, partitions of columns.
        vertical: V, partitions of rows.
        columns: K.
        images: B.
    """
    ports = vertical * horizontal * columns**2
    return 8 * (10 * outputs * inputs + 4 * ports) + images * image_bytes(outputs, inputs)


def image_bytes(outputs: int, inputs: int) -> int:
    """One image in one layer, solved for its operating point.

    Combined voltage, gate and output of every neuron, as many that are worked with, and two of
    currents; voltages of input lines, their copy by partitions, and what they draw.
    """
    return 8 * (8 * outputs + 3 * inputs)


def lines_bytes(blocks: int, rows: int, columns: int, inputs: int, *, exact: bool) -> int:
    """Preparing (reduced) or factoring (exact) the crossbars of one layer for transients.

    Reduced lines take (R, K, K) per block: four of a factorisation, eighteen of two solutions for
    unit voltages. Exact lines keep four for each of :data:`FACTORISATIONS`
    step sizes and take four more to make one, with seven (R, K, C) of its transfer.
    """
    cells = blocks * rows * columns
    if exact:
        return 8 * cells * ((4 * FACTORISATIONS + 4) * columns + 7 * inputs)
    return 8 * cells * 22 * columns


def step_bytes(outputs: int, inputs: int, horizontal: int, columns: int) -> int:
    """Matrices of one layer with reduced lines, of all step sizes that are kept.

    For each step size twice (H, K, K), with and without the bias, and a transfer (M, C).
    """
    each = 2 * horizontal * columns**2 + outputs * inputs
    return 8 * REDUCED_STEP_SIZES * each


def state_bytes(
    outputs: int, inputs: int, horizontal: int, *, order: int, cells: int | None
) -> int:
    """State of one layer and one sequence (image) within a time step.

    Neurons have twelve numbers at the start, the middle and the end of a step and at the one
    before, and sixteen of Newton's method. Reduced lines have order + 1 filters per column with
    values and rates at three points and two histories, and the parts of their line ends (M, H).
    Exact lines have three voltages per cell with their rates at three points, a history, the
    currents that it injects, and ten of the solution.

    Args:
        outputs: M.
        inputs: C.
        horizontal: H.
        order: Filters a line.
        cells: Of all blocks, if lines are exact; None: reduced.
    """
    neurons = 64 * outputs
    if cells is not None:
        return 8 * (neurons + 34 * cells)
    ends = (2 * order + 12) * outputs * horizontal
    return 8 * (neurons + 8 * (order + 1) * inputs + ends)


def waveform_bytes(points: int, outputs: int) -> int:
    """Waveforms of one sequence: kept outputs and five powers, as a list, as one, and once more."""
    return 3 * 8 * points * (outputs + 5)


def latency_bytes(points: int, images: int, outputs: int) -> int:
    """Latencies from waveforms (T, B, M) as they are refined: six times these."""
    return 6 * 8 * points * images * outputs
