"""Transistors of FinFET neurons: a table in ngspice, model cards in HSPICE."""

from __future__ import annotations

import pytest
import torch
from netlist_oracle import make_circuit, make_inputs
from scipy.optimize import fsolve

from imac_torch.config import Neuron
from imac_torch.errors import NetlistError
from imac_torch.netlist import (
    HSpiceWriter,
    NetlistSettings,
    NgSpiceWriter,
    card_inverter,
    table_inverter,
    write_netlists,
)
from imac_torch.netlist.inverter import default_axes
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.simulator import NgSpice, check, solve_netlists

VDD = 0.8
SPEC = NeuronSpec("finfet", 78e3, 202e3, 0.4, VDD, 298.15, Neuron(kind="finfet"))
N_CARD = ".model nfet nmos level=72\n+ version=105.03\n+ l=1.8e-08\n"
P_CARD = ".model pfet pmos level=72\n+ version=105.03\n"


def inverter(gate, output):
    """A smooth inverter of about the currents of ten fins; gate current by a hyperbolic sine."""

    def drive(overdrive, drop):
        return 5e-3 * 0.05 * torch.nn.functional.softplus(overdrive / 0.05) * torch.tanh(drop / 0.2)

    up = drive(VDD - gate - 0.4, VDD - output)
    down = drive(gate - 0.4, output)
    return up - down, 2e-8 * torch.sinh(5 * gate), up


def neuron_by_root_finding(z):
    """Gate, output and supply current of one unloaded neuron."""

    def currents(state):
        values = inverter(*(torch.tensor(v, dtype=torch.float64) for v in state))
        return [float(value) for value in values]

    def residual(state):
        gate, output = state
        delivered, drawn, _ = currents(state)
        feedback = (output - gate) / 202e3
        return [((z + 0.4 - gate) / 78e3 + feedback - drawn) * 1e6, (delivered - feedback) * 1e6]

    solution, _, found, _ = fsolve(residual, [0.4, 0.4], xtol=1e-13, full_output=True)
    assert found == 1
    return *solution, currents(solution)[2]


def test_table_in_ngspice_equals_the_model(ngspice, tmp_path):
    circuit = make_circuit([3, 3], neuron=SPEC, gains=[30.0])
    inputs = make_inputs(circuit, 2)
    writer = NgSpiceWriter(inverter=table_inverter(inverter, vdd=VDD, fins=10))
    settings = NetlistSettings(analysis="dc", save="all")
    run = write_netlists(circuit, inputs, tmp_path / "run", writer, settings)
    spice = check(solve_netlists(run, NgSpice(str(ngspice), timeout=100.0)))
    waveforms = spice.outcomes[0].unwrap().waveforms
    # Bilinear interpolation in cells of 2 mV (gate) by 8 mV (output) is off by h²/8·|f''|; the
    # curvature scales are 50 mV and 200 mV: 1e-5 and 1e-4 of the current. An output resistance
    # that makes the voltage gain about 5 turns that into at most 1e-4·0.8 V.
    for image in range(2):
        supply = 0.0
        for row in range(1, 4):
            z = waveforms[f"v(xlayer1.z{row})"][image]
            gate, output, drawn = neuron_by_root_finding(z)
            supply += drawn
            found = waveforms[f"v(xlayer1.xneuron{row}.g)"][image]
            assert found == pytest.approx(gate, abs=1e-4)
            assert waveforms[f"v(y{row})"][image] == pytest.approx(output, abs=1e-4)
        power = float(spice.solution.power.neurons[image])
        assert power == pytest.approx(VDD * supply, rel=1e-3)
    # the neurons were in their active region for at least one image
    outputs = spice.solution.outputs
    assert ((outputs > 0.1) & (outputs < 0.7)).any()


def table_error(gate, output, gate_range=(-0.65, 1.4)):
    """Largest error of a tabulated output current, relative to the largest current.

    In the middle of every cell, where bilinear interpolation is worst; within the supplies.
    """
    gate = gate[(gate >= gate_range[0]) & (gate <= gate_range[1])]
    output = output[(output >= 0.0) & (output <= VDD)]
    corners = inverter(*torch.meshgrid(gate, output, indexing="ij"))[0]
    centres = ((gate[1:] + gate[:-1]) / 2, (output[1:] + output[:-1]) / 2)
    middle = inverter(*torch.meshgrid(*centres, indexing="ij"))[0]
    mean = (corners[1:, 1:] + corners[1:, :-1] + corners[:-1, 1:] + corners[:-1, :-1]) / 4
    return float((mean - middle).abs().max() / corners.abs().max())


def test_table_error_falls_with_the_square_of_the_step():
    errors = []
    for factor in (1, 2):
        gate = torch.linspace(-1.0, 1.9, 145 * factor + 1, dtype=torch.float64)
        wide = torch.linspace(-0.36, 1.26, 324 * factor + 1, dtype=torch.float64)
        errors.append(table_error(gate, wide))
    # second order: a factor of 4, less what the grid's phase changes
    assert 3.0 < errors[0] / errors[1] < 5.0


def test_default_table_is_accurate():
    assert table_error(*default_axes(VDD)) < 2e-4


def test_table_is_only_used_where_it_holds(tmp_path):
    inputs = torch.zeros(1, 2, dtype=torch.float64)
    axes = (torch.linspace(-1, 1, 3).double(), torch.linspace(0, 1, 3).double())
    table = table_inverter(inverter, vdd=VDD, fins=7, axes=axes)
    circuit = make_circuit([2, 1], neuron=SPEC)
    with pytest.raises(NetlistError, match="made for fins = 7"):
        write_netlists(circuit, inputs, tmp_path / "run", NgSpiceWriter(inverter=table))
    table = table_inverter(inverter, vdd=0.7, fins=10, axes=axes)
    with pytest.raises(NetlistError, match=r"made for vdd = 0\.7"):
        write_netlists(circuit, inputs, tmp_path / "run", NgSpiceWriter(inverter=table))
    with pytest.raises(NetlistError, match="for ngspice, not for hspice"):
        HSpiceWriter(inverter=table)


def test_table_of_a_bad_model():
    with pytest.raises(NetlistError, match="three finite currents"):
        table_inverter(lambda g, o: (g * torch.nan, g, o), vdd=VDD, fins=10)
    with pytest.raises(NetlistError, match="three finite currents"):
        table_inverter(lambda g, o: (g + o,), vdd=VDD, fins=10)


def test_inverter_must_take_the_number_of_fins(tmp_path):
    path = tmp_path / "mine.sp"
    path.write_text(".subckt inverter g out vdd\nRout out 0 1k\n.ends\n")
    with pytest.raises(NetlistError, match=r"mine\.sp must declare the parameter fins"):
        NgSpiceWriter(inverter=path)


def test_cards_travel_with_an_hspice_netlist(tmp_path):
    circuit = make_circuit([2, 1], neuron=SPEC)
    writer = HSpiceWriter(inverter=card_inverter(N_CARD, P_CARD, 18e-9))
    run = write_netlists(circuit, make_inputs(circuit, 1), tmp_path / "run", writer)
    text = (run.directory / "circuit" / "inverter.sp").read_text()
    assert N_CARD in text
    assert P_CARD in text
    assert "Mn out g 0 0 nfet l=1.8e-08 nfin='fins'" in text
    assert "Mp out g vdd vdd pfet l=1.8e-08 nfin='fins'" in text
    netlist = run.batches[0].job.netlist.read_text()
    assert ".include '../circuit/inverter.sp'" in netlist


@pytest.mark.parametrize("cards", [(P_CARD, N_CARD), (N_CARD, ""), (N_CARD + N_CARD, P_CARD)])
def test_cards_are_checked(cards):
    with pytest.raises(NetlistError, match="model card"):
        card_inverter(*cards, 18e-9)
