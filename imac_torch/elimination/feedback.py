"""What amplifiers that are not ideal do to the ends of their lines, and to each other.

A read-out's operational amplifiers put out o = clamp(U·e + n·v_os) for voltages e of the line ends
(:mod:`imac_torch.periphery.readout.opamp`), and send currents F·o into the ends through their
feedback. With passive loads, e = T·a + G·F·o for inputs a, so that with M = U·G·F

    o = clamp(U·T·a + n·v_os + M·o).

Where nothing saturates this is O = C·(U·T·a + n·v_os), C = (1 - M)⁻¹, the transfer of the linear
circuit and a constant. Else an amplifier at a rail is one with a source s in its output:
(1 - M)·o = U·T·a + n·v_os + s. With y_i what it would put out if it did not saturate but all
others do as they do, o_i = y_i + C_ii·s_i, o = clamp(y) and

    y = O - E·w,   w = y - clamp(y),   E = C·diag(C)⁻¹ - 1.

Amplifiers meet through input lines with wires, or within a read-out: E is small, and where its
norm ε is below 1, sweeps y, w, y, … converge to the only solution, with an error of at most
ε/(1 - ε) of the last change. Elsewhere Newton's method finds which amplifiers are at rails.

Shapes: H, V partitions of R rows and K columns, n amplifiers of a read-out, N = R·n of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.elimination.blocks import BlockLayout, Termination
from imac_torch.elimination.interior import CellValues, Interior, PortResponse
from imac_torch.elimination.linalg import solve
from imac_torch.errors import SolverError
from imac_torch.numeric.budget import CHUNK_BYTES, map_bytes, require_memory

RESPONSES: Final = 6
"""Numbers per cell that the response to one amplifier takes while it is computed."""
SWEPT_TOGETHER: Final = 2**16
"""Amplifiers times images of a sweep: what fits into a cache."""
SWEEPS: Final = 100
NEWTON: Final = 60
TOLERANCE: Final = 1e-13
"""Of outputs, relative to the largest: where sweeps end."""


class Saturated(NamedTuple):
    """Amplifiers for some inputs, (..., B, H, V, N) each.

    Attributes:
        outputs: V.
        beyond: V, w: how far they would be beyond their rails.
        converged: (..., B) bool.
    """

    outputs: Tensor
    beyond: Tensor
    converged: Tensor


@dataclass(frozen=True)
class Feedback:
    """Blocks seen from the outputs of their amplifiers; samples lead.

    Attributes:
        layout: Where rows and columns lie in the blocks.
        count: n.
        low: V.
        high: V.
        mutual: (..., H, V, N, N), E.
        outputs: (..., H, V, N) V, what offsets make of the outputs without inputs.
        ends: (..., H, V, 2, R) V, what they make of the I+ and the I- ends.
        currents: (..., H, V, K) A, what they draw from the input lines.
        ends_beyond: (..., H, V, 2, R, N), change of the ends per V of w.
        currents_beyond: (..., H, V, K, N) A, change of input currents per V of w.
    """

    layout: BlockLayout
    count: int
    low: float
    high: float
    mutual: Tensor
    outputs: Tensor
    ends: Tensor
    currents: Tensor
    ends_beyond: Tensor
    currents_beyond: Tensor

    @classmethod
    def of(cls, spec: CrossbarSpec, layout: BlockLayout) -> Feedback:
        """Of a layer whose read-outs are not ideal.

        Raises:
            SolverError: It is in groups.
        """
        if spec.groups > 1:
            raise SolverError(
                "amplifiers with offset or swing are solved in layers of one group, this one has "
                f"{spec.groups}; leave amplifier.offset, offset_spread and swing out for it"
            )
        read_out = spec.read_out
        real, amplifiers = read_out.imperfections, read_out.amplifiers
        assert real is not None  # noqa: S101 - only such read-outs come here
        wires = Termination(
            spec.input_segment, spec.output_segment, *read_out.passive_loads()
        )
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
        interior = Interior.of(plus, minus, wires)
        pieces = [
            respond(interior, *part)
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
        drives = layout.gather_rows(
            (real.offsets * gains).expand(len(layout.row_position), len(layout.column_index), count)
        )
        outputs = (closed @ drives[..., None]).squeeze(-1)
        relative = closed / own[..., None, :]
        beyond = relative.unsqueeze(-3)
        return cls(
            layout, count, real.low, real.high, relative - identity, outputs,
            (ends @ outputs[..., None, :, None]).squeeze(-1),
            (seen.currents @ outputs[..., None]).squeeze(-1),
            -ends @ beyond, -seen.currents @ relative,
        )  # fmt: skip

    def with_sample(self) -> Feedback:
        """With a leading dimension of one sample."""
        tensors = (
            self.mutual, self.outputs, self.ends, self.currents, self.ends_beyond,
            self.currents_beyond,
        )  # fmt: skip
        return Feedback(
            self.layout, self.count, self.low, self.high, *(item[None] for item in tensors)
        )

    @property
    def drawn(self) -> Tensor:
        """(..., H, K) A from the input lines at 0 V, because of offsets."""
        return self.currents.sum(-2)

    @property
    def saturates(self) -> bool:
        """Whether outputs are limited."""
        return self.high - self.low < float("inf")

    @property
    def loads(self) -> bool:
        """Whether what drives the lines notices that amplifiers saturate."""
        return self.saturates and bool(self.currents_beyond.detach().any())

    def limit(self, linear: Tensor) -> Saturated:
        """Outputs within the swing.

        Args:
            linear: (..., B, H, V, N) V, O, offsets included.
        """
        if not self.saturates:
            good = torch.ones(linear.shape[:-3], dtype=torch.bool, device=linear.device)
            return Saturated(linear, torch.zeros_like(linear), good)
        with torch.no_grad():
            each = max(1, linear[..., :1, :, :, :].numel())
            parts = [
                self._sweep(part)
                for part in linear.detach().split(max(1, SWEPT_TOGETHER // each), dim=-4)
            ]
            found = torch.cat([part for part, _ in parts], dim=-4)
            good = torch.cat([part for _, part in parts], dim=-1)
        if torch.is_grad_enabled() and (linear.requires_grad or self.mutual.requires_grad):
            found = self._newton(linear, found)
        outputs = found.clamp(self.low, self.high)
        return Saturated(outputs, found - outputs, good)

    def _sweep(self, linear: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs y of limit, and (..., B) whether they are known."""
        mutual = self.mutual.detach()
        found, beyond = linear, torch.zeros_like(linear)
        scale = TOLERANCE * max(float(linear.abs().max()) if linear.numel() else 0.0, 1e-12)
        for _ in range(SWEEPS):
            before, beyond = beyond, found - found.clamp(self.low, self.high)
            change = (beyond - before).abs()
            if not bool((change > scale).any()):
                break
            found = linear - times(mutual, beyond)
        good = (change <= scale).flatten(-3).all(-1)
        if not bool(good.all()):
            for _ in range(NEWTON):
                before, found = found, self._newton(linear, found)
                change = (found - before).abs()
                if not bool((change > scale).any()):
                    break
            good = (change <= scale).flatten(-3).all(-1)
        return found, good

    def _newton(self, linear: Tensor, found: Tensor) -> Tensor:
        """The same for amplifiers at the rails at which ``found`` says they are; differentiable."""
        rail = found.detach().clamp(self.low, self.high)
        at_rail = (rail != found.detach()).to(linear.dtype)
        mutual = self.mutual[..., None, :, :, :, :]
        matrix = mutual * at_rail[..., None, :]
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        right = linear + times(self.mutual, at_rail * rail)
        matrix = (identity + matrix).expand(*right.shape, right.shape[-1])
        flat = solve(matrix.flatten(0, -3), right.flatten(0, -2)[..., None])
        return flat.reshape(right.shape)

    def within(self, linear: Tensor, beyond: Tensor) -> Tensor:
        """Outputs clamp(O - E·w) of (S, B, H, V, N) V, for a w that is known."""
        return (linear - times(self.mutual, beyond)).clamp(self.low, self.high)

    def by_row(self, values: Tensor) -> Tensor:
        """(..., H, V, N) to (..., M·L, H, n)."""
        rows = values.unflatten(-1, (-1, self.count))  # (..., H, V, R, n)
        flat = rows.flatten(-3, -2)[..., self.layout.row_position, :]
        return flat.movedim(-3, -2)

    def moved_ends(self, beyond: Tensor) -> tuple[Tensor, Tensor]:
        """What offsets and saturation add to the ends.

        Args:
            beyond: (S, B, H, V, N) V, w.

        Returns:
            Twice (S, B, M·L, H) V.
        """
        rows = self.ends_beyond.shape[-2]
        stacked = self.ends_beyond.flatten(-3, -2)  # (S, H, V, 2·R, N)
        ends = times(stacked, beyond).unflatten(-1, (2, rows)) + self.ends[:, None]
        flat = ends.movedim(-2, 0).flatten(-2)[..., self.layout.row_position].transpose(-1, -2)
        return flat[0], flat[1]

    def moved_currents(self, beyond: Tensor) -> Tensor:
        """(S, B, H, K) A that saturation adds to what the lines draw, for (S, B, H, V, N) V."""
        return times(self.currents_beyond, beyond).sum(-2)


def times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """(S, H, V, i, j) times (S, B, H, V, j): a product of matrices for all B."""
    moved = vectors.movedim(-4, -2)  # (S, H, V, B, j)
    return (moved @ matrix.transpose(-1, -2)).movedim(-2, -4)


def respond(interior: Interior, positive: Tensor, negative: Tensor) -> PortResponse:
    """What ports see of currents into the ends of lines, input lines at 0 V.

    A current into an end divides between the read-out's load and the last segment: into the last
    node flows what the load's share of both resistances is.

    Args:
        interior: The blocks.
        positive: (R, Q) A into I+ ends.
        negative: (R, Q) A into I- ends.
    """
    ends, wires = interior.ends, interior.wires
    local = wires.output_segment * ends.positive_share * positive
    beside = wires.output_segment * ends.negative_share * negative
    follows = wires.alpha * local
    shape = (*interior.positive.shape, positive.shape[-1])
    nothing = interior.positive.new_zeros(shape)
    last_plus = ends.positive_share * positive
    last_minus = ends.negative_share * negative + ends.negative_end * follows

    def at_last(currents: Tensor) -> Tensor:
        before = nothing[..., :-1, :]
        return torch.cat([before, currents[..., None, :].expand_as(nothing[..., :1, :])], dim=-2)

    _, seen = interior.solve(
        None, CellValues(nothing, at_last(last_plus), at_last(last_minus))
    )
    return PortResponse(
        seen.currents,
        seen.positive_end + local,
        seen.negative_end + beside + (1.0 - ends.negative_share) * follows,
    )
