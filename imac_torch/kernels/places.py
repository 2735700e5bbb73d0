"""Where the compiled steps of transients keep what: rows of LANES images each."""

from __future__ import annotations

from typing import Final

LANES: Final = 16
"""Images per tile: those of a panel."""

# What is kept of neurons at the end of a step: (tiles, M, 3·KEPT, LANES), three sets.
GATE, OUTPUT, GATE_CHARGE, OUTPUT_CHARGE, SUPPLY_CHARGE = 0, 1, 2, 3, 4
GATE_RATE, OUTPUT_RATE, SUPPLY_RATE, GATE_CURRENT, SUPPLY_CURRENT = 5, 6, 7, 8, 9
RECORDED, SLOPE, GATE_UNSEEN, OUTPUT_UNSEEN = 10, 11, 12, 13
MIDDLE_OUTPUT, MIDDLE_GATE, MIDDLE_SLOPE = 14, 15, 16
KEPT: Final = 17
# What layers pass on within a step: (tiles, PASSED, M, LANES).
COMBINED, LEFT_OUT = 0, 4
PASSED: Final = 5
# Lines: (tiles, parts, HELD, rows·LANES); two halves of the first three.
VALUES, RATES, UNSEEN, MIDDLE, END = 0, 2, 4, 6, 7
HELD: Final = 8
# Carried from layer to layer: (tiles, CARRIED, LANES).
REACH, SEEN, LARGEST = 0, 1, 2
CARRIED: Final = 3
# Results of a tile, (tiles, RESULTS, LANES); the sums of both points are those of supply current,
# drawn current, supply and gate rate, supply and gate charge, the bias line's current, and W that
# read-outs deliver.
ERROR, LEFT, INSIDE, FAILED, FIRST_SUM = 0, 1, 2, 3, 4
SUMS: Final = 8
RESULTS: Final = FIRST_SUM + 2 * SUMS

# Rows of a neuron in a tile: constants, so that a compiler knows that they do not overlap.
N_GATES, N_ZC, N_HG, N_HO, N_HS = 0, 1, 2, 3, 4
N_GS, N_GL, N_D, N_R, N_I, N_TR, N_DIV = 5, 6, 7, 8, 9, 10, 11
N_GG, N_GO, N_OG, N_OO = 12, 13, 14, 15
N_QG, N_QO, N_QS, N_IG, N_IS = 16, 17, 18, 19, 20
N_SG, N_SU, N_TG, N_TU, N_PG, N_PU = 21, 22, 23, 24, 25, 26
N_U1, N_G1, N_QG1, N_QO1, N_QS1, N_RG1, N_RO1, N_SL1 = 27, 28, 29, 30, 31, 32, 33, 34
N_EG, N_EO, N_OU1, N_DG1, N_DO1, N_TWG, N_TWU = 35, 36, 37, 38, 39, 40, 41
N_SL2, N_BEND = 42, 43
N_FIELDS: Final = 44
N_NEURON: Final = N_FIELDS * LANES
