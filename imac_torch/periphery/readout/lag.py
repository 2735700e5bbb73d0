"""What follows an amplifier in time: one or two poles of its closed loop, and a slew rate.

A read-out's output u passes buffered low-passes one after the other. The first one's capacitor is
charged by a differential pair, whose current has a limit: with p = 2π·pole and S the slew rate

    dx/dt = S·tanh(p·(u - x)/S),

which is p·(u - x) for small signals and never more than S. (A pair of bipolar transistors makes
just that tanh of its input; Gray, Hurst, Lewis and Meyer, Analysis and Design of Analog Integrated
Circuits, 5th ed., sections 3.5 and 9.6: slew rate = tail current over compensation capacitor.)
A step of u is followed by sinh(p·(u - x)/S) = sinh(p·(u - x0)/S)·exp(-p·t). The second low-pass is
linear. The same formulas are in netlists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

LOW_PASS: Final = 1e3
"""Ω, Rpole of ``spice/amplifier_pole.sp``: what capacitors are charged through in netlists."""
SHORTED: Final = 1e6
"""H beside a slewing current in netlists: an operating point, where that current is zero whatever
is between its ends, sees a wire, and a transient of microseconds nothing."""
MOST: Final = 60
"""Newton steps; each takes at least half of a unit off what is left of tanh's argument."""
EXACT: Final = 1e-15
"""Relative change of that argument that ends them."""


@dataclass(frozen=True)
class Lag:
    """Low-passes behind a read-out, in order.

    Attributes:
        rates: 1/s, 2π times every pole; none: the output follows at once.
        slew: V/s, the most that the first one's voltage ever changes; None: unlimited.
    """

    rates: tuple[float, ...] = ()
    slew: float | None = None

    @property
    def order(self) -> int:
        """How many there are."""
        return len(self.rates)

    def charging(self, place: int, before: Tensor, after: Tensor) -> Tensor:
        """V/s of the voltage ``after`` the low-pass at a place from 0, for the one ``before``."""
        rate = self.rates[place] * (before - after)
        if place or self.slew is None:
            return rate
        return self.slew * torch.tanh(rate / self.slew)

    def power(self, output: Tensor, behind: Tensor) -> Tensor:
        """(...) W that the low-passes of the netlists take, for V before and (n, ...) V behind."""
        total, before = torch.zeros_like(output), output
        for place, (rate, after) in enumerate(zip(self.rates, behind, strict=True)):
            charge = 1.0 / (LOW_PASS * rate)
            total = total + before * charge * self.charging(place, before, after)
            before = after
        return total

    @property
    def node(self) -> str:
        """In sub-circuits, what the output follows."""
        return ("ideal", "slow", "slower")[self.order]

    def lines(self) -> list[str]:
        """Of sub-circuits, from ``ideal`` to :attr:`node`; parameters as in the configuration."""
        charge = f"1/({2.0 * math.pi!r}*{LOW_PASS:g}*"
        if not self.order:
            return []
        lines = [f"Rpole ideal slow {LOW_PASS:g}"]
        if self.slew is not None:
            across = f"(v(ideal)-v(slow))*{2.0 * math.pi!r}*pole/slew_rate"
            lines = [
                f"Gpole ideal slow cur='slew_rate*{charge}pole)*tanh({across})'",
                f"Lpole ideal slow {SHORTED:g}",
            ]
        lines.append(f"Cpole slow 0 '{charge}pole)'")
        if self.order > 1:
            lines += [
                "Epole2 again 0 slow 0 1",
                f"Rpole2 again slower {LOW_PASS:g}",
                f"Cpole2 slower 0 '{charge}second_pole)'",
            ]
        return lines

    def stage(self, sigma: float, level: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Voltages at the end of a stage, in which dx/dt = σ·x - history.

        Args:
            sigma: σ, 1/s.
            level: (...) V before the first low-pass.
            history: (n, ...) V/s.

        Returns:
            (n, ...) V behind every low-pass, and their rates in V/s.
        """
        found = []
        for place, (rate, past) in enumerate(zip(self.rates, history, strict=True)):
            if place == 0 and self.slew is not None:
                level = self._slewing(sigma, level, past)
            else:
                level = (rate * level + past) / (sigma + rate)
            found.append(level)
        values = torch.stack(found)
        return values, sigma * values - history

    def _slewing(self, sigma: float, level: Tensor, past: Tensor) -> Tensor:
        """Solve for x: σ·x - past = S·tanh(p·(u - x)/S).

        For z = p·(u - x)/S it is a·z + tanh z = b, a = σ/p, b = (σ·u - past)/S: odd, and for
        z > 0 concave, so that Newton's method from a lower bound rises to the only solution.
        """
        assert self.slew is not None  # noqa: S101 - asked for by those that have one
        part, right = sigma / self.rates[0], (sigma * level - past) / self.slew
        size = right.abs()
        found = torch.maximum(size / (1.0 + part), (size - 1.0) / part)
        for _ in range(MOST):
            bent = torch.tanh(found)
            change = (size - part * found - bent) / (part + 1.0 - bent.square())
            found = found + change
            # Values that are not finite are their sample's failure, and no reason to go on.
            if not bool((change.abs() > EXACT * (1.0 + found)).any()):
                break
        return level - self.slew / self.rates[0] * torch.copysign(found, right)

    def passed(self, sigma: float, rates: Tensor, level: Tensor, errors: Tensor) -> Tensor:
        """(n, ...) V, what small changes are at the end of a stage.

        Args:
            sigma: 1/s.
            rates: (n, ...) V/s, of the voltages behind every low-pass at the stage's end.
            level: (...) V, change of what comes before the first one.
            errors: (n, ...) V, of what the stage begins with.
        """
        found = []
        for place, (rate, error) in enumerate(zip(self.rates, errors, strict=True)):
            slope: float | Tensor = rate
            if place == 0 and self.slew is not None:
                slope = rate * (1.0 - (rates[0] / self.slew).square()).clamp(min=0.0)
            level = (slope * level + sigma * error) / (sigma + slope)
            found.append(level)
        return torch.stack(found)
