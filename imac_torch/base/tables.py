"""Tables as text and as HTML, and the console that everything is printed on."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "html_table", "text_table"]


def console(
    file: TextIO | None = None,
    *,
    stderr: bool = False,
    width: int | None = None,
    soft_wrap: bool = False,
) -> Console:
    """Where text goes, and only there.

    Left alone, rich sends what it prints to the page of a Jupyter notebook instead of its file.

    Args:
        file: None: standard output.
        stderr: Standard error instead.
        width: Characters; None: the terminal's.
        soft_wrap: Leave the breaking of lines to the terminal.
    """
    # rich draws from Python's random numbers when it is imported; importing us must not.
    from rich.console import Console

    terminal = None if file is None else False
    return Console(
        file=file,
        stderr=stderr,
        width=width,
        soft_wrap=soft_wrap,
        force_terminal=terminal,
        force_jupyter=False,
        # Names, titles and values with brackets or colons are no markup and no pictures.
        markup=False,
        emoji=False,
    )


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
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    # As Text, because brackets in names would be taken for markup.
    table = Table(title=Text(title), show_header=bool(headings))
    for column in range(len(cells[0]) if cells else len(headings)):
        table.add_column(Text(headings[column]) if headings else "", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    stream = io.StringIO()
    console(stream, width=width).print(table)
    return stream.getvalue()


def html_table(
    title: str, rows: Iterable[Sequence[str]], *, headings: Sequence[str] = ()
) -> str:
    """The same rows as an HTML table, for notebooks.

    Args:
        title: Its caption.
        rows: Cells as text.
        headings: Of the columns; none leaves them out.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    head = line(headings, "th") if headings else ""
    body = "".join(line(row, "td") for row in rows)
    return f"<table><caption>{escape(title)}</caption>{head}{body}</table>"
