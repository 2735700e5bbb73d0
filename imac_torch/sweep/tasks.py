"""One evaluation as it travels to a worker and back."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from imac_torch.sweep.points import Point

__all__ = ["Bench", "Outcome", "Task", "run_task"]

Bench = Callable[[Point], dict[str, float]]
"""What evaluates points in one process and keeps what they share."""


@dataclass(frozen=True)
class Task:
    """A point to evaluate under the key of its content."""

    key: str
    point: Point


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        key: Of the task.
        metrics: By name; None if it failed.
        error: Why it failed; empty if it did not.
        seconds: It took.
        worker: Host and process.
    """

    key: str
    metrics: dict[str, float] | None
    error: str
    seconds: float
    worker: str


def run_task(bench: Bench, task: Task) -> Outcome:
    """Evaluate one point; an error becomes its outcome instead of the sweep's end."""
    started = time.perf_counter()
    worker = f"{socket.gethostname()}:{os.getpid()}"
    try:
        metrics = bench(task.point)
    except Exception as error:
        seconds = time.perf_counter() - started
        return Outcome(task.key, None, f"{type(error).__name__}: {error}", seconds, worker)
    return Outcome(task.key, metrics, "", time.perf_counter() - started, worker)
