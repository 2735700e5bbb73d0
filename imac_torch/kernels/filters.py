"""Compiled loops over tiles of the filters on input lines.

The filters are those of :class:`imac_torch.transient.lines.ReducedLines`. Arrays are (rows, LANES),
or the same flat: rows are filter by filter, and line by line within.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.panels import one_row_16, two_rows_16
from imac_torch.kernels.places import LANES

FloatArray = NDArray[np.float64]

FAST: Final = {"contract", "nsz", "arcp"}
"""Fused multiply-add and reciprocals; nothing that reorders sums."""

STRIPS: Final = 16
"""Of a product at a time: what they are multiplied with stays in the smallest cache."""


@njit(error_model="numpy", fastmath=FAST)
def product(result: FloatArray, rows: int, left: FloatArray, right: FloatArray) -> None:
    """Result += left·right; left in strips of four columns, (strips, rows, 4)."""
    for first in range(0, left.shape[0], STRIPS):
        strips, terms = left[first : first + STRIPS], right[4 * first :]
        for pair in range(rows // 2):
            two_rows_16(result, 2 * pair, strips, terms)
        if rows % 2:
            one_row_16(result, rows - 1, strips, terms)


@njit(error_model="numpy", fastmath=FAST)
def filtered(
    result: FloatArray, one: FloatArray, two: FloatArray, first: float, second: float,
    inverse: FloatArray, width: int,
) -> None:
    """(first·one + second·two)·inverse of every filter; flat."""
    span = width * LANES
    for k in range(len(inverse)):
        a, b = first * inverse[k], second * inverse[k]
        for at in range(k * span, (k + 1) * span):
            result[at] = a * one[at] + b * two[at]


@njit(error_model="numpy", fastmath=FAST)
def closed(
    values: FloatArray, rates: FloatArray, filtered: FloatArray, voltages: FloatArray,
    through: FloatArray, inverse: FloatArray, sigma: float, width: int,
) -> None:
    """Values and rates behind the filters at the end of a stage; flat."""
    span = width * LANES
    for k in range(len(inverse)):
        share, history, first = through[k], 1.0 / inverse[k], k * span
        for at in range(span):
            past = filtered[first + at]
            value = past + share * voltages[at]
            values[first + at] = value
            rates[first + at] = sigma * value - history * past


@njit(error_model="numpy", fastmath=FAST)
def pass_filters(
    values: FloatArray, filtered: FloatArray, voltages: FloatArray, through: FloatArray, width: int
) -> None:
    """Values behind the filters at the end of a stage; flat."""
    span = width * LANES
    for k in range(len(through)):
        share, first = through[k], k * span
        for at in range(span):
            values[first + at] = filtered[first + at] + share * voltages[at]


@njit(error_model="numpy", fastmath=FAST)
def combine(
    result: FloatArray, one: FloatArray, two: FloatArray, three: FloatArray, a: float, b: float,
    c: float, count: int,
) -> None:
    """Result = a·one + b·two + c·three; flat."""
    for at in range(count):
        result[at] = a * one[at] + b * two[at] + c * three[at]


@njit(error_model="numpy", fastmath=FAST)
def add(result: FloatArray, one: FloatArray, a: float, count: int) -> None:
    """Result += a·one; flat."""
    for at in range(count):
        result[at] += a * one[at]


@njit(error_model="numpy", fastmath=FAST)
def largest_of(result: FloatArray, values: FloatArray, rows: int) -> None:
    """Of every lane; flat, with any number but NaN in front."""
    found = np.zeros(LANES)
    for row in range(rows):
        for lane in range(LANES):
            found[lane] = max(found[lane], abs(values[row * LANES + lane]))
    for lane in range(LANES):
        result[lane] = max(result[lane], found[lane])


@njit(error_model="numpy", fastmath=FAST)
def weighed(result: FloatArray, weights: FloatArray, values: FloatArray, sign: float) -> None:
    """Result += sign·Σ weights·values of every lane; flat."""
    found = np.zeros(LANES)
    for row in range(len(weights)):
        share = weights[row]
        for lane in range(LANES):
            found[lane] += share * values[row * LANES + lane]
    for lane in range(LANES):
        result[lane] += sign * found[lane]


@njit(error_model="numpy", fastmath=FAST)
def delivered(
    result: FloatArray, ends: FloatArray, others: FloatArray, first: int, forms: FloatArray
) -> None:
    """Result += what read-outs deliver by one end of their lines and another voltage, V."""
    for row in range(len(forms)):
        one, both, two = forms[row, 0], forms[row, 1], forms[row, 2]
        for lane in range(LANES):
            end, other = ends[row, lane], others[first + row, lane]
            result[lane] += end * (one * end + both * other) + two * other * other


@njit(error_model="numpy", fastmath=FAST)
def spread(target: FloatArray, source: FloatArray, at: int, size: int, bias: float) -> None:
    """Voltages of neurons on their lines; ``bias`` on the last one of the last partition."""
    for row in range(target.shape[0]):
        for lane in range(LANES):
            target[row, lane] = 0.0
    for row in range(size):
        for lane in range(LANES):
            target[at + row, lane] = source[row, lane]
    if bias != 0.0:
        for lane in range(LANES):
            target[at + size, lane] = bias
