"""Rows of curved cells in compiled code: one sweep up a block, and one down, for LANES images.

The algebra is in :mod:`imac_torch.dc.sweeps`; devices are in :mod:`imac_torch.kernels.elements`.
What a row and its images need stays in the cache.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.elements import alone, gated, series
from imac_torch.kernels.lanes import choose, larger, load, same, store
from imac_torch.kernels.lines import (
    ALPHA,
    INPUT_SEGMENT,
    NEGATIVE_END,
    NEGATIVE_SHARE,
    OUTPUT_SEGMENT,
    POSITIVE_END,
    POSITIVE_SHARE,
)
from imac_torch.numeric.cell_kinds import TRANSISTOR

Array = NDArray[np.float64]
WORK: Final = 5
"""Numbers per column and image that a row needs."""


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", _nrt=False)
def line_step(
    flows: Array,
    first: int,
    plane: int,
    apart: bool,
    shunted: bool,
    scalars: Array,
    side: int,
    r: int,
    limit: float,
    lines: Array,
    ends: Array,
    totals: Array,
    work: Array,
) -> None:
    """One Newton step of an I± line while the input lines stay; see :mod:`imac_torch.dc.sweeps`.

    What is seen to the left of a node is a conductance and a source, and so it is through a
    segment of r Ω: nothing is divided by r, which may be 0, and nothing cancels.

    Args:
        flows: (n, ..., K, L): A of cells out of input lines; S by the voltages of these; S by that
            of the line with the other sign; A into the line; S, by which that falls. Fewer
            than 5: see :func:`imac_torch.kernels.sweeps.sweep`.
        first: Where these of the row begin, in columns.
        plane: Columns from one of them to the next.
        apart: Whether there are 4.
        shunted: Whether there are 5.
        scalars: See :mod:`imac_torch.kernels.lines`.
        side: 0: I+, 1: I-.
        r: Row.
        limit: V, of the step.
        lines: (2, R, K, L) V, moved.
        ends: (2, R, L) V, written; those of I+ lines drive the others.
        totals: (2, 4, L), written: sums of S by the voltages of input lines, of the line, of the
            line with what it has besides; V, longest step.
        work: (WORK, K, L): A of cells out of input lines and S by their voltages are written, or
            added to on the second side; what the line moves by is written; the rest is overwritten.
    """
    segment = scalars[OUTPUT_SEGMENT]
    end = scalars[POSITIVE_END] if side == 0 else scalars[NEGATIVE_END]
    share = scalars[POSITIVE_SHARE] if side == 0 else scalars[NEGATIVE_SHARE]
    rows, columns = lines.shape[1], lines.shape[2]
    last, here = columns - 1, (side * rows + r) * columns
    slopes_at = first + plane
    falls_at = first + 2 * plane if apart else slopes_at
    into_at = first + 3 * plane if apart else first
    total_at = first + 4 * plane if shunted else falls_at
    own, left, sources = columns, 2 * columns, 3 * columns
    virtual = same(0.0)
    if side == 1:
        virtual = load(ends, r) * scalars[ALPHA]
    all_near, all_line, all_total = same(0.0), same(0.0), same(0.0)
    seen, source = same(0.0), same(0.0)
    for k in range(columns):
        current, slope = load(flows, first + k), load(flows, slopes_at + k)
        fall, total = load(flows, falls_at + k), load(flows, total_at + k)
        all_near, all_line, all_total = all_near + slope, all_line + fall, all_total + total
        if side == 1:
            current, slope = current + load(work, k), slope + load(work, own + k)
        store(work, k, current)
        store(work, own + k, slope)
        source = total * load(lines, here + k) + load(flows, into_at + k) + source
        seen = total + seen
        if k < last:
            ratio = 1.0 / (seen * segment + 1.0)
            seen = seen * ratio
            source = source * ratio
            store(work, left + k, seen)
            store(work, sources + k, source)
    store(totals, 4 * side, all_near)
    store(totals, 4 * side + 1, all_line)
    store(totals, 4 * side + 2, all_total)
    voltage = (virtual * end + source) / (seen + end)
    store(work, sources + last, voltage)
    step = abs(voltage - load(lines, here + last))
    for k in range(last - 1, -1, -1):
        voltage = voltage + (load(work, sources + k) - load(work, left + k) * voltage) * segment
        store(work, sources + k, voltage)
        step = larger(abs(voltage - load(lines, here + k)), step)
    store(totals, 4 * side + 3, step)
    taken = choose(step, same(limit), limit / step, same(1.0))
    for k in range(columns):
        at = load(lines, here + k)
        move = (load(work, sources + k) - at) * taken
        store(work, k, load(work, k) - load(flows, falls_at + k) * move)
        store(lines, here + k, at + move)
        store(work, sources + k, move)
    value = load(lines, here + last) * share
    store(ends, side * rows + r, virtual * (1.0 - share) + value)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", _nrt=False)
def block_up(
    conductance: Array,
    scalars: Array,
    cell: Array,
    coefficients: Array,
    grid: Array,
    driven: Array,
    inputs: Array,
    lines: Array,
    nodes: Array,
    given: Array,
    behind: Array,
    stars: Array,
    hubs: Array,
    port: Array,
    ends: Array,
    sizes: Array,
    flows: Array,
    work: Array,
    points: Array,
    totals: Array,
) -> None:
    """One block and LANES images of :func:`imac_torch.kernels.sweeps.sweep`.

    Args:
        conductance: (2, R, K)
        scalars: See :func:`imac_torch.kernels.sweeps.sweep`, and the rest likewise, without
            blocks and groups.
        cell: (11,)
        coefficients: (P+2, Q+2, 2)
        grid: (6,)
        driven: (K, L)
        inputs: (R, K, L)
        lines: (2, R, K, L)
        nodes: (2, R, K, L)
        given: (n, 2, R, K, L)
        behind: (R, K, L)
        stars: (R, K, L)
        hubs: (R, L)
        port: (K, L)
        ends: (2, R, L)
        sizes: (L,)
        flows: (5, 1, 1, K, L), overwritten.
        work: (WORK, K, L), overwritten.
        points: (POINTS, L), overwritten.
        totals: (2, 4, L), overwritten.
    """
    rows, columns = inputs.shape[0], inputs.shape[1]
    is_given, is_series = given.shape[0] > 0, nodes.shape[1] > 0
    is_gated = is_series and cell[6] == TRANSISTOR
    resistance, segment = scalars[OUTPUT_SEGMENT], scalars[INPUT_SEGMENT]
    along = resistance * columns / 3.0
    near_plus = 1.0 / (1.0 / scalars[POSITIVE_END] + along)
    near_minus = 1.0 / (1.0 / scalars[NEGATIVE_END] + along)
    coupling = near_minus * scalars[ALPHA] * scalars[POSITIVE_SHARE]
    nothing = same(0.0)
    whole, hub, size = nothing, nothing, nothing
    for k in range(columns):
        store(port, k, nothing)
    for r in range(rows - 1, -1, -1):
        for side in range(2):
            here = (side * rows + r) * columns
            if is_given:
                line_step(
                    given, here, 2 * rows * columns, given.shape[0] > 2, given.shape[0] > 4,
                    scalars, side, r, cell[0], lines, ends, totals, work,
                )  # fmt: skip
            else:
                if is_gated:
                    gated(
                        cell, conductance, side, r, inputs, lines, nodes, flows, work, sizes,
                        coefficients, grid, points,
                    )  # fmt: skip
                elif is_series:
                    series(
                        cell, conductance, side, r, inputs, lines, nodes, flows, work, sizes
                    )
                else:
                    alone(cell, conductance, side, r, inputs, lines, flows)
                line_step(
                    flows, 0, columns, is_gated, False, scalars, side, r, cell[0], lines, ends,
                    totals, work,
                )  # fmt: skip
            size = larger(load(totals, 4 * side + 3), size)
            if is_series:
                size = larger(load(sizes, 0), size)
                for k in range(columns):
                    node = load(nodes, here + k)
                    move = load(work, 3 * columns + k)
                    store(nodes, here + k, node - load(work, 4 * columns + k) * move)
        plus, minus = load(totals, 0), load(totals, 4)
        # What flows into this row and those behind with all columns at 1 V.
        kept = whole - hub * whole * whole
        up, down = plus, minus
        if given.shape[0] > 4:  # what input lines have besides does not reach the others
            up, down = load(totals, 1), load(totals, 5)
        up = up / (load(totals, 2) + near_plus)
        down = (down + up * coupling) / (load(totals, 6) + near_minus)
        kept = kept + (plus - load(totals, 1) * up) + (minus - load(totals, 5) * down)
        whole = whole + (plus + minus)
        lost = whole - kept
        grounded = choose(lost, nothing, whole * kept / lost, nothing)
        star, further = r * columns, (r + 1) * columns
        whole, product = nothing, nothing
        for k in range(columns):
            e = load(work, columns + k)
            if r + 1 < rows:
                e = e + load(stars, further + k)
            y = e / (e * segment + 1.0)
            store(stars, star + k, y)
            whole = whole + y
            total = load(port, k) + load(work, k)
            store(port, k, total)
            before = load(driven, k) if r == 0 else load(inputs, star - columns + k)
            move = before - load(inputs, star + k) - total * segment
            store(behind, star + k, move)
            product = product + y * move
        hub = choose(lost, nothing, 1.0 / (grounded + whole), nothing)
        store(hubs, r, hub)
        product = product * hub
        for k in range(columns):
            move = load(behind, star + k) - product
            store(port, k, load(port, k) + load(stars, star + k) * move)
    store(sizes, 0, size)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", _nrt=False)
def block_down(
    segment: float,
    moved: Array,
    behind: Array,
    stars: Array,
    hubs: Array,
    sizes: Array,
) -> None:
    """One block and LANES images of :func:`imac_torch.kernels.sweeps.sweep_down`.

    Args:
        segment: Ω.
        moved: (K, L) V, of what drives the lines; overwritten.
        behind: (R, K, L), overwritten by the steps.
        stars: (R, K, L)
        hubs: (R, L)
        sizes: (L,) V, updated.
    """
    rows, columns = behind.shape[0], behind.shape[1]
    size = load(sizes, 0)
    for r in range(rows):
        here = r * columns
        product = same(0.0)
        for k in range(columns):
            move = load(moved, k) + load(behind, here + k)
            store(moved, k, move)
            product = product + load(stars, here + k) * move
        product = product * load(hubs, r)
        for k in range(columns):
            move = load(moved, k)
            move = move - load(stars, here + k) * (move - product) * segment
            store(moved, k, move)
            store(behind, here + k, move)
            size = larger(abs(move), size)
    store(sizes, 0, size)
