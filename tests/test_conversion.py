"""convert: what becomes of every module, what is refused, and the way back."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from small_networks import CONTINUOUS, LOGISTIC, mlp, seeded, signs
from torch import nn

from imac_torch import (
    Activation,
    Amplifier,
    Config,
    Crossbar,
    IMACLinear,
    Interconnect,
    InverterSigmoid,
    LayerConfig,
    Memristor,
    Neuron,
    Supplies,
    WeightMapping,
    convert,
    to_software,
)
from imac_torch.devices import DeviceSample, Factors
from imac_torch.errors import ConfigError, ConversionError, ConversionWarning, MappingError


def targets(network):
    """``{path: target}`` of the conversion table."""
    return {record.path: record.target for record in network.records}


def named(**children):
    """A Sequential with named children."""
    model = nn.Sequential()
    for name, child in children.items():
        model.add_module(name, child)
    return model


def cnn():
    """Convolutional front, then a fully connected tail with everything that a tail may have."""

    def make():
        model = named(
            features=nn.Sequential(
                nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Sigmoid()
            ),
            flatten=nn.Flatten(),
            head=nn.Sequential(
                nn.Dropout(0.5),
                nn.Linear(27, 6),
                nn.BatchNorm1d(6),
                nn.Sigmoid(),
                nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 4), nn.Identity(), nn.Tanh()),
                nn.Flatten(),
                nn.Linear(4, 3),
            ),
            scores=nn.LogSoftmax(dim=1),
        )
        for norm in (model.features[1], model.head[2]):
            nn.init.uniform_(norm.running_mean, -0.3, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.3, 0.3)
        return model.eval()

    return seeded(make)


IMAGES = torch.linspace(0, 1, 5 * 64).sin().abs().reshape(5, 1, 8, 8)
MIXED = Config(mapping=WeightMapping(levels="continuous"), layers={
    "head.1": LayerConfig(neuron={"kind": "logistic"}),
})  # fmt: skip


# What becomes of every module


def test_every_module_is_accounted_for():
    model = cnn()
    network = convert(model, MIXED)
    assert targets(network) == {
        **{f"features.{k}": "digital" for k in range(5)},
        "flatten": "digital",
        "head.0": "digital",
        "head.1": "analog",
        "head.2": "folded",
        "head.3": "analog",
        "head.4.0": "dropped",
        "head.4.1": "analog",
        "head.4.2": "dropped",
        "head.4.3": "analog",
        "head.5": "dropped",
        "head.6": "analog",
        "scores": "digital",
    }
    leaves = [name for name, m in model.named_modules() if not list(m.children())]
    assert [record.path for record in network.records] == leaves
    kinds = [layer.neuron_spec().kind for layer in network.analog_layers()]
    assert kinds == ["logistic", "tanh", "identity"]
    assert [layer.name for layer in network.analog_layers()] == ["head.1", "head.4.1", "head.6"]


def test_table_says_what_and_why():
    text = convert(cnn(), MIXED).summary()
    for words in (
        "head.1", "Linear 27→6", "1×1 partitions", "continuous/unilateral", "neuron logistic",
        "into head.1", "Dropout is the identity", "before the analog tail", "normalises",
    ):  # fmt: skip
        assert words in " ".join(text.split()), words


def test_network_computes_what_software_does():
    """Ideal wires, exact rows, strong neurons: nothing of the circuit is not software's.

    Dropout, batch normalisation in the front and in the tail, both signs of neurons are in it.
    """
    model = nn.Sequential(*cnn()[:2], cnn().head[:5]).eval()
    config = Config(
        mapping=WeightMapping(levels="continuous", scheme="matched"),
        interconnect=Interconnect(resistance=False),
        amplifier=Amplifier(gain=30.0),
        neuron=Neuron(output_resistance=1e-3),
        layers={"2.1": LayerConfig(neuron={"kind": "logistic"})},
    )
    network = convert(model, config)
    assert all(bool(layer.matrix.match().exact.all()) for layer in network.analog_layers())
    with torch.no_grad():
        found, expected = network(IMAGES), model(IMAGES)
    assert found.shape == expected.shape == (5, 4)
    # float32 rounding of the model's two layers, and 1 mΩ neurons that see 1 mS of load
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_front_and_tail_stay_in_software():
    model = cnn()
    network = convert(model, MIXED)
    with torch.no_grad():
        scores, expected = network(IMAGES), model(IMAGES)
        assert torch.equal(network.digital(IMAGES), model.head[0](model[1](model[0](IMAGES))))
    total = scores.exp().sum(1)  # log probabilities
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    back = to_software(network)(IMAGES.double())
    # Continuous weights come back whole: what is left is float32 rounding in the original.
    torch.testing.assert_close(back, expected.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_is_folded_exactly(affine, bias):
    def make():
        model = nn.Sequential(
            nn.Linear(5, 4, bias=bias), nn.BatchNorm1d(4, affine=affine), InverterSigmoid(),
            nn.Linear(4, 2),
        ).double()  # fmt: skip
        nn.init.uniform_(model[1].running_mean, -1, 1)
        nn.init.uniform_(model[1].running_var, 0.1, 3)
        if affine:
            nn.init.uniform_(model[1].weight, -2, 2)
            nn.init.uniform_(model[1].bias, -1, 1)
        return model.eval()

    model = seeded(make)
    network = convert(model, CONTINUOUS)
    inputs = signs(7, 5).double()
    folded = next(network.analog_layers())
    with torch.no_grad():
        expected = model[1](model[0](inputs))
        found = nn.functional.linear(inputs, folded.weight, folded.bias)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            to_software(network)(inputs), model(inputs), rtol=1e-12, atol=1e-12
        )


def test_an_activation_used_twice_is_seen_twice():
    act = nn.Tanh()
    model = nn.Sequential(nn.Linear(4, 3), act, nn.Linear(3, 3), act, nn.Linear(3, 2), act)
    network = convert(model, Config(mapping=WeightMapping(levels="continuous")))
    kinds = [layer.activation.kind for layer in network.analog_layers()]
    assert kinds == ["tanh", "tanh", "tanh"]
    inputs = signs(6, 4)
    torch.testing.assert_close(
        to_software(network)(inputs.double()), model(inputs).double(), rtol=0, atol=1e-6
    )


def test_a_linear_used_twice_becomes_two_layers():
    linear = nn.Linear(3, 3)
    network = convert(nn.Sequential(linear, nn.Tanh(), linear), Config())
    assert [layer.name for layer in network.analog_layers()] == ["0", "2"]


@pytest.mark.parametrize(
    ("module", "kind", "sign"),
    [
        (nn.Sigmoid(), "logistic", 1.0),
        (InverterSigmoid(2.0), "logistic", -2.0),
        (nn.Tanh(), "tanh", 1.0),
        (nn.ReLU(), "relu", 1.0),
        (nn.Identity(), "identity", 1.0),
    ],
)
def test_activations(module, kind, sign):
    config = CONTINUOUS if kind == "logistic" else Config(mapping=CONTINUOUS.mapping)
    network = convert(nn.Sequential(nn.Linear(4, 3), module), config)
    layer = next(network.analog_layers())
    assert layer.neuron_spec().kind == kind
    assert layer.activation.slope == sign
    inputs = 0.3 * signs(6, 4).double()
    model = nn.Sequential(nn.Linear(4, 3).double(), module)
    model[0].weight, model[0].bias = layer.weight, layer.bias
    with torch.no_grad():
        torch.testing.assert_close(
            to_software(network)(inputs), model(inputs), rtol=0, atol=1e-12
        )


def test_default_neuron_of_a_sigmoid_is_the_transistor_circuit():
    network = convert(nn.Sequential(nn.Linear(2, 2), InverterSigmoid()))
    assert next(network.analog_layers()).neuron_spec().kind == "finfet"


# The original model


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_alone(training):
    model = cnn().train(training)
    model.features[1].eval()  # a frozen part of a model in training
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    network = convert(model, MIXED)
    assert network.training is training
    assert [m.training for m in network.digital] == [m.training for m in [
        *model.features, model.flatten, model.head[0]]]  # fmt: skip
    network.train()
    network.digital(IMAGES)  # would move the running statistics of shared modules
    network.double()
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.zero_()
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name]), name
    software = to_software(network)
    assert not {p.data_ptr() for p in software.parameters()} & {
        p.data_ptr() for p in network.parameters()
    }


def test_frozen_weights_stay_frozen():
    model = mlp(4, 3, 2)
    model[0].weight.requires_grad_(False)
    first, second = convert(model, LOGISTIC).analog_layers()
    assert not first.weight.requires_grad
    assert first.bias.requires_grad
    assert second.weight.requires_grad


# Exclusion and overrides


def test_exclusion_by_name():
    model = mlp(6, 5, 4, 3)
    for exclude in (["0"], "0", lambda path: path == "0"):
        network = convert(model, LOGISTIC, exclude=exclude)
        assert targets(network) == {
            "0": "digital", "1": "digital", "2": "analog", "3": "analog", "4": "analog"
        }  # fmt: skip
        assert network.records[0].detail == "excluded by name"
    network = convert(model, LOGISTIC, exclude=["2"])  # and all before it
    assert targets(network) == {
        "0": "digital", "1": "digital", "2": "digital", "3": "digital", "4": "analog"
    }  # fmt: skip
    assert convert(model, LOGISTIC).records[0].target == "analog"


def test_exclusion_of_a_part_of_the_model():
    model = named(body=nn.Sequential(nn.Linear(4, 4), nn.Tanh()), body2=nn.Linear(4, 3),
                  head=nn.Linear(3, 2))  # fmt: skip
    network = convert(model, Config(), exclude=["body"])
    assert targets(network) == {
        "body.0": "digital", "body.1": "digital", "body2": "analog", "head": "analog"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["nothing", "1", "", "0.0"])
def test_exclusion_that_excludes_nothing(name):
    with pytest.raises(ConversionError, match=f"exclude names '{name}'.*there are 0, 2"):
        convert(mlp(4, 3, 2), LOGISTIC, exclude=[name])


def test_everything_excluded():
    with pytest.raises(ConversionError, match=r"2 \(Linear 3→2\): nothing to convert.*excluded"):
        convert(mlp(4, 3, 2), LOGISTIC, exclude=["0", "2"])


def test_overrides_by_path():
    config = CONTINUOUS.replace(
        amplifier=Amplifier(gain=(20.0, 30.0)),
        crossbar=Crossbar(columns=3),
        layers={
            "2": LayerConfig(
                device={"rlow": 1e4, "rhigh": 1e6}, crossbar={"columns": 2},
                neuron={"output_resistance": 50.0}, mapping={"levels": "binary"},
                amplifier={"gain": 5.0},
            )
        },
    )  # fmt: skip
    first, second = convert(mlp(5, 4, 2), config).analog_layers()
    assert first.config.device == Memristor()
    assert second.config.device.rlow == 1e4
    assert len(first.matrix.crossbar().column_ends) == 2
    assert len(second.matrix.crossbar().column_ends) == 3
    assert (first.matrix.gain(), second.matrix.gain()) == (20.0, 5.0)
    assert second.config.neuron.kind == "logistic"
    assert set(second.matrix.quantized().values.detach().abs().flatten().tolist()) == {1.0}
    positive = second.matrix.conductances().positive.detach()
    assert float(positive.max()) == pytest.approx(1e-4, rel=1e-12)


def test_overrides_of_no_layer():
    config = LOGISTIC.replace(layers={"head": LayerConfig()})
    with pytest.raises(ConversionError, match=r"Config.layers names head; the analog layers are 0"):
        convert(mlp(4, 3, 2), config)


# What is refused, with its path


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return x + self.inner(x)


@pytest.mark.parametrize(
    ("blocker", "label"),
    [
        (nn.GELU(), "GELU"),
        (nn.LeakyReLU(), "LeakyReLU"),
        (Skip(), "Skip"),
        (nn.Softmax(dim=1), "Softmax"),
        (nn.Flatten(0), "Flatten"),
        (nn.LayerNorm(3), "LayerNorm"),
    ],
)
def test_modules_without_a_circuit(blocker, label):
    model = named(
        first=nn.Linear(4, 3), act=nn.Tanh(), block=nn.Sequential(nn.Dropout(), blocker),
        drop=nn.Dropout(), last=nn.Linear(3, 2),
    )  # fmt: skip
    found = targets(convert(model, Config()))
    inner = "block.1.inner" if label == "Skip" else "block.1"
    assert found[inner] == ("analog" if label == "Skip" else "digital")
    assert (found["first"], found["act"], found["last"]) == ("analog", "analog", "analog")


def linear(inputs, outputs, **changes):
    """A Linear layer with some weights replaced: ``{(row, column): value}``."""
    layer = seeded(lambda: nn.Linear(inputs, outputs))
    with torch.no_grad():
        for index, value in changes.get("weight", {}).items():
            layer.weight[index] = value
        for index, value in changes.get("bias", {}).items():
            layer.bias[index] = value
    return layer


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.ReLU(), r"ReLU \(ReLU\): nothing to convert"),
        (nn.Sequential(), "nothing to convert"),
        (nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(4, 2)),
         "0 has 3 outputs, 2 takes 4"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Tanh()),
         r"1 \(BatchNorm1d\): without running statistics"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(5)), r"1 \(BatchNorm1d\): normalises 5"),
        (nn.Sequential(IMACLinear(4, 3), nn.BatchNorm1d(3)), "cannot fold into an IMACLinear"),
        (nn.Sequential(nn.Tanh(), nn.Sequential(linear(4, 3, weight={(2, 1): NAN}))),
         r"1.0: weight \[2, 1\] is nan"),
        (nn.Sequential(linear(4, 3, bias={0: INF})), r"0: bias \[0\] is inf"),
        (nn.Sequential(nn.LazyLinear(3)), "0.weight has no shape yet"),
        (nn.Linear(3, 2, dtype=torch.complex64), r"Linear \(Linear\): complex weights"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_converted(model, message):
    with pytest.raises(ConversionError, match=message):
        convert(model, Config())


@pytest.mark.parametrize("scheme", ["unilateral", "balanced", "matched"])
def test_degenerate_layers(scheme):
    """No bias, one input, all weights zero: circuits like others."""
    config = LOGISTIC.replace(mapping=WeightMapping(scheme=scheme))
    model = nn.Sequential(nn.Linear(1, 1, bias=False), InverterSigmoid(), nn.Linear(1, 2))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.zero_()
        found = convert(model, config)(torch.ones(3, 1))
    # pairs of equal conductances cancel
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-9)
    assert convert(model, config)(torch.ones(0, 1)).shape == (0, 2)


def test_errors_are_of_their_kind():
    with pytest.raises(MappingError, match="did training diverge"):
        convert(linear(3, 2, weight={(0, 0): NAN}), Config())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LOGISTIC.replace(crossbar=Crossbar(horizontal=9)), "0: 5 lines cannot be cut into 9"),
        (LOGISTIC.replace(crossbar=Crossbar(vertical=(3, 9))), "2: 2 lines cannot be cut into 9"),
        (Config(neuron=Neuron(kind="tanh")), "0: neuron kind 'tanh' does not compute sigmoid"),
        (LOGISTIC.replace(device=Memristor(variation=0.1)), "0: device.variation = 0.1 needs a"),
    ],
)
def test_configurations_that_do_not_fit(config, message):
    with pytest.raises(ConversionError, match=message):
        convert(mlp(4, 3, 2), config)


def test_one_gain_per_layer():
    config = LOGISTIC.replace(amplifier=Amplifier(gain=(1.0, 2.0, 3.0)))
    with pytest.raises(ConfigError, match="3 entries for 2 analog layers"):
        convert(mlp(4, 3, 2), config)


# Spread


def test_spread_is_drawn_from_the_generator():
    config = LOGISTIC.replace(device=Memristor(variation=0.1))

    def factors(seed):
        network = convert(mlp(20, 9, 2), config, generator=torch.Generator().manual_seed(seed))
        pairs = [
            (item.matrix.conductances().positive / item.matrix.nominal_conductances().positive)
            for item in network.layers
        ]
        return torch.cat([ratio.detach().flatten() for ratio in pairs])

    one, again, other = factors(1), factors(1), factors(2)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    # conductance = 1/R and R is spread by ±10 %
    assert float(one.min()) >= 1 / 1.1
    assert float(one.max()) <= 1 / 0.9
    assert float(one.std()) > 0.03


# The way back, and IMACLinear layers


@pytest.mark.parametrize("activation", [InverterSigmoid, nn.Sigmoid])
@pytest.mark.parametrize("scheme", ["unilateral", "balanced", "matched"])
def test_effective_weights(scheme, activation):
    """Weights that are levels come back as they were, through either sign of neuron."""
    model = mlp(7, 5, 3, activation=activation)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            for tensor in (layer.weight, layer.bias):
                tensor.copy_(0.3 * torch.randint(-1, 2, tensor.shape, generator=generator))
    levels = "continuous" if scheme == "matched" else "ternary"
    config = LOGISTIC.replace(mapping=WeightMapping(scheme=scheme, levels=levels))
    if scheme == "matched":  # logits need more gain than there is for rows to be exact
        model, config = model[:2], config.replace(amplifier=Amplifier(gain=30.0))
    back = to_software(convert(model, config))
    linears = [module for module in back if isinstance(module, nn.Linear)]
    tolerance = 1e-12
    for found, original in zip(linears, model[::2], strict=True):
        torch.testing.assert_close(
            found.weight.detach(), original.weight.detach().double(), rtol=0, atol=tolerance
        )
        torch.testing.assert_close(
            found.bias.detach(), original.bias.detach().double(), rtol=0, atol=tolerance
        )


def test_way_back_shows_what_rounding_and_spread_cost():
    model = mlp(20, 9, 2)
    config = LOGISTIC.replace(device=Memristor(variation=0.1))
    back = to_software(convert(model, config, generator=torch.Generator().manual_seed(1)))
    nominal = to_software(convert(model, LOGISTIC))
    first, ideal = back[1].weight.detach(), nominal[1].weight.detach()
    # three levels, the bias among the weights that share the scale
    assert len(set(ideal.flatten().tolist())) == 3
    assert len(set(first.flatten().tolist())) > 100
    assert not torch.allclose(ideal, model[0].weight.detach().double(), atol=0.01)


def test_way_back_converts_again():
    network = convert(mlp(6, 5, 3), CONTINUOUS)
    again = convert(to_software(network), CONTINUOUS)
    inputs = signs(4, 6)
    with torch.no_grad():
        torch.testing.assert_close(again(inputs), network(inputs), rtol=0, atol=1e-9)


def test_slope_of_a_rising_sigmoid_is_in_the_weights():
    layer = IMACLinear(4, 3, activation=Activation("sigmoid", 2.0), config=LOGISTIC)
    network = convert(nn.Sequential(layer), CONTINUOUS)
    inputs = signs(5, 4).double()
    found = to_software(network)(inputs)
    expected = torch.sigmoid(2.0 * nn.functional.linear(inputs, layer.weight, layer.bias))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def trained(**changes):
    """A model of IMACLinear layers with a configuration of their own."""
    config = LOGISTIC.replace(
        mapping=WeightMapping(levels="binary"), device=Memristor.preset("MRAM"), **changes
    )
    layers = [
        IMACLinear(6, 5, activation=Activation("sigmoid", -1.0), config=config, name="a"),
        IMACLinear(5, 2, config=config.replace(mapping=WeightMapping(levels=5)), name="b"),
    ]
    return seeded(lambda: nn.Sequential(*layers))


def test_trained_layers_keep_their_configuration():
    network = convert(trained())
    first, second = network.analog_layers()
    assert (first.config.mapping.levels, second.config.mapping.levels) == ("binary", 5)
    assert network.config.device == Memristor.preset("MRAM")
    assert Config.from_dict(network.config.to_dict()) == network.config
    explicit = convert(trained(), LOGISTIC)
    assert {layer.config.mapping.levels for layer in explicit.analog_layers()} == {"ternary"}


def test_trained_layers_that_disagree():
    model = nn.Sequential(*trained(), *trained(supplies=Supplies(vdd=1.0)))
    model[2] = IMACLinear(2, 5, config=model[2].config)
    with pytest.raises(ConversionError, match="2 and 0 were built with different supplies"):
        convert(model)


def test_trained_layers_keep_spread_and_calibration():
    model = trained()
    with torch.no_grad():
        cells = torch.full_like(model[0].matrix.trim, 1.1)
        model[0].matrix.devices = (DeviceSample.known(Factors(cells, cells)),)
        model[1].matrix.trim.fill_(0.01)
        model[1].matrix.input_mean.fill_(0.2)
    first, second = convert(model).analog_layers()
    assert first.matrix.devices == model[0].matrix.devices
    assert torch.equal(second.matrix.trim, model[1].matrix.trim)
    assert torch.equal(second.matrix.input_mean, model[1].matrix.input_mean)
    # for another circuit the devices are still the same, the calibration is not
    first, second = convert(model, LOGISTIC).analog_layers()
    assert first.matrix.devices == model[0].matrix.devices
    assert float(second.matrix.trim.detach().abs().max()) == 0.0


def test_losses_are_said() -> None:
    """What a network that was not trained as a circuit loses is a warning, not a surprise."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(6, 4)
    nn.init.normal_(linear.weight, generator=generator)
    with pytest.warns(ConversionWarning, match="rounding to ternary levels"):
        convert(nn.Sequential(linear, nn.Tanh()))
    fine = Config(mapping=WeightMapping(levels="continuous"))
    with pytest.warns(ConversionWarning, match="clipped at vdd"):
        network = convert(nn.Sequential(linear, nn.ReLU()), fine)
    assert "clipped at vdd" in network.summary()
    with torch.no_grad():
        linear.weight.sign_()
        linear.bias.sign_()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConversionWarning)
        convert(nn.Sequential(linear, nn.Tanh()))


def test_a_gain_that_is_not_enough_is_said_once(recwarn: pytest.WarningsRecorder) -> None:
    """Lines of one column follow their input: no amplifier gives back what is not there."""
    config = Config(crossbar=Crossbar(rows=1, columns=1))
    model = nn.Sequential(*mlp(8, 3), nn.Sigmoid())
    model[0].weight.data.mul_(20.0)
    network = convert(model, config)
    network(torch.ones(2, 8))
    network.summary()
    layer = IMACLinear(8, 3, config=config)  # nobody converts this one
    with torch.no_grad():
        for mine, trained in zip(layer.parameters(), network.parameters(), strict=True):
            mine.copy_(trained)
    for _ in range(2):
        layer(torch.ones(2, 8))
    said = [str(item.message) for item in recwarn if "no gain makes" in str(item.message)]
    assert [text.count("no gain makes") for text in said] == [1, 1]
    assert "crossbar.columns" in said[0]


def test_a_networks_kind_of_neuron_is_for_what_it_computes() -> None:
    model = nn.Sequential(
        nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 2)
    )
    network = convert(model, LOGISTIC)
    kinds = [layer.neuron_spec().kind for layer in network.analog_layers()]
    assert kinds == ["relu", "logistic", "identity"]
    with pytest.raises(ConversionError, match="0: neuron kind 'logistic' does not compute relu"):
        convert(model, LOGISTIC.replace(layers={"0": LayerConfig(neuron={"kind": "logistic"})}))
