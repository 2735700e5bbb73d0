"""Devices of curved cells in compiled code: currents and slopes for LANES images at once."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.lanes import (
    LANES,
    Lanes,
    beyond,
    exponential,
    larger,
    load,
    nearest,
    same,
    smaller,
    store,
)
from imac_torch.kernels.patch import bicubic_patch
from imac_torch.numeric.cell_kinds import DIODE, OHMIC, SINH

Array = NDArray[np.float64]
Known = tuple[float, float, float, float, float]
"""Of a device: its kind, first parameter and 1 by that, second and third one."""

POINTS: Final = 18
"""Numbers per image that a look-up needs: two voltages, and these."""
_SPLINES: Final = 2
_PLACE: Final = 10
_CORNER: Final = 11
FOUND: Final = 12

STEPS: Final = 8
"""Of the node between two devices while lines stay."""
SHORT: Final = 0.05
"""Of the voltage over which a cell bends: steps of nodes beyond it are not the last ones."""


@njit(nogil=True, error_model="numpy", forceinline=True)
def known_of(cell: Array, first: int) -> Known:
    """A device whose kind and parameters begin there, see :mod:`imac_torch.numeric.cell_kinds`."""
    v0 = cell[first + 1]
    return cell[first], v0, 1.0 / v0, cell[first + 2], cell[first + 3]


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)
def element(device: Known, g: float, across: Lanes) -> tuple[Lanes, Lanes]:
    """A and S of a two-terminal device of g S at V."""
    kind, v0, inverse, parallel, leak = device
    if kind == OHMIC:
        return across * g, same(g)
    if kind == SINH:
        up = exponential(across * inverse)
        down = 1.0 / up
        half = 0.5 * g
        return (up - down) * (half * v0), (up + down) * half
    if kind == DIODE:
        up = exponential(across * inverse)
        return (up - 1.0) * (g * v0) + across * leak, up * g + leak
    square = across * across * (inverse * inverse)
    below = 1.0 / (square * g + parallel)
    more = square + 1.0
    inside = more * more * g + (square * 3.0 + 1.0) * (parallel - g)
    factor = below * (g * parallel)
    return across * more * factor, factor * inside * below


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)
def _locate(at: Lanes, low: float, high: float, inverse_step: float, cells: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Cells of a grid, places in them from 0 to 1, and V outside of the grid.

    Which of two cells a place between them belongs to does not matter: splines are smooth.
    """
    within = smaller(larger(at, same(low)), same(high))
    scaled = (within - low) * inverse_step
    cell = smaller(nearest(scaled - 0.5), same(cells - 1.0))
    return cell, scaled - cell, at - within


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", _nrt=False)
def transistor(coefficients: Array, grid: Array, points: Array) -> None:
    """Tabulated transistors from inner nodes to I± lines; straight on outside of the table.

    Args:
        coefficients: (P+2, Q+2, 2), bicubic B-splines of the current into the transistor, and of
            what leaks from its gate into the line besides; over both voltages.
        grid: (6,), see :mod:`imac_torch.kernels.table`.
        points: (POINTS, L): V of nodes and of lines; of the former, splines and their slopes, of
            the latter, places in cells; corners of patches; written: A, S by the voltage of the
            node, S by that of the line with the other sign; A that leaks, and its slopes.
    """
    columns = coefficients.shape[1]
    cell, t, over = _locate(load(points, 0), grid[0], grid[1], grid[2], coefficients.shape[0] - 3)
    second, place, beside = _locate(load(points, 1), grid[3], grid[4], grid[5], columns - 3)
    s, half = 1.0 - t, 0.5 * grid[2]
    store(points, _SPLINES, s * s * s * (1.0 / 6.0))
    store(points, _SPLINES + 1, (t * 0.5 - 1.0) * t * t + 2.0 / 3.0)
    store(points, _SPLINES + 2, (s * 0.5 - 1.0) * s * s + 2.0 / 3.0)
    store(points, _SPLINES + 3, t * t * t * (1.0 / 6.0))
    store(points, _SPLINES + 4, -s * s * half)
    store(points, _SPLINES + 5, (t * 3.0 - 4.0) * t * half)
    store(points, _SPLINES + 6, (4.0 - s * 3.0) * s * half)
    store(points, _SPLINES + 7, t * t * half)
    store(points, _PLACE, place)
    store(points, _CORNER, (cell * float(columns) + second) * 2.0)
    for j in range(LANES):
        bicubic_patch(
            coefficients, np.uint64(points[_CORNER, j]), np.uint64(2 * columns), points,
            np.uint64(_PLACE * LANES + j), np.uint64(_SPLINES * LANES + j),
            np.uint64(FOUND * LANES + j), np.uint64(LANES),
        )  # fmt: skip
    by_node, by_line = load(points, FOUND + 1), load(points, FOUND + 2) * grid[5]
    store(points, FOUND, load(points, FOUND) + by_node * over + by_line * beside)
    store(points, FOUND + 2, by_line * -1.0)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)
def shortened(step: Lanes, limit: float) -> Lanes:
    """V, of a step that is no longer than the limit."""
    return smaller(larger(step, same(-limit)), same(limit))


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", _nrt=False)
def alone(
    cell: Array,
    conductance: Array,
    side: int,
    r: int,
    inputs: Array,
    lines: Array,
    flows: Array,
) -> None:
    """A row of memory devices with nothing in series.

    Args:
        cell: See :func:`imac_torch.kernels.sweeps.sweep`.
        conductance: (2, R, K) S.
        side: 0: I+, 1: I-.
        r: Row.
        inputs: (R, K, L) V.
        lines: (2, R, K, L) V.
        flows: (5, 1, 1, K, L), written: A; S.
    """
    memory = known_of(cell, 1)
    rows, columns = inputs.shape[0], inputs.shape[1]
    near, far = r * columns, (side * rows + r) * columns
    for k in range(columns):
        across = load(inputs, near + k) - load(lines, far + k)
        current, slope = element(memory, conductance[side, r, k], across)
        store(flows, k, current)
        store(flows, columns + k, slope)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", _nrt=False)
def series(
    cell: Array,
    conductance: Array,
    side: int,
    r: int,
    inputs: Array,
    lines: Array,
    nodes: Array,
    flows: Array,
    work: Array,
    longest: Array,
) -> None:
    """A row of memory devices with others in series: Newton steps of the nodes between them.

    The memory device carries m + m'·du and the other one a + a'·(dv - du); du is eliminated, so
    that the cell is the tangent of both together, wherever the node is. One step is enough where
    it is short, since lines move as well; after a long one there is another.

    Args:
        cell: See :func:`imac_torch.kernels.sweeps.sweep`.
        conductance: (2, R, K) S.
        side: 0: I+, 1: I-.
        r: Row.
        inputs: (R, K, L) V.
        lines: (2, R, K, L) V.
        nodes: (2, R, K, L) V, across memory devices, moved.
        flows: (5, 1, 1, K, L), written: A; S.
        work: (5, K, L): what nodes fall by per voltage of the I± line is written to the last.
        longest: (L,) V, of steps, written.
    """
    memory, access = known_of(cell, 1), known_of(cell, 6)
    limit = cell[0]
    rows, columns = inputs.shape[0], inputs.shape[1]
    near, far = r * columns, (side * rows + r) * columns
    size = same(0.0)
    for k in range(columns):
        g = conductance[side, r, k]
        there = 1.0 if g > 0.0 else 0.0
        across, node = load(inputs, near + k) - load(lines, far + k), load(nodes, far + k)
        number = 0
        while True:
            current, slope = element(memory, g, node)
            passed, rises = element(access, access[3], across - node)
            inverse = there / (slope + rises)
            step = (passed - current) * inverse
            number += 1
            if number == STEPS or not beyond(abs(step), SHORT * limit):
                break
            node = node + shortened(step, limit)
        size = larger(abs(step), size)
        step = shortened(step, limit)
        share = inverse * rises
        store(nodes, far + k, node + step)
        store(flows, k, slope * step + current)
        store(flows, columns + k, slope * share)
        store(work, 4 * columns + k, share)
    store(longest, 0, size)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", _nrt=False)
def gated(
    cell: Array,
    conductance: Array,
    side: int,
    r: int,
    inputs: Array,
    lines: Array,
    nodes: Array,
    flows: Array,
    work: Array,
    longest: Array,
    coefficients: Array,
    grid: Array,
    points: Array,
) -> None:
    """A row of memory devices with tabulated transistors in series; else as :func:`series`.

    Args:
        cell: See :func:`series`, and the rest likewise.
        conductance: (2, R, K)
        side: 0 or 1.
        r: Row.
        inputs: (R, K, L)
        lines: (2, R, K, L)
        nodes: (2, R, K, L)
        flows: (5, 1, 1, K, L), written: A; S by the voltage of the input line, and of the I± line
            with the other sign; A into the I± line.
        work: (5, K, L)
        longest: (L,)
        coefficients: See :func:`transistor`.
        grid: Likewise.
        points: (POINTS, L), overwritten.
    """
    memory, limit = known_of(cell, 1), cell[0]
    rows, columns = inputs.shape[0], inputs.shape[1]
    near, far = r * columns, (side * rows + r) * columns
    size = same(0.0)
    for k in range(columns):
        g = conductance[side, r, k]
        there = 1.0 if g > 0.0 else 0.0
        begin, node = load(inputs, near + k), load(nodes, far + k)
        store(points, 1, load(lines, far + k))
        number = 0
        while True:
            current, slope = element(memory, g, node)
            store(points, 0, begin - node)
            transistor(coefficients, grid, points)
            inverse = there / (slope + load(points, FOUND + 1))
            step = (load(points, FOUND) - current) * inverse
            number += 1
            if number == STEPS or not beyond(abs(step), SHORT * limit):
                break
            node = node + shortened(step, limit)
        size = larger(abs(step), size)
        step = shortened(step, limit)
        share, falls = slope * inverse, load(points, FOUND + 2)
        current = slope * step + current
        store(nodes, far + k, node + step)
        store(flows, k, current)
        store(flows, columns + k, share * load(points, FOUND + 1))
        store(flows, 2 * columns + k, share * falls)
        store(flows, 3 * columns + k, load(points, FOUND + 3) * there + current)
        store(work, 4 * columns + k, inverse * falls)
    store(longest, 0, size)
