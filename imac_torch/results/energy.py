"""Energy per inference: integrals of the sources' powers over a period, by part."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from imac_torch.results.solution import BySource


@dataclass(frozen=True)
class Energy(BySource):
    """Energy delivered by each kind of source during one input; (..., B, L) J.

    Parts: :class:`imac_torch.results.solution.BySource`; amplifiers are NaN where not asked for.
    """

    def __sub__(self, other: Energy) -> Energy:
        return Energy(*(
            getattr(self, part.name) - getattr(other, part.name) for part in fields(Energy)
        ))

    @classmethod
    def join(cls, parts: list[Energy], dim: int) -> Energy:
        """Concatenate along a dimension."""
        return cls(*(
            torch.cat([getattr(part, item.name) for part in parts], dim=dim)
            for item in fields(Energy)
        ))
