"""The table of a sweep: one SQLite file, every result in it the moment it is there."""

from __future__ import annotations

import csv
import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from filelock import FileLock, Timeout
from typing_extensions import Self

from imac_torch.base.figures import new_figure, scatter
from imac_torch.base.files import atomic_path, parse_json
from imac_torch.base.shown import Shown, Table
from imac_torch.errors import DataError
from imac_torch.sweep.pareto import pareto_front
from imac_torch.sweep.points import Point
from imac_torch.sweep.tasks import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Store", "SweepTable"]

FORMAT: Final = 1
"""Version of the file; kept in SQLite's ``user_version``."""

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, status TEXT NOT NULL, metrics TEXT, "
    "error TEXT NOT NULL, seconds REAL NOT NULL, worker TEXT NOT NULL, finished TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS points (position INTEGER PRIMARY KEY, key TEXT NOT NULL, "
    "settings TEXT NOT NULL)",
)


@dataclass(frozen=True)
class SweepTable(Shown):
    """Rows of a sweep in the order of its points.

    Attributes:
        settings: Names of the fields that points set.
        metrics: Names of the results.
        rows: Settings and results by name, and ``status`` (``done``, ``failed``, ``missing``) and
            ``error``.
    """

    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def tables(self) -> tuple[Table]:
        """Settings and results."""
        names = (*self.settings, *self.metrics, "status")
        rows = [[_cell(row.get(name)) for name in names] for row in self.rows]
        return (Table(f"imac_torch sweep: {len(self)} points", rows, names, width=160),)

    @property
    def done(self) -> tuple[Mapping[str, Any], ...]:
        """Rows with results."""
        return tuple(row for row in self.rows if row["status"] == "done")

    def plot(self, x: str, y: str, objectives: Mapping[str, str] | None = None) -> Figure:
        """Two metrics or settings of all points against each other, the front emphasised.

        Args:
            x: Along the horizontal axis.
            y: Likewise.
            objectives: As for :meth:`front`; None: nothing is emphasised.

        Raises:
            ConfigError: An objective is no metric of the table.
        """
        front = self.front(objectives) if objectives and self.done else ()
        figure, (axes,) = new_figure((380.0,))
        scatter(
            axes,
            [(_number(row.get(x)), _number(row.get(y))) for row in self.done],
            x=x,
            y=y,
            strong=[any(row is other for other in front) for row in self.done],
            line=sorted((_number(row.get(x)), _number(row.get(y))) for row in front),
        )
        return figure

    def front(self, objectives: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
        """Rows that no other row beats in every objective.

        Args:
            objectives: ``max`` or ``min`` by metric, for example ``{"accuracy": "max",
                "energy": "min"}``.
        """
        rows = self.done
        kept = pareto_front(rows, objectives)
        return tuple(row for row, keep in zip(rows, kept, strict=True) if keep)

    def to_csv(self, path: str | Path) -> Path:
        """Write the table as CSV, in one step."""
        names = [*self.settings, *self.metrics, "status", "error"]
        with atomic_path(path) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([[row.get(name, "") for name in names] for row in self.rows])
        return Path(path)


P = ParamSpec("P")
R = TypeVar("R")


def _told(method: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
    """A method that says which file is damaged, or could not be written."""

    @wraps(method)
    def run(self: Store, /, *values: P.args, **named: P.kwargs) -> R:
        try:
            return method(self, *values, **named)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path} cannot be used: {error}") from None

    return run


class Store:
    """A sweep's file.

    Every result is one transaction. With write-ahead logging a process may be killed at any
    moment: what was committed is there, and nothing is there in part. Only one run at a time may
    write; readers may read while it does.

    Args:
        path: Of the file, created if it is not there.

    Raises:
        DataError: It is not a sweep's file, of another version, or on a broken disk.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=60.0)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, FORMAT):
                raise DataError(
                    f"{self.path}: table format {version}, this version reads {FORMAT}"
                )
            if version == 0:
                tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if tables[0]:
                    raise DataError(f"{self.path} is a database of something else")
                with _transaction(self._connection):  # all of it or nothing, whatever happens
                    for statement in (*_SCHEMA, f"PRAGMA user_version={FORMAT}"):
                        self._connection.execute(statement)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path} is no readable SQLite file: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and give up the right to write."""
        self._connection.close()
        self._lock.release(force=True)

    def claim(self) -> None:
        """Take the right to write; it ends with this object or with the process, however it ends.

        Raises:
            DataError: Another process has it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise DataError(
                f"another run is writing to {self.path}; wait for it, or choose another file"
            ) from None

    @_told
    def set_points(self, points: Sequence[tuple[str, Point]]) -> None:
        """Say which points the table has; results of earlier ones are kept for when they return."""
        rows = [(i, key, json.dumps(dict(point))) for i, (key, point) in enumerate(points)]
        with _transaction(self._connection):
            self._connection.execute("DELETE FROM points")
            self._connection.executemany("INSERT INTO points VALUES (?, ?, ?)", rows)
        self._update_view()

    @_told
    def finished(self, *, failed: bool = True) -> set[str]:
        """Keys that have a result; those that failed too unless ``failed`` is False."""
        query = "SELECT key FROM results WHERE status = 'done' OR ?"
        return {key for (key,) in self._connection.execute(query, (failed,))}

    @_told
    def metrics(self, key: str) -> dict[str, float] | None:
        """Results under a key; None if there are none."""
        row = self._connection.execute(
            "SELECT metrics FROM results WHERE key = ? AND status = 'done'", (key,)
        ).fetchone()
        return None if row is None else self._cells(row[0])

    @_told
    def record(self, outcome: Outcome) -> None:
        """Commit one result; a success is never replaced."""
        status = "failed" if outcome.metrics is None else "done"
        metrics = None if outcome.metrics is None else json.dumps(outcome.metrics)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._connection.execute(
            "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT(key) DO UPDATE SET "
            "status=excluded.status, metrics=excluded.metrics, error=excluded.error, "
            "seconds=excluded.seconds, worker=excluded.worker, finished=excluded.finished "
            "WHERE results.status = 'failed'",
            (outcome.key, status, metrics, outcome.error, outcome.seconds, outcome.worker, now),
        )

    @_told
    def table(self) -> SweepTable:
        """All rows, also of points that have no result yet."""
        query = (
            "SELECT settings, status, metrics, error FROM points LEFT JOIN results USING (key) "
            "ORDER BY position"
        )
        rows, settings, metrics = [], dict[str, Any](), dict[str, Any]()
        for text, status, values, error in self._connection.execute(query):
            point, found = self._cells(text), self._cells(values) if values else {}
            settings |= point
            metrics |= found
            rows.append({**point, **found, "status": status or "missing", "error": error or ""})
        return SweepTable(tuple(settings), tuple(metrics), tuple(rows))

    def _cells(self, text: object) -> dict[str, Any]:
        """Names and values of one row."""
        try:
            found = parse_json(text) if isinstance(text, str | bytes) else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise DataError(f"{self.path} is damaged: a row holds {text!r}")
        return found

    @_told
    def _update_view(self) -> None:
        """A view ``sweep`` with one column per setting and metric, for other programs."""
        table = self.table()

        def column(source: str, name: str) -> str:
            # json_each, because JSON paths of SQLite cannot name keys with quotes in them.
            quoted, title = name.replace("'", "''"), name.replace('"', '""')
            value = f"SELECT value FROM json_each({source}) WHERE key = '{quoted}'"  # noqa: S608
            return f'({value}) AS "{title}"'

        columns = [column("settings", name) for name in table.settings]
        columns += [column("metrics", name) for name in table.metrics]
        columns += ["coalesce(status, 'missing') AS status", "error", "seconds", "worker"]
        with _transaction(self._connection):
            self._connection.execute("DROP VIEW IF EXISTS sweep")
            self._connection.execute(
                f"CREATE VIEW sweep AS SELECT {', '.join(columns)} "  # noqa: S608 - quoted above
                "FROM points LEFT JOIN results USING (key) ORDER BY position"
            )

    def finish(self) -> SweepTable:
        """Bring the view up to date with the metrics there are, and give the table."""
        self._update_view()
        return self.table()


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # commits, or rolls back
        yield


def missing_tasks(points: Iterable[tuple[str, Point]], have: set[str]) -> list[tuple[str, Point]]:
    """Points without a result, each content once."""
    found: dict[str, Point] = {}
    for key, point in points:
        if key not in have:
            found.setdefault(key, point)
    return list(found.items())


def _cell(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "–" if value is None else str(value)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
