"""Progress bars: on standard error with rate and remaining time, in notebooks one quiet line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Final

PATIENCE: Final = 0.5
"""s between two changes of a notebook's line."""


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
    if shown and in_notebook():
        yield from _line(label, total, unit)
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
        TextColumn(unit, markup=False),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(label, total=total, rate="")

        def advance(amount: int) -> None:
            progress.advance(task, amount)
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            progress.update(task, rate="" if speed is None else f"{speed:.3g}/s")

        yield advance


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
