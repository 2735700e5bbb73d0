"""Training as the ideal circuit: what IMACLinear computes, its gradients, what rounding costs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import imac_torch as imac


def ideal(network: imac.IMACNetwork) -> nn.Sequential:
    return nn.Sequential(network.digital, *network.analog_layers(), network.tail)


def small(generator: torch.Generator, *sizes: int) -> nn.Sequential:
    model = nn.Sequential()
    for inputs, outputs in itertools.pairwise(sizes):
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.uniform_(-1, 1, generator=generator)
        model.append(linear).append(imac.InverterSigmoid())
    return model


def config(**sections) -> imac.Config:
    return imac.Config(
        **{
            "amplifier": imac.Amplifier(gain=12.0),
            "neuron": imac.Neuron(kind="logistic"),
            "crossbar": imac.Crossbar(rows=4, columns=5),
            **sections,
        }
    )


@pytest.mark.parametrize("scheme", ["unilateral", "balanced"])
@pytest.mark.parametrize("combine", ["average", "sum"])
def test_one_layer_is_the_solved_circuit_without_wires(generator, scheme, combine):
    # One layer has no next one to load it, and logistic neurons draw no gate current: without
    # wires the closed form is the circuit.
    settings = config(
        amplifier=imac.Amplifier(gain=12.0, combine=combine),
        mapping=imac.WeightMapping(scheme=scheme),
        interconnect=imac.Interconnect(resistance=False),
    )
    network = imac.convert(small(generator, 9, 6), settings)
    inputs = 2 * torch.rand(20, 9, generator=generator, dtype=torch.float64) - 1
    with torch.no_grad():
        found, expected = ideal(network)(inputs), network(inputs)
    # Newton stops at 1e-9 V; an ideal wire is a finite conductance in the elimination.
    assert (found - expected).abs().max() < 1e-6
    assert expected.std() > 0.05  # not all alike


def test_several_layers_differ_by_loading_only(generator):
    # Halving the neurons' output resistance halves what loading takes, to first order.
    deviations = []
    for resistance in (1e3, 5e2):
        settings = config(
            neuron=imac.Neuron(kind="logistic", output_resistance=resistance),
            interconnect=imac.Interconnect(resistance=False),
        )
        seed = torch.Generator().manual_seed(5)
        network = imac.convert(small(seed, 9, 6, 3), settings)
        inputs = 2 * torch.rand(20, 9, generator=seed, dtype=torch.float64) - 1
        with torch.no_grad():
            deviations.append(float((ideal(network)(inputs) - network(inputs)).abs().max()))
    assert deviations[0] > 1e-5
    assert deviations[1] == pytest.approx(deviations[0] / 2, rel=0.1)


def test_gradients_without_rounding_are_those_of_the_function(generator):
    settings = config(mapping=imac.WeightMapping(levels="continuous"))
    network = imac.convert(small(generator, 6, 4, 3), settings)
    inputs = 2 * torch.rand(3, 6, generator=generator, dtype=torch.float64) - 1
    layers = list(network.analog_layers())
    # The full scale is the largest weight and is not differentiated (straight through): that
    # weight, and the kink of 'unilateral' at 0, are kept out of the differences.
    weight = layers[0].weight
    chosen = weight.detach().abs() < 0.8 * weight.detach().abs().max()
    chosen &= weight.detach().abs() > 0.05
    index = tuple(torch.nonzero(chosen)[0].tolist())
    loss = ideal(network)(inputs).square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    step = 1e-5
    values = []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            weight[index] += sign * step
            values.append(float(ideal(network)(inputs).square().sum()))
            weight[index] -= sign * step
    # Central differences: error ~ step², rounding ~ 1e-16/step, relative to a gradient of ~1e-2.
    expected = (values[0] - values[1]) / (2 * step)
    assert float(gradient[index]) == pytest.approx(expected, rel=1e-5)


def test_training_lowers_the_loss_of_the_circuit(generator):
    # The network learns which of two halves of its input is larger; ternary weights can.
    inputs = 2 * torch.rand(200, 8, generator=generator, dtype=torch.float64) - 1
    labels = (inputs[:, :4].sum(1) > inputs[:, 4:].sum(1)).long()
    network = imac.convert(small(generator, 8, 12, 2), config())
    model = ideal(network)

    def circuit_loss() -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(10 * network(inputs), labels))

    before = circuit_loss()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(150):
        loss = nn.functional.cross_entropy(10 * model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert circuit_loss() < 0.7 * before
    with torch.no_grad():
        hits = (network(inputs).argmax(1) == labels).double().mean()
    assert float(hits) > 0.8  # chance is one half


def test_rounding_says_what_it_cost(generator):
    model = small(generator, 9, 6)
    network = imac.convert(model, config())
    (layer,) = network.analog_layers()
    joined = torch.cat([model[0].weight, model[0].bias[:, None]], dim=1).detach()
    quantized = layer.matrix.quantized()
    levels = (quantized.scale * quantized.values).detach()
    for part, error in (
        ((..., slice(-1)), quantized.error), ((..., slice(-1, None)), quantized.bias_error)
    ):  # fmt: skip
        lost, wanted = (levels - joined)[part], joined[part]
        expected = lost.square().mean().sqrt() / wanted.square().mean().sqrt()
        assert error == pytest.approx(float(expected), rel=1e-9)
    assert 0.2 < quantized.error < 0.8  # uniform weights do not fit three levels
    assert f"{100 * quantized.error:.2g} %" in " ".join(network.summary().split())
    with torch.no_grad():
        model[0].weight.copy_(levels[:, :-1])
        model[0].bias.copy_(levels[:, -1])
    (again,) = imac.convert(model, config()).analog_layers()
    assert again.matrix.quantized().error == 0.0
    assert torch.equal(again.matrix.conductances().positive, layer.matrix.conductances().positive)


def test_trained_layers_convert_as_they_are(generator):
    settings = config()
    activation = imac.Activation("sigmoid", -1.0)
    layers = [
        imac.IMACLinear(6, 4, activation=activation, config=settings, name="0"),
        imac.IMACLinear(4, 2, activation=activation, config=settings, name="1"),
    ]
    network = imac.convert(nn.Sequential(*layers), settings)
    for mine, theirs in zip(layers, network.analog_layers(), strict=True):
        one, two = mine.matrix.conductances(), theirs.matrix.conductances()
        assert torch.equal(one.positive, two.positive)
        assert torch.equal(one.negative, two.negative)
