"""Cells with a curved I-V characteristic, and the dense solution of one layer of them.

The circuit is that of the netlist (:mod:`imac_torch.circuit`): wires and amplifiers are linear,
every cell carries a current i(v) of the voltage across it. The dense solution takes any curve, but
small arrays and one layer only; networks are solved in :mod:`imac_torch.dc.curved`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from imac_torch.cells import Cell
from imac_torch.circuit.topology import GROUND, SUPPLY, LayerCircuit
from imac_torch.errors import SolverError
from imac_torch.numeric.modes import lasting
from imac_torch.reference.nodal import DENSE_LIMIT, meeting_voltages, stamp

LARGEST_STEP: Final = 0.5
"""Limit of one Newton step in units of the voltage over which a cell's current bends."""
ROUNDING: Final = 1e-13
"""V. Steps below this are rounding, whatever the tolerance."""


@dataclass(frozen=True)
class NonlinearSolution:
    """Voltages of one layer with nonlinear cells.

    Attributes:
        nodes: (B, nodes) float64, V; neuron outputs are NaN, neurons are not part of it.
        amplifiers: (B, M·L, H) V, outputs of every row and horizontal partition.
        combined: (B, M) V, mean or sum over partitions and slices.
        input_current: (B, N) A, into the input lines.
        iterations: (B,) int64.
        residual: (B,) A, largest violation of Kirchhoff's current law.
        converged: (B,) bool.
    """

    nodes: Tensor
    amplifiers: Tensor
    combined: Tensor
    input_current: Tensor
    iterations: Tensor
    residual: Tensor
    converged: Tensor


def _split(layer: LayerCircuit) -> tuple[LayerCircuit, LayerCircuit, Tensor, Tensor]:
    """The layer without its cells and with ohmic ones; cells' (E, 2) nodes, (E,) conductances."""
    cells = [item for item in layer.elements if item.name in ("rp", "rn")]
    wires = tuple(item for item in layer.elements if item.name not in ("rp", "rn"))
    ohmic = tuple(replace(item, kind="resistor", cell=None) for item in cells)
    linear = replace(layer, elements=wires)
    nodes = torch.cat([torch.from_numpy(item.nodes) for item in cells])
    values = torch.cat([torch.from_numpy(1.0 / item.values) for item in cells])
    return linear, replace(layer, elements=(*wires, *ohmic)), nodes, values


@lasting()
def solve_nonlinear(
    layer: LayerCircuit,
    inputs: Tensor,
    vdd: float,
    cell: Cell,
    *,
    tolerance: float = 1e-12,
    max_iterations: int = 100,
) -> NonlinearSolution:
    """Solve the crossbars of a layer with nonlinear cells.

    Args:
        layer: Of :meth:`IMACNetwork.circuit`; cell resistances are those at small voltages.
        inputs: (B, N) float64, V at the input pins.
        vdd: V, on the bias lines.
        cell: What all cells are.
        tolerance: V, largest update of a converged vector's last step.
        max_iterations: Limit of steps.

    Raises:
        SolverError: The layer is too large, or inputs do not fit.
    """
    if layer.node_count > DENSE_LIMIT:
        raise SolverError(
            f"{layer.name} has {layer.node_count} nodes; a dense solve is limited to {DENSE_LIMIT}"
        )
    if inputs.ndim != 2 or inputs.shape[1] != len(layer.inputs) or inputs.dtype != torch.float64:
        raise SolverError(
            f"inputs must be (B, {len(layer.inputs)}) float64, got {tuple(inputs.shape)} "
            f"{inputs.dtype}"
        )
    linear, ohmic, cells, conductance = _split(layer)
    matrix = stamp(linear).dense()
    out = torch.from_numpy(layer.read_outs.nodes[:, 2].copy())
    neuron_inputs = torch.from_numpy(layer.neurons.nodes[:, 0].copy())
    pins = torch.from_numpy(layer.inputs)
    unknown = torch.ones(layer.node_count, dtype=torch.bool, device="cpu")
    unknown[torch.tensor([GROUND, SUPPLY], device="cpu")] = False
    for known in (pins, out, neuron_inputs, torch.from_numpy(layer.outputs)):
        unknown[known] = False
    free = torch.nonzero(unknown)[:, 0]
    position = torch.full((layer.node_count,), -1, dtype=torch.int64, device="cpu")
    position[free] = torch.arange(len(free), device="cpu")

    batch = inputs.shape[0]
    nodes = torch.zeros(batch, layer.node_count, dtype=torch.float64, device="cpu")
    nodes[:, SUPPLY] = vdd
    nodes[:, pins] = inputs
    # Start from the ohmic circuit: cells at their small-voltage conductance.
    start = stamp(ohmic).dense()
    known = torch.nonzero(~unknown)[:, 0]
    right = -(nodes[:, known] @ start[free][:, known].T)
    nodes[:, free] = torch.linalg.solve(start[free][:, free], right.T).T

    first, second = cells[:, 0], cells[:, 1]
    iterations = torch.zeros(batch, dtype=torch.int64, device="cpu")
    converged = torch.zeros(batch, dtype=torch.bool, device="cpu")
    for _ in range(max_iterations):
        active = torch.nonzero(~converged)[:, 0]
        if len(active) == 0:
            break
        defect, slope, back = _defect(nodes[active], matrix, first, second, conductance, cell)
        for row, sample in enumerate(active.tolist()):
            jacobian = _add_cells(matrix, first, second, slope[row], back[row])[free][:, free]
            step = torch.linalg.solve(jacobian, defect[row, free])
            size = float(step.abs().max())
            limit = LARGEST_STEP * cell.bend
            nodes[sample, free] -= step * min(1.0, limit / size) if size > 0.0 else step
            iterations[sample] += 1
            converged[sample] = size <= max(tolerance, ROUNDING)
    defect, _, _ = _defect(nodes, matrix, first, second, conductance, cell)
    return _finish(layer, nodes, defect, free, pins, out, neuron_inputs, iterations, converged)


def _defect(
    nodes: Tensor,
    matrix: Tensor,
    first: Tensor,
    second: Tensor,
    conductance: Tensor,
    cell: Cell,
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, nodes) A out of every node, (B, E) S of the cells by their first and second node."""
    across = nodes[:, first] - nodes[:, second]
    with torch.no_grad():
        found = cell.currents(conductance.expand_as(across), across, nodes[:, second])
    leaving = nodes @ matrix.T
    leaving.index_add_(1, first, found.current)
    into = found.current if found.leak is None else found.current + found.leak
    leaving.index_add_(1, second, -into)
    return leaving, found.slope, found.chord


def _add_cells(
    matrix: Tensor, first: Tensor, second: Tensor, slope: Tensor, back: Tensor
) -> Tensor:
    """With the conductances of cells; those of leaks, far smaller, are left out."""
    result = matrix.clone()
    for rows, columns, values in (
        (first, first, slope), (second, second, back),
        (first, second, -back), (second, first, -slope),
    ):  # fmt: skip
        result.index_put_((rows, columns), values, accumulate=True)
    return result


def _finish(
    layer: LayerCircuit,
    nodes: Tensor,
    defect: Tensor,
    free: Tensor,
    pins: Tensor,
    out: Tensor,
    neuron_inputs: Tensor,
    iterations: Tensor,
    converged: Tensor,
) -> NonlinearSolution:
    array = layer.read_outs
    plus = torch.from_numpy(array.nodes[:, 0].copy())
    minus = torch.from_numpy(array.nodes[:, 1].copy())
    if array.references is not None:
        minus = torch.from_numpy(array.references)
    of_plus, of_minus = array.read_out.stamp().output
    outputs = of_plus * nodes[:, plus] + of_minus * nodes[:, minus]
    nodes[:, out] = outputs
    # Labels run over rows, then partitions.
    by_row = outputs.reshape(len(nodes), int(array.labels[:, 0].max()), -1)
    if layer.sums is None:
        combined = meeting_voltages(layer, outputs)
    else:
        terms = torch.from_numpy(layer.sums.terms)
        combined = nodes[:, terms] @ torch.from_numpy(layer.sums.factors)
    nodes[:, neuron_inputs] = combined
    nodes[:, torch.from_numpy(layer.outputs)] = torch.nan
    return NonlinearSolution(
        nodes,
        by_row,
        combined,
        defect[:, pins],
        iterations,
        defect[:, free].abs().amax(-1),
        converged,
    )
