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

ROWS: Final = 2**16
"""Voltages of one partition that are rounded at a time."""
BATCH: Final = 2**19
"""Voltages of several partitions that are rounded by one call."""
SHARED: Final = 2**16
"""Voltages from which several threads round them."""
COMPILED: Final = (torch.float32, torch.float64)
"""Types that compiled kernels take."""


@dataclass(frozen=True)
class Partial:
    """Voltages on lines to sums of conversions: V to V, partition by partition.

    Shapes: R positions; G groups of N lines and M/G outputs each; L slices.

    Attributes:
        weight: (G, H, M·L/G, K) V per V on the lines of a partition, 0 behind narrow ones.
        lines: (H·K,) int64, which lines of a group these are.
        inputs: N.
        bias: (G, 1, M·L/G) V of the bias line, which ends the last partition.
        combination: How partitions and slices are added.
    """

    weight: Tensor
    lines: Tensor
    inputs: int
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
        inputs = lines.shape[-1]
        return cls(torch.stack(parts, 1), places, inputs, bias, read_out.combination)

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
        lines = volts.unflatten(-1, (len(self.bias), -1)).transpose(0, 1)
        for number, places in enumerate(self.lines.split(self.weight.shape[-1])):
            found = lines[..., places] @ self.weight[:, number].transpose(-1, -2)
            yield self._joined(found if number + 1 < self.count else found + self.bias)

    def numbers(self) -> Tensor:
        """(G·H·K,) int64: lines of all groups in the order of the partitions' matrices."""
        groups = torch.arange(len(self.bias), device=self.lines.device)
        return (self.inputs * groups[:, None] + self.lines).flatten()

    def converted(self, lines: Tensor, grid: Grid) -> Tensor:
        """(R, M·L) V, the sum of the conversions of all partitions.

        Without gradients, in steps of the converter, some rows and partitions at a time.

        Args:
            lines: (G·H·K, R) V on :meth:`numbers`.
            grid: Of the converter.
        """
        groups, count, outputs, width = self.weight.shape
        low = -grid.low / grid.step
        shift = torch.full_like(self.bias, low).repeat(1, count, 1)
        shift[:, -1] += self.bias[:, 0] / grid.step
        taken = lines.unflatten(0, (groups, count, width)).transpose(-1, -2)
        total = lines.new_zeros(groups, lines.shape[-1], outputs)
        rows = max(16, ROWS // outputs)
        most = max(1, BATCH // (outputs * min(rows, lines.shape[-1])))
        for group in range(groups):
            parts = zip(
                taken[group].split(most), self.weight[group].mT.split(most),
                shift[group].split(most), strict=True,
            )  # fmt: skip
            for part, weight, places in parts:
                for some, sums in zip(part.split(rows, 1), total[group].split(rows), strict=True):
                    _add_codes(torch.bmm(some, weight), 1.0 / grid.step, places, grid.steps, sums)
        return self._joined(total.mul_(grid.step).add_(count * grid.low))

    def combined(self, total: Tensor) -> Tensor:
        """(R, M) V of sums (R, M·L): as the read-outs would combine partitions and slices."""
        return self.combination.slicing.join(self.combination.weight * total, dim=-1)

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
    from imac_torch.kernels.threads import run_blocks

    found, shifts, sums = values.numpy(), shift.numpy(), total.numpy()
    kind = found.dtype.type
    threads = torch.get_num_threads() if found.size > SHARED else 1
    run_blocks(
        add_codes, found.shape[1], threads, found, kind(scale), shifts, kind(steps), sums
    )
