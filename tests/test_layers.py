"""IMACLinear: the ideal circuit for training, the way back, calibration."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from imac_torch import Config, IMACLinear, convert
from imac_torch.activations import Activation
from imac_torch.calibration import calibrate, software_activations
from imac_torch.config import (
    Crossbar,
    Interconnect,
    LayerConfig,
    Memristor,
    Neuron,
    WeightMapping,
)
from imac_torch.errors import MappingError
from imac_torch.mapping.states import InputStatistics

MATCHED = WeightMapping(levels="continuous", scheme="matched")
WIDE = Memristor(rlow=10e3, rhigh=1e6)


def layer(generator: torch.Generator, kind: str = "sigmoid", **sections: object) -> IMACLinear:
    config = Config(
        **{
            "device": WIDE,
            "mapping": MATCHED,
            "crossbar": Crossbar(rows=4, columns=5),
            "neuron": Neuron(kind="logistic" if kind == "sigmoid" else None),
            **sections,
        }
    ).for_layer(0, "layer", 1)
    result = IMACLinear(8, 6, activation=Activation(kind), config=config, name="layer")
    with torch.no_grad():
        for parameter in (result.weight, result.bias):
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * values)
    return result


def images(generator: torch.Generator, count: int = 20, inputs: int = 8) -> torch.Tensor:
    return torch.rand(count, inputs, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_matched_layers_compute_what_was_meant(generator: torch.Generator, kind: str) -> None:
    found = layer(generator, kind)
    x = images(generator)
    expected = found.activation.apply(x @ found.weight.T + found.bias)
    assert bool(found.match().exact.all())
    # the conductances reproduce the transfer to 1e-13 (see test_mapping), the neuron is its own
    torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-11)
    weight, bias = found.effective_weights()
    torch.testing.assert_close(weight, found.weight.detach(), rtol=0, atol=1e-11)
    torch.testing.assert_close(bias, found.bias.detach(), rtol=0, atol=1e-11)


def test_training_sees_the_software_gradients(generator: torch.Generator) -> None:
    found = layer(generator)
    x = images(generator)
    circuit = torch.autograd.grad(found(x).square().sum(), [found.weight, found.bias])
    software = torch.sigmoid(x @ found.weight.T + found.bias).square().sum()
    expected = torch.autograd.grad(software, [found.weight, found.bias])
    for one, two in zip(circuit, expected):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-9)


def test_the_gain_is_chosen_once(generator: torch.Generator) -> None:
    found = layer(generator)
    gain = found.gain()
    with torch.no_grad():
        found.weight.mul_(20.0)
    assert found.gain() == gain
    assert found.choose_gain() > gain  # larger weights need more of it
    other = layer(generator)
    other.load_state_dict(found.state_dict())
    assert other.gain() == found.gain()
    torch.testing.assert_close(other.conductances().positive, found.conductances().positive)


def test_gain_weighs_errors_by_what_varies(generator: torch.Generator) -> None:
    """A threshold is no signal: the same errors weigh more where little else is in the output."""
    lines = torch.rand(200, 8, generator=generator, dtype=torch.float64)
    known = InputStatistics.of(lines)
    transfer = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    outputs = torch.nn.functional.pad(lines, (0, 1), value=1.0) @ transfer.T
    expected = outputs.square().sum() / (outputs - outputs.mean(0)).square().sum()
    assert known.contrast(transfer) == pytest.approx(float(expected) ** 0.5, rel=1e-9)
    constant = torch.zeros(3, 9, dtype=torch.float64)
    constant[:, -1] = 1.0
    assert known.contrast(constant) == 1.0


def test_sources_are_not_loaded(generator: torch.Generator) -> None:
    """Lines of little resistance cost what neurons drive, and nothing where sources drive."""
    wide = nn.Sequential(nn.Linear(60, 60), nn.Tanh(), nn.Linear(60, 60)).double()
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    config = Config(
        device=Memristor(rlow=2.5e3, rhigh=100e3),
        mapping=WeightMapping(levels="continuous", scheme="matched"),
        crossbar=Crossbar(rows=60, columns=61),
    )
    first, second = convert(wide, config).analog_layers()
    assert first.driver_resistance == 0.0 < second.driver_resistance

    def conductance() -> float:
        with torch.no_grad():
            pair = second.conductances()
        return float((pair.positive + pair.negative).mean())

    loaded = conductance()
    second.driver_resistance = 0.0
    second.choose_gain()
    # where no neuron is loaded, larger conductances are taken, for the sake of spread
    assert conductance() > loaded


def test_matches_are_remembered_by_value_only(generator: torch.Generator) -> None:
    found = layer(generator)
    with torch.no_grad():
        before = found.conductances().positive
        assert torch.equal(before, found.conductances().positive)
        found.weight[0, 0] += 0.1
        assert not torch.equal(before, found.conductances().positive)
        found.weight[0, 0] -= 0.1
        torch.testing.assert_close(before, found.conductances().positive, rtol=1e-12, atol=0)
        found.trim[1, 2] += 1e-3
        assert not torch.equal(before, found.conductances().positive)
    assert copy.deepcopy(found).gain() == found.gain()


def test_statistics_weigh_what_cannot_be_exact(generator: torch.Generator) -> None:
    found = layer(generator, device=Memristor(rlow=78e3, rhigh=202e3, states=4))
    lines = torch.rand(300, 8, generator=generator, dtype=torch.float64)
    lines[:, 1:] = lines[:, 1:] * 0.02 + lines[:, :1] * 0.9  # all inputs nearly the same
    known = InputStatistics.of(lines)
    found.choose_gain()
    with torch.no_grad():
        wanted = found.wanted_transfer()
        blind = known.relative_error(
            found.read_out(found.gain()).transfer(found.conductances()), wanted
        )
        found.set_input_statistics(known)
        seeing = known.relative_error(
            found.read_out(found.gain()).transfer(found.conductances()), wanted
        )
    assert seeing < 0.7 * blind


def model(generator: torch.Generator, activation: type[nn.Module]) -> nn.Sequential:
    result = nn.Sequential(
        nn.Linear(8, 7), activation(), nn.Linear(7, 6), activation(), nn.Linear(6, 3)
    ).double()
    with torch.no_grad():
        for parameter in result.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.6 * values)
    return result


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.Tanh])
def test_calibration_brings_the_circuit_to_the_software(
    generator: torch.Generator, activation: type[nn.Module]
) -> None:
    software = model(generator, activation)
    config = Config(
        device=WIDE,
        mapping=MATCHED,
        crossbar=Crossbar(rows=4, columns=5),
        neuron=Neuron(kind="logistic" if activation is nn.Sigmoid else None),
    )
    network = convert(software, config)
    data, fresh = images(generator, 200), images(generator, 100)
    with torch.no_grad():
        expected = software(fresh)
        spread = (expected - expected.mean(0)).norm()
        plain = float((network(fresh) - expected).norm() / spread)
        records = calibrate(network, data, rounds=3)
        found = float((network(fresh) - expected).norm() / spread)
    assert found < 0.08  # what rows cannot undo: crosstalk of loading and wires
    assert found < plain
    assert all(record.error_after <= record.error_before for record in records[-1:])
    if activation is nn.ReLU:  # ranges follow the data and are handed on
        layers = list(network.analog_layers())
        outputs = software_activations(network, data)
        assert layers[0].scaling.output_scale >= float(outputs[1].max())
        assert layers[1].scaling.input_scale == layers[0].scaling.output_scale


def test_the_finfet_neuron_is_fitted_not_only_touched() -> None:
    from imac_torch.dc.shape import fitted_threshold_and_slope
    from imac_torch.dc.transfer import threshold_and_slope, transfer_curve

    matched = IMACLinear(
        2, 2, activation=Activation("sigmoid"), config=Config(mapping=MATCHED), name="x"
    )
    spec = matched.neuron_spec()
    inputs = torch.linspace(-0.6, 0.6, 121, dtype=torch.float64)
    with torch.no_grad():
        curve = transfer_curve(spec, inputs) / spec.vdd
    errors = []
    for threshold, slope in (threshold_and_slope(spec), fitted_threshold_and_slope(spec)):
        value = torch.sigmoid(slope * (inputs - threshold))
        errors.append(float((value - curve).square().mean().sqrt()))
    assert errors[1] < 0.8 * errors[0]


def test_refusals(generator: torch.Generator) -> None:
    network = convert(model(generator, nn.Tanh), Config())
    with pytest.raises(MappingError, match="matched"):
        calibrate(network, images(generator))
    network = convert(
        model(generator, nn.Tanh), Config(mapping=MATCHED, layers={"0": LayerConfig()})
    )
    with pytest.raises(MappingError, match="at least one sample"):
        calibrate(network, [])


def test_ideal_wires_make_the_network_the_layers(generator: torch.Generator) -> None:
    """One layer without a following one: no loading, so forward is the circuit."""
    linear = nn.Sequential(nn.Linear(8, 6), nn.Tanh()).double()
    for mapping in (MATCHED, WeightMapping(levels=5), WeightMapping(levels=5, scheme="balanced")):
        config = Config(
            mapping=mapping, device=WIDE, interconnect=Interconnect(resistance=False),
            crossbar=Crossbar(rows=4, columns=5),
        )  # fmt: skip
        network = convert(linear, config)
        x = images(generator)
        with torch.no_grad():
            alone = next(network.analog_layers())(x)
            torch.testing.assert_close(network(x), alone, rtol=0, atol=1e-8)


def test_the_type_of_weights_is_not_that_of_devices(generator: torch.Generator) -> None:
    linear = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    config = Config(
        mapping=MATCHED, device=WIDE.replace(variation=0.1), crossbar=Crossbar(rows=4, columns=5)
    )
    network = convert(linear, config, generator=generator)
    first = next(network.analog_layers())
    factors = first.positive_factor.clone()
    types = {name: buffer.dtype for name, buffer in network.named_buffers()}
    x = images(generator).float()
    with torch.no_grad():
        outputs = network(x)
    for moved in (network.double(), network.float(), network.to(torch.float32)):
        assert moved is network
        assert torch.equal(first.positive_factor, factors)
        assert {name: buffer.dtype for name, buffer in network.named_buffers()} == types
        with torch.no_grad():  # the weights were float32 before they were converted
            assert torch.equal(network(x), outputs)
    assert network.half().layers[0].weight.dtype == torch.float16
    assert first.positive_factor.dtype == torch.float64
