"""Spline tables: what cubics must give, what smooth functions do, and the compiled evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numba import njit
from torch.autograd import gradcheck

from imac_torch.errors import SolverError
from imac_torch.kernels.patch import bicubic_patch
from imac_torch.kernels.table import slopes, weights
from imac_torch.periphery.neuron.spline import SplineTable


def axes(first: int, second: int) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.linspace(-0.3, 0.9, first, dtype=torch.float64),
        torch.linspace(0.1, 0.8, second, dtype=torch.float64),
    )


def fit(function, first: int = 9, second: int = 7) -> SplineTable:
    x, y = axes(first, second)
    return SplineTable.fit(x, y, function(*torch.meshgrid(x, y, indexing="ij")))


def cubic(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.stack([1 + x - 2 * x**3 * y**2 + y**3, x**2 * y**3 - y], dim=-1)


def points(count: int = 200, margin: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    low, high = -0.3 - margin, 0.9 + margin
    x = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
    low, high = 0.1 - margin, 0.8 + margin
    y = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
    return x, y


def test_bicubic_polynomials_are_exact_with_their_derivatives():
    x, y = points()
    found = fit(cubic)(x, y)
    torch.testing.assert_close(found.value, cubic(x, y), rtol=0, atol=1e-13)
    slope = torch.stack([1 - 6 * x**2 * y**2, 2 * x * y**3], dim=-1)
    torch.testing.assert_close(found.by_first, slope, rtol=0, atol=1e-12)
    slope = torch.stack([-4 * x**3 * y + 3 * y**2, 3 * x**2 * y**2 - 1], dim=-1)
    torch.testing.assert_close(found.by_second, slope, rtol=0, atol=1e-12)


def test_nodes_corners_and_ends_are_interpolated():
    table = fit(lambda x, y: torch.sin(5 * x)[..., None] * torch.exp(3 * y)[..., None])
    x, y = torch.meshgrid(*axes(9, 7), indexing="ij")
    expected = torch.sin(5 * x) * torch.exp(3 * y)
    torch.testing.assert_close(table(x, y).value[..., 0], expected, rtol=0, atol=1e-13)
    assert table.nodes == (9, 7)
    assert table.end == pytest.approx((0.9, 0.8))
    assert bool(table.inside(x, y).sum() >= x.numel() - 16)  # ends are within rounding of it


def test_fourth_order():
    """Halving the steps divides the error by 16, ends included (not-a-knot)."""
    x, y = points(2000)
    expected = torch.sin(4 * x + 3 * y)
    errors = []
    for count in (17, 33, 65):
        table = fit(lambda a, b: torch.sin(4 * a + 3 * b)[..., None], count, count)
        errors.append(float((table(x, y).value[..., 0] - expected).abs().max()))
    assert math.log2(errors[0] / errors[1]) > 3.7
    assert math.log2(errors[1] / errors[2]) > 3.7


def test_outside_is_linear_and_continuous():
    table = fit(cubic)
    y = torch.full((3,), 0.4, dtype=torch.float64)
    x = torch.tensor([0.9, 1.0, 1.3], dtype=torch.float64)
    value, slope, _ = table(x, y)
    torch.testing.assert_close(slope[1], slope[0])
    torch.testing.assert_close(value[1], value[0] + 0.1 * slope[0])
    torch.testing.assert_close(value[2], value[0] + 0.4 * slope[0])
    assert table.inside(x, y).tolist() in ([True, False, False], [False, False, False])


def test_compiled_values_equal_torch_inside_and_outside():
    table = fit(lambda x, y: torch.stack([torch.sin(5 * x * y), torch.cosh(x), y], dim=-1))
    x, y = points(500, margin=0.5)
    torch.testing.assert_close(table.values(x, y), table(x, y).value, rtol=1e-13, atol=1e-14)
    shaped = table.values(x.reshape(5, 10, 10), y.reshape(5, 10, 10))
    assert shaped.shape == (5, 10, 10, 3)
    assert table.values(x[:0], y[:0]).shape == (0, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_give_none_and_index_nothing(bad):
    """On the odd number of coefficients that exposes a conversion of NaN to an index."""
    table = fit(lambda x, y: (x * y)[..., None], 9, 9)
    x = torch.tensor([bad, 0.5, bad], dtype=torch.float64)
    y = torch.tensor([0.5, bad, bad], dtype=torch.float64)
    for value in (table(x, y).value, table.values(x, y)):
        assert not value.isfinite().any()


def test_derivatives_are_those_of_the_value():
    table = fit(lambda x, y: torch.sin(5 * x * y)[..., None])
    x, y = points(20)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            value, by_first, by_second = table(x, y)
            ctx.save_for_backward(by_first, by_second)
            return value[..., 0]

        @staticmethod
        def backward(ctx, gradient):
            by_first, by_second = ctx.saved_tensors
            return gradient * by_first[..., 0], gradient * by_second[..., 0]

    assert gradcheck(Function.apply, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize(
    "axis",
    [
        torch.linspace(0, 1, 4, dtype=torch.float64),
        torch.linspace(0, 1, 9, dtype=torch.float64) ** 2,
        torch.linspace(1, 0, 9, dtype=torch.float64),
        torch.zeros(9, dtype=torch.float64),
    ],
    ids=["few", "uneven", "descending", "equal"],
)
def test_grids_are_checked(axis):
    good = torch.linspace(0, 1, 9, dtype=torch.float64)
    with pytest.raises(SolverError, match="uniform"):
        SplineTable.fit(axis, good, torch.zeros(len(axis), 9, 1, dtype=torch.float64))
    with pytest.raises(SolverError, match="uniform"):
        SplineTable.fit(good, axis, torch.zeros(9, len(axis), 1, dtype=torch.float64))


def test_vector_patch_is_the_spline() -> None:
    """The kernels' patch of two interleaved tables gives the spline's values and derivatives."""

    @njit  # type: ignore[untyped-decorator]
    def run(table, corner, step, scratch):  # type: ignore[no-untyped-def]
        one = np.uint64(1)
        bicubic_patch(
            table, corner, step, scratch, np.uint64(0), np.uint64(1), np.uint64(9), one
        )

    generator = torch.Generator().manual_seed(3)
    values = torch.rand(9, 7, 2, generator=generator, dtype=torch.float64)
    spline = SplineTable.fit(*axes(9, 7), values)
    flat = spline.coefficients.contiguous().numpy().reshape(-1)
    step = 2 * spline.coefficients.shape[1]
    for _ in range(50):
        place = torch.rand(2, generator=generator, dtype=torch.float64)
        cell = [int(torch.randint(0, n - 1, (1,), generator=generator)) for n in (9, 7)]
        point = [
            spline.start[k] + (cell[k] + place[k : k + 1]) * spline.step[k] for k in range(2)
        ]
        scratch = np.zeros(15)
        scratch[0] = place[1]
        scratch[1:5] = weights(float(place[0]))
        scratch[5:9] = slopes(float(place[0]), 1.0 / spline.step[0])
        run(flat, np.uint64(cell[0] * step + 2 * cell[1]), np.uint64(step), scratch)
        expected = spline(*point)
        # Sums of 16 coefficients of the order of one: rounding, also of the position, which
        # derivatives (up to about 100) and second derivatives enlarge.
        for table in range(2):
            value, by_first, by_second = scratch[9 + 3 * table : 12 + 3 * table]
            assert value == pytest.approx(float(expected.value[0, table]), abs=1e-13)
            assert by_first == pytest.approx(float(expected.by_first[0, table]), abs=1e-12)
            along = by_second / spline.step[1]
            assert along == pytest.approx(float(expected.by_second[0, table]), abs=1e-12)
