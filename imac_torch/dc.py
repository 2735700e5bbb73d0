"""The DC solution of the whole network: layer after layer, exact, batched, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imac_torch.errors import SolverError
from imac_torch.load import Load
from imac_torch.neuron import NeuronCircuit
from imac_torch.newton import (
    NeuronSolution,
    NewtonOptions,
    solve_loaded,
)
from imac_torch.ports import PortNetwork
from imac_torch.solution import LayerSolution, Power, Solution, Status, combine


@dataclass(frozen=True)
class Stage:
    """One layer ready to be solved: its eliminated crossbars, its neurons.

    Attributes:
        ports: The linear part; either no or one leading sample dimension S.
        neuron: The activation circuit of its outputs.
        vdd: V, 0-dimensional, what bias lines are driven with.
    """

    ports: PortNetwork
    neuron: NeuronCircuit
    vdd: Tensor


def solve_dc(
    stages: Sequence[Stage],
    inputs: Tensor,
    *,
    options: NewtonOptions | None = None,
    power: bool = True,
) -> Solution:
    """Solve a batch of input vectors.

    Nothing flows back through ideal amplifiers, so layers are solved in order; the neurons of a
    layer are solved together with the load of the next.

    Args:
        stages: The layers.
        inputs: (B, N) float64, V, at the first layer's input lines.
        options: Of Newton's method.
        power: Whether to compute the power of every source.

    Returns:
        Shapes (B, …), or (S, B, …) if the stages have samples. Differentiable with respect to
        everything in stages and inputs that requires gradients.

    Raises:
        SolverError: Inputs do not fit the first layer, or are not float64.
    """
    options = NewtonOptions() if options is None else options
    _check_inputs(stages, inputs)
    sampled = any(stage.ports.admittance.ndim == 4 for stage in stages)
    networks = [_with_samples(stage.ports) for stage in stages]
    samples = max(network.admittance.shape[0] for network in networks)
    voltages = inputs.expand(samples, *inputs.shape)
    status = torch.zeros(voltages.shape[:-1], dtype=torch.int64, device=inputs.device)
    residual = torch.zeros(voltages.shape[:-1], dtype=inputs.dtype, device=inputs.device)
    iterations = torch.zeros_like(status)
    layers: list[LayerSolution] = []
    powers: list[Power] = []
    for k, (stage, network) in enumerate(zip(stages, networks)):
        bias = stage.vdd.expand(*voltages.shape[:-1], 1)
        lines = torch.cat([voltages, bias], dim=-1)
        combined = lines @ network.transfer.transpose(-1, -2)
        following = networks[k + 1] if k + 1 < len(networks) else None
        load = None if following is None else Load.of(following, stages[k + 1].vdd)
        solved = solve_loaded(combined, stage.neuron, load, options)
        status = torch.maximum(status, solved.status)
        residual = torch.maximum(residual, solved.residual)
        iterations = iterations + solved.iterations
        if power:
            powers.append(_layer_power(stage, network, lines, combined, solved, first=k == 0))
        layers.append(LayerSolution(voltages, combined, solved.gates, solved.outputs))
        voltages = solved.outputs
    failed = (status != int(Status.CONVERGED))[..., None]
    outputs = torch.where(failed, torch.full_like(voltages, torch.nan), voltages)
    solution = Solution(
        outputs, tuple(layers), _sum_power(powers) if power else None, status, residual, iterations
    )
    return solution if sampled else combine(lambda tensor, dim: tensor[0], solution)


def _check_inputs(stages: Sequence[Stage], inputs: Tensor) -> None:
    expected = stages[0].ports.inputs
    if inputs.ndim != 2 or inputs.shape[1] != expected:
        raise SolverError(
            f"inputs must be (B, {expected}) voltages for the first layer, got "
            f"{tuple(inputs.shape)}"
        )
    if inputs.dtype != torch.float64:
        raise SolverError(f"circuit quantities are float64, inputs are {inputs.dtype}")


def _with_samples(network: PortNetwork) -> PortNetwork:
    if network.admittance.ndim == 4:
        return network
    return replace(
        network,
        positive_end=network.positive_end[None],
        negative_end=network.negative_end[None],
        admittance=network.admittance[None],
    )


def _layer_power(
    stage: Stage,
    network: PortNetwork,
    lines: Tensor,
    combined: Tensor,
    solved: NeuronSolution,
    *,
    first: bool,
) -> Power:
    """Power of the sources that belong to one layer, (S, B) each."""
    neuron = stage.neuron
    currents = network.input_currents(lines)
    by_inputs = (lines[..., :-1] * currents[..., :-1]).sum(-1)
    core = neuron.core.values(solved.gates, solved.outputs)
    drawn = core.gate - (solved.outputs - solved.gates) * neuron.feedback_conductance
    positive, negative = network.end_voltages(lines)
    amplifier = network.gain * (positive - negative)
    # Each amplifier drives R3 (gain·R1) towards its virtual node and its share of the neuron.
    resistance = network.amplifier_resistance
    virtual = network.gain / (1.0 + network.gain) * positive
    current = (amplifier - virtual) / (network.gain * resistance)
    if network.averaged:
        series = network.series_resistance
        meeting = combined - drawn * series
        current = current + (amplifier - meeting[..., None]) / (series * network.partitions)
    return Power(
        inputs=by_inputs if first else torch.zeros_like(by_inputs),
        bias=lines[..., -1] * currents[..., -1],
        neurons=stage.vdd * core.supply.sum(-1),
        level_shift=(neuron.level_shift * drawn).sum(-1),
        amplifiers=(amplifier * current).sum((-1, -2)),
    )


def _sum_power(powers: Sequence[Power]) -> Power:
    def total(name: str) -> Tensor:
        return torch.stack([getattr(power, name) for power in powers]).sum(0)

    return Power(
        total("inputs"), total("bias"), total("neurons"), total("level_shift"), total("amplifiers")
    )
