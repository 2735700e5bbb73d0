"""Every command that writes, ended at a random moment; then again, until it has what it wants."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

import imac_torch as imac
from fuzz import samples
from fuzz.commands import LOGISTIC, project
from fuzz.harness import BAD, CLEAR, RAN, Outcome, WrongAnswer, attempt
from fuzz.processes import command
from fuzz.simulators import GOOD, stand_in, write_answers
from imac_torch.cli.exits import ExitCode
from imac_torch.config import Config
from imac_torch.conversion.storage import load
from imac_torch.reports.report import Report

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SETTINGS = imac.NetlistSettings(analysis="dc", images_per_netlist=2)


@dataclass(frozen=True)
class Job:
    """A command that writes.

    Attributes:
        arguments: The command.
        same: Raises where a directory does not hold what another one holds.
        whole: Files that are there completely or not at all, with what reads them.
        kept: What is on disk already and must be there, unchanged, after the next run.
    """

    arguments: tuple[str, ...]
    same: Callable[[Path, Path], None]
    whole: dict[str, Callable[[Path], object]] = field(default_factory=dict)
    kept: Callable[[Path], set[object]] = lambda place: set()


def _bytes(*names: str) -> Callable[[Path, Path], None]:
    def same(place: Path, right: Path) -> None:
        for name in names:
            if (place / name).read_bytes() != (right / name).read_bytes():
                raise WrongAnswer(f"{name} is another one than without the kill")

    return same


def _report(place: Path, right: Path) -> None:
    found, expected = Report.load(place / "run"), Report.load(right / "run")
    count = len(found.labels)
    if count != len(expected.labels) and not getattr(found, "stopped", ""):
        raise WrongAnswer(f"a report of {count} of {len(expected.labels)} samples does not say so")
    for name in ("outputs", "predictions", "labels"):
        if not torch.equal(getattr(found, name), getattr(expected, name)[:count]):
            raise WrongAnswer(f"{name} of the report are others than without the kill")
    if not (place / "run/report.html").is_file():
        raise WrongAnswer("a report without its page")


def _netlists(place: Path, right: Path) -> None:
    names = sorted(str(p.relative_to(right)) for p in (right / "deck").rglob("*") if p.is_file())
    _bytes(*names)(place, right)


def _swept(name: str) -> Callable[[Path], set[object]]:
    def rows(place: Path) -> set[object]:
        path = place / name
        if not path.is_file():
            return set()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            try:
                return set(connection.execute("SELECT * FROM results WHERE status = 'done'"))
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return set()
                raise

    return rows


def _found(place: Path, right: Path) -> None:
    """A search goes on from where it was; that it finished, and how many points, is what counts."""
    count = len(_swept("found/search.sqlite")(place))
    if count < 1 or not (place / "found/search.csv").is_file():
        raise WrongAnswer(f"a finished search has {count} results")


JOBS: dict[str, Job] = {
    "config": Job(
        ("config", "--imac-sim", "-o", "new.toml"), _bytes("new.toml"), {"new.toml": Config.load}
    ),
    "convert": Job(
        ("convert", "mine:build", "-o", "new.safetensors", *LOGISTIC), _bytes("new.safetensors"),
        {"new.safetensors": load},
    ),
    "simulate": Job(
        ("simulate", "n.safetensors", "--data", "mine:data", "-q", "--testnum-per-batch", "1", "-o",
         "run"), _report, {"run/network.safetensors": load},
    ),
    "simulate, ngspice": Job(
        ("simulate", "n.safetensors", "--data", "mine:data", "-q", "-n", "6", "-o", "run",
         "--engine", "ngspice", "--testnum-per-batch", "2", "--run-directory", "runs"), _report,
    ),
    "report": Job(("report", "done", "-o", "page.html"), _bytes("page.html")),
    "netlist": Job(
        ("netlist", "n.safetensors", "--data", "mine:data", "--testnum-per-batch", "1", "-o",
         "deck"), _netlists,
    ),
    "characterize": Job(
        ("characterize", *LOGISTIC, "-o", "curve.csv"), _bytes("curve.csv"),
    ),
    "sweep": Job(
        ("sweep", "s.toml", "-q", "-o", "swept"), _bytes("swept/sweep.csv"),
        kept=_swept("swept/sweep.sqlite"),
    ),
    "search": Job(
        ("search", "s.toml", "-q", "-o", "found", "--batch", "2"), _found,
        kept=_swept("found/search.sqlite"),
    ),
}  # fmt: skip


@cache
def simulator() -> str:
    """A directory with a stand-in for ngspice that knows the netlists of the job."""
    place = samples.place() / "bin"
    place.mkdir()
    scope: dict[str, object] = {}
    exec(samples.MODULE, scope)
    inputs, labels = scope["data"]().tensors  # type: ignore[operator]
    network = load(_right("files") / "n.safetensors")
    batches = [(inputs[:6], labels[:6])]
    deck = imac.compile(network, batches, samples.place() / "job", settings=SETTINGS)
    answers = samples.place() / "job_answers"
    write_answers(deck, answers, 0)
    body = "sh -c 'echo $$ >> pids; exec sleep 0.15'\n" + GOOD
    stand_in(place / "ngspice", body, answers)
    return str(place)


@cache
def _right(name: str) -> Path:
    """A directory where a job has run without a kill; ``files``: only what all of them need."""
    place = samples.place() / f"right_{name}"
    place.mkdir()
    project(place)
    if name != "files":
        started = time.monotonic()
        forked = command(list(JOBS[name].arguments), place, path=_path(name))
        if forked.wait() != 0:
            raise WrongAnswer(f"{name} does not even run: {forked.text[-2000:]}")
        (place / "seconds").write_text(str(time.monotonic() - started))
    return place


def _path(name: str) -> str:
    return simulator() if "ngspice" in name else ""


class Kills:
    """One command, ended once or several times, then run to its end."""

    name = "kills"

    def __init__(self, jobs: tuple[str, ...] = tuple(JOBS), separate: float = 0.02) -> None:
        self.jobs = jobs
        self.separate = separate

    def attack(self, rng: random.Random, place: Path) -> list[Outcome]:
        name = rng.choice(self.jobs)
        job = JOBS[name]
        moments: list[str] = []

        def action() -> None:
            right = _right(name)
            project(place)
            seconds = float((right / "seconds").read_text())
            kept: set[object] = set()
            for _ in range(rng.choice((1, 2, 5))):
                number = rng.choice(SIGNALS)
                moment = rng.uniform(0.0, 1.1 * seconds)
                code = self._kill(rng, list(job.arguments), place, number, moment, _path(name))
                moments.append(f"{number.name} after {moment:.3f} s: {code}")
                if code not in (0, 130, -number, ExitCode.INPUT):
                    raise WrongAnswer(f"ended with {code}: {_said(place)}")
                _check(place, job, kept)
                kept |= job.kept(place)
            forked = command(list(job.arguments), place, "last.txt", _path(name))
            code = forked.wait()
            refused = code == ExitCode.INPUT and (
                "exists" in forked.text or "holds a report already" in forked.text
            )
            if code != 0 and not refused:
                raise WrongAnswer(f"cannot be finished, {code}: {forked.text[-2000:]}")
            job.same(place, right)
            _check(place, job, kept)

        found = attempt(name, action, seconds=60)
        text = "\n".join([*moments, found.text])
        kind = found.kind if found.kind == BAD else RAN
        return [Outcome(kind, name, text)] * max(1, len(moments))

    def _kill(
        self, rng: random.Random, arguments: list[str], place: Path, number: int, moment: float,
        path: str,
    ) -> int:  # fmt: skip
        if rng.random() >= self.separate or path:
            forked = command(arguments, place, path=path)
            forked.end_by(number, moment)
            code = forked.wait()
        else:  # from the first instruction on
            root = str(Path(imac.__file__).parent.parent)
            with (place / "log.txt").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "imac_torch", *arguments], stdout=log, stderr=log,
                    cwd=place, env={**os.environ, "PYTHONPATH": root},
                )  # fmt: skip
                time.sleep(rng.uniform(0, 6))
                process.send_signal(number)
                code = process.wait()
                code = 130 if code in (-number, 1) else code  # Python itself, still importing
        _no_children(place)
        return code


class FullDisks:
    """A command on a disk without room (a mounted one, or a limit of sizes), then on one with."""

    name = "full disks"

    def __init__(self, jobs: tuple[str, ...] = tuple(JOBS)) -> None:
        self.jobs = jobs

    def attack(self, rng: random.Random, place: Path) -> list[Outcome]:
        name = rng.choice(self.jobs)
        job = JOBS[name]

        def action() -> None:
            right = _right(name)
            written = sum(p.stat().st_size for p in right.rglob("*") if p.is_file())
            room = rng.choice((0, 4096, rng.randrange(written), rng.randrange(written // 10)))
            log = str(place / "log.txt")
            with _disk(place / "disk") as full:
                project(full)
                kept = job.kept(full)
                if os.path.ismount(full):
                    _fill(full, room)
                    forked = command(list(job.arguments), full, log, _path(name))
                else:
                    forked = command(list(job.arguments), full, log, _path(name), room)
                code = forked.wait()
                _judge_full(code, forked.text)
                (full / "filler").unlink(missing_ok=True)
                _check(full, job, kept)
                kept |= job.kept(full)
                forked = command(list(job.arguments), full, str(place / "last.txt"), _path(name))
                code = forked.wait()
                if code != 0 and "exists" not in forked.text and "already" not in forked.text:
                    raise WrongAnswer(f"cannot be finished, {code}: {forked.text[-2000:]}")
                job.same(full, right)
                _check(full, job, kept)

        found = attempt(name, action, seconds=60)
        return [found if found.kind == BAD else Outcome(CLEAR, name, found.text)]


def _judge_full(code: int, text: str) -> None:
    clear = (ExitCode.INPUT, ExitCode.UNSOLVED, ExitCode.SIMULATOR, ExitCode.OUTPUT)
    if code not in (0, *clear) or "Traceback" in text:
        raise WrongAnswer(f"a full disk gives {code}: {text[-2000:]}")


@contextlib.contextmanager
def _disk(place: Path) -> Iterator[Path]:
    """A disk of its own where this process may mount one; else a directory."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "none", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def _fill(place: Path, room: int) -> None:
    """Leave so many bytes."""
    status = os.statvfs(place)
    with (place / "filler").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(1, status.f_bavail * status.f_frsize - room))


def _said(place: Path) -> str:
    return (place / "log.txt").read_text(errors="replace")[-2000:]


def _check(place: Path, job: Job, kept: set[object]) -> None:
    for name, read in job.whole.items():
        if (place / name).is_file():
            read(place / name)
    lost = kept - job.kept(place)
    if lost:
        raise WrongAnswer(f"{len(lost)} results are lost, the first: {next(iter(lost))}")


def _no_children(place: Path) -> None:
    """Simulators end with the process that started them, within seconds."""
    pids = [int(w) for p in place.rglob("pids") for w in p.read_text().split() if w.isdigit()]
    end = time.monotonic() + 20
    while any(_lives(pid) for pid in pids):
        if time.monotonic() > end:
            raise WrongAnswer("a simulator lives on after its parent")
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep")
    except OSError:
        return False

