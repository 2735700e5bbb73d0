"""IMACNetwork: coding of inputs, caching, state, copies, dtypes."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_networks import CONTINUOUS, LOGISTIC, loader, mlp, seeded, signs
from torch import nn

from imac_torch import (
    Activation,
    Config,
    Crossbar,
    IMACNetwork,
    LayerConfig,
    Memristor,
    Native,
    Neuron,
    NewtonOptions,
    Supplies,
    Timing,
    WeightMapping,
    ablate,
    convert,
    evaluate,
)
from imac_torch import compile as compile_deck
from imac_torch.conversion.storage import load, save
from imac_torch.devices import DeviceSample, Factors
from imac_torch.errors import (
    CircuitError,
    ConfigError,
    ConversionError,
    DataError,
    ImacError,
    SettingWarning,
)
from imac_torch.model.coding import encode
from imac_torch.model.linear import Scaling
from imac_torch.model.network import evaluating
from imac_torch.model.segment import Segment

INPUTS = signs(5, 6).double()


def network(config=LOGISTIC, seed=3):
    return convert(mlp(6, 5, 3, seed=seed), config, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def outputs(item, inputs=INPUTS):
    found = item(inputs)
    assert found.dtype == (inputs.dtype if inputs.is_floating_point() else torch.float64)
    assert bool(torch.isfinite(found).all())
    return found


# Inputs


def test_coding_of_inputs():
    values = torch.tensor([[1.0, -1.0, 0.0, 0.5, -0.5]], dtype=torch.float64)
    linear = Supplies(vdd=0.8, vss=-0.4)
    torch.testing.assert_close(
        encode(values, linear, 1.0),
        torch.tensor([[0.8, -0.4, 0.0, 0.4, -0.2]], dtype=torch.float64),
    )
    torch.testing.assert_close(
        encode(3 * values, Supplies(encoding="sign"), 2.0),
        torch.tensor([[0.8, -0.8, 0.0, 0.8, -0.8]], dtype=torch.float64),
    )
    torch.testing.assert_close(encode(values, linear, 2.0), encode(values / 2, linear, 1.0))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (2 * INPUTS, "inputs reach 2, full scale is 1.*supplies.input_scale"),
        (INPUTS[:, :5], r"0 takes \(B, 6\), the digital part gives \(5, 5\)"),
        (INPUTS[0], r"0 takes \(B, 6\), the digital part gives \(6,\)"),
        (INPUTS[:, None], r"digital part gives \(5, 1, 6\)"),
        (torch.where(torch.arange(30).reshape(5, 6) == 13, torch.nan, INPUTS), "input 2 of the"),
        (torch.where(torch.arange(30).reshape(5, 6) == 13, torch.inf, INPUTS), "input 2 of the"),
    ],
)
def test_inputs_that_do_not_fit(inputs, message):
    with pytest.raises(CircuitError, match=message):
        network()(inputs)


def test_one_input_and_many_are_the_same():
    item = network()
    together = outputs(item)
    single = torch.cat([outputs(item, INPUTS[k : k + 1]) for k in range(5)])
    # each stops within Newton's tolerance, 1e-9 V of 0.8 V
    torch.testing.assert_close(together, single, rtol=0, atol=1e-8)
    in_parts = convert(mlp(6, 5, 3), LOGISTIC, engine=Native(batch_size=2))
    torch.testing.assert_close(together, outputs(in_parts), rtol=0, atol=1e-8)


def test_integers_are_inputs_too():
    torch.testing.assert_close(outputs(network(), INPUTS.to(torch.int8)), outputs(network()))


# The cache


def scale_weight(item):
    item.layers[0].weight.mul_(-1)


def scale_weight_behind_autograd(item):
    item.layers[0].weight.data.mul_(-1)


def replace_weight_data(item):
    item.layers[0].weight.data = -item.layers[0].weight.data


def replace_parameter(item):
    item.layers[0].weight = nn.Parameter(-item.layers[0].weight)


def change_bias(item):
    item.layers[1].bias.neg_()


def change_devices(item):
    matrix = item.layers[0].matrix
    cells = torch.full((matrix.rows, matrix.columns), 0.5, dtype=torch.float64)
    matrix.devices = (DeviceSample.known(Factors(cells, torch.ones_like(cells))),)


def change_weight_through_numpy(item):
    item.layers[0].weight.detach().numpy()[0] *= -1


def change_config(item):
    layer = item.layers[0]
    layer.config = layer.config.replace(crossbar=Crossbar(columns=2))


def change_activation(item):
    layer = item.layers[0]
    layer.activation = Activation("sigmoid", 1.0)


def change_scaling(item):
    item.layers[1].scaling = Scaling(output_scale=2.0)


def load_other(item):
    item.load_state_dict(network(seed=9).state_dict())


CHANGES = [
    scale_weight, scale_weight_behind_autograd, replace_weight_data, replace_parameter,
    change_bias, change_devices, change_weight_through_numpy, change_config, change_activation,
    change_scaling, load_other,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_cache_follows_every_change(change):
    item = network(CONTINUOUS)
    before = outputs(item)
    with torch.no_grad():
        change(item)
    after = outputs(item)
    fresh = copy.deepcopy(item)  # a copy starts without a cache
    torch.testing.assert_close(after, outputs(fresh), rtol=0, atol=0)
    assert float((after - before).abs().max()) > 1e-4


def test_cache_follows_the_engine():
    item = network()
    with torch.no_grad():
        before = item.prepare()
        item.engine = Native(newton=NewtonOptions(tolerance=1e-6))
        assert item.prepare() is not before


def test_cache_is_used_while_nothing_changes():
    item = network(LOGISTIC.replace(mapping=WeightMapping(scheme="matched", levels="continuous")))
    with torch.no_grad():
        first = item.prepare()
        assert item.prepare() is first
        item.train()
        item.eval()
        assert item.prepare() is first
        assert item.prepare(Native(method="tiles")) is not first


def test_gradients_are_not_cached():
    item = network(CONTINUOUS)
    for _ in range(2):  # a cached graph would have been freed by the first pass
        item.zero_grad()
        item(INPUTS).sum().backward()
    gradient = item.layers[0].weight.grad
    assert float(gradient.abs().max()) > 0
    with torch.no_grad():
        item(INPUTS)
    assert item(INPUTS).requires_grad


def test_one_vdd():
    item = network()
    outputs(item)
    layer = item.layers[0]
    for changes, message in (
        ({"supplies": Supplies(vdd=0.9)}, r"0 has supplies.vdd = 0.9, the network 0.8, .*again"),
        ({"supplies": Supplies(vss=-0.4)}, r"0 has supplies.vss = -0.4, the network -0.8"),
        ({"timing": Timing(period=1e-8)}, r"0 has timing.period = 1e-08, the network 4e-09"),
    ):
        layer.config = item.config.replace(**changes)
        for use in (lambda: outputs(item), item.circuit, lambda: item(INPUTS)):
            with pytest.raises(CircuitError, match=message):
                use()
    layer.config = item.config
    outputs(item)


def test_a_configuration_is_not_assigned():
    item = network()
    item.config = item.config.replace()  # the same
    with pytest.raises(ConfigError, match=r"convert\(model, config\)"):
        item.config = item.config.replace(temperature=300.0)
    assert copy.deepcopy(item).config == item.config


def test_negative_inputs_are_refused_or_told_of_where_they_become_something_else(tmp_path):
    model = mlp(6, 4, 3)
    pairs = loader(INPUTS)
    positive = INPUTS.abs()
    symmetric = convert(model, LOGISTIC)
    number = itertools.count()
    uses = (
        lambda net: net(INPUTS),
        lambda net: net.solve(INPUTS),
        lambda net: evaluate(net, pairs, progress=False),
        lambda net: compile_deck(net, pairs, tmp_path / f"deck{next(number)}", limit=1),
        lambda net: net.measure(INPUTS[:2]),
        lambda net: ablate(net, INPUTS),
    )
    for vss, encoding in ((0.0, "linear"), (0.0, "sign"), (-0.4, "sign"), (-1.6, "linear")):
        supplies = Supplies(vss=vss, encoding=encoding)
        net = convert(model, LOGISTIC.replace(supplies=supplies))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            net(positive)
        for use in uses:
            net = convert(model, LOGISTIC.replace(supplies=supplies))
            if vss == 0.0:
                with pytest.raises(CircuitError, match=r"supplies.vss = -0.8"):
                    use(net)
                continue
            with pytest.warns(SettingWarning, match=r"supplies.vss = .*-0.8") as told:
                use(net)
                net(INPUTS)
            assert len([item for item in told if item.category is SettingWarning]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        symmetric(INPUTS)
    torch.testing.assert_close(
        convert(model, LOGISTIC.replace(supplies=Supplies(vss=0.0)))(positive),
        symmetric(positive),
    )


# State, files, copies

FULL = Config(
    supplies=Supplies(vdd=0.75, input_scale=1.5),
    device=Memristor(variation=0.1),
    crossbar=Crossbar(columns=4),
    neuron=Neuron(kind="logistic", slope=7.0),
    mapping=WeightMapping(levels=(-1.0, -0.2, 0.2, 1.0)),
    layers={"2": LayerConfig(amplifier={"gain": None}, device={"variation": 0.3})},
)


def test_state_dict_carries_configuration_and_spread():
    item, other = network(FULL), network(LOGISTIC, seed=9)
    other.load_state_dict(item.state_dict())
    assert other.config == FULL
    assert [a.config for a in other.layers] == [b.config for b in item.layers]
    assert torch.equal(outputs(other), outputs(item))


def test_safetensors_round_trip_of_the_state(tmp_path):
    item, other = network(FULL), network(LOGISTIC, seed=9)
    save_file(item.state_dict(), tmp_path / "state.safetensors")
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert other.config == FULL
    assert torch.equal(outputs(other), outputs(item))


def front():
    """A model with a software part that is not only Linear layers."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Hardtanh(), nn.Flatten(), nn.Linear(8, 4),
            nn.Tanh(), nn.Linear(4, 3), nn.LogSoftmax(dim=1),
        )
    )  # fmt: skip


def test_file_of_a_network(tmp_path):
    model = front()
    images = torch.linspace(-1, 1, 2 * 16).reshape(2, 1, 4, 4)
    item = convert(model.eval(), Config())
    path = save(item, tmp_path / "net.safetensors")
    again = load(path)
    assert again.config == item.config
    assert again.records == item.records
    assert torch.equal(outputs(again, images), outputs(item, images))
    with safe_open(path, framework="pt") as file:  # nothing but tensors and text in it
        for text in file.metadata().values():
            assert text.isprintable()
    with pytest.raises(DataError, match="exists"):
        save(item, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated"):
        load(path)


@pytest.mark.parametrize(
    "state",
    [
        torch.zeros(3),
        torch.tensor(list(b"{}"), dtype=torch.uint8),
        torch.tensor(list(b"{"), dtype=torch.uint8),
        torch.tensor(list(b"[1]"), dtype=torch.uint8),
        torch.tensor(list(b"\xff"), dtype=torch.uint8),
        torch.tensor(list(b'{"config": {"schema": 99}}'), dtype=torch.uint8),
        torch.tensor(list(b'{"config": 1}'), dtype=torch.uint8),
        "text",
    ],
)
def test_damaged_state_is_refused(state):
    item = network()
    with pytest.raises(ImacError):
        item.set_extra_state(state)
    assert item.config == LOGISTIC


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(how):
    item = network(FULL)
    before = outputs(item)
    other = how(item)
    assert torch.equal(outputs(other), before)
    with torch.no_grad():
        other.layers[0].weight.neg_()
        assert other.prepare() is not item.prepare()
    assert float((outputs(other) - before).abs().max()) > 1e-4
    assert torch.equal(outputs(item), before)


# Types and places


@pytest.mark.parametrize(
    ("cast", "tolerance"),
    [
        (lambda m: m.double(), 0.0),
        # float32 weights: 6e-8 relative each, and the network amplifies by its slope (≈ 10)
        (lambda m: m.float(), 1e-5),
        # half: 5e-4 relative
        (lambda m: m.half(), 5e-2),
    ],
)
def test_weights_of_any_type_give_a_circuit_in_double(cast, tolerance):
    item = network(CONTINUOUS)
    expected = outputs(item)
    found = outputs(cast(item))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_models_of_any_type_convert(dtype):
    item = convert(mlp(6, 5, 3).to(dtype), LOGISTIC)
    assert next(item.analog_layers()).weight.dtype == torch.float64
    assert outputs(item).shape == (5, 3)


def test_device_is_where_the_weights_are():
    assert network().device == torch.device("cpu")
    assert network().to("meta").device == torch.device("meta")


# Construction and modes


def test_construction_checks():
    first, second = network().analog_layers()
    with pytest.raises(ConversionError, match="no layer that can be analog"):
        IMACNetwork(nn.Sequential(), LOGISTIC)
    with pytest.raises(ConversionError, match="at least one"):
        Segment([], LOGISTIC)
    with pytest.raises(ConversionError, match="2 has 3 outputs, 0 takes 6"):
        Segment([second, first], LOGISTIC)


def test_evaluating_restores_every_mode():
    model = front().train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="stop"), evaluating(model, None):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("stop")
    assert [module.training for module in model.modules()] == modes


def test_decoding_is_in_units_of_vdd():
    item = network(LOGISTIC.replace(supplies=Supplies(vdd=0.9)))
    with torch.no_grad():
        solution = item.solve(INPUTS)
        full_scale = item.layers[-1].scaling.output_scale  # of the read-out, in software units
        expected = full_scale * solution.outputs / 0.9
        torch.testing.assert_close(item(INPUTS), expected.to(INPUTS.dtype))
    assert solution.power is not None
    assert item.solve(INPUTS, power=False).power is None
