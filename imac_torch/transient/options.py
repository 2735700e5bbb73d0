"""Settings of the transient engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from imac_torch.errors import SolverError
from imac_torch.transient.integrator import StepControl


@dataclass(frozen=True)
class TransientOptions:
    """Settings of the transient engine.

    Attributes:
        control: Tolerance and limits of time steps.
        wires: What represents crossbars with wire capacitances: ``reduced`` (a series with
            ``order`` + 1 terms per input line whose first neglected term is reported in V),
            ``exact`` (every node), or ``auto``: exact for networks of up to
            :data:`imac_torch.transient.preparation.EXACT_NODES` nodes, else reduced.
        order: Of the series.
        amplifiers: Whether to integrate the amplifiers' power, which costs memory.
        save: ``outputs`` or ``all``: waveforms of every layer's neurons.
        kernel: ``numba`` (compiled, tabulated neurons on the CPU), ``torch`` or ``auto``.
        max_iterations: Of Newton's method; beyond it a step is shortened.
    """

    control: StepControl = field(default_factory=StepControl)
    wires: Literal["auto", "reduced", "exact"] = "auto"
    order: int = 4
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
        if self.order < 1 or self.max_iterations < 1:
            raise SolverError(
                f"order = {self.order} and max_iterations = {self.max_iterations} must be >= 1"
            )
