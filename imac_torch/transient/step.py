"""One step of the whole network: both stages layer after layer, and their local error."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.dc.network import solve_dc
from imac_torch.dc.newton import NewtonOptions
from imac_torch.solution import Status
from imac_torch.transient.drive import Drive, DrivePoint, RampDrive, Sequence, StepDrive
from imac_torch.transient.integrator import (
    GAMMA,
    Rule,
    first_history,
    local_error,
    second_history,
    shift,
    single_stage,
)
from imac_torch.transient.lines import (
    LineHistory,
    Lines,
    LineState,
    ReducedLines,
    input_currents,
)
from imac_torch.transient.neuronstage import (
    Linearised,
    StageInputs,
    StageLoad,
    propagate,
    solve_stage,
)
from imac_torch.transient.options import TransientOptions
from imac_torch.transient.power import source_powers
from imac_torch.transient.preparation import DynamicStage
from imac_torch.transient.state import RATES, NeuronState, StageState, present, with_bias

NEWTON_SHARE: Final = 1e-2
"""Newton's method stops at this part of the step control's tolerance."""


class FailedStep(NamedTuple):
    """Newton's method did not converge: the first sample and layer (from 0) where."""

    sample: int
    layer: int


class TriedStep(NamedTuple):
    """A step.

    Attributes:
        errors: (layers, B) estimated local errors relative to the tolerance.
        middle: Neurons at its stage.
        neurons: At its end.
        lines: At its end.
        powers: At its stage and its end.
    """

    errors: Tensor
    middle: list[NeuronState]
    neurons: list[NeuronState]
    lines: list[LineState | None]
    powers: tuple[Tensor, Tensor]

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

    Args:
        stages: The layers.
        sequence: Inputs and timing.
        options: Settings.
    """

    def __init__(
        self, stages: Items[DynamicStage], sequence: Sequence, options: TransientOptions
    ) -> None:
        loaded = stages[-1].with_load(sequence.timing.load_capacitance)
        self.stages = (*stages[:-1], loaded)
        self.sequence, self.options = sequence, options
        self.vdd = float(stages[0].static.vdd)
        first = stages[0].lines
        self.drive: Drive = (
            RampDrive(first, sequence, self.vdd, ends=options.amplifiers)
            if isinstance(first, ReducedLines)
            else StepDrive(first, sequence, self.vdd, ends=options.amplifiers)
        )
        self.tolerance = options.control.tolerance * NEWTON_SHARE
        solution = solve_dc(
            [stage.static for stage in stages],
            sequence.vectors[:, 0],
            options=NewtonOptions(tolerance=min(1e-9, self.tolerance)),
            power=False,
        )
        self.status = solution.status
        self.alive = solution.status == int(Status.CONVERGED)
        self.lines: list[LineState | None] = [None]
        self.neurons: list[NeuronState] = []
        for k, layer in enumerate(solution.layers):
            self.neurons.append(self._settled(k, layer.combined, layer.gates, layer.outputs))
            if k + 1 < len(stages):
                self.lines.append(stages[k + 1].lines.start(with_bias(layer.outputs, self.vdd)))
        batch = len(solution.status)
        self.reduction_error = solution.outputs.new_zeros(batch)
        self.inside = torch.ones(batch, dtype=torch.bool, device=solution.outputs.device)
        self.drive.begin(0)
        self._taken = 0
        # Neurons a while before, and how long: the slope that guesses start from.
        self.before: tuple[list[NeuronState], float] | None = None
        self.unloaded = StageLoad(None, stages[-1].static.ports.outputs)

    def _load(self, k: int, step: float) -> StageLoad:
        if k + 1 < len(self.stages):
            return self.stages[k + 1].lines.matrices(step).load
        return self.unloaded

    def _settled(self, k: int, combined: Tensor, gates: Tensor, outputs: Tensor) -> NeuronState:
        zero = torch.zeros_like(gates)
        neurons = self.stages[k].neurons
        charges, currents = neurons.state(gates, outputs), neurons.static(gates, outputs)
        return NeuronState(gates, outputs, *charges, zero, zero, zero, *currents, combined, zero)

    def _rule(self) -> Rule:
        control = self.options.control
        return "euler" if self._taken < control.euler_steps else control.method

    def begin(self, period: int) -> None:
        """Enter a period."""
        self.drive.begin(period)

    def power(self) -> Tensor:
        """(5, B) W now; at a corner, after it."""
        return self._power(self.drive.at_start(), self.lines, self.neurons)

    def attempt(self, time: float, step: float) -> TriedStep | FailedStep:
        """Try a step; the state stays what it is.

        Args:
            time: s from the start of the period.
            step: s.
        """
        rule = self._rule()
        middle_point, end_point, error = self.drive.try_step(time, step, rule)
        # Backward Euler is BDF2 whose middle is the start.
        before = StageState(self.neurons, self.lines, [], 0.0) if rule == "euler" else None
        length = step if rule == "tr-bdf2" else single_stage(rule, step)
        middle = self._stage(length, middle_point, before)
        if isinstance(middle, FailedStep):
            return middle
        if rule != "tr-bdf2":
            power = self._power(end_point, middle.lines, middle.neurons)
            unknown = torch.zeros_like(error).expand(len(self.stages), -1)
            return TriedStep(
                unknown, middle.neurons, middle.neurons, middle.lines, (power, power)
            )
        end = self._stage(step, end_point, middle)
        if isinstance(end, FailedStep):
            return end
        errors = []
        for k, layer in enumerate(self.neurons):
            found = self._error(k, step, layer, middle.neurons[k], end)
            lines = self.lines[k]
            if lines is None:
                found = torch.maximum(found, error)
            else:
                states = (lines, present(middle.lines[k]), present(end.lines[k]))
                found = torch.maximum(found, self.stages[k].lines.error(step, *states))
            errors.append(found)
        # A sample whose initial point failed must not hold the others up.
        relative = torch.where(self.alive, torch.stack(errors), 0.0)
        return TriedStep(
            relative / self.options.control.tolerance,
            middle.neurons,
            end.neurons,
            end.lines,
            (
                self._power(middle_point, middle.lines, middle.neurons),
                self._power(end_point, end.lines, end.neurons),
            ),
        )

    def accept(self, tried: TriedStep, step: float) -> None:
        """Go to the end of the step tried last."""
        self.drive.accept()
        self.before = (
            (tried.middle, (1.0 - GAMMA) * step)
            if self._rule() == "tr-bdf2"
            else (self.neurons, step)
        )
        self._taken += 1
        self.neurons, self.lines = tried.neurons, tried.lines
        for k, layer in enumerate(self.neurons):
            core = self.stages[k].static.neuron.core
            self.inside &= core.inside(layer.gates, layer.outputs).all(dim=-1)
            state, lines = self.lines[k], self.stages[k].lines
            if state is not None and isinstance(lines, ReducedLines):
                voltages = with_bias(self.neurons[k - 1].outputs, self.vdd)
                self.reduction_error = torch.maximum(
                    self.reduction_error, lines.left_out(state, voltages)
                )

    def _stage(
        self, step: float, point: DrivePoint, middle: StageState | None
    ) -> StageState | FailedStep:
        sigma = shift(step)
        neurons: list[NeuronState] = []
        lines: list[LineState | None] = [None]
        systems: list[Linearised] = []
        combined = point.combined
        for k, stage in enumerate(self.stages):
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
            if k + 1 < len(self.stages):
                following: Lines = self.stages[k + 1].lines
                state = present(self.lines[k + 1])
                past = (
                    following.first(state, step)
                    if middle is None
                    else following.second(state, present(middle.lines[k + 1]), step)
                )
                bias = with_bias(torch.zeros_like(combined), self.vdd)
                admittance = following.matrices(step).admittance
                offset = input_currents(admittance, following.ports.layout, bias)
                offset = (offset + past.currents)[:, :-1]
            pole_rate = torch.zeros_like(combined)
            if stage.pole is not None:
                pole_history = history("pole")
                combined = (stage.pole * combined + pole_history) / (sigma + stage.pole)
                pole_rate = sigma * combined - pole_history
            gates, outputs = self._guess(k, step, None if middle is None else middle.neurons[k])
            solved = solve_stage(
                stage.neurons,
                StageInputs(
                    sigma,
                    combined,
                    offset,
                    history("gate_charge"),
                    history("output_charge"),
                    gates,
                    outputs,
                ),
                load,
                tolerance=self.tolerance,
                limit=self.options.max_iterations,
            )
            failed = ~solved.converged & self.alive
            if bool(failed.any()):
                return FailedStep(int(failed.nonzero()[0, 0]), k)
            outputs = solved.outputs
            rates = [
                sigma * getattr(solved, name) - history(name)
                for name in ("gate_charge", "output_charge", "supply_charge")
            ]
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
                    pole=combined,
                    pole_rate=pole_rate,
                )
            )
            systems.append(solved.system)
            if past is not None:
                following = self.stages[k + 1].lines
                voltages = with_bias(outputs, self.vdd)
                lines.append(following.close(past, voltages))
                combined = voltages @ following.matrices(step).transfer.T + past.combined
        return StageState(neurons, lines, systems, sigma)

    def _guess(self, k: int, step: float, middle: NeuronState | None) -> tuple[Tensor, Tensor]:
        """Gates and outputs at the end of a stage, extrapolated linearly."""
        start = self.neurons[k]
        if middle is not None:
            reach = (1.0 - GAMMA) / GAMMA
            return (
                middle.gates + reach * (middle.gates - start.gates),
                middle.outputs + reach * (middle.outputs - start.outputs),
            )
        if self.before is None:
            return start.gates, start.outputs
        earlier, length = self.before
        reach = min(GAMMA * step / length, 2.0)
        return (
            start.gates + reach * (start.gates - earlier[k].gates),
            start.outputs + reach * (start.outputs - earlier[k].outputs),
        )

    def _error(
        self, k: int, step: float, start: NeuronState, middle: NeuronState, end: StageState
    ) -> Tensor:
        """(B,) V: local errors of charges, seen through the circuit's own response."""
        last = end.neurons[k]
        gate = local_error(step, start.gate_rate, middle.gate_rate, last.gate_rate)
        output = local_error(step, start.output_rate, middle.output_rate, last.output_rate)
        worst = propagate(
            self.stages[k].neurons, end.systems[k], self._load(k, step), end.sigma, gate, output
        )
        omega = self.stages[k].pole
        if omega is not None:
            pole = local_error(step, start.pole_rate, middle.pole_rate, last.pole_rate)
            damped = pole * end.sigma / (end.sigma + omega)
            worst = torch.maximum(worst, damped.abs().amax(-1))
        return worst

    def _power(
        self, point: DrivePoint, lines: Items[LineState | None], neurons: Items[NeuronState]
    ) -> Tensor:
        return source_powers(
            self.stages, point, lines, neurons, amplifiers=self.options.amplifiers
        )
