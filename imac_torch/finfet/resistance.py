"""Voltages of the internal source and drain nodes behind the series resistances.

Two unknowns per bias point, many bias points at once. With vd − vd′ = Rd·Id and vs − vs′ = Rs·Is
the residual's Jacobian is −(1 + R·G): G, the conductance matrix of a device whose currents rise
with their own node's voltage, makes it well conditioned, and close to a multiple of one known
direction (the same current flows through both resistances). A quasi-Newton iteration (Broyden's
first method, one evaluation a step) therefore converges in five to seven evaluations; points
where it does not go on with a damped Newton iteration on the exact Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.numeric.modes import differentiating, leaf, plain

Residual = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(vd′, vs′, drain, gate, source, bulk) → (vd − vd′ − Rd·Id, vs − vs′ − Rs·Is), all V."""

TOLERANCE: Final = 1e-12
"""Largest residual of a converged point, relative to 1 V plus its largest terminal voltage; one
more step is taken after it is met."""
_QUASI_NEWTON_STEPS: Final = 12
_NEWTON_STEPS: Final = 200
_HALVINGS: Final = 40


@dataclass(frozen=True)
class InternalNodes:
    """Solution for the internal nodes.

    Attributes:
        drain: Internal drain voltage, V.
        source: Internal source voltage, V.
        residual: Largest residual of Kirchhoff's law, as a voltage across the series resistance,
            V, before the last step.
        converged: Where the residual met :data:`TOLERANCE`.
    """

    drain: Tensor
    source: Tensor
    residual: Tensor
    converged: Tensor


def solve_internal_nodes(
    residual: Residual,
    drain: Tensor,
    gate: Tensor,
    source: Tensor,
    bulk: Tensor,
    *,
    pointwise: bool = True,
) -> InternalNodes:
    """Solve for the internal nodes, without recording gradients.

    Args:
        residual: Residual function, elementwise.
        drain: Terminal voltages, V, all of one shape.
        gate: As ``drain``.
        source: As ``drain``.
        bulk: As ``drain``.
        pointwise: Whether the residual may be evaluated on any flat subset of the points, so that
            only those not yet converged are. Not so where parameters vary over the points.

    Returns:
        The internal nodes, shaped like the arguments.
    """
    with torch.no_grad():
        bias: tuple[Tensor, ...] = (drain, gate, source, bulk)
        shape = drain.shape
        if pointwise:
            bias = tuple(v.reshape(-1) for v in bias)
        vd, vs, norm = _quasi_newton(residual, bias, pointwise=pointwise)
        tolerance = _tolerance(bias)
        left = ~(norm <= tolerance) & torch.stack(bias).isfinite().all(dim=0)
        if bool(left.any()):
            if pointwise:
                part = tuple(v[left] for v in bias)
                vd[left], vs[left], norm[left] = _newton(residual, part)
            else:
                nd, ns, nn = _newton(residual, bias)
                vd, vs = torch.where(left, nd, vd), torch.where(left, ns, vs)
                norm = torch.where(left, nn, norm)
        return InternalNodes(
            vd.reshape(shape),
            vs.reshape(shape),
            norm.reshape(shape),
            (norm <= tolerance).reshape(shape),
        )


def _tolerance(bias: tuple[Tensor, ...]) -> Tensor:
    """Tolerance per point, relative to 1 V plus the largest terminal voltage (rounding), V."""
    largest = torch.stack([v.abs() for v in bias]).amax(dim=0)
    return TOLERANCE * (1.0 + largest)


def _quasi_newton(
    residual: Residual, bias: tuple[Tensor, ...], *, pointwise: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Broyden's first method from the terminal voltages.

    Returns:
        Internal drain, internal source, and the residual, infinite where it did not converge.
    """
    drain, _, source, _ = bias
    vd, vs = drain.clone(), source.clone()
    norm = torch.full_like(vd, float("inf"))
    index = torch.arange(vd.numel(), device=vd.device)
    x, y = vd, vs
    fx, fy = residual(x, y, *bias)
    # First step: currents scale as the voltage across the channel (exact in the linear region).
    span = (drain - source).abs()
    relax = (span / (span + fx.abs() + fy.abs()).clamp(min=1e-300)).clamp(min=1e-3)
    a, b, c, d = relax, torch.zeros_like(relax), torch.zeros_like(relax), relax
    for _ in range(_QUASI_NEWTON_STEPS):
        size = torch.maximum(fx.abs(), fy.abs())
        sx, sy = a * fx + b * fy, c * fx + d * fy
        done = size <= _tolerance(bias)
        if bool(done.any()):
            if pointwise:
                hit, keep = index[done], ~done
                vd[hit], vs[hit], norm[hit] = (x + sx)[done], (y + sy)[done], size[done]
                index = index[keep]
                if index.numel() == 0:
                    break
                bias = tuple(v[keep] for v in bias)
                x, y, fx, fy, sx, sy = (v[keep] for v in (x, y, fx, fy, sx, sy))
                a, b, c, d = (v[keep] for v in (a, b, c, d))
            else:
                done = done & norm.isinf()
                vd, vs = torch.where(done, x + sx, vd), torch.where(done, y + sy, vs)
                norm = torch.where(done, size, norm)
                if not bool(norm.isinf().any()):
                    break
        # Saturation ends abruptly: do not let the channel's voltage fall below a quarter at once.
        across, change = x - y, sx - sy
        short = (across + change) * across.sign() < 0.25 * across.abs()
        scale = torch.where(short, -0.75 * across / change, 1.0)
        sx, sy = scale * sx, scale * sy
        x, y = x + sx, y + sy
        gx, gy = residual(x, y, *bias)
        # H ← H + (s − H·Δ)·(sᵀH)/(sᵀH·Δ), Δ = F_old − F_new (H maps the residual to the step)
        px, py = fx - gx, fy - gy
        hx, hy = a * px + b * py, c * px + d * py
        denominator = sx * hx + sy * hy
        scale = torch.where(denominator.abs() > 1e-300, 1.0 / denominator, 0.0)
        ex, ey = (sx - hx) * scale, (sy - hy) * scale
        rx, ry = sx * a + sy * c, sx * b + sy * d
        a, b, c, d = a + ex * rx, b + ex * ry, c + ey * rx, d + ey * ry
        fx, fy = gx, gy
    return vd, vs, norm


def _newton(residual: Residual, bias: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Newton's method with the exact Jacobian, each point's step halved until it helps."""
    drain, _, source, _ = bias
    x, y = drain.clone(), source.clone()
    tolerance = _tolerance(bias)
    fx, fy = residual(x, y, *bias)
    size = torch.maximum(fx.abs(), fy.abs())
    for _ in range(_NEWTON_STEPS):
        if bool((size <= tolerance).all()):
            break
        sx, sy = newton_step(residual, x, y, bias)
        damping = torch.ones_like(x)
        open_ = size > tolerance
        for _ in range(_HALVINGS):
            tx, ty = x + damping * sx, y + damping * sy
            gx, gy = residual(tx, ty, *bias)
            trial = torch.maximum(gx.abs(), gy.abs())
            worse = ~(trial <= (1.0 - 1e-4 * damping) * size) & open_
            if not bool(worse.any()):
                break
            damping = torch.where(worse, 0.5 * damping, damping)
        accept = open_ & (trial < size)
        if not bool(accept.any()):
            break
        x, y = torch.where(accept, tx, x), torch.where(accept, ty, y)
        size = torch.where(accept, trial, size)
    sx, sy = newton_step(residual, x, y, bias)
    gx, gy = residual(x + sx, y + sy, *bias)
    better = torch.maximum(gx.abs(), gy.abs()) <= size
    return torch.where(better, x + sx, x), torch.where(better, y + sy, y), size


def jacobian(
    residual: Residual, x: Tensor, y: Tensor, bias: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The residual (fx, fy) and its Jacobian ∂(fx, fy)/∂(x, y) by rows, all detached."""
    with differentiating():
        lx, ly = leaf(x), leaf(y)
        fx, fy = residual(lx, ly, *(plain(v) for v in bias))
        ax, ay = torch.autograd.grad(fx.sum(), (lx, ly), retain_graph=True)
        bx, by = torch.autograd.grad(fy.sum(), (lx, ly))
    return fx.detach(), fy.detach(), ax, ay, bx, by


def newton_step(
    residual: Residual, x: Tensor, y: Tensor, bias: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The Newton step of both unknowns."""
    fx, fy, ax, ay, bx, by = jacobian(residual, x, y, bias)
    det = ax * by - ay * bx
    return (ay * fy - by * fx) / det, (bx * fx - ax * fy) / det
