"""The report as one page, what stands beside it, and the analysis behind it."""

from __future__ import annotations

import base64
import csv
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from imac_torch import Config, Crossbar, IMACNetwork, Memristor, Neuron, Report, convert, evaluate
from imac_torch.base.figures import bars, heatmap, histogram, parallel, scatter
from imac_torch.base.units import quantity
from imac_torch.conversion.storage import load
from imac_torch.errors import DataError, ImacWarning
from imac_torch.reports import chart
from imac_torch.reports.analysis import Analysis, analyse
from imac_torch.reports.chart import bar_chart, picture
from imac_torch.reports.html_report import render_report, samples_csv, write_report
from imac_torch.reports.model_page import render_model_report
from imac_torch.reports.model_report import ModelReport, Score, SegmentFigures


@pytest.fixture(scope="module")
def setting() -> tuple[IMACNetwork, nn.Sequential, DataLoader, Report]:
    generator = torch.Generator().manual_seed(8)
    model = nn.Sequential(
        nn.Linear(9, 7), nn.Sigmoid(), nn.Linear(7, 3), nn.LogSoftmax(dim=1)
    ).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1, generator=generator)
    inputs = torch.rand(30, 9, generator=generator, dtype=torch.float64) * 2 - 1
    labels = model(inputs).argmax(1)
    config = Config(
        crossbar=Crossbar(rows=4, columns=5),
        neuron=Neuron(kind="logistic"),
        device=Memristor(variation=0.1),
    )
    network = convert(model, config, generator=generator).eval()
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=8)
    report = evaluate(network, loader, reference=model, seed=8, progress=False)
    return network, model, loader, report


class Page(HTMLParser):
    """Collects tags, and complains about ones that do not match."""

    VOID = ("meta", "link", "br", "img")
    DRAWN = ("line", "rect", "circle", "image", "path", "use", "g")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert tag in self.VOID + self.DRAWN

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(setting) -> None:
    network, model, loader, report = setting
    text = render_report(report, analyse(network, model, loader), title="A <title> & more")
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert "link" not in names
    assert "src" not in {name for tag, attributes in page.tags for name in attributes}
    for _, attributes in page.tags:
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    own = re.sub(r'(?s)<script type="text/plain".*?</script>', "", text)
    assert not re.search(r"url\((?!#)", own)
    assert "@import" not in own
    assert "A &lt;title&gt; &amp; more" in text
    assert names.count("image") == 8  # two maps for each of two layers, each with its scale
    assert "nan" not in re.sub(r"(?s)<script.*?</script>|<[^>]*>", "", text).lower()
    for part in ("Accuracy", "Where accuracy is lost", "Power and energy", "Area", "IR drop",
                 "Conversion", "How to repeat it", "variation = 0.1", "prefers-color-scheme",
                 "<b>Ideal, and not counted:</b> amplifiers, neurons"):
        assert part in text  # fmt: skip


def test_the_page_shows_the_reports_numbers(setting) -> None:
    report = setting[3]
    text = render_report(report)
    figures = report.figures()
    assert f"{100 * figures['accuracy']:.2f} %" in text
    assert quantity(figures["mean_power"]["total"], "W") in text
    assert quantity(figures["mean_energy"], "J") in text
    cells = [int(n) for n in re.findall(r"transparent\)\">(\d+)</td>", text)]
    assert sum(cells) == len(report.labels)


def test_unsolved_samples_are_said_and_left_out(setting) -> None:
    report = setting[3]
    status = report.solution.status.clone()
    status[:3] = 1
    outputs = report.outputs.clone()
    outputs[:3] = torch.nan
    solution = replace(report.solution, status=status, outputs=outputs)
    predictions = report.predictions.clone()
    predictions[:3] = -1
    text = render_report(replace(report, solution=solution, predictions=predictions))
    assert "3 of 30 samples were not solved" in text
    cells = [int(n) for n in re.findall(r"transparent\)\">(\d+)</td>", text)]
    assert sum(cells) == 27


def test_everything_is_written_and_read_back(setting, tmp_path: Path) -> None:
    network, model, loader, report = setting
    page = write_report(
        tmp_path / "run", report, network=network, software=model, loader=loader, title="T"
    )
    names = sorted(item.name for item in page.parent.iterdir())
    assert names == [
        "analysis.json", "analysis.safetensors", "network.safetensors", "report.html",
        "report.json", "report.safetensors", "samples.csv",
    ]  # fmt: skip
    details = Analysis.load(page.parent)
    assert details is not None
    again = render_report(Report.load(page.parent), details, title="T")
    assert again == page.read_text(encoding="utf-8")
    inputs = next(iter(loader))[0]
    with torch.no_grad():
        assert torch.equal(load(page.parent / "network.safetensors")(inputs), network(inputs))
    assert json.loads((page.parent / "report.json").read_text())["seed"] == 8
    write_report(page.parent, replace(report, seconds=1.0))  # the same results
    (page.parent / "report.json").rename(page.parent / "kept.json")
    write_report(page.parent, report)  # an interrupted one
    predictions = (report.predictions + 1) % 3
    with pytest.raises(DataError, match="choose another directory"):
        write_report(page.parent, replace(report, predictions=predictions))


DAMAGED = {
    "text for a number": lambda layer: layer["power"].update(neurons="x"),
    "text for a table": lambda layer: layer.update(area="x"),
    "number for a name": lambda layer: layer.update(name=["x"]),
    "yes for a number": lambda layer: layer.update(gain=True),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_analyses_are_refused(kind, setting, tmp_path: Path) -> None:
    network, model, loader, _ = setting
    analyse(network, model, loader, ablation=False).save(tmp_path)
    content = json.loads((tmp_path / "analysis.json").read_text())
    DAMAGED[kind](content["layers"][0])
    (tmp_path / "analysis.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="no readable analysis"):
        Analysis.load(tmp_path)


def test_samples_are_listed_with_all_digits(setting) -> None:
    report = setting[3]
    rows = list(csv.DictReader(samples_csv(report).splitlines()))
    assert len(rows) == 30
    assert [float(rows[4][f"output_{k}_V"]) for k in range(3)] == report.outputs[4].tolist()
    assert float(rows[4]["energy_J"]) == float(report.energy[4])


def test_the_analysis_agrees_with_the_evaluation(setting) -> None:
    network, model, loader, report = setting
    details = analyse(network, model, loader, samples=30)
    total = report.mean_power()
    for part in ("inputs", "bias", "neurons"):
        # The same sums in another order: rounding only.
        assert sum(layer.power[part] for layer in details.layers) == pytest.approx(
            total[part], rel=1e-9, abs=1e-18
        )
    effects = [item.effect for item in details.ablation]
    assert effects[0] == "software"
    assert "spread of devices" in effects
    assert details.layers[0].circuit_weight_error > 0
    assert details.ablation[0].accuracy == report.reference_accuracy
    assert details.ablation[-1].accuracy == report.accuracy
    with torch.no_grad():
        inputs = torch.cat([batch[0] for batch in loader])
        torch.testing.assert_close(details.software, model[:3](inputs), rtol=0, atol=0)
    assert details.maps["0.input"].shape == (7, 10)
    assert details.layers[0].weight_error > 0


def test_quantities_are_for_reading() -> None:
    assert quantity(0.01782, "W") == "17.82 mW"
    assert quantity(999.95, "J", 4) in ("1000 J", "1 kJ")
    assert quantity(4.9e-4, "V", 2) == "490 µV"
    assert quantity(-2.5e-10, "W") == "-250 pW"
    assert quantity(None, "W") == quantity(float("nan")) == "–"
    assert quantity(0.0, "V") == "0 V"
    assert quantity(3e-21, "J") == "0.003 aJ"


def drawn(draw, **options) -> tuple[str, dict]:
    """A chart as a page has it: the picture, and what plotly gets."""
    text = picture(draw, label="l", **options)
    Page(text)
    return text, json.loads(re.search(r"<script[^>]*>(.*)</script>", text)[1])


def test_charts_take_what_comes() -> None:
    points = [(1, 1), (float("nan"), 2)]
    text, data = drawn(lambda a: scatter(a, points, x="<x>", y="y $a$", diagonal=True))
    assert "&lt;x&gt;" in text
    assert data["data"][0]["x"] == [1.0]
    assert data["layout"]["xaxis"]["title"]["text"] == "&lt;x&gt;"
    drawn(lambda a: scatter(a, [], x="x", y="y"))
    drawn(lambda a: histogram(a, [], unit="s", x="x", marks={"m": float("nan")}))
    assert "<svg" in bar_chart({"a": {"p": 0.0}, "b": {"p": 1.0, "q": -1.0}}, "l")
    assert bar_chart({}, "l") == ""
    rows = [{"x": 1.0, "k": "a"}, {"x": 100.0, "k": None}]
    text, data = drawn(lambda a: parallel(a, rows, ["x", "k"], strong=[True, False]))
    assert [item["y"] for item in data["data"][2:]] == [[1.0, 0.25], [0.0, 0.75]]


def test_the_live_chart_has_the_numbers_of_the_picture() -> None:
    """What plotly draws comes out of the picture: values, units, names, colours of the page."""
    rows = {"first": {"a": 1e-3, "b": 2e-3}, "second": {"a": 4e-3}}
    _, data = drawn(lambda a: bars(a, rows, unit="W"))
    one, two = data["data"]
    assert (one["x"], one["base"], one["name"]) == ([1e-3, 4e-3], [0.0, 0.0], "a")
    assert (two["x"][0], two["base"][0]) == (pytest.approx(2e-3), pytest.approx(1e-3))
    assert one["marker"]["color"] == "var(--c0)"
    assert data["layout"]["yaxis"]["ticktext"] == ["first", "second"]
    assert data["layout"]["xaxis"]["ticksuffix"] == "W"
    assert [item["text"] for item in data["layout"]["annotations"]] == ["3 mW", "4 mW"]

    values = torch.tensor([[0.0, 1e-3, 2e-3], [3e-3, 4e-3, 5e-3]], dtype=torch.float64)
    text, data = drawn(lambda a: heatmap(a, values, row_ends=(1, 2), column_ends=(3,), unit="V"))
    image, cut = data["data"]
    found = numpy.frombuffer(base64.b64decode(image["z"]["bdata"]), "<f4").reshape(2, 3)
    numpy.testing.assert_allclose(found, values.numpy(), rtol=1e-7)
    assert image["zmax"] == 5e-3
    assert cut["y"] == [1.5, 1.5]
    assert text.count("<image") == 2  # the map and its scale


def test_of_many_bars_the_largest_are_drawn() -> None:
    text = bar_chart({f"layer {k}": {"p": float(k)} for k in range(40)}, "l")
    assert "the 24 largest of 40" in text
    assert "layer 16<" in text
    assert "layer 15<" not in text
    data = json.loads(re.search(r"<script[^>]*>(.*)</script>", text)[1])
    assert data["layout"]["title"]["text"] == "the 24 largest of 40"


def test_of_many_circuits_parts_are_shown() -> None:
    one = SegmentFigures(
        path="", layers=("a",), uses=4.0, copies=1, arrays=2, error=0.1, power={}, latency=1e-9,
        energy={"arrays": 1e-12}, area={"cells": 1e-12},
    )  # fmt: skip
    many = [replace(one, path=f"encoder.{k // 10}.linear{k % 10}") for k in range(30)]
    report = ModelReport(
        samples=1, failures=0, score=Score("accuracy", 0.9, None), agreement=None, latency=1e-9,
        segments=tuple(many), config=Config(), layers=(), engine={"name": "native"},
        environment={}, seed=None, seconds=1.0,
    )  # fmt: skip
    page = render_model_report(report)
    Page(page)
    assert "<td>encoder.1</td><td>10</td><td>20</td><td>10 pJ</td><td>10 µm²</td>" in page
    assert "<summary>All 30 circuits</summary>" in page


def test_pages_without_plotly_are_still_and_say_so(setting, monkeypatch) -> None:
    monkeypatch.setattr(chart, "interactive", lambda: False)
    monkeypatch.setattr(chart.library, "cache_clear", chart.library.cache_clear)
    chart.library.cache_clear()
    text = render_report(setting[3])
    chart.library.cache_clear()
    assert "Plotly" not in text
    assert "application/json" not in text
    assert "where plotly is installed" in text
    assert len(text) < 300_000


def test_pages_of_curved_cells_have_details_but_of_gated_ones(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid())
    loader = [(torch.tensor([[1.0, -1.0, 0.5]]), torch.tensor([1]))]
    for kind, cell in {"sinh": {"v0": 0.4}, "fefet": {"specific_current": 1e-6}}.items():
        config = Config(device=Memristor(cell={kind: cell}), neuron=Neuron(kind="logistic"))
        network = convert(model, config)
        report = evaluate(network, loader, progress=False)
        gated = kind == "fefet"
        with pytest.warns(ImacWarning, match="of these hold") if gated else nullcontext():
            page = write_report(
                tmp_path / kind, report, network=network, software=model, loader=loader
            )
        assert ("Where accuracy is lost" in page.read_text()) is not gated
        if not gated:
            (layer,) = Analysis.load(tmp_path / kind).layers
            assert layer.power["inputs"] == pytest.approx(report.mean_power()["inputs"])
            assert not layer.map_note and layer.circuit_weight_gain > 0.0
