"""Commands in forked processes: they start at once, and can be killed at any moment."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch


class Forked:
    """A function in a process of its own, with what it prints in a file."""

    def __init__(self, action: Callable[[], int], place: Path, log: Path) -> None:
        torch.set_num_threads(1)  # what is forked must not miss threads of others
        sys.stdout.flush()
        sys.stderr.flush()
        self.log = log
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.setpgid(0, 0)
                os.chdir(place)
                stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
                os.dup2(stream, 1)
                os.dup2(stream, 2)
                sys.stdout = os.fdopen(1, "w", closefd=False)
                sys.stderr = os.fdopen(2, "w", closefd=False)
                code = action()
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            except KeyboardInterrupt:
                code = 130
            except BaseException:
                traceback.print_exc()
            finally:
                try:
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:
                    os._exit(code)

    def end_by(self, number: int, seconds: float) -> None:
        """Send a signal so many seconds after the start, unless it has ended by then."""
        time.sleep(max(0.0, self.started + seconds - time.monotonic()))
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Exit code; negative: of a signal."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")


def command(
    arguments: list[str], place: Path, log: str = "log.txt", path: str = "", largest: int = -1
) -> Forked:
    """The program itself, from its ``main`` on.

    Args:
        arguments: After the program's name.
        place: Its directory.
        log: What it prints; relative to ``place``.
        path: Goes before the PATH.
        largest: Bytes that a file may have, as on a disk that is full; -1: any.
    """

    def run() -> int:
        from imac_torch.cli import main

        sys.argv = ["imac-torch", *arguments]
        sys.path.insert(0, str(place))
        if largest >= 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        if path:
            os.environ["PATH"] = f"{path}{os.pathsep}{os.environ['PATH']}"
        main()
        return 0

    return Forked(run, place, place / log)
