"""Run a sweep: only what has no result yet, every result kept as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from imac_torch.base.progress import progress_bar
from imac_torch.errors import ConfigError
from imac_torch.sweep.backends import Backend, InProcess
from imac_torch.sweep.evaluator import Evaluator, NetworkEvaluator
from imac_torch.sweep.points import Point
from imac_torch.sweep.store import Store, SweepTable, missing_tasks
from imac_torch.sweep.tasks import Outcome, Task

__all__ = ["run_sweep"]


def run_sweep(
    points: Sequence[Point],
    evaluator: Evaluator,
    path: str | Path,
    *,
    backend: Backend | None = None,
    licences: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> SweepTable:
    """Evaluate points into a table; call it again after any kind of end, and it goes on.

    A point is done when its row is committed. A kill loses at most the points being evaluated,
    which are run again; a point that is done is never run again, in this sweep or in any later
    one with the same file. Points of equal content are run once, and those that differ only in
    what operating points do not see (``timing.period``) share one solution; the progress bar says
    how many circuits are to be solved. All points are checked before the first is run.

    Args:
        points: Values by field, and seeds; see :func:`imac_torch.sweep.grid`.
        evaluator: What to compute, such as :class:`imac_torch.sweep.NetworkEvaluator`.
        path: The table (SQLite); created if it is not there.
        backend: Where; None: in this process.
        licences: Simulator licences that may be held at once, None for no limit.
        retry_failed: Run points again that failed earlier.
        progress: Show a progress bar.

    Returns:
        All rows; those that failed have ``status`` ``failed`` and an ``error``.

    Raises:
        ConfigError: A point is not valid, or one evaluation needs more licences than there are.
        DataError: The file is not a sweep's, or another run is writing to it.

    Warns:
        SettingWarning: Points set fields that change no metric; said before the first is run.
    """
    backend = InProcess() if backend is None else backend
    keyed = [(evaluator.key(point), point) for point in points]
    if isinstance(evaluator, NetworkEvaluator):
        evaluator.warn_of_unread(points)
    at_once = concurrency(evaluator, licences)
    with Store(path) as store:
        store.claim()
        store.set_points(keyed)
        have = store.finished(failed=not retry_failed)
        tasks = [Task(key, point) for key, point in missing_tasks(keyed, have)]
        label = "sweep"
        if isinstance(evaluator, NetworkEvaluator):
            tasks, circuits = together(tasks, evaluator)
            if circuits < len(tasks):
                label = f"sweep ({circuits} circuits to solve, which the points share)"
        with progress_bar(label, len(tasks), "points", shown=progress and bool(tasks)) as advance:
            for _ in recorded(store, backend, evaluator, tasks, at_once):
                advance(1)
        return store.finish()


def together(tasks: Sequence[Task], evaluator: NetworkEvaluator) -> tuple[list[Task], int]:
    """Tasks of the same circuit one after the other, and how many circuits there are.

    Workers keep the solutions of a few circuits, so that the points that follow can share them.
    """
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(evaluator.circuit(task.point), []).append(task)
    return [task for group in groups.values() for task in group], len(groups)


def recorded(
    store: Store,
    backend: Backend,
    evaluator: Evaluator,
    tasks: Sequence[Task],
    at_once: int | None,
) -> Iterator[Outcome]:
    """Evaluate tasks, every result kept as it comes."""
    if tasks:
        outcomes = backend.run(evaluator, tasks, at_once=at_once)
        # Closing ends workers at once where recording or the user stops the loop.
        with closing(outcomes):  # type: ignore[type-var]
            for outcome in outcomes:
                store.record(outcome)
                yield outcome


def concurrency(evaluator: Evaluator, licences: int | None) -> int | None:
    """Evaluations that may run at the same time.

    Raises:
        ConfigError: One evaluation needs more licences than there are.
    """
    needed = evaluator.licences()
    if licences is None or needed == 0:
        return None
    if needed > licences:
        raise ConfigError(
            f"one evaluation runs {needed} simulators at once, but only {licences} licences may "
            "be held: lower the engine's workers"
        )
    return licences // needed
