"""Charts as inline SVG that follow the page's colours, light or dark; no script, no file."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence

import torch
from markupsafe import Markup, escape
from torch import Tensor

from imac_torch.reports.svg import WIDTH, Frame, caption, padded, quantity, svg

__all__ = ["bars", "heatmap", "parallel_coordinates", "scatter"]

def scatter(
    points: Sequence[tuple[float, float]],
    *,
    x_label: str,
    y_label: str,
    classes: Sequence[int] | None = None,
    titles: Sequence[str] | None = None,
    diagonal: bool = False,
    line: Sequence[tuple[float, float]] = (),
    x_unit: str = "",
    y_unit: str = "",
) -> Markup:
    """A scatter plot.

    Args:
        points: (x, y); those that are not finite are left out.
        x_label: Of the axis.
        y_label: Of the axis.
        classes: 0 for ordinary points, 1 for emphasised ones.
        titles: Shown when a point is pointed at.
        diagonal: Draw y = x.
        line: Points joined by a line, such as a front.
        x_unit: For SI prefixes at ticks.
        y_unit: Likewise.
    """
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    (x0, x1), (y0, y1) = padded(xs), padded(ys)
    frame = Frame((x0, x1), (y0, y1))
    sx, sy = frame.sx, frame.sy
    body = frame.grid(x_unit, y_unit)
    if diagonal:
        a, b = max(x0, y0), min(x1, y1)
        if a < b:
            body.append(
                f'<line class="rule" x1="{sx(a):.1f}" y1="{sy(a):.1f}" x2="{sx(b):.1f}" '
                f'y2="{sy(b):.1f}"/>'
            )
    if line:
        path = " ".join(f"{sx(x):.1f},{sy(y):.1f}" for x, y in line)
        body.append(f'<polyline class="front" points="{path}"/>')
    for index, (x, y) in enumerate(points):
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        kind = "dot strong" if classes is not None and classes[index] else "dot"
        title = f"<title>{escape(titles[index])}</title>" if titles is not None else ""
        place = f'cx="{sx(x):.1f}" cy="{sy(y):.1f}"'
        body.append(f'<circle class="{kind}" {place} r="2.6">{title}</circle>')
    body += frame.labels(x_label, y_label)
    return svg(frame.height, body, f"{y_label} against {x_label}")


def bars(
    rows: Mapping[str, Mapping[str, float]],
    *,
    unit: str = "",
    label: str,
    percent: bool = False,
    low: float = 0.0,
) -> Markup:
    """Horizontal bars, one per row, stacked by part.

    Args:
        rows: Parts by name, for every row; negative parts are drawn as nothing.
        unit: Of the values.
        label: What is shown, for readers that see no picture.
        percent: Write values as percentages.
        low: Where the axis starts.
    """
    names = list(dict.fromkeys(part for parts in rows.values() for part in parts))
    totals = {name: sum(parts.values()) for name, parts in rows.items()}
    top = max([*totals.values(), low]) or 1.0
    span = (top - low) or 1.0
    left = min(250.0, 24.0 + 6.6 * max((len(name) for name in rows), default=0))
    room = WIDTH - left - 92
    step, start = 30, 26 if len(names) > 1 else 4
    body = []
    if len(names) > 1:
        x = left
        for k, name in enumerate(names):
            body.append(f'<rect class="c{k % 6}" x="{x:.1f}" y="4" width="12" height="12" rx="2"/>')
            body.append(caption(x + 17, 14.5, name))
            x += 32 + 7.2 * len(name)
    for index, (name, parts) in enumerate(rows.items()):
        y = start + step * index
        body.append(caption(left - 8, y + 17, name, anchor="end"))
        x = left
        for part, value in parts.items():
            shown = max(value - (low if len(names) == 1 else 0.0), 0.0)
            size = shown / span * room
            text = f"{100 * value:.2f} %" if percent else quantity(value, unit)
            body.append(
                f'<rect class="c{names.index(part) % 6}" x="{x:.1f}" y="{y + 3}" '
                f'width="{size:.1f}" height="20" rx="2"><title>{escape(part)}: {escape(text)}'
                "</title></rect>"
            )
            x += size
        total = totals[name]
        text = f"{100 * total:.2f} %" if percent else quantity(total, unit)
        body.append(caption(x + 6, y + 17, text, kind="value"))
    return svg(start + step * len(rows) + 4, body, label)


def heatmap(
    values: Tensor,
    *,
    row_ends: Sequence[int] = (),
    column_ends: Sequence[int] = (),
    unit: str = "",
    label: str,
    high: float | None = None,
) -> Markup:
    """A matrix of values >= 0 as an image, with dividing lines.

    Args:
        values: (rows, columns).
        row_ends: Last row (1-based) of every part; a line is drawn after each but the last.
        column_ends: Likewise for columns.
        unit: Of the values, for the scale.
        label: What is shown.
        high: Value of the full colour; None: the largest.
    """
    from PIL import Image

    rows, columns = values.shape
    largest = float(values.max()) if high is None else high
    shade = (values / largest if largest > 0 else values).clamp(0, 1)
    # White to orange to dark red: readable on light and dark pages alike, and in grey.
    stops = torch.tensor(
        [[255, 246, 224], [250, 190, 90], [214, 70, 40], [92, 10, 40]], device="cpu"
    )
    position = shade * 3
    index = position.floor().clamp(max=2).long()
    part = (position - index)[..., None]
    colours = stops[index] * (1 - part) + stops[index + 1] * part
    image = Image.fromarray(colours.round().to(torch.uint8).numpy())
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    room = WIDTH - 2.0
    height = min(max(room * rows / columns, 60.0), 420.0)
    body = [
        f'<image x="1" y="1" width="{room}" height="{height:.1f}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    ]
    for end in column_ends[:-1]:
        x = 1 + room * end / columns
        body.append(f'<line class="cut" x1="{x:.2f}" x2="{x:.2f}" y1="1" y2="{height + 1:.1f}"/>')
    for end in row_ends[:-1]:
        y = 1 + height * end / rows
        body.append(f'<line class="cut" x1="1" x2="{room + 1}" y1="{y:.2f}" y2="{y:.2f}"/>')
    base = height + 14
    for k in range(60):
        t = k / 59 * 3
        i = min(int(t), 2)
        colour = (stops[i] * (1 - (t - i)) + stops[i + 1] * (t - i)).round().int().tolist()
        body.append(
            f'<rect x="{60 + 3 * k}" y="{base:.1f}" width="3.2" height="10" '
            f'fill="rgb({colour[0]},{colour[1]},{colour[2]})"/>'
        )
    body.append(caption(52, base + 9.5, quantity(0.0, unit), anchor="end"))
    body.append(caption(248, base + 9.5, quantity(largest, unit)))
    return svg(base + 16, body, label)


def parallel_coordinates(
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str],
    *,
    strong: Sequence[bool] | None = None,
    label: str,
) -> Markup:
    """One vertical axis per column, one line per row.

    Args:
        rows: Numbers are placed on a scale, other values at equal distances in sorted order.
        columns: Which values, in order.
        strong: Rows to emphasise, such as a front.
        label: What is shown.
    """
    height, top, bottom = 360.0, 34.0, 40.0
    # Captions are centred on their axes: the first and the last need room for half of theirs.
    margin = max([60.0, *(3.8 * len(name) for name in columns)])
    width = max(WIDTH, 130.0 * len(columns))
    places: list[dict[int, float]] = []
    body = []
    for k, column in enumerate(columns):
        x = margin + k * (width - 2 * margin) / max(1, len(columns) - 1)
        values = [row.get(column) for row in rows]
        numbers = [float(v) for v in values if isinstance(v, int | float)]
        place: dict[int, float] = {}
        if len(numbers) == len(values) and numbers:
            low, high = min(numbers), max(numbers)
            logarithmic = low > 0 and high / low > 50
            marks = [low, high] if low != high else [low]

            def scale(value: float, low: float = low, high: float = high, *, log: bool) -> float:
                if low == high:
                    return 0.5
                if log:
                    return math.log(value / low) / math.log(high / low)
                return (value - low) / (high - low)

            place = {i: scale(n, log=logarithmic) for i, n in enumerate(numbers)}
            shown = [(scale(m, log=logarithmic), f"{m:.4g}") for m in marks]
        else:
            kinds = sorted({str(value) for value in values})
            spots = {kind: (i + 0.5) / len(kinds) for i, kind in enumerate(kinds)}
            place = {i: spots[str(value)] for i, value in enumerate(values)}
            shown = [(spots[kind], kind) for kind in kinds[:12]]
        places.append(place)
        place_y = f'y1="{top}" y2="{height - bottom}"'
        body.append(f'<line class="axisline" x1="{x:.1f}" x2="{x:.1f}" {place_y}/>')
        caption_y = 14 if k % 2 == 0 else height - 4
        body.append(caption(x, caption_y, column, kind="axis", anchor="middle"))
        for share, text in shown:
            y = height - bottom - share * (height - top - bottom)
            body.append(caption(x + 5, y + (12 if share == 0 else -3), text))
    lines: list[str] = []
    emphasised: list[str] = []
    for i in range(len(rows)):
        points = " ".join(
            f"{margin + k * (width - 2 * margin) / max(1, len(columns) - 1):.1f},"
            f"{height - bottom - place[i] * (height - top - bottom):.1f}"
            for k, place in enumerate(places)
        )
        heavy = strong is not None and strong[i]
        (emphasised if heavy else lines).append(
            f'<polyline class="path{" strong" if heavy else ""}" points="{points}"/>'
        )
    return svg(height, [*lines, *emphasised, *body], label, width)
