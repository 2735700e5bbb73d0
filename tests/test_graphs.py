"""Models that are no chain: traced, cut into segments, put together again.

With the software layers in the places of segments they are the model, to rounding. The default
read-out ends lines at virtual ground, up to (1 + S·R_f)/1e9 of an amplifier's open-loop gain, which
is below 1e-8 for cells S of six inputs and R_f below 200 kΩ; without wires, and with neurons of
1 µΩ, which loading changes by less than 1e-9, a network is the model to 1e-7 of outputs of order 1.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from small_networks import seeded
from torch import Tensor, nn
from torch.nn import functional

import imac_torch as imac
from imac_torch.errors import CircuitError, ConversionError, ConversionWarning, DataError

pytestmark = pytest.mark.filterwarnings("ignore::imac_torch.errors.SettingWarning")
EXACT = imac.Config(
    interconnect=imac.Interconnect(resistance=False), neuron=imac.Neuron(output_resistance=1e-6)
)
CLOSE = 1e-7


class Residual(nn.Module):
    """Batch normalisation, a functional activation, a sum, an optional input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, scale: Tensor | None = None, *, twice: bool = False) -> Tensor:
        y = self.b(functional.dropout(torch.tanh(self.norm(self.a(x))), 0.5, self.training))
        if scale is not None:
            y = y * scale
        return self.head((x + y).relu() * (2.0 if twice else 1.0))


class Block(nn.Module):
    """A transformer's: any leading dimensions, and an activation without a circuit."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(), nn.Linear(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Shared(nn.Module):
    """One layer that is called twice, and one whose weights are used besides."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.tied = nn.Linear(6, 6), nn.Linear(6, 6)
        self.alias = self.twice

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.twice(x))
        x = torch.tanh(self.alias(x))
        return functional.linear(self.tied(x), self.tied.weight.T)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"sum": self.one(x) + self.two(y).tanh(), "x": x}


class Gate(nn.Module):
    """Its forward depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if float(x.sum()) > -1e9 else x


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.gate, self.after = nn.Linear(6, 6), Gate(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.relu(self.gate(torch.relu(self.before(x)))))


class Convolutions(nn.Module):
    """Separable ones, batch normalisation behind them, a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.deep, self.norm2 = nn.Conv2d(4, 4, 3, groups=4, padding=1), nn.BatchNorm2d(4)
        self.point, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.norm1(self.first(x)))
        x = x + self.point(torch.relu(self.norm2(self.deep(x))))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.rnn, self.head = nn.GRU(6, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head(self.rnn(x)[0][:, -1])


MODELS = {
    "convolutions": (Convolutions, ["first", "deep", "point", "head"]),
    "attention": (
        Attention, [*(f"attention.{name}" for name in ("query", "key", "value", "out")),
                    *(f"rnn.cells.0.{name}" for name in ("gates", "new_input", "new_hidden")),
                    "head"]),
    "residual": (Residual, ["a", "head"]),
    "transformer block": (Block, ["mlp.0", "mlp.3"]),
    "shared": (Shared, ["twice", "tied"]),
    "untraceable part": (Gated, ["before", "gate.layer", "after"]),
    "untraceable": (Gate, ["layer"]),
    "no chain of a Sequential": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4), nn.ReLU(),
                              nn.Linear(4, 3)), ["0", "2"]),
    "norm behind an activation": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 3)),
        ["0", "3"]),
}  # fmt: skip


def made(name: str) -> nn.Module:
    """One of the models, in float64, with statistics of batches that are not the default ones."""
    model = seeded(MODELS[name][0]).double()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean += 0.3
            part.running_var *= 2.0
    return model.eval()


def data(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def inputs_of(name: str) -> Tensor:
    shape = {"convolutions": (2, 1, 6, 6), "residual": (5, 6), "shared": (5, 6),
             "norm behind an activation": (5, 6)}  # fmt: skip
    return data(*shape.get(name, (5, 2, 6)))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_graphs_compute_what_the_software_does(name: str, tmp_path) -> None:
    model = made(name)
    before = copy.deepcopy(model.state_dict())
    x = inputs_of(name)
    network = imac.convert(model, EXACT, samples=x)
    assert list(network.segments) == MODELS[name][1]
    torch.testing.assert_close(network.software(x), model(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=CLOSE)
    torch.testing.assert_close(imac.to_software(network)(x), model(x), rtol=0, atol=CLOSE)
    # Without samples the first batch says how far values reach.
    late = imac.convert(model, EXACT)
    with pytest.raises(CircuitError, match="full scales are not known"):
        first = next(iter(late.segments.values()))
        first.solve(data(5, first.first.lines))
    with pytest.warns(ConversionWarning, match="taken from this batch"):
        torch.testing.assert_close(late(x), network(x), rtol=0, atol=CLOSE)
    for again in (copy.deepcopy(late), pickle.loads(pickle.dumps(late))):
        assert torch.equal(again(x), late(x))
    # The model has not changed, nothing is shared.
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    shared = {item.data_ptr() for item in model.parameters()}
    assert not shared & {item.data_ptr() for item in network.parameters()}


def test_the_table_says_what_stays_and_why() -> None:
    table = imac.convert(made("residual"), EXACT).records
    records = {item.path: item for item in table}
    assert records["a"].target == "analog" and "neuron tanh" in records["a"].detail
    assert (records["norm"].target, records["norm"].detail) == ("folded", "into a")
    assert {item.module: item.detail for item in table}["functions"] == "add, relu, mul"
    records = {item.path: item for item in imac.convert(made("untraceable part"), EXACT).records}
    assert "cannot be traced (TypeError" in records["gate"].detail
    assert "replaced in place" in records["gate"].detail
    records = {item.module: item for item in imac.convert(made("shared"), EXACT).records}
    assert "nn.Linear would be analog" in records["function linear"].detail
    model = made("transformer block")
    table = imac.convert(model, EXACT, exclude=["mlp.0"]).records
    assert {item.path: item.detail for item in table}["mlp.0"] == "excluded"
    for choice in ("mlp.3", [nn.Linear, "mlp"], lambda path: path != "mlp.0",
                   nn.Sequential, ["mlp.0", lambda path: path == "mlp.3"],
                   lambda path, module: module.in_features == 8):  # fmt: skip
        found = imac.convert(model, EXACT, include=choice)
        assert "mlp.3" in found.segments
    assert list(found.segments) == ["mlp.3"]
    with pytest.raises(ConversionError, match="include names Conv2d"):
        imac.convert(model, EXACT, include=nn.Conv2d)
    with pytest.raises(ConversionError, match=r"and functions, not Linear .* mlp\.3"):
        imac.convert(model, EXACT, exclude=[model.mlp[0]])
    with pytest.raises(ConversionError, match="nothing to convert"):
        imac.convert(model, EXACT, exclude=nn.Linear)
    twice = nn.Sequential(nn.Linear(6, 6), Block())
    assert list(imac.convert(twice, EXACT, exclude=Block).segments) == ["0"]
    assert list(imac.convert(twice, EXACT, include=Block).segments) == ["1.mlp.0", "1.mlp.3"]


@torch.no_grad()
def test_inputs_are_those_of_the_forward() -> None:
    model, x, y = seeded(TwoInputs).double(), data(4, 6), data(4, 6, seed=1)
    for samples in ([(x, y)], [{"x": x, "y": y}], None):
        network = imac.convert(model, EXACT, samples=samples)
        for found in (network.software(x, y=y), network.software(x, y)):
            torch.testing.assert_close(found["sum"], model(x, y)["sum"], rtol=0, atol=1e-12)
        expected = model(x, y)["sum"]
        torch.testing.assert_close(network(x, y=y)["sum"], expected, rtol=0, atol=CLOSE)
    (seen,) = network.inputs_of("two", x, y)
    assert torch.equal(seen, y)
    with pytest.raises(ConversionError, match=r"do not fit the model's forward\(x.*missing.*'y'"):
        imac.convert(model, EXACT, samples=x)
    model = made("residual")
    network = imac.convert(model, EXACT, samples=x)
    assert torch.equal(network(x), network(x, None, twice=False))
    with pytest.raises(CircuitError, match="converted for twice = False, its default"):
        network(x, twice=True)
    network = imac.convert(model, EXACT, samples=[{"x": x, "scale": y}])
    torch.testing.assert_close(network.software(x, y), model(x, y), rtol=0, atol=1e-12)


@torch.no_grad()
def test_padded_sequences_are_compared_as_every_part_computes_them() -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    encoder = seeded(lambda: nn.TransformerEncoder(layer, 1)).double().eval()
    padded = torch.tensor([[False, False, True], [False, False, False]])
    samples = {"src": data(2, 3, 6), "src_key_padding_mask": padded}
    expected = encoder(**samples)
    assert not expected[padded].any()  # torch's faster path
    found = imac.convert(encoder, EXACT, samples=[samples])(**samples)
    assert torch.backends.mha.get_fastpath_enabled()
    torch.testing.assert_close(found[~padded], expected[~padded], rtol=0.0, atol=CLOSE)


def test_a_trace_that_lies_is_found() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * (2.0 if isinstance(x, Tensor) else 1.0)

    with pytest.raises(ConversionError, match="computes something else"):
        imac.convert(Asks(), EXACT, samples=data(2, 6).float())


@torch.no_grad()
def test_what_the_user_says_is_taken_and_what_is_chosen_is_said() -> None:
    model, x = made("residual"), data(50, 6)
    records = imac.convert(model, imac.Config(), samples=x).records
    assert [item.module for item in records if item.target == "default"] == [
        "mapping: levels = 'continuous'", "amplifier: kind = 'transimpedance'",
        "neuron: output_resistance = 0.01",
    ]  # fmt: skip
    given = imac.Config(
        device=imac.Memristor(rlow=10e3, rhigh=1e6), amplifier=imac.Amplifier(combine="average"),
        mapping=imac.WeightMapping(levels="continuous", scheme="matched"),
        supplies=imac.Supplies(input_scale=7.0), neuron=imac.Neuron(output_resistance=1e3),
    )  # fmt: skip
    network = imac.convert(model, given, samples=x)
    assert network.config == given and "default" not in {item.target for item in network.records}
    first, second, _ = network.analog_layers()
    assert (first.scaling.input_scale, second.scaling.input_scale) == (7.0, 1.0)
    # Full scales and statistics are of the samples: floating lines of matched rows come close.
    expected = model(x)
    error = (network(x) - expected).square().mean().sqrt() / expected.std()
    assert error < 0.1


@torch.no_grad()
def test_inputs_beyond_full_scale_saturate_and_are_counted() -> None:
    model = made("transformer block")
    network = imac.convert(model, EXACT, samples=data(5, 2, 6))
    first = network.segments["mlp.0"]
    scale = first.first.scaling.input_scale
    x = torch.full((1, 6), 2.0 * scale, dtype=torch.float64)
    with pytest.warns(imac.errors.SettingWarning, match="6 of 6 inputs are beyond full scale"):
        found = first(x)
    assert torch.equal(found, first(x / 2.0))


def test_training_reaches_through_segments() -> None:
    model = made("residual").train()
    network = imac.convert(model, EXACT, samples=data(8, 6))
    assert all(part.training for part in network.modules())
    network(data(8, 6)).square().sum().backward()
    assert all(float(layer.weight.grad.abs().max()) > 0.0 for layer in network.analog_layers())


@torch.no_grad()
def test_folded_normalisation_is_of_vectors_only() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.GELU()).double().eval()
    network = imac.convert(model, EXACT, samples=data(4, 6))
    assert model(data(2, 5, 6)).shape == (2, 5, 5)
    with pytest.raises(CircuitError, match=r"0: the batch normalisation .*\(B, N\)"):
        network(data(2, 5, 6))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_what_is_saved_loads_with_the_model(name: str, tmp_path) -> None:
    model, x = made(name), inputs_of(name)
    config = EXACT.replace(device=imac.Memristor(variation=0.1))
    generator = torch.Generator().manual_seed(0)
    network = imac.convert(model, config, generator=generator, samples=x).eval()
    path = imac.save(network, tmp_path / "n.safetensors")
    with pytest.raises(DataError, match="does not fit"):
        imac.load(path, nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6)))
    other = seeded(MODELS[name][0], seed=9).double()  # its weights come from the file
    for given in (other, lambda: other):
        found = imac.load(path, given)
        assert torch.equal(found(x), network(x))
        assert found.conversion == network.conversion and found.config == network.config


@torch.no_grad()
def test_open_ranges_and_inputs_are_saved(tmp_path) -> None:
    model, x = made("residual"), data(5, 6)
    network = imac.convert(model, EXACT).eval()
    late = imac.load(imac.save(network, tmp_path / "a.safetensors"), model)
    with pytest.warns(ConversionWarning, match="taken from this batch"):
        first = late(x)
    network = imac.convert(model, EXACT, samples=[{"x": x, "scale": 0.5 * x}])
    late = imac.load(imac.save(network, tmp_path / "b.safetensors"), model)
    assert torch.equal(late(x, 0.5 * x), network(x, 0.5 * x))
    assert first.shape == (5, 3)


@pytest.mark.parametrize(
    ("activation", "kind", "limit"),
    [
        (nn.ReLU6(), "relu", 6.0), (nn.Hardtanh(), "hardtanh", 1.0),
        (nn.Hardtanh(-0.3, 0.3), "hardtanh", 0.3), (nn.Hardtanh(0.0, 0.5), "relu", 0.5),
        (lambda x: functional.hardtanh(x, -0.3, 0.3), "hardtanh", 0.3),
        (lambda x: x.clamp(min=0, max=0.5), "relu", 0.5), (functional.relu6, "relu", 6.0),
    ],
)  # fmt: skip
@torch.no_grad()
def test_functions_with_limits_end_at_the_supplies(activation, kind, limit) -> None:
    class Limited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)
            self.act = activation

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.act(self.a(x)))

    model, x = seeded(Limited).double(), data(5, 6)
    network = imac.convert(model, EXACT, samples=x)
    first, second = network.analog_layers()
    assert (first.neuron_spec().kind, first.scaling.output_scale) == (kind, limit)
    assert second.scaling.input_scale == limit
    torch.testing.assert_close(network.software(x), model(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=CLOSE)
    # the same in a Sequential, which is one circuit of version 0.1
    if isinstance(activation, nn.Module):
        chain = nn.Sequential(model.a, activation, model.b)
        found = imac.convert(chain, network.config.replace(supplies=imac.Supplies(input_scale=4.0)))
        assert next(found.analog_layers()).scaling.output_scale == limit
        back = imac.to_software(found)
        torch.testing.assert_close(back(x), found(x), rtol=0, atol=CLOSE)
