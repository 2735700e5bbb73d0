"""The complete, frozen, typed and validated description of a circuit and its surroundings.

All values are SI. Lengths that scale with the technology are given in metres or left ``None``,
in which case they follow from ``tech_node`` (λ) as documented per field. The correspondence to
the inputs of IMAC-Sim is in each field's text (``IMAC-Sim: name``).
"""

from imac_torch.config.array import Crossbar, Interconnect, Memristor
from imac_torch.config.borders import Converter, Driver
from imac_torch.config.config import SCHEMA, UNSET, Config, LayerConfig
from imac_torch.config.mapping import LARGEST_WEIGHT_BITS, WeightMapping
from imac_torch.config.operation import Noise, Supplies, Timing
from imac_torch.config.periphery import Amplifier, Neuron
from imac_torch.config.quantity import Quantity
from imac_torch.config.reading import CONDITIONS, Place, Unread, unread_settings
from imac_torch.config.section import Section
from imac_torch.config.technology import (
    ACCESS,
    ASSUMED_CELLS,
    BIT_CELL_LENGTHS,
    BIT_CELL_WIDTH,
    DEVICES,
    MODELS,
    NODES,
)

__all__ = [
    "ACCESS",
    "ASSUMED_CELLS",
    "BIT_CELL_LENGTHS",
    "BIT_CELL_WIDTH",
    "CONDITIONS",
    "DEVICES",
    "LARGEST_WEIGHT_BITS",
    "MODELS",
    "NODES",
    "SCHEMA",
    "UNSET",
    "Amplifier",
    "Config",
    "Converter",
    "Crossbar",
    "Driver",
    "Interconnect",
    "LayerConfig",
    "Memristor",
    "Neuron",
    "Noise",
    "Place",
    "Quantity",
    "Section",
    "Supplies",
    "Timing",
    "Unread",
    "WeightMapping",
    "unread_settings",
]
