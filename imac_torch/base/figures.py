"""Charts, drawn once with matplotlib: for notebooks and files, and for pages.

Colours are those of a page on white (:data:`COLOURS`); on pages they become its CSS variables.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor

from imac_torch.base.units import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "Curve",
    "bars",
    "curves",
    "grid_of",
    "heatmap",
    "histogram",
    "new_figure",
    "note",
    "parallel",
    "scatter",
]

COLOURS: Final[Mapping[str, str]] = {
    "c0": "#2f6fd0", "c1": "#e08a1e", "c2": "#2a9d78", "c3": "#b5478f", "c4": "#7a6ad8",
    "c5": "#8a8f99", "ink": "#1c2330", "soft": "#5b6577", "line": "#dde2ea", "strong": "#c2410c",
    "accent": "#1f5fbf", "card": "#ffffff",
}  # fmt: skip
"""By the name of the CSS variable."""
PARTS: Final = tuple(COLOURS[f"c{k}"] for k in range(6))
HEAT: Final = ("#fff6e0", "#fabe5a", "#d64628", "#5c0a28")
"""White to orange to dark red: readable on light and dark pages alike, and in grey."""
WIDTH: Final = 560.0
"""Points of a chart; one point is one pixel of a page at full size."""
TYPE: Final = 12.0
"""Points of all text."""
ROW: Final = 26.0
"""Points per bar."""


def new_figure(
    heights: Sequence[float] = (300.0,),
    *,
    columns: int = 1,
    width: float = WIDTH,
    arranged: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A figure that belongs to nobody else: not pyplot's, no window, nothing global to close.

    Args:
        heights: Points, of each row of panels.
        columns: Panels beside each other.
        width: Points of a panel.
        arranged: Whether margins fit what stands in them, at the price of drawing twice.

    Returns:
        The figure, and its panels row by row.
    """
    size = (columns * width / 72, sum(heights) / 72)
    layout: Literal["constrained"] | None = "constrained" if arranged else None
    figure = _figure_class()(figsize=size, layout=layout, facecolor=COLOURS["card"])
    found = figure.subplots(len(heights), columns, squeeze=False, height_ratios=list(heights))
    panels = list(found.flat)
    for axes in panels:
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(COLOURS["soft"])
        axes.tick_params(colors=COLOURS["soft"], labelsize=TYPE)
        axes.set_axisbelow(True)
    return figure, panels


@cache
def _figure_class() -> type[Figure]:
    """Figures that notebooks show, which else know those of pyplot only."""
    from matplotlib.figure import Figure as Plain

    class ShownFigure(Plain):
        def _repr_png_(self) -> bytes:
            stream = io.BytesIO()
            self.savefig(stream, format="png")
            return stream.getvalue()

    return ShownFigure


def grid_of(axes: Axes, *, which: Any = "both") -> None:  # noqa: ANN401 - a literal of matplotlib
    """Lines at the ticks."""
    axes.grid(visible=True, axis=which, color=COLOURS["line"], linewidth=0.8)


def note(
    axes: Axes, *, x: str = "", y: str = "", title: str = "", legend: bool = False
) -> None:
    """Names of axes and panel, and a legend above it."""
    axes.set_xlabel(x, color=COLOURS["ink"], fontsize=TYPE)
    axes.set_ylabel(y, color=COLOURS["ink"], fontsize=TYPE)
    if title:
        axes.set_title(title, color=COLOURS["ink"], fontsize=TYPE, loc="left")
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=TYPE,
            labelcolor=COLOURS["ink"], borderaxespad=0.2, columnspacing=1.2, handlelength=1.4,
        )  # fmt: skip


def _scale(axis: Axis, unit: str, *, percent: bool = False, count: int = 5) -> None:
    """Few round numbers, with prefixes where there is a unit."""
    from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

    axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]))
    if percent:
        axis.set_major_formatter(PercentFormatter(1.0))
    elif unit:
        axis.set_major_formatter(EngFormatter(unit))


def scatter(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    *,
    x: str,
    y: str,
    x_unit: str = "",
    y_unit: str = "",
    strong: Sequence[bool] | None = None,
    titles: Sequence[str] | None = None,
    diagonal: bool = False,
    line: Sequence[tuple[float, float]] = (),
) -> None:
    """Points.

    Args:
        axes: Where.
        points: (x, y); those that are not finite are left out.
        x: Name of the axis.
        y: Likewise.
        x_unit: For SI prefixes.
        y_unit: Likewise.
        strong: Points to emphasise, such as a front.
        titles: What a page tells of a point.
        diagonal: Draw y = x.
        line: Points joined by a line.
    """
    kept = [k for k, point in enumerate(points) if all(map(math.isfinite, point))]
    for heavy in (False, True):
        some = [k for k in kept if (strong is not None and bool(strong[k])) == heavy]
        if not some:
            continue
        (dots,) = axes.plot(
            [points[k][0] for k in some], [points[k][1] for k in some], "o", markersize=5,
            color=COLOURS["strong" if heavy else "c0"], alpha=1.0 if heavy else 0.5,
            markeredgewidth=0, zorder=3,
        )  # fmt: skip
        if titles is not None:
            vars(dots)["titles"] = [titles[k] for k in some]
    if diagonal and kept:
        values = [points[k] for k in kept]
        low = max(min(v[0] for v in values), min(v[1] for v in values))
        high = min(max(v[0] for v in values), max(v[1] for v in values))
        axes.plot([low, high], [low, high], "--", color=COLOURS["soft"], linewidth=1)
    if line:
        xs, ys = zip(*line, strict=True)
        axes.plot(xs, ys, color=COLOURS["strong"], linewidth=1.5, zorder=2)
    grid_of(axes)
    _scale(axes.xaxis, x_unit)
    _scale(axes.yaxis, y_unit)
    note(axes, x=x, y=y)


def bars_height(rows: Mapping[str, Mapping[str, float]]) -> float:
    """Points that :func:`bars` needs."""
    return 62.0 + ROW * max(1, len(rows)) + (22.0 if len(_parts(rows)) > 1 else 0.0)


def _parts(rows: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Colours of the parts that any row has something of: others need no place in a legend."""
    names = dict.fromkeys(part for parts in rows.values() for part in parts)
    colours = {name: PARTS[index % 6] for index, name in enumerate(names)}
    drawn = {
        name: colour
        for name, colour in colours.items()
        if any(_length(parts.get(name, 0.0)) for parts in rows.values())
    }
    return drawn or dict(list(colours.items())[:1])


def _length(value: float) -> float:
    return value if math.isfinite(value) and value > 0 else 0.0


def bars(
    axes: Axes,
    rows: Mapping[str, Mapping[str, float]],
    *,
    unit: str = "",
    percent: bool = False,
    title: str = "",
) -> None:
    """Horizontal bars, one per row, stacked by part, the total behind each.

    Args:
        axes: Where.
        rows: Parts by name, for every row; what is not finite or negative is drawn as nothing.
        unit: Of the values.
        percent: Write values as percentages.
        title: Of the panel.
    """
    names, lefts = list(rows), [0.0] * len(rows)
    for part, colour in _parts(rows).items():
        sizes = [_length(rows[name].get(part, 0.0)) for name in names]
        axes.barh(range(len(names)), sizes, 0.72, left=lefts, color=colour, label=part)
        lefts = [left + size for left, size in zip(lefts, sizes, strict=True)]
    for k, name in enumerate(names):
        total = sum(rows[name].values())
        text = f"{100 * total:.2f} %" if percent else quantity(total, unit)
        axes.text(lefts[k], k, " " + text, va="center", color=COLOURS["ink"], fontsize=TYPE)
    axes.set_yticks(range(len(names)), names, color=COLOURS["ink"])
    axes.set_ylim(max(1, len(names)) - 0.4, -0.6)
    axes.set_xlim(0, 1.3 * max([*lefts, 0.0]) or 1.0)
    axes.tick_params(axis="y", length=0)
    grid_of(axes, which="x")
    _scale(axes.xaxis, unit, percent=percent, count=4)
    note(axes, title=title, legend=len(_parts(rows)) > 1)


def histogram(
    axes: Axes,
    values: Sequence[float],
    *,
    unit: str,
    x: str,
    y: str = "images",
    marks: Mapping[str, float] | None = None,
    bins: int = 40,
) -> None:
    """How often values occur.

    Args:
        axes: Where.
        values: Those that are not finite are left out.
        unit: Of the values.
        x: Name of the axis.
        y: Of what there are so many.
        marks: Values by name, drawn as vertical lines.
        bins: Bars at most; fewer for few values.
    """
    finite = [value for value in values if math.isfinite(value)]
    bins = max(1, min(bins, 4 * math.isqrt(len(finite) or 1)))
    found = axes.hist(finite, bins=bins, color=PARTS[0]) if finite else None
    largest = 1.0 if found is None else float(max(found[0]))  # type: ignore[arg-type]
    _marks(axes, {name: (at, unit) for name, at in (marks or {}).items()}, (0.0, 1.05 * largest))
    grid_of(axes, which="y")
    _scale(axes.xaxis, unit)
    _scale(axes.yaxis, "")
    note(axes, x=x, y=y, legend=bool(marks))


def _marks(
    axes: Axes, marks: Mapping[str, tuple[float, str]], ends: tuple[float, float]
) -> None:
    """Vertical lines, named with their values in the legend."""
    for (name, (value, unit)), style in zip(marks.items(), ("-", "--", ":", "-."), strict=False):
        if math.isfinite(value):
            label = f"{name} {quantity(value, unit)}"
            axes.plot(
                [value, value], ends, color=COLOURS["ink"], linestyle=style, linewidth=1.1,
                label=label, zorder=4,
            )  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: In the legend of emphasised ones.
        values: One per point of the axis.
        kind: ``strong``, ``second`` or ``faint``.
    """

    name: str
    values: Sequence[float]
    kind: str = "faint"


def curves(
    axes: Axes,
    places: Sequence[float],
    drawn: Sequence[Curve],
    *,
    x: str,
    y: str,
    x_unit: str = "",
    y_unit: str = "",
    marks: Mapping[str, float] | None = None,
    band: tuple[float, float] | None = None,
) -> None:
    """Values over time, or over whatever else.

    Args:
        axes: Where.
        places: Of the points.
        drawn: Later ones on top.
        x: Name of the axis.
        y: Likewise.
        x_unit: For SI prefixes.
        y_unit: Likewise.
        marks: Places by name, drawn as vertical lines where they are in the range.
        band: Lower and upper limit of values to shade.
    """
    colours = {"strong": COLOURS["strong"], "second": COLOURS["c0"], "faint": COLOURS["c5"]}
    for curve in drawn:
        heavy = curve.kind != "faint"
        axes.plot(
            places, curve.values, color=colours[curve.kind], linewidth=1.7 if heavy else 1.0,
            alpha=1.0 if heavy else 0.6, label=curve.name if heavy else f"_{curve.name}",
        )  # fmt: skip
    low, high = axes.get_ylim()
    if band is not None:
        axes.fill_between([places[0], places[-1]], *band, color=PARTS[0], alpha=0.15, linewidth=0)
    shown = {n: (v, x_unit) for n, v in (marks or {}).items() if places[0] <= v <= places[-1]}
    _marks(axes, shown, (low, high))
    axes.set_xlim(places[0], places[-1])
    grid_of(axes, which="y")
    _scale(axes.xaxis, x_unit)
    _scale(axes.yaxis, y_unit)
    note(axes, x=x, y=y, legend=bool(shown) or any(c.kind != "faint" for c in drawn))


def heatmap_height(values: Tensor) -> float:
    """Points that :func:`heatmap` needs."""
    rows, columns = values.shape
    return 74.0 + min(max((WIDTH - 130.0) * rows / columns, 60.0), 420.0)


def heatmap(
    axes: Axes,
    values: Tensor,
    *,
    row_ends: Sequence[int] = (),
    column_ends: Sequence[int] = (),
    unit: str = "",
    high: float | None = None,
    x: str = "input",
    y: str = "output",
    first: int = 1,
) -> None:
    """A matrix of values >= 0 as an image with a scale beside it, and dividing lines.

    Args:
        axes: Where.
        values: (rows, columns).
        row_ends: Last row (1-based) of every part; a line is drawn after each but the last.
        column_ends: Likewise for columns.
        unit: Of the values.
        high: Value of the full colour; None: the largest.
        x: What a column is.
        y: What a row is.
        first: Number of the first row and column.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import EngFormatter

    rows, columns = values.shape
    largest = float(values.max()) if high is None else high
    left, top = first - 0.5, first - 0.5
    right, bottom = left + columns, top + rows
    image = axes.imshow(
        values.detach().cpu().to(torch.float32).numpy(),
        cmap=LinearSegmentedColormap.from_list("heat", HEAT), vmin=0.0, vmax=largest or 1.0,
        aspect="auto", interpolation="nearest", extent=(left, right, bottom, top),
    )  # fmt: skip
    for end in column_ends[:-1]:
        axes.plot([end + 0.5] * 2, [0.5, rows + 0.5], color=COLOURS["accent"], linewidth=1.5)
    for end in row_ends[:-1]:
        axes.plot([0.5, columns + 0.5], [end + 0.5] * 2, color=COLOURS["accent"], linewidth=1.5)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    figure = axes.figure
    scale = figure.colorbar(image, ax=axes, format=EngFormatter(unit), pad=0.02)
    scale.ax.tick_params(colors=COLOURS["soft"], labelsize=TYPE)
    scale.outline.set_visible(False)  # type: ignore[operator]
    _scale(axes.xaxis, "")
    _scale(axes.yaxis, "", count=4)
    note(axes, x=x, y=y)


def parallel(
    axes: Axes,
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str],
    *,
    strong: Sequence[bool] | None = None,
) -> None:
    """Parallel coordinates: one vertical axis per column, one line per row.

    Args:
        axes: Where.
        rows: Numbers are placed on a scale, other values at equal distances in sorted order; an
            axis that spans more than a factor of 50 is logarithmic.
        columns: Which values, in order.
        strong: Rows to emphasise, such as a front.
    """
    heights: list[list[float]] = []
    for k, column in enumerate(columns):
        found, shown = _places([row.get(column) for row in rows])
        heights.append(found)
        axes.plot([k, k], [0, 1], color=COLOURS["soft"], linewidth=1)
        for share, text in shown:
            axes.text(
                k, share, f" {text}", va="top" if share == 0 else "bottom", fontsize=TYPE,
                color=COLOURS["soft"],
            )  # fmt: skip
    order = sorted(range(len(rows)), key=lambda i: strong is not None and bool(strong[i]))
    for i in order:
        heavy = strong is not None and bool(strong[i])
        axes.plot(
            range(len(columns)), [found[i] for found in heights],
            color=COLOURS["strong" if heavy else "c5"], alpha=0.95 if heavy else 0.3,
            linewidth=1.6 if heavy else 1.0,
        )  # fmt: skip
    axes.set_xlim(-0.1, max(1, len(columns)) - 0.5)
    axes.set_ylim(-0.09, 1.09)
    axes.set_xticks(range(len(columns)), columns, color=COLOURS["ink"])
    # Names stand in two rows, so that they do not meet.
    for label in axes.get_xticklabels()[1::2]:
        label.set_y(-0.05)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)


def _places(values: Sequence[object]) -> tuple[list[float], list[tuple[float, str]]]:
    """Share of an axis of every value, and which to name."""
    numbers = [float(v) for v in values if isinstance(v, int | float)]
    if len(numbers) < len(values) or not numbers:
        kinds = sorted({str(value) for value in values})
        spots = {kind: (i + 0.5) / len(kinds) for i, kind in enumerate(kinds)}
        return [spots[str(v)] for v in values], [(spots[kind], kind) for kind in kinds[:12]]
    low, high = min(numbers), max(numbers)
    if low == high:
        return [0.5] * len(numbers), [(0.5, f"{low:.4g}")]
    if low > 0 and high / low > 50:
        shares = [math.log(n / low) / math.log(high / low) for n in numbers]
    else:
        shares = [(n - low) / (high - low) for n in numbers]
    return shares, [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]
