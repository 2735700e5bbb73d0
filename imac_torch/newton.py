"""Loaded neurons of one layer: batched, damped Newton, with gradients by implicit function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imac_torch.errors import SolverError
from imac_torch.load import Load
from imac_torch.neuron import NeuronCircuit
from imac_torch.solution import Status

LINEAR_TOLERANCE = 1e-4
"""Relative accuracy of each Newton step; the error it leaves is this fraction of the step."""
LARGEST_STEP = 0.3
"""V. Steps are shortened to this; a few times the voltage over which a neuron switches."""


@dataclass(frozen=True)
class NewtonOptions:
    """When Newton's method stops.

    Attributes:
        tolerance: V, largest update of a converged sample's last step.
        max_iterations: Limit of steps.
    """

    tolerance: float = 1e-9
    max_iterations: int = 60

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SolverError: They make no sense.
        """
        if not 0 < self.tolerance < 1 or self.max_iterations < 1:
            raise SolverError(
                f"tolerance = {self.tolerance} V must be in (0, 1) and max_iterations = "
                f"{self.max_iterations} at least 1"
            )


@dataclass(frozen=True)
class NeuronSolution:
    """Neurons of one layer.

    Attributes:
        outputs: (S, B, M) V.
        gates: (S, B, M) V.
        status: (S, B) int64.
        residual: (S, B) A.
        iterations: (S, B) int64.
    """

    outputs: Tensor
    gates: Tensor
    status: Tensor
    residual: Tensor
    iterations: Tensor


@dataclass(frozen=True)
class _Linearised:
    """Newton's equations with the gate eliminated: (diag(d) + Y)·du = r, dg = g0 + g1·du."""

    diagonal: Tensor
    right: Tensor
    gate_step: Tensor
    gate_by_output: Tensor
    gate_defect: Tensor
    output_defect: Tensor


def _linearise(
    neuron: NeuronCircuit, load: Load | None, combined: Tensor, gates: Tensor, outputs: Tensor
) -> _Linearised:
    current = neuron.core.currents(gates, outputs)
    resistance, feedback = neuron.input_resistance, neuron.feedback_conductance
    # The gate equation times the input resistance, so that a resistance of zero is allowed.
    gate_defect = (
        combined
        + neuron.level_shift
        - gates
        + resistance * ((outputs - gates) * feedback - current.gate)
    )
    drawn = 0.0 if load is None else load.currents(outputs)
    output_defect = current.output + (gates - outputs) * feedback - drawn
    by_gate = (1.0 + resistance * (feedback + current.gate_by_gate)).detach()
    by_output = (resistance * (feedback - current.gate_by_output)).detach()
    transfer = (current.output_by_gate + feedback).detach()
    gate_step = gate_defect / by_gate
    gate_by_output = by_output / by_gate
    return _Linearised(
        diagonal=(feedback - current.output_by_output).detach() - transfer * gate_by_output,
        right=output_defect + transfer * gate_step,
        gate_step=gate_step,
        gate_by_output=gate_by_output,
        gate_defect=gate_defect,
        output_defect=output_defect,
    )


def _solve_linear(load: Load | None, system: _Linearised, tolerance: float) -> Tensor:
    if load is None:
        return system.right / system.diagonal
    return load.solve(system.diagonal, system.right, tolerance=tolerance)


def solve_neurons(
    combined: Tensor, neuron: NeuronCircuit, load: Load | None, options: NewtonOptions
) -> NeuronSolution:
    """Solve one layer's neurons, without gradients.

    Nothing is averaged over samples: each has its own damping, status and count.

    Args:
        combined: (S, B, M) V, combined amplifier voltage.
        neuron: The activation circuit.
        load: The next layer, or None for unloaded outputs.
        options: Tolerance and limit.
    """
    with torch.no_grad():
        outputs, gates = _start(combined, neuron)
        shape = combined.shape[:-1]
        status = torch.full(
            shape, int(Status.MAX_ITERATIONS), dtype=torch.int64, device=combined.device
        )
        iterations = torch.zeros(shape, dtype=torch.int64, device=combined.device)
        active = torch.ones(shape, dtype=torch.bool, device=combined.device)
        merit = torch.full(shape, torch.inf, dtype=combined.dtype, device=combined.device)
        damping = torch.ones(shape, dtype=combined.dtype, device=combined.device)
        for _ in range(options.max_iterations):
            system = _linearise(neuron, load, combined, gates, outputs)
            step = _solve_linear(load, system, LINEAR_TOLERANCE)
            gate_step = system.gate_step + system.gate_by_output * step
            size = torch.maximum(step.abs().amax(-1), gate_step.abs().amax(-1))
            finite = torch.isfinite(size)
            status = torch.where(active & ~finite, int(Status.NOT_FINITE), status)
            active = active & finite
            # Steps that grow mean oscillation: go half as far until they shrink again.
            damping = torch.where(size < 0.9 * merit, (2 * damping).clamp(max=1.0), damping / 2)
            damping = damping.clamp(min=1.0 / 64)
            merit = size
            factor = damping * (LARGEST_STEP / size.clamp(min=LARGEST_STEP))
            factor = torch.where(active, factor, torch.zeros_like(factor))[..., None]
            outputs = torch.where(active[..., None], outputs + factor * step, outputs)
            gates = torch.where(active[..., None], gates + factor * gate_step, gates)
            iterations += active
            done = active & (size <= options.tolerance)
            status = torch.where(done, int(Status.CONVERGED), status)
            active = active & ~done
            if not bool(active.any()):
                break
        residual = kirchhoff_residual(combined, neuron, load, gates, outputs)
    return NeuronSolution(outputs, gates, status, residual, iterations)


def kirchhoff_residual(
    combined: Tensor, neuron: NeuronCircuit, load: Load | None, gates: Tensor, outputs: Tensor
) -> Tensor:
    """(S, B) A: largest sum of currents into any gate or output node."""
    system = _linearise(neuron, load, combined, gates, outputs)
    # Below 1 Ω the gate is tied to its source and its voltage, not its current, is the unknown.
    gate = system.gate_defect.abs() / neuron.input_resistance.clamp(min=1.0)
    return torch.maximum(system.output_defect.abs(), gate).amax(-1)


def _start(combined: Tensor, neuron: NeuronCircuit) -> tuple[Tensor, Tensor]:
    low, high, output = neuron.core.start()
    outputs = torch.full_like(combined, output)
    share = neuron.input_resistance * neuron.feedback_conductance
    gates = (combined + neuron.level_shift + share * outputs) / (1.0 + share)
    return outputs, gates.clamp(low, high)


class _ImplicitSolve(torch.autograd.Function):
    """du = (diag(d) + Y)⁻¹·r at a solution, where r = 0 in value but not in derivative."""

    @staticmethod
    def forward(
        ctx: Any, right: Tensor, diagonal: Tensor, load: Load | None  # noqa: ANN401
    ) -> Tensor:
        ctx.diagonal, ctx.load = diagonal, load
        return torch.zeros_like(right)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, gradient: Tensor  # noqa: ANN401
    ) -> tuple[Tensor, None, None]:
        if ctx.load is None:
            return gradient / ctx.diagonal, None, None
        solved = ctx.load.solve(ctx.diagonal, gradient, tolerance=1e-12, transpose=True)
        return solved, None, None


def attach_gradients(
    combined: Tensor,
    neuron: NeuronCircuit,
    load: Load | None,
    solution: NeuronSolution,
) -> NeuronSolution:
    """Make a solution differentiable by the implicit function theorem.

    F(u, g; θ) = 0 gives du/dθ = -(∂F/∂u)⁻¹·∂F/∂θ. One evaluation of F with a graph at the
    solution, and one transposed linear solve in backward; Newton's iterations are not unrolled.

    Args:
        combined: (S, B, M) V, with its graph.
        neuron: With parameters that may require gradients.
        load: With its graph.
        solution: From :func:`solve_neurons`.
    """
    system = _linearise(neuron, load, combined, solution.gates, solution.outputs)
    frozen = None if load is None else _detached(load)
    step = _ImplicitSolve.apply(system.right, system.diagonal, frozen)
    gate_step = system.gate_step - system.gate_step.detach() + system.gate_by_output * step
    return NeuronSolution(
        solution.outputs + step,
        solution.gates + gate_step,
        solution.status,
        solution.residual,
        solution.iterations,
    )


def _detached(load: Load) -> Load:
    return Load(
        load.admittance.detach(), load.offset.detach(), load.layout, load.left, load.right
    )
