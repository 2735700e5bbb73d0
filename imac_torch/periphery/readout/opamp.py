"""Operational amplifiers that are not ideal: gain, offset, swing.

An operational amplifier of open-loop gain A puts out A·(v+ - v- + v_os) as far as its supplies let
it. With its loop closed by resistors of a read-out, and for given voltages p, q of the line ends,

    o = clamp(a·p + b·q + n·v_os, low, high):

the loop has one solution, because its right side falls with o. The ends see the amplifier through
its feedback resistor alone, so that a line end has passive loads, and o behind a conductance: with
o known everything else is linear. Offset and saturation are then currents into the ends
(:mod:`imac_torch.elimination.feedback`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from imac_torch.errors import CircuitError


class OpAmp(NamedTuple):
    """One operational amplifier of a read-out; 0-dimensional tensors.

    Attributes:
        by_positive: a, output per V of the I+ end.
        by_negative: b, per V of the I- end.
        by_offset: n, per V of offset.
        to_positive: S between its output and the I+ end.
        to_negative: S between its output and the I- end.
        share: Of its output in the read-out's.
    """

    by_positive: Tensor
    by_negative: Tensor
    by_offset: Tensor
    to_positive: Tensor
    to_negative: Tensor
    share: Tensor

    def open_output(self, positive: Tensor, negative: Tensor) -> Tensor:
        """V without offset and swing, for V at the ends, elementwise."""
        return self.by_positive * positive + self.by_negative * negative


class PassiveLoads(NamedTuple):
    """What line ends are loaded with while amplifier outputs are at 0 V, as of a read-out."""

    positive_load: Tensor
    negative_load: Tensor
    coupling: Tensor


class Rails(NamedTuple):
    """Supplies of operational amplifiers.

    Attributes:
        low: V.
        high: V.
        quiescent: A from ``high`` to ``low`` through each amplifier, without an output current.
    """

    low: float
    high: float
    quiescent: float

    @property
    def idle(self) -> float:
        """W of one amplifier without an output current."""
        return self.quiescent * (self.high - self.low)

    def driving(self, currents: Tensor) -> Tensor:
        """(...) W for (...) A out of outputs: they come from ``high``; those into go to ``low``."""
        return torch.where(currents > 0.0, self.high, self.low) * currents


class AmplifierValues(NamedTuple):
    """Currents of amplifiers and derivatives of the first, of one shape.

    Attributes:
        output: A out of the output.
        supply: A from vdd; what does not leave the output goes to vss.
        by_plus: S.
        by_minus: S.
        by_output: S.
    """

    output: Tensor
    supply: Tensor
    by_plus: Tensor
    by_minus: Tensor
    by_output: Tensor


class Measured(Protocol):
    """What of :class:`imac_torch.periphery.readout.amplifiertable.AmplifierTable` matters here."""

    @property
    def vdd(self) -> float:
        """V."""
        ...

    @property
    def vss(self) -> float:
        """V."""
        ...

    @property
    def gain(self) -> float:
        """V/V."""
        ...

    @property
    def swing(self) -> tuple[float, float]:
        """V."""
        ...

    @property
    def grounded(self) -> bool:
        """Whether it holds for an input plus at one voltage only."""
        ...

    @property
    def subcircuit(self) -> str:
        """Name of the sub-circuit."""
        ...

    @property
    def digest(self) -> str:
        """Of its file."""
        ...

    def values(self, plus: Tensor, minus: Tensor, output: Tensor) -> AmplifierValues:
        """Currents at voltages."""
        ...

    def inside(self, plus: Tensor, minus: Tensor, output: Tensor) -> Tensor:
        """Whether it was measured there."""
        ...

    def check(self, *, vdd: float, vss: float, temperature: float, where: str) -> None:
        """Refuse other conditions."""
        ...


class Terminals(NamedTuple):
    """Where an operational amplifier stands in a read-out.

    Attributes:
        nodes: Of its inputs plus and minus and its output, in the sub-circuit.
        plus: Voltage there per V of the I+ end, of the I- end and of its output, 0-dimensional.
        minus: Likewise.
    """

    nodes: tuple[str, str, str]
    plus: tuple[Tensor, Tensor, Tensor]
    minus: tuple[Tensor, Tensor, Tensor]

    @property
    def grounded(self) -> bool:
        """Whether its input plus is at ground."""
        return self.nodes[0] == "0"

    def inputs(
        self, positive: Tensor, negative: Tensor, output: Tensor
    ) -> tuple[Tensor, Tensor]:
        """V at plus and at minus."""
        plus, minus = (
            by[0] * positive + by[1] * negative + by[2] * output for by in (self.plus, self.minus)
        )
        return plus, minus


@dataclass(frozen=True)
class Imperfections:
    """What an amplifier does besides amplifying.

    Attributes:
        offsets: V at the inputs: (M·L, H, n) of every amplifier, or (1, 1, 1), the same of all.
        low: V, lowest output.
        high: V, highest output.
        rails: Supplies; None: ideal amplifiers have none.
        table: What was measured of a sub-circuit, in place of gain, swing and rails.
        subcircuit: Its file; None: netlists have none.
        resistance: Ω between what amplifiers put out without load, which is within the swing, and
            their outputs; None: 0.
    """

    offsets: Tensor
    low: float = -float("inf")
    high: float = float("inf")
    rails: Rails | None = None
    table: Measured | None = None
    subcircuit: str | None = None
    resistance: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the swing.

        Raises:
            CircuitError: It is empty.
        """
        if not self.low < self.high:
            raise CircuitError(f"swing = {self.low} to {self.high} V of the amplifiers is empty")

    @property
    def loaded(self) -> bool:
        """Whether outputs depend on the current out of them."""
        return self.table is not None or self.resistance is not None

    @property
    def swing(self) -> tuple[float, float]:
        """V, lowest and highest output."""
        return (self.low, self.high) if self.table is None else self.table.swing

    @property
    def saturates(self) -> bool:
        """Whether the swing is limited, or outputs depend on their currents."""
        return self.loaded or self.high - self.low < float("inf")
