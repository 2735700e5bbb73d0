"""How the program of a simulator is called, and what it leaves is read."""

from __future__ import annotations

import itertools
import math
import os
import shlex
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from imac_torch.base.files import file_digest
from imac_torch.errors import (
    ImacError,
    MeasureError,
    SimulatorError,
    SimulatorNotFoundError,
    SimulatorTimeoutError,
)
from imac_torch.netlist.job import SimulationJob
from imac_torch.netlist.testbench import TestBench
from imac_torch.netlist.writer import BatchDeck
from imac_torch.simulator.process import ProcessOutput, Stopped, run_process, text_of
from imac_torch.simulator.result import (
    FloatArray,
    SimulationOutcome,
    SimulationResult,
)
from imac_torch.simulator.transients import TransientValues, from_files

_LOGGED: Final = 2**24
"""Bytes of a log that are looked at: half from its beginning, half from its end."""


class Program(ABC):
    """An external circuit simulator, run on netlists.

    A driver never changes this process's directory, never uses a shell, reads the exit code *and*
    the log, and leaves every file of a run where it is.

    Attributes:
        name: The program's, and of the engine.
        dialect: Of the netlists that it takes; here of the program's name.
        executable: Program name or path.
        timeout: Time limit of one run in s, None for no limit.
        licences: Largest number of simultaneous runs that licences allow, None for no limit.
    """

    name: ClassVar[str]
    install_hint: ClassVar[str]

    def __init__(
        self,
        executable: str | None = None,
        *,
        timeout: float | None = 3600.0,
        licences: int | None = None,
    ) -> None:
        """Store the settings; nothing is started or looked for yet.

        Args:
            executable: Program name (looked up on the path) or path; None: the class's ``name``.
            timeout: Time limit of one run in s, None for no limit.
            licences: Largest number of simultaneous runs, None for no limit.

        Raises:
            SimulatorError: ``timeout`` or ``licences`` is not positive.
        """
        if timeout is not None and not timeout > 0:
            raise SimulatorError(f"timeout must be positive seconds or None, got {timeout!r}")
        if licences is not None and licences < 1:
            raise SimulatorError(f"licences must be at least 1 or None, got {licences!r}")
        self.executable = self.name if executable is None else executable
        self.timeout = timeout
        self.licences = licences
        self._version: str | None = None

    @property
    def dialect(self) -> str:  # noqa: D102 - an attribute, see the class
        return self.name

    def __repr__(self) -> str:
        """Show the settings."""
        return f"{type(self).__name__}({self.executable!r}, timeout={self.timeout!r})"

    def find(self) -> Path:
        """Return the path of the executable.

        Raises:
            SimulatorNotFoundError: It is not installed; the message says what to do.
        """
        found = shutil.which(self.executable)
        if found is None:
            raise SimulatorNotFoundError(
                f"{self.name} was not found: no executable {self.executable!r} on the path. "
                f"{self.install_hint} or pass executable=<path of the program>."
            )
        # A path relative to the current directory would not survive the change of directory.
        return Path(found).absolute()

    def available(self) -> bool:
        """Return True if the executable is there."""
        return shutil.which(self.executable) is not None

    def version(self) -> str:
        """Return the version string, asking the program once.

        Raises:
            SimulatorNotFoundError: The program is not installed.
            SimulatorError: It does not print a version.
        """
        if self._version is None:
            output = self._start([*self._version_arguments()], Path.cwd(), timeout=60.0)
            version = self._parse_version(output.stdout + output.stderr)
            if version is None:
                raise SimulatorError(
                    f"{self.find()} does not answer like {self.name}: no version found in its "
                    "output; is it the right program?",
                    stdout=output.stdout,
                    stderr=output.stderr,
                )
            self._version = version
        return self._version

    def run(self, job: SimulationJob) -> SimulationResult:
        """Run one job and return its complete result.

        Raises:
            SimulatorError: The run failed; the subclass says how (licence, convergence, time
                limit, measure), and the error carries output and directory.
        """
        return self.attempt(job).unwrap()

    def attempt(
        self, job: SimulationJob, *, stop: threading.Event | None = None
    ) -> SimulationOutcome:
        """Run one job; a failed run is part of the outcome, together with partial results.

        Args:
            job: What to run and what to read.
            stop: Ends the run when it is set.

        Returns:
            The outcome.

        Raises:
            SimulatorNotFoundError: The program is not installed.
            SimulatorError: The netlist does not exist, or ``stop`` was set.
        """
        if not job.netlist.is_file():
            raise SimulatorError(
                f"no netlist {job.netlist}: write it before running", directory=job.directory
            )
        version = self.version()
        for path in self._output_files(job):
            remove_stale(path)
        log = self._log_path(job)
        output = self._start(
            self._run_arguments(job), job.directory, timeout=self.timeout, stop=stop, watched=[log]
        )
        text = _log_text(log)
        error = self._ended(job, output) or self._diagnose(job, output, text)
        result, problem = self._collect(job, text, version, output.wall_time)
        return SimulationOutcome(job, result, error or problem)

    def abilities(self) -> list[str]:
        """What an installed program can and cannot do, in words, where that is known."""
        return []

    def command(self, job: SimulationJob) -> str:
        """What to type in the directory of a netlist to run it by hand."""
        return shlex.join([self.name, *self._run_arguments(job)])

    def results(self, job: SimulationJob) -> list[str]:
        """Names of the files that running a netlist leaves, of which not all need be there."""
        names = [*job.waveform_files, *(path.name for path in self._output_files(job))]
        return list(dict.fromkeys(names))

    def read(self, job: SimulationJob) -> SimulationOutcome:
        """What somebody's run of a netlist has left in its directory; nothing is run.

        The outcome has an error where results are missing or not complete.
        """
        if not any(path.is_file() for path in self._output_files(job)):
            return SimulationOutcome(job, None, SimulatorError(
                f"{job.netlist} was not run: no {' or '.join(self.results(job)[:3])} beside it; "
                f"in {job.directory}: {self.command(job)}", directory=job.directory,
            ))  # fmt: skip
        log = self._log_path(job)
        text = _log_text(log) if log.is_file() else ""
        result, problem = self._collect(job, text, "", math.nan, resumed=True)
        return SimulationOutcome(job, result, problem)

    def reload(self, job: SimulationJob, version: str, wall_time: float) -> SimulationResult | None:
        """Read the files of an earlier run, or return None if they are not complete."""
        log = self._log_path(job)
        if not log.is_file():
            return None
        text = _log_text(log)
        result, problem = self._collect(job, text, version, wall_time, resumed=True)
        return result if problem is None else None

    def result_digests(self, job: SimulationJob) -> dict[str, str]:
        """SHA-256 of every file that a run of the job has left, by name."""
        return {
            path.name: file_digest(path)
            for path in sorted(set(self._output_files(job)))
            if path.is_file()
        }

    def values(self, deck: BatchDeck, result: SimulationResult) -> TransientValues:
        """What a netlist's run gives; here all of it stands in waveform files."""
        data = result.waveforms
        return TransientValues.empty(deck) if data is None else from_files(deck, data)

    def currents(self, bench: TestBench, result: SimulationResult) -> FloatArray:
        """(P, Q, 3) A, at the points of a test bench: of the output, the input, the supply.

        Raises:
            SimulatorError: They are not in the result, or the driver cannot read them.
        """
        raise SimulatorError(f"{type(self).__name__} does not characterise neurons")

    # What a driver has to provide

    @abstractmethod
    def _version_arguments(self) -> list[str]: ...

    @abstractmethod
    def _parse_version(self, text: str) -> str | None: ...

    @abstractmethod
    def _run_arguments(self, job: SimulationJob) -> list[str]: ...

    @abstractmethod
    def _log_path(self, job: SimulationJob) -> Path: ...

    @abstractmethod
    def _output_files(self, job: SimulationJob) -> Iterable[Path]: ...

    @abstractmethod
    def _diagnose(
        self, job: SimulationJob, output: ProcessOutput, log: str
    ) -> SimulatorError | None:
        """Return the error that the exit code or the log tells of, measures excepted."""

    @abstractmethod
    def _read_measures(self, job: SimulationJob, log: str) -> tuple[dict[str, float], set[str]]:
        """Return the values of measures and the names of those reported as failed."""

    @abstractmethod
    def _read_tables(self, path: Path) -> list[dict[str, FloatArray]]:
        """Read one result file: a table per sweep or plot in it."""

    # What is common

    def _start(
        self,
        arguments: list[str],
        cwd: Path,
        *,
        timeout: float | None,
        stop: threading.Event | None = None,
        watched: Sequence[Path] = (),
    ) -> ProcessOutput:
        program = self.find()
        try:
            return run_process(
                [str(program), *arguments], cwd=cwd, timeout=timeout, stop=stop, watched=watched
            )
        except OSError as error:
            raise SimulatorError(
                f"{program} could not be started: {error}", directory=cwd
            ) from error
        except Stopped:
            raise SimulatorError(f"{program} was ended in {cwd}", directory=cwd) from None

    def _ended(self, job: SimulationJob, output: ProcessOutput) -> SimulatorError | None:
        """The error of a run that we ended."""
        if output.excess is not None:
            return self._failure(
                job, output, f"{self.name} was ended on {job.netlist}: {output.excess}"
            )
        if not output.timed_out:
            return None
        return self._failure(
            job,
            output,
            f"{self.name} did not finish {job.netlist} in {self.timeout:g} s and was ended; pass a "
            "larger timeout, or fewer images per netlist",
            SimulatorTimeoutError,
        )

    def _failure(
        self,
        job: SimulationJob,
        output: ProcessOutput,
        message: str,
        kind: type[SimulatorError] = SimulatorError,
    ) -> SimulatorError:
        """An error that carries what the program printed, and where its files are."""
        return kind(message, directory=job.directory, stdout=output.stdout, stderr=output.stderr)

    def _collect(
        self,
        job: SimulationJob,
        log: str,
        version: str,
        wall_time: float,
        *,
        resumed: bool = False,
    ) -> tuple[SimulationResult | None, SimulatorError | None]:
        """Read everything that is there; the error tells what is missing."""
        problem: SimulatorError | None = None
        measures: dict[str, float] = {}
        try:
            measures, failed = self._read_measures(job, log)
            missing = [name for name in job.measures if name not in measures]
            if missing:
                problem = self._measure_error(job, missing, failed)
        except Exception as error:  # nothing that a program writes may end more than its own run
            problem = SimulatorError(
                f"{self.name} left a measure file that cannot be read in {job.directory}: "
                f"{_reason(error)}",
                directory=job.directory,
            )
        waveforms: dict[str, FloatArray] | None = None
        if job.waveform_files:
            waveforms, waveform_problem = self._collect_waveforms(job)
            problem = problem or waveform_problem
        if not measures and not waveforms and problem is not None:
            return None, problem
        result = SimulationResult(
            measures, waveforms, self._log_path(job), self.name, version, wall_time, resumed
        )
        return result, problem

    def _measure_error(
        self, job: SimulationJob, missing: list[str], failed: set[str]
    ) -> MeasureError:
        words = [f"{name} ({'failed' if name in failed else 'missing'})" for name in missing]
        shown = ", ".join(words[:10]) + (f" and {len(words) - 10} more" if len(words) > 10 else "")
        return MeasureError(
            f"{self.name} gave no value for {len(words)} of {len(job.measures)} measures of "
            f"{job.netlist}: {shown}; see {self._log_path(job)}",
            directory=job.directory,
        )

    def _read_waveforms(self, path: Path) -> dict[str, FloatArray]:
        tables = self._read_tables(path)
        if len(tables) != 1:
            raise SimulatorError(
                f"it holds {len(tables)} tables, one was expected", directory=path.parent
            )
        return tables[0]

    def _collect_waveforms(
        self, job: SimulationJob
    ) -> tuple[dict[str, FloatArray] | None, SimulatorError | None]:
        parts: list[dict[str, FloatArray] | None] = []
        problem: SimulatorError | None = None
        for name in job.waveform_files:
            path = job.directory / name
            try:
                if not path.is_file():  # a pipe would never end
                    raise FileNotFoundError(path)
                table = self._read_waveforms(path)
                if len(job.waveform_files) > 1:
                    _check_single(table, path)
                parts.append(table)
            except FileNotFoundError:
                parts.append(None)
                problem = problem or SimulatorError(
                    f"{self.name} did not write {path}; see {self._log_path(job)}",
                    directory=job.directory,
                )
            except Exception as error:
                parts.append(None)
                problem = problem or SimulatorError(
                    f"{path} cannot be read: {_reason(error)}", directory=job.directory
                )
        return stack_waveforms(parts), problem


def remove_stale(path: Path) -> None:
    """Make sure that nothing there is read as the next run's result.

    A directory, which no simulator of ours makes, is renamed: what is in it may be somebody's.
    """
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    names = (path.with_name(f"{path.name}.aside{k}") for k in itertools.count(1))
    path.rename(next(name for name in names if not os.path.lexists(name)))


def _log_text(path: Path) -> str:
    """A log, or both ends of a long one."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return text_of(stream, _LOGGED)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ImacError) else f"{type(error).__name__}: {error}"


def _check_single(table: dict[str, FloatArray], path: Path) -> None:
    """Refuse a file that would shift the points of those behind it."""
    for name, values in table.items():
        if values.shape != (1,):
            raise SimulatorError(
                f"{name} has {values.size} points, one was expected", directory=path.parent
            )


def stack_waveforms(parts: list[dict[str, FloatArray] | None]) -> dict[str, FloatArray] | None:
    """Join result files into one array per name.

    Args:
        parts: Contents of the files in order, None for a missing one.

    Returns:
        The contents of the only file, or, for several files of one point each, arrays of shape
        (number of files,) with NaN where a file or a name is missing; None if all are missing.
    """
    if len(parts) == 1:
        return parts[0]
    names = {name: None for part in parts if part is not None for name in part}
    if not names:
        return None
    hole = np.full(1, np.nan)
    return {
        name: np.concatenate([hole if part is None else part.get(name, hole) for part in parts])
        for name in names
    }
