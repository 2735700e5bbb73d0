"""A batch of sequences in time: collected step by step, and what is returned of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from imac_torch.base.shown import Brief
from imac_torch.config import Timing
from imac_torch.results.energy import Energy
from imac_torch.results.solution import Power


@dataclass(frozen=True)
class TransientResult(Brief):
    """A batch of sequences in time.

    Attributes:
        time: (T,) s from the start of the first period: its start, then two points per step, one
            within it and its end; corners of the inputs are among them.
        outputs: (T, B, M) V, of the last layer.
        layers: (T, B, M) V of every layer's neurons, if they were saved.
        power: (T, B) W of every source.
        periods: (L+1,) int64, where in ``time`` periods begin and end.
        energy: (B, L) J, per period, by part.
        static: (B, L) J, what the powers at the ends of periods make of a whole period each:
            where a period is long enough, the power of the DC solution.
        timing: Period and transition.
        status: (B,) int64, :class:`imac_torch.results.solution.Status` of the initial DC solution.
        steps: Accepted time steps.
        rejected: Rejected ones.
        wires: How each layer's crossbars were represented.
        reduction_error: (B,) V, the most that the filters of reduced wires are taken to miss at any
            amplifier's combined output; 0 where nothing was neglected.
        inside: (B,) bool, whether all neurons stayed within their tables.
    """

    time: Tensor
    outputs: Tensor
    layers: tuple[Tensor, ...]
    power: Power
    periods: Tensor
    energy: Energy
    static: Energy
    timing: Timing
    status: Tensor
    steps: int
    rejected: int
    wires: tuple[str, ...]
    reduction_error: Tensor
    inside: Tensor

    @property
    def switching(self) -> Energy:
        """(B, L) J: what the change of inputs costs besides the static power."""
        return self.energy - self.static


@dataclass
class Recorder:
    """Time points as they are accepted.

    Attributes:
        every_layer: Whether to keep the outputs of all layers, or of the last one only.
        times: s.
        layers: (n, B, M) V of every layer that is kept, of n times after those before.
        powers: (n, 6, B) W, likewise; parts of :class:`imac_torch.results.solution.BySource`.
        periods: Indices of times at which periods begin and end.
        energies: (6, B) J per period.
        steps: Accepted.
        rejected: Rejected.
    """

    every_layer: bool
    times: list[float] = field(default_factory=list)
    layers: list[list[Tensor]] = field(default_factory=list)
    powers: list[Tensor] = field(default_factory=list)
    periods: list[int] = field(default_factory=lambda: [0])
    energies: list[Tensor] = field(default_factory=list)
    steps: int = 0
    rejected: int = 0

    def add(self, time: float, outputs: Sequence[Tensor], power: Tensor) -> None:
        """Keep one time point.

        Args:
            time: s.
            outputs: (B, M) V of every layer.
            power: (6, B) W.
        """
        self.extend([time], [values[None] for values in outputs], power[None])

    def extend(self, times: Sequence[float], outputs: Sequence[Tensor], powers: Tensor) -> None:
        """Keep n time points.

        Args:
            times: s.
            outputs: (n, B, M) V of every layer.
            powers: (n, 6, B) W.
        """
        kept = list(outputs) if self.every_layer else [outputs[-1]]
        if not self.layers:
            self.layers = [[] for _ in kept]
        for series, values in zip(self.layers, kept, strict=True):
            series.append(values)
        self.times.extend(times)
        self.powers.append(powers)

    def close_period(self, energy: Tensor) -> None:
        """The last time point ends a period that took ``energy`` (6, B) J."""
        self.periods.append(len(self.times) - 1)
        self.energies.append(energy)

    def result(
        self,
        timing: Timing,
        status: Tensor,
        wires: tuple[str, ...],
        reduction_error: Tensor,
        inside: Tensor,
    ) -> TransientResult:
        """Everything as tensors."""
        device = status.device
        power = torch.cat(self.powers)  # (T, 6, B)
        energy = torch.stack(self.energies, dim=-1)  # (5, B, L)
        ends = torch.tensor(self.periods, dtype=torch.int64, device=device)
        static = power[ends[1:]].permute(1, 2, 0) * timing.period
        layers = tuple(torch.cat(series) for series in self.layers)
        return TransientResult(
            time=torch.tensor(self.times, dtype=torch.float64, device=device),
            outputs=layers[-1],
            layers=layers if self.every_layer else (),
            power=Power(*power.unbind(dim=1)),
            periods=ends,
            energy=Energy(*energy.unbind(0)),
            static=Energy(*static.unbind(0)),
            timing=timing,
            status=status,
            steps=self.steps,
            rejected=self.rejected,
            wires=wires,
            reduction_error=reduction_error,
            inside=inside,
        )
