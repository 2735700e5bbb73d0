"""What the rows of a layer compute without wires, whatever read-out their lines end in.

The I± lines float. A read-out draws a·p from the I+ end at the voltage p and c·p + d·q from the I-
end at q, and puts out G·(e·p + f·q), the larger of e and f being ±1. Kirchhoff's law at both ends
of a row with conductances g+, g- (sums S+, S-) gives p = Σ g+·v/(S+ + a) and
q = (Σ g-·v - c·p)/(S- + d), so that it puts out

    o = G/(S- + d)·Σ_c (ρ·g+_c + f·g-_c)·v_c,    ρ = (e·S- + s)/(S+ + a),  s = e·d - f·c.

Shapes: M outputs of L slices, C columns (bias last), H partitions of up to K columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from imac_torch.errors import MappingError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.mapping.slices import Slicing

ALIKE: Final = 1e-9
"""Relative difference of two numbers that are the same but for rounding."""


@dataclass(frozen=True)
class RowDivider:
    """The rows of a layer, cut into partitions, and the read-outs that they end in.

    Attributes:
        gain: G, V per V.
        by_positive: e.
        by_negative: f.
        positive_load: a, S.
        negative_load: d, S.
        shift: s, S.
        weight: Of one partition in the combination of a row.
        column_ends: Last column (1-based) of every horizontal partition.
        slicing: Rows of one output.
    """

    gain: float
    by_positive: float
    by_negative: float
    positive_load: float
    negative_load: float
    shift: float
    weight: float
    column_ends: tuple[int, ...]
    slicing: Slicing = field(default_factory=Slicing)

    @classmethod
    def of(
        cls,
        drawn: tuple[float, float, float],
        output: tuple[float, float],
        weight: float,
        column_ends: tuple[int, ...],
        slicing: Slicing,
    ) -> RowDivider:
        """From a, c, d (S) and from G·e, G·f; see the module."""
        positive, coupling, negative = drawn
        gain = max(map(abs, output))
        e, f = output[0] / gain, output[1] / gain
        shift = e * negative - f * coupling
        if abs(shift - positive) <= ALIKE * negative:
            shift = positive
        return cls(gain, e, f, positive, negative, shift, weight, column_ends, slicing)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """(H, K) int64 columns of every partition, C where there is none, and the mask."""
        starts = torch.tensor((0, *self.column_ends[:-1]), device="cpu")[:, None]
        ends = torch.tensor(self.column_ends, device="cpu")[:, None]
        columns = starts + torch.arange(int((ends - starts).max()), device="cpu")
        mask = columns < ends
        return torch.where(mask, columns, self.column_ends[-1]), mask

    def gather(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """(..., C) → (..., H, K) with zeros behind short partitions, and the mask (H, K)."""
        places, mask = (item.to(columns.device) for item in self._places)
        return torch.nn.functional.pad(columns, (0, 1))[..., places], mask

    def scatter(self, blocks: Tensor) -> Tensor:
        """(..., H, K) → (..., C): the inverse of :meth:`gather`."""
        return blocks[..., self._places[1].to(blocks.device)]

    def transfer(self, pair: ConductancePair) -> Tensor:
        """The exact transfer of conductances without wires.

        Args:
            pair: (..., M·L, C) S.

        Returns:
            (..., M, C): combined amplifier voltage per line voltage.
        """
        positive, _ = self.gather(pair.positive)
        negative, _ = self.gather(pair.negative)
        plus = positive.sum(-1, keepdim=True) + self.positive_load
        minus = negative.sum(-1, keepdim=True)
        ratio = (self.by_positive * minus + self.shift) / plus
        scale = self.weight * (self.gain / (minus + self.negative_load))
        rows = scale * (ratio * positive + self.by_negative * negative)
        return self.slicing.join(self.scatter(rows))

    def component(
        self, pair: ConductancePair, wanted: Tensor
    ) -> Callable[[RowDivider], float]:
        """Σ transfer·wanted over all outputs and columns, for other loads and gains of the ends.

        Sums over the cells of a partition are all that it takes, whatever the rows end in.

        Args:
            pair: (M·L, C) S.
            wanted: (M, C).

        Returns:
            A function of the divider, which has the same partitions and slices.
        """
        widths = [end - start for start, end in pairwise((0, *self.column_ends))]

        def by_parts(columns: Tensor) -> Tensor:
            return torch.stack([part.sum(-1) for part in columns.split(widths, -1)], -1)

        wanted = self.slicing.of_rows(wanted, dim=-2)
        shares = self.slicing.row_shares(wanted, len(wanted))[:, None]
        plus, minus = by_parts(pair.positive), by_parts(pair.negative)
        of_plus, of_minus = by_parts(pair.positive * wanted), by_parts(pair.negative * wanted)

        def of(divider: RowDivider) -> float:
            ratio = (divider.by_positive * minus + divider.shift) / (plus + divider.positive_load)
            scale = divider.weight * (divider.gain / (minus + divider.negative_load))
            rows = scale * (ratio * of_plus + divider.by_negative * of_minus)
            return float((shares * rows).sum())

        return of

    @property
    def combined_gain(self) -> float:
        """G, combination included."""
        return self.weight * self.gain

    def check_matchable(self, where: str) -> None:
        """That equal conductances on both lines of a row put out nothing.

        Raises:
            MappingError: They do, and :mod:`imac_torch.mapping.matching` knows no way then.
        """
        if (self.by_positive, self.by_negative, self.shift) != (1.0, -1.0, self.positive_load):
            raise MappingError(
                f"{where}: the scheme 'matched' is for read-outs whose output is zero where both "
                f"lines of a row are alike; this one puts out {self.gain:.3g}·({self.by_positive:g}"
                f"·p + {self.by_negative:g}·q) of the two line ends and loads them with "
                f"{self.positive_load:.3g} and {self.shift:.3g} S. Use another mapping.scheme, or "
                "another amplifier.kind"
            )
