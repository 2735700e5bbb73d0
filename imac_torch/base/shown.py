"""How results show themselves: tables as text and in notebooks, one line as their repr."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from typing import Final

import torch

from imac_torch.base.tables import html_table, text_table

__all__ = ["Brief", "Shown", "Table", "brief"]

LONG: Final = 60
"""Characters of a value in a repr; of a collection, entries are counted beyond that."""


class Brief:
    """A dataclass whose repr tells of what its tensors are, not their numbers.

    Its subclasses are dataclasses, which keep a repr that stands in the class itself.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__repr__ = Brief.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        told = ", ".join(
            f"{item.name}={brief(getattr(self, item.name))}"
            for item in fields(self)  # type: ignore[arg-type]
            if item.repr
        )
        return f"{type(self).__name__}({told})"


def brief(value: object) -> str:
    """A value of a repr, short: type and shape of tensors, how many of long collections."""
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        place = "" if value.device.type == "cpu" else f" on {value.device}"
        return str(value.item()) if value.ndim == 0 else f"<{kind} {tuple(value.shape)}{place}>"
    if isinstance(value, Brief):
        return f"<{type(value).__name__}>"
    if isinstance(value, tuple | list | Mapping | Set):
        if len(value) and all(isinstance(item, Brief) for item in value):
            return f"<{len(value)} × {type(next(iter(value))).__name__}>"
        # Before its text is made: there may be tensors in it.
        if len(value) > LONG // 4 or any(isinstance(item, torch.Tensor) for item in _items(value)):
            return f"<{len(value)} entries>"
    text = repr(value)
    return text if len(text) <= LONG else f"<{type(value).__name__}>"


def _items(value: Iterable[object]) -> Iterable[object]:
    return value.values() if isinstance(value, Mapping) else value


@dataclass(frozen=True)
class Table:
    """A table that a result consists of.

    Attributes:
        title: Above it.
        rows: Cells as text, the same number in each row; none: the title says it all.
        headings: Of the columns; none leaves them out.
        width: Characters, as text.
        notes: Below it; lines end with a line feed.
    """

    title: str
    rows: Sequence[Sequence[str]]
    headings: Sequence[str] = ()
    width: int = 120
    notes: str = ""

    def text(self) -> str:
        """Framed, cells folded where they are too long."""
        if not self.rows and not self.headings:
            return f"{self.title}\n{self.notes}"
        return text_table(self.title, self.rows, headings=self.headings, width=self.width) + (
            self.notes
        )

    def html(self) -> str:
        """For notebooks."""
        notes = f"{self.title}\n{self.notes}".strip() if self.notes else self.title
        return html_table(notes, self.rows, headings=self.headings)


class Shown(Brief):
    """A result that is printed as tables, and shown as such by notebooks."""

    def tables(self) -> Sequence[Table]:
        """What there is to show, in order."""
        raise NotImplementedError

    def __str__(self) -> str:
        return "".join(table.text() for table in self.tables())

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return "".join(table.html() for table in self.tables())
