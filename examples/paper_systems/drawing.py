"""Figures of the papers' sweeps, drawn with matplotlib without any global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from paper_systems.grids import CASES, IDEAL, best

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "draw_nodes", "draw_resistances", "draw_sizes", "new_figure", "save"]

Rows = Sequence[Mapping[str, Any]]

COLOURS: Final = {"MRAM": "#1f6fb4", "RRAM": "#d1602b", "CBRAM": "#7a5aa6", "PCM": "#2b8a5c"}
"""By device; the same in all figures."""
DPI: Final = 80


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    """A figure of its own, not pyplot's: no window, nothing global to close."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Figure, path: Path) -> Path:
    """As PNG."""
    figure.savefig(path, dpi=DPI)
    return path


def finish(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Labels, a light grid, no frame at the top and on the right."""
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_sizes(rows: Rows, title: str, path: Path) -> Path:
    """Accuracy and power against array size: a column per bit cell, a line per device."""
    cells = [cell for cell in dict.fromkeys(row["cell"] for row in rows) if cell != IDEAL]
    devices = list(dict.fromkeys(row["device"] for row in rows))
    widths = list(dict.fromkeys(row["size"] for row in rows))
    published = {
        (row["device"], row["cell"], row["size"]): row for row in rows if row["factor"] == 1.0
    }
    tuned = best(rows, ("device", "cell", "size"))
    figure, grid = new_figure(3, len(cells), (3.6 * len(cells) + 0.6, 8.6))
    for column, cell in enumerate(cells):
        for line, found in enumerate((published, tuned)):
            axes = grid[line][column]
            for device in devices:
                for name, style in ((cell, "o-"), (IDEAL, ":")):
                    values = [100.0 * found[device, name, width]["accuracy"] for width in widths]
                    label = device if name == cell else None
                    axes.plot(
                        widths, values, style, color=COLOURS[device], label=label, markersize=4
                    )
            axes.set_ylim(0, 101)
            kind = "published gains" if line == 0 else "best of the gains"
            finish(axes, "", "accuracy, %" if column == 0 else "", f"{cell}, {kind}")
        axes = grid[2][column]
        for device in devices:
            powers = [published[device, cell, width]["power"] for width in widths]
            axes.plot(widths, powers, "o-", color=COLOURS[device], label=device, markersize=4)
        finish(axes, "rows and columns of an array", "power, W" if column == 0 else "", cell)
        axes.set_ylim(0)
        for line in range(3):
            grid[line][column].set_xscale("log", base=2)
            grid[line][column].set_xticks(widths, [str(width) for width in widths])
    grid[0][0].legend(frameon=False, fontsize=8, title="dotted: no wires", title_fontsize=8)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def draw_resistances(rows: Rows, title: str, path: Path) -> Path:
    """Accuracy over Rlow and Rhigh in the three cases, at the published and at the best gains."""
    from matplotlib.colors import Normalize

    low = sorted({row["rlow"] for row in rows})
    high = sorted({row["rhigh"] for row in rows})
    published = {
        (row["case"], row["rlow"], row["rhigh"]): row for row in rows if row["factor"] == 1.0
    }
    tuned = best(rows, ("case", "rlow", "rhigh"))
    figure, grid = new_figure(2, len(CASES), (11.0, 7.0))
    for line, found in enumerate((published, tuned)):
        for column, case in enumerate(CASES):
            axes = grid[line][column]
            values = [
                [100.0 * found[case, a, b]["accuracy"] if a < b else float("nan") for b in high]
                for a in low
            ]
            axes.imshow(values, origin="lower", cmap="YlGnBu", norm=Normalize(0, 100))
            for y, cells in enumerate(values):
                for x, value in enumerate(cells):
                    if not math.isnan(value):  # there is nothing where rlow is not below rhigh
                        ink = "white" if value > 60 else "black"
                        axes.text(x, y, f"{value:.0f}", ha="center", va="center", color=ink, size=8)
            axes.set_xticks(range(len(high)), [f"{b / 1e3:g}" for b in high])
            axes.set_yticks(range(len(low)), [f"{a / 1e3:g}" for a in low])
            kind = "published gains" if line == 0 else "best of the gains"
            axes.set_title(f"{case}, {kind}", fontsize=10)
            axes.set_xlabel("Rhigh, kΩ" if line else "")
            axes.set_ylabel("Rlow, kΩ" if column == 0 else "")
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def draw_nodes(rows: Rows, title: str, path: Path) -> Path:
    """Accuracy, drop, power and latency against λ."""
    panels = (
        ("accuracy", 100.0, "accuracy, %"),
        ("input_drop", 1e3, "drop to the worst cell, input line, mV"),
        ("power", 1.0, "power, W"),
        ("latency", 1e12, "median latency, ps"),
    )
    figure, grid = new_figure(2, 2, (8.4, 7.0))
    for axes, (metric, unit, label) in zip(grid.flat, panels, strict=True):
        for device in dict.fromkeys(row["device"] for row in rows):
            for metal, style in (("fixed", "o-"), ("scaled", "s:")):
                line = [r for r in rows if r["device"] == device and r["metal"] == metal]
                axes.plot(
                    [row["node"] * 1e9 for row in line],
                    [row[metric] * unit for row in line],
                    style,
                    color=COLOURS[device],
                    markersize=4,
                    label=device if metal == "fixed" else None,
                )
        finish(axes, "λ, nm", label)
        axes.set_ylim(0)
    grid[0][0].legend(
        frameon=False, fontsize=8, title="dotted: T and H scaled with λ", title_fontsize=8
    )
    figure.suptitle(title, fontsize=11)
    return save(figure, path)
