"""Names that stand for code, and where that code is.

The code is imported when it is first used; a configuration only checks that a name is known.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import AfterValidator

from imac_torch.base.registry import Registry
from imac_torch.errors import NetlistError

__all__ = [
    "ACCESS_KINDS",
    "CELL_KINDS",
    "CONVERTER_KINDS",
    "DEVICE_EFFECTS",
    "DIALECTS",
    "DRIVER_KINDS",
    "ENGINES",
    "NAMED",
    "NEURON_KINDS",
    "READ_OUT_KINDS",
    "known",
]

# One line per kind. Of those that compute the same activation the first is the default.
NEURON_KINDS: Final[Registry[Any]] = Registry(
    "neuron kind",
    {
        "finfet": "imac_torch.periphery.neuron.finfet:FinFETNeuron",
        "logistic": "imac_torch.periphery.neuron.logistic:LogisticNeuron",
        "tanh": "imac_torch.periphery.neuron.tanh:TanhNeuron",
        "relu": "imac_torch.periphery.neuron.relu:ReLUNeuron",
        "hardtanh": "imac_torch.periphery.neuron.hardtanh:HardtanhNeuron",
        "identity": "imac_torch.periphery.neuron.identity:IdentityNeuron",
        "table": "imac_torch.periphery.neuron.table:TableNeuron",
    },
)
"""Kinds of activation circuits: :class:`imac_torch.periphery.neuron.NeuronKind`."""

READ_OUT_KINDS: Final[Registry[Any]] = Registry(
    "read-out",
    {
        "differential": "imac_torch.periphery.readout.differential:Differential",
        "sense_resistor": "imac_torch.periphery.readout.sense:SenseResistor",
        "current_mirror": "imac_torch.periphery.readout.mirror:CurrentMirror",
        "transimpedance": "imac_torch.periphery.readout.transimpedance:Transimpedance",
        "reference_column": "imac_torch.periphery.readout.reference:ReferenceColumn",
    },
    instantiate=False,
)
"""Classes of :class:`imac_torch.periphery.readout.ReadOut`."""

_BORDER: Final = "imac_torch.periphery.border"

DRIVER_KINDS: Final[Registry[Any]] = Registry(
    "driver",
    {
        "ideal": None,  # nothing is there, and nobody asks it
        "dac": f"{_BORDER}.dac:Dac",
        "bit_serial": f"{_BORDER}.bit_serial:BitSerial",
    },
    instantiate=False,
)
"""Classes of :class:`imac_torch.periphery.border.DriverKind`."""

CONVERTER_KINDS: Final[Registry[Any]] = Registry(
    "converter",
    {
        "ideal": None,
        "flash": f"{_BORDER}.flash:Flash",
        "sar": f"{_BORDER}.sar:Sar",
        "ramp": f"{_BORDER}.ramp:Ramp",
    },
    instantiate=False,
)
"""Classes of :class:`imac_torch.periphery.border.ConverterKind`."""

_EFFECTS: Final = "imac_torch.devices.effects"
_AGING: Final = "imac_torch.devices.aging"
_PRESETS: Final = "imac_torch.devices.presets"

DEVICE_EFFECTS: Final[Registry[Any]] = Registry(
    "device effect",
    {
        "uniform": f"{_EFFECTS}:Uniform",
        "gaussian": f"{_EFFECTS}:Gaussian",
        "log_normal": f"{_EFFECTS}:LogNormal",
        "state_spread": f"{_EFFECTS}:StateSpread",
        "stuck": f"{_EFFECTS}:Stuck",
        "levels": f"{_EFFECTS}:Levels",
        "read_noise": f"{_EFFECTS}:ReadNoise",
        "flicker": f"{_EFFECTS}:Flicker",
        "telegraph": f"{_EFFECTS}:Telegraph",
        "drift": f"{_EFFECTS}:Drift",
        "temperature": f"{_EFFECTS}:Temperature",
        "activated": f"{_EFFECTS}:Activated",
        "fault_map": f"{_EFFECTS}:FaultMap",
        "write_verify": "imac_torch.devices.programming:WriteVerify",
        "retention": f"{_AGING}:Retention",
        "read_disturb": f"{_AGING}:ReadDisturb",
        "endurance": f"{_AGING}:Endurance",
        "compensation": f"{_AGING}:Compensation",
        "factors": f"{_EFFECTS}:Factors",
        "pcm_programming": f"{_PRESETS}:PCMProgramming",
        "pcm_drift": f"{_PRESETS}:PCMDrift",
        "pcm_read_noise": f"{_PRESETS}:PCMReadNoise",
        "rram_programming": f"{_PRESETS}:RRAMProgramming",
        "rram_relaxation": f"{_PRESETS}:RRAMRelaxation",
    },
    instantiate=False,
)
"""Classes of :class:`imac_torch.devices.model.Effect`."""

_CELLS: Final = "imac_torch.cells"

CELL_KINDS: Final[Registry[Any]] = Registry(
    "cell",
    {
        "sinh": f"{_CELLS}.sinh:Sinh",
        "mtj": f"{_CELLS}.mtj:TunnelJunction",
        "pcm": f"{_CELLS}.pcm:PhaseChange",
        "table": f"{_CELLS}.table:Table",
        "fefet": f"{_CELLS}.gated:ThresholdTransistor",
        "flash": f"{_CELLS}.gated:ThresholdTransistor",
    },
    instantiate=False,
)
"""Classes of :class:`imac_torch.cells.Cell`: memory devices whose current is no straight line."""

ACCESS_KINDS: Final[Registry[Any]] = Registry(
    "access device",
    {
        "resistor": f"{_CELLS}.resistor:Resistor",
        "diode": f"{_CELLS}.diode:Diode",
        "selector": f"{_CELLS}.diode:Selector",
        "finfet": f"{_CELLS}.finfet:AccessTransistor",
        "read_transistor": f"{_CELLS}.gated:ReadTransistor",
    },
    instantiate=False,
)
"""Classes of :class:`imac_torch.cells.Access`: what stands in series with a memory device."""

NAMED: Final = {"effects": DEVICE_EFFECTS, "cell": CELL_KINDS, "access": ACCESS_KINDS}
"""Registries of the fields of the configuration's section device that are tables by name."""

ENGINES: Final[Registry[Any]] = Registry(
    "engine",
    {
        "native": "imac_torch.dc.native:Native",
        "ngspice": "imac_torch.simulator.ngspice:NgSpice",
        "hspice": "imac_torch.simulator.hspice:HSpice",
    },
    instantiate=False,
)
"""Classes of :class:`imac_torch.circuit.engine.Engine`."""

DIALECTS: Final[Registry[Any]] = Registry(
    "dialect",
    {
        "ngspice": "imac_torch.netlist.ngspice:NgSpiceWriter",
        "hspice": "imac_torch.netlist.hspice:HSpiceWriter",
    },
    instantiate=False,
    error=NetlistError,
)
"""Classes of :class:`imac_torch.netlist.NetlistWriter`."""


def known(registry: Registry[Any]) -> AfterValidator:
    """Says that a field holds a name of a registry."""

    def check(name: str) -> str:
        if name not in registry:
            raise ValueError(registry.unknown(name))
        return name

    return AfterValidator(check)
