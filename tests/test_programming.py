"""Cells written by pulses, and what time, reads and writes do to them afterwards."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_networks import drawn, reals
from typer.testing import CliRunner

import imac_torch as imac
from imac_torch.cli import app, commands
from imac_torch.devices import (
    Compensation,
    DeviceModel,
    Drift,
    Endurance,
    ReadDisturb,
    Retention,
    WriteVerify,
)
from imac_torch.devices.model import Window
from imac_torch.devices.programming import Programming
from imac_torch.errors import ConfigError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.reports.html_report import render_report
from imac_torch.sweep.evaluator import NetworkEvaluator

WINDOW = Window(1e-5, 1.1e-4)


def cells(count: int) -> torch.Tensor:
    return torch.linspace(WINDOW.low, WINDOW.high, count, dtype=torch.float64)


def test_pulses_all_alike_are_counted_by_hand(generator: torch.Generator) -> None:
    # 0.1 of the window a pulse: 0.3 is reached by three, 0.26 after three to 0.04
    wanted = WINDOW.low + 1e-4 * torch.tensor([0.0, 0.3, 0.26, 1.0], dtype=torch.float64)
    wanted = torch.cat([wanted, torch.zeros(1, dtype=torch.float64)])
    effect = WriteVerify(tolerance=0.05, pulses=10)
    found = effect.write(wanted, WINDOW, generator)
    assert found.up.tolist() == [0, 3, 3, 10, 0] and not bool(found.down.any())
    torch.testing.assert_close(
        found.conductance,
        WINDOW.low + 1e-4 * torch.tensor([0, 0.3, 0.3, 1.0, -0.1], dtype=torch.float64),
        rtol=1e-6, atol=1e-18,
    )  # fmt: skip
    # conductances while three pulses last: 0, 0.1 and 0.2 of the window
    assert float(found.charge_up[1]) == pytest.approx(3 * 1e-5 + 0.3e-4, rel=1e-6, abs=0)


def test_curved_pulses_lead_from_end_to_end(generator: torch.Generator) -> None:
    effect = WriteVerify(tolerance=0.25, pulses=20, curvature=3.0)
    at = torch.zeros(1, dtype=torch.float64)
    for number in range(1, 21):
        at = at + effect._change(at)
        wanted = math.expm1(-3.0 * number / 20) / math.expm1(-3.0)
        assert float(at) == pytest.approx(wanted, rel=1e-12)


def test_with_errors_cells_end_within_the_tolerance_or_are_said_to_miss(
    generator: torch.Generator,
) -> None:
    effect = WriteVerify(tolerance=0.01, pulses=30, curvature=2.0, spread=0.02, limit=400)
    wanted = cells(4000)
    found = effect.write(wanted, WINDOW, generator)
    off = (found.conductance - wanted).abs() > 0.01 * 1e-4
    assert torch.equal(off, found.missed) and not bool(off.any())
    assert bool(found.down.any())
    few = WriteVerify(tolerance=0.01, pulses=30, curvature=2.0, spread=0.02, limit=5)
    again = few.write(wanted, WINDOW, generator)
    off = (again.conductance - wanted).abs() > 0.01 * 1e-4
    assert torch.equal(off, again.missed) and bool(off.any())
    assert int((again.up + again.down).max()) == 5


def test_what_is_drawn_afterwards_does_not_depend_on_the_pulses_taken() -> None:
    # Draws are made with any conductances (`Devices.draw_devices`), layers one after the other.
    effect = WriteVerify(tolerance=0.01, pulses=30, spread=0.02, noise=0.01)
    states = []
    for wanted in (cells(50), cells(50).flip(0), torch.full((50,), WINDOW.low).double()):
        generator = torch.Generator().manual_seed(5)
        found = effect.write(wanted, WINDOW, generator)
        states.append(generator.get_state())
    assert int(found.up.max()) < 10 and all(torch.equal(states[0], state) for state in states)


def converted(effects: dict[str, dict[str, object]], **device: float) -> imac.IMACNetwork:
    generator = torch.Generator().manual_seed(3)
    config = imac.Config(
        device=imac.Memristor(rlow=1e4, rhigh=1e5, effects=effects, **device),
        mapping=imac.WeightMapping(levels="continuous"),
    )
    return imac.convert(drawn(generator, 6, 4, 3), config, generator=generator)


WRITTEN = {
    "write_verify": {
        "tolerance": 0.02, "pulses": 40, "spread": 0.01, "set_voltage": 1.2,
        "reset_voltage": 1.5, "pulse": 1e-7, "look": 5e-8,
    }
}  # fmt: skip


def test_a_network_says_what_programming_took_and_is_that_network(tmp_path: Path) -> None:
    network = converted(WRITTEN)
    first, second = network.programming()
    layer = next(network.segment.analog_layers())
    with torch.no_grad():
        nominal, found = layer.matrix.nominal_conductances(), layer.matrix.conductances()
    span = 1e-4 - 1e-5
    for before, after in zip(vars(nominal).values(), vars(found).values(), strict=True):
        assert float((before - after).abs().max()) <= 0.02 * span * (1 + 1e-9)
        assert bool((before != after).any())
    assert (first.cells, second.cells) == (2 * 4 * 7, 2 * 3 * 5) and first.missed == 0
    assert first.time == pytest.approx(first.pulses * 1.5e-7 + first.cells * 5e-8, rel=1e-6, abs=0)
    assert first.largest * 1.5e-7 <= first.time_by_rows < first.time
    # every pulse has a conductance between the end states
    low, high = (first.pulses * 1e-7 * v**2 * g for v, g in ((1.2, 1e-5), (1.5, 1e-4)))
    assert low < first.energy < high
    imac.save(network, tmp_path / "written.safetensors")
    again = imac.load(tmp_path / "written.safetensors")
    assert again.programming() == (first, second)
    x = reals(torch.Generator().manual_seed(1), 2, 6)
    with torch.no_grad():
        torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)
    commands.register(app)
    shown = CliRunner().invoke(app, ["summary", str(tmp_path / "written.safetensors"), "--json"])
    assert f'"pulses": {first.pulses}' in shown.output
    assert converted({}).programming() == ()
    report = imac.evaluate(again, [(x, torch.tensor([0, 1]))], progress=False)
    assert f"{first.pulses + second.pulses:,}" in str(report)
    assert "<h2>Programming</h2>" in render_report(report)
    report.save(tmp_path / "run")
    assert imac.Report.load(tmp_path / "run").programming == (first, second)


def test_sweeps_have_columns_of_programming_and_see_endurance() -> None:
    model = drawn(torch.Generator().manual_seed(3), 6, 4, 3)
    x = reals(torch.Generator().manual_seed(1), 40, 6)
    base = converted({**WRITTEN, "endurance": {"writes": 0.0, "lifetime": 1e6}}).config
    evaluator = NetworkEvaluator(model, x, model(x).argmax(1), base)
    bench = evaluator.bench()
    paths = "device.effects.write_verify.tolerance", "device.effects.endurance.writes"
    fine, coarse, worn = (
        bench({paths[0]: tolerance, paths[1]: writes, "seed": 3})
        for tolerance, writes in ((0.005, 0.0), (0.05, 0.0), (0.05, 1e7))
    )
    assert fine["write_pulses"] > coarse["write_pulses"] > 1.0
    assert fine["write_energy"] > coarse["write_energy"] > 0.0
    assert coarse["write_time_by_rows"] < coarse["write_time"]
    assert coarse["write_pulses_worst"] <= 200 and coarse["write_missed"] == 0.0
    # All but exp(-10) of the cells have ended at low resistance, written as if new.
    assert worn["accuracy"] < coarse["accuracy"]
    assert worn["write_energy"] == coarse["write_energy"]
    unknown = bench({"device.effects.write_verify.pulse": None, "seed": 3})
    assert "write_time" not in unknown and "write_pulses" in unknown
    # refused before the run, not by the front after it
    evaluator.require(["accuracy", "write_energy"], [{}, {"device.effects": "none"}])
    with pytest.raises(ConfigError, match=r"write_time: it needs .* tolerance, pulses and pulse"):
        evaluator.require(["write_time"], [{"device.effects.write_verify.pulse": "none"}])
    with pytest.raises(ConfigError, match="no point has the objective write_pulses"):
        evaluator.require(["write_pulses"], [{"device.effects.write_verify": "none"}])


def test_what_is_lost_is_what_the_formulas_say(generator: torch.Generator) -> None:
    wanted = cells(20000)
    year = 3.15e7
    for effect, share, end in (
        (Retention(time=year, lifetime=10 * year, shape=2.0), 1 - math.exp(-0.01), WINDOW.low),
        (
            Retention(
                time=3600.0, lifetime=10 * year, energy=1.0, temperature=400.0, to="open"
            ),
            # 1 eV/k·(1/298.15 - 1/400) = 9.9107: 20,145 times as fast
            1 - math.exp(-3600 / (10 * year) * math.exp(9.9107)),
            0.0,
        ),
        (Endurance(writes=1e6, lifetime=1e7, to="low"), 1 - math.exp(-0.1), WINDOW.high),
        (
            ReadDisturb(reads=1e12, pulse=1e-9, stability=60.0, ratio=0.5),
            1 - math.exp(-1e12 * math.exp(-30.0)),
            WINDOW.high,
        ),
    ):
        assert effect.share == pytest.approx(share, rel=1e-3)
        found = effect.apply(wanted, WINDOW, generator)
        lost = found != wanted
        assert bool((found[lost] == end).all())
        sigma = math.sqrt(max(share * (1 - share), 1e-12) / len(wanted))
        assert float(lost.double().mean()) == pytest.approx(share, abs=5 * sigma + 1e-4)


def test_nothing_has_passed_and_a_pulse_may_have_no_voltage(generator: torch.Generator) -> None:
    fresh = [
        Retention(time=0.0, lifetime=1.0),
        Endurance(writes=0.0, lifetime=1.0),
        ReadDisturb(reads=0.0, pulse=1e-9, stability=60.0, ratio=0.5),
    ]
    assert [effect.share for effect in fresh] == [0.0, 0.0, 0.0]
    falls = replace(WriteVerify(**WRITTEN["write_verify"]), set_voltage=1.0, reset_voltage=0.0)
    written = falls.write(cells(50), WINDOW, generator)
    found = Programming.of("one", falls, (written, written))
    assert bool((written.down > 0).any())
    assert found.energy == pytest.approx(
        2.0 * falls.pulse * float(written.charge_up.sum()), rel=1e-6, abs=0
    )


def test_compensation_knows_devices_as_they_were_written(generator: torch.Generator) -> None:
    # What programming missed is no drift, and a read right after it finds none.
    pair = ConductancePair(cells(60).reshape(6, 10), cells(60).flip(0).reshape(6, 10))
    pulses = WriteVerify(tolerance=0.2, pulses=10, spread=0.05)
    device = imac.Memristor(rlow=1.0 / WINDOW.high, rhigh=1.0 / WINDOW.low)
    state = generator.get_state()
    written = DeviceModel((pulses,)).program(pair, device, generator)
    generator.set_state(state)
    both = DeviceModel((pulses, Compensation("row"))).program(pair, device, generator)
    torch.testing.assert_close(both.positive, written.positive, rtol=1e-12, atol=0)
    assert float((written.positive - pair.positive).abs().max()) > 1e-6


@pytest.mark.parametrize("scope", ["layer", "row"])
def test_compensation_takes_a_common_factor_back(generator: torch.Generator, scope: str) -> None:
    sides = 1e-5 + 1e-4 * torch.rand(2, 5, 9, generator=generator, dtype=torch.float64)
    pair, device = ConductancePair(*sides), imac.Memristor(rlow=1e4, rhigh=1e5)
    even = DeviceModel((Drift(time=1e4, exponent=0.05), Compensation(scope)))
    back = even.program(pair, device, generator)
    torch.testing.assert_close(back.positive, pair.positive, rtol=1e-12, atol=0)
    spread = (Drift(time=1e4, exponent=0.05, spread=0.02),)
    state = generator.get_state()
    drifted = DeviceModel(spread).program(pair, device, generator)
    generator.set_state(state)
    better = DeviceModel((*spread, Compensation(scope))).program(pair, device, generator)
    sums = [(x.positive + x.negative).sum(-1) for x in (pair, drifted, better)]
    assert float((sums[1] / sums[0]).mean()) < 0.7
    if scope == "row":
        torch.testing.assert_close(sums[2], sums[0], rtol=1e-12, atol=0)
    else:
        assert float(sums[2].sum()) == pytest.approx(float(sums[0].sum()), rel=1e-12)
        factors = better.positive / drifted.positive
        torch.testing.assert_close(factors, factors[0, 0].expand_as(factors), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("write_verify", {"tolerance": 0.01, "pulses": 10}, "is never reached"),
        ("write_verify", {"tolerance": 0.0, "pulses": 10}, "between 0 and 1"),
        ("write_verify", {"tolerance": 0.1, "pulses": 0}, "at least 1"),
        ("retention", {"time": 1.0, "lifetime": 0.0}, "lifetime = 0"),
        ("endurance", {"writes": 1.0, "lifetime": 2.0, "to": "up"}, "cells end at"),
        ("read_disturb", {"reads": 1.0, "pulse": 1e-9, "stability": 60.0, "ratio": 2.0}, "ratio"),
        ("compensation", {"scope": "column"}, "per layer or per row"),
    ],
)
def test_settings_that_cannot_be_say_why(
    name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        imac.Memristor(effects={name: settings})
