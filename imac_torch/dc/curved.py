"""Networks whose cells have curved I-V characteristics: exact, with the wires.

Only cells and neurons are not linear. Each cell is replaced by a conductance and a current source;
rows and input lines are then eliminated as those of ohmic cells are
(:mod:`imac_torch.dc.tangents`). What a layer's lines draw is an affine function of the voltages
that drive them, and the neurons in front are solved with it. With tangents this is Newton's method,
whose eliminations, one for every input vector and step, take nearly all of the time. Hence all
vectors first share conductances, the mean of their slopes (chords); only sources differ, steps
converge linearly and are accelerated (:mod:`imac_torch.dc.anderson`). Vectors for which that fails
are solved by Newton's method. Either way the sources are those of the curves at the solution.

Shapes: B input vectors; H, V partitions of R rows and K columns; M outputs, L slices, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.dc.anderson import DEPTH, Anderson
from imac_torch.dc.network import sum_power
from imac_torch.dc.newton import NewtonOptions, solve_neurons
from imac_torch.dc.tangents import CellVoltages, CurvedLayer, Tangents
from imac_torch.errors import SolverError
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.reference.nonlinear import ROUNDING
from imac_torch.results.solution import LayerSolution, Power, Solution, Status, combine, concatenate

CHORDS: Final = 50
"""Steps that share an elimination, before Newton's method is tried."""
FIRST_CHORDS: Final = 6
"""Of these the first, each with slopes of its own: cells are far from their voltages."""
CHORDS_OF_ONE: Final = 12
"""Later steps with the same slopes."""
CHORD_TOLERANCE: Final = 1e-3
"""Chords converge linearly: their last step is as small as the error of a Newton step's."""
_PER_VECTOR: Final = ("inputs", "gates", "currents", "status", "residual")
MEMORY: Final = 2**28
"""Bytes that the vectors of a batch may take."""
ARRAYS: Final = 8
"""(R, K, K) arrays per partition that an elimination holds at its peak."""
STATES: Final = 2 * DEPTH + 16
"""(2, R, K) arrays per partition that a vector has in chords: history, and what is computed."""


@dataclass(frozen=True)
class CurvedStage:
    """A layer whose cells may be curved, with its neurons.

    Attributes:
        spec: The crossbars.
        neuron: The activation circuit.
        vdd: V, 0-dimensional, on the bias line.
    """

    spec: CrossbarSpec
    neuron: NeuronCircuit
    vdd: Tensor


@dataclass
class _Driven:
    """A crossbar that has been solved with what drives it.

    Attributes:
        inputs: (B, N) V on its lines.
        gates: (B, N) V of the neurons that drive it; those of none are absent.
        found: Voltages inside.
        currents: (B, C) A into its lines.
        status: (B,) int64.
        residual: (B,) A.
        iterations: (B,) int64.
    """

    inputs: Tensor
    gates: Tensor | None
    found: CellVoltages
    currents: Tensor
    status: Tensor
    residual: Tensor
    iterations: Tensor

    def replace(self, which: Tensor, other: _Driven) -> None:
        """Put another solution of the vectors ``which`` in place; iterations add up."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in _PER_VECTOR]
        for field in fields(CellVoltages):
            pairs.append((getattr(self.found, field.name), getattr(other.found, field.name)))
        for mine, theirs in pairs:
            if mine is not None:
                mine[which] = theirs
        self.iterations[which] += other.iterations


def _drive(
    layer: CurvedLayer,
    vdd: Tensor,
    options: NewtonOptions,
    inputs: Tensor,
    neuron: NeuronCircuit | None,
) -> _Driven:
    """Solve a crossbar driven by sources (``inputs`` in V) or neurons (their combined sources).

    Chords first, of which all vectors share one elimination; Newton's method from rest for the
    vectors for which they do not converge.
    """
    driven = _iterate(layer, vdd, options, inputs, neuron, shared=True)
    rest = torch.nonzero(driven.status != int(Status.CONVERGED))[:, 0]
    if layer.curve is None or len(rest) == 0:
        return driven
    for part in rest.split(max(1, MEMORY // _bytes_of_newton(layer))):
        driven.replace(part, _iterate(layer, vdd, options, inputs[part], neuron, shared=False))
    return driven


def _iterate(
    layer: CurvedLayer,
    vdd: Tensor,
    options: NewtonOptions,
    inputs: Tensor,
    neuron: NeuronCircuit | None,
    *,
    shared: bool,
) -> _Driven:
    """Chords (``shared``: slopes are the mean over vectors, accelerated) or Newton's method."""
    count = len(inputs)
    across = inputs.new_zeros(count, *layer.cells.shape)
    status = torch.full((count,), int(Status.MAX_ITERATIONS), device=inputs.device)
    iterations = torch.zeros_like(status)
    largest = torch.inf if layer.curve is None else layer.curve.bend
    tolerance = options.tolerance
    if shared:
        tolerance = min(tolerance, max(CHORD_TOLERANCE * tolerance, ROUNDING))
    bias = vdd.detach().expand(count, 1)
    acceleration = Anderson()
    limit = min(CHORDS, options.max_iterations) if shared else options.max_iterations
    for number in range(limit):
        current, slopes = layer.current(across)
        if not shared or number < FIRST_CHORDS or number % CHORDS_OF_ONE == 0:
            slopes = slopes.mean(0, keepdim=True) if shared else slopes
            eliminated = layer.eliminate(slopes)
            without = eliminated.load(vdd)
            acceleration.restart()
        tangents = eliminated.tangents(current - eliminated.slopes * across)
        gates, lines, residual = None, inputs, torch.zeros_like(inputs[:, 0])
        neurons_status = torch.zeros_like(status)
        if neuron is not None:
            solved = solve_neurons(inputs[:, None], neuron, tangents.load(without), options)
            gates, lines = solved.gates[:, 0], solved.outputs[:, 0]
            residual, neurons_status = solved.residual[:, 0], solved.status[:, 0]
        driven = torch.cat([lines, bias], dim=-1)
        found = tangents.follow(driven)
        step = torch.stack([found.positive, found.negative], dim=1) - across
        size = step.abs().flatten(1).amax(-1)
        iterations = iterations + (status != int(Status.CONVERGED))
        close = size <= tolerance
        if layer.curve is None:  # tangents are exact
            close = torch.isfinite(size)
        good = close & (neurons_status == int(Status.CONVERGED))
        status = torch.where(
            good,
            int(Status.CONVERGED),
            torch.where(torch.isfinite(size), int(Status.MAX_ITERATIONS), int(Status.NOT_FINITE)),
        )
        if bool(good.all()) or number + 1 == limit:
            break
        if shared:
            step = acceleration.step(across.flatten(1), step.flatten(1)).reshape(step.shape)
            size = step.abs().flatten(1).amax(-1)
        share = (largest / size).clamp(max=1.0).nan_to_num(nan=0.0)
        share = torch.where(good, torch.zeros_like(share), share)
        across = (across + share.reshape(-1, 1, 1, 1, 1, 1) * step).nan_to_num()
    return _Driven(
        inputs=lines,
        gates=gates,
        found=found,
        currents=tangents.currents(driven),
        status=status,
        residual=torch.maximum(residual, _defect(tangents, found)),
        iterations=iterations,
    )


def _bytes_of_newton(layer: CurvedLayer) -> int:
    """What one input vector takes in Newton's method."""
    return 8 * ARRAYS * layer.positive.numel() * layer.positive.shape[-1]


def _bytes_of_chords(layer: CurvedLayer) -> int:
    """What one input vector takes in chords; its neurons have copies of the load, too."""
    horizontal, _, _, columns = layer.positive.shape
    return 8 * (2 * STATES * layer.positive.numel() + 4 * horizontal * columns**2)


def _defect(tangents: Tangents, found: CellVoltages) -> Tensor:
    """(B,) A, largest difference between a cell's curve and the tangent that was solved with."""
    known = tangents.eliminated
    across = torch.stack([found.positive, found.negative], dim=1)
    current, _ = known.layer.current(across)
    return (current - known.slopes * across - tangents.sources).abs().flatten(1).amax(-1)


@lasting()
def solve_curved(
    stages: Sequence[CurvedStage],
    inputs: Tensor,
    *,
    options: NewtonOptions | None = None,
    power: bool = True,
) -> Solution:
    """Solve a batch of input vectors of a network with curved cells.

    Args:
        stages: The layers; conductances may have one sample dimension.
        inputs: (B, N) float64, V, at the first layer's input lines.
        options: Of Newton's method; its tolerance holds for the voltage across every cell too.
        power: Whether to compute the power of every source.

    Returns:
        Shapes (B, …), or (S, B, …) if conductances have samples.

    Raises:
        SolverError: Inputs do not fit the first layer, or are not float64.
    """
    options = NewtonOptions() if options is None else options
    expected = stages[0].spec.inputs
    if inputs.ndim != 2 or inputs.shape[1] != expected or inputs.dtype != torch.float64:
        raise SolverError(
            f"inputs must be (B, {expected}) float64 voltages for the first layer, got "
            f"{tuple(inputs.shape)} {inputs.dtype}"
        )
    counts = {stage.spec.conductances.positive.shape[:-2] for stage in stages} - {()}
    if counts:
        samples = max(shape.numel() for shape in counts)
        parts = [
            solve_curved(_sample(stages, k), inputs, options=options, power=power)
            for k in range(samples)
        ]
        return combine(lambda *tensors, dim: torch.stack(tensors), *parts)
    layers = [CurvedLayer(stage.spec) for stage in stages]
    size = max(1, MEMORY // max(_bytes_of_chords(layer) for layer in layers))
    return concatenate(
        [_solve(stages, layers, part, options, power=power) for part in inputs.split(size)]
    )


def _sample(stages: Sequence[CurvedStage], index: int) -> list[CurvedStage]:
    return [CurvedStage(stage.spec.select(index), stage.neuron, stage.vdd) for stage in stages]


def _solve(
    stages: Sequence[CurvedStage],
    layers: Sequence[CurvedLayer],
    inputs: Tensor,
    options: NewtonOptions,
    *,
    power: bool,
) -> Solution:
    status = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
    finite = torch.isfinite(inputs).all(-1)
    inputs = torch.where(finite[:, None], inputs, torch.zeros_like(inputs))
    residual = torch.zeros_like(inputs[:, 0])
    iterations = torch.zeros_like(status)
    driven = _drive(layers[0], stages[0].vdd, options, inputs, None)
    solutions: list[LayerSolution] = []
    powers: list[Power] = []
    for k, (stage, layer) in enumerate(zip(stages, layers, strict=True)):
        status = torch.maximum(status, driven.status)
        residual = torch.maximum(residual, driven.residual)
        iterations = iterations + driven.iterations
        combined = layer.combined(driven.found)
        if k + 1 < len(stages):
            following = _drive(layers[k + 1], stages[k + 1].vdd, options, combined, stage.neuron)
            gates, outputs = following.gates, following.inputs
        else:
            following = driven
            solved = solve_neurons(combined[:, None], stage.neuron, None, options)
            gates, outputs = solved.gates[:, 0], solved.outputs[:, 0]
            status = torch.maximum(status, solved.status[:, 0])
            residual = torch.maximum(residual, solved.residual[:, 0])
            iterations = iterations + solved.iterations[:, 0]
        assert gates is not None  # noqa: S101 - narrows the type only
        solutions.append(LayerSolution(driven.inputs, combined, gates, outputs))
        if power:
            powers.append(_power(stage, layer, driven, combined, gates, outputs, first=k == 0))
        driven = following
    status = torch.where(finite, status, int(Status.NOT_FINITE))
    failed = status != int(Status.CONVERGED)
    return Solution(
        torch.where(failed[:, None], torch.nan, solutions[-1].outputs),
        tuple(solutions),
        sum_power(powers, failed) if power else None,
        status,
        torch.where(finite, residual, torch.nan),
        iterations,
    )


def _power(
    stage: CurvedStage,
    layer: CurvedLayer,
    driven: _Driven,
    combined: Tensor,
    gates: Tensor,
    outputs: Tensor,
    *,
    first: bool,
) -> Power:
    """Power of the sources of one layer, (B,) each, as in :mod:`imac_torch.dc.network`."""
    neurons = stage.neuron.static_power(stage.vdd, gates, outputs)
    by_inputs = (driven.inputs * driven.currents[:, :-1]).sum(-1)
    return Power(
        inputs=by_inputs if first else torch.zeros_like(by_inputs),
        bias=stage.vdd * driven.currents[:, -1],
        neurons=neurons.supply,
        level_shift=neurons.level_shift,
        amplifiers=stage.spec.read_out.power(*layer.ends(driven.found), combined, neurons.drawn),
    )
