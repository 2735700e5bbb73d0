"""Transients of random circuits against an independent integrator: outputs, latencies, energies."""

import numpy as np
import pytest
import torch
from time_oracle import PARTS, in_time
from torch import nn

import imac_torch as imac
from imac_torch.results.waveform import sample
from imac_torch.transient.integrator import StepControl


def random_network(seed, kind):
    """Charges, wires, poles, partitions and slices by the bits of the seed; values at random."""
    random = np.random.default_rng(seed)

    def pick(*values):
        return values[random.integers(len(values))]

    torch.manual_seed(seed)
    sizes = [*random.integers(2, 5, size=3)]
    shapes = {"logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}[kind]
    model = nn.Sequential(nn.Linear(*sizes[:2]), shapes(), nn.Linear(*sizes[1:]))
    if seed % 3:
        model.append(shapes())
    config = imac.Config(
        neuron=imac.Neuron(
            kind=kind,
            output_resistance=pick(1e2, 1e3, 1e4),
            input_capacitance=pick(0.0, 1e-15),
            output_capacitance=pick(0.0, 1e-15, 1e-14),
        ),
        amplifier=imac.Amplifier(
            gain=pick(5.0, 15.0, 40.0),
            pole=pick(None, 2e9, 2e10),
            combine=pick("average", "sum"),
            output_resistance=pick(10.0, 1e3),
        ),
        device=imac.Memristor(rlow=2e4, rhigh=6e4),
        crossbar=imac.Crossbar(rows=pick(2, 3), columns=pick(2, 3)),
        interconnect=imac.Interconnect(
            tech_node=pick(9e-9, 45e-9), resistance=seed % 4 < 3, capacitance=seed % 4 > 1
        ),
        mapping=imac.WeightMapping(levels=5, slices=1 + seed // 4 % 2),
        timing=imac.Timing(
            period=2e-9, transition=pick(5e-11, 2e-10), load_capacitance=pick(0.0, 1e-14)
        ),
    )
    return imac.convert(model, config), 2.0 * torch.rand(2, sizes[0]) - 1.0


def check(network, inputs, tolerance):
    before, after = network.voltages(inputs).numpy()
    time, wanted, energy, static, largest = in_time(network.circuit(), before, after)
    control = StepControl(tolerance=tolerance)
    found = network.transient(
        inputs[1:], initial=inputs[:1], options=imac.TransientOptions(control=control)
    )
    outputs = sample(found.time, found.outputs[:, 0], torch.from_numpy(time)).numpy()
    assert np.abs(outputs - wanted).max() < tolerance
    period = network.config.timing.period
    for k, part in enumerate(PARTS):
        # Powers keep the tolerance relative to vdd and to their largest value.
        allowed = tolerance / network.config.supplies.vdd * largest[k] * period
        assert float(getattr(found.energy, part)) == pytest.approx(energy[k], abs=allowed)
        assert float(getattr(found.static, part)) == pytest.approx(static[k] * period, abs=allowed)


@pytest.mark.parametrize(
    ("kind", "seed", "tolerance"),
    [
        ("tanh", 2, 1e-4), ("logistic", 3, 1e-4), ("tanh", 4, 1e-5), ("logistic", 5, 1e-5),
        ("relu", 10, 1e-4), ("relu", 11, 1e-4),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")  # of settings at random
def test_random_circuits(kind, seed, tolerance):
    check(*random_network(seed, kind), tolerance)


def test_charges_behind_ideal_amplifiers():
    # Behind 1 mΩ the current into 5 fF jumps within 5 as: no step has to resolve that.
    config = imac.Config(
        amplifier=imac.Amplifier(gain=30.0, output_resistance=1e-3),
        neuron=imac.Neuron(input_capacitance=5e-15),
        timing=imac.Timing(transition=2e-11, load_capacitance=1e-15),
    )
    torch.manual_seed(0)
    network = imac.convert(nn.Sequential(nn.Linear(2, 3)), config)
    check(network, torch.tensor([[0.0, 0.0], [0.9, -0.4]]), 1e-5)


def test_curves_steeper_than_steps():
    # Within one step a gate passes all of the bend; what the output charges through sees a corner.
    config = imac.Config(
        neuron=imac.Neuron(kind="tanh", slope=100.0, output_resistance=1e4),
        amplifier=imac.Amplifier(gain=60.0, pole=5e10),
        device=imac.Memristor(rlow=2e4, rhigh=6e4),
        timing=imac.Timing(period=1e-9, transition=2e-11, load_capacitance=2e-14),
    )
    torch.manual_seed(1)
    network = imac.convert(nn.Sequential(nn.Linear(3, 6), nn.Tanh()), config)
    check(network, 2.0 * torch.rand(2, 3) - 1.0, 1e-4)
