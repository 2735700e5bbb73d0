"""Kernels that are not kept yet, compiled by a second process while this one compiles others.

The first answer of a network with FinFETs needs two large kernels. While the process that wants it
compiles the first one, another on the second core compiles the later half of what that calls, and
the second one, into the cache that both read. Signatures are written down, since they are known
before the first call only here; one that is not true any more costs time, nothing else.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

__all__ = ["BESIDE", "begin", "main", "signature", "wait_for"]

BESIDE: Final = {
    "newton._linearise": "f2 i i f1 p f1 f1 f2 f1 f1 b f1 i1 f1",
    "newton._step": "f2 i f2 f1 f1 b f1",
    "newton._finish": "f2 i f2 f1 f1 f1",
    "digest.digest": "u1 u1 u1",
    "rows.eliminate_up": "i i f3 f3 i1 i1 f1 f3 f3 f3 f4",
}
"""What is compiled beside :data:`FIRST`, in the order in which it is needed.

Of every argument: i, f, b, u whole number, float, bool, uint64; with a number behind it an array of
as many dimensions; p two whole numbers.
"""
FIRST: Final = "newton.solve_tiles"
"""The kernel whose compilation asks for the others."""

_START: Final = (
    # Without the package's own __init__, which imports torch.
    "import sys, types; root = types.ModuleType('imac_torch'); root.__path__ = [sys.argv[1]]; "
    "sys.modules['imac_torch'] = root; from imac_torch.kernels.ahead import main; main()"
)


def signature(code: str) -> tuple[Any, ...]:
    """Numba's types of a line of :data:`BESIDE`."""
    from numba import types

    plain = {"i": types.intp, "f": types.float64, "b": types.boolean, "u": types.uint64}

    def of(word: str) -> Any:  # noqa: ANN401
        if word == "p":
            return types.UniTuple(types.intp, 2)
        kind = plain[word[0]]
        return types.Array(kind, int(word[1:]), "C") if word[1:] else kind

    return tuple(of(word) for word in code.split())


def begin(kernel: str) -> None:
    """Start compiling beside ``kernel``, which is not kept, where that helps and can be done."""
    if kernel == FIRST and _processors() > 1 and _is_python(sys.executable):
        _said()


def wait_for(kernel: str) -> bool:
    """Wait until the second process is done with a kernel; False: it has not been asked for it."""
    if kernel not in BESIDE or not _said.cache_info().currsize:
        return False
    said = _said()
    return said is not None and any(line.strip() == kernel for line in iter(said.readline, ""))


def main() -> None:
    """Compile; tells of every kernel when it is done with it."""
    for kernel, code in BESIDE.items():
        module, name = kernel.split(".")
        try:
            getattr(import_module(f"imac_torch.kernels.{module}"), name).compile(signature(code))
        except Exception as error:  # whoever needs it compiles it, and says what is wrong
            print(f"{kernel}: {error}", file=sys.stderr)
        print(kernel, flush=True)


@functools.cache
def _said() -> IO[str] | None:
    """What the second process says; None: there is none."""
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(Path(__file__).parent.parent)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    except OSError:
        return None
    _started.append(process)
    return process.stdout


_started: list[subprocess.Popen[str]] = []


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_python(executable: str | None) -> bool:
    """Not the program of somebody else that Python is a part of."""
    return Path(executable or "").name.startswith("python")
