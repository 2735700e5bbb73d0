"""Several calls at once, each on one core: for work whose parts are large matrix products.

Two products on a core each take less time than one after the other on both.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from imac_torch.numeric.modes import lasting

__all__ = ["side_by_side"]

Result = TypeVar("Result")


def side_by_side(tasks: Sequence[Callable[[], Result]], threads: int) -> list[Result]:
    """Results of tasks, so many at a time, each with one thread of torch's and without gradients.

    Args:
        tasks: What to do.
        threads: How many at a time; with 1, or a single task, the caller's own do it.
    """
    if threads <= 1 or len(tasks) <= 1:
        return [task() for task in tasks]

    def run(task: Callable[[], Result]) -> Result:
        with lasting():
            return task()

    return list(_workers(threads).map(run, tasks))


@functools.cache
def _workers(count: int) -> ThreadPoolExecutor:
    """Threads whose calls of torch use one core each.

    ``torch.set_num_threads`` is about the thread that calls it, and about threads to come: the
    number of these is put back. A thread that has not been asked for its number takes that of
    others when it first computes, whatever it was set to before.
    """

    def single() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "imac_torch_single", initializer=single)
    all_here = threading.Barrier(count + 1)
    for _ in range(count):
        pool.submit(all_here.wait)
    all_here.wait()
    torch.set_num_threads(before)
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)  # threads stay with the parent
