"""Linear layers of given weights."""

from __future__ import annotations

from torch import Tensor, nn


def dense(weight: Tensor, bias: Tensor | None, *, trained: bool) -> nn.Linear:
    """A linear layer with copies of weights, of their type and place.

    Args:
        weight: (M, N).
        bias: (M,) or None.
        trained: Whether its parameters require gradients.
    """
    outputs, inputs = weight.shape
    layer = nn.utils.skip_init(
        nn.Linear, inputs, outputs, bias=bias is not None, dtype=weight.dtype,
        device=weight.device,
    )  # fmt: skip
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=trained)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=trained)
    return layer
