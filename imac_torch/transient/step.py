"""One step of the whole network: both stages layer after layer, and their local error."""

from __future__ import annotations

import math
from collections.abc import Sequence as Items
from dataclasses import fields
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.dc.anderson import Anderson
from imac_torch.dc.network import solve_dc
from imac_torch.dc.newton import NewtonOptions
from imac_torch.results.solution import Power, Status
from imac_torch.transient.accuracy import (
    LEFT,
    LEFT_BEHIND,
    Earlier,
    Unseen,
    between_errors,
    corrected,
    corrected_middle,
    correction,
    power_errors,
    recorded,
)
from imac_torch.transient.drive import Drive, DrivePoint, FoundDrive, RampDrive, Sequence, StepDrive
from imac_torch.transient.found import Found, FoundLines
from imac_torch.transient.integrator import (
    GAMMA,
    Rule,
    first_history,
    second_history,
    shift,
    single_stage,
)
from imac_torch.transient.kinks import met_kinks, slopes
from imac_torch.transient.lines import (
    LineHistory,
    Lines,
    LineState,
    ReducedLines,
)
from imac_torch.transient.neuronstage import (
    StageInputs,
    StageLoad,
    StageSolution,
    StageSystem,
    solve_stage,
)
from imac_torch.transient.options import TransientOptions
from imac_torch.transient.power import Powers, line_ends, source_powers
from imac_torch.transient.preparation import DynamicLayer
from imac_torch.transient.state import RATES, NeuronState, StageState, present, with_bias

NEWTON_SHARE: Final = 1e-2
"""Newton's method stops at this part of the step control's tolerance."""

UNRESOLVED: Final = 1e-15
"""s. Powers of shorter steps are not controlled: there is no energy in them."""

_CHARGES: Final = ("gate_charge", "output_charge", "supply_charge")


def extrapolation(times: Items[float], at: float) -> dict[int, float]:
    """Weights of values at up to three times, by their places, for the value at a later one."""
    # Far beyond the points a parabola is worse than a line.
    final = len(times) - 1
    last, reach = times[final], at - times[final]
    kept = [k for k, time in enumerate(times) if last - time > 0.2 * reach or k == final]
    if len(kept) == 3 and last - times[kept[0]] < 0.8 * reach:
        kept = kept[1:]
    return {
        k: math.prod((at - times[j]) / (times[k] - times[j]) for j in kept if j != k)
        for k in kept
    }


class FailedStep(NamedTuple):
    """Newton's method did not converge: the first sample and layer (from 0) where."""

    sample: int
    layer: int


class TriedStep(NamedTuple):
    """A step.

    Attributes:
        errors: (layers, B) estimated errors relative to the tolerance.
        middle: Neurons at its stage.
        neurons: At its end.
        lines: At its end.
        powers: At its stage and its end.
        slopes: Of the neurons' curves there; empty for rules of one stage.
        recorded: (B, M) V of every layer, outputs at its end as waveforms have them; empty: as they
            are.
        unseen: For the next step's estimate.
        between: (B, M) V of every layer, outputs at its stage.
    """

    errors: Tensor
    middle: list[NeuronState]
    neurons: list[NeuronState]
    lines: list[LineState | None]
    powers: tuple[Powers, Powers]
    slopes: tuple[list[Tensor], list[Tensor]] = ([], [])
    recorded: Items[Tensor] = ()
    unseen: Unseen | None = None
    between: Items[Tensor] = ()

    @property
    def error(self) -> float:
        """The largest one."""
        return float(self.errors.max())

    @property
    def worst(self) -> tuple[int, int]:
        """Sample and layer (from 0) of the largest error."""
        layer, sample = divmod(int(self.errors.argmax()), self.errors.shape[1])
        return sample, layer


class Stepper:
    """The network's present state, and steps from it.

    It begins with the DC solution of the sequence's first vector.

    Attributes:
        marches: Whether it goes from corner to corner by itself.
    """

    marches = False

    def __init__(
        self, layers: Items[DynamicLayer], sequence: Sequence, options: TransientOptions
    ) -> None:
        loaded = layers[-1].with_load(sequence.timing.load_capacitance)
        self.layers = (*layers[:-1], loaded)
        self.sequence, self.options = sequence, options
        self.vdd = float(layers[0].static.vdd)
        first, ends = layers[0].lines, options.amplifiers or layers[0].slow.each
        self.drive: Drive
        if isinstance(first, FoundLines):
            self.drive = FoundDrive(first, sequence, self.vdd)
        elif isinstance(first, ReducedLines):
            self.drive = RampDrive(first, sequence, self.vdd, ends=ends)
        else:
            self.drive = StepDrive(first, sequence, self.vdd)
        self.tolerance = options.control.tolerance * NEWTON_SHARE
        solution = solve_dc(
            [layer.static for layer in layers],
            sequence.vectors[:, 0],
            options=NewtonOptions(tolerance=min(1e-9, self.tolerance)),
            power=False,
        )
        self.status = solution.status
        self.alive = solution.status == int(Status.CONVERGED)
        self.lines: list[LineState | None] = [None]
        self.neurons: list[NeuronState] = []
        for k, found in enumerate(solution.layers):
            self.neurons.append(self._settled(k, found.combined, found.gates, found.outputs))
            if k + 1 < len(layers):
                self.lines.append(layers[k + 1].lines.start(with_bias(found.outputs, self.vdd)))
        batch = len(solution.status)
        self.reduction_error = solution.outputs.new_zeros(batch)
        self.inside = torch.ones(batch, dtype=torch.bool, device=solution.outputs.device)
        self.drive.begin(0)
        for k, layer in enumerate(self.layers):
            if layer.slow.lag.order:
                level = self.neurons[k].combined
                if layer.slow.each:
                    level = self._outputs(k, self.drive.at_start(), self.lines, self.neurons)
                rest = layer.slow.at_rest(level)
                self.neurons[k] = self.neurons[k]._replace(
                    lag=rest, lag_rate=torch.zeros_like(rest)
                )
        self.recorded: Items[Tensor] = [layer.outputs for layer in self.neurons]
        self.corner()
        self.largest = self.power().total.abs()
        self._taken = 0
        # Neurons at the last two points, and when (s from now): what guesses start from.
        self.before: list[tuple[float, list[NeuronState]]] = []
        self._earlier: Earlier | None = None
        self._slopes: list[Tensor] | None = None
        # Behind a corner currents into charges jump within time constants that may be attoseconds
        # (a capacitance behind an ideal amplifier's 1 mΩ). A power that is all wrong for this long
        # costs as much energy as one that is wrong by the tolerance during all of a transition.
        control = options.control
        self._shortest = max(
            control.tolerance / self.vdd * sequence.timing.transition, UNRESOLVED
        )
        self.unloaded = StageLoad(None, layers[-1].ports.outputs)

    def _load(self, k: int, step: float) -> StageLoad:
        if k + 1 < len(self.layers):
            return self.layers[k + 1].lines.matrices(step).load
        return self.unloaded

    def _settled(self, k: int, combined: Tensor, gates: Tensor, outputs: Tensor) -> NeuronState:
        zero = torch.zeros_like(gates)
        neurons = self.layers[k].neurons
        charges, currents = neurons.state(gates, outputs), neurons.static(gates, outputs)
        none = zero.new_zeros(0)
        return NeuronState(
            gates, outputs, *charges, zero, zero, zero, *currents, combined, none, none
        )

    def _outputs(
        self,
        k: int,
        point: DrivePoint,
        lines: Items[LineState | None],
        neurons: Items[NeuronState],
    ) -> Tensor:
        """(B, M·L, H) V of the read-outs of layer k, before their poles."""
        ends = line_ends(self.layers, point, lines, neurons, k)
        return ends.output(self.layers[k].slow.read_out)

    def _rule(self) -> Rule:
        control = self.options.control
        return "euler" if self._taken < control.euler_steps else control.method

    def begin(self, period: int) -> None:
        """Enter a period."""
        if period:
            self.drive.begin(period)
        self.corner()
        after = self.sequence.ends(period)[1]
        goal = solve_dc([layer.static for layer in self.layers], after).power
        if goal is not None:
            # Where that has no solution, what has been seen so far has to do.
            reached = torch.stack([getattr(goal, part.name) for part in fields(Power)]).abs()
            self.largest = torch.maximum(self.largest, reached.nan_to_num(nan=0.0))

    def corner(self) -> None:
        """The inputs have a corner here: what was before it says nothing of what follows."""
        self._earlier = None
        self._unseen: Unseen | None = None
        self._now = self._power(self.drive.at_start(), self.lines, self.neurons)

    def power(self) -> Powers:
        """Now; at a corner, after it."""
        return self._now

    def attempt(self, time: float, step: float) -> TriedStep | FailedStep:
        """Try a step; the state stays what it is.

        Args:
            time: s from the start of the period.
            step: s.
        """
        rule = self._rule()
        middle_point, end_point, drive = self.drive.try_step(
            time, step, rule, behind=self._unseen is None
        )
        start = StageState(self.neurons, self.lines, [], 0.0)
        # Backward Euler is BDF2 whose middle is the start.
        before = start if rule == "euler" else None
        length = step if rule == "tr-bdf2" else single_stage(rule, step)
        middle = self._stage(length, middle_point, before)
        if isinstance(middle, FailedStep):
            return middle
        if rule != "tr-bdf2":
            power = self._power(end_point, middle.lines, middle.neurons)
            unknown = power.total.new_zeros(len(self.layers), len(self.alive))
            return TriedStep(
                unknown, middle.neurons, middle.neurons, middle.lines, (power, power)
            )
        end = self._stage(step, end_point, middle)
        if isinstance(end, FailedStep):
            return end
        powers = (
            self._power(middle_point, middle.lines, middle.neurons),
            self._power(end_point, end.lines, end.neurons),
        )
        loads = [self._load(k, step) for k in range(len(self.layers))]
        states = start, middle, end
        found = correction(self.layers, loads, step, states, drive, self._unseen)
        passed = corrected_middle(middle, found)
        neurons, lines = corrected(self.layers, step, states, found)
        unseen: Unseen | None = found.unseen(step)
        ends = recorded(neurons, found)
        if self._earlier is None and not self.options.control.adaptive:
            # Control keeps the first step behind a corner so short that what jumps there is within
            # the tolerance. Of given steps the first one's error is that of the jump.
            unseen, ends = None, [layer.outputs for layer in neurons]
        points = (self.recorded, [layer.outputs for layer in passed], ends)
        charges = (LEFT_BEHIND if self._earlier is None else LEFT) * found.largest
        kinks = met_kinks(self.layers, step, states, self._slopes, self._earlier)
        charges = torch.where(kinks.met, LEFT_BEHIND * found.largest, charges)
        charges = torch.maximum(charges, kinks.errors)
        errors = self._errors(step, points, charges, powers)
        curves = slopes(middle), slopes(end)
        return TriedStep(
            errors, passed, neurons, lines, powers, curves, ends, unseen, points[1]
        )

    def _errors(
        self,
        step: float,
        points: tuple[Items[Tensor], Items[Tensor], Items[Tensor]],
        charges: Tensor,
        powers: tuple[Powers, Powers],
    ) -> Tensor:
        """(layers, B), relative to the tolerance; powers count as the first layer's."""
        errors = torch.maximum(charges, between_errors(step, points, self._earlier))
        if step > self._shortest:
            first, second, third = (
                power.total - power.charging for power in (self.power(), *powers)
            )
            relative = power_errors(step, (first, second, third), self._earlier, self.largest)
            errors[0] = torch.maximum(errors[0], self.vdd * relative)
        # A sample whose initial point failed must not hold the others up.
        return torch.where(self.alive, errors, 0.0) / self.options.control.tolerance

    def accept(self, tried: TriedStep, step: float) -> None:
        """Go to the end of the step tried last."""
        self.drive.accept()
        two_stages = self._rule() == "tr-bdf2"
        self.before = [(-step, self.neurons)]
        if two_stages:
            self.before.append(((GAMMA - 1.0) * step, tried.middle))
        if two_stages:
            middle = tried.powers[0]
            self._earlier = Earlier(
                tried.middle,
                middle.total - middle.charging,
                (1.0 - GAMMA) * step,
                tried.slopes[0],
            )
            self._slopes = tried.slopes[1]
        self._now = tried.powers[1]
        for power in tried.powers:
            self.largest = torch.maximum(self.largest, power.total.abs())
        self._taken += 1
        self.neurons, self.lines = tried.neurons, tried.lines
        self.recorded = tried.recorded or [layer.outputs for layer in tried.neurons]
        self._unseen = tried.unseen
        for k, layer in enumerate(self.neurons):
            core = self.layers[k].static.neuron.core
            self.inside &= core.inside(layer.gates, layer.outputs).all(dim=-1)
            state, lines = self.lines[k], self.layers[k].lines
            if isinstance(lines, Found):
                self._accept_found(k, lines)
                continue
            if state is None:
                left = self.drive.left_out()
            elif isinstance(lines, ReducedLines):
                left = lines.left_out(state, with_bias(self.neurons[k - 1].outputs, self.vdd))
            else:
                continue
            self.reduction_error = torch.maximum(self.reduction_error, left)

    def _accept_found(self, k: int, lines: Found) -> None:
        """Crossbars that are solved at the present voltages; nothing of them is left out."""
        lines.renew()
        if lines.limited:
            drive = self.drive
            if k == 0 and isinstance(drive, FoundDrive | StepDrive):
                self.inside &= lines.inside(drive.present)
            else:
                self.inside &= lines.inside(self.neurons[k - 1].outputs)

    def _stage(
        self, step: float, point: DrivePoint, middle: StageState | None
    ) -> StageState | FailedStep:
        sigma = shift(step)
        neurons: list[NeuronState] = []
        lines: list[LineState | None] = [None]
        systems: list[StageSystem] = []
        combined = point.combined
        for k, layer in enumerate(self.layers):
            start = self.neurons[k]

            def history(name: str, start: NeuronState = start, k: int = k) -> Tensor:
                if middle is None:
                    return first_history(
                        step, getattr(start, f"{name}"), getattr(start, RATES[name])
                    )
                return second_history(step, getattr(start, name), getattr(middle.neurons[k], name))

            past: LineHistory | None = None
            load = self._load(k, step)
            offset = torch.zeros_like(combined)
            if k + 1 < len(self.layers):
                following: Lines = self.layers[k + 1].lines
                state = present(self.lines[k + 1])
                past = (
                    following.first(state, step)
                    if middle is None
                    else following.second(state, present(middle.lines[k + 1]), step)
                )
                bias = self.vdd * following.matrices(step).bias
                offset = (bias + past.currents)[:, :-1]
            held = {name: history(name) for name in _CHARGES}
            lag, lag_rate, slow = start.lag, start.lag_rate, layer.slow
            if slow.lag.order:
                level = self._outputs(k, point, lines, neurons) if slow.each else combined
                lag, lag_rate = slow.lag.stage(sigma, level, history("lag"))
                combined = slow.combined(lag)
            gates, outputs = self._guess(k, step, None if middle is None else middle.neurons[k])
            stage = StageInputs(
                sigma,
                combined,
                offset,
                held["gate_charge"],
                held["output_charge"],
                gates,
                outputs,
            )
            solved = self._solved(k, stage, load)
            failed = ~solved.converged & self.alive
            if bool(failed.any()):
                return FailedStep(int(failed.nonzero()[0, 0]), k)
            outputs = solved.outputs
            rates = [sigma * getattr(solved, name) - held[name] for name in _CHARGES]
            neurons.append(
                NeuronState(
                    gates=solved.gates,
                    outputs=outputs,
                    gate_charge=solved.gate_charge,
                    output_charge=solved.output_charge,
                    supply_charge=solved.supply_charge,
                    gate_rate=rates[0],
                    output_rate=rates[1],
                    supply_rate=rates[2],
                    gate_current=solved.gate_current,
                    supply_current=solved.supply_current,
                    combined=combined,
                    lag=lag,
                    lag_rate=lag_rate,
                )
            )
            systems.append(solved.system)
            if past is not None:
                following = self.layers[k + 1].lines
                voltages = with_bias(outputs, self.vdd)
                lines.append(following.close(past, voltages))
                combined = (
                    following.combined(outputs)
                    if isinstance(following, Found)
                    else voltages @ following.matrices(step).transfer.T + past.combined
                )
        return StageState(neurons, lines, systems, sigma)

    def _solved(self, k: int, stage: StageInputs, load: StageLoad) -> StageSolution:
        """Neurons of layer k, in turns with crossbars behind that are no linear network."""
        following = self.layers[k + 1].lines if k + 1 < len(self.layers) else None
        limit = self.options.max_iterations
        if not isinstance(following, Found):
            return solve_stage(
                self.layers[k].neurons, stage, load, tolerance=self.tolerance, limit=limit
            )
        offset, outputs = stage.offset, stage.outputs
        acceleration = Anderson() if following.accelerated else None
        for turn in range(limit):
            stage = stage._replace(offset=offset + following.drawn(outputs))
            solved = solve_stage(
                self.layers[k].neurons, stage, load, tolerance=self.tolerance, limit=limit
            )
            change = solved.outputs - outputs
            moved = change.abs().amax(-1)
            if not following.loads or not bool((moved > self.tolerance)[self.alive].any()):
                following.took(turn + 1)
                return solved
            if acceleration is not None:
                change = acceleration.step(outputs, change)
            outputs = outputs + change
            stage = stage._replace(gates=solved.gates, outputs=solved.outputs)
        following.took(limit)
        return solved._replace(converged=solved.converged & ~(moved > self.tolerance))

    def _guess(self, k: int, step: float, middle: NeuronState | None) -> tuple[Tensor, Tensor]:
        """Gates and outputs at the end of a stage, extrapolated from up to three points."""
        known = [(time, neurons[k]) for time, neurons in self.before]
        start, at = self.neurons[k], GAMMA * step
        known.append((0.0, start))
        if middle is not None:
            known, at = [*known[-2:], (at, middle)], step
        weights = extrapolation([time for time, _ in known], at)
        gates, outputs = torch.zeros_like(start.gates), torch.zeros_like(start.outputs)
        for place, weight in weights.items():
            gates.add_(known[place][1].gates, alpha=weight)
            outputs.add_(known[place][1].outputs, alpha=weight)
        return gates, outputs

    def _power(
        self, point: DrivePoint, lines: Items[LineState | None], neurons: Items[NeuronState]
    ) -> Powers:
        return source_powers(
            self.layers, point, lines, neurons, amplifiers=self.options.amplifiers
        )
