"""What a handler says of a module."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from imac_torch.model.linear import IMACLinear
from imac_torch.model.positions import Positions, Vectors


class Expanded(nn.Module):
    """A module that computes what one of torch does with matrices that are layers of its own.

    It is called as one: no graph goes through it.

    Attributes:
        stands_for: Name of the class that it stands for.
    """

    stands_for: str


@dataclass(frozen=True)
class Source:
    """``weight·x + bias``: what a module computes, and what its analog layer is made of.

    Attributes:
        weight: (M, N); the module's own tensor or computed from it. The analog layer's weights
            are trainable where it requires gradients.
        bias: (M,), or None.
        trained: The layer, where it was trained as a circuit: activation, configuration, scaling
            and devices are its.
        positions: Where the module applies them; the weight has the N inputs of one group.
    """

    weight: Tensor
    bias: Tensor | None
    trained: IMACLinear | None = None
    positions: Positions = field(default_factory=Vectors)
