"""Numba, where there is one: its decorator, its cache where there is a place for it.

Kernels are plain functions of numpy arrays. Where numba cannot be used (not installed, switched
off by ``NUMBA_DISABLE_JIT``) they stay what they are: right, and hundreds of times as slow, so
that whoever has a torch kernel asks :func:`obstacle` first.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from imac_torch.errors import ImacWarning
from imac_torch.kernels import ahead

__all__ = ["njit", "obstacle", "sources_digest"]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


@functools.cache
def obstacle() -> str | None:
    """Why numba cannot be used in this process; None if it can."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set"
    try:
        import numba  # noqa: F401 - whether it can be
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        return "numba is not installed" if missing else f"numba cannot be imported: {error}"
    return None


def njit(**options: Any) -> Callable[[Kernel], Kernel]:  # noqa: ANN401 - numba's own
    """``numba.njit(cache=True, **options)`` where that can be; see the module.

    Without the entry for callers in C that numba makes otherwise: nobody calls it, and it takes a
    fourteenth of the time of compiling.
    """
    options = {"no_cfunc_wrapper": True, **options}

    def decorate(function: Kernel) -> Kernel:
        if obstacle() is not None:
            return function
        import numba

        try:
            dispatcher = numba.njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "no locator" not in str(error):
                raise
            _warn_of_no_cache()
            return numba.njit(**options)(function)  # type: ignore[no-any-return]
        _follow_sources(dispatcher)
        _only_an_economy(dispatcher)
        return dispatcher  # type: ignore[no-any-return]

    return decorate


@functools.cache
def _warn_of_no_cache() -> None:
    warnings.warn(
        "compiled kernels cannot be kept: the package's directory is read-only and there is no "
        "home directory, so every process compiles them (half a minute) and tabulates transistors "
        "anew; set NUMBA_CACHE_DIR to a directory of yours",
        ImacWarning,
        stacklevel=4,
    )


def _follow_sources(dispatcher: Any) -> None:  # noqa: ANN401 - numba's own
    """Let kept code be that of all sources.

    Numba looks at the time of the kernel's own file, but the kernels and constants of other files
    that it uses are compiled into it.
    """
    if (found := _sources()) is not None:
        dispatcher._cache._cache_file._source_stamp = found


@functools.cache
def _sources() -> str | None:
    """Digest of all that kernels are made of."""
    folder = Path(__file__).parent
    return sources_digest([*folder.glob("*.py"), folder.parent / "numeric" / "cell_kinds.py"])


def sources_digest(files: Iterable[Path]) -> str | None:
    """Digest of files of code, whatever their order; None where they cannot be read."""
    try:
        return hashlib.sha256(b"\0".join(p.read_bytes() for p in sorted(files))).hexdigest()
    except OSError:
        return None


def _only_an_economy(dispatcher: Any) -> None:  # noqa: ANN401 - numba's own
    """A cache that cannot be written (disk full) or read (damaged) costs time, nothing else."""
    from numba.core.runtime.nrt import rtsys

    cache = dispatcher._cache
    load, save = cache.load_overload, cache.save_overload
    function = dispatcher.py_func
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"

    def read(signature: Any, context: Any) -> Any:  # noqa: ANN401
        # Numba first learns all that it can compile, which takes longer than everything else
        # here; compiled code needs counts of references only. Compiling learns it then. Numba's
        # lock is held.
        context.refresh = lambda: rtsys.initialize(context)
        try:
            return load(signature, context)
        except Exception:  # whatever unpickling damaged bytes raises
            return None
        finally:
            del context.refresh

    def load_overload(signature: Any, context: Any) -> Any:  # noqa: ANN401
        found = read(signature, context)
        if found is None:
            _tell_of_compiling()
            found = read(signature, context) if ahead.wait_for(name) else None
        return found

    def save_overload(*arguments: Any) -> None:  # noqa: ANN401
        try:
            with _alone(Path(cache.cache_path)):
                save(*arguments)
        except OSError:
            _warn_of_lost_cache(cache.cache_path)

    cache.load_overload, cache.save_overload = load_overload, save_overload


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """No other process writes there: two that add to one kernel's files may mix them up."""
    from filelock import FileLock

    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / "kernels.lock")
    with suppress(NotImplementedError):  # a file system without locks
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@functools.cache
def _tell_of_compiling() -> None:
    # Told where numeric/forecast.py tells of what takes long.
    logging.getLogger("imac_torch").info(
        "compiling what is not in the cache of kernels yet: half a minute, the first time only"
    )


@functools.cache
def _warn_of_lost_cache(path: str) -> None:
    warnings.warn(
        f"compiled kernels cannot be written to {path} (disk full?): the next process compiles "
        "them anew; NUMBA_CACHE_DIR names another directory",
        ImacWarning,
        stacklevel=4,
    )
