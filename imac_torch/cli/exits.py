"""What the program's exit codes mean."""

from __future__ import annotations

from enum import IntEnum

from imac_torch.errors import ImacError, SimulatorError, SolverError

__all__ = ["ExitCode", "exit_code"]


class ExitCode(IntEnum):
    """What the program's exit code means."""

    OK = 0
    CRASH = 1
    """An error nobody foresaw, with a traceback: please report it."""
    USAGE = 2
    """The command line is wrong."""
    INPUT = 3
    """Configuration, model, weights or data are wrong."""
    UNSOLVED = 4
    """The circuit was not solved, for all samples or for some."""
    SIMULATOR = 5
    """The external simulator is missing, failed, or had no licence."""
    DIFFERENT = 6
    """verify: the engines differ by more than the tolerance."""
    OUTPUT = 7
    """What was to be printed could not be; files are complete."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C, or by SIGTERM."""


def exit_code(error: ImacError) -> ExitCode:
    """The exit code of an error."""
    if isinstance(error, SimulatorError):
        return ExitCode.SIMULATOR
    return ExitCode.UNSOLVED if isinstance(error, SolverError) else ExitCode.INPUT
