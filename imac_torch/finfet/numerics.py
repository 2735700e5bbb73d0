"""Smooth, overflow-free elementary functions of the compact model, all float64 and elementwise."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

EXPONENT_LIMIT: Final = 80.0
"""Exponent beyond which the exponential is continued by its tangent (BSIM-CMG 107 reference)."""


def float64(value: Tensor | float) -> Tensor:
    """A number as a float64 tensor on the CPU; a tensor stays where it is, with its gradients."""
    if isinstance(value, Tensor):
        return value.to(torch.float64)
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def limited_exp(x: Tensor, limit: float = EXPONENT_LIMIT) -> Tensor:
    """Exponential that continues as its tangent above a limit and as a constant below -80.

    Once continuously differentiable above, so that Newton's method neither overflows nor stalls;
    the constant below is 2e-35.
    """
    inner = x.clamp(-EXPONENT_LIMIT, limit).exp()
    return inner + math.exp(limit) * (x - limit).clamp(min=0.0)


def smooth_positive(x: Tensor, c: float) -> Tensor:
    """Smooth ``max(x, 0)``, 0.5·(x + √(x² + 4c²)), without cancellation for large negative x."""
    root = (x * x + 4.0 * c * c).sqrt()
    return torch.where(x > 0.0, 0.5 * (x + root), 2.0 * c * c / (root - x.clamp(max=0.0)))


def smooth_max(x: Tensor, minimum: Tensor, c: float) -> Tensor:
    """Smooth ``max(x, minimum)`` for a negative minimum, exact at x = 0.

    The form with 4·c·|minimum| under the root that BSIM-CMG 107 uses for temperature terms.
    """
    shifted = x - minimum - c
    return minimum + 0.5 * (shifted + (shifted * shifted - 4.0 * minimum * c).sqrt())


def softplus(x: Tensor) -> Tensor:
    """ln(1 + eˣ) to rounding for every x: above 40 it is x."""
    return torch.nn.functional.softplus(x, threshold=40.0)


def screening(x: Tensor) -> Tensor:
    """Short-channel screening factor 0.5/(cosh x − 1), finite for every x > 0.

    0.5/(cosh x − 1) = eˣ/(eˣ − 1)² = e⁻ˣ/(1 − e⁻ˣ)², which cannot overflow.
    """
    return (-x).exp() / torch.expm1(-x).square()


def power(base: Tensor, exponent: Tensor) -> Tensor:
    """Positive base to a parameter's power, by multiplication or a root where the power allows.

    ``torch.pow`` costs ten multiplications; most cards have whole-number exponents.
    """
    if exponent.numel() == 1 and not exponent.requires_grad:
        value = exponent.item()
        if value == 1.0:
            return base
        if value == 2.0:
            return base * base
        if value == 3.0:
            return base * base * base
        if value == 0.5:
            return base.sqrt()
        if value == 0.0:
            return torch.ones_like(base)
    return base.pow(exponent)


def choose(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """``torch.where`` for a parameter's condition: a single one works on any device."""
    if condition.numel() == 1:
        return yes if bool(condition) else no
    return torch.where(condition, yes, no)
