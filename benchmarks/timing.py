"""Jobs timed in turn, and on what."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any


def interleave(
    jobs: dict[str, Callable[[], Any]], rounds: int, budget: float
) -> dict[str, tuple[float, float, Any]]:
    """Run jobs in turn, so that whatever else the machine does meets all of them.

    Args:
        jobs: What to run.
        rounds: How often; each job runs once more before, untimed.
        budget: s per job; a slower one is not repeated.

    Returns:
        Of each job: median and least seconds, and its last result.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    results = {}
    for k in range(rounds + 1):
        for name, job in jobs.items():
            if k and sum(seconds[name]) > budget:
                continue
            start = time.perf_counter()
            results[name] = job()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: (statistics.median(s[1:] or s), min(s), results[name]) for name, s in seconds.items()
    }


def machine(threads: int) -> str:
    """One line on what the figures were measured on."""
    return f"{platform.machine()}, Python {platform.python_version()}, {threads} torch thread(s)"
