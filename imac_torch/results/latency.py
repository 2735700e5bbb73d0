"""Latency of an inference: one definition for every engine.

The latency of an output is the time from the start of the input ramp until the output stays
within a fraction of its swing (10 % by default) of its final value; that of an image is its slowest
output's. The decision latency is the time until the predicted class (the largest output) no longer
changes. All functions take times and waveforms, whoever computed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.base.shown import Brief
from imac_torch.errors import SolverError
from imac_torch.results.waveform import sample

FRACTION = 0.1
"""Of the swing: half-width of the band around the final value."""
RESOLUTION = 1e-3
"""V. The band is never narrower: an output that hardly moves has nothing to wait for."""
REFINEMENT = 4
"""Points per interval between which crossings are interpolated linearly."""


def settling_time(
    time: Tensor,
    waveform: Tensor,
    start: float,
    end: float,
    *,
    fraction: float = FRACTION,
    resolution: float = RESOLUTION,
    final: Tensor | None = None,
) -> Tensor:
    """Time from ``start`` until a waveform stays in its band.

    Args:
        time: (T,) s, ascending.
        waveform: (T, ...) V.
        start: s, start of the input ramp.
        end: s, end of the period.
        fraction: Half-width of the band, of the swing from ``start`` to the final value.
        resolution: V, smallest half-width.
        final: (...) V, settled value; None: the value at ``end``.

    Returns:
        (...) s; infinite where the waveform is outside its band at ``end``, NaN where it or its
        settled value is NaN.

    Raises:
        SolverError: Arguments make no sense.
    """
    if not (0.0 < fraction < 1.0 and resolution >= 0.0 and start < end):
        raise SolverError(
            f"fraction = {fraction} must be in (0, 1), resolution = {resolution} V >= 0 and start "
            f"= {start} s before end = {end} s"
        )
    points, values = _refined(time, waveform, start, end)
    target = values[-1] if final is None else final
    band = ((target - values[0]).abs() * fraction).clamp(min=resolution)
    return _last_exit(points - start, (values - target).abs() - band)


def decision_time(
    time: Tensor,
    outputs: Tensor,
    start: float,
    end: float,
    *,
    final: Tensor | None = None,
    resolution: float = RESOLUTION,
    threshold: float | None = None,
) -> Tensor:
    """Time from ``start`` until the predicted class no longer changes.

    Args:
        time: (T,) s, ascending.
        outputs: (T, ..., M) V; the class is the largest output.
        start: s, start of the input ramp.
        end: s, end of the period.
        final: (..., M) V, settled outputs; None: those at ``end``.
        resolution: V. Where the settled class is behind by less than this at ``end`` (a tie, to
            the accuracy of waveforms), the time from which it is behind by no more than this.
        threshold: V, above which a single output says yes.

    Returns:
        (...) s; infinite where the class at ``end`` is not the settled one; NaN for a single
        output without a threshold, which stands for no class.
    """
    if outputs.shape[-1] == 1 and threshold is None:
        return torch.full_like(outputs[0, ..., 0], torch.nan)
    points, values = _refined(time, beside_threshold(outputs, threshold), start, end)
    settled = values[-1] if final is None else beside_threshold(final, threshold)
    target = settled.argmax(dim=-1)
    chosen = values.gather(-1, target.expand(values.shape[:-1])[..., None])
    others = values.scatter(-1, target.expand(values.shape[:-1])[..., None], -torch.inf)
    lead = others.amax(dim=-1) - chosen[..., 0]
    # Outputs that tie exactly are decided by the first of them, in waveforms as in values.
    decided = values.argmax(dim=-1) == target
    behind = lead.clamp(min=torch.finfo(lead.dtype).tiny)
    strict = _last_exit(points - start, torch.where(decided, lead, behind))
    relaxed = _last_exit(points - start, lead - resolution)
    return torch.where(torch.isinf(strict), relaxed, strict)


def beside_threshold(outputs: Tensor, threshold: float | None) -> Tensor:
    """Outputs whose largest is the class: a single one (..., 1) beside its threshold, (..., 2)."""
    if outputs.shape[-1] > 1 or threshold is None:
        return outputs
    return torch.cat([torch.full_like(outputs, threshold), outputs], dim=-1)


def same_answers(one: Tensor, two: Tensor, threshold: float | None) -> Tensor:
    """(...) bool: whether outputs (..., M) V stand for the same class; a threshold is one's own."""
    first, second = (beside_threshold(item, threshold).argmax(dim=-1) for item in (one, two))
    return first == second


def _refined(time: Tensor, values: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
    inside = time[(time > start) & (time < end)]
    bounds = torch.tensor([start, end], dtype=time.dtype, device=time.device)
    knots = torch.cat([bounds[:1], inside, bounds[1:]])
    parts = torch.arange(REFINEMENT, dtype=time.dtype, device=time.device) / REFINEMENT
    fine = (knots[:-1, None] + knots.diff()[:, None] * parts).reshape(-1)
    fine = torch.cat([fine, bounds[1:]])
    return fine, sample(time, values, fine)


def _last_exit(time: Tensor, excess: Tensor) -> Tensor:
    """Last time at which ``excess`` (T, ...) falls through 0; 0 if it never is above.

    NaN where any of it is: what is not known has not settled at once.
    """
    outside = excess > 0.0
    count = len(time)
    order = torch.arange(count, device=time.device).reshape(-1, *((1,) * (excess.ndim - 1)))
    last = torch.where(outside, order, -1).amax(dim=0)
    index = last.clamp(0, count - 2)
    high = excess.gather(0, index[None])[0]
    low = excess.gather(0, index[None] + 1)[0]
    gap = torch.where(high - low > 0.0, high - low, 1.0)
    part = (high / gap).clamp(0.0, 1.0)
    part = torch.where(torch.isfinite(part), part, 1.0)
    begin, width = time[index], time[index + 1] - time[index]
    # The parabola through the point before, one Newton step from the crossing of the chord.
    past = excess.gather(0, (index - 1).clamp(min=0)[None])[0]
    length = (begin - time[(index - 1).clamp(min=0)]).clamp(min=torch.finfo(time.dtype).tiny)
    bend = width**2 / (width + length) * ((low - high) / width - (high - past) / length)
    slope = low - high + bend * (2.0 * part - 1.0)
    better = part - bend * part * (part - 1.0) / torch.where(slope < 0.0, slope, -torch.inf)
    known = (index > 0) & torch.isfinite(better) & (better >= 0.0) & (better <= 1.0)
    crossing = begin + torch.where(known, better, part) * width
    crossing = torch.where(last < 0, 0.0, crossing)
    crossing = torch.where(last == count - 1, torch.inf, crossing)
    return torch.where(excess.isnan().any(dim=0), torch.nan, crossing)


@dataclass(frozen=True)
class Latency(Brief):
    """Latencies of a batch of sequences.

    Attributes:
        outputs: (B, L, M) s per output.
        decision: (B, L) s until the class no longer changes.
        fraction: Half-width of the band, of the swing.
    """

    outputs: Tensor
    decision: Tensor
    fraction: float

    @property
    def images(self) -> Tensor:
        """(B, L) s, of the slowest output."""
        return self.outputs.amax(dim=-1)

    @property
    def unsettled(self) -> int:
        """Images with an output outside its band at the end of what was simulated."""
        return int(torch.isinf(self.images).sum())

    def quantiles(
        self, levels: Sequence[float] = (0.5, 0.95, 0.99, 1.0), *, decision: bool = False
    ) -> dict[float, float]:
        """Of :attr:`images` that were measured (not NaN), s; NaN where none was.

        Args:
            levels: In [0, 1]; the nearest rank is taken, 1 is the worst.
            decision: Of the predicted class instead.
        """
        values = (self.decision if decision else self.images).reshape(-1)
        ordered = values[~values.isnan()].sort().values
        last = len(ordered) - 1
        if last < 0:
            return dict.fromkeys(levels, torch.nan)
        return {level: float(ordered[min(last, round(level * last))]) for level in levels}

    def worst(self, *, decision: bool = False) -> int:
        """Which image is the slowest, counted over all of (B, L) in order."""
        values = (self.decision if decision else self.images).reshape(-1)
        return int(values.nan_to_num(nan=-1.0).argmax())

    @property
    def ready(self) -> Tensor:
        """(B, L) s, until outputs may be read: all have settled and the class is stable."""
        return torch.fmax(self.images, self.decision)

    def safe_period(self, *, decision: bool = False) -> float:
        """Smallest sampling period (s) that every image of the batch bears.

        Args:
            decision: Only the predicted class has to be right, not the voltages.
        """
        values = (self.decision if decision else self.ready).reshape(-1)
        known = values[~values.isnan()]
        return float(known.max()) if len(known) else torch.nan

    def select(self, kept: Tensor) -> Latency:
        """Of some of the sequences.

        Args:
            kept: (B,) bool, or int64 indices.
        """
        return Latency(self.outputs[kept], self.decision[kept], self.fraction)

    @classmethod
    def join(cls, parts: Sequence[Latency]) -> Latency:
        """Batches of one data set."""
        return cls(
            torch.cat([part.outputs for part in parts]),
            torch.cat([part.decision for part in parts]),
            parts[0].fraction,
        )


def measure_latency(
    time: Tensor,
    outputs: Tensor,
    period: float,
    *,
    fraction: float = FRACTION,
    resolution: float = RESOLUTION,
    final: Tensor | None = None,
    threshold: float | None = None,
) -> Latency:
    """Latencies in every period of a sequence.

    Args:
        time: (T,) s; periods begin at its first entry.
        outputs: (T, B, M) V.
        period: s.
        fraction: Half-width of the band, of the swing.
        resolution: V, smallest half-width.
        final: (B, L, M) V, settled values, for example of a DC solution; None: those at the ends
            of periods, which hides that a period is too short.
        threshold: V, above which a single output says yes.
    """
    first = float(time[0])
    count = round((float(time[-1]) - first) / period)
    settled, decided = [], []
    for k in range(count):
        start, end = first + k * period, min(first + (k + 1) * period, float(time[-1]))
        target = None if final is None else final[:, k]
        settled.append(
            settling_time(
                time, outputs, start, end,
                fraction=fraction, resolution=resolution, final=target,
            )
        )
        decided.append(
            decision_time(
                time, outputs, start, end,
                final=target, resolution=resolution, threshold=threshold,
            )
        )
    return Latency(torch.stack(settled, dim=1), torch.stack(decided, dim=1), fraction)


@dataclass(frozen=True)
class SamplingCost:
    """What sampling at a given time costs.

    Attributes:
        period: s.
        images: How many were looked at.
        settled: Fraction of images whose outputs are all within their bands, the class stable,
            where each follows a settled one.
        agreement: Fraction of images whose class is the settled one.
        accuracy: Fraction of images whose class is the label; NaN without labels.
        settled_accuracy: The same of the settled outputs.
        safe_period: s, latency of the slowest image.
    """

    period: float
    images: int
    settled: float
    agreement: float
    accuracy: float
    settled_accuracy: float
    safe_period: float

    @property
    def unsettled(self) -> int:
        """Images that are read too early."""
        return round((1.0 - self.settled) * self.images)

    @property
    def warning(self) -> str:
        """What to tell users; empty if all images have settled."""
        if not self.unsettled:
            return ""
        hint = (
            f"the slowest image needs {self.safe_period * 1e9:.4g} ns: set timing.period to that "
            "or more"
            if self.safe_period < torch.inf
            else "not all settle within the simulated time"
        )
        return f"{self}; {hint}"

    def __str__(self) -> str:
        text = (
            f"sampling every {self.period * 1e9:.4g} ns: {self.unsettled} of {self.images} images "
            f"({1.0 - self.settled:.2%}) have not settled, {self.agreement:.2%} are read in their "
            "settled class"
        )
        if self.accuracy == self.accuracy:
            text += f", accuracy {self.accuracy:.2%} instead of {self.settled_accuracy:.2%}"
        return text


def sampling_cost(
    sampled: Tensor,
    settled: Tensor,
    latency: Latency,
    period: float,
    labels: Tensor | None = None,
    threshold: float | None = None,
) -> SamplingCost:
    """Compare outputs at the sampling time with settled ones.

    Args:
        sampled: (B, L, M) V at the sampling time.
        settled: (B, L, M) V.
        latency: Of the same images.
        period: s.
        labels: (B, L) int64.
        threshold: V, above which a single output says yes; without one it stands for no class.
    """
    classes, wanted = (
        beside_threshold(item, threshold).argmax(dim=-1) for item in (sampled, settled)
    )
    if sampled.shape[-1] == 1 and threshold is None:
        labels = None

    def share(flags: Tensor) -> float:
        return float(flags.to(torch.float64).mean())

    return SamplingCost(
        period,
        wanted.numel(),
        share(~(latency.ready > period)),  # NaN: nothing has changed
        share(classes == wanted),
        torch.nan if labels is None else share(classes == labels),
        torch.nan if labels is None else share(wanted == labels),
        latency.safe_period(),
    )
