"""Modules whose layers are no modules in torch: the same in software, of layers that convert."""

from __future__ import annotations

import copy

import pytest
import torch
from small_networks import CONTINUOUS, seeded
from torch import Tensor, nn
from torch.utils import _pytree

import imac_torch as imac
from imac_torch.conversion.layers import (
    expand,
    expandable,
    register_expansion,
    remove_layer,
)
from imac_torch.errors import CircuitError, ConversionError

pytestmark = pytest.mark.filterwarnings("ignore")  # what conversions lose

ATTENTION = {
    "plain": ({}, {}),
    "no bias, batch first": ({"bias": False, "batch_first": True}, {}),
    "other widths": ({"kdim": 3, "vdim": 5}, {"average_attn_weights": False}),
    "further keys": ({"add_bias_kv": True, "add_zero_attn": True}, {}),
    "no weights": ({"batch_first": True}, {"need_weights": False}),
}  # fmt: skip
IDEAL = imac.Amplifier(kind="transimpedance")
RECURRENT = {
    "RNN": (nn.RNN, {"num_layers": 2}),
    "ReLU": (nn.RNN, {"nonlinearity": "relu", "bias": False, "batch_first": True}),
    "LSTM": (nn.LSTM, {"bidirectional": True, "num_layers": 2}),
    "projected": (nn.LSTM, {"proj_size": 2, "batch_first": True, "bidirectional": True}),
    "GRU": (nn.GRU, {"bidirectional": True, "num_layers": 2, "batch_first": True}),
    "GRU without bias": (nn.GRU, {"bias": False}),
}


def expanded(module: nn.Module) -> nn.Module:
    model = nn.Sequential(copy.deepcopy(module))
    assert list(expand(model)) == ["0"]
    return model[0]


def rand(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def alike(one: object, other: object) -> None:
    """Float64 outputs of sums in another order: some roundings of numbers around 1."""
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", ATTENTION)
@torch.no_grad()
def test_attention_is_torchs(name):
    made, called = ATTENTION[name]
    original = seeded(lambda: nn.MultiheadAttention(4, 2, **made)).double().eval()
    for parameter in original.parameters():  # biases are 0 otherwise
        parameter.add_(0.1 * rand(*parameter.shape, seed=8))
    ours = expanded(original)
    assert sum(isinstance(part, nn.Linear) for part in ours.modules()) == 4
    first = (3, 5) if original.batch_first else (5, 3)
    keys = first if not made.get("kdim") else (6, 3)
    query = rand(*first, 4)
    key = rand(*keys, original.kdim, seed=2)
    value = rand(*keys, original.vdim, seed=3)
    length = keys[1] if original.batch_first else keys[0]
    padding = torch.zeros(3, length).bool()
    padding[0, -2:] = True
    pairs = torch.ones(5, length).triu(1).bool()
    added = rand(6, 5, length, seed=4)
    causal = {"attn_mask": pairs, "is_causal": True} if length == 5 else {}
    for masks in (
        {}, {"key_padding_mask": padding}, {"attn_mask": pairs}, {"attn_mask": added}, causal,
        {"attn_mask": pairs, "key_padding_mask": padding}, {**causal, "key_padding_mask": padding},
    ):  # fmt: skip
        arguments = {**called, **masks}
        alike(ours(query, key, value, **arguments), original(query, key, value, **arguments))
    batch = 0 if original.batch_first else 1
    single = [item.select(batch, 1) for item in (query, key, value)]
    masks = {"attn_mask": pairs, "key_padding_mask": padding[0]}
    alike(ours(*single, **called, **masks), original(*single, **called, **masks))


def test_attention_refuses_what_torch_refuses_and_drops_what_it_drops():
    original = seeded(lambda: nn.MultiheadAttention(4, 2, dropout=0.5)).double()
    ours, x = expanded(original), rand(5, 3, 4)
    with pytest.raises(RuntimeError, match="is_causal"):
        ours(x, x, x, is_causal=True)
    found = []
    for module in (original, ours):
        torch.manual_seed(3)
        found.append(module(x, x, x))
    alike(found[1], found[0])


@pytest.mark.parametrize("first", [False, True])
def test_an_encoder_layer_asks_its_parts(first):
    original = seeded(
        lambda: nn.TransformerEncoderLayer(
            4, 2, 6, norm_first=first, batch_first=True, activation=nn.functional.gelu
        )
    )
    stack = nn.TransformerEncoder(original.double(), 2, enable_nested_tensor=False).eval()
    ours = copy.deepcopy(stack)
    assert list(expand(ours)) == [
        "layers.0", "layers.0.self_attn", "layers.1", "layers.1.self_attn",
    ]  # fmt: skip
    assert [path for path, part in ours.layers[0].named_modules() if isinstance(part, nn.Linear)]
    x, padding = rand(3, 5, 4), torch.zeros(3, 5).bool()
    padding[0, -2:] = True
    mask = nn.Transformer.generate_square_subsequent_mask(5).double()
    with torch.no_grad():
        # Where keys are padded, torch's faster path leaves zeros instead of outputs.
        alike(ours(x, src_key_padding_mask=padding)[1:], stack(x, src_key_padding_mask=padding)[1:])
        alike(ours(x, mask=mask, is_causal=True), stack(x, mask=mask, is_causal=True))
        before = ours(x)
        ours.layers[1].linear2.bias += 1.0
        assert not torch.equal(ours(x), before)
    with pytest.raises(AttributeError):
        _ = ours.layers[0].self_attn.in_proj_weight


@pytest.mark.parametrize("name", RECURRENT)
@torch.no_grad()
def test_recurrent_layers_are_torchs(name):
    kind, options = RECURRENT[name]
    original = seeded(lambda: kind(3, 4, **options)).double()
    ours = expanded(original)
    x = rand(2, 5, 3) if original.batch_first else rand(5, 2, 3)
    alike(ours(x), original(x))
    directions = (2 if original.bidirectional else 1) * original.num_layers
    start = 0.5 * rand(directions, 2, original.proj_size or 4, seed=2)
    if kind is nn.LSTM:
        start = start, 0.5 * rand(directions, 2, 4, seed=3)
    alike(ours(x, start), original(x, start))
    batch = 0 if original.batch_first else 1
    alone = tuple(s[:, 0] for s in start) if kind is nn.LSTM else start[:, 0]
    alike(ours(x.select(batch, 0), alone), original(x.select(batch, 0), alone))
    packed = nn.utils.rnn.pack_padded_sequence(x, [5, 3], original.batch_first)
    with pytest.raises(CircuitError, match="packed sequences have no circuit"):
        ours(packed)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(nn.RNNCell, {}), (nn.RNNCell, {"nonlinearity": "relu", "bias": False}), (nn.LSTMCell, {}),
     (nn.GRUCell, {"bias": False}), (nn.GRUCell, {})],
)  # fmt: skip
@torch.no_grad()
def test_cells_are_torchs(kind, options):
    original = seeded(lambda: kind(3, 4, **options)).double()
    ours, x, start = expanded(original), rand(2, 3), rand(2, 4, seed=2)
    alike(ours(x), original(x))
    start = (start, rand(2, 4, seed=3)) if kind is nn.LSTMCell else start
    alike(ours(x, start), original(x, start))
    alone = tuple(s[0] for s in start) if kind is nn.LSTMCell else start[0]
    alike(ours(x[0], alone), original(x[0], alone))


def test_dropout_between_layers_in_training_only():
    original = seeded(lambda: nn.GRU(3, 4, num_layers=2, dropout=0.5)).double()
    ours, x = expanded(original), rand(5, 2, 3)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    alike(ours.eval()(x), original.eval()(x))


def test_gradients_reach_the_layers_and_frozen_ones_stay():
    original = seeded(lambda: nn.LSTM(3, 4)).double()
    ours, x = expanded(original), rand(5, 2, 3).requires_grad_()
    (expected,) = torch.autograd.grad(original(x)[0].square().sum(), x)
    ours(x)[0].square().sum().backward()
    alike(x.grad, expected)
    assert all(parameter.grad is not None for parameter in ours.parameters())
    frozen = expanded(original.requires_grad_(False))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_which_modules_are_expanded():
    shared = nn.GRU(3, 3)
    model = nn.ModuleDict({"one": shared, "two": shared})
    assert expand(model) == {"one": shared, "two": shared}
    assert model["one"] is model["two"]

    class Own(nn.LSTM):
        def forward(self, x, hx=None):
            return x

    assert not expandable(Own(2, 2))

    class Pair(nn.Module):
        """A product of two matrices that are parameters."""

        def __init__(self):
            super().__init__()
            self.one, self.two = (nn.Parameter(rand(2, 2, seed=k)) for k in (1, 2))

        def forward(self, x):
            return x @ self.one.T @ self.two.T

    def layers(module):
        found = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).double()
        found[0].weight, found[1].weight = module.one, module.two
        return found

    register_expansion(Pair, layers)
    try:
        model, x = nn.Sequential(Pair()), rand(3, 2)
        expected = model(x)
        assert list(expand(model)) == ["0"]
        alike(model(x), expected)
    finally:
        remove_layer(Pair)
    assert not expandable(Pair())
    with pytest.raises(ConversionError, match="has its expansion"):
        register_expansion(nn.LSTM, layers)


class Reader(nn.Module):
    """An embedding, a recurrent layer, an encoder layer, attention over the result."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(self.embed(x))
        x = self.encoder(x)
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])


@torch.no_grad()
def test_models_with_them_convert():
    model = seeded(Reader).double().eval()
    x = torch.tensor([[1, 5, 2], [0, 3, 6]])
    config = CONTINUOUS.replace(
        supplies=imac.Supplies(vdd=0.8, vss=-0.8), amplifier=IDEAL,
        interconnect=imac.Interconnect(resistance=False),
    )
    network = imac.convert(model, config, samples=[x])
    blocks = [f"encoder.layers.{k}" for k in range(2)]
    projections = ("query", "key", "value", "out")
    expected = ["lstm.cells.0.gates"]
    for block in blocks:
        expected += [f"{block}.self_attn.{name}" for name in projections]
        expected += [f"{block}.linear1", f"{block}.linear2"]
    expected += [f"attention.{name}" for name in projections]
    assert {layer.name for layer in network.analog_layers()} == {*expected, "head"}
    # No wires, lines at virtual ground, weights of any value: what software gives.
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=1e-2)
    rows = {item.path: item for item in network.records}
    assert rows["lstm"].module == "LSTM"
    assert "matrices are layers" in rows["lstm"].detail
    # By class, by path, and parts of them by their own.
    for choice, count in (
        ({"exclude": [nn.LSTM, "encoder.layers.0", "attention.out"]}, 10),
        ({"include": [nn.MultiheadAttention, "lstm", "encoder.layers.1.linear2"]}, 14),
    ):
        found = imac.convert(model, config, samples=[x], **choice)
        assert len(list(found.analog_layers())) == count


ALONE = {
    "convolution": (lambda: nn.Conv1d(2, 3, 2), [(2, 2, 5)], True),
    "lstm": (lambda: nn.LSTM(3, 2, batch_first=True), [(2, 4, 3)], False),
    "transformer": (lambda: nn.Transformer(4, 2, 1, 1, 6), [(3, 2, 4), (2, 2, 4)], True),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
@torch.no_grad()
def test_modules_of_torch_convert_on_their_own(name, tmp_path):
    """Files open without the original where torch alone builds what was traced."""
    make, shapes, alone = ALONE[name]
    model = seeded(make).double().eval()
    inputs = tuple(rand(*shape, seed=k) for k, shape in enumerate(shapes))
    config = imac.Config(
        interconnect=imac.Interconnect(resistance=False),
        neuron=imac.Neuron(output_resistance=1e-6),
    )
    network = imac.convert(model, config, samples=[inputs])
    alike(network.software(*inputs), model(*inputs))
    path = imac.save(network, tmp_path / "n.safetensors")
    loaded = imac.load(path) if alone else imac.load(path, model)
    found, wanted = _pytree.tree_leaves(network(*inputs)), _pytree.tree_leaves(model(*inputs))
    for one, other, again in zip(found, wanted, _pytree.tree_leaves(loaded(*inputs)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
        assert torch.equal(one, again)


@torch.no_grad()
def test_a_decoder_takes_its_masks():
    layer = seeded(lambda: nn.TransformerDecoderLayer(4, 2, 6, norm_first=True)).double()
    original = nn.TransformerDecoder(layer, 2).eval()
    ours = nn.ModuleList([copy.deepcopy(original)])
    assert list(expand(ours))[:1] == ["0"]
    mask = nn.Transformer.generate_square_subsequent_mask(3).double()
    padding = torch.tensor([[False, False, True], [False, False, False]])
    options = {"tgt_mask": mask, "memory_key_padding_mask": padding, "tgt_is_causal": True}
    x, memory = rand(3, 2, 4), rand(3, 2, 4, seed=2)
    alike(ours[0](x, memory, **options), original(x, memory, **options))
