"""A layer type of its own: a linear layer that takes its inputs in another order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imac_torch.conversion.layers import Source, register_layer


class Permuted(nn.Module):
    """``linear(x[order])``."""

    order: Tensor

    def __init__(self, linear: nn.Linear, order: Tensor) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N) to (B, M)."""
        return self.linear(x[:, self.order])


def permuted(module: Permuted) -> Source:
    """Column j of the weights is of input order[j]."""
    return Source(module.linear.weight[:, torch.argsort(module.order)], module.linear.bias)


register_layer(Permuted, permuted)
