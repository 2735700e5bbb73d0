"""What comes back from a simulator."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imac_torch.errors import SimulatorError
from imac_torch.netlist.job import SimulationJob

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SimulationResult:
    """Numbers read from the files of one run, SI units.

    Attributes:
        measures: Value of every measure that succeeded, by lower-case name.
        waveforms: Arrays by lower-case name (``time``, ``v(out)``, ``i(vdd)`` …), or None if no
            waveform file was asked for. For operating points, shape (number of points,), NaN
            where a point is missing.
        log: The simulator's own log or listing.
        simulator: ``ngspice`` or ``hspice``.
        version: Version string of the simulator.
        wall_time: Seconds the run took; the original run's for a resumed one.
        resumed: True if the numbers were read back from an earlier, identical run.
    """

    measures: dict[str, float]
    waveforms: dict[str, FloatArray] | None
    log: Path
    simulator: str
    version: str
    wall_time: float
    resumed: bool = False


@dataclass(frozen=True)
class SimulationOutcome:
    """Result, error, or both: what was measured before a failure is kept.

    Attributes:
        job: The job.
        result: Complete if ``error`` is None, otherwise whatever could be read, or None.
        error: Why the run is not complete, or None.
    """

    job: SimulationJob
    result: SimulationResult | None = None
    error: SimulatorError | None = field(default=None)

    @property
    def ok(self) -> bool:
        """True if the run is complete."""
        return self.error is None

    def unwrap(self) -> SimulationResult:
        """Return the complete result.

        Raises:
            SimulatorError: The run was not complete; this is the error of the run.
        """
        if self.error is not None:
            raise self.error
        if self.result is None:
            raise SimulatorError(
                f"no result of {self.job.netlist} was read", directory=self.job.directory
            )
        return self.result
