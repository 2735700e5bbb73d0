"""Layers of curved cells with capacitors in a stage of a time step, in compiled code.

What :mod:`imac_torch.transient.charged` says in torch for all kinds is here for those that
:mod:`imac_torch.kernels.elements` knows, with all sweeps of a block one after the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.cells import WORK, block_down, block_up
from imac_torch.kernels.compiled import njit
from imac_torch.kernels.elements import (
    FOUND,
    POINTS,
    SHORT,
    STEPS,
    element,
    known_of,
    shortened,
    transistor,
)
from imac_torch.kernels.lanes import LANES, beyond, larger, load, same, store
from imac_torch.kernels.lines import INPUT_SEGMENT
from imac_torch.kernels.sweeps import left_over, move, settle
from imac_torch.numeric.cell_kinds import TRANSISTOR

Array = NDArray[np.float64]


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", _nrt=False)
def companions(
    conductance: Array,
    cell: Array,
    coefficients: Array,
    grid: Array,
    held: Array,
    wire: Array,
    shunt: Array,
    side: int,
    r: int,
    inputs: Array,
    lines: Array,
    inner: Array,
    past_inputs: Array,
    past_lines: Array,
    past_inner: Array,
    given: Array,
    size: Array,
    points: Array,
) -> None:
    """A row of one side: currents and slopes of cells and of the capacitors at their nodes.

    Args:
        conductance: (2, R, K) S.
        cell: See :func:`imac_torch.kernels.sweeps.sweep`.
        coefficients: See :func:`imac_torch.kernels.sweeps.sweep`.
        grid: See :func:`imac_torch.kernels.sweeps.sweep`.
        held: (3,) S, σ times the capacitances of memory and access devices and of inner nodes.
        wire: (R, K) S, likewise of half an input line.
        shunt: (2, R, K) S, likewise of the I± line.
        side: 0: I+, 1: I-.
        r: Row.
        inputs: (R, K, L) V.
        lines: (2, R, K, L) V.
        inner: (2, R, K, L) V, moved; no rows: there are none.
        past_inputs: (R, K, L) A, histories of the charges.
        past_lines: (2, R, K, L) A.
        past_inner: (2, R, K, L) A.
        given: (5, 2, R, K, L), written, see :func:`imac_torch.kernels.sweeps.sweep`.
        size: (L,) V, of the longest step of inner nodes, updated.
        points: (POINTS, L), overwritten.
    """
    rows, columns = inputs.shape[0], inputs.shape[1]
    near, far, plane = r * columns, (side * rows + r) * columns, 2 * rows * columns
    limit, is_series = cell[0], inner.shape[1] > 0
    memory = access = known_of(cell, 1)
    if is_series:
        access = known_of(cell, 6)
    absolute = is_series and access[0] == TRANSISTOR
    through, behind, ground = held[0], held[1], held[2]
    longest = load(size, 0)
    for k in range(columns):
        g, own = conductance[side, r, k], wire[r, k]
        there = 1.0 if g > 0.0 else 0.0
        begin, end = load(inputs, near + k), load(lines, far + k)
        across = begin - end
        if is_series:
            node, past = load(inner, far + k), load(past_inner, far + k)
            leak = same(0.0)
            store(points, 1, end)
            number = 0
            while True:
                across = begin - node
                current, slope = element(memory, g, across)
                if absolute:
                    store(points, 0, node)
                    transistor(coefficients, grid, points)
                    passed, rises = load(points, FOUND), load(points, FOUND + 1)
                    falls, leak = load(points, FOUND + 2), load(points, FOUND + 3)
                else:
                    passed, rises = element(access, access[3], node - end)
                    falls = rises
                flow = across * through + current
                out = (node - end) * behind + passed
                total = there / (slope + rises + (through + behind + ground))
                step = (flow - out - node * ground + past) * total
                number += 1
                if number == STEPS or not beyond(abs(step), SHORT * limit):
                    break
                node = node + shortened(step, limit)
            longest = larger(abs(step), longest)
            step = shortened(step, limit)
            front, rises, falls = slope + through, rises + behind, falls + behind
            store(inner, far + k, node + step)
            flow = (flow - front * step) * there
            into = (out + rises * step + leak) * there
            front = front * total
            back, slope = front * falls, front * (rises + ground)
            total = falls * (1.0 - rises * total) * there
        else:
            current, slope = element(memory, g, across)
            flow = across * (there * through) + current
            slope = slope + there * through
            into, back, total = flow, slope, slope
        shunted = shunt[side, r, k]
        store(given, far + k, begin * own + flow - load(past_inputs, near + k) * 0.5)
        store(given, plane + far + k, slope + own)
        store(given, 2 * plane + far + k, back)
        into = into - end * shunted + load(past_lines, far + k)
        store(given, 3 * plane + far + k, into)
        store(given, 4 * plane + far + k, total + shunted)
    store(size, 0, longest)


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
    given = np.empty((5, 2, rows, columns, LANES))
    empty = np.empty((2, 0, columns, LANES))
    work, points = np.empty((WORK, columns, LANES)), np.empty((POINTS, LANES))
    totals, flows = np.empty((2, 4, LANES)), np.empty((5, 1, 1, 0, LANES))
    size, inner_size = np.empty(LANES), np.empty(LANES)
    before, rates, moved = np.empty(LANES), np.empty(LANES), np.empty((columns, LANES))
    share = np.empty(LANES)
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
                        conductance[b], cell, coefficients, grid, held, wire[b], shunt[b], side, r,
                        here, line, inner[b, q], past_inputs[b, q], past_lines[b, q],
                        past_inner[b, q], given, inner_size, points,
                    )  # fmt: skip
            block_up(
                conductance[b], scalars, cell, coefficients, grid, driven[b, q], here, line,
                empty, given, after, star, hub, port, ends[b, q], size, flows, work, points, totals,
            )
            moved[:] = 0.0
            block_down(scalars[INPUT_SEGMENT], moved, after, star, hub, size)
            left = False
            settle(port, inner_size, size)
            for j in range(LANES):
                error[j], rates[j] = left_over(size[j], before[j], rates[j])
                before[j] = size[j]
                share[j] = cell[0] / size[j] if size[j] > cell[0] else 1.0
                left = left or error[j] > tolerance
            move(share, after, here)
            if not left:
                break
