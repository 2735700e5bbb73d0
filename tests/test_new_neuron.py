"""A kind of neuron that the package does not have, in one file that changes nothing else."""

from __future__ import annotations

import ast
import importlib.util
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from dense_network import VDD, scalar
from torch import nn
from torch.autograd import gradcheck

import imac_torch as imac
from imac_torch.config.kinds import NEURON_KINDS
from imac_torch.dc.transfer import threshold_and_slope
from imac_torch.errors import ConfigError, ConversionError, SolverError
from imac_torch.netlist import NetlistSettings
from imac_torch.periphery.activations import ACTIVATIONS, Activation
from imac_torch.periphery.neuron import NeuronKind, kind_for, kind_of, neuron_kinds, register_neuron
from imac_torch.periphery.neuron.logistic import LogisticNeuron
from imac_torch.periphery.neuron.tanh import TanhNeuron

LINES = 60
"""What the file of a kind may take."""

ARCTAN = Path(__file__).parent / "plugins" / "arctan_neuron.py"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[ModuleType]:
    """The file, imported; its names are taken out again."""
    path = shutil.copy(ARCTAN, tmp_path)
    spec = importlib.util.spec_from_file_location("arctan_neuron", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["arctan_neuron"] = module  # copies of models look their classes up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["arctan_neuron"]
    NEURON_KINDS.remove("arctan")
    ACTIVATIONS.remove("arctan")


def network(plugin: ModuleType, **sections) -> tuple[nn.Sequential, imac.IMACNetwork]:
    """A model of weights ±1, and its circuit; the last layer is read out."""
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(
        nn.Linear(6, 5, dtype=torch.float64), plugin.Arctan(), nn.Linear(5, 3, dtype=torch.float64)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            signs = torch.randint(0, 2, parameter.shape, generator=generator)
            parameter.copy_(2.0 * signs - 1.0)
    return model, imac.convert(model, imac.Config(**sections))


def samples(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(6)
    return 2.0 * torch.rand(count, 6, generator=generator, dtype=torch.float64) - 1.0


def test_values_are_those_of_the_curve() -> None:
    """Of kinds that know them by fewer operations, and of kinds derived from these."""

    class Steeper(LogisticNeuron):
        def curve(self, gate, vdd, slope):
            output, rise = super().curve(2.0 * gate, vdd, slope)
            return output, 2.0 * rise

    gate = torch.linspace(-1.0, 1.0, 41, dtype=torch.float64)
    for kind in (LogisticNeuron, TanhNeuron, Steeper):
        neuron = kind()
        values = neuron.value(gate, scalar(VDD), scalar(7.0))
        curve, _ = neuron.curve(gate, scalar(VDD), scalar(7.0))
        torch.testing.assert_close(values, curve, rtol=0, atol=1e-15)


def test_the_file_is_short() -> None:
    assert len(ARCTAN.read_text(encoding="utf-8").splitlines()) <= LINES


def test_it_is_chosen_by_its_module_and_by_its_name(plugin):
    for kind in (None, "arctan"):
        model, circuit = network(plugin, neuron=imac.Neuron(kind=kind))
        kinds = [layer.neuron_spec().kind for layer in circuit.analog_layers()]
        assert kinds == ["arctan", "identity"]
    assert "arctan" in circuit.summary()
    x = samples(4)
    # Weights are levels of the mapping, and the way back has the module of the model.
    torch.testing.assert_close(imac.to_software(circuit)(x), model(x))
    with pytest.raises(ConversionError, match="does not compute sigmoid"):
        imac.IMACLinear(2, 2, activation=Activation("sigmoid"), config=circuit.config)


def test_threshold_and_slope_are_found_from_its_curve(plugin):
    """(2/π)·atan(k·z) with k = neuron.slope, by tangent and by least squares alike."""
    _, circuit = network(
        plugin,
        neuron=imac.Neuron(slope=7.0),
        mapping=imac.WeightMapping(levels=17, scheme="matched"),
    )
    layer = next(circuit.analog_layers())
    assert layer.threshold_and_slope() == pytest.approx((0.0, 7.0), abs=1e-9)
    assert layer.volts_per_unit() == pytest.approx(1 / 7.0, rel=1e-9)
    # Loading and wires are what is left, and calibration takes some of it.
    found = imac.calibrate(circuit, samples(40))
    assert all(item.error_after <= item.error_before < 0.3 for item in found)


def test_solution_and_gradients(plugin):
    _, circuit = network(plugin)
    x = samples(3)
    with torch.no_grad():
        state = circuit.solve(x).layers[0]
    # Behind the output resistance the curve drives the next layer: less than the curve, and
    # exactly the curve where nothing draws current.
    ideal = VDD * torch.atan(11.0 * state.combined) * (2 / math.pi)
    assert float((state.outputs - ideal).abs().max()) < 0.2 * VDD
    spec = next(circuit.analog_layers()).neuron_spec()
    gate = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64, requires_grad=True)
    output = torch.full_like(gate, 0.1).requires_grad_()
    core = spec.model.core(spec)
    assert gradcheck(lambda g, u: core.values(g, u).output, (gate, output))
    curve = VDD * torch.atan(11.0 * gate) * (2 / math.pi)
    torch.testing.assert_close(core.values(gate, output).output, (curve - 0.1) / 1e3)
    assert gradcheck(circuit, (x[:1].requires_grad_(),), eps=1e-5, atol=1e-6)


def test_ngspice_solves_the_same_circuit(plugin, ngspice, tmp_path):
    _, circuit = network(plugin)
    x = samples(3)
    labels = torch.zeros(3, dtype=torch.int64)
    with torch.no_grad():
        expected = circuit.solve(x)
    deck = imac.compile(
        circuit, [(x, labels)], tmp_path / "run", settings=NetlistSettings(analysis="dc")
    )
    assert (deck.directory / "circuit" / "neuron_arctan.sp").is_file()
    found = deck.run(progress=False)
    # Newton's method of either stops below 1e-9 V.
    torch.testing.assert_close(found.solution.outputs, expected.outputs, rtol=0.0, atol=1e-8)


def test_it_has_transients(plugin):
    _, circuit = network(plugin, neuron=imac.Neuron(output_capacitance=1e-15))
    x = samples(1)
    result = circuit.transient(x)
    with torch.no_grad():
        settled = circuit.solve(x).outputs
    # 4 ns are a thousand time constants of 1 kΩ and some fF.
    torch.testing.assert_close(result.outputs[-1], settled, rtol=0.0, atol=1e-5)


def test_saved_networks_need_the_file(plugin, tmp_path):
    _, circuit = network(plugin, neuron=imac.Neuron(kind="arctan"))
    path = tmp_path / "network.safetensors"
    imac.save(circuit, path)
    x = samples(2)
    with torch.no_grad():
        torch.testing.assert_close(imac.load(path)(x), circuit(x), rtol=0.0, atol=0.0)
    config = circuit.config.to_json()
    assert imac.Config.from_json(config) == circuit.config
    NEURON_KINDS.remove("arctan")
    for read in (lambda: imac.load(path), lambda: imac.Config.from_json(config)):
        with pytest.raises(imac.ImacError, match=r"'arctan'.*module that registers it"):
            read()


def test_registering_again_replaces_and_nothing_stale_is_left(plugin):
    """As when a cell of a notebook runs again: the threshold is that of the new curve."""
    first = network(plugin)[1]
    slope = next(first.analog_layers()).threshold_and_slope()[1]

    class Twice(plugin.ArctanNeuron):
        def curve(self, gate, vdd, slope):
            return super().curve(gate, vdd, 2 * slope)

    register_neuron(Twice())
    again = network(plugin)[1]
    assert next(again.analog_layers()).threshold_and_slope()[1] == pytest.approx(2 * slope)


def test_what_cannot_be_registered(plugin):
    for name in ("tanh", "two words", ""):
        kind = type("Kind", (plugin.ArctanNeuron,), {"name": name})()
        with pytest.raises(ConfigError, match="cannot name a neuron kind"):
            register_neuron(kind)
    with pytest.raises(ConversionError, match="no activation 'square'; there are sigmoid"):
        Activation("square").apply(scalar(1.0))


def test_a_kind_without_range_passes_volts_or_says_its_line(plugin):
    class Free(plugin.ArctanNeuron):
        activation = kind_of("relu").activation

    spec = register_neuron(Free()).spec(imac.Config())
    assert threshold_and_slope(spec) == (0.0, 1.0 / VDD)

    class Silent(Free):
        def line(self, spec):
            return None

    spec = register_neuron(Silent()).spec(imac.Config())
    with pytest.raises(SolverError, match="which has no range"):
        threshold_and_slope(spec)


@pytest.mark.parametrize("name", [n for n in NEURON_KINDS.names if n in NEURON_KINDS.built_in])
def test_every_kind_of_the_package_answers(name):
    kind = kind_of(name)
    assert isinstance(kind, NeuronKind) and kind.name == name
    assert kind in tuple(neuron_kinds())
    assert kind.reads <= set(imac.Neuron.model_fields)
    default = kind_for(Activation(kind.activation.name), None, where="here")
    assert kind_for(Activation(kind.activation.name), name, where="here") is kind
    assert default.activation is kind.activation


def test_a_name_that_nobody_registered():
    with pytest.raises(ConfigError, match="no neuron kind 'step'; there are finfet, logistic"):
        imac.Neuron(kind="step")


def test_nobody_tests_the_name_of_a_kind() -> None:
    """A comparison with a kind's name outside its file is a place that a new kind would miss."""
    package = Path(imac.__file__).parent
    names = {*NEURON_KINDS.names, *ACTIVATIONS.names}
    found = []
    for path in package.rglob("*.py"):
        if path.is_relative_to(package / "periphery" / "neuron"):
            continue
        text = path.read_text(encoding="utf-8")
        if not any(f'"{name}"' in text or f"'{name}'" in text for name in names):
            continue  # most say none of the names, and need not be parsed
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Compare) or "device_model" in ast.unparse(node.left):
                continue  # 'table' is a device model, too
            parts = ast.walk(ast.Tuple([node.left, *node.comparators], ast.Load()))
            words = {part.value for part in parts if isinstance(part, ast.Constant)} & names
            found += [f"{path.relative_to(package)}: {ast.unparse(node)}"] if words else []
    assert found == []
