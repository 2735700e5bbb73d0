"""A CMOS inverter of FinFETs with input resistor, feedback and level shift: IMAC-Sim's neuron."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from imac_torch.config import Config
from imac_torch.errors import ConfigError
from imac_torch.finfet import FinFET, ModelCard, builtin_14nm_hp, inverter_currents, load_ptm
from imac_torch.finfet.kept import kept
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.activations import SIGMOID
from imac_torch.periphery.neuron.base import (
    COMMON_FIELDS,
    NeuronKind,
    NeuronLayout,
    NeuronSpec,
)
from imac_torch.periphery.neuron.core import (
    CPU,
    Charges,
    Core,
    CoreCurrents,
    CoreValues,
    NoiseCurrents,
    differentiate,
)
from imac_torch.periphery.neuron.spline import SplineTable
from imac_torch.periphery.neuron.tabulated import CHARGE_SCALE, TableCharges, TableCore

GATE_MARGIN = 0.75
"""V. A tabulated inverter covers gates this far beyond its rails; tunnelling, which grows by a
decade per 35 mV, clamps them inside."""
OUTPUT_MARGIN = 0.1
"""V. A tabulated inverter covers outputs this far beyond its rails."""
START_MARGIN = 0.4
"""V. Newton's method starts with gates at most this far beyond the rails."""
CHARGE_NODES: Final = (193, 81)
"""Nodes of the gate and output axis of charges: 12 mV apart at 0.8 V."""


@dataclass(frozen=True)
class InverterCore:
    """A CMOS inverter of FinFETs between vdd and ground, the exact model.

    Attributes:
        n: Pull-down transistor.
        p: Pull-up transistor.
        vdd: V, 0-dimensional.
    """

    n: FinFET
    p: FinFET
    vdd: Tensor

    def values(self, gate: Tensor, output: Tensor) -> CoreValues:
        """See :class:`Core`."""
        return CoreValues(*inverter_currents(self.n, self.p, gate, output, self.vdd))

    def currents(self, gate: Tensor, output: Tensor) -> CoreCurrents:
        """See :class:`Core`."""
        return differentiate(self, gate, output)

    def start(self) -> tuple[float, float, float]:
        """See :class:`Core`."""
        vdd = float(self.vdd)
        return -START_MARGIN, vdd + START_MARGIN, vdd / 2

    def inside(self, gate: Tensor, output: Tensor) -> Tensor:
        """See :class:`Core`: the model is safe within ±10 V."""
        return (gate.abs() <= 10.0) & (output.abs() <= 10.0)


class FinFETNeuron(NeuronKind):
    """A falling sigmoid. Its resistances follow the device where they are not set."""

    name = "finfet"
    activation = SIGMOID
    reads = COMMON_FIELDS | {
        "rlow", "rhigh", "level_shift", "fins", "transistor_node", "flavour", "model_directory",
        "osdi",
    }  # fmt: skip
    inverter = True
    # The resistors are memory devices (Amin et al., GLSVLSI 2022, 10.1145/3526241.3530376).
    layout = NeuronLayout(transistors=2, cells=2)

    def spec(self, config: Config) -> NeuronSpec:
        """See :class:`NeuronKind`."""
        options, device = config.neuron, config.device
        return replace(
            super().spec(config),
            input_resistance=device.rlow if options.rlow is None else options.rlow,
            feedback_resistance=device.rhigh if options.rhigh is None else options.rhigh,
            level_shift=options.level_shift,
        )

    def core(self, spec: NeuronSpec, *, device: torch.device = CPU) -> Core:
        """See :class:`NeuronKind`."""
        n, p = transistors(spec)
        return InverterCore(n, p, torch.tensor(spec.vdd, dtype=torch.float64, device=device))

    def on_grid(self, spec: NeuronSpec, gates: Tensor, outputs: Tensor) -> Tensor:
        """See :class:`NeuronKind`: kept on disk."""
        n, p = transistors(spec)
        nodes = gates.tolist(), outputs.tolist()
        asked = (n.card, p.card, spec.options.fins, spec.temperature, spec.vdd, nodes)
        return kept("grid", asked, lambda: super(FinFETNeuron, self).on_grid(spec, gates, outputs))

    def tabulated_core(self, spec: NeuronSpec, *, device: torch.device = CPU) -> Core:
        """See :class:`NeuronKind`."""
        return _current_table(*_transistor_values(spec), spec.vdd).to(device)

    def charges(self, spec: NeuronSpec, *, device: torch.device = CPU) -> Charges:
        """See :class:`NeuronKind`."""
        return _charge_table(*_transistor_values(spec), spec.vdd).to(device)

    def noise(self, spec: NeuronSpec, gates: Tensor, outputs: Tensor) -> NoiseCurrents:
        """See :class:`NeuronKind`: channels of both transistors (BSIM-CMG).

        Raises:
            ConfigError: Their 1/f noise falls with different powers of the frequency.
        """
        n, p = transistors(spec)
        down, up = n.noise(outputs, gates), p.noise(outputs, gates, spec.vdd, spec.vdd)
        if down.exponent != up.exponent:
            raise ConfigError(
                f"EF = {down.exponent:g} of {n.card.name!r} and {up.exponent:g} of "
                f"{p.card.name!r}: one inverter's transistors need the same"
            )
        zero = torch.zeros_like(down.thermal)
        return NoiseCurrents(
            zero, down.thermal + up.thermal, down.flicker + up.flicker, down.exponent
        )

    def cards(self, spec: NeuronSpec) -> tuple[ModelCard, ModelCard]:
        """See :class:`NeuronKind`."""
        n, p = transistors(spec)
        return n.card, p.card


def transistors(spec: NeuronSpec) -> tuple[FinFET, FinFET]:
    """The inverter's transistors, n and p.

    Raises:
        ConfigError: The node is not built in and no model directory is given.
    """
    return _transistors(*_transistor_values(spec))


def _transistor_values(spec: NeuronSpec) -> tuple[str | None, int, str, int, float]:
    """All that transistors depend on."""
    options = spec.options
    return (
        spec.named_file("model_directory"),
        options.transistor_node,
        options.flavour,
        options.fins,
        spec.temperature,
    )


@lru_cache(maxsize=16)
@lasting()
def _transistors(
    directory: str | None, node: int, flavour: str, fins: int, temperature: float
) -> tuple[FinFET, FinFET]:
    if directory is not None:
        cards = load_ptm(directory, node, flavour)
    elif (node, flavour) == (14, "hp"):
        cards = builtin_14nm_hp()
    else:
        raise ConfigError(
            f"only the 14 nm hp transistor is built in; for {node} nm {flavour} set "
            "neuron.model_directory to a directory of PTM-MG cards"
        )
    n, p = (FinFET(card, nfin=fins, temperature=temperature) for card in cards)
    return n, p


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


@lru_cache(maxsize=16)  # a pure function of its arguments
@lasting()
def _current_table(
    directory: str | None, node: int, flavour: str, fins: int, temperature: float, vdd: float
) -> TableCore:
    n, p = _transistors(directory, node, flavour, fins, temperature)
    return TableCore.of(
        InverterCore(n, p, torch.tensor(vdd, dtype=torch.float64, device="cpu")),
        (-GATE_MARGIN, vdd + GATE_MARGIN),
        (-OUTPUT_MARGIN, vdd + OUTPUT_MARGIN),
        key=("inverter", n.card, p.card, fins, temperature, vdd),
    )


@lru_cache(maxsize=16)  # a pure function of its arguments
@lasting()
def _charge_table(
    directory: str | None, node: int, flavour: str, fins: int, temperature: float, vdd: float
) -> TableCharges:
    n, p = _transistors(directory, node, flavour, fins, temperature)
    gate = torch.linspace(
        -GATE_MARGIN, vdd + GATE_MARGIN, CHARGE_NODES[0], dtype=torch.float64, device="cpu"
    )
    output = torch.linspace(
        -OUTPUT_MARGIN, vdd + OUTPUT_MARGIN, CHARGE_NODES[1], dtype=torch.float64, device="cpu"
    )

    def compute() -> Tensor:
        gates, outputs = torch.meshgrid(gate, output, indexing="ij")
        return torch.stack(inverter_charges(n, p, gates, outputs, vdd), dim=-1) / CHARGE_SCALE

    values = kept("charges", (n.card, p.card, fins, temperature, vdd), compute)
    return TableCharges(SplineTable.fit(gate, output, values))
