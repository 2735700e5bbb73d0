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
        self._moves: list[Tensor] = []  # changes of point plus step
        self._steps: list[Tensor] = []  # changes of steps
        self._gram: list[list[Tensor]] = []  # products of these, lower triangle

    def restart(self) -> None:
        """Forget everything: the iterated function has changed."""
        self._last = None
        self._moves.clear()
        self._steps.clear()
        self._gram.clear()

    def step(self, point: Tensor, step: Tensor) -> Tensor:
        """What to add to (B, N) points whose plain step is (B, N)."""
        if self._last is not None:
            change = step - self._last[1]
            self._moves.append(point - self._last[0] + change)
            self._steps.append(change)
            if len(self._steps) > DEPTH:
                del self._moves[0], self._steps[0], self._gram[0]
                self._gram = [row[1:] for row in self._gram]
            self._gram.append([_product(change, other) for other in self._steps])
        self._last = point, step
        if not self._steps:
            return step
        count = len(self._steps)
        gram = step.new_empty(len(step), count, count)
        for i, row in enumerate(self._gram):
            for j, value in enumerate(row):
                gram[:, i, j] = gram[:, j, i] = value
        right = torch.stack([_product(item, step) for item in self._steps], dim=-1)
        # Columns of length 1, so that early, large steps do not hide late ones.
        scale = gram.diagonal(dim1=-2, dim2=-1).sqrt()
        scale = torch.where(scale > 0.0, 1.0 / scale, torch.zeros_like(scale))
        gram = (gram * scale[:, :, None] * scale[:, None, :]).nan_to_num(0.0, 0.0, 0.0)
        inverse = torch.linalg.pinv(gram, rtol=RANK, hermitian=True)
        weights = scale * (inverse @ (scale * right)[..., None]).squeeze(-1)
        result = step.clone()
        for k, move in enumerate(self._moves):
            result.addcmul_(weights[:, k, None], move, value=-1.0)
        return result


def _product(first: Tensor, second: Tensor) -> Tensor:
    """(B,) of two (B, N)."""
    return (first * second).sum(-1)
