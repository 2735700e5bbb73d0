"""The whole network in time: a sequence of inputs, batched, with step control.

All layers advance together on one grid of time points, which all samples of a batch share; within
a stage they are solved in order, because nothing flows back through the amplifiers. What couples
neurons of one layer is the load of the next, as in :mod:`imac_torch.dc.network`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Items
from typing import Final, cast

import torch
from torch import Tensor

from imac_torch.config import Timing
from imac_torch.errors import SolverError
from imac_torch.numeric.budget import (
    POINTS,
    lines_bytes,
    require_memory,
    state_bytes,
    step_bytes,
    waveform_bytes,
)
from imac_torch.numeric.forecast import Forecast
from imac_torch.numeric.modes import lasting
from imac_torch.transient.drive import Sequence
from imac_torch.transient.integrator import COARSE, FINE, GAMMA, Points, ladder, quadrature
from imac_torch.transient.lines import ExactLines, ReducedLines
from imac_torch.transient.options import TransientOptions
from imac_torch.transient.power import Powers
from imac_torch.transient.preparation import DynamicLayer
from imac_torch.transient.result import Recorder, TransientResult
from imac_torch.transient.step import FailedStep, Stepper, TriedStep
from imac_torch.transient.tiled import March, TiledStepper, tiled

REFUSED: Final = 1e-3
"""V. Larger errors of reduced wires are refused where nobody asked for reduced ones."""
FIRST: Final = 5
"""Steps from which the time that all will take is estimated."""
BESIDE: Final = 1e-3
"""Of a step: how far from a corner its two neighbouring time points are."""


def solve_transient(
    layers: Items[DynamicLayer],
    inputs: Tensor,
    timing: Timing,
    *,
    initial: Tensor | None = None,
    options: TransientOptions | None = None,
) -> TransientResult:
    """Waveforms, powers and energies for sequences of inputs.

    Args:
        layers: From :func:`prepare_transient`.
        inputs: (B, L, N) float64, V: B independent sequences of L vectors.
        timing: Each vector's period begins with a ramp of ``transition`` from the one before;
            the last layer drives ``load_capacitance``.
        initial: (B, N) or (N,) V, whose DC solution is the start; None: all inputs at 0 V.
        options: Settings, the same as for the layers.

    Raises:
        SolverMemoryError: So many sequences at once take more memory than is free.
        SolverError: Shapes do not fit, or the steps became too small; then the message names the
            sample, the layer and the time.
    """
    options = TransientOptions() if options is None else options
    result = integrate(layers, inputs, timing, initial=initial, options=options)
    refused = refusal(result, options)
    if refused:
        raise SolverError(refused)
    return result


def refusal(result: TransientResult, options: TransientOptions) -> str:
    """Why the sample of the worst reduced wires must not be believed; empty where it may."""
    bad = refused_samples(result, options)
    if not bool(bad.any()):
        return ""
    sample = int(result.reduction_error.argmax())
    return (
        f"sample {sample}: the reduced models of the wires may be off by "
        f"{float(result.reduction_error[sample]):.2g} V at an amplifier, more than "
        f"{_limit(options):.2g} V; take longer ramps (timing.transition), every node "
        "(wires='exact'), which is slow, or accept it by wires='reduced'"
    )


def refused_samples(result: TransientResult, options: TransientOptions) -> Tensor:
    """(B,) bool: samples whose wires are further off than anybody asked for."""
    if options.wires != "auto":
        return torch.zeros_like(result.inside)
    return result.reduction_error > _limit(options)


def _limit(options: TransientOptions) -> float:
    return max(REFUSED, 10.0 * options.control.tolerance)


def integrate(
    layers: Items[DynamicLayer],
    inputs: Tensor,
    timing: Timing,
    *,
    initial: Tensor | None,
    options: TransientOptions,
) -> TransientResult:
    """:func:`solve_transient`, whatever reduced wires leave out."""
    expected = layers[0].ports.inputs
    if inputs.ndim != 3 or inputs.shape[2] != expected or inputs.numel() == 0:
        raise SolverError(
            f"inputs must be (B, L, {expected}) voltages, got {tuple(inputs.shape)}"
        )
    if inputs.dtype != torch.float64:
        raise SolverError(f"circuit quantities are float64, inputs are {inputs.dtype}")
    if not bool(torch.isfinite(inputs).all()):
        raise SolverError("inputs must be finite")
    _require_memory(layers, inputs, timing, options)
    begin = torch.zeros_like(inputs[:, 0]) if initial is None else initial.expand_as(inputs[:, 0])
    sequence = Sequence(torch.cat([begin[:, None], inputs], dim=1), timing)
    with lasting():
        kind = TiledStepper if tiled(layers, options) else Stepper
        return _integrate(kind(layers, sequence, options), sequence, options)


def _require_memory(
    layers: Items[DynamicLayer], inputs: Tensor, timing: Timing, options: TransientOptions
) -> None:
    """Refuse a batch whose states and waveforms do not fit."""
    batch, periods, _ = inputs.shape
    each, matrices = 0, 0
    for layer in layers:
        ports = layer.ports
        rows, columns = ports.positive_end.shape[-2:]
        horizontal, vertical, high, wide = ports.layout.sizes
        exact = not isinstance(layer.lines, ReducedLines)
        order = layer.lines.model.order if isinstance(layer.lines, ReducedLines) else 0
        cells = horizontal * vertical * high * wide if exact else None
        each += state_bytes(rows, columns, horizontal, order=order, cells=cells)
        matrices += (
            lines_bytes(horizontal * vertical, high, wide, columns, exact=True)
            if isinstance(layer.lines, ExactLines)
            else step_bytes(ports.outputs, columns, horizontal, wide)
        )
    points = 2 * _steps(timing, periods, options)
    kept = layers if options.save == "all" else layers[-1:]
    each += waveform_bytes(points, sum(layer.ports.outputs for layer in kept))
    require_memory(
        matrices + batch * each,
        f"a transient of {batch} sequences of {periods} periods",
        f"take fewer sequences at once ({each / 2**20:.3g} MiB each), fewer periods, or smaller "
        "arrays (crossbar.rows, crossbar.columns)",
        inputs.device,
    )


def _steps(timing: Timing, periods: int, options: TransientOptions) -> int:
    """As many as it will take, about."""
    control = options.control
    if control.grid is not None:
        return len(control.grid)
    if control.fixed is not None:
        return math.ceil(periods * timing.period / control.fixed)
    return periods * POINTS // 2


def _integrate(
    stepper: Stepper, sequence: Sequence, options: TransientOptions
) -> TransientResult:
    kept = Recorder(options.save == "all")
    forecast = Forecast(
        f"a transient of {len(sequence.vectors)}×{sequence.periods} periods",
        _steps(sequence.timing, sequence.periods, options),
    )
    kept.add(0.0, stepper.recorded, stepper.power().total)
    for period in range(sequence.periods):
        stepper.begin(period)
        steps = _marched if stepper.marches else _period
        kept.close_period(steps(stepper, kept, sequence.timing, options, period, forecast))
    return kept.result(
        sequence.timing,
        stepper.status,
        tuple(layer.lines.name for layer in stepper.layers),
        stepper.reduction_error,
        stepper.inside,
    )


def _period(
    stepper: Stepper,
    kept: Recorder,
    timing: Timing,
    options: TransientOptions,
    period: int,
    forecast: Forecast,
) -> Tensor:
    """Integrate one period; (6, B) J."""
    control, start = options.control, period * timing.period
    rungs = FINE if tiled(stepper.layers, options) else COARSE
    longest = timing.period / 10 if control.largest is None else control.largest
    two_stages = control.method == "tr-bdf2"
    before = stepper.power()
    energy = torch.zeros_like(before.total)
    at_corner = True
    time = 0.0
    wanted = ladder(min(timing.transition / 32, longest), rungs)
    if control.fixed is not None:
        wanted = control.fixed
    grid = control.within(start, timing.period)
    if control.grid is not None and not (grid and grid[-1] > 0.999999 * timing.period):
        raise SolverError(f"the grid must reach the end of period {period + 1}")
    while time < timing.period * (1.0 - 1e-12):
        corner = timing.transition if time < timing.transition else timing.period
        remaining = corner - time
        if grid:
            step = min(grid.pop(0) - time, remaining)
        else:
            # Two equal steps instead of a long one and a crumb.
            step = wanted if 2.0 * wanted < remaining else remaining / 2
            step = remaining if wanted > 0.999 * remaining else step
        tried = stepper.attempt(time, step)
        if isinstance(tried, FailedStep) or (tried.error > 1.0 and control.adaptive):
            kept.rejected += 1
            wanted = (
                ladder(step / 4, rungs)
                if isinstance(tried, FailedStep)
                else min(
                    ladder(step / 1.5, rungs),
                    control.proposal(step, tried.error, longest, rungs),
                )
            )
            if not control.adaptive or wanted < control.smallest:
                raise SolverError(_why(stepper, tried, options, start + time, step))
            continue
        kept.steps += 1
        if kept.steps == FIRST:
            forecast.done(FIRST)
        old = stepper.recorded
        stepper.accept(tried, step)
        middle, after = tried.powers
        static = [power.total - power.charging for power in (before, middle, after)]
        energy = energy + after.stored - before.stored + (
            quadrature(step, *static) if two_stages else step / 2 * (static[0] + static[2])
        )
        started, at_corner = at_corner, step > 0.999999 * remaining
        end = corner if at_corner else time + step
        if two_stages:
            _add_step(
                kept, start + time, step, (old, stepper.recorded), tried, before, started, at_corner
            )
        before = after
        time = end
        kept.add(start + time, stepper.recorded, after.total)
        if at_corner and corner < timing.period:
            stepper.corner()
            before = stepper.power()
        shortened = ladder(step, rungs) if at_corner and step < wanted else 0.0
        wanted = max(control.proposal(step, tried.error, longest, rungs), shortened)
    return energy


def _marched(
    stepper: Stepper,
    kept: Recorder,
    timing: Timing,
    options: TransientOptions,
    period: int,
    forecast: Forecast,
) -> Tensor:
    """:func:`_period` by compiled steps."""
    stepper = cast("TiledStepper", stepper)
    control, start = options.control, period * timing.period
    longest = timing.period / 10 if control.largest is None else control.largest
    energy = torch.zeros_like(stepper.power().total)
    wanted, time = ladder(min(timing.transition / 32, longest), FINE), 0.0
    for corner in dict.fromkeys([min(timing.transition, timing.period), timing.period]):
        finished, begins = False, True
        while not finished:
            found = stepper.march(time, corner, wanted, longest)
            finished = found.finished
            kept.rejected += found.rejected
            if found.stuck is not None:
                raise SolverError(_why(stepper, found.stuck, options, start + time, found.step))
            kept.steps += len(found.times)
            forecast.done(kept.steps)
            _add_march(kept, start, found, begins)
            energy, wanted, begins = energy + found.energy, found.wanted, False
            time = float(found.times[-1, 2])
        if corner < timing.period:
            stepper.corner()
    return energy


def _add_march(kept: Recorder, start: float, found: March, begins: bool) -> None:
    """Stages and ends of steps; beside corners points close to them, as :func:`_add_step`.

    Args:
        kept: Takes the points.
        start: s, of the period.
        found: The steps.
        begins: Whether a corner is where they begin; one is where they end if they are finished.
    """
    firsts = [torch.cat([one[None], two[:-1, 1]]) for one, two in zip(
        (*found.starts, found.power), (*found.outputs, found.powers), strict=True
    )]  # fmt: skip
    values = [*found.outputs, found.powers]

    def beside(step: int, part: float) -> None:
        one, _, two = found.times[step].tolist()
        *outputs, power = (
            Points(first[step], both[step, 0], both[step, 1], None, 0.0).at(part)
            for first, both in zip(firsts, values, strict=True)
        )
        kept.add(start + one + part * (two - one), outputs, power)

    def between(first: int, last: int) -> None:
        """Points from the stage of one step to that of another one, or to its end."""
        times = (start + found.times[:, 1:]).flatten().tolist()
        *outputs, powers = (both.flatten(0, 1)[first:last] for both in values)
        kept.extend(times[first:last], outputs, powers)

    last = 2 * len(found.times) - 1
    if begins:
        beside(0, BESIDE)
    between(0, last)
    if found.finished:
        beside(-1, 1.0 - BESIDE)
    between(last, last + 1)


def _add_step(
    kept: Recorder,
    time: float,
    step: float,
    ends: tuple[Items[Tensor], Items[Tensor]],
    tried: TriedStep,
    power: Powers,
    started: bool,
    finished: bool,
) -> None:
    """The stage of a step; where it touches a corner, a point close to it as well.

    With a point on either side, whatever interpolates between time points sees the corner as one.

    Args:
        kept: Takes the points.
        time: s, of the step's start.
        step: s.
        ends: (B, M) V of every layer, outputs at its start and end.
        tried: The step.
        power: At the start.
        started: Whether a corner is at its start.
        finished: Whether one is at its end.
    """
    parts = [BESIDE] * started + [GAMMA] + [1.0 - BESIDE] * finished
    end = tried.powers[1]
    for part in parts:
        if part == GAMMA:
            outputs, total = list(tried.between), tried.powers[0].total
        else:
            total = Points(power.total, tried.powers[0].total, end.total, None, 0.0).at(part)
            outputs = [
                Points(one, two, three, None, 0.0).at(part)
                for one, two, three in zip(ends[0], tried.between, ends[1], strict=True)
            ]
        kept.add(time + part * step, outputs, total)


def _why(
    stepper: Stepper,
    tried: TriedStep | FailedStep,
    options: TransientOptions,
    time: float,
    step: float,
) -> str:
    """What failed where, and what to do about it."""
    sample, layer = (
        (tried.sample, tried.layer) if isinstance(tried, FailedStep) else tried.worst
    )
    place = f"at {time:.4g} s, sample {sample}, layer {layer + 1}: a step of {step:.3g} s "
    control = options.control
    if not isinstance(tried, FailedStep):
        return place + (
            f"still has an estimated error of {tried.error * control.tolerance:.3g} V, more than "
            f"control.tolerance = {control.tolerance:.3g} V; raise the tolerance, or lower "
            f"control.smallest = {control.smallest:.3g} s"
        )
    neurons = stepper.neurons[layer]
    core = stepper.layers[layer].static.neuron.core
    inside = core.inside(neurons.gates[sample], neurons.outputs[sample])
    advice = (
        "" if bool(inside.all()) else
        f"neuron {int((~inside).nonzero()[0, 0]) + 1} has left its table (gate "
        f"{float(neurons.gates[sample][~inside][0]):.3g} V), beyond which it is continued "
        "linearly: check supplies, gain and input voltages; otherwise "
    )
    shorter = "" if control.adaptive else "take shorter steps or "
    return place + (
        f"did not converge within max_iterations = {options.max_iterations}; {advice}{shorter}"
        "raise max_iterations, or leave the sample out"
    )
