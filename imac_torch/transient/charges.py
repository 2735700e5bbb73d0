"""Charges of activation circuits: transistors' state functions, tabulated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from imac_torch.circuit import NeuronSpec
from imac_torch.errors import ConfigError
from imac_torch.finfet.transistor import FinFET
from imac_torch.neurons.cores import (
    GATE_MARGIN,
    OUTPUT_MARGIN,
    transistors,
)
from imac_torch.neurons.spline import SplineTable

CHARGE_NODES: Final = (193, 81)
"""Nodes of the gate and output axis: 12 mV apart at 0.8 V."""
CHARGE_SCALE: Final = 1e-15
"""C. Tables hold charges in fC, to keep their numbers of the order of one."""


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


@dataclass(frozen=True)
class TableCharges:
    """Charges of transistors tabulated on gate and output voltage, in fC.

    Attributes:
        table: Three functions: gate, output, supply.
    """

    table: SplineTable

    def values(self, gate: Tensor, output: Tensor) -> ChargeValues:
        """See :class:`Charges`."""
        value, by_gate, by_output = self.table(gate, output)
        return ChargeValues(
            CHARGE_SCALE * value[..., 0],
            CHARGE_SCALE * value[..., 1],
            CHARGE_SCALE * value[..., 2],
            CHARGE_SCALE * by_gate[..., 0],
            CHARGE_SCALE * by_output[..., 0],
            CHARGE_SCALE * by_gate[..., 1],
            CHARGE_SCALE * by_output[..., 1],
        )


def inverter_charges(
    n: FinFET, p: FinFET, gate: Tensor, out: Tensor, vdd: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Quasi-static charges of a CMOS inverter on its gate, its output and vdd, C.

    Those behind the series resistances count at the terminal, which is exact for signals slower
    than a few RC of the device (120 Ω and 1 fF: 0.1 ps).
    """
    down = n.charges(out, gate, 0.0, 0.0)
    up = p.charges(out, gate, vdd, vdd)
    return down.gate + up.gate, down.drain + up.drain, up.source + up.bulk


def build_charges(spec: NeuronSpec, *, device: torch.device | None = None) -> Charges:
    """The charges of a neuron specification; behavioural neurons have none of their own.

    Args:
        spec: The neuron.
        device: Where its tensors live.

    Raises:
        ConfigError: The kind has no native charges.
    """
    if spec.kind in {"logistic", "tanh", "relu", "identity"}:
        return NoCharges()
    if spec.kind != "finfet":
        raise ConfigError(f"neuron kind {spec.kind!r} has no native charges")
    plain = spec.options.replace(input_capacitance=0.0, output_capacitance=0.0)
    charges = _inverter_table(
        replace(
            spec,
            input_resistance=0.0,
            feedback_resistance=0.0,
            options=plain,
            input_capacitance=0.0,
            output_capacitance=0.0,
        )
    )
    if device is None or device.type == "cpu":
        return charges
    table = charges.table
    return TableCharges(SplineTable(table.coefficients.to(device), table.start, table.step))


@lru_cache(maxsize=16)  # a pure function of its argument that takes about a second
def _inverter_table(spec: NeuronSpec) -> TableCharges:
    n, p = transistors(spec)
    vdd = spec.vdd
    with torch.no_grad():
        gate = torch.linspace(-GATE_MARGIN, vdd + GATE_MARGIN, CHARGE_NODES[0], dtype=torch.float64)
        output = torch.linspace(
            -OUTPUT_MARGIN, vdd + OUTPUT_MARGIN, CHARGE_NODES[1], dtype=torch.float64
        )
        gates, outputs = torch.meshgrid(gate, output, indexing="ij")
        values = torch.stack(inverter_charges(n, p, gates, outputs, vdd), dim=-1) / CHARGE_SCALE
        return TableCharges(SplineTable.fit(gate, output, values))
