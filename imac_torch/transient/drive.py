"""The first layer's inputs: ramps between vectors, and what they make of its crossbars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from imac_torch.config import Timing
from imac_torch.elimination.ports import input_currents
from imac_torch.numeric.budget import REDUCED_STEP_SIZES
from imac_torch.transient.accuracy import SEEN, LineCorrection, sum_of
from imac_torch.transient.charged import ChargedLines
from imac_torch.transient.dynamics import exponentials, ramp_peak, ramp_step
from imac_torch.transient.found import FoundLines
from imac_torch.transient.integrator import GAMMA, Rule, single_stage
from imac_torch.transient.lines import (
    Ends,
    ExactLines,
    LineState,
    ReducedLines,
)

FORGOTTEN = 1e-15
"""Part of a ramp that is no more to be seen behind any filter."""


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
        ends: Of its lines, or None where not asked for.
        energy: (2, B) J that inputs and bias have delivered by now, where that is known by more
            than the powers at time points; None: it is not.
    """

    combined: Tensor
    inputs: Tensor
    bias: Tensor
    ends: Ends | None
    energy: Tensor | None = None


class Drive(Protocol):
    """The first layer under known inputs; times count from the start of a period."""

    def begin(self, period: int) -> None:
        """Enter a period."""
        ...

    def at_start(self) -> DrivePoint:
        """The present time's values, slopes those after a corner."""
        ...

    def try_step(
        self, time: float, step: float, rule: Rule, *, behind: bool
    ) -> tuple[DrivePoint, DrivePoint, LineCorrection | None]:
        """Values at the two stages of a step, and what is to be added to them, if anything.

        Rules of one stage have the end twice, and no correction. ``behind``: a corner is at its
        start.
        """
        ...

    def accept(self) -> None:
        """Keep the step tried last."""
        ...

    def left_out(self) -> Tensor:
        """(B,) V at the combined amplifier voltages, of the present time's model."""
        ...


@dataclass
class _Ramp:
    """One change of the inputs, and what of it has not been forgotten.

    Attributes:
        filtered: (K+1,) behind each filter, of a ramp from 0 to 1; the last one is the error's.
        slope: 1/s, of that ramp now.
        combined: (K, B, M) V per filter, of the change.
        bias: (K, B) A, of the bias line.
        ends: (K, B, M·L, H) V twice, or nothing.
        change: (B, C) V.
        currents: (K, B, N) A, of the other lines.
    """

    filtered: Tensor
    slope: float
    combined: Tensor
    bias: Tensor
    ends: list[Tensor]
    change: Tensor
    currents: Tensor


class RampDrive:
    """Closed form: all inputs ramp alike, so that a period needs K+2 products in all.

    Behind a filter a ramp from 0 to 1 is the solution of x' = slope - p·x, which is stepped
    exactly, and so is the energy of the first layer's inputs: no step is ever limited by it.
    """

    def __init__(self, lines: ReducedLines, sequence: Sequence, vdd: float, *, ends: bool) -> None:
        self.lines, self.sequence, self.vdd, self.ends = lines, sequence, vdd, ends
        self._time = 0.0
        self._ramps: list[_Ramp] = []
        model = lines.model
        self._poles = model.poles.cpu()
        self._steps: dict[float, tuple[Tensor, Tensor]] = {}
        self._wholes: dict[float, tuple[Tensor, Tensor]] = {}
        self._peak = (
            ramp_peak(self._poles, model.missed, sequence.timing.transition)
            if self._stepped
            else 0.0
        )

    @property
    def _stepped(self) -> bool:
        return self.lines.model.order > 0

    def _lines(self, inputs: Tensor, bias: float) -> Tensor:
        return torch.nn.functional.pad(inputs, (0, 1), value=bias)

    def begin(self, period: int) -> None:
        """See :class:`Drive`."""
        model, layout = self.lines.model, self.lines.ports.layout
        before, after = self.sequence.ends(period)
        old, change = self._lines(before, self.vdd), self._lines(after - before, 0.0)
        self._change = after - before
        transfer = self.lines.transfers[0].T
        combined = [torch.stack([old @ transfer, change @ transfer])]
        static = [input_currents(model.admittance[0], layout, part) for part in (old, change)]
        power = [
            (voltages * part[:, :-1]).sum(-1) for voltages in (before, self._change)
            for part in static
        ]  # fmt: skip
        charge = self.lines.port_capacitance[:-1] * self._change
        rows = [torch.stack([
            power[0], power[1] + power[2], power[3],
            (before * charge).sum(-1), (self._change * charge).sum(-1),
            *(self.vdd * part[:, -1] for part in static),
        ])]  # fmt: skip
        if self.ends:
            resting, moved = self._seen(old, 1), self._seen(change, model.order + 1)
            self._ends = [resting[0], moved[0, :1], resting[1], moved[1, :1]]
        self._ramps = [
            ramp for ramp in self._ramps if float(ramp.filtered.abs().max()) > FORGOTTEN
        ]
        if self._stepped:
            later = range(1, model.order + 1)
            currents = torch.stack([
                input_currents(model.admittance[k], layout, change) for k in later
            ])
            self._ramps.append(_Ramp(
                torch.zeros_like(self._poles),
                1.0 / self.sequence.timing.transition,
                torch.stack([change @ self.lines.transfers[k].T for k in later]),
                currents[..., -1].clone(),
                [moved[0, 1:], moved[1, 1:]] if self.ends else [],
                change,
                currents[..., :-1],
            ))
        for ramp in self._ramps:
            combined.append(ramp.combined)
            rows += [
                (before * ramp.currents).sum(-1), (self._change * ramp.currents).sum(-1),
                self.vdd * ramp.bias,
            ]  # fmt: skip
        # What is there at a time is a few numbers times these.
        self._combined, self._rows = torch.cat(combined), torch.cat(rows)
        bias = self._rows.new_zeros(len(self._rows))
        bias[5:7] = 1.0
        for ends_at in range(1, len(self._ramps) + 1):
            last = 7 + 3 * model.order * ends_at
            bias[last - model.order : last] = 1.0
        self._mine = torch.stack([1.0 - bias, bias])[:, None]  # which are inputs', which the bias's
        self._time, self._energy = 0.0, before.new_zeros(2, len(before))
        self._left = self.lines.left_out_of(self._peak * change)

    def _seen(self, voltages: Tensor, terms: int) -> Tensor:
        """(2, terms, B, M·L, H) V of line ends, at rest and by the first filters, for (B, C) V."""
        each = self.lines.ends_by_line[:, :, :terms]
        found = self.lines.ports.blocks(voltages) @ each.flatten(2)
        return found.unflatten(-1, each.shape[2:]).permute(3, 2, 1, 4, 0)

    def _work(self, step: float) -> list[float]:
        """Weights of the rows in the energies of inputs and bias within ``step`` s from now."""
        part = self.sequence.fraction(self._time)
        slope = self.sequence.slope(self._time, after=True)
        once = part * step + slope * step**2 / 2
        twice = part**2 * step + part * slope * step**2 + slope**2 * step**3 / 3
        found = [step, once, twice, slope * step, slope * once, step, once]
        if self._ramps:
            poles = self._poles[:-1]
            whole = self._exponentials(step)
        for ramp in self._ramps:
            rest = ramp.slope / poles
            gone = ramp.filtered[:-1] - rest
            passed = rest * step + gone * whole[0]
            moved = part * passed + slope * (rest * (step**2 / 2) + gone * whole[1])
            found += [*passed.tolist(), *moved.tolist(), *passed.tolist()]
        return found

    def _exponentials(self, step: float) -> tuple[Tensor, Tensor]:
        if step not in self._wholes:
            if len(self._wholes) >= 2 * REDUCED_STEP_SIZES:
                self._wholes.clear()
            self._wholes[step] = exponentials(self._poles[:-1], step)
        return self._wholes[step]

    def _levels(self, part: float, slope: float, filtered: list[Tensor]) -> list[float]:
        """Weights of the rows in the powers of inputs and bias."""
        found = [1.0, part, part**2, slope, slope * part, 1.0, part]
        for everything in filtered:
            kept = everything[:-1].tolist()
            found += [*kept, *(part * value for value in kept), *kept]
        return found

    def _points(
        self, places: list[tuple[float, list[Tensor], bool]], energies: list[float] | None
    ) -> tuple[list[DrivePoint], Tensor]:
        """Values at times with what is behind the filters; at corners, slopes after them or before.

        Args:
            places: Of every point.
            energies: s from now to each, whose energies are added; None: these are those of now.

        Returns:
            The points, and the energy at the last one.
        """
        weights, shares = [], []
        for time, filtered, after in places:
            part = self.sequence.fraction(time)
            weights.append(self._levels(part, self.sequence.slope(time, after=after), filtered))
            shares.append([1.0, part, *(v for item in filtered for v in item[:-1].tolist())])
        weights += [self._work(step) for step in energies or ()]
        known = self._rows.new_tensor(weights)
        both = (known * self._mine) @ self._rows  # (2, n, B)
        kinds = self._rows.new_tensor(shares)
        combined = torch.tensordot(kinds, self._combined, dims=1)
        found, energy = [], self._energy
        for k, (time, filtered, _) in enumerate(places):
            if energies is not None:
                energy = self._energy + both[:, len(places) + k]
            ends = None
            if self.ends:
                ends = self._line_ends(self.sequence.fraction(time), filtered)
            found.append(DrivePoint(combined[k], both[0, k], both[1, k], ends, energy))
        return found, energy

    @property
    def basis(self) -> Ends:
        """(J, B, M·L, H) V of line ends, of which those of every time are made."""
        return Ends(*(
            torch.cat([*self._ends[2 * side : 2 * side + 2], *(r.ends[side] for r in self._ramps)])
            for side in range(2)
        ))

    def _line_ends(self, part: float, filtered: list[Tensor]) -> Ends:
        ends = [(self._ends[k] + part * self._ends[k + 1])[0] for k in (0, 2)]
        for ramp, everything in zip(self._ramps, filtered, strict=True):
            kept = everything[:-1].to(ends[0])
            ends = [
                end + torch.tensordot(kept, change, dims=1)
                for end, change in zip(ends, ramp.ends, strict=True)
            ]
        return Ends(*ends)

    def at_start(self) -> DrivePoint:
        """See :class:`Drive`."""
        filtered = [ramp.filtered for ramp in self._ramps]
        return self._points([(self._time, filtered, True)], None)[0][0]

    def _advanced(self, step: float) -> list[Tensor]:
        """What is behind the filters of every ramp ``step`` s later."""
        if step not in self._steps:
            if len(self._steps) >= REDUCED_STEP_SIZES:
                self._steps.clear()
            self._steps[step] = ramp_step(self._poles, step)
        decay, rise = self._steps[step]
        return [decay * ramp.filtered + ramp.slope * rise for ramp in self._ramps]

    def try_step(
        self, time: float, step: float, rule: Rule, *, behind: bool
    ) -> tuple[DrivePoint, DrivePoint, LineCorrection | None]:
        """See :class:`Drive`."""
        self._tried, self._next = time + step, self._advanced(step)
        places, spans = [(time + step, self._next, False)], [step]
        if rule == "tr-bdf2":
            places.insert(0, (time + GAMMA * step, self._advanced(GAMMA * step), True))
            spans.insert(0, GAMMA * step)
        points, self._tried_energy = self._points(places, spans)
        return points[0], points[-1], None

    def accept(self) -> None:
        """See :class:`Drive`."""
        self._time, self._energy = self._tried, self._tried_energy
        for ramp, filtered in zip(self._ramps, self._next, strict=True):
            ramp.filtered = filtered
        if self._ramps and self.sequence.slope(self._time, after=True) == 0.0:
            self._ramps[-1].slope = 0.0

    def powers(self) -> Tensor:
        """(2, B) W that inputs and bias deliver now; at a corner, after it."""
        part = self.sequence.fraction(self._time)
        slope = self.sequence.slope(self._time, after=True)
        levels = self._levels(part, slope, [ramp.filtered for ramp in self._ramps])
        return (self._rows.new_tensor(levels) * self._mine[:, 0]) @ self._rows

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What a period is made of, for :class:`imac_torch.kernels.drives.Drive`.

        (J, B, M) V, (n, B), (n,) int64, (ramps, K+1), (ramps,) 1/s, (K+1,) 1/s.
        """
        filtered = self._poles.new_zeros(len(self._ramps), len(self._poles))
        for k, ramp in enumerate(self._ramps):
            filtered[k] = ramp.filtered
        slopes = self._poles.new_tensor([ramp.slope for ramp in self._ramps])
        kinds = self._mine[1, 0].to(torch.int64)
        return self._combined, self._rows, kinds, filtered, slopes, self._poles

    def brought(self, time: float, filtered: Tensor) -> None:
        """Go to a time of the period (s), with what is behind the filters there."""
        self._time = time
        for ramp, values in zip(self._ramps, filtered, strict=True):
            ramp.filtered = values
        if self._ramps and self.sequence.slope(time, after=True) == 0.0:
            self._ramps[-1].slope = 0.0

    def left_out(self) -> Tensor:
        """(B,) V: see :meth:`imac_torch.transient.lines.ReducedLines.left_out`."""
        return self._left


class StepDrive:
    """Every node of the first layer's crossbars, stepped with the rest."""

    def __init__(
        self, lines: ExactLines | ChargedLines, sequence: Sequence, vdd: float
    ) -> None:
        self.lines, self.sequence, self.vdd = lines, sequence, vdd
        self._period = 0
        self._state = lines.start(self._voltages(0.0))
        self._time = 0.0
        # What rates do not show of the next step's errors, and the length of the step before.
        self._unseen: tuple[Any, float] | None = None
        self._tried_unseen: tuple[Any, float] | None = None

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
        charging = self.lines.port_capacitance[:-1] * slope
        ends = self.lines.ends(state, voltages)
        return DrivePoint(
            self.lines.ports.combine_ends(ends.positive, ends.negative),
            (voltages[:, :-1] * (currents[:, :-1] + charging)).sum(-1),
            self.vdd * currents[:, -1],
            ends,
        )

    def at_start(self) -> DrivePoint:
        """See :class:`Drive`."""
        return self._point(self._time, self._state, after=True)

    def try_step(
        self, time: float, step: float, rule: Rule, *, behind: bool
    ) -> tuple[DrivePoint, DrivePoint, LineCorrection | None]:
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
            return point, point, None
        first = self.lines.first(self._state, step)
        middle = self.lines.close(first, self._voltages(time + GAMMA * step))
        second = self.lines.second(self._state, middle, step)
        end = self.lines.close(second, self._voltages(time + step))
        self._tried = time + step
        error = self.lines.local_error(step, self._state, middle, end)
        if not behind and self._unseen is not None:
            error = sum_of(error, self._unseen[0], SEEN * step / self._unseen[1])
        seen = self.lines.changed(error, step)
        once = self.lines.close(seen, None)
        again = self.lines.changed(once.values, step)
        twice = self.lines.close(again, None)
        self._next = self.lines.sum(end, twice)
        self._tried_unseen = sum_of(sum_of(error, once.values, -2.0), twice.values, 1.0), step
        nothing = torch.zeros_like(self._voltages(time))
        read_out = self.lines.ports.read_out
        outputs = [self.lines.ends(part, nothing).output(read_out) for part in (once, twice)]
        return (
            self._point(time + GAMMA * step, middle, after=True),
            self._point(time + step, end, after=False),
            LineCorrection(outputs[0], outputs[1], self.lines.largest(once)),
        )

    def accept(self) -> None:
        """See :class:`Drive`."""
        self._state, self._time = self._next, self._tried
        self._unseen = self._tried_unseen

    @property
    def present(self) -> Tensor:
        """(B, N) V on the lines."""
        return self._voltages(self._time)[:, :-1]

    def left_out(self) -> Tensor:
        """See :class:`Drive`: nothing."""
        return torch.zeros_like(self._voltages(self._time)[:, 0])


class FoundDrive:
    """The first layer where it is found for all voltages.

    Args:
        lines: Of the first layer.
        sequence: Inputs and timing.
        vdd: V.
    """

    def __init__(self, lines: FoundLines, sequence: Sequence, vdd: float) -> None:
        self.lines, self.sequence, self.vdd = lines, sequence, vdd
        lines.start(torch.nn.functional.pad(sequence.vectors[:, 0], (0, 1), value=vdd))
        self._period, self._time, self._tried = 0, 0.0, 0.0

    def begin(self, period: int) -> None:
        """Enter a period."""
        self._period, self._time = period, 0.0

    def _voltages(self, time: float) -> Tensor:
        before, after = self.sequence.ends(self._period)
        return before + self.sequence.fraction(time) * (after - before)

    @property
    def present(self) -> Tensor:
        """(B, N) V on the lines."""
        return self._voltages(self._time)

    def _point(self, time: float) -> DrivePoint:
        voltages = self._voltages(time)
        seen = self.lines.seen(voltages)
        return DrivePoint(
            seen.combined,
            (voltages * seen.currents[:, :-1]).sum(-1),
            self.vdd * seen.currents[:, -1],
            seen.ends,
        )

    def at_start(self) -> DrivePoint:
        """The present time's values."""
        return self._point(self._time)

    def try_step(
        self, time: float, step: float, rule: Rule, *, behind: bool
    ) -> tuple[DrivePoint, DrivePoint, LineCorrection | None]:
        """Values at the two stages of a step; nothing is stepped, so nothing is to be added."""
        self._tried = time + step
        end = self._point(self._tried)
        return (end if rule != "tr-bdf2" else self._point(time + GAMMA * step)), end, None

    def accept(self) -> None:
        """Keep the step tried last."""
        self._time = self._tried

    def left_out(self) -> Tensor:
        """(B,) V: nothing."""
        return torch.zeros_like(self.sequence.ends(self._period)[0][:, 0])
