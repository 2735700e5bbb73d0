"""Layers whose cells have curved I-V characteristics: exact, with the wires.

Only cells and neurons are not linear. Each cell is replaced by a conductance and a current source;
rows and input lines are then eliminated as those of ohmic cells are
(:mod:`imac_torch.dc.tangents`). What a layer's lines draw is an affine function of the voltages
that drive them, and the neurons in front are solved with it. With tangents this is Newton's method,
whose eliminations, one for every input vector and step, take nearly all of the time. Hence all
vectors first share conductances, the mean of their slopes (chords); only sources differ, steps
converge linearly and are accelerated (:mod:`imac_torch.dc.anderson`). Vectors for which that fails
are solved by Newton's method. Either way the sources are those of the curves at the solution.

Shapes: B input vectors; H, V partitions of R rows and K columns; M outputs, L slices, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.dc.anderson import DEPTH, Anderson
from imac_torch.dc.implicit import attach_cells, refuse_other_gradients
from imac_torch.dc.layer import Driven, DrivenPower, PreparedLayer, with_bias
from imac_torch.dc.newton import NeuronSolution, NewtonOptions, solve_neurons
from imac_torch.dc.sweeps import can_sweep, pieces, sweep
from imac_torch.dc.tangents import CurvedCells, FoundCells, Tangents
from imac_torch.dc.transposed import SolvedLayer
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.readout import ReadOut
from imac_torch.reference.nonlinear import ROUNDING
from imac_torch.results.solution import LayerSolution, Status

CHORDS: Final = 50
"""Steps that share an elimination, before Newton's method is tried."""
FIRST_CHORDS: Final = 6
"""Of these the first, each with slopes of its own: cells are far from their voltages."""
CHORDS_OF_ONE: Final = 12
"""Later steps with the same slopes."""
CHORD_TOLERANCE: Final = 1e-3
"""Chords converge linearly: their last step is as small as the error of a Newton step's."""
NEARBY: Final = 1e-2
"""V. Where sweeps end with shorter steps Newton's method begins there, elsewhere at rest."""
MEMORY: Final = 2**28
"""Bytes that the vectors of a batch may take."""
ARRAYS: Final = 8
"""(R, K, K) arrays per partition that an elimination holds at its peak."""
STATES: Final = 2 * DEPTH + 16
"""(2, R, K) arrays per partition that a vector has in chords: history, and what is computed."""
RECORDED: Final = 2
"""What a step with its graph takes, compared with chords."""


@dataclass(frozen=True)
class CurvedDriven(Driven):
    """Crossbars of curved cells and what drives them.

    Attributes:
        layer: The layer.
        ends: (S, B, M·L, H) V of the I+ and of the I- ends.
        currents: (S, B, C) A into the lines.
        supplied: (S, B) A from vdd into cells whose gates inputs hold.
        outputs: (S, B, M·L, H, n) V of amplifiers with offsets or a swing; None: they are linear.
    """

    layer: CurvedLayer
    ends: tuple[Tensor, Tensor]
    currents: Tensor
    supplied: Tensor
    outputs: Tensor | None = None

    @property
    def read_outs(self) -> Tensor:
        """See :class:`Driven`."""
        if self.outputs is not None:
            return self.layer.spec.read_out.join(self.outputs)
        return self.layer.spec.read_out.output(*self.ends)

    def absorbed(self) -> Tensor:
        """See :class:`Driven`."""
        return self.layer.spec.read_out.absorbed(*self.ends, self.outputs).sum((-1, -2))

    def power(self, drawn: Tensor, *, first: bool) -> DrivenPower:
        """See :class:`Driven`."""
        by_inputs = (self.voltages * self.currents[..., :-1]).sum(-1)
        nothing, read_out = torch.zeros_like(by_inputs), self.layer.spec.read_out
        supply = nothing
        if self.outputs is not None and read_out.rails is not None:
            onward = read_out.combination.current(self.read_outs, self.combined, drawn)
            supply = read_out.supplied(self.outputs, *self.ends, onward).sum((-1, -2))
        return DrivenPower(
            by_inputs if first else nothing,
            self.layer.vdd * (self.currents[..., -1] + self.supplied),
            read_out.power(*self.ends, self.combined, drawn, amplifiers=self.outputs),
            supply,
        )


@dataclass(frozen=True)
class CurvedLayer(PreparedLayer):
    """A layer of curved cells: its crossbars are eliminated for every solution.

    Attributes:
        spec: The crossbars; conductances have no or one sample dimension. Inputs and outputs of
            groups follow one another.
    """

    spec: CrossbarSpec

    @property
    def shape(self) -> tuple[int | None, int, int]:
        """See :class:`PreparedLayer`."""
        *samples, rows, columns = self.spec.conductances.positive.shape
        groups = self.spec.groups
        if groups > 1:
            samples, rows, columns = samples[:-1], groups * rows, groups * (columns - 1) + 1
        return samples[0] if samples else None, rows, columns

    @property
    def read_out(self) -> ReadOut:
        """See :class:`PreparedLayer`."""
        return self.spec.read_out

    def as_load(self) -> None:
        """See :class:`PreparedLayer`."""

    @cached_property
    def groups(self) -> tuple[CurvedLayer, ...]:
        """Layers that share nothing; none where there is one group."""
        count = self.spec.groups
        return () if count == 1 else tuple(
            replace(self, spec=self.spec.group(number)) for number in range(count)
        )  # fmt: skip

    def _of_groups(self, driven: Sequence[CurvedDriven]) -> CurvedDriven:
        """All groups as one layer, whose bias line is that of all."""
        lines = torch.cat([item.currents[..., :-1] for item in driven], -1)
        bias = torch.stack([item.currents[..., -1:] for item in driven]).sum(0)
        solved = [item.solved for item in driven if item.solved is not None]
        plus, minus = (torch.cat([item.ends[side] for item in driven], -2) for side in (0, 1))
        return CurvedDriven(
            torch.cat([item.voltages for item in driven], -1),
            torch.cat([item.combined for item in driven], -1),
            NeuronSolution(
                torch.cat([item.outputs for item in solved], -1),
                torch.cat([item.gates for item in solved], -1),
                torch.stack([item.status for item in solved]).amax(0),
                torch.stack([item.residual for item in solved]).amax(0),
                torch.stack([item.iterations for item in solved]).amax(0),
            ),
            self, (plus, minus), torch.cat([lines, bias], -1),
            torch.stack([item.supplied for item in driven]).sum(0),
            None if driven[0].outputs is None else torch.cat(
                [item.outputs for item in driven if item.outputs is not None], -3
            ),
        )  # fmt: skip

    @cached_property
    def cells(self) -> tuple[CurvedCells, ...]:
        """Of every sample."""
        return tuple(CurvedCells(self.spec.select(k)) for k in range(self.shape[0] or 1))

    def driven_at(
        self, found: LayerSolution, drawn: Tensor, options: NewtonOptions
    ) -> CurvedDriven:
        """See :class:`PreparedLayer`; solved again."""
        return self.drive(found.inputs, None, options)

    def drive(
        self,
        sources: Tensor,
        before: PreparedLayer | None,
        options: NewtonOptions,
        drawn: Tensor | None = None,
    ) -> CurvedDriven:
        """See :class:`PreparedLayer`."""
        if self.groups:
            pairs = zip(self.groups, sources.chunk(len(self.groups), dim=-1), strict=True)
            return self._of_groups([layer.drive(part, before, options) for layer, part in pairs])
        neuron = None if before is None else before.neuron
        pair = self.spec.conductances
        tracked = torch.is_grad_enabled() and any(
            item.requires_grad
            for item in (sources, pair.positive, pair.negative, *self.spec.numbers.values())
        )
        refuse_other_gradients(self.spec, self.vdd)
        with lasting():
            samples = []
            for k, of_sample in enumerate(sources.detach()):
                cells = self.cells[k % len(self.cells)]
                if can_sweep(cells):
                    held = neuron is None and not tracked
                    parts = pieces(cells, of_sample, MEMORY, held=held)
                else:
                    parts = of_sample.split(max(1, MEMORY // _bytes_of_chords(cells)))
                samples.append(_joined([
                    _drive(cells, self.vdd, options, part, neuron, keep=tracked)
                    for part in parts
                ]))  # fmt: skip
            whole = _joined(samples, torch.stack)
        read_out = self.spec.read_out
        ends = whole.positive_end, whole.negative_end
        real, outputs = self.cells[0].amplifiers, None
        if real is not None:
            outputs = real.outputs(ends)
        own = read_out.output(*ends) if outputs is None else read_out.join(outputs)
        combined = read_out.combination.of_partitions(own)
        voltages = whole.inputs
        if tracked:
            both = [
                attach_cells(
                    self.spec.select(k), self.vdd, options, neuron,
                    max(1, MEMORY // (RECORDED * _bytes_of_chords(cells))),
                    sources[k], whole.solved(k), combined[k],
                )
                for k, cells in enumerate(self.cells * (len(sources) // len(self.cells)))
            ]  # fmt: skip
            voltages, combined = (torch.stack(items) for items in zip(*both, strict=True))
        solved = NeuronSolution(
            voltages, whole.gates, whole.status, whole.residual, whole.iterations
        )
        return CurvedDriven(
            voltages, combined, solved, self, ends, whole.currents, whole.supplied, outputs
        )


@dataclass
class _Solved:
    """A crossbar that has been solved with what drives it.

    Attributes:
        inputs: (B, N) V on its lines.
        gates: (B, N) V of the neurons that drive it; the same where sources do.
        positive_end: (B, M·L, H) V.
        negative_end: (B, M·L, H) V.
        currents: (B, C) A into its lines.
        supplied: (B,) A from vdd into cells whose gates inputs hold.
        status: (B,) int64.
        residual: (B,) A.
        iterations: (B,) int64.
        state: (B, Q, 2, H, V, R, K) V, see :class:`FoundCells`; (B, 0) where nobody asks for it.
    """

    inputs: Tensor
    gates: Tensor
    positive_end: Tensor
    negative_end: Tensor
    currents: Tensor
    supplied: Tensor
    status: Tensor
    residual: Tensor
    iterations: Tensor
    state: Tensor

    def solved(self, sample: int) -> SolvedLayer:
        """One of several, whose dimension is in front of all others."""
        ends = self.positive_end[sample], self.negative_end[sample]
        return SolvedLayer(self.inputs[sample], self.gates[sample], ends, self.state[sample])

    def replace(self, which: Tensor, other: _Solved) -> None:
        """Put another solution of the vectors ``which`` in place; iterations add up."""
        other.iterations += self.iterations[which]
        for part in fields(self):
            getattr(self, part.name)[which] = getattr(other, part.name)


def _joined(
    parts: Sequence[_Solved], join: Callable[[list[Tensor]], Tensor] = torch.cat
) -> _Solved:
    return _Solved(**{
        part.name: join([getattr(item, part.name) for item in parts]) for part in fields(_Solved)
    })  # fmt: skip


def solve_cells(
    layer: CurvedCells,
    vdd: Tensor,
    options: NewtonOptions,
    inputs: Tensor,
    *,
    keep: bool = True,
) -> _Solved:
    """A crossbar at (B, N) V of sources, with the state of its cells (``keep``)."""
    return _drive(layer, vdd, options, inputs, None, keep=keep)


def _drive(
    layer: CurvedCells,
    vdd: Tensor,
    options: NewtonOptions,
    inputs: Tensor,
    neuron: NeuronCircuit | None,
    *,
    keep: bool,
) -> _Solved:
    """Solve a crossbar driven by sources (``inputs`` in V) or neurons (their combined sources).

    Sweeps or chords first, of which all vectors share one elimination; Newton's method for the
    vectors for which they do not converge, from where sweeps have come to: lines that heavy loads
    join strongly take a quarter off a step, sweep by sweep, and Newton's method all of it at once.

    Args:
        layer: The crossbar.
        vdd: V, on the bias line.
        options: Tolerance and limit.
        inputs: (B, N) V.
        neuron: That drives the lines; None: sources do.
        keep: Whether the state of the cells is wanted.
    """
    begin = None
    if can_sweep(layer):
        driven, begin = _sweep(layer, vdd, options, inputs, neuron, keep=keep)
    else:
        driven = _iterate(layer, vdd, options, inputs, neuron, shared=True, keep=keep)
    solved = (driven.status == int(Status.CONVERGED)) | (driven.status == int(Status.OUTSIDE))
    rest = torch.nonzero(~solved)[:, 0]
    if len(rest) == 0:
        return driven
    for part in rest.split(max(1, MEMORY // _bytes_of_newton(layer))):
        again = _iterate(
            layer, vdd, options, inputs[part], neuron, shared=False, keep=keep,
            begin=None if begin is None else begin[part],
        )  # fmt: skip
        driven.replace(part, again)
    return driven


def _sweep(
    layer: CurvedCells,
    vdd: Tensor,
    options: NewtonOptions,
    inputs: Tensor,
    neuron: NeuronCircuit | None,
    *,
    keep: bool,
) -> tuple[_Solved, Tensor | None]:
    """Every vector by itself, see :mod:`imac_torch.dc.sweeps`, and where to go on from.

    That is the state of cells, 0 of those that are not :data:`NEARBY`; None: nowhere.
    """
    wanted = keep or layer.cell.gated or layer.cell.limited
    found = sweep(layer, vdd, options, inputs, neuron, _linear_tolerance(options), keep=wanted)
    positive_end, negative_end = map(layer.by_row, found.ends)
    cells, begin = inputs[:, :0], None
    if found.voltages is not None:
        cells = torch.stack(found.voltages[: 2 if layer.cell.absolute else 1], dim=1)
        near = (found.size <= NEARBY).reshape(-1, *[1] * (cells.ndim - 1))
        begin = torch.where(near, cells, torch.zeros_like(cells))
    solved = _Solved(
        inputs=found.inputs,
        gates=found.gates,
        positive_end=positive_end,
        negative_end=negative_end,
        currents=found.currents,
        supplied=layer.supplied(cells),
        status=_outside(layer, found.status, cells),
        residual=found.residual,
        iterations=found.iterations,
        state=cells if keep else inputs[:, :0],
    )
    return solved, begin


def _linear_tolerance(options: NewtonOptions) -> float:
    """V, of steps that converge linearly."""
    return min(options.tolerance, max(CHORD_TOLERANCE * options.tolerance, ROUNDING))


def _outside(layer: CurvedCells, status: Tensor, state: Tensor) -> Tensor:
    """Of vectors with cells beyond the voltages that they are known for."""
    inside = layer.inside(state) if layer.cell.limited else None
    if inside is None:
        return status
    outside = ~inside.flatten(1).all(-1)
    return torch.where(outside & (status == int(Status.CONVERGED)), int(Status.OUTSIDE), status)


def _iterate(
    layer: CurvedCells,
    vdd: Tensor,
    options: NewtonOptions,
    inputs: Tensor,
    neuron: NeuronCircuit | None,
    *,
    shared: bool,
    keep: bool,
    begin: Tensor | None = None,
) -> _Solved:
    """Chords (``shared``: slopes are the mean over vectors, accelerated) or Newton's method.

    From cells at (B, Q, 2, H, V, R, K) V (``begin``), or from rest.
    """
    count = len(inputs)
    state = inputs.new_zeros(count, *layer.state_shape) if begin is None else begin
    status = torch.full((count,), int(Status.MAX_ITERATIONS), device=inputs.device)
    iterations = torch.zeros_like(status)
    real = layer.amplifiers
    ends = inputs.new_zeros(count, 2, *layer.positive.shape[:3])
    # Cells that know the voltage of their line, too, are solved with chords, not with tangents.
    accelerated = shared or layer.cell.absolute
    linear = accelerated or real is not None
    tolerance = _linear_tolerance(options) if linear else options.tolerance
    acceleration = Anderson()
    limit = min(CHORDS, options.max_iterations) if shared else options.max_iterations
    for number in range(limit):
        cells = layer.currents(state)
        slopes = cells.chord
        if not shared or number < FIRST_CHORDS or number % CHORDS_OF_ONE == 0:
            slopes = slopes.mean(0, keepdim=True) if shared else slopes
            eliminated = layer.eliminate(slopes)
            without = eliminated.load(vdd)
            if shared:
                acceleration.restart()
        into = None if real is None else real.injected(ends)
        tangents = eliminated.tangents(cells, state[:, 0], into)
        gates = lines = inputs.clone()
        residual = torch.zeros_like(inputs[:, 0])
        neurons_status = torch.zeros_like(status)
        if neuron is not None:
            solved = solve_neurons(inputs[:, None], neuron, tangents.load(without), options)
            gates, lines = solved.gates[:, 0], solved.outputs[:, 0]
            residual, neurons_status = solved.residual[:, 0], solved.status[:, 0]
        driven = with_bias(lines, vdd.detach())
        found = tangents.follow(driven)
        step, moved = found.state - state, found.ends - ends
        size = step.abs().flatten(1).amax(-1)
        if real is not None:
            size = torch.maximum(size, moved.abs().flatten(1).amax(-1))
        iterations = iterations + (status != int(Status.CONVERGED))
        good = (size <= tolerance) & (neurons_status == int(Status.CONVERGED))
        status = torch.where(
            good,
            int(Status.CONVERGED),
            torch.where(torch.isfinite(size), int(Status.MAX_ITERATIONS), int(Status.NOT_FINITE)),
        )
        if bool(good.all()) or number + 1 == limit:
            break
        if accelerated:
            whole, further = state.flatten(1), step.flatten(1)
            if real is not None:
                whole = torch.cat([whole, ends.flatten(1)], 1)
                further = torch.cat([further, moved.flatten(1)], 1)
            further = acceleration.step(whole, further)
            step = further[:, : step[0].numel()].reshape(step.shape)
            if real is not None:
                moved = further[:, step[0].numel() :].reshape(moved.shape)
            size = step.abs().flatten(1).amax(-1)
        share = (layer.cell.bend / size).clamp(max=1.0).nan_to_num(nan=0.0)
        share = torch.where(good, torch.zeros_like(share), share)
        state = (state + share.reshape(-1, *[1] * (state.ndim - 1)) * step).nan_to_num()
        ends = (ends + share.reshape(-1, 1, 1, 1, 1) * moved).nan_to_num()
    positive_end, negative_end = layer.ends(found)
    status = _outside(layer, status, found.state)
    return _Solved(
        inputs=lines,
        gates=gates,
        positive_end=positive_end,
        negative_end=negative_end,
        currents=tangents.currents(driven),
        supplied=layer.supplied(found.state),
        status=status,
        residual=torch.maximum(residual, _defect(tangents, found)),
        iterations=iterations,
        state=found.state if keep else inputs[:, :0],
    )


def _bytes_of_newton(layer: CurvedCells) -> int:
    """What one input vector takes in Newton's method."""
    return 8 * ARRAYS * layer.positive.numel() * layer.positive.shape[-1]


def _bytes_of_chords(layer: CurvedCells) -> int:
    """What one input vector takes in chords; its neurons have copies of the load, too."""
    horizontal, _, _, columns = layer.positive.shape
    return 8 * (2 * STATES * layer.positive.numel() + 4 * horizontal * columns**2)


def _defect(tangents: Tangents, found: FoundCells) -> Tensor:
    """(B,) A, largest difference between a cell's curve and the tangent that was solved with."""
    known = tangents.eliminated
    current = known.layer.currents(found.state).current
    return (current - known.slopes * found.state[:, 0] - tangents.sources).abs().flatten(1).amax(-1)
