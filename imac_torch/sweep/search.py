"""Multi-objective design search with Optuna, on the same evaluator and table as sweeps."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imac_torch.base.progress import progress_bar
from imac_torch.errors import ConfigError
from imac_torch.sweep.backends import Backend, InProcess
from imac_torch.sweep.evaluator import LOOKED_AT, Evaluator, NetworkEvaluator
from imac_torch.sweep.points import Point
from imac_torch.sweep.runner import concurrency, recorded
from imac_torch.sweep.store import Store, SweepTable, missing_tasks
from imac_torch.sweep.tasks import Outcome, Task

__all__ = ["Choices", "Range", "search"]


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, both included.

    Attributes:
        low: Lower bound; two integers make an integer range.
        high: Upper bound.
        log: Whether to search the logarithm.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ConfigError: They do not bound anything.
        """
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ConfigError(f"from {self.low} to {self.high} (log={self.log}) is not a range")

    def ask(self, trial: Any, name: str) -> float | int:  # noqa: ANN401 - Optuna's
        """A value of a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return int(trial.suggest_int(name, self.low, self.high, log=self.log))
        return float(trial.suggest_float(name, self.low, self.high, log=self.log))


@dataclass(frozen=True)
class Choices:
    """One of a few values: numbers, words, booleans."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        """Check that there is a choice.

        Raises:
            ConfigError: There is none.
        """
        if not self.values:
            raise ConfigError("a choice needs values")

    def ask(self, trial: Any, name: str) -> Any:  # noqa: ANN401 - Optuna's
        """A value of a trial."""
        return self.values[trial.suggest_categorical(name, list(range(len(self.values))))]


def search(
    space: Mapping[str, Range | Choices],
    evaluator: Evaluator,
    path: str | Path,
    *,
    objectives: Mapping[str, str],
    trials: int,
    fixed: Point | None = None,
    batch: int = 8,
    seed: int = 0,
    backend: Backend | None = None,
    licences: int | None = None,
    progress: bool = True,
) -> SweepTable:
    """Search a space of configurations for its Pareto front (Optuna's NSGA-II).

    Trials are asked for in batches and their results are told in order, so that a seed gives the
    same search on any number of workers. Going on after a kill repeats the finished trials from
    the table, which takes no evaluation, and continues.

    Args:
        space: What to vary, by field.
        evaluator: What to compute.
        path: The table (SQLite).
        objectives: ``max`` or ``min`` by metric.
        trials: How many, those in the table included.
        fixed: Settings of every point, such as ``{"seed": 0}``.
        batch: Trials evaluated at the same time, and the population's granularity.
        seed: Of the search itself.
        backend: Where; None: in this process.
        licences: Simulator licences that may be held at once.
        progress: Show a progress bar.

    Returns:
        One row per trial; ``.front(objectives)`` is the result.

    Raises:
        ConfigError: Optuna is not installed, or space, objectives or numbers make no sense.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("Optuna is not installed: pip install 'imac_torch[search]'") from None
    if not space or trials < 1 or batch < 1:
        raise ConfigError("a search needs a space, and trials and batch of at least 1")
    if not objectives or any(goal not in ("max", "min") for goal in objectives.values()):
        raise ConfigError(f"objectives = {dict(objectives)}: give 'max' or 'min' by metric")
    backend = InProcess() if backend is None else backend
    at_once = concurrency(evaluator, licences)
    if isinstance(evaluator, NetworkEvaluator):
        corners = _corners(space, evaluator, fixed or {})
        if corners:
            evaluator.require(objectives, corners)
        evaluator.warn_of_unread(corners)
    study = optuna.create_study(
        directions=["maximize" if goal == "max" else "minimize" for goal in objectives.values()],
        sampler=optuna.samplers.NSGAIISampler(population_size=2 * batch, seed=seed),
    )
    quiet = optuna.logging.get_verbosity()
    points: list[tuple[str, Point]] = []
    try:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with (
            Store(path) as store,
            progress_bar("search", trials, "trials", shown=progress) as advance,
        ):
            store.claim()
            while len(points) < trials:
                asked = [study.ask() for _ in range(min(batch, trials - len(points)))]
                found: list[Point] = [
                    {**(fixed or {}), **{name: i.ask(trial, name) for name, i in space.items()}}
                    for trial in asked
                ]
                pairs = [(_key(evaluator, point, store), point) for point in found]
                points += pairs
                store.set_points(points)
                tasks = [Task(*pair) for pair in missing_tasks(pairs, store.finished())]
                deque(recorded(store, backend, evaluator, tasks, at_once), maxlen=0)
                for trial, (key, _) in zip(asked, pairs, strict=True):
                    metrics = store.metrics(key)
                    if metrics is None:
                        study.tell(trial, state=optuna.trial.TrialState.FAIL)
                    else:
                        study.tell(trial, [_objective(metrics, name) for name in objectives])
                    advance(1)
            return store.finish()
    finally:
        optuna.logging.set_verbosity(quiet)


def _corners(
    space: Mapping[str, Range | Choices], evaluator: NetworkEvaluator, fixed: Point
) -> list[Point]:
    """Points with all choices and the ends of all ranges, as many as it takes to look at."""
    ends = [
        item.values if isinstance(item, Choices) else (item.low, item.high)
        for item in space.values()
    ]
    found: list[Point] = []
    for values in itertools.islice(itertools.product(*ends), LOOKED_AT):
        point = {**fixed, **dict(zip(space, values, strict=True))}
        with contextlib.suppress(ConfigError):  # its trial will fail, with a row that says why
            evaluator.key(point)
            found.append(point)
    return found


def _key(evaluator: Evaluator, point: Point, store: Store) -> str:
    """The key of a point; one that is no configuration (rlow above rhigh) fails, with its row."""
    try:
        return evaluator.key(point)
    except ConfigError as error:
        text = json.dumps(dict(point), sort_keys=True)
        key = "invalid " + hashlib.sha256(text.encode()).hexdigest()
        store.record(Outcome(key, None, str(error), 0.0, ""))
        return key


def _objective(metrics: Mapping[str, float], name: str) -> float:
    if name not in metrics:
        raise ConfigError(f"no metric {name!r}; there are {', '.join(sorted(metrics))}")
    return metrics[name]
