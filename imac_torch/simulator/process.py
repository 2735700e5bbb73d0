"""Running an external program: directory, time limit, whole process group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Time a killed process group is given to die before it is killed for good, s.
_GRACE: Final = 2.0


@dataclass(frozen=True)
class ProcessOutput:
    """What a program left behind.

    Attributes:
        returncode: Exit code; negative: killed by that signal.
        stdout: Standard output, undecodable bytes replaced.
        stderr: Standard error output.
        wall_time: Seconds.
        timed_out: True if the time limit was hit and the process group was killed.
    """

    returncode: int
    stdout: str
    stderr: str
    wall_time: float
    timed_out: bool


def run_process(
    command: Sequence[str],
    *,
    cwd: Path,
    timeout: float | None,
    env: Mapping[str, str] | None = None,
) -> ProcessOutput:
    """Run a program without a shell and without changing this process's directory.

    The program gets a process group of its own, and on a timeout (or when this process is
    interrupted) the group is ended, so that wrapper scripts leave no simulator behind.

    Args:
        command: Program and arguments.
        cwd: Directory to run in.
        timeout: Time limit in s, None for no limit.
        env: Variables added to the environment.

    Returns:
        Exit code and output.

    Raises:
        OSError: The program cannot be started.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        list(command),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    timed_out = False
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        timed_out = True
        stdout, stderr = _end_group(process)
    except BaseException:
        _end_group(process)
        raise
    return ProcessOutput(
        returncode=process.returncode,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
        wall_time=time.monotonic() - started,
        timed_out=timed_out,
    )


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The group is gone if everything in it has already ended.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _end_group(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    _signal_group(process, signal.SIGTERM)
    try:
        output = process.communicate(timeout=_GRACE)
    except subprocess.TimeoutExpired:
        _signal_group(process, signal.SIGKILL)
        output = process.communicate()
    # The leader may have died politely while a child of it ignored the signal.
    _signal_group(process, signal.SIGKILL)
    return output
