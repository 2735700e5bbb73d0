"""Numbers of several images as one value, in compiled code: what they make is what arrays make."""

import math
from typing import Any

import numpy as np
import pytest

from imac_torch.kernels.compiled import njit, obstacle

pytestmark = pytest.mark.skipif(obstacle() is not None, reason="there is nothing to compile")

if obstacle() is None:
    from imac_torch.kernels.lanes import (
        LANES,
        beyond,
        choose,
        exponential,
        larger,
        load,
        nearest,
        same,
        smaller,
        store,
    )

    @njit(error_model="numpy")
    def all_operators(values: Any, found: Any) -> bool:
        a, b = load(values, 0), load(values, 1)
        store(found, 0, (a + b) * 2.0 - b / (3.0 - a))
        store(found, 1, choose(a, b, -a, abs(b)))
        store(found, 2, larger(a, b) + 10.0 * smaller(a, b))
        total = same(1.0)
        total += a
        total *= b
        store(found, 3, total)
        store(found, 4, nearest(a * 8.0))
        return beyond(a, 0.9)

    @njit(fastmath={"contract"}, error_model="numpy")
    def exponentials(values: Any, found: Any) -> None:
        for k in range(values.shape[0]):
            store(found, k, exponential(load(values, k)))


def test_operators_are_those_of_arrays() -> None:
    values = np.random.default_rng(0).uniform(-1.0, 1.0, (2, LANES))
    found = np.zeros((5, LANES))
    assert all_operators(values, found) == bool((values[0] > 0.9).any())
    a, b = values
    wanted = [
        (a + b) * 2.0 - b / (3.0 - a), np.where(a > b, -a, np.abs(b)),
        np.maximum(a, b) + 10.0 * np.minimum(a, b), (1.0 + a) * b, np.rint(a * 8.0),
    ]  # fmt: skip
    np.testing.assert_allclose(found, wanted, rtol=1e-15)


def test_what_is_no_number_is_not_the_larger_one() -> None:
    values = np.stack([np.full(LANES, np.nan), np.arange(float(LANES))])
    found = np.zeros((5, LANES))
    assert not all_operators(values, found)
    np.testing.assert_array_equal(found[2], 11.0 * values[1])


def test_exponentials_are_right_to_rounding() -> None:
    """The series leaves 2e-16, the last product and sum half a unit each: two units of 2^-53."""
    values = np.random.default_rng(0).uniform(-700.0, 700.0, (2000, LANES))
    values[:1000] *= 1e-3
    found = np.empty_like(values)
    exponentials(values, found)
    wanted = np.array([[math.exp(x) for x in row] for row in values])
    assert np.abs(found / wanted - 1.0).max() <= 2.0 * 2.0**-53
    values[:] = 1e6
    exponentials(values, found)
    assert np.isfinite(found).all()
