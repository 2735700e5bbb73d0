"""Batched dense solves that are safe on every build of torch."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

THREADED: Final = 64
"""Order above which matrices on the CPU are factored one after the other.

With several threads, torch's batched LU factorisation on the CPU calls MKL's threaded one from
within threads and returns wrong results, often without an error (pytorch/pytorch issue 142815,
reported from order 151 on, also seen in 2.13).
"""
INVERTED: Final = 128
"""Order up to which an inverse and a product are faster than substitution in many right sides."""


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """matrix⁻¹·right for well-conditioned matrices.

    Args:
        matrix: (B, n, n).
        right: (B, n, m).

    Returns:
        (B, n, m).
    """
    if matrix.device.type == "cpu" and matrix.shape[0] > 1 and matrix.shape[-1] > THREADED:
        pairs = zip(matrix, right, strict=True)
        return torch.stack([solve(a[None], b[None])[0] for a, b in pairs])
    if matrix.shape[-1] <= min(INVERTED, right.shape[-1]):
        return torch.linalg.inv(matrix) @ right
    return torch.linalg.solve(matrix, right)
