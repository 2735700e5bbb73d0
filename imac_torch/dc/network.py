"""The DC solution of the whole network: layer after layer, exact, batched, differentiable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, reduce
from operator import add
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.dc.curved import CurvedLayer
from imac_torch.dc.layer import Driven, DrivenPower, PreparedLayer, with_bias
from imac_torch.dc.load import Load
from imac_torch.dc.newton import NeuronSolution, NewtonOptions, solve_loaded
from imac_torch.elimination.forms import AmplifierForms, LineForms
from imac_torch.elimination.ports import PortNetwork
from imac_torch.elimination.saturation import Saturated
from imac_torch.errors import SolverError
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.readout import ReadOut
from imac_torch.results.solution import LayerSolution, Power, Solution, Status, combine

Made = TypeVar("Made")

SWEPT: Final = 10
"""Numbers per amplifier that sweeps hold at a time."""


@dataclass(frozen=True)
class PortsDriven(Driven):
    """Eliminated crossbars and what drives them.

    Attributes:
        beyond: (S, [G,] H, B, V, N) V that amplifiers would be beyond their rails; None: none is.
    """

    layer: PortLayer
    beyond: Tensor | None = None

    @property
    def read_outs(self) -> Tensor:
        """See :class:`Driven`."""
        network = self.layer.network
        lines = self.layer.lines(self.voltages)
        if network.feedback is None:
            return self.layer.ungrouped(network.read_out.output(*network.end_voltages(lines)))
        return network.read_out.join(self.layer.real_outputs(lines, self.beyond)[1])

    def absorbed(self) -> Tensor:
        """See :class:`Driven`."""
        lines, outputs = self.layer.lines(self.voltages), None
        if self.layer.network.feedback is None:
            plus, minus = map(self.layer.ungrouped, self.layer.network.end_voltages(lines))
        else:
            (plus, minus), outputs = self.layer.real_outputs(lines, self.beyond)
        return self.layer.network.read_out.absorbed(plus, minus, outputs).sum((-1, -2))

    def power(self, drawn: Tensor, *, first: bool) -> DrivenPower:
        """See :class:`Driven`."""
        network, vdd = self.layer.network, self.layer.vdd
        meeting = network.read_out.combination
        if network.feedback is None and network.groups == 1:
            by_inputs, bias, amplifiers = self.layer.forms.power(self.voltages, first=first)
            amplifiers = amplifiers + meeting.meeting_power(self.combined, drawn)
            return DrivenPower(by_inputs, bias, amplifiers, self._supplied(drawn))
        blocks = network.blocks(self.layer.lines(self.voltages))
        by_inputs = torch.zeros_like(drawn[..., 0])
        if first:
            currents = network.block_currents(blocks, self.beyond)
            everything = (blocks * currents).sum((-3, -1))
            bias = vdd * currents[..., -1, :, -1]
            by_inputs = everything - bias
        else:
            bias = vdd * network.bias_current(blocks, self.beyond)
        # Read-outs: a quadratic form per partition, and what flows between them and on through the
        # neuron input. With one partition nothing flows between: no difference of large numbers.
        amplifiers = self.layer.amplifier_forms.power(blocks, self.beyond)
        if network.groups > 1:  # (S, G, B), so far
            by_inputs, bias, amplifiers = (
                item if item.ndim == 2 else item.sum(1) for item in (by_inputs, bias, amplifiers)
            )
        amplifiers = amplifiers + meeting.meeting_power(self.combined, drawn)
        return DrivenPower(by_inputs, bias, amplifiers, self._supplied(drawn))

    def _supplied(self, drawn: Tensor) -> Tensor:
        """(S, B) W of the amplifiers' supplies: what comes from which of them is not linear."""
        network, read_out = self.layer.network, self.layer.network.read_out
        if read_out.rails is None:
            return torch.zeros_like(drawn[..., 0])
        ends, outputs = self.layer.real_outputs(self.layer.lines(self.voltages), self.beyond)
        onward = read_out.combination.current(read_out.join(outputs), self.combined, drawn)
        return network.read_out.supplied(outputs, *ends, onward).sum((-1, -2))


@dataclass(frozen=True)
class Passing:
    """What voltages on lines make of read-outs.

    Attributes:
        matrix: (S, [G,] N, M) V per V.
        constant: (S, [G,] 1, M) V, of the bias.
    """

    matrix: Tensor
    constant: Tensor

    @classmethod
    def of(cls, transfer: Tensor, vdd: Tensor) -> Passing:
        """Of (S, [G,] M, C) V per V, the bias last."""
        constant = (vdd * transfer[..., -1])[..., None, :]
        return cls(transfer[..., :-1].transpose(-1, -2), constant)

    def of_lines(self, voltages: Tensor) -> Tensor:
        """(S, [G,] B, M) V combined for (S, [G,] B, N) V."""
        if voltages.ndim == 3 and len(voltages) == len(self.matrix):
            # Without a pass of its own for the constant.
            return torch.baddbmm(self.constant, voltages, self.matrix)
        return voltages @ self.matrix + self.constant


@dataclass(frozen=True)
class PortLayer(PreparedLayer):
    """A layer of ohmic cells, its crossbars eliminated.

    Attributes:
        ports: The linear part; either no or one leading sample dimension S. Inputs and outputs of
            groups follow one another.
    """

    ports: PortNetwork

    @property
    def shape(self) -> tuple[int | None, int, int]:
        """See :class:`PreparedLayer`."""
        *samples, rows, columns = self.ports.positive_end.shape
        groups = self.ports.groups
        if groups > 1:
            samples, rows, columns = samples[:-1], groups * rows, groups * (columns - 1) + 1
        return samples[0] if samples else None, rows, columns

    @property
    def read_out(self) -> ReadOut:
        """See :class:`PreparedLayer`."""
        return self.ports.read_out

    def by_groups(self, lines: Tensor) -> Tensor:
        """(S, B, G·N) V on all lines to (S, G, B, N); as they are where there is one group."""
        groups = self.ports.groups
        return lines if groups == 1 else lines.unflatten(-1, (groups, -1)).transpose(-2, -3)

    def ungrouped(self, values: Tensor, *, dim: int = -2) -> Tensor:
        """(S, G, B, …, M, …) to (S, B, …, G·M, …); as they are where there is one group."""
        if self.ports.groups == 1:
            return values
        return values.movedim(1, dim - 1).flatten(dim - 1, dim)

    def lines(self, voltages: Tensor) -> Tensor:
        """(S, B, N) V to the lines (S, [G,] B, C) V, the bias last."""
        return with_bias(self.by_groups(voltages), self.vdd)

    @property
    def image_bytes(self) -> int:
        """See :class:`PreparedLayer`: amplifiers that are not ideal."""
        feedback = self.ports.feedback
        return 0 if feedback is None else 8 * SWEPT * feedback.outputs.numel()

    @cached_property
    def network(self) -> PortNetwork:
        """The ports with a sample dimension."""
        return self.ports if self.shape[0] is not None else self.ports.with_sample()

    @property
    def amplifier_forms(self) -> AmplifierForms:
        """Power of the read-outs' outputs."""
        return self._kept("amplifiers", lambda: AmplifierForms.of(self.network))

    @property
    def forms(self) -> LineForms:
        """What sources deliver to lines and read-outs, where read-outs are linear."""
        return self._kept("forms", lambda: LineForms.of(self.network, self.vdd))

    @property
    def passing(self) -> Passing:
        """From voltages on lines to combined ones."""
        return self._kept("passing", lambda: Passing.of(self.network.transfer, self.vdd))

    def _kept(self, name: str, make: Callable[[], Made]) -> Made:
        """What follows from the ports: made once, or anew where gradients go through it."""
        if name in self._made:
            known: Made = self._made[name]
            return known
        with torch.enable_grad():
            made = make()
        tensors = (item for item in vars(made).values() if isinstance(item, Tensor))
        if not any(item.requires_grad for item in tensors):
            self._made[name] = made
        return made

    @cached_property
    def _made(self) -> dict[str, Any]:
        return {}

    def as_load(self) -> Load:
        """See :class:`PreparedLayer`."""
        if self.ports.groups > 1:
            raise SolverError("lines of a layer in groups are driven by sources, not by neurons")
        return Load.of(self.network, self.vdd)

    @property
    def notices(self) -> bool:
        """See :class:`PreparedLayer`."""
        return self.ports.feedback is not None and self.ports.feedback.notices

    def drive(
        self,
        sources: Tensor,
        before: PreparedLayer | None,
        options: NewtonOptions,
        drawn: Tensor | None = None,
    ) -> PortsDriven:
        """See :class:`PreparedLayer`; the load stands for the crossbars."""
        if self.ports.feedback is not None:
            return self._drive_real(sources, before, options, drawn)
        solved = None
        if before is not None:
            solved = solve_loaded(sources, before.neuron, before.load, options)
            sources = solved.outputs
        combined = self.passing.of_lines(self.by_groups(sources))
        return PortsDriven(sources, self.ungrouped(combined, dim=-1), solved, self)

    def driven_at(
        self, found: LayerSolution, drawn: Tensor, options: NewtonOptions
    ) -> PortsDriven:
        """See :class:`PreparedLayer`."""
        beyond = None
        if self.network.feedback is not None:
            beyond = self.limited(found.inputs, drawn if self.notices else None).beyond
        return PortsDriven(found.inputs, found.combined, None, self, beyond)

    def limited(self, voltages: Tensor, drawn: Tensor | None = None) -> Saturated:
        """Amplifiers that are not ideal, for (S, B, N) V that drive the lines.

        Args:
            voltages: On the lines.
            drawn: (S, B, M) A that neurons draw, for amplifiers that notice it; None: nothing.
        """
        feedback = self.network.feedback
        assert feedback is not None  # noqa: S101 - asked for such amplifiers only
        return feedback.limited(self.network.blocks(self.lines(voltages)), drawn)

    def line_currents(self, voltages: Tensor) -> Tensor:
        """(S, [G,] B, C) A into the lines, the bias last, for (S, B, N) V that drive them."""
        network = self.network
        beyond = None if network.feedback is None else self.limited(voltages).beyond
        blocks = network.blocks(self.lines(voltages))
        return network.line_currents(network.block_currents(blocks, beyond))

    def real_outputs(
        self, lines: Tensor, beyond: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Ends (S, B, M·L, H) twice and outputs (S, B, M·L, H, n) of such amplifiers, V."""
        network = self.network
        feedback = network.feedback
        assert feedback is not None  # noqa: S101 - asked for such amplifiers only
        plain, moved = network.end_voltages(lines), feedback.moved_ends(beyond)
        ends = [self.ungrouped(end + move) for end, move in zip(plain, moved, strict=True)]
        outputs = feedback.by_row(feedback.outputs_at(network.blocks(lines), beyond))
        return (ends[0], ends[1]), self.ungrouped(outputs, dim=-3)

    def _drive_real(
        self,
        sources: Tensor,
        before: PreparedLayer | None,
        options: NewtonOptions,
        drawn: Tensor | None,
    ) -> PortsDriven:
        """Amplifiers with offsets and swing; what saturates moves the lines that drive it."""
        network, solved, voltages = self.network, None, sources
        feedback = network.feedback
        assert feedback is not None  # noqa: S101 - asked for such amplifiers only
        if before is not None:
            solved = solve_loaded(sources, before.neuron, before.load, options)
            voltages = solved.outputs
        found = self.limited(voltages, drawn)
        if solved is not None and feedback.loads and found.beyond is not None:
            assert before is not None  # noqa: S101 - something was solved
            solved, found = self._together(sources, before, options, solved, found, drawn)
            voltages = solved.outputs
        good = found.converged.all(-1).all(-2)
        good = good if network.groups == 1 else good.all(1)
        tabled = network.read_out.table is not None
        bad = Status.OUTSIDE if tabled else Status.MAX_ITERATIONS
        status = torch.where(good, int(Status.CONVERGED), int(bad))
        if solved is None:
            none = torch.zeros_like(status)
            solved = NeuronSolution(
                voltages, voltages, status, torch.zeros_like(voltages[..., 0]), none
            )
        else:
            solved = replace(solved, status=torch.maximum(solved.status, status))
        combined = feedback.combined(found.outputs, network.read_out)
        return PortsDriven(
            voltages, self.ungrouped(combined, dim=-1), solved, self, found.beyond
        )

    def _together(
        self,
        sources: Tensor,
        before: PreparedLayer,
        options: NewtonOptions,
        solved: NeuronSolution,
        found: Saturated,
        drawn_on: Tensor | None,
    ) -> tuple[NeuronSolution, Saturated]:
        """Neurons and the amplifiers that they drive, in turns.

        An amplifier at its rail draws other currents from the lines than one that is not, which the
        neurons' resistance turns into voltages: a part of a percent of each other, so that every
        turn gains digits. Only images with such amplifiers take part, each as long as it moves.
        Gradients go through the turns.
        """
        network, load, beyond = self.network, before.load, found.beyond
        feedback = network.feedback
        assert feedback is not None and load is not None and beyond is not None  # noqa: S101
        sources = sources.expand(len(solved.outputs), -1, -1)
        at_rails = (beyond.detach() != 0.0).movedim(2, 0).flatten(1).any(1)
        active = torch.nonzero(at_rails)[:, 0]
        for _ in range(options.max_iterations):
            drawn = network.line_currents(feedback.moved_currents(beyond.index_select(2, active)))
            loads = load.with_drawn(drawn[..., :-1])
            turn = solve_loaded(sources.index_select(1, active), before.neuron, loads, options)
            onward = None if drawn_on is None else drawn_on.index_select(1, active)
            again = self.limited(turn.outputs, onward)
            there = torch.zeros_like(again.outputs) if again.beyond is None else again.beyond
            moved = turn.outputs - solved.outputs.index_select(1, active)
            turn = replace(
                turn, iterations=turn.iterations + solved.iterations.index_select(1, active)
            )
            solved = NeuronSolution(*(
                item.index_copy(1, active, new)
                for item, new in zip(_values(solved), _values(turn), strict=True)
            ))  # fmt: skip
            beyond = beyond.index_copy(2, active, there)
            found = Saturated(
                found.outputs.index_copy(2, active, again.outputs), beyond,
                found.converged.index_copy(2, active, again.converged),
            )  # fmt: skip
            settled = ~(moved.detach().abs().amax(-1) > options.tolerance)
            # Images whose amplifiers have no solution stay without: their status says so.
            lost = (~again.converged).movedim(2, 0).flatten(1).any(1)
            active = active[~(settled.all(0) | lost)]
            if len(active) == 0:
                break
        status = solved.status.index_fill(1, active, int(Status.MAX_ITERATIONS))
        return replace(solved, status=torch.maximum(solved.status, status)), found


def _values(solved: NeuronSolution) -> list[Tensor]:
    return [getattr(solved, part.name) for part in fields(NeuronSolution)]


def chain_layers(
    layers: Sequence[tuple[PortNetwork | CrossbarSpec, NeuronCircuit]], vdd: Tensor
) -> tuple[PreparedLayer, ...]:
    """Layers in series, each loaded by the next.

    Args:
        layers: Crossbars, eliminated or (curved ones) as they are, and neurons; crossbars have no
            or one sample dimension.
        vdd: V, 0-dimensional.
    """
    made = [
        CurvedLayer(neuron, vdd, None, crossbar)
        if isinstance(crossbar, CrossbarSpec)
        else PortLayer(neuron, vdd, None, crossbar)
        for crossbar, neuron in layers
    ]
    loads = [*(layer.as_load() for layer in made[1:]), None]
    return tuple(replace(layer, load=load) for layer, load in zip(made, loads, strict=True))


def eliminated(layer: PreparedLayer, what: str) -> PortLayer:
    """The layer, for what needs its ports.

    Raises:
        SolverError: Its cells are curved.
    """
    if not isinstance(layer, PortLayer):
        raise SolverError(
            f"{what}: cells are curved; take device.bend, device.cell and device.access out"
        )
    return layer


def solve_dc(
    layers: Sequence[PreparedLayer],
    inputs: Tensor,
    *,
    options: NewtonOptions | None = None,
    power: bool = True,
    noise: Sequence[Tensor] | None = None,
) -> Solution:
    """Solve a batch of input vectors.

    Nothing flows back through ideal amplifiers, so layers are solved in order; the neurons of a
    layer are solved together with the load of the next.

    Args:
        layers: In order.
        inputs: (B, N) float64, V, at the first layer's input lines.
        options: Of Newton's method.
        power: Whether to compute the power of every source.
        noise: (B, M) V that each layer's combined read-outs are shifted by, then what the last
            outputs are; None: nothing.

    Returns:
        Shapes (B, …), or (S, B, …) if the layers have samples. Differentiable with respect to
        everything in layers and inputs that requires gradients.

    Raises:
        SolverError: Inputs do not fit the first layer, or are not float64.
    """
    options = NewtonOptions() if options is None else options
    _check_inputs(layers, inputs)
    samples = max(layer.shape[0] or 1 for layer in layers)
    # Zeros instead of inputs that are not finite: their samples fail, but neither the values nor
    # the gradients of the others see them.
    finite = torch.isfinite(inputs.sum(dim=-1))
    whole = bool(finite.all())
    if not whole:
        inputs = torch.where(finite[:, None], inputs, torch.zeros_like(inputs))
    voltages = inputs.expand(samples, *inputs.shape)
    passed = _pass(layers, voltages, options, noise, [None] * len(layers))
    if any(layer.notices for layer in layers):
        passed = _settle(layers, voltages, options, noise, passed)
    steps = [] if passed[0][0].solved is None else [passed[0][0].solved]
    steps += [solved for _, solved in passed]
    solutions: list[LayerSolution] = []
    powers = powers_of(layers, passed) if power else []
    for here, solved in passed:
        solutions.append(LayerSolution(here.voltages, here.combined, solved.gates, solved.outputs))
    status = torch.stack([step.status for step in steps]).amax(0)
    if not whole:
        status = torch.where(finite, status, int(Status.NOT_FINITE))
    failed = status != int(Status.CONVERGED)
    residual = torch.stack([step.residual for step in steps]).amax(0)
    solution = Solution(
        _unless(failed, solutions[-1].outputs),
        tuple(
            found if whole else LayerSolution(
                *(_unless(~finite, getattr(found, part.name)) for part in fields(found))
            )
            for found in solutions
        ),
        sum_power(powers, failed) if power else None,
        status,
        torch.where(finite, residual, torch.nan) if not whole else residual,
        torch.stack([step.iterations for step in steps]).sum(0),
    )
    sampled = any(layer.shape[0] is not None for layer in layers)
    return solution if sampled else combine(lambda tensor, dim: tensor[0], solution)


def powers_of(
    layers: Sequence[PreparedLayer], passed: Sequence[tuple[Driven, NeuronSolution]]
) -> list[Power]:
    """Of every layer, (S, B) W."""
    found = []
    for k, (layer, (here, solved)) in enumerate(zip(layers, passed, strict=True)):
        neurons = layer.neuron.static_power(layer.vdd, solved.gates, solved.outputs)
        found.append(here.power(neurons.drawn, first=k == 0).with_neurons(neurons))
    return found


def _pass(
    layers: Sequence[PreparedLayer],
    voltages: Tensor,
    options: NewtonOptions,
    noise: Sequence[Tensor] | None,
    drawn: Sequence[Tensor | None],
) -> list[tuple[Driven, NeuronSolution]]:
    """Layer after layer: what drives each, and its neurons.

    Args:
        layers: In order.
        voltages: (S, B, N) V at the first layer's lines.
        options: Of Newton's method.
        noise: As of :func:`solve_dc`.
        drawn: (S, B, M) A of every layer's neurons, for read-outs that notice it.
    """
    driven = _shifted(layers[0].drive(voltages, None, options, drawn[0]), noise, 0)
    passed = []
    for k, layer in enumerate(layers):
        here = driven
        if k + 1 < len(layers):
            driven = layers[k + 1].drive(here.combined, layer, options, drawn[k + 1])
            assert driven.solved is not None  # noqa: S101 - neurons drive the lines
            solved = driven.solved
            driven = _shifted(driven, noise, k + 1)
        else:
            solved = solve_loaded(here.combined, layer.neuron, layer.load, options)
            if noise is not None:
                solved = replace(solved, outputs=solved.outputs + noise[-1])
        passed.append((here, solved))
    return passed


def _settle(
    layers: Sequence[PreparedLayer],
    voltages: Tensor,
    options: NewtonOptions,
    noise: Sequence[Tensor] | None,
    passed: list[tuple[Driven, NeuronSolution]],
) -> list[tuple[Driven, NeuronSolution]]:
    """Passes through all layers until read-outs notice no change of what neurons draw.

    A read-out's output moves by its resistance within the loop times what a neuron draws through a
    resistance hundreds of times as large, so that every pass gains digits.
    """
    for _ in range(options.max_iterations):
        drawn = [
            layer.neuron.static_power(layer.vdd, solved.gates, solved.outputs).drawn
            if layer.notices else None
            for layer, (_, solved) in zip(layers, passed, strict=True)
        ]  # fmt: skip
        before = [here.combined.detach() for here, _ in passed]
        passed = _pass(layers, voltages, options, noise, drawn)
        moved = torch.stack([
            (here.combined.detach() - old).abs().amax(-1)
            for (here, _), old in zip(passed, before, strict=True)
        ]).amax(0)  # fmt: skip
        if not bool((moved > options.tolerance).any()):
            return passed
    here, solved = passed[-1]
    failed = torch.where(moved > options.tolerance, int(Status.MAX_ITERATIONS), solved.status)
    return [*passed[:-1], (here, replace(solved, status=torch.maximum(solved.status, failed)))]


def _shifted(driven: Driven, noise: Sequence[Tensor] | None, layer: int) -> Driven:
    """Crossbars whose read-outs give something else besides."""
    if noise is None:
        return driven
    return replace(driven, combined=driven.combined + noise[layer])


def _check_inputs(layers: Sequence[PreparedLayer], inputs: Tensor) -> None:
    expected = layers[0].shape[2] - 1
    if inputs.ndim != 2 or inputs.shape[1] != expected:
        raise SolverError(
            f"inputs must be (B, {expected}) voltages for the first layer, got "
            f"{tuple(inputs.shape)}"
        )
    if inputs.dtype != torch.float64:
        raise SolverError(f"circuit quantities are float64, inputs are {inputs.dtype}")


def _unless(failed: Tensor, voltages: Tensor) -> Tensor:
    """Voltages (S, B, …), NaN for samples (B,) or (S, B) that failed."""
    if not bool(failed.any()):
        return voltages
    return torch.where(failed[..., None], torch.nan, voltages)


def sum_power(powers: Sequence[Power], failed: Tensor | None) -> Power:
    """The power of all layers; NaN for samples (B,) or (S, B) that failed, None if none did."""
    some = failed is not None and bool(failed.any())

    def total(name: str) -> Tensor:
        found = reduce(add, (getattr(power, name) for power in powers))
        return torch.where(failed, torch.nan, found) if failed is not None and some else found

    return Power(*(total(part.name) for part in fields(Power)))
