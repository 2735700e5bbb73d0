"""The DC solution of the whole network: layer after layer, exact, batched, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.dc.curved import CurvedLayer
from imac_torch.dc.layer import Driven, PreparedLayer, with_bias
from imac_torch.dc.load import Load
from imac_torch.dc.newton import NeuronSolution, NewtonOptions, solve_loaded
from imac_torch.elimination.feedback import Saturated
from imac_torch.elimination.ports import PortNetwork
from imac_torch.errors import SolverError
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.results.solution import LayerSolution, Power, Solution, Status, combine

SWEPT: Final = 10
"""Numbers per amplifier that sweeps hold at a time."""
TURNED_TOGETHER: Final = 1024
"""Images whose neurons are solved with what their amplifiers at rails draw at a time: each has a
copy of its load."""


@dataclass(frozen=True)
class PortsDriven(Driven):
    """Eliminated crossbars and what drives them.

    Attributes:
        beyond: (S, B, H, V, N) V that amplifiers which are not ideal would be beyond their rails.
    """

    layer: PortLayer
    beyond: Tensor | None = None

    @property
    def read_outs(self) -> Tensor:
        """See :class:`Driven`."""
        network = self.layer.network
        lines = with_bias(self.layer.by_groups(self.voltages), self.layer.vdd)
        if self.beyond is not None:
            return network.read_out.join(self.layer.real_outputs(lines, self.beyond)[1])
        found = network.read_out.output(*network.end_voltages(lines))
        return found if network.groups == 1 else found.transpose(1, 2).flatten(2, 3)

    def power(self, drawn: Tensor, *, first: bool) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`Driven`."""
        network, vdd = self.layer.network, self.layer.vdd
        lines = with_bias(self.layer.by_groups(self.voltages), vdd)
        if network.feedback is not None:
            return self._power_of_real(lines, drawn, first=first)
        blocks = network.layout.gather_inputs(lines).transpose(-3, -2)  # (S, H, B, K)
        by_inputs = torch.zeros_like(drawn[..., 0])
        if first:
            currents = blocks @ network.admittance.transpose(-1, -2)
            everything = (blocks * currents).sum((-3, -1))
            bias = vdd * currents[..., -1, :, -1]
            by_inputs = everything - bias
        else:
            current = blocks[..., -1, :, :] @ network.admittance[..., -1, -1, :, None]
            bias = vdd * current.squeeze(-1)
        # Read-outs: a quadratic form per partition, and what flows between them and on through the
        # neuron input. With one partition nothing flows between: no difference of large numbers.
        amplifiers = (blocks * (blocks @ network.amplifier_form)).sum((-3, -1))
        if network.groups > 1:  # (S, G, B), so far
            by_inputs, bias, amplifiers = (
                item if item.ndim == 2 else item.sum(1) for item in (by_inputs, bias, amplifiers)
            )
        meeting = network.read_out.combination
        return by_inputs, bias, amplifiers + meeting.meeting_power(self.combined, drawn)

    def _power_of_real(
        self, lines: Tensor, drawn: Tensor, *, first: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same one by one: with constants and clamps it is no quadratic form."""
        network, vdd, beyond = self.layer.network, self.layer.vdd, self.beyond
        assert beyond is not None  # noqa: S101 - amplifiers are not ideal
        currents = self.layer.line_currents(lines, beyond)
        by_line = lines * currents
        by_inputs = by_line[..., :-1].sum(-1) if first else torch.zeros_like(by_line[..., 0])
        ends, outputs = self.layer.real_outputs(lines, beyond)
        whole = network.read_out.join(outputs)
        power = network.read_out.delivered(outputs, *ends)
        power = power + whole * network.read_out.combination.current(whole, self.combined, drawn)
        return by_inputs, vdd * currents[..., -1], power.sum((-1, -2))


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

    def by_groups(self, lines: Tensor) -> Tensor:
        """(S, B, G·N) V on all lines to (S, G, B, N); as they are where there is one group."""
        groups = self.ports.groups
        return lines if groups == 1 else lines.unflatten(-1, (groups, -1)).transpose(-2, -3)

    @property
    def image_bytes(self) -> int:
        """See :class:`PreparedLayer`: amplifiers that are not ideal, in sweeps."""
        feedback = self.ports.feedback
        return 0 if feedback is None else 8 * SWEPT * feedback.ends_beyond[..., 0, 0, :].numel()

    @cached_property
    def network(self) -> PortNetwork:
        """The ports with a sample dimension."""
        if self.shape[0] is not None:
            return self.ports
        return replace(
            self.ports,
            positive_end=self.ports.positive_end[None],
            negative_end=self.ports.negative_end[None],
            admittance=self.ports.admittance[None],
            feedback=None if self.ports.feedback is None else self.ports.feedback.with_sample(),
        )

    def as_load(self) -> Load:
        """See :class:`PreparedLayer`."""
        if self.ports.groups > 1:
            raise SolverError("lines of a layer in groups are driven by sources, not by neurons")
        return Load.of(self.network, self.vdd)

    def drive(
        self, sources: Tensor, before: PreparedLayer | None, options: NewtonOptions
    ) -> PortsDriven:
        """See :class:`PreparedLayer`; the load stands for the crossbars."""
        if self.ports.feedback is not None:
            return self._drive_real(sources, before, options)
        solved = None
        if before is not None:
            solved = solve_loaded(sources, before.neuron, before.load, options)
            sources = solved.outputs
        transfer = self.network.transfer
        constant = (self.vdd * transfer[..., -1])[..., None, :]
        combined = self.by_groups(sources) @ transfer[..., :-1].transpose(-1, -2) + constant
        if self.ports.groups > 1:
            combined = combined.transpose(-2, -3).flatten(-2)
        return PortsDriven(sources, combined, solved, self)

    def limited(self, lines: Tensor) -> Saturated:
        """Amplifiers that are not ideal, for (S, B, C) V on the lines."""
        network = self.network
        feedback = network.feedback
        assert feedback is not None  # noqa: S101 - asked for such amplifiers only
        ends = network.end_voltages(lines)
        linear = torch.stack(
            [item.open_output(*ends) for item in network.read_out.amplifiers], dim=-1
        )
        blocks = network.layout.gather_rows(linear)
        return feedback.limit(blocks + feedback.outputs[:, None])

    def line_currents(self, lines: Tensor, beyond: Tensor | None = None) -> Tensor:
        """(S, B, C) A into the lines at (S, B, C) V.

        Args:
            lines: The bias line last.
            beyond: (S, B, H, V, N) V of amplifiers that are not ideal, if that is known.
        """
        network = self.network
        currents = network.input_currents(lines)
        if network.feedback is None:
            return currents
        beyond = self.limited(lines).beyond if beyond is None else beyond
        moved = network.feedback.moved_currents(beyond) + network.feedback.drawn[:, None]
        return currents + network.layout.scatter_inputs(moved)

    def real_outputs(
        self, lines: Tensor, beyond: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Ends (S, B, M·L, H) twice and outputs (S, B, M·L, H, n) of such amplifiers, V."""
        network = self.network
        feedback = network.feedback
        assert feedback is not None  # noqa: S101 - asked for such amplifiers only
        plain = network.end_voltages(lines)
        moved = feedback.moved_ends(beyond)
        linear = torch.stack(
            [item.open_output(*plain) for item in network.read_out.amplifiers], dim=-1
        )
        blocks = network.layout.gather_rows(linear) + feedback.outputs[:, None]
        outputs = feedback.by_row(feedback.within(blocks, beyond))
        return (plain[0] + moved[0], plain[1] + moved[1]), outputs

    def _drive_real(
        self, sources: Tensor, before: PreparedLayer | None, options: NewtonOptions
    ) -> PortsDriven:
        """Amplifiers with offsets and swing; what saturates moves the lines that drive it."""
        network, solved, lines = self.network, None, sources
        feedback = network.feedback
        assert feedback is not None  # noqa: S101 - asked for such amplifiers only
        if before is not None:
            solved = solve_loaded(sources, before.neuron, before.load, options)
            lines = solved.outputs
        found = self.limited(with_bias(lines, self.vdd))
        if solved is not None and feedback.loads and bool(found.beyond.detach().any()):
            assert before is not None  # noqa: S101 - something was solved
            solved, found = self._together(sources, before, options, solved, found)
            lines = solved.outputs
        if solved is None:
            none = torch.zeros_like(found.converged, dtype=torch.int64)
            solved = NeuronSolution(lines, lines, none, torch.zeros_like(lines[..., 0]), none)
        bad = torch.where(
            found.converged, solved.status, int(Status.MAX_ITERATIONS)
        )
        solved = replace(solved, status=torch.maximum(solved.status, bad))
        outputs = network.read_out.join(feedback.by_row(found.outputs))
        combined = network.read_out.combination.of_partitions(outputs)
        return PortsDriven(lines, combined, solved, self, found.beyond)

    def _together(
        self,
        sources: Tensor,
        before: PreparedLayer,
        options: NewtonOptions,
        solved: NeuronSolution,
        found: Saturated,
    ) -> tuple[NeuronSolution, Saturated]:
        """Neurons and the amplifiers that they drive, in turns.

        An amplifier at its rail draws other currents from the lines than one that is not, which the
        neurons' resistance turns into voltages: a part of a percent of each other, so that every
        turn gains digits. Gradients go through the turns.
        """
        at_rails = (found.beyond.detach() != 0.0).flatten(-3).any(-1).any(0)
        sources = sources.expand(len(solved.outputs), -1, -1)
        for piece in torch.nonzero(at_rails)[:, 0].split(TURNED_TOGETHER):
            of_neurons, of_amplifiers = self._turns(
                sources[:, piece], before, options,
                NeuronSolution(*(item[:, piece] for item in _values(solved))),
                Saturated(*(item[:, piece] for item in found)),
            )  # fmt: skip
            solved = NeuronSolution(*(
                item.index_copy(1, piece, new)
                for item, new in zip(_values(solved), _values(of_neurons), strict=True)
            ))  # fmt: skip
            found = Saturated(*(
                item.index_copy(1, piece, new)
                for item, new in zip(found, of_amplifiers, strict=True)
            ))  # fmt: skip
        return solved, found

    def _turns(
        self,
        sources: Tensor,
        before: PreparedLayer,
        options: NewtonOptions,
        solved: NeuronSolution,
        found: Saturated,
    ) -> tuple[NeuronSolution, Saturated]:
        feedback, load = self.network.feedback, before.load
        assert feedback is not None  # noqa: S101 - asked for such amplifiers only
        assert load is not None  # noqa: S101 - this layer is what they drive
        each = sources.flatten(0, 1)[:, None]
        for _ in range(options.max_iterations):
            drawn = self.network.layout.scatter_inputs(feedback.moved_currents(found.beyond))
            loads = load.expand(len(drawn)).of_each(drawn[..., :-1])
            turn = solve_loaded(each, before.neuron, loads, options)
            after = NeuronSolution(
                *(item[:, 0].unflatten(0, sources.shape[:2]) for item in _values(turn))
            )
            moved = (after.outputs - solved.outputs).detach().abs().amax(-1)
            iterations = solved.iterations + after.iterations
            solved = replace(after, iterations=iterations)
            found = self.limited(with_bias(solved.outputs, self.vdd))
            settled = ~(moved > options.tolerance)
            if bool(settled.all()):
                break
        status = torch.where(settled, solved.status, int(Status.MAX_ITERATIONS))
        return replace(solved, status=status), found


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
        raise SolverError(f"{what}: cells are curved (device.bend), set it to None")
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
    if not bool(finite.all()):
        inputs = torch.where(finite[:, None], inputs, torch.zeros_like(inputs))
    voltages = inputs.expand(samples, *inputs.shape)
    solutions: list[LayerSolution] = []
    powers: list[Power] = []
    driven = _shifted(layers[0].drive(voltages, None, options), noise, 0)
    steps = [] if driven.solved is None else [driven.solved]
    for k, layer in enumerate(layers):
        here = driven
        if k + 1 < len(layers):
            driven = layers[k + 1].drive(here.combined, layer, options)
            assert driven.solved is not None  # noqa: S101 - neurons drive the lines
            solved = driven.solved
            driven = _shifted(driven, noise, k + 1)
        else:
            solved = solve_loaded(here.combined, layer.neuron, layer.load, options)
            if noise is not None:
                solved = replace(solved, outputs=solved.outputs + noise[-1])
        steps.append(solved)
        if power:
            neurons = layer.neuron.static_power(layer.vdd, solved.gates, solved.outputs)
            of_inputs, bias, amplifiers = here.power(neurons.drawn, first=k == 0)
            powers.append(Power(of_inputs, bias, neurons.supply, neurons.level_shift, amplifiers))
        solutions.append(LayerSolution(here.voltages, here.combined, solved.gates, solved.outputs))
    status = torch.stack([step.status for step in steps]).amax(0)
    status = torch.where(finite, status, int(Status.NOT_FINITE))
    failed = status != int(Status.CONVERGED)
    solution = Solution(
        _unless(failed, solutions[-1].outputs),
        tuple(
            LayerSolution(*(_unless(~finite, getattr(found, part.name)) for part in fields(found)))
            for found in solutions
        ),
        _sum_power(powers, failed) if power else None,
        status,
        torch.where(finite, torch.stack([step.residual for step in steps]).amax(0), torch.nan),
        torch.stack([step.iterations for step in steps]).sum(0),
    )
    sampled = any(layer.shape[0] is not None for layer in layers)
    return solution if sampled else combine(lambda tensor, dim: tensor[0], solution)


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


def _sum_power(powers: Sequence[Power], failed: Tensor) -> Power:
    """The power of all layers; NaN for samples (B,) or (S, B) that failed."""

    def total(name: str) -> Tensor:
        return torch.where(
            failed, torch.nan, torch.stack([getattr(power, name) for power in powers]).sum(0)
        )

    return Power(*(total(part.name) for part in fields(Power)))
