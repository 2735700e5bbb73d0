"""Estimated errors of one step of the whole network, and what they are good for.

Two kinds, because nodes are of two kinds. What holds charge is integrated: its local error is that
of the method. Everything else follows from it (and from the inputs) by the circuit's equations, as
exact as those: there an error comes in through the charges, so that local errors are passed on,
layer by layer, by the linear systems that Newton's method has left behind. And all outputs and
powers have an error between the points of a step, also in a circuit without any charge: how far
they are from the parabola through the three points, by which they are read and integrated.

Local errors of a second-order method add up: N steps of a time constant make 0.4·N of them, and N
grows as the tolerance falls. Therefore they are not only controlled but taken back. With z = h·λ,
R(z) of TR-BDF2 and its estimate E(z), a state passed on as R + E/(1 - γz/2)² is of third order
(it misses exp z by 0.010·z⁴), and within |R| ≤ 1 for every λ of the left half-plane, 0 at infinity.
What adds up is then 0.3·hλ of a local error per step, a tenth of one over all the N steps of a time
constant however many there are. One factor 1/(1 - γz/2), a solution of the stage's own linear
system, is not enough: it would leave -1.6 at infinity. The stage itself is off by 1 - γ of the
step's error (the trapezoidal rule's -γ³/12 to the step's, see :func:`local_error`), which is taken
back where it is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.transient.integrator import GAMMA, Points, local_error
from imac_torch.transient.lines import LineState
from imac_torch.transient.neuronstage import Charged, StageLoad, propagate
from imac_torch.transient.preparation import DynamicLayer
from imac_torch.transient.state import NeuronState, StageState, present

SMALLEST_PART: Final = 0.01
"""Powers below this part of the largest one are as accurate as it, not as themselves."""
LEFT: Final = 0.4
"""What may be left of a step's local errors, and of all before it, once they have been taken back:
a tenth for an exponential; up to 0.25 at any output of random circuits."""
LEFT_BEHIND: Final = 2.0
"""The same behind a corner of the inputs or beside a kink of a neuron. A slope that sets in within
a time constant τ much shorter than the step delays what follows by τ: of that error a step's
estimate, passed through its stage once, is 0.47, and a rate that bends in the middle of a stage is
integrated with about the estimated error, of either sign."""
CUBIC: Final = 0.7
"""Of a parabola's error between points, the most that :func:`imac_torch.results.waveform.sample`
makes of the same points: its cubics are off by 0.2 to 0.4 of it where steps are equal or double."""


class Earlier(NamedTuple):
    """The stage of the step before, if no corner of the inputs lies between.

    Attributes:
        neurons: Of every layer.
        power: (6, B) W, see :class:`imac_torch.transient.power.Powers`.
        length: s, from there to the present.
        slopes: Of every layer, see :func:`imac_torch.transient.kinks.slopes`.
    """

    neurons: Sequence[NeuronState]
    power: Tensor
    length: float
    slopes: Sequence[Tensor]


SEEN: Final = 0.71
"""What is given back of a rate's error to the next estimate: 2·5.83·0.0404·3.41/2 = 0.805, times
0.88, because the rates at the end of the steps that estimate it are off as well."""


class Sources(NamedTuple):
    """Errors of what one layer's stage begins with.

    Attributes:
        gate: (B, M) C, of the gates' charges.
        output: (B, M) C, of the outputs' charges.
        lag: V, of the read-outs' low-passes, see :class:`imac_torch.transient.slow.SlowOutputs`.
        lines: Of what the crossbars hold; None: nothing, or the first layer's.
    """

    gate: Tensor
    output: Tensor
    lag: Tensor
    lines: Any

    def plus(self, other: Sources, factor: float) -> Sources:
        """With ``factor`` times the other ones."""
        return Sources(*(sum_of(*pair, factor) for pair in zip(self, other, strict=True)))


class Unseen(NamedTuple):
    """What the rates at the start of a step do not show of its errors.

    Attributes:
        sources: E·(1 - ρ)² of the step before, of every layer.
        length: s, of that step.
    """

    sources: list[Sources]
    length: float

    def part(self, step: float) -> float:
        """Of the sources, in the error of the present step."""
        return SEEN * step / self.length


class Change(NamedTuple):
    """What errors do to one layer at the end of a stage.

    Attributes:
        gates: (B, M) V.
        outputs: (B, M) V.
        gate_charge: (B, M) C.
        output_charge: (B, M) C.
        lag: V, of the read-outs' low-passes.
        lines: Of the crossbars, with their rates; None: they hold nothing, or the first layer's.
    """

    gates: Tensor
    outputs: Tensor
    gate_charge: Tensor
    output_charge: Tensor
    lag: Tensor
    lines: LineState | None

    def sources(self) -> Sources:
        """The same as errors to begin with."""
        lines = None if self.lines is None else self.lines.values
        return Sources(self.gate_charge, self.output_charge, self.lag, lines)


class LineCorrection(NamedTuple):
    """Errors of the first layer's crossbars, passed through a stage once and twice.

    Attributes:
        once: (B, M·L, H) V, of the read-outs.
        twice: (B, M·L, H) V.
        largest: (B,) V, of any node, once.
    """

    once: Tensor
    twice: Tensor
    largest: Tensor


class Correction(NamedTuple):
    """What a step's estimated errors do, passed through its last stage once and twice.

    Attributes:
        first: The errors themselves, of every layer.
        once: Of every layer.
        twice: Of every layer.
        largest: (layers, B) V, of any node, once; before a neuron as its curve amplifies it.
    """

    first: list[Sources]
    once: list[Change]
    twice: list[Change]
    largest: Tensor

    def unseen(self, step: float) -> Unseen:
        """For the next one."""
        return Unseen(
            [
                first.plus(once.sources(), -2.0).plus(twice.sources(), 1.0)
                for first, once, twice in zip(self.first, self.once, self.twice, strict=True)
            ],
            step,
        )


def sum_of(one: Any, other: Any, factor: float) -> Any:
    """One and ``factor`` times another set of values, of lines or of neurons; None: none."""
    if one is None:
        return None
    if isinstance(one, Tensor):
        return torch.add(one, other, alpha=factor)
    return one + other.times(factor)


def correction(
    layers: Sequence[DynamicLayer],
    loads: Sequence[StageLoad],
    step: float,
    states: tuple[StageState, StageState, StageState],
    drive: LineCorrection | None,
    unseen: Unseen | None,
) -> Correction:
    """What is to be added at the end of a step.

    Args:
        layers: In order.
        loads: What their outputs drive in this step.
        step: s.
        states: At the start, the stage and the end.
        drive: Of the first layer's crossbars.
        unseen: Of the step before; None behind a corner.
    """
    end = states[-1]
    first = []
    for k, layer in enumerate(layers):
        of = {
            name: local_error(
                step, *(getattr(state.neurons[k], f"{name}_rate") for state in states)
            )
            for name in ("gate", "output", "lag")
        }
        lines = (
            layer.lines.local_error(step, *(present(state.lines[k]) for state in states))
            if k else None
        )
        errors = Sources(of["gate"], of["output"], of["lag"], lines)
        if unseen is not None:
            errors = errors.plus(unseen.sources[k], unseen.part(step))
        first.append(errors)
    once = _passed(layers, loads, step, end, first, None if drive is None else drive.once)
    twice = _passed(
        layers, loads, step, end, [change.sources() for change in once],
        None if drive is None else drive.twice,
    )  # fmt: skip
    largest = []
    for k, (layer, change) in enumerate(zip(layers, once, strict=True)):
        before = [change.gates, *(layer.slow.met(change.lag) if layer.slow.lag.order else ())]
        nodes = [change.outputs, *(layer.steepness * voltage for voltage in before)]
        found = torch.stack(nodes).abs().amax(dim=(0, 2))
        if change.lines is not None:
            found = torch.maximum(found, layer.lines.largest(change.lines))
        elif drive is not None and k == 0:
            found = torch.maximum(found, drive.largest)
        largest.append(found)
    return Correction(first, once, twice, torch.stack(largest))


def _passed(
    layers: Sequence[DynamicLayer],
    loads: Sequence[StageLoad],
    step: float,
    end: StageState,
    errors: Sequence[Sources],
    first: Tensor | None,
) -> list[Change]:
    """Layer after layer, through the linear systems of a stage.

    Args:
        layers: In order.
        loads: What their outputs drive.
        step: s.
        end: The stage.
        errors: What it begins with.
        first: (B, M·L, H) V, of the first layer's read-outs; None: nothing.
    """
    found: list[Change] = []
    history, before = None, None
    combined = torch.zeros_like(end.neurons[0].gates)
    if first is not None:
        combined = layers[0].slow.read_out.combination.of_partitions(first)
    for k, (layer, error) in enumerate(zip(layers, errors, strict=True)):
        held: LineState | None = None if history is None else layer.lines.close(history, before)
        lag, slow, rates = error.lag, layer.slow, end.neurons[k].lag_rate
        if slow.lag.order:
            level = combined
            if slow.each:
                level = torch.zeros_like(rates[0]) if first is None else first
            if slow.each and before is not None:
                level = layer.lines.passed_outputs(end.neurons[k - 1].outputs, before, held)
            lag = slow.lag.passed(end.sigma, rates, level, error.lag)
            combined = slow.combined(lag)
        following = None
        if k + 1 < len(layers) and errors[k + 1].lines is not None:
            following = layers[k + 1].lines.changed(errors[k + 1].lines, step)
        changes = Charged(
            error.gate, error.output, combined,
            None if following is None else following.currents[:, :-1],
        )  # fmt: skip
        system = end.systems[k]
        gates, outputs = propagate(layer.neurons, system, loads[k], end.sigma, changes)
        found.append(Change(
            gates,
            outputs,
            system.gate_by_gate * gates + system.gate_by_output * outputs,
            system.output_by_gate * gates + system.output_by_output * outputs,
            lag,
            held,
        ))
        if k + 1 < len(layers):
            before = torch.nn.functional.pad(outputs, (0, 1))
            combined = layers[k + 1].lines.passed(end.neurons[k].outputs, outputs, step)
            combined = combined if following is None else combined + following.combined
            history = following
    return found


def corrected(
    layers: Sequence[DynamicLayer],
    step: float,
    states: tuple[StageState, StageState, StageState],
    found: Correction,
) -> tuple[list[NeuronState], list[LineState | None]]:
    """The state to go on from.

    Args:
        layers: In order.
        step: s.
        states: At the start, the stage and the end.
        found: What is to be added at the end.
    """
    end = states[-1]
    sigma = end.sigma
    neurons, lines = [], []
    for k, (layer, once, twice) in enumerate(zip(layers, found.once, found.twice, strict=True)):
        state, past = end.neurons[k], end.lines[k]
        # As the circuit's equations have it, rates follow: dq/dt = σ·(q - what the stage began
        # with), which for the second passage is what the first one has left.
        state = state._replace(
            gates=state.gates + twice.gates,
            outputs=state.outputs + twice.outputs,
            gate_charge=state.gate_charge + twice.gate_charge,
            gate_rate=state.gate_rate + sigma * (twice.gate_charge - once.gate_charge),
            output_charge=state.output_charge + twice.output_charge,
            output_rate=state.output_rate + sigma * (twice.output_charge - once.output_charge),
        )
        if layer.slow.lag.order:
            state = state._replace(
                lag=state.lag + twice.lag,
                lag_rate=state.lag_rate + sigma * (twice.lag - once.lag),
            )
        neurons.append(state)
        lines.append(
            past if twice.lines is None else layer.lines.sum(present(past), twice.lines)
        )
    return neurons, lines


def corrected_middle(middle: StageState, found: Correction) -> list[NeuronState]:
    """Outputs of the stage, to be recorded."""
    return [
        state._replace(outputs=state.outputs + (1.0 - GAMMA) * change.outputs)
        for state, change in zip(middle.neurons, found.twice, strict=True)
    ]


def recorded(neurons: Sequence[NeuronState], found: Correction) -> list[Tensor]:
    """(B, M) V of every layer: outputs at the end of a step without what states must go on with."""
    return [
        state.outputs + 0.5 * (once.outputs - twice.outputs)
        for state, once, twice in zip(neurons, found.once, found.twice, strict=True)
    ]


def between_errors(
    step: float, outputs: Sequence[Sequence[Tensor]], earlier: Earlier | None
) -> Tensor:
    """(layers, B) V: the largest error of an output between the three points of a step."""
    found = []
    for k, (start, middle, end) in enumerate(zip(*outputs, strict=True)):
        points = Points(
            start, middle, end,
            None if earlier is None else earlier.neurons[k].outputs,
            0.0 if earlier is None else earlier.length,
        )  # fmt: skip
        found.append(CUBIC * points.error(step).amax(-1))
    return torch.stack(found)


def power_errors(
    step: float,
    powers: tuple[Tensor, Tensor, Tensor],
    earlier: Earlier | None,
    largest: Tensor,
) -> Tensor:
    """(B,), the largest error of a power between the points, relative to its largest value.

    Args:
        step: s.
        powers: (6, B) W at the three points; NaN where not computed.
        earlier: At the stage before.
        largest: (6, B) W, of every power so far.
    """
    points = Points(
        *powers,
        None if earlier is None else earlier.power,
        0.0 if earlier is None else earlier.length,
    )
    least = SMALLEST_PART * largest[:4].amax(0)  # the amplifiers' are no measure for the others
    scale = torch.maximum(largest, least).clamp(min=torch.finfo(largest.dtype).tiny)
    return (points.error(step) / scale).nan_to_num(nan=0.0).amax(0)
