"""Latency and measured energy of a data set: from evaluate to the page."""

from __future__ import annotations

import csv
import json
import math
import re
import warnings
from dataclasses import fields

import pytest
import torch
from small_networks import LOGISTIC, loader, mlp, signs

from imac_torch import (
    Amplifier,
    Config,
    Crossbar,
    InverterSigmoid,
    NgSpice,
    Report,
    Timing,
    TimingOptions,
    TransientOptions,
    WeightMapping,
    convert,
    evaluate,
)
from imac_torch.base.units import quantity
from imac_torch.errors import SamplingWarning, SolverError
from imac_torch.reports.html_report import render_report, samples_csv
from imac_torch.results.solution import Status
from imac_torch.transient import inference
from imac_torch.transient.integrator import StepControl

INPUTS = signs(11, 6)
# A pole, so that a behavioural circuit takes its time: some 0.1 ns.
CONFIG = LOGISTIC.replace(
    mapping=WeightMapping(levels="continuous"),
    crossbar=Crossbar(rows=3, columns=4),
    amplifier=Amplifier(pole=4e9),
    timing=Timing(period=2e-9, transition=1e-10),
)
MODEL = mlp(6, 3).append(InverterSigmoid())
LABELS = torch.arange(11) % 3


def network(config: Config = CONFIG):
    return convert(MODEL, config)


def run(timing=True, config: Config = CONFIG, batch=4, **options) -> Report:
    batches = loader(INPUTS, LABELS, batch)
    return evaluate(network(config), batches, timing=timing, progress=False, **options)


@pytest.fixture(scope="module")
def report() -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamplingWarning)  # 2 ns are enough
        return run()


def test_the_report_holds_what_measure_gives(report):
    timed = report.timing
    assert timed is not None
    whole = network().measure(INPUTS, options=TimingOptions(waveforms=0))
    # Batches of 4 from the loader are measured together, as all 11 are here.
    torch.testing.assert_close(timed.latency.outputs, whole.latency.outputs, rtol=1e-9, atol=0)
    # Images that do not share their time steps: the controlled error moves a crossing by less than
    # 1 % of the latency.
    alone = network().measure(INPUTS, options=TimingOptions(batch_size=6, waveforms=0))
    assert len(alone.steps) == 2
    torch.testing.assert_close(alone.latency.outputs, whole.latency.outputs, rtol=1e-2, atol=1e-13)
    torch.testing.assert_close(timed.settled, report.outputs, rtol=0, atol=1e-8)
    assert timed.latency.outputs.shape == (11, 1, 3)
    assert timed.energy.total.shape == (11, 1)
    # After 2 ns nothing moves: the power at the end is that of the operating point.
    assert report.energy is not None
    torch.testing.assert_close(timed.static.total[:, 0], report.energy, rtol=1e-5, atol=0)


def test_figures(report):
    timed = report.timing
    figures = report.figures()["timing"]
    images = timed.latency.images[:, 0]
    latency = figures["latency"]
    assert latency["worst"] == float(images.max())
    assert figures["safe_period"] == max(latency["worst"], figures["decision"]["worst"])
    assert latency["worst_sample"] == int(images.argmax())
    assert latency["median"] == float(images.median())  # 11 images: the sixth
    assert latency["median"] <= latency["p95"] <= latency["p99"] <= latency["worst"]
    # No output is settled before its ramp has ended, up to the band of 10 %.
    assert float(images.min()) > 0.5 * CONFIG.timing.transition
    assert figures["throughput"] == pytest.approx(5e8)
    assert figures["largest_throughput"] == pytest.approx(1.0 / figures["safe_period"])
    energy = figures["energy"]
    for kind in ("energy", "static", "switching"):
        parts = sum(energy[name][kind] for name in ("inputs", "bias", "neurons"))
        assert energy["total"][kind] == pytest.approx(parts, rel=1e-9, abs=0.0)
    total = energy["total"]
    assert total["energy"] == pytest.approx(total["static"] + total["switching"], rel=1e-9, abs=0.0)
    assert figures["sampling"]["unsettled"] == 0
    assert figures["sampling"]["accuracy"] == figures["sampling"]["settled_accuracy"]
    assert "TR-BDF2" in figures["method"]


def test_the_text_says_it(report):
    text = str(report)
    for words in ("latency, within 10 % of", "smallest safe period", "switching", "TR-BDF2",
                  report.timing.wires[0]):
        assert words in text
    plain = str(run(timing=False))
    assert "timing=True" in plain
    assert "safe period" not in plain


def test_round_trip(report, tmp_path):
    again = Report.load(report.save(tmp_path / "run"))
    one, two = report.timing, again.timing
    assert two is not None
    assert again.figures() == report.figures()
    for part in fields(one):
        mine, other = getattr(one, part.name), getattr(two, part.name)
        if not hasattr(mine, "__dataclass_fields__"):
            assert torch.equal(mine, other) if torch.is_tensor(mine) else mine == other
            continue
        for item in fields(mine):
            a, b = getattr(mine, item.name), getattr(other, item.name)
            assert torch.equal(a, b) if torch.is_tensor(a) else a == b
    content = json.loads((tmp_path / "run" / "report.json").read_text())
    assert content["figures"]["timing"]["latency"]["worst"] == float(
        one.latency.images.max()
    )
    rows = list(csv.DictReader(samples_csv(report).splitlines()))
    assert float(rows[5]["latency_s"]) == float(one.latency.images[5, 0])
    assert float(rows[5]["latency_2_s"]) == float(one.latency.outputs[5, 0, 2])
    assert float(rows[5]["energy_switching_J"]) == float(one.switching.total[5, 0])
    assert "latency_s" not in samples_csv(run(timing=False)).splitlines()[0]


def test_options_reach_the_measurement(report):
    wide = run(TimingOptions(fraction=0.4, waveforms=0)).timing
    assert wide.waveforms is None
    assert wide.latency.fraction == 0.4
    images = report.timing.latency.images
    assert bool((wide.latency.images <= images).all())
    assert bool((wide.latency.images < images).any())
    kept = report.timing.waveforms
    worst = report.figures()["timing"]["latency"]["worst_sample"]
    assert sorted(kept.samples.tolist()) == sorted({0, worst})
    # They end where the circuit settles.
    torch.testing.assert_close(
        kept.outputs[-1], report.outputs[kept.samples], rtol=0, atol=1e-3
    )
    for wrong in (
        {"samples": 0}, {"fraction": 0.0}, {"batch_size": 0}, {"periods": 0}, {"waveforms": -1}
    ):  # fmt: skip
        with pytest.raises(SolverError):
            TimingOptions(**wrong)


def test_the_first_samples_only(report):
    some = run(TimingOptions(samples=5, waveforms=0))
    assert (len(some.labels), len(some.timing.status)) == (11, 5)
    torch.testing.assert_close(
        some.timing.latency.images, report.timing.latency.images[:5], rtol=1e-2, atol=1e-13
    )
    assert some.figures()["timing"]["images"] == 5
    rows = list(csv.DictReader(samples_csv(some).splitlines()))
    assert (rows[4]["latency_s"] != "", rows[5]["latency_s"]) == (True, "")
    assert "first 5 samples" in render_report(some)


def test_sampling_too_early_is_said_with_its_cost(report):
    images = report.timing.latency.images[:, 0]
    # Between the latencies of the images, so that some have settled and some have not.
    period = float((images.sort().values[4] + images.sort().values[5]) / 2)
    hasty = CONFIG.replace(timing=Timing(period=period, transition=CONFIG.timing.transition))
    with pytest.warns(SamplingWarning, match="6 of 11 images"):
        short = run(TimingOptions(waveforms=0), hasty, batch=11)
    timed = short.timing
    assert timed.unsettled == 6
    # What had not settled was followed until it had.
    torch.testing.assert_close(timed.latency.images[:, 0], images, rtol=1e-2, atol=1e-13)
    # The class as sampled, against the label and against the settled class, counted here.
    sampled, settled = timed.sampled.argmax(1), timed.settled.argmax(1)
    sampling = short.figures()["timing"]["sampling"]
    assert sampling["accuracy"] == pytest.approx(float((sampled == LABELS).double().mean()))
    assert sampling["agreement"] == pytest.approx(float((sampled == settled).double().mean()))
    assert sampling["settled_accuracy"] == pytest.approx(short.accuracy)
    assert "warning" in str(short)
    assert "Sampled too early" in render_report(short)
    assert "Sampled too early" not in render_report(report)


def test_what_is_sampled_too_early_comes_from_the_stream():
    chain = convert(mlp(6, 5, 3), LOGISTIC.replace(
        amplifier=Amplifier(pole=1e9), timing=Timing(period=2e-10, transition=1e-10)
    ))
    inputs = INPUTS[:3]
    steps = TransientOptions(amplifiers=False, control=StepControl(tolerance=3e-4))
    stream = chain.transient(inputs, options=steps)
    wanted = stream.outputs[stream.periods[1:], 0]
    timed = chain.measure(inputs, options=TimingOptions(steps, batch_size=2, waveforms=0))
    assert timed.unsettled == 3
    # Windows begin twice the slowest latency before: a tenth of a tenth of a swing is left.
    swing = float((timed.settled.amax(0) - timed.settled.amin(0)).max())
    torch.testing.assert_close(timed.sampled, wanted, rtol=0, atol=0.01 * swing)
    # After settled images they would be read elsewhere.
    after = chain.transient(inputs[1:2], initial=inputs[:1], options=steps).outputs[-1, 0]
    assert float((after - wanted[1]).abs().max()) > 0.05 * swing


def test_an_image_that_fails_takes_no_other_with_it(report, monkeypatch):
    solve = inference.integrate
    bad = network().voltages(INPUTS)[0]

    def fragile(layers, inputs, *arguments, **options):
        if bool((inputs[:, 0] == bad).all(dim=-1).any()):
            raise SolverError("a step of 1e-20 s failed")
        return solve(layers, inputs, *arguments, **options)

    monkeypatch.setattr(inference, "integrate", fragile)
    found = run()
    timed = found.timing
    others = torch.arange(11) != 0
    assert timed.status.tolist() == [int(Status.FAILED) if k == 0 else 0 for k in range(11)]
    assert bool(torch.isnan(timed.latency.outputs[0]).all())
    torch.testing.assert_close(
        timed.latency.outputs[others], report.timing.latency.outputs[others], rtol=1e-2, atol=1e-13
    )
    figures = found.figures()["timing"]
    assert (figures["images"], figures["failures"]) == (10, 1)
    assert math.isfinite(figures["safe_period"])
    assert "1 samples: a step of" in str(found)
    page = render_report(found)
    assert "1 of 11 samples were not solved in time: a step of 1e-20 s failed" in page

    def broken(*arguments, **options):
        raise SolverError("nothing works")

    monkeypatch.setattr(inference, "integrate", broken)
    with pytest.raises(SolverError, match="no image was solved in time: nothing works"):
        run()


def test_simulators_do_not_measure_here():
    with pytest.raises(SolverError, match="native engine"):
        run(engine=NgSpice())


def test_the_page(report):
    page = render_report(report)
    figures = report.figures()["timing"]
    for value in (figures["latency"]["median"], figures["safe_period"]):
        assert quantity(value, "s", 3) in page
    assert quantity(figures["energy"]["total"]["switching"], "J") in page
    count = len(report.timing.waveforms.samples)
    charts = [json.loads(text) for text in re.findall(r'/json">(.*)</script>', page)]
    waves = [item for item in charts if "start of" in item["layout"]["xaxis"]["title"]["text"]]
    names = [[line["name"].partition(" ")[0] for line in item["data"]] for item in waves]
    assert [found.count("output") for found in names] == [3] * count
    upright = [d for item in charts for d in item["data"] if d.get("orientation") == "v"]
    assert [sum(item["y"]) for item in upright] == [11, 11]  # two histograms
    assert "timing=True" in render_report(run(timing=False))
