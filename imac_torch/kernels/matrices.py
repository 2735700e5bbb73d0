"""Matrices of a step's size, of lines behind filters: sums over the filters, compiled."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.filters import FAST, FloatArray

ITERATIONS: Final = 6
"""Of the rank-one fit, which only preconditions linear systems."""


@njit(nogil=True, error_model="numpy", fastmath=FAST)
def _sum(result: FloatArray, parts: FloatArray, powers: FloatArray) -> None:
    """Σ powers·parts of flat arrays."""
    for k in range(len(powers)):
        power, source = powers[k], parts[k].reshape(-1)
        if k == 0:
            for at in range(len(result)):
                result[at] = power * source[at]
        else:
            for at in range(len(result)):
                result[at] += power * source[at]


@njit(nogil=True, error_model="numpy", fastmath=FAST)
def _rank_one(
    matrix: FloatArray, size: int, left: FloatArray, right: FloatArray, own: FloatArray
) -> None:
    """Vectors whose product fits a matrix in strips, (strips, K, 4), off its diagonal.

    As :func:`imac_torch.dc.load.rank_one`.
    """
    left[:] = 0.0
    right[:] = 0.0
    for i in range(size):
        for j in range(size):
            left[i] += matrix[j // 4, i, j % 4] if i != j else 0.0
        right[i] = 1.0
    sums = np.zeros(4 * matrix.shape[0])
    for _ in range(ITERATIONS):
        norm = 1e-300
        for j in range(size):
            norm += right[j] * right[j]
        for i in range(size):
            total = (left[i] * right[i] - matrix[i // 4, i, i % 4]) * right[i]
            for j in range(size):
                total += matrix[j // 4, i, j % 4] * right[j]
            left[i] = total / norm
        norm = 1e-300
        for i in range(size):
            norm += left[i] * left[i]
        sums[:] = 0.0
        for strip in range(matrix.shape[0]):
            for i in range(size):
                share = left[i]
                for j in range(4):
                    sums[4 * strip + j] += matrix[strip, i, j] * share
        for j in range(size):
            beside = (right[j] * left[j] - matrix[j // 4, j, j % 4]) * left[j]
            right[j] = (sums[j] + beside) / norm
    for i in range(size):
        own[i] = matrix[i // 4, i, i % 4] - left[i] * right[i]


@njit(nogil=True, error_model="numpy", fastmath=FAST)
def fill(
    sigma: float, poles: FloatArray, by_filter: FloatArray, bias: FloatArray,
    passed: FloatArray, filters: int, width: int, first: NDArray[np.int64], admittance: FloatArray,
    left: FloatArray, across: FloatArray, own: FloatArray, bias_currents: FloatArray,
    inverse: FloatArray, through: FloatArray, transfer: FloatArray,
) -> float:
    """Write what :func:`imac_torch.kernels.steps.step_layer` takes of a step.

    Args:
        sigma: 1/s.
        poles: (K+1,) 1/s.
        by_filter: (1 or K+1, parts, strips, K, 4) S, at rest and by every filter.
        bias: (1 or K+1, parts, K) S, likewise.
        passed: (1 or K+1, parts, strips, M, 4), likewise.
        filters: K+1, or 0.
        width: W; the last line of the last partition is the bias's.
        first: (parts + 1,).
        admittance: Written, as the others.
        left: (parts, K).
        across: (parts, K).
        own: (parts, K) S.
        bias_currents: (parts, K) S.
        inverse: (filters,) s.
        through: (filters,).
        transfer: (parts, strips, M, 4).

    Returns:
        The largest transfer from a neuron.
    """
    powers = np.ones(len(by_filter))
    for k in range(filters):
        inverse[k] = 1.0 / (sigma + poles[k])
        through[k] = poles[k] * inverse[k]
    for k in range(1, len(powers)):
        powers[k] = sigma * inverse[k - 1]
    _sum(admittance.reshape(-1), by_filter, powers)
    _sum(bias_currents.reshape(-1), bias, powers)
    _sum(transfer.reshape(-1), passed, powers)
    parts = len(first) - 1
    for part in range(parts):
        _rank_one(
            admittance[part], first[part + 1] - first[part], left[part], across[part], own[part]
        )
    largest = 0.0
    for part in range(parts):
        for strip in range(transfer.shape[1]):
            last = width - 1 - 4 * strip if part == parts - 1 else 4
            for row in range(transfer.shape[2]):
                for j in range(min(4, last)):
                    largest = max(largest, abs(transfer[part, strip, row, j]))
    return largest
