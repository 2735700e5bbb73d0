"""The papers' systems at a small size: each command runs, resumes, and says what physics says."""

from __future__ import annotations

import csv
import sqlite3
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import imac_torch as imac
from imac_torch.circuit.wires import segments
from imac_torch.errors import DataError
from imac_torch.transient.integrator import StepControl

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path, monkeypatch):
    """Scripts find each other as in their own directory, and write nowhere else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    yield tmp_path
    names = {path.stem for path in EXAMPLES.glob("*.py")} | {"paper_systems"}
    for name in [name for name in sys.modules if name.partition(".")[0] in names]:
        sys.modules.pop(name)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def times_of(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as connection:
        return dict(connection.execute("SELECT key, finished || seconds FROM results"))


def reference_format(path, sizes, images):
    """A random network and its inputs as the reference results have them; bits and arrays."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2, (images, sizes[0])).astype(np.uint8)
    arrays = {
        "inputs_bits": np.packbits(bits, axis=1),
        "labels": generator.integers(0, sizes[-1], images),
    }
    for k, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        arrays[f"W{k}"] = generator.choice([-1, 1], (inputs, outputs)).astype(np.int8)
        arrays[f"B{k}"] = generator.choice([-1, 1], outputs).astype(np.int8)
    np.savez(path, **arrays)
    return bits, arrays


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_every_system_is_a_command():
    import papers

    result = CliRunner().invoke(papers.app, ["--help"])
    assert result.exit_code == 0
    names = ("imac-sim", "partitioning", "access", "resistances", "trends", "coprocessor", "neuron")
    for name in (*names, "interconnect"):
        assert name in result.output
        assert CliRunner().invoke(papers.app, [name, "--help"]).exit_code == 0


def test_imac_sim_reads_a_directory(tmp_path):
    import papers

    report = papers.imac_sim(images=50, timed=2, output=tmp_path / "one")
    # Trained on grey levels, run on their signs as IMAC-Sim does: some accuracy goes.
    assert report.accuracy > 0.8
    assert report.failures == 0
    text = (tmp_path / "one" / "imac_sim.md").read_text()
    assert f"| accuracy, circuit, % | {100 * report.accuracy:.1f} |" in text
    # What it wrote for itself is read like a directory of the user's.
    again = papers.open_subject(str(tmp_path / "one" / "imac_sim_data"), None, None, 50)
    circuit = imac.convert(again.model, again.base).eval()
    found = imac.evaluate(circuit, again.pairs, progress=False)
    assert torch.equal(found.outputs, report.outputs)


@pytest.mark.slow
def test_partitions_cost_power_and_save_accuracy(tmp_path):
    import papers
    from paper_systems.subjects import open_subject

    def run():
        return papers.partitioning(
            images=60, device=["MRAM"], size=[32, 64], gain_factor=[0.5], amplitude=[0.5],
            output=tmp_path,
        )  # fmt: skip

    rows = {(r["cell"], r["size"]): r for r in run() if r["factor"] == 1.0}
    # Wires of 48 λ per cell: whole layers (48 rows of 65 cells) lose more than their parts do.
    lost = {
        size: rows["no wires", size]["accuracy"] - rows["1TG1R", size]["accuracy"]
        for size in (32, 64)
    }
    assert lost[64] > lost[32] + 0.1
    assert rows["1T1R", 32]["power"] > rows["1T1R", 64]["power"] * 1.1
    assert rows["no wires", 64]["power"] > rows["1T1R", 64]["power"]
    # One of them built by hand.
    subject = open_subject(None, None, None, 60)
    config = imac.Config(
        device=imac.Memristor(rlow=8.5e3, rhigh=25.5e3),
        interconnect=imac.Interconnect(tech_node=9e-9, length=48 * 9e-9),
        crossbar=imac.Crossbar(rows=32, columns=32),
        amplifier=imac.Amplifier(gain=(30.0, 30.0, 10.0)),
        neuron=imac.Neuron(rlow=5e3, rhigh=15e3),
    )
    report = imac.evaluate(imac.convert(subject.model, config), subject.pairs, progress=False)
    assert rows["1TG1R", 32]["accuracy"] == report.accuracy
    assert rows["1TG1R", 32]["power"] == pytest.approx(report.mean_power()["total"], rel=1e-12)
    assert is_picture(tmp_path / "partitioning.png")
    assert len(rows_of(tmp_path / "partitioning.csv")) == 4 * 2 * 2
    noisy = {int(r["size"]): float(r["accuracy"]) for r in rows_of(tmp_path / "noise.csv")}
    quiet = {size: rows["1T1R", size]["accuracy"] for size in (32, 64)}
    assert 0.1 < noisy[32] < quiet[32]  # half a volt rms at every input of ±0.8 V
    found = {r["partitions"] for r in rows_of(tmp_path / "published.csv")}
    assert found == {"16-8-8, 8-8-1", "13-4-3, 4-3-1"}
    # Again: nothing is run twice.
    before = times_of(tmp_path / "partitioning.sqlite")
    run()
    assert times_of(tmp_path / "partitioning.sqlite") == before


def test_resistances_in_three_cases(tmp_path):
    import papers

    rows = papers.resistances(
        images=120, low=[1e3, 5e4, 2e5], high=[1e4, 1e6], gain_factor=[1.0], output=tmp_path
    )
    found = {(r["case"], r["rlow"], r["rhigh"]): r["accuracy"] for r in rows}
    assert len(found) == 3 * 4  # 50 kΩ and 200 kΩ are above 10 kΩ
    # 1 kΩ against segments of 10 Ω: the last of 48 cells sees little; against 50 kΩ they are small.
    assert found["wires", 1e3, 1e4] < found["no wires", 1e3, 1e4] - 0.3
    assert found["wires and partitions", 1e3, 1e4] > found["wires", 1e3, 1e4] + 0.1
    assert found["wires", 2e5, 1e6] > found["wires", 1e3, 1e6] + 0.1
    assert is_picture(tmp_path / "resistances.png")
    assert "| wires and partitions |" in (tmp_path / "resistances.md").read_text()


def test_the_neuron(tmp_path):
    import papers
    from paper_systems.neuron import curves

    found = curves(41)
    rows = papers.neuron(images=120, points=41, low=[5e3], ratio=[1.01, 3.0], output=tmp_path)
    # At half of vdd the inverter's gate is at its own threshold, and the two devices divide what
    # is between input and output: z0 = (Vm - vdd/2)·(1 + Rlow/Rhigh), one Vm for all devices. The
    # feedback's current, 10 mV over 25 kΩ or more, moves Vm by I/gm < 0.4 µA / 1 mS = 0.4 mV.
    thresholds = [
        curve.threshold / (1 + low / high)
        for curve, (low, high) in zip(
            found.values(),
            ((8488.26, 25464.8), *imac.config.DEVICES.values()),
            strict=True,
        )
    ]
    assert max(thresholds) - min(thresholds) < 4e-4
    # Feedback through Rhigh bounds the gain to Rhigh/Rlow.
    assert 1.0 < found["MRAM"].steepest < 3.0
    assert found["RRAM"].steepest > found["MRAM"].steepest
    assert {row["ratio"] for row in rows} == {1.01, 3.0}
    # A neuron of ratio 1 has a gain below one in every layer: signals fade.
    assert rows[0]["accuracy"] < rows[1]["accuracy"]
    assert is_picture(tmp_path / "neuron.png")
    text = (tmp_path / "curve_sot_mram.csv").read_text().splitlines()
    assert text[0].startswith("input_V,output_V") and len(text) == 42


@pytest.mark.slow
def test_wires_against_technology_node(tmp_path, monkeypatch):
    import papers
    from paper_systems.grids import nodes
    from paper_systems.running import WiresEvaluator

    coarse = imac.TransientOptions(wires="reduced", control=StepControl(tolerance=1e-3))
    quick = partial(WiresEvaluator, samples=1, timing=imac.TimingOptions(coarse))
    monkeypatch.setattr(papers, "WiresEvaluator", quick)
    reference_format(tmp_path / "net.npz", (24, 8, 4), 4)
    rows = papers.interconnect(
        network=str(tmp_path / "net.npz"), images=4, device=["MRAM"], node=[4.5e-8],
        output=tmp_path,
    )  # fmt: skip
    ohms = [
        segments(imac.Interconnect(tech_node=p["interconnect.tech_node"],
                                   thickness=p["interconnect.thickness"])).input_line
        for p in (case.point for case in nodes(["MRAM"], [4.5e-8]))
    ]  # fmt: skip
    assert [row["metal"] for row in rows] == ["fixed", "scaled"]
    assert ohms[0] > 4.9 * ohms[1]  # a metal five times as thick; its resistivity is the same
    assert rows[0]["input_drop"] > 2.0 * rows[1]["input_drop"]
    assert rows[0]["power"] < rows[1]["power"]
    assert all(1e-11 < row["latency"] < 1e-9 for row in rows)
    assert is_picture(tmp_path / "interconnect.png")


@pytest.mark.slow
def test_coprocessor(tmp_path):
    import papers

    def run():
        return papers.coprocessor(steps=120, images=40, device=["PCM"], output=tmp_path)

    rows = run()
    assert [row["cell"] for row in rows] == ["no wires", "1T1R"]
    assert min(row["accuracy"] for row in rows) > 0.85
    assert rows[0]["power"] > rows[1]["power"]
    text = (tmp_path / "coprocessor.md").read_text()
    assert "| linear | 2368 | 2368 |" in text  # 64·32 + 32·10
    assert "| conv | 1224 | 23040 |" in text  # 9·8·64 + 9·8·16·16
    assert "| this network | 23040, 2368 | 1224, 2368 | " in text  # beside a processor
    before = times_of(tmp_path / "coprocessor.sqlite")
    assert run() == rows  # the trained network is read again
    assert times_of(tmp_path / "coprocessor.sqlite") == before


def test_what_a_processor_saves_by_hand():
    from paper_systems.processor import Processor, Work, byte_energy_for, saving, vgg16

    one, other = Work(300, 10), Work(100, 100)
    processor = Processor(product=2.0, byte=0.5, bytes=4, product_rate=10.0, byte_rate=20.0)
    assert processor.energy(one) == 620.0 and processor.energy(other) == 400.0
    assert (processor.time(one), processor.time(other)) == (30.0, 20.0)
    assert saving(processor, one, other, 40.0) == pytest.approx(360 / 1020)
    assert byte_energy_for(400 / 1020, processor, one, other) == pytest.approx(0.5)
    # VGG-16 at 32×32: 313 million products and 14.7 million weights in convolutions.
    convolutions, tail = vgg16()
    assert convolutions == Work(313_196_544, 14_710_464)
    assert tail.weights == 512 * 4096 + 4096 * 4096 + 4096 * 10


def test_networks_of_the_reference_format(tmp_path):
    from paper_systems.subjects import open_subject, read_npz

    path = tmp_path / "net.npz"
    bits, arrays = reference_format(path, (11, 4, 3), 5)
    model, inputs, labels = read_npz(path)
    signs = 2.0 * bits - 1.0
    hidden = 1 / (1 + np.exp(signs @ arrays["W1"] + arrays["B1"]))
    outputs = 1 / (1 + np.exp(hidden @ arrays["W2"] + arrays["B2"]))
    assert np.array_equal(inputs.numpy(), signs)
    assert np.allclose(model(inputs).detach().numpy(), outputs, rtol=1e-12)
    assert labels.tolist() == arrays["labels"].tolist()
    subject = open_subject(str(path), None, None, 3)
    assert subject.sizes == (11, 4, 3) and len(subject.labels) == 3
    assert subject.gains(2.0) == [60.0, 20.0]
    np.savez(tmp_path / "other.npz", W1=arrays["W1"])
    with pytest.raises(DataError, match="needed are W1, B1"):
        read_npz(tmp_path / "other.npz")


def test_saved_networks_take_named_data(tmp_path):
    from paper_systems.subjects import open_subject

    config = imac.Config(mapping=imac.WeightMapping(levels="continuous"))
    network = imac.convert(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Sigmoid()), config)
    imac.save(network, tmp_path / "net.safetensors")
    subject = open_subject(str(tmp_path / "net.safetensors"), "digits", None, 7)
    assert subject.sizes == (64, 10)
    assert subject.base == network.config
    expected = imac.to_software(network)(subject.inputs)
    assert torch.allclose(subject.model(subject.inputs), expected)
