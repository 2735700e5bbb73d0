"""Sweeps: points, keys, the table, kills and resumption, fronts, search."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from imac_torch import (
    Amplifier,
    Config,
    HSpice,
    Memristor,
    NetlistSettings,
    Neuron,
    NgSpice,
    Spice,
    TimingOptions,
    TransientOptions,
    WeightMapping,
)
from imac_torch.base.units import quantity
from imac_torch.conversion.convert import convert
from imac_torch.errors import ConfigError, ConversionWarning, DataError, SettingWarning
from imac_torch.sweep import (
    Choices,
    InProcess,
    NetworkEvaluator,
    Outcome,
    Processes,
    Range,
    Store,
    Task,
    grid,
    pareto_front,
    product,
    read_sweep,
    render_sweep,
    run_sweep,
    search,
)
from imac_torch.sweep import evaluator as sweep_evaluator
from imac_torch.sweep.metrics import TIMING_METRICS
from imac_torch.sweep.points import configure
from imac_torch.sweep.runner import together
from imac_torch.transient.integrator import StepControl

ROOT = Path(__file__).parent.parent


class Probe:
    """An evaluator that is quick, counts its evaluations in a file, and can be told to fail."""

    def __init__(self, log: Path | None = None, pause: float = 0.0, licences: int = 0) -> None:
        self.log = log
        self.pause = pause
        self._licences = licences

    def key(self, point):
        if point.get("x") == "invalid":
            raise ConfigError("x is invalid")
        return json.dumps(point, sort_keys=True)

    def bench(self):
        return self._run

    def licences(self) -> int:
        return self._licences

    def _run(self, point):
        if self.pause:
            time.sleep(self.pause)
        if point.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if point.get("fail"):
            raise ValueError("asked to")
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.write(self.key(point) + "\n")
        x = float(point["x"])
        return {"square": x * x, "minus": -x}


def evaluator(**options: object) -> NetworkEvaluator:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3)).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1, generator=generator)
    inputs = torch.rand(20, 6, generator=generator, dtype=torch.float64) * 2 - 1
    base = Config(
        neuron=Neuron(kind="logistic"),
        mapping=WeightMapping(levels="continuous"),
        amplifier=Amplifier(gain=(20.0, 20.0)),
    )
    labels = model(inputs).argmax(1)
    values = {"model": model, "inputs": inputs, "labels": labels, "base": base, **options}
    return NetworkEvaluator(**values)  # type: ignore[arg-type]


# Points


def test_a_table_that_was_not_finished_is_begun_anew(tmp_path: Path, monkeypatch) -> None:
    """A kill, or a full disk, between its parts."""
    from imac_torch.sweep import store

    with monkeypatch.context() as patch, pytest.raises(DataError):
        patch.setattr(store, "_SCHEMA", (store._SCHEMA[0], "CREATE nothing"))
        Store(tmp_path / "s.sqlite")
    with Store(tmp_path / "s.sqlite") as table:
        assert len(table.table()) == 0


def test_grids_and_products_are_in_order() -> None:
    points = grid({"a.b": [1, 2], "seed": range(2)})
    assert points == [
        {"a.b": 1, "seed": 0}, {"a.b": 1, "seed": 1}, {"a.b": 2, "seed": 0}, {"a.b": 2, "seed": 1},
    ]  # fmt: skip
    assert product([{"x": 1}, {"x": 2}], grid({"y": [3, 4]}))[1] == {"x": 1, "y": 4}
    assert grid({}) == [{}]


@pytest.mark.parametrize("axis", [[], "abc", 3])
def test_an_axis_is_a_list(axis: object) -> None:
    with pytest.raises(ConfigError, match="list of values"):
        grid({"x": axis})  # type: ignore[dict-item]


def test_a_field_is_set_once() -> None:
    with pytest.raises(ConfigError, match="x set twice"):
        product([{"x": 1}], [{"x": 2}])


# Keys


def test_keys_are_about_content() -> None:
    one = evaluator()
    point = {"device.rlow": 1e3, "device.rhigh": 1e5}
    assert one.key(point) == evaluator().key(dict(reversed(point.items())))
    assert one.key(point) != one.key({**point, "device.rlow": 2e3})
    # Spelling out a default is the same configuration.
    assert one.key({}) == one.key({"device.rlow": Config().device.rlow})
    # A seed matters only where something is drawn.
    assert one.key({"seed": 1}) == one.key({"seed": 2})
    spread = {"device.variation": 0.1}
    assert one.key({**spread, "seed": 1}) != one.key({**spread, "seed": 2})


def test_keys_see_the_model_the_data_and_the_engine() -> None:
    base = evaluator().key({})
    changed = evaluator()
    with torch.no_grad():
        changed.model[0].weight[0, 0] += 1e-6  # type: ignore[index]
    others = [
        changed.key({}),
        evaluator(area_model="layout").key({}),
        evaluator(engine=Spice(NgSpice(), settings=NetlistSettings(analysis="dc"))).key({}),
        evaluator(inputs=torch.zeros(20, 6, dtype=torch.float64)).key({}),
    ]
    assert len({base, *others}) == 5


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"device.rlou": 1}, "did you mean device.rlow"),
        ({"device.rlow": -1.0}, "greater than 0"),
        ({"seed": "one"}, "seed must be an integer"),
        ({"device.variation": 0.1}, r"drawn at random; add a seed, .*\[0\] in \[grid\]"),
    ],
)
def test_wrong_points_are_named_before_anything_runs(
    tmp_path: Path, point: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_sweep([{}, point], evaluator(), tmp_path / "s.sqlite", progress=False)
    assert not (tmp_path / "s.sqlite").exists()


def test_what_conversions_lose_is_said_once_and_of_which_point(tmp_path: Path) -> None:
    points = grid({"mapping.levels": [3, 5, 7]})
    with pytest.warns(ConversionWarning) as said:
        table = run_sweep(points, evaluator(), tmp_path / "s.sqlite", progress=False)
    assert len(table.done) == 3
    (text,) = [str(item.message) for item in said if item.category is ConversionWarning]
    assert text.startswith("point {'mapping.levels': 3}: 0: rounding to 3 levels")
    assert "5 levels" not in text


# The table


STATES = Config(neuron=Neuron(kind="logistic"), device=Memristor(states=4))


class Waiting(InProcess):
    """A backend that computes nothing: what is said was said before the first point."""

    def run(self, evaluator, tasks, *, at_once=None):  # type: ignore[no-untyped-def]
        raise InterruptedError


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (grid({"neuron.fins": [10, 20, 40]}), {}, "neuron.fins at 2 of 3 .*finfet"),
        (grid({"device.states": [4, 8]}), {}, r"device.states \(it needs mapping.scheme"),
        (grid({"mapping.slice_base": [2], "mapping.slices": [1, 2]}), {}, "base at 1 of 2 points"),
        (grid({'layers."2".neuron.slope': [5.0]}), {}, r'layers."2".neuron.slope \(it needs'),
        (grid({"timing.transition": [1e-10, 2e-10]}), {}, "transition at 1 of 2 .*transients"),
        (grid({"amplifier.pole": [1e9, 2e9]}), {}, "amplifier.pole .*transients"),
        (grid({"seed": [0, 1]}), {}, r"seed \(it needs device.variation"),
        (grid({"device.rlow": [5e4]}), {"base": STATES}, r"device.states \(it needs"),
    ],
)  # fmt: skip
def test_a_sweep_over_fields_without_effect_says_so_first(
    points: list[dict[str, object]], options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with (
        pytest.warns(SettingWarning, match=f"without effect in this sweep.*{message}"),
        contextlib.suppress(InterruptedError),
    ):
        run_sweep(
            points, evaluator(**options), tmp_path / "s.sqlite", backend=Waiting(), progress=False
        )


def test_a_sweep_over_fields_that_count_says_nothing(tmp_path: Path) -> None:
    points = grid({"neuron.slope": [11.0, 9.0], "device.variation": [0.1], "seed": [0, 1]})
    timed = grid({"amplifier.pole": [1e9], "timing.transition": [2e-10]})
    with warnings.catch_warnings():
        warnings.simplefilter("error", SettingWarning)
        evaluator().warn_of_unread(points)
        evaluator(timing=True).warn_of_unread(timed)
        # Nor does every point say again what was said before the first.
        evaluator().bench()({"neuron.fins": 4})


def test_a_real_sweep_equals_a_plain_loop(tmp_path: Path) -> None:
    axes = {"device.variation": [0.0, 0.3], "seed": [0, 1, 2], "timing.period": [1e-9, 2e-9]}
    points = grid(axes)
    found = run_sweep(points, evaluator(), tmp_path / "s.sqlite", progress=False)
    bench = evaluator().bench()
    for point, row in zip(points, found.rows, strict=True):
        expected = bench(point)
        assert {name: row[name] for name in expected} == expected
        assert row["status"] == "done"
    assert found.rows[0]["accuracy"] == found.rows[2]["accuracy"]
    assert found.rows[1]["energy"] == pytest.approx(2 * found.rows[0]["energy"], rel=1e-6, abs=0)
    seeds = {row["power"] for row in found.rows if row["device.variation"] == 0.3}
    assert len(seeds) == 3
    with sqlite3.connect(tmp_path / "s.sqlite") as connection:
        query = 'SELECT "device.variation", seed, accuracy FROM sweep'
        assert connection.execute(query).fetchall() == [
            (row["device.variation"], row["seed"], row["accuracy"]) for row in found.rows
        ]


def test_points_that_share_a_circuit_solve_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More circuits than a worker keeps, and the axis that they share is the slowest.
    points = grid({"timing.period": [1e-9, 2e-9], "device.rlow": [1e4, 2e4, 3e4, 4e4, 5e4]})
    tasks, circuits = together([Task(str(k), p) for k, p in enumerate(points)], evaluator())
    assert circuits == 5
    assert [task.key for task in tasks] == ["0", "5", "1", "6", "2", "7", "3", "8", "4", "9"]
    converted = []
    original = sweep_evaluator.convert
    monkeypatch.setattr(
        sweep_evaluator, "convert", lambda *a, **k: (converted.append(a), original(*a, **k))[1]
    )
    found = run_sweep(points, evaluator(), tmp_path / "s.sqlite", progress=False)
    assert len(converted) == 5
    assert [row["period"] for row in found.rows] == [point["timing.period"] for point in points]


def test_one_output_is_compared_by_its_threshold(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 1)).double()
    with torch.no_grad():
        model[2].weight.copy_(torch.randn(1, 5, generator=generator))
        model[2].bias.copy_(-model[:2](torch.zeros(1, 6).double()) @ model[2].weight[0])
    inputs = torch.rand(20, 6, generator=generator, dtype=torch.float64) * 2 - 1
    labels = (model(inputs)[:, 0] > 0).long()
    assert 0 < int(labels.sum()) < 20
    metrics = evaluator(model=model, inputs=inputs, labels=labels).bench()({"device.rlow": 2e4})
    assert metrics["reference_accuracy"] == 1.0
    assert metrics["agreement"] == metrics["accuracy"] > 0.5


def test_calibration_has_as_many_rounds_as_asked(generator: torch.Generator) -> None:
    samples = torch.rand(8, 6, generator=generator, dtype=torch.float64) * 2 - 1
    base = Config(neuron=Neuron(kind="logistic"))
    power = [
        evaluator(base=base, calibration=samples, calibration_rounds=rounds).bench()({})["power"]
        for rounds in (0, 2)
    ]
    assert power[0] != power[1]


def test_a_point_is_never_run_twice(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "s.sqlite"
    points = [{"x": 1}, {"x": 2}, {"x": 1}]
    run_sweep(points, Probe(log), path, progress=False)
    assert len(log.read_text().splitlines()) == 2
    table = run_sweep([{"x": 3}, *points], Probe(log), path, progress=False)
    assert len(log.read_text().splitlines()) == 3
    assert [row["square"] for row in table.rows] == [9.0, 1.0, 4.0, 1.0]
    table = run_sweep([{"x": 2}], Probe(log), path, progress=False)
    assert len(table) == 1
    assert len(log.read_text().splitlines()) == 3


def test_failures_are_rows_and_are_retried_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    points = [{"x": 1}, {"x": 2, "fail": True}]
    table = run_sweep(points, Probe(), path, progress=False)
    assert [row["status"] for row in table.rows] == ["done", "failed"]
    assert table.rows[1]["error"] == "ValueError: asked to"

    class Mended(Probe):
        def _run(self, point):
            return {"square": 4.0}

    assert run_sweep(points, Mended(), path, progress=False).rows[1]["status"] == "failed"
    table = run_sweep(points, Mended(), path, retry_failed=True, progress=False)
    assert [row["square"] for row in table.rows] == [1.0, 4.0]


def test_a_success_is_not_replaced(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.set_points([("k", {"x": 1})])
        store.record(Outcome("k", {"a": 1.0}, "", 0.1, "w"))
        store.record(Outcome("k", None, "late failure", 0.1, "w"))
        assert store.table().rows[0] == {"x": 1, "a": 1.0, "status": "done", "error": ""}


def test_only_one_run_writes_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path) as first:
        first.claim()
        with pytest.raises(DataError, match="another run is writing"):
            run_sweep([{"x": 1}], Probe(), path, progress=False)
    assert len(run_sweep([{"x": 1}], Probe(), path, progress=False).done) == 1


@pytest.mark.parametrize("content", [b"not a database, whatever its name says" * 40, None])
def test_other_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "s.sqlite"
    if content is None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE mine (x)")
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"s\.sqlite"):
        Store(path)


def test_names_with_quotes_and_dots_become_columns(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    run_sweep([{"x": 1, 'layers."0.2".neuron.kind': "tanh"}], Probe(), path, progress=False)
    with sqlite3.connect(path) as connection:
        cursor = connection.execute("SELECT * FROM sweep")
        names = [item[0] for item in cursor.description]
        row = dict(zip(names, cursor.fetchone(), strict=True))
    assert row['layers."0.2".neuron.kind'] == "tanh"


# Backends


def test_processes_give_the_same_table_and_survive_deaths(tmp_path: Path) -> None:
    log = tmp_path / "log"
    points = [{"x": x, "die": x == 5} for x in range(12)]
    table = run_sweep(points, Probe(log), tmp_path / "s.sqlite", backend=Processes(2),
                      progress=False)  # fmt: skip
    assert [row["status"] for row in table.rows] == ["done"] * 5 + ["failed"] + ["done"] * 6
    assert "died 3 times" in table.rows[5]["error"]
    assert [row["square"] for row in table.done] == [x * x for x in range(12) if x != 5]


def test_licences_cap_what_runs_at_once(tmp_path: Path) -> None:
    seen = []

    class Watch:
        def run(self, evaluator, tasks, *, at_once=None):
            seen.append(at_once)
            return InProcess().run(evaluator, tasks, at_once=at_once)

    for needed, licences in ((2, 5), (0, 1), (1, None)):
        run_sweep([{"x": 1}], Probe(licences=needed), tmp_path / f"{needed}.sqlite",
                  backend=Watch(), licences=licences, progress=False)  # fmt: skip
    assert seen == [2, None, None]
    with pytest.raises(ConfigError, match="runs 3 simulators"):
        run_sweep([{"x": 1}], Probe(licences=3), tmp_path / "x", licences=2, progress=False)
    assert evaluator(engine=Spice(HSpice(), workers=4)).licences() == 4
    assert evaluator(engine=HSpice()).licences() == 1
    assert evaluator(engine=Spice(NgSpice(), workers=4)).licences() == 0


def test_processes_hold_the_cap(tmp_path: Path) -> None:
    outcomes = Processes(2).run(
        Probe(pause=0.05), [Task(str(x), {"x": x}) for x in range(6)], at_once=1
    )
    assert len({outcome.worker for outcome in outcomes}) == 1


SCRIPT = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_sweep import Probe
from imac_torch.sweep import Dask, Processes, grid, run_sweep

def started(client):
    Path({directory!r}, "workers").write_text(json.dumps(list(client.run(os.getpid).values())))

if __name__ == "__main__":
    backend = Dask(workers=2, on_start=started) if {dask} else Processes(2)
    points = grid({{"x": range({count} // 2), "seed": [0, 1]}})
    run_sweep(points, Probe(Path({directory!r}, "log"), pause=0.01),
              Path({directory!r}, "s.sqlite"), backend=backend, progress=False)
"""


def start(directory: Path, *, dask: bool, count: int) -> subprocess.Popen[bytes]:
    text = SCRIPT.format(here=str(Path(__file__).parent), directory=str(directory), dask=dask,
                         count=count)  # fmt: skip
    script = directory / "run.py"
    script.write_text(textwrap.dedent(text))
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(script)], env=environment)


def wait_for_rows(path: Path, count: int, process: subprocess.Popen[bytes]) -> int:
    while True:
        found = 0
        if path.exists():
            with sqlite3.connect(path) as connection:
                try:
                    found = connection.execute("SELECT count(*) FROM results").fetchone()[0]
                except sqlite3.OperationalError:  # its tables are not there yet
                    found = 0
        if found >= count:
            return found
        assert process.poll() is None, "the sweep ended too early"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "dask", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["processes", "dask"]
)
def test_killed_twice_and_resumed_the_table_is_the_uninterrupted_one(
    tmp_path: Path, dask: bool
) -> None:
    if dask:
        pytest.importorskip("distributed")
    count, path = 200, tmp_path / "s.sqlite"
    run = start(tmp_path, dask=dask, count=count)
    before = wait_for_rows(path, 30, run)
    if dask:  # first kill: one worker
        victim = json.loads((tmp_path / "workers").read_text())[0]
        os.kill(victim, signal.SIGKILL)
        before = wait_for_rows(path, before + 40, run)
    run.send_signal(signal.SIGKILL)  # second kill: the whole run
    run.wait()
    with sqlite3.connect(path) as connection:
        recorded = {key for (key,) in connection.execute("SELECT key FROM results")}
    assert before <= len(recorded) < count
    time.sleep(1.0)  # workers notice that their run is gone
    log = tmp_path / "log"
    at_kill = len(log.read_text().splitlines())
    whole = grid({"x": range(count // 2), "seed": [0, 1]})
    again = run_sweep(whole, Probe(log), path, progress=False)
    again.to_csv(tmp_path / "s.csv")
    lines = log.read_text().splitlines()
    # Nothing recorded is run again: the second run evaluates exactly what was missing.
    assert sorted(lines[at_kill:]) == sorted(set(lines) - recorded)
    # What the kills cost is what was under way: two workers with two points each, per kill.
    assert len(lines) - count <= 4 * (2 if dask else 1)
    plain = run_sweep(whole, Probe(), tmp_path / "plain.sqlite", progress=False)
    plain.to_csv(tmp_path / "plain.csv")
    assert (tmp_path / "s.csv").read_text() == (tmp_path / "plain.csv").read_text()


# Fronts, pages, search, files


def test_the_front_equals_its_definition(generator: torch.Generator) -> None:
    values = torch.randint(0, 6, (60, 3), generator=generator).tolist()
    rows = [{"a": a, "b": b, "c": c} for a, b, c in values]
    front = pareto_front(rows, {"a": "max", "b": "min", "c": "max"})

    def beats(p, q):
        no_worse = p["a"] >= q["a"] and p["b"] <= q["b"] and p["c"] >= q["c"]
        return no_worse and p != q

    assert front == [not any(beats(p, q) for p in rows) for q in rows]
    assert any(front)
    assert pareto_front([{"a": 1.0}, {}, {"a": float("nan")}], {"a": "min"}) == [True, False, False]


@pytest.mark.parametrize("objectives", [{}, {"a": "up"}, {"z": "min"}])
def test_wrong_objectives(objectives: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        pareto_front([{"a": 1}], objectives)


def test_the_page_shows_the_front_and_the_failures(tmp_path: Path) -> None:
    points = [{"x": x, "fail": x == 3} for x in range(5)]
    table = run_sweep(points, Probe(), tmp_path / "s.sqlite", progress=False)
    page = render_sweep(table, {"square": "max", "minus": "max"}, title="Two & goals")
    assert "Two &amp; goals" in page
    assert "1 of 5 points failed" in page
    chart = json.loads(re.search(r'/json">(.*)</script>', page)[1])
    drawn = [item["opacity"] for item in chart["data"] if item["opacity"] < 1]
    assert len(drawn) == 4
    assert drawn.count(0.95) == len(table.front({"square": "max", "minus": "max"}))
    own = re.sub(r'(?s)<script type="text/plain".*?</script>', "", page)
    assert "http" not in own.replace("http://www.w3.org", "")


def test_search_finds_the_front_and_goes_on_where_it_was(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = {"x": Range(-3, 3), "kind": Choices(("p", "q"))}
    goals = {"square": "min", "minus": "min"}
    log, path = tmp_path / "log", tmp_path / "s.sqlite"
    short = search(space, Probe(log), path, objectives=goals, trials=16, progress=False)
    assert len(short) == 16
    first = len(log.read_text().splitlines())
    longer = search(space, Probe(log), path, objectives=goals, trials=32, progress=False)
    assert [dict(row) for row in longer.rows[:16]] == [dict(row) for row in short.rows]
    evaluated = log.read_text().splitlines()
    assert len(set(evaluated)) == len(evaluated) > first
    # Minimal square and minimal -x conflict for x >= 0 only: that is the front.
    assert {row["x"] for row in longer.front(goals)} <= {0, 1, 2, 3}


def test_search_survives_points_that_are_no_configuration(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    table = search({"x": Choices((1, "invalid"))}, Probe(), tmp_path / "s.sqlite",
                   objectives={"square": "min"}, trials=8, progress=False)  # fmt: skip
    assert {row["status"] for row in table.rows} == {"done", "failed"}


def test_ranges_and_choices_are_checked() -> None:
    for wrong in ((1.0, 1.0, False), (0.0, 1.0, True)):
        with pytest.raises(ConfigError):
            Range(*wrong)
    with pytest.raises(ConfigError):
        Choices(())


FILE = """
[model]
source = "a:b"
[base]
imac_sim = true
[set]
"device.rlow" = 1e3
device.rhigh = 1e6
[grid]
"amplifier.gain" = [10, 20]
seed = [0, 1]
[search]
trials = 7
[search.space]
"device.rlow" = { low = 1e3, high = 1e5, log = true }
"crossbar.rows" = [16, 32]
"""


def test_files_say_what_the_sweep_is(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(FILE)
    read = read_sweep(path)
    assert read.points[1] == {"amplifier.gain": 10, "seed": 1}
    assert read.base(None).device == Memristor(rlow=1e3, rhigh=1e6)
    assert read.base(None).amplifier.gain == (30.0, 30.0, 10.0)
    assert read.space == {"device.rlow": Range(1e3, 1e5, True), "crossbar.rows": Choices((16, 32))}
    assert read.trials == 7


def test_time_is_measured_where_it_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    for text, wanted in (
        ("", False),
        ("[run]\ntiming = true", True),
        ('[objectives]\nlatency_worst = "min"', True),
        ('[objectives]\nenergy = "min"', False),
    ):
        path.write_text(f'[model]\nsource = "a:b"\n{text}\n')
        assert read_sweep(path).timing is wanted


def test_latency_in_a_table(tmp_path: Path) -> None:
    plain = evaluator(inputs=evaluator().inputs[:2], labels=evaluator().labels[:2])
    steps = TransientOptions(control=StepControl(tolerance=5e-4))
    timed = replace(plain, timing=TimingOptions(steps))
    point: dict[str, object] = {"amplifier.pole": 4e9}
    assert timed.key(point) != plain.key(point)
    points = [{**point, "timing.period": period} for period in (2e-9, 1.5e-10)]
    table = run_sweep(points, timed, tmp_path / "s.sqlite", progress=False)
    long, short = table.rows
    assert not set(TIMING_METRICS) & set(plain.bench()(point))
    assert set(TIMING_METRICS) <= set(table.metrics)
    network = convert(timed.model, configure(timed.base, points[0])).eval()
    measured = network.measure(timed.inputs, options=TimingOptions(steps, waveforms=0))
    assert long["latency_worst"] == pytest.approx(
        float(measured.latency.images.max()), rel=1e-9, abs=0.0
    )
    assert long["energy_switching"] == pytest.approx(
        float(measured.switching.total.mean()), rel=1e-6, abs=0
    )
    assert long["unsettled"] == 0.0 < short["unsettled"]
    # The circuit is the same, however often it is sampled: only crossings are interpolated anew.
    assert short["latency_worst"] == pytest.approx(long["latency_worst"], rel=2e-2, abs=0.0)
    front = table.front({"latency_worst": "min", "energy": "min"})
    assert short in front
    page = render_sweep(table, {"latency_worst": "min", "energy_switching": "min"})
    assert quantity(min(row["latency_worst"] for row in table.rows), "s") in page


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[grid]", "[girds]", "girds"),
        ('source = "a:b"', "", "source: Field required"),
        ("[model]", "[model]\nwieghts = 1", "wieghts"),
        ("seed = [0, 1]", "seed = 3", "list of values"),
        ("trials = 7", "trials = 0", "trials"),
        ("high = 1e5, ", "", "low"),
        ("[grid]", "[grid", "not valid TOML"),
        ("[grid]", "[run]\ntiming = 1\n[grid]", "timing: .*bool"),
        ("[grid]", '[run]\ntiming = false\n[objectives]\nlatency = "min"\n[grid]', "latency"),
    ],
)
def test_mistakes_in_files_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(FILE.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read_sweep(path)
