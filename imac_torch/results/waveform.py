"""Waveforms on any time points, from whichever engine: sampling and integrals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.base.shown import Brief
from imac_torch.errors import SolverError


@dataclass(frozen=True)
class Waveforms(Brief):
    """Outputs over time of a few images; K images, M outputs.

    Attributes:
        samples: (K,) int64, which images.
        time: (T,) s from the start of the input ramp.
        outputs: (T, K, M) V.
    """

    samples: Tensor
    time: Tensor
    outputs: Tensor


def sample(time: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """Values at given times: a cubic per interval, third order, without overshoot at corners.

    Slopes are those of parabolas through three points, limited as by Huynh (SIAM J. Numer. Anal.
    30, 57, 1993, his M3): where waveforms are smooth values are third-order accurate, at extrema
    too; between a slope and a plateau nothing overshoots; nothing is demanded of how the points
    were chosen.

    Args:
        time: (T,) s, ascending, T >= 2.
        values: (T, ...) float64.
        at: (P,) s, within ``time``.

    Returns:
        (P, ...).

    Raises:
        SolverError: Times do not ascend or points lie outside.
    """
    _check(time)
    span = float(time[-1] - time[0]) * 1e-9
    if bool((at < time[0] - span).any()) or bool((at > time[-1] + span).any()):
        raise SolverError(
            f"times {float(at.min()):.4g} to {float(at.max()):.4g} s are outside the waveform, "
            f"{float(time[0]):.4g} to {float(time[-1]):.4g} s"
        )
    extra = (1,) * (values.ndim - 1)
    width = time.diff()
    slope = _slopes(width.reshape(-1, *extra), values)
    index = (torch.searchsorted(time, at, right=True) - 1).clamp(0, len(time) - 2)
    step = width[index]
    part = ((at - time[index]) / step).reshape(-1, *extra)
    step = step.reshape(-1, *extra)
    low, high = values[index], values[index + 1]
    a = part - 1.0
    return (
        (1.0 + 2.0 * part) * a**2 * low
        + part * a**2 * step * slope[index]
        + part**2 * (3.0 - 2.0 * part) * high
        + part**2 * a * step * slope[index + 1]
    )


def _slopes(width: Tensor, values: Tensor) -> Tensor:
    """(T, ...) slopes at all points, from (T-1, 1, ...) widths."""
    secant = values.diff(dim=0) / width
    if len(secant) == 1:
        return torch.cat([secant, secant])
    curve = secant.diff(dim=0) / (width[1:] + width[:-1])
    # Of every interval: the weaker curvature of its two points; at the ends there is one.
    inner = torch.cat([curve[:1], _minmod(curve[:-1], curve[1:]), curve[-1:]])
    before = secant[:-1] + inner[:-1] * width[:-1]
    after = secant[1:] - inner[1:] * width[1:]
    parabola = secant[:-1] + curve * width[:-1]
    common = _minmod(before, after)
    monotone = _minmod(secant[:-1], secant[1:])
    bound = common.sign() * torch.maximum(3.0 * monotone.abs(), 1.5 * common.abs())
    first = _minmod(secant[:1] - curve[:1] * width[:1], 3.0 * secant[:1])
    last = _minmod(secant[-1:] + curve[-1:] * width[-1:], 3.0 * secant[-1:])
    return torch.cat([first, _minmod(parabola, bound), last])


def _minmod(one: Tensor, other: Tensor) -> Tensor:
    """The smaller one where both have the same sign, else 0."""
    return 0.5 * (one.sign() + other.sign()) * torch.minimum(one.abs(), other.abs())


def integral(time: Tensor, values: Tensor, start: float, end: float) -> Tensor:
    """∫ values dt by the trapezoidal rule between two times, both ends interpolated.

    Args:
        time: (T,) s, ascending.
        values: (T, ...).
        start: s.
        end: s.

    Returns:
        (...).
    """
    inside = (time > start) & (time < end)
    corners = torch.tensor([start, end], dtype=time.dtype, device=time.device)
    bounds = _linear(time, values, corners)
    points = torch.cat([corners[:1], time[inside], corners[1:]])
    heights = torch.cat([bounds[:1], values[inside], bounds[1:]])
    width = points.diff().reshape(-1, *((1,) * (values.ndim - 1)))
    return (width * (heights[1:] + heights[:-1])).sum(dim=0) / 2


def _linear(time: Tensor, values: Tensor, at: Tensor) -> Tensor:
    _check(time)
    index = (torch.searchsorted(time, at, right=True) - 1).clamp(0, len(time) - 2)
    part = ((at - time[index]) / (time[index + 1] - time[index])).clamp(0.0, 1.0)
    part = part.reshape(-1, *((1,) * (values.ndim - 1)))
    return values[index] * (1.0 - part) + values[index + 1] * part


def _check(time: Tensor) -> None:
    if time.ndim != 1 or len(time) < 2 or not bool((time.diff() > 0.0).all()):
        raise SolverError("a waveform needs at least two ascending times")
