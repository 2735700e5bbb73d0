"""Full scales of segments: what software quantity is vdd, from what reaches their layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from imac_torch.mapping.states import InputStatistics
from imac_torch.model.segment import INPUTS, Segment
from imac_torch.numeric.modes import lasting

__all__ = ["MARGIN", "Reach", "in_software", "instead", "set_ranges"]

MARGIN: Final = 1.25
"""Full scale relative to the largest value seen: others may be larger."""
ROWS: Final = 512
"""Input vectors at most from which the scheme 'matched' takes its statistics."""


@contextmanager
def instead(
    segments: Mapping[str, Segment], answer: Callable[[str, Segment, Tensor], Tensor]
) -> Iterator[None]:
    """Let something else than their circuits give the outputs of segments.

    Args:
        segments: Of one model, by path.
        answer: Of path, segment and its inputs, as :meth:`Segment.forward` takes them: its outputs.
    """

    def stand_in(path: str, segment: Segment) -> Callable[[Tensor], Tensor]:
        return lambda x: answer(path, segment, x)

    before = {path: segment.stand_in for path, segment in segments.items()}
    try:
        for path, segment in segments.items():
            segment.stand_in = stand_in(path, segment)
        yield
    finally:
        for path, segment in segments.items():
            segment.stand_in = before[path]


def in_software(
    segments: Mapping[str, Segment], reaches: Mapping[str, Reach] | None = None
) -> AbstractContextManager[None]:
    """Let segments compute what the software layers do that they stand for.

    Args:
        segments: Of one model, by path.
        reaches: What is to see the values of a segment meanwhile.
    """
    watching: Mapping[str, Reach] = {} if reaches is None else reaches

    def answer(path: str, segment: Segment, x: Tensor) -> Tensor:
        outputs = segment.software(x)
        if (reach := watching.get(path)) is not None:
            reach.see(segment, x, outputs)
        return outputs[-1]

    return instead(segments, answer)


@lasting()
def set_ranges(segments: Mapping[str, Segment], run: Callable[[], None]) -> None:
    """Give segments their full scales, where these are open."""
    reaches = {path: Reach() for path, segment in segments.items() if segment.open}
    try:
        for segment in segments.values():
            segment.ranging = True
        with in_software(segments, reaches):
            run()
    finally:
        for segment in segments.values():
            segment.ranging = False
    for path, reach in reaches.items():
        if reach.outputs:  # else nothing has reached the segment yet
            reach.set(segments[path])


@dataclass
class Reach:
    """The largest values that a segment has met.

    Attributes:
        inputs: Largest magnitude of its inputs.
        outputs: Of the outputs of every layer.
        rows: Some input vectors of every layer, (R, N) float64 each; of layers with the scheme
            'matched' only.
    """

    inputs: float = 0.0
    outputs: list[float] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    @lasting()
    def see(self, segment: Segment, x: Tensor, outputs: Sequence[Tensor]) -> None:
        """Take note of one run."""
        self.inputs = max(self.inputs, _largest(x))
        before = self.outputs or [0.0] * len(outputs)
        self.outputs = [max(old, _largest(new)) for old, new in zip(before, outputs, strict=True)]
        if not self.rows and any(layer.matrix.matched for layer in segment.analog_layers()):
            first = segment.positions.vectors(x.detach())
            later = [value.detach().flatten(0, -2) for value in outputs[:-1]]
            self.rows = [_some(item).to(torch.float64) for item in (first, *later)]

    @lasting()
    def set(self, segment: Segment) -> None:
        """Give a segment's layers their full scales, but for those that have theirs."""
        segment.open = False
        before = None
        for index, layer in enumerate(segment.analog_layers()):
            if layer.name in segment.scaled:
                before = layer
                continue
            if before is not None:
                scale = before.scaling.output_scale
                layer.scaling = replace(layer.scaling, input_scale=scale)
            elif INPUTS not in segment.scaled and 0.0 < self.inputs < math.inf:
                layer.scaling = replace(layer.scaling, input_scale=MARGIN * self.inputs)
            if layer.matrix.matched:
                layer.matrix.matched_gain.fill_(math.nan)  # to be chosen for these scales
            if layer.matrix.matched and self.rows:
                rows = layer.by_group(self.rows[index]) / layer.scaling.input_scale
                layer.matrix.set_input_statistics(InputStatistics.of(rows))
            before = layer
            if layer.activation.scale is not None or not 0.0 < self.outputs[index] < math.inf:
                continue
            scale = MARGIN * self.outputs[index]
            layer.scaling = replace(layer.scaling, output_scale=scale)
            if not layer.matrix.matched and layer.config.amplifier.gain is not None:
                # The circuit has the range that its gain gives it.
                slope = layer.matrix.transfer_slope()
                if 0.0 < slope < math.inf:
                    layer.scaling = replace(layer.scaling, output_scale=scale / slope)


def _largest(x: Tensor) -> float:
    return float(x.detach().abs().max()) if x.numel() else 0.0


def _some(rows: Tensor) -> Tensor:
    step = max(1, -(-len(rows) // ROWS))
    return rows[::step]
