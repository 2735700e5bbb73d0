"""What a sweep measures at a point: the columns of its table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from imac_torch.config import Config
from imac_torch.devices.model import DeviceModel
from imac_torch.devices.programming import Programming, WriteVerify
from imac_torch.errors import SolverError
from imac_torch.noise.result import NoiseFigures
from imac_torch.reports.model_report import ModelReport
from imac_torch.reports.report import Report
from imac_torch.transient.options import TimingOptions

__all__ = [
    "METRICS", "NOISE_METRICS", "PHYSICAL", "PROGRAMMING_METRICS", "TIMING_METRICS",
    "drawn_metrics", "model_metrics", "timing_metrics", "written_metrics",
]  # fmt: skip

METRICS: Final = (
    "accuracy", "reference_accuracy", "agreement", "samples", "failures", "period", "area",
    "residual", "power", "power_inputs", "power_bias", "power_neurons", "energy",
)  # fmt: skip
"""Metrics of every point; powers where the engine tells them."""

PHYSICAL: Final = ("power_amplifiers", "power_drivers", "power_converters", "power_sums")
"""Metrics of parts that are not ideal, where there are such."""

TIMING_METRICS: Final = (
    "latency", "latency_worst", "decision_latency", "safe_period", "unsettled", "energy_measured",
    "energy_switching",
)  # fmt: skip
"""Metrics that only transients give."""

NOISE_METRICS: Final = ("noise_rms", "snr")
"""Metrics of noise that is drawn."""

PROGRAMMING_METRICS: Final = (
    "write_pulses", "write_pulses_worst", "write_missed", "write_energy", "write_time",
    "write_time_by_rows",
)  # fmt: skip
"""Metrics of devices that are written by pulses (``device.effects.write_verify``)."""


def model_metrics(report: ModelReport, config: Config) -> dict[str, float]:
    """Of a model with several circuits."""
    score, energy = report.score, report.energy()
    return {
        score.name: score.circuit,
        f"reference_{score.name}": math.nan if score.software is None else score.software,
        "agreement": math.nan if report.agreement is None else report.agreement,
        "samples": float(report.samples),
        "failures": float(report.failures),
        "period": config.timing.period,
        "area": report.area()["total"],
        "latency": report.latency,
        "energy": energy["total"],
        **{f"energy_{name}": value for name, value in energy.items() if name != "total"},
    }


def drawn_metrics(report: Report | ModelReport) -> dict[str, float]:
    """Of noise and of programming, where there are any."""
    return {**_noise_metrics(report.noise), **_programming_metrics(report.programming)}


def written_metrics(config: Config) -> set[str]:
    """Metrics of programming that devices of some layer have."""
    found: set[str] = set()
    for changes in ({}, *(layer.device for layer in config.layers.values())):
        for effect in DeviceModel.of(config.device.overridden(changes)).effects:
            if isinstance(effect, WriteVerify):
                timed = effect.pulse is not None
                found.update(
                    name for name in PROGRAMMING_METRICS
                    if ("time" not in name or timed)
                    and ("energy" not in name or (timed and effect.set_voltage is not None))
                )  # fmt: skip
    return found


def _programming_metrics(written: Sequence[Programming]) -> dict[str, float]:
    if not written:
        return {}
    whole = Programming.total(written)
    cells = max(whole.cells, 1)
    values = (
        whole.pulses / cells, float(whole.largest), whole.missed / cells,
        whole.energy, whole.time, whole.time_by_rows,
    )  # fmt: skip
    named = zip(PROGRAMMING_METRICS, values, strict=True)
    return {name: value for name, value in named if value is not None}


def _noise_metrics(noise: NoiseFigures | None) -> dict[str, float]:
    if noise is None:
        return {}
    last = list(noise.layers.values())[-1]
    values = zip(NOISE_METRICS, (last.output_rms, last.output_snr), strict=True)
    # Infinity has no place in tables and fronts: without any noise there is no ratio.
    return {name: value for name, value in values if math.isfinite(value)}


def timing_metrics(report: Report) -> dict[str, float]:
    """Of transients.

    Raises:
        SolverError: Some samples do not settle within the simulated time.
    """
    figures = report.figures()["timing"]
    if not math.isfinite(figures["safe_period"]):
        # Infinity has no place in tables and fronts: such a point has failed.
        raise SolverError(
            "some samples do not settle within the simulated time "
            f"({TimingOptions().periods} periods): lengthen timing.period"
        )
    energy = figures["energy"]["total"]
    values = (
        figures["latency"]["median"],
        figures["latency"]["worst"],
        figures["decision"]["worst"],
        figures["safe_period"],
        figures["sampling"]["unsettled"] / figures["images"],
        energy["energy"],
        energy["switching"],
    )
    return dict(zip(TIMING_METRICS, values, strict=True))
