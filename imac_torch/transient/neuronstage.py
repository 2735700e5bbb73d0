"""Neurons of one layer within one stage of a time step: Newton's method, in torch or compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.dc.load import Blocks, Load
from imac_torch.errors import SolverError
from imac_torch.kernels.compiled import obstacle
from imac_torch.kernels.threads import run_blocks
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.neuron.core import Charges
from imac_torch.periphery.neuron.spline import SplineTable
from imac_torch.periphery.neuron.tabulated import CHARGE_SCALE, TableCharges, TableCore

LARGEST_CHANGE = 0.1
"""V. Newton's updates are shortened to this."""
LINEAR_TOLERANCE = 1e-4
"""Relative accuracy of the linear systems within Newton's method."""


@dataclass(frozen=True)
class NeuronTables:
    """Currents and charges of tabulated neurons on one grid, for the compiled kernel.

    Attributes:
        table: (P+2, Q+2, 6) spline coefficients.
        grid: (9,) both axes and the scales, see :func:`imac_torch.kernels.transient.solve_stage`.
    """

    table: NDArray[np.float64]
    grid: NDArray[np.float64]

    @classmethod
    def of(cls, core: TableCore, charges: TableCharges) -> NeuronTables:
        """Put the charges on the grid of the currents."""
        currents = core.table
        nodes = currents.nodes
        gate, output = (
            torch.linspace(
                currents.start[k], currents.end[k], nodes[k], dtype=torch.float64, device="cpu"
            )
            for k in range(2)
        )
        values = charges.table(*torch.meshgrid(gate, output, indexing="ij")).value
        resampled = SplineTable.fit(gate, output, values)
        table = torch.cat([currents.coefficients, resampled.coefficients], dim=-1)
        axes = [(currents.start[k], currents.end[k], 1.0 / currents.step[k]) for k in range(2)]
        scales = [core.gate_scale, core.supply_scale, CHARGE_SCALE]
        return cls(table.contiguous().numpy(), np.array([*axes[0], *axes[1], *scales]))


@dataclass(frozen=True)
class DynamicNeurons:
    """The neurons of a layer with everything that holds charge at them.

    Attributes:
        circuit: Core and resistors.
        charges: Of the core.
        gate_capacitance: F from every gate to ground, besides.
        capacitance: (M,) F from every output to ground, besides.
        tables: For the compiled kernel, where it can serve.
    """

    circuit: NeuronCircuit
    charges: Charges
    gate_capacitance: float
    capacitance: Tensor
    tables: NeuronTables | None

    @classmethod
    def of(
        cls,
        circuit: NeuronCircuit,
        charges: Charges,
        gate_capacitance: float,
        capacitance: Tensor,
        *,
        kernel: str = "auto",
    ) -> DynamicNeurons:
        """Choose the kernel.

        Raises:
            SolverError: The compiled kernel was asked for where it cannot serve.
        """
        core = circuit.core
        tables = None
        able = capacitance.device.type == "cpu"
        if isinstance(core, TableCore) and isinstance(charges, TableCharges) and able:
            problem = obstacle()
            if kernel == "numba" and problem is not None:
                raise SolverError(f"the numba kernel cannot be used: {problem}; use kernel='auto'")
            if kernel != "torch" and problem is None:
                tables = NeuronTables.of(core, charges)
        elif kernel == "numba":
            raise SolverError(
                "the numba kernel takes tabulated neurons on the CPU only; use kernel='auto'"
            )
        return cls(circuit, charges, gate_capacitance, capacitance, tables)

    def state(self, gates: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Charges at gates, outputs and vdd, (B, M) C each."""
        own = self.charges.values(gates, outputs)
        output = own.output + self.capacitance * outputs
        return own.gate + self.gate_capacitance * gates, output, own.supply

    def static(self, gates: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Gate and supply current of the cores, (B, M) A each."""
        values = self.circuit.core.values(gates, outputs)
        return values.gate, values.supply


class Linearised(NamedTuple):
    """The last Newton system, gates eliminated: (diag(d) + Y)·du = r, dg = dg₀ + coupling·du.

    Attributes:
        diagonal: (B, M) S.
        transfer: (B, M) S, output current per gate voltage.
        gate: (B, M), derivative of the gate equation.
        coupling: (B, M), gate voltage per output voltage.
        gate_by_gate: (B, M) F, of the gate's charge.
        gate_by_output: (B, M) F.
        output_by_gate: (B, M) F, of the output's charge.
        output_by_output: (B, M) F.
    """

    diagonal: Tensor
    transfer: Tensor
    gate: Tensor
    coupling: Tensor
    gate_by_gate: Tensor
    gate_by_output: Tensor
    output_by_gate: Tensor
    output_by_output: Tensor


class StageSolution(NamedTuple):
    """Neurons at the end of a stage; (B, M) each: V, C, A."""

    gates: Tensor
    outputs: Tensor
    gate_charge: Tensor
    output_charge: Tensor
    supply_charge: Tensor
    gate_current: Tensor
    supply_current: Tensor
    system: Linearised
    converged: Tensor


class StageInputs(NamedTuple):
    """What a stage prescribes.

    Attributes:
        sigma: 1/s.
        combined: (B, M) V at the neuron inputs.
        offset: (B, M) A drawn besides the load's admittance times the outputs.
        gate_history: (B, M) A.
        output_history: (B, M) A.
        gates: (B, M) V, guess.
        outputs: (B, M) V, guess.
    """

    sigma: float
    combined: Tensor
    offset: Tensor
    gate_history: Tensor
    output_history: Tensor
    gates: Tensor
    outputs: Tensor


class Charged(NamedTuple):
    """Changes of a layer's charges, and of what reaches it.

    Attributes:
        gate: (B, M) C, of the gates' charges.
        output: (B, M) C, of the outputs' charges.
        combined: (B, M) V, of the neuron inputs.
        currents: (B, M) A, of what the next layer draws besides; None: none.
    """

    gate: Tensor
    output: Tensor
    combined: Tensor
    currents: Tensor | None


class StageLoad:
    """The next layer in a stage, and its compiled form where that is asked for."""

    def __init__(self, load: Load | None, neurons: int) -> None:
        self.load = load
        self.neurons = neurons
        self._blocks: Blocks | None = None

    @property
    def blocks(self) -> Blocks:
        """Plain arrays, made when first used."""
        if self._blocks is None:
            self._blocks = (
                Blocks.unloaded(1, self.neurons) if self.load is None else Blocks.of(self.load)
            )
        return self._blocks

    def solve(self, diagonal: Tensor, right: Tensor, tolerance: float) -> Tensor:
        """(diag(d) + Y)·x = r in torch; (B, M) each."""
        if self.load is None:
            return right / diagonal
        return self.load.solve(diagonal[None], right[None], tolerance=tolerance)[0]

    def product(self, voltages: Tensor) -> Tensor:
        """Y·u, (B, M) A."""
        if self.load is None:
            return torch.zeros_like(voltages)
        return self.load.product(voltages[None])[0]


def solve_stage(
    neurons: DynamicNeurons,
    inputs: StageInputs,
    load: StageLoad,
    *,
    tolerance: float,
    limit: int,
) -> StageSolution:
    """Solve one layer.

    The gate equation is that of :class:`imac_torch.periphery.neuron.circuit.NeuronCircuit` less
    dQ_gate/dt, the output equation less dQ_output/dt, with dQ/dt = σ·Q - history.

    Args:
        neurons: The layer.
        inputs: What the stage prescribes.
        load: The next layer.
        tolerance: V, of the last update.
        limit: Largest number of iterations.

    Returns:
        The solution; ``converged`` (B,) tells where it is one.
    """
    if neurons.tables is not None:
        return _compiled(neurons, neurons.tables, inputs, load, tolerance, limit)
    return _batched(neurons, inputs, load, tolerance, limit)


def _compiled(
    neurons: DynamicNeurons,
    tables: NeuronTables,
    inputs: StageInputs,
    load: StageLoad,
    tolerance: float,
    limit: int,
) -> StageSolution:
    from imac_torch.kernels import transient as kernels

    blocks = load.blocks
    gates, outputs = inputs.gates.clone(), inputs.outputs.clone()
    results = gates.new_empty(5, *gates.shape)
    system = gates.new_empty(8, *gates.shape)
    converged = np.zeros((len(gates), len(blocks.first) - 1), dtype=np.bool_)
    circuit = neurons.circuit
    run_blocks(
        kernels.solve_stage,
        kernels.tile_count(len(gates), len(blocks.first) - 1),
        torch.get_num_threads(),
        inputs.combined.contiguous().numpy(),
        inputs.offset.contiguous().numpy(),
        inputs.gate_history.contiguous().numpy(),
        inputs.output_history.contiguous().numpy(),
        gates.numpy(),
        outputs.numpy(),
        results.numpy(),
        system.numpy(),
        converged,
        blocks.admittance[0],
        blocks.first,
        blocks.left[0],
        blocks.right[0],
        load.load is not None,
        tables.table,
        tables.grid,
        np.array([
            float(circuit.input_resistance),
            float(circuit.feedback_conductance),
            float(circuit.level_shift),
            inputs.sigma,
            neurons.gate_capacitance,
        ]),
        neurons.capacitance.contiguous().numpy(),
        tolerance,
        limit,
        LARGEST_CHANGE,
    )
    return StageSolution(
        gates, outputs, results[0], results[1], results[2], results[3], results[4],
        Linearised(*system.unbind(0)), torch.from_numpy(converged.all(axis=-1)),
    )


def _batched(
    neurons: DynamicNeurons, inputs: StageInputs, load: StageLoad, tolerance: float, limit: int
) -> StageSolution:
    circuit, sigma = neurons.circuit, inputs.sigma
    resistance, feedback = circuit.input_resistance, circuit.feedback_conductance
    gates, outputs = inputs.gates, inputs.outputs
    converged = torch.zeros(len(gates), dtype=torch.bool, device=gates.device)
    system: Linearised | None = None
    for _ in range(limit):
        current = circuit.core.currents(gates, outputs)
        own = neurons.charges.values(gates, outputs)
        gate_rate = sigma * (own.gate + neurons.gate_capacitance * gates) - inputs.gate_history
        output_charge = own.output + neurons.capacitance * outputs
        output_rate = sigma * output_charge - inputs.output_history
        gate_defect = (
            inputs.combined + circuit.level_shift - gates
            + resistance * ((outputs - gates) * feedback - current.gate - gate_rate)
        )
        drawn = inputs.offset + load.product(outputs)
        output_defect = current.output + (gates - outputs) * feedback - drawn - output_rate
        gate_by_gate = own.gate_by_gate + neurons.gate_capacitance
        output_by_output = own.output_by_output + neurons.capacitance
        gate = 1.0 + resistance * (feedback + current.gate_by_gate + sigma * gate_by_gate)
        transfer = current.output_by_gate + feedback - sigma * own.output_by_gate
        coupling = resistance / gate * (
            feedback - current.gate_by_output - sigma * own.gate_by_output
        )
        diagonal = (
            feedback - current.output_by_output + sigma * output_by_output - transfer * coupling
        )
        system = Linearised(
            diagonal, transfer, gate, coupling,
            gate_by_gate, own.gate_by_output, own.output_by_gate, output_by_output,
        )
        gate_step = gate_defect / gate
        change = load.solve(diagonal, output_defect + transfer * gate_step, LINEAR_TOLERANCE)
        gate_change = gate_step + coupling * change
        size = torch.maximum(change.abs().amax(-1), gate_change.abs().amax(-1))
        factor = torch.where(converged, 0.0, LARGEST_CHANGE / size.clamp(min=LARGEST_CHANGE))
        outputs = outputs + factor[:, None] * change
        gates = gates + factor[:, None] * gate_change
        converged = converged | (size <= tolerance)
        if bool(converged.all()) or not bool(torch.isfinite(size).any()):
            break
    if system is None:
        raise SolverError("Newton's method needs at least one iteration")
    charges, static = neurons.state(gates, outputs), neurons.static(gates, outputs)
    return StageSolution(
        gates, outputs, charges[0], charges[1], charges[2], static[0], static[1],
        system, converged,
    )


def propagate(
    neurons: DynamicNeurons,
    system: Linearised,
    load: StageLoad,
    sigma: float,
    changes: Charged,
) -> tuple[Tensor, Tensor]:
    """(B, M) V twice: what changes of its past do to gates and outputs at a stage's end."""
    resistance = neurons.circuit.input_resistance
    gate_step = (changes.combined + resistance * sigma * changes.gate) / system.gate
    right = sigma * changes.output + system.transfer * gate_step
    if changes.currents is not None:
        right = right - changes.currents
    if neurons.tables is not None and load.load is not None:
        from imac_torch.kernels import transient as kernels

        blocks = load.blocks
        change = torch.empty_like(right)
        run_blocks(
            kernels.solve_linear,
            kernels.tile_count(len(right), len(blocks.first) - 1),
            torch.get_num_threads(),
            system.diagonal.contiguous().numpy(), right.contiguous().numpy(),
            blocks.admittance[0], blocks.first, blocks.left[0], blocks.right[0],
            True, change.numpy(),
        )
    else:
        change = load.solve(system.diagonal, right, 1e-2)
    return gate_step + system.coupling * change, change
