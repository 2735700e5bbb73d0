"""A sub-circuit of the user's, characterised into a table."""

from __future__ import annotations

from functools import lru_cache

import torch

from imac_torch.errors import ConfigError, NetlistError
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.activations import SIGMOID
from imac_torch.periphery.neuron.base import COMMON_FIELDS, NeuronKind, NeuronSpec
from imac_torch.periphery.neuron.core import CPU, Core
from imac_torch.periphery.neuron.neurontable import NeuronTable
from imac_torch.periphery.neuron.tabulated import TableCore


class TableNeuron(NeuronKind):
    """A falling sigmoid as somebody's circuit has it; its gate is the neuron's input."""

    name = "table"
    activation = SIGMOID
    # The last three are parameters of the sub-circuit, if it declares them.
    reads = COMMON_FIELDS | {"table", "slope", "output_resistance", "fins"}
    characterised = True

    def digest(self, spec: NeuronSpec) -> str | None:
        """See :class:`NeuronKind`."""
        return _measured(spec)[0].digest

    def core(self, spec: NeuronSpec, *, device: torch.device = CPU) -> Core:
        """See :class:`NeuronKind`."""
        return _measured(spec)[1].to(device)

    def input_range(self, spec: NeuronSpec) -> tuple[float, float]:
        """See :class:`NeuronKind`: where it was measured."""
        table = _measured(spec)[1].table
        return table.start[0], table.end[0]

    def subcircuit(self, spec: NeuronSpec) -> str:
        """See :class:`NeuronKind`."""
        raise NetlistError(
            "a neuron of kind 'table' has no netlist of its own; name the sub-circuit file it was "
            "characterised from (neuron.subcircuit)"
        )


def tabulate(table: NeuronTable) -> TableCore:
    """The core of a characterised neuron: its gate is the neuron's input."""
    # Nothing bounds a start: the gate follows the amplifiers, and the output is monotonic.
    starts = (-torch.inf, torch.inf, table.vdd / 2)
    return TableCore(table.spline(), starts, table.input_scale, table.supply_scale)


def _measured(spec: NeuronSpec) -> tuple[NeuronTable, TableCore]:
    """A characterised sub-circuit."""
    name = spec.named_file("table")
    if name is None:
        raise ConfigError(
            "a neuron of kind 'table' needs neuron.table, the file that "
            "imac_torch.tabulate_neuron(...).save(...) wrote"
        )
    table = NeuronTable.read(name, "neuron.table")
    table.check(vdd=spec.vdd, temperature=spec.temperature, where=name)
    return table, _core(table)


@lru_cache(maxsize=16)
@lasting()
def _core(table: NeuronTable) -> TableCore:
    return tabulate(table)
