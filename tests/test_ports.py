"""Layers seen from their ports: assembly, reciprocity, superposition, amplifier power."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dense_network import VDD, behavioural, circuit_of, random_layers, scalar

from imac_torch.elimination.forms import AmplifierForms
from imac_torch.elimination.ports import eliminate_layer
from imac_torch.reference.nodal import solve_layer

CASES = [
    {},
    {"columns": 3, "rows": 2},
    {"columns": 2, "combine": "sum", "opened": 0.2},
    {"columns": 3, "rows": 4, "output_resistance": 75.0, "ideal": "input"},
]
cases = pytest.mark.parametrize("case", CASES, ids=["one", "cut", "sum", "ideal"])


def build(case, sizes=(6, 5)):
    layers = random_layers(sizes, behavioural(), **case)
    return layers, layers[0][0], eliminate_layer(layers[0][0])[0]


def vectors(count, lines):
    generator = torch.Generator().manual_seed(8)
    voltages = torch.randn(count, lines, generator=generator, dtype=torch.float64)
    voltages[:, -1] = VDD
    return voltages


@cases
def test_assembled_layers_equal_the_stamped_circuit(case):
    layers, spec, ports = build(case)
    circuit = circuit_of(layers).layers[0]
    lines = vectors(4, 7)
    nodes = solve_layer(circuit, lines[:, :-1], VDD)
    # Sums and ratios of positive numbers: no more than a few dozen roundings (test_elimination);
    # the dense solution loses the span of conductances, 1e-16·(1e-1/5e-6).
    close = {"rtol": 1e-11, "atol": 1e-13}
    assert (ports.outputs, ports.inputs, ports.partitions) == (5, 6, len(spec.column_ends))
    positive, negative = ports.end_voltages(lines)
    for found, name in ((positive, "pe"), (negative, "ne")):
        torch.testing.assert_close(found, nodes[:, circuit.array(name).index], **close)
    combined = lines @ ports.transfer.T
    # The amplifier multiplies the ends' rounding by its gain of 20 and takes a difference.
    torch.testing.assert_close(combined, nodes[:, circuit.array("z").index], rtol=1e-11, atol=2e-11)
    currents = torch.zeros(4, 7, dtype=torch.float64)
    pins = torch.tensor([*circuit.inputs, 1])
    for element in circuit.elements:
        if element.name == "ro":
            continue
        first, second = (torch.from_numpy(element.nodes[:, k].copy()) for k in range(2))
        flow = (nodes[:, first] - nodes[:, second]) / torch.from_numpy(element.values)
        for line, pin in enumerate(pins):
            currents[:, line] += flow[:, first == pin].sum(1) - flow[:, second == pin].sum(1)
    torch.testing.assert_close(ports.input_currents(lines), currents, rtol=1e-9, atol=1e-16)


@cases
def test_crossbars_without_feedback_are_reciprocal(case):
    """alpha = 0: resistors only, so the admittance is symmetric; and it is not with it."""
    _, spec, ports = build(case)
    # gain/(1+gain) → 0 with the same loads: a tiny gain with R1 to ground, R2+R4 ≈ R1.
    tiny = replace(spec.read_out, gain=scalar(1e-300))
    passive, _ = eliminate_layer(replace(spec, read_out=tiny))
    symmetric = passive.admittance
    torch.testing.assert_close(symmetric, symmetric.mT, rtol=1e-12, atol=1e-20)
    asymmetry = (ports.admittance - ports.admittance.mT).abs().max()
    assert float(asymmetry) > 1e-3 * float(ports.admittance.abs().max())
    # Passive all the same: the op-amp only ever takes power from its own supply.
    assert float(torch.linalg.eigvalsh(symmetric).min()) > -1e-18


@cases
def test_superposition(case):
    layers, _, ports = build(case)
    circuit = circuit_of(layers).layers[0]
    lines = vectors(2, 7)
    alone = torch.zeros_like(lines[:1]).expand(7, 7) + torch.diag(lines[0])
    total = sum(solve_layer(circuit, row[None, :-1], float(row[-1])) for row in alone)
    together = solve_layer(circuit, lines[:1, :-1], VDD)
    known = ~together.isnan()
    torch.testing.assert_close(total[known], together[known], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(
        (alone @ ports.transfer.T).sum(0), lines[0] @ ports.transfer.T, rtol=1e-12, atol=1e-14
    )


@cases
def test_amplifier_power_is_the_sum_over_amplifiers(case):
    """The quadratic form against each amplifier's output voltage times current."""
    _, spec, ports = build(case)
    lines = vectors(4, 7)
    positive, negative = ports.end_voltages(lines)
    gain, r = float(spec.read_out.gain), float(spec.read_out.resistance)
    output = gain * (positive - negative)
    current = (output - gain / (1 + gain) * positive) / (gain * r)
    if spec.read_out.combination.kind == "average" and ports.partitions > 1:
        # neuron input at 0 V
        current = current + output / float(spec.read_out.combination.output_resistance)
    expected = (output * current).sum((-1, -2))
    blocks = ports.layout.gather_inputs(lines)
    found = torch.einsum("bhi,hij,bhj->b", blocks, AmplifierForms.of(ports).lines, blocks)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_equal_pairs_and_open_layers_transfer_next_to_nothing():
    layers = random_layers([4, 3], behavioural(), ideal="both")
    spec = layers[0][0]
    pair = spec.conductances
    zero = torch.zeros_like(pair.positive)
    nothing = replace(pair, positive=zero, negative=zero)
    opened, _ = eliminate_layer(replace(spec, conductances=nothing))
    assert not opened.transfer.any() and not opened.admittance.any()
    one_sided, _ = eliminate_layer(replace(spec, conductances=replace(pair, negative=zero)))
    # I- then carries nothing and ends at the virtual node: out = gain·(1 - alpha)·pe.
    gain = float(spec.read_out.gain)
    torch.testing.assert_close(
        one_sided.transfer, gain / (1 + gain) * one_sided.positive_end, rtol=1e-12, atol=0
    )
    # Ideal wires: pe is the weighted mean of the inputs with the load 1/(R2 + R4) to ground.
    expected = pair.positive / (pair.positive.sum(1, keepdim=True) + 1 / (1e3 * (1 + gain)))
    torch.testing.assert_close(one_sided.positive_end, expected, rtol=1e-12, atol=0)
