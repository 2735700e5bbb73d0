"""Gradients of the DC solution, and how layers are chained."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from dense_network import (
    VDD,
    behavioural,
    core_of,
    finfet,
    random_layers,
    scalar,
    signs,
    ternary_cells,
)
from torch.autograd import gradcheck

from imac_torch.dc.network import chain_layers, solve_dc
from imac_torch.dc.newton import NewtonOptions
from imac_torch.elimination.ports import eliminate_layer
from imac_torch.finfet import FinFET, builtin_14nm_hp
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.neuron.finfet import InverterCore
from imac_torch.results.solution import Power

# Parameters are factors of about 1, changed by 1e-5: outputs solved to 1e-13 V have numeric
# derivatives to 1e-8 V, and curvature adds (1e-5)²·f'''. Powers are divided by their own size.
TIGHT = NewtonOptions(tolerance=1e-13, kernel="torch")
CHECK = {"eps": 1e-5, "atol": 1e-6, "rtol": 1e-5}
SCALARS = ("input_segment", "output_segment", "gain", "resistance", "output_resistance")


def chain(layers, factors, cores, resistances=(1.0, 1.0, 1.0), vdd=None):
    """Stages of layers whose elements are multiplied by factors.

    ``factors``: per layer (2, M, C) of the conductances; then one of every name in SCALARS.
    """
    conductance, wires = factors
    built = []
    for (spec, neuron), factor, core in zip(layers, conductance, cores):
        pair, known = spec.conductances, spec.read_out
        spec = replace(
            spec,
            conductances=ConductancePair(pair.positive * factor[0], pair.negative * factor[1]),
            input_segment=spec.input_segment * wires[0],
            output_segment=spec.output_segment * wires[1],
            read_out=replace(
                known,
                gain=known.gain * wires[2],
                resistance=known.resistance * wires[3],
                combination=replace(
                    known.combination,
                    output_resistance=known.combination.output_resistance * wires[4],
                ),
            ),
        )
        circuit = NeuronCircuit.of(neuron, core, spec.read_out.combination.series_resistance)
        circuit = replace(
            circuit,
            input_resistance=circuit.input_resistance * resistances[0],
            feedback_conductance=circuit.feedback_conductance * resistances[1],
            level_shift=circuit.level_shift * resistances[2],
        )
        built.append((eliminate_layer(spec)[0], circuit))
    return chain_layers(built, scalar(VDD) if vdd is None else vdd)


def ones(layers):
    """Conductance factors, spread a little, and those of the wires."""
    generator = torch.Generator().manual_seed(6)
    conductance = [
        1.0 + 0.1 * torch.rand(2, *spec.conductances.positive.shape, generator=generator).double()
        for spec, _ in layers
    ]
    return conductance, torch.ones(len(SCALARS), dtype=torch.float64)


class Everything:
    """Outputs (V) and every power that is not zero, in units of its size at the first call."""

    def __init__(self) -> None:
        self.scales: dict[str, torch.Tensor] = {}

    def __call__(self, prepared, inputs):
        solution = solve_dc(prepared, inputs, options=TIGHT)
        assert solution.converged.all()
        parts = {part.name: getattr(solution.power, part.name) for part in fields(Power)}
        if not self.scales:
            sizes = {name: part.detach().abs().mean() for name, part in parts.items()}
            self.scales = {name: size for name, size in sizes.items() if size > 0}
            assert {"inputs", "bias", "amplifiers"} <= set(self.scales)
        return (solution.outputs, *(parts[name] / size for name, size in self.scales.items()))


@pytest.mark.parametrize(
    ("neuron", "case"),
    [
        (behavioural(), {"columns": 2}),
        (behavioural("tanh"), {"combine": "sum", "columns": 2}),
        (finfet(), {"columns": 2, "output_resistance": 30.0, "cells": ternary_cells}),
        (finfet(5e3, 15e3), {}),
    ],
    ids=["logistic", "tanh-sum", "finfet", "finfet-one-partition"],
)
def test_gradients_of_outputs_and_powers(neuron, case):
    layers = random_layers([2, 2, 1], neuron, **case)
    cores = [neuron.model.tabulated_core(neuron)] * 2
    conductance, wires = ones(layers)
    inputs = 0.7 * signs(2, 2)
    everything = Everything()

    def function(inputs, wires, resistances, *conductance):
        return everything(chain(layers, (conductance, wires), cores, resistances), inputs)

    resistances = torch.ones(3, dtype=torch.float64)
    arguments = [inputs, wires, resistances, *conductance]
    for item in arguments:
        item.requires_grad_()
    # Behavioural neurons check each derivative, transistors one random direction of them.
    assert gradcheck(
        function, arguments, nondet_tol=1e-9, fast_mode=neuron.kind == "finfet", **CHECK
    )


def test_gradients_of_the_supply_and_of_behavioural_parameters():
    layers = random_layers([2, 2, 1], behavioural(), columns=2)
    inputs, everything = signs(2, 2), Everything()

    def function(vdd, slope, resistance):
        core = replace(
            core_of(behavioural()), vdd=vdd, slope=11.0 * slope,
            output_resistance=1e3 * resistance,
        )
        return everything(chain(layers, ones(layers), [core], vdd=vdd), inputs)

    arguments = [scalar(x).requires_grad_() for x in (0.8, 1.0, 1.0)]
    assert gradcheck(function, arguments, **CHECK)


def test_gradients_of_transistor_parameters_and_of_their_supply():
    """Through the exact model: work function and supply."""
    layers = random_layers([1, 1], finfet(), cells=ternary_cells)
    inputs, everything = 0.3 * signs(1, 1), Everything()
    cards = builtin_14nm_hp()

    def function(shift, vdd):
        n, p = (
            FinFET(
                card, nfin=10, temperature=298.15,
                overrides={"phig": card.parameters["phig"] * shift},
            )
            for card in cards
        )
        core = InverterCore(n, p, vdd)
        return everything(chain(layers, ones(layers), [core], vdd=vdd), inputs)

    # One direction of the arguments and one of the outputs: the exact model is slow.
    generator = torch.Generator().manual_seed(8)
    weights: list[float] = []

    def total(shift, vdd):
        found = torch.cat([item.flatten() for item in function(shift, vdd)])
        weights.extend(torch.rand(len(found) - len(weights), generator=generator).tolist())
        return found @ torch.tensor(weights, dtype=torch.float64)

    arguments = [scalar(x).requires_grad_() for x in (1.0, 0.8)]
    by_shift, by_vdd = torch.autograd.grad(total(*arguments), arguments)
    found = 0.1 * by_shift + by_vdd
    assert min(abs(float(0.1 * by_shift)), abs(float(by_vdd))) > 0.1 * abs(float(found))
    with torch.no_grad():
        ahead, behind = (total(scalar(1.0 + 0.1 * s), scalar(0.8 + s)) for s in (1e-5, -1e-5))
    torch.testing.assert_close(found, (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_conductance_samples():
    """Each sample's gradient is its own."""
    layers = random_layers([2, 2, 1], behavioural(), columns=2)
    inputs = signs(3, 2)
    cores = [core_of(behavioural())] * 2
    base, wires = ones(layers)
    stacked = [torch.stack([item, 1.3 * item], dim=1).requires_grad_() for item in base]
    outputs = solve_dc(chain(layers, (stacked, wires), cores), inputs, options=TIGHT).outputs
    assert outputs.shape == (2, 3, 1)
    found = torch.autograd.grad(outputs.sum(), stacked)
    for sample in range(2):
        own = [item[:, sample].detach().requires_grad_() for item in stacked]
        alone = solve_dc(chain(layers, (own, wires), cores), inputs, options=TIGHT).outputs
        expected = torch.autograd.grad(alone.sum(), own)
        for item, wanted in zip(found, expected):
            torch.testing.assert_close(item[:, sample], wanted, rtol=1e-9, atol=1e-14)


def test_inputs_of_layers_are_outputs_before():
    layers = random_layers([3, 4, 2], behavioural(), columns=3)
    prepared = chain(layers, ones(layers), [core_of(behavioural())] * 2)
    solution = solve_dc(prepared, signs(2, 3), power=False)
    assert solution.power is None
    assert torch.equal(solution.layers[1].inputs, solution.layers[0].outputs)
    assert torch.equal(solution.outputs, solution.layers[1].outputs)
    assert prepared[1].load is None and prepared[0].load is not None
    # Loading matters: without it outputs of the first layer would be the ideal shape's.
    unloaded = solve_dc((replace(prepared[0], load=None),), signs(2, 3)).outputs
    assert float((unloaded - solution.layers[0].outputs).abs().max()) > 1e-4
