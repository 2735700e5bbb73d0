"""What amplifiers that are not ideal do to the ends of their lines, and to each other.

A read-out's operational amplifiers put out o = clamp(U·e + n·v_os) for voltages e of the line ends
(:mod:`imac_torch.periphery.readout.opamp`), and send currents F·o into the ends through their
feedback. With passive loads, e = T·a + G·F·o for inputs a, so that with M = U·G·F

    o = clamp(U·T·a + n·v_os + M·o).

Where nothing saturates this is O = C·(U·T·a + n·v_os), C = (1 - M)⁻¹, the transfer of the linear
circuit and a constant. Else an amplifier at a rail is one with a source s in its output:
(1 - M)·o = U·T·a + n·v_os + s. With y_i what it would put out if it did not saturate but all
others do as they do, o_i = y_i + C_ii·s_i, o = clamp(y) and

    y = O - E·w,   w = y - clamp(y),   E = C·diag(C)⁻¹ - 1,

which :mod:`imac_torch.elimination.saturation` solves. Amplifiers meet through input lines with
wires, or within a read-out: E is small. Ends, and currents of input lines, are linear in a and w.

Shapes: H, V partitions of R rows and K columns, n amplifiers of a read-out, N = R·n of a block,
B images. Samples and groups lead.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.elimination.blocks import BlockLayout, BlockPorts, Termination
from imac_torch.elimination.interior import CellValues, Interior, PortResponse
from imac_torch.elimination.linalg import solve
from imac_torch.elimination.loaded import LoadedAmplifiers
from imac_torch.elimination.resistive import ResistiveAmplifiers
from imac_torch.elimination.saturation import Saturated, limit, times
from imac_torch.elimination.tabled import TabledAmplifiers
from imac_torch.numeric.budget import CHUNK_BYTES, map_bytes, require_memory
from imac_torch.periphery.readout import ReadOut

RESPONSES: Final = 6
"""Numbers per cell that the response to one amplifier takes while it is computed."""


@dataclass(frozen=True)
class Feedback:
    """Blocks seen from the outputs of their amplifiers; samples lead.

    Attributes:
        layout: Where rows and columns lie in the blocks.
        count: n.
        low: V.
        high: V.
        transfer: (..., H, V, N, K), output per input voltage where nothing saturates.
        mutual: (..., H, V, N, N), E.
        outputs: (..., H, V, N) V, what offsets make of the outputs without inputs.
        ends: (..., H, V, 2, R) V, what they make of the I+ and the I- ends.
        currents: (..., H, V, K) A, what they draw from the input lines.
        ends_beyond: (..., H, V, 2, R, N), change of the ends per V of w.
        currents_beyond: (..., H, V, K, N) A, change of input currents per V of w.
        open_ends: (..., H, V, 2, R, K), ends per input voltage.
        loaded: What is around amplifiers that notice what they deliver; None: none does.
    """

    layout: BlockLayout
    count: int
    low: float
    high: float
    transfer: Tensor
    mutual: Tensor
    outputs: Tensor
    ends: Tensor
    currents: Tensor
    ends_beyond: Tensor
    currents_beyond: Tensor
    open_ends: Tensor
    loaded: LoadedAmplifiers | None = None

    @classmethod
    def of(cls, spec: CrossbarSpec, layout: BlockLayout, ports: BlockPorts) -> Feedback:
        """Of a layer whose read-outs are not ideal, and whose blocks are eliminated."""
        read_out = spec.read_out
        real, amplifiers = read_out.imperfections, read_out.amplifiers
        assert real is not None  # noqa: S101 - only such read-outs come here
        plus = layout.gather(spec.conductances.positive)
        minus = layout.gather(spec.conductances.negative)
        rows, count = plus.shape[-2], len(amplifiers)
        # Currents into the ends, and outputs per voltage of the ends: diagonal over rows.
        each = torch.eye(rows, dtype=plus.dtype, device=plus.device)[:, :, None]
        back, by = (
            [
                (each * torch.stack([getattr(item, f"{what}_{side}") for item in amplifiers]))
                for side in ("positive", "negative")
            ]
            for what in ("to", "by")
        )
        into = [item.flatten(1) for item in back]  # (R, N)
        step = max(1, CHUNK_BYTES // (8 * RESPONSES * plus.numel()))
        require_memory(
            map_bytes(plus[..., 0, 0].numel(), rows, plus.shape[-1], min(step, rows * count)),
            f"seeing arrays of {rows}×{plus.shape[-1]} cells from their amplifiers",
            "take smaller arrays (crossbar.rows, crossbar.columns)",
            plus.device,
        )
        interior = Interior.of(plus, minus, passive(spec))
        pieces = [
            respond(interior, None, *part)[1]
            for part in zip(*(item.split(step, dim=-1) for item in into), strict=True)
        ]
        seen = PortResponse(*(torch.cat(items, dim=-1) for items in zip(*pieces, strict=True)))
        ends = torch.stack([seen.positive_end, seen.negative_end], dim=-3)  # (..., 2, R, N)
        outward = [item.flatten(1).T for item in by]  # (N, R)
        loop = outward[0] @ seen.positive_end + outward[1] @ seen.negative_end
        identity = torch.eye(loop.shape[-1], dtype=plus.dtype, device=plus.device)
        matrix = identity - loop
        closed = solve(matrix.flatten(0, -3), identity.expand_as(matrix).flatten(0, -3))
        closed = closed.reshape(matrix.shape)
        own = closed.diagonal(dim1=-2, dim2=-1)
        gains = torch.stack([item.by_offset for item in amplifiers])
        offsets = real.offsets * gains
        if spec.groups > 1:
            parts = (spec.groups, -1) if offsets.shape[-3] > 1 else (1, 1)
            offsets = offsets.unflatten(-3, parts)
        horizontal = len(layout.column_index)
        drives = layout.gather_rows(
            offsets.expand(*offsets.shape[:-3], len(layout.row_position), horizontal, count)
        )
        open_ends = [
            item.open_output(ports.positive_end, ports.negative_end) for item in amplifiers
        ]  # (..., R, K) each
        outputs = (closed @ drives[..., None]).squeeze(-1)
        relative = closed / own[..., None, :]
        beyond = relative.unsqueeze(-3)
        return cls(
            layout, count, real.low, real.high, torch.stack(open_ends, dim=-2).flatten(-3, -2),
            relative - identity, outputs,
            (ends @ outputs[..., None, :, None]).squeeze(-1),
            (seen.currents @ outputs[..., None]).squeeze(-1),
            -ends @ beyond, -seen.currents @ relative,
            torch.stack([ports.positive_end, ports.negative_end], dim=-3),
            _loaded(spec, layout),
        )  # fmt: skip

    def with_sample(self) -> Feedback:
        """With a leading dimension of one sample."""
        tensors = {
            part.name: getattr(self, part.name)[None]
            for part in fields(self)
            if isinstance(getattr(self, part.name), Tensor)
        }
        return replace(self, **tensors)

    @cached_property
    def offset(self) -> bool:
        """Whether anything is there without inputs."""
        return bool(self.outputs.detach().any())

    @property
    def drawn(self) -> Tensor:
        """(..., H, K) A from the input lines at 0 V, because of offsets."""
        return self.currents.sum(-2)

    @property
    def saturates(self) -> bool:
        """Whether outputs are limited, or a table says what they do."""
        return self.loaded is not None or self.high - self.low < float("inf")

    @cached_property
    def loads(self) -> bool:
        """Whether what drives the lines notices that amplifiers saturate."""
        return self.saturates and bool(self.currents_beyond.detach().any())

    @property
    def notices(self) -> bool:
        """Whether outputs depend on what neurons draw."""
        return self.loaded is not None and self.loaded.onward

    def limited(self, blocks: Tensor, drawn: Tensor | None = None) -> Saturated:
        """The amplifiers for (..., H, B, K) V on the lines of the blocks.

        Args:
            blocks: The lines.
            drawn: (..., B, M·L) A of neurons, for amplifiers that notice it; None: nothing.
        """
        if self.loaded is not None:
            plain = (blocks @ self.open_ends.flatten(-4, -2).mT).unflatten(
                -1, self.open_ends.shape[-4:-1]
            )  # (..., H, B, V, 2, R)
            ends = plain.movedim(-2, 1) + self.ends.movedim(-2, 1).unsqueeze(-3)
            if drawn is not None:
                rows = drawn[..., None, None].expand(*drawn.shape, len(blocks[0]), self.count)
                drawn = self.layout.gather_rows(rows).movedim(-4, -3)[:, :1]
            return self.loaded.solve(
                self.mutual, self.ends_beyond, self._linear(blocks), ends, drawn
            )
        return limit(self.mutual, self._linear(blocks), self.low, self.high)

    def outputs_at(self, blocks: Tensor, beyond: Tensor | None) -> Tensor:
        """(..., H, B, V, N) V within the swing, for a w that is known."""
        linear = self._linear(blocks)
        if beyond is None:
            return linear
        found = linear - times(self.mutual, beyond)
        return found.clamp(self.low, self.high) if self.loaded is None else found - beyond

    def _linear(self, blocks: Tensor) -> Tensor:
        linear = (blocks @ self.transfer.flatten(-3, -2).mT).unflatten(-1, self.outputs.shape[-2:])
        return linear + self.outputs.unsqueeze(-3) if self.offset else linear

    def by_row(self, values: Tensor) -> Tensor:
        """(..., H, B, V, N) to (..., B, M·L, H, n)."""
        return self._rows(values).movedim(-4, -2)

    def _rows(self, values: Tensor) -> Tensor:
        """(..., V, N) to (..., M·L, n)."""
        rows = values.unflatten(-1, (-1, self.count)).flatten(-3, -2)
        return rows[..., self.layout.row_position, :]

    def injected(self, outputs: Tensor, read_out: ReadOut) -> tuple[Tensor, Tensor]:
        """(..., H, V, R, B) A into the I+ and the I- ends, for outputs (..., H, B, V, N) V."""
        rows = outputs.unflatten(-1, (-1, self.count)).movedim(-4, -2)  # (..., H, V, R, B, n)
        sides = ("to_positive", "to_negative")
        into = (torch.stack([getattr(item, side) for item in read_out.amplifiers])
                for side in sides)
        first, second = (rows @ item for item in into)
        return first, second

    def combined(self, outputs: Tensor, read_out: ReadOut) -> Tensor:
        """(..., H, B, V, N) V to the neuron inputs (..., B, M) V that they make."""
        meeting = read_out.combination
        mean = self._rows(meeting.across(outputs.movedim(-4, -1)))
        return meeting.slicing.join(read_out.join(mean), dim=-1)

    def moved_ends(self, beyond: Tensor | None) -> tuple[Tensor, Tensor]:
        """What offsets and saturation add to the ends.

        Args:
            beyond: (..., H, B, V, N) V, w.

        Returns:
            Twice (..., B or 1, M·L, H) V.
        """
        ends = self.ends.movedim(-2, 0).unsqueeze(-3)  # (2, ..., H, 1, V, R)
        if beyond is not None:
            moved = times(self.ends_beyond.flatten(-3, -2), beyond)
            ends = ends + moved.unflatten(-1, (2, -1)).movedim(-2, 0)
        flat = ends.flatten(-2)[..., self.layout.row_position].movedim(-3, -1)
        return flat[0], flat[1]

    def moved_currents(self, beyond: Tensor) -> Tensor:
        """(..., H, B, K) A that saturation adds to what lines draw, for (..., H, B, V, N) V."""
        return beyond.flatten(-2) @ self.currents_beyond.movedim(-1, -2).flatten(-3, -2)


def _loaded(spec: CrossbarSpec, layout: BlockLayout) -> LoadedAmplifiers | None:
    """Amplifiers that notice what they deliver; None: they do not."""
    read_out, real = spec.read_out, spec.read_out.imperfections
    if real is None or not real.loaded:
        return None
    offsets = real.offsets
    if spec.groups > 1:
        parts = (spec.groups, -1) if offsets.shape[-3] > 1 else (1, 1)
        offsets = offsets.unflatten(-3, parts).expand(spec.groups, -1, -1, -1)
    around = LoadedAmplifiers.around(read_out, layout, spec.groups, offsets)
    if real.table is not None:
        return TabledAmplifiers(**around, table=real.table)
    assert real.resistance is not None  # noqa: S101 - one of both
    return ResistiveAmplifiers(
        **around, gain=read_out.loop_gain, resistance=real.resistance, low=real.low, high=real.high
    )


def passive(spec: CrossbarSpec) -> Termination:
    """The wires, and read-outs whose amplifiers all put out 0 V."""
    return Termination(
        spec.input_segment, spec.output_segment, *spec.read_out.passive_loads()
    )


def respond(
    interior: Interior, voltages: Tensor | None, positive: Tensor, negative: Tensor
) -> tuple[CellValues, PortResponse]:
    """Node voltages and what ports see of currents into the ends of lines, see :func:`at_ends`.

    Args:
        interior: The blocks, of :func:`passive` wires.
        voltages: (..., K, Q) V at the input lines; None: 0 V.
        positive: (..., R, Q) A into I+ ends.
        negative: (..., R, Q) A into I- ends.
    """
    shape = (*interior.positive.shape, positive.shape[-1])
    nodes, moved = at_ends(interior, positive, negative)
    nothing = interior.positive.new_zeros(shape)
    found, seen = interior.solve(voltages, CellValues(nothing, *(nothing + x for x in nodes)))
    return found, PortResponse(
        seen.currents, seen.positive_end + moved[0], seen.negative_end + moved[1]
    )


def at_ends(
    interior: Interior, positive: Tensor, negative: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Currents into the ends of lines as currents into nodes, and what they move ends by besides.

    A current into an end divides between the read-out's load and the last segment: into the last
    node flows what the load's share of both resistances is.

    Args:
        interior: The blocks.
        positive: (..., R, Q) A into I+ ends.
        negative: (..., R, Q) A into I- ends.

    Returns:
        (..., R, K, Q) A into nodes of both lines, and (..., R, Q) V of both ends.
    """
    ends, wires = interior.ends, interior.wires
    local = wires.output_segment * ends.positive_share * positive
    beside = wires.output_segment * ends.negative_share * negative
    follows = wires.alpha * local
    last = (
        ends.positive_share * positive,
        ends.negative_share * negative + ends.negative_end * follows,
    )
    columns = interior.positive.shape[-1]
    plus, minus = (
        torch.cat([torch.zeros_like(x[..., None, :]).expand(*x.shape[:-1], columns - 1, -1),
                   x[..., None, :]], dim=-2)
        for x in last
    )  # fmt: skip
    return (plus, minus), (local, beside + (1.0 - ends.negative_share) * follows)
