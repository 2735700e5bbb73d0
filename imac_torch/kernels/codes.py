"""Codes of converters, rounded and added in one pass over memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit


@njit(nogil=True, fastmath={"contract"})
def add_codes(
    first: int,
    last: int,
    values: NDArray[Any],
    scale: Any,  # noqa: ANN401 - of the type of the values
    shift: NDArray[Any],
    steps: Any,  # noqa: ANN401
    total: NDArray[Any],
) -> None:
    """Add Σ_h the nearest of 0 … steps to scale·values[h] + shift[h] to total; NaN stays NaN.

    Args:
        first: Rows first..last are done.
        last: See ``first``.
        values: (H, R, M).
        scale: Of their type.
        shift: (H, M)
        steps: Of their type.
        total: (R, M).
    """
    zero = steps - steps
    for i in range(first, last):
        for h in range(values.shape[0]):
            for j in range(values.shape[2]):
                code = np.rint(scale * values[h, i, j] + shift[h, j])
                code = zero if code < zero else code
                total[i, j] += steps if code > steps else code
