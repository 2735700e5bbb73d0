"""Progress bars with rate and remaining time, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
