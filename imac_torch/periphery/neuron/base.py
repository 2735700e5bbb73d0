"""What a kind of activation circuit must answer, and one with its values resolved."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.base.resources import spice_file
from imac_torch.config import Config, Neuron
from imac_torch.config.kinds import NEURON_KINDS
from imac_torch.errors import ConfigError
from imac_torch.finfet import ModelCard
from imac_torch.periphery.activations import ActivationFunction
from imac_torch.periphery.neuron.core import CPU, Charges, Core, NoCharges, NoiseCurrents

__all__ = ["COMMON_FIELDS", "NeuronKind", "NeuronLayout", "NeuronSpec", "kind_of"]

COMMON_FIELDS: Final = frozenset({"kind", "input_capacitance", "output_capacitance", "subcircuit"})
"""Fields of the configuration's section that every kind reads."""


@dataclass(frozen=True)
class NeuronSpec:
    """One kind of activation circuit with every value resolved.

    Attributes:
        kind: Name of a :class:`NeuronKind`.
        input_resistance: Ω, in series with the level shift; 0 for behavioural neurons.
        feedback_resistance: Ω, from the output to the gate; ``inf`` for behavioural neurons.
        level_shift: V, added to the neuron input.
        vdd: V.
        temperature: K.
        options: The configuration's section, for everything that only some kinds read.
        input_capacitance: F, from the gate (of behavioural neurons: the input) to ground.
        output_capacitance: F, from the output to ground.
        foreign: The file that brought the names of files in ``options``, where nobody asked to
            use them; None: they may be used.
    """

    kind: str
    input_resistance: float
    feedback_resistance: float
    level_shift: float
    vdd: float
    temperature: float
    options: Neuron
    input_capacitance: float = 0.0
    output_capacitance: float = 0.0
    foreign: str | None = None

    def named_file(self, name: str) -> str | None:
        """The file or directory in a field of the options: the only way to get at it.

        Raises:
            ConfigError: Another file brought it along, and nobody asked to use such files.
        """
        value: str | None = getattr(self.options, name)
        if value is not None and self.foreign is not None:
            raise ConfigError(
                f"{self.foreign} names another file, neuron.{name} = {value!r}, which is not used "
                "unasked: load the network with files=True (on the command line --trust) if you "
                "trust it"
            )
        return value

    @property
    def model(self) -> NeuronKind:
        """The kind.

        Raises:
            ConfigError: There is none of that name.
        """
        return kind_of(self.kind)

    @property
    def has_inverter(self) -> bool:
        """Whether its sub-circuit calls an inverter of transistors, which a netlist must add."""
        return self.model.inverter and self.options.subcircuit is None


class NeuronLayout(NamedTuple):
    """What a neuron takes of a chip.

    Attributes:
        transistors: Transistors of ``neuron.fins`` fins.
        cells: Bit cells.
    """

    transistors: int
    cells: int


class NeuronKind(ABC):
    """One kind of activation circuit between an amplifier and the next layer.

    Attributes:
        name: What ``neuron.kind`` calls it; its sub-circuit is ``neuron_<name>``.
        activation: The software function that it computes.
        reads: Fields of the configuration's ``neuron`` section that have an effect on it.
        ideal: Whether it is a shape only: it draws nothing at its input, and no temperature is in
            it.
        inverter: Whether its sub-circuit calls ``inverter g out vdd`` of FinFETs.
        characterised: Whether it was measured of the sub-circuit that netlists have, so that both
            are one neuron.
        layout: What it takes of a chip; None: not known.
    """

    name: ClassVar[str]
    activation: ClassVar[ActivationFunction]
    reads: ClassVar[frozenset[str]] = COMMON_FIELDS
    ideal: ClassVar[bool] = False
    inverter: ClassVar[bool] = False
    characterised: ClassVar[bool] = False
    layout: ClassVar[NeuronLayout | None] = None

    def spec(self, config: Config) -> NeuronSpec:
        """The values of a (per-layer) configuration; here without resistors and level shift."""
        options = config.neuron
        return NeuronSpec(
            kind=self.name,
            input_resistance=0.0,
            feedback_resistance=math.inf,
            level_shift=0.0,
            vdd=config.supplies.vdd,
            temperature=config.temperature,
            options=options,
            input_capacitance=options.input_capacitance,
            output_capacitance=options.output_capacitance,
        )

    # What solvers ask

    @abstractmethod
    def core(self, spec: NeuronSpec, *, device: torch.device = CPU) -> Core:
        """Its currents, exact.

        Args:
            spec: The neuron.
            device: Where tensors live.

        Raises:
            ConfigError: Something that the configuration names is missing or does not fit.
        """

    def on_grid(self, spec: NeuronSpec, gates: Tensor, outputs: Tensor) -> Tensor:
        """(3, P, Q) A, :class:`CoreValues` of the exact core, at all of (P,) and (Q,) V."""
        grid = torch.meshgrid(gates, outputs, indexing="ij")
        return torch.stack([*self.core(spec).values(*grid)])

    def tabulated_core(self, spec: NeuronSpec, *, device: torch.device = CPU) -> Core:
        """Its currents as they are solved with: a table, where the exact core is slow."""
        return self.core(spec, device=device)

    def charges(self, spec: NeuronSpec, *, device: torch.device = CPU) -> Charges:
        """Its charges besides the capacitances of the configuration: none, unless a kind has some.

        Args:
            spec: The neuron.
            device: Where tensors live.
        """
        return NoCharges()

    def noise(self, spec: NeuronSpec, gates: Tensor, outputs: Tensor) -> NoiseCurrents | None:
        """Its noise, besides that of the resistors of ``spec``; None: it is not known.

        Args:
            spec: The neuron.
            gates: V, of any shape.
            outputs: V, of the same.
        """
        return None

    # What mapping and calibration ask

    def line(self, spec: NeuronSpec) -> tuple[float, float] | None:
        """Threshold (V) and slope (1/V) of vdd·f(slope·(z - threshold)), f being the activation.

        None: they are found from the transfer curve, see :mod:`imac_torch.dc.transfer`. The slope
        of an inverting neuron is negative. Activations without a range of their own, as here, pass
        volts as they are: 1/vdd.
        """
        return None if self.activation.bounded else (0.0, 1.0 / spec.vdd)

    def input_range(self, spec: NeuronSpec) -> tuple[float, float]:
        """V. Inputs among which the threshold is looked for."""
        return -2.0, 2.0

    # What netlists ask

    def subcircuit(self, spec: NeuronSpec) -> str:
        """Text of its sub-circuit ``neuron_<name> z out vdd``; here the package's file.

        Raises:
            NetlistError: It has none, or the sub-circuit cannot have the values.
        """
        return spice_file(f"neuron_{self.name}.sp").read_text(encoding="utf-8")

    def digest(self, spec: NeuronSpec) -> str | None:
        """Of the sub-circuit that it was characterised from; None: of none.

        Raises:
            ConfigError: What was measured is missing, or does not fit.
        """
        return None

    def cards(self, spec: NeuronSpec) -> tuple[ModelCard, ModelCard]:
        """Model cards of its inverter's transistors, n and p.

        Raises:
            ConfigError: There is no inverter, or no card.
        """
        raise ConfigError(f"a neuron of kind {self.name!r} has no transistors")

    def arguments(self, spec: NeuronSpec) -> dict[str, float]:
        """Values of every parameter of its static curves that a sub-circuit may declare."""
        values: dict[str, float] = {
            "shift": spec.level_shift,
            "slope": spec.options.slope,
            "rout": spec.options.output_resistance,
            "fins": float(spec.options.fins),
        }
        if spec.input_resistance > 0.0:
            values["rin"] = spec.input_resistance
        if spec.feedback_resistance != math.inf:
            values["rfb"] = spec.feedback_resistance
        return values

    def capacitances(self, spec: NeuronSpec) -> dict[str, float]:
        """Capacitances (F) that a sub-circuit may declare; those of 0 F are left out."""
        values = {"cin": spec.input_capacitance, "cout": spec.output_capacitance}
        return {name: value for name, value in values.items() if value > 0.0}


def kind_of(name: str) -> NeuronKind:
    """The kind of neuron of a name.

    Raises:
        ConfigError: There is none.
    """
    kind: NeuronKind = NEURON_KINDS.get(name)
    return kind
