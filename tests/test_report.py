"""Report: figures, files, and damaged files."""

from __future__ import annotations

import json
import math
import os
from dataclasses import fields, replace

import pytest
import torch

from imac_torch import Config, Report, Status
from imac_torch.errors import DataError
from imac_torch.model.network import LayerRecord
from imac_torch.reports.report import environment
from imac_torch.results.solution import Power, Solution

NAN = float("nan")


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def power(inputs, bias, neurons, level_shift=(0.0,) * 4, amplifiers=(0.0,) * 4, supply=(0.0,) * 4):
    parts = (inputs, bias, neurons, level_shift, amplifiers, supply)
    return Power(*(tensor(*values) for values in parts))


REPORT = Report(
    labels=torch.tensor([0, 1, 0, 1]),
    predictions=torch.tensor([0, 0, -1, 1]),
    reference=torch.tensor([0, 1, 1, 1]),
    solution=Solution(
        outputs=torch.tensor(
            [[0.7, 0.1], [0.6, 0.2], [NAN, NAN], [0.1, 0.5]], dtype=torch.float64
        ),
        layers=(),
        power=power(
            (1e-3, 2e-3, 1e9, 3e-3), (1e-4, 1e-4, 1e9, 1e-4), (2e-4, 3e-4, 1e9, 4e-4),
        ),
        status=torch.tensor([0, 0, int(Status.MAX_ITERATIONS), 0]),
        residual=tensor(1e-12, 3e-12, 1.0, 2e-12),
        iterations=torch.tensor([3, 4, 60, 5]),
    ),
    period=4e-9,
    config=Config.imac_sim(),
    layers=(LayerRecord("0", "Linear 3→2", "analog", "1×1 partitions"),),
    engine={"name": "native"},
    environment=environment(),
    seed=7,
    seconds=1.5,
)  # fmt: skip


def simulated():
    """The same with what simulators do not measure."""
    hole = torch.full((4,), torch.nan, dtype=torch.float64)
    solution = replace(
        REPORT.solution,
        residual=hole,
        power=replace(REPORT.solution.power, level_shift=hole, amplifiers=hole),
    )
    return replace(REPORT, solution=solution, engine={"name": "ngspice"}, reference=None)


def without_power():
    return replace(REPORT, solution=replace(REPORT.solution, power=None))


REPORTS = {"native": lambda: REPORT, "simulated": simulated, "without power": without_power}


def test_figures_are_over_solved_samples():
    # solved: samples 0, 1 and 3
    assert REPORT.solved.tolist() == [True, True, False, True]
    assert REPORT.failures == 1
    assert REPORT.accuracy == pytest.approx(2 / 3)
    assert REPORT.reference_accuracy == 1.0
    assert REPORT.agreement == pytest.approx(2 / 3)
    means = REPORT.mean_power()
    assert means["inputs"] == pytest.approx(2e-3)
    assert means["bias"] == pytest.approx(1e-4)
    assert means["neurons"] == pytest.approx(3e-4)
    assert means["total"] == pytest.approx(2.4e-3)
    figures = REPORT.figures()
    assert figures["mean_energy"] == pytest.approx(2.4e-3 * 4e-9, rel=1e-6, abs=0)
    assert figures["largest_residual"] == 3e-12
    assert (figures["samples"], figures["failures"]) == (4, 1)


def test_text():
    text = str(REPORT)
    for words in ("4 (1 not solved)", "66.67 %", "100.00 %", "2.4 mW", "9.6 pJ", "3e-12 A"):
        assert words in text, words
    assert "1e+09" not in text
    for name in ("simulated", "without power"):
        assert "nan" not in str(REPORTS[name]())
    assert "power" not in str(without_power())


def same(one, two):
    """Field by field; NaN is equal to NaN."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one.nan_to_num(9e9), two.nan_to_num(9e9))
    if isinstance(one, (Solution, Power)):
        return all(same(getattr(one, f.name), getattr(two, f.name)) for f in fields(one))
    return one == two


@pytest.mark.parametrize("name", REPORTS)
def test_round_trip(name, tmp_path):
    report = REPORTS[name]()
    assert report.save(tmp_path / "new" / "place") == tmp_path / "new" / "place"
    again = Report.load(tmp_path / "new" / "place")
    for part in fields(Report):
        assert same(getattr(again, part.name), getattr(report, part.name)), part.name
    assert sorted(path.name for path in (tmp_path / "new" / "place").iterdir()) == [
        "report.json", "report.safetensors"
    ]  # fmt: skip


@pytest.mark.parametrize("name", REPORTS)
def test_json_is_json(name, tmp_path):
    """Other programs read it: no NaN in it, and the complete configuration."""

    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    REPORTS[name]().save(tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=refuse)
    assert Config.from_dict(content["config"]) == REPORT.config
    assert content["seed"] == 7
    assert content["environment"]["torch"] == torch.__version__
    assert content["figures"]["accuracy"] == pytest.approx(2 / 3)
    if name == "simulated":
        assert content["figures"]["largest_residual"] is None
        assert content["figures"]["mean_power"]["amplifiers_artefact"] is None
        assert content["figures"]["mean_power"]["total"] == pytest.approx(2.4e-3)


@pytest.mark.parametrize("name", ["report.json", "report.safetensors"])
def test_nothing_is_overwritten(name, tmp_path):
    (tmp_path / name).write_text("precious")
    with pytest.raises(DataError, match=f"holds a {name} already"):
        REPORT.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_other_files_may_be_there(tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    REPORT.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_unwritable_directory(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(DataError, match="cannot write the report"):
        REPORT.save(tmp_path / "file" / "report")
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(DataError, match="cannot write the report"):
            REPORT.save(tmp_path / "locked")


def damage(directory, how):
    text, tensors = directory / "report.json", directory / "report.safetensors"
    if how == "no text":
        text.unlink()
    elif how == "no tensors":
        tensors.unlink()
    elif how == "truncated tensors":
        tensors.write_bytes(tensors.read_bytes()[:-8])
    elif how == "truncated text":
        text.write_text(text.read_text()[:-20])
    elif how == "binary text":
        text.write_bytes(b"\xff\xfe\x00")
    elif how == "list":
        text.write_text("[]")
    else:
        content = json.loads(text.read_text())
        if how == "newer":
            content["format"] = 99
        elif how == "no seed":
            del content["seed"]
        elif how == "strange layers":
            content["layers"] = [{"path": "0", "colour": "red"}]
        elif how == "bad configuration":
            content["config"]["device"]["rlow"] = -1
        text.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no text", "no readable report"),
        ("no tensors", "no readable report"),
        ("truncated tensors", "no readable report"),
        ("truncated text", "no readable report"),
        ("binary text", "no readable report"),
        ("list", "is no report of imac_torch"),
        ("newer", "report format 99, this version reads 1"),
        ("no seed", "damaged: .*seed"),
        ("strange layers", "damaged: .*colour"),
        ("bad configuration", "rlow: .*greater than 0"),
    ],
)
def test_damaged_files(how, message, tmp_path):
    REPORT.save(tmp_path)
    damage(tmp_path, how)
    with pytest.raises(DataError, match=message):
        Report.load(tmp_path)


@pytest.mark.parametrize("name", ["predictions", "labels", "reference"])
def test_tensors_that_do_not_belong_together_are_damage(name, tmp_path):
    replace(REPORT, **{name: torch.zeros(4, 1, dtype=torch.int64)}).save(tmp_path)
    with pytest.raises(DataError, match=r"damaged: .* of shape .* labels"):
        Report.load(tmp_path)


def test_environment_names_versions():
    found = environment()
    assert found["torch"] == torch.__version__
    assert {"python", "machine", "numpy", "numba", "imac_torch"} <= set(found)


def test_accuracy_of_nothing_is_not_a_number():
    nothing = replace(REPORT.solution, status=torch.ones(4, dtype=torch.int64))
    assert math.isnan(replace(REPORT, solution=nothing).accuracy)
