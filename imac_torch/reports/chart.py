"""Figures on a page: still pictures that follow its colours, and the same data for plotly.

A chart is drawn once, with matplotlib (:mod:`imac_torch.base.figures`). The page holds it as SVG,
which is what is printed and what is seen without scripts, and, where plotly is installed, as the
data behind it: its script, which travels in the page, then draws a chart to point at and zoom.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import resources, util
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup, escape
from numpy import asarray

from imac_torch.base.figures import COLOURS, HEAT, WIDTH, bars, bars_height, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D

__all__ = ["bar_chart", "chart", "interactive", "library", "picture"]

MOST: Final = 24
"""Bars of a chart."""
METADATA: Final = ("Date", "Creator", "Format", "Type")
"""What matplotlib would say of itself and the time in each picture."""

_NAMES: Final = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_DASHES: Final = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}


def picture(
    draw: Callable[[Axes], None], *, label: str, height: float = 300.0, width: float = WIDTH
) -> Markup:
    """A chart of one panel.

    Args:
        draw: Draws it.
        label: What is shown, for readers that see no picture.
        height: Points.
        width: Points.
    """
    figure, (axes,) = new_figure((height,), width=width, arranged=False)
    draw(axes)
    # Margins by the length of what stands there.
    names = () if axes.get_ylabel() else axes.get_yticklabels()
    longest = max((len(name.get_text()) for name in names), default=0)
    left = 78.0 if axes.get_ylabel() else 14.0 + 6.9 * longest
    right = 12.0 if axes.images else 20.0
    bottom = 46.0 if axes.get_xlabel() else 28.0
    named = len(axes.get_legend_handles_labels()[0]) if axes.get_legend() else 0
    top = 30.0 + 17.0 * ((max(named, 1) - 1) // 3) if named or axes.get_title(loc="left") else 8.0
    figure.subplots_adjust(
        min(left / width, 0.5), bottom / height, 1 - right / width, 1 - top / height
    )
    return chart(figure, label)


def bar_chart(
    rows: Mapping[str, Mapping[str, float]],
    label: str,
    *,
    unit: str = "",
    percent: bool = False,
) -> Markup:
    """Bars, of many rows the largest; nothing where there are none.

    Args:
        rows: Parts by name, for every row.
        label: What is shown, for readers that see no picture.
        unit: Of the values.
        percent: Write values as percentages.
    """
    if not rows:
        return Markup("")
    totals = {name: sum(v for v in parts.values() if v > 0) for name, parts in rows.items()}
    kept = set(sorted(rows, key=totals.__getitem__, reverse=True)[:MOST])
    rows = {name: parts for name, parts in rows.items() if name in kept}
    few = f"the {len(rows)} largest of {len(totals)}" if len(rows) < len(totals) else ""
    return picture(
        lambda axes: bars(axes, rows, unit=unit, percent=percent, title=few),
        label=label,
        height=bars_height(rows),
    )


def chart(figure: Figure, label: str) -> Markup:
    """A figure of one panel, for a page.

    Args:
        figure: What :func:`imac_torch.base.figures.new_figure` gave, drawn.
        label: What is shown.
    """
    height = round(72 * figure.get_size_inches()[1])
    holder = ""
    if interactive():
        data = json.dumps(_plotly(figure.axes[0], height), separators=(",", ":"))
        safe = data.replace("<", "\\u003c")
        holder = f'<script type="application/json">{safe}</script>'
    return Markup(  # noqa: S704 - matplotlib escapes the text in its SVG
        f'<div class="chart">{_svg(figure, label)}{holder}</div>'
    )


def interactive() -> bool:
    """Whether pages can be pointed at and zoomed."""
    return util.find_spec("plotly") is not None


@lru_cache(maxsize=1)
def library() -> str:
    """Plotly's script, gzipped, in base64: a third of its size; empty without plotly."""
    if not interactive():
        return ""
    script = resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, 6, mtime=0)).decode()


def _svg(figure: Figure, label: str) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    figure.patch.set_visible(False)
    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "imac_torch", "text.parse_math": False}
    ):
        # As savefig, which draws all of it once more before.
        FigureCanvasSVG(figure).print_svg(stream, metadata=dict.fromkeys(METADATA))
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    # Names that no other element refers to would be there once per chart.
    text = re.sub(r' id="[a-zA-Z]+(?:2d)?_\d+"', "", text)
    for colour, name in _NAMES.items():
        text = text.replace(colour, name)
    width, height = (round(72 * size) for size in figure.get_size_inches())
    head = (
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="{escape(label)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return re.sub(r"\n\s*", "\n", re.sub(r"<svg[^>]*>", head, text, count=1)).strip()


def _colour(value: Any) -> str:  # noqa: ANN401 - whatever matplotlib takes for a colour
    from matplotlib.colors import to_hex

    found = to_hex(value)
    return _NAMES.get(found, found)


def _plotly(axes: Axes, height: int) -> dict[str, Any]:
    """The same panel as data and layout of plotly; text is escaped, which reads tags."""
    from matplotlib.container import BarContainer

    bars = [item for item in axes.containers if isinstance(item, BarContainer)]
    data = [
        *(_image(item) for item in axes.images),
        *(_bar(item) for item in bars),
        *(_line(item) for item in axes.get_lines()),
    ]
    return {
        "data": data,
        "layout": {
            "height": height,
            "title": {"text": _plain(axes.get_title(loc="left")), "x": 0, "font": {"size": 12}},
            "barmode": "overlay",
            "showlegend": axes.get_legend() is not None,
            "xaxis": _axis(axes, "x"),
            "yaxis": _axis(axes, "y"),
            "annotations": [
                {
                    "x": float(item.get_position()[0]), "y": float(item.get_position()[1]),
                    "text": _plain(item.get_text()), "showarrow": False, "xanchor": "left",
                    "yanchor": {"center": "middle"}.get(
                        item.get_verticalalignment(), item.get_verticalalignment()
                    ),
                    "font": {"color": _colour(item.get_color())},
                }
                for item in axes.texts
            ],
        },
    }  # fmt: skip


def _plain(text: str) -> str:
    return str(escape(text.strip())).replace("\n", "<br>")


def _axis(axes: Axes, which: str) -> dict[str, Any]:
    from matplotlib.ticker import EngFormatter, FixedLocator, PercentFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    formatter = axis.get_major_formatter()
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    found: dict[str, Any] = {
        "title": {"text": _plain(axis.get_label().get_text())},
        "range": [float(low), float(high)],
        "nticks": 6,
    }
    if isinstance(formatter, EngFormatter):
        found |= {"tickformat": "~s", "hoverformat": ".4s", "ticksuffix": formatter.unit}
    elif isinstance(formatter, PercentFormatter):
        found |= {"tickformat": ".3~%", "hoverformat": ".2%"}
    if isinstance(axis.get_major_locator(), FixedLocator) and len(axis.get_ticklocs()):
        places = [float(place) for place in axis.get_ticklocs()]
        found |= {
            "tickvals": places,
            "ticktext": [_plain(name) for name in formatter.format_ticks(places)],
            "showgrid": False,
        }
    elif not len(axis.get_ticklocs()):
        found["visible"] = False
    return found


def _image(image: AxesImage) -> dict[str, Any]:
    values = image.get_array().filled()  # type: ignore[union-attr]
    data = base64.b64encode(values.astype("<f4").tobytes()).decode()
    unit = getattr(image.colorbar.ax.yaxis.get_major_formatter(), "unit", "")  # type: ignore[union-attr]
    return {
        "type": "heatmap", "x0": 1, "y0": 1,
        "z": {"dtype": "f4", "bdata": data, "shape": f"{values.shape[0]}, {values.shape[1]}"},
        "zmin": 0, "zmax": image.get_clim()[1],
        "colorscale": [[k / (len(HEAT) - 1), colour] for k, colour in enumerate(HEAT)],
        "colorbar": {"tickformat": "~s", "ticksuffix": unit, "thickness": 14, "outlinewidth": 0},
        "hovertemplate": f"output %{{y}}, input %{{x}}: %{{z:.4s}}{unit}<extra></extra>",
    }  # fmt: skip


def _bar(container: BarContainer) -> dict[str, Any]:
    """Horizontal ones, or those of a histogram."""
    boxes = [item.get_bbox() for item in container.patches]
    flat = container.orientation == "horizontal"
    label = str(container.get_label())
    name = "" if label.startswith("_") else _plain(label)
    return {
        "type": "bar",
        "orientation": "h" if flat else "v",
        "name": name,
        "showlegend": bool(name),
        "marker": {"color": _colour(container.patches[0].get_facecolor()) if boxes else "gray"},
        "base": [float(b.x0 if flat else b.y0) for b in boxes],
        "x": [float(b.width if flat else (b.x0 + b.x1) / 2) for b in boxes],
        "y": [float((b.y0 + b.y1) / 2 if flat else b.height) for b in boxes],
        "width": [float(b.height if flat else b.width) for b in boxes],
        **({"hovertemplate": "%{fullData.name}: %{x}<extra></extra>"} if flat and name else {}),
    }


def _line(line: Line2D) -> dict[str, Any]:
    label = str(line.get_label())
    dots, titles = line.get_linestyle() == "None", vars(line).get("titles")
    return {
        "type": "scatter",
        "mode": "markers" if dots else "lines",
        "name": _plain(label.lstrip("_")) if not label.startswith("_child") else "",
        "showlegend": not label.startswith("_"),
        "x": asarray(line.get_xdata(), dtype=float).tolist(),
        "y": asarray(line.get_ydata(), dtype=float).tolist(),
        "opacity": 1.0 if line.get_alpha() is None else line.get_alpha(),
        **(
            {"marker": {"color": _colour(line.get_color()), "size": 6}}
            if dots
            else {
                "line": {
                    "color": _colour(line.get_color()),
                    "width": line.get_linewidth(),
                    "dash": _DASHES.get(str(line.get_linestyle()), "solid"),
                }
            }
        ),
        **({"text": [_plain(t) for t in titles], "hoverinfo": "text"} if titles else {}),
    }
