"""Latency and energy in reports: figures, table rows, and their place in saved files."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

import torch
from torch import Tensor

from imac_torch.base.units import quantity
from imac_torch.config import Timing
from imac_torch.results.energy import Energy
from imac_torch.results.latency import Latency
from imac_torch.results.waveform import Waveforms
from imac_torch.transient.inference_report import InferenceReport

__all__ = [
    "LEVELS",
    "NOT_MEASURED",
    "method",
    "read_timing",
    "timing_content",
    "timing_figures",
    "timing_rows",
    "timing_tensors",
]

NOT_MEASURED: Final = "not measured; evaluate(..., timing=True) or simulate --timing measures it"
"""What a report says of latency without transients."""

LEVELS: Final = {"median": 0.5, "p95": 0.95, "p99": 0.99, "worst": 1.0}
"""Quantiles of latencies, by name."""

_ENERGIES: Final = {
    name: f"{name}_artefact" if name == "amplifiers" else name
    for name in ("total", *(part.name for part in fields(Energy)))
}
"""Parts and their names among figures: what ideal amplifiers deliver is no energy."""
_PREFIX: Final = "timing."


def timing_figures(timed: InferenceReport, labels: Tensor) -> dict[str, Any]:
    """The scalar results; s, J, shares.

    Args:
        timed: The measurement.
        labels: (B,) int64, or of more images that follow.
    """
    kept = timed.measured
    cost = timed.cost(labels)
    return {
        "images": int(kept.sum()),
        "failures": int((~kept).sum()),
        "latency": _quantiles(timed.latency, decision=False),
        "decision": _quantiles(timed.latency, decision=True),
        "fraction": timed.latency.fraction,
        "safe_period": timed.safe_period,
        "unchanged": timed.unchanged,
        "throughput": 1.0 / timed.timing.period,
        "largest_throughput": timed.throughput,
        "energy": {
            shown: {
                kind: float(getattr(getattr(timed, kind), name)[kept].mean())
                for kind in ("energy", "static", "switching")
            }
            for name, shown in _ENERGIES.items()
        },
        "sampling": {
            "period": cost.period,
            "unsettled": cost.unsettled,
            "agreement": cost.agreement,
            "accuracy": cost.accuracy,
            "settled_accuracy": cost.settled_accuracy,
        },
        "method": timed.method,
        "wires": list(timed.wires),
        "reduction_error": timed.reduction_error,
    }


def _quantiles(latency: Latency, *, decision: bool) -> dict[str, float | int]:
    found = latency.quantiles(tuple(LEVELS.values()), decision=decision)
    return {
        **{name: found[level] for name, level in LEVELS.items()},
        "worst_sample": latency.worst(decision=decision),
    }


def timing_rows(timed: InferenceReport, labels: Tensor) -> list[tuple[str, str]]:
    """Rows of the report's table."""
    figures = timing_figures(timed, labels)
    energy = figures["energy"]["total"]
    band = f"within {100 * timed.latency.fraction:.3g} % of swing"
    rows = [
        (f"latency, {band}", _spread(figures["latency"])),
        ("latency, class stable", _spread(figures["decision"])),
        ("smallest safe period", quantity(figures["safe_period"], "s")),
        (
            "throughput",
            f"{quantity(figures['throughput'], '/s')} at {quantity(timed.timing.period, 's')}, at "
            f"most {quantity(figures['largest_throughput'], '/s')}",
        ),
        (
            "energy, measured",
            f"{quantity(energy['energy'], 'J')}: static {quantity(energy['static'], 'J')}, "
            f"switching {quantity(energy['switching'], 'J')}",
        ),
        ("transients", f"of {len(timed.status)} samples: {method(timed)}"),
    ]
    if never := int(torch.isinf(timed.latency.ready).sum()):
        rows.append(("never settled", f"{never} samples within the time that they were followed"))
    if figures["unchanged"]:
        rows.append((
            "outputs did not change",
            f"{figures['unchanged']} samples (same input as before, or no swing): without latency",
        ))
    if figures["failures"]:
        rows.append(("latency not measured", f"{figures['failures']} samples: {timed.failure}"))
    if warning := timed.cost(labels).warning:
        rows.append(("warning", warning))
    return rows


def _spread(values: dict[str, float | int]) -> str:
    parts = [f"{name} {quantity(float(values[name]), 's')}" for name in LEVELS]
    return f"{', '.join(parts)} (sample {values['worst_sample']})"


def method(timed: InferenceReport) -> str:
    """How it was measured, in words: integrator, tolerance, wires and what they leave out."""
    wires = ", ".join(dict.fromkeys(timed.wires))
    text = f"{timed.method}; wires: {wires}"
    if timed.reduction_error > 0.0:
        text += f", which are off by {quantity(timed.reduction_error, 'V', 2)} at most"
    return text


def timing_content(timed: InferenceReport) -> dict[str, Any]:
    """What goes into the JSON file besides figures."""
    return {
        "timing": timed.timing.model_dump(),
        "fraction": timed.latency.fraction,
        "resolution": timed.resolution,
        "threshold": timed.threshold,
        "wires": list(timed.wires),
        "reduction_error": timed.reduction_error,
        "steps": list(timed.steps),
        "method": timed.method,
        "failure": timed.failure,
    }


def timing_tensors(timed: InferenceReport) -> dict[str, Tensor]:
    """Tensors by name, as they are saved."""
    found = {
        "settled": timed.settled,
        "sampled": timed.sampled,
        "latency": timed.latency.outputs,
        "decision": timed.latency.decision,
        "status": timed.status,
    }
    for kind in ("energy", "static"):
        for part in fields(Energy):
            found[f"{kind}.{part.name}"] = getattr(getattr(timed, kind), part.name)
    if timed.waveforms is not None:
        for item in fields(Waveforms):
            found[f"waveforms.{item.name}"] = getattr(timed.waveforms, item.name)
    return {_PREFIX + name: tensor for name, tensor in found.items()}


def read_timing(content: dict[str, Any], tensors: dict[str, Tensor]) -> InferenceReport:
    """From what :func:`timing_content` and :func:`timing_tensors` gave.

    Raises:
        KeyError: Something is missing.
    """
    waveforms = None
    if _PREFIX + "waveforms.time" in tensors:
        waveforms = Waveforms(
            *(tensors[f"{_PREFIX}waveforms.{item.name}"] for item in fields(Waveforms))
        )
    energy, static = (
        Energy(*(tensors[f"{_PREFIX}{kind}.{part.name}"] for part in fields(Energy)))
        for kind in ("energy", "static")
    )
    return InferenceReport(
        settled=tensors[_PREFIX + "settled"],
        sampled=tensors[_PREFIX + "sampled"],
        latency=Latency(
            tensors[_PREFIX + "latency"], tensors[_PREFIX + "decision"], content["fraction"]
        ),
        energy=energy,
        static=static,
        timing=Timing(**content["timing"]),
        status=tensors[_PREFIX + "status"].to(torch.int64),
        wires=tuple(content["wires"]),
        reduction_error=content["reduction_error"],
        steps=tuple(content["steps"]),
        method=content["method"],
        resolution=content["resolution"],
        threshold=content.get("threshold"),
        waveforms=waveforms,
        failure=content["failure"],
    )
