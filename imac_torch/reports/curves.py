"""Charts of latency: histograms and waveforms, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from imac_torch.reports.svg import Frame, caption, padded, quantity, svg

__all__ = ["Curve", "histogram", "waveforms"]

MARK_ROW = 14.0
"""User units between the names of marks, which stand in rows above the axes."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: In the legend; curves with an empty one are not in it.
        values: One per point of the axis.
        kind: ``strong``, ``second`` or ``faint``.
    """

    name: str
    values: Sequence[float]
    kind: str = "faint"


def histogram(
    values: Sequence[float],
    *,
    unit: str,
    x_label: str,
    marks: Mapping[str, float],
    label: str,
    bins: int = 40,
) -> Markup:
    """How often values occur.

    Args:
        values: Those that are not finite are left out.
        unit: What the values are in, such as ``s``.
        x_label: Written below the axis.
        marks: Values by name, drawn as vertical lines if they are in the range.
        label: What is shown.
        bins: Bars at most; fewer for few values.
    """
    finite = sorted(value for value in values if math.isfinite(value))
    low, high = padded([*finite, *(v for v in marks.values() if math.isfinite(v))], pad=0.03)
    bins = max(1, min(bins, 4 * math.isqrt(len(finite) or 1)))
    width = (high - low) / bins
    counts = [0] * bins
    for value in finite:
        counts[min(bins - 1, int((value - low) / width))] += 1
    frame = _frame((low, high), (0.0, 1.08 * max([*counts, 1])), marks)
    body = frame.grid(unit, "", x_lines=False)
    base = frame.sy(0.0)
    for k, count in enumerate(counts):
        if not count:
            continue
        left, right = frame.sx(low + k * width), frame.sx(low + (k + 1) * width)
        top = frame.sy(count)
        title = (
            f"{quantity(low + k * width, unit)} to {quantity(low + (k + 1) * width, unit)}: {count}"
        )
        body.append(
            f'<rect class="c0" x="{left + 0.5:.1f}" y="{top:.1f}" '
            f'width="{max(right - left - 1.0, 0.5):.1f}" height="{base - top:.1f}">'
            f"<title>{escape(title)}</title></rect>"
        )
    body += _marks(frame, marks)
    body += frame.labels(x_label, "images")
    return svg(frame.height, body, label)


def waveforms(
    time: Sequence[float],
    curves: Sequence[Curve],
    *,
    marks: Mapping[str, float],
    band: tuple[float, float] | None = None,
    label: str,
) -> Markup:
    """Voltages over time.

    Args:
        time: s.
        curves: V; later ones are drawn on top.
        marks: Times by name, drawn as vertical lines if they are in the range.
        band: V, lower and upper limit to shade.
        label: What is shown.
    """
    heights = [value for curve in curves for value in curve.values]
    frame = _frame((time[0], time[-1]), padded([*heights, *(band or ())]), marks)
    body = frame.grid("s", "V", x_lines=False)
    if band is not None:
        top, bottom = frame.sy(band[1]), frame.sy(band[0])
        left, right = frame.sx(time[0]), frame.sx(time[-1])
        body.append(
            f'<rect class="band" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{bottom - top:.1f}"/>'
        )
    for curve in curves:
        points = " ".join(
            f"{frame.sx(x):.1f},{frame.sy(y):.1f}"
            for x, y in zip(time, curve.values, strict=True)
        )
        title = f"<title>{escape(curve.name)}</title>" if curve.name else ""
        body.append(f'<polyline class="wave {curve.kind}" points="{points}">{title}</polyline>')
    body += _marks(frame, marks)
    body += frame.labels("time from the start of the input ramp", "outputs")
    return svg(frame.height, body, label)


def _frame(x: tuple[float, float], y: tuple[float, float], marks: Mapping[str, float]) -> Frame:
    return Frame(x, y, height=300.0, top=12.0 + MARK_ROW * len(marks))


def _marks(frame: Frame, marks: Mapping[str, float]) -> list[str]:
    """Vertical lines; names stand in a row each, so that they never overlap."""
    body = []
    shown = {n: v for n, v in marks.items() if frame.x[0] <= v <= frame.x[1]}
    middle = (frame.x[0] + frame.x[1]) / 2
    for row, (name, value) in enumerate(shown.items()):
        x, y = frame.sx(value), 12.0 + MARK_ROW * row
        body.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8:.1f}" '
            f'y2="{frame.sy(frame.y[0]):.1f}"/>'
        )
        before = value > middle
        content = f"{name} {quantity(value, 's')}"
        body.append(
            caption(
                x - 5 if before else x + 5, y, content, kind="value",
                anchor="end" if before else "start",
            )
        )  # fmt: skip
    return body
