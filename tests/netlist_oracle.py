"""Small circuits for tests of netlists, and a dense solution of them that shares no code.

The oracle stamps element arrays into one dense matrix of all layers, amplifiers as voltage
constraints with a branch current each, and runs Newton's method on the neurons.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.circuit.topology import Circuit, build_layer
from imac_torch.config import (
    Amplifier,
    Config,
    Crossbar,
    Interconnect,
    Neuron,
    Timing,
    WeightMapping,
)
from imac_torch.mapping.quantization import to_conductances
from imac_torch.periphery.neuron.base import NeuronSpec


def neuron_spec(kind="logistic", vdd=0.8, **options):
    """A behavioural neuron without level shift."""
    section = Neuron(kind=kind, **options)
    return NeuronSpec(kind, 0.0, float("inf"), 0.0, vdd, 298.15, section)


def make_circuit(
    sizes, *, rows=32, columns=32, gains=None, kind="logistic", seed=1, neuron=None, **sections
):
    """A network of random ternary weights; ``sections`` replace sections of the configuration."""
    generator = torch.Generator().manual_seed(seed)
    config = Config(
        crossbar=Crossbar(rows=rows, columns=columns),
        timing=sections.pop("timing", Timing()),
        amplifier=sections.pop("amplifier", Amplifier()),
        interconnect=sections.pop("interconnect", Interconnect(capacitance=False)),
        mapping=sections.pop("mapping", WeightMapping()),
    )
    layers = []
    for k, (inputs, outputs) in enumerate(pairwise(sizes)):
        shape = (outputs * config.mapping.slices, inputs + 1)
        weights = torch.randint(-1, 2, shape, generator=generator).double()
        pair = to_conductances(weights, config.device, config.mapping, where="test")
        spec = build_crossbar(pair, config, 10.0 if gains is None else gains[k])
        neurons = neuron_spec(kind) if neuron is None else neuron
        layers.append(build_layer(f"layer{k + 1}", spec, neurons, config))
    return Circuit(tuple(layers), 0.8, config.timing)


def make_inputs(circuit, count, seed=5):
    """(count, N) V of ±0.8."""
    generator = torch.Generator().manual_seed(seed)
    lines = len(circuit.layers[0].inputs)
    return 0.8 * (2.0 * torch.randint(0, 2, (count, lines), generator=generator).double() - 1.0)


def shape(kind, slope, vdd, v):
    """Behavioural activation and its derivative, written out again."""
    if kind == "logistic":
        y = vdd / (1.0 + np.exp(slope * v))
        return y, -slope * y * (1.0 - y / vdd)
    if kind == "tanh":
        t = np.tanh(slope * v / 2)
        return vdd * t, vdd * slope * (1 - t * t) / 2
    if kind == "relu":
        return np.clip(v, 0.0, vdd), ((v > 0) & (v < vdd)).astype(float)
    if kind == "hardtanh":
        return np.clip(v, -vdd, vdd), (np.abs(v) < vdd).astype(float)
    return v, np.ones_like(v)


def dense_solution(circuit, inputs):
    """Node voltages by name, and powers, of the whole network for one input vector.

    Returns:
        Voltages by ``layer.node`` name, power of inputs (W), power of vdd into bias lines (W).
    """
    offsets, total = [], 0
    for layer in circuit.layers:
        offsets.append(total)
        total += layer.node_count
    sources = []  # (node, coefficients on other nodes): v(node) = constant + Σ coefficient·v

    conductance = np.zeros((total, total))

    def resistor(a, b, value):
        g = 1.0 / value
        conductance[a, a] += g
        conductance[b, b] += g
        conductance[a, b] -= g
        conductance[b, a] -= g

    neurons = []
    for number, (layer, base) in enumerate(zip(circuit.layers, offsets, strict=True)):
        sources.append((base, 0.0, {}))
        sources.append((base + 1, circuit.vdd, {}))
        for element in layer.elements:
            if element.kind == "resistor":
                for (a, b), value in zip(element.nodes, element.values, strict=True):
                    resistor(base + a, base + b, value)
        gain, r = layer.read_outs.read_out.gain, layer.read_outs.read_out.resistance
        for plus, minus, out in layer.read_outs.nodes + base:
            conductance[plus, plus] += 1.0 / (r * (1.0 + gain))
            # R1 ends at n1, which the op-amp holds at v(n2) = v(plus)·gain/(1 + gain)
            conductance[minus, minus] += 1.0 / r
            conductance[minus, plus] -= gain / (1.0 + gain) / r
            sources.append((out, 0.0, {plus: gain, minus: -gain}))
        if layer.sums is not None:
            for terms, out in zip(layer.sums.terms + base, layer.sums.outputs + base, strict=True):
                factors = zip(terms, layer.sums.factors, strict=True)
                sources.append((out, 0.0, dict(factors)))
        spec = layer.neurons.spec
        for z, out in layer.neurons.nodes + base:
            neurons.append((z, out, spec))
        for line, pin in enumerate(layer.inputs + base):
            if number == 0:
                sources.append((pin, float(inputs[line]), {}))
            else:
                before = circuit.layers[number - 1].outputs[line] + offsets[number - 1]
                sources.append((pin, 0.0, {before: 1.0}))

    size = total + len(sources)
    system = np.zeros((size, size))
    right = np.zeros(size)
    system[:total, :total] = conductance
    for k, (node, constant, terms) in enumerate(sources, start=total):
        system[node, k] = 1.0
        system[k, node] = 1.0
        right[k] = constant
        for other, coefficient in terms.items():
            system[k, other] -= coefficient
            if coefficient == 1.0 and len(terms) == 1:
                system[other, k] -= 1.0  # a wire between layers carries its current on
    state = np.zeros(size)
    for _ in range(60):
        residual = system @ state - right
        jacobian = system.copy()
        for z, out, spec in neurons:
            gate = state[z] + spec.level_shift
            value, slope = shape(spec.kind, spec.options.slope, spec.vdd, gate)
            residual[out] += (state[out] - value) / spec.options.output_resistance
            jacobian[out, out] += 1.0 / spec.options.output_resistance
            jacobian[out, z] -= slope / spec.options.output_resistance
        step = np.linalg.solve(jacobian, residual)
        state -= step
        # Newton converges quadratically: after a step of 1e-10 V only rounding is left.
        if np.abs(step[:total]).max() < 1e-10:
            break
    else:
        raise AssertionError("the oracle did not converge")
    voltages = {}
    for layer, base in zip(circuit.layers, offsets, strict=True):
        for index, name in enumerate(layer.node_names().tolist()):
            voltages[f"{layer.name}.{name}"] = state[base + index]
    currents = state[total:]
    power_inputs = power_bias = 0.0
    first = {int(pin) for pin in circuit.layers[0].inputs}
    supplies = {base + 1 for base in offsets}
    for (node, _, _), current in zip(sources, currents, strict=True):
        # the branch current leaves the node into the source
        if node in first:
            power_inputs -= state[node] * current
        if node in supplies:
            power_bias -= state[node] * current
    return voltages, power_inputs, power_bias
