"""Quadratic forms of many images' voltages, compiled: what sources deliver to lines."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LANES: Final = 32
"""Images of a tile, side by side in vector registers."""
WIDTH: Final = 4
"""Lines are padded to a multiple of this."""


@njit(error_model="numpy", nogil=True, fastmath={"contract", "nsz"})
def form_tiles(
    work_first: int,
    work_last: int,
    voltages: FloatArray,
    squares: FloatArray,
    linear: FloatArray,
    last: FloatArray,
    first: IntArray,
    result: FloatArray,
) -> None:
    """Sums over all parts of vᵀ·L·v + l·v, and a linear form of the last part's voltages.

    Args:
        work_first: First tile; tile = sample·tiles of images + tile of images.
        work_last: Tile after the last.
        voltages: (S or 1, B, N) V.
        squares: (S, H, F, K, K) S, the lower triangles L of F forms, zero above and beyond the
            lines of a part.
        linear: (S, H, F, K) A, l.
        last: (S, lines of the last part) S, the form of that.
        first: (H+1,) ranges of lines of the parts.
        result: (S, B, F+1), written.
    """
    batch = voltages.shape[1]
    parts, forms, width = squares.shape[1:4]
    tiles = (batch + LANES - 1) // LANES
    volts, sums = np.zeros((width, LANES)), np.empty((2, LANES))
    total = np.empty((forms + 1, LANES))
    for work in range(work_first, work_last):
        sample, head = work // tiles, (work % tiles) * LANES
        lanes = min(LANES, batch - head)
        images = voltages[min(sample, len(voltages) - 1)]
        total[:] = 0.0
        for part in range(parts):
            begin = first[part]
            size = first[part + 1] - begin
            volts[size:] = 0.0
            for lane in range(lanes):
                for k in range(size):
                    volts[k, lane] = images[head + lane, begin + k]
            for form in range(forms):
                matrix, line = squares[sample, part, form], linear[sample, part, form]
                for row in range(0, size, 2):
                    c0, c1 = line[row], line[row + 1]
                    for lane in range(LANES):
                        sums[0, lane] = c0
                        sums[1, lane] = c1
                    for column in range(0, row + 1, WIDTH):
                        a0, a1, a2, a3 = (
                            matrix[row, column], matrix[row, column + 1],
                            matrix[row, column + 2], matrix[row, column + 3],
                        )
                        b0, b1, b2, b3 = (
                            matrix[row + 1, column], matrix[row + 1, column + 1],
                            matrix[row + 1, column + 2], matrix[row + 1, column + 3],
                        )
                        for lane in range(LANES):
                            w, x = volts[column, lane], volts[column + 1, lane]
                            y, z = volts[column + 2, lane], volts[column + 3, lane]
                            sums[0, lane] += (a0 * w + a1 * x) + (a2 * y + a3 * z)
                            sums[1, lane] += (b0 * w + b1 * x) + (b2 * y + b3 * z)
                    for lane in range(LANES):
                        total[form, lane] += (
                            volts[row, lane] * sums[0, lane] + volts[row + 1, lane] * sums[1, lane]
                        )
        for k in range(size):
            factor = last[sample, k]
            for lane in range(LANES):
                total[forms, lane] += factor * volts[k, lane]
        for lane in range(lanes):
            for form in range(forms + 1):
                result[sample, head + lane, form] = total[form, lane]
