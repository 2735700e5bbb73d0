"""Layers of curved cells in compiled code: sweeps over all blocks, for many images.

One sweep at a time where something else follows each, or all of them where sources hold the input
lines: then what a block needs stays in the cache. The algebra is in :mod:`imac_torch.dc.sweeps`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.cells import WORK, block_down, block_up
from imac_torch.kernels.compiled import njit
from imac_torch.kernels.elements import POINTS
from imac_torch.kernels.lanes import LANES, larger, load, store
from imac_torch.kernels.lines import INPUT_SEGMENT

Array = NDArray[np.float64]


@njit(inline="always", error_model="numpy")
def left_over(size, before, rate):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """V that is left after a step, and by which factor steps have become shorter.

    Steps of sweeps that converge by a factor of q have q/(1 - q) of the last one before them. The
    factor is the larger one of the last two: where curves are still followed steps become shorter
    faster than later.

    Args:
        size: V, of the step.
        before: V, of the one before; infinite for the first.
        rate: What this function said then; 1 for the first.
    """
    now = size / before if before < np.inf else 1.0
    worst = max(now, rate)
    return size * worst / (1.0 - worst) if worst < 0.5 else size, now


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", _nrt=False)
def settle(port: Array, other: Array, size: Array) -> None:
    """The longer step of two; no number where a current is not finite.

    Args:
        port: (K, L) A.
        other: (L,) V.
        size: (L,) V, updated.
    """
    longest = larger(load(other, 0), load(size, 0))
    for k in range(port.shape[0]):
        longest = longest + load(port, k) * 0.0
    store(size, 0, longest)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", _nrt=False)
def move(share: Array, steps: Array, voltages: Array) -> None:
    """Add (L,) times (R, K, L) V to (R, K, L) V."""
    taken = load(share, 0)
    for k in range(steps.shape[0] * steps.shape[1]):
        store(voltages, k, load(steps, k) * taken + load(voltages, k))


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def sweep(
    first: int,
    last: int,
    active: NDArray[np.bool_],
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
    ports: Array,
    ends: Array,
    sizes: Array,
    errors: Array,
    counts: Array,
    limit: int,
    tolerance: float,
) -> None:
    """Cells, I± lines and what flows into input lines, from the last row to the first.

    Once (``limit`` 0), or, where sources hold the input lines, up and down until these are at rest.
    Arrays with one block and one group are nobody's: every block and group has them for itself.

    Args:
        first: Tasks first..last are done, one for a block and LANES images.
        last: See ``first``.
        active: (G,) images that are worked on; others stay as they are.
        conductance: (N, 2, R, K) S of memory devices at small voltages.
        scalars: See :mod:`imac_torch.kernels.lines`.
        cell: (11,) V that no step is longer than; kind and four parameters of memory devices, and
            of what is in series with them. Only the first where currents are given.
        coefficients: (P+2, Q+2, 2), see :func:`imac_torch.kernels.elements.transistor`; anything
            where there is none.
        grid: (6,) likewise.
        driven: (N, G, K, L) V, on the input lines.
        inputs: (N, G, R, K, L) V, at the cells.
        lines: (N, G, 2, R, K, L) V, of I± lines, moved.
        nodes: (N, G, 2, R, K, L) V, across memory devices that others are in series with, moved;
            without rows: nothing is in series.
        given: (N, G, n, 2, R, K, L) currents and slopes of cells where this kernel has none:
            A out of the input line, S by its voltage, S by the other line's with the other sign,
            A into the other line, S by which that falls per voltage of it. n is 5, or 4: the last
            is the third; or 2: the others are the same; else 0.
        behind: (N, G, R, K, L) V, written: what input lines move by, but for what moves before.
        stars: (N, G, R, K, L) S, written.
        hubs: (N, G, R, L) 1/S, written.
        ports: (N, G, K, L) A, written: into input lines while what drives them stays.
        ends: (N, G, 2, R, L) V, written.
        sizes: (N, G, L) V, written: longest step.
        errors: (2, N, G, L), written: V that is left, see :func:`left_over`, and S of the line
            that conducts best.
        counts: (N, G, L), 1; written: sweeps.
        limit: Of sweeps up and down; 0: one up.
        tolerance: V, of what is left.
    """
    groups, columns = driven.shape[1:3]
    rows, segment = conductance.shape[2], scalars[INPUT_SEGMENT]
    # Threads must not meet in what is nobody's.
    kept = inputs.shape[0] == driven.shape[0] and inputs.shape[1] == groups
    shape = (1 if kept else rows, columns, LANES)
    own_inputs, own_lines = np.empty(shape), np.empty((2, *shape))
    own_nodes = np.empty((2, 0 if kept else nodes.shape[3], columns, LANES))
    own_behind, own_stars, own_hubs = np.empty(shape), np.empty(shape), np.empty((rows, LANES))
    work, points = np.empty((WORK, columns, LANES)), np.empty((POINTS, LANES))
    totals, flows = np.empty((2, 4, LANES)), np.empty((5, 1, 1, columns, LANES))
    moved, before, rates = np.empty((columns, LANES)), np.empty(LANES), np.empty(LANES)
    share = np.empty(LANES)
    for task in range(first, last):
        b, q = task // groups, task % groups
        if not active[q]:
            continue
        here, line, node = own_inputs, own_lines, own_nodes
        after, star, hub = own_behind, own_stars, own_hubs
        if kept:
            here, line, node = inputs[b, q], lines[b, q], nodes[b, q]
            after, star, hub = behind[b, q], stars[b, q], hubs[b, q]
        else:
            line[:] = 0.0
            node[:] = 0.0
            for r in range(rows):
                here[r] = driven[b, q]
        port, size = ports[b, q], sizes[b, q]
        error, largest, count = errors[0, b, q], errors[1, b, q], counts[b, q]
        before[:] = np.inf
        rates[:] = 1.0
        left = True
        number = 0
        while left:
            block_up(
                conductance[b], scalars, cell, coefficients, grid, driven[b, q], here, line, node,
                given[b, q], after, star, hub, port, ends[b, q], size, flows, work, points, totals,
            )
            number += 1
            if limit == 0:
                break
            moved[:] = 0.0
            block_down(segment, moved, after, star, hub, size)
            left = False
            settle(port, size, size)
            for j in range(LANES):
                error[j], rates[j] = left_over(size[j], before[j], rates[j])
                before[j] = size[j]
                share[j] = cell[0] / size[j] if size[j] > cell[0] else 1.0
                if error[j] > tolerance:
                    left = number < limit
                    count[j] = number + 1 if left else number
            move(share, after, here)
        for j in range(LANES):
            largest[j] = 0.0
            for k in range(columns):
                largest[j] = max(largest[j], star[0, k, j])


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
        active: (G,), as of :func:`sweep`.
        segment: Ω, of input lines.
        steps: (N, G, K, L) V, of what drives the lines; overwritten.
        behind: (N, G, R, K, L) V, from :func:`sweep`; overwritten by the steps.
        stars: (N, G, R, K, L) S, from :func:`sweep`.
        hubs: (N, G, R, L) 1/S, from :func:`sweep`.
        sizes: (N, G, L) V, of the longest step, updated.
    """
    groups = behind.shape[1]
    for task in range(first, last):
        b, q = task // groups, task % groups
        if active[q]:
            block_down(
                segment, steps[b, q], behind[b, q], stars[b, q], hubs[b, q], sizes[b, q]
            )
