"""A layer of the DC solution: crossbars that are driven, and the neurons behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from imac_torch.dc.load import Load
from imac_torch.dc.newton import NeuronSolution, NewtonOptions
from imac_torch.periphery.neuron.circuit import NeuronCircuit, NeuronPower
from imac_torch.periphery.readout import ReadOut
from imac_torch.results.solution import LayerSolution, Power


class DrivenPower(NamedTuple):
    """What sources at a layer's crossbars and read-outs deliver, (S, B) W each.

    Parts: :class:`imac_torch.results.solution.BySource`.
    """

    inputs: Tensor
    bias: Tensor
    amplifiers: Tensor
    amplifier_supply: Tensor

    def with_neurons(self, neurons: NeuronPower) -> Power:
        """The layer's power, with what its neurons take."""
        return Power(neurons=neurons.supply, level_shift=neurons.level_shift, **self._asdict())


@dataclass(frozen=True)
class Driven(ABC):
    """Crossbars with what drives them; S samples, B input vectors.

    Attributes:
        voltages: (S, B, N) V on the input lines.
        combined: (S, B, M) V that the read-outs combine to.
        solved: The neurons that drive the lines, or what solving the crossbars took where sources
            do; None: they are known.
    """

    voltages: Tensor
    combined: Tensor
    solved: NeuronSolution | None

    @property
    @abstractmethod
    def read_outs(self) -> Tensor:
        """(S, B, M·L, H) V that every read-out gives, before partitions and slices meet."""

    @abstractmethod
    def absorbed(self) -> Tensor:
        """(S, B) W that lines deliver to read-outs at their ends."""

    @abstractmethod
    def power(self, drawn: Tensor, *, first: bool) -> DrivenPower:
        """What sources other than those at the neurons deliver.

        Args:
            drawn: (S, B, M) A that the neurons behind draw.
            first: Whether sources drive the lines; the power of inputs is 0 if not.
        """


@dataclass(frozen=True)
class PreparedLayer(ABC):
    """One layer ready to be solved.

    Attributes:
        neuron: The activation circuit of its outputs.
        vdd: V, 0-dimensional, what bias lines are driven with.
        load: What its neurons see, None for nothing, or for what is solved with them.
    """

    neuron: NeuronCircuit
    vdd: Tensor
    load: Load | None

    @property
    @abstractmethod
    def shape(self) -> tuple[int | None, int, int]:
        """Samples of the conductances (None: no such dimension), rows of all slices, columns."""

    @property
    @abstractmethod
    def read_out(self) -> ReadOut:
        """What its lines end in."""

    @property
    def image_bytes(self) -> int:
        """What an input vector takes besides its voltages and currents, per sample."""
        return 0

    @abstractmethod
    def as_load(self) -> Load | None:
        """What drives the lines sees; None: it is solved together with them."""

    @property
    def notices(self) -> bool:
        """Whether read-outs depend on what neurons draw from them."""
        return False

    @abstractmethod
    def driven_at(self, found: LayerSolution, drawn: Tensor, options: NewtonOptions) -> Driven:
        """The crossbars of a solution that is known.

        Args:
            found: Of (S, B, …).
            drawn: (S, B, M) A that the neurons behind draw.
            options: Where they are solved again.
        """

    @abstractmethod
    def drive(
        self,
        sources: Tensor,
        before: PreparedLayer | None,
        options: NewtonOptions,
        drawn: Tensor | None = None,
    ) -> Driven:
        """Solve what drives the lines, and the crossbars as far as that takes.

        Args:
            sources: (S, B, N) V: on the lines, or combined read-outs of the layer before.
            before: That layer, whose neurons drive the lines; None: sources do.
            options: Of Newton's method.
            drawn: (S, B, M) A that the neurons behind draw, for read-outs that notice it.
        """


def with_bias(voltages: Tensor, vdd: Tensor) -> Tensor:
    """(..., N) V on the lines to (..., N+1)."""
    return torch.cat([voltages, vdd.expand(*voltages.shape[:-1], 1)], dim=-1)
