"""From software weights to pairs of memristor conductances, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.config import Memristor, WeightMapping
from imac_torch.errors import MappingError

TERNARY_THRESHOLD = 0.7
"""Weights below this fraction of the mean magnitude become 0 (Li et al., Ternary Weight
Networks, arXiv:1605.04711, eq. 6)."""


@dataclass(frozen=True)
class ConductancePair:
    """Conductances of the positive and the negative memristor of every weight.

    Attributes:
        positive: (..., M, N+1) S, float64; the bias is the last column.
        negative: (..., M, N+1) S, float64.
    """

    positive: Tensor
    negative: Tensor


@dataclass(frozen=True)
class QuantizedWeights:
    """Weights in units of the mapping's full scale.

    Attributes:
        values: (M, N+1) float64 in [-1, 1], the bias in the last column; differentiable with
            respect to the weights by the straight-through estimator.
        scale: Software weight that full scale stands for, 0-dimensional float64.
        error: Root-mean-square error of ``scale·values`` relative to the weights' rms.
    """

    values: Tensor
    scale: Tensor
    error: float


def join_bias(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Weights (M, N) and bias (M,) as one (M, N+1) float64 tensor; no bias is a zero column."""
    column = weight.new_zeros(weight.shape[0]) if bias is None else bias
    return torch.cat([weight, column[:, None]], dim=1).to(torch.float64)


def levels(mapping: WeightMapping) -> Tensor | None:
    """The values a mapped weight can take, ascending in [-1, 1]; None for continuous."""
    if mapping.levels == "continuous":
        return None
    count = {"binary": 2, "ternary": 3}.get(str(mapping.levels))
    count = int(mapping.levels) if count is None else count
    return torch.linspace(-1.0, 1.0, count, dtype=torch.float64)


def quantize(weights: Tensor, mapping: WeightMapping, *, where: str) -> QuantizedWeights:
    """Round weights to the mapping's levels, full scale chosen for the least error.

    Weights that are exactly ``s`` times levels are reproduced exactly. Gradients pass straight
    through the rounding (Bengio et al., arXiv:1308.3432).

    Args:
        weights: (M, N+1), the bias in the last column.
        mapping: Levels and scheme.
        where: The layer's path, for errors.

    Returns:
        Values in [-1, 1], the software weight of full scale, and the relative error.

    Raises:
        MappingError: A weight is not finite.
    """
    weights = weights.to(torch.float64)
    detached = weights.detach()
    if not bool(torch.isfinite(detached).all()):
        row, column = torch.nonzero(~torch.isfinite(detached))[0].tolist()
        raise MappingError(
            f"{where}: weight [{row}, {column}] is {float(detached[row, column])}; the model is "
            "not usable (did training diverge?)"
        )
    magnitude = detached.abs()
    if float(magnitude.max()) == 0.0:
        return QuantizedWeights(weights, weights.new_ones(()), 0.0)
    allowed = levels(mapping)
    if allowed is None:
        scale = magnitude.max()
        values = detached / scale
    else:
        scale = _best_scale(detached, allowed.to(detached.device))
        values = _nearest(detached / scale, allowed.to(detached.device))
    error = (scale * values - detached).square().mean().sqrt() / detached.square().mean().sqrt()
    relative = weights / scale
    straight_through = values + (relative - relative.detach())
    return QuantizedWeights(straight_through, scale, float(error))


def _nearest(values: Tensor, allowed: Tensor) -> Tensor:
    midpoints = (allowed[1:] + allowed[:-1]) / 2
    return allowed[torch.bucketize(values.clamp(-1.0, 1.0), midpoints)]


def _best_scale(weights: Tensor, allowed: Tensor) -> Tensor:
    """Full scale with the least squared error: the best of a grid, refined by least squares."""
    largest = weights.abs().max()
    candidates = torch.cat([
        largest[None],
        largest * torch.linspace(0.05, 1.0, 60, dtype=weights.dtype, device=weights.device),
        (weights.abs().mean() * 1.0)[None],
    ])
    best, best_error = largest, torch.inf
    for candidate in candidates:
        scale = candidate
        for _ in range(3):  # Lloyd's alternation: levels fixed, then scale by least squares
            values = _nearest(weights / scale, allowed)
            power = values.square().sum()
            if float(power) == 0.0:
                break
            fitted = (weights * values).sum() / power
            if float(fitted) <= 0.0:
                break
            scale = fitted
        values = _nearest(weights / scale, allowed)
        error = float((scale * values - weights).square().sum())
        if error < best_error:
            best, best_error = scale, error
    # Weights that already are levels must come out untouched, free of the fit's rounding.
    exact = _nearest(weights / largest, allowed) * largest
    return largest if torch.equal(exact, weights) else best


def to_conductances(
    values: Tensor, device: Memristor, mapping: WeightMapping, *, where: str
) -> ConductancePair:
    """Conductance pairs of weights in [-1, 1].

    ``unilateral``: +1 is (1/rlow, 1/rhigh), -1 the swap, 0 is (1/rlow, 1/rlow) as in IMAC-Sim,
    linear in between. ``balanced``: both move by half the window around the middle.

    Args:
        values: (..., M, N+1) in [-1, 1].
        device: End resistances.
        mapping: The scheme.
        where: The layer's path, for errors.

    Raises:
        MappingError: A value is outside [-1, 1].
    """
    if bool((values.detach().abs() > 1.0 + 1e-12).any()):
        worst = float(values.detach().abs().max())
        raise MappingError(
            f"{where}: weights reach {worst:g} in units of full scale; the device covers "
            "[-1, 1]. Rescale the layer or let quantize choose the scale"
        )
    high, low = 1.0 / device.rlow, 1.0 / device.rhigh
    window = high - low
    if mapping.scheme == "balanced":
        middle = (high + low) / 2
        return ConductancePair(middle + window * values / 2, middle - window * values / 2)
    return ConductancePair(
        high + window * values.clamp(max=0.0), high - window * values.clamp(min=0.0)
    )


def to_values(pair: ConductancePair, device: Memristor) -> Tensor:
    """Weights in units of full scale that conductance pairs stand for: the way back."""
    return (pair.positive - pair.negative) / (1.0 / device.rlow - 1.0 / device.rhigh)


def vary(pair: ConductancePair, variation: float, generator: torch.Generator) -> ConductancePair:
    """Spread every resistance uniformly by ``±variation`` (relative), as IMAC-Sim's weight_var.

    Args:
        pair: Nominal conductances.
        variation: Half width of the uniform distribution, in [0, 1).
        generator: Source of randomness, on the CPU so that a seed means the same everywhere.
    """
    if variation == 0.0:
        return pair

    def spread(conductance: Tensor) -> Tensor:
        uniform = torch.rand(conductance.shape, generator=generator, dtype=torch.float64)
        factor = 1.0 + variation * (2.0 * uniform - 1.0)
        return conductance / factor.to(conductance.device)

    return ConductancePair(spread(pair.positive), spread(pair.negative))
