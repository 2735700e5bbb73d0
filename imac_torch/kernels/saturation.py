"""Compiled sweeps over amplifiers that saturate: y = O - E·w, w = y - clamp(y), block by block.

See :mod:`imac_torch.elimination.saturation` for the mathematics. A block's matrix stays in the
first-level cache while all images pass; only columns of amplifiers whose w changed are added, four
at a time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit

FloatArray = NDArray[np.float64]
TILE: Final = 64
"""Images that one unit of work takes through a block."""


@njit(error_model="numpy", nogil=True, fastmath={"contract", "nsz", "arcp", "reassoc"})
def sweep_blocks(
    work_first: int,
    work_last: int,
    outputs: FloatArray,
    beyond: FloatArray,
    good: NDArray[np.bool_],
    columns: FloatArray,
    factors: FloatArray,
    low: float,
    high: float,
    tolerance: float,
    limit: int,
) -> None:
    """Sweep a range of pieces of work in place; each is a block and a tile of images.

    Args:
        work_first: First piece; piece = (h·V + v)·tiles + tile of images.
        work_last: Piece after the last.
        outputs: (P, B, V, N) V, O on entry, the outputs on return.
        beyond: (P, B, V, N) V, w, written.
        good: (P, B, V), written: whether sweeps ended.
        columns: (P, V, N, N), Eᵀ: rows are E's columns.
        factors: (P, V), bound of the error per change of w.
        low: V.
        high: V.
        tolerance: Of outputs, relative to the sum of the block's.
        limit: Of sweeps.
    """
    _, batch, vertical, count = outputs.shape
    tiles = (batch + TILE - 1) // TILE
    # Of whole vector registers, and a column of zeros for what does not fill four.
    width = count + (-count) % 8
    matrix = np.zeros((count + 1, width))
    found, over, change = np.zeros(width), np.zeros(width), np.zeros(width)
    which, steps = np.zeros(count + 4, dtype=np.int64), np.zeros(count + 4)
    before = -1
    for work in range(work_first, work_last):
        block = work // tiles
        p, v = block // vertical, block % vertical
        head = (work % tiles) * TILE
        if block != before:
            before = block
            for j in range(count):
                for i in range(count):
                    matrix[j, i] = columns[p, v, j, i]
        factor = factors[p, v]
        for image in range(head, min(head + TILE, batch)):
            size = 0.0
            for i in range(count):
                found[i] = outputs[p, image, v, i]
                size += abs(found[i])
            for i in range(width):
                over[i] = 0.0
            ended = False
            for _ in range(limit):
                # Sums, in which what is not finite stays visible.
                moved = 0.0
                for i in range(width):
                    step = found[i] - min(max(found[i], low), high) - over[i]
                    change[i] = step
                    over[i] += step
                    moved += abs(step)
                if moved * factor <= tolerance * size:
                    ended = True
                    break
                changed = 0
                for j in range(count):
                    which[changed] = j
                    steps[changed] = change[j]
                    if change[j] != 0.0:
                        changed += 1
                for k in range(changed, changed + 4):
                    which[k] = count
                    steps[k] = 0.0
                for k in range(0, changed, 4):
                    first, second = matrix[which[k]], matrix[which[k + 1]]
                    third, fourth = matrix[which[k + 2]], matrix[which[k + 3]]
                    a, b, c, d = steps[k], steps[k + 1], steps[k + 2], steps[k + 3]
                    for i in range(width):
                        found[i] -= (first[i] * a + second[i] * b) + (third[i] * c + fourth[i] * d)
            good[p, image, v] = ended
            for i in range(count):
                limited = min(max(found[i], low), high)
                outputs[p, image, v, i] = limited
                beyond[p, image, v, i] = found[i] - limited


def work_count(outputs: FloatArray) -> int:
    """Pieces of work of (P, B, V, N) outputs."""
    parts, batch, vertical, _ = outputs.shape
    return int(parts * vertical * (-(-batch // TILE)))
