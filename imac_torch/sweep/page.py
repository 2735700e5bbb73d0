"""A sweep as one HTML page: parallel coordinates, objectives, the front."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from imac_torch.base.figures import parallel, scatter
from imac_torch.base.units import quantity
from imac_torch.reports.chart import picture
from imac_torch.reports.page import template_environment
from imac_torch.reports.report import environment
from imac_torch.sweep.metrics import PHYSICAL
from imac_torch.sweep.store import SweepTable

__all__ = ["render_sweep"]

UNITS: Final = {
    "power": "W", "power_inputs": "W", "power_bias": "W", "power_neurons": "W",
    **dict.fromkeys(PHYSICAL, "W"), "energy": "J",
    "period": "s", "residual": "A", "latency": "s", "latency_worst": "s", "decision_latency": "s",
    "safe_period": "s", "energy_measured": "J", "energy_switching": "J", "noise_rms": "V",
    "snr": "dB", "write_energy": "J", "write_time": "s", "write_time_by_rows": "s",
}  # fmt: skip
"""Units of metrics, for axes and tables; area is written in µm²."""


def render_sweep(
    table: SweepTable, objectives: Mapping[str, str], *, title: str = "Sweep"
) -> str:
    """The page as text.

    Args:
        table: Points and their results.
        objectives: ``max`` or ``min`` by metric.
        title: Heading of the page.

    Raises:
        ConfigError: An objective is no metric of the table.
    """
    rows = list(table.done)
    front = table.front(objectives) if rows else ()
    strong = [any(row is other for other in front) for row in rows]
    varied = [
        name for name in table.settings if len({str(row.get(name)) for row in table.rows}) > 1
    ]
    columns = [*varied, *objectives]
    shown = [{**row, **({"area": row["area"] * 1e12} if "area" in row else {})} for row in rows]

    def told(row: Mapping[str, Any]) -> str:
        """Its settings and results, for who points at it."""
        settings = ", ".join(f"{name} = {row.get(name)}" for name in varied)
        return "\n".join([settings, *(f"{n}: {_cell(n, row.get(n))}" for n in objectives)])

    pairs = []
    for first, second in itertools.combinations(objectives, 2):
        points = [(_number(row, second), _number(row, first)) for row in rows]
        # The front of two objectives is a line; of more it is not one in their projections.
        line = sorted(p for p, s in zip(points, strong, strict=True) if s)
        chart = picture(
            partial(
                scatter,
                points=points,
                x=_label(second),
                y=_label(first),
                x_unit=UNITS.get(second, ""),
                y_unit=UNITS.get(first, ""),
                strong=strong,
                titles=[told(row) for row in rows],
                line=line if len(objectives) == 2 else (),
            ),
            label=f"{first} against {second}",
            height=380,
        )
        pairs.append({"chart": chart, "note": "Point at a dot for its settings."})
    failed = [row for row in table.rows if row["status"] == "failed"]
    context: dict[str, Any] = {
        "title": title,
        "subtitle": f"{len(table)} points over {', '.join(varied) or 'nothing that varies'}",
        "version": environment()["imac_torch"],
        "tiles": [
            ("points", str(len(table))),
            ("on the front", str(len(front))),
            *((f"best {name}", _best(rows, name, goal)) for name, goal in objectives.items()),
        ],
        "failed": len(failed),
        "first_error": failed[0]["error"] if failed else "",
        "missing": sum(row["status"] == "missing" for row in table.rows),
        "total": len(table),
        "parallel": picture(
            partial(parallel, rows=shown, columns=columns, strong=strong),
            label="parallel coordinates",
            height=360,
            width=max(1100, 130 * len(columns)),
        ),
        "pairs": pairs,
        "goals": "; ".join(f"{name}: {goal}" for name, goal in objectives.items()),
        "columns": columns,
        "front": [[_cell(name, row.get(name)) for name in columns] for row in front],
    }
    return template_environment().get_template("sweep.html.jinja").render(context)


def _number(row: Mapping[str, Any], name: str) -> float:
    value = float(row.get(name, float("nan")))
    return value * 1e12 if name == "area" else value


def _label(name: str) -> str:
    return "area, µm²" if name == "area" else name


def _cell(name: str, value: object) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "–" if value is None else str(value)
    if name == "area":
        return f"{value * 1e12:.4g} µm²"
    return quantity(value, UNITS.get(name, ""))


def _best(rows: list[Mapping[str, Any]], name: str, goal: str) -> str:
    values = [row[name] for row in rows if name in row]
    if not values:
        return "–"
    return _cell(name, max(values) if goal == "max" else min(values))
