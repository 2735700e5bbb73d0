"""The whole network in time: a sequence of inputs, batched, with step control.

All layers advance together on one grid of time points, which all samples of a batch share; within
a stage they are solved in order, because nothing flows back through the amplifiers. What couples
neurons of one layer is the load of the next, as in :mod:`imac_torch.dc.network`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from imac_torch.circuit import NeuronSpec
from imac_torch.config import Interconnect, Timing
from imac_torch.crossbar import CrossbarSpec
from imac_torch.dc.network import Stage, solve_dc
from imac_torch.dc.newton import NewtonOptions
from imac_torch.energy import Energy
from imac_torch.errors import SolverError
from imac_torch.solution import Power, Status
from imac_torch.transient.charges import build_charges
from imac_torch.transient.drive import Drive, DrivePoint, RampDrive, Sequence, StepDrive
from imac_torch.transient.dynamics import DynamicBlocks, LaguerreModel, LineCapacitances
from imac_torch.transient.integrator import (
    GAMMA,
    StepControl,
    first_history,
    ladder,
    local_error,
    quadrature,
    second_history,
    shift,
)
from imac_torch.transient.lines import (
    ExactLines,
    LineHistory,
    Lines,
    LineState,
    ReducedLines,
    input_currents,
)
from imac_torch.transient.neuronstage import (
    DynamicNeurons,
    Linearised,
    StageInputs,
    StageLoad,
    propagate,
    solve_stage,
)

NEWTON_SHARE = 1e-2
"""Newton's method stops at this part of the step control's tolerance."""


@dataclass(frozen=True)
class TransientOptions:
    """Settings of the transient engine.

    Attributes:
        control: Tolerance and limits of time steps.
        wires: What represents crossbars with wire capacitances: ``reduced`` (a series with
            ``order`` + 1 terms per input line whose first neglected term is reported in V),
            ``exact`` (every node), or ``auto``: exact for networks of up to
            :data:`EXACT_NODES` nodes, else reduced.
        order: Of the series.
        amplifiers: Whether to integrate the amplifiers' power, which costs memory.
        save: ``outputs`` or ``all``: waveforms of every layer's neurons.
        kernel: ``numba`` (compiled, tabulated neurons on the CPU), ``torch`` or ``auto``.
        max_iterations: Of Newton's method; beyond it a step is shortened.
    """

    control: StepControl = field(default_factory=StepControl)
    wires: Literal["auto", "reduced", "exact"] = "auto"
    order: int = 4
    amplifiers: bool = True
    save: Literal["outputs", "all"] = "outputs"
    kernel: str = "auto"
    max_iterations: int = 20

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            SolverError: One is not valid.
        """
        if self.wires not in {"auto", "reduced", "exact"}:
            raise SolverError(f"wires = {self.wires!r}: 'auto', 'reduced' or 'exact'")
        if self.save not in {"outputs", "all"}:
            raise SolverError(f"save = {self.save!r}: 'outputs' or 'all'")
        if self.kernel not in {"auto", "numba", "torch"}:
            raise SolverError(f"kernel = {self.kernel!r}: 'auto', 'numba' or 'torch'")
        if self.order < 1 or self.max_iterations < 1:
            raise SolverError(
                f"order = {self.order} and max_iterations = {self.max_iterations} must be >= 1"
            )


EXACT_NODES = 2_000
"""Nodes of all crossbars (three per cell) above which ``auto`` reduces them."""


@dataclass(frozen=True)
class DynamicStage:
    """One layer in time.

    Attributes:
        static: Its DC description.
        lines: Its crossbars.
        neurons: With what holds charge at them; their output capacitance includes pins of the
            next layer whose lines have no resistance.
        pole: 1/s, of the amplifiers; None: infinitely fast.
    """

    static: Stage
    lines: ReducedLines | ExactLines
    neurons: DynamicNeurons
    pole: float | None

    def with_load(self, capacitance: float) -> DynamicStage:
        """The same with a capacitance (F) from every output to ground besides."""
        total = self.neurons.capacitance + capacitance
        return replace(self, neurons=replace(self.neurons, capacitance=total))


@dataclass(frozen=True)
class TransientResult:
    """A batch of sequences in time.

    Attributes:
        time: (T,) s from the start of the first period: its start, then two points per step, the
            stage and the end; corners of the inputs are in it.
        outputs: (T, B, M) V, of the last layer.
        layers: (T, B, M) V of every layer's neurons, if they were saved.
        power: (T, B) W of every source.
        periods: (L+1,) int64, where in ``time`` periods begin and end.
        energy: (B, L) J, per period, by part.
        static: (B, L) J, what the powers at the ends of periods make of a whole period each:
            where a period is long enough, the power of the DC solution.
        timing: Period and transition.
        status: (B,) int64, a :class:`imac_torch.solution.Status` of the initial DC solution.
        steps: Accepted time steps.
        rejected: Rejected ones.
        wires: How each layer's crossbars were represented.
        reduction_error: (B,) V, largest value of the first neglected term of the reduced models
            at any amplifier's combined output; 0 where nothing was neglected.
        inside: (B,) bool, whether all neurons stayed within their tables.
    """

    time: Tensor
    outputs: Tensor
    layers: tuple[Tensor, ...]
    power: Power
    periods: Tensor
    energy: Energy
    static: Energy
    timing: Timing
    status: Tensor
    steps: int
    rejected: int
    wires: tuple[str, ...]
    reduction_error: Tensor
    inside: Tensor

    @property
    def switching(self) -> Energy:
        """(B, L) J: what the change of inputs costs besides the static power."""
        return self.energy - self.static


def prepare_transient(
    layers: Items[tuple[CrossbarSpec, NeuronSpec]],
    interconnects: Items[Interconnect],
    stages: Items[Stage],
    options: TransientOptions | None = None,
) -> tuple[DynamicStage, ...]:
    """Everything that does not depend on inputs.

    Args:
        layers: Crossbars and neurons.
        interconnects: Wires of every layer: whether they have capacitance, and how much.
        stages: The DC description of the same layers.
        options: Settings.

    Raises:
        SolverError: Conductances have sample dimensions, or numbers of layers differ.
    """
    options = TransientOptions() if options is None else options
    if not len(layers) == len(interconnects) == len(stages) > 0:
        raise SolverError(
            f"{len(layers)} layers, {len(interconnects)} interconnects, {len(stages)} stages"
        )
    nodes = sum(3 * crossbar.conductances.positive.numel() for crossbar, _ in layers)
    exact = options.wires == "exact" or (options.wires == "auto" and nodes <= EXACT_NODES)
    lines: list[ReducedLines | ExactLines] = []
    for (crossbar, _), interconnect, stage in zip(layers, interconnects, stages, strict=True):
        if crossbar.conductances.positive.ndim != 2:
            raise SolverError("transients take conductances without sample dimensions; select one")
        capacitances = LineCapacitances.of(interconnect, crossbar)
        if capacitances is None:
            lines.append(ReducedLines(LaguerreModel.static(stage.ports), stage.ports))
            continue
        blocks = DynamicBlocks.of(crossbar, capacitances)
        lines.append(
            ExactLines(blocks, stage.ports)
            if exact
            else ReducedLines(LaguerreModel.of(blocks, stage.ports, options.order), stage.ports)
        )
    result = []
    for k, ((crossbar, spec), stage) in enumerate(zip(layers, stages, strict=True)):
        device = stage.ports.admittance.device
        capacitance = torch.full(
            (stage.ports.outputs,), spec.output_capacitance, dtype=torch.float64, device=device
        )
        if k + 1 < len(layers):
            capacitance = capacitance + _pins(lines[k + 1])[:-1]
        neurons = DynamicNeurons.of(
            stage.neuron,
            build_charges(spec, device=device),
            spec.input_capacitance,
            capacitance,
            kernel=options.kernel,
        )
        hertz = crossbar.amplifier_pole
        pole = None if hertz is None else 2.0 * math.pi * hertz
        result.append(DynamicStage(stage, lines[k], neurons, pole))
    return tuple(result)


def _pins(lines: ReducedLines | ExactLines) -> Tensor:
    if isinstance(lines, ReducedLines):
        return lines.model.port_capacitance
    return lines.blocks.port_capacitance


class _Neurons(NamedTuple):
    """A layer's neurons at one time, (B, M) each: V, C, A.

    ``pole`` is the combined voltage behind the amplifiers' pole.
    """

    gates: Tensor
    outputs: Tensor
    gate_charge: Tensor
    output_charge: Tensor
    supply_charge: Tensor
    gate_rate: Tensor
    output_rate: Tensor
    supply_rate: Tensor
    gate_current: Tensor
    supply_current: Tensor
    pole: Tensor
    pole_rate: Tensor


def solve_transient(
    stages: Items[DynamicStage],
    inputs: Tensor,
    timing: Timing,
    *,
    initial: Tensor | None = None,
    options: TransientOptions | None = None,
) -> TransientResult:
    """Waveforms, powers and energies for sequences of inputs.

    Args:
        stages: From :func:`prepare_transient`.
        inputs: (B, L, N) float64, V: B independent sequences of L vectors.
        timing: Each vector's period begins with a ramp of ``transition`` from the one before;
            the last layer drives ``load_capacitance``.
        initial: (B, N) or (N,) V, whose DC solution is the start; None: all inputs at 0 V.
        options: Settings, the same as for the stages.

    Raises:
        SolverError: Shapes do not fit, or the steps became too small.
    """
    options = TransientOptions() if options is None else options
    expected = stages[0].static.ports.inputs
    if inputs.ndim != 3 or inputs.shape[2] != expected or inputs.numel() == 0:
        raise SolverError(
            f"inputs must be (B, L, {expected}) voltages, got {tuple(inputs.shape)}"
        )
    if inputs.dtype != torch.float64:
        raise SolverError(f"circuit quantities are float64, inputs are {inputs.dtype}")
    if not bool(torch.isfinite(inputs).all()):
        raise SolverError("inputs must be finite")
    begin = torch.zeros_like(inputs[:, 0]) if initial is None else initial.expand_as(inputs[:, 0])
    sequence = Sequence(torch.cat([begin[:, None], inputs], dim=1), timing)
    with torch.no_grad():
        return _Integration(stages, sequence, options).run()


class _Integration:
    """One run."""

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
        self.neurons: list[_Neurons] = []
        for k, layer in enumerate(solution.layers):
            self.neurons.append(self._settled(k, layer.combined, layer.gates, layer.outputs))
            if k + 1 < len(stages):
                self.lines.append(stages[k + 1].lines.start(self._with_bias(layer.outputs)))
        batch = len(solution.status)
        self.reduction_error = solution.outputs.new_zeros(batch)
        self.inside = torch.ones(batch, dtype=torch.bool, device=solution.outputs.device)
        self.drive.begin(0)
        self.point = self.drive.at_start()
        # Neurons a while before, and how long: the slope that guesses start from.
        self.before: tuple[list[_Neurons], float] | None = None
        self.unloaded = StageLoad(None, stages[-1].static.ports.outputs)

    def _with_bias(self, voltages: Tensor) -> Tensor:
        return torch.nn.functional.pad(voltages, (0, 1), value=self.vdd)

    def _load(self, k: int, step: float) -> StageLoad:
        if k + 1 < len(self.stages):
            return self.stages[k + 1].lines.matrices(step).load
        return self.unloaded

    def _settled(self, k: int, combined: Tensor, gates: Tensor, outputs: Tensor) -> _Neurons:
        zero = torch.zeros_like(gates)
        neurons = self.stages[k].neurons
        charges, currents = neurons.state(gates, outputs), neurons.static(gates, outputs)
        return _Neurons(gates, outputs, *charges, zero, zero, zero, *currents, combined, zero)

    def run(self) -> TransientResult:
        """Integrate all periods."""
        timing, control = self.sequence.timing, self.options.control
        longest = timing.period / 10 if control.largest is None else control.largest
        times = [0.0]
        outputs = [self.neurons[-1].outputs]
        layers: list[list[Tensor]] = [[item.outputs] for item in self.neurons]
        powers = [self._power(self.point, self.lines, self.neurons)]
        periods, energies = [0], []
        steps = rejected = 0
        for period in range(self.sequence.periods):
            if period:
                self.drive.begin(period)
                self.point = self.drive.at_start()
            before = self._power(self.point, self.lines, self.neurons)
            energy = torch.zeros_like(before)
            time = 0.0
            wanted = ladder(min(timing.transition / 32, longest))
            if control.fixed is not None:
                wanted = control.fixed
            grid = control.within(period * timing.period, timing.period)
            if control.grid is not None and not (grid and grid[-1] > 0.999999 * timing.period):
                raise SolverError(f"the grid must reach the end of period {period + 1}")
            while time < timing.period * (1.0 - 1e-12):
                corner = timing.transition if time < timing.transition else timing.period
                remaining = corner - time
                if grid:
                    step = min(grid.pop(0) - time, remaining)
                else:
                    step = remaining if wanted > 0.999 * remaining else wanted
                tried = self._try(time, step)
                if tried is None or (tried.error > 1.0 and control.adaptive):
                    rejected += 1
                    wanted = (
                        ladder(step / 4)
                        if tried is None
                        else min(ladder(step / 1.5), control.proposal(step, tried.error, longest))
                    )
                    if not control.adaptive or wanted < control.smallest:
                        raise SolverError(
                            f"at {period * timing.period + time:.4g} s a step of {step:.3g} s "
                            f"failed ({'no convergence' if tried is None else 'error'}); "
                            "raise control.tolerance or max_iterations, or look at the circuit"
                        )
                    continue
                steps += 1
                self._accept(tried, step)
                energy = energy + (
                    step / 2 * (before + tried.powers[1])
                    if control.method == "trapezoidal"
                    else quadrature(step, before, *tried.powers)
                )
                before = tried.powers[1]
                at_corner, began = step > 0.999999 * remaining, time
                time = corner if at_corner else time + step
                if at_corner and corner < timing.period:
                    before = self._power(self.drive.at_start(), self.lines, self.neurons)
                wanted = max(control.proposal(step, tried.error, longest), ladder(step)
                             if at_corner and step < wanted else 0.0)
                if control.method == "tr-bdf2":
                    times.append(period * timing.period + began + GAMMA * step)
                    outputs.append(tried.middle[-1].outputs)
                    powers.append(tried.powers[0])
                times.append(period * timing.period + time)
                outputs.append(self.neurons[-1].outputs)
                powers.append(tried.powers[1])
                if self.options.save == "all":
                    for kept, *items in zip(layers, tried.middle, self.neurons, strict=True):
                        keep = items if control.method == "tr-bdf2" else items[1:]
                        kept += [item.outputs for item in keep]
            periods.append(len(times) - 1)
            energies.append(energy)
        return self._result(times, outputs, layers, powers, periods, energies, steps, rejected)

    def _result(
        self,
        times: list[float],
        outputs: list[Tensor],
        layers: list[list[Tensor]],
        powers: list[Tensor],
        periods: list[int],
        energies: list[Tensor],
        steps: int,
        rejected: int,
    ) -> TransientResult:
        device = outputs[0].device
        power = torch.stack(powers)  # (T, 5, B)
        energy = torch.stack(energies, dim=-1)  # (5, B, L)
        ends = torch.tensor(periods, dtype=torch.int64, device=device)
        static = power[ends[1:]].permute(1, 2, 0) * self.sequence.timing.period
        return TransientResult(
            time=torch.tensor(times, dtype=torch.float64, device=device),
            outputs=torch.stack(outputs),
            layers=tuple(torch.stack(kept) for kept in layers)
            if self.options.save == "all"
            else (),
            power=Power(*power.unbind(dim=1)),
            periods=ends,
            energy=Energy(*energy.unbind(0)),
            static=Energy(*static.unbind(0)),
            timing=self.sequence.timing,
            status=self.status,
            steps=steps,
            rejected=rejected,
            wires=tuple(stage.lines.name for stage in self.stages),
            reduction_error=self.reduction_error,
            inside=self.inside,
        )

    # One step

    def _try(self, time: float, step: float) -> _Tried | None:
        trapezoidal = self.options.control.method == "trapezoidal"
        middle_point, end_point, error = self.drive.try_step(time, step, trapezoidal=trapezoidal)
        middle = self._stage(step / GAMMA if trapezoidal else step, middle_point, None)
        if middle is None:
            return None
        if trapezoidal:
            power = self._power(end_point, middle.lines, middle.neurons)
            return _Tried(
                0.0, end_point, middle.neurons, middle.neurons, middle.lines, (power, power)
            )
        end = self._stage(step, end_point, middle)
        if end is None:
            return None
        worst = error / self.options.control.tolerance
        for k, layer in enumerate(self.neurons):
            found = self._error(k, step, layer, middle.neurons[k], end)
            worst = torch.maximum(worst, found / self.options.control.tolerance)
            lines = self.lines[k]
            if lines is not None:
                states = (lines, _present(middle.lines[k]), _present(end.lines[k]))
                of_lines = self.stages[k].lines.error(step, *states)
                worst = torch.maximum(worst, of_lines / self.options.control.tolerance)
        # A sample whose initial point failed must not hold the others up.
        worst = torch.where(self.alive, worst, 0.0)
        return _Tried(
            float(worst.max()),
            end_point,
            middle.neurons,
            end.neurons,
            end.lines,
            (
                self._power(middle_point, middle.lines, middle.neurons),
                self._power(end_point, end.lines, end.neurons),
            ),
        )

    def _accept(self, tried: _Tried, step: float) -> None:
        self.drive.accept()
        trapezoidal = self.options.control.method == "trapezoidal"
        self.before = (
            (self.neurons, step) if trapezoidal else (tried.middle, (1.0 - GAMMA) * step)
        )
        self.point, self.neurons, self.lines = tried.point, tried.neurons, tried.lines
        for k, layer in enumerate(self.neurons):
            core = self.stages[k].static.neuron.core
            self.inside &= core.inside(layer.gates, layer.outputs).all(dim=-1)
            state, lines = self.lines[k], self.stages[k].lines
            if state is not None and isinstance(lines, ReducedLines):
                voltages = self._with_bias(self.neurons[k - 1].outputs)
                self.reduction_error = torch.maximum(
                    self.reduction_error, lines.left_out(state, voltages)
                )

    def _stage(self, step: float, point: DrivePoint, middle: _StageState | None) -> (
        _StageState | None
    ):
        sigma = shift(step)
        neurons: list[_Neurons] = []
        lines: list[LineState | None] = [None]
        systems: list[Linearised] = []
        combined = point.combined
        for k, stage in enumerate(self.stages):
            start = self.neurons[k]

            def history(name: str, start: _Neurons = start, k: int = k) -> Tensor:
                if middle is None:
                    return first_history(
                        step, getattr(start, f"{name}"), getattr(start, _RATES[name])
                    )
                return second_history(step, getattr(start, name), getattr(middle.neurons[k], name))

            past: LineHistory | None = None
            load = self._load(k, step)
            offset = torch.zeros_like(combined)
            if k + 1 < len(self.stages):
                following: Lines = self.stages[k + 1].lines
                state = self.lines[k + 1]
                if state is None:
                    raise SolverError("a layer's lines have no state")
                past = (
                    following.first(state, step)
                    if middle is None
                    else following.second(state, _present(middle.lines[k + 1]), step)
                )
                bias = self._with_bias(torch.zeros_like(combined))
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
            if not bool((solved.converged | ~self.alive).all()):
                return None
            outputs = solved.outputs
            rates = [
                sigma * getattr(solved, name) - history(name)
                for name in ("gate_charge", "output_charge", "supply_charge")
            ]
            neurons.append(
                _Neurons(
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
                voltages = self._with_bias(outputs)
                lines.append(following.close(past, voltages))
                combined = voltages @ following.matrices(step).transfer.T + past.combined
        return _StageState(neurons, lines, systems, sigma)

    def _guess(self, k: int, step: float, middle: _Neurons | None) -> tuple[Tensor, Tensor]:
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
        self, k: int, step: float, start: _Neurons, middle: _Neurons, end: _StageState
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

    # Powers

    def _power(
        self, point: DrivePoint, lines: Items[LineState | None], neurons: Items[_Neurons]
    ) -> Tensor:
        """(5, B) W: inputs, bias, neurons, level shift, amplifiers."""
        bias = point.bias
        supply = torch.zeros_like(bias)
        shifts = torch.zeros_like(bias)
        amplifiers = torch.zeros_like(bias)
        for k, (stage, state) in enumerate(zip(self.stages, neurons, strict=True)):
            neuron = stage.static.neuron
            supply = supply + self.vdd * (state.supply_current + state.supply_rate).sum(-1)
            feedback = (state.outputs - state.gates) * neuron.feedback_conductance
            drawn = state.gate_current + state.gate_rate - feedback
            shifts = shifts + (neuron.level_shift * drawn).sum(-1)
            ends = (point.positive_end, point.negative_end)
            if k:
                own = lines[k]
                if own is None:
                    raise SolverError("a layer's lines have no state")
                voltages = self._with_bias(neurons[k - 1].outputs)
                bias = bias + self.vdd * stage.lines.bias_current(own, voltages)
                if self.options.amplifiers:
                    ends = stage.lines.end_voltages(own, voltages)
            if self.options.amplifiers:
                amplifiers = amplifiers + _amplifier_power(stage, ends, state.pole, drawn)
        if not self.options.amplifiers:
            amplifiers = torch.full_like(bias, torch.nan)
        return torch.stack([point.inputs, bias, supply, shifts, amplifiers])


def _amplifier_power(
    stage: DynamicStage, ends: tuple[Tensor | None, Tensor | None], combined: Tensor, drawn: Tensor
) -> Tensor:
    """(B,) W, as :mod:`imac_torch.dc.network` counts it.

    Behind a pole all partitions of a row lag alike: their differences are taken without it.
    """
    positive, negative = ends
    if positive is None or negative is None:
        raise SolverError("the ends of the first layer's lines are missing")
    network = stage.static.ports
    amplifier = network.gain * (positive - negative)
    lag = network.slicing.of_rows(combined - network.combine_partitions(amplifier))
    amplifier = amplifier + lag[..., None] / (1 if network.averaged else network.partitions)
    resistance = network.amplifier_resistance
    virtual = network.gain / (1.0 + network.gain) * positive
    current = (amplifier - virtual) / (network.gain * resistance)
    if network.averaged:
        series = network.series_resistance
        meeting = network.slicing.of_rows(combined - drawn * series)
        between = network.meeting_conductance(amplifier.shape[-2])
        current = current + (amplifier - meeting[..., None]) * between
    return (amplifier * current).sum((-1, -2))


class _StageState(NamedTuple):
    """All layers at the end of a stage."""

    neurons: list[_Neurons]
    lines: list[LineState | None]
    systems: list[Linearised]
    sigma: float


class _Tried(NamedTuple):
    """A step: error relative to the tolerance, its end, powers at its stage and its end."""

    error: float
    point: DrivePoint
    middle: list[_Neurons]
    neurons: list[_Neurons]
    lines: list[LineState | None]
    powers: tuple[Tensor, Tensor]


def _present(state: LineState | None) -> LineState:
    if state is None:
        raise SolverError("a layer's lines have no state")
    return state


_RATES = {
    "gate_charge": "gate_rate",
    "output_charge": "output_rate",
    "supply_charge": "supply_rate",
    "pole": "pole_rate",
}
