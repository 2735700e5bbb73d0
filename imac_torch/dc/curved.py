"""Networks whose cells have curved I-V characteristics: exact, by Newton's method, with the wires.

Only cells and neurons are not linear. Newton's method on the cells replaces each by its tangent, a
conductance and a current source; rows and input lines are then eliminated as those of ohmic cells
are (:mod:`imac_torch.elimination.chain`), every input vector with conductances of its own. What a
layer's lines draw is an affine function of the voltages that drive them, and the neurons in front
are solved with it. At the solution tangents and curves agree, and everything is solved together.

Shapes: B input vectors; H, V partitions of R rows and K columns; M outputs, L slices, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.crossbar import CrossbarSpec
from imac_torch.dc.load import Load
from imac_torch.dc.network import sum_power
from imac_torch.dc.newton import NewtonOptions, solve_neurons
from imac_torch.elimination.blocks import BlockLayout, Termination
from imac_torch.elimination.chain import LineEnds, chain_inverse, eliminate_lines
from imac_torch.elimination.linalg import solve
from imac_torch.errors import SolverError
from imac_torch.neurons.neuron import NeuronCircuit
from imac_torch.nonlinear import Sinh
from imac_torch.solution import LayerSolution, Power, Solution, Status, combine, concatenate

MEMORY: Final = 2**29
"""Bytes that the tangents' elimination may take at a time."""
ARRAYS: Final = 8
"""(R, K, K) arrays per partition that it holds at its peak."""


@dataclass(frozen=True)
class CurvedStage:
    """A layer whose cells may be curved, with its neurons.

    Attributes:
        spec: The crossbars.
        neuron: The activation circuit.
        vdd: V, 0-dimensional, on the bias line.
    """

    spec: CrossbarSpec
    neuron: NeuronCircuit
    vdd: Tensor

    @property
    def bytes_per_vector(self) -> int:
        """What one input vector takes."""
        layout = BlockLayout.of(self.spec)
        horizontal, columns = layout.column_index.shape
        return 8 * ARRAYS * horizontal * columns**2 * layout.row_index.numel()


@dataclass(frozen=True)
class _Tangents:
    """A layer with every cell replaced by a conductance and a current source.

    Attributes:
        layer: What was linearised.
        reduced: R tensors (B, H, V, K, K) S: current into an input line from a row on, per
            voltage before it.
        sources: R tensors (B, H, V, K) A: the part of it that is there without voltages.
        positive: (B, H, V, R, K) S and
        positive_source: A, the tangents of the cells on I+ lines.
        negative: Likewise on I- lines.
        negative_source: Likewise.
        z_positive: (B, H, V, R, K, K) Ω, node voltages of I+ lines per injected current.
        z_negative: Likewise of I- lines.
    """

    layer: _Layer
    reduced: list[Tensor]
    sources: list[Tensor]
    positive: Tensor
    positive_source: Tensor
    negative: Tensor
    negative_source: Tensor
    z_positive: Tensor
    z_negative: Tensor

    def load(self, vdd: Tensor) -> Load:
        """What the layer draws from the neurons that drive it, one vector per sample."""
        admittance, drawn = self.ports()
        return Load.of_blocks(self.layer.layout, admittance, drawn, vdd)

    def ports(self) -> tuple[Tensor, Tensor]:
        """(B, H, K, K) S and (B, H, K) A: currents into the input lines."""
        return self.reduced[0].sum(-3), self.sources[0].sum(-2)

    def follow(self, inputs: Tensor) -> _Voltages:
        """Voltages everywhere for (B, C) V on the input lines, the bias included."""
        layer = self.layer
        wires, ends = layer.wires, LineEnds.of(layer.wires)
        voltage = layer.layout.gather_inputs(inputs)[:, :, None, :]
        voltage = voltage.expand(self.sources[0].shape)
        rows = []
        for reduced, source in zip(self.reduced, self.sources, strict=True):
            current = (reduced @ voltage[..., None]).squeeze(-1) + source
            voltage = voltage - wires.input_segment * current
            rows.append(voltage)
        cell = torch.stack(rows, dim=-2)
        driven = self.positive * cell + self.positive_source
        plus = (self.z_positive @ driven[..., None]).squeeze(-1)
        end_plus = ends.positive_share * plus[..., -1]
        virtual = wires.alpha * end_plus
        driven = self.negative * cell + self.negative_source
        minus = (self.z_negative @ driven[..., None]).squeeze(-1)
        minus = minus + self.z_negative[..., -1] * ends.negative_end * virtual[..., None]
        share = ends.negative_share
        end_minus = share * minus[..., -1] + (1.0 - share) * virtual
        return _Voltages(cell - plus, cell - minus, end_plus, end_minus)


@dataclass(frozen=True)
class _Voltages:
    """(B, H, V, R, K) V across the cells of both sides, (B, H, V, R) V at the line ends."""

    positive: Tensor
    negative: Tensor
    positive_end: Tensor
    negative_end: Tensor


class _Layer:
    """One layer's cells in blocks, and its lines."""

    def __init__(self, spec: CrossbarSpec) -> None:
        self.spec = spec
        self.layout = BlockLayout.of(spec)
        self.wires = Termination.of(spec)
        self.positive = self.layout.gather(spec.conductances.positive.detach())
        self.negative = self.layout.gather(spec.conductances.negative.detach())
        self.curve = None if spec.bend is None else Sinh(spec.bend)

    def at_rest(self, count: int) -> tuple[Tensor, Tensor]:
        """No voltage across any cell: the tangents there are the ohmic circuit."""
        shape = (count, *self.positive.shape)
        return self.positive.new_zeros(shape), self.positive.new_zeros(shape)

    def current(self, conductance: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
        """A and S of cells at (B, H, V, R, K) V."""
        if self.curve is None:
            return conductance * across, conductance.expand_as(across)
        return self.curve.current(conductance, across)

    def tangents(self, across: tuple[Tensor, Tensor]) -> _Tangents:
        """The layer linearised at voltages across its cells."""
        wires, ends = self.wires, LineEnds.of(self.wires)
        sides = []
        for conductance, voltage in zip((self.positive, self.negative), across, strict=True):
            current, slope = self.current(conductance, voltage)
            sides.append((slope, current - slope * voltage))
        (plus, plus_source), (minus, minus_source) = sides
        admittance = eliminate_lines(plus, minus, wires).admittance
        z_plus = chain_inverse(plus, wires.output_segment, ends.positive_end)
        z_minus = chain_inverse(minus, wires.output_segment, ends.negative_end)
        # Lines and rows as the sources alone drive them, input nodes held at 0 V.
        line_plus = (z_plus @ plus_source[..., None]).squeeze(-1)
        virtual = wires.alpha * ends.positive_share * line_plus[..., -1:]
        line_minus = (z_minus @ minus_source[..., None]).squeeze(-1)
        line_minus = line_minus + z_minus[..., -1] * ends.negative_end * virtual
        drawn = plus_source - plus * line_plus + minus_source - minus * line_minus
        # From the far end of the input lines: i_r = excess·v_r + e and v_r = v_{r-1} - r·i_r.
        identity = torch.eye(plus.shape[-1], dtype=plus.dtype, device=plus.device)
        below = torch.zeros_like(admittance[..., 0, :, :])
        source = torch.zeros_like(drawn[..., 0, :])
        reduced, sources = [], []
        for row in range(plus.shape[-2] - 1, -1, -1):
            excess = admittance[..., row, :, :] + below
            total = torch.cat([excess, (drawn[..., row, :] + source)[..., None]], dim=-1)
            matrix = identity + wires.input_segment * excess
            solved = solve(matrix.flatten(0, -3), total.flatten(0, -3)).reshape(total.shape)
            below, source = solved[..., :-1], solved[..., -1]
            reduced.append(below)
            sources.append(source)
        reduced.reverse()
        sources.reverse()
        return _Tangents(
            self, reduced, sources, plus, plus_source, minus, minus_source, z_plus, z_minus
        )

    def combined(self, found: _Voltages) -> tuple[Tensor, Tensor]:
        """(B, M) V of the ideal combined source, (B, M·L, H) V of the amplifiers."""
        spec = self.spec
        amplifiers = spec.gain * self.by_row(found.positive_end - found.negative_end)
        total = amplifiers.mean(-1) if spec.combine == "average" else amplifiers.sum(-1)
        return spec.slicing.join(total, dim=-1), amplifiers

    def by_row(self, ends: Tensor) -> Tensor:
        """(B, H, V, R) → (B, M·L, H)."""
        return ends.flatten(-2)[..., self.layout.row_position].transpose(-1, -2)


@dataclass
class _Driven:
    """A crossbar that has been solved with what drives it.

    Attributes:
        inputs: (B, N) V on its lines.
        gates: (B, N) V of the neurons that drive it; those of none are absent.
        found: Voltages inside.
        currents: (B, C) A into its lines.
        status: (B,) int64.
        residual: (B,) A.
        iterations: (B,) int64.
    """

    inputs: Tensor
    gates: Tensor | None
    found: _Voltages
    currents: Tensor
    status: Tensor
    residual: Tensor
    iterations: Tensor


def _drive(
    layer: _Layer,
    vdd: Tensor,
    options: NewtonOptions,
    inputs: Tensor,
    neuron: NeuronCircuit | None,
) -> _Driven:
    """Solve a crossbar driven by sources (``inputs`` in V) or neurons (their combined sources)."""
    count = len(inputs)
    across = layer.at_rest(count)
    status = torch.full((count,), int(Status.MAX_ITERATIONS), device=inputs.device)
    iterations = torch.zeros_like(status)
    largest = torch.inf if layer.curve is None else layer.curve.bend
    bias = vdd.detach().expand(count, 1)
    for _ in range(options.max_iterations):
        tangents = layer.tangents(across)
        gates, lines, residual = None, inputs, torch.zeros_like(inputs[:, 0])
        neurons_status = torch.zeros_like(status)
        if neuron is not None:
            solved = solve_neurons(inputs[:, None], neuron, tangents.load(vdd), options)
            gates, lines = solved.gates[:, 0], solved.outputs[:, 0]
            residual, neurons_status = solved.residual[:, 0], solved.status[:, 0]
        driven = torch.cat([lines, bias], dim=-1)
        found = tangents.follow(driven)
        sides = (found.positive, found.negative)
        steps = [new - old for new, old in zip(sides, across, strict=True)]
        size = torch.stack([step.abs().flatten(1).amax(-1) for step in steps]).amax(0)
        iterations = iterations + (status != int(Status.CONVERGED))
        close = size <= options.tolerance
        if layer.curve is None:  # tangents are exact
            close = torch.isfinite(size)
        good = close & (neurons_status == int(Status.CONVERGED))
        status = torch.where(
            good,
            int(Status.CONVERGED),
            torch.where(torch.isfinite(size), int(Status.MAX_ITERATIONS), int(Status.NOT_FINITE)),
        )
        if bool(good.all()):
            break
        share = (largest / size).clamp(max=1.0).nan_to_num(nan=0.0)[:, None, None, None, None]
        across = tuple(
            (old + share * step).nan_to_num() for old, step in zip(across, steps, strict=True)
        )  # type: ignore[assignment]
    admittance, drawn = tangents.ports()
    blocks = layer.layout.gather_inputs(driven)
    currents = (admittance @ blocks[..., None]).squeeze(-1) + drawn
    return _Driven(
        inputs=lines,
        gates=gates,
        found=found,
        currents=layer.layout.scatter_inputs(currents),
        status=status,
        residual=torch.maximum(residual, _defect(layer, tangents, found)),
        iterations=iterations,
    )


def _defect(layer: _Layer, tangents: _Tangents, found: _Voltages) -> Tensor:
    """(B,) A, largest difference between a cell's curve and the tangent that was solved with."""
    worst = []
    for conductance, slope, source, across in (
        (layer.positive, tangents.positive, tangents.positive_source, found.positive),
        (layer.negative, tangents.negative, tangents.negative_source, found.negative),
    ):
        current, _ = layer.current(conductance, across)
        worst.append((current - slope * across - source).abs().flatten(1).amax(-1))
    return torch.maximum(*worst)


@torch.no_grad()
def solve_curved(
    stages: Sequence[CurvedStage],
    inputs: Tensor,
    *,
    options: NewtonOptions | None = None,
    power: bool = True,
) -> Solution:
    """Solve a batch of input vectors of a network with curved cells.

    Args:
        stages: The layers; conductances may have one sample dimension.
        inputs: (B, N) float64, V, at the first layer's input lines.
        options: Of Newton's method; its tolerance holds for the voltage across every cell too.
        power: Whether to compute the power of every source.

    Returns:
        Shapes (B, …), or (S, B, …) if conductances have samples.

    Raises:
        SolverError: Inputs do not fit the first layer, or are not float64.
    """
    options = NewtonOptions() if options is None else options
    expected = stages[0].spec.inputs
    if inputs.ndim != 2 or inputs.shape[1] != expected or inputs.dtype != torch.float64:
        raise SolverError(
            f"inputs must be (B, {expected}) float64 voltages for the first layer, got "
            f"{tuple(inputs.shape)} {inputs.dtype}"
        )
    counts = {stage.spec.conductances.positive.shape[:-2] for stage in stages} - {()}
    if counts:
        samples = max(shape.numel() for shape in counts)
        parts = [
            solve_curved(_sample(stages, k), inputs, options=options, power=power)
            for k in range(samples)
        ]
        return combine(lambda *tensors, dim: torch.stack(tensors), *parts)
    size = max(1, MEMORY // max(stage.bytes_per_vector for stage in stages))
    return concatenate(
        [_solve(stages, part, options, power=power) for part in inputs.split(size)]
    )


def _sample(stages: Sequence[CurvedStage], index: int) -> list[CurvedStage]:
    return [
        CurvedStage(stage.spec.select(index), stage.neuron, stage.vdd) for stage in stages
    ]


def _solve(
    stages: Sequence[CurvedStage], inputs: Tensor, options: NewtonOptions, *, power: bool
) -> Solution:
    layers = [_Layer(stage.spec) for stage in stages]
    status = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
    finite = torch.isfinite(inputs).all(-1)
    inputs = torch.where(finite[:, None], inputs, torch.zeros_like(inputs))
    residual = torch.zeros_like(inputs[:, 0])
    iterations = torch.zeros_like(status)
    driven = _drive(layers[0], stages[0].vdd, options, inputs, None)
    solutions: list[LayerSolution] = []
    powers: list[Power] = []
    for k, (stage, layer) in enumerate(zip(stages, layers, strict=True)):
        status = torch.maximum(status, driven.status)
        residual = torch.maximum(residual, driven.residual)
        iterations = iterations + driven.iterations
        combined, amplifiers = layer.combined(driven.found)
        if k + 1 < len(stages):
            following = _drive(layers[k + 1], stages[k + 1].vdd, options, combined, stage.neuron)
            gates, outputs = following.gates, following.inputs
        else:
            following = driven
            solved = solve_neurons(combined[:, None], stage.neuron, None, options)
            gates, outputs = solved.gates[:, 0], solved.outputs[:, 0]
            status = torch.maximum(status, solved.status[:, 0])
            residual = torch.maximum(residual, solved.residual[:, 0])
            iterations = iterations + solved.iterations[:, 0]
        assert gates is not None  # noqa: S101 - narrows the type only
        solutions.append(LayerSolution(driven.inputs, combined, gates, outputs))
        if power:
            powers.append(
                _power(stage, layer, driven, combined, amplifiers, gates, outputs, first=k == 0)
            )
        driven = following
    status = torch.where(finite, status, int(Status.NOT_FINITE))
    failed = status != int(Status.CONVERGED)
    return Solution(
        torch.where(failed[:, None], torch.nan, solutions[-1].outputs),
        tuple(solutions),
        sum_power(powers, failed) if power else None,
        status,
        torch.where(finite, residual, torch.nan),
        iterations,
    )


def _power(
    stage: CurvedStage,
    layer: _Layer,
    driven: _Driven,
    combined: Tensor,
    amplifiers: Tensor,
    gates: Tensor,
    outputs: Tensor,
    *,
    first: bool,
) -> Power:
    """Power of the sources of one layer, (B,) each, as in :mod:`imac_torch.dc.network`."""
    neuron, spec = stage.neuron, stage.spec
    core = neuron.core.values(gates, outputs)
    drawn = core.gate - (outputs - gates) * neuron.feedback_conductance
    by_inputs = (driven.inputs * driven.currents[:, :-1]).sum(-1)
    # An amplifier drives R3 towards its virtual node, and the meeting of several.
    virtual = layer.wires.alpha * layer.by_row(driven.found.positive_end)
    feedback = (amplifiers - virtual) / (spec.gain * spec.amplifier_resistance)
    by_amplifiers = (amplifiers * feedback).sum((-2, -1))
    if spec.combine == "average":
        by_amplifiers = by_amplifiers + (combined * drawn).sum(-1)
        parts = amplifiers.shape[-1]
        if parts * spec.slicing.count > 1:
            shares = spec.slicing.row_shares(spec.series_resistance, amplifiers.shape[-2])
            meeting = (shares / (spec.series_resistance * parts))[:, None]
            by_amplifiers = by_amplifiers + (amplifiers.square() * meeting).sum((-2, -1))
            by_amplifiers = by_amplifiers - combined.square().sum(-1) / spec.series_resistance
    return Power(
        inputs=by_inputs if first else torch.zeros_like(by_inputs),
        bias=stage.vdd * driven.currents[:, -1],
        neurons=stage.vdd * core.supply.sum(-1),
        level_shift=(neuron.level_shift * drawn).sum(-1),
        amplifiers=by_amplifiers,
    )
