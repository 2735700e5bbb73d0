"""Latency and sampling on waveforms whose answers are known."""

import math
import re

import pytest
import torch

from imac_torch.errors import SolverError
from imac_torch.results.latency import (
    Latency,
    decision_time,
    measure_latency,
    sampling_cost,
    settling_time,
)
from imac_torch.results.waveform import integral, sample

TAU = 1e-10


def exponential(points=401, end=4e-9):
    time = torch.linspace(0, end, points, dtype=torch.float64)
    return time, 0.6 - 0.4 * torch.exp(-time / TAU)


def test_exponential_settles_after_its_logarithm():
    time, wave = exponential()
    found = settling_time(time, wave, 0.0, 4e-9)
    # Points 10 ps apart, a tenth of the time constant: a monotone cubic is off by some 1e-3 of a
    # step; refined linear crossings by (h/4)²/8·f''/f' = 0.1 % of τ.
    assert float(found) == pytest.approx(TAU * math.log(10.0), rel=2e-3, abs=0.0)
    finer = settling_time(time, wave, 0.0, 4e-9, fraction=0.01)
    assert float(finer) == pytest.approx(TAU * math.log(100.0), rel=2e-3, abs=0.0)


def test_latency_does_not_depend_on_the_time_points():
    time, wave = exponential()
    keep = torch.ones_like(time, dtype=torch.bool)
    keep[3:40:2] = False
    keep[100:-1:3] = False
    one = settling_time(time, wave, 0.0, 4e-9)
    other = settling_time(time[keep], wave[keep], 0.0, 4e-9)
    assert float(other) == pytest.approx(float(one), rel=0.01, abs=0.0)


def test_leaving_the_band_again_counts():
    time, wave = exponential()
    bump = 0.2 * torch.exp(-(((time - 2e-9) / 5e-11) ** 2))
    found = settling_time(time, wave + bump, 0.0, 4e-9)
    # The bump re-enters the band of 0.04 V where 0.2·exp(-x²) = 0.04.
    expected = 2e-9 + 5e-11 * math.sqrt(math.log(5.0))
    assert float(found) == pytest.approx(expected, rel=2e-3, abs=0.0)


def test_unsettled_is_infinite():
    time, wave = exponential()
    settled = torch.tensor(0.6, dtype=torch.float64)
    assert math.isinf(float(settling_time(time, wave, 0.0, 2e-10, final=settled)))
    # Without a settled value the end of the period is taken for it, which hides the fact.
    assert math.isfinite(float(settling_time(time, wave, 0.0, 2e-10)))


def test_still_outputs_need_no_time():
    time, wave = exponential()
    assert float(settling_time(time, 0.5 + 1e-6 * wave, 0.0, 4e-9)) == 0.0


def test_decision():
    time = torch.linspace(0, 1e-9, 101, dtype=torch.float64)
    ramp = time / 1e-9
    outputs = torch.stack([torch.full_like(ramp, 0.25), ramp, torch.zeros_like(ramp)], dim=-1)
    assert float(decision_time(time, outputs, 0.0, 1e-9)) == pytest.approx(
        0.25e-9, rel=1e-3, abs=0.0
    )
    still = torch.stack([torch.full_like(ramp, 2.0), ramp], dim=-1)
    assert float(decision_time(time, still, 0.0, 1e-9)) == 0.0
    wrong = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert math.isinf(float(decision_time(time, outputs, 0.0, 1e-9, final=wrong)))


def test_one_output_decides_by_its_threshold():
    """It is the larger of two, the other one being the threshold."""
    time, wave = exponential()
    outputs = wave[:, None, None]
    two = torch.cat([torch.full_like(outputs, 0.45), outputs], dim=-1)
    found = decision_time(time, outputs, 0.0, 4e-9, threshold=0.45)
    assert float(found) == float(decision_time(time, two, 0.0, 4e-9))
    # 0.6 - 0.4·exp(-t/τ) = 0.45
    assert float(found) == pytest.approx(TAU * math.log(0.4 / 0.15), rel=5e-3, abs=0.0)
    assert bool(decision_time(time, outputs, 0.0, 4e-9).isnan())  # without one there is no class
    latency = measure_latency(time, outputs, 4e-9, threshold=0.45)
    labels = torch.tensor([[1]])
    early, late = outputs[5:6], outputs[-1:]
    cost = sampling_cost(early, late, latency, 4e-9, labels, 0.45)
    assert (cost.accuracy, cost.settled_accuracy, cost.agreement) == (0.0, 1.0, 0.0)
    unknown = measure_latency(time, outputs, 4e-9)
    assert torch.equal(unknown.ready, unknown.images)
    assert math.isnan(sampling_cost(early, late, unknown, 4e-9, labels).accuracy)


def test_ties_are_decided_to_the_resolution():
    time = torch.linspace(0, 1e-9, 101, dtype=torch.float64)
    ramp = time / 1e-9
    outputs = torch.stack([ramp, torch.ones_like(ramp)], dim=-1) * 0.5
    settled = torch.tensor([0.5001, 0.5], dtype=torch.float64)
    behind = torch.stack([ramp * 0.5 - 2e-4, outputs[:, 1]], dim=-1)
    # It stays 0.2 mV behind, but is within 1 mV from 0.4992 V / (0.5 V/ns) on.
    found = decision_time(time, behind, 0.0, 1e-9, final=settled)
    assert float(found) == pytest.approx(0.9984e-9, rel=1e-3, abs=0.0)
    assert math.isinf(
        float(decision_time(time, behind, 0.0, 1e-9, final=settled, resolution=1e-4))
    )


def test_sequences_are_measured_period_by_period():
    time, wave = exponential(801, 4e-9)
    # The second period starts at 2 ns and goes back as it came, half as fast.
    back = torch.where(time > 2e-9, 0.2 + 0.4 * torch.exp(-(time - 2e-9) / (2 * TAU)), wave)
    found = measure_latency(time, back[:, None, None], 2e-9)
    assert found.outputs.shape == (1, 2, 1)
    assert float(found.outputs[0, 0, 0]) == pytest.approx(TAU * math.log(10), rel=5e-3, abs=0.0)
    # 10 % of what has passed after ten time constants of 2τ, not of all: nearly the same.
    assert float(found.outputs[0, 1, 0]) == pytest.approx(2 * TAU * math.log(10), rel=5e-3, abs=0.0)


def test_sampling_cost():
    outputs = torch.tensor([[[1e-10, 4e-10]], [[2e-10, 1e-10]]], dtype=torch.float64)
    latency = Latency(outputs, torch.tensor([[3e-10], [0.0]], dtype=torch.float64), 0.1)
    assert latency.safe_period() == pytest.approx(4e-10, rel=1e-6, abs=0)
    assert latency.safe_period(decision=True) == pytest.approx(3e-10, rel=1e-6, abs=0)
    assert latency.quantiles((0.0, 1.0)) == {0.0: 2e-10, 1.0: 4e-10}
    settled = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]], dtype=torch.float64)
    sampled = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]], dtype=torch.float64)
    labels = torch.tensor([[1], [0]])
    cost = sampling_cost(sampled, settled, latency, 3e-10, labels)
    assert re.search(r"0\.3 ns: 1 of 2 images \(50\.00%\).*0\.4 ns", cost.warning)
    assert (cost.settled, cost.agreement, cost.accuracy, cost.settled_accuracy) == (
        0.5, 0.5, 0.5, 1.0,
    )
    fine = sampling_cost(settled, settled, latency, 4e-10)
    assert (fine.settled, fine.unsettled, fine.warning) == (1.0, 0, "")


def test_impossible_bands():
    time, wave = exponential()
    with pytest.raises(SolverError, match="fraction"):
        settling_time(time, wave, 0.0, 4e-9, fraction=1.5)


def test_sampling_between_points():
    time = torch.tensor([0.0, 0.1, 0.15, 0.3, 0.42, 0.5, 0.7, 0.8, 1.0], dtype=torch.float64)
    at = torch.linspace(0, 1, 57, dtype=torch.float64)
    found = sample(time, torch.stack([2 * time - 1, time.exp()], dim=-1), at)
    assert torch.allclose(found[:, 0], 2 * at - 1, atol=1e-14)  # linear: exact
    # Slopes are second order inside, so that values are third: h³/12·f''' = 1.8e-3 for h = 0.2;
    # at the ends they are secants, first order, and values are off by h²/8·f'' = 1.4e-2.
    assert torch.allclose(found[:, 1], at.exp(), atol=1.4e-2)
    inner = (at >= 0.1) & (at <= 0.8)
    assert torch.allclose(found[inner, 1], at[inner].exp(), atol=1.8e-3)
    assert torch.allclose(sample(time, time**2, time), time**2, atol=1e-15)
    corner = (time - 0.5).clamp(min=0.0)
    between = sample(time, corner, at)
    assert float(between.min()) >= 0.0 and float(between.max()) <= 0.5  # no overshoot
    with pytest.raises(SolverError, match="outside"):
        sample(time, time, torch.tensor([1.5], dtype=torch.float64))


def test_integral():
    time = torch.tensor([0.0, 0.4, 1.0, 2.0], dtype=torch.float64)
    assert float(integral(time, 3 * time, 0.2, 1.7)) == pytest.approx(1.5 * (1.7**2 - 0.2**2))
    with pytest.raises(SolverError, match="ascending"):
        integral(time.flip(0), time, 0.0, 1.0)


def test_latencies_that_were_not_measured_count_nowhere():
    nan = math.nan
    outputs = torch.tensor([[[1e-10, 4e-10]], [[nan, nan]], [[2e-10, 1e-10]]], dtype=torch.float64)
    decision = torch.tensor([[3e-10], [nan], [0.0]], dtype=torch.float64)
    latency = Latency(outputs, decision, 0.1)
    assert latency.quantiles((0.0, 1.0)) == {0.0: 2e-10, 1.0: 4e-10}
    assert latency.quantiles((1.0,), decision=True) == {1.0: 3e-10}
    assert latency.safe_period() == 4e-10
    assert latency.worst() == 0
    assert latency.select(torch.tensor([2])).safe_period() == 2e-10
    nothing = latency.select(torch.tensor([1]))
    assert math.isnan(nothing.safe_period())


def test_unknown_waveforms_have_no_latency() -> None:
    time = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    outputs = torch.zeros(11, 2, 2, dtype=torch.float64)
    outputs[:, 1] = torch.nan
    measured = measure_latency(time, outputs, 1.0)
    assert measured.images[0].tolist() == [0.0]
    assert measured.images[1].isnan().all() and measured.decision[1].isnan().all()


def test_a_tie_that_another_output_decides_is_not_yet_a_decision() -> None:
    time = torch.linspace(0, 4e-9, 401, dtype=torch.float64)
    rising = (time - 1e-9).clamp(min=0.0) * 1e8
    found = decision_time(time, torch.stack([torch.zeros_like(time), rising], -1), 0.0, 4e-9)
    # Until 1 ns both are 0 V and the first counts as the answer; points are 10 ps apart.
    assert float(found) == pytest.approx(1e-9, abs=1e-11)


def test_outputs_are_ready_when_settled_and_decided() -> None:
    outputs = torch.tensor([[[1e-10, 3e-10]], [[2e-10, 1e-10]]], dtype=torch.float64)
    decision = torch.tensor([[4e-10], [1e-10]], dtype=torch.float64)
    found = Latency(outputs=outputs, decision=decision, fraction=0.1)
    torch.testing.assert_close(found.ready, torch.tensor([[4e-10], [2e-10]], dtype=torch.float64))
    assert found.safe_period() == 4e-10
