"""Operational amplifiers of a block that are given as tables: Newton's method on their outputs.

What is around them, and w, are those of :mod:`imac_torch.elimination.loaded`; their currents come
from a table, at the voltages of their inputs and their outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.elimination.loaded import LoadedAmplifiers, apply_inverse, together
from imac_torch.elimination.saturation import times
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
class TabledAmplifiers(LoadedAmplifiers):
    """Amplifiers that a table describes.

    Attributes:
        table: Their currents.
    """

    table: Measured

    def found(
        self, mutual: Tensor, moved: Tensor, linear: Tensor, plain: Tensor, drawn: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See :class:`LoadedAmplifiers`; at a rail outputs hardly follow their inputs."""
        outputs, beyond, good = _solve(self, mutual, moved, linear, plain, drawn)
        low, high = self.table.swing
        return outputs, beyond, good, (outputs.detach() < low) | (outputs.detach() > high)


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
        beyond = beyond - apply_inverse(inverse(), left - left.detach())
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
    return plus + around.offsets_of(len(plus)), minus


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
        return together(blocks, shift, around.tie, tied=around.tied)

    point = _at(mutual, moved, linear, plain, beyond)
    left = _residual(around, point, drawn)
    scale = torch.ones_like(left[:, :1, :, :, :1])
    for _ in range(ITERATIONS):
        step = -apply_inverse(inverse_at(point), left)
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
