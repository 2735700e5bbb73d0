"""Layers of curved cells in compiled code: one sweep up all rows and one down, for many images.

Images are the innermost dimension, LANES at a time, so that every loop over them is some vector
registers; what a row and its images need stays in the cache.
The algebra is in :mod:`imac_torch.dc.sweeps`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.lines import (
    ALPHA,
    INPUT_SEGMENT,
    NEGATIVE_END,
    NEGATIVE_SHARE,
    OUTPUT_SEGMENT,
    POSITIVE_END,
    POSITIVE_SHARE,
)
from imac_torch.numeric.cell_kinds import DIODE, OHMIC, SINH

Array = NDArray[np.float64]
LANES: Final = 32
"""Images that a sweep works on at once."""

_LOG2E: Final = 1.4426950408889634
_LN2_HIGH: Final = 6.93147180369123816490e-01
_LN2_LOW: Final = 1.90821492927058770002e-10
_MAGIC: Final = 6755399441055744.0
"""1.5·2^52: adding it rounds to the nearest whole number and leaves that in the last bits."""
_LARGEST: Final = 700.0
"""Of an exponent; beyond, e^x is no float64. No solution has such currents."""


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def exponentials(x: Array, count: int, bits: NDArray[np.int64], powers: Array, out: Array) -> None:
    """e^x of the first ``count`` numbers, to rounding; ``powers`` is ``bits`` seen as float64.

    2^n·e^f with |f| <= ln(2)/2, whose series to f^12 leaves 2e-16.
    """
    for k in range(count):
        z = x[k]
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
        out[k] = 1.0 + f * s
        powers[k] = t
    for k in range(count):
        bits[k] = (bits[k] + 1023) << 52
    for k in range(count):
        out[k] *= powers[k]


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def _line(
    into: Array,
    back: Array,
    line: Array,
    segment: float,
    end: float,
    virtual: Array,
    limit: float,
    left: Array,
    sources: Array,
    row: Array,
    size: Array,
    step: Array,
) -> None:
    """One Newton step of an I± line while the input lines stay; see :mod:`imac_torch.dc.sweeps`.

    What is seen to the left of a node is a conductance and a source, and so it is through a
    segment of r Ω: nothing is divided by r, which may be 0, and nothing cancels.

    Args:
        into: (K, L) A of the cells into the line.
        back: (K, L) S, what that falls by per voltage of the line.
        line: (K, L) V, moved.
        segment: Ω.
        end: S, of the last node.
        virtual: (L,) V, behind ``end``.
        limit: V, of the step.
        left: (K, L), overwritten.
        sources: (K, L), overwritten.
        row: (K, L) A, what the cells' currents change by is added.
        size: (L,) V, of the longest step, updated.
        step: (L,), overwritten.
    """
    count = into.shape[0]
    last = count - 1
    for k in range(count):
        for j in range(LANES):
            own = back[k, j]
            driven = into[k, j] + own * line[k, j]
            if k > 0:
                own += left[k - 1, j]
                driven += sources[k - 1, j]
            if k < last:
                share = 1.0 / (1.0 + segment * own)
                left[k, j] = own * share
                sources[k, j] = driven * share
            else:
                sources[k, j] = (driven + end * virtual[j]) / (own + end)
    for j in range(LANES):
        step[j] = abs(sources[last, j] - line[last, j])
    for k in range(last - 1, -1, -1):
        for j in range(LANES):
            voltage = sources[k + 1, j]
            voltage += segment * (sources[k, j] - left[k, j] * voltage)
            sources[k, j] = voltage
            move = abs(voltage - line[k, j])
            step[j] = move if move > step[j] else step[j]
    for j in range(LANES):
        size[j] = step[j] if step[j] > size[j] else size[j]
        step[j] = limit / step[j] if step[j] > limit else 1.0
    for k in range(count):
        for j in range(LANES):
            move = step[j] * (sources[k, j] - line[k, j])
            row[k, j] -= back[k, j] * move
            line[k, j] += move


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def _element(
    kind: float,
    parameters: Array,
    conductance: Array,
    across: Array,
    columns: int,
    raised: Array,
    bits: NDArray[np.int64],
    powers: Array,
    current: Array,
    slope: Array,
) -> None:
    """Currents and slopes of two-terminal devices, (K, L), at (K·L,) V.

    Args:
        kind: See :mod:`imac_torch.numeric.cell_kinds`.
        parameters: (4,)
        conductance: (K,) S, of memory devices; empty where the device is the same in all cells.
        across: V.
        columns: K.
        raised: (K·L,), overwritten.
        bits: (K·L,), overwritten.
        powers: The same as float64.
        current: (K, L) A, written.
        slope: (K, L) S, written.
    """
    own = conductance.shape[0] > 0
    v0 = parameters[0]
    if kind in (SINH, DIODE):
        scale = 1.0 / v0
        for k in range(columns * LANES):
            current_at = across[k] * scale
            raised[k] = current_at
        exponentials(raised, columns * LANES, bits, powers, raised)
    for k in range(columns):
        g = conductance[k] if own else parameters[1]
        base = k * LANES
        if kind == OHMIC:
            for j in range(LANES):
                current[k, j] = g * across[base + j]
                slope[k, j] = g
        elif kind == SINH:
            half = 0.5 * g
            for j in range(LANES):
                up = raised[base + j]
                down = 1.0 / up
                current[k, j] = (half * v0) * (up - down)
                slope[k, j] = half * (up + down)
        elif kind == DIODE:
            leak = parameters[2]
            for j in range(LANES):
                up = raised[base + j]
                current[k, j] = (g * v0) * (up - 1.0) + leak * across[base + j]
                slope[k, j] = g * up + leak
        else:
            parallel = parameters[1]
            inverse = 1.0 / (v0 * v0)
            for j in range(LANES):
                square = across[base + j] * across[base + j] * inverse
                below = parallel + g * square
                factor = g * parallel / below
                inside = g * (1.0 + square) * (1.0 + square)
                inside += (parallel - g) * (1.0 + 3.0 * square)
                current[k, j] = across[base + j] * (1.0 + square) * factor
                slope[k, j] = factor * inside / below


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def _series(
    cell: Array,
    conductance: Array,
    near: Array,
    far: Array,
    node: Array,
    buffers: Array,
    bits: NDArray[np.int64],
    powers: Array,
    current: Array,
    slope: Array,
    behind_current: Array,
    behind_slope: Array,
    size: Array,
) -> None:
    """Memory devices with others in series: one Newton step of the node between them.

    The memory device carries m + m'·du and the other one a + a'·(dv - du); du is eliminated, so
    that the cell is the tangent of both together, wherever the node is.

    Args:
        cell: See :func:`sweep_up`.
        conductance: (K,) S.
        near: (K, L) V, of input lines.
        far: (K, L) V, of the I± line.
        node: (K, L) V, across the memory devices, moved.
        buffers: (2, K·L), overwritten.
        bits: (K·L,), overwritten.
        powers: The same as float64.
        current: (K, L) A, written.
        slope: (K, L) S, written.
        behind_current: (K, L), overwritten.
        behind_slope: (K, L), overwritten.
        size: (L,) V, of the longest step, updated.
    """
    columns = node.shape[0]
    across, nothing = buffers[0], conductance[:0]
    for k in range(columns):
        for j in range(LANES):
            across[k * LANES + j] = node[k, j]
    _element(
        cell[1], cell[2:6], conductance, across, columns, buffers[1], bits, powers, current, slope
    )
    for k in range(columns):
        for j in range(LANES):
            across[k * LANES + j] = near[k, j] - far[k, j] - node[k, j]
    _element(
        cell[6], cell[7:11], nothing, across, columns, buffers[1], bits, powers,
        behind_current, behind_slope,
    )
    limit = cell[0]
    for k in range(columns):
        g = conductance[k]
        for j in range(LANES):
            together = slope[k, j] + behind_slope[k, j]
            inverse = 1.0 / together if g > 0.0 else 0.0
            step = (behind_current[k, j] - current[k, j]) * inverse
            length = abs(step)
            size[j] = length if length > size[j] else size[j]
            step = limit if step > limit else step
            step = step if step > -limit else -limit
            node[k, j] += step
            current[k, j] += slope[k, j] * step
            slope[k, j] *= behind_slope[k, j] * inverse


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def sweep_up(
    first: int,
    last: int,
    active: NDArray[np.bool_],
    conductance: Array,
    scalars: Array,
    cell: Array,
    driven: Array,
    inputs: Array,
    lines: Array,
    nodes: Array,
    given: Array,
    behind: Array,
    stars: Array,
    hubs: Array,
    ports: Array,
    ends: Array,
    sizes: Array,
) -> None:
    """Cells, I± lines and what flows into input lines, from the last row to the first.

    Args:
        first: Tasks first..last are done, one for a block and LANES images.
        last: See ``first``.
        active: (G,) images that are worked on; others stay as they are.
        conductance: (2, N, R, K) S of memory devices at small voltages.
        scalars: See :mod:`imac_torch.kernels.lines`.
        cell: (11,) V that no step is longer than; kind and four parameters of memory devices, and
            of what is in series with them. Only the first where currents are given.
        driven: (N, G, K, L) V, on the input lines.
        inputs: (N, G, R, K, L) V, at the cells.
        lines: (2, N, G, R, K, L) V, of I± lines, moved.
        nodes: (2, N, G, R, K, L) V, across memory devices that others are in series with, moved;
            empty: nothing is in series.
        given: (n, 2, N, G, R, K, L) currents and slopes of cells where this kernel has none:
            A out of the input line, S by its voltage, S by the other line's with the other sign,
            A into the other line. n is 4, or 2: the others are the same; else empty.
        behind: (N, G, R, K, L) V, written: what input lines move by, but for what moves before.
        stars: (N, G, R, K, L) S, written.
        hubs: (N, G, R, L) 1/S, written.
        ports: (N, G, K, L) A, written: into input lines while what drives them stays.
        ends: (2, N, G, R, L) V, written.
        sizes: (N, G, L) V, written: longest step.
    """
    groups, rows, columns = inputs.shape[1:4]
    is_given, is_series = given.shape[0] > 0, nodes.shape[0] > 0
    apart = given.shape[0] > 2
    limit = cell[0]
    resistance, segment = scalars[OUTPUT_SEGMENT], scalars[INPUT_SEGMENT]
    along = resistance * columns / 3.0
    near_plus = 1.0 / (1.0 / scalars[POSITIVE_END] + along)
    near_minus = 1.0 / (1.0 / scalars[NEGATIVE_END] + along)
    coupling = near_minus * scalars[ALPHA] * scalars[POSITIVE_SHARE]
    count = columns * LANES
    bits = np.empty(count, np.int64)
    powers = bits.view(np.float64)
    buffers = np.empty((2, count))
    shape = (columns, LANES)
    own_current, own_slope = np.empty(shape), np.empty(shape)
    other_current, other_slope = np.empty(shape), np.empty(shape)
    left, sources = np.empty(shape), np.empty(shape)
    row, total, own = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    virtual, nothing, step = np.empty(LANES), np.zeros(LANES), np.zeros(LANES)
    sums, falls = np.empty((2, LANES)), np.empty((2, LANES))
    whole, kept, product, hub = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    for task in range(first, last):
        b, q = task // groups, task % groups
        if not active[q]:
            continue
        total[:] = 0.0
        whole[:] = 0.0
        hub[:] = 0.0
        size = sizes[b, q]
        size[:] = 0.0
        for r in range(rows - 1, -1, -1):
            here = inputs[b, q, r]
            row[:] = 0.0
            own[:] = 0.0
            for side in range(2):
                line = lines[side, b, q, r]
                current, slope = own_current, own_slope
                back, into = slope, current
                if is_given:
                    current, slope = given[0, side, b, q, r], given[1, side, b, q, r]
                    back, into = slope, current
                    if apart:
                        back, into = given[2, side, b, q, r], given[3, side, b, q, r]
                elif is_series:
                    _series(
                        cell, conductance[side, b, r], here, line, nodes[side, b, q, r], buffers,
                        bits, powers, current, slope, other_current, other_slope, size,
                    )
                else:
                    for k in range(columns):
                        for j in range(LANES):
                            buffers[0, k * LANES + j] = here[k, j] - line[k, j]
                    _element(
                        cell[1], cell[2:6], conductance[side, b, r], buffers[0], columns,
                        buffers[1], bits, powers, current, slope,
                    )
                for j in range(LANES):
                    sums[side, j] = 0.0
                    falls[side, j] = 0.0
                for k in range(columns):
                    for j in range(LANES):
                        row[k, j] += current[k, j]
                        own[k, j] += slope[k, j]
                        sums[side, j] += slope[k, j]
                        falls[side, j] += back[k, j]
                end = scalars[POSITIVE_END] if side == 0 else scalars[NEGATIVE_END]
                _line(
                    into, back, line, resistance, end, nothing if side == 0 else virtual,
                    limit, left, sources, row, size, step,
                )
                share = scalars[POSITIVE_SHARE] if side == 0 else scalars[NEGATIVE_SHARE]
                for j in range(LANES):
                    value = share * line[columns - 1, j]
                    if side == 0:
                        virtual[j] = scalars[ALPHA] * value
                    else:
                        value += (1.0 - share) * virtual[j]
                    ends[side, b, q, r, j] = value
            star = stars[b, q, r]
            for j in range(LANES):
                plus, minus = sums[0, j], sums[1, j]
                # What flows into this row and those behind with all columns at 1 V.
                kept[j] = whole[j] - hub[j] * whole[j] * whole[j]
                up = plus / (falls[0, j] + near_plus)
                down = (minus + coupling * up) / (falls[1, j] + near_minus)
                kept[j] += plus - falls[0, j] * up + minus - falls[1, j] * down
                whole[j] += plus + minus
            if r + 1 < rows:
                for k in range(columns):
                    for j in range(LANES):
                        own[k, j] += stars[b, q, r + 1, k, j]
            for j in range(LANES):
                lost = whole[j] - kept[j]
                hub[j] = whole[j] * kept[j] / lost if lost > 0.0 else 0.0
                kept[j] = lost
                whole[j] = 0.0
            for k in range(columns):
                for j in range(LANES):
                    y = own[k, j] / (1.0 + segment * own[k, j])
                    star[k, j] = y
                    whole[j] += y
            for j in range(LANES):
                hub[j] = 1.0 / (hub[j] + whole[j]) if kept[j] > 0.0 else 0.0
                hubs[b, q, r, j] = hub[j]
                product[j] = 0.0
            after = behind[b, q, r]
            before = driven[b, q] if r == 0 else inputs[b, q, r - 1]
            for k in range(columns):
                for j in range(LANES):
                    total[k, j] += row[k, j]
                    move = before[k, j] - here[k, j] - segment * total[k, j]
                    after[k, j] = move
                    product[j] += star[k, j] * move
            for j in range(LANES):
                product[j] *= hub[j]
            for k in range(columns):
                for j in range(LANES):
                    total[k, j] += star[k, j] * (after[k, j] - product[j])
        for k in range(columns):
            for j in range(LANES):
                ports[b, q, k, j] = total[k, j]


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def sweep_down(
    first: int,
    last: int,
    active: NDArray[np.bool_],
    segment: float,
    steps: Array,
    behind: Array,
    stars: Array,
    hubs: Array,
    sizes: Array,
) -> None:
    """Steps of the input lines from the first row to the last.

    Args:
        first: Tasks first..last are done, one for a block and LANES images.
        last: See ``first``.
        active: (G,), as of :func:`sweep_up`.
        segment: Ω, of input lines.
        steps: (N, G, K, L) V, of what drives the lines.
        behind: (N, G, R, K, L) V, from :func:`sweep_up`; overwritten by the steps.
        stars: (N, G, R, K, L) S, from :func:`sweep_up`.
        hubs: (N, G, R, L) 1/S, from :func:`sweep_up`.
        sizes: (N, G, L) V, of the longest step, updated.
    """
    groups, rows, columns = behind.shape[1:4]
    moved = np.zeros((columns, LANES))
    product = np.empty(LANES)
    for task in range(first, last):
        b, q = task // groups, task % groups
        if not active[q]:
            continue
        size = sizes[b, q]
        for k in range(columns):
            for j in range(LANES):
                moved[k, j] = steps[b, q, k, j]
        for r in range(rows):
            after, star, hub = behind[b, q, r], stars[b, q, r], hubs[b, q, r]
            product[:] = 0.0
            for k in range(columns):
                for j in range(LANES):
                    moved[k, j] += after[k, j]
                    product[j] += star[k, j] * moved[k, j]
            for j in range(LANES):
                product[j] *= hub[j]
            for k in range(columns):
                for j in range(LANES):
                    flow = star[k, j] * (moved[k, j] - product[j])
                    move = moved[k, j] - segment * flow
                    moved[k, j] = move
                    after[k, j] = move
                    length = abs(move)
                    size[j] = length if length > size[j] else size[j]
