"""Progress bars: on standard error with rate and remaining time, in notebooks one quiet line.

A bar within another one is a line below it. Work deep inside that may take long or not
(:func:`long_work`) has one where somebody asked for progress (:func:`asking`, a bar around it).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE: Final = 0.5
"""s between two changes of a notebook's line."""
LONG: Final = 2.0
"""s from which on work inside has a bar of its own."""
_ASKED: Final[ContextVar[bool]] = ContextVar("_ASKED", default=False)
_OPEN: Final[ContextVar[Progress | None]] = ContextVar("_OPEN", default=None)


@contextmanager
def asking(shown: bool = True) -> Iterator[None]:
    """Show (or not) how far long work is that is done within."""
    token = _ASKED.set(shown)
    try:
        yield
    finally:
        _ASKED.reset(token)


@contextmanager
def long_work(
    label: str, total: int, unit: str, seconds: float
) -> Iterator[Callable[[int], None] | None]:
    """A bar for work that is expected to take so long, where that is long and somebody asked."""
    if seconds < LONG or not _ASKED.get():
        yield None
        return
    with progress_bar(label, total, unit) as advance:
        yield advance


@contextmanager
def progress_bar(
    label: str, total: int | None, unit: str, *, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """A progress bar for a block of work.

    Args:
        label: What is being done.
        total: How much there is, None if unknown.
        unit: Of what.
        shown: Whether to show it at all.

    Yields:
        A function to call with how much more was done.
    """
    with asking(shown):
        if shown and in_notebook():
            yield from _line(label, total, unit)
        else:
            yield from _bar(label, total, unit, shown)


def _bar(
    label: str, total: int | None, unit: str, shown: bool
) -> Iterator[Callable[[int], None]]:
    """A line of its own in the terminal."""
    if shown and (outer := _OPEN.get()) is not None:
        yield from _task(outer, label, total, unit)
        return
    # rich draws from Python's random numbers when it is imported; importing us must not.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        token = _OPEN.set(progress if shown else None)
        try:
            yield from _task(progress, label, total, unit)
        finally:
            _OPEN.reset(token)


def _task(
    progress: Progress, label: str, total: int | None, unit: str
) -> Iterator[Callable[[int], None]]:
    """One of the lines that are drawn together; it goes where others are left."""
    task = progress.add_task(label, total=total, rate="", unit=unit)

    def advance(amount: int) -> None:
        progress.advance(task, amount)
        state = next(item for item in progress.tasks if item.id == task)
        speed = state.finished_speed or state.speed
        progress.update(task, rate="" if speed is None else f"{speed:.3g}/s")

    yield advance
    if len(progress.tasks) > 1:
        progress.remove_task(task)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this, in a notebook or likewise."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def _line(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """One line in a cell's output that is rewritten: a plain HTML bar, no widgets."""
    from IPython.display import display

    start = said = time.monotonic()
    done, of = 0, "" if total is None else f" of {total}"

    def content(*, bar: bool = True) -> dict[str, Any]:
        seconds = max(time.monotonic() - start, 1e-9)
        text = f"{label}: {done}{of} {unit}, {seconds:.1f} s, {done / seconds:.3g}/s"
        ends = "" if total is None else f' max="{total}" value="{done}"'
        drawn = f"<progress{ends}></progress> " if bar else ""
        return {"text/plain": text, "text/html": f"<small>{drawn}{escape(text)}</small>"}

    handle = display(content(), raw=True, display_id=True)

    def advance(amount: int) -> None:
        nonlocal done, said
        done += amount
        if time.monotonic() - said >= PATIENCE:
            said = time.monotonic()
            handle.update(content(), raw=True)

    try:
        yield advance
    finally:
        handle.update(content(bar=False), raw=True)
