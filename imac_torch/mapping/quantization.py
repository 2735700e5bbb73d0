"""From software weights to pairs of memristor conductances, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imac_torch.base.shown import Brief
from imac_torch.config import Memristor, WeightMapping
from imac_torch.errors import MappingError
from imac_torch.mapping.slices import Slicing


@dataclass(frozen=True)
class ConductancePair(Brief):
    """Conductances of the positive and the negative memristor of every weight.

    Attributes:
        positive: (..., M, N+1) S, float64; the bias is the last column.
        negative: (..., M, N+1) S, float64.
    """

    positive: Tensor
    negative: Tensor

    def of_rows(self, rows: Tensor) -> ConductancePair:
        """Those of some rows, by number."""
        return ConductancePair(self.positive[..., rows, :], self.negative[..., rows, :])


@dataclass(frozen=True)
class QuantizedWeights(Brief):
    """Weights in units of the mapping's full scale.

    Attributes:
        values: (M, N+1) float64 in [-1, 1], the bias in the last column; differentiable with
            respect to the weights by the straight-through estimator.
        scale: Software weight that full scale stands for, float64: 0-dimensional, or (M, 1) with
            one scale per row.
        error: Weight error: root mean square of ``scale·values - weights`` over that of the
            weights, the bias left out: 1 is all of them.
        bias_error: The same of the biases alone; infinite where they all are 0 and should stay so.
        lost_zeros: Number of weights and biases that are 0 where 0 is no level: each has become
            the nearest one.
    """

    values: Tensor
    scale: Tensor
    error: float
    bias_error: float = 0.0
    lost_zeros: int = 0

    def follow(self, weights: Tensor) -> QuantizedWeights:
        """The same values with gradients that pass straight through the rounding to weights.

        Y. Bengio, N. Léonard and A. Courville, arXiv:1308.3432 (2013). The scale is constant.

        Args:
            weights: (M, N+1) float64, what was rounded.
        """
        if not (torch.is_grad_enabled() and weights.requires_grad):
            return self
        relative = weights / self.scale
        return replace(self, values=self.values + (relative - relative.detach()))


def join_bias(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Weights (M, N) and bias (M,) as one (M, N+1) float64 tensor; no bias is a zero column."""
    column = weight.new_zeros(weight.shape[0]) if bias is None else bias
    return torch.cat([weight, column[:, None]], dim=1).to(torch.float64)


def levels(mapping: WeightMapping, slicing: Slicing | None = None) -> Tensor | None:
    """The values a mapped weight can take, ascending in [-1, 1]; None for continuous.

    Args:
        mapping: Levels of a pair.
        slicing: The pairs of a weight; None: one.
    """
    if isinstance(mapping.levels, tuple):
        return torch.tensor(mapping.levels, dtype=torch.float64, device="cpu")
    count = mapping.level_count
    if count is None:
        return None
    count = count if slicing is None else slicing.levels(count)
    return torch.linspace(-1.0, 1.0, count, dtype=torch.float64, device="cpu")


def quantize(
    weights: Tensor,
    mapping: WeightMapping,
    slicing: Slicing | None = None,
    *,
    where: str,
    bias: bool = True,
) -> QuantizedWeights:
    """Round weights to the mapping's levels, full scale chosen for the least error.

    Weights that are exactly ``s`` times levels are reproduced exactly. Gradients pass straight
    through the rounding (:meth:`QuantizedWeights.follow`).

    Args:
        weights: (M, N+1), the bias in the last column.
        mapping: Levels and scheme.
        slicing: The pairs of a weight; None: one.
        where: The layer's path, for errors.
        bias: Whether there is a bias. If not, the last column stays 0 whatever the levels, and
            has no say in the scale.

    Returns:
        Values in [-1, 1], the software weight of full scale, and the relative errors.

    Raises:
        MappingError: A weight is not finite.
    """
    weights = weights.to(torch.float64)
    detached = weights.detach()
    if not bool(torch.isfinite(detached).all()):
        row, column = torch.nonzero(~torch.isfinite(detached))[0].tolist()
        inputs = detached.shape[1] - 1
        named = f"weight [{row}, {column}]" if column < inputs else f"bias [{row}]"
        raise MappingError(
            f"{where}: {named} is {float(detached[row, column])}; the model is not usable (did "
            "training diverge?)"
        )
    if float(detached.abs().max()) == 0.0:
        return QuantizedWeights(weights, weights.new_ones(()), 0.0)
    used = detached if bias else detached[:, :-1]
    allowed = levels(mapping, slicing)
    if allowed is None:
        scale = used.abs().max()
        values = used / scale
    else:
        allowed = allowed.to(detached.device)
        groups = used if mapping.scale == "row" else used.reshape(1, -1)
        # A power of two rounds nothing; squares of very small or large weights are no numbers.
        largest = groups.abs().amax(-1, keepdim=True)
        largest = torch.where(largest > 0.0, largest, torch.ones_like(largest))
        unit = largest / (2.0 * torch.frexp(largest).mantissa)
        scale = _best_scale(groups / unit, allowed)[:, None] * unit
        scale = scale if mapping.scale == "row" else scale[0, 0]
        values = _nearest(used / scale, allowed)
    if not bias:
        values = torch.nn.functional.pad(values, (0, 1))
    errors = deviation(scale * values, detached)
    lost = (detached == 0.0) & (values != 0.0)
    return QuantizedWeights(
        values,
        scale,
        errors.weights,
        errors.bias,
        int(lost.sum()),
    ).follow(weights)


@dataclass(frozen=True)
class WeightErrors:
    """How far weights and bias are from the software's, each by :func:`weight_error`.

    Attributes:
        weights: Of the weights, the bias left out; infinite like the other.
        bias: Of the bias; infinite where all of it is 0 and should have stayed so.
    """

    weights: float
    bias: float

    def text(self, *, bias: bool = True) -> str:
        """In words, with the definition.

        Args:
            bias: Whether there is one to speak of.
        """
        words = f"rms error of the weights {percent(self.weights)} of their rms"
        if math.isinf(self.weights):
            words = "weights of 0: no 0"
        if not bias:
            return words
        if math.isinf(self.bias):
            return f"{words}, of a bias of 0: no 0"
        return f"{words}, of the bias {percent(self.bias)}"


def percent(share: float) -> str:
    """A share in words, to two digits."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def deviation(found: Tensor, wanted: Tensor) -> WeightErrors:
    """Errors of weights (M, N+1) with their bias in the last column."""
    difference = found - wanted
    return WeightErrors(
        weight_error(difference[:, :-1], wanted[:, :-1]),
        weight_error(difference[:, -1], wanted[:, -1]),
    )


def weight_error(deviation: Tensor, wanted: Tensor) -> float:
    """The weight error: rms of a deviation over the rms of what was wanted; 1 is all of it.

    Weights and bias have one each: one large bias would hide that all weights are lost. Infinite
    where what was wanted is 0 everywhere.
    """
    if not bool(deviation.any()):
        return 0.0
    unit = wanted.abs().max()  # squares of very small weights are 0
    if float(unit) == 0.0:
        return math.inf
    rms = (deviation / unit).square().mean().sqrt() / (wanted / unit).square().mean().sqrt()
    return float(rms)


def _nearest(values: Tensor, allowed: Tensor) -> Tensor:
    count = len(allowed)
    step = (allowed[-1] - allowed[0]) / (count - 1)
    even = allowed[0] + step * torch.arange(count, dtype=allowed.dtype, device=allowed.device)
    if torch.allclose(even, allowed, rtol=0.0, atol=1e-14):
        # Half way between two levels the lower one is taken, as bucketize does.
        index = torch.ceil((values - allowed[0]) / step - 0.5).clamp(0, count - 1)
        return allowed[index.to(torch.int64)]
    midpoints = (allowed[1:] + allowed[:-1]) / 2
    return allowed[torch.bucketize(values, midpoints)]


CANDIDATES = 33
"""Full scales tried, from 5 % of the largest weight to all of it, each refined by least squares."""


def _best_scale(weights: Tensor, allowed: Tensor) -> Tensor:
    """Full scale of every group (P, K) with the least squared error, (P,)."""
    largest = weights.abs().amax(-1, keepdim=True)
    largest = torch.where(largest == 0.0, torch.ones_like(largest), largest)
    # Weights that already are levels must come out untouched, free of the fit's rounding.
    exact = _nearest(weights / largest, allowed) * largest
    same = (exact == weights).all(-1, keepdim=True)
    if bool(same.all()):  # as in sweeps over ternary networks, whose time the search would be
        return largest[:, 0]
    grid = torch.linspace(0.05, 1.0, CANDIDATES, dtype=weights.dtype, device=weights.device)
    mean = weights.abs().mean(-1, keepdim=True).clamp(min=1e-3 * largest)
    scale = torch.cat([largest * grid, mean], dim=-1)  # (P, candidates)
    points, _ = weights.sort(dim=-1)
    sums = torch.nn.functional.pad(points.cumsum(-1), (1, 0))
    for _ in range(3):  # Lloyd's alternation: levels fixed, then scale by least squares
        product, power = _moments(points, sums, allowed, scale)
        fitted = product / power.clamp(min=1e-300)
        scale = torch.where((power > 0.0) & (fitted > 0.0), fitted, scale)
    product, power = _moments(points, sums, allowed, scale)
    error = scale.square() * power - 2.0 * scale * product  # less Σw², which all have
    best = scale.gather(-1, error.argmin(-1, keepdim=True))
    return torch.where(same, largest, best)[:, 0]


def _moments(
    points: Tensor, sums: Tensor, allowed: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ w·v and Σ v² of weights w and the levels v nearest to w/scale.

    Sorted weights that share a level are neighbours: their number and sum are differences of
    positions and of running sums, so that a scale costs a search per level, not a pass over all
    weights.

    Args:
        points: (P, K), ascending.
        sums: (P, K+1), running sums of the points, from 0.
        allowed: (L,) levels, ascending.
        scale: (P, S), positive.

    Returns:
        (P, S) each.
    """
    if len(allowed) > points.shape[-1]:
        values = _nearest(points[:, None, :] / scale[..., None], allowed)
        return (points[:, None, :] * values).sum(-1), values.square().sum(-1)
    middles = (allowed[1:] + allowed[:-1]) / 2
    limits = (scale[..., None] * middles).flatten(1)
    # Half way between two levels the lower one is taken, as elsewhere.
    ends = torch.searchsorted(points, limits, right=True)
    below = sums.gather(-1, ends).unflatten(-1, (scale.shape[-1], -1))
    count = ends.unflatten(-1, (scale.shape[-1], -1)).to(points.dtype)
    first = torch.zeros_like(count[..., :1])
    last = torch.full_like(first, points.shape[-1])
    total = sums[:, None, -1:].expand_as(first)
    numbers = torch.cat([first, count, last], dim=-1).diff(dim=-1)
    parts = torch.cat([first, below, total], dim=-1).diff(dim=-1)
    return parts @ allowed, numbers @ allowed.square()


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
    worst = max(abs(float(end)) for end in torch.aminmax(values.detach()))
    if worst > 1.0 + 1e-12:
        raise MappingError(
            f"{where}: weights reach {worst:g} in units of full scale; the device covers "
            "[-1, 1]. Rescale the layer or let quantize choose the scale"
        )
    high, low = 1.0 / device.rlow, 1.0 / device.rhigh
    window = high - low
    if mapping.scheme == "matched":
        raise MappingError(
            f"{where}: the scheme 'matched' solves for conductances of a whole row and its "
            "read-out; use imac_torch.mapping.matching.match, or ProgrammedMatrix"
        )
    if mapping.scheme == "balanced":
        middle = (high + low) / 2
        return ConductancePair(middle + window * values / 2, middle - window * values / 2)
    # In place: of large layers each matrix of numbers is hundreds of megabytes.
    return ConductancePair(
        values.clamp(max=0.0).mul_(window).add_(high),
        values.clamp(min=0.0).mul_(-window).add_(high),
    )


def without_bias(pair: ConductancePair) -> ConductancePair:
    """Pairs (..., M, N) with a bias column (..., M, N+1) that has no memristors."""
    return ConductancePair(
        torch.nn.functional.pad(pair.positive, (0, 1)),
        torch.nn.functional.pad(pair.negative, (0, 1)),
    )


def to_values(pair: ConductancePair, device: Memristor) -> Tensor:
    """Weights in units of full scale that conductance pairs stand for: the way back."""
    return (pair.positive - pair.negative) / (1.0 / device.rlow - 1.0 / device.rhigh)
