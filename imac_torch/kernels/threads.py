"""Compiled kernels on several threads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run_blocks(kernel: Callable[..., None], blocks: int, threads: int, *arguments: Any) -> None:
    """Call ``kernel(first, last, *arguments)`` over ranges of blocks, on threads without the GIL.

    Python threads and not numba's own: they need no threading layer, follow torch's thread count,
    may be called from several threads at once, and change nothing in the process (numba's OpenMP
    layer would set torch's number of threads too). The caller's thread works, too: where the
    others are late it does everything.
    """
    if blocks == 0:
        return
    threads = min(threads, blocks)
    if threads == 1:
        kernel(0, blocks, *arguments)
        return
    tasks = min(blocks, 8 * threads)
    remaining = iter(range(tasks))  # next() of it is one step to Python's threads

    def work() -> None:
        for k in remaining:
            kernel(blocks * k // tasks, blocks * (k + 1) // tasks, *arguments)

    helpers = [_helpers(threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()


@functools.cache
def _helpers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="imac_torch")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)  # threads stay with the parent
