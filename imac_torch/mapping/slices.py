"""Bit slicing: a weight on several pairs of devices that count differently.

A pair of few-level devices holds a digit d_k in [-1, 1]; L pairs hold the weight
Σ b^(L-1-k)·d_k / Σ b^(L-1-k), k = 0 being the most significant. In digital accelerators the
columns of the slices lie side by side in one array, and converters, shifters and adders put the
digits together (ISAAC: A. Shafiee et al., ISCA 2016, doi:10.1109/ISCA.2016.12). Between analog
layers there are no converters, so here it is done by resistors:

* An output has L rows next to each other in the same arrays, on the same input lines: to wires,
  partitions and what drives the layer they are ordinary rows. M outputs take M·L rows.
* Every row of every partition has the amplifier of an unsliced row, with the same gain.
* The amplifiers of one output meet in its neuron's input, as partitions do anyway, through
  resistors of R_o, b·R_o, b²·R_o …: a binary-weighted summing network. Its voltage is the mean
  over partitions, weighted with b^(L-1-k) over slices.

Gains proportional to b^(L-1-k) would do as well, but amplifiers would then differ in load
(R2 + R4 depends on the gain, and with it the divider), bandwidth and swing (the largest gain
would be up to L times that of a row here, because L outputs are averaged). Arrays of their own for
every slice would take V·L of them where V·L·M/rows are enough.

What it costs: each pair loads its input line as an unsliced one does, so that lines carry L times
the current. Rows float near the mean of their inputs, and how much a row passes on depends on its
own conductances; slices of one output therefore count b times more only as far as their rows'
sums are alike. For this reason digits are chosen close to the weight where there is a choice.
:mod:`imac_torch.mapping.residual` goes further: each slice makes up for what those before it
really do. Such "analog slicing" is due to G. Pedretti et al., IEEE Trans. Electron Devices 68
(2021), doi:10.1109/TED.2021.3095430. With b = 1 slices repeat the weight and average the devices'
spread, which is the better use of devices of many levels (M. Le Gallo et al., Neuromorph. Comput.
Eng. 2, 014009, 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.config import Memristor, WeightMapping
from imac_torch.errors import MappingError


@dataclass(frozen=True)
class Slicing:
    """How many pairs a weight has, and what they count.

    Shapes: M outputs, L slices, C columns. The rows of an output are neighbours: slice k of
    output m is row m·L + k.

    Attributes:
        count: L.
        base: b, how much more a slice counts than the next.
    """

    count: int = 1
    base: int = 1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            MappingError: One is below 1.
        """
        if self.count < 1 or self.base < 1:
            raise MappingError(f"slices = {self.count} and base = {self.base} must be at least 1")

    @classmethod
    def of(cls, mapping: WeightMapping, device: Memristor) -> Slicing:
        """The slicing of a (per-layer) configuration."""
        if mapping.slices == 1:
            return cls()
        if mapping.slice_base is not None:
            return cls(mapping.slices, mapping.slice_base)
        limits = [mapping.level_count]
        if mapping.scheme == "matched":
            limits.append(device.states)
        return cls(mapping.slices, min((limit for limit in limits if limit), default=1))

    @property
    def shares(self) -> tuple[float, ...]:
        """(L,) parts of a weight, most significant first; they add up to 1."""
        powers = [self.base**k for k in reversed(range(self.count))]
        return tuple(power / sum(powers) for power in powers)

    def rows_of(self, outputs: Tensor) -> Tensor:
        """(m·L,) int64: the rows of outputs (m,) int64."""
        slices = torch.arange(self.count, device=outputs.device)
        return (self.count * outputs[:, None] + slices).flatten()

    def levels(self, count: int) -> int:
        """Levels of a weight, equally spaced, whose pairs have ``count`` of them.

        Raises:
            MappingError: Weights would not be equally spaced, because the base is larger.
        """
        if self.count > 1 and self.base > count:
            raise MappingError(f"pairs of {count} levels cannot be digits to base {self.base}")
        return 1 + (count - 1) * sum(self.base**k for k in range(self.count))

    def digits(self, values: Tensor, count: int | None) -> Tensor:
        """Digits of weights.

        Where the base leaves a choice, digits are those closest to the weight itself, from the
        most significant one on: slices then have rows of similar sums.

        Args:
            values: (..., M, C) in [-1, 1], rounded to :meth:`levels`; differentiable, every
                digit moves with its weight.
            count: Levels of a pair; None: any, every slice then holds the weight.

        Returns:
            (..., M·L, C) in [-1, 1].
        """
        if self.count == 1:
            return values
        if count is None:
            return values.repeat_interleave(self.count, dim=-2)
        rest = torch.round((values.detach() + 1.0) / 2.0 * (self.levels(count) - 1))
        found = []
        for k in reversed(range(self.count)):
            power, below = self.base**k, sum(self.base**j for j in range(k))
            digit = torch.round(rest / (power + below))
            digit = digit.minimum(torch.floor(rest / power))
            digit = digit.maximum(torch.ceil((rest - (count - 1) * below) / power))
            digit = digit.clamp(0, count - 1)
            rest = rest - power * digit
            found.append(2.0 * digit / (count - 1) - 1.0)
        digits = torch.stack(found, dim=-2).flatten(-3, -2)
        moves = values - values.detach()
        return digits + moves.repeat_interleave(self.count, dim=-2)

    def join(self, rows: Tensor, dim: int = -2) -> Tensor:
        """Rows of slices (…, M·L, …) to outputs (…, M, …), each slice by its share."""
        if self.count == 1:
            return rows
        dim = dim % rows.ndim
        parts = rows.unflatten(dim, (-1, self.count)).movedim(dim + 1, -1)
        return parts @ torch.tensor(self.shares, dtype=rows.dtype, device=rows.device)

    def of_rows(self, outputs: Tensor, dim: int = -1) -> Tensor:
        """A quantity of outputs (…, M, …) for each of their rows (…, M·L, …)."""
        return outputs if self.count == 1 else outputs.repeat_interleave(self.count, dim=dim)

    def row_shares(self, like: Tensor, rows: int) -> Tensor:
        """(M·L,) share of every row in its output, of the dtype and device of ``like``."""
        shares = torch.tensor(self.shares, dtype=like.dtype, device=like.device)
        return shares.repeat(rows // self.count)
