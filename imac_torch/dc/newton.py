"""Loaded neurons of one layer: batched, damped Newton, with gradients by implicit function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imac_torch.dc.load import Blocks, Load
from imac_torch.dc.starts import Near, StartTable
from imac_torch.errors import SolverError
from imac_torch.kernels.ahead import ready
from imac_torch.kernels.compiled import obstacle
from imac_torch.numeric.modes import once
from imac_torch.periphery.neuron.behavioural import BehaviouralCore
from imac_torch.periphery.neuron.circuit import Defects, Linearised, NeuronCircuit
from imac_torch.periphery.neuron.tabulated import TableCore
from imac_torch.results.solution import Status

LINEAR_TOLERANCE = 1e-4
"""Relative accuracy of each Newton step; the error it leaves is this fraction of the step."""
LARGEST_STEP = 0.1
"""V. Steps are shortened to this, the voltage over which a neuron switches."""
TURNED = 0.1
"""Part of the last step by which the next goes back, from which on that was too far."""
CURVATURE = 20.0
"""1/V. A Newton step s leaves less than this times s²: half of q/kT, 19/V at 300 K, of currents
that are exponential in a voltage. (Neurons of 14 nm were found to leave 5 to 10.)"""
TORCH_TIME = 1.5e-5
"""s per neuron in torch, roughly."""
TILES_PER_THREAD = 24
"""A tile takes about 0.1 ms, starting threads about 1 ms."""


@dataclass(frozen=True)
class NewtonOptions:
    """When Newton's method stops.

    Attributes:
        tolerance: V, largest update of a converged sample's last step, or (compiled) what that
            step leaves at most.
        max_iterations: Limit of steps.
        kernel: ``numba`` (compiled, tabulated neurons on the CPU), ``torch`` (any) or ``auto``.
    """

    tolerance: float = 1e-9
    max_iterations: int = 60
    kernel: str = "auto"

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
        if self.kernel not in {"auto", "numba", "torch"}:
            raise SolverError(f"kernel = {self.kernel!r}: 'auto', 'numba' or 'torch'")


START_OPTIONS = NewtonOptions(tolerance=1e-4, max_iterations=100)
"""Of nodes that iterations start from."""
NODE_OPTIONS = NewtonOptions(tolerance=1e-7, max_iterations=100)
"""Of nodes of the table near which compiled iterations begin."""


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


def _linearise(
    neuron: NeuronCircuit, load: Load | None, combined: Tensor, gates: Tensor, outputs: Tensor
) -> tuple[Linearised, Defects]:
    drawn = 0.0 if load is None else load.currents(outputs)
    return neuron.linearise(combined, gates, outputs, drawn)


def solve_neurons(
    combined: Tensor,
    neuron: NeuronCircuit,
    load: Load | None,
    options: NewtonOptions,
    before: NeuronSolution | None = None,
) -> NeuronSolution:
    """Solve one layer's neurons, without gradients.

    Nothing is averaged over samples: each has its own damping, status and count.

    Args:
        combined: (S, B, M) V, combined amplifier voltage.
        neuron: The activation circuit.
        load: The next layer, or None for unloaded outputs.
        options: Tolerance, limit and kernel.
        before: The same neurons at a load nearly the same. What is not compiled goes on from there:
            where each evaluation is the transistors' whole model, a table of starts for each load
            costs a hundred times more.

    Raises:
        SolverError: The compiled kernel was asked for where it cannot serve.
    """
    with torch.no_grad():
        if combined.numel() == 0:
            none = combined.new_zeros(combined.shape[:-1])
            count = none.to(torch.int64)
            return NeuronSolution(combined, combined, count, none, count)
        if isinstance(neuron.core, BehaviouralCore) and float(neuron.feedback_conductance) == 0.0:
            return _solve_direct(combined, neuron, neuron.core, load)
        able = isinstance(neuron.core, TableCore) and combined.device.type == "cpu"
        if use_compiled(options.kernel, able=able) and (
            options.kernel == "numba" or compiled_ready(combined.numel())
        ):
            return _solve_compiled(combined, neuron, load, options)
        return _solve_batched(combined, neuron, load, options, before)


def compiled_ready(neurons: int) -> bool:
    """Whether the compiled kernel is there, or to be waited for: torch would take too long."""
    return ready("newton.solve_tiles", neurons * TORCH_TIME)


def use_compiled(kernel: str, *, able: bool) -> bool:
    """Whether the compiled kernel solves neurons.

    Args:
        kernel: As in :class:`NewtonOptions`.
        able: Whether they are tabulated, on the CPU.

    Raises:
        SolverError: It was asked for where it cannot serve.
    """
    problem = obstacle() if able else "it solves tabulated neurons on the CPU only"
    if kernel == "numba" and problem is not None:
        raise SolverError(f"the numba kernel cannot be used: {problem}; use kernel='auto'")
    return kernel != "torch" and problem is None


def _solve_direct(
    combined: Tensor, neuron: NeuronCircuit, core: BehaviouralCore, load: Load | None
) -> NeuronSolution:
    """Without feedback the gate is known and the output is linear: one factorisation for all."""
    gates = combined + neuron.level_shift
    value = core.value(gates)
    if load is None:
        outputs = value
        residual = torch.zeros_like(value[..., 0])
    else:
        outputs, defect = load.behind(core.output_resistance, value)
        residual = torch.linalg.vector_norm(defect, torch.inf, dim=-1)
    finite = torch.isfinite(outputs.sum(dim=-1))
    status = torch.where(finite, int(Status.CONVERGED), int(Status.NOT_FINITE))
    return NeuronSolution(outputs, gates, status, residual, torch.ones_like(status))


def _solve_compiled(
    combined: Tensor, neuron: NeuronCircuit, load: Load | None, options: NewtonOptions
) -> NeuronSolution:
    """Tiles in a compiled kernel; what it leaves unconverged goes the batched way."""
    near = near_table(combined, neuron, load)
    solution = _run_tiles(combined, neuron, load, options, near)
    good = solution.status == int(Status.CONVERGED)
    if bool(good.all()):
        return solution
    again = torch.nonzero(~good.all(dim=0)).squeeze(1)
    slow = _solve_batched(combined[:, again], neuron, load, options)
    return NeuronSolution(*(
        getattr(solution, part.name).index_copy(1, again, getattr(slow, part.name))
        for part in fields(NeuronSolution)
    ))


def near_table(combined: Tensor, neuron: NeuronCircuit, load: Load | None) -> Near:
    """The table that compiled iterations begin near, for (S, B, M) V."""

    def solve(
        grid: Tensor, pulling: Load, outputs: Tensor, gates: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = _run_tiles(grid, neuron, pulling, NODE_OPTIONS, (outputs, gates))
        return found.outputs, found.gates, found.status == int(Status.CONVERGED)

    return Near.of(combined, neuron, load, solve)


def circuit_arguments(
    neuron: NeuronCircuit, load: Load | None, shape: tuple[int, int]
) -> tuple[Any, ...]:
    """What the compiled kernel takes of a circuit, ``admittance`` to ``circuit``.

    Args:
        neuron: With a tabulated core.
        load: The next layer.
        shape: S and M.
    """
    core = neuron.core
    assert isinstance(core, TableCore)  # noqa: S101 - narrows the type only
    blocks = load.blocks if load is not None else Blocks.unloaded(*shape)
    return (
        blocks.admittance,
        blocks.offset,
        blocks.first,
        blocks.left,
        blocks.right,
        load is not None,
        core.newton_table,
        tuple(core.table.coefficients.shape[:2]),
        core.newton_grid,
        neuron.newton_circuit,
    )


def stopping(options: NewtonOptions) -> tuple[float, float, int, float]:
    """When it stops: ``tolerance`` to ``largest_step``."""
    safe = math.sqrt(0.1 * options.tolerance / CURVATURE)
    return options.tolerance, safe, options.max_iterations, LARGEST_STEP


def _run_tiles(
    combined: Tensor,
    neuron: NeuronCircuit,
    load: Load | None,
    options: NewtonOptions,
    start: Near | tuple[Tensor, Tensor],
) -> NeuronSolution:
    """Run the kernel from a table of starts, or from outputs and gates (S, B, M)."""
    from imac_torch.kernels.newton import solve_tiles, tile_count
    from imac_torch.kernels.threads import run_blocks

    samples, batch, count = combined.shape
    if isinstance(start, Near):
        outputs, gates = torch.empty_like(combined), torch.empty_like(combined)
        near = start.arguments(load)
    else:
        outputs, gates = (item.contiguous().clone() for item in start)
        near = np.empty(0), (0, 0), np.zeros(8), np.empty(0)
    circuit = circuit_arguments(neuron, load, (samples, count))
    parts = len(circuit[2]) - 1
    residual = np.zeros((samples, batch, parts))
    iterations = np.zeros((samples, batch, parts), dtype=np.int64)
    converged = np.zeros((samples, batch, parts), dtype=np.bool_)
    tiles = tile_count(samples, batch, parts)
    run_blocks(
        solve_tiles,
        tiles,
        min(torch.get_num_threads(), max(1, tiles // TILES_PER_THREAD)),
        combined.contiguous().numpy(),
        gates.numpy(),
        outputs.numpy(),
        residual,
        iterations,
        converged,
        *circuit,
        *near,
        *stopping(options),
    )
    good = torch.from_numpy(converged.all(axis=-1))
    return NeuronSolution(
        outputs,
        gates,
        torch.where(good, int(Status.CONVERGED), int(Status.MAX_ITERATIONS)),
        torch.from_numpy(residual.max(axis=-1)),
        torch.from_numpy(iterations.max(axis=-1)),
    )


def _solve_batched(
    combined: Tensor,
    neuron: NeuronCircuit,
    load: Load | None,
    options: NewtonOptions,
    before: NeuronSolution | None = None,
) -> NeuronSolution:
    """Newton's method in torch, on any device."""
    def solve(
        grid: Tensor, typical: Load | None, outputs: Tensor, gates: Tensor
    ) -> tuple[Tensor, Tensor]:
        equations = partial(neuron.linearise, grid)
        nodes, _ = iterate(equations, typical, START_OPTIONS, outputs, gates)
        return nodes.outputs, nodes.gates

    equations = partial(neuron.linearise, combined)
    solution = before
    if solution is not None:
        solution, _ = iterate(equations, load, options, solution.outputs, solution.gates)
    if solution is None or not bool((solution.status == int(Status.CONVERGED)).all()):
        table = StartTable.of(combined, neuron, load, solve)
        solution, _ = iterate(equations, load, options, *table.interpolate(combined))
    residual = kirchhoff_residual(combined, neuron, load, solution.gates, solution.outputs)
    return replace(solution, residual=residual)


def iterate(
    equations: Callable[[Tensor, Tensor, Tensor | float], tuple[Linearised, Defects]],
    load: Load | None,
    options: NewtonOptions,
    outputs: Tensor,
    gates: Tensor,
) -> tuple[NeuronSolution, Linearised]:
    """Damped Newton steps from given voltages, (S, B, M) V.

    Args:
        equations: :meth:`NeuronCircuit.linearise` at gates and outputs that drive a load.
        load: The next layer.
        options: Tolerance and limit.
        outputs: V.
        gates: V.

    Returns:
        The neurons, without a residual (it is 0), and the system of the last step.
    """
    damping = torch.ones_like(outputs[..., 0])
    active = torch.ones_like(damping, dtype=torch.bool)
    iterations = torch.zeros_like(damping, dtype=torch.int64)
    status = torch.full_like(iterations, int(Status.MAX_ITERATIONS))
    last = torch.zeros_like(outputs)
    for _ in range(options.max_iterations):
        drawn = 0.0 if load is None else load.currents(outputs)
        system, defects = equations(gates, outputs, drawn)
        gate_step, right = system.reduced(*defects)
        if load is None:
            step = right / system.diagonal
        else:
            step = load.solve(system.diagonal, right, tolerance=LINEAR_TOLERANCE)
        gate_step = gate_step + system.coupling * step
        size = torch.maximum(step.abs().amax(-1), gate_step.abs().amax(-1))
        finite = torch.isfinite(size)
        status = torch.where(active & ~finite, int(Status.NOT_FINITE), status)
        active = active & finite
        # A step back, and not a small one, means the last one went too far: half as far until the
        # way is straight. (Steps of constant size are no reason: that is how exponentials are
        # descended.)
        turned = (step * last).sum(-1) < -TURNED * last.square().sum(-1)
        damping = torch.where(turned, damping / 2, (2 * damping).clamp(max=1.0))
        damping = damping.clamp(min=1.0 / 64)
        last = step
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
    none = torch.zeros_like(damping)
    return NeuronSolution(outputs, gates, status, none, iterations), system


def kirchhoff_residual(
    combined: Tensor, neuron: NeuronCircuit, load: Load | None, gates: Tensor, outputs: Tensor
) -> Tensor:
    """(S, B) A: largest sum of currents into any gate or output node."""
    _, defects = _linearise(neuron, load, combined, gates, outputs)
    # Below 1 Ω the gate is tied to its source and its voltage, not its current, is the unknown.
    gate = defects.gate.abs() / neuron.input_resistance.clamp(min=1.0)
    return torch.maximum(defects.output.abs(), gate).amax(-1)


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
    system, defects = _linearise(neuron, load, combined, solution.gates, solution.outputs)
    gate_step, right = system.reduced(*defects)
    frozen = None if load is None else _detached(load)
    step = _ImplicitSolve.apply(right, system.diagonal, frozen)
    gate_step = gate_step - gate_step.detach() + system.coupling * step
    return NeuronSolution(
        once(solution.outputs + step),
        once(solution.gates + gate_step),
        solution.status,
        solution.residual,
        solution.iterations,
    )


def _detached(load: Load) -> Load:
    return Load(
        load.admittance.detach(), load.offset.detach(), load.layout, load.left, load.right
    )


def solve_loaded(
    combined: Tensor, neuron: NeuronCircuit, load: Load | None, options: NewtonOptions
) -> NeuronSolution:
    """Solve neurons, with gradients if anything requires them."""
    solved = solve_neurons(combined.detach(), neuron, load, options)
    if torch.is_grad_enabled() and requires_gradients(combined, neuron, load):
        return attach_gradients(combined, neuron, load, solved)
    return solved


def requires_gradients(combined: Tensor, neuron: NeuronCircuit, load: Load | None) -> bool:
    """Whether a solution depends on something that does."""
    tensors = [
        combined, neuron.input_resistance, neuron.feedback_conductance, neuron.level_shift
    ]
    if load is not None:
        tensors += [load.admittance, load.offset]
    if any(tensor.requires_grad for tensor in tensors):
        return True
    # A core's parameters are its own business; what it gives at one point shows their graph.
    point = combined.new_full((1,), neuron.core.start()[2])
    return any(value.requires_grad for value in neuron.core.values(point, point))
