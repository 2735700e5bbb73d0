"""Input lines in time: what a layer draws and passes on when what drives it moves.

Two engines with one interface: :class:`ReducedLines` integrates a few low-pass filters per input
line (those of :class:`imac_torch.transient.dynamics.SeriesModel`), :class:`ExactLines`
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
from imac_torch.numeric.budget import FACTORISATIONS, REDUCED_STEP_SIZES
from imac_torch.periphery.readout import ReadOut
from imac_torch.transient.dynamics import DynamicBlocks, SeriesModel
from imac_torch.transient.integrator import first_history, local_error, second_history, shift
from imac_torch.transient.neuronstage import StageLoad

LEFT_OUT_FACTOR = 2.5
"""What a reduced model leaves out is estimated as if its nodes followed the fastest filter. They do
not all, and contributions of either sign cancel; where full wires were computed beside, the
estimate alone was 0.5 to 16 times the error made."""


class LineState(NamedTuple):
    """What crossbars hold, V or C, its rates, and their voltages where they hold charges.

    What these are is the engine's business.
    """

    values: Any
    rates: Any
    voltages: Any = None


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
    """A layer's crossbars between its inputs (bias last) and its amplifiers.

    Attributes:
        ports: As a linear network at rest.
    """

    ports: PortNetwork

    @property
    def port_capacitance(self) -> Tensor:
        """(C,) F at the pins themselves: that of input lines without resistance."""
        ...

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
    """Filters df_k/dt = p_k·(u - f_k) side by side on every input line, x_k = u - f_k.

    Values and rates are (H, B, (K+1)·W), by partitions of W lines, so that one product per
    partition gives what lines draw and what they pass on. The last filter only estimates the error.

    Args:
        model: The filters.
        ports: The DC elimination.

    Attributes:
        transfers: (K+1, M, C) of the combined outputs, as the line ends of the model.
        width: W.
        onward: (H, K·W, W + M), from the filters' states of a partition to what its lines draw (S)
            and to the outputs.
        bias_filtered: (K, W) S, what the bias line draws by the filters of its partition.
    """

    def __init__(self, model: SeriesModel, ports: PortNetwork) -> None:
        self.model = model
        self.ports = ports
        self.transfers = ports.combine_columns(model.positive_end, model.negative_end)
        layout, order = ports.layout, model.order
        self._poles = model.poles
        shares = layout.gather_inputs(self.transfers[1:])  # (K, M, H, W)
        passed = shares.permute(2, 0, 3, 1)
        drawn = model.admittance[1:].transpose(0, 1).mT
        self.onward = -torch.cat([drawn, passed], dim=-1).flatten(1, 2)  # (H, K·W, W + M)
        # The bias is the last column of the last partition.
        rows = torch.zeros_like(model.admittance[:, :, 0])
        rows[:, -1] = model.admittance[:, -1, -1]
        self._bias = layout.scatter_inputs(rows).sum(0)
        self.bias_filtered = rows[1:, -1]
        self.width = int(layout.column_index.shape[1])
        self._order = order
        self._cache: dict[float, LineStep] = {}

    @property
    def port_capacitance(self) -> Tensor:
        """See :class:`Lines`."""
        return self.model.port_capacitance

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.model.order} filters a line" if self.model.order else "static"

    def start(self, voltages: Tensor) -> LineState:
        """See :class:`Lines`."""
        values = self.ports.blocks(voltages)
        values = values.repeat(1, 1, self.model.order + 1 if self.model.order else 0)
        return LineState(values, torch.zeros_like(values))

    def at(self, step: float) -> LineStep:
        """What does not depend on the state."""
        found = self._cache.get(step)
        if found is None:
            level, order = shift(step), self.model.order
            inverse = 1.0 / (level + self._poles)
            powers = torch.cat([torch.ones_like(inverse[:1]), level * inverse[:order]])
            matrices = LineMatrices.of(
                torch.tensordot(powers, self.model.admittance, dims=1),
                torch.tensordot(powers, self.transfers, dims=1),
                self.ports,
            )
            found = LineStep(
                matrices,
                inverse.repeat_interleave(self.width),
                (self._poles * inverse)[:, None],
            )
            if len(self._cache) >= REDUCED_STEP_SIZES:
                self._cache.clear()
            self._cache[step] = found
        return found

    def matrices(self, step: float) -> LineMatrices:
        """See :class:`Lines`."""
        return self.at(step).matrices

    def _history(self, history: Tensor, step: float) -> LineHistory:
        if self.model.order == 0:
            batch, width = history.shape[1], self.ports.inputs + 1
            nothing = history.new_zeros(batch, width)
            combined = history.new_zeros(batch, self.ports.outputs)
            return LineHistory(nothing, combined, step, (history, history))
        # f_k = (p_k·u + h_k)/(σ + p_k), so x_k = (σ·u - h_k)/(σ + p_k).
        filtered = history * self.at(step).inverse
        found = filtered[..., : self.model.order * self.width] @ self.onward
        currents = self.ports.line_currents(found[..., : self.width])
        return LineHistory(currents, found[..., self.width :].sum(0), step, (history, filtered))

    def first(self, state: LineState, step: float) -> LineHistory:
        """See :class:`Lines`."""
        return self._history(first_history(step, state.values, state.rates), step)

    def second(self, state: LineState, middle: LineState, step: float) -> LineHistory:
        """See :class:`Lines`."""
        return self._history(second_history(step, state.values, middle.values), step)

    def close(self, history: LineHistory, voltages: Tensor | None) -> LineState:
        """See :class:`Lines`."""
        past, values = history.inner
        if self.model.order == 0:
            return LineState(past, past)
        if voltages is not None:
            split = values.unflatten(-1, (-1, self.width))
            through = self.at(history.step).through
            values = torch.addcmul(split, self.ports.blocks(voltages)[:, :, None], through)
            values = values.flatten(-2)
        return LineState(values, torch.sub(shift(history.step) * values, past))

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
        return change.values[..., : self.model.order * self.width].abs().amax(dim=(0, 2))

    def _filtered(self, state: LineState) -> Tensor:
        """f_1 … f_{K+1}, (H, B, K+1, W)."""
        return state.values.unflatten(-1, (self.model.order + 1, self.width))

    def bias_current(self, state: LineState, voltages: Tensor) -> Tensor:
        """See :class:`Lines`."""
        found = voltages @ self._bias
        if self.model.order == 0:
            return found
        rows = self.bias_filtered.flatten()
        return found - state.values[-1, :, : len(rows)] @ rows

    def ends(self, state: LineState, voltages: Tensor) -> Ends:
        """See :class:`Lines`."""
        shares = self.ports.blocks(voltages)[:, :, None]  # (H, B, 1, W)
        if self.model.order:
            shares = torch.cat([shares, shares - self._filtered(state)[:, :, :-1]], dim=2)
        found = shares.flatten(-2) @ self.both_ends  # (H, B, 2·M·L)
        return Ends(*found.unflatten(-1, (2, -1)).permute(2, 1, 3, 0))

    @cached_property
    def both_ends(self) -> Tensor:
        """(H, (K + 1)·W, 2·M·L), of voltages in blocks to both ends of every row."""
        both = torch.stack([self.model.positive_end, self.model.negative_end])
        blocks = self.ports.layout.gather_inputs(both)  # (2, K + 1, M·L, H, W)
        return blocks.permute(3, 1, 4, 0, 2).flatten(-2).flatten(1, 2).contiguous()

    @cached_property
    def ends_by_line(self) -> Tensor:
        """(H, W, K + 1, 2, M·L): the same, of single filters."""
        parted = self.both_ends.unflatten(1, (-1, self.width)).transpose(1, 2)
        return parted.unflatten(-1, (2, -1)).contiguous()

    def left_out(self, state: LineState, voltages: Tensor) -> Tensor:
        """(B,) V: what the filters miss, at the combined amplifier voltages."""
        if self.model.order == 0:
            return voltages.new_zeros(len(voltages))
        # Σ of the missed parts times x_k = u - f_k; together they miss nothing of a steady u.
        shares = self.ports.blocks(voltages) * self.model.missed.sum()
        kept = self.model.missed[:, None] * self._filtered(state)
        return self.left_out_of(self.ports.line_currents(shares - kept.sum(2)))

    def left_out_of(self, filtered: Tensor) -> Tensor:
        """(B,) V, for what is missed of the inputs (B, C) V if all modes were the worst one."""
        return LEFT_OUT_FACTOR * (filtered @ self.transfers[0].T).abs().amax(dim=-1)


class LineStep(NamedTuple):
    """Of one step size.

    Attributes:
        matrices: Of its stages.
        inverse: ((K+1)·W,) s, 1/(σ + p).
        through: (K+1, 1), p/(σ + p).
    """

    matrices: LineMatrices
    inverse: Tensor
    through: Tensor


class ExactLines(Lines):
    """Every node of the crossbars, eliminated anew for every step size."""

    def __init__(self, blocks: DynamicBlocks, ports: PortNetwork) -> None:
        self.blocks = blocks
        self.ports = ports
        self._cache: dict[float, tuple[LineMatrices, Interior]] = {}

    @property
    def port_capacitance(self) -> Tensor:
        """See :class:`Lines`."""
        return self.blocks.port_capacitance

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
        return LineState(self.blocks.charges(values), values.times(0.0), values)

    def _stage(self, step: float) -> tuple[LineMatrices, Interior]:
        if step not in self._cache:
            if len(self._cache) >= FACTORISATIONS:
                self._cache.clear()
            elimination = self.blocks.factor(shift(step))
            vertical = self.blocks.vertical
            admittance = elimination.admittance.unflatten(0, (-1, vertical)).sum(dim=1)
            columns = int(self.ports.layout.column_position.shape[0])
            unit = torch.eye(columns, dtype=admittance.dtype, device=admittance.device)
            seen = elimination.ports(self.blocks.spread(unit))
            transfer = self._combine(seen.positive_end, seen.negative_end).T
            matrices = LineMatrices.of(admittance, transfer, self.ports)
            self._cache[step] = matrices, elimination
        return self._cache[step]

    def matrices(self, step: float) -> LineMatrices:
        """See :class:`Lines`."""
        return self._stage(step)[0]

    def _history(self, injected: CellValues, step: float) -> LineHistory:
        """Of what charges' histories are, A."""
        values, seen = self._stage(step)[1].solve(None, injected)
        return LineHistory(
            self.blocks.input_currents(seen.currents),
            self._combine(seen.positive_end, seen.negative_end),
            step,
            (injected, values),
        )

    def first(self, state: LineState, step: float) -> LineHistory:
        """See :class:`Lines`."""
        charges, rates = state.values, state.rates
        history = CellValues(*(
            first_history(step, getattr(charges, side), getattr(rates, side)) for side in _SIDES
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
        charges = self.blocks.charges(values)
        return LineState(charges, charges.times(shift(history.step)) + past.times(-1.0), values)

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
        return LineState(
            state.values + change.values, state.rates + change.rates,
            state.voltages + change.voltages,
        )  # fmt: skip

    def largest(self, change: LineState) -> Tensor:
        """See :class:`Lines`."""
        sides = [getattr(change.voltages, side).abs().amax(dim=(0, 1, 2)) for side in _SIDES]
        return torch.stack(sides).amax(dim=0)

    def bias_current(self, state: LineState, voltages: Tensor) -> Tensor:
        """See :class:`Lines`."""
        return self.currents(state, voltages)[:, -1]

    def currents(self, state: LineState, voltages: Tensor) -> Tensor:
        """(B, C) A into all input lines, those of pin capacitances not counted."""
        blocks = self.blocks
        spread = blocks.spread(voltages)
        if float(blocks.wires.input_segment) > 0.0:
            drop = spread - state.voltages.input_line[:, 0]
            return blocks.input_currents(drop / blocks.wires.input_segment)
        a, p, n = (getattr(state.voltages, side) for side in _SIDES)
        gp, gn = blocks.positive[..., None], blocks.negative[..., None]
        through = gp * (a - p) + gn * (a - n) + state.rates.input_line
        return blocks.input_currents(through.sum(dim=1))

    def ends(self, state: LineState, voltages: Tensor) -> Ends:
        """See :class:`Lines`."""
        wires, cells = self.blocks.wires, state.voltages
        positive, negative = LineEnds.of(wires).voltages(
            cells.positive[..., -1, :], cells.negative[..., -1, :], wires.alpha
        )
        return Ends(self.blocks.ends(positive), self.blocks.ends(negative))


_SIDES = ("input_line", "positive", "negative")
