"""Tables as text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence


def text_table(
    title: str, rows: Iterable[Sequence[str]], *, headings: Sequence[str] = (), width: int = 120
) -> str:
    """Rows as a framed table, cells folded where they are too long.

    Args:
        title: Above the table.
        rows: Cells as text, the same number in each row.
        headings: Of the columns; none leaves them out.
        width: Characters.
    """
    # rich draws from Python's random numbers when it is imported; importing us must not.
    from rich.console import Console
    from rich.table import Table

    cells = [list(row) for row in rows]
    table = Table(title=title, show_header=bool(headings))
    for column in range(len(cells[0]) if cells else len(headings)):
        table.add_column(headings[column] if headings else "", overflow="fold")
    for row in cells:
        table.add_row(*row)
    stream = io.StringIO()
    Console(width=width, file=stream, force_terminal=False).print(table)
    return stream.getvalue()
