"""Devices of curved cells in compiled code: currents and slopes for many images at once.

Images are the innermost dimension, LANES at a time, so that every loop over them is some vector
registers. Arrays have two dimensions, so that the compiler knows that no index is negative.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.table import locate, slopes, weights
from imac_torch.numeric.cell_kinds import DIODE, OHMIC, SINH, TRANSISTOR

Array = NDArray[np.float64]
LANES: Final = 32
"""Images that are worked on at once."""

STEPS: Final = 8
"""Of the node between two devices while lines stay."""
SHORT: Final = 0.05
"""Of the voltage over which a cell bends: steps of nodes beyond it are not the last ones."""
_LOG2E: Final = 1.4426950408889634
_LN2_HIGH: Final = 6.93147180369123816490e-01
_LN2_LOW: Final = 1.90821492927058770002e-10
_MAGIC: Final = 6755399441055744.0
"""1.5·2^52: adding it rounds to the nearest whole number and leaves that in the last bits."""
_LARGEST: Final = 700.0
"""Of an exponent; beyond, e^x is no float64. No solution has such currents."""


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def exponentials(
    x: Array, scale: float, bits: NDArray[np.int64], powers: Array, out: Array
) -> None:
    """e^(scale·x) of LANES numbers, to rounding; ``powers`` is ``bits`` seen as float64.

    2^n·e^f with |f| <= ln(2)/2, whose series to f^12 leaves 2e-16.
    """
    for j in range(LANES):
        z = x[j] * scale
        z = z if z < _LARGEST else _LARGEST
        z = z if z > -_LARGEST else -_LARGEST
        t = z * _LOG2E + _MAGIC
        n = t - _MAGIC
        f = z - n * _LN2_HIGH
        f = f - n * _LN2_LOW
        s = 1.0 / 39916800.0 + f * (1.0 / 479001600.0)
        s = 1.0 / 3628800.0 + f * s
        s = 1.0 / 362880.0 + f * s
        s = 1.0 / 40320.0 + f * s
        s = 1.0 / 5040.0 + f * s
        s = 1.0 / 720.0 + f * s
        s = 1.0 / 120.0 + f * s
        s = 1.0 / 24.0 + f * s
        s = 1.0 / 6.0 + f * s
        s = 0.5 + f * s
        s = 1.0 + f * s
        out[j] = 1.0 + f * s
        powers[j] = t
    for j in range(LANES):
        bits[j] = (bits[j] + 1023) << 52
    for j in range(LANES):
        out[j] *= powers[j]


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def element(
    kind: float,
    parameters: Array,
    conductance: Array,
    across: Array,
    raised: Array,
    bits: NDArray[np.int64],
    powers: Array,
    current: Array,
    slope: Array,
) -> None:
    """Currents and slopes of two-terminal devices at (K, L) V.

    Args:
        kind: See :mod:`imac_torch.numeric.cell_kinds`.
        parameters: (4,)
        conductance: (K,) S, of memory devices; empty where the device is the same in all cells.
        across: V.
        raised: (L,), overwritten.
        bits: (L,), overwritten.
        powers: The same as float64.
        current: (K, L) A, written.
        slope: (K, L) S, written.
    """
    own = conductance.shape[0] > 0
    v0 = parameters[0]
    inverse = 1.0 / v0
    for k in range(across.shape[0]):
        g = conductance[k] if own else parameters[1]
        at, flows, rises = across[k], current[k], slope[k]
        if kind == OHMIC:
            for j in range(LANES):
                flows[j] = g * at[j]
                rises[j] = g
        elif kind == SINH:
            exponentials(at, inverse, bits, powers, raised)
            half = 0.5 * g
            scale = half * v0
            for j in range(LANES):
                up = raised[j]
                down = 1.0 / up
                flows[j] = scale * (up - down)
                rises[j] = half * (up + down)
        elif kind == DIODE:
            exponentials(at, inverse, bits, powers, raised)
            leak = parameters[2]
            for j in range(LANES):
                up = raised[j]
                flows[j] = (g * v0) * (up - 1.0) + leak * at[j]
                rises[j] = g * up + leak
        else:
            parallel = parameters[1]
            inverse = 1.0 / (v0 * v0)
            for j in range(LANES):
                square = at[j] * at[j] * inverse
                below = parallel + g * square
                factor = g * parallel / below
                inside = g * (1.0 + square) * (1.0 + square)
                inside += (parallel - g) * (1.0 + 3.0 * square)
                flows[j] = at[j] * (1.0 + square) * factor
                rises[j] = factor * inside / below


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def transistor(
    coefficients: Array,
    grid: Array,
    node: Array,
    line: Array,
    buffers: Array,
    current: Array,
    slope: Array,
    back: Array,
    leak: Array,
) -> None:
    """Tabulated transistors from inner nodes to I± lines; straight on outside of the table.

    Args:
        coefficients: (P+2, Q+2, 2), bicubic B-splines of the current into the transistor, and of
            what leaks from its gate into the line besides; over both voltages.
        grid: (6,), see :mod:`imac_torch.kernels.table`.
        node: (K, L) V.
        line: (K, L) V.
        buffers: (10, L), overwritten.
        current: (K, L) A, written.
        slope: (K, L) S, written, by the voltage of the node.
        back: (K, L) S, written, by that of the line with the other sign.
        leak: (K, L) A, written.
    """
    first, second = coefficients.shape[0] - 3, coefficients.shape[1] - 3
    for k in range(node.shape[0]):
        for j in range(LANES):
            i, t, over = locate(node[k, j], grid[0], grid[1], grid[2], first)
            m, p, beside = locate(line[k, j], grid[3], grid[4], grid[5], second)
            a, b = weights(t), weights(p)
            da, db = slopes(t, grid[2]), slopes(p, grid[5])
            c0, c1 = coefficients[i], coefficients[i + 1]
            c2, c3 = coefficients[i + 2], coefficients[i + 3]
            value = by_node = by_line = leaks = 0.0
            for n in range(4):
                at = m + n
                w, x, y, z = c0[at, 0], c1[at, 0], c2[at, 0], c3[at, 0]
                along = a[0] * w + a[1] * x + a[2] * y + a[3] * z
                rise = da[0] * w + da[1] * x + da[2] * y + da[3] * z
                w, x, y, z = c0[at, 1], c1[at, 1], c2[at, 1], c3[at, 1]
                beyond = a[0] * w + a[1] * x + a[2] * y + a[3] * z
                value += b[n] * along
                by_line += db[n] * along
                by_node += b[n] * rise
                leaks += b[n] * beyond
            current[k, j] = value + by_node * over + by_line * beside
            slope[k, j] = by_node
            back[k, j] = -by_line
            leak[k, j] = leaks


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def series(
    cell: Array,
    coefficients: Array,
    grid: Array,
    conductance: Array,
    near: Array,
    far: Array,
    node: Array,
    across: Array,
    buffers: Array,
    bits: NDArray[np.int64],
    powers: Array,
    current: Array,
    slope: Array,
    back: Array,
    into: Array,
    yields: Array,
    behind_current: Array,
    behind_slope: Array,
    size: Array,
) -> None:
    """Memory devices with others in series: Newton steps of the node between them.

    The memory device carries m + m'·du and the other one a + a'·(dv - du); du is eliminated, so
    that the cell is the tangent of both together, wherever the node is. One step is enough where
    it is short, since lines move as well; after a long one there is another.

    Args:
        cell: See :func:`imac_torch.kernels.sweeps.sweep`.
        coefficients: See :func:`imac_torch.kernels.sweeps.sweep`.
        grid: See :func:`imac_torch.kernels.sweeps.sweep`.
        conductance: (K,) S.
        near: (K, L) V, of input lines.
        far: (K, L) V, of the I± line.
        node: (K, L) V, across the memory devices, moved.
        across: (K, L), overwritten.
        buffers: (10, L), overwritten.
        bits: (L,), overwritten.
        powers: The same as float64.
        current: (K, L) A, written.
        slope: (K, L) S, written, by the voltage of input lines.
        back: (K, L) S, written, by that of the I± line with the other sign; the same where the
            access device knows nothing but the voltage across it.
        into: (K, L) A, written, into the I± line.
        yields: (K, L), written: what nodes fall by per voltage of the I± line.
        behind_current: (K, L), overwritten.
        behind_slope: (K, L), overwritten.
        size: (L,) V, of the longest last step, updated.
    """
    columns = node.shape[0]
    absolute = cell[6] == TRANSISTOR
    limit = cell[0]
    for number in range(STEPS):
        element(cell[1], cell[2:6], conductance, node, buffers[0], bits, powers, current, slope)
        for k in range(columns):
            for j in range(LANES):
                across[k, j] = near[k, j] - node[k, j]
        if absolute:
            transistor(
                coefficients, grid, across, far, buffers, behind_current, behind_slope, back, into
            )
        else:
            for k in range(columns):
                for j in range(LANES):
                    across[k, j] -= far[k, j]
            element(
                cell[6],
                cell[7:11],
                conductance[:0],
                across,
                buffers[0],
                bits,
                powers,
                behind_current,
                behind_slope,
            )
        longest = buffers[1]
        longest[:] = 0.0
        for k in range(columns):
            there = 1.0 if conductance[k] > 0.0 else 0.0
            for j in range(LANES):
                inverse = there / (slope[k, j] + behind_slope[k, j])
                step = (behind_current[k, j] - current[k, j]) * inverse
                length = abs(step)
                longest[j] = length if length > longest[j] else longest[j]
                step = step if step < limit else limit
                step = step if step > -limit else -limit
                node[k, j] += step
                yields[k, j] = inverse
                current[k, j] += slope[k, j] * step
        most = 0.0
        for j in range(LANES):
            most = max(most, longest[j])
        if number + 1 == STEPS or not most > SHORT * limit:
            break
    for j in range(LANES):
        size[j] = longest[j] if longest[j] > size[j] else size[j]
    for k in range(columns):
        there = 1.0 if conductance[k] > 0.0 else 0.0
        for j in range(LANES):
            slope[k, j] *= yields[k, j]
        if absolute:
            for j in range(LANES):
                yields[k, j] *= back[k, j]
                back[k, j] *= slope[k, j]
                into[k, j] = current[k, j] + there * into[k, j]
        else:
            for j in range(LANES):
                yields[k, j] *= behind_slope[k, j]
        for j in range(LANES):
            slope[k, j] *= behind_slope[k, j]
