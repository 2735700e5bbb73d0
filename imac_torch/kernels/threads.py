"""Compiled kernels on several threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run_blocks(kernel: Callable[..., None], blocks: int, threads: int, *arguments: Any) -> None:
    """Call ``kernel(first, last, *arguments)`` over ranges of blocks, on threads without the GIL.

    Python threads and not numba's own: they need no threading layer, follow torch's thread count,
    may be called from several threads at once, and change nothing in the process (numba's OpenMP
    layer would set torch's number of threads too).
    """
    if blocks == 0:
        return
    threads = min(threads, blocks)
    if threads == 1:
        kernel(0, blocks, *arguments)
        return
    tasks = min(blocks, 8 * threads)
    ends = [blocks * k // tasks for k in range(tasks + 1)]
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(kernel, a, b, *arguments) for a, b in itertools.pairwise(ends)]
        for job in jobs:
            job.result()
