"""Peaks of memory while something is done, beside what is asked for."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from imac_torch.errors import SolverMemoryError
from imac_torch.numeric import budget


def measured(work: Callable[[], object]) -> int:
    """Bytes of tensors alive at the peak, beyond those from before: the same on every machine."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        kept = work()
    del kept
    live = largest = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            largest = max(largest, live)
    return largest


def resident(work: Callable[[], object]) -> int:
    """Growth of the process (Linux), for what no allocator counts; some MB are chance."""
    gc.collect()
    with suppress(OSError, AttributeError):  # what is free in the heap would be taken first
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): VmHWM begins anew
    before = _status("VmRSS:")
    kept = work()
    peak = _status("VmHWM:") - before
    del kept
    return peak


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def estimated(work: Callable[[], object]) -> int:
    """What is asked for, with nothing free."""
    small, free = budget.SMALL, budget.free_memory
    budget.SMALL, budget.free_memory = 0, lambda *_: 0
    try:
        work()
    except SolverMemoryError as error:
        return error.needed
    finally:
        budget.SMALL, budget.free_memory = small, free
    raise AssertionError("nothing was asked for")
