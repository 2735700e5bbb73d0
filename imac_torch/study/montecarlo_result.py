"""What Monte Carlo runs found: distributions over chips, and intervals of their means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imac_torch.base.figures import histogram, new_figure
from imac_torch.base.shown import Shown, Table
from imac_torch.base.units import quantity
from imac_torch.errors import MappingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class MonteCarloResult(Shown):
    """Distributions over samples.

    The images are taken as given: intervals say what other devices would do, not other images.

    Attributes:
        accuracy: (S,) share of correct labels per sample, NaN without labels.
        power: (S,) W, mean total power over the images of the sample; NaN of models of several
            circuits, which work one after the other: ``evaluate(realise(sample), loader)``.
        error: (S,) V, rms difference of the outputs from those of nominal devices; of models of
            several circuits and with a metric in the units of their outputs.
        converged: (S,) share of images that converged; the others do not count as correct.
        outputs: (S, B, M) V where they were asked for, or None; likewise.
        score: (S,) by the metric that was given; without one it is the accuracy.
        unit: Of ``error`` and ``outputs``; empty where it is that of the model's outputs.
    """

    accuracy: Tensor
    power: Tensor
    error: Tensor
    converged: Tensor
    outputs: Tensor | None
    score: Tensor
    unit: str = "V"

    @classmethod
    def joined(cls, parts: Sequence[MonteCarloResult]) -> MonteCarloResult:
        """Results of runs that continue each other as one.

        Raises:
            MappingError: There is none.
        """
        if not parts:
            raise MappingError("there are no results to join")
        kept = [part.outputs for part in parts if part.outputs is not None]
        accuracy, power, error, converged, score = (
            torch.cat([getattr(part, name) for part in parts])
            for name in ("accuracy", "power", "error", "converged", "score")
        )
        outputs = torch.cat(kept) if len(kept) == len(parts) else None
        return cls(accuracy, power, error, converged, outputs, score, parts[0].unit)

    def tables(self) -> tuple[Table]:
        """Mean, spread and range of what was measured, over devices."""
        percent = lambda value: f"{100 * value:.2f} %"  # noqa: E731
        same = bool((self.score == self.accuracy).all())
        columns: list[tuple[str, Tensor, Callable[[float], str]]] = [
            ("accuracy", self.accuracy, percent),
            *([] if same else [("score", self.score, lambda value: f"{value:.5g}")]),
            ("power", self.power, lambda value: quantity(value, "W")),
            ("error of outputs", self.error, lambda value: quantity(value, self.unit)),
            ("images solved", self.converged, percent),
        ]
        rows = []
        for name, values, told in columns:
            if bool(values.isnan().all()):
                continue  # not measured
            low, high = mean_interval(values).low, mean_interval(values).high
            between = f"{told(low)} to {told(high)}" if len(values) > 1 else "–"
            spread = told(float(values.std())) if len(values) > 1 else "–"
            ends = (told(float(values.min())), told(float(values.max())))
            rows.append((name, told(float(values.mean())), between, spread, *ends))
        headings = ("", "mean", "95 % interval of it", "standard deviation", "least", "most")
        return (Table(f"imac_torch Monte Carlo: {len(self.power)} samples", rows, headings),)

    def plot(self) -> Figure:
        """How what was measured spreads over devices."""
        kept = [
            (name, values, unit)
            for name, values, unit in (
                ("accuracy", self.accuracy, ""), ("power", self.power, "W"),
                ("rms error of outputs", self.error, self.unit),
            )
            if bool(values.isfinite().any())
        ]  # fmt: skip
        figure, panels = new_figure(columns=len(kept), width=400)
        for axes, (name, values, unit) in zip(panels, kept, strict=True):
            histogram(axes, values.tolist(), unit=unit, x=name, y="devices")
        return figure

    def mean_accuracy(self, confidence: float = 0.95) -> Interval:
        """Mean accuracy over devices with the interval of the normal approximation."""
        return mean_interval(self.accuracy, confidence)

    def mean_score(self, confidence: float = 0.95) -> Interval:
        """Mean of the metric, likewise."""
        return mean_interval(self.score, confidence)

    def mean_power(self, confidence: float = 0.95) -> Interval:
        """Mean power, W, likewise."""
        return mean_interval(self.power, confidence)

    def yield_above(self, accuracy: float, confidence: float = 0.95) -> Interval:
        """Share of samples that reach an accuracy, with Wilson's interval; NaN without labels."""
        if bool(self.accuracy.isnan().any()):
            return Interval(math.nan, math.nan, math.nan, confidence)
        return wilson_interval(self.accuracy >= accuracy, confidence)


def _quantile(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise MappingError(f"confidence = {confidence} must be in (0, 1)")
    half = torch.tensor((1.0 + confidence) / 2.0, dtype=torch.float64, device="cpu")
    return float(torch.special.ndtri(half))


def mean_interval(values: Tensor, confidence: float = 0.95) -> Interval:
    """Mean of (S,) values, ± z·s/√S."""
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf, confidence)
    half = _quantile(confidence) * float(values.std()) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, confidence)


def wilson_interval(passed: Tensor, confidence: float = 0.95) -> Interval:
    """Share of true among (S,) bool, with the score interval.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", J. Am.
    Stat. Assoc. 22(158), 209-212 (1927), doi:10.1080/01621459.1927.10502953: holds its confidence
    near 0 and 1, where ± z·s/√S does not.
    """
    count = len(passed)
    share = float(passed.to(torch.float64).mean())
    z = _quantile(confidence)
    denominator = 1.0 + z * z / count
    middle = (share + z * z / (2 * count)) / denominator
    half = z / denominator * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), confidence)
