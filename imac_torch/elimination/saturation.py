"""Amplifiers of a block that saturate: y = O - E·w, w = y - clamp(y).

O is what they would put out if none did, E couples them through wires
(:mod:`imac_torch.elimination.feedback`, whose blocks these are). Where the largest sum of a row of
|E|, ε, is below 1, sweeps y, w, y, … converge to the only solution, and what the last change of w
still does to y is ε/(1 - ε) of it at most. Elsewhere Newton's method finds which amplifiers are at
rails. Gradients follow from the solution by the implicit function theorem: with D = dw/dy, 1 at
rails and else 0, (1 + E·D)·dy = dO - dE·w.

Shapes: P blocks side by side (samples, groups, horizontal partitions), B images, V partitions of N
amplifiers; samples and groups may lead in place of P.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.elimination.linalg import solve
from imac_torch.kernels.compiled import obstacle

SWEEPS: Final = 100
NEWTON: Final = 30
FIRST_ONLY: Final = 20
"""Turns per amplifier of the method that cannot go in circles."""
TOLERANCE: Final = 1e-12
"""Of outputs, relative to the sum of their block's: where sweeps end."""
ADJOINT: Final = 1e-14
"""Of gradients, relative to the largest."""
WORK_PER_THREAD: Final = 8
"""Pieces of some 64 images of a block, below which threads take longer to start."""


class Saturated(NamedTuple):
    """Amplifiers for some inputs, (..., H, B, V, N) each.

    Attributes:
        outputs: V.
        beyond: V, w: how far they would be beyond their rails; None: none is.
        converged: (..., H, B, V) bool.
        held: bool, which are at a rail where that does not follow from w; None: it does.
    """

    outputs: Tensor
    beyond: Tensor | None
    converged: Tensor
    held: Tensor | None = None

    @property
    def at_rails(self) -> Tensor | None:
        """Which are at a rail; None: none is."""
        if self.held is not None or self.beyond is None:
            return self.held
        return self.beyond.detach() != 0.0


def limit(mutual: Tensor, linear: Tensor, low: float, high: float) -> Saturated:
    """Outputs within the swing.

    Args:
        mutual: (..., H, V, N, N), E.
        linear: (..., H, B, V, N) V, O.
        low: V.
        high: V.
    """
    known = torch.ones(linear.shape[:-1], dtype=torch.bool, device=linear.device)
    if linear.numel() == 0:
        return Saturated(linear, None, known)
    smallest, largest = (float(item) for item in linear.detach().aminmax())
    if low <= smallest and largest <= high:
        return Saturated(linear, None, known)
    parts = mutual.detach().flatten(0, -4), linear.detach().flatten(0, -4)
    with torch.no_grad():
        outputs, beyond, good = _swept(*parts, low, high)
        left = torch.nonzero(~good)
        finite = torch.isfinite(parts[1][left.unbind(1)]).all(-1)
        if bool(finite.any()):
            p, image, v = left[finite].unbind(1)
            found, sure = _newton(parts[0][p, v], parts[1][p, image, v], low, high)
            outputs[p, image, v] = found.clamp(low, high)
            beyond[p, image, v] = found - found.clamp(low, high)
            good[p, image, v] = sure
    outputs, beyond = outputs.reshape(linear.shape), beyond.reshape(linear.shape)
    good = good.reshape(known.shape)
    if torch.is_grad_enabled() and (linear.requires_grad or mutual.requires_grad):
        at_rail = beyond != 0.0
        right = linear - times(mutual, beyond) - (outputs + beyond)
        found = outputs + beyond + _Implicit.apply(right, mutual.detach(), at_rail)
        outputs = torch.where(at_rail, outputs, found)
        beyond = torch.where(at_rail, found - outputs, beyond)
    return Saturated(outputs, beyond, good)


def times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """(..., H, V, i, j) times (..., H, B, V, j): a product of matrices for all B."""
    return (vectors.transpose(-2, -3) @ matrix.mT).transpose(-2, -3)


def _swept(
    mutual: Tensor, linear: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs and w, (P, B, V, N) each, and (P, B, V) whether sweeps ended."""
    size = mutual.abs().sum(-1).amax(-1)  # (P, V)
    factors = torch.where(size < 1.0, size / (1.0 - size), 1.0)
    if linear.device.type == "cpu" and obstacle() is None:
        return _compiled(mutual, linear, factors, low, high)
    found, beyond = linear, torch.zeros_like(linear)
    wanted = TOLERANCE * linear.abs().sum(-1)
    for _ in range(SWEEPS):
        before, beyond = beyond, found - found.clamp(low, high)
        good = (beyond - before).abs().sum(-1) * factors[:, None] <= wanted
        if bool(good.all()):
            break
        found = linear - times(mutual, beyond)
    outputs = found.clamp(low, high)
    return outputs, found - outputs, good


def _compiled(
    mutual: Tensor, linear: Tensor, factors: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    from imac_torch.kernels.saturation import sweep_blocks, work_count
    from imac_torch.kernels.threads import run_blocks

    outputs = linear.contiguous().clone()
    beyond = torch.empty_like(outputs)
    good = torch.empty(outputs.shape[:-1], dtype=torch.bool, device=outputs.device)
    pieces = work_count(outputs.numpy())
    run_blocks(
        sweep_blocks,
        pieces,
        min(torch.get_num_threads(), max(1, pieces // WORK_PER_THREAD)),
        outputs.numpy(),
        beyond.numpy(),
        good.numpy(),
        mutual.mT.contiguous().numpy(),
        factors.contiguous().numpy(),
        low,
        high,
        TOLERANCE,
        SWEEPS,
    )
    return outputs, beyond, good


def _newton(mutual: Tensor, linear: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The y (Q, N) and whether it is right (Q,), of single blocks (Q, N, N) for single images.

    All amplifiers that are at the wrong rail, or wrongly at one, change at once; where this goes in
    circles only the first of them does, which ends where circuits have one solution (K. G. Murty,
    "Note on a Bard-type scheme for solving the complementarity problem", Opsearch 11, 1974).
    """
    count = linear.shape[-1]
    identity = torch.eye(count, dtype=linear.dtype, device=linear.device)
    rail = linear.clamp(low, high)
    at_rail = rail != linear
    for turn in range(NEWTON + FIRST_ONLY * count):
        held = at_rail.to(linear.dtype)
        right = linear + (mutual @ (held * rail)[..., None])[..., 0]
        found = solve(identity + mutual * held[:, None, :], right[..., None])[..., 0]
        wanted = found.clamp(low, high)
        wrong = ((wanted != found) != at_rail) | (at_rail & (wanted != rail))
        good = ~wrong.any(-1)
        if bool(good.all()):
            break
        if turn >= NEWTON:
            wrong = wrong & (wrong.cumsum(-1) == 1)
        rail = torch.where(wrong, wanted, rail)
        at_rail = torch.where(wrong, wanted != found, at_rail)
    return found, good


class _Implicit(torch.autograd.Function):
    """dy = (1 + E·D)⁻¹·r at a solution, where r = 0 in value but not in derivative."""

    @staticmethod
    def forward(ctx: Any, right: Tensor, mutual: Tensor, at_rail: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(mutual, at_rail)
        return torch.zeros_like(right)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, gradient: Tensor  # noqa: ANN401
    ) -> tuple[Tensor, None, None]:
        """λ = g - D·Eᵀ·λ, by sweeps or, where they do not end, by factorisations."""
        mutual, at_rail = ctx.saved_tensors
        found = gradient
        wanted = ADJOINT * gradient.abs().amax()
        for _ in range(SWEEPS):
            before = found
            found = gradient - at_rail * times(mutual.mT, found)
            if bool(((found - before).abs() <= wanted).all()):
                return found, None, None
        moved = gradient.transpose(-2, -3)  # (..., H, V, B, N)
        back = mutual.mT[..., :, None, :, :] * at_rail.transpose(-2, -3)[..., None]
        identity = torch.eye(back.shape[-1], dtype=back.dtype, device=back.device)
        flat = (identity + back).expand(*moved.shape, back.shape[-1]).flatten(0, -3)
        exact = solve(flat, moved.flatten(0, -2)[..., None]).reshape(moved.shape)
        return exact.transpose(-2, -3), None, None
