"""Numbers of options that are in a unit: ``1e9`` or ``1GHz``, as in configurations."""

from __future__ import annotations

from collections.abc import Callable

import typer

from imac_torch.config.quantity import FREQUENCY, TIME, TRANSISTOR_NODE, VOLTAGE, Quantity

__all__ = ["FREQUENCY", "TIME", "TRANSISTOR_NODE", "VOLTAGE", "measured"]


def measured(quantity: Quantity, low: float | None = None) -> Callable[[str | float], float]:
    """A parser of an option's text, in the unit of ``quantity`` where the text names none.

    Args:
        quantity: What the number measures.
        low: Smallest value allowed.

    Raises:
        typer.BadParameter: By the parser: no number, another unit, or a number below ``low``.
    """

    def parse(text: str | float) -> float:
        found = quantity.read(text) if isinstance(text, str) else float(text)
        if found is None:
            try:
                found = float(text)
            except ValueError:
                raise typer.BadParameter(
                    f"{text!r} is no number in {quantity.unit}; write "
                    f"{quantity.example()}"
                ) from None
        if not (low is None or found >= low):
            raise typer.BadParameter(f"{found:g} {quantity.unit} is less than {low:g}")
        return found

    parse.__name__ = quantity.unit  # what --help prints for the type
    return parse
