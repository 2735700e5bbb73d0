"""Bicubic spline tables on uniform grids, with derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.errors import SolverError
from imac_torch.kernels.ahead import ready
from imac_torch.kernels.compiled import obstacle
from imac_torch.numeric.modes import lasting, once

EVALUATING: Final = 5e-7
"""s per point in torch, roughly."""


@lru_cache(maxsize=8)
@lasting()
def coefficients_of_values(count: int) -> Tensor:
    """(count+2, count) operator from node values to cubic B-spline coefficients.

    Interpolation at the nodes, (c_{i-1} + 4c_i + c_{i+1})/6 = f_i, and not-a-knot ends (the third
    derivative is continuous at the second node, a fourth difference of zero); de Boor, "A
    Practical Guide to Splines", ch. IV. Remembered: tables have few numbers of nodes, and the dense
    equations of 513 take as long as evaluating the table's function.
    """
    matrix = torch.zeros(count + 2, count + 2, dtype=torch.float64, device="cpu")
    right = torch.zeros(count + 2, count, dtype=torch.float64, device="cpu")
    index = torch.arange(count, device="cpu")
    for offset, weight in ((0, 1.0), (1, 4.0), (2, 1.0)):
        matrix[index + 1, index + offset] = weight / 6
    right[index + 1, index] = 1.0
    knot = torch.tensor([1.0, -4.0, 6.0, -4.0, 1.0], dtype=torch.float64, device="cpu")
    matrix[0, :5] = knot
    matrix[-1, -5:] = knot
    return torch.linalg.solve(matrix, right)


class SplineValues(NamedTuple):
    """Values (..., T) of T tables and their derivatives along the two axes."""

    value: Tensor
    by_first: Tensor
    by_second: Tensor


@dataclass(frozen=True)
class SplineTable:
    """T functions of two variables on one grid; outside, they continue linearly.

    Attributes:
        coefficients: (P+2, Q+2, T) float64 B-spline coefficients.
        start: Coordinates of the first node of both axes.
        step: Node distances of both axes.
    """

    coefficients: Tensor
    start: tuple[float, float]
    step: tuple[float, float]

    @classmethod
    def fit(cls, first: Tensor, second: Tensor, values: Tensor) -> SplineTable:
        """Interpolate values on a uniform grid.

        Args:
            first: (P,) ascending, uniform, P >= 5.
            second: (Q,) ascending, uniform, Q >= 5.
            values: (P, Q, T) float64.

        Raises:
            SolverError: The grid is too small or not uniform.
        """
        for axis in (first, second):
            steps = axis.diff()
            step = float(steps.mean())
            uniform = step > 0.0 and float((steps - step).abs().max()) <= 1e-9 * step
            if len(axis) < 5 or not uniform:
                raise SolverError(
                    "a spline table needs at least 5 ascending, uniform nodes per axis"
                )
        along_first = coefficients_of_values(len(first)).to(values.device)
        along_second = coefficients_of_values(len(second)).to(values.device)
        half = torch.tensordot(along_first, values, dims=([1], [0]))
        coefficients = torch.einsum("bq,aqt->abt", along_second, half)
        return cls(
            coefficients.contiguous(),
            (float(first[0]), float(second[0])),
            (float(first[1] - first[0]), float(second[1] - second[0])),
        )

    def to(self, device: torch.device) -> SplineTable:
        """The same on a device."""
        return SplineTable(self.coefficients.to(device), self.start, self.step)

    @property
    def nodes(self) -> tuple[int, int]:
        """P and Q."""
        return self.coefficients.shape[0] - 2, self.coefficients.shape[1] - 2

    @property
    def end(self) -> tuple[float, float]:
        """Coordinates of the last node of both axes."""
        count = self.nodes
        return (
            self.start[0] + (count[0] - 1) * self.step[0],
            self.start[1] + (count[1] - 1) * self.step[1],
        )

    def grid(self) -> NDArray[np.float64]:
        """Start, end and inverse step of both axes, (6,), for compiled kernels."""
        axes = [(self.start[k], self.end[k], 1.0 / self.step[k]) for k in range(2)]
        return np.array([*axes[0], *axes[1]])

    def values(self, first: Tensor, second: Tensor) -> Tensor:
        """Values (..., T) without derivatives and without a graph; compiled on the CPU."""
        compiled = first.device.type == "cpu" and obstacle() is None
        if not (compiled and ready("table.evaluate", first.numel() * EVALUATING)):
            return self(first, second).value
        from imac_torch.kernels.table import evaluate
        from imac_torch.kernels.threads import run_blocks

        result = first.new_empty(first.numel(), self.coefficients.shape[2])
        run_blocks(
            evaluate,
            first.numel(),
            torch.get_num_threads(),
            self.coefficients.numpy(),
            self.grid(),
            first.detach().reshape(-1).contiguous().numpy(),
            second.detach().reshape(-1).contiguous().numpy(),
            result.numpy(),
        )
        return result.reshape(*first.shape, result.shape[1])

    def differentiable(self, first: Tensor, second: Tensor) -> SplineValues:
        """As a call; values have exact first derivatives by the points, and no second ones."""
        found = self(first.detach(), second.detach())
        if not (torch.is_grad_enabled() and (first.requires_grad or second.requires_grad)):
            return found
        # Value and slope at the point, without a graph of gathers.
        value = once(
            found.value
            + found.by_first * (first - first.detach())[..., None]
            + found.by_second * (second - second.detach())[..., None]
        )
        return found._replace(value=value)

    def inside(self, first: Tensor, second: Tensor) -> Tensor:
        """Elementwise: whether points are on the grid's area."""
        (low_1, low_2), (high_1, high_2) = self.start, self.end
        return (first >= low_1) & (first <= high_1) & (second >= low_2) & (second <= high_2)

    def __call__(self, first: Tensor, second: Tensor) -> SplineValues:
        """Values and derivatives at points (one shape, any number of dimensions).

        Outside the grid, derivatives are those at its nearest point.
        """
        index_1, weight_1, slope_1, over_1 = self._axis(first, 0)
        index_2, weight_2, slope_2, over_2 = self._axis(second, 1)
        columns = self.coefficients.shape[1]
        flat = self.coefficients.reshape(-1, self.coefficients.shape[2])
        offset = torch.arange(4, device=first.device)
        where = (index_1[..., None, None] + offset[:, None]) * columns + (
            index_2[..., None, None] + offset
        )
        patch = flat[where]  # (..., 4, 4, T)
        value = torch.einsum("...abt,...a,...b->...t", patch, weight_1, weight_2)
        by_first = torch.einsum("...abt,...a,...b->...t", patch, slope_1, weight_2)
        by_second = torch.einsum("...abt,...a,...b->...t", patch, weight_1, slope_2)
        value = value + by_first * over_1[..., None] + by_second * over_2[..., None]
        return SplineValues(value, by_first, by_second)

    def _axis(self, position: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cell index, B-spline weights (..., 4), their slopes, distance outside the grid."""
        return cubic_weights(position, self.start[axis], self.step[axis], self.nodes[axis])


def cubic_weights(
    position: Tensor, low: float, step: float, nodes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How the coefficients of a cubic spline on a uniform axis make its value.

    Args:
        position: Coordinates, any shape.
        low: The first node's.
        step: Distance of nodes.
        nodes: How many.

    Returns:
        Index of the first of four coefficients, their weights (..., 4), the derivatives of these,
        and how far positions are outside.
    """
    within = position.detach().clamp(low, low + (nodes - 1) * step)
    over = position - within
    scaled = (within - low) / step
    # A position that is not a number gives no number, but must index something.
    index = scaled.floor().clamp(0, nodes - 2).nan_to_num(0.0)
    t = scaled - index
    s = 1.0 - t
    weight = torch.stack([s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3], dim=-1)
    slope = torch.stack([-(s**2), 3 * t**2 - 4 * t, 4 * s - 3 * s**2, t**2], dim=-1)
    return index.to(torch.int64), weight / 6, slope / (2 * step), over
