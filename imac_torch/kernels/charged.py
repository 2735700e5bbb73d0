"""Layers of curved cells with capacitors in a stage of a time step, in compiled code.

What :mod:`imac_torch.transient.charged` says in torch for all kinds is here for those that
:mod:`imac_torch.kernels.elements` knows, with all sweeps of a block one after the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.cells import OF_LANES, WORK, block_down, block_up
from imac_torch.kernels.compiled import njit
from imac_torch.kernels.elements import LANES, SHORT, STEPS, element, transistor
from imac_torch.kernels.lines import INPUT_SEGMENT
from imac_torch.kernels.sweeps import left_over
from imac_torch.numeric.cell_kinds import TRANSISTOR

Array = NDArray[np.float64]


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def companions(
    conductance: Array,
    cell: Array,
    coefficients: Array,
    grid: Array,
    held: Array,
    wire: Array,
    shunt: Array,
    near: Array,
    line: Array,
    inner: Array,
    past_near: Array,
    past_line: Array,
    past_inner: Array,
    given: Array,
    size: Array,
    work: Array,
    buffers: Array,
    bits: NDArray[np.int64],
    powers: Array,
) -> None:
    """A row of one side: currents and slopes of cells and of the capacitors at their nodes.

    Args:
        conductance: (K,) S.
        cell: See :func:`imac_torch.kernels.sweeps.sweep`.
        coefficients: See :func:`imac_torch.kernels.sweeps.sweep`.
        grid: See :func:`imac_torch.kernels.sweeps.sweep`.
        held: (3,) S, σ times the capacitances of memory and access devices and of inner nodes.
        wire: (K,) S, likewise of half an input line.
        shunt: (K,) S, likewise of the I± line.
        near: (K, L) V, of input lines.
        line: (K, L) V.
        inner: (K, L) V, moved; no columns: there are none.
        past_near: (K, L) A, histories of the charges.
        past_line: (K, L) A.
        past_inner: (K, L) A.
        given: (5, K, L), written, see :func:`imac_torch.kernels.sweeps.sweep`.
        size: (L,) V, of the longest step of inner nodes, updated.
        work: (8, K, L), overwritten.
        buffers: (10, L), overwritten.
        bits: (L,), overwritten.
        powers: The same as float64.
    """
    columns = near.shape[0]
    current, slope, across = work[0], work[1], work[2]
    if inner.shape[0] == 0:
        for k in range(columns):
            for j in range(LANES):
                across[k, j] = near[k, j] - line[k, j]
        element(
            cell[1], cell[2:6], conductance, across, buffers[0], bits, powers, current, slope
        )
        for k in range(columns):
            through = held[0] if conductance[k] > 0.0 else 0.0
            for j in range(LANES):
                flow = current[k, j] + through * across[k, j]
                back = slope[k, j] + through
                given[0, k, j] = flow + wire[k] * near[k, j] - 0.5 * past_near[k, j]
                given[1, k, j] = back + wire[k]
                given[2, k, j] = back
                given[3, k, j] = flow - shunt[k] * line[k, j] + past_line[k, j]
                given[4, k, j] = back + shunt[k]
        return
    absolute = cell[6] == TRANSISTOR
    limit = cell[0]
    passed, rises, falls, leak = work[3], work[4], work[5], work[6]
    steps, longest = work[7], buffers[1]
    if not absolute:
        leak[:] = 0.0
    for number in range(STEPS):
        for k in range(columns):
            for j in range(LANES):
                across[k, j] = near[k, j] - inner[k, j]
        element(
            cell[1], cell[2:6], conductance, across, buffers[0], bits, powers, current, slope
        )
        if absolute:
            transistor(coefficients, grid, inner, line, buffers, passed, rises, falls, leak)
        else:
            for k in range(columns):
                for j in range(LANES):
                    steps[k, j] = inner[k, j] - line[k, j]
            element(
                cell[6], cell[7:11], conductance[:0], steps, buffers[0], bits, powers, passed, rises
            )
            falls = rises
        longest[:] = 0.0
        for k in range(columns):
            there = 1.0 if conductance[k] > 0.0 else 0.0
            for j in range(LANES):
                flow = current[k, j] + held[0] * across[k, j]
                out = passed[k, j] + held[1] * (inner[k, j] - line[k, j]) + held[2] * inner[k, j]
                total = slope[k, j] + rises[k, j] + held[0] + held[1] + held[2]
                step = there * (flow - out + past_inner[k, j]) / total
                length = abs(step)
                longest[j] = length if length > longest[j] else longest[j]
                step = step if step < limit else limit
                step = step if step > -limit else -limit
                steps[k, j] = step
        most = 0.0
        for j in range(LANES):
            most = max(most, longest[j])
        if number + 1 == STEPS or not most > SHORT * limit:
            break
        for k in range(columns):
            for j in range(LANES):
                inner[k, j] += steps[k, j]
    for k in range(columns):
        there = 1.0 if conductance[k] > 0.0 else 0.0
        for j in range(LANES):
            front, behind = slope[k, j] + held[0], rises[k, j] + held[1]
            by_line, node = falls[k, j] + held[1], held[2]
            total = there / (front + behind + node)
            step = steps[k, j]
            flow = there * (current[k, j] + held[0] * across[k, j] - front * step)
            into = passed[k, j] + held[1] * (inner[k, j] - line[k, j]) + behind * step + leak[k, j]
            back = front * by_line * total
            given[0, k, j] = flow + wire[k] * near[k, j] - 0.5 * past_near[k, j]
            given[1, k, j] = front * (behind + node) * total + wire[k]
            given[2, k, j] = back
            given[3, k, j] = there * into - shunt[k] * line[k, j] + past_line[k, j]
            given[4, k, j] = by_line * (front + node) * total + shunt[k]
            inner[k, j] += step
    for j in range(LANES):
        size[j] = longest[j] if longest[j] > size[j] else size[j]


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def stage(
    first: int,
    last: int,
    conductance: Array,
    scalars: Array,
    cell: Array,
    coefficients: Array,
    grid: Array,
    held: Array,
    wire: Array,
    shunt: Array,
    driven: Array,
    inputs: Array,
    lines: Array,
    inner: Array,
    past_inputs: Array,
    past_lines: Array,
    past_inner: Array,
    behind: Array,
    stars: Array,
    hubs: Array,
    ports: Array,
    ends: Array,
    errors: Array,
    limit: int,
    tolerance: float,
) -> None:
    """Sweeps up and down where sources hold the input lines.

    Args:
        first: Tasks first..last are done, one for a block and LANES images.
        last: See ``first``.
        conductance: (N, 2, R, K) S.
        scalars: See :mod:`imac_torch.kernels.lines`.
        cell: (11,), see :func:`imac_torch.kernels.sweeps.sweep`.
        coefficients: Likewise.
        grid: Likewise.
        held: (3,) S, see :func:`companions`.
        wire: (N, R, K) S.
        shunt: (N, 2, R, K) S.
        driven: (N, G, K, L) V, on the input lines.
        inputs: (N, G, R, K, L) V, moved.
        lines: (N, G, 2, R, K, L) V, moved.
        inner: (N, G, 2, R, K, L) V, moved; without rows: there are none.
        past_inputs: (N, G, R, K, L) A.
        past_lines: (N, G, 2, R, K, L) A.
        past_inner: (N, G, 2, R, K, L) A.
        behind: (N, G, R, K, L) V, written.
        stars: (N, G, R, K, L) S, written.
        hubs: (N, G, R, L) 1/S, written.
        ports: (N, G, K, L) A, written: into input lines.
        ends: (N, G, 2, R, L) V, written.
        errors: (N, G, L) V, written: what is left.
        limit: Of sweeps.
        tolerance: V, of what is left.
    """
    groups, rows, columns = inputs.shape[1:4]
    in_series = inner.shape[3] > 0
    given = np.empty((5, 2, rows, columns, LANES))
    empty = np.empty((2, 0, columns, LANES))
    none = np.empty((0, LANES))
    work, lanes = np.empty((WORK, columns, LANES)), np.empty((OF_LANES, LANES))
    own = np.empty((8, columns, LANES))
    bits = np.empty(LANES, np.int64)
    powers = bits.view(np.float64)
    size, inner_size = np.empty(LANES), np.empty(LANES)
    before, rates, moved = np.empty(LANES), np.empty(LANES), np.empty((columns, LANES))
    row_given = np.empty((5, columns, LANES))
    for task in range(first, last):
        b, q = task // groups, task % groups
        here, line, error = inputs[b, q], lines[b, q], errors[b, q]
        after, star, hub, port = behind[b, q], stars[b, q], hubs[b, q], ports[b, q]
        before[:] = np.inf
        rates[:] = 1.0
        for _ in range(limit):
            inner_size[:] = 0.0
            for side in range(2):
                for r in range(rows):
                    companions(
                        conductance[b, side, r], cell, coefficients, grid, held, wire[b, r],
                        shunt[b, side, r], here[r], line[side, r],
                        inner[b, q, side, r] if in_series else none, past_inputs[b, q, r],
                        past_lines[b, q, side, r], past_inner[b, q, side, r] if in_series else none,
                        row_given, inner_size, own, lanes[:10], bits, powers,
                    )
                    given[:, side, r] = row_given
            block_up(
                conductance[b], scalars, cell, coefficients, grid, driven[b, q], here, line,
                empty, given, after, star, hub, port, ends[b, q], size, work, lanes, bits, powers,
            )
            moved[:] = 0.0
            block_down(scalars[INPUT_SEGMENT], moved, lanes[10], after, star, hub, size)
            left = False
            for j in range(LANES):
                size[j] = inner_size[j] if inner_size[j] > size[j] else size[j]
                known = True
                for k in range(columns):
                    known = known and np.isfinite(port[k, j])
                size[j] = size[j] if known else np.nan
                error[j], rates[j] = left_over(size[j], before[j], rates[j])
                before[j] = size[j]
                share = cell[0] / size[j] if size[j] > cell[0] else 1.0
                left = left or error[j] > tolerance
                for r in range(rows):
                    for k in range(columns):
                        here[r, k, j] += share * after[r, k, j]
            if not left:
                break
