"""What is said about memory is near what is taken, and what does not fit is refused at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_networks import CONTINUOUS, mlp, signs
from torch import nn

import imac_torch as imac
from imac_torch.errors import SolverError, SolverMemoryError
from imac_torch.numeric import budget

NETWORK = imac.convert(nn.Sequential(nn.Linear(6, 4)), CONTINUOUS)
GIB = 2**30


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks of memory need Linux's proc"
)
def test_estimates_are_near_peaks() -> None:
    """Every formula, at sizes whose peaks stand out from the process's own some MB."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("peaks.py"))],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(run.stdout)
    assert len(found) == 12
    for name, (estimated, measured) in found.items():
        assert measured / 3 < estimated < 3 * measured, (name, estimated, measured)


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
    stages = NETWORK.timing().stages
    other = imac.convert(nn.Sequential(nn.Linear(6, 4)), CONTINUOUS)
    free(monkeypatch, 100)
    with pytest.raises(SolverMemoryError, match="arrays"):
        other(inputs)
    with pytest.raises(SolverMemoryError, match="fewer images"):
        NETWORK.engine.solve(prepared, NETWORK.voltages(inputs))
    with pytest.raises(SolverMemoryError, match="keep_outputs"):
        run.run(inputs, samples=10_000, keep_outputs=True)
    with pytest.raises(SolverMemoryError, match="map"):
        imac.ir_drop.cell_voltages(crossbar, torch.zeros(2, 7, dtype=torch.float64))
    from imac_torch.transient.network import solve_transient

    with pytest.raises(SolverMemoryError, match="fewer sequences"):
        solve_transient(stages, NETWORK.voltages(inputs)[:, None], NETWORK.config.timing)


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

    def spy(engine, prepared, batch, *, power):
        sizes.append(len(batch))
        return inner(engine, prepared, batch, power=power)

    monkeypatch.setattr(type(network.engine), "_solve", spy)
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
        "map": lambda: imac.ir_drop.cell_voltages(
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
        lambda: imac.verify(NETWORK, EMPTY),
        lambda: imac.transient_verification.verify_transient(NETWORK, EMPTY),
    ]
    for work in nothing:
        with pytest.raises(imac.ImacError, match=r"no |at least one|must be"):
            work()
    assert issubclass(SolverMemoryError, SolverError)
