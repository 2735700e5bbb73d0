"""Kernels that are not kept yet: other processes compile them, into the cache that all read.

Large kernels take half a minute to compile. Signatures are written down here, so that other
processes can compile them, one for each of :data:`PARTS`, side by side. Meanwhile whoever can have
torch do the same asks :func:`ready`; whoever cannot waits. A process that compiles
goes on to the end when the one that started it ends: the next one needs the kernels, too. Locks
beside the kernels see to it that no two processes compile the same.

A signature that is not true any more costs time, nothing else. Where no other process can be
started, or its kernels are not to be found when it has ended, the process that needs one compiles.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from operator import methodcaller
from pathlib import Path
from typing import Any, Final

from imac_torch.errors import ConfigError

__all__ = ["PARTS", "begin", "cache_place", "kept", "main", "ready", "signature", "wait_for"]

PARTS: Final[dict[str, dict[str, str]]] = {
    "neurons": {
        "newton.solve_tiles": (
            "i i f3 f3 f3 f3 i3 b3 f4 f3 i1 f3 f3 b f1 p f1 f1 f1 p f1 f1 f f i f"
        ),
        "one.solve_images": "f2 f2 f2 f1 i1 f4 f3 i1 f3 f3 b f1 p f1 f1 f1 p f1 f f i f",
    },
    "pieces": {
        "newton._linearise": "f2 i i f1 p f1 f1 f2 f1 f1 b f1 i1 f1",
        "newton._step": "f2 i f2 f1 f1 b f1",
        "newton._finish": "f2 i f2 f1 f1 f1",
        "table.evaluate": "i i f3 f1 f1 f1 f2",
        "supply.supply_tiles": "i i f1 f1 f1 p f1 f f1 f1",
    },
    "arrays": {
        "digest.digest": "u1 u1 u1",
        "rows.eliminate_up": "i i f3 f3 i1 i1 f1 f3 f3 f3 f4",
        "forms.form_tiles": "i i f3 f5 f3 i1 f3",
    },
    "steps": {
        "matrices.fill": "f f1 f5 f3 f5 i i i1 f4 f2 f2 f2 f2 f1 f1 f4",
        "steps.step_layer": (
            "0 i i f4 f4 f4 f4 f3 f3 i1 f2 f1 f1 p f1 f1 f1 i1 i1 f4 f2 f2 f2 f2 b i f1 f1 f4 f4 "
            "f4 f1 f1 f1 f2 f4 f4"
        ),
    },
}
"""Kernels by the process that compiles them, in the order in which they are needed.

Of every argument: i, f, b, u whole number, float, bool, uint64; with a number behind it an array of
as many dimensions; p two whole numbers; 0 that number, written where it is called.
"""
WITH: Final = {"neurons": "pieces"}
"""What a part waits for when it comes to it; the same process would compile it otherwise."""
PATIENCE: Final = 4.0
"""s. Torch does not begin what would take it longer: waiting takes no more than some such times."""
PAUSE: Final = 0.1
"""s between looks at what is there."""
STARTING: Final = 5.0
"""s within which another process of the same start has its lock."""
LIMIT: Final = 900
"""s after which a process that compiles ends, whatever it waits for."""
VARIABLE: Final = "IMAC_TORCH_KERNELS"

_START: Final = (
    # Without the package's own __init__, which imports torch.
    "import sys, types; root = types.ModuleType('imac_torch'); root.__path__ = [sys.argv[1]]; "
    "sys.modules['imac_torch'] = root; from imac_torch.kernels.ahead import main; "
    "main(sys.argv[2])"
)


def cache_place() -> Path | None:
    """Where numba, which can be used here, keeps kernels of this package; None: nowhere."""
    from numba.core.caching import FunctionCache

    try:
        return Path(FunctionCache(cache_place).cache_path)
    except RuntimeError:  # numba's word for: there is no such place
        return None


def signature(code: str) -> tuple[Any, ...]:
    """Numba's types of a line of :data:`PARTS`."""
    from numba import types

    plain = {"i": types.intp, "f": types.float64, "b": types.boolean, "u": types.uint64}

    def of(word: str) -> Any:  # noqa: ANN401
        if word == "p":
            return types.UniTuple(types.intp, 2)
        if word == "0":
            return types.literal(0)
        kind = plain[word[0]]
        return types.Array(kind, int(word[1:]), "C") if word[1:] else kind

    return tuple(of(word) for word in code.split())


def ready(kernel: str, seconds: float) -> bool:
    """Whether to call a kernel of :data:`PARTS` now; False: it compiles, and torch is to be taken.

    Args:
        kernel: File and name.
        seconds: That torch is likely to take. True where that is long: a call waits.

    Raises:
        ConfigError: ``IMAC_TORCH_KERNELS`` is not a word that is known.
    """
    return kernel in _there or _found(kernel, needed=True) or seconds > PATIENCE


def kept(kernel: str) -> bool:
    """Whether a kernel of :data:`PARTS` is there, or all are waited for; without it another serves.

    Unlike :func:`ready` never true for a kernel that this process would have to compile.

    Args:
        kernel: File and name.
    """
    return kernel in _there or _found(kernel, needed=False)


def _found(kernel: str, *, needed: bool) -> bool:
    """Look, some times a second at most, whether to call it."""
    if _others_wait():
        return True
    now = time.monotonic()
    if now < _looked.get(kernel, -PAUSE) + PAUSE:
        return False
    part = _part(kernel)
    begin(part)
    ended = not _compiles(part)
    if (needed and ended) or _is_kept(kernel):  # in this order: it may have ended just now
        _there.add(kernel)
        return True
    _looked[kernel] = now
    return False


def begin(part: str) -> None:
    """Start compiling a part where nobody does, and it can be done.

    Args:
        part: One of :data:`PARTS`.
    """
    if _mine is not None or not _is_python(sys.executable) or _lock(part) is None:
        return
    for name in (WITH.get(part, part), part):  # what is waited for first
        if name in _started or all(map(_is_kept, PARTS[name])) or _compiles(name):
            continue
        with suppress(OSError):
            process = _started[name] = subprocess.Popen(
                [sys.executable, "-c", _START, str(Path(__file__).parent.parent), name],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            # Its end is taken note of, whenever that is.
            threading.Thread(target=process.wait, daemon=True).start()
            _tell()


def wait_for(kernel: str) -> bool:
    """Wait until another process has compiled a kernel; False: nobody else does."""
    part = _part(kernel)
    if part in ("", _mine):
        return False
    begin(part)
    waited = False
    while _compiles(part):
        waited = True
        if _is_kept(kernel):
            break
        time.sleep(PAUSE)
    return waited


def main(part: str) -> None:
    """Compile a part, unless another process does."""
    global _mine
    _mine = part
    if hasattr(signal, "alarm"):
        signal.alarm(LIMIT)
    lock = _lock(part)
    if lock is None or not _taken(lock, STARTING):
        return  # nobody could use them; another process does it
    if hasattr(os, "nice"):
        os.nice(5)  # whoever computes meanwhile goes first
    try:
        for kernel, code in PARTS[part].items():
            if not Path(lock.lock_file).exists():  # the cache has been removed: nobody waits
                return
            with suppress(Exception):  # whoever needs it compiles it, and says what is wrong
                _dispatcher(kernel).compile(signature(code))
    finally:
        lock.release()


_there: set[str] = set()
_looked: dict[str, float] = {}
_started: dict[str, subprocess.Popen[bytes]] = {}
_mine: str | None = None
_born: Final = time.monotonic()


@functools.cache
def _others_wait() -> bool:
    """Whether kernels are waited for, whatever torch could do meanwhile."""
    word = os.environ.get(VARIABLE, "background")
    if word not in ("background", "wait"):
        raise ConfigError(
            f'{VARIABLE} = "{word}": expected "background" (torch computes while kernels compile) '
            'or "wait"'
        )
    return word == "wait"


@functools.cache
def _tell() -> None:
    # Told where numeric/forecast.py tells of what takes long.
    logging.getLogger("imac_torch").info(
        "other processes compile what is not in the cache of kernels yet: half a minute, the first "
        "time only"
    )


def _part(kernel: str) -> str:
    """Where a kernel is listed; "": nowhere."""
    return next((part for part, kernels in PARTS.items() if kernel in kernels), "")


def _dispatcher(kernel: str) -> Any:  # noqa: ANN401 - numba's own
    module, name = kernel.split(".")
    return getattr(import_module(f"imac_torch.kernels.{module}"), name)


def _is_kept(kernel: str) -> bool:
    """Whether this process has a kernel, or its cache."""
    found, types = _dispatcher(kernel), signature(PARTS[_part(kernel)][kernel])
    if types in found.overloads:
        return True
    # Numba has no public way to ask that loads nothing.
    key_of = methodcaller("_index_key", types, found.targetctx.codegen())
    try:
        return key_of(found._cache) in methodcaller("_load_index")(found._cache._cache_file)
    except Exception:  # there is no cache, or a damaged one
        return False


def _lock(part: str) -> Any:  # noqa: ANN401
    """The lock of whoever compiles a part; None: there is no place for it."""
    from filelock import FileLock

    place = cache_place()
    return None if place is None else FileLock(place / f"{part}.lock")


def _taken(lock: Any, seconds: float) -> bool:  # noqa: ANN401
    """Take a lock that is free, or will be within so long."""
    from filelock import Timeout

    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    except (OSError, NotImplementedError):  # read-only; a file system without locks
        pass
    return True


def _compiles(part: str) -> bool:
    """Whether another process compiles a part."""
    process = _started.get(part)
    if process is not None and process.poll() is None:
        return True
    if part == WITH.get(_mine or "") and time.monotonic() < _born + STARTING:
        return True
    lock = _lock(part)
    if lock is None:
        return False
    if not _taken(lock, 0):
        return True
    lock.release()
    return False


def _is_python(executable: str | None) -> bool:
    """Not the program of somebody else that Python is a part of."""
    return Path(executable or "").name.startswith("python")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_started.clear)  # they are the parent's
