"""Operational amplifiers of a block that are given as tables: Newton's method on their outputs.

The block is known for amplifiers that are linear (:mod:`imac_torch.elimination.feedback`): with w
what outputs are short of that, o = O - (1 + E)·w, and the line ends move by w times a matrix. Any
outputs are some w. What decides them is Kirchhoff's law at every output: the amplifier's current,
from its table at the voltages of its inputs and its output, is what goes through its feedback and,
where its output is the read-out's, on to the neuron.

Shapes: S samples, H, V partitions of R rows and N amplifiers, B images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.elimination.blocks import BlockLayout
from imac_torch.elimination.linalg import solve
from imac_torch.elimination.saturation import Saturated, times
from imac_torch.errors import SolverError
from imac_torch.numeric.budget import CHUNK_BYTES
from imac_torch.periphery.readout import ReadOut
from imac_torch.periphery.readout.opamp import Measured

ITERATIONS: Final = 100
TOLERANCE: Final = 1e-11
"""V, largest change of an output at which iterations end."""
LARGEST_STEP: Final = 0.2
"""V, of outputs; a table bends at the supplies."""


class Point(NamedTuple):
    """Amplifiers at some w; (..., N) each.

    Attributes:
        outputs: V.
        positive: V, of the I+ end of the amplifier's row.
        negative: V, of its I- end.
    """

    outputs: Tensor
    positive: Tensor
    negative: Tensor


@dataclass(frozen=True)
class TabledAmplifiers:
    """What is around the amplifiers of a layer.

    Attributes:
        table: Their currents.
        plus: (3, N) V at the input plus per V of the I+ end, the I- end and the output.
        minus: (3, N) likewise.
        back: (2, N) S from the output to both ends.
        offsets: (H, V, N) V.
        count: Amplifiers of a read-out.
        tie: S from every output to where partitions meet; 0: they do not.
        onward: Whether they deliver what neurons draw.
        series: Ω between the mean of the partitions and the neuron.
        partitions: H.
    """

    table: Measured
    plus: Tensor
    minus: Tensor
    back: Tensor
    offsets: Tensor
    count: int
    tie: float
    onward: bool
    series: float
    partitions: int

    @classmethod
    def of(
        cls, read_out: ReadOut, layout: BlockLayout, groups: int, offsets: Tensor
    ) -> TabledAmplifiers | None:
        """Of a layer's read-outs, whose offsets are (M·L or 1, H or 1, n) V; None: no table.

        Raises:
            SolverError: The layer is in groups, or ties slices together.
        """
        real = read_out.imperfections
        if real is None or real.table is None:
            return None
        meeting, rows = read_out.combination, layout.row_mask.shape[-1]
        onward = read_out.drives and meeting.tied
        if groups > 1 or (onward and meeting.slicing.count > 1):
            raise SolverError(
                "amplifiers given as tables (amplifier.table) are solved in layers of one group, "
                "and without slices where their outputs are tied: leave the table out for it"
            )
        count, partitions = len(read_out.amplifiers), len(layout.column_index)
        places = read_out.terminals

        def by_amplifier(side: str) -> Tensor:
            each = torch.stack(
                [torch.stack(tuple(getattr(item, side))) for item in places], dim=-1
            )
            return each.repeat(1, rows)

        back = torch.stack([
            torch.stack([item.to_positive, item.to_negative]) for item in read_out.amplifiers
        ], dim=-1).repeat(1, rows)  # fmt: skip
        shape = len(layout.row_position), partitions, count
        resistance = float(meeting.output_resistance.detach())
        return cls(
            real.table, by_amplifier("plus"), by_amplifier("minus"), back,
            layout.gather_rows(offsets.expand(shape)), count,
            1.0 / resistance if onward and partitions > 1 else 0.0, onward,
            float(meeting.series_resistance.detach()), partitions,
        )  # fmt: skip

    def to_neurons(self, outputs: Tensor, drawn: Tensor | None) -> Tensor:
        """(S, H, B, V, N) A that outputs deliver towards neurons which draw (S, 1, B, V, N) A."""
        nothing = torch.zeros_like(outputs)
        if not self.onward:
            return nothing
        drawn = nothing if drawn is None else drawn
        if self.partitions == 1:
            return nothing + drawn
        meeting = outputs.mean(-4, keepdim=True) - drawn * self.series
        return (outputs - meeting) * self.tie


def solve_tabled(
    around: TabledAmplifiers,
    mutual: Tensor,
    ends_beyond: Tensor,
    linear: Tensor,
    ends: Tensor,
    drawn: Tensor | None,
) -> Saturated:
    """The amplifiers of all blocks of a layer.

    Args:
        around: What is around them.
        mutual: (S, H, V, N, N), E.
        ends_beyond: (S, H, V, 2, R, N), of the I+ and the I- ends per V of -w.
        linear: (S, H, B, V, N) V, O.
        ends: (S, 2, H, B, V, R) V of the ends where w is 0.
        drawn: (S, 1, B, V, N) A that neurons draw; None: nothing.

    Returns:
        Outputs and w, differentiable in all arguments.
    """
    moved = ends_beyond.repeat_interleave(around.count, dim=-2)  # (S, H, V, 2, N, N)
    plain = ends.repeat_interleave(around.count, dim=-1)
    size = linear.shape[-1] * around.partitions
    images = max(1, CHUNK_BYTES // (8 * 3 * size * size * linear.shape[0] * linear.shape[-2]))
    parts = zip(
        linear.split(images, dim=-3), plain.split(images, dim=-3),
        [None] * len(linear.split(images, dim=-3)) if drawn is None
        else drawn.split(images, dim=-3), strict=True,
    )  # fmt: skip
    found = [_solve(around, mutual, moved, *part) for part in parts]
    outputs, beyond, good = (torch.cat(items, dim=2) for items in zip(*found, strict=True))
    return Saturated(outputs, beyond, good)


def _solve(
    around: TabledAmplifiers, mutual: Tensor, moved: Tensor, linear: Tensor, plain: Tensor,
    drawn: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    with torch.no_grad():
        fixed = [None if item is None else item.detach() for item in (
            mutual, moved, linear, plain, drawn
        )]  # fmt: skip
        beyond, good, inverse = _iterate(around, *fixed)  # type: ignore[arg-type]
    if torch.is_grad_enabled() and any(
        item is not None and item.requires_grad for item in (mutual, moved, linear, plain, drawn)
    ):
        # One more step, whose derivative is that of the solution: dw = -J⁻¹·dF.
        left = _residual(around, _at(mutual, moved, linear, plain, beyond), drawn)
        beyond = beyond - _apply(inverse(), left - left.detach())
    outputs = _at(mutual, moved, linear, plain, beyond).outputs
    return outputs, beyond, good


def _at(mutual: Tensor, moved: Tensor, linear: Tensor, plain: Tensor, beyond: Tensor) -> Point:
    ends = [
        plain[:, k] + times(moved[..., k, :, :], beyond) for k in (0, 1)
    ]
    return Point(linear - times(mutual, beyond) - beyond, ends[0], ends[1])


def _terms(around: TabledAmplifiers, point: Point) -> tuple[Tensor, Tensor]:
    """V at the inputs, offsets included."""
    plus, minus = (
        by[0] * point.positive + by[1] * point.negative + by[2] * point.outputs
        for by in (around.plus, around.minus)
    )
    return plus + around.offsets[:, None], minus


def _residual(around: TabledAmplifiers, point: Point, drawn: Tensor | None) -> Tensor:
    """(S, H, B, V, N) A, what flows into outputs and not out of them."""
    plus, minus = _terms(around, point)
    found = around.table.values(plus, minus, point.outputs)
    current = found.output
    if torch.is_grad_enabled():
        # Value and slopes at the point: exact first derivatives without a graph of gathers.
        for by, item in (
            (found.by_plus, plus), (found.by_minus, minus), (found.by_output, point.outputs)
        ):
            current = current + by * (item - item.detach())
    back = around.back[0] * (point.outputs - point.positive) + around.back[1] * (
        point.outputs - point.negative
    )
    return current - back - around.to_neurons(point.outputs, drawn)


def _iterate(
    around: TabledAmplifiers, mutual: Tensor, moved: Tensor, linear: Tensor, plain: Tensor,
    drawn: Tensor | None,
) -> tuple[Tensor, Tensor, Any]:  # fmt: skip
    """w, (S, H, B, V) whether it is known, and a function that gives J⁻¹ there."""
    low, high = around.table.swing
    beyond = linear - linear.clamp(low, high)
    identity = torch.eye(linear.shape[-1], dtype=linear.dtype, device=linear.device)
    shift = -(identity + mutual)  # of outputs per w: (S, H, V, N, N)

    def inverse_at(point: Point) -> Tensor:
        plus, minus = _terms(around, point)
        found = around.table.values(plus, minus, point.outputs)
        by = [
            found.by_plus * around.plus[k] + found.by_minus * around.minus[k] for k in range(3)
        ]
        of_output = by[2] + found.by_output - around.back[0] - around.back[1] - around.tie
        blocks = (
            (by[0] + around.back[0])[..., None] * moved[:, :, None, :, 0]
            + (by[1] + around.back[1])[..., None] * moved[:, :, None, :, 1]
            + of_output[..., None] * shift[:, :, None]
        )  # (S, H, B, V, N, N)
        return _together(blocks, shift, around.tie)

    point = _at(mutual, moved, linear, plain, beyond)
    left = _residual(around, point, drawn)
    scale = torch.ones_like(left[:, :1, :, :, :1])
    for _ in range(ITERATIONS):
        step = -_apply(inverse_at(point), left)
        change = times(shift, step)
        largest = change.abs().amax((1, 4), keepdim=True)
        factor = scale * (LARGEST_STEP / largest.clamp(min=LARGEST_STEP))
        tried = beyond + factor * step
        there = _at(mutual, moved, linear, plain, tried)
        again = _residual(around, there, drawn)
        # Where it has become worse by much, half of the step; else the whole one again.
        worse = again.square().sum((1, 4), keepdim=True) > 4.0 * left.square().sum(
            (1, 4), keepdim=True
        )
        worse = worse & (scale > 1e-3)
        scale = torch.where(worse, scale / 2.0, (2.0 * scale).clamp(max=1.0))
        beyond = torch.where(worse, beyond, tried)
        point = _at(mutual, moved, linear, plain, beyond)
        left = torch.where(worse, left, again)
        settled = (largest <= TOLERANCE) & ~worse
        if bool(settled.all()):
            break
    plus, minus = _terms(around, point)
    good = settled.squeeze(-1) & around.table.inside(plus, minus, point.outputs).all(-1)
    return beyond, good.expand(linear.shape[:-1]), lambda: inverse_at(point)


def _together(blocks: Tensor, shift: Tensor, tie: float) -> Tensor:
    """J⁻¹: (S, H, B, V, N, N) of blocks alone; (S, 1, B, V, H·N, H·N) of those that are tied."""
    if tie == 0.0:
        identity = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
        flat = blocks.flatten(0, -3)
        return solve(flat, identity.expand_as(flat)).reshape(blocks.shape)
    samples, parts, images, vertical, count, _ = blocks.shape
    whole = blocks.new_zeros(samples, images, vertical, parts, count, parts, count)
    mean = (tie / parts) * shift.permute(0, 2, 3, 1, 4)  # (S, V, N, H, N)
    whole = whole + mean[:, None, :, None]
    index = torch.arange(parts, device=blocks.device)
    whole[:, :, :, index, :, index, :] += blocks.permute(1, 0, 2, 3, 4, 5)
    flat = whole.reshape(-1, parts * count, parts * count)
    identity = torch.eye(parts * count, dtype=blocks.dtype, device=blocks.device)
    return solve(flat, identity.expand_as(flat)).reshape(
        samples, 1, images, vertical, parts * count, parts * count
    )


def _apply(inverse: Tensor, right: Tensor) -> Tensor:
    """J⁻¹ times (S, H, B, V, N)."""
    parts, count = right.shape[1], right.shape[-1]
    if inverse.shape[-1] == count:
        return (inverse @ right[..., None])[..., 0]
    joined = right.permute(0, 2, 3, 1, 4).flatten(-2)[:, None, ..., None]
    found: Tensor = (inverse @ joined)[:, 0, ..., 0].unflatten(-1, (parts, count))
    return found.permute(0, 3, 1, 2, 4)
