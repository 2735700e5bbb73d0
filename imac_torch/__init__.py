"""Circuit-accurate simulation of in-memory analog computing circuits for PyTorch models."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from imac_torch.base.old_names import keep_old_names, old_name
from imac_torch.base.version import VERSION
from imac_torch.config import (
    BIT_CELL_LENGTHS,
    DEVICES,
    NODES,
    Amplifier,
    Config,
    Converter,
    Crossbar,
    Driver,
    Interconnect,
    LayerConfig,
    Memristor,
    Neuron,
    Noise,
    Supplies,
    Timing,
    WeightMapping,
)
from imac_torch.conversion.ablation import ablate
from imac_torch.conversion.calibration import calibrate
from imac_torch.conversion.convert import convert
from imac_torch.conversion.software import to_software
from imac_torch.conversion.storage import load, save
from imac_torch.dc.native import Native
from imac_torch.dc.newton import NewtonOptions
from imac_torch.devices.model import DeviceModel
from imac_torch.devices.presets import device_model
from imac_torch.errors import ImacError
from imac_torch.model.device_numbers import device_parameters, devices_at
from imac_torch.model.linear import IMACLinear
from imac_torch.model.network import IMACNetwork
from imac_torch.model.variation import varied
from imac_torch.periphery.activations import Activation, InverterSigmoid
from imac_torch.periphery.neuron.neurontable import NeuronTable
from imac_torch.results.solution import Status

if TYPE_CHECKING:
    from imac_torch.datasets.imac_sim import read_imac_sim
    from imac_torch.datasets.named import load_dataset
    from imac_torch.netlist import NetlistSettings
    from imac_torch.reports.html_report import write_report
    from imac_torch.reports.report import Report
    from imac_torch.simulator import HSpice, NgSpice, Spice
    from imac_torch.study.deck import Deck, compile
    from imac_torch.study.evaluation import evaluate
    from imac_torch.study.montecarlo import MonteCarlo
    from imac_torch.study.transient_verification import verify_transient
    from imac_torch.study.useramplifier import tabulate_amplifier
    from imac_torch.study.userneuron import tabulate_neuron
    from imac_torch.study.verification import verify_nodes
    from imac_torch.transient.integrator import StepControl
    from imac_torch.transient.options import TimingOptions, TransientOptions

_LATE: Final = {
    "Deck": "imac_torch.study.deck",
    "compile": "imac_torch.study.deck",
    "HSpice": "imac_torch.simulator",
    "NgSpice": "imac_torch.simulator",
    "Spice": "imac_torch.simulator",
    "MonteCarlo": "imac_torch.study.montecarlo",
    "NetlistSettings": "imac_torch.netlist",
    "Report": "imac_torch.reports.report",
    "StepControl": "imac_torch.transient.integrator",
    "TimingOptions": "imac_torch.transient.options",
    "TransientOptions": "imac_torch.transient.options",
    "evaluate": "imac_torch.study.evaluation",
    "load_dataset": "imac_torch.datasets.named",
    "read_imac_sim": "imac_torch.datasets.imac_sim",
    "tabulate_amplifier": "imac_torch.study.useramplifier",
    "tabulate_neuron": "imac_torch.study.userneuron",
    "verify_nodes": "imac_torch.study.verification",
    "verify_transient": "imac_torch.study.transient_verification",
    "write_report": "imac_torch.reports.html_report",
}
"""What converting and solving do not need: it is imported when it is asked for."""

keep_old_names(__name__)

__version__ = VERSION

__all__ = [
    "BIT_CELL_LENGTHS",
    "DEVICES",
    "NODES",
    "Activation",
    "Amplifier",
    "Config",
    "Converter",
    "Crossbar",
    "Deck",
    "DeviceModel",
    "Driver",
    "HSpice",
    "IMACLinear",
    "IMACNetwork",
    "ImacError",
    "Interconnect",
    "InverterSigmoid",
    "LayerConfig",
    "Memristor",
    "MonteCarlo",
    "Native",
    "NetlistSettings",
    "Neuron",
    "NeuronTable",
    "NewtonOptions",
    "NgSpice",
    "Noise",
    "Report",
    "Spice",
    "Status",
    "StepControl",
    "Supplies",
    "Timing",
    "TimingOptions",
    "TransientOptions",
    "WeightMapping",
    "ablate",
    "calibrate",
    "compile",
    "convert",
    "device_model",
    "device_parameters",
    "devices_at",
    "evaluate",
    "load",
    "load_dataset",
    "read_imac_sim",
    "save",
    "tabulate_amplifier",
    "tabulate_neuron",
    "to_software",
    "varied",
    "verify_nodes",
    "verify_transient",
    "write_report",
]


def __getattr__(name: str) -> object:
    """What is imported late, and what version 0.1 had here (:mod:`imac_torch.base.old_names`)."""
    if name in _LATE:
        found = globals()[name] = getattr(import_module(_LATE[name]), name)
        return found
    return old_name(__name__, name)


def __dir__() -> list[str]:
    """Names for completion, those imported late included."""
    return sorted({*globals(), *_LATE})
