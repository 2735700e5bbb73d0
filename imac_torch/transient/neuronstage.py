"""Neurons of one layer within one stage of a time step: Newton's method, in torch or compiled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.dc.load import Blocks, Load
from imac_torch.dc.newton import LARGEST_STEP, NewtonOptions, iterate, solve_neurons, use_compiled
from imac_torch.kernels.threads import run_blocks
from imac_torch.periphery.neuron.circuit import Defects, Linearised, NeuronCircuit
from imac_torch.periphery.neuron.core import Charges, CoreCurrents
from imac_torch.periphery.neuron.spline import SplineTable
from imac_torch.periphery.neuron.tabulated import CHARGE_SCALE, TableCharges, TableCore
from imac_torch.results.solution import Status

CURVE: Final = 401
"""Gate voltages at which a neuron's steepness is looked for."""


@dataclass(frozen=True)
class NeuronTables:
    """Currents and charges of tabulated neurons on one grid, for the compiled kernel.

    Attributes:
        table: (P+2, Q+2, 6) spline coefficients.
        grid: (9,) both axes and the scales, see :func:`imac_torch.kernels.transient.solve_stage`.
    """

    table: NDArray[np.float64]
    grid: NDArray[np.float64]

    @cached_property
    def flat(self) -> NDArray[np.float64]:
        """All of it in a row, and two numbers behind, for :mod:`imac_torch.kernels.sixfold`."""
        return np.append(self.table, np.zeros(2))

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
        current, charge = currents.coefficients, resampled.coefficients
        # What the equations have in them first: see imac_torch.kernels.transient.FUNCTIONS.
        table = torch.cat(
            [current[..., :2], charge[..., :2], current[..., 2:], charge[..., 2:]], dim=-1
        )
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
        known: dict[tuple[int, int], NeuronTables] | None = None,
    ) -> DynamicNeurons:
        """Choose the kernel.

        Args:
            circuit: Core and resistors.
            charges: Of the core.
            gate_capacitance: F.
            capacitance: (M,) F.
            kernel: "auto", "torch" or "numba".
            known: Tables made so far, by the cores' and the charges'; layers with the same
                transistors share theirs, and so a cache's place.

        Raises:
            SolverError: The compiled kernel was asked for where it cannot serve.
        """
        core = circuit.core
        tables, on_cpu = None, capacitance.device.type == "cpu"
        if isinstance(core, TableCore) and isinstance(charges, TableCharges):
            if use_compiled(kernel, able=on_cpu):
                known = {} if known is None else known
                key = id(core.table), id(charges.table)
                if key not in known:
                    known[key] = NeuronTables.of(core, charges)
                tables = known[key]
        else:
            use_compiled(kernel, able=False)
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


def steepness(circuit: NeuronCircuit, count: int, vdd: float) -> float:
    """The most that an unloaded output changes by its gate's voltage, at least 1 (itself).

    Args:
        circuit: Of the neurons.
        count: Of neurons.
        vdd: V; gates are looked at within twice of it, or within their table.
    """
    low, high, _ = circuit.core.start()
    grid = torch.linspace(
        max(low, -2.0 * vdd), min(high, 2.0 * vdd), CURVE,
        dtype=torch.float64, device=circuit.feedback_conductance.device,
    )  # fmt: skip
    options = NewtonOptions(tolerance=1e-6, max_iterations=100)
    found = solve_neurons(grid[None, :, None].expand(1, CURVE, count), circuit, None, options)
    outputs, gates = (part[0].diff(dim=0) for part in (found.outputs, found.gates))
    known = (found.status[0] == int(Status.CONVERGED))[:, None]
    slopes = torch.where(known[1:] & known[:-1], outputs / gates, 0.0)
    return max(1.0, float(slopes.nan_to_num(0.0, 0.0, 0.0).abs().max()))


class StageSystem(NamedTuple):
    """The last Newton system of a stage, and how charges change with voltages; (B, M) each.

    Attributes:
        newton: With the charging currents.
        gate_by_gate: F, of the gate's charge.
        gate_by_output: F.
        output_by_gate: F, of the output's charge.
        output_by_output: F.
    """

    newton: Linearised
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
    system: StageSystem
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
        LARGEST_STEP,
    )
    return StageSolution(
        gates, outputs, results[0], results[1], results[2], results[3], results[4],
        StageSystem(Linearised(*system[:4].unbind(0)), *system[4:].unbind(0)),
        torch.from_numpy(converged.all(axis=-1)),
    )


def _batched(
    neurons: DynamicNeurons, inputs: StageInputs, load: StageLoad, tolerance: float, limit: int
) -> StageSolution:
    """As :mod:`imac_torch.dc.newton` solves them, with charging: dQ/dt = σ·Q - history."""
    circuit, sigma = neurons.circuit, inputs.sigma
    charged: list[Tensor] = []

    def equations(
        gates: Tensor, outputs: Tensor, load: Tensor | float
    ) -> tuple[Linearised, Defects]:
        current = circuit.core.currents(gates, outputs)
        own = neurons.charges.values(gates, outputs)
        gate_by_gate = own.gate_by_gate + neurons.gate_capacitance
        output_by_output = own.output_by_output + neurons.capacitance
        gate_charge = own.gate + neurons.gate_capacitance * gates
        output_charge = own.output + neurons.capacitance * outputs
        charging = CoreCurrents(
            current.output - (sigma * output_charge - inputs.output_history),
            current.gate + (sigma * gate_charge - inputs.gate_history),
            current.output_by_gate - sigma * own.output_by_gate,
            current.output_by_output - sigma * output_by_output,
            current.gate_by_gate + sigma * gate_by_gate,
            current.gate_by_output + sigma * own.gate_by_output,
        )
        charged[:] = [
            gate_by_gate, own.gate_by_output, own.output_by_gate, output_by_output
        ]
        drawn = inputs.offset + load
        return circuit.linearise(inputs.combined, gates, outputs, drawn, charging)

    options = NewtonOptions(tolerance, limit)
    start = (inputs.outputs[None], inputs.gates[None])
    found, newton = iterate(equations, load.load, options, *start)
    system = StageSystem(Linearised(*(part[0] for part in newton)), *(c[0] for c in charged))
    gates, outputs = found.gates[0], found.outputs[0]
    charges, static = neurons.state(gates, outputs), neurons.static(gates, outputs)
    return StageSolution(
        gates, outputs, *charges, *static, system,
        found.status[0] == int(Status.CONVERGED),
    )


def propagate(
    neurons: DynamicNeurons,
    system: StageSystem,
    load: StageLoad,
    sigma: float,
    changes: Charged,
) -> tuple[Tensor, Tensor]:
    """(B, M) V twice: what changes of its past do to gates and outputs at a stage's end."""
    resistance = neurons.circuit.input_resistance
    drawn = 0.0 if changes.currents is None else changes.currents
    newton, gate_defect = system.newton, changes.combined + resistance * sigma * changes.gate
    gate_step, right = newton.reduced(gate_defect, sigma * changes.output - drawn)
    if neurons.tables is not None and load.load is not None:
        from imac_torch.kernels import transient as kernels

        blocks = load.blocks
        change = torch.empty_like(right)
        run_blocks(
            kernels.solve_linear,
            kernels.tile_count(len(right), len(blocks.first) - 1),
            torch.get_num_threads(),
            newton.diagonal.contiguous().numpy(), right.contiguous().numpy(),
            blocks.admittance[0], blocks.first, blocks.left[0], blocks.right[0],
            True, change.numpy(),
        )
    elif load.load is None:
        change = right / newton.diagonal
    else:
        change = load.load.solve(newton.diagonal[None], right[None], tolerance=1e-2)[0]
    return gate_step + newton.coupling * change, change
