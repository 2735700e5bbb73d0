"""Drivers for external simulators, and parsers for what they write."""

from imac_torch.netlist.job import SimulationJob
from imac_torch.simulator.batch import Progress, content_digest, run_jobs
from imac_torch.simulator.engine import Simulator, Spice
from imac_torch.simulator.hspice import HSpice
from imac_torch.simulator.hspice_post import read_post
from imac_torch.simulator.hspice_text import (
    Listing,
    MeasureTable,
    parse_listing,
    read_measure_file,
)
from imac_torch.simulator.ngspice import NgSpice
from imac_torch.simulator.process import ProcessOutput, run_process
from imac_torch.simulator.rawfile import read_raw
from imac_torch.simulator.result import SimulationOutcome, SimulationResult
from imac_torch.simulator.solve import SpiceSolution, check, read_results, solve_netlists

__all__ = [
    "HSpice",
    "Listing",
    "MeasureTable",
    "NgSpice",
    "ProcessOutput",
    "Progress",
    "SimulationJob",
    "SimulationOutcome",
    "SimulationResult",
    "Simulator",
    "Spice",
    "SpiceSolution",
    "check",
    "content_digest",
    "parse_listing",
    "read_measure_file",
    "read_post",
    "read_raw",
    "read_results",
    "run_jobs",
    "run_process",
    "solve_netlists",
]
