"""Quadratic forms of many images' voltages, compiled: what sources deliver to lines."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.lanes import LANES as COLUMNS
from imac_torch.kernels.lanes import load, number, store
from imac_torch.kernels.panels import two_rows_32

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LANES: Final = 32
"""Images of a tile, side by side in vector registers."""
ROWS: Final = 32
"""Rows whose voltages and currents are held at a time."""
WIDTH: Final = 2
"""Lines and forms are padded to a multiple of this."""


@njit(error_model="numpy", nogil=True, fastmath={"contract", "nsz"})
def form_tiles(
    work_first: int,
    work_last: int,
    voltages: FloatArray,
    squares: FloatArray,
    linear: FloatArray,
    first: IntArray,
    result: FloatArray,
) -> None:
    """Sums over all parts of vᵀ·L·v, and linear forms of the last part's voltages.

    Args:
        work_first: First tile; tile = sample·tiles of images + tile of images.
        work_last: Tile after the last.
        voltages: (S or 1, B, N) V.
        squares: (S, H, F, K, K) S, the lower triangles L of F forms, zero above and beyond the
            lines of a part.
        linear: (S, F+1 or F+2, K), linear forms: what belongs to the sums, then one by itself.
        first: (H+1,) ranges of lines of the parts.
        result: (S, B, F+1), written: the sums with theirs, and that one.
    """
    batch, count = voltages.shape[1:]
    parts, forms, width = squares.shape[1:4]
    tiles = (batch + LANES - 1) // LANES
    # Images are read one after the other, in the order of memory, before they are parted.
    near = np.zeros((LANES, count))
    volts, flows = np.zeros((width, LANES)), np.zeros((width, LANES))
    volt, flow = volts.reshape(-1), flows.reshape(-1)
    products, total = np.zeros((forms, width * LANES)), np.zeros(((forms + 2) // 2 * 2, LANES))
    for work in range(work_first, work_last):
        sample, head = work // tiles, (work % tiles) * LANES
        lanes = min(LANES, batch - head)
        images = voltages[min(sample, len(voltages) - 1)]
        for lane in range(lanes):
            for line in range(count):
                near[lane, line] = images[head + lane, line]
        products[:] = 0.0
        total[:] = 0.0
        for part in range(parts):
            begin = first[part]
            size = first[part + 1] - begin
            volts[size:] = 0.0
            for lane in range(LANES):
                for k in range(size):
                    volts[k, lane] = near[lane, begin + k]
            for form in range(forms):
                matrix, product = squares[sample, part, form], products[form]
                flows[:] = 0.0
                for row in range(0, size, 2):
                    two_rows_32(flows, row, matrix, row, volts, 0, row + 2)
                for place in range(width * LANES):
                    product[place] += flow[place] * volt[place]
        for row in range(0, len(total), 2):
            two_rows_32(total, row, linear[sample], row, volts, 0, size)
        for form in range(forms):
            for row in range(width):
                for lane in range(LANES):
                    total[form, lane] += products[form, row * LANES + lane]
        for lane in range(lanes):
            for form in range(forms + 1):
                result[sample, head + lane, form] = total[form, lane]


@njit(nogil=True, fastmath={"contract"})
def read_out_forms(
    first: int,
    last: int,
    positive: FloatArray,
    negative: FloatArray,
    ends: IntArray,
    volts: FloatArray,
    flows: FloatArray,
    result: FloatArray,
) -> None:
    """Quadratic forms of what read-outs deliver, Σ v·i over their rows, in voltages on lines.

    Args:
        first: Partitions first..last are done, counted by layer.
        last: See ``first``.
        positive: (S, M, C) V per V, I+ ends.
        negative: (S, M, C) V per V, I- ends.
        ends: (H+1,) of the ranges of columns that layers are cut into.
        volts: (n, M, 2) of each of n outputs per voltage of both ends.
        flows: (n, M, 2) S, currents, likewise.
        result: (S, H, K, K) S, written; partitions with fewer columns begin with zeros.
    """
    rows, parts, size = positive.shape[1], result.shape[1], result.shape[2]
    width = (size + COLUMNS - 1) // COLUMNS * COLUMNS
    strips = width // COLUMNS
    left, right = np.zeros((ROWS, width)), np.zeros((ROWS, width))
    total = np.empty((width, width))
    for work in range(first, last):
        sample, part = work // parts, work % parts
        begin, count = ends[part], ends[part + 1] - ends[part]
        total[:] = 0.0
        for head in range(0, rows, ROWS):
            some = min(ROWS, rows - head)
            for output in range(len(volts)):
                for r in range(some):
                    m = head + r
                    vp, vn = volts[output, m, 0], volts[output, m, 1]
                    ip, in_ = flows[output, m, 0], flows[output, m, 1]
                    for j in range(count):
                        p, n = positive[sample, m, begin + j], negative[sample, m, begin + j]
                        left[r, j] = vp * p + vn * n
                        right[r, j] = ip * p + in_ * n
                    left[r, count:] = 0.0
                    right[r, count:] = 0.0
                for i in range(0, width, 4):
                    for s in range(strips):
                        at = i * strips + s
                        a, b = load(total, at), load(total, at + strips)
                        c, d = load(total, at + 2 * strips), load(total, at + 3 * strips)
                        for r in range(some):
                            terms, row = load(right, r * strips + s), r * width + i
                            a += number(left, row) * terms
                            b += number(left, row + 1) * terms
                            c += number(left, row + 2) * terms
                            d += number(left, row + 3) * terms
                        store(total, at, a)
                        store(total, at + strips, b)
                        store(total, at + 2 * strips, c)
                        store(total, at + 3 * strips, d)
        start = size - count
        result[sample, part] = 0.0
        for i in range(count):
            for j in range(count):
                result[sample, part, start + i, start + j] = total[i, j]
