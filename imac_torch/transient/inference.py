"""Latency and energy of every image of a data set, and what they say about the sampling period."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.config import Timing
from imac_torch.dc.network import solve_dc
from imac_torch.errors import SolverError
from imac_torch.transient.energy import Energy
from imac_torch.transient.latency import (
    FRACTION,
    RESOLUTION,
    Latency,
    SamplingCost,
    measure_latency,
    sampling_cost,
)
from imac_torch.transient.network import (
    DynamicStage,
    TransientOptions,
    TransientResult,
    solve_transient,
)
from imac_torch.transient.waveform import sample


@dataclass(frozen=True)
class InferenceReport:
    """One inference per image; B images.

    Attributes:
        settled: (B, M) V, of the DC solution.
        sampled: (B, M) V, at the end of the period.
        latency: Of every image, relative to the settled outputs; its L is 1.
        energy: (B, 1) J by part over the period.
        static: (B, 1) J, of the powers at the end of the period.
        timing: Period and transition.
        status: (B,) int64, of the DC solutions.
        wires: How each layer's crossbars were represented.
        reduction_error: V, largest over the data set.
        steps: Time steps per batch.
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

    @property
    def switching(self) -> Energy:
        """(B, 1) J besides the static energy."""
        return self.energy - self.static

    @property
    def safe_period(self) -> float:
        """s, smallest period after which every output of every image has settled."""
        return self.latency.safe_period()

    @property
    def throughput(self) -> float:
        """Inferences per second at :attr:`safe_period`."""
        return 1.0 / self.safe_period

    def cost(self, labels: Tensor | None = None) -> SamplingCost:
        """What sampling at the end of the period costs; warns where images have not settled.

        Args:
            labels: (B,) int64.
        """
        return sampling_cost(
            self.sampled[:, None],
            self.settled[:, None],
            self.latency,
            self.timing.period,
            None if labels is None else labels[:, None],
        )


def measure_inference(
    stages: Sequence[DynamicStage],
    inputs: Tensor,
    timing: Timing,
    *,
    initial: Tensor | None = None,
    options: TransientOptions | None = None,
    batch_size: int = 256,
    fraction: float = FRACTION,
    resolution: float = RESOLUTION,
    progress: Callable[[int], None] | None = None,
) -> InferenceReport:
    """Latency and energy of every image of a data set.

    Each image starts from the settled state of what was there before: every transition is a
    sequence of its own, so that they run side by side.

    Args:
        stages: From :func:`imac_torch.transient.network.prepare_transient`.
        inputs: (B, N) V.
        timing: Period and transition.
        initial: (B, N) or (N,) V, what was there before; None: the image before (the first one
            starts from 0 V), as in a stream.
        options: Settings, the same as for the stages.
        batch_size: Images that share their time steps.
        fraction: Half-width of the settling band, of the swing.
        resolution: V, its smallest half-width.
        progress: Called with the number of images done after every batch.

    Raises:
        SolverError: Inputs do not fit, or steps became too small.
    """
    if batch_size < 1:
        raise SolverError(f"batch_size = {batch_size} must be at least 1")
    if initial is None:
        initial = torch.cat([torch.zeros_like(inputs[:1]), inputs[:-1]])
    initial = initial.expand_as(inputs)
    settled, sampled, latencies, energies, statics = [], [], [], [], []
    status, steps, error = [], [], 0.0
    result: TransientResult | None = None
    for first in range(0, len(inputs), batch_size):
        part = slice(first, first + batch_size)
        result = solve_transient(
            stages, inputs[part, None], timing, initial=initial[part], options=options
        )
        with torch.no_grad():
            final = solve_dc([stage.static for stage in stages], inputs[part], power=False)
        latencies.append(
            measure_latency(
                result.time,
                result.outputs,
                timing.period,
                fraction=fraction,
                resolution=resolution,
                final=final.outputs[:, None],
            )
        )
        settled.append(final.outputs)
        sampled.append(sample(result.time, result.outputs, result.time[-1:])[0])
        energies.append(result.energy)
        statics.append(result.static)
        status.append(torch.maximum(final.status, result.status))
        steps.append(result.steps)
        error = max(error, float(result.reduction_error.max()))
        if progress is not None:
            progress(min(first + batch_size, len(inputs)))
    if result is None:
        raise SolverError("there are no inputs")
    return InferenceReport(
        torch.cat(settled),
        torch.cat(sampled),
        Latency.join(latencies),
        Energy.join(energies, 0),
        Energy.join(statics, 0),
        timing,
        torch.cat(status),
        result.wires,
        error,
        tuple(steps),
    )
