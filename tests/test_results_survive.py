"""What was computed is on disk, whatever becomes of the terminal, the loader or the process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn
from typer.testing import CliRunner

import imac_torch as imac
from imac_torch.base.files import LOCK
from imac_torch.cli import app, commands, main
from imac_torch.errors import DataError
from imac_torch.reports.report import Report

SOURCE = """
import signal, time
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import Dataset

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2))

class Samples(Dataset):
    def __init__(self, fails=None, waits=0.0, interrupted=False):
        self.fails, self.waits, self.interrupted = fails, waits, interrupted
    def __len__(self):
        return 6
    def __getitem__(self, k):
        if k == self.fails:
            raise ValueError("sample [/bold] cannot be read")
        if self.waits and k == 2:  # two samples are done
            Path("reached").touch()
        if self.interrupted and k == 2:
            signal.raise_signal(signal.SIGINT)
        time.sleep(self.waits)
        return torch.full((3,), k / 6), k % 2

whole = Samples()
broken = Samples(fails=4)
slow = Samples(waits=0.5)
interrupted = Samples(interrupted=True)
"""
FIXED = ("--set", "neuron.kind=logistic", "--set", 'mapping.levels="continuous"', "--quiet")


def command(place: Path, *words: str) -> list[str]:
    (place / "own_model.py").write_text(SOURCE)
    return [sys.executable, "-m", "imac_torch", *words]


def environment(**more: str) -> dict[str, str]:
    path = str(Path(imac.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def simulate(data: str, output: str, *words: str) -> tuple[str, ...]:
    return ("simulate", "own_model:model", "--data", f"own_model:{data}", "-o", output, *FIXED,
            *words)  # fmt: skip


def samples_of(directory: Path) -> int:
    content = json.loads((directory / "report.json").read_text())
    assert (directory / "report.html").is_file()
    return int(content["figures"]["samples"])


def in_process(
    monkeypatch: pytest.MonkeyPatch, place: Path, stdout: TextIO, *words: str
) -> tuple[int, str]:
    """The program's own entry, here: code with which it exits, and standard error."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", command(place, *words)[2:])
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", errors := io.StringIO())
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.modules.pop("own_model", None)
    return int(ended.value.code or 0), errors.getvalue()


def test_a_full_disk_behind_standard_output_costs_the_text_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        code, errors = in_process(monkeypatch, tmp_path, full, *simulate("whole", "run [/red]"))
    assert code == 7, errors
    assert "No space left" in errors
    assert samples_of(tmp_path / "run [/red]") == 6


def test_ascii_terminals_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    code, errors = in_process(monkeypatch, tmp_path, ascii_only, *simulate("whole", "ascii"))
    assert code == 0, errors
    assert samples_of(tmp_path / "ascii") == 6
    ascii_only.seek(0)
    assert "uW" in ascii_only.read()


def test_closed_pipes_lose_nothing(tmp_path: Path) -> None:
    """In a process of its own: Python flushes standard output once more when it ends."""
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        command(tmp_path, *simulate("whole", "pipe")), cwd=tmp_path, env=environment(),
        stdout=writing, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(writing)
    assert run.returncode == 0, run.stderr
    assert samples_of(tmp_path / "pipe") == 6


def test_a_loader_that_fails_midway_leaves_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.register(app)
    monkeypatch.chdir(tmp_path)
    words = command(tmp_path, *simulate("broken", "run", "--testnum-per-batch", "2"))[3:]
    run = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    sys.modules.pop("own_model", None)
    assert run.exit_code == 3, run.output
    assert "Traceback" not in run.output
    assert "sample [/bold] cannot be read" in run.output
    assert "4 samples were finished before" in run.output
    assert samples_of(tmp_path / "run") == 4
    assert "ValueError" in Report.load(tmp_path / "run").stopped


def test_a_run_that_is_interrupted_leaves_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may switch it off
    try:
        words = simulate("interrupted", "run", "--testnum-per-batch", "1")
        code, errors = in_process(monkeypatch, tmp_path, io.StringIO(), *words)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130, errors
    assert 0 < samples_of(tmp_path / "run") < 6


def test_a_run_that_is_ended_leaves_a_report(tmp_path: Path) -> None:
    run = subprocess.Popen(
        command(tmp_path, *simulate("slow", "run", "--testnum-per-batch", "1")),
        cwd=tmp_path, env=environment(PYTHONUNBUFFERED="1"), stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stderr is not None
    while run.poll() is None and not (tmp_path / "reached").exists():
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    run.wait(30)
    assert run.returncode == 130
    assert 0 < samples_of(tmp_path / "run") < 6


def test_an_error_of_the_loader_carries_the_finished_samples() -> None:
    torch.manual_seed(0)
    config = imac.Config(
        neuron=imac.Neuron(kind="logistic"), mapping=imac.WeightMapping(levels="continuous")
    )
    network = imac.convert(nn.Sequential(nn.Linear(3, 2)), config)
    whole = [(torch.full((2, 3), k / 4), torch.tensor([0, 1])) for k in range(3)]

    def loader(error: BaseException) -> Iterator[tuple[Tensor, Tensor]]:
        yield from whole[:2]
        raise error

    expected = imac.evaluate(network, whole[:2], progress=False)
    with pytest.raises(DataError, match="4 samples were finished before") as caught:
        imac.evaluate(network, loader(OSError("gone")), progress=False)
    assert isinstance(caught.value.report, Report)
    assert torch.equal(caught.value.report.outputs, expected.outputs)
    assert "STOPPED" in str(caught.value.report)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        imac.evaluate(network, loader(KeyboardInterrupt()), progress=False)
    found = interrupted.value.report  # type: ignore[attr-defined]
    assert torch.equal(found.outputs, expected.outputs)
    with pytest.raises(DataError) as first:  # nothing was finished
        imac.evaluate(network, iter([whole[0][0]]), progress=False)
    assert first.value.report is None


def test_two_runs_do_not_share_a_directory(tmp_path: Path) -> None:
    """The second is refused before any work; a run that fails leaves no directory."""
    commands.register(app)
    place = tmp_path / "run"
    words = ["simulate", "nothing:at_all", "--data", "digits", "-o", str(place)]
    assert "in use" not in CliRunner().invoke(app, words).output
    assert not place.exists()
    place.mkdir()
    config = imac.Config(neuron=imac.Neuron(kind="logistic"))
    network = imac.convert(nn.Sequential(nn.Linear(3, 2)), config)
    report = imac.evaluate(network, [(torch.zeros(2, 3), torch.zeros(2).long())], progress=False)
    with FileLock(place / LOCK):
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 3 and "in use by another run" in " ".join(found.output.split())
        with pytest.raises(DataError, match="in use by another run"):
            report.save(place)
    report.save(place)
    assert sorted(item.name for item in place.iterdir()) == ["report.json", "report.safetensors"]
