"""IMACLinear: the ideal circuit for training, the way back, calibration."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from imac_torch import Config, IMACLinear, convert
from imac_torch.config import (
    Amplifier,
    Crossbar,
    Interconnect,
    LayerConfig,
    Memristor,
    Neuron,
    WeightMapping,
)
from imac_torch.conversion.calibration import calibrate
from imac_torch.conversion.outputs import software_activations
from imac_torch.errors import MappingError
from imac_torch.mapping.states import InputStatistics
from imac_torch.periphery.activations import Activation

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
    assert bool(found.matrix.match().exact.all())
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
    gain = found.matrix.gain()
    with torch.no_grad():
        found.weight.mul_(20.0)
    assert found.matrix.gain() == gain
    assert found.matrix.choose_gain() > gain  # larger weights need more of it
    other = layer(generator)
    other.load_state_dict(found.state_dict())
    assert other.matrix.gain() == found.matrix.gain()
    pairs = [item.matrix.conductances() for item in (other, found)]
    torch.testing.assert_close(pairs[0].positive, pairs[1].positive, rtol=1e-12, atol=0)


def test_what_is_expected_is_what_samples_show(generator: torch.Generator) -> None:
    """Moments of a first layer with wires and partitions against its circuit, image by image."""
    from imac_torch.dc.prediction import predict

    linear = nn.Sequential(nn.Linear(8, 6), nn.Tanh()).double()
    config = Config(
        device=Memristor(rlow=1e3, rhigh=20e3), mapping=MATCHED,
        crossbar=Crossbar(rows=4, columns=5),
    )  # fmt: skip
    network = convert(linear, config)
    first = next(network.analog_layers())
    x = images(generator, 200)
    first.matrix.set_input_statistics(InputStatistics.of(x))
    with torch.no_grad():
        wanted = first.matrix.wanted_transfer()
        found = network.solve(x).layers[0].combined
        ideal = torch.nn.functional.pad(x, (0, 1), value=1.0) @ wanted.T * 0.8
        expected = predict(
            first.matrix.crossbar(), wanted, first.matrix.statistics,
            source_resistance=0.0, load_factor=1.0, spread=0.0,
        )  # fmt: skip
    scale = (ideal - ideal.mean(0)).square().sum()
    error = (found - ideal).square().sum() / scale
    # nine lines, so the moments have full rank and are those of the samples: rounding only
    assert expected.error == pytest.approx(float(error), rel=1e-6)


def test_loaded_lines_are_those_of_the_network(generator: torch.Generator) -> None:
    """Linear neurons of 1 kΩ and what they drive, against the solved circuit."""
    from imac_torch.dc.prediction import loaded_transfer, output_resistance
    from imac_torch.elimination.ports import eliminate_layer

    two = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 6)).double()
    network = convert(
        two,
        Config(device=WIDE, mapping=MATCHED, crossbar=Crossbar(rows=4, columns=5)),
    )
    second = list(network.analog_layers())[1]
    resistance = output_resistance(next(iter(network.analog_layers())).neuron_spec())
    assert resistance == pytest.approx(1e3, rel=1e-12)
    assert second.driver_resistance == resistance
    x = images(generator, 10, 4)
    with torch.no_grad():
        solution = network.solve(x)
        unloaded = torch.nn.functional.pad(solution.layers[0].combined, (0, 1), value=0.8)
        ports, _ = eliminate_layer(second.matrix.crossbar())
        expected = unloaded @ loaded_transfer(ports, resistance).T
    torch.testing.assert_close(solution.layers[1].combined, expected, rtol=1e-7, atol=1e-9)


def test_a_chosen_gain_is_as_good_as_the_best_of_a_scan(generator: torch.Generator) -> None:
    """Low-resistance devices with wires: neither too little gain nor too much."""
    linear = nn.Sequential(nn.Linear(30, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    x = images(generator, 60, 30)
    errors = {}
    for gain in (None, 2.0, 5.0, 12.0, 30.0, 80.0, 200.0):
        config = Config(
            device=Memristor.preset("MRAM"), mapping=MATCHED, amplifier=Amplifier(gain=gain)
        )
        network = convert(linear, config)
        records = calibrate(network, x, rounds=1)
        errors[gain] = records[-1].error_after
        assert records[-1].error_after <= records[-1].error_before
    best = min(errors.values())
    assert max(errors.values()) > 3.0 * best  # there is something to choose
    # the scan is by factors of 2.5; a neighbour of its best is within a fifth of it or so
    assert errors[None] < 1.25 * best


def test_matches_are_remembered_by_value_only(generator: torch.Generator) -> None:
    found = layer(generator)
    with torch.no_grad():
        before = found.matrix.conductances().positive
        assert torch.equal(before, found.matrix.conductances().positive)
        found.weight[0, 0] += 0.1
        assert not torch.equal(before, found.matrix.conductances().positive)
        found.weight[0, 0] -= 0.1
        torch.testing.assert_close(before, found.matrix.conductances().positive, rtol=1e-12, atol=0)
        found.matrix.trim[1, 2] += 1e-3
        assert not torch.equal(before, found.matrix.conductances().positive)
    assert copy.deepcopy(found).matrix.gain() == found.matrix.gain()


def test_statistics_weigh_what_cannot_be_exact(generator: torch.Generator) -> None:
    found = layer(generator, device=Memristor(rlow=78e3, rhigh=202e3, states=4))
    lines = torch.rand(300, 8, generator=generator, dtype=torch.float64)
    lines[:, 1:] = lines[:, 1:] * 0.02 + lines[:, :1] * 0.9  # all inputs nearly the same
    known = InputStatistics.of(lines)
    found.matrix.choose_gain()
    with torch.no_grad():
        wanted = found.matrix.wanted_transfer()
        blind = known.relative_error(
            found.matrix.divider(found.matrix.gain()).transfer(found.matrix.conductances()), wanted
        )
        found.matrix.set_input_statistics(known)
        seeing = known.relative_error(
            found.matrix.divider(found.matrix.gain()).transfer(found.matrix.conductances()), wanted
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
    assert records[-1].error_after <= records[-1].error_before
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
    devices = first.matrix.conductances().positive
    types = {name: buffer.dtype for name, buffer in network.named_buffers()}
    x = images(generator).float()
    with torch.no_grad():
        outputs = network(x)
    for moved in (network.double(), network.float(), network.to(torch.float32)):
        assert moved is network
        assert torch.equal(first.matrix.conductances().positive, devices)
        assert {name: buffer.dtype for name, buffer in network.named_buffers()} == types
        with torch.no_grad():  # the weights were float32 before they were converted
            assert torch.equal(network(x), outputs)
    assert network.half().layers[0].weight.dtype == torch.float16
    assert first.matrix.conductances().positive.dtype == torch.float64
