"""Input lines in time: what a layer draws and passes on when what drives it moves.

Two engines with one interface: :class:`ReducedLines` integrates a few low-pass filters per input
line (the series of :class:`imac_torch.transient.dynamics.SeriesModel`), :class:`ExactLines`
every node of the crossbars. Both give, for one stage of a time step with shift σ, currents and
line ends as matrices of the stage's input voltages plus a history.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from imac_torch.dc.load import Load
from imac_torch.elimination.blocks import BlockLayout
from imac_torch.elimination.chain import LineEnds
from imac_torch.elimination.interior import CellValues, Interior
from imac_torch.elimination.ports import PortNetwork, input_currents
from imac_torch.numeric.budget import FACTORISATIONS
from imac_torch.periphery.readout import ReadOut
from imac_torch.transient.dynamics import DynamicBlocks, SeriesModel
from imac_torch.transient.integrator import first_history, local_error, second_history, shift
from imac_torch.transient.neuronstage import StageLoad

STEP_SIZES = 64
"""Step sizes whose reduced matrices are kept."""
LEFT_OUT_FACTOR = 2.5
"""What a reduced model leaves out is estimated as if its nodes followed the fastest filter. They do
not all, and contributions of either sign cancel; where full wires were computed beside, the
estimate alone was 0.5 to 16 times the error made."""


class LineState(NamedTuple):
    """Internal voltages and their rates; what they are is the engine's business."""

    values: Any
    rates: Any


class Ends(NamedTuple):
    """Where a layer's lines end.

    Attributes:
        positive: (B, M·L, H) V, of the I+ ends.
        negative: (B, M·L, H) V, of the I- ends.
        amplifiers: (B, M·L, H, n) V that amplifiers put out; None: they are linear in the ends.
    """

    positive: Tensor
    negative: Tensor
    amplifiers: Tensor | None = None

    def output(self, read_out: ReadOut) -> Tensor:
        """(B, M·L, H) V that the read-outs give, before partitions and slices meet."""
        if self.amplifiers is None:
            return read_out.output(self.positive, self.negative)
        return read_out.join(self.amplifiers)


class LineHistory(NamedTuple):
    """What the past contributes to a stage.

    Attributes:
        currents: (B, C) A, besides matrix times voltages.
        positive_end: (B, M·L, H) V, likewise of the line ends; or None where not asked for.
        negative_end: (B, M·L, H) V.
        combined: (B, M) V, likewise of the combined amplifier voltage.
        step: s.
        inner: The engine's.
    """

    currents: Tensor
    combined: Tensor
    step: float
    inner: Any


@dataclass(frozen=True)
class LineMatrices:
    """One stage's matrices.

    Attributes:
        load: Admittance of inputs without the bias, no offset.
        bias: (C,) S, current into every line by the bias line's voltage.
        transfer: (M, C).
    """

    load: StageLoad
    bias: Tensor
    transfer: Tensor

    @classmethod
    def of(cls, admittance: Tensor, transfer: Tensor, ports: PortNetwork) -> LineMatrices:
        """From (H, K, K) S, the bias included, and (M, C)."""
        unit = torch.zeros_like(transfer[:1])
        unit[0, -1] = 1.0
        return cls(
            StageLoad(_as_load(admittance, ports.layout), ports.inputs),
            input_currents(admittance, ports.layout, unit)[0],
            transfer,
        )


class Lines(Protocol):
    """A layer's crossbars between its inputs (bias last) and its amplifiers."""

    ports: PortNetwork

    def start(self, voltages: Tensor) -> LineState:
        """Steady state for (B, C) V."""
        ...

    def matrices(self, step: float) -> LineMatrices:
        """Matrices of both stages of a step."""
        ...

    def first(self, state: LineState, step: float) -> LineHistory:
        """History of the trapezoidal stage."""
        ...

    def second(self, state: LineState, middle: LineState, step: float) -> LineHistory:
        """History of the BDF2 stage."""
        ...

    def close(self, history: LineHistory, voltages: Tensor | None) -> LineState:
        """The state at the end of a stage for (B, C) V; None: 0 V."""
        ...

    def local_error(self, step: float, *states: LineState) -> Any:
        """Of the values, from a step's three states; None where nothing is stepped."""
        ...

    def changed(self, values: Any, step: float) -> LineHistory:
        """History of a stage that begins with these values alone."""
        ...

    def passed(self, voltages: Tensor, change: Tensor, step: float) -> Tensor:
        """(B, M) V of combined read-outs for a change (B, N) V of the (B, N) V on the lines."""
        return change @ self.matrices(step).transfer[:, :-1].T

    def passed_outputs(
        self, voltages: Tensor, change: Tensor, state: LineState | None
    ) -> Tensor:
        """(B, M·L, H) V, the same of every read-out.

        Args:
            voltages: (B, N) V on the lines.
            change: (B, C) V of these.
            state: Change of what the crossbars hold; None: they hold nothing.
        """
        held = self.start(torch.zeros_like(change)) if state is None else state
        return self.ends(held, change).output(self.ports.read_out)

    def sum(self, state: LineState, change: LineState) -> LineState:
        """A state and a change of it."""
        ...

    def largest(self, change: LineState) -> Tensor:
        """(B,) V, the largest internal voltage."""
        ...

    def bias_current(self, state: LineState, voltages: Tensor) -> Tensor:
        """(B,) A into the bias line."""
        ...

    def ends(self, state: LineState, voltages: Tensor) -> Ends:
        """Where the lines end."""
        ...


def _as_load(admittance: Tensor, layout: BlockLayout) -> Load:
    """Without the bias, which is a known voltage."""
    whole, grounded = admittance[None], admittance.new_zeros(())
    return Load.of_blocks(layout, whole, torch.zeros_like(whole[..., 0]), grounded)


class ReducedLines(Lines):
    """Filters u_k = u_{k-1} - f_k, df_k/dt = p_k·(u_{k-1} - f_k) on every input line.

    Args:
        model: The series; its last coefficient only estimates the error.
        ports: The DC elimination.
    """

    def __init__(self, model: SeriesModel, ports: PortNetwork) -> None:
        self.model = model
        self.ports = ports
        self.transfers = ports.combine_columns(model.positive_end, model.negative_end)
        # All filtered inputs of an output, or of a partition's input line, in one product.
        later = slice(1, model.order + 1)
        self._flat = self.transfers[later].movedim(0, 1).flatten(1)  # (M, K·C)
        self._admittances = model.admittance[later].movedim(0, -2).flatten(-2)  # (H, K, K·K)
        self._poles: list[float] = model.poles.tolist()
        layout = ports.layout
        widths = layout.column_mask.sum(-1).tolist()
        self._columns = list(zip(layout.column_index[:, -1].tolist(), widths, strict=True))
        # The bias is the last column of the last partition. In terms of the filters' states its
        # current is Σ_k row_k·(v - Σ_{j<k} f_j).
        rows = torch.zeros_like(model.admittance[: model.order + 1, :, 0])
        rows[:, -1] = model.admittance[: model.order + 1, -1, -1]
        rows = layout.scatter_inputs(rows)
        self._bias = rows.sum(0)
        self._bias_filtered = (self._bias - rows.cumsum(0))[:-1, :, None]
        self._cache: dict[float, LineMatrices] = {}

    @property
    def name(self) -> str:
        """For reports."""
        return f"series of order {self.model.order}" if self.model.order else "static"

    def start(self, voltages: Tensor) -> LineState:
        """See :class:`Lines`."""
        values = voltages.new_zeros(self.model.order + 1, *voltages.shape)
        if self.model.order:
            values[0] = voltages
        return LineState(values, torch.zeros_like(values))

    def _ratios(self, step: float) -> list[float]:
        return [shift(step) / (shift(step) + pole) for pole in self._poles]

    def matrices(self, step: float) -> LineMatrices:
        """See :class:`Lines`."""
        if step not in self._cache:
            if len(self._cache) >= STEP_SIZES:
                self._cache.clear()
            ratios = self.transfers.new_tensor([1.0, *self._ratios(step)[:-1]])
            powers = ratios[: self.model.order + 1].cumprod(0)
            admittance = torch.tensordot(powers, self.model.admittance[:-1], dims=1)
            transfer = torch.tensordot(powers, self.transfers[:-1], dims=1)
            self._cache[step] = LineMatrices.of(admittance, transfer, self.ports)
        return self._cache[step]

    def _history(self, history: Tensor, step: float) -> LineHistory:
        order, layout = self.model.order, self.ports.layout
        if order == 0:
            nothing = torch.zeros_like(history[0])
            combined = nothing.new_zeros(len(nothing), self.ports.outputs)
            return LineHistory(nothing, combined, step, history)
        ratios, sigma = self._ratios(step), shift(step)
        # f_k = (p·u_{k-1} + h)/(σ + p), so u_k = ratio·(u_{k-1} - h/σ).
        past = [history[0] * (-ratios[0] / sigma)]
        for k in range(1, order):
            past.append(ratios[k] * (past[-1] - history[k] / sigma))
        filtered = torch.stack(past, dim=1)  # (B, K, C)
        horizontal, columns = layout.column_index.shape
        blocks = filtered.new_zeros(horizontal, len(filtered), order, columns)
        for block, (last, width) in zip(blocks, self._columns, strict=True):
            block[..., columns - width :] = filtered[..., last + 1 - width : last + 1]
        currents = layout.scatter_inputs(
            (blocks.flatten(-2) @ self._admittances.transpose(-1, -2)).transpose(0, 1)
        )
        return LineHistory(currents, filtered.flatten(1) @ self._flat.T, step, history)

    def first(self, state: LineState, step: float) -> LineHistory:
        """See :class:`Lines`."""
        return self._history(first_history(step, state.values, state.rates), step)

    def second(self, state: LineState, middle: LineState, step: float) -> LineHistory:
        """See :class:`Lines`."""
        return self._history(second_history(step, state.values, middle.values), step)

    def close(self, history: LineHistory, voltages: Tensor | None) -> LineState:
        """See :class:`Lines`."""
        past = history.inner
        values = torch.zeros_like(past)
        if self.model.order:
            level = shift(history.step)
            through = torch.zeros_like(past[0]) if voltages is None else voltages
            for k, pole in enumerate(self._poles):
                torch.add(past[k], through, alpha=pole, out=values[k]).div_(level + pole)
                through = through - values[k]
            return LineState(values, (level * values).sub_(past))
        return LineState(values, values)

    def local_error(self, step: float, *states: LineState) -> Any:
        """See :class:`Lines`."""
        if self.model.order == 0:
            return None
        return local_error(step, *(state.rates for state in states))

    def changed(self, values: Any, step: float) -> LineHistory:
        """See :class:`Lines`."""
        return self._history(shift(step) * values, step)

    def sum(self, state: LineState, change: LineState) -> LineState:
        """See :class:`Lines`."""
        return LineState(state.values + change.values, state.rates + change.rates)

    def largest(self, change: LineState) -> Tensor:
        """See :class:`Lines`."""
        return change.values[: self.model.order].abs().amax(dim=(0, 2))

    def voltages(self, state: LineState, voltages: Tensor) -> list[Tensor]:
        """u_0 … u_K, (B, C) each."""
        result = [voltages]
        for k in range(self.model.order):
            result.append(result[-1] - state.values[k])
        return result

    def bias_current(self, state: LineState, voltages: Tensor) -> Tensor:
        """See :class:`Lines`."""
        held = (state.values[: self.model.order] @ self._bias_filtered).sum(0)[:, 0]
        return voltages @ self._bias - held

    def ends(self, state: LineState, voltages: Tensor) -> Ends:
        """See :class:`Lines`."""
        powers = torch.stack(self.voltages(state, voltages))
        shares = self.ports.layout.gather_inputs(powers)  # (order + 1, B, H, K)
        found = shares.permute(2, 1, 0, 3).flatten(-2) @ self._ends  # (H, B, 2·M·L)
        return Ends(*found.unflatten(-1, (2, -1)).permute(2, 1, 3, 0))

    @cached_property
    def _ends(self) -> Tensor:
        """(H, (order + 1)·K, 2·M·L), of voltages in blocks to both ends of every row."""
        count = self.model.order + 1
        both = torch.stack([self.model.positive_end[:count], self.model.negative_end[:count]])
        blocks = self.ports.layout.gather_inputs(both)  # (2, order + 1, M·L, H, K)
        return blocks.permute(3, 1, 4, 0, 2).flatten(-2).flatten(1, 2).contiguous()

    def left_out(self, state: LineState, voltages: Tensor) -> Tensor:
        """(B,) V: what the series leaves out, at the combined amplifier voltages."""
        if self.model.order == 0:
            return voltages.new_zeros(len(voltages))
        return self.left_out_of(voltages - state.values.sum(0))

    def left_out_of(self, filtered: Tensor) -> Tensor:
        """(B,) V, for inputs (B, C) V behind all filters."""
        return LEFT_OUT_FACTOR * (filtered @ self.transfers[-1].T).abs().amax(dim=-1)


class ExactLines(Lines):
    """Every node of the crossbars, eliminated anew for every step size."""

    def __init__(self, blocks: DynamicBlocks, ports: PortNetwork) -> None:
        self.blocks = blocks
        self.ports = ports
        self._cache: dict[float, tuple[LineMatrices, Interior]] = {}

    @property
    def name(self) -> str:
        """For reports."""
        return "all nodes"

    def _combine(self, positive: Tensor, negative: Tensor) -> Tensor:
        """(blocks, R, B) V twice → (B, M)."""
        return self.ports.combine_ends(self.blocks.ends(positive), self.blocks.ends(negative))

    def start(self, voltages: Tensor) -> LineState:
        """See :class:`Lines`."""
        values, _ = self.blocks.factor(0.0).solve(self.blocks.spread(voltages), None)
        return LineState(values, values.times(0.0))

    def _stage(self, step: float) -> tuple[LineMatrices, Interior]:
        if step not in self._cache:
            if len(self._cache) >= FACTORISATIONS:
                self._cache.clear()
            elimination = self.blocks.factor(shift(step))
            vertical = self.blocks.vertical
            admittance = elimination.admittance.unflatten(0, (-1, vertical)).sum(dim=1)
            columns = int(self.ports.layout.column_position.shape[0])
            unit = torch.eye(columns, dtype=admittance.dtype, device=admittance.device)
            _, seen = elimination.solve(self.blocks.spread(unit), None)
            transfer = self._combine(seen.positive_end, seen.negative_end).T
            matrices = LineMatrices.of(admittance, transfer, self.ports)
            self._cache[step] = matrices, elimination
        return self._cache[step]

    def matrices(self, step: float) -> LineMatrices:
        """See :class:`Lines`."""
        return self._stage(step)[0]

    def _history(self, history: CellValues, step: float) -> LineHistory:
        elimination = self._stage(step)[1]
        injected = history.scaled(self.blocks.capacitance)
        values, seen = elimination.solve(None, injected)
        return LineHistory(
            self.blocks.input_currents(seen.currents),
            self._combine(seen.positive_end, seen.negative_end),
            step,
            (history, values),
        )

    def first(self, state: LineState, step: float) -> LineHistory:
        """See :class:`Lines`."""
        values, rates = state
        history = CellValues(*(
            first_history(step, getattr(values, side), getattr(rates, side)) for side in _SIDES
        ))
        return self._history(history, step)

    def second(self, state: LineState, middle: LineState, step: float) -> LineHistory:
        """See :class:`Lines`."""
        history = CellValues(*(
            second_history(step, getattr(state.values, side), getattr(middle.values, side))
            for side in _SIDES
        ))
        return self._history(history, step)

    def close(self, history: LineHistory, voltages: Tensor | None) -> LineState:
        """See :class:`Lines`."""
        past, values = history.inner
        if voltages is not None:
            elimination = self._stage(history.step)[1]
            values = values + elimination.solve(self.blocks.spread(voltages), None)[0]
        return LineState(values, values.times(shift(history.step)) + past.times(-1.0))

    def local_error(self, step: float, *states: LineState) -> Any:
        """See :class:`Lines`."""
        return CellValues(*(
            local_error(step, *(getattr(state.rates, side) for state in states))
            for side in _SIDES
        ))

    def changed(self, values: Any, step: float) -> LineHistory:
        """See :class:`Lines`."""
        return self._history(values.times(shift(step)), step)

    def sum(self, state: LineState, change: LineState) -> LineState:
        """See :class:`Lines`."""
        return LineState(state.values + change.values, state.rates + change.rates)

    def largest(self, change: LineState) -> Tensor:
        """See :class:`Lines`."""
        sides = [getattr(change.values, side).abs().amax(dim=(0, 1, 2)) for side in _SIDES]
        return torch.stack(sides).amax(dim=0)

    def bias_current(self, state: LineState, voltages: Tensor) -> Tensor:
        """See :class:`Lines`."""
        return self.currents(state, voltages)[:, -1]

    def currents(self, state: LineState, voltages: Tensor) -> Tensor:
        """(B, C) A into all input lines, those of pin capacitances not counted."""
        blocks = self.blocks
        spread = blocks.spread(voltages)
        if float(blocks.wires.input_segment) > 0.0:
            drop = spread - state.values.input_line[:, 0]
            return blocks.input_currents(drop / blocks.wires.input_segment)
        a, p, n = (getattr(state.values, side) for side in _SIDES)
        gp, gn = blocks.positive[..., None], blocks.negative[..., None]
        return blocks.input_currents((gp * (a - p) + gn * (a - n)).sum(dim=1))

    def ends(self, state: LineState, voltages: Tensor) -> Ends:
        """See :class:`Lines`."""
        wires, cells = self.blocks.wires, state.values
        positive, negative = LineEnds.of(wires).voltages(
            cells.positive[..., -1, :], cells.negative[..., -1, :], wires.alpha
        )
        return Ends(self.blocks.ends(positive), self.blocks.ends(negative))


_SIDES = ("input_line", "positive", "negative")
