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


PROBED: Final = 64.0
"""Rounding errors per row that an inverse by halves may leave."""
DIRECT: Final = 64
"""Order up to which inverses are left to LAPACK; those of larger ones are matrix products."""


def inverse(matrix: Tensor) -> Tensor:
    """matrix⁻¹ of 1 - Q₀·Q₁ or as well-conditioned ones, without gradients, mostly by products.

    By halves: with S = D - C·A⁻¹·B the inverse of [[A, B], [C, D]] is [[A⁻¹ + A⁻¹·B·S⁻¹·C·A⁻¹,
    -A⁻¹·B·S⁻¹], [-S⁻¹·C·A⁻¹, S⁻¹]]: as many operations as LAPACK's, which take twice to three
    times as long for each. Nothing is pivoted between the halves, so what comes out is tried on
    a vector, and where that does not give it back within rounding, LAPACK does it.

    Args:
        matrix: (B, n, n).

    Returns:
        (B, n, n).
    """
    size = matrix.shape[-1]
    if size <= DIRECT:
        return torch.linalg.inv(matrix)
    result = torch.empty_like(matrix)
    _invert_halves(matrix, result)
    probe = matrix.new_ones(size, 1)
    probe[1::2] = -0.5
    error = (matrix @ (result @ probe) - probe).abs().amax()
    if not float(error) <= PROBED * size * torch.finfo(matrix.dtype).eps:
        parts = [torch.linalg.inv(part) for part in matrix]
        return torch.stack(parts)
    return result


def _invert_halves(matrix: Tensor, result: Tensor) -> None:
    size = matrix.shape[-1]
    if size <= DIRECT:
        result.copy_(torch.linalg.inv_ex(matrix).inverse)
        return
    half = (size // 2 + 7) // 8 * 8
    near, far = slice(half), slice(half, size)
    lower = matrix[:, far, near]
    first, last = result[:, near, near], result[:, far, far]
    _invert_halves(matrix[:, near, near], first)
    right = first @ matrix[:, near, far]
    left = lower @ first
    rest = torch.baddbmm(matrix[:, far, far], lower, right, alpha=-1.0)
    _invert_halves(rest, last)
    torch.bmm(last, left, out=result[:, far, near]).neg_()
    torch.bmm(right, last, out=result[:, near, far]).neg_()
    first.baddbmm_(right, result[:, far, near], alpha=-1.0)


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
