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

# w = ln tan β is kept above this, so that tan²β does not underflow.
_W_MIN = -300.0
# Third-order iteration: three steps reach rounding for ordinary fins, a thick or heavily doped
# one takes up to eight.
_MAX_ITERATIONS = 12
_LAST_STEP = 1e-4


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
        w = _initial_guess(drive, r1, s0)
        for _ in range(_MAX_ITERATIONS):
            value, slope, curvature = _residual_derivatives(w, drive, r1, s0)
            step = value / slope
            # Halley's method; the bound on the correction keeps it a descent direction
            step = step / (1.0 - 0.5 * step * curvature / slope).clamp(0.5, 2.0)
            w = (w - step).clamp(min=_W_MIN)
            # The error after a step is of the order of its cube.
            if step.numel() == 0 or float(step.abs().max()) < _LAST_STEP:
                break
    if not torch.is_grad_enabled() or not (
        drive.requires_grad or r1.requires_grad or s0.requires_grad
    ):
        return _charge(w, s0)[0]
    with torch.no_grad():
        slope = _residual_derivatives(w, drive, r1, s0)[1]
    # One Newton step whose slope is held constant: its value is the solution, its gradient that
    # of the implicit function.
    charge, log_beta_ratio = _charge(w, s0)
    residual = log_beta_ratio + r1 * charge - drive
    return _charge(w - residual / slope, s0)[0]


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
    w: Tensor, drive: Tensor, r1: Tensor, s0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The equation's residual and its first two derivatives in w."""
    t = w.exp()
    t2 = t * t
    cos2 = 1.0 / (1.0 + t2)
    beta = torch.atan(t)
    log_sec2 = torch.log1p(t2)
    a = torch.exp(s0)
    growth = torch.expm1(s0)
    sin2 = t2 * cos2
    beta1 = t * cos2  # dβ/dw = sin β cos β
    bracket = growth + a * t2
    excess = beta * beta * bracket + s0 * log_sec2
    s = (excess + s0 * s0).sqrt()
    value = beta.log() + 0.5 * log_sec2 + r1 * (excess / (s + s0)) - drive
    # derivatives of the excess E = S² − s₀²
    half_e1 = beta * (beta1 * bracket + beta * a * t2) + s0 * sin2  # E'/2
    beta2 = beta1 * (1.0 - 2.0 * sin2)
    half_e2 = (
        (beta1 * beta1 + beta * beta2) * bracket
        + 4.0 * a * beta * beta1 * t2
        + 2.0 * a * beta * beta * t2
        + 2.0 * s0 * sin2 * cos2
    )
    s1 = half_e1 / s
    s2 = (half_e2 - s1 * s1) / s
    quotient = beta1 / beta
    slope = quotient + sin2 + r1 * s1
    curvature = beta2 / beta - quotient * quotient + 2.0 * sin2 * cos2 + r1 * s2
    return value, slope, curvature


def _initial_guess(drive: Tensor, r1: Tensor, s0: Tensor) -> Tensor:
    """Starting w: subthreshold w = drive, strong inversion r₁·(π/2)·e^{s₀/2}·tan β = drive − …"""
    # ln t + c·t = y has the solution t = W(c·e^y)/c; W by its logarithmic bounds. c is the slope
    # of the charge at large t; at small t the charge is quadratic and the term is negligible.
    c = r1 * (0.5 * math.pi) * torch.exp(0.5 * s0)
    y = drive - math.log(0.5 * math.pi)
    z = torch.logaddexp(y + c.log(), torch.ones_like(y))  # ≥ 1
    lambert = z - z.log() * (z / (1.0 + z))
    strong = (lambert.clamp(min=1e-12) / c).log()
    return torch.minimum(drive, strong).clamp(min=_W_MIN)
