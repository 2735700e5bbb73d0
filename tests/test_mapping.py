"""Mapping: levels, scales, and conductances matched to the floating read-out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imac_torch.circuit.crossbar import build_crossbar, partition_ends
from imac_torch.config import Amplifier, Config, Crossbar, Interconnect, Memristor, WeightMapping
from imac_torch.elimination.ports import eliminate_layer
from imac_torch.errors import ConfigError, MappingError
from imac_torch.mapping.divider import RowDivider
from imac_torch.mapping.matching import match
from imac_torch.mapping.quantization import ConductancePair, quantize, to_conductances, to_values
from imac_torch.mapping.states import InputStatistics
from imac_torch.periphery.readout import build_read_out

DEVICE = Memristor(rlow=10e3, rhigh=1e6)


def random(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("levels", "allowed"),
    [
        ("binary", [-1, 1]),
        ("ternary", [-1, 0, 1]),
        (5, [-1, -0.5, 0, 0.5, 1]),
        (4, [-1, -1 / 3, 1 / 3, 1]),
        ((-1.0, -0.1, 0.0, 0.4), [-1, -0.1, 0, 0.4]),
    ],
)
def test_weights_take_the_nearest_level(
    generator: torch.Generator, levels: object, allowed: list[float]
) -> None:
    weights = random(generator, 6, 9)
    found = quantize(weights, WeightMapping(levels=levels), where="layer")
    grid = torch.tensor(allowed, dtype=torch.float64)
    distance = (found.values[..., None] - grid).abs()
    assert float(distance.amin(-1).max()) < 1e-15
    nearest = (weights / found.scale)[..., None] - grid
    # no other level is nearer: equality up to rounding of the difference
    assert bool((distance.argmin(-1) == nearest.abs().argmin(-1)).all())


@given(scale=st.floats(1e-3, 1e3), count=st.integers(3, 17))
@settings(max_examples=30, deadline=None)
def test_levels_come_back_untouched(scale: float, count: int) -> None:
    weights = scale * torch.linspace(-1, 1, count, dtype=torch.float64).reshape(1, -1)
    found = quantize(weights, WeightMapping(levels=count), where="layer")
    # the largest weight is the scale: one rounding each
    torch.testing.assert_close(found.scale * found.values, weights, rtol=4e-16, atol=0)


def test_full_scale_is_better_than_its_neighbours(generator: torch.Generator) -> None:
    weights = random(generator, 20, 30)
    mapping = WeightMapping(levels=7)
    found = quantize(weights, mapping, where="layer")
    grid = torch.linspace(-1, 1, 7, dtype=torch.float64)

    def error(scale: torch.Tensor) -> float:
        values = grid[((weights / scale).clamp(-1, 1)[..., None] - grid).abs().argmin(-1)]
        return float((scale * values - weights).square().sum())

    for factor in (0.7, 0.9, 1.1, 1.3, 2.0):
        assert error(found.scale) <= error(found.scale * factor) * (1 + 1e-12)


def test_one_scale_per_row_follows_the_rows(generator: torch.Generator) -> None:
    weights = random(generator, 3, 40) * torch.tensor([[1e-3], [1.0], [50.0]])
    by_row = quantize(
        weights, WeightMapping(levels=5, scheme="matched", scale="row"), where="layer"
    )
    by_layer = quantize(weights, WeightMapping(levels=5, scheme="matched"), where="layer")
    assert by_row.scale.shape == (3, 1)
    relative = (by_row.scale * by_row.values - weights).norm(dim=1) / weights.norm(dim=1)
    whole = (by_layer.scale * by_layer.values - weights).norm(dim=1) / weights.norm(dim=1)
    # five levels on a normal distribution: 26 % is the theory of a uniform quantiser's optimum
    # (J. Max, IRE Trans. Inf. Theory 6, 1960: 0.08 to 0.19 of the variance for 4 to 5 levels)
    assert float(relative.max()) < 0.45
    assert float(whole[0]) > 0.99  # the small row is lost without its own scale


def test_gradients_pass_straight_through(generator: torch.Generator) -> None:
    weights = random(generator, 4, 5).requires_grad_()
    found = quantize(weights, WeightMapping(levels=5), where="layer")
    (gradient,) = torch.autograd.grad(found.values.sum(), weights)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1.0) / found.scale.detach())


@pytest.mark.parametrize("scheme", ["unilateral", "balanced"])
def test_conductances_stand_for_values(generator: torch.Generator, scheme: str) -> None:
    values = torch.rand(5, 7, generator=generator, dtype=torch.float64) * 2 - 1
    pair = to_conductances(values, DEVICE, WeightMapping(scheme=scheme), where="layer")
    torch.testing.assert_close(to_values(pair, DEVICE), values, rtol=0, atol=1e-14)
    for side in (pair.positive, pair.negative):
        assert float(side.min()) >= 1 / DEVICE.rhigh * (1 - 1e-12)
        assert float(side.max()) <= 1 / DEVICE.rlow * (1 + 1e-12)


def test_refusals(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="ascending"):
        WeightMapping(levels=(0.5, 0.1))
    with pytest.raises(ConfigError, match="matched"):
        WeightMapping(scale="row")
    with pytest.raises(MappingError, match=r"weight \[1, 2\] is nan"):
        weights = torch.zeros(3, 4)
        weights[1, 2] = torch.nan
        quantize(weights, WeightMapping(), where="layer")
    with pytest.raises(MappingError, match="full scale"):
        to_conductances(torch.tensor([[1.5]]), DEVICE, WeightMapping(), where="layer")
    with pytest.raises(MappingError, match="matching"):
        to_conductances(
            torch.zeros(1, 1), DEVICE, WeightMapping(scheme="matched"), where="layer"
        )


def divider(
    columns: int, parts: int, gain: float, averaged: bool = True, resistance: float = 1e3
) -> RowDivider:
    combine = "average" if averaged else "sum"
    config = Config(amplifier=Amplifier(combine=combine, input_resistance=resistance))
    built = build_read_out(config.for_layer(0, "layer", 1), gain, parts)
    return built.divider(partition_ends(columns, parts))


@pytest.mark.parametrize("combine", ["average", "sum"])
def test_closed_form_is_the_elimination_of_ideal_wires(
    generator: torch.Generator, combine: str
) -> None:
    pair = ConductancePair(
        torch.rand(2, 5, 11, generator=generator, dtype=torch.float64) * 1e-4,
        torch.rand(2, 5, 11, generator=generator, dtype=torch.float64) * 1e-4,
    )
    config = Config(
        crossbar=Crossbar(rows=3, columns=4),
        amplifier=Amplifier(combine=combine),
        interconnect=Interconnect(resistance=False),
    ).for_layer(0, "layer", 1)
    ports, _ = eliminate_layer(build_crossbar(pair, config, 7.0))
    closed = divider(11, 3, 7.0, combine == "average").transfer(pair)
    # the same formula in another order of operations: a few dozen roundings
    torch.testing.assert_close(closed, ports.transfer, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("averaged", [True, False])
def test_matched_conductances_have_the_wanted_transfer(
    generator: torch.Generator, parts: int, averaged: bool
) -> None:
    target = random(generator, 8, 21) * 0.02
    out = divider(21, parts, 20.0, averaged)
    found = match(target, DEVICE, out, InputStatistics.independent(20), where="layer")
    assert bool(found.exact.all())
    # u is a small difference of conductances, amplified by the gain: 20·1e-16·(sums/cells)
    torch.testing.assert_close(out.transfer(found.pair), target, rtol=0, atol=1e-13)
    for side in (found.pair.positive, found.pair.negative):
        assert float(side.min()) >= 1 / DEVICE.rhigh * (1 - 1e-12)
        assert float(side.max()) <= 1 / DEVICE.rlow * (1 + 1e-12)


def test_rows_that_amplify_their_own_sums_are_solved_too(generator: torch.Generator) -> None:
    """A ratio of 40 between devices' ends: S- depends on itself with a slope close to 1."""
    device = Memristor(rlow=2.5e3, rhigh=100e3)
    out = divider(120, 4, 20.0, resistance=1e4)
    target = random(generator, 30, 120) * 0.01
    found = match(target, device, out, InputStatistics.independent(119), where="layer")
    assert 1 < int(found.exact.sum()) < 25
    error = (out.transfer(found.pair) - target).abs().amax(-1)
    assert float(error[found.exact].max()) < 1e-10
    assert found.range_error < 0.1  # 0.2 where the repetition is ended before it converges


def test_the_nearest_drives_are_nearest() -> None:
    """Newton's method on the conditions for the least cost against a search on ρ and the price."""
    from imac_torch.kernels.projection import _by_bracket, _project

    rng = np.random.default_rng(5)
    low, high, load = 1e-6, 1e-4, 2e-5
    for size in (1e-6, 1e-5, 1e-4, 1e-3):
        for _ in range(5):
            row = size * rng.normal(size=16), rng.uniform(0.5, 50.0, 16), 16, low, high, load
            price, ratio = _project(*row, 0.0, 1.0)
            slow_price, slow_ratio = _by_bracket(*row)
            # regula falsi ends at 1e-10 of the derivative it began with
            assert ratio == pytest.approx(slow_ratio, rel=1e-6)
            moved = [
                np.clip(row[0] + p * row[1], r * low - high, r * high - low)
                for p, r in ((price, ratio), (slow_price, slow_ratio))
            ]
            assert moved[0].sum() == pytest.approx((1.0 - ratio) * load, abs=1e-12 * high)
            costs = [float(((u - row[0]) ** 2 / row[1]).sum()) for u in moved]
            assert costs[0] <= costs[1] * (1.0 + 1e-9) + 1e-24


def test_rows_with_a_common_mode_are_exact_too() -> None:
    """All weights of one sign: the unilateral mapping is far off there, S+ and S- differ most."""
    target = torch.full((1, 12), 0.03, dtype=torch.float64)
    target[0, ::3] = 0.005
    out = divider(12, 1, 20.0)
    found = match(target, DEVICE, out, InputStatistics.independent(11), where="layer")
    torch.testing.assert_close(out.transfer(found.pair), target, rtol=0, atol=1e-13)
    values = target / target.max()
    plain = to_conductances(values, DEVICE, WeightMapping(levels="continuous"), where="layer")
    transfer = out.transfer(plain)
    best = (transfer * target).sum() / (transfer * transfer).sum() * transfer
    assert float((best - target).norm() / target.norm()) > 0.2


def test_matching_is_differentiable(generator: torch.Generator) -> None:
    """Without wires the transfer is the target, so its derivative is the identity."""
    out = divider(9, 2, 20.0)
    statistics = InputStatistics.independent(8)
    target = (random(generator, 3, 9) * 0.02).requires_grad_()
    found = match(target, DEVICE, out, statistics, where="layer")
    cotangent = random(generator, 3, 9)
    (gradient,) = torch.autograd.grad(
        (out.transfer(found.pair) * cotangent).sum(), target, retain_graph=True
    )
    # S- is differentiated implicitly, everything else explicitly: rounding only
    torch.testing.assert_close(gradient, cotangent, rtol=1e-9, atol=1e-11)
    (by_cell,) = torch.autograd.grad(found.pair.positive.sum(), target)
    step = 1e-6 * random(generator, 3, 9)
    with torch.no_grad():
        sums = [
            match(target + sign * step, DEVICE, out, statistics, where="x").pair.positive.sum()
            for sign in (1, -1)
        ]
    # central differences: second-order error 1e-12 relative, rounding 1e-16·S/1e-6
    assert float((sums[0] - sums[1]) / 2) == pytest.approx(float((by_cell * step).sum()), rel=1e-5)


def test_what_is_out_of_range_is_the_least_error(generator: torch.Generator) -> None:
    """A weak device and large weights: no small change of any cell may do better."""
    device = Memristor(rlow=78e3, rhigh=202e3)
    target = random(generator, 3, 10) * 0.3
    out = divider(10, 2, 30.0)
    lines = torch.rand(200, 9, generator=generator, dtype=torch.float64)
    statistics = InputStatistics.of(lines)
    found = match(target, device, out, statistics, where="layer")
    assert not bool(found.exact.any())
    assert found.error == statistics.relative_error(out.transfer(found.pair), target)
    for _ in range(100):
        moved = [
            (side * (1 + 0.03 * random(generator, 3, 10))).clamp(1 / 202e3, 1 / 78e3)
            for side in (found.pair.positive, found.pair.negative)
        ]
        other = statistics.relative_error(out.transfer(ConductancePair(*moved)), target)
        assert other > found.error * (1 - 1e-6)


def test_states_are_used_and_chosen_better_than_by_rounding(generator: torch.Generator) -> None:
    target = random(generator, 6, 25) * 0.02
    out = divider(25, 1, 10.0)
    statistics = InputStatistics.independent(24)
    device = DEVICE.replace(states=16)
    found = match(target, device, out, statistics, where="layer")
    low, high = 1 / device.rhigh, 1 / device.rlow
    step = (high - low) / 15
    for side in (found.pair.positive, found.pair.negative):
        index = (side - low) / step
        assert float((index - index.round()).abs().max()) < 1e-9
    free = match(target, DEVICE, out, statistics, where="layer").pair
    rounded = ConductancePair(
        *(low + step * ((side - low) / step).round() for side in (free.positive, free.negative))
    )
    assert found.error < 0.7 * statistics.relative_error(out.transfer(rounded), target)
    finer = match(target, DEVICE.replace(states=256), out, statistics, where="layer")
    assert finer.error < found.error / 8  # sixteen times finer steps


def test_statistics_are_those_of_the_data(generator: torch.Generator) -> None:
    mixing = random(generator, 6, 6)
    lines = random(generator, 500, 6) @ mixing + 0.3
    statistics = InputStatistics.of(lines)
    bias = torch.nn.functional.pad(lines, (0, 1), value=1.0)
    transfer = random(generator, 4, 7)
    power = (bias @ transfer.T).square().mean(0).sum()
    twice = statistics.relative_error(2 * transfer, transfer)
    assert twice == pytest.approx(1.0, rel=1e-12)
    # full rank is kept for seven lines, so the expected power is the measured one
    relative = statistics.relative_error(torch.zeros_like(transfer), transfer)
    assert relative == pytest.approx(1.0, rel=1e-12)
    other = random(generator, 4, 7)
    measured = (bias @ (other - transfer).T).square().mean(0).sum()
    expected = statistics.relative_error(other, transfer)
    assert expected == pytest.approx(float((measured / power).sqrt()), rel=1e-9)


@pytest.mark.parametrize("count", [3, 4, 17])
def test_the_full_scale_is_that_of_least_squares(generator: torch.Generator, count: int) -> None:
    mapping = WeightMapping(levels=count)
    weights = torch.randn(6, 20, generator=generator, dtype=torch.float64)
    found = quantize(weights, mapping, where="layer")
    scale = float(found.scale)
    fitted = (weights * found.values).sum() / found.values.square().sum()
    assert scale == pytest.approx(float(fitted), rel=1e-12)
    # Nothing that is rounded to levels with one of the scales tried is closer.
    allowed = torch.linspace(-1, 1, count, dtype=torch.float64)
    for share in torch.linspace(0.05, 1.0, 33, dtype=torch.float64).tolist():
        other = share * float(weights.abs().max())
        nearest = allowed[(weights[..., None] / other - allowed).abs().argmin(-1)]
        error = (other * nearest - weights).square().mean().sqrt()
        assert found.error <= float(error / weights.square().mean().sqrt()) + 1e-12


def test_few_weights_and_many_are_searched_alike(generator: torch.Generator) -> None:
    """More levels than weights are looked up weight by weight, else level by level."""
    mapping = WeightMapping(levels=101)
    weights = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    few = quantize(weights, mapping, where="layer")
    many = quantize(weights.repeat(5, 3), mapping, where="layer")
    assert float(few.scale) == pytest.approx(float(many.scale), rel=1e-12)
    assert torch.equal(many.values, few.values.repeat(5, 3))
