"""Devices: every effect has the distribution it says, from the generator it is given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from imac_torch.base.units import BOLTZMANN_EV
from imac_torch.config import DEVICES, Memristor
from imac_torch.devices import (
    Activated,
    DeviceModel,
    Drift,
    FaultMap,
    Gaussian,
    Levels,
    LogNormal,
    ReadNoise,
    StateSpread,
    Stuck,
    Temperature,
    Uniform,
    Window,
)
from imac_torch.devices.presets import device_model
from imac_torch.errors import ConfigError
from imac_torch.mapping.quantization import ConductancePair

COUNT = 40_000
DEVICE = Memristor(rlow=10e3, rhigh=1e6)
WINDOW = Window.of(DEVICE)
# Means and standard deviations of COUNT samples are off by 1/√COUNT = 0.5 % standard deviations;
# five of them are accepted.
FIVE = 5 / math.sqrt(COUNT)


SAME: dict[str, Any] = {"rtol": 1e-6, "atol": 0.0}
"""Of siemens: what torch allows by itself is of their size."""


def cells(value: float = 5e-5) -> torch.Tensor:
    return torch.full((COUNT,), value, dtype=torch.float64)


def test_uniform_spreads_resistance(generator: torch.Generator) -> None:
    ratio = cells() / Uniform(0.2).apply(cells(), WINDOW, generator)
    assert 0.8 <= float(ratio.min()) < 0.801
    assert 1.199 < float(ratio.max()) <= 1.2
    assert float(ratio.std()) == pytest.approx(0.2 / math.sqrt(3), rel=FIVE)


def test_gaussian_and_read_noise_spread_conductance(generator: torch.Generator) -> None:
    for effect, sigma in (
        (Gaussian(0.1), 0.1 * 5e-5),
        (Gaussian(0.1, of_window=True), 0.1 * 1e-4),
        (ReadNoise(0.1), 0.1 * 5e-5),
    ):
        found = effect.apply(cells(), WINDOW, generator)
        assert float(found.mean()) == pytest.approx(5e-5, abs=FIVE * sigma)
        assert float(found.std()) == pytest.approx(sigma, rel=FIVE)
    wide = Gaussian(2.0).apply(cells(), WINDOW, generator)
    assert float(wide.min()) == 0.0  # never negative


def test_log_normal_keeps_the_median(generator: torch.Generator) -> None:
    found = torch.log(LogNormal(0.3).apply(cells(), WINDOW, generator) / 5e-5)
    assert float(found.mean()) == pytest.approx(0.0, abs=FIVE * 0.3)
    assert float(found.std()) == pytest.approx(0.3, rel=FIVE)


def test_spread_by_state(generator: torch.Generator) -> None:
    effect = StateSpread(0.05, 0.5)
    for value, sigma in ((WINDOW.high, 0.05), (WINDOW.low, 0.5), (1e-5, 0.275)):
        found = torch.log(effect.apply(cells(value), WINDOW, generator) / value)
        assert float(found.std()) == pytest.approx(sigma, rel=FIVE)


def test_faults_come_at_their_rates(generator: torch.Generator) -> None:
    found = Stuck(on=0.1, off=0.2, open=0.05).apply(cells(), WINDOW, generator)
    for value, rate in ((WINDOW.high, 0.1), (WINDOW.low, 0.2), (0.0, 0.05), (5e-5, 0.65)):
        share = float((found == value).to(torch.float64).mean())
        assert share == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / COUNT))


def test_fault_maps_are_exact() -> None:
    pair = ConductancePair(torch.full((2, 3), 5e-5), torch.full((2, 3), 4e-5))
    codes = torch.tensor([[[0, 1, 2], [3, 0, 0]], [[0, 0, 0], [0, 3, 1]]], dtype=torch.int8)
    generator = torch.Generator()
    found = FaultMap(codes).apply_pair(pair, WINDOW, generator)
    h, low = WINDOW.high, WINDOW.low
    torch.testing.assert_close(
        found.positive, torch.tensor([[5e-5, h, low], [0.0, 5e-5, 5e-5]]), **SAME
    )
    torch.testing.assert_close(found.negative, torch.tensor([[4e-5] * 3, [4e-5, 0.0, h]]), **SAME)
    with pytest.raises(ConfigError, match="fault map"):
        FaultMap(codes[:, :1]).apply_pair(pair, WINDOW, generator)
    with pytest.raises(ConfigError, match="codes"):
        FaultMap(codes + 1).apply_pair(pair, WINDOW, generator)


def test_levels_round_and_err(generator: torch.Generator) -> None:
    step = (WINDOW.high - WINDOW.low) / 7
    exact = Levels(8).apply(cells(WINDOW.low + 2.4 * step), WINDOW, generator)
    torch.testing.assert_close(exact, cells(WINDOW.low + 2 * step), **SAME)
    noisy = Levels(8, sigma=0.3).apply(cells(WINDOW.low + 2.4 * step), WINDOW, generator)
    assert float(noisy.std()) == pytest.approx(0.3 * step, rel=FIVE)


def test_drift_is_a_power_law(generator: torch.Generator) -> None:
    found = Drift(1e4, 0.05).apply(cells(), WINDOW, generator)
    torch.testing.assert_close(found, cells(5e-5 * 1e4**-0.05), **SAME)
    spread = torch.log(Drift(1e4, 0.05, spread=0.01).apply(cells(), WINDOW, generator))
    assert float(spread.std()) == pytest.approx(0.01 * math.log(1e4), rel=FIVE)


def test_temperature(generator: torch.Generator) -> None:
    hot = Temperature(348.15, 2e-3).apply(cells(), WINDOW, generator)
    torch.testing.assert_close(hot, cells(5e-5 / 1.1), **SAME)
    factor = math.exp(-0.2 / BOLTZMANN_EV * (1 / 348.15 - 1 / 298.15))
    activated = Activated(348.15, 0.2)
    torch.testing.assert_close(
        activated.apply(cells(WINDOW.low), WINDOW, generator), cells(WINDOW.low * factor), **SAME
    )
    torch.testing.assert_close(
        activated.apply(cells(WINDOW.high), WINDOW, generator), cells(WINDOW.high), **SAME
    )
    with pytest.raises(ConfigError, match="times nominal"):
        Temperature(1000.0, -2e-3).apply(cells(), WINDOW, generator)


def test_a_seed_means_the_same_everywhere() -> None:
    pair = ConductancePair(cells(), cells(3e-5))
    model = DeviceModel((LogNormal(0.1), Stuck(open=0.01), ReadNoise(0.02)))
    one, two, other = (
        model.sample(pair, DEVICE, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.positive, two.positive)
    assert torch.equal(one.negative, two.negative)
    assert not torch.equal(one.positive, other.positive)
    assert not torch.equal(one.positive / 5e-5, one.negative / 3e-5)  # sides are independent


def test_cycles_differ_and_programming_stays(generator: torch.Generator) -> None:
    pair = ConductancePair(cells(), cells())
    model = DeviceModel((ReadNoise(0.02), LogNormal(0.1)))
    assert model.varies_by_cycle
    assert not DeviceModel((LogNormal(0.1),)).varies_by_cycle
    programmed = model.program(pair, DEVICE, generator)
    reads = [model.read(programmed, DEVICE, generator).positive for _ in range(2)]
    assert not torch.equal(reads[0], reads[1])
    for read in reads:
        relative = read / programmed.positive - 1
        assert float(relative.std()) == pytest.approx(0.02, rel=FIVE)


def test_a_users_own_effect(generator: torch.Generator) -> None:
    @dataclass(frozen=True)
    class Shrink:
        factor: float
        cycle: bool = False

        def apply(
            self, conductance: torch.Tensor, window: Window, generator: torch.Generator
        ) -> torch.Tensor:
            return conductance * self.factor

    pair = ConductancePair(cells(), cells())
    found = DeviceModel((Shrink(0.9),)).sample(pair, DEVICE, generator)
    torch.testing.assert_close(found.positive, cells(4.5e-5), **SAME)


def test_phase_change_statistics(generator: torch.Generator) -> None:
    device = Memristor.preset("PCM")
    window = Window.of(device)
    programming, drift, read = device_model("PCM", time=3600.0).effects
    # Joshi et al.: at g = 1, σ = -1.1731 + 1.9650 + 0.2635 = 1.0554 µS of 25 µS
    found = programming.apply(cells(window.high), window, generator)
    assert float(found.std() / window.high) == pytest.approx(1.0554 / 25, rel=FIVE)
    # ν = max(0.0244, 0.049) = 0.049, σν = 0.008 at g = 1
    found = torch.log(drift.apply(cells(window.high), window, generator) / window.high)
    assert float(found.mean()) == pytest.approx(-0.049 * math.log(180), rel=2e-3)
    # Q = 0.0088 at g = 1, sqrt(ln(3600/5e-7)) = 4.76
    found = read.apply(cells(window.high), window, generator)
    expected = 0.0088 * math.sqrt(math.log((3600 + 250e-9) / 500e-9))
    assert float(found.std() / window.high) == pytest.approx(expected, rel=FIVE)
    assert read.cycle
    assert not drift.cycle


def test_oxide_statistics(generator: torch.Generator) -> None:
    window = Window.of(Memristor.preset("RRAM"))
    programming, relaxation = device_model("RRAM", time=math.e**3).effects
    found = programming.apply(cells(window.high), window, generator)
    assert float(found.std() / window.high) == pytest.approx(
        11.2902e-3 + 0.011218 / 90, rel=FIVE
    )
    found = relaxation.apply(cells(window.high), window, generator) / window.high
    assert float(found.std()) == pytest.approx((0.042 * 3 + 0.4118) / 90, rel=FIVE)
    assert float(found.mean()) == pytest.approx(
        1 - 0.089 * 3 / 90, abs=FIVE * (0.042 * 3 + 0.4118) / 90
    )


def test_refusals() -> None:
    assert set(DEVICES) == {"MRAM", "RRAM", "CBRAM", "PCM"}
    for name in ("MRAM", "CBRAM"):
        with pytest.raises(ConfigError, match=f"no published statistics are shipped for {name}"):
            device_model(name)
    with pytest.raises(ConfigError, match="no device preset"):
        device_model("FeFET")
    with pytest.raises(ConfigError, match="more than all"):
        Stuck(on=0.6, off=0.6)
    for wrong in (
        lambda: Uniform(1.0),
        lambda: Gaussian(-0.1),
        lambda: Levels(1),
        lambda: Drift(0.5, 0.1),
        lambda: device_model("PCM", time=1.0),
    ):
        with pytest.raises(ConfigError):
            wrong()
