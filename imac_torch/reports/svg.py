"""Pieces of inline SVG charts: numbers to read, axes, text. They follow the page's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from markupsafe import Markup, escape

from imac_torch.base.units import quantity

__all__ = ["WIDTH", "Frame", "caption", "padded", "quantity", "svg", "ticks"]

WIDTH: Final = 560
"""User units; the page scales charts to the room there is."""

def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers that lie in a range."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / count
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(s * base for s in (1, 2, 2.5, 5, 10) if s * base >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def svg(height: float, body: Sequence[str], label: str, width: float = WIDTH) -> Markup:
    """A whole picture.

    Args:
        height: User units.
        body: Elements; every text in them was escaped.
        label: What is shown, for readers that see no picture.
        width: User units.
    """
    return Markup(  # noqa: S704 - every text inside went through escape
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )


def caption(x: float, y: float, content: object, *, kind: str = "", anchor: str = "start") -> str:
    """A text element, escaped.

    Args:
        x: User units.
        y: User units, of the base line.
        content: What it says.
        kind: Its class.
        anchor: ``start``, ``middle`` or ``end``.
    """
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(content)}</text>'


def padded(values: Sequence[float], *, pad: float = 0.05) -> tuple[float, float]:
    """A range around the finite ones of some values, never empty."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if low == high:
        size = abs(low) or 1.0
        return low - size / 2, high + size / 2
    return low - pad * (high - low), high + pad * (high - low)


class Frame:
    """Two linear axes with their grid."""

    LEFT: Final = 74.0
    RIGHT: Final = 26.0
    BOTTOM: Final = 52.0

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        height: float = 380.0,
        top: float = 10.0,
    ) -> None:
        self.x, self.y, self.height, self.top = x, y, height, top

    def sx(self, value: float) -> float:
        """User units of an x."""
        share = (value - self.x[0]) / (self.x[1] - self.x[0])
        return self.LEFT + share * (WIDTH - self.LEFT - self.RIGHT)

    def sy(self, value: float) -> float:
        """User units of a y."""
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return self.height - self.BOTTOM - share * (self.height - self.top - self.BOTTOM)

    def grid(self, x_unit: str = "", y_unit: str = "", *, x_lines: bool = True) -> list[str]:
        """Lines and numbers at round values.

        Args:
            x_unit: For SI prefixes.
            y_unit: Likewise.
            x_lines: Whether to draw lines at x values.
        """
        body = []
        for value in ticks(*self.x):
            x = self.sx(value)
            if x_lines:
                body.append(
                    f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" '
                    f'y2="{self.sy(self.y[0]):.1f}"/>'
                )
            label = quantity(value, x_unit)
            body.append(caption(x, self.height - self.BOTTOM + 18, label, anchor="middle"))
        for value in ticks(*self.y):
            y = self.sy(value)
            body.append(
                f'<line class="grid" x1="{self.LEFT}" x2="{WIDTH - self.RIGHT}" y1="{y:.1f}" '
                f'y2="{y:.1f}"/>'
            )
            body.append(caption(self.LEFT - 8, y + 4, quantity(value, y_unit), anchor="end"))
        return body

    def labels(self, x_label: str, y_label: str) -> list[str]:
        """Names of the axes."""
        middle = self.LEFT + (WIDTH - self.LEFT - self.RIGHT) / 2
        return [
            caption(middle, self.height - 8, x_label, kind="axis", anchor="middle"),
            '<text class="axis" text-anchor="middle" '
            f'transform="translate(14 {self.height / 2 - 10:.0f}) rotate(-90)">'
            f"{escape(y_label)}</text>",
        ]
