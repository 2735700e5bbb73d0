"""What neurons take at rest, by look-ups of their tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.lookup import (
    CURRENT,
    EXP,
    FAST,
    GATE,
    LANES,
    LOOK_UP_ROWS,
    OUTPUT,
    TUNNEL,
    exponential,
    look_inside,
    look_up,
)

FloatArray = NDArray[np.float64]


@njit(error_model="numpy", nogil=True, fastmath=FAST)
def supply_tiles(
    work_first: int,
    work_last: int,
    gates: FloatArray,
    outputs: FloatArray,
    table: FloatArray,
    shape: tuple[int, int],
    grid: FloatArray,
    feedback: float,
    drawn: FloatArray,
    supply: FloatArray,
) -> None:
    """What neurons draw at their inputs and from vdd, in any order.

    Args:
        work_first: First tile of :data:`LANES` neurons.
        work_last: Tile after the last.
        gates: (n,) V.
        outputs: (n,) V.
        table: As of :func:`imac_torch.kernels.newton.solve_tiles`, of asinh(current/scale) of
            both currents.
        shape: Likewise.
        grid: (8,) likewise, with both scales, A.
        feedback: S, from gates to outputs.
        drawn: (n,) A, written.
        supply: (n,) A, written.
    """
    scratch = np.zeros(LOOK_UP_ROWS * LANES)
    bits = np.zeros(LANES, dtype=np.int64)
    powers = bits.view(np.float64)
    for work in range(work_first, work_last):
        head = work * LANES
        lanes = min(LANES, len(gates) - head)
        for lane in range(LANES):
            scratch[GATE * LANES + lane] = gates[head + min(lane, lanes - 1)]
            scratch[OUTPUT * LANES + lane] = outputs[head + min(lane, lanes - 1)]
        inside = True
        for lane in range(LANES):
            gate, output = scratch[GATE * LANES + lane], scratch[OUTPUT * LANES + lane]
            inside = inside and grid[0] <= gate <= grid[1] and grid[3] <= output <= grid[4]
        if inside:
            look_inside(scratch, lanes, table, shape, grid)
        else:
            look_up(scratch, lanes, table, shape, grid)
        exponential(scratch, CURRENT, bits, powers)
        for lane in range(lanes):
            rising = scratch[EXP * LANES + lane]
            across = scratch[GATE * LANES + lane] - scratch[OUTPUT * LANES + lane]
            drawn[head + lane] = 0.5 * grid[6] * (rising - 1.0 / rising) + feedback * across
        exponential(scratch, TUNNEL, bits, powers)
        for lane in range(lanes):
            rising = scratch[EXP * LANES + lane]
            supply[head + lane] = 0.5 * grid[7] * (rising - 1.0 / rising)
