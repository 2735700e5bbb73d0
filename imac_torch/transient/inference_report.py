"""Latency and energy of a data set, and what they say about the sampling period."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from imac_torch.base.shown import Brief
from imac_torch.config import Timing
from imac_torch.results.energy import Energy
from imac_torch.results.latency import RESOLUTION, Latency, SamplingCost, sampling_cost
from imac_torch.results.solution import Status
from imac_torch.results.waveform import Waveforms


@dataclass(frozen=True)
class InferenceReport(Brief):
    """One inference per image; B images, M outputs.

    Images that were not solved (``status``) have NaN everywhere and count nowhere. Those whose
    outputs stay within their bands all the time (the same input as before, or no swing) have
    latencies of NaN: they have an energy, but count for no latency.

    Attributes:
        settled: (B, M) V, of the DC solution.
        sampled: (B, M) V, at the end of the period, in a batch that is too fast for some of its
            images those of the stream itself, in which they begin unsettled; NaN where that could
            not be integrated.
        latency: Of every image, relative to the settled outputs; its L is 1. Longer than the
            period where an image settles later; infinite where it does not settle at all.
        energy: (B, 1) J by part over the period.
        static: (B, 1) J, of the powers at the end of the period.
        timing: Period and transition.
        status: (B,) int64, a :class:`imac_torch.results.solution.Status`.
        wires: How each layer's crossbars were represented.
        reduction_error: V, largest over the data set.
        steps: Time steps per batch.
        method: Integrator and tolerance, in words.
        resolution: V, smallest half-width of the settling band.
        waveforms: Of the slowest image and the first ones, or None.
        failure: Why the first image that failed did; empty where none failed.
        threshold: V, above which a single output says yes.
    """

    settled: Tensor
    sampled: Tensor
    latency: Latency
    energy: Energy
    static: Energy
    timing: Timing
    status: Tensor
    wires: tuple[str, ...]
    reduction_error: float
    steps: tuple[int, ...]
    method: str = ""
    resolution: float = RESOLUTION
    waveforms: Waveforms | None = None
    failure: str = ""
    threshold: float | None = None

    @property
    def switching(self) -> Energy:
        """(B, 1) J besides the static energy.

        It can be negative: while inputs change sign they pass 0 V, where they take less power than
        before and after.
        """
        return self.energy - self.static

    @property
    def measured(self) -> Tensor:
        """(B,) bool, images that were solved."""
        return self.status == int(Status.CONVERGED)

    @property
    def unsettled(self) -> int:
        """Images with an output outside its band or another class at the end of the period."""
        return int((self.latency.ready[self.measured] > self.timing.period).sum())

    @property
    def unchanged(self) -> int:
        """Solved images whose outputs did not change."""
        return int((self.measured & self.latency.ready[:, 0].isnan()).sum())

    @property
    def safe_period(self) -> float:
        """s, smallest period after which all outputs of all images have settled, classes too.

        Infinite where one does not settle, NaN where none changes.
        """
        return self.latency.safe_period()

    @property
    def throughput(self) -> float:
        """Inferences per second at :attr:`safe_period`; 0 where that is infinite."""
        return 1.0 / self.safe_period

    def cost(self, labels: Tensor | None = None) -> SamplingCost:
        """What sampling at the end of the period costs in the stream.

        Args:
            labels: (B,) int64, or of more images that follow.
        """
        kept = self.measured & ~self.sampled.isnan().any(dim=-1)
        labels = None if labels is None else labels[: len(kept)]
        return sampling_cost(
            self.sampled[kept, None],
            self.settled[kept, None],
            self.latency.select(kept),
            self.timing.period,
            None if labels is None else labels[kept, None],
            self.threshold,
        )
