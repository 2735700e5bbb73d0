"""What an attempt is, what may become of it, and how many of each there were."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import random
import resource
import shutil
import signal
import stat
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imac_torch.errors import ImacError

CLEAR, RAN, BAD = "clear error", "ran", "bad"

SECONDS = 10.0
"""Of processor time that one attempt may take; six times as much on the clock."""
MEMORY = 1.5e9
"""Bytes by which one attempt may raise the peak of the process."""
SPACE = 4 * 2**30
"""Bytes of addresses that a process under attack has beyond those of its libraries."""
LONGEST = 10_000
"""Characters of a message that somebody may still read."""


class WrongAnswer(Exception):  # noqa: N818 - the name says it
    """Something ran and gave what it should not have given."""


class _Endless(BaseException):
    """Not to be caught by the attacked code."""


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt on one target."""

    kind: str
    target: str
    text: str = ""


class Area(Protocol):
    """One side of the package under attack."""

    name: str

    def attack(self, rng: random.Random, place: Path) -> list[Outcome]:
        """One attempt, or a few; ``place`` is an empty directory, kept if one of them is bad."""


@dataclass
class Tally:
    """Counts of an area, and the first bad outcomes."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    note: str = ""

    def add(self, outcome: Outcome, where: str = "") -> None:
        self.counts.setdefault(outcome.target, Counter())[outcome.kind] += 1
        if outcome.kind == BAD:
            last = outcome.text.strip().splitlines()[-1:] or [""]
            self.bad.append(f"{where} {outcome.target}: {last[0][:300]}".strip())

    def total(self, kind: str | None = None) -> int:
        return sum(
            count
            for counter in self.counts.values()
            for name, count in counter.items()
            if kind in (None, name)
        )

    def save(self, path: Path) -> None:
        content = {"counts": self.counts, "bad": self.bad, "note": self.note}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content))
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Tally:
        content = json.loads(path.read_text())
        counts = {name: Counter(value) for name, value in content["counts"].items()}
        return cls(counts, content["bad"], content["note"])


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Ends the block after so many seconds of processor time, or six times as many on the clock."""

    def end(number: int, frame: object) -> None:
        raise _Endless

    before = {n: signal.signal(n, end) for n in (signal.SIGPROF, signal.SIGALRM)}
    faulthandler.dump_traceback_later(15 * seconds + 60, exit=True)  # stuck below Python
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 6 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in before.items():
            signal.signal(number, handler)


def attempt(target: str, action: Callable[[], object], *, seconds: float = SECONDS) -> Outcome:
    """What an action makes of its input: the package's own errors are clear, all others bad."""
    peak = _peak()
    try:
        with warnings.catch_warnings(), bounded(seconds):
            warnings.simplefilter("ignore")
            action()
    except _Endless:
        return Outcome(BAD, target, f"not finished after {seconds:g} s of processor time")
    except ImacError as error:
        said = str(error)
        if not said.strip() or len(said) > LONGEST or "Traceback (most recent" in said:
            text = f"{type(error).__name__} of {len(said)} characters: {said[:400]}"
            return Outcome(BAD, target, text)
        outcome = Outcome(CLEAR, target, said)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Outcome(BAD, target, "".join(traceback.format_exception(error))[-6000:])
    else:
        outcome = Outcome(RAN, target)
    if _peak() - peak > MEMORY:
        return Outcome(BAD, target, f"took {(_peak() - peak) / 1e9:.1f} GB of memory")
    return outcome


def _peak() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def cases(area: Area, seed: object, number: int, place: Path) -> list[Outcome]:
    """Attempt ``number`` of an area, in a directory that becomes the current one meanwhile."""
    place.mkdir(parents=True)
    here = Path.cwd()
    os.chdir(place)
    try:
        return area.attack(random.Random(f"{seed}:{area.name}:{number}"), place)
    finally:
        os.chdir(here)


def run_area(
    area: Area,
    seed: object,
    failures: Path,
    *,
    seconds: float | None = None,
    first: int = 0,
    count: int | None = None,
    report: Path | None = None,
) -> Tally:
    """Attempts until the time or the count is used up.

    Args:
        area: What to attack.
        seed: Of all attempts.
        failures: Where the directories of bad attempts are kept.
        seconds: On the clock; None: no limit.
        first: Number of the first attempt.
        count: How many; None: no limit.
        report: File that has the tally so far, at any moment.
    """
    tally = Tally()
    end = None if seconds is None else time.monotonic() + seconds
    work = Path(tempfile.mkdtemp(prefix=f"fuzz-{area.name}-"))
    try:
        number = first
        while (end is None or time.monotonic() < end) and (
            count is None or number < first + count
        ):
            place = work / f"{area.name}-{number}"
            found = cases(area, seed, number, place)
            kept = failures.absolute() / place.name
            for outcome in found:
                tally.add(outcome, str(kept) if outcome.kind == BAD else "")
            bad = [item for item in found if item.kind == BAD]
            if bad:
                _keep(place, kept, bad, f"SEED={seed} --area {area.name} --case {number}")
            _remove(place)
            if report is not None:
                tally.save(report)
            number += 1
            if number % 200 == 0:
                gc.collect()
    finally:
        _remove(work)
    return tally


def _keep(place: Path, kept: Path, bad: list[Outcome], again: str) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    _remove(kept)
    shutil.copytree(place, kept, symlinks=True, ignore=_not_copied)
    text = "\n\n".join(f"{item.target}\n{item.text}" for item in bad)
    (kept / "WHAT_HAPPENED.txt").write_text(f"again: {again}\n\n{text}\n", errors="replace")


def _not_copied(folder: str, names: list[str]) -> list[str]:
    """Pipes, devices and huge files; the case itself makes them again."""
    found = []
    for name in names:
        status = (Path(folder) / name).lstat()
        plain = stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)
        if not plain and not (stat.S_ISREG(status.st_mode) and status.st_size < 2**26):
            found.append(name)
    return found


def limit_memory() -> None:
    """A reader that wants everything gets an error, instead of the machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, used + SPACE))


def _remove(path: Path) -> None:
    def unlock(function: Callable[..., object], name: str, _: object) -> None:
        with contextlib.suppress(OSError):
            Path(name).parent.chmod(0o755)
            function(name)

    shutil.rmtree(path, onerror=unlock)
