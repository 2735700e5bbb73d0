r"""Surface potential of a doped double-gate fin, by charge: robust, exact to rounding, implicit.

The model's equation (BSIM-CMG 107.0.0 technical manual, eqs. 3.224 to 3.244, NGATE = 0) for the
potential parameter β in (0, π/2) is, with s₀ = φ_bulk/(n·kT/q) and F from eq. 3.229,

    ln β − ln cos β + r₁·S(β) = F,
    S² = β²(e^{s₀}/cos²β − 1) + s₀² − 2 s₀ ln cos β.

Here it is solved in w = ln tan β, in which it is monotone with a slope between 1 and r₁·S + 1,
from the subthreshold region (β ~ e^F, any number of decades) to strong inversion (β → π/2) without
a change of formula. Since V_gsfbeff − ψ = 2·n·kT/q·r₁·S, and S → s₀ for β → 0 gives the depletion
charge, the inversion charge is 2·n·kT/q·r₁·(S − s₀) with S − s₀ = (S² − s₀²)/(S + s₀): no
difference of nearly equal potentials, so subthreshold currents are smooth to rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imac_torch.finfet.numerics import softplus
from imac_torch.numeric.modes import once

# w = ln tan β is kept above this, so that tan²β does not underflow.
_W_MIN = -300.0
# Third-order iteration: two steps bring ordinary fins to 1e-11, three to rounding; a thick or
# heavily doped one takes up to eight.
_MAX_ITERATIONS = 12
_LAST_STEP = 2e-3


def inversion_charge(drive: Tensor, r1: Tensor, s0: Tensor) -> Tensor:
    """Solve the surface potential equation.

    Args:
        drive: F − r₁·s₀, any shape: F of eq. 3.229 less the depletion charge.
        r1: Ratio 2ε_sub/(Cox·TFIN) (eq. 3.199).
        s0: φ_bulk over n·kT/q, positive.

    Returns:
        S − s₀, the inversion charge over 2·n·kT/q·r₁, positive, shape of the broadcast arguments.
        Gradients are those of the exact solution (implicit function theorem).
    """
    with torch.no_grad():
        a = torch.exp(s0)
        growth = torch.expm1(s0)
        w = _initial_guess(drive, r1, a)
        for _ in range(_MAX_ITERATIONS):
            value, slope, curvature = _residual_derivatives(w, drive, r1, s0, a, growth)
            step = value / slope
            # Halley's method; the bound on the correction keeps it a descent direction
            step = step / (1.0 - 0.5 * step * curvature / slope).clamp(0.5, 2.0)
            w = (w - step).clamp(min=_W_MIN)
            # After a step its cube is left, here times less than 0.01.
            if step.numel() == 0 or float(step.abs().max()) < _LAST_STEP:
                break
    if not torch.is_grad_enabled() or not (
        drive.requires_grad or r1.requires_grad or s0.requires_grad
    ):
        return _charge(w, s0)[0]
    with torch.no_grad():
        slope = _residual_derivatives(w, drive, r1, s0, a, growth)[1]
    # One Newton step whose slope is held constant: its value is the solution, its gradient that
    # of the implicit function.
    charge, log_tangent = _charge(w, s0)
    residual = log_tangent + r1 * charge - drive
    return once(_charge(w - residual / slope, s0)[0])


def _charge(w: Tensor, s0: Tensor) -> tuple[Tensor, Tensor]:
    """S − s₀ and ln β − ln cos β at tan β = e^w."""
    t = w.exp()
    t2 = t * t
    beta = torch.atan(t)
    log_sec2 = torch.log1p(t2)  # −2 ln cos β
    growth = torch.expm1(s0)
    # S² − s₀²
    excess = beta * beta * (growth + (growth + 1.0) * t2) + s0 * log_sec2
    s = (excess + s0 * s0).sqrt()
    return excess / (s + s0), beta.log() + 0.5 * log_sec2


def _residual_derivatives(
    w: Tensor, drive: Tensor, r1: Tensor, s0: Tensor, a: Tensor, growth: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The equation's residual and its first two derivatives in w, with a = e^{s₀} = growth + 1."""
    t = w.exp()
    t2 = t * t
    cos2 = 1.0 / (1.0 + t2)
    sin2 = t2 * cos2
    cos_2b = cos2 - sin2
    beta = torch.atan(t)
    log_sec2 = torch.log1p(t2)
    beta1 = t * cos2  # dβ/dw = sin β·cos β; d²β/dw² = beta1·cos 2β
    bracket = growth + a * t2
    product = beta * bracket
    excess = beta * product + s0 * log_sec2  # E = S² − s₀²
    s = (excess + s0 * s0).sqrt()
    value = beta.log() + 0.5 * log_sec2 + r1 * (excess / (s + s0)) - drive
    growth1 = a * beta * t2
    s0_sin2 = s0 * sin2
    half_e1 = beta1 * product + beta * growth1 + s0_sin2  # E'/2
    half_e2 = (  # E''/2
        bracket * beta1 * (beta1 + beta * cos_2b)
        + growth1 * (4.0 * beta1 + 2.0 * beta)
        + 2.0 * s0_sin2 * cos2
    )
    s1 = half_e1 / s
    s2 = (half_e2 - s1 * s1) / s
    quotient = beta1 / beta
    slope = quotient + sin2 + r1 * s1
    curvature = quotient * (cos_2b - quotient) + 2.0 * sin2 * cos2 + r1 * s2
    return value, slope, curvature


def _initial_guess(drive: Tensor, r1: Tensor, a: Tensor) -> Tensor:
    """Starting w: the subthreshold or the strong-inversion solution, whichever is lower.

    In strong inversion ln t + c·t = y with t = tan β, c the slope of the charge at large t. That
    is t = W(c·e^y)/c; Lambert's W by z − ln z·z/(1 + z), z = ln(e + c·e^y).
    """
    c = r1 * (0.5 * math.pi) * a.sqrt()
    z = 1.0 + softplus(drive + (c / (0.5 * math.pi)).log() - 1.0)
    lambert = z - z.log() * (z / (1.0 + z))
    return torch.minimum(drive, (lambert / c).log()).clamp(min=_W_MIN)
