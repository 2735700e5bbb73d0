"""Cores of activation circuits: the behavioural ones, transistors, tables of either."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.circuit import NeuronSpec
from imac_torch.errors import ConfigError
from imac_torch.finfet import FinFET, builtin_14nm_hp, inverter_currents, load_ptm
from imac_torch.neurons.neuron import (
    BehaviouralCore,
    Core,
    CoreCurrents,
    CoreValues,
    differentiate,
)
from imac_torch.neurons.neurontable import NeuronTable
from imac_torch.neurons.spline import SplineTable

GATE_MARGIN = 0.75
"""V. A tabulated inverter covers gates this far beyond its rails; tunnelling, which grows by a
decade per 35 mV, clamps them inside."""
OUTPUT_MARGIN = 0.1
"""V. A tabulated inverter covers outputs this far beyond its rails."""
TABLE_NODES = (257, 321)
"""Nodes of the gate and output axis: 9 and 3 mV apart at 0.8 V.

The output needs more: the currents bend where a transistor leaves saturation. Neurons' outputs
are within 0.1 µV of the model's, 4 nV rms.
"""
GATE_SCALE = 1e-9
"""A. Gate currents span 26 decades; the table holds asinh(current/scale)."""
SUPPLY_SCALE = 1e-4
"""A. Likewise for the supply current, which tunnelling enters too."""
START_MARGIN = 0.4
"""V. Newton's method starts with gates at most this far beyond the rails."""


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
        """See :class:`imac_torch.neurons.neuron.Core`."""
        return CoreValues(*inverter_currents(self.n, self.p, gate, output, self.vdd))

    def currents(self, gate: Tensor, output: Tensor) -> CoreCurrents:
        """See :class:`imac_torch.neurons.neuron.Core`."""
        return differentiate(self, gate, output)

    def start(self) -> tuple[float, float, float]:
        """See :class:`imac_torch.neurons.neuron.Core`."""
        vdd = float(self.vdd)
        return -START_MARGIN, vdd + START_MARGIN, vdd / 2

    def inside(self, gate: Tensor, output: Tensor) -> Tensor:
        """See :class:`imac_torch.neurons.neuron.Core`: the model is safe within ±10 V."""
        return (gate.abs() <= 10.0) & (output.abs() <= 10.0)


@dataclass(frozen=True)
class TableCore:
    """A core tabulated on gate and output voltage.

    The table holds the output current and, because tunnelling is exponential,
    asinh(current/scale) of the gate and supply currents.

    Attributes:
        table: Three functions.
        starts: Bounds of the gate and the output voltage that Newton's method starts from.
        gate_scale: A.
        supply_scale: A.
    """

    table: SplineTable
    starts: tuple[float, float, float]
    gate_scale: float
    supply_scale: float

    @cached_property
    def newton_table(self) -> NDArray[np.float64]:
        """Coefficients of output and gate current, interleaved, for the compiled kernel."""
        return self.table.coefficients[..., :2].contiguous().numpy().reshape(-1)

    @classmethod
    def of(
        cls,
        core: Core,
        gate_range: tuple[float, float],
        output_range: tuple[float, float],
        *,
        nodes: tuple[int, int] = TABLE_NODES,
        gate_scale: float = GATE_SCALE,
        supply_scale: float = SUPPLY_SCALE,
    ) -> TableCore:
        """Tabulate another core."""
        with torch.no_grad():
            gate = torch.linspace(*gate_range, nodes[0], dtype=torch.float64)
            output = torch.linspace(*output_range, nodes[1], dtype=torch.float64)
            values = core.values(*torch.meshgrid(gate, output, indexing="ij"))
            functions = torch.stack(
                [
                    values.output,
                    torch.asinh(values.gate / gate_scale),
                    torch.asinh(values.supply / supply_scale),
                ],
                dim=-1,
            )
            table = SplineTable.fit(gate, output, functions)
            return cls(table, core.start(), gate_scale, supply_scale)

    @classmethod
    def measured(cls, table: NeuronTable) -> TableCore:
        """The core of a characterised neuron: its gate is the neuron's input."""
        # Nothing bounds a start: the gate follows the amplifiers, and the output is monotonic.
        starts = (-torch.inf, torch.inf, table.vdd / 2)
        return cls(table.spline(), starts, table.input_scale, table.supply_scale)

    def values(self, gate: Tensor, output: Tensor) -> CoreValues:
        """See :class:`imac_torch.neurons.neuron.Core`."""
        if torch.is_grad_enabled() and (gate.requires_grad or output.requires_grad):
            frozen = self.table(gate.detach(), output.detach())
            # Value and slope at the point: exact first derivatives without a graph of gathers.
            value = (
                frozen.value
                + frozen.by_first * (gate - gate.detach())[..., None]
                + frozen.by_second * (output - output.detach())[..., None]
            )
        else:
            value = self.table.values(gate, output)
        current, tunnel, supply = value.unbind(-1)
        return CoreValues(
            current,
            self.gate_scale * torch.sinh(tunnel),
            self.supply_scale * torch.sinh(supply),
        )

    def currents(self, gate: Tensor, output: Tensor) -> CoreCurrents:
        """See :class:`imac_torch.neurons.neuron.Core`."""
        value, by_gate, by_output = self.table(gate.detach(), output.detach())
        slope = self.gate_scale * torch.cosh(value[..., 1])
        return CoreCurrents(
            value[..., 0],
            self.gate_scale * torch.sinh(value[..., 1]),
            by_gate[..., 0],
            by_output[..., 0],
            slope * by_gate[..., 1],
            slope * by_output[..., 1],
        )

    def start(self) -> tuple[float, float, float]:
        """See :class:`imac_torch.neurons.neuron.Core`."""
        return self.starts

    def inside(self, gate: Tensor, output: Tensor) -> Tensor:
        """See :class:`imac_torch.neurons.neuron.Core`."""
        return self.table.inside(gate, output)


def build_core(spec: NeuronSpec, *, device: torch.device | None = None) -> Core:
    """The exact core of a neuron specification.

    Args:
        spec: The neuron.
        device: Where its tensors live.

    Raises:
        ConfigError: The kind has no native core, model cards are missing, or a table is not
            named or holds for other conditions.
        DataError: A table cannot be read.
    """
    options = spec.options

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=device)

    if spec.kind in {"logistic", "tanh", "relu", "identity"}:
        return BehaviouralCore(
            spec.kind, scalar(spec.vdd), scalar(options.slope), scalar(options.output_resistance)
        )
    if spec.kind == "finfet":
        n, p = transistors(spec)
        return InverterCore(n, p, scalar(spec.vdd))
    if spec.kind == "table":
        return _moved(_measured_core(spec), device)
    raise ConfigError(f"neuron kind {spec.kind!r} has no native model")


def transistors(spec: NeuronSpec) -> tuple[FinFET, FinFET]:
    """The inverter's transistors, n and p.

    Raises:
        ConfigError: The node is not built in and no model directory is given.
    """
    options = spec.options
    return _transistors(
        options.model_directory,
        options.transistor_node,
        options.flavour,
        options.fins,
        spec.temperature,
    )


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


def tabulated_core(spec: NeuronSpec, *, device: torch.device | None = None) -> Core:
    """The core of a specification, transistors replaced by a table of them."""
    if spec.kind != "finfet":
        return build_core(spec, device=device)
    options = spec.options
    core = _inverter_table(
        options.model_directory,
        options.transistor_node,
        options.flavour,
        options.fins,
        spec.temperature,
        spec.vdd,
    )
    return _moved(core, device)


def _moved(core: TableCore, device: torch.device | None) -> TableCore:
    if device is None or device.type == "cpu":
        return core
    table = core.table
    moved = SplineTable(table.coefficients.to(device), table.start, table.step)
    return replace(core, table=moved)


def _measured_core(spec: NeuronSpec) -> TableCore:
    """A characterised sub-circuit; its gate is the neuron's input."""
    name = spec.options.table
    if name is None:
        raise ConfigError(
            "a neuron of kind 'table' needs neuron.table, the file that "
            "imac_torch.characterize(...).save(...) wrote"
        )
    path = Path(name).expanduser()
    try:
        state = path.stat()
    except OSError as error:
        raise ConfigError(f"neuron.table = {name!r} cannot be read: {error.strerror}") from None
    table, core = _read_table(str(path), state.st_mtime_ns, state.st_size)
    table.check(vdd=spec.vdd, temperature=spec.temperature, where=name)
    return core


@lru_cache(maxsize=16)  # by modification time and size: a replaced file is read again
def _read_table(path: str, modified: int, size: int) -> tuple[NeuronTable, TableCore]:
    table = NeuronTable.load(path)
    return table, TableCore.measured(table)


@lru_cache(maxsize=16)  # a pure function of its arguments that takes about a second
def _inverter_table(
    directory: str | None, node: int, flavour: str, fins: int, temperature: float, vdd: float
) -> TableCore:
    n, p = _transistors(directory, node, flavour, fins, temperature)
    return TableCore.of(
        InverterCore(n, p, torch.tensor(vdd, dtype=torch.float64)),
        (-GATE_MARGIN, vdd + GATE_MARGIN),
        (-OUTPUT_MARGIN, vdd + OUTPUT_MARGIN),
    )
