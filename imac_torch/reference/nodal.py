"""The stamped circuit: nodal analysis of one layer's linear part, node by node.

This is the slow, obvious way; the native solver is tested against it, and it serves where every
node voltage of a small circuit is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imac_torch.circuit.topology import GROUND, SUPPLY, LayerCircuit
from imac_torch.errors import SolverError

DENSE_LIMIT = 20_000
"""Unknowns above which a dense solve is refused."""


@dataclass(frozen=True)
class NodalSystem:
    """Currents of a layer's linear part as a function of its node voltages.

    Attributes:
        rows: (K,) int64, node whose current a coefficient belongs to.
        columns: (K,) int64, node whose voltage it multiplies.
        values: (K,) float64, S; duplicates add up.
        node_count: Ground and vdd included.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    node_count: int

    def dense(self) -> Tensor:
        """(nodes, nodes) float64 conductance matrix, S: current out of each node."""
        matrix = torch.zeros(self.node_count, self.node_count, dtype=torch.float64, device="cpu")
        return matrix.index_put_((self.rows, self.columns), self.values, accumulate=True)


def stamp(layer: LayerCircuit) -> NodalSystem:
    """Conductances of resistors and the input side of read-outs.

    Their outputs, level shifts and neurons are not in it: outputs are ideal sources, given by
    the voltages of the line ends.

    Returns:
        The system; rows sum to the current leaving a node into the linear elements.

    Raises:
        SolverError: Cells are not linear.
    """
    rows, columns, values = [], [], []

    def couple(first: np.ndarray, second: np.ndarray, conductance: np.ndarray) -> None:
        rows.extend([first, first, second, second])
        columns.extend([first, second, second, first])
        values.extend([conductance, -conductance, conductance, -conductance])

    if any(element.kind == "cell" for element in layer.elements):
        raise SolverError(f"{layer.name} has curved cells; see imac_torch.reference.nonlinear")
    for element in layer.elements:
        if element.kind == "resistor" and element.name != "ro":
            couple(element.nodes[:, 0], element.nodes[:, 1], 1.0 / element.values)
    ends = layer.read_outs.nodes[:, 0], layer.read_outs.nodes[:, 1]
    for row, coefficients in zip(ends, layer.read_outs.read_out.stamp().drawn, strict=True):
        # What does not flow to ground flows into sources, which take what is brought to them.
        known = (*ends, np.full(len(row), GROUND))
        for column, value in zip(known, (*coefficients, -sum(coefficients)), strict=True):
            rows.append(row)
            columns.append(column)
            values.append(np.full(len(row), value))
    return NodalSystem(
        torch.from_numpy(np.concatenate(rows)),
        torch.from_numpy(np.concatenate(columns)),
        torch.from_numpy(np.concatenate(values)),
        layer.node_count,
    )


def solve_layer(layer: LayerCircuit, inputs: Tensor, vdd: float) -> Tensor:
    """Every node voltage of a layer's linear part for given input pin voltages, densely.

    Args:
        layer: The layer; wire capacitances are open.
        inputs: (B, N) float64, V.
        vdd: V.

    Returns:
        (B, nodes) float64, V. Amplifier outputs and neuron inputs are filled in as for an
        unloaded neuron input; neuron outputs are NaN, because neurons are not part of it.

    Raises:
        SolverError: The layer is too large for a dense solve, or its amplifiers are not linear.
    """
    if layer.node_count > DENSE_LIMIT:
        raise SolverError(
            f"{layer.name} has {layer.node_count} nodes; a dense solve is limited to {DENSE_LIMIT}"
        )
    if not layer.read_outs.read_out.ideal:
        raise SolverError(f"{layer.name}: amplifiers with offset or swing are not stamped")
    matrix = stamp(layer).dense()
    shape = (inputs.shape[0], layer.node_count)
    voltages = torch.full(shape, torch.nan, dtype=torch.float64, device="cpu")
    plus, minus, out = (torch.from_numpy(layer.read_outs.nodes[:, k].copy()) for k in range(3))
    neuron_inputs = torch.from_numpy(layer.neurons.nodes[:, 0].copy())
    rails = torch.tensor([GROUND, SUPPLY], device="cpu")
    known = torch.cat([rails, torch.from_numpy(layer.inputs)])
    excluded = torch.cat([known, out, neuron_inputs, torch.from_numpy(layer.outputs)])
    unknown_mask = torch.ones(layer.node_count, dtype=torch.bool, device="cpu")
    unknown_mask[excluded] = False
    unknown = torch.nonzero(unknown_mask).squeeze(1)
    voltages[:, GROUND] = 0.0
    voltages[:, SUPPLY] = vdd
    voltages[:, torch.from_numpy(layer.inputs)] = inputs
    right = -(voltages[:, known] @ matrix[unknown][:, known].T)
    voltages[:, unknown] = torch.linalg.solve(matrix[unknown][:, unknown], right.T).T
    of_plus, of_minus = layer.read_outs.read_out.stamp().output
    if layer.read_outs.references is not None:
        minus = torch.from_numpy(layer.read_outs.references)
    voltages[:, out] = of_plus * voltages[:, plus] + of_minus * voltages[:, minus]
    if layer.sums is not None:
        terms = torch.from_numpy(layer.sums.terms)
        factors = torch.from_numpy(layer.sums.factors)
        voltages[:, torch.from_numpy(layer.sums.outputs)] = voltages[:, terms] @ factors
    else:
        voltages[:, neuron_inputs] = meeting_voltages(layer, voltages[:, out])
    return voltages


def meeting_voltages(layer: LayerCircuit, amplifiers: Tensor) -> Tensor:
    """Unloaded neuron inputs at which amplifier outputs meet through resistances.

    Args:
        layer: Whose partitions are averaged.
        amplifiers: (B, E) V, outputs in the layer's order of amplifiers.

    Returns:
        (B, M) V: the mean, weighted with the conductances from the amplifiers.
    """
    (tie,) = (item for item in layer.elements if item.name == "ro")
    position = torch.full((layer.node_count,), -1, dtype=torch.int64, device="cpu")
    position[layer.neurons.nodes[:, 0]] = torch.arange(len(layer.neurons.nodes), device="cpu")
    where = position[torch.from_numpy(tie.nodes[:, 1])]
    conductance = torch.from_numpy(1.0 / tie.values)
    total = torch.zeros(len(layer.neurons.nodes), dtype=torch.float64, device="cpu")
    total.index_add_(0, where, conductance)
    voltages = torch.zeros(len(amplifiers), len(total), dtype=torch.float64, device="cpu")
    return voltages.index_add_(1, where, amplifiers * conductance) / total
