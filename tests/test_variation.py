"""Devices drawn for a training step: one sample inside, in the gradient, and gone afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import imac_torch as imac
from imac_torch.devices import (
    DeviceSample,
    Factors,
    Gaussian,
    Levels,
    LogNormal,
    ReadNoise,
    Stuck,
)
from imac_torch.errors import ConversionError

SPREAD = imac.DeviceModel((LogNormal(0.2), Stuck(off=0.1, open=0.1), ReadNoise(0.05)))


def small(
    generator: torch.Generator, levels: str | int = "continuous", **device: object
) -> imac.IMACNetwork:
    model = nn.Sequential(
        nn.Linear(6, 4), imac.InverterSigmoid(), nn.Linear(4, 3), imac.InverterSigmoid()
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1, generator=generator)
    config = imac.Config(
        crossbar=imac.Crossbar(rows=3, columns=4),
        neuron=imac.Neuron(kind="logistic"),
        mapping=imac.WeightMapping(levels=levels),
        device=imac.Memristor(**device),
    )
    return imac.convert(model, config, generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_sample_inside_and_none_outside(generator: torch.Generator) -> None:
    network = small(generator)
    x = 2 * torch.rand(5, 6, generator=generator, dtype=torch.float64) - 1
    with torch.no_grad():
        nominal = network(x)
        draws = seeded()
        outputs = []
        for _ in range(2):
            with imac.varied(network, SPREAD, draws):
                outputs.append(network(x))
                assert torch.equal(network(x), outputs[-1])
        with imac.varied(network, SPREAD, seeded()):
            assert torch.equal(network(x), outputs[0])
            with imac.varied(network, imac.DeviceModel(), draws):
                assert torch.equal(network(x), nominal)
            assert torch.equal(network(x), outputs[0])
        assert torch.equal(network(x), nominal)
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], nominal)


def test_no_two_steps_see_the_same_read_noise(generator: torch.Generator) -> None:
    network = small(generator, effects={"read_noise": {"sigma": 0.1}})
    x = (2 * torch.rand(1, 6, generator=generator, dtype=torch.float64) - 1).expand(3, 6)
    first = network(x)
    draws, steps = seeded(), []
    for _ in range(2):
        with imac.varied(network, imac.DeviceModel(), draws):
            steps.append(network(x))
            (slope,) = torch.autograd.grad(steps[-1].sum(), next(network.layers.parameters()))
            assert bool((slope != 0).any())
    rows = torch.cat([first, *steps])
    # three images, three times: nine reads of the same input, no two alike
    assert int((torch.pdist(rows.detach()) > 1e-6).sum()) == 9 * 8 // 2
    assert torch.equal(network(x), first)
    with imac.varied(network, imac.DeviceModel(), seeded()):
        assert torch.equal(network(x), steps[0])


def test_an_error_inside_leaves_nominal_devices(generator: torch.Generator) -> None:
    network = small(generator)
    with pytest.raises(ZeroDivisionError), imac.varied(network, SPREAD, generator):
        raise ZeroDivisionError
    assert all(layer.matrix.sample is None for layer in network.analog_layers())


def test_all_ways_to_see_the_circuit_see_the_same_devices(generator: torch.Generator) -> None:
    network = small(generator)
    x = 2 * torch.rand(5, 6, generator=generator, dtype=torch.float64) - 1
    with torch.no_grad(), imac.varied(network, SPREAD, generator):
        frozen = copy.deepcopy(network)
        for layer in frozen.analog_layers():
            drawn, nominal = layer.matrix.conductances(), layer.matrix.nominal_conductances()
            layer.matrix.devices = (DeviceSample.known(Factors.between(nominal, drawn)),)
            layer.matrix.sample = None
        resistors = [
            item.values for layer in network.circuit().layers for item in layer.elements
        ]
        solved, ideal = network(x), nn.Sequential(*network.layers)(x)
    with torch.no_grad():
        # A factor is a rounded quotient: conductances agree to 1e-16 relative, Newton's method
        # stops at 1e-9 V.
        torch.testing.assert_close(frozen(x), solved, rtol=0, atol=1e-8)
        torch.testing.assert_close(nn.Sequential(*frozen.layers)(x), ideal, rtol=0, atol=1e-12)
    others = [item.values for layer in frozen.circuit().layers for item in layer.elements]
    for mine, theirs in zip(resistors, others, strict=True):
        torch.testing.assert_close(
            torch.from_numpy(mine), torch.from_numpy(theirs), rtol=1e-14, atol=0
        )


@pytest.mark.parametrize("whole", [True, False], ids=["circuit", "ideal"])
def test_gradients_are_those_of_the_varied_network(
    generator: torch.Generator, whole: bool
) -> None:
    network = small(generator)
    model = network if whole else nn.Sequential(*network.layers)
    x = 2 * torch.rand(3, 6, generator=generator, dtype=torch.float64) - 1
    # The gain follows from the weights and is not differentiated: it is held here.
    for layer in network.analog_layers():
        gain = layer.matrix.gain()
        layer.config = layer.config.replace(amplifier=layer.config.amplifier.replace(gain=gain))
    first = next(network.analog_layers())
    weight = first.weight
    # The full scale is the largest weight, and 'unilateral' has a kink at 0.
    chosen = weight.detach().abs() < 0.8 * weight.detach().abs().max()
    chosen &= weight.detach().abs() > 0.05

    def loss() -> torch.Tensor:
        with imac.varied(model, SPREAD, seeded(3)):
            return model(x).square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    step = 1e-5
    indices = [tuple(index) for index in torch.nonzero(chosen).tolist()]
    assert len(indices) > 5
    for index in indices[:6]:
        values = []
        with torch.no_grad():
            for sign in (1.0, -1.0):
                weight[index] += sign * step
                values.append(float(loss()))
                weight[index] -= sign * step
        # Central differences: error ~ step²; Newton's 1e-9 V and rounding over 2·step: 1e-5 at
        # worst of a sum of squares of order 1, and far less where it converges quadratically.
        expected = (values[0] - values[1]) / (2 * step)
        assert float(gradient[index]) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_programming_levels_let_gradients_through(generator: torch.Generator) -> None:
    network = small(generator)
    x = 2 * torch.rand(3, 6, generator=generator, dtype=torch.float64) - 1
    with imac.varied(network, imac.DeviceModel((Levels(8, sigma=0.2), Gaussian(0.05))), generator):
        network(x).square().sum().backward()
    for layer in network.analog_layers():
        assert layer.weight.grad is not None
        # 'unilateral' moves one side of every pair with its weight
        assert float((layer.weight.grad != 0.0).double().mean()) > 0.9


def test_gains_are_those_of_nominal_devices(generator: torch.Generator) -> None:
    network = small(generator)
    before = [layer.matrix.gain() for layer in network.analog_layers()]
    with imac.varied(network, SPREAD, generator):
        assert [layer.matrix.gain() for layer in network.analog_layers()] == before
    run = imac.MonteCarlo(network, SPREAD, seed=1)
    assert [layer.matrix.gain() for layer in run.realise(0).analog_layers()] == before
    x = 2 * torch.rand(3, 6, generator=generator, dtype=torch.float64) - 1
    together = run.run(x, samples=1, keep_outputs=True).outputs
    assert together is not None
    # Reads differ from image to image; a realised network holds the first. 1e-9 V of convergence.
    single = run.realise(0).solve(x[:1]).outputs
    torch.testing.assert_close(single, together[0, :1], rtol=0, atol=1e-8)


def test_training_with_spread_lowers_the_loss_under_spread(generator: torch.Generator) -> None:
    network = small(generator, levels=9)
    x = 2 * torch.rand(60, 6, generator=generator, dtype=torch.float64) - 1
    labels = (x[:, :3].sum(1) > x[:, 3:].sum(1)).long()
    ideal = nn.Sequential(*network.layers)
    devices = imac.DeviceModel((LogNormal(0.3),))

    def expected_loss() -> float:
        draws, total = seeded(9), 0.0
        with torch.no_grad():
            for _ in range(20):
                with imac.varied(ideal, devices, draws):
                    total += float(nn.functional.cross_entropy(10 * ideal(x), labels))
        return total / 20

    before = expected_loss()
    optimizer = torch.optim.Adam(ideal.parameters(), lr=2e-2)
    for _ in range(60):
        with imac.varied(ideal, devices, generator):
            loss = nn.functional.cross_entropy(10 * ideal(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert expected_loss() < 0.8 * before


def test_refusals(generator: torch.Generator) -> None:
    with pytest.raises(ConversionError, match="no IMACLinear"), imac.varied(
        nn.Linear(2, 2), SPREAD, generator
    ):
        pass
