"""Crossbars that hold no charge, and whose currents are no linear function of voltages.

They follow the lines that drive them at once: what they draw and put out is found for the voltages
of every stage, by whoever knows how. A linear network stands for them where neurons are solved;
what they draw besides is added in turns (:mod:`imac_torch.transient.step`), so that it decides how
many turns that takes, and nothing else.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.transient.lines import Ends, Lines, LineState, ReducedLines

KEPT: Final = 8
"""Solutions that are kept: those of the stages and the corrections of a step."""


class Seen(NamedTuple):
    """A layer's crossbars for given voltages on their lines.

    Attributes:
        combined: (B, M) V; NaN where there is no solution.
        currents: (B, C) A into the lines.
        ends: Of its lines.
    """

    combined: Tensor
    currents: Tensor
    ends: Ends


class Found(Lines):
    """Crossbars that are no linear network, in turns with the neurons in front of them."""

    accelerated: ClassVar[bool] = False
    """Whether turns are, see :class:`imac_torch.dc.anderson.Anderson`."""

    @abstractmethod
    def drawn(self, voltages: Tensor) -> Tensor:
        """(B, N) A that is drawn besides what the linear network draws, for (B, N) V."""

    @property
    @abstractmethod
    def loads(self) -> bool:
        """Whether what is drawn besides depends on the voltages."""

    @abstractmethod
    def combined(self, voltages: Tensor) -> Tensor:
        """(B, M) V for (B, N) V that drive the lines."""

    @property
    def limited(self) -> bool:
        """Whether :meth:`inside` has something to say."""
        return False

    def inside(self, voltages: Tensor) -> Tensor:
        """(B,) bool, where every part is within what it is known for, at (B, N) V."""
        return torch.ones_like(voltages[:, 0], dtype=torch.bool)

    def took(self, turns: int) -> None:
        """Neurons in front took so many turns."""

    def renew(self) -> None:
        """A step is done: the linear network may be another one from here on."""


class FoundLines(ReducedLines, Found):
    """Such crossbars without charge; as a linear network they are that of their ``model``."""

    @abstractmethod
    def seen(self, voltages: Tensor) -> Seen:
        """For (B, N) V that drive the lines."""

    def combined(self, voltages: Tensor) -> Tensor:
        """See :class:`Found`."""
        return self.seen(voltages).combined

    def passed(self, voltages: Tensor, change: Tensor, step: float) -> Tensor:
        """See :class:`Lines`: by two solutions, for what is at a rail does not move."""
        return self.combined(voltages + change) - self.combined(voltages)

    def passed_outputs(
        self, voltages: Tensor, change: Tensor, state: LineState | None
    ) -> Tensor:
        """See :class:`Lines`."""
        read_out = self.ports.read_out
        before, after = (self.seen(part).ends.output(read_out) for part in (
            voltages, voltages + change[:, :-1]
        ))  # fmt: skip
        return after - before

    def bias_current(self, state: LineState, voltages: Tensor) -> Tensor:
        """See :class:`Lines`."""
        return self.seen(voltages[:, :-1]).currents[:, -1]

    def ends(self, state: LineState, voltages: Tensor) -> Ends:
        """See :class:`Lines`."""
        return self.seen(voltages[:, :-1]).ends
