"""Crossbars of curved cells in time, where wires, memory or access devices hold charge.

Capacitances are linear and cells are not. With the backward rules of
:mod:`imac_torch.transient.integrator` a capacitance c is a conductance σ·c with a known current
besides, so that a stage is an operating point of cells with these in parallel, which sweeps over
rows find (:mod:`imac_torch.dc.sweeps`), every image by itself. What is stepped are charges of
nodes, not of capacitors: their rates are currents of cells and wires, which do not jump where a
source has a corner. What errors of a step do is the difference of two such solutions.

Shapes: N = H·V blocks of R rows and K columns; G groups of L images each, B images in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.cells import Cell, CellCapacitance, Series
from imac_torch.dc.curved import CurvedLayer
from imac_torch.dc.sweeps import SWEEPS, SweepState, can_sweep, left_over
from imac_torch.dc.tangents import CurvedCells
from imac_torch.errors import SolverError
from imac_torch.kernels.threads import run_blocks
from imac_torch.numeric.budget import REDUCED_STEP_SIZES
from imac_torch.transient.cells import linear_ports
from imac_torch.transient.dynamics import LineCapacitances
from imac_torch.transient.found import KEPT, Found
from imac_torch.transient.integrator import (
    GAMMA,
    first_history,
    local_error,
    second_history,
    shift,
)
from imac_torch.transient.lines import Ends, LineHistory, LineMatrices, LineState

TOLERANCE: Final = 1e-9
"""V, that sweeps leave; errors of a step are differences of solutions."""
INNER: Final = 8
"""Steps of nodes between devices while lines stay."""
SHORT: Final = 0.05
"""Of the voltage over which a cell bends: steps of inner nodes beyond it are not the last ones."""
AHEAD: Final = (1.0 - GAMMA) / GAMMA
"""How far the second stage is beyond the first, in first stages."""
MANY: Final = 4
"""Turns of neurons and cells behind which these are taken anew."""


@dataclass(frozen=True)
class Nodes:
    """A number for every node: V, C or A.

    Attributes:
        input_line: (N, G, R, K, L).
        lines: (N, G, 2, R, K, L), of I± lines.
        inner: (N, G, 2, R, K, L), between memory and access devices; no rows: there are none.
    """

    input_line: Tensor
    lines: Tensor
    inner: Tensor

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """All of them."""
        return self.input_line, self.lines, self.inner

    def __add__(self, other: Nodes) -> Nodes:
        return self.plus(other, 1.0)

    def plus(self, other: Nodes, factor: float) -> Nodes:
        """With ``factor`` times others."""
        pairs = zip(self.parts, other.parts, strict=True)
        return Nodes(*(torch.add(one, two, alpha=factor) for one, two in pairs))

    def times(self, factor: float) -> Nodes:
        """Times a number."""
        return Nodes(*(factor * part for part in self.parts))

    def largest(self) -> Tensor:
        """(G·L,), of every image."""
        return torch.stack([
            part.abs().movedim(1, 0).movedim(-1, 1).flatten(0, 1).flatten(1).amax(-1)
            for part in self.parts if part.numel()
        ]).amax(0)  # fmt: skip


class Seen(NamedTuple):
    """Crossbars at the end of a stage, or a change of them.

    Attributes:
        nodes: V.
        currents: (B, C) A into the lines, what vdd supplies to gated cells among the bias line's.
        positive_end: (B, M·L, H) V; NaN where there is no solution.
        negative_end: (B, M·L, H) V.
        inside: (B,) bool, where cells are known there.
    """

    nodes: Nodes
    currents: Tensor
    positive_end: Tensor
    negative_end: Tensor
    inside: Tensor

    def plus(self, other: Seen, factor: float) -> Seen:
        """With ``factor`` times a change."""
        currents, plus, minus = (
            torch.add(one, two, alpha=factor)
            for one, two in zip(self[1:4], other[1:4], strict=True)
        )
        return Seen(self.nodes.plus(other.nodes, factor), currents, plus, minus, self.inside)


class _Closed(NamedTuple):
    """What a stage has been solved for, and its solution; (B, N) V on the lines."""

    sigma: float
    history: Nodes
    voltages: Tensor
    seen: Seen


class _Capacitors(NamedTuple):
    """F; 0-dimensional or to be broadcast with :class:`Nodes`, 0 where cells are open.

    ``wire`` is from input lines to ground, ``line`` from I± lines.
    """

    wire: Tensor
    line: Tensor
    memory: Tensor
    access: Tensor
    node: Tensor

    def charges(self, at: Nodes) -> Nodes:
        """C of all nodes, at V."""
        near, lines = at.input_line[:, :, None], at.lines
        far = at.inner if at.inner.numel() else lines
        held = self.memory * (near - far)
        behind = self.access * (at.inner - lines) if at.inner.numel() else held
        return Nodes(
            self.wire * at.input_line + held.sum(2),
            self.line * lines - behind,
            behind + self.node * at.inner - held if at.inner.numel() else at.inner,
        )


class _Sweeps(SweepState):
    """Sweeps of cells with capacitors in parallel, from where they have been left."""

    def __init__(
        self, layer: CurvedCells, vdd: Tensor, count: int, capacitors: _Capacitors
    ) -> None:
        super().__init__(layer, vdd, count)
        self.capacitors = capacitors
        self.cell: Cell = layer.cell
        self.present = torch.from_numpy(self.known[0])[:, None, ..., None]
        rows = self.lines.shape[3] if isinstance(self.cell, Series) else 0
        shape = (*self.lines.shape[:3], rows, *self.lines.shape[4:])
        self.inner = torch.zeros(shape, dtype=torch.float64, device="cpu")
        self.sigma, self.history = 0.0, self.nodes_now.times(0.0)
        self.inner_size = torch.zeros(count, dtype=torch.float64, device="cpu")
        self.frozen = False
        #: What kernels are told of cells that they know.
        code, table = self.cell.code, self.cell.table
        self.own_code = None if code is None else np.array([self.cell.bend, *code])
        self.transistor = (np.empty((3, 3, 2)), np.empty(6)) if table is None else table
        self.own = np.array([float(part.max()) for part in capacitors[2:]])

    @property
    def nodes_now(self) -> Nodes:
        """V; what sweeps go on with."""
        return Nodes(torch.from_numpy(self.inputs), torch.from_numpy(self.lines), self.inner)

    def put(self, at: Nodes, lines: Tensor) -> None:
        """Begin at V, with (B, N) V that drive the lines."""
        self.driven = self._grouped(self._with_bias(lines))
        now = self.nodes_now
        for mine, other in zip(now.parts, at.parts, strict=True):
            mine.copy_(other)
        self.active[:] = True

    def told(self) -> tuple[list[float], None]:
        """See :class:`SweepState`: nothing, they are given currents."""
        return [self.layer.cell.bend], None

    def give(self) -> None:
        """Currents out of input lines and into I± lines, those of capacitors among them."""
        sigma, held, now = self.sigma, self.capacitors, self.nodes_now
        near, lines = now.input_line[:, :, None], now.lines
        end = lines if self.cell.absolute else None
        there = self.present > 0.0
        if isinstance(self.cell, Series):
            parts = self._in_series(self.cell, near, lines)
        else:
            found = self.cell.currents(self.present.expand_as(lines), near - lines, end)
            through = sigma * held.memory
            flow = found.current + through * (near - lines)
            into = flow if found.leak is None else flow + torch.where(there, found.leak, 0.0)
            falls = found.chord + through
            # What a gate controls does not flow out of its line.
            back = through.expand_as(falls) if self.cell.gated else falls
            parts = flow, found.slope + through, back, into, falls
        flow, slope, back, into, falls = parts
        wire, shunt = 0.5 * sigma * held.wire[:, :, None], sigma * held.line
        past = 0.5 * self.history.input_line[:, :, None]
        self.given = torch.stack(torch.broadcast_tensors(
            flow + wire * near - past, slope + wire, back,
            into - shunt * lines + self.history.lines, falls + shunt,
        ), 2).numpy()  # fmt: skip

    def _in_series(self, cell: Series, near: Tensor, lines: Tensor) -> tuple[Tensor, ...]:
        """The same of cells with a node in between, which is moved and eliminated.

        With A, B, D the slopes of the memory device, of the access device and of the latter by the
        I± line's voltage, and S the conductance from the node to ground, the node moves by
        A/(A + B + S) and D/(A + B + S) of what its neighbours do.
        """
        sigma, held = self.sigma, self.capacitors
        memory, access, node = (sigma * part for part in held[2:])
        there = self.present > 0.0
        past, limit = self.history.inner, cell.bend
        for _ in range(1 if self.frozen else INNER):
            at = self.inner
            front = cell.memory.currents(self.present.expand_as(at), near - at)
            behind = cell.access.currents(at - lines, lines if cell.absolute else None)
            a, b, d = front.slope + memory, behind.slope + access, behind.chord + access
            total = torch.where(there, a + b + node, 1.0)
            flow = front.current + memory * (near - at)
            passed = behind.current + access * (at - lines)
            step = torch.where(there, (flow - passed - node * at + past) / total, 0.0)
            step = (0.0 if self.frozen else 1.0) * step.clamp(-limit, limit)
            self.inner = at + step
            longest = float(step.abs().max())
            if not longest > SHORT * limit:
                break
        self.inner_size = self.images(step.abs().numpy()).flatten(1).amax(-1)
        into = passed + b * step
        into = into if behind.leak is None else into + behind.leak
        nothing = into.new_zeros(())
        return tuple(
            torch.where(there, part, nothing)
            for part in (
                flow - a * step, a * (b + node) / total, a * d / total, into,
                d * (a + node) / total,
            )
        )  # fmt: skip

    def solve(self, lines: Tensor) -> Tensor:
        """Sweep until little is left, at (B, N) V; (B,) bool, where that is so."""
        if self.own_code is not None:
            return self._compiled(self.own_code)
        size = torch.full((self.count,), torch.inf, dtype=torch.float64, device="cpu")
        rate = torch.ones_like(size)
        good = torch.zeros_like(size, dtype=torch.bool)
        for _ in range(SWEEPS):
            self.up()
            before, size = size, torch.maximum(self.down(lines), self.inner_size)
            error, rate = left_over(size, before, rate)
            good = error <= TOLERANCE
            self.move(size)
            if not self.keep_working_on(~good & torch.isfinite(size)):
                break
        return good

    def _compiled(self, cell: NDArray[np.float64]) -> Tensor:
        from imac_torch.kernels.charged import stage

        held, sigma = self.capacitors, self.sigma
        shunts = (0.5 * sigma * held.wire)[:, 0, ..., 0], (sigma * held.line)[:, 0, ..., 0]
        run_blocks(
            stage, self.blocks * self.groups, torch.get_num_threads(), *self.known[:2], cell,
            *self.transistor, sigma * self.own, *(part.contiguous().numpy() for part in shunts),
            self.driven, self.inputs, self.lines, self.inner.numpy(),
            *(part.contiguous().numpy() for part in self.history.parts), self.behind, self.stars,
            self.hubs, self.ports, self.ends, self.errors[0], SWEEPS, TOLERANCE,
        )  # fmt: skip
        return self.images(self.errors[0]).flatten(1).amax(-1) <= TOLERANCE

    def admittance(self, sigma: float, at: Nodes) -> Tensor:
        """(H, K, K) S into the lines in a stage, of stars, the mean over images at V."""
        lines = torch.zeros(
            self.count, self.layer.spec.inputs, dtype=torch.float64, device="cpu"
        )
        self.put(at, lines)
        self.sigma, self.frozen = sigma, True
        self.up()
        self.frozen = False
        star, hub = self.images(self.stars[:, :, 0]), self.images(self.hubs[:, :, 0])
        whole = torch.einsum("bhv,bhvk,bhvj->hkj", hub, star, star)
        return (torch.diag_embed(star.sum((0, 2))) - whole) / self.count


class ChargedLines(Found):
    """Crossbars of curved cells with charges at their nodes."""

    accelerated = True

    def __init__(
        self, layer: CurvedLayer, wires: LineCapacitances | None, own: CellCapacitance
    ) -> None:
        self.layer, self.array = layer, CurvedCells(layer.spec.select(0))
        if not can_sweep(self.array):
            raise SolverError(
                f"transients of curved cells ({self.array.cell}) that hold charge need compiled "
                "kernels: install numba and solve on the CPU, or leave interconnect.capacitance "
                "and capacitances of devices out (FinFETs in cells always hold charge)"
            )
        spec, layout = layer.spec, self.array.layout
        self.ports = linear_ports(self.array, self.array.cells)
        cells = torch.ones_like(spec.conductances.positive)
        wire, line, self._pins = 0.0 * cells, 0.0 * cells, 0.0 * cells[0]
        if wires is not None:
            wire, line = cells * wires.input_line, cells * wires.output_line
            if float(spec.input_segment) == 0.0:
                wire, self._pins = 0.0 * cells, wire.sum(0)

        def grouped(values: Tensor) -> Tensor:
            return layout.gather(values).flatten(0, 1)[:, None]

        there = (self.array.cells > 0.0).to(cells).flatten(1, 2).movedim(0, 1)[:, None, ..., None]
        self._capacitors = _Capacitors(
            grouped(wire)[..., None],
            grouped(line)[:, :, None, ..., None] + own.line * there,
            own.memory * there, own.access * there, own.node * there,
        )  # fmt: skip
        self._matrices: dict[float, LineMatrices] = {}
        self._last: list[_Closed] = []
        self._many = False

    @property
    def port_capacitance(self) -> Tensor:
        """See :class:`Lines`."""
        return self._pins

    @property
    def name(self) -> str:
        """For reports."""
        return "all nodes, curved cells"

    @property
    def loads(self) -> bool:
        """See :class:`Found`."""
        return True

    def start(self, voltages: Tensor) -> LineState:
        """See :class:`Lines`.

        Raises:
            SolverError: Sweeps do not find the operating point of an image.
        """
        lines = voltages[:, :-1]
        self._sweeps = _Sweeps(self.array, self.layer.vdd, len(lines), self._capacitors)
        self._matrices, self._last = {}, []
        self._sweeps.begin(lines)
        begin = self._sweeps.nodes_now.times(1.0)
        nothing = begin.times(0.0)
        seen = self._solve(0.0, nothing, lines, begin)
        self._base = _Closed(0.0, nothing, lines, seen)
        return LineState(self._capacitors.charges(seen.nodes), nothing, seen)

    def _solve(self, sigma: float, history: Nodes, lines: Tensor, guess: Nodes) -> Seen:
        """A stage at (B, N) V."""
        sweeps, array = self._sweeps, self.array
        known = torch.isfinite(lines).all(-1)
        finite = torch.where(known[:, None], lines, 0.0)
        sweeps.put(guess, finite)
        sweeps.sigma, sweeps.history = sigma, history
        good = sweeps.solve(finite) & known
        nodes = sweeps.nodes_now.times(1.0)
        currents = sweeps.currents()
        ends = sweeps.images(sweeps.ends).movedim(3, 0)
        inside = good
        if array.cell.limited or array.cell.gated:
            across, at = sweeps.voltages()
            state = torch.stack([across, at] if array.cell.absolute else [across], 1)
            currents[:, -1] += array.supplied(state)
            found = array.inside(state)
            inside = good if found is None else good & found.flatten(1).all(-1)
        plus, minus = (torch.where(good[:, None, None], array.by_row(x), torch.nan) for x in ends)
        return Seen(nodes, currents, plus, minus, inside)

    def _at(self, sigma: float, history: Nodes, lines: Tensor, guess: Nodes) -> _Closed:
        """The same; a step asks for the same many times."""
        for stage in self._last:
            if stage.history is history and torch.equal(stage.voltages, lines):
                return stage
        known = [stage for stage in self._last if stage.history is history]
        begin = known[0].seen.nodes if known else guess
        stage = _Closed(sigma, history, lines, self._solve(sigma, history, lines, begin))
        self._last = [stage, *self._last[: KEPT - 1]]
        return stage

    def matrices(self, step: float) -> LineMatrices:
        """See :class:`Lines`; of a linear network that stands for the crossbars."""
        if step not in self._matrices:
            if len(self._matrices) >= REDUCED_STEP_SIZES:
                self._matrices.clear()
            admittance = self._sweeps.admittance(shift(step), self._base.seen.nodes)
            self._matrices[step] = LineMatrices.of(admittance, self.ports.transfer, self.ports)
        return self._matrices[step]

    def _history(self, history: Nodes, step: float, guess: Nodes) -> LineHistory:
        self._present = history, step, guess
        nothing = torch.zeros(
            self._sweeps.count, self.ports.inputs + 1, dtype=torch.float64, device="cpu"
        )
        combined = nothing.new_zeros(len(nothing), self.ports.outputs)
        return LineHistory(nothing, combined, step, history)

    def first(self, state: LineState, step: float) -> LineHistory:
        """See :class:`Lines`."""
        pairs = zip(state.values.parts, state.rates.parts, strict=True)
        past = Nodes(*(first_history(step, *pair) for pair in pairs))
        return self._history(past, step, state.voltages.nodes)

    def second(self, state: LineState, middle: LineState, step: float) -> LineHistory:
        """See :class:`Lines`."""
        pairs = zip(state.values.parts, middle.values.parts, strict=True)
        past = Nodes(*(second_history(step, *pair) for pair in pairs))
        before, now = state.voltages.nodes, middle.voltages.nodes
        return self._history(past, step, now.plus(now.plus(before, -1.0), AHEAD))

    def seen(self, voltages: Tensor) -> Seen:
        """The stage that has begun, at (B, N) V."""
        history, step, guess = self._present
        return self._at(shift(step), history, voltages, guess).seen

    def combined(self, voltages: Tensor) -> Tensor:
        """See :class:`Found`."""
        return self._combined(self.seen(voltages))

    def _combined(self, seen: Seen) -> Tensor:
        read_out = self.array.spec.read_out
        ends = read_out.output(seen.positive_end, seen.negative_end)
        return read_out.combination.of_partitions(ends)

    def drawn(self, voltages: Tensor) -> Tensor:
        """See :class:`Found`."""
        matrices = self.matrices(self._present[1])
        assert matrices.load.load is not None  # noqa: S101 - it is one
        linear = matrices.load.load.product(voltages[None])[0]
        linear = linear + self.layer.vdd * matrices.bias[:-1]
        return self.seen(voltages).currents[:, :-1] - linear

    def close(self, history: LineHistory, voltages: Tensor | None) -> LineState:
        """See :class:`Lines`."""
        sigma, past = shift(history.step), history.inner
        if past is not self._present[0]:
            return self._change(history, voltages)
        assert voltages is not None  # noqa: S101 - of changes only
        stage = self._at(sigma, past, voltages[:, :-1], self._present[2])
        self._base = stage
        return self._state(stage)

    def _state(self, stage: _Closed) -> LineState:
        charges = self._capacitors.charges(stage.seen.nodes)
        rates = charges.times(stage.sigma).plus(stage.history, -1.0)
        return LineState(charges, rates, stage.seen)

    def _changed(self, history: Nodes, change: Tensor | None) -> _Closed:
        base = self._base
        lines = base.voltages if change is None else base.voltages + change
        return self._at(base.sigma, history, lines, base.seen.nodes)

    def _change(self, history: LineHistory, voltages: Tensor | None) -> LineState:
        """What another history and (B, C) V more make of the stage that was closed last."""
        stage = self._changed(history.inner, None if voltages is None else voltages[:, :-1])
        now, base = self._state(stage), self._state(self._base)
        return LineState(
            now.values.plus(base.values, -1.0), now.rates.plus(base.rates, -1.0),
            stage.seen.plus(self._base.seen, -1.0),
        )  # fmt: skip

    def local_error(self, step: float, *states: LineState) -> Nodes:
        """See :class:`Lines`."""
        rates = zip(*(state.rates.parts for state in states), strict=True)
        return Nodes(*(local_error(step, *three) for three in rates))

    def changed(self, values: Nodes, step: float) -> LineHistory:
        """See :class:`Lines`; of the stage that was closed last."""
        base = self._base
        history = base.history.plus(values, base.sigma)
        change = self._changed(history, None).seen.plus(base.seen, -1.0)
        self._changes = LineHistory(change.currents, self._combined(change), step, history)
        return self._changes

    def passed(self, voltages: Tensor, change: Tensor, step: float) -> Tensor:
        """See :class:`Lines`; of what has changed besides."""
        stage = self._changed(self._changes.inner, change)
        whole = self._combined(stage.seen.plus(self._base.seen, -1.0))
        return whole - self._changes.combined

    def sum(self, state: LineState, change: LineState) -> LineState:
        """See :class:`Lines`."""
        return LineState(
            state.values + change.values, state.rates + change.rates,
            state.voltages.plus(change.voltages, 1.0),
        )  # fmt: skip

    def largest(self, change: LineState) -> Tensor:
        """See :class:`Lines`."""
        found: Tensor = change.voltages.nodes.largest()[: self._sweeps.count]
        return found

    def currents(self, state: LineState, voltages: Tensor) -> Tensor:
        """(B, C) A into all input lines, those of pin capacitances not counted."""
        found: Tensor = state.voltages.currents
        return found

    def bias_current(self, state: LineState, voltages: Tensor) -> Tensor:
        """See :class:`Lines`."""
        return self.currents(state, voltages)[:, -1]

    def ends(self, state: LineState, voltages: Tensor) -> Ends:
        """See :class:`Lines`."""
        return Ends(state.voltages.positive_end, state.voltages.negative_end)

    @property
    def limited(self) -> bool:
        """See :class:`Found`."""
        return self.array.cell.limited

    def inside(self, voltages: Tensor) -> Tensor:
        """See :class:`Found`; at the end of the last step."""
        return self._base.seen.inside

    def took(self, turns: int) -> None:
        """See :class:`Found`."""
        self._many |= turns > MANY

    def renew(self) -> None:
        """See :class:`Found`."""
        if self._many:
            self._many = False
            self._matrices.clear()

