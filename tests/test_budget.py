"""Memory and time are known before: estimates near what is taken, refusals of what does not fit."""

from __future__ import annotations

import os
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch
from peaks import estimated, measured, resident
from small_networks import CONTINUOUS, mlp, signs
from torch import nn

import imac_torch as imac
from imac_torch.base import progress
from imac_torch.dc import native
from imac_torch.dc.ir_drop import cell_voltages
from imac_torch.elimination import choice
from imac_torch.elimination.blocks import Termination
from imac_torch.elimination.choice import eliminate
from imac_torch.errors import SolverError, SolverMemoryError
from imac_torch.numeric import budget, forecast
from imac_torch.results.latency import REFINEMENT, measure_latency
from imac_torch.study.transient_verification import verify_transient
from imac_torch.transient.integrator import StepControl
from imac_torch.transient.network import solve_transient

NETWORK = imac.convert(nn.Sequential(nn.Linear(6, 4)), CONTINUOUS)
GIB = 2**30


WIRES = Termination(
    *(torch.tensor(v, dtype=torch.float64) for v in (10.0, 10.0, 1e4, 1e4, 0.5))
)


def near(needed: int, peak: int) -> None:
    assert peak / 3 < needed < 3 * peak, (needed, peak)


def sigmoids(*sizes: int, array: int, capacitance: bool = False) -> imac.IMACNetwork:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Sigmoid()]
    return imac.convert(
        nn.Sequential(*layers[:-1]),
        CONTINUOUS.replace(
            crossbar=imac.Crossbar(rows=array, columns=array),
            interconnect=imac.Interconnect(capacitance=capacitance),
            timing=imac.Timing(period=1e-8, transition=1e-9),
        ),
    )


def elimination(rows: int, columns: int, blocks: int, method: str, kernel: str, *, grad=False):
    cells = torch.full((blocks, rows, columns), 1e-5, dtype=torch.float64, requires_grad=grad)

    def work() -> object:
        ports, _ = eliminate(cells, cells, WIRES, method=method, kernel=kernel)
        if grad:
            sum(item.sum() for item in vars(ports).values()).backward()
        return ports

    return work


@pytest.mark.parametrize(
    ("rows", "columns", "blocks", "method", "kernel", "grad"),
    [(48, 16, 3, "rows", "torch", False), (64, 64, 1, "tiles", "auto", False),
     (32, 128, 2, "tiles", "auto", False), (24, 16, 3, "rows", "torch", True),
     (16, 16, 1, "tiles", "auto", True)],
)  # fmt: skip
def test_memory_of_eliminations(rows, columns, blocks, method, kernel, grad) -> None:
    work = elimination(rows, columns, blocks, method, kernel, grad=grad)
    near(estimated(work), measured(work))


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks of memory need Linux's proc"
)
def test_memory_of_compiled_eliminations() -> None:
    """Taken inside of compiled code: 16 MB and more; the process's own changes are small."""
    pytest.importorskip("numba")
    for grad in (False, True):
        elimination(9, 8, 1, "rows", "numba", grad=grad)()  # compiled now
        work = elimination(512, 64, 1, "rows", "numba", grad=grad)
        near(estimated(work), resident(work))


@torch.no_grad()
def test_memory_of_maps_samples_and_images() -> None:
    network = sigmoids(23, 16, 12, array=12)
    layer = next(network.analog_layers()).matrix.crossbar()
    lines = torch.rand(20, 24, dtype=torch.float64)
    map_ = lambda: cell_voltages(layer, lines)  # noqa: E731
    near(estimated(map_), measured(map_))
    run = imac.MonteCarlo(network, imac.device_model("PCM"))
    voltages = network.voltages(signs(4, 23))
    each = 2**28 // len(next(run.chunks(2**28, 4, 2**28)))
    near(8 * each, measured(lambda: run.solve(range(8), voltages)))
    prepared, many = network.prepare(), network.voltages(signs(500, 23))
    needed = 500 * (budget.image_bytes(16, 24) + budget.image_bytes(12, 17))
    near(needed, measured(lambda: network.engine.solve(prepared, many)))


@torch.no_grad()
def test_memory_of_transients() -> None:
    network = sigmoids(23, 16, 12, array=24, capacitance=True)
    network.prepare()
    reduced = imac.TransientOptions(wires="reduced", control=StepControl(fixed=5e-9))
    near(*(found(lambda: prepared(network, reduced)) for found in (estimated, measured)))
    near(*(found(transient(network, reduced, 60)) for found in (estimated, measured)))
    exact = imac.TransientOptions(wires="exact", control=StepControl(fixed=5e-9))
    small = sigmoids(15, 12, array=16, capacitance=True)
    lines = prepared(small, exact)[0].lines
    steps = [1e-9 / k for k in range(1, budget.FACTORISATIONS + 1)]
    needed = budget.lines_bytes(1, 12, 16, 16, exact=True)
    near(needed, measured(lambda: [lines.matrices(step) for step in steps]))
    near(*(found(transient(small, exact, 40)) for found in (estimated, measured)))
    time = torch.linspace(0.0, 1e-8, 100, dtype=torch.float64)
    waves = torch.rand(100, 20, 8, dtype=torch.float64)
    needed = budget.latency_bytes(REFINEMENT * 100, 20, 8)
    near(needed, measured(lambda: measure_latency(time, waves, 1e-8)))


def prepared(network: imac.IMACNetwork, options: imac.TransientOptions):
    return network.timing(imac.TimingOptions(options)).layers


def transient(network: imac.IMACNetwork, options: imac.TransientOptions, count: int):
    inputs = network.voltages(signs(count, next(network.analog_layers()).in_features))
    layers = prepared(network, options)
    return lambda: solve_transient(
        layers, inputs[:, None], network.config.timing, options=options
    )


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_free_memory_knows_limits_of_containers(tmp_path: Path) -> None:
    assert budget.free_memory(root=tmp_path) is None
    write(tmp_path, "proc/meminfo", "MemTotal: 9000 kB\n\nMemAvailable:    4000 kB\n")
    assert budget.free_memory(root=tmp_path) == 4000 * 1024
    write(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    write(tmp_path, "sys/fs/cgroup/memory.current", "1000\n")
    assert budget.free_memory(root=tmp_path) == 4000 * 1024
    write(tmp_path, "sys/fs/cgroup/memory.max", "3000\n")
    assert budget.free_memory(root=tmp_path) == 2000
    write(tmp_path, "sys/fs/cgroup/memory.stat", "anon 10\ninactive_file 500\n")
    assert budget.free_memory(root=tmp_path) == 2500


def test_free_memory_knows_limits_of_batch_systems(tmp_path: Path) -> None:
    """A group within a group, versions 2 and 1: the tightest counts."""
    write(tmp_path, "proc/self/cgroup", "4:cpu:/\n3:memory:/user/job\n0::/slice/unit\n")
    write(tmp_path, "sys/fs/cgroup/slice/memory.max", "900")
    write(tmp_path, "sys/fs/cgroup/slice/memory.current", "100")
    assert budget.free_memory(root=tmp_path) == 800
    write(tmp_path, "sys/fs/cgroup/memory/user/memory.limit_in_bytes", "700")
    write(tmp_path, "sys/fs/cgroup/memory/user/memory.usage_in_bytes", "650")
    assert budget.free_memory(root=tmp_path) == 50
    write(tmp_path, "sys/fs/cgroup/memory/user/memory.usage_in_bytes", "750")
    assert budget.free_memory(root=tmp_path) == 0


def free(monkeypatch: pytest.MonkeyPatch, amount: int) -> None:
    monkeypatch.setattr(budget, "SMALL", 0)
    monkeypatch.setattr(budget, "free_memory", lambda *_: amount)


def test_the_error_names_both_amounts(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, GIB)
    budget.require_memory(GIB, "work", "less")
    with pytest.raises(SolverMemoryError, match=r"work takes about 4 GiB.* 1 GiB are free: less"):
        budget.require_memory(4 * GIB, "work", "less")
    assert budget.fitting(100, GIB // 7) == 7
    assert budget.fitting(3, 10) == 3
    assert budget.fitting(3, 2 * GIB) == 1


def test_what_does_not_fit_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = signs(2, 6)
    run = imac.MonteCarlo(NETWORK, imac.device_model("PCM"))
    prepared, crossbar = NETWORK.prepare(), next(NETWORK.analog_layers()).matrix.crossbar()
    layers = NETWORK.timing().layers
    other = imac.convert(nn.Sequential(nn.Linear(6, 4)), CONTINUOUS)
    free(monkeypatch, 100)
    with pytest.raises(SolverMemoryError, match="arrays"):
        other(inputs)
    with pytest.raises(SolverMemoryError, match="fewer images"):
        NETWORK.engine.solve(prepared, NETWORK.voltages(inputs))
    with pytest.raises(SolverMemoryError, match="keep_outputs"):
        run.run(inputs, samples=10_000, keep_outputs=True)
    with pytest.raises(SolverMemoryError, match="map"):
        cell_voltages(crossbar, torch.zeros(2, 7, dtype=torch.float64))
    with pytest.raises(SolverMemoryError, match="fewer sequences"):
        solve_transient(layers, NETWORK.voltages(inputs)[:, None], NETWORK.config.timing)


@torch.no_grad()
def test_what_can_be_split_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same results from as few images, or samples, at a time as fit."""
    network = imac.convert(mlp(6, 5, 3), CONTINUOUS)
    inputs = signs(8, 6)
    run = imac.MonteCarlo(network, imac.device_model("PCM"), seed=1)
    timed = network.timing()
    whole = network.solve(inputs).outputs
    samples = run.run(inputs, samples=4, keep_outputs=True).outputs
    measured = network.measure(inputs)
    each = budget.image_bytes(5, 7) + budget.image_bytes(3, 6)
    sizes: list[int] = []
    inner = type(network.engine)._solve

    def spy(engine, prepared, batch, *, power, noise=None):
        sizes.append(len(batch))
        return inner(engine, prepared, batch, power=power, noise=noise)

    monkeypatch.setattr(type(network.engine), "_solve", spy)
    monkeypatch.setattr(native, "FEW", 0)  # these would be answered without being split
    free(monkeypatch, 5 * each + 700)
    split = network.solve(inputs).outputs
    assert sizes == [5, 3]
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-9)
    free(monkeypatch, 30_000)
    assert len(list(run.chunks(4, 8))) > 1
    again = run.run(inputs, samples=4, keep_outputs=True).outputs
    torch.testing.assert_close(again, samples, rtol=0, atol=1e-9)
    free(monkeypatch, 300_000)
    timed.add(network.voltages(inputs))
    report = timed.report()
    assert len(report.steps) > 1
    torch.testing.assert_close(report.settled, measured.settled, rtol=0, atol=1e-9)
    free(monkeypatch, 100)
    alone = network.timing()
    alone.add(network.voltages(inputs))
    with pytest.raises(SolverMemoryError, match="1 sequence"):
        alone.report()


EMPTY, NONE = torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)


@pytest.mark.parametrize("work", ["forward", "solve", "samples", "map"])
def test_empty_batches_give_empty_results(work: str) -> None:
    run = imac.MonteCarlo(NETWORK, imac.device_model("PCM"))
    assert run.model.varies_by_cycle
    result = {
        "forward": lambda: NETWORK(EMPTY),
        "solve": lambda: NETWORK.solve(EMPTY).outputs,
        "samples": lambda: run.solve(range(2), NETWORK.voltages(EMPTY)).outputs[0],
        "map": lambda: cell_voltages(
            next(NETWORK.analog_layers()).matrix.crossbar(), torch.zeros(0, 7, dtype=torch.float64)
        ).cell[:, :, 0],
    }[work]()
    assert result.shape == (0, 4)


def test_analyses_of_nothing_say_so(tmp_path: Path) -> None:
    matched = imac.convert(
        nn.Sequential(nn.Linear(6, 4)),
        CONTINUOUS.replace(mapping=imac.WeightMapping(levels="continuous", scheme="matched")),
    )
    run = imac.MonteCarlo(NETWORK, imac.device_model("PCM"))
    timed = NETWORK.timing()
    timed.add(NETWORK.voltages(EMPTY))
    voltages = NETWORK.voltages(signs(2, 6))
    nothing = [
        lambda: NETWORK.transient(EMPTY),
        lambda: NETWORK.measure(EMPTY),
        timed.report,
        lambda: run.run(EMPTY, samples=2),
        lambda: run.run(EMPTY, NONE, samples=2),
        lambda: run.solve(range(0), voltages),
        lambda: imac.ablate(NETWORK, EMPTY),
        lambda: imac.ablate(NETWORK, EMPTY, NONE),
        lambda: imac.calibrate(matched, EMPTY),
        lambda: imac.calibrate(matched, []),
        lambda: imac.calibrate(matched, [EMPTY]),
        lambda: imac.compile(NETWORK, [], tmp_path),
        lambda: imac.compile(NETWORK, [(EMPTY, NONE)], tmp_path),
        lambda: imac.evaluate(NETWORK, [], progress=False),
        lambda: imac.evaluate(NETWORK, [(EMPTY, NONE)], progress=False),
        lambda: imac.evaluate(NETWORK, [], timing=True, progress=False),
        lambda: imac.verify_nodes(NETWORK, EMPTY),
        lambda: verify_transient(NETWORK, EMPTY),
    ]
    for work in nothing:
        with pytest.raises(imac.ImacError, match=r"no |at least one|must be"):
            work()
    assert issubclass(SolverMemoryError, SolverError)


def test_long_work_says_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a clock that is 10 s further at each look."""
    seconds = count(0.0, 10.0)
    monkeypatch.setattr(forecast, "clock", lambda: next(seconds))
    monkeypatch.setattr(choice, "LARGE", 0)
    caplog.set_level("INFO", "imac_torch")
    for rate in (1e3, 1e2):  # 2 blocks: 4·2·8·4³ operations, in 4 s, in 41 s
        monkeypatch.setattr(choice, "_rate", lambda *_, rate=rate: rate)
        elimination(8, 4, 2, "rows", "torch")()
    monkeypatch.setattr(choice, "_rate", lambda *_: 1e12)
    NETWORK.transient(signs(2, 6))  # 5 of 200 steps after 10 s
    run = imac.MonteCarlo(NETWORK, imac.device_model("PCM"))
    run.run(signs(2, 6), samples=4, memory=1)  # 1 image of 1 sample after 10 s
    run.solve(range(4), NETWORK.voltages(signs(2, 6)))  # 1 image of 4 after 10 s
    assert caplog.messages == [
        "eliminating 2 blocks of 8×4 cells will take about 41 s",
        "a transient of 1×2 periods will take about 6.7 min",
        "Monte Carlo of 4 samples will take about 1.3 min",
        "solving 4 samples will take about 20 s",
    ]


def test_long_eliminations_show_how_far_they_are(monkeypatch, capsys) -> None:
    """Below a bar around them, or where somebody asks; counted in blocks, or smallest tiles."""
    monkeypatch.setattr(choice, "LARGE", 0)
    monkeypatch.setattr(choice, "_rate", lambda *_: 1.0)
    told: list[int] = []
    inner = progress._task
    monkeypatch.setattr(progress, "_task", lambda *given: told.append(given[2]) or inner(*given))
    for method, kernel, done in (
        ("rows", "auto", "3/3 blocks"), ("rows", "torch", "3/3 blocks"),
        ("tiles", "auto", "24/24 tiles"),
    ):  # fmt: skip
        work = elimination(70, 33, 3, method, kernel)
        work()
        assert not capsys.readouterr().err
        with progress.asking():
            work()
        shown = capsys.readouterr().err
        assert "eliminating 70×33, " in shown
        assert done in shown
    with progress.progress_bar("all", 1, "layers"):
        work()
    assert told[-2:] == [1, 24]
    with progress.progress_bar("all", 1, "layers"):
        NETWORK.engine.prepare(NETWORK.segment.parts())
    assert told[-2:] == [1, 1]
    with progress.progress_bar("all", 1, "layers", shown=False):
        work()
    assert told[-1] == 1


def test_the_rate_of_a_machine_is_measured() -> None:
    assert choice._rate("rows", "torch") > 1e6
