"""The points that no other point beats in every objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from imac_torch.errors import ConfigError

__all__ = ["pareto_front"]


def pareto_front(rows: Sequence[Mapping[str, Any]], objectives: Mapping[str, str]) -> list[bool]:
    """Which rows are on the Pareto front.

    A row is off the front if another one is at least as good in every objective and better in
    one. Rows with equal values are on it together. Rows that lack a value are never on it.

    Args:
        rows: Values by name.
        objectives: ``max`` or ``min`` by name.

    Raises:
        ConfigError: There is no objective, one is neither ``max`` nor ``min``, or no row has it.

    Example:
        >>> pareto_front([{"a": 1, "b": 1}, {"a": 2, "b": 2}, {"a": 1, "b": 2}],
        ...              {"a": "max", "b": "min"})
        [True, True, False]
    """
    if not objectives or any(goal not in ("max", "min") for goal in objectives.values()):
        raise ConfigError(f"objectives = {dict(objectives)}: give 'max' or 'min' by metric")
    for name in objectives:
        if rows and not any(name in row for row in rows):
            known = ", ".join(sorted({key for row in rows for key in row}))
            raise ConfigError(f"no row has the objective {name!r}; there are {known}")
    signs = {name: -1.0 if goal == "max" else 1.0 for name, goal in objectives.items()}
    costs = torch.tensor(
        [[sign * float(row.get(name, math.nan)) for name, sign in signs.items()] for row in rows],
        dtype=torch.float64, device="cpu",
    ).reshape(len(rows), len(objectives))  # fmt: skip
    valid = ~costs.isnan().any(dim=1)
    candidates = costs[valid]
    front = []
    for cost, fine in zip(costs, valid.tolist(), strict=True):
        better = (candidates <= cost).all(dim=1) & (candidates < cost).any(dim=1)
        front.append(fine and not bool(better.any()))
    return front
