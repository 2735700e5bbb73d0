"""Ablation: every step adds one thing, and steps whose thing is absent cost nothing."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from imac_torch import Config, convert, load, save
from imac_torch.config import Crossbar, Interconnect, Memristor, Neuron, WeightMapping
from imac_torch.conversion.ablation import STEPS, ablate
from imac_torch.conversion.calibration import calibrate
from imac_torch.conversion.layer_effects import layer_effects
from imac_torch.conversion.losses import BUFFER, remedies
from imac_torch.conversion.outputs import software_activations
from imac_torch.errors import ConversionError, ConversionWarning
from imac_torch.mapping.quantization import percent
from imac_torch.model.network import IMACNetwork
from imac_torch.reports.analysis import analyse


def network(
    generator: torch.Generator, device: Memristor, *, trim: bool = False, **sections: object
) -> IMACNetwork:
    model = nn.Sequential(nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 4)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * values)
    config = Config(
        **{
            "device": device,
            "mapping": WeightMapping(levels="continuous", scheme="matched"),
            "crossbar": Crossbar(rows=4, columns=5),
            "neuron": Neuron(kind="logistic"),
            **sections,
        }
    )
    result = convert(model, config, generator=generator)
    calibrate(result, images(generator), trim=trim)  # the scale of the outputs
    return result


def images(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(30, 8, generator=generator, dtype=torch.float64) * 2 - 1


def test_steps_that_add_nothing_cost_nothing(generator: torch.Generator) -> None:
    ideal = Interconnect(resistance=False)
    circuit = network(generator, Memristor(rlow=10e3, rhigh=1e6), interconnect=ideal)
    x = images(generator)
    steps = {step.name: step for step in ablate(circuit, x)}
    assert tuple(steps) == STEPS
    assert steps["software"].output_error == 0.0
    for name in ("mapping", "quantisation", "variation", "neuron"):
        # calibration accepts 2e-3 of a layer's output rather than shrink its scale further; the
        # mean counts there and not here, which makes up to a factor of a few
        assert steps[name].output_error < 0.01
        assert steps[name].output_error == pytest.approx(steps["mapping"].output_error, abs=1e-9)
    # loading is there, and without wires partitioning changes the load but not the transfer
    assert steps["loading"].output_error > 1e-4
    assert steps["partitioning"].output_error == pytest.approx(
        steps["loading"].output_error, rel=1e-9
    )
    assert all(math.isnan(step.accuracy) for step in steps.values())


def test_steps_are_the_network_and_name_the_culprit(generator: torch.Generator) -> None:
    x = images(generator)
    coarse = network(generator, Memristor(rlow=10e3, rhigh=1e6, states=4, variation=0.3))
    labels = torch.arange(30) % 4
    steps = {step.name: step for step in ablate(coarse, x, labels)}
    # without states the first layer is exact; the last keeps the scale that suited four states
    assert steps["mapping"].layer_errors[0] < 1e-9
    assert steps["quantisation"].layer_errors[0] > 0.02
    assert steps["quantisation"].output_error > 1.5 * steps["mapping"].output_error
    assert steps["variation"].output_error != steps["quantisation"].output_error
    with torch.no_grad():
        correct = (coarse(x).argmax(1) == labels).double().mean()
    assert steps["partitioning"].accuracy == pytest.approx(float(correct))
    # nothing was trimmed
    assert steps["calibration"].accuracy == steps["partitioning"].accuracy
    # the ablation left the network as it was
    again = {step.name: step for step in ablate(coarse, x, labels)}
    assert again["partitioning"].output_error == steps["partitioning"].output_error


def test_trims_count_only_where_calibration_comes_in(generator: torch.Generator) -> None:
    x = images(generator)
    circuit = network(generator, Memristor(rlow=1e3, rhigh=100e3))
    calibrate(circuit, x)
    assert any(bool(layer.matrix.trim.any()) for layer in circuit.analog_layers())
    after = {step.name: step for step in ablate(circuit, x)}
    # The same gains, ranges and statistics without trims: all steps but the last are the same.
    bare = copy.deepcopy(circuit)
    with torch.no_grad():
        for layer in bare.analog_layers():
            layer.matrix.trim.zero_()
    before = {step.name: step for step in ablate(bare, x)}
    for name in STEPS[1:-1]:
        assert after[name].output_error == before[name].output_error, name
    assert before["calibration"].output_error == before["partitioning"].output_error
    assert after["calibration"].output_error < 0.5 * after["partitioning"].output_error
    with torch.no_grad():
        found, wanted = circuit(x), software_activations(circuit, x)[-1]
    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    error = float((found - wanted).square().mean().sqrt() / spread)
    assert after["calibration"].output_error == pytest.approx(error, rel=1e-9)


def test_effective_weights(generator: torch.Generator) -> None:
    ideal = Interconnect(resistance=False)
    device = Memristor(rlow=10e3, rhigh=1e6)
    for effect in layer_effects(network(generator, device, interconnect=ideal)):
        assert effect.error < 0.01  # what calibration accepts, see above
        assert effect.gain == pytest.approx(1.0, abs=0.01)
    lossy = network(generator, Memristor(rlow=300.0, rhigh=30e3))
    effects = layer_effects(lossy, worst=3)
    # wires take part of the signal
    assert effects[0].gain < 0.999
    row, column, difference = effects[0].worst[0]
    off = (effects[0].effective - effects[0].wanted)[row, column]
    assert float(off) == difference
    assert abs(difference) == float((effects[0].effective - effects[0].wanted).abs().max())
    with pytest.raises(ConversionError, match="worst"):
        layer_effects(lossy, worst=0)
    # Groups are arrays of their own, their outputs follow one another.
    layer = nn.Conv1d(4, 6, 2, groups=2, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-1.0, 1.0, generator=generator)
    grouped = convert(nn.Sequential(layer, nn.Sigmoid()), lossy.config.replace(interconnect=ideal))
    (found,) = layer_effects(grouped)
    wanted = torch.cat([layer.weight.flatten(1), layer.bias[:, None]], dim=1).detach()
    torch.testing.assert_close(found.effective, wanted, rtol=0, atol=1e-12)


def test_clipping_is_a_step_of_its_own(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    config = Config(
        mapping=WeightMapping(levels="continuous", scheme="matched"),
        interconnect=Interconnect(resistance=False),
    )
    x = images(generator)
    expected = r"clipped at vdd\nThat .*\nWhat helps: convert\(…, samples"
    with pytest.warns(ConversionWarning, match=expected):
        circuit = convert(model, config)
    calibrate(circuit, x, trim=False)
    hidden = torch.relu(model[0](x)).detach()
    # no sample is beyond the range that they gave
    assert {step.name: step for step in ablate(circuit, x)}["clipping"].output_error == 0.0
    limit = 0.5 * float(hidden.max())
    first, second = circuit.analog_layers()
    first.scaling = replace(first.scaling, output_scale=limit)
    second.scaling = replace(second.scaling, input_scale=limit)
    labels = model(x).argmax(1)
    steps = {step.name: step for step in ablate(circuit, x, labels)}
    cut = hidden.clamp(max=limit)
    wanted, found = model(x).detach(), model[2](cut).detach()
    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    error = float((found - wanted).square().mean().sqrt() / spread)
    assert error > 0.01
    assert steps["clipping"].output_error == pytest.approx(error, rel=1e-9)
    same = (found.argmax(1) == labels).double().mean()
    assert steps["clipping"].accuracy == pytest.approx(float(same))
    # What comes after it cannot exceed vdd either, so it is at least as far off.
    for name in ("mapping", "quantisation", "variation"):
        assert steps[name].layer_errors[0] >= (1 - 1e-9) * steps["clipping"].layer_errors[0]


def test_steps_of_outputs_that_do_not_vary_are_numbers(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[0].bias.fill_(-100.0)  # every ReLU is at 0, so all outputs are the last bias
    with pytest.warns(ConversionWarning, match="what this conversion loses"):
        circuit = convert(model, Config(interconnect=Interconnect(resistance=False)))
    for step in ablate(circuit, images(generator)):
        assert math.isfinite(step.output_error), step


def test_what_a_circuit_cannot_carry_is_attributed(generator: torch.Generator) -> None:
    """Devices that hardly change cost the answers: said with its step, and with what would help."""
    with pytest.warns(ConversionWarning, match="what this circuit loses") as said:
        circuit = network(generator, Memristor(rlow=10e3, rhigh=12e3, variation=0.3), trim=True)
        (text,) = [str(item.message) for item in said if "this circuit loses" in str(item.message)]
    steps = {step.name: step.output_error for step in ablate(circuit, images(generator))}
    costs = {name: steps[name] - steps[before] for before, name in pairwise(STEPS)}
    # weights and devices are continuous
    assert costs["quantisation"] == pytest.approx(0.0, abs=1e-9)
    assert max(costs, key=lambda name: costs[name]) == "mapping"
    assert "another largest output than in software" in text
    assert re.search(r"clipping \+0.00, mapping \+[0-9.]+, quantisation [+-]0.00, ", text)
    assert "devices with a larger ratio of device.rhigh to device.rlow" in text
    # nor what would help against steps that cost nothing
    assert "mapping.levels" not in text
    assert "device.states" not in text


def test_a_circuit_that_carries_its_network_says_nothing(
    generator: torch.Generator, recwarn: pytest.WarningsRecorder
) -> None:
    network(generator, Memristor(rlow=10e3, rhigh=1e6), trim=True)
    assert not [item for item in recwarn if item.category is ConversionWarning]


@pytest.mark.parametrize("scheme", ["unilateral", "matched"])
def test_weight_errors_are_one_figure(generator: torch.Generator, scheme: str) -> None:
    """By hand from the devices' weights; summary, records and the layer's analysis have it."""
    model = nn.Sequential(nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 4)).double()
    config = Config(
        device=Memristor(rlow=10e3, rhigh=1e6, variation=0.1),
        mapping=WeightMapping(levels=17, scheme=scheme),
        neuron=Neuron(kind="logistic"),
    )
    x, labels = images(generator), torch.arange(30) % 4
    circuit = convert(model, config, generator=generator, samples=x)
    details = analyse(circuit, model, [(x, labels)], ablation=False)
    for layer, linear, seen in zip(
        circuit.analog_layers(), (model[0], model[2]), details.layers, strict=True
    ):
        weight, bias = layer.effective_weights()
        wanted = linear.weight.detach(), linear.bias.detach()
        by_hand = [
            float((found - right).square().mean().sqrt() / right.square().mean().sqrt())
            for found, right in zip((weight, bias), wanted, strict=True)
        ]
        assert min(by_hand) > 0.001  # devices spread
        assert [seen.weight_error, seen.bias_error] == pytest.approx(by_hand, rel=1e-9)
        text = layer.matrix.weight_errors().text()
        assert f"{100 * by_hand[0]:.2g} % of their rms" in text or by_hand[0] >= 0.1
        assert text in next(r.detail for r in circuit.records if r.path == layer.name)
        assert text in layer.description()


def test_output_errors_are_one_figure(generator: torch.Generator, tmp_path: Path) -> None:
    """By hand from the circuit's voltages; summary, saved networks and analyses have it."""
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    x, labels = images(generator), torch.arange(30) % 4
    circuit = convert(model, Config(device=Memristor(rlow=10e3, rhigh=1e5)), samples=x)
    again = load(save(circuit, tmp_path / "n.safetensors"))
    details = analyse(circuit, model, [(x, labels)], ablation=False)
    states = circuit.solve(x).layers
    for index, wanted in enumerate((model[:2](x).detach(), model(x).detach())):
        layer = list(circuit.analog_layers())[index]
        found = states[index].outputs / 0.8 * layer.scaling.output_scale
        difference = (found.detach() - wanted).square().mean().sqrt()
        error = float(difference / (wanted - wanted.mean(0)).square().mean().sqrt())
        assert error > 0.005
        assert layer.calibrated_error == pytest.approx(error, rel=1e-9)
        assert details.layers[index].output_error == pytest.approx(error, rel=1e-9)
        assert list(again.analog_layers())[index].calibrated_error == layer.calibrated_error
        words = f"outputs were off by {percent(error)} (rms) of what varies in them"
        assert layer.description().endswith(words)


def test_advice_names_what_a_circuit_does_not_have_yet() -> None:
    config = Config()
    assert any("'transimpedance'" in item for item in remedies("mapping", config))
    assert any("neuron.output_resistance = 0.01" in item for item in remedies("loading", config))
    better = Config(amplifier={"kind": "transimpedance"}, neuron={"output_resistance": BUFFER})
    assert not any("transimpedance" in item for item in remedies("mapping", better))
    assert not any("buffer" in item for item in remedies("loading", better))
    (advice,) = remedies("amplifiers", better)  # both amplifiers of a row carry the common mode
    assert "'differential'" in advice and "device.rhigh" in advice
    assert "'differential'" not in remedies("amplifiers", config)[0]
