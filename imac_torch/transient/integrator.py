"""TR-BDF2: the one-step method of all transients, its error estimate and its step control.

A step of h is one trapezoidal stage to t + γ·h and one BDF2 stage to t + h (Bank et al., IEEE
Trans. CAD 4, 436, 1985). With γ = 2 - √2 both stages have the same implicit coefficient, so one
factorisation serves both, the local error is smallest, and the method is second order and
L-stable (Hosea and Shampine, Appl. Numer. Math. 20, 21, 1996); its local error, which is estimated,
is taken back by :mod:`imac_torch.transient.accuracy`, whence waveforms are of third order. A
quantity y whose derivative the circuit prescribes enters as ẏ = σ·y - history with σ = 2/(γ·h) in
both stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from torch import Tensor

from imac_torch.errors import SolverError

GAMMA: Final = 2.0 - math.sqrt(2.0)
"""γ: where the first stage ends, in steps."""
QUADRATURE: Final = (
    (3.0 * GAMMA - 1.0) / (6.0 * GAMMA),
    1.0 / (6.0 * GAMMA * (1.0 - GAMMA)),
    (2.0 - 3.0 * GAMMA) / (6.0 * (1.0 - GAMMA)),
)
"""Of a function at the same points: the integral of the parabola through them."""
COARSE: Final = 2
"""Sizes of steps to an octave where each costs an elimination; steps are 16 % shorter for it."""
FINE: Final = 8
"""The same where each costs a few sums; 4 %."""
SPAN: Final = 0.0631
"""Largest |s·(s - γ)·(s - 1)| in a step, s from 0 to 1."""
MIDDLE: Final = 1.0 / (GAMMA * (2.0 - GAMMA))
ERROR: Final = (-3.0 * GAMMA**2 + 4.0 * GAMMA - 2.0) / (12.0 * (2.0 - GAMMA))


Rule = Literal["tr-bdf2", "trapezoidal", "euler"]
"""How one step is taken: two stages, the first one alone, or backward Euler."""


def single_stage(rule: Rule, step: float) -> float:
    """The step of TR-BDF2 whose σ the one stage of the other rules needs, s."""
    return (2.0 if rule == "euler" else 1.0) * step / GAMMA


def shift(step: float) -> float:
    """σ of both stages, 1/s."""
    return 2.0 / (GAMMA * step)


def first_history(step: float, start: Tensor, start_rate: Tensor) -> Tensor:
    """ẏ(t + γh) = σ·y(t + γh) - history: the trapezoidal rule."""
    return shift(step) * start + start_rate


def second_history(step: float, start: Tensor, middle: Tensor) -> Tensor:
    """ẏ(t + h) = σ·y(t + h) - history: BDF2 over t, t + γh, t + h.

    With ``middle`` equal to ``start`` it is backward Euler over 2/σ.
    """
    return shift(step) * (MIDDLE * middle + (1.0 - MIDDLE) * start)


def local_error(step: float, start_rate: Tensor, middle_rate: Tensor, end_rate: Tensor) -> Tensor:
    """Estimated error of y after one step, from ẏ at its three points (Bank et al., eq. 31)."""
    slope = (
        start_rate / GAMMA
        - middle_rate / (GAMMA * (1.0 - GAMMA))
        + end_rate / (1.0 - GAMMA)
    )
    return 2.0 * ERROR * step * slope


def quadrature(step: float, start: Tensor, middle: Tensor, end: Tensor) -> Tensor:
    """Integral over a step of the parabola through a function's values at its three points.

    Exact for a power that is quadratic in time, such as that of sources on a ramp.
    """
    return step * (QUADRATURE[0] * start + QUADRATURE[1] * middle + QUADRATURE[2] * end)


class Points(NamedTuple):
    """A function at the three points of a step, and at the stage of the step before.

    Attributes:
        start: Any shape.
        middle: The same.
        end: The same.
        earlier: The same, or None where a corner of the inputs lies between.
        length: s, from there to the start.
    """

    start: Tensor
    middle: Tensor
    end: Tensor
    earlier: Tensor | None
    length: float

    def at(self, part: float) -> Tensor:
        """The parabola through the three points."""
        first, second = self._differences(1.0)
        return self.start + part * (first + (part - GAMMA) * second)

    def error(self, step: float) -> Tensor:
        """How far the function is from that parabola within the step, at most.

        From the third divided difference, the one with the point before. Right behind a corner
        there is none: then the third derivative is taken to be three times the second one in a
        step (an exponential of time constant step/3), and the next step knows.
        """
        first, second = self._differences(step)
        if self.earlier is None:
            return SPAN * step**2 * second.abs()
        past = (self.start - self.earlier) / self.length
        before = (first - past) / (GAMMA * step + self.length)
        return SPAN * step**3 * ((second - before) / (step + self.length)).abs()

    def _differences(self, step: float) -> tuple[Tensor, Tensor]:
        """First and second divided difference."""
        first = (self.middle - self.start) / (GAMMA * step)
        last = (self.end - self.middle) / ((1.0 - GAMMA) * step)
        return first, (last - first) / step


@dataclass(frozen=True)
class StepControl:
    """How steps are chosen.

    Attributes:
        tolerance: V, largest error of any output of any sample at any time, estimated: of time
            points (what is left of charges' local errors once they have been taken back, see
            :mod:`imac_torch.transient.accuracy`, those of all steps before included) and between
            them, by :func:`imac_torch.results.waveform.sample`. Powers keep the same tolerance
            relative to vdd and to their largest value, but in steps so short that nothing in them
            costs energy.
        smallest: s; a step that would be shorter is an error. A rectifier's kink that is crossed at
            1 V/ps takes 1e-17 s for a tolerance of 1e-5 V.
        largest: s, or None for a tenth of the period.
        fixed: s; equal steps of this size instead (convergence studies).
        grid: s, ascending, from the start of the first period to the end of the last; steps end at
            these times instead, and are not controlled (comparison with another simulator on its
            own points).
        method: ``tr-bdf2``, or ``trapezoidal`` for comparison with a simulator that uses it: with
            ideal sources it does not damp, and its error is not estimated, so that it needs
            ``fixed`` or ``grid``.
        euler_steps: With ``trapezoidal``: the first steps of all are taken by the backward Euler
            rule instead, as simulators do that start from an operating point (HSPICE: two).
    """

    tolerance: float = 1e-4
    smallest: float = 1e-18
    largest: float | None = None
    fixed: float | None = None
    grid: tuple[float, ...] | None = None
    method: Literal["tr-bdf2", "trapezoidal"] = "tr-bdf2"
    euler_steps: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SolverError: They make no sense.
        """
        for name in ("tolerance", "smallest", "largest", "fixed"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise SolverError(f"{name} = {value} must be positive and finite")
        if self.method not in {"tr-bdf2", "trapezoidal"}:
            raise SolverError(f"method = {self.method!r}: 'tr-bdf2' or 'trapezoidal'")
        if self.method == "trapezoidal" and self.adaptive:
            raise SolverError("the trapezoidal rule needs fixed steps or a grid")
        if self.euler_steps < 0 or (self.euler_steps and self.method != "trapezoidal"):
            raise SolverError(
                f"euler_steps = {self.euler_steps} must be >= 0, and 0 with {self.method!r}"
            )
        if self.grid is not None and (
            len(self.grid) < 1 or any(b <= a for a, b in pairwise(self.grid))
        ):
            raise SolverError("the grid must ascend and not be empty")

    @property
    def adaptive(self) -> bool:
        """Whether steps follow the estimated error."""
        return self.fixed is None and self.grid is None

    def within(self, start: float, duration: float) -> list[float]:
        """Grid times after ``start`` up to its ``duration`` later, relative to ``start``, s."""
        margin = 1e-9 * duration
        return [
            time - start
            for time in self.grid or ()
            if margin < time - start < duration + margin
        ]

    def proposal(
        self, step: float, error: float, longest: float, rungs: int = COARSE
    ) -> float:
        """The next step after one of ``step`` with the given error relative to the tolerance.

        Local errors grow with the third power. Steps are powers of √2 times each other (or of a
        smaller root, ``rungs`` steps to an octave), so that what was factored for one of them is
        met again.
        """
        if self.fixed is not None:
            return self.fixed
        factor = 2.0 if error <= 0.0 else min(2.0, max(0.2, 0.85 * error ** (-1.0 / 3.0)))
        wanted = min(step * factor, longest)
        return ladder(wanted, rungs)


def ladder(step: float, rungs: int = COARSE) -> float:
    """The largest power (s) of 2 to the 1/``rungs`` that is not above ``step``."""
    return float(2.0 ** (math.floor(rungs * math.log2(step) + 1e-9) / rungs))
