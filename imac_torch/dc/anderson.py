"""Anderson's acceleration of fixed-point iterations x ← x + f(x), every sample on its own.

D. G. Anderson, "Iterative procedures for nonlinear integral equations", J. ACM 12(4), 547-560
(1965), in the form of H. F. Walker and P. Ni, SIAM J. Numer. Anal. 49(4), 1715-1735 (2011).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

DEPTH: Final = 5
"""Former steps that are combined."""
RANK: Final = 1e-12
"""Eigenvalues of the normal equations below this fraction of the largest are rounding."""


class Anderson:
    """Remembers the last points and steps."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor] | None = None
        self._points: list[Tensor] = []
        self._steps: list[Tensor] = []

    def restart(self) -> None:
        """Forget everything: the iterated function has changed."""
        self._last = None
        self._points.clear()
        self._steps.clear()

    def step(self, point: Tensor, step: Tensor) -> Tensor:
        """What to add to (B, N) points whose plain step is (B, N)."""
        if self._last is not None:
            self._points.append(point - self._last[0])
            self._steps.append(step - self._last[1])
            del self._points[:-DEPTH], self._steps[:-DEPTH]
        self._last = point, step
        if not self._steps:
            return step
        count = len(self._steps)
        gram = step.new_zeros(len(step), count, count)
        right = step.new_zeros(len(step), count)
        for i, first in enumerate(self._steps):
            right[:, i] = (first * step).sum(-1)
            for j, second in enumerate(self._steps[: i + 1]):
                gram[:, i, j] = gram[:, j, i] = (first * second).sum(-1)
        # Columns of length 1, so that early, large steps do not hide late ones.
        scale = gram.diagonal(dim1=-2, dim2=-1).sqrt()
        scale = torch.where(scale > 0.0, 1.0 / scale, torch.zeros_like(scale))
        gram = (gram * scale[:, :, None] * scale[:, None, :]).nan_to_num(0.0, 0.0, 0.0)
        inverse = torch.linalg.pinv(gram, rtol=RANK, hermitian=True)
        weights = scale * (inverse @ (scale * right)[..., None]).squeeze(-1)
        result = step.clone()
        for k in range(count):
            result -= weights[:, k, None] * (self._points[k] + self._steps[k])
        return result
