"""Ranges of converters from data."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from imac_torch.errors import CircuitError, ConversionError
from imac_torch.model.segment import Segment
from imac_torch.numeric.modes import lasting

__all__ = ["fit_converters", "without_range"]


@lasting()
def fit_converters(model: nn.Module, run: Callable[[], object]) -> None:
    """Choose the ranges of all converters in a model, by ``converter.range``.

    While it runs, nothing is converted: every converter sees what exact ones before it give.
    Ranges that are set (``converter.limits``) stay. :func:`imac_torch.convert` does this
    with its samples.

    Args:
        model: A converted network, or any module with segments in it; changed in place.
        run: Runs the model on data, in evaluation mode.

    Raises:
        ConversionError: Some converter has seen no voltage.
    """
    open_ = [
        part for part in model.modules() if isinstance(part, Segment) and part.borders.open
    ]
    if not open_:
        return
    for segment in open_:
        segment.range.seen = []
    try:
        with torch.no_grad():
            run()
        for segment in open_:
            seen = segment.range.seen
            if not seen:
                raise ConversionError(
                    f"{segment.last.name}: no sample reaches this circuit, and its converters need "
                    "a range: give samples that do, or set converter.limits"
                )
            segment.borders.fit(torch.cat(seen))
    except CircuitError as error:
        raise ConversionError(str(error)) from None
    finally:
        for segment in open_:
            segment.range.seen = None


def without_range(segments: Iterable[Segment]) -> bool:
    """Whether converters of some segment need a range, and have none yet."""
    return any(
        part.range.ends is None and part.range.seen is None and part.borders.open
        for part in segments
    )
