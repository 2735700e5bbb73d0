"""Check the native engine against a simulator, node by node, on a few samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imac_torch.circuit.topology import LayerCircuit
from imac_torch.dc.ir_drop import CellVoltages, cell_voltages
from imac_torch.errors import SimulatorError, SolverError
from imac_torch.model.network import IMACNetwork
from imac_torch.netlist import NetlistSettings
from imac_torch.numeric.modes import lasting
from imac_torch.results.solution import failures_in_words
from imac_torch.simulator import NgSpice
from imac_torch.study.deck import simulate_first


@dataclass(frozen=True)
class Verification:
    """Largest differences between the native engine and a simulator.

    Attributes:
        samples: Number of samples compared.
        simulator: Name and version.
        output_difference: V, over the network's outputs.
        node_differences: V, over every node on the lines of the layer's crossbars (with ideal
            wires: over their ends), by layer name.
        nodes: Number of nodes compared per sample.
        power_difference: Of the total power, relative.
    """

    samples: int
    simulator: str
    output_difference: float
    node_differences: dict[str, float]
    nodes: int
    power_difference: float

    @property
    def node_difference(self) -> float:
        """V, the largest over all layers."""
        return max(self.node_differences.values())

    def __str__(self) -> str:
        """One line per figure."""
        layers = ", ".join(f"{name} {value:.2g} V" for name, value in self.node_differences.items())
        return (
            f"native against {self.simulator}, {self.samples} samples, {self.nodes} nodes each\n"
            f"  largest difference of an output: {self.output_difference:.2g} V\n"
            f"  largest difference of a node: {layers}\n"
            f"  largest relative difference of the power: {self.power_difference:.2g}"
        )


@lasting()
def verify_nodes(
    network: IMACNetwork,
    loader: Iterable[object],
    samples: int = 2,
    *,
    simulator: NgSpice | None = None,
    directory: str | Path | None = None,
    trust: bool = False,
    amplifier: str | Path | None = None,
) -> Verification:
    """Solve the first samples of a loader again in ngspice and compare every node.

    Args:
        network: A converted model.
        loader: Yields pairs (inputs, labels).
        samples: How many.
        simulator: None: ``ngspice`` on the path.
        directory: Where to keep the netlists; None: a temporary directory.
        trust: Take sub-circuit files as they are; see :func:`imac_torch.compile`.
        amplifier: File with a sub-circuit in the place of every read-out, see
            :func:`imac_torch.compile`; then the difference is what it makes.

    Raises:
        SimulatorNotFoundError: ngspice is not installed.
        SimulatorError: ngspice failed on a sample, or does not know a node.
        SolverError: A sample is not solved natively, or a map of voltages inside the arrays cannot
            be had.
    """
    simulator = NgSpice() if simulator is None else simulator
    version = simulator.version()
    circuit = network.circuit()
    settings = NetlistSettings(analysis="dc", images_per_netlist=samples, save="all")
    inputs, spice = simulate_first(
        network, loader, samples, simulator, settings, directory=directory, trust=trust,
        amplifier=amplifier,
    )  # fmt: skip
    data = spice.outcomes[0].unwrap().waveforms
    prepared = network.prepare()
    native = network.segment.native.solve(prepared, inputs.to(network.device))
    if not bool(native.converged.all()):
        raise SolverError(
            f"{int((~native.converged).sum())} of {len(inputs)} samples have no native solution to "
            f"compare nodes with: {failures_in_words(native.status)}"
        )
    if data is None or native.power is None or spice.solution.power is None:
        raise SimulatorError("ngspice left no node voltages")
    differences, nodes = {}, 0
    for layer, analog, static, solved in zip(
        circuit.layers, network.analog_layers(), prepared.layers, native.layers, strict=True
    ):
        bias = torch.full_like(solved.inputs[:, :1], circuit.vdd)
        crossbar = analog.matrix.crossbar()
        drawn = static.neuron.static_power(static.vdd, solved.gates, solved.outputs).drawn
        inside = cell_voltages(crossbar, torch.cat([solved.inputs, bias], dim=1), drawn)
        found = _node_voltages(layer, inside, crossbar.column_ends)
        names = layer.node_names()
        worst = 0.0
        for index, voltages in found:
            theirs = _read(data, layer, names[index.reshape(-1)], len(inputs))
            ours = voltages.reshape(len(inputs), -1).cpu().numpy()
            worst = max(worst, float(np.abs(ours - theirs).max()))
            nodes += ours.shape[1]
        differences[layer.name] = worst
    outputs = (native.outputs.cpu() - spice.solution.outputs).abs().max()
    power = (native.power.total.cpu() / spice.solution.power.total - 1.0).abs().max()
    return Verification(
        len(inputs), f"ngspice {version}", float(outputs), differences, nodes, float(power)
    )


def _node_voltages(
    layer: LayerCircuit, inside: CellVoltages, ends: tuple[int, ...]
) -> list[tuple[np.ndarray, Tensor]]:
    """Node indices and the native voltages (B, …) at them; merged nodes of ideal wires left out."""
    found: list[tuple[np.ndarray, Tensor]] = []
    present = {array.name: array.index for array in layer.node_arrays}
    for name, voltages in (
        ("a", inside.cell),
        ("p", inside.positive),
        ("n", inside.negative),
    ):
        if name in present:
            found.append((present[name], voltages))
    # The I± ends: every column knows that of its partition, the last one of each is enough.
    for name, voltages in (("pe", inside.positive_end), ("ne", inside.negative_end)):
        found.append((present[name], voltages[..., [end - 1 for end in ends]]))
    return found


def _read(
    data: dict[str, np.ndarray], layer: LayerCircuit, names: np.ndarray, samples: int
) -> np.ndarray:
    """(B, nodes) V of nodes inside a layer's sub-circuit."""
    result = np.empty((samples, len(names)))
    for column, name in enumerate(names.tolist()):
        key = f"v(x{layer.name}.{name})"
        if key not in data:
            raise SimulatorError(f"ngspice knows no node {key}; was the run made by this version?")
        result[:, column] = data[key]
    return result
