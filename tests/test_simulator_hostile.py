"""Simulators that hang, fork, flood and lie: they end when we end, and cost one batch at most."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import imac_torch as imac
from imac_torch.errors import SimulatorError, SimulatorTimeoutError
from imac_torch.simulator import NgSpice, SimulationJob, process, run_jobs, run_process

Fake = Callable[[str], str]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Makes an executable that answers like ngspice and then runs some lines of shell."""

    def make(body: str) -> str:
        path = tmp_path / "fake_ngspice"
        text = f"#!/bin/sh\n[ \"$1\" = --version ] && {{ echo ngspice-39; exit; }}\n{body}\n"
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    return make


def job(directory: Path, name: str = "deck.cir") -> SimulationJob:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text("* a deck\n")
    return SimulationJob(directory / name, waveform_files=(f"{Path(name).stem}.raw",))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


# A child that ignores polite signals, keeps every stream open and, on Linux, leaves the group.
AWAY = "setsid " if sys.platform == "linux" else ""
STUBBORN = (
    "(trap '' TERM INT HUP; echo $$ > leader; "
    f"exec {AWAY}sh -c 'echo $$ > child; exec sleep 600') &\n"
)


def test_a_child_that_outlives_its_leader_is_ended(fake: Fake, tmp_path: Path) -> None:
    place = tmp_path / "run"
    program = fake(STUBBORN + "while [ ! -s child ]; do sleep 0.1; done; exit 0")
    simulator = NgSpice(program, timeout=60)
    with pytest.raises(SimulatorError):
        simulator.run(job(place))
    child = int((place / "child").read_text())
    assert wait_for(lambda: not alive(child))


def test_a_group_that_ignores_the_polite_signal_is_ended_at_the_time_limit(
    fake: Fake, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    simulator = NgSpice(fake("trap '' TERM\n" + STUBBORN + "while :; do sleep 1; done"), timeout=1)
    with pytest.raises(SimulatorTimeoutError):
        simulator.run(job(place))
    assert wait_for(lambda: not alive(int((place / "child").read_text())))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_simulators_end_with_the_process_that_started_them(
    number: signal.Signals, fake: Fake, tmp_path: Path
) -> None:
    program = fake(STUBBORN + "while :; do sleep 1; done")
    places = [tmp_path / name for name in ("one", "two")]
    for place in places:
        job(place)
    code = f"""
    from pathlib import Path
    from imac_torch.simulator import NgSpice, SimulationJob, run_jobs
    jobs = [SimulationJob(Path(name) / "deck.cir") for name in {list(map(str, places))}]
    run_jobs(NgSpice({program!r}, timeout=600), jobs, workers=2)
    """
    ours = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE)
    files = [place / "child" for place in places]
    assert wait_for(lambda: all(file.exists() and file.read_text().strip() for file in files), 240)
    children = [int(file.read_text()) for file in files]
    assert all(map(alive, children))
    ours.send_signal(number)
    ours.wait(120)
    assert wait_for(lambda: not any(map(alive, children)))
    assert ours.returncode != 0


def test_a_flood_is_ended_and_kept_out_of_memory(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PRINTED", 2**22)
    with pytest.raises(SimulatorError, match="printed more than 4 MiB") as caught:
        NgSpice(fake("exec yes"), timeout=60).run(job(tmp_path / "run"))
    assert len(caught.value.stdout) < 2**21
    with pytest.raises(SimulatorError, match=r"more than 4 MiB into deck\.log"):
        NgSpice(fake("exec yes > deck.log"), timeout=60).run(job(tmp_path / "log"))


def test_long_output_keeps_its_ends(tmp_path: Path) -> None:
    code = "print('first'); print('x' * 3_000_000); print('last')"
    found = run_process([sys.executable, "-c", code], cwd=tmp_path, timeout=60)
    assert found.stdout.startswith("first\n")
    assert found.stdout.endswith("last\n")
    assert "left out" in found.stdout
    assert len(found.stdout) < 2**21


def test_a_result_that_is_a_pipe_is_no_result(fake: Fake, tmp_path: Path) -> None:
    program = fake('echo "ngspice-39 done" > deck.log; mkfifo deck.raw')
    (outcome,) = run_jobs(NgSpice(program, timeout=60), [job(tmp_path / "run")])
    assert "did not write" in str(outcome.error)


@pytest.fixture(scope="module")
def network() -> imac.IMACNetwork:
    torch.manual_seed(0)
    config = imac.Config(
        neuron=imac.Neuron(kind="logistic"), mapping=imac.WeightMapping(levels="continuous")
    )
    return imac.convert(nn.Sequential(nn.Linear(3, 2)), config)


DAMAGE = {
    "garbage": "head -c 300 /dev/urandom > $1",
    "empty": ": > $1",
    "cut short": "head -c 200 $1 > $1.part; mv $1.part $1",
    "another variable": "sed -i 's/v(y1)/v(yy)/' $1",
    "more points than there are": "sed -i 's/No. Points: [0-9]*/No. Points: 99999999999/' $1",
    "a negative number of points": "sed -i 's/No. Points: [0-9]*/No. Points: -1/' $1",
    "a pipe": "rm $1; mkfifo $1",
    "a directory": "rm $1; mkdir $1; touch $1/inside",
    "missing": "rm $1",
}


@pytest.mark.parametrize("analysis", ["dc", "transient"])
def test_a_malformed_result_is_one_failed_batch_that_is_run_again(
    ngspice: Path, network: imac.IMACNetwork, fake: Fake, tmp_path: Path, analysis: str
) -> None:
    samples = [(torch.full((len(DAMAGE) + 1, 3), 0.5), torch.zeros(len(DAMAGE) + 1).long())]
    settings = imac.NetlistSettings(analysis=analysis, images_per_netlist=1)
    deck = imac.compile(network, samples, tmp_path / "run", settings=settings)
    cases = "\n".join(
        f"*/batch_{number:05d}) set -- $(ls *.raw); {command};;"
        for number, command in enumerate(DAMAGE.values(), start=1)
    )
    program = fake(f'{ngspice} "$@" || exit\n[ -e ../honest ] || case $PWD in\n{cases}\nesac')
    simulator = NgSpice(program, timeout=60)
    found = deck.run(simulator, progress=False)
    assert found.solution.converged.tolist() == [True] + [False] * len(DAMAGE)
    assert len(found.errors) == len(DAMAGE)
    for number, error in enumerate(found.errors, start=1):
        assert f"batch_{number:05d}" in str(error)
    (tmp_path / "run" / "honest").touch()
    again = deck.run(simulator, progress=False)
    assert not again.errors
    assert torch.isfinite(again.solution.outputs).all()
    assert again.outcomes[0].result is not None
    assert again.outcomes[0].result.resumed


def test_nothing_is_left_over(tmp_path: Path) -> None:
    run_process(["true"], cwd=tmp_path, timeout=60)
    assert not [child for child in _children() if "read -r rest" in child]


def _children() -> list[str]:
    found = []
    for path in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for pid in path.read_text().split():
            found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    return found
