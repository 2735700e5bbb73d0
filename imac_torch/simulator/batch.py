"""Many runs: several at once, resumable, with partial results kept."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from imac_torch.base.files import parse_json, read_text, write_text
from imac_torch.errors import SimulatorError, SimulatorLicenceError
from imac_torch.netlist.job import SimulationJob
from imac_torch.simulator.base import Program, remove_stale
from imac_torch.simulator.result import SimulationOutcome, SimulationResult

Progress = Callable[[int, int, SimulationOutcome], None]
"""Called after each job with (jobs done, jobs in all, its outcome), in the caller's thread."""

_RECORD_VERSION: Final = 2
_INCLUDE: Final = re.compile(
    rb"^[ \t]*\.(?:inc\w*|lib)[ \t]*(?:'([^'\n]+)'|\"([^\"\n]+)\"|([^'\"\s]+))", re.I | re.M
)


def content_digest(netlist: Path) -> str:
    """Hash a netlist together with every file that it includes.

    Args:
        netlist: The netlist; includes are looked up relative to the including file, then to the
            netlist's directory.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        SimulatorError: An included file does not exist.
    """
    digest = hashlib.sha256()
    pending = [netlist]
    seen: set[Path] = set()
    while pending:
        path = pending.pop().resolve()
        if path in seen:
            continue
        seen.add(path)
        content = path.read_bytes()
        digest.update(hashlib.sha256(content).digest())
        for match in _INCLUDE.finditer(content):
            target = match[1] or match[2] or match[3]
            name = Path(os.fsdecode(target))
            places = [path.parent / name, netlist.parent / name]
            found = next((place for place in places if place.is_file()), None)
            is_section = match[0].lstrip().lower().startswith(b".lib") and b"/" not in target
            if found is None and is_section:
                continue  # ".lib section" opens a section inside a library file
            if found is None:
                raise SimulatorError(
                    f"{path} includes {name}, which does not exist", directory=netlist.parent
                )
            pending.append(found)
    return digest.hexdigest()


def run_jobs(
    simulator: Program,
    jobs: Sequence[SimulationJob],
    *,
    workers: int = 1,
    resume: bool = True,
    progress: Progress | None = None,
) -> tuple[SimulationOutcome, ...]:
    """Run jobs, several at once.

    A job that has already been completed with the same netlist text, the same simulator and the
    same version is read back and not run again. A failing job does not stop the others, with one
    exception: after a licence failure no further job is started, since each would fail alike.

    Args:
        simulator: The driver.
        jobs: The jobs, each in a directory or with a file stem of its own.
        workers: Largest number of simultaneous runs; ``simulator.licences`` limits it further.
        resume: Read completed jobs back.
        progress: Called after every job.

    Returns:
        One outcome per job, in the order of ``jobs``.

    Raises:
        SimulatorNotFoundError: The program is not installed.
        SimulatorError: ``workers`` is not positive or two jobs share a netlist.
    """
    if workers < 1:
        raise SimulatorError(f"workers must be at least 1, got {workers}")
    paths = [job.netlist.resolve() for job in jobs]
    if len(set(paths)) != len(paths):
        raise SimulatorError("two jobs use the same netlist; give each its own file")
    simulator.version()  # fails once and early if the program is missing
    limit = min(workers, simulator.licences or workers)
    outcomes: list[SimulationOutcome | None] = [None] * len(jobs)
    unlicensed: SimulatorError | None = None
    waiting = list(range(len(jobs)))[::-1]
    running: dict[Future[SimulationOutcome], int] = {}
    done = 0
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=limit) as pool, _stopping(stop):
        while waiting or running:
            while waiting and len(running) < limit and unlicensed is None:
                index = waiting.pop()
                running[pool.submit(_run_one, simulator, jobs[index], resume, stop)] = index
            if not running:
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                index = running.pop(future)
                outcome = future.result()
                outcomes[index] = outcome
                done += 1
                if isinstance(outcome.error, SimulatorLicenceError):
                    unlicensed = outcome.error
                if progress is not None:
                    progress(done, len(jobs), outcome)
    return tuple(
        SimulationOutcome(job, None, _not_started(job, unlicensed)) if outcome is None else outcome
        for job, outcome in zip(jobs, outcomes, strict=True)
    )


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Ends running simulators when the block is left early: nobody waits for them then."""
    try:
        yield
    except BaseException:
        stop.set()
        raise


def forget(job: SimulationJob) -> None:
    """Make a finished job count as not finished: its results turned out to be unusable."""
    remove_stale(_record(job))


def _record(job: SimulationJob) -> Path:
    return job.netlist.with_suffix(".result.json")


def _not_started(job: SimulationJob, cause: SimulatorError | None) -> SimulatorLicenceError:
    return SimulatorLicenceError(
        f"{job.netlist} was not started after a licence failure: {cause}", directory=job.directory
    )


def _run_one(
    simulator: Program, job: SimulationJob, resume: bool, stop: threading.Event
) -> SimulationOutcome:
    record = _record(job)
    try:
        identity = {
            "format": _RECORD_VERSION,
            "digest": content_digest(job.netlist),
            "simulator": simulator.name,
            "version": simulator.version(),
        }
        if resume:
            earlier = _reload(simulator, job, record, identity)
            if earlier is not None:
                return SimulationOutcome(job, earlier)
        remove_stale(record)
        outcome = simulator.attempt(job, stop=stop)
    except SimulatorError as error:
        return SimulationOutcome(job, None, error)
    except OSError as error:
        problem = SimulatorError(f"{job.netlist}: {error}", directory=job.directory)
        return SimulationOutcome(job, None, problem)
    if outcome.error is None and outcome.result is not None:
        with suppress(OSError):  # only an economy: without it the job is run again next time
            wall_time = outcome.result.wall_time
            results = simulator.result_digests(job)
            _write_record(record, {**identity, "wall_time": wall_time, "results": results})
    return outcome


def _reload(
    simulator: Program, job: SimulationJob, record: Path, identity: dict[str, object]
) -> SimulationResult | None:
    try:
        stored = parse_json(read_text(record))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(stored, dict) or any(stored.get(k) != v for k, v in identity.items()):
        return None
    wall_time = stored.get("wall_time")
    if not isinstance(wall_time, float):
        return None
    # Results are those of this netlist only while they are what this netlist's run has left.
    if stored.get("results") != simulator.result_digests(job):
        return None
    return simulator.reload(job, str(identity["version"]), wall_time)


def _write_record(path: Path, content: dict[str, object]) -> None:
    # A record must be complete or absent: it is what makes a finished job count as finished.
    write_text(path, json.dumps(content, indent=1) + "\n")
