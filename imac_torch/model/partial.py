"""What the read-outs of a layer's partitions give, one by one, as matrices with exact wires."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.dc.layer import PreparedLayer
from imac_torch.dc.network import eliminated
from imac_torch.periphery.border import Grid
from imac_torch.periphery.readout import Combination

CACHED: Final = 2**16
"""Voltages that are rounded at a time."""


@dataclass(frozen=True)
class Partial:
    """Voltages on lines to sums of conversions: V to V, partition by partition.

    Shapes: R positions; G groups of N lines and M/G outputs each; L slices.

    Attributes:
        weights: Per partition (G, M·L/G, K) V per V on the lines from its start on.
        starts: First line of every partition, in a group.
        bias: (G, 1, M·L/G) V of the bias line, which ends the last partition.
        combination: How partitions and slices are added.
    """

    weights: tuple[Tensor, ...]
    starts: tuple[int, ...]
    bias: Tensor
    combination: Combination

    @classmethod
    def of(cls, layer: PreparedLayer, dtype: torch.dtype) -> Partial:
        """Of a circuit of one layer, in a type.

        Raises:
            SolverError: Its cells are curved.
        """
        prepared = eliminated(layer, "a converter after every partition")
        network = prepared.ports
        read_out, layout = network.read_out, network.layout
        outputs = read_out.output(network.positive_end, network.negative_end)
        if network.groups == 1:
            outputs = outputs[None]
        lines = outputs[..., :-1].to(dtype)
        bias = (layer.vdd * outputs[..., -1]).to(dtype)[..., None, :]
        ends = layout.column_mask.sum(-1).cumsum(0).tolist()
        ends[-1] -= 1  # the bias
        starts = [0, *ends[:-1]]
        weights = tuple(
            lines[..., first:last].contiguous() for first, last in zip(starts, ends, strict=True)
        )
        return cls(weights, tuple(starts), bias, read_out.combination)

    @property
    def size(self) -> int:
        """Numbers in its matrices."""
        return sum(weight.numel() for weight in self.weights)

    def outputs(self, volts: Tensor) -> Iterator[Tensor]:
        """(R, M·L) V of the read-outs of one partition after the other, for (R, G·N) V."""
        lines = self._by_groups(volts)
        for number, (weight, start) in enumerate(zip(self.weights, self.starts, strict=True)):
            found = lines[..., start : start + weight.shape[-1]] @ weight.transpose(-1, -2)
            yield self._joined(found if number + 1 < len(self.weights) else found + self.bias)

    def converted(self, volts: Tensor, grid: Grid) -> Tensor:
        """(R, M·L) V, the sum of the conversions of all partitions.

        Without gradients in steps of the converter, which the matrices give at once, and few
        enough rows at a time to stay in the processor's cache: rounding costs as little as it can.
        """
        if torch.is_grad_enabled() and (volts.requires_grad or self.bias.requires_grad):
            return torch.stack([grid.levels(part) for part in self.outputs(volts)]).sum(0)
        rows = max(16, CACHED // max(1, self.bias.numel()))
        return torch.cat([self._steps(part, grid) for part in volts.split(rows)])

    def _steps(self, volts: Tensor, grid: Grid) -> Tensor:
        lines = self._by_groups(volts)
        groups, low = len(self.bias), -grid.low / grid.step
        total = volts.new_zeros(groups, len(volts), self.bias.shape[-1])
        found = total.new_empty(total.shape[1:])
        for group in range(groups):
            shift = torch.full_like(self.bias[group, 0], low)
            for number, (weight, start) in enumerate(zip(self.weights, self.starts, strict=True)):
                if number + 1 == len(self.weights):
                    shift = self.bias[group, 0] / grid.step + low
                part = lines[group, :, start : start + weight.shape[-1]]
                # Into the same memory again, and rounded where it is.
                torch.addmm(shift, part, weight[group].T, alpha=1.0 / grid.step, out=found)
                total[group] += found.round_().clamp_(0, grid.steps)
        return self._joined(total.mul_(grid.step).add_(len(self.weights) * grid.low))

    def combined(self, total: Tensor) -> Tensor:
        """(R, M) V of sums (R, M·L): as the read-outs would combine partitions and slices."""
        return self.combination.slicing.join(self.combination.weight * total, dim=-1)

    def _by_groups(self, volts: Tensor) -> Tensor:
        """(R, G·N) to (G, R, N)."""
        return volts.unflatten(-1, (len(self.bias), -1)).transpose(0, 1)

    def _joined(self, found: Tensor) -> Tensor:
        """(G, R, M·L/G) to (R, M·L)."""
        return found.transpose(0, 1).flatten(1)
