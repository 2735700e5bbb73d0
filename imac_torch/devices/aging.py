"""What time, reads and writes do to cells, and what makes up for drift.

Constants are those of a technology, and its maker's to give; none are built in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final

import torch
from torch import Tensor

from imac_torch.base.units import BOLTZMANN_EV
from imac_torch.config.quantity import AGE, ENERGY, FRACTION, TEMPERATURE, TIME
from imac_torch.devices.model import Effect, ReferenceEffect, Window
from imac_torch.errors import ConfigError
from imac_torch.mapping.quantization import ConductancePair

__all__ = ["Compensation", "Endurance", "ReadDisturb", "Retention"]

ENDS: Final = ("low", "high", "open")
"""Resistances that cells end at."""


class _Lost(Effect):
    """Some cells end in a state that is not theirs."""

    to: str

    @property
    def share(self) -> float:
        """Of the cells."""
        raise NotImplementedError

    def _check(self, passed: tuple[str, float], **positive: float) -> None:
        """What has passed may be nothing: sweeps begin with fresh cells."""
        if not 0.0 <= passed[1] < math.inf:
            raise ConfigError(f"{passed[0]} = {passed[1]} must be 0 or more, and finite")
        for name, value in positive.items():
            if not 0.0 < value < math.inf:
                raise ConfigError(f"{name} = {value} must be positive and finite")
        if self.to not in ENDS:
            raise ConfigError(f"to = {self.to!r}: cells end at {', '.join(ENDS)}")

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        drawn = torch.rand(
            conductance.shape, generator=generator, dtype=torch.float64, device="cpu"
        )
        lost = (drawn.to(conductance.device) < self.share) & (conductance > 0.0)
        end = {"low": window.high, "high": window.low, "open": 0.0}[self.to]
        return torch.where(lost, end, conductance)


@dataclass(frozen=True)
class Retention(_Lost):
    """Cells that have lost their state after a time: 1 - exp(-(t/τ)^β) of them.

    τ falls with temperature as exp(E/kT): bake tests are read at other temperatures so (Weibull and
    Arrhenius, JEDEC JEP122).

    Attributes:
        time: s, t.
        lifetime: s, τ at the reference temperature: 63 % are lost.
        shape: β.
        energy: eV, E; 0: τ is the same at all temperatures.
        temperature: K.
        reference: K.
        to: Where they go: ``low`` or ``high`` resistance, or ``open``.
    """

    time: Annotated[float, AGE]
    lifetime: Annotated[float, AGE]
    shape: float = 1.0
    energy: Annotated[float, ENERGY] = 0.0
    temperature: Annotated[float, TEMPERATURE] = 298.15
    reference: Annotated[float, TEMPERATURE] = 298.15
    to: str = "high"

    def __post_init__(self) -> None:
        """Check the values."""
        self._check(
            ("time", self.time), lifetime=self.lifetime, shape=self.shape,
            temperature=self.temperature, reference=self.reference,
        )  # fmt: skip

    @property
    def share(self) -> float:
        """Of the cells."""
        warmer = self.energy / BOLTZMANN_EV * (1.0 / self.temperature - 1.0 / self.reference)
        return -math.expm1(-((self.time / self.lifetime * math.exp(-warmer)) ** self.shape))


@dataclass(frozen=True)
class ReadDisturb(_Lost):
    """Magnetic cells that reads have switched: 1 - exp(-(N·t/τ₀)·exp(-Δ·(1 - I/I_c))) of them.

    Thermally activated reversal under a spin-polarised current (Z. Diao et al., "Spin-transfer
    torque switching in magnetic tunnel junctions and spin-transfer torque random access memory",
    J. Phys.: Condens. Matter 19, 165209, 2007). Cells that are where the current drives them stay.

    Attributes:
        reads: N.
        pulse: s, t of one.
        stability: Δ, barrier over kT.
        ratio: I/I_c, read current over the critical one at 0 K.
        attempt: s, τ₀.
        to: The state that the current drives them to, ``low`` or ``high`` resistance.
    """

    reads: float
    pulse: Annotated[float, TIME]
    stability: float
    ratio: Annotated[float, FRACTION]
    attempt: Annotated[float, TIME] = 1e-9
    to: str = "low"

    def __post_init__(self) -> None:
        """Check the values."""
        self._check(
            ("reads", self.reads), pulse=self.pulse, stability=self.stability, attempt=self.attempt
        )
        if not 0.0 <= self.ratio < 1.0 or self.to == "open":
            raise ConfigError(f"ratio = {self.ratio} is from 0 to 1, and reads open no cell")

    @property
    def share(self) -> float:
        """Of the cells."""
        rate = math.exp(-self.stability * (1.0 - self.ratio)) / self.attempt
        return -math.expm1(-self.reads * self.pulse * rate)


@dataclass(frozen=True)
class Endurance(_Lost):
    """Cells that have been written too often: 1 - exp(-(n/N)^β) of them have failed.

    Attributes:
        writes: n, of every cell.
        lifetime: N, writes after which 63 % have failed.
        shape: β, of Weibull's distribution.
        to: What they are stuck at: ``low`` or ``high`` resistance, or ``open``.
    """

    writes: float
    lifetime: float
    shape: float = 1.0
    to: str = "low"

    def __post_init__(self) -> None:
        """Check the values."""
        self._check(("writes", self.writes), lifetime=self.lifetime, shape=self.shape)

    @property
    def share(self) -> float:
        """Of the cells."""
        return -math.expm1(-((self.writes / self.lifetime) ** self.shape))


@dataclass(frozen=True)
class Compensation(ReferenceEffect):
    """Read-outs multiplied by what a read of all cells now gives back of the first one.

    Global drift compensation (V. Joshi et al., "Accurate deep neural network inference using
    computational phase-change memory", Nat. Commun. 11, 2473, 2020): sums of currents with all
    inputs alike, as they should be over as they are. Put it behind the
    effects that it is to make up for. Devices are taken to conduct as much more as read-outs are
    multiplied by, which is the same where outputs are proportional to currents (transimpedance,
    current_mirror, sense resistors that are small); one factor for a row's two lines.

    Attributes:
        scope: What has a factor of its own: ``layer``, or ``row`` (the columns of that paper).
        cycle: It is measured once.
    """

    scope: str = "layer"
    cycle: bool = False

    def __post_init__(self) -> None:
        """Check the scope."""
        if self.scope not in ("layer", "row"):
            raise ConfigError(f"scope = {self.scope!r}: a factor per layer or per row")

    def restore(self, before: ConductancePair, pair: ConductancePair) -> ConductancePair:
        """See :class:`ReferenceEffect`."""
        ends = (-1,) if self.scope == "row" else (-2, -1)
        sums = [
            (item.positive.detach() + item.negative.detach()).sum(ends, keepdim=True)
            for item in (before, pair)
        ]
        factor = torch.where(sums[1] > 0.0, sums[0] / sums[1], torch.ones_like(sums[0]))
        return ConductancePair(pair.positive * factor, pair.negative * factor)
