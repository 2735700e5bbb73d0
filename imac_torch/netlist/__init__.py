"""Netlists of a circuit for HSPICE, ngspice, and dialects of your own."""

from imac_torch.netlist.hspice import HSpiceWriter
from imac_torch.netlist.inverter import (
    Inverter,
    card_inverter,
    library_inverter,
    table_inverter,
)
from imac_torch.netlist.job import SimulationJob
from imac_torch.netlist.ngspice import NgSpiceWriter
from imac_torch.netlist.osdi import osdi_inverter
from imac_torch.netlist.run import NetlistBatch, NetlistRun, read_netlists, write_netlists
from imac_torch.netlist.settings import NetlistSettings
from imac_torch.netlist.subcircuits import Subcircuit, read_subcircuit
from imac_torch.netlist.writer import BatchDeck, NetlistWriter, register_dialect

__all__ = [
    "BatchDeck",
    "HSpiceWriter",
    "Inverter",
    "NetlistBatch",
    "NetlistRun",
    "NetlistSettings",
    "NetlistWriter",
    "NgSpiceWriter",
    "SimulationJob",
    "Subcircuit",
    "card_inverter",
    "library_inverter",
    "osdi_inverter",
    "read_netlists",
    "read_subcircuit",
    "register_dialect",
    "table_inverter",
    "write_netlists",
]
