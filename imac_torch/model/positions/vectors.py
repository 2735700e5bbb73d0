"""Linear layers: the last dimension is the vector, every other one counts positions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from imac_torch.errors import CircuitError
from imac_torch.model.positions.base import Positions


@dataclass(frozen=True)
class Vectors(Positions):
    """(…, N) to (…, M), with any leading dimensions, as ``nn.Linear`` has them."""

    kind = "vectors"

    def inputs(self, x: Tensor) -> int:
        """See :class:`Positions`."""
        if x.ndim == 0:
            raise CircuitError("a linear layer takes (..., N), this has no dimension")
        return int(x.shape[-1])

    def vectors(self, x: Tensor) -> Tensor:
        """See :class:`Positions`."""
        return x.reshape(-1, x.shape[-1])

    def tensor(self, rows: Tensor, x: Tensor) -> Tensor:
        """See :class:`Positions`."""
        return rows.reshape(*x.shape[:-1], rows.shape[-1])

    def through(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See :class:`Positions`."""
        if self.groups == 1:
            return nn.functional.linear(x, weight, bias)
        lines = x.unflatten(-1, (self.groups, 1, -1))
        found = (lines @ weight.unflatten(0, (self.groups, -1)).mT).flatten(-3)
        return found if bias is None else found + bias

    def batched(self, x: Tensor) -> bool:
        """See :class:`Positions`."""
        return x.ndim > 1

    def count(self, x: Tensor) -> int:
        """See :class:`Positions`."""
        return x.shape[1:-1].numel()
