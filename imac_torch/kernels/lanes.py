"""LANES numbers as one value: of as many images in kernels of curved cells, of a matrix's columns.

Compiled they are vectors of the processor, held in registers, so that what is done to a cell is one
expression and nothing between is stored; :mod:`imac_torch.kernels.lanes_numba` says so to numba.
Functions that make or take some without ``@njit`` are what that stands for, as arrays.

Arrays of them are contiguous, with these numbers innermost, and are read and written by one index:
no view of an array is made: each would count references, which takes longer than a cell.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit, obstacle

Array = NDArray[np.float64]
Lanes = Any
"""LANES numbers; arithmetic is that of each, with numbers that are the same for all, too."""
LANES: Final = 8
"""Images, or columns, that are worked on at once."""

_LOG2E: Final = 1.4426950408889634
_LN2_HIGH: Final = 6.93147180369123816490e-01
_LN2_LOW: Final = 1.90821492927058770002e-10
_MAGIC: Final = 6755399441055744.0
"""1.5·2^52: adding it rounds to the nearest whole number and leaves that in the last bits."""
_LARGEST: Final = 700.0
"""Of an exponent; beyond, e^x is no float64. No solution has such currents."""


def load(values: Array, k: int) -> Lanes:
    """Number k of (..., L), counted in memory."""
    return values.reshape(-1, LANES)[k].copy()


def store(values: Array, k: int, lanes: Lanes) -> None:
    """Write number k of (..., L), counted in memory."""
    values.reshape(-1, LANES)[k] = lanes


def number(values: Array, k: int) -> float:
    """Number k of an array, counted in memory."""
    return float(values.reshape(-1)[k])


def same(number: float) -> Lanes:
    """A number for all images."""
    return np.full(LANES, number)


def choose(a: Lanes, b: Lanes, yes: Lanes, no: Lanes) -> Lanes:
    """One or the other, where a > b or not."""
    return np.where(a > b, yes, no)


def beyond(a: Lanes, limit: float) -> bool:
    """Whether one is larger; what is no number is not."""
    return bool((a > limit).any())


def _scaled(a: Lanes, shifted: Lanes) -> Lanes:
    """a·2^n, of n + _MAGIC."""
    return a * (((shifted + 0.0).view(np.int64) + 1023) << 52).view(np.float64)


if obstacle() is None:
    from imac_torch.kernels.lanes_numba import register

    register(
        LANES, load=load, store=store, number=number, same=same, choose=choose, beyond=beyond,
        scaled=_scaled,
    )  # fmt: skip


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)
def larger(a: Lanes, b: Lanes) -> Lanes:
    """The larger one; b where a is no number."""
    return choose(a, b, a, b)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)
def smaller(a: Lanes, b: Lanes) -> Lanes:
    """The smaller one; b where a is no number."""
    return choose(b, a, a, b)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)
def nearest(x: Lanes) -> Lanes:
    """The nearest whole number, up to 2^51."""
    return x + _MAGIC - _MAGIC


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)
def exponential(x: Lanes) -> Lanes:
    """e^x, to rounding.

    2^n·e^f with |f| <= ln(2)/2, whose series to f^12 leaves 2e-16.
    """
    z = smaller(larger(x, same(-_LARGEST)), same(_LARGEST))
    t = z * _LOG2E + _MAGIC
    n = t - _MAGIC
    f = z - n * _LN2_HIGH
    f = f - n * _LN2_LOW
    s = f * (1.0 / 479001600.0) + 1.0 / 39916800.0
    s = f * s + 1.0 / 3628800.0
    s = f * s + 1.0 / 362880.0
    s = f * s + 1.0 / 40320.0
    s = f * s + 1.0 / 5040.0
    s = f * s + 1.0 / 720.0
    s = f * s + 1.0 / 120.0
    s = f * s + 1.0 / 24.0
    s = f * s + 1.0 / 6.0
    s = f * s + 0.5
    s = f * s + 1.0
    return _scaled(f * s + 1.0, t)
