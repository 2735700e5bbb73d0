"""Single-ended lines and a reference column: one device per weight.

Every output has one line, of cells g = g_m + w, and the rows of an array share one more, whose
cells all are g_m: the reference. Each line ends at the inverting input of a transimpedance
amplifier, as in :mod:`imac_torch.periphery.readout.transimpedance`, and the reference amplifier's
output is taken from that of every row of its array, by an ideal difference that draws nothing:

    o = A·(p - p_ref) = R_f·A/(1 + A)·(i - i_ref).

Without wires this is what pairs of cells with g_m in their negative one make, with half of the
current per weight. With wires the rows stand at different places of the input lines, and the
reference at one. In pairs of lines, which is how everything else of the package counts rows, the
reference is the I- line of the first row of every array; the other rows have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor
from typing_extensions import Self

from imac_torch.errors import CircuitError
from imac_torch.periphery.readout.base import ReadOut
from imac_torch.periphery.readout.noise import AmplifierNoise, HeldNoise
from imac_torch.periphery.readout.opamp import OpAmp
from imac_torch.periphery.readout.transimpedance import Transimpedance


def array_starts(row_ends: Sequence[int]) -> list[int]:
    """By row, the first one of its array, which has the reference; ends are from 1."""
    return [start for start, end in pairwise((0, *row_ends)) for _ in range(end - start)]


@dataclass(frozen=True)
class ReferenceColumn(Transimpedance):
    """o = R_f·A/(1 + A)·(i - i_ref).

    Attributes:
        first: (M·L,) int64, the first row of the array that a row is in; None: of one row alone.
    """

    first: Tensor | None = field(default=None, kw_only=True)

    kind = "reference_column"
    reads = frozenset({"open_loop_gain"})
    shared = True
    operational_amplifiers = 1

    def on_rows(self, row_ends: Sequence[int]) -> Self:
        """See :class:`ReadOut`."""
        starts = array_starts(row_ends)
        return replace(self, first=torch.tensor(starts, device=self.feedback.device))

    def output(self, positive: Tensor, negative: Tensor) -> Tensor:
        """See :class:`ReadOut`; rows are the last dimension but one."""
        if self.first is not None and negative.ndim > 1:
            negative = negative.index_select(-2, self.first)
        return super().output(positive, negative)

    @property
    def amplifiers(self) -> tuple[OpAmp, ...]:
        """See :class:`ReadOut`: none that could have an offset, one of them serves many rows."""
        return ()

    def wiring(self) -> tuple[str, ...]:
        """See :class:`ReadOut`."""
        return ReadOut.wiring(self)

    def noise_sources(
        self, temperature: float, amplifiers: AmplifierNoise
    ) -> tuple[HeldNoise, ...]:
        """See :class:`ReadOut`.

        Raises:
            CircuitError: That of the reference is the same in many rows, which noise analysis, row
                by row, does not know.
        """
        raise CircuitError(
            "noise of amplifier.kind = 'reference_column' is not known: rows share that of their "
            "reference; take 'transimpedance', or leave noise out"
        )

    @property
    def subcircuit(self) -> str:
        """See :class:`ReadOut`."""
        return self.named("reference_column")

    @property
    def subcircuit_text(self) -> str:
        """See :class:`ReadOut`."""
        return self.declared(
            "Rplus plus above 'r'", "Eplus above 0 0 plus 'a'",
            "Rminus minus under 'r'", "Eminus under 0 0 minus 'a'",
            "Ereference below 0 0 reference 'a'", "Edifference ideal 0 below above 1",
        )  # fmt: skip

    @property
    def resistance_total(self) -> float:
        """See :class:`ReadOut`: R_f."""
        return float(self.feedback)
