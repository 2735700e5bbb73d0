"""Levels that converters tell apart, and the range that suits what they see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.errors import CircuitError

QUANTILES: Final = 4096
"""Order statistics that stand for a distribution where its least square error is looked for."""
TRIED: Final = 16
"""Positions of each end of the range that are tried at a time; the best are looked at closer."""
ROUNDS: Final = 6
"""Times; each halves the distance of the positions at least four times."""
SMALL: Final = 1e-9
"""V, the range where everything is at 0 V."""
MOST_VALUES: Final = 2**22
"""Voltages that a range is fitted to; of more, every n-th."""


def straight_through(values: Tensor, levels: Tensor) -> Tensor:
    """``levels``, with the gradient of ``values``: rounding passes gradients on unchanged.

    Y. Bengio, N. Léonard, A. Courville, arXiv:1308.3432 (2013), section 3.

    Args:
        values: What is rounded, within limits: where it is clamped its own gradient is 0.
        levels: Likewise shaped, what it is rounded to.
    """
    if not (values.requires_grad and torch.is_grad_enabled()):
        return levels
    return levels.detach() + (values - values.detach())


@dataclass(frozen=True)
class Grid:
    """2^bits levels, ``step`` apart, the lowest at ``low``; V, or whatever is rounded.

    Attributes:
        low: The lowest level.
        step: > 0.
        steps: Between the lowest and the highest level.
    """

    low: float
    step: float
    steps: int

    @classmethod
    def over(cls, low: float, high: float, bits: int) -> Grid:
        """The levels of a converter whose range reaches from ``low`` to ``high``.

        Where 0 V is inside, a level is there: rows that are given nothing stay at nothing however
        many of them are added. For that all levels move, by half a step at most. Of two levels
        (one bit) both are the ends.

        Raises:
            CircuitError: The range is empty or not finite.
        """
        steps = 2**bits - 1
        step = (high - low) / steps
        if not 0.0 < step < float("inf"):
            raise CircuitError(
                f"a converter's range is from {low:g} V to {high:g} V, which is none"
            )
        if steps > 1 and low < 0.0 < high:
            low = step * round(low / step)
        return cls(low, step, steps)

    @property
    def high(self) -> float:
        """The highest level."""
        return self.low + self.steps * self.step

    def codes(self, values: Tensor) -> Tensor:
        """Numbers of the nearest levels, 0 to ``steps``, in the type of ``values``."""
        steps = (values.detach() - self.low).div_(self.step)
        return steps.round_().clamp_(0, self.steps)

    def levels(self, values: Tensor) -> Tensor:
        """The nearest levels, any shape; NaN stays NaN.

        Gradients pass within the range, see :func:`straight_through`.
        """
        levels = self.codes(values).mul_(self.step).add_(self.low)
        if not (values.requires_grad and torch.is_grad_enabled()):
            return levels
        return straight_through(values.clamp(self.low, self.high), levels)


def fitted_range(values: Tensor, method: str, bits: int, coverage: float) -> tuple[float, float]:
    """The range of a converter for what it is to see.

    Args:
        values: V, any shape; those that are not finite are left out.
        method: ``max``, ``percentile`` or ``mse``, see ``Converter.range``.
        bits: Of the converter.
        coverage: Share of the values in the range of ``percentile``.

    Returns:
        Its ends, V.

    Raises:
        CircuitError: There are no values.
    """
    flat = values.detach().to(torch.float64).flatten()
    if len(flat) > MOST_VALUES:
        flat = flat[:: -(-len(flat) // MOST_VALUES)]
    flat = flat[torch.isfinite(flat)].sort().values
    if len(flat) == 0:
        raise CircuitError("a converter's range needs voltages of samples, and there are none")
    if method == "percentile":
        ends = _quantile(flat, (1.0 - coverage) / 2), _quantile(flat, (1.0 + coverage) / 2)
    else:
        ends = float(flat[0]), float(flat[-1])
    if not ends[0] < ends[1]:
        # A single voltage: it and 0 V are the ends.
        return min(ends[0], 0.0), max(ends[0], 0.0) or (0.0 if ends[0] else SMALL)
    return _least_squares(flat, *ends, bits) if method == "mse" else ends


def _quantile(ascending: Tensor, share: float) -> float:
    """Linear between order statistics."""
    place = share * (len(ascending) - 1)
    below = int(place)
    above = min(below + 1, len(ascending) - 1)
    part = place - below
    return float((1.0 - part) * ascending[below] + part * ascending[above])


def _least_squares(ascending: Tensor, low: float, high: float, bits: int) -> tuple[float, float]:
    """Ends with the least mean square error: looked for on finer and finer grids of both."""
    places = torch.linspace(
        0, len(ascending) - 1, min(len(ascending), QUANTILES),
        dtype=torch.float64, device=ascending.device,
    )  # fmt: skip
    values = ascending[places.round().to(torch.int64)]
    middle = float(values[len(values) // 2])
    # Shares of the way from the median to both ends.
    lows, highs = (0.02, 1.0), (0.02, 1.0)
    best = (float("inf"), low, high)
    for _ in range(ROUNDS):
        for one in _between(lows):
            for other in _between(highs):
                ends = middle + one * (low - middle), middle + other * (high - middle)
                if not ends[0] < ends[1]:
                    continue
                error = float((Grid.over(*ends, bits).levels(values) - values).square().mean())
                if error < best[0]:
                    best, at = (error, *ends), (one, other)
        lows, highs = (_around(at[0], lows), _around(at[1], highs))
    return best[1:]


def _between(ends: tuple[float, float]) -> list[float]:
    distance = (ends[1] - ends[0]) / (TRIED - 1)
    return [ends[0] + k * distance for k in range(TRIED)]


def _around(best: float, ends: tuple[float, float]) -> tuple[float, float]:
    distance = (ends[1] - ends[0]) / (TRIED - 1)
    return max(0.0, best - 2 * distance), min(1.0, best + 2 * distance)
