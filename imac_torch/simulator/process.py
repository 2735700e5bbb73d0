"""Running an external program: directory, time limit, whole process group, bounded output."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

# Time a process group that was asked to end is given before it is killed for good, s.
_GRACE: Final = 2.0
# Time between two looks at the clock, the sizes of what is written and the wish to stop, s.
_SLICE: Final = 0.1
PRINTED: Final = 64 * 2**20
"""Bytes that a program may print, or write into a file that is watched."""
_KEPT: Final = 2**20
"""Bytes of what was printed that are read back: half from its beginning, half from its end."""
_ROUNDS: Final = 20
"""Looks for processes that were started meanwhile."""
_FREE: Final = 64 * 2**20
"""Bytes that stay free on the disk of the run directory."""
_MARK: Final = "IMAC_TORCH_RUN"
"""Variable by which whoever descends from a program is known, in whatever session it is."""
# Is told a process group and a mark, and waits for the end of its input, which comes when whoever
# holds the other end is gone, however it went; then it ends the group, and who bears the mark. An
# empty mark would be everybody's.
_WATCH: Final = """
[ "${#2}" = 32 ] || exit
read -r rest; kill -s KILL -- "-$1"
for one in $(grep -lsF "IMAC_TORCH_RUN=$2" /proc/[0-9]*/environ); do
  one=${one#/proc/}; kill -s KILL "${one%/environ}"
done
"""


@dataclass(frozen=True)
class ProcessOutput:
    """What a program left behind.

    Attributes:
        returncode: Exit code; negative: killed by that signal.
        stdout: Standard output, undecodable bytes replaced; the middle of a long one is left out.
        stderr: Standard error output, likewise.
        wall_time: Seconds.
        timed_out: True if the time limit was hit and the process group was ended.
        excess: Why the process group was ended for what it wrote, or None.
    """

    returncode: int
    stdout: str
    stderr: str
    wall_time: float
    timed_out: bool
    excess: str | None = None


class Stopped(Exception):  # noqa: N818 - not an error of the program
    """The run was ended because the caller wished so."""


def run_process(
    command: Sequence[str],
    *,
    cwd: Path,
    timeout: float | None,
    env: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
    watched: Sequence[Path] = (),
) -> ProcessOutput:
    """Run a program without a shell and without changing this process's directory.

    The program gets a process group of its own. The group is ended when the program ends, on a
    timeout, when this process is interrupted or killed, and when it writes too much: wrapper
    scripts leave no simulator behind. On Linux children that left the group end with it, unless
    they forgot their environment. What is printed goes through files, not through memory.

    Args:
        command: Program and arguments.
        cwd: Directory to run in.
        timeout: Time limit in s, None for no limit.
        env: Variables added to the environment.
        stop: Ends the run when it is set.
        watched: Files of text that must not grow beyond :data:`PRINTED`.

    Returns:
        Exit code and output.

    Raises:
        OSError: The program cannot be started.
        Stopped: ``stop`` was set.
    """
    started, mark = time.monotonic(), secrets.token_hex(16)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(env or {}), _MARK: mark},
            start_new_session=True,
        )
        timed_out, excess = False, None
        try:
            with _watchdog(process.pid, mark), _exit_of(process) as wait:
                while not wait(_remaining(started, timeout)):
                    if stop is not None and stop.is_set():
                        raise Stopped
                    if timeout is not None and time.monotonic() - started >= timeout:
                        timed_out = True
                        break
                    excess = _excess(cwd, (out, err), watched)
                    if excess is not None:
                        break
        finally:
            _end_group(process)
            _end_marked(mark)
        return ProcessOutput(
            returncode=process.returncode,
            stdout=text_of(out),
            stderr=text_of(err),
            wall_time=time.monotonic() - started,
            timed_out=timed_out,
            excess=excess,
        )


def _remaining(started: float, timeout: float | None) -> float:
    if timeout is None:
        return _SLICE
    return max(0.0, min(_SLICE, started + timeout - time.monotonic()))


@contextlib.contextmanager
def _exit_of(process: subprocess.Popen[bytes]) -> Iterator[_Wait]:
    """A function that waits some seconds for the program's end, and says whether it came."""
    descriptor = None
    with contextlib.suppress(AttributeError, OSError):  # Linux has it
        descriptor = os.pidfd_open(process.pid)
    try:
        yield _Wait(process, descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


@dataclass(frozen=True)
class _Wait:
    process: subprocess.Popen[bytes]
    descriptor: int | None

    def __call__(self, seconds: float) -> bool:
        if self.descriptor is not None:
            # Wakes at the exit itself, where Popen.wait would sleep in steps of up to 50 ms.
            poll = select.poll()
            poll.register(self.descriptor, select.POLLIN)
            poll.poll(1000 * seconds)
            return self.process.poll() is not None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


@contextlib.contextmanager
def _watchdog(group: int, mark: str) -> Iterator[None]:
    """Ends a program's processes when this one ends before the block does, even if by SIGKILL."""
    shell = shutil.which("sh")
    if shell is None or not hasattr(os, "killpg"):  # pragma: no cover - not on POSIX systems
        yield
        return
    dog = subprocess.Popen(
        [shell, "-c", _WATCH, "watch", str(group), mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert dog.stdin is not None  # noqa: S101 - narrows the type only
    try:
        yield
    finally:
        dog.kill()  # before its input ends
        dog.wait()
        with contextlib.suppress(OSError):
            dog.stdin.close()


def _excess(cwd: Path, streams: Sequence[IO[bytes]], watched: Sequence[Path]) -> str | None:
    """What is written too much, in words."""
    if any(os.fstat(stream.fileno()).st_size > PRINTED for stream in streams):
        return f"it printed more than {PRINTED // 2**20} MiB"
    for path in watched:
        with contextlib.suppress(OSError):
            if path.stat().st_size > PRINTED:
                return f"it wrote more than {PRINTED // 2**20} MiB into {path.name}"
    with contextlib.suppress(OSError):
        if shutil.disk_usage(cwd).free < _FREE:
            return f"the disk of {cwd} is full"
    return None


def text_of(stream: IO[bytes], most: int = _KEPT) -> str:
    """What is in a file, undecodable bytes replaced; of more than ``most`` bytes both ends."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if size <= most:
        return stream.read().decode(errors="replace")
    first = stream.read(most // 2).decode(errors="replace")
    stream.seek(size - most // 2)
    last = stream.read(most // 2).decode(errors="replace")
    return f"{first}\n... {size - most} bytes left out ...\n{last}"


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The group is gone if everything in it has already ended.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    # The leader may have ended while a child of it goes on, or ignored the signal.
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _end_marked(mark: str) -> None:
    """End what has left the process group, as daemons do; Linux tells which processes those are."""
    for _ in range(_ROUNDS):
        found = False
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(int(place.name))  # the number may be another's by then
                try:
                    if f"{_MARK}={mark}".encode() in (place / "environ").read_bytes():
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                        found = True
                finally:
                    os.close(descriptor)
        if not found:
            return
