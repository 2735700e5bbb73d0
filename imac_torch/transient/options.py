"""Settings of the transient engine, and of what it measures of a data set."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from imac_torch.errors import SolverError
from imac_torch.results.latency import FRACTION, RESOLUTION
from imac_torch.transient.integrator import StepControl


@dataclass(frozen=True)
class TransientOptions:
    """Settings of the transient engine.

    Attributes:
        control: Tolerance and limits of time steps.
        wires: What represents crossbars with wire capacitances: ``reduced`` (a few filters a line,
            whose error is reported in V), ``exact`` (every node), or ``auto``: exact for networks
            of up to :data:`imac_torch.transient.preparation.EXACT_NODES` nodes, else reduced, and
            an error where that may be off by more than 1 mV, or ten tolerances of a step.
        order: Filters a line of reduced wires; None: what the tolerance of a step needs, at most as
            many as :data:`imac_torch.transient.dynamics.FITS` has.
        amplifiers: Whether to integrate the amplifiers' power, which costs memory.
        save: ``outputs`` or ``all``: waveforms of every layer's neurons.
        kernel: ``numba`` (compiled, tabulated neurons on the CPU), ``torch`` or ``auto``.
        max_iterations: Of Newton's method; beyond it a step is shortened.
    """

    control: StepControl = field(default_factory=StepControl)
    wires: Literal["auto", "reduced", "exact"] = "auto"
    order: int | None = None
    amplifiers: bool = True
    save: Literal["outputs", "all"] = "outputs"
    kernel: str = "auto"
    max_iterations: int = 20

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            SolverError: One is not valid.
        """
        if self.wires not in {"auto", "reduced", "exact"}:
            raise SolverError(f"wires = {self.wires!r}: 'auto', 'reduced' or 'exact'")
        if self.save not in {"outputs", "all"}:
            raise SolverError(f"save = {self.save!r}: 'outputs' or 'all'")
        if self.kernel not in {"auto", "numba", "torch"}:
            raise SolverError(f"kernel = {self.kernel!r}: 'auto', 'numba' or 'torch'")
        if (self.order is not None and self.order < 1) or self.max_iterations < 1:
            raise SolverError(
                f"order = {self.order} and max_iterations = {self.max_iterations} must be >= 1"
            )


@dataclass(frozen=True)
class TimingOptions:
    """How latency and energy of a data set are measured.

    Attributes:
        transient: Step control, representation of wires.
        fraction: Half-width of the settling band, of the swing.
        resolution: V, its smallest half-width.
        batch_size: Images that share their time steps (in groups of at most
            :data:`imac_torch.transient.inference.TOGETHER` where the compiled step knows all of the
            circuit); bounds memory. Fewer where less is free.
        periods: Images that have not settled are followed for up to so many periods.
        waveforms: Images whose waveforms are kept: the slowest and the first ones.
        samples: Images to measure, of a longer data set; None: all.
    """

    transient: TransientOptions = field(default_factory=TransientOptions)
    fraction: float = FRACTION
    resolution: float = RESOLUTION
    batch_size: int = 256
    periods: int = 32
    waveforms: int = 2
    samples: int | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            SolverError: One is not valid.
        """
        if not (0.0 < self.fraction < 1.0 and 0.0 <= self.resolution < math.inf):
            raise SolverError(
                f"fraction = {self.fraction} must be in (0, 1) and resolution = {self.resolution} "
                "V >= 0"
            )
        if self.batch_size < 1 or self.periods < 1 or self.waveforms < 0:
            raise SolverError(
                f"batch_size = {self.batch_size} and periods = {self.periods} must be >= 1, "
                f"waveforms = {self.waveforms} >= 0"
            )
        if self.samples is not None and self.samples < 1:
            raise SolverError(f"samples = {self.samples} must be >= 1, or None for all")
