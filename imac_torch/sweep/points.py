"""Points of a sweep: which fields have which values."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from imac_torch.config import Config
from imac_torch.config.assignment import apply_overrides
from imac_torch.errors import ConfigError

__all__ = ["SEED", "Point", "configure", "grid", "product", "seed_of"]

SEED = "seed"
"""Name of the seed among a point's settings; all others are fields of the configuration."""

Point = Mapping[str, Any]
"""Values by field (``device.rlow``, ``layers."0".neuron.kind``, …), and perhaps ``seed``."""


def grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of values, the last axis changing fastest.

    Args:
        axes: Values by field; ``seed`` is an axis like any other.

    Raises:
        ConfigError: An axis has no values, or is not a list.

    Example:
        >>> grid({"device.rlow": [1e3, 2e3], "seed": [0, 1]})[1]
        {'device.rlow': 1000.0, 'seed': 1}
    """
    for name, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Sequence | range) or not len(values):
            raise ConfigError(f"axis {name!r} = {values!r}: a list of values is needed")
    return [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    ]


def product(*parts: Iterable[Point]) -> list[dict[str, Any]]:
    """Every combination of points of several lists; later parts change fastest.

    Raises:
        ConfigError: Two parts set the same field.
    """
    result: list[dict[str, Any]] = [{}]
    for part in parts:
        items = [dict(point) for point in part]
        for before, item in itertools.product(result[:1], items[:1]):
            if both := before.keys() & item.keys():
                raise ConfigError(f"{', '.join(sorted(both))} set twice")
        result = [{**before, **item} for before in result for item in items]
    return result


def configure(base: Config, point: Point) -> Config:
    """The configuration of a point.

    Raises:
        ConfigError: A field is unknown or a value is not allowed; the point is named.
    """
    changes = {name: value for name, value in point.items() if name != SEED}
    try:
        return apply_overrides(base, changes)
    except ConfigError as error:
        raise ConfigError(f"point {dict(point)}: {error}") from None


def seed_of(point: Point) -> int | None:
    """The seed of a point, or None.

    Raises:
        ConfigError: It is not an integer.
    """
    seed = point.get(SEED)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise ConfigError(f"point {dict(point)}: seed must be an integer >= 0")
    return seed
