"""Noise against ngspice's .noise, against sums over single resistors, and against laws."""

from __future__ import annotations

import math
from dataclasses import replace

import noise_oracle
import numpy as np
import pytest
import torch
from dense_network import behavioural, finfet, random_layers, scalar
from scipy.integrate import simpson
from scipy.optimize import fsolve
from small_networks import mlp, signs
from torch import nn

from imac_torch import (
    Amplifier,
    Config,
    Crossbar,
    DeviceModel,
    Interconnect,
    InverterSigmoid,
    Memristor,
    MonteCarlo,
    Neuron,
    NgSpice,
    Report,
    Timing,
    WeightMapping,
    ablate,
    convert,
    evaluate,
)
from imac_torch.base.units import BOLTZMANN
from imac_torch.config import Noise
from imac_torch.conversion.convert import unread
from imac_torch.devices import LogNormal
from imac_torch.elimination.chain import Shunts
from imac_torch.elimination.ports import eliminate_layer
from imac_torch.errors import CircuitError, DataError, ImacWarning, SolverError
from imac_torch.finfet import FinFET, builtin_14nm_hp
from imac_torch.finfet.charge import channel_charges
from imac_torch.finfet.geometry import CHARGE
from imac_torch.model.noisy import hearing
from imac_torch.noise.circuit import NoisyCircuit
from imac_torch.noise.layer import NoisyLayer
from imac_torch.noise.ports import end_ports
from imac_torch.noise.result import ALL_PARTS
from imac_torch.reports.analysis import Analysis
from imac_torch.reports.html_report import render_report, write_report
from imac_torch.reports.model_page import render_model_report, saved_ablation
from imac_torch.reports.model_report import ModelReport

SMALL = Crossbar(rows=3, columns=3)
WIRES = Interconnect(capacitance=True)


def network(*sizes, **sections):
    return convert(mlp(*sizes), Config(**sections))


def resistor_network(positive, negative, input_wire, output_wire, shunts):
    """A block node by node: (ports, ports) admittance and Σ g·i·iᴴ over all resistors.

    i: currents into the ports (ends of I+, of I-, then lines), all held, per volt in series with a
    resistor.
    """
    rows, columns = positive.shape
    inner = 3 * rows * columns
    size = inner + 2 * rows + columns
    line, plus, minus = (
        (k * rows * columns + torch.arange(rows * columns)).reshape(rows, columns) for k in range(3)
    )
    resistors = []
    for r in range(rows):
        for c in range(columns):
            resistors.append((line[r, c], plus[r, c], positive[r, c]))
            resistors.append((line[r, c], minus[r, c], negative[r, c]))
            before = line[r - 1, c] if r else inner + 2 * rows + c
            resistors.append((line[r, c], before, 1.0 / input_wire))
            for nodes, end in ((plus, inner + r), (minus, inner + rows + r)):
                after = nodes[r, c + 1] if c + 1 < columns else end
                resistors.append((nodes[r, c], after, 1.0 / output_wire))
    incidence = torch.zeros(len(resistors), size, dtype=torch.complex128)
    for k, (a, b, _) in enumerate(resistors):
        incidence[k, int(a)], incidence[k, int(b)] = 1.0, -1.0
    conductance = torch.tensor([float(g) for _, _, g in resistors], dtype=torch.float64)
    whole = (incidence.T * conductance) @ incidence
    for nodes, values in zip((line, plus, minus), shunts, strict=True):
        whole[nodes.flatten(), nodes.flatten()] += values.flatten()
    inside = torch.linalg.solve(whole[:inner, :inner], whole[:inner, inner:])
    found = whole[inner:, inner:] - whole[inner:, :inner] @ inside
    currents = incidence[:, inner:] - incidence[:, :inner] @ inside
    return found, (currents.T * conductance) @ currents.conj()


@pytest.mark.parametrize("farads", [0.0, 1e-15])
def test_blocks_are_as_noisy_as_all_their_resistors(farads):
    # Twiss's theorem against the sum over all 60 resistors of a block, at 30 GHz. Both solve
    # well-conditioned systems of some hundred unknowns: 1e-11 is 1e5 roundings.
    generator = torch.Generator().manual_seed(1)

    def draw():
        return torch.rand(3, 4, dtype=torch.float64, generator=generator)

    sides = [1.0 / (1e3 + 1e4 * draw()) for _ in range(2)]
    shunts = [2j * math.pi * 3e10 * farads * draw() for _ in range(3)]
    admittance, noise = resistor_network(*sides, 20.0, 30.0, shunts)
    given = Shunts(*shunts) if farads else None
    found = end_ports(*sides, scalar(20.0), scalar(30.0), given).whole
    scale = admittance.abs().max()
    assert float((found - admittance).abs().max() / scale) < 1e-11
    assert float((found.real - noise).abs().max() / noise.abs().max()) < 1e-11


@pytest.mark.parametrize("ideal", ["", "input", "output", "both"])
@pytest.mark.parametrize("slices", [(1, 1), (2, 3)])
def test_layers_pass_on_what_the_solver_says(ideal, slices):
    ((spec, _),) = random_layers(
        (7, 5), behavioural(), rows=3, columns=4, ideal=ideal, slices=slices, opened=0.2
    )
    ports, _ = eliminate_layer(spec)
    here = NoisyLayer.of(spec, Interconnect(), 300.0).at(1e6)
    torch.testing.assert_close(here.transfer, ports.transfer, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(here.admittance, ports.admittance, rtol=1e-10, atol=1e-18)


CIRCUITS = {
    "everything": {
        "neuron": Neuron(kind="logistic", output_capacitance=1e-15, input_capacitance=2e-15),
        "interconnect": WIRES,
        "amplifier": Amplifier(gain=20.0, pole=2e9, output_resistance=1e3),
        "timing": Timing(load_capacitance=1e-14),
        "mapping": WeightMapping(slices=2, slice_base=3),
        "temperature": 350.0,
        "noise": Noise(amplifier_voltage=5e-9, amplifier_current=2e-12, neuron_voltage=1e-8),
    },
    "transimpedance": {
        "neuron": Neuron(kind="logistic", output_capacitance=1e-15),
        "interconnect": WIRES,
        "amplifier": Amplifier(
            kind="transimpedance", gain=20.0, pole=2e9, second_pole=6e9, output_resistance=1e3
        ),
        "noise": Noise(amplifier_voltage=5e-9, amplifier_current=2e-12),
    },
    "sense": {
        "neuron": Neuron(kind="logistic", output_capacitance=1e-15),
        "interconnect": WIRES,
        "amplifier": Amplifier(kind="sense_resistor", gain=20.0, pole=2e9),
        "device": Memristor(capacitance=5e-16),
        "noise": Noise(amplifier_voltage=5e-9, amplifier_current=2e-12),
    },
    "mirror": {
        "neuron": Neuron(kind="logistic", output_capacitance=1e-15),
        "interconnect": WIRES,
        "amplifier": Amplifier(kind="current_mirror", gain=20.0, pole=2e9, open_loop_gain=200.0),
        "noise": Noise(amplifier_voltage=5e-9, amplifier_current=2e-12),
    },
    "rails": {
        "neuron": Neuron(kind="logistic", output_capacitance=1e-15),
        "amplifier": Amplifier(
            gain=20.0, pole=2e9, open_loop_gain=300.0, open_loop_resistance=500.0,
            swing=(-0.1, 0.15), output_resistance=1e3,
        ),
        "noise": Noise(amplifier_voltage=5e-9, amplifier_current=2e-12),
    },
    "sums": {
        "neuron": Neuron(kind="tanh", output_capacitance=1e-15),
        "activation": nn.Tanh,
        "amplifier": Amplifier(gain=2.0, combine="sum", pole=5e10),
    },
    "transistors": {
        "neuron": Neuron(kind="finfet", output_capacitance=1e-15, input_capacitance=1e-15),
        "amplifier": Amplifier(gain=20.0, pole=2e9, output_resistance=1e3),
    },
}


@pytest.mark.parametrize("what", CIRCUITS)
def test_spectra_and_variances_are_those_of_ngspice(what, ngspice, tmp_path):
    # ngspice prints nine digits of V/√Hz, its operational amplifiers have a gain of 1e9 and its
    # matrices resistances from 1 mΩ to 1 MΩ: 1e-5 at every frequency. Its spectra of 10 points per
    # decade are integrated by Simpson's rule in ln f, which needs 4 for a pole on the real axis.
    sections = dict(CIRCUITS[what])
    activation = sections.pop("activation", InverterSigmoid)
    config = Config(crossbar=SMALL, **sections)
    net = convert(mlp(5, 4, 4, activation=activation), config)
    x = 0.5 * signs(1, 5)
    solution = net.solve(x)
    ((circuit, _),) = net.segment.noisy(config.noise).by_point(solution)
    if what == "rails":  # some amplifiers are, others are not
        for layer in circuit.layers:
            still = layer.point.by_offset[layer.layout.row_mask.expand(2, -1, -1)] == 0.0
            assert 0.0 < float(still.double().mean()) < 1.0
    signals = circuit.linearised(solution, config.noise.neuron_voltage)
    linear = signals if what == "transistors" else None
    text = noise_oracle.noise_netlist(
        net.circuit(), net.voltages(x)[0].tolist(), config.temperature, linear, noise=config.noise
    )
    nodes: list[str] = []
    places = []
    for number, layer in enumerate(net.circuit().layers):
        last = len(layer.outputs) - 1
        nodes += [f"n{number}_{layer.outputs[0]}", f"g{number}_{last}"]
        places += [(number, "outputs", 0), (number, "gates", last)]
    low, high = 1e4, 1e13
    frequencies, spectra = noise_oracle.spectra(text, nodes, (10, low, high), tmp_path)
    count = 4 if linear else 5  # the oracle's transistors have white noise only
    for index in range(0, len(frequencies), 8):
        density = circuit.density(signals, float(frequencies[index]))
        for (number, name, k), spectrum in zip(places, spectra, strict=True):
            found = float(getattr(density[number], name)[:count, 0, k].sum())
            assert found == pytest.approx(float(spectrum[index]), rel=1e-5, abs=0.0)
    band = {"bandwidth": high, "lowest": low, "flicker": not linear}
    report = net.noise(x, config.noise.replace(**band))
    for (number, name, k), spectrum in zip(places, spectra, strict=True):
        total = simpson(spectrum * frequencies, x=np.log(frequencies))
        found = float(getattr(report.layers[number], name)[:, 0, k].sum())
        assert found == pytest.approx(float(total), rel=5e-4, abs=0.0)


def test_a_resistor_and_a_capacitor_make_kt_over_c():
    # Unloaded outputs of a behavioural neuron: its resistance at its capacitor alone, whatever the
    # resistance is. The quadrature is good to 2e-4.
    net = network(
        4, 3, crossbar=SMALL, temperature=320.0,
        neuron=Neuron(kind="identity", output_capacitance=2e-15, output_resistance=5e3),
    )  # fmt: skip
    (layer,) = net.noise(signs(2, 4)).layers
    resistors = layer.outputs[ALL_PARTS.index("resistors")]
    expected = torch.full_like(resistors, BOLTZMANN * 320.0 / 2e-15)
    torch.testing.assert_close(resistors, expected, rtol=3e-4, atol=0.0)
    # All of it, for any read-out: one pole passes π/2 times its frequency.
    pole = 1.0 / (2.0 * math.pi * 5e3 * 2e-15)
    still = net.segment.noisy(Noise()).layers[0].at(0.0)
    for part, added in (("cells and wires", still.array), ("read-outs", still.read_out)):
        found = layer.outputs[ALL_PARTS.index(part)]
        white = added.inputs.diagonal() * pole * math.pi / 2.0
        torch.testing.assert_close(found, white.expand_as(found), rtol=3e-4, atol=0.0)


def test_inputs_shift_a_circuit_as_changes_of_them_do():
    # V² at the inputs by V² at the outputs against autograd's Jacobian of the solver; tables of
    # transistors have slopes good to 1e-4.
    amplitude = 1e-3
    net = network(
        5, 4, 3, crossbar=SMALL, amplifier=Amplifier(gain=20.0, pole=1e9),
        neuron=Neuron(output_capacitance=1e-15), noise=Noise(inputs=amplitude),
    )  # fmt: skip
    x = 0.3 * signs(1, 5)
    report = net.noise(x)

    def outputs(voltages):
        engine = net.segment.native
        return engine.solve(net.prepare(), voltages, power=False).outputs[0]

    jacobian = torch.autograd.functional.jacobian(outputs, net.voltages(x))[:, 0]
    expected = amplitude**2 * jacobian.square().sum(-1)
    torch.testing.assert_close(report.layers[-1].outputs[0, 0], expected, rtol=1e-3, atol=0.0)


def test_temperature_and_bandwidth_scale_thermal_noise():
    # Far below all corners spectra are flat: variances go with temperature and bandwidth.
    def outputs(temperature, bandwidth):
        net = network(
            4, 3, crossbar=SMALL, temperature=temperature, neuron=Neuron(kind="identity"),
            amplifier=Amplifier(gain=3.0),
        )
        return net.noise(signs(1, 4), Noise(bandwidth=bandwidth)).layers[0].outputs.sum(0)

    one = outputs(300.0, 1e6)
    torch.testing.assert_close(outputs(150.0, 1e6), 0.5 * one, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(outputs(300.0, 3e6), 3.0 * one, rtol=1e-5, atol=0.0)


def test_flicker_is_integrated_below_everything_else():
    # ∫ K/f df between two frequencies far below all corners: K·ln of their ratio.
    net = network(
        4, 3, 2, crossbar=SMALL, amplifier=Amplifier(gain=20.0, pole=1e9),
        neuron=Neuron(output_capacitance=1e-15),
    )  # fmt: skip
    x = 0.3 * signs(1, 4)
    index = ALL_PARTS.index("1/f noise")

    def outputs(lowest):
        settings = Noise(lowest=lowest, bandwidth=1e5)
        return net.noise(x, settings).layers[0].outputs[index]

    more = outputs(1.0) - outputs(1e4)
    circuit = net.segment.noisy(Noise())
    density = circuit.density(circuit.linearised(net.solve(x)), 10.0)[0].outputs[-1]
    torch.testing.assert_close(more, density * 10.0 * math.log(1e4), rtol=1e-6, atol=0.0)
    band = Noise(bandwidth=1e5)
    off = net.noise(x, band.replace(flicker=False)).layers[0].outputs
    assert float(off[index].abs().max()) == 0.0
    quiet = net.noise(x, band.replace(neurons=False)).layers[0].outputs
    assert float(quiet[[ALL_PARTS.index(p) for p in ("resistors", "transistors")]].max()) == 0.0


@pytest.mark.parametrize("card", builtin_14nm_hp(), ids=lambda card: card.polarity)
def test_a_transistor_in_equilibrium_obeys_nyquist(card):
    # 4kT·g_ds at V_ds = 0 from strong inversion on; below threshold the model's current lacks the
    # slope factor (1.2 here) that its charge has.
    device = FinFET(card, nfin=10, temperature=300.0)
    sign = 1.0 if card.polarity == "n" else -1.0
    gates = sign * torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    step = sign * 1e-4
    slope = (device.currents(step, gates).drain - device.currents(-step, gates).drain) / (2 * step)
    ratio = device.noise(0.0, gates).thermal / (4.0 * BOLTZMANN * 300.0 * slope)
    assert bool((ratio > 1.0).all()) and bool((ratio < torch.tensor([1.25, 1.08, 1.03])).all())
    # Exchanging drain and source of a channel at rest changes nothing.
    back = device.noise(0.0, gates - sign * 0.1, 0.0, -sign * 0.1)
    assert back.exponent == 1.0 and bool((back.flicker == 0.0).all())


NOISE_CARD = {
    "noia": 3e39, "noib": 6e24, "noic": 2e8, "em": 2e7, "ef": 0.9, "ntnoi": 0.7, "lintnoi": 1e-9,
}  # fmt: skip


# Above threshold and below it; the other polarity is the same equations with signs.
@pytest.mark.parametrize(
    ("card", "drain", "gate"),
    [(builtin_14nm_hp()[0], 0.6, 0.5), (builtin_14nm_hp()[1], 0.7, 0.15)], ids=["n", "p"],
)  # fmt: skip
def test_transistors_are_as_noisy_as_their_model_says(card, drain, gate):
    # Equations of the model's Verilog-A (BSIM-CMG 110.0.0, TNOIMOD = 0, RDSMOD = 1), in its own
    # order, between the internal nodes; from there to the drain by a root finder with the sources
    # put in, whose differences (1e-4 of the current) are good to 1e-6.
    card = replace(card, parameters=dict(card.parameters) | NOISE_CARD)
    device = FinFET(card, nfin=10, temperature=320.0)
    sign = 1.0 if card.polarity == "n" else -1.0
    inner, volts = device._intrinsic, tuple(map(scalar, (drain, gate, 0.0, 0.0)))
    solved = device._inner(*volts)
    state, _ = inner.state(solved[0], volts[1], solved[1])
    qis, qid = float(state.qis), float(state.qid)
    g, t = (
        {name: float(value) for name, value in vars(item).items() if torch.is_tensor(value)}
        for item in (inner.g, inner.t)
    )  # fmt: skip
    p = {name: float(inner.p[name]) for name in ("eot", "tfin", "hfin", "nbody", "cit")}
    q, cox, fins = CHARGE, g["cox"], float(inner.g.nfin)
    ids = float(inner.channel.current(state))
    ueff = t["u0"] / float(inner.channel.mobility_degradation(state.qia))
    litl = math.sqrt(g["eps_ratio"] * p["eot"] * 0.5 * p["tfin"])
    length = g["length"] - 2.0 * NOISE_CARD["lintnoi"]
    esat = 2.0 * t["vsat"] / ueff
    clm = ((float(state.vds - state.vdseff)) / litl + NOISE_CARD["em"]) / esat
    clm = max(0.0, litl * math.log(clm))
    n0, nl, nstar = cox * qis / q, cox * qid / q, t["vt"] / q * (cox + p["cit"])
    noia, noib, noic = (NOISE_CARD[name] for name in ("noia", "noib", "noic"))
    inside = noia * math.log((n0 + nstar) / (nl + nstar)) + noib * (n0 - nl)
    inside += 0.5 * noic * (n0**2 - nl**2)
    ssi = q**3 * t["vt"] * ids * ueff / (1e10 * cox * length**2) * inside
    ssi += (
        q * t["vt"] * ids**2 / (1e10 * length**2 * g["width"] * fins)
        * clm * (noia + noib * nl + noic * nl**2) / (nl + nstar) ** 2
    )  # fmt: skip
    swi = noia * q * t["vt"] * ids**2 / (g["width"] * fins * length * 1e10 * nstar**2)
    body = fins * q * p["nbody"] * p["hfin"] * p["tfin"] * g["length_cv"]
    reverse = torch.tensor(False)
    qinv = float(channel_charges(inner.channel, state, reverse).gate) - body
    sid = 4.0 * t["vt"] * q * NOISE_CARD["ntnoi"] * ueff * qinv / g["length"] ** 2

    rd, rs = (float(item) for item in inner.resistances(solved[0], volts[1], solved[1]))
    step = 1e-4 * max(ids, 1e-9)

    def drawn(through, at_drain, at_source):
        def balance(nodes):
            x, y = map(scalar, nodes)
            i = inner.currents(x, volts[1], y, volts[3])
            here = [float(item) for item in inner.resistances(x, volts[1], y)]
            return [
                (drain + at_drain - nodes[0]) / here[0] - float(i.drain) - through,
                (at_source - nodes[1]) / here[1] - float(i.source) + through,
            ]

        start = [float(solved[0]), float(solved[1])]
        (x, y), *_ = fsolve(balance, start, xtol=1e-11, full_output=True)
        return float(inner.currents(scalar(x), volts[1], scalar(y), volts[3]).drain) + through

    def slope(*directions):
        up, down = (drawn(*(s * d for d in directions)) for s in (1.0, -1.0))
        return (up - down) / (2.0 * max(directions))

    channel = slope(step, 0.0, 0.0)
    ends = slope(0.0, step * rd, 0.0), slope(0.0, 0.0, step * rs)
    thermal = sid * channel**2
    thermal += 4.0 * t["vt"] * q * (rd * ends[0] ** 2 + rs * ends[1] ** 2)
    found = device.noise(sign * drain, sign * gate)
    assert float(found.thermal) == pytest.approx(thermal, rel=1e-5, abs=0.0)
    flicker = channel**2 * ssi * swi / (ssi + swi)
    assert float(found.flicker) == pytest.approx(flicker, rel=1e-5, abs=0.0)
    assert found.exponent == 0.9


def test_offsets_change_nothing_and_what_is_at_rails_is_silent():
    def build(**amplifier):
        return network(
            5, 4, crossbar=SMALL, neuron=Neuron(kind="identity"),
            amplifier=Amplifier(gain=3.0, open_loop_gain=500.0, **amplifier),
        )  # fmt: skip

    band, x = Noise(bandwidth=1e6), signs(2, 5)
    plain = build().noise(x, band).layers[0].outputs
    off = build(offset=5e-3, swing=(-9.0, 9.0)).noise(x, band).layers[0].outputs
    torch.testing.assert_close(off, plain, rtol=1e-9, atol=0.0)
    limited = build(swing=(-1e-9, 1e-9))  # nothing but what is behind amplifiers is left
    left = limited.noise(x, band).layers[0].outputs
    assert not left[:2].any() and left[2].min() > 0.0
    draws = limited.segment.noise_draws(limited.voltages(x), band)
    free = build().segment.noise_draws(limited.voltages(x), band)
    assert draws.covariances[0].trace() < 0.01 * free.covariances[0].trace()
    behind = build(open_loop_resistance=100.0)
    with pytest.raises(SolverError, match=r"what neurons draw.*amplifier\.pole"):
        behind.noise(x, band)


def test_what_cannot_be_limited_is_said():
    net = network(4, 3, crossbar=SMALL, neuron=Neuron(kind="identity"))
    with pytest.raises(CircuitError, match=r"nothing limits the bandwidth.*noise\.bandwidth"):
        net.noise(signs(1, 4))
    poled = network(
        4, 3, crossbar=SMALL, neuron=Neuron(kind="identity"), amplifier=Amplifier(pole=1e9)
    )
    with pytest.raises(CircuitError, match=r"outputs of layer 1: set noise\.bandwidth"):
        poled.noise(signs(1, 4))  # the resistance behind the pole is noisy at any frequency
    with pytest.raises(CircuitError, match=r"must be above noise\.lowest"):
        net.noise(signs(1, 4), Noise(bandwidth=1e6, lowest=1e7))
    grouped = convert(
        nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Flatten()), Config(), include=["0"],
        samples=torch.rand(2, 2, 2, 2),
    )  # fmt: skip
    with pytest.raises(SolverError, match="layers of one group, this one has 2"):
        grouped.noise(torch.rand(1, 2, 2, 2), Noise(bandwidth=1e6))


def test_samples_are_analysed_one_by_one_and_shown():
    net = network(
        5, 4, 3, crossbar=SMALL, amplifier=Amplifier(gain=20.0, pole=1e9),
        neuron=Neuron(output_capacitance=1e-15),
    )  # fmt: skip
    x = torch.cat([0.4 * signs(1, 5), 0.1 * signs(1, 5, seed=8)])
    band = Noise(bandwidth=1e8)
    both = net.noise(x, band)
    for k in range(2):
        one = net.noise(x[k : k + 1], band)
        for layer, single in zip(both.layers, one.layers, strict=True):
            torch.testing.assert_close(layer.outputs[:, k], single.outputs[:, 0], rtol=1e-4, atol=0)
    text = str(both)
    assert "noise at inputs" in text and "resistors" in text and "298.15 K" in text
    assert "<table>" in both._repr_html_()
    figures = both.figures().layers["2"]
    assert sum(figures.shares[part] for part in ALL_PARTS) == pytest.approx(1.0)
    layer = both.layers[-1]
    expected = layer.output_voltages.var(0) / layer.output_rms.square().mean(0)
    torch.testing.assert_close(layer.output_snr, expected)


def test_transistors_bring_their_own_noise():
    config = Config(neuron=Neuron(kind="finfet"), noise=Noise(neuron_voltage=1e-8))
    (found,) = unread(nn.Sequential(nn.Linear(3, 2), nn.Sigmoid()), config)
    assert found.path == "noise.neuron_voltage"


def test_circuits_take_the_neurons_of_a_solver():
    layers = random_layers((5, 4), finfet(), rows=3, columns=3)
    circuit = NoisyCircuit.of(layers, [Interconnect()], [], 1e-15)
    assert circuit.capacitances[0].tolist() == [1e-15] * 4


def covariance_error(found, wanted):
    """Deviations of a sample covariance in standard errors: (max, rms over entries)."""
    count = len(found)
    sample = found.T @ found / count
    own = wanted.diagonal()
    error = ((own[:, None] * own + wanted.square()) / count).sqrt()  # of normal vectors
    deviation = (sample - wanted) / error
    return float(deviation.abs().max()), float(deviation.square().mean().sqrt())


NOISY = {
    "crossbar": SMALL,
    "amplifier": Amplifier(gain=20.0, pole=1e9),
    "neuron": Neuron(output_capacitance=1e-15),
    "noise": Noise(inputs=1e-3),
}


def test_draws_have_their_covariance():
    # 20,000 vectors: entries of a sample covariance deviate by one standard error rms, and none of
    # the about 50 by more than 4.5 (once in 3,000 such tests).
    net = network(5, 4, 3, **NOISY)
    draws = net.segment.noise_draws(net.voltages(0.3 * signs(3, 5)))
    found = draws.draw(20_000, torch.Generator().manual_seed(4))
    assert [part.shape[1] for part in found] == [4, 3, 3]
    for values, covariance in zip(found, draws.covariances, strict=True):
        largest, rms = covariance_error(values, covariance)
        assert largest < 4.5 and rms < 2.0
    again = draws.draw(20_000, torch.Generator().manual_seed(4))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_noisy_outputs_vary_as_analysis_says():
    # One image 4,000 times, noise so cold that the circuit is linear in it: standard deviations of
    # samples are good to 1.1 %, effective bandwidths of 3 nodes per decade to 1 %: within 6 %.
    # (What the draws leave out, how output noise differs among images, is nothing for one.)
    net = network(5, 4, 3, **NOISY)
    x = 0.3 * signs(1, 5)
    voltages = net.voltages(x)
    draws = net.segment.noise_draws(voltages)
    shifts = [0.01 * part for part in draws.draw(4_000, torch.Generator().manual_seed(5))]
    solution = net.segment.native.solve(
        net.prepare(), voltages.expand(4_000, -1), power=False, noise=shifts
    )
    found = solution.outputs.detach().std(0)
    expected = 0.01 * net.noise(x).layers[-1].output_rms[0]
    assert float((found / expected - 1.0).abs().max()) < 0.06


def test_evaluations_draw_anew_for_every_image(tmp_path):
    net = network(5, 4, 3, **(NOISY | {"noise": Noise(inputs=0.2)}))
    images = 0.3 * signs(1, 5).expand(40, -1)
    data = [(images, torch.zeros(40, dtype=torch.int64))]

    def run(seed, **options):
        generator = torch.Generator().manual_seed(seed)
        return evaluate(net, data, noise=True, generator=generator, progress=False, **options)

    report = run(1)
    assert len(report.outputs.unique(dim=0)) == 40
    assert torch.equal(run(1).outputs, report.outputs)
    assert not torch.equal(run(2).outputs, report.outputs)
    # What was drawn is what an analysis says of the same images, up to its coarser quadrature.
    one = evaluate(
        net, [(images[:1], torch.zeros(1, dtype=torch.int64))], noise=True,
        generator=torch.Generator().manual_seed(1), progress=False,
    )  # fmt: skip
    assert math.isfinite(one.noise.layers["2"].output_snr)  # of its square
    assert report.noise is not None
    analysed = net.noise(images[:2]).figures()
    for name, layer in analysed.layers.items():
        assert report.noise.layers[name].output_rms == pytest.approx(layer.output_rms, rel=0.01)
        assert report.noise.layers[name].shares == pytest.approx(layer.shares, abs=0.01)
    assert report.noise.title in str(report)
    report.save(tmp_path / "report")
    assert Report.load(tmp_path / "report").noise == report.noise
    assert "drawn anew for every image" in render_report(report)
    plain = evaluate(net, data, progress=False)
    assert "drawn anew" not in render_report(plain)
    # Equal images in other places of a batch may differ in their last bits: vectorised arithmetic
    # sums remainders in another order.
    assert plain.noise is None and float((plain.outputs - plain.outputs[0]).abs().max()) < 1e-12
    # Nothing but the amplitude counts where everything else is quiet.
    quiet = evaluate(
        net, data, noise=Noise(bandwidth=1e3, lowest=1.0, neurons=False),
        generator=torch.Generator().manual_seed(1), progress=False,
    )  # fmt: skip
    # A microvolt rms at the neurons' inputs, which are 0.1 V from 0 to 1.
    assert 0.0 < float((quiet.outputs - plain.outputs).abs().max()) < 1e-4
    assert quiet.config.noise.bandwidth == 1e3  # as asked, so that it can be repeated
    steps = ablate(net, images, noise=True, generator=torch.Generator().manual_seed(1))
    assert steps[-1].name == "noise"
    assert steps[-1].layer_errors[0] > steps[-2].layer_errors[0]


def test_inputs_alone_are_noisy_at_any_bandwidth():
    net = network(5, 4, 3)
    alone, x = Noise(inputs=0.2, circuit=False), 0.3 * signs(3, 5)
    with pytest.raises(CircuitError, match=r"noise\.bandwidth"):
        net.noise(x, Noise(inputs=0.2))
    found, both = net.noise(x, alone), net.noise(x, Noise(inputs=0.2, bandwidth=1e9))
    for mine, other in zip(found.layers, both.layers, strict=True):
        assert torch.equal(mine.gates[0], other.gates[0])
        assert torch.equal(mine.outputs[0], other.outputs[0]) and not mine.outputs[1:].any()
    # As within 2 kHz, where a circuit has hardly any noise of its own.
    little = Noise(inputs=0.2, bandwidth=2e3)
    drawn, other = (
        net.segment.noise_draws(net.voltages(x), each).covariances for each in (alone, little)
    )
    torch.testing.assert_close(drawn[0], other[0], rtol=1e-6, atol=1e-12)
    assert not drawn[1].any() and not drawn[2].any()


def test_inputs_are_drawn_on_lines_where_amplifiers_saturate():
    # Volts on lines whose amplifiers end at a tenth of that: nothing normal is left behind them.
    net = network(5, 4, 3, amplifier=Amplifier(gain=20.0, swing=(-0.1, 0.1)))
    voltages = net.voltages(0.3 * signs(6, 5))
    data = [(0.3 * signs(6, 5), torch.zeros(6, dtype=torch.int64))]
    report = evaluate(
        net, data, noise=Noise(inputs=0.5, circuit=False),
        generator=torch.Generator().manual_seed(1), progress=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    torch.randn(6, 4 + 3 + 3, dtype=torch.float64, generator=generator)  # of the circuit, times 0
    drawn = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    wanted = net.segment.native.solve(net.prepare(), voltages + 0.5 * drawn)
    torch.testing.assert_close(report.outputs, wanted.outputs.detach(), rtol=0.0, atol=1e-9)


def test_noise_beside_spread_is_told_in_volts_and_watts():
    net, x = network(5, 4, 3, **NOISY), 0.3 * signs(4, 5)
    samples = MonteCarlo(net, DeviceModel((LogNormal(0.1),)), seed=3)
    loud, still, silent = (
        samples.run(x, samples=3, noise=noise, keep_outputs=True)
        for noise in (True, False, Noise(circuit=False))
    )
    for name in ("outputs", "error", "power"):
        found, wanted = getattr(silent, name), getattr(still, name)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    assert bool((loud.outputs != still.outputs).all())
    again = samples.run(x, samples=1, first=2, noise=True, keep_outputs=True)
    torch.testing.assert_close(again.outputs[0], loud.outputs[2], rtol=1e-9, atol=1e-12)


def test_pages_say_what_noise_takes_and_where_it_comes_from(tmp_path):
    net = network(5, 4, 3, **NOISY)
    data = [(0.3 * signs(12, 5), torch.arange(12) % 3)]
    report = evaluate(
        net, data, noise=Noise(inputs=0.5), generator=torch.Generator().manual_seed(1),
        progress=False, seed=1,
    )  # fmt: skip
    write_report(
        tmp_path / "run", report, network=net, software=mlp(5, 4, 3), loader=data
    )
    analysis = Analysis.load(tmp_path / "run")
    assert analysis is not None and analysis.ablation[-1].effect == "noise"
    assert analysis.ablation[-1].output_error > 1.1 * analysis.ablation[-2].output_error
    page = (tmp_path / "run" / "report.html").read_text()
    share = report.noise.layers["0"].shares["inputs"]
    assert "<h2>Noise</h2>" in page and f"inputs {100 * share:.1f} %" in page


class Branched(nn.Module):
    """Two convolutions, the second one beside a way around it, and a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.last = nn.Linear(48, 4)
        nn.init.constant_(self.first.bias, 1.0)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.last((x + torch.relu(self.second(x))).flatten(1))


@pytest.fixture(scope="module")
def branched():
    images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    noise = Noise(bandwidth=1e9, inputs=0.02)
    net = convert(Branched().eval(), Config(crossbar=SMALL, noise=noise), samples=images)
    return net, images


def test_models_of_several_circuits_are_noisy_at_every_position(branched):
    net, images = branched
    found = net.noise(images)
    assert [layer.name for layer in found.layers] == ["first", "second", "last"]
    segment = net.segments["first"]
    with torch.no_grad(), hearing(
        {"first": segment}, True, torch.Generator().manual_seed(2)
    ) as heard:
        noisy = segment(torch.full((300, 1, 4, 4), 0.5, dtype=torch.float64))
    quiet = segment(torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64))
    assert float(quiet.min()) > 0.2 and segment.heard is None  # nothing is cut by ReLU
    shift = noisy - quiet
    # 4,800 vectors: standard deviations are good to 1 %; 3,600 pairs are next to each other.
    unit = segment.last.scaling.output_scale / segment.supplies.vdd
    expected = unit * heard["first"].draws.covariances[0].diagonal().sqrt()
    spread = shift.std((0, 2, 3))
    torch.testing.assert_close(spread, expected, rtol=0.05, atol=0.0)
    beside = (shift[..., 1:] * shift[..., :-1]).mean((0, 2, 3)) / spread.square()
    assert float(beside.abs().max()) < 4.5 / math.sqrt(3600)  # positions have noise of their own


def test_models_of_several_circuits_are_evaluated_ablated_and_drawn_with_noise(branched, tmp_path):
    net, images = branched
    labels = torch.tensor([0, 1, 2, 3])

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return evaluate(net, [(images, labels)], noise=True, generator=generator, progress=False)

    report = run(1)
    assert list(report.segments[0].noise.layers) == ["first"]
    assert report.segments[0].noise.layers["first"].input_rms > 1e-3
    assert list(report.noise.layers) == ["first", "second", "last"]
    assert run(1).segments == report.segments
    assert report.noise.title in str(report)
    report.save(tmp_path / "report")
    assert ModelReport.load(tmp_path / "report").segments == report.segments
    assert "in every use of every circuit" in render_model_report(report)
    write_report(tmp_path / "page", report, network=net, loader=[(images, labels)])
    assert saved_ablation(tmp_path / "page")[-1].name == "noise"
    with pytest.warns(ImacWarning, match="without the steps"):
        write_report(tmp_path / "empty", report, network=net, loader=[])
    assert ModelReport.load(tmp_path / "empty").segments == report.segments
    steps = ablate(net, images, labels, noise=True, generator=torch.Generator().manual_seed(1))
    assert steps[-1].name == "noise" and steps[-1].output_error > 2.0 * steps[-2].output_error
    samples = MonteCarlo(net, DeviceModel((LogNormal(1e-6),)), seed=3)
    loud = samples.run(images, samples=2, noise=True)
    still = samples.run(images, samples=2)
    assert float(still.error.max()) < 0.1 * float(loud.error.min())
    assert torch.equal(samples.run(images, samples=2, noise=True).error, loud.error)
    split = convert(
        Branched().eval(),
        net.config.replace(converter={"kind": "sar", "after": "partition"}), samples=images,
    )  # fmt: skip
    with pytest.raises(SolverError, match="converters see every partition"):
        evaluate(split, [(images, labels)], noise=True, generator=torch.Generator(), progress=False)


def test_noise_needs_the_native_engine_and_a_generator():
    net = network(5, 4, 3, **NOISY)
    data = [(signs(2, 5), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(SolverError, match="generator="):
        evaluate(net, data, noise=True, progress=False)
    with pytest.raises(SolverError, match=r"generator=.* of the CPU, not 5"):
        evaluate(net, data, noise=True, generator=5, progress=False)
    with pytest.raises(DataError, match=r"noise = 0\.1: .*Noise\(inputs=0\.1\)"):
        evaluate(net, data, noise=0.1, generator=torch.Generator(), progress=False)
    with pytest.raises(SolverError, match="native engine"):
        evaluate(
            net, data, noise=True, generator=torch.Generator(), engine=NgSpice(), progress=False
        )
