"""The nonlinear core of an activation circuit between its gate and its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from imac_torch.numeric.modes import differentiating, leaf

CPU: Final = torch.device("cpu")
"""Where things are made, whatever torch's default device is."""


class CoreValues(NamedTuple):
    """Currents of a core; all of one shape.

    Attributes:
        output: A delivered to the output node.
        gate: A drawn from the gate node.
        supply: A drawn from vdd.
    """

    output: Tensor
    gate: Tensor
    supply: Tensor


class CoreCurrents(NamedTuple):
    """Currents of a core with their derivatives; all of one shape.

    Attributes:
        output: A delivered to the output node.
        gate: A drawn from the gate node.
        output_by_gate: S, derivative of ``output`` with respect to the gate voltage.
        output_by_output: S, derivative of ``output`` with respect to the output voltage.
        gate_by_gate: S.
        gate_by_output: S.
    """

    output: Tensor
    gate: Tensor
    output_by_gate: Tensor
    output_by_output: Tensor
    gate_by_gate: Tensor
    gate_by_output: Tensor


class Core(Protocol):
    """What the solver needs of an activation circuit; add your own by providing these."""

    def values(self, gate: Tensor, output: Tensor) -> CoreValues:
        """Currents at gate and output voltages (V, one shape), differentiable in everything."""
        ...

    def currents(self, gate: Tensor, output: Tensor) -> CoreCurrents:
        """Currents and derivatives; derivatives need no graph."""
        ...

    def start(self) -> tuple[float, float, float]:
        """Where Newton's method starts: gate voltages between two bounds, an output voltage."""
        ...

    def inside(self, gate: Tensor, output: Tensor) -> Tensor:
        """Whether the core is valid at these voltages, elementwise bool."""
        ...


@runtime_checkable
class Resting(Protocol):
    """A core that knows what it takes at rest without its output current, which costs less."""

    def at_rest(
        self, gate: Tensor, output: Tensor, feedback: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What flows in at the gate node and from vdd.

        Args:
            gate: V.
            output: V.
            feedback: S, 0-dimensional, between the two nodes.

        Returns:
            A into the gate, as of :meth:`Core.values`, and through the feedback; A from vdd.
        """
        ...


def differentiate(core: Core, gate: Tensor, output: Tensor) -> CoreCurrents:
    """:meth:`Core.currents` by automatic differentiation of :meth:`Core.values`."""
    tracked = torch.is_grad_enabled()
    with differentiating():
        gate, output = leaf(gate), leaf(output)
        values = core.values(gate, output)
        # The sums decouple elements: each current depends on its own voltages only.
        first = torch.autograd.grad(values.output.sum(), (gate, output), retain_graph=True)
        second = torch.autograd.grad(
            values.gate.sum(), (gate, output), retain_graph=tracked, allow_unused=True
        )
    by_gate, by_output = (
        torch.zeros_like(gate) if item is None else item for item in second
    )
    outgoing, ingoing = values.output, values.gate
    if not tracked:
        outgoing, ingoing = outgoing.detach(), ingoing.detach()
    return CoreCurrents(outgoing, ingoing, first[0], first[1], by_gate, by_output)


class ChargeValues(NamedTuple):
    """Charges of a neuron and their derivatives, all of one shape.

    Attributes:
        gate: C on the gate node.
        output: C on the output node.
        supply: C on vdd.
        gate_by_gate: F.
        gate_by_output: F.
        output_by_gate: F.
        output_by_output: F.
    """

    gate: Tensor
    output: Tensor
    supply: Tensor
    gate_by_gate: Tensor
    gate_by_output: Tensor
    output_by_gate: Tensor
    output_by_output: Tensor


class NoiseCurrents(NamedTuple):
    """Noise that a core adds to its output current, at gates and outputs of one shape.

    Attributes:
        resistors: A²/Hz, thermal, of resistors within it.
        channels: A²/Hz, thermal, of transistors.
        flicker: A²/Hz at 1 Hz, of transistors.
        exponent: Of the frequency that flicker falls with.
    """

    resistors: Tensor
    channels: Tensor
    flicker: Tensor
    exponent: float = 1.0


class Charges(Protocol):
    """What transients need of an activation circuit besides its currents."""

    def values(self, gate: Tensor, output: Tensor) -> ChargeValues:
        """Charges at gate and output voltages (V, one shape)."""
        ...


@dataclass(frozen=True)
class NoCharges:
    """Behavioural neurons: capacitors beside them are the configuration's."""

    def values(self, gate: Tensor, output: Tensor) -> ChargeValues:
        """See :class:`Charges`."""
        zero = torch.zeros_like(gate + output)
        return ChargeValues(*[zero] * 7)
