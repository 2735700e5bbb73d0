"""What the netlists of a run compute, and how accurately."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from imac_torch.errors import NetlistError
from imac_torch.results.latency import FRACTION, RESOLUTION


@dataclass(frozen=True)
class NetlistSettings:
    """Analysis, size of batches and tolerances.

    Attributes:
        analysis: ``transient``: images follow each other, with ramps; outputs are measured at the
            end of every period. ``dc``: one operating point per image, exact, which is what the
            native solver computes.
        images_per_netlist: Images per netlist (IMAC-Sim: testnum_per_batch). The first image of
            a transient starts from all inputs at 0 V.
        save: ``outputs``: outputs and powers; ``all``: every node voltage too (large).
        waveforms: HSPICE: write the outputs of transients over time, too (``.tr0``). ngspice
            always does, and both do with ``save="all"``.
        measure_latency: Transients: measure when outputs come to stay in their settling bands. Of
            all statements in a netlist for HSPICE only these refer to earlier measures; without
            them latencies come from waveforms, and are NaN where there are none.
        step: s. Time step of a transient; None: a fifth of the transition.
        max_step: s. Largest time step; None: a fortieth of the period.
        reltol: Relative tolerance of Newton's method and, in transients, of time steps; None:
            1e-9 for ``dc``, 1e-6 for ``transient``.
        vntol: V. Absolute tolerance of voltages; None: 1e-12 for ``dc``, 1e-9 for ``transient``.
        abstol: A. Absolute tolerance of currents.
        fraction: Half-width of the band in which an output has settled, of its swing; see
            :mod:`imac_torch.results.latency`.
        resolution: V, smallest half-width of that band.
        klu: ngspice: ask for its solver KLU, which it has since version 42 where it was built so
            (``imac-torch doctor``), and which large circuits are much faster with; others skip it.
    """

    analysis: Literal["transient", "dc"] = "transient"
    images_per_netlist: int = 10
    save: Literal["outputs", "all"] = "outputs"
    waveforms: bool = False
    measure_latency: bool = True
    step: float | None = None
    max_step: float | None = None
    reltol: float | None = None
    vntol: float | None = None
    abstol: float = 1e-9
    fraction: float = FRACTION
    resolution: float = RESOLUTION
    klu: bool = True

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            NetlistError: A value is not usable.
        """
        if self.analysis not in ("transient", "dc"):
            raise NetlistError(f"analysis must be 'transient' or 'dc', got {self.analysis!r}")
        if self.save not in ("outputs", "all"):
            raise NetlistError(f"save must be 'outputs' or 'all', got {self.save!r}")
        if self.images_per_netlist < 1:
            raise NetlistError(
                f"images_per_netlist must be at least 1, got {self.images_per_netlist}"
            )
        if not 0.0 < self.fraction < 1.0:
            raise NetlistError(f"fraction must be in (0, 1), got {self.fraction!r}")
        for name in ("step", "max_step", "reltol", "vntol", "abstol", "resolution"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise NetlistError(f"{name} must be positive and finite, got {value!r}")

    @property
    def relative(self) -> float:
        """``reltol`` with its default."""
        default = 1e-9 if self.analysis == "dc" else 1e-6
        return default if self.reltol is None else self.reltol

    @property
    def absolute_voltage(self) -> float:
        """``vntol`` with its default, V."""
        default = 1e-12 if self.analysis == "dc" else 1e-9
        return default if self.vntol is None else self.vntol
