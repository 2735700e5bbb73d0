"""The part of the page about time: latency, sampling, measured energy, waveforms."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Final

import torch
from markupsafe import Markup
from torch import Tensor

from imac_torch.base.figures import Curve, curves, histogram
from imac_torch.base.units import quantity
from imac_torch.reports.chart import bar_chart, picture
from imac_torch.reports.report import Report
from imac_torch.reports.timing import LEVELS, NOT_MEASURED, method, timing_figures
from imac_torch.transient.inference_report import InferenceReport

__all__ = ["timing_section"]

PARTS: Final = {"inputs": "inputs", "bias": "bias lines", "neurons": "neurons"}
"""Parts of the total, in words."""
VIEW: Final = 1.6
"""Waveforms are drawn up to this multiple of the slowest latency shown."""


def timing_section(report: Report) -> dict[str, Any] | None:
    """What the template shows of time; None where nothing was measured."""
    timed = report.timing
    if timed is None:
        return None
    figures = timing_figures(timed, report.labels)
    cost = timed.cost(report.labels)
    percent = f"{100 * timed.latency.fraction:.3g} %"
    period = timed.timing.period
    worst = figures["latency"]["worst"]
    images = timed.latency.images[:, 0]
    decision = timed.latency.decision[:, 0]
    spreads = (figures["latency"], figures["decision"])
    return {
        "warning": cost.warning,
        "failures": figures["failures"],
        "count": len(timed.status),
        "failure": timed.failure,
        "percent": percent,
        "tiles": [
            ("latency, median", quantity(figures["latency"]["median"], "s", 3)),
            ("latency, worst", quantity(worst, "s", 3)),
            ("smallest safe period", quantity(figures["safe_period"], "s", 3)),
        ],
        "histogram": _spread(
            images,
            figures["latency"],
            f"latency: every output within {percent} of its swing",
            {"sampling": period} if period < 1.5 * worst else {},
        ),
        "decisions": _spread(decision, figures["decision"], "until the class no longer changes"),
        "names": [f"within {percent}", "class stable"],
        "rows": [
            *(
                {"name": level, "cells": [quantity(item[level], "s") for item in spreads]}
                for level in LEVELS
            ),
            {"name": "which is sample", "cells": [item["worst_sample"] for item in spreads]},
        ],
        "facts": [
            ("sampling period", quantity(period, "s")),
            ("throughput", f"{figures['throughput']:.4g} per second"),
            ("throughput at the safe period", f"{figures['largest_throughput']:.4g} per second"),
            ("outputs settled when sampled", f"{100 * cost.settled:.2f} %"),
            ("accuracy as sampled", f"{100 * cost.accuracy:.2f} %"),
            ("accuracy when settled", f"{100 * cost.settled_accuracy:.2f} %"),
            ("measured by", method(timed)),
        ],
        "energy_chart": _energy_chart(figures["energy"]),
        "energy_rows": [
            {"name": text, **{kind: quantity(value, "J") for kind, value in values.items()}}
            for text, values in (
                *((text, figures["energy"][part]) for part, text in PARTS.items()),
                ("total", figures["energy"]["total"]),
            )
        ],
        "waves": _waves(timed, report),
    }


def _spread(
    values: Tensor, figures: dict[str, Any], x: str, more: dict[str, float] | None = None
) -> Markup:
    """A histogram with its quantiles."""
    marks = {"median": figures["median"], "99 %": figures["p99"], **(more or {})}
    return picture(
        lambda axes: histogram(axes, values.tolist(), unit="s", x=x, marks=marks),
        label=f"distribution: {x}",
    )


def _energy_chart(energy: dict[str, dict[str, float]]) -> Markup:
    """Static and switching stacked; where switching is negative, what remains of the static."""
    rows = {
        text: {
            "static": energy[part]["static"] + min(energy[part]["switching"], 0.0),
            "switching": max(energy[part]["switching"], 0.0),
        }
        for part, text in PARTS.items()
    }
    return bar_chart(rows, "energy per inference by part, static and switching", unit="J")


def _waves(timed: InferenceReport, report: Report) -> list[dict[str, Any]]:
    """One chart per image that waveforms were kept of, the slowest first."""
    kept = timed.waveforms
    if kept is None:
        return []
    samples = [int(index) for index in kept.samples]
    latencies = [float(timed.latency.images[index, 0]) for index in samples]
    finite = [value for value in latencies if math.isfinite(value)]
    view = max(VIEW * max(finite, default=math.inf), 2.0 * timed.timing.transition)
    shown = kept.time <= min(view, float(kept.time[-1])) * (1 + 1e-9)
    # The first point beyond the view closes the lines at its edge.
    shown[: min(int(shown.sum()) + 1, len(shown))] = True
    time = kept.time[shown]
    found = []
    for k in sorted(range(len(samples)), key=lambda k: -latencies[k]):
        index = samples[k]
        settled = timed.settled[index]
        winner, single = int(settled.argmax()), len(settled) == 1
        slowest = int(timed.latency.outputs[index, 0].argmax())
        values = kept.outputs[shown, k]
        swing = float((settled[slowest] - values[0, slowest]).abs())
        half = max(timed.latency.fraction * swing, timed.resolution)
        kinds = {slowest: "second", winner: "strong"}
        order = sorted(range(values.shape[1]), key=lambda m: (m in kinds, m == winner))
        chart = picture(
            partial(
                curves,
                places=time.tolist(),
                drawn=[
                    Curve(f"output {m}", values[:, m].tolist(), kinds.get(m, "faint"))
                    for m in order
                ],
                x="time from the start of the input ramp",
                y="outputs",
                x_unit="s",
                y_unit="V",
                marks={
                    "class stable": float(timed.latency.decision[index, 0]),
                    "all settled": latencies[k],
                    "sampling": timed.timing.period,
                },
                band=(float(settled[slowest]) - half, float(settled[slowest]) + half),
            ),
            label=f"outputs over time of sample {index}",
        )
        found.append(
            {
                "chart": chart,
                "title": f"Sample {index}"
                + (", the slowest" if index == timed.latency.worst() else ""),
                "label": int(report.labels[index]),
                "winner": winner,
                "single": single,  # which says yes or no, and is no class
                "slowest": slowest,
                "failed": bool(torch.isinf(timed.latency.images[index, 0])),
            }
        )
    return found


NOTE: Final = f"Latency and the energy of switching were {NOT_MEASURED}."
"""What the page says without transients."""
