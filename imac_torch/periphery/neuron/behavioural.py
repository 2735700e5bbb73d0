"""Behavioural neurons: a shape behind a resistance."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from imac_torch.base.units import BOLTZMANN
from imac_torch.errors import NetlistError
from imac_torch.periphery.activations import Bounded
from imac_torch.periphery.neuron.base import COMMON_FIELDS, NeuronKind, NeuronSpec
from imac_torch.periphery.neuron.core import (
    CPU,
    Core,
    CoreCurrents,
    CoreValues,
    NoiseCurrents,
)

_HEAD: Final = re.compile(r"^(\.subckt .* rout=\S+)(.*)$", re.MULTILINE)
_ENDING: Final = re.compile(r"^(\.ends.*)$", re.MULTILINE)
_OUTPUT: Final = re.compile(r"^Rout f out ", re.MULTILINE)


@dataclass(frozen=True)
class BehaviouralCore:
    """An ideal shape ``f(gate)`` behind an output resistance; draws nothing from the gate.

    Attributes:
        curve: Gate voltage (V), vdd and slope to ``f`` (V) and its derivative.
        vdd: V, 0-dimensional.
        slope: 1/V, 0-dimensional; not every shape has one.
        output_resistance: Ω, 0-dimensional, > 0.
        quiescent: A, from every supply without an output current; None: it has none.
        signed: Whether a second supply at -vdd takes the currents into outputs.
        plain: As ``curve``, ``f`` alone; None: that is asked.
    """

    curve: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    vdd: Tensor
    slope: Tensor
    output_resistance: Tensor
    quiescent: float | None = None
    signed: bool = False
    plain: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def value(self, gate: Tensor) -> Tensor:
        """``f`` alone."""
        if self.plain is None:
            return self.shape(gate)[0]
        return self.plain(gate, self.vdd, self.slope)

    def shape(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        """``f`` and its derivative."""
        return self.curve(gate, self.vdd, self.slope)

    def currents(self, gate: Tensor, output: Tensor) -> CoreCurrents:
        """See :class:`Core`."""
        value, derivative = self.shape(gate)
        conductance = 1.0 / self.output_resistance
        zero = torch.zeros_like(output + gate)
        return CoreCurrents(
            (value - output) * conductance,
            zero,
            derivative * conductance + zero,
            zero - conductance,
            zero,
            zero,
        )

    def values(self, gate: Tensor, output: Tensor) -> CoreValues:
        """See :class:`Core`; what a supply at -vdd takes counts as a current from vdd."""
        current = (self.value(gate) - output) / self.output_resistance
        zero = torch.zeros_like(current)
        if self.quiescent is None:
            return CoreValues(current, zero, zero)
        if self.signed:
            return CoreValues(current, zero, 2.0 * self.quiescent + current.abs())
        return CoreValues(current, zero, self.quiescent + current.clamp(min=0.0))

    def at_rest(
        self, gate: Tensor, output: Tensor, feedback: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :class:`imac_torch.periphery.neuron.core.Resting`; most take nothing from vdd."""
        drawn = (gate - output) * feedback
        if self.quiescent is None:
            return drawn, torch.zeros_like(output)
        return drawn, self.values(gate, output).supply

    def inside(self, gate: Tensor, output: Tensor) -> Tensor:
        """See :class:`Core`: everywhere."""
        return torch.isfinite(gate) & torch.isfinite(output)

    def start(self) -> tuple[float, float, float]:
        """See :class:`Core`: the gate is known, the output is linear."""
        return -torch.inf, torch.inf, float(self.vdd) / 2


class BehaviouralNeuron(NeuronKind):
    """An ideal shape behind ``neuron.output_resistance``, without resistors and charges."""

    reads = COMMON_FIELDS | {"output_resistance", "quiescent_current"}
    ideal = True
    cut: ClassVar[tuple[float, float] | None] = None
    """Where the shape is the gate's voltage within limits: these, times vdd."""

    def __init_subclass__(cls) -> None:
        """A kind with a curve of its own has the values of that one, not a parent's."""
        super().__init_subclass__()
        if "curve" in vars(cls) and "value" not in vars(cls):
            cls.value = BehaviouralNeuron.value  # type: ignore[method-assign]

    @abstractmethod
    def curve(self, gate: Tensor, vdd: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The shape.

        Args:
            gate: V, any shape.
            vdd: V, 0-dimensional.
            slope: 1/V, 0-dimensional, ``neuron.slope``.

        Returns:
            Output (V) and its derivative by the gate, differentiable in everything.
        """

    def value(self, gate: Tensor, vdd: Tensor, slope: Tensor) -> Tensor:
        """The output (V) of :meth:`curve`; a kind may know it with fewer operations."""
        return self.curve(gate, vdd, slope)[0]

    def core(self, spec: NeuronSpec, *, device: torch.device = CPU) -> Core:
        """See :class:`NeuronKind`."""
        values = (spec.vdd, spec.options.slope, spec.options.output_resistance)
        vdd, slope, resistance = (
            torch.tensor(value, dtype=torch.float64, device=device) for value in values
        )
        current = self.quiescent(spec)
        return BehaviouralCore(
            self.curve, vdd, slope, resistance, current, self.signed, self.value
        )

    def quiescent(self, spec: NeuronSpec) -> float | None:
        """A from its supplies; None: it has none, as where there is no circuit."""
        return spec.options.quiescent_current if "quiescent_current" in self.reads else None

    @property
    def signed(self) -> bool:
        """Whether outputs are of both signs."""
        low = self.activation.low if isinstance(self.activation, Bounded) else 0.0
        return low < 0.0 or (self.cut is not None and self.cut[0] < 0.0)

    def noise(self, spec: NeuronSpec, gates: Tensor, outputs: Tensor) -> NoiseCurrents:
        """See :class:`NeuronKind`: its output resistance; the shape is ideal."""
        zero = torch.zeros_like(gates + outputs)
        thermal = 4.0 * BOLTZMANN * spec.temperature / spec.options.output_resistance
        return NoiseCurrents(zero + thermal, zero, zero)

    def subcircuit(self, spec: NeuronSpec) -> str:
        """See :class:`NeuronKind`."""
        if spec.input_resistance != 0.0 or spec.feedback_resistance != math.inf:
            raise NetlistError(
                f"the behavioural neuron {self.name!r} has no input or feedback resistor, got "
                f"{spec.input_resistance} and {spec.feedback_resistance} Ω"
            )
        text = super().subcircuit(spec)
        return text if self.quiescent(spec) is None else self._supplied(text)

    def arguments(self, spec: NeuronSpec) -> dict[str, float]:
        """See :class:`NeuronKind`."""
        current = self.quiescent(spec)
        return super().arguments(spec) | ({} if current is None else {"iq": current})

    def _supplied(self, text: str) -> str:
        """A sub-circuit that also draws from vdd what :class:`BehaviouralCore` says.

        Raises:
            NetlistError: The text is not made like the package's.
        """
        drawn = "2*iq+abs(v(f,out))/rout" if self.signed else "iq+max(v(f,out),0)/rout"
        supply = (
            "* what the neuron takes from its supply: quiescent current and what it delivers\n"
            f"Gsupply vdd 0 cur='{drawn}'"
        )
        made, count = _ENDING.subn(rf"{supply}\n\1", text)
        made, heads = _HEAD.subn(r"\1 iq=0\2", made)
        if (count, heads) != (1, 1) or _OUTPUT.search(text) is None:
            raise NetlistError(
                f"the sub-circuit of the neuron {self.name!r} cannot be given a supply: "
                "neuron.quiescent_current needs one .subckt whose output resistor is "
                "'Rout f out'; leave it at its default"
            )
        return made
