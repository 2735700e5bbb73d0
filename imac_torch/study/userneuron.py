"""Bring your own neuron: a sub-circuit file, characterised by SPICE into a table."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.config import Neuron
from imac_torch.config.kinds import DIALECTS
from imac_torch.errors import ConfigError
from imac_torch.netlist import NetlistSettings
from imac_torch.netlist.job import SimulationJob
from imac_torch.netlist.rundir import run_directory, write_run_directory
from imac_torch.netlist.subcircuits import NEURON_PORTS, read_subcircuit
from imac_torch.netlist.testbench import TestBench, subcircuit_digest
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.neurontable import NeuronTable, measure_interpolation
from imac_torch.periphery.neuron.table import TableNeuron
from imac_torch.simulator import Simulator, run_jobs

__all__ = ["tabulate_neuron"]

INPUT_RANGE: Final = (-6.0, 6.0)
"""V. What amplifiers with low-resistance devices reach."""
OUTPUT_MARGIN: Final = 0.1
"""V. Outputs this far beyond the supplies are measured too."""
NODES: Final = (1201, 161)
"""Inputs 10 mV apart, outputs 6 mV at vdd = 0.8 V; about two seconds in ngspice."""
SETTINGS: Final = NetlistSettings(analysis="dc", abstol=1e-13)
"""Tolerances; currents are the result here, so theirs is tighter than in networks."""


def tabulate_neuron(
    path: str | Path,
    simulator: Simulator,
    *,
    vdd: float = 0.8,
    input_range: tuple[float, float] = INPUT_RANGE,
    output_range: tuple[float, float] | None = None,
    nodes: tuple[int, int] = NODES,
    temperature: float = 298.15,
    neuron: Neuron | None = None,
    settings: NetlistSettings = SETTINGS,
    directory: str | Path | None = None,
    trust: bool = False,
) -> NeuronTable:
    """Measure a neuron's static currents over input and output voltage.

    The sub-circuit stands between three voltage sources, and output, input and supply current
    are measured at every node of a grid and, to know what interpolation costs, in the middle of
    every cell. Where its curves have kinks the error falls with the square of the node distance
    only; narrow the ranges, or take more nodes.

    Use the result: ``table.save("mine.safetensors")``, then ``Neuron(kind="table",
    table="mine.safetensors", subcircuit=path)``: native engine and netlists have the same neuron.

    Args:
        path: File with a sub-circuit of ports ``z out vdd``; any name.
        simulator: ``NgSpice()`` or ``HSpice()``.
        vdd: V.
        input_range: V, of the neuron input. Samples whose neurons leave it are reported as
            ``Status.OUTSIDE``.
        output_range: V, of the output; None: the supplies and 0.1 V beyond.
        nodes: Grid points of input and output, at least 5 each.
        temperature: K.
        neuron: Values of the parameters ``slope``, ``rout`` and ``fins``, for sub-circuits that
            declare them; None: the defaults of :class:`imac_torch.Neuron`.
        settings: Tolerances of the simulator.
        directory: Where to keep the netlists and results; None: a temporary directory.
        trust: Take the file and what it includes as they are; see :func:`imac_torch.compile`.

    Raises:
        ConfigError: A range is empty, or there are too few nodes.
        NetlistError: The file cannot be used.
        SimulatorError: The simulator failed; with ``directory`` everything is kept.
    """
    low, high = (-OUTPUT_MARGIN, vdd + OUTPUT_MARGIN) if output_range is None else output_range
    for name, (first, last), count in (
        ("input_range", input_range, nodes[0]),
        ("output_range", (low, high), nodes[1]),
    ):
        if not (math.isfinite(first) and math.isfinite(last) and first < last) or count < 5:
            raise ConfigError(
                f"{name} = ({first}, {last}) V with {count} nodes is not a sweep; give an "
                "ascending range and at least 5 nodes"
            )
    subcircuit = read_subcircuit(Path(path), NEURON_PORTS, trust=trust)
    options = (Neuron() if neuron is None else neuron).replace(kind=TableNeuron.name)
    spec = NeuronSpec(TableNeuron.name, 0.0, math.inf, 0.0, vdd, temperature, options)
    inputs = np.linspace(*input_range, nodes[0])
    outputs = np.linspace(low, high, nodes[1])
    whole = TestBench(subcircuit, spec, inputs, outputs, settings, "nodes")
    middle = replace(whole, inputs=middles(inputs), outputs=middles(outputs), stem="middle")
    with bench_directory(directory) as folder:
        found = simulate_benches([whole, middle], simulator, folder)
    axes = torch.from_numpy(inputs), torch.from_numpy(outputs)
    input_scale, supply_scale, error = measure_interpolation(*axes, *found)
    return NeuronTable(
        inputs=axes[0],
        outputs=axes[1],
        currents=found[0],
        vdd=vdd,
        temperature=temperature,
        input_scale=input_scale,
        supply_scale=supply_scale,
        error=error,
        subcircuit=subcircuit.name,
        digest=subcircuit_digest(subcircuit, spec),
        simulator=f"{simulator.name} {simulator.version()}",
    )


def middles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between neighbouring values."""
    return (values[1:] + values[:-1]) / 2


@contextmanager
def bench_directory(directory: str | Path | None) -> Iterator[Path]:
    if directory is not None:
        yield Path(directory).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="imac_torch_") as temporary:
        yield Path(temporary) / "characterize"


def simulate_benches(
    benches: Sequence[TestBench], simulator: Simulator, folder: Path
) -> list[Tensor]:
    """(P, Q, 3) A per test bench of one sub-circuit, in a folder that is not there yet."""
    writer = DIALECTS.get(simulator.dialect)()
    files = {benches[0].file: benches[0].subcircuit.text}
    jobs = []
    for bench in benches:
        name = f"{bench.stem}{writer.suffix}"
        written = writer.bench(bench)
        files[name] = "\n".join(written.lines) + "\n"
        jobs.append(SimulationJob(folder / name, written.measures, written.waveform_files))
    description = {"dialect": writer.name, "subcircuit": benches[0].subcircuit.name}
    digests = write_run_directory(folder, files, description)
    with run_directory(folder, digests):
        outcomes = run_jobs(simulator, jobs, workers=2)
    return [
        torch.from_numpy(simulator.currents(bench, outcome.unwrap()))
        for bench, outcome in zip(benches, outcomes, strict=True)
    ]
