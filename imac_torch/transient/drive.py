"""The first layer's inputs: ramps between vectors, and what they make of its crossbars."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from imac_torch.config import Timing
from imac_torch.errors import SolverError
from imac_torch.transient.integrator import GAMMA, Rule, single_stage
from imac_torch.transient.lines import ExactLines, LineState, ReducedLines, input_currents

FORGOTTEN = 36.0
"""Time constants after which a ramp's transient is below rounding (e^-36 = 2e-16)."""


@dataclass(frozen=True)
class Sequence:
    """Input vectors one after the other.

    Attributes:
        vectors: (B, L+1, N) V: the initial one, then one per period.
        timing: Period and transition; each period begins with the ramp.
    """

    vectors: Tensor
    timing: Timing

    @property
    def periods(self) -> int:
        """L."""
        return int(self.vectors.shape[1]) - 1

    def ends(self, period: int) -> tuple[Tensor, Tensor]:
        """(B, N) V before and after the ramp of a period."""
        return self.vectors[:, period], self.vectors[:, period + 1]

    def fraction(self, time: float) -> float:
        """Of the ramp, ``time`` s after the start of its period."""
        return min(1.0, max(0.0, time / self.timing.transition))

    def slope(self, time: float, *, after: bool) -> float:
        """Of the fraction, 1/s; at a corner the one after or before it."""
        inside = 0.0 <= time < self.timing.transition if after else (
            0.0 < time <= self.timing.transition
        )
        return 1.0 / self.timing.transition if inside else 0.0


@dataclass(frozen=True)
class DrivePoint:
    """The first layer at one time.

    Attributes:
        combined: (B, M) V.
        inputs: (B,) W, delivered by the input sources.
        bias: (B,) W.
        positive_end: (B, M·L, H) V, or None where not asked for.
        negative_end: (B, M·L, H) V.
    """

    combined: Tensor
    inputs: Tensor
    bias: Tensor
    positive_end: Tensor | None
    negative_end: Tensor | None


class Drive(Protocol):
    """The first layer under known inputs; times count from the start of a period."""

    def begin(self, period: int) -> None:
        """Enter a period."""
        ...

    def at_start(self) -> DrivePoint:
        """The present time's values, slopes those after a corner."""
        ...

    def try_step(
        self, time: float, step: float, rule: Rule
    ) -> tuple[DrivePoint, DrivePoint, Tensor]:
        """Values at the two stages of a step, and (B,) V estimated local error.

        Rules of one stage have the end twice, and no estimate.
        """
        ...

    def accept(self) -> None:
        """Keep the step tried last."""
        ...


class RampDrive:
    """Closed form: all inputs ramp alike, so that a period needs K+2 products in all.

    The response of x^k = (s/(s + p))^k to a ramp is elementary, whence no step is ever limited
    by the crossbars of the first layer.
    """

    def __init__(self, lines: ReducedLines, sequence: Sequence, vdd: float, *, ends: bool) -> None:
        self.lines, self.sequence, self.vdd, self.ends = lines, sequence, vdd, ends
        timing = sequence.timing
        rest = (timing.period - timing.transition) * lines.model.pole
        if lines.model.order and rest < FORGOTTEN:
            least = timing.transition + FORGOTTEN / lines.model.pole
            raise SolverError(
                f"period = {timing.period:.3g} s is not long enough for the reduced model of the "
                f"first layer (at least {least:.3g} s); use wires='exact'"
            )
        self._time = 0.0

    def _lines(self, inputs: Tensor, bias: float) -> Tensor:
        return torch.nn.functional.pad(inputs, (0, 1), value=bias)

    def begin(self, period: int) -> None:
        """See :class:`Drive`."""
        model, layout = self.lines.model, self.lines.ports.layout
        before, after = self.sequence.ends(period)
        old, change = self._lines(before, self.vdd), self._lines(after - before, 0.0)
        self._before, self._change = before, after - before
        orders = range(model.order + 1)
        self._combined = old @ self.lines.transfers[0].T
        self._changes = torch.stack([change @ self.lines.transfers[k].T for k in orders])
        currents = input_currents(model.admittance[0], layout, old)
        moved = torch.stack([input_currents(model.admittance[k], layout, change) for k in orders])
        self._bias = self.vdd * currents[:, -1]
        self._bias_changes = self.vdd * moved[..., -1]
        self._power = (
            (before * currents[:, :-1]).sum(-1),
            (self._change * currents[:, :-1]).sum(-1),
            (before * moved[..., :-1]).sum(-1),
            (self._change * moved[..., :-1]).sum(-1),
        )
        charge = model.port_capacitance[:-1] * self._change
        self._pins = ((before * charge).sum(-1), (self._change * charge).sum(-1))
        if self.ends:
            shares, shares_change = layout.gather_inputs(old), layout.gather_inputs(change)
            self._ends = [
                (
                    torch.einsum("mhk,bhk->bmh", layout.gather_inputs(end[0]), shares),
                    torch.stack([
                        torch.einsum("mhk,bhk->bmh", layout.gather_inputs(end[k]), shares_change)
                        for k in orders
                    ]),
                )
                for end in (model.positive_end, model.negative_end)
            ]
        self._time = 0.0

    def responses(self, time: float) -> Tensor:
        """(K+1,) of x^k to the ramp from 0 to 1."""
        return ramp_responses(
            time, self.sequence.timing.transition, self.lines.model.pole, self.lines.model.order
        ).to(self._combined)

    def at(self, time: float, *, after: bool) -> DrivePoint:
        """Values at a time; at a corner, slopes after or before it."""
        response = self.responses(time)
        fraction, slope = self.sequence.fraction(time), self.sequence.slope(time, after=after)
        old_old, change_old, old_change, change_change = self._power
        inputs = old_old + fraction * change_old
        inputs = inputs + torch.tensordot(response, old_change + fraction * change_change, dims=1)
        inputs = inputs + slope * (self._pins[0] + fraction * self._pins[1])
        ends = [None, None]
        if self.ends:
            ends = [old + torch.tensordot(response, change, dims=1) for old, change in self._ends]
        return DrivePoint(
            self._combined + torch.tensordot(response, self._changes, dims=1),
            inputs,
            self._bias + torch.tensordot(response, self._bias_changes, dims=1),
            ends[0],
            ends[1],
        )

    def at_start(self) -> DrivePoint:
        """See :class:`Drive`."""
        return self.at(self._time, after=True)

    def try_step(
        self, time: float, step: float, rule: Rule
    ) -> tuple[DrivePoint, DrivePoint, Tensor]:
        """See :class:`Drive`."""
        self._tried = time + step
        end = self.at(time + step, after=False)
        middle = self.at(time + GAMMA * step, after=True) if rule == "tr-bdf2" else end
        return middle, end, torch.zeros_like(end.inputs)

    def accept(self) -> None:
        """See :class:`Drive`."""
        self._time = self._tried


def ramp_responses(time: float, transition: float, pole: float, order: int) -> Tensor:
    """Responses of (s/(s + p))^k, k = 0 … K, to a ramp from 0 to 1 within ``transition``.

    The response to a ramp of unit slope is t for k = 0, (1 - e^-pt)/p for k = 1 and, because
    s^m/(s + p)^(m+2) = Σ_j C(m, j)·(-p)^j/(s + p)^(j+2), the polynomial
    Σ_j C(m, j)·(-p)^j·t^(j+1)/(j+1)!·e^-pt with m = k - 2 beyond.
    """

    def unit(t: float) -> list[float]:
        if t <= 0.0:
            return [0.0] * (order + 1)
        decay = math.exp(-pole * t)
        result = [t, -math.expm1(-pole * t) / pole]
        for m in range(order - 1):
            result.append(decay * t * sum(
                math.comb(m, j) * (-pole * t) ** j / math.factorial(j + 1) for j in range(m + 1)
            ))
        return result[: order + 1]

    rising, falling = unit(time), unit(time - transition)
    return torch.tensor(
        [(a - b) / transition for a, b in zip(rising, falling, strict=True)],
        dtype=torch.float64,
        device="cpu",
    )


class StepDrive:
    """Every node of the first layer's crossbars, stepped with the rest."""

    def __init__(self, lines: ExactLines, sequence: Sequence, vdd: float, *, ends: bool) -> None:
        self.lines, self.sequence, self.vdd, self.ends = lines, sequence, vdd, ends
        self._period = 0
        self._state = lines.start(self._voltages(0.0))
        self._time = 0.0

    def _voltages(self, time: float) -> Tensor:
        before, after = self.sequence.ends(self._period)
        inputs = before + self.sequence.fraction(time) * (after - before)
        return torch.nn.functional.pad(inputs, (0, 1), value=self.vdd)

    def begin(self, period: int) -> None:
        """See :class:`Drive`."""
        self._period, self._time = period, 0.0

    def _point(self, time: float, state: LineState, *, after: bool) -> DrivePoint:
        voltages = self._voltages(time)
        currents = self.lines.currents(state, voltages)
        before, following = self.sequence.ends(self._period)
        slope = self.sequence.slope(time, after=after) * (following - before)
        charging = self.lines.blocks.port_capacitance[:-1] * slope
        positive, negative = self.lines.end_voltages(state, voltages)
        ports = self.lines.ports
        return DrivePoint(
            ports.combine_ends(positive, negative),
            (voltages[:, :-1] * (currents[:, :-1] + charging)).sum(-1),
            self.vdd * currents[:, -1],
            positive,
            negative,
        )

    def at_start(self) -> DrivePoint:
        """See :class:`Drive`."""
        return self._point(self._time, self._state, after=True)

    def try_step(
        self, time: float, step: float, rule: Rule
    ) -> tuple[DrivePoint, DrivePoint, Tensor]:
        """See :class:`Drive`."""
        if rule != "tr-bdf2":
            spread = single_stage(rule, step)
            history = (
                self.lines.second(self._state, self._state, spread)
                if rule == "euler"
                else self.lines.first(self._state, spread)
            )
            self._next = self.lines.close(history, self._voltages(time + step))
            self._tried = time + step
            point = self._point(self._tried, self._next, after=False)
            return point, point, torch.zeros_like(point.inputs)
        first = self.lines.first(self._state, step)
        middle = self.lines.close(first, self._voltages(time + GAMMA * step))
        second = self.lines.second(self._state, middle, step)
        end = self.lines.close(second, self._voltages(time + step))
        self._next, self._tried = end, time + step
        return (
            self._point(time + GAMMA * step, middle, after=True),
            self._point(time + step, end, after=False),
            self.lines.error(step, self._state, middle, end),
        )

    def accept(self) -> None:
        """See :class:`Drive`."""
        self._state, self._time = self._next, self._tried
