"""What the read-outs of a layer's partitions give, one by one, as matrices with exact wires."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from imac_torch.dc.layer import PreparedLayer
from imac_torch.dc.network import eliminated
from imac_torch.kernels.compiled import obstacle
from imac_torch.periphery.border import Grid
from imac_torch.periphery.readout import Combination

CACHED: Final = 2**16
"""Voltages that are rounded at a time."""
BATCH: Final = 2**18
"""Voltages of several partitions that are rounded by one call."""
COMPILED: Final = (torch.float32, torch.float64)
"""Types that compiled kernels take."""


@dataclass(frozen=True)
class Partial:
    """Voltages on lines to sums of conversions: V to V, partition by partition.

    Shapes: R positions; G groups of N lines and M/G outputs each; L slices.

    Attributes:
        weight: (G, H, M·L/G, K) V per V on the lines of a partition, 0 behind narrow ones.
        lines: (H·K,) int64, which lines of a group these are.
        bias: (G, 1, M·L/G) V of the bias line, which ends the last partition.
        combination: How partitions and slices are added.
    """

    weight: Tensor
    lines: Tensor
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
        widths = layout.column_mask.sum(-1).tolist()
        widths[-1] -= 1  # the bias
        most = max(widths)
        parts = [pad(part, (0, most - part.shape[-1])) for part in lines.split(widths, -1)]
        starts = torch.tensor([0, *widths[:-1]], device=lines.device).cumsum(0)
        places = (starts[:, None] + torch.arange(most, device=lines.device)).flatten()
        places = places.clamp(max=lines.shape[-1] - 1)
        return cls(torch.stack(parts, 1), places, bias, read_out.combination)

    @property
    def count(self) -> int:
        """H."""
        return self.weight.shape[1]

    @property
    def size(self) -> int:
        """Numbers in its matrices."""
        return self.weight.numel()

    def outputs(self, volts: Tensor) -> Iterator[Tensor]:
        """(R, M·L) V of the read-outs of one partition after the other, for (R, G·N) V."""
        lines = self._by_groups(volts)
        for number, places in enumerate(self.lines.split(self.weight.shape[-1])):
            found = lines[..., places] @ self.weight[:, number].transpose(-1, -2)
            yield self._joined(found if number + 1 < self.count else found + self.bias)

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
        most = max(1, BATCH // total[0].numel())
        shift = torch.full_like(self.bias, low).repeat(1, self.count, 1)
        shift[:, -1] += self.bias[:, 0] / grid.step
        for group in range(groups):
            taken = lines[group].T.index_select(0, self.lines).unflatten(0, (self.count, -1))
            parts = zip(
                taken.transpose(1, 2).split(most), self.weight[group].split(most),
                shift[group].split(most), strict=True,
            )  # fmt: skip
            for part, weight, places in parts:
                found = torch.bmm(part, weight.mT)
                _add_codes(found, 1.0 / grid.step, places, grid.steps, total[group])
        return self._joined(total.mul_(grid.step).add_(self.count * grid.low))

    def combined(self, total: Tensor) -> Tensor:
        """(R, M) V of sums (R, M·L): as the read-outs would combine partitions and slices."""
        return self.combination.slicing.join(self.combination.weight * total, dim=-1)

    def _by_groups(self, volts: Tensor) -> Tensor:
        """(R, G·N) to (G, R, N)."""
        return volts.unflatten(-1, (len(self.bias), -1)).transpose(0, 1)

    def _joined(self, found: Tensor) -> Tensor:
        """(G, R, M·L/G) to (R, M·L)."""
        return found.transpose(0, 1).flatten(1)


def _add_codes(values: Tensor, scale: float, shift: Tensor, steps: int, total: Tensor) -> None:
    """Add the nearest of 0 … steps to scale·values + shift to ``total``.

    Args:
        values: (H, R, M), used up.
        scale: Of all.
        shift: (H, M)
        steps: The highest code.
        total: (R, M)
    """
    if values.device.type != "cpu" or values.dtype not in COMPILED or obstacle() is not None:
        codes = values.mul_(scale).add_(shift[:, None]).round_().clamp_(0, steps)
        total += codes.sum(0)
        return
    from imac_torch.kernels.codes import add_codes  # imports numba

    found, shifts, sums = values.numpy(), shift.numpy(), total.numpy()
    kind = found.dtype.type
    add_codes(found, kind(scale), shifts, kind(steps), sums)
