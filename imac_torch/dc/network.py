"""The DC solution of the whole network: layer after layer, exact, batched, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from imac_torch.dc.load import Load
from imac_torch.dc.newton import (
    NeuronSolution,
    NewtonOptions,
    solve_loaded,
)
from imac_torch.elimination.ports import PortNetwork
from imac_torch.errors import SolverError
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.results.solution import LayerSolution, Power, Solution, Status, combine


@dataclass(frozen=True)
class Stage:
    """One layer ready to be solved: its eliminated crossbars, its neurons.

    Attributes:
        ports: The linear part; either no or one leading sample dimension S.
        neuron: The activation circuit of its outputs.
        vdd: V, 0-dimensional, what bias lines are driven with.
        load: The next layer as its outputs see it, None for the last.
    """

    ports: PortNetwork
    neuron: NeuronCircuit
    vdd: Tensor
    load: Load | None


def chain_stages(
    layers: Sequence[tuple[PortNetwork, NeuronCircuit]], vdd: Tensor
) -> tuple[Stage, ...]:
    """Stages in series, each loaded by the next.

    Args:
        layers: Eliminated crossbars and neurons; crossbars have no or one sample dimension.
        vdd: V, 0-dimensional.
    """
    networks = [_with_samples(network) for network, _ in layers]
    loads = [Load.of(network, vdd) for network in networks[1:]]
    return tuple(
        Stage(network, neuron, vdd, load)
        for (network, neuron), load in zip(layers, [*loads, None], strict=True)
    )


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
    # Zeros instead of inputs that are not finite: their samples fail, but neither the values nor
    # the gradients of the others see them.
    finite = torch.isfinite(inputs.sum(dim=-1))
    if not bool(finite.all()):
        inputs = torch.where(finite[:, None], inputs, torch.zeros_like(inputs))
    voltages = inputs.expand(samples, *inputs.shape)
    status = torch.zeros(voltages.shape[:-1], dtype=torch.int64, device=inputs.device)
    residual = torch.zeros(voltages.shape[:-1], dtype=inputs.dtype, device=inputs.device)
    iterations = torch.zeros_like(status)
    layers: list[LayerSolution] = []
    powers: list[Power] = []
    for k, (stage, network) in enumerate(zip(stages, networks, strict=True)):
        transfer = network.transfer
        constant = (stage.vdd * transfer[..., -1])[..., None, :]
        combined = voltages @ transfer[..., :-1].transpose(-1, -2) + constant
        solved = solve_loaded(combined, stage.neuron, stage.load, options)
        status = torch.maximum(status, solved.status)
        residual = torch.maximum(residual, solved.residual)
        iterations = iterations + solved.iterations
        if power:
            powers.append(_layer_power(stage, network, voltages, combined, solved, first=k == 0))
        layers.append(LayerSolution(voltages, combined, solved.gates, solved.outputs))
        voltages = solved.outputs
    status = torch.where(finite, status, int(Status.NOT_FINITE))
    solution = Solution(
        _unless(status != int(Status.CONVERGED), voltages),
        tuple(
            LayerSolution(*(_unless(~finite, getattr(layer, part.name)) for part in fields(layer)))
            for layer in layers
        ),
        sum_power(powers, status != int(Status.CONVERGED)) if power else None,
        status,
        torch.where(finite, residual, torch.nan),
        iterations,
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
    voltages: Tensor,
    combined: Tensor,
    solved: NeuronSolution,
    *,
    first: bool,
) -> Power:
    """Power of the sources that belong to one layer, (S, B) each."""
    neurons = stage.neuron.static_power(stage.vdd, solved.gates, solved.outputs)
    lines = torch.cat([voltages, stage.vdd.expand(*voltages.shape[:-1], 1)], dim=-1)
    blocks = network.layout.gather_inputs(lines).transpose(-3, -2)  # (S, H, B, K)
    by_inputs = torch.zeros_like(combined[..., 0])
    if first:
        currents = blocks @ network.admittance.transpose(-1, -2)
        everything = (blocks * currents).sum((-3, -1))
        bias = stage.vdd * currents[..., -1, :, -1]
        by_inputs = everything - bias
    else:
        current = blocks[..., -1, :, :] @ network.admittance[..., -1, -1, :, None]
        bias = stage.vdd * current.squeeze(-1)
    # Amplifiers: a quadratic form per partition, and what flows between them and on through the
    # neuron input. With one partition nothing flows between: no difference of large numbers.
    amplifiers = (blocks * (blocks @ network.amplifier_form)).sum((-3, -1))
    amplifiers = amplifiers + network.read_out.combination.meeting_power(combined, neurons.drawn)
    return Power(
        inputs=by_inputs,
        bias=bias,
        neurons=neurons.supply,
        level_shift=neurons.level_shift,
        amplifiers=amplifiers,
    )


def _unless(failed: Tensor, voltages: Tensor) -> Tensor:
    """Voltages (S, B, …), NaN for samples (B,) or (S, B) that failed."""
    if not bool(failed.any()):
        return voltages
    return torch.where(failed[..., None], torch.nan, voltages)


def sum_power(powers: Sequence[Power], failed: Tensor) -> Power:
    """The power of all layers; NaN for samples (B,) or (S, B) that failed."""

    def total(name: str) -> Tensor:
        return torch.where(
            failed, torch.nan, torch.stack([getattr(power, name) for power in powers]).sum(0)
        )

    return Power(*(total(part.name) for part in fields(Power)))
