"""Rows of curved cells in compiled code: one sweep up a block, and one down, for LANES images.

The algebra is in :mod:`imac_torch.dc.sweeps`; devices are in :mod:`imac_torch.kernels.elements`.
What a row and its images need stays in the cache.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.elements import LANES, element, series
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
WORK: Final = 11
"""Numbers per column and image that a row needs."""
OF_LANES: Final = 26
"""Numbers per image that it needs."""


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def line_step(
    into: Array,
    back: Array,
    falls: Array,
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
        back: (K, L) S, what flows out of input lines falls by that per voltage of the line.
        falls: (K, L) S, what flows into the line, likewise; the same, but for shunts.
        line: (K, L) V, moved.
        segment: Ω.
        end: S, of the last node.
        virtual: (L,) V, behind ``end``.
        limit: V, of the step.
        left: (K, L), overwritten.
        sources: (K, L) V, written: what the line moves by.
        row: (K, L) A, what the cells' currents change by is added.
        size: (L,) V, of the longest step, updated.
        step: (L,), overwritten.
    """
    count = into.shape[0]
    last = count - 1
    for k in range(count):
        for j in range(LANES):
            own = falls[k, j]
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
            sources[k, j] = move


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
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
    size: Array,
    work: Array,
    lanes: Array,
    bits: NDArray[np.int64],
    powers: Array,
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
        size: (L,)
        work: (WORK, K, L), overwritten.
        lanes: (OF_LANES, L), overwritten.
        bits: (L,), overwritten.
        powers: The same as float64.
    """
    rows, columns = inputs.shape[:2]
    is_given, is_series = given.shape[0] > 0, nodes.shape[1] > 0
    apart = given.shape[0] > 2 or (is_series and cell[6] == TRANSISTOR)
    resistance, segment = scalars[OUTPUT_SEGMENT], scalars[INPUT_SEGMENT]
    along = resistance * columns / 3.0
    near_plus = 1.0 / (1.0 / scalars[POSITIVE_END] + along)
    near_minus = 1.0 / (1.0 / scalars[NEGATIVE_END] + along)
    coupling = near_minus * scalars[ALPHA] * scalars[POSITIVE_SHARE]
    across, own_current, own_slope, own_back, own_into = work[0], work[1], work[2], work[3], work[4]
    left, sources, row, own, yields = work[5], work[6], work[7], work[8], work[9]
    buffers = lanes[:10]
    virtual, nothing, step, whole, kept = lanes[10], lanes[11], lanes[12], lanes[13], lanes[14]
    product, hub, sums, falls = lanes[15], lanes[16], lanes[17:19], lanes[19:21]
    shunted = lanes[24:26] if given.shape[0] > 4 else falls
    port[:] = 0.0
    nothing[:] = 0.0
    whole[:] = 0.0
    hub[:] = 0.0
    size[:] = 0.0
    for r in range(rows - 1, -1, -1):
        here = inputs[r]
        row[:] = 0.0
        own[:] = 0.0
        for side in range(2):
            line = lines[side, r]
            current, slope = own_current, own_slope
            back, into = slope, current
            if is_given:
                current, slope = given[0, side, r], given[1, side, r]
                back, into = slope, current
                if apart:
                    back, into = given[2, side, r], given[3, side, r]
            elif is_series:
                series(
                    cell,
                    coefficients,
                    grid,
                    conductance[side, r],
                    here,
                    line,
                    nodes[side, r],
                    across,
                    buffers,
                    bits,
                    powers,
                    current,
                    slope,
                    own_back,
                    own_into,
                    yields,
                    left,
                    sources,
                    size,
                )
                if apart:
                    back, into = own_back, own_into
            else:
                for k in range(columns):
                    for j in range(LANES):
                        across[k, j] = here[k, j] - line[k, j]
                element(
                    cell[1],
                    cell[2:6],
                    conductance[side, r],
                    across,
                    buffers[0],
                    bits,
                    powers,
                    current,
                    slope,
                )
            for j in range(LANES):
                sums[side, j] = 0.0
                falls[side, j] = 0.0
            for k in range(columns):
                for j in range(LANES):
                    row[k, j] += current[k, j]
                    own[k, j] += slope[k, j]
                for j in range(LANES):
                    sums[side, j] += slope[k, j]
                    falls[side, j] += back[k, j]
            total = back
            if given.shape[0] > 4:
                total = given[4, side, r]
                for j in range(LANES):
                    shunted[side, j] = 0.0
                for k in range(columns):
                    for j in range(LANES):
                        shunted[side, j] += total[k, j]
            end = scalars[POSITIVE_END] if side == 0 else scalars[NEGATIVE_END]
            line_step(
                into,
                back,
                total,
                line,
                resistance,
                end,
                nothing if side == 0 else virtual,
                cell[0],
                left,
                sources,
                row,
                size,
                step,
            )
            if is_series:
                node = nodes[side, r]
                for k in range(columns):
                    for j in range(LANES):
                        node[k, j] -= yields[k, j] * sources[k, j]
            share = scalars[POSITIVE_SHARE] if side == 0 else scalars[NEGATIVE_SHARE]
            for j in range(LANES):
                value = share * line[columns - 1, j]
                if side == 0:
                    virtual[j] = scalars[ALPHA] * value
                else:
                    value += (1.0 - share) * virtual[j]
                ends[side, r, j] = value
        star = stars[r]
        for j in range(LANES):
            plus, minus = sums[0, j], sums[1, j]
            # What flows into this row and those behind with all columns at 1 V.
            kept[j] = whole[j] - hub[j] * whole[j] * whole[j]
            up, down = plus, minus
            if given.shape[0] > 4:  # what input lines have besides does not reach the others
                up, down = falls[0, j], falls[1, j]
            up = up / (shunted[0, j] + near_plus)
            down = (down + coupling * up) / (shunted[1, j] + near_minus)
            kept[j] += plus - falls[0, j] * up + minus - falls[1, j] * down
            whole[j] += plus + minus
        if r + 1 < rows:
            for k in range(columns):
                for j in range(LANES):
                    own[k, j] += stars[r + 1, k, j]
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
            hubs[r, j] = hub[j]
            product[j] = 0.0
        after = behind[r]
        before = driven if r == 0 else inputs[r - 1]
        for k in range(columns):
            for j in range(LANES):
                total = port[k, j] + row[k, j]
                port[k, j] = total
                row[k, j] = before[k, j] - here[k, j] - segment * total
            for j in range(LANES):
                product[j] += star[k, j] * row[k, j]
        for j in range(LANES):
            product[j] *= hub[j]
        for k in range(columns):
            for j in range(LANES):
                move = row[k, j]
                after[k, j] = move
                port[k, j] += star[k, j] * (move - product[j])


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def block_down(
    segment: float,
    moved: Array,
    product: Array,
    behind: Array,
    stars: Array,
    hubs: Array,
    size: Array,
) -> None:
    """One block and LANES images of :func:`imac_torch.kernels.sweeps.sweep_down`.

    Args:
        segment: Ω.
        moved: (K, L) V, of what drives the lines; overwritten.
        product: (L,), overwritten.
        behind: (R, K, L), overwritten by the steps.
        stars: (R, K, L)
        hubs: (R, L)
        size: (L,) V, updated.
    """
    rows, columns = behind.shape[:2]
    for r in range(rows):
        after, star, hub = behind[r], stars[r], hubs[r]
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
            for j in range(LANES):
                length = abs(moved[k, j])
                size[j] = length if length > size[j] else size[j]
