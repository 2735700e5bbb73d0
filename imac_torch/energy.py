"""Energy per inference: integrals of the sources' powers over a period, by part."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from imac_torch.solution import Power


@dataclass(frozen=True)
class Energy:
    """Energy delivered by each kind of source during one input; (..., B, L) J.

    Attributes:
        inputs: By the input sources.
        bias: By vdd into the bias lines.
        neurons: By vdd into the neurons.
        level_shift: By the level-shift sources.
        amplifiers: By the amplifiers' outputs; see :class:`imac_torch.solution.Power` for why
            this is an artefact with IMAC-Sim's 1 mΩ. NaN where it was not asked for.
    """

    inputs: Tensor
    bias: Tensor
    neurons: Tensor
    level_shift: Tensor
    amplifiers: Tensor

    @property
    def supply(self) -> Tensor:
        """By vdd: bias lines and neurons."""
        return self.bias + self.neurons

    @property
    def total(self) -> Tensor:
        """Inputs and vdd: what HSPICE's POWER counts, controlled sources left out."""
        return self.inputs + self.bias + self.neurons

    def __sub__(self, other: Energy) -> Energy:
        return Energy(*(
            getattr(self, part.name) - getattr(other, part.name) for part in fields(Energy)
        ))

    @classmethod
    def of_power(cls, power: Power, duration: float) -> Energy:
        """Of constant powers."""
        return cls(*(getattr(power, part.name) * duration for part in fields(Energy)))

    @classmethod
    def join(cls, parts: list[Energy], dim: int) -> Energy:
        """Concatenate along a dimension."""
        return cls(*(
            torch.cat([getattr(part, item.name) for part in parts], dim=dim)
            for item in fields(Energy)
        ))
