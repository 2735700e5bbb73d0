"""The first layer's inputs on a ramp: :class:`imac_torch.transient.drive.RampDrive`, compiled."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.filters import FloatArray


class Drive(NamedTuple):
    """A period's inputs.

    Attributes:
        basis: (tiles, J, M, LANES) V, what combined read-outs are made of.
        rows: (tiles, n, LANES), what powers of inputs and bias are made of.
        kinds: (n,) 0 where a row is the inputs', 1 where it is the bias's.
        form: (tiles, J, J, LANES) W of amplifiers by what line ends are made of.
        filtered: (ramps, K+1) behind each filter, changed.
        slopes: (ramps,) 1/s.
        poles: (K+1,) 1/s.
        transition: (1,) s.
    """

    basis: FloatArray
    rows: FloatArray
    kinds: NDArray[np.int64]
    form: FloatArray
    filtered: FloatArray
    slopes: FloatArray
    poles: FloatArray
    transition: FloatArray


@njit(nogil=True, error_model="numpy")
def advance(
    result: FloatArray, filtered: FloatArray, slopes: FloatArray, poles: FloatArray, step: float
) -> None:
    """What is behind the filters ``step`` s later."""
    for k in range(len(poles)):
        product = step * poles[k]
        decay, rise = math.exp(-product), -math.expm1(-product) / poles[k]
        for ramp in range(len(slopes)):
            result[ramp, k] = decay * filtered[ramp, k] + slopes[ramp] * rise


@njit(nogil=True, error_model="numpy")
def slope_at(time: float, transition: float, after: bool) -> float:
    """As :meth:`imac_torch.transient.drive.Sequence.slope`."""
    inside = 0.0 <= time < transition if after else 0.0 < time <= transition
    return 1.0 / transition if inside else 0.0


@njit(nogil=True, error_model="numpy")
def shares(result: FloatArray, part: float, filtered: FloatArray) -> None:
    """What combined read-outs and line ends are made of at a time."""
    result[0], result[1] = 1.0, part
    order, at = filtered.shape[1] - 1, 2
    for ramp in range(filtered.shape[0]):
        for k in range(order):
            result[at] = filtered[ramp, k]
            at += 1


@njit(nogil=True, error_model="numpy")
def levels(result: FloatArray, part: float, slope: float, filtered: FloatArray) -> None:
    """Weights of the rows in the powers of inputs and bias."""
    result[0], result[1], result[2] = 1.0, part, part * part
    result[3], result[4], result[5], result[6] = slope, slope * part, 1.0, part
    order, at = filtered.shape[1] - 1, 7
    for ramp in range(filtered.shape[0]):
        for k in range(order):
            value = filtered[ramp, k]
            result[at + k] = value
            result[at + order + k] = part * value
            result[at + 2 * order + k] = value
        at += 3 * order


@njit(nogil=True, error_model="numpy")
def work(
    result: FloatArray, time: float, step: float, transition: float, filtered: FloatArray,
    slopes: FloatArray, poles: FloatArray,
) -> None:
    """Weights of the rows in the energies of inputs and bias within ``step`` s from ``time``."""
    part = min(1.0, max(0.0, time / transition))
    slope = slope_at(time, transition, True)
    once = part * step + slope * step**2 / 2
    twice = part**2 * step + part * slope * step**2 + slope**2 * step**3 / 3
    result[0], result[1], result[2], result[3] = step, once, twice, slope * step
    result[4], result[5], result[6] = slope * once, step, once
    order, at = filtered.shape[1] - 1, 7
    for ramp in range(filtered.shape[0]):
        for k in range(order):
            product = step * poles[k]
            # The closed form loses digits like product², the series is off by product³/30.
            if product < 1e-3:
                second = 0.5 - product / 3 + product * product / 8
            else:
                second = -(math.expm1(-product) + product * math.exp(-product)) / product**2
            rest = slopes[ramp] / poles[k]
            gone = filtered[ramp, k] - rest
            passed = rest * step - gone * math.expm1(-product) / poles[k]
            moved = part * passed + slope * (
                rest * (step**2 / 2) + gone * step**2 * second
            )
            result[at + k] = passed
            result[at + order + k] = moved
            result[at + 2 * order + k] = passed
        at += 3 * order
