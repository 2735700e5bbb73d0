"""Cores of activation circuits: derivatives, tables against the model, choice by specification."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dense_network import VDD, behavioural, core_of, finfet, scalar, table_of, transistors
from torch.autograd import gradcheck

from imac_torch.dc.newton import NewtonOptions, solve_neurons
from imac_torch.errors import ConfigError
from imac_torch.periphery.neuron.behavioural import BehaviouralCore
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.neuron.finfet import InverterCore
from imac_torch.periphery.neuron.tabulated import TableCore


@pytest.fixture(scope="module")
def inverter() -> InverterCore:
    return InverterCore(*transistors(10), scalar(VDD))


@pytest.fixture(scope="module")
def table() -> TableCore:
    return table_of(finfet())


def points(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    gate = -0.6 + 2.0 * torch.rand(count, generator=generator, dtype=torch.float64)
    return gate, VDD * torch.rand(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["logistic", "tanh", "relu", "hardtanh", "identity"])
def test_behavioural_derivatives(kind):
    core = core_of(behavioural(kind))
    assert isinstance(core, BehaviouralCore)
    gate, output = (x.requires_grad_() for x in points(20))
    assert gradcheck(lambda g, u: core.values(g, u).output, (gate, output))
    found = core.currents(gate.detach(), output.detach())
    by_gate, by_output = torch.autograd.grad(core.values(gate, output).output.sum(), (gate, output))
    torch.testing.assert_close(found.output_by_gate, by_gate)
    torch.testing.assert_close(found.output_by_output, by_output)
    assert not found.gate.any() and not found.gate_by_gate.any()


def test_behavioural_shapes_saturate_without_overflow():
    gate = torch.tensor([-1e6, -1.0, 0.0, 1.0, 1e6], dtype=torch.float64)
    for kind, expected in (
        ("logistic", [VDD, None, VDD / 2, None, 0.0]),
        ("tanh", [-VDD, None, 0.0, None, VDD]),
        ("relu", [0.0, 0.0, 0.0, VDD, VDD]),
        ("hardtanh", [-VDD, -VDD, 0.0, VDD, VDD]),
    ):
        value, slope = core_of(behavioural(kind)).shape(gate)
        assert value.isfinite().all() and slope.isfinite().all()
        for found, wanted in zip(value.tolist(), expected):
            assert wanted is None or found == pytest.approx(wanted, abs=1e-15)


def test_exact_inverter_derivatives(inverter):
    gate, output = points(30)
    found = inverter.currents(gate, output)
    # Central differences: (1e-4 V)²·f'''/6 with currents that bend over 30 mV: 1e-6 relative.
    step = 1e-4
    for name, value, by in (("output", "output", 0), ("gate", "gate", 0), ("output", "output", 1)):
        shift = [step if k == by else 0.0 for k in range(2)]
        up = getattr(inverter.values(gate + shift[0], output + shift[1]), value)
        down = getattr(inverter.values(gate - shift[0], output - shift[1]), value)
        slope = getattr(found, f"{name}_by_{'gate' if by == 0 else 'output'}")
        torch.testing.assert_close((up - down) / (2 * step), slope, rtol=1e-4, atol=1e-9)


def test_table_values_and_slopes_are_consistent(table):
    gate, output = points(40)
    value, currents = table.values(gate, output), table.currents(gate, output)
    torch.testing.assert_close(value.output, currents.output, rtol=1e-12, atol=1e-18)
    torch.testing.assert_close(value.gate, currents.gate, rtol=1e-11, atol=1e-22)
    gate.requires_grad_(), output.requires_grad_()
    graph = table.values(gate, output)
    for name in ("output", "gate"):
        found, expected = getattr(graph, name), getattr(value, name)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-22)
        slopes = torch.autograd.grad(getattr(graph, name).sum(), (gate, output), retain_graph=True)
        for slope, by in zip(slopes, ("gate", "output")):
            torch.testing.assert_close(
                slope, getattr(currents, f"{name}_by_{by}"), rtol=1e-10, atol=1e-20
            )


@pytest.mark.parametrize(
    ("rlow", "rhigh"), [(78e3, 202e3), pytest.param(5e3, 15e3, marks=pytest.mark.slow)]
)
def test_tabulated_neurons_are_within_a_tenth_of_a_microvolt(inverter, table, rlow, rhigh):
    """What :data:`TABLE_NODES` states; the worst place, 0.06 V, is among the points."""
    combined = torch.cat([
        torch.linspace(-3.0, 3.0, 101, dtype=torch.float64),
        torch.linspace(0.15, 0.25, 51, dtype=torch.float64),
    ])[None, :, None]
    solved = []
    for core in (inverter, table):
        neuron = NeuronCircuit(core, scalar(rlow), scalar(1 / rhigh), scalar(0.4))
        solution = solve_neurons(combined, neuron, None, NewtonOptions(tolerance=1e-12))
        assert (solution.status == 0).all()
        solved.append(solution)
    difference = (solved[0].outputs - solved[1].outputs).abs()
    assert float(difference.max()) < 1e-7
    assert float(difference.square().mean().sqrt()) < 3e-8
    # Gates are clamped by tunnelling: several volts at z, but the table's range holds.
    assert table.inside(solved[0].gates, solved[0].outputs).all()
    supply = [core.values(s.gates, s.outputs).supply for core, s in zip((inverter, table), solved)]
    # Tunnelling grows by e per 15 mV, on gate nodes h = 9 mV apart: (h/15 mV)^4/384 = 3e-4.
    torch.testing.assert_close(supply[0], supply[1], rtol=3e-4, atol=1e-12)


def test_tunnelling_clamps_gates(table):
    """Without it, gates of ±6 V amplifiers would be at volts: 15/20 of -5.6 V and of 6.4 V.

    Gate and drain are a junction of 15 mV per e-fold; the milliamperes that 6 V drive through
    5 kΩ flow at about half a volt beyond the output, which is at a rail.
    """
    combined = torch.tensor([[[-6.0], [6.0]]], dtype=torch.float64)
    neuron = NeuronCircuit(table, scalar(5e3), scalar(1 / 15e3), scalar(0.4))
    solution = solve_neurons(combined, neuron, None, NewtonOptions())
    low, high = solution.gates.flatten().tolist()
    assert -0.6 < low < -0.3 and VDD + 0.3 < high < VDD + 0.6
    current = table.values(solution.gates, solution.outputs).gate.flatten().tolist()
    for gate, drawn, z, u in zip((low, high), current, (-6.0, 6.0), solution.outputs.flatten()):
        assert drawn == pytest.approx((z + 0.4 - gate) / 5e3 + (float(u) - gate) / 15e3, rel=1e-6)
        assert abs(drawn) > 0.9e-3


def test_tables_are_cached_by_what_they_depend_on(monkeypatch):
    made, of = [], TableCore.of

    def coarse(*arguments, **options):
        made.append(1)
        return of(*arguments, nodes=(9, 9), **options)

    monkeypatch.setattr(TableCore, "of", coarse)
    spec = replace(finfet(fins=3), temperature=333.0, vdd=0.7)  # in no other test
    first = spec.model.tabulated_core(spec)
    assert table_of(replace(spec, input_resistance=5e3, level_shift=0.1)) is first
    assert len(made) == 1
    for other in (
        replace(spec, temperature=334.0),
        replace(spec, vdd=0.71),
        replace(spec, options=spec.options.model_copy(update={"fins": 4})),
    ):
        assert other.model.tabulated_core(other) is not first
    assert len(made) == 4


def test_what_has_no_model_is_an_error():
    with pytest.raises(ConfigError, match="no neuron kind 'quantum'"):
        core_of(replace(behavioural(), kind="quantum"))
    with pytest.raises(ConfigError, match="model_directory"):
        core_of(finfet(transistor_node=7))
