"""Saved networks of traced models open without the class that they were made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_graphs import EXACT, inputs_of, made
from torch import Tensor, nn
from torch.nn import functional

import imac_torch as imac
from imac_torch.conversion.modules import build_module, describe_module
from imac_torch.errors import CircuitError, DataError

pytestmark = pytest.mark.filterwarnings("ignore::imac_torch.errors.ImacWarning")
ENTRY = "imac_torch network"


class Decoder(nn.Module):
    """Embeddings, a parameter and a mask of its own, attention by hand, nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.query = nn.Embedding(11, 8), nn.Linear(8, 8)
        self.key, self.out = nn.Linear(8, 8), nn.Linear(8, 11)
        self.position = nn.Parameter(torch.rand(5, 8))
        mask = torch.triu(torch.full((5, 5), -torch.inf), 1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, scale: float = 2.0, *, last: bool = False) -> dict[str, Any]:
        h = functional.layer_norm(self.embedding(x) + self.position[None, : x.shape[1]], (8,))
        scores = self.query(h) @ self.key(h).transpose(-1, -2) / 8**0.5 + self.mask
        y = torch.einsum("bij,bjk->bik", torch.softmax(scores, dim=-1), h)
        logits = self.out(torch.where(y > 0, y, torch.zeros_like(y)).clamp(max=1e3)) * scale
        return {"logits": logits[:, -1] if last else logits, "rest": (h, None)}


def saved(model: nn.Module, x: Tensor, path: Path, **options: Any) -> imac.IMACNetwork:
    config = EXACT.replace(device=imac.Memristor(variation=0.1))
    network = imac.convert(
        model, config, generator=torch.Generator().manual_seed(0), samples=x, **options
    ).eval()
    imac.save(network, path)
    return network


@pytest.mark.parametrize(
    "name", ["convolutions", "attention", "residual", "transformer block", "shared"]
)
@torch.no_grad()
def test_it_comes_back_to_the_last_bit(name: str, tmp_path: Path) -> None:
    x, path = inputs_of(name), tmp_path / "n.safetensors"
    network = saved(made(name), x, path)
    found = imac.load(path)
    assert torch.equal(found(x), network(x))
    assert torch.equal(found.software(x), network.software(x))
    assert found.conversion == network.conversion and found.config == network.config
    again = imac.save(found, tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()


@torch.no_grad()
def test_functions_constants_and_optional_inputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, path = torch.randint(0, 11, (2, 5)), tmp_path / "n.safetensors"
    network = saved(Decoder().double(), x, path)
    found = imac.load(path)
    assert torch.equal(found(x)["logits"], network(x)["logits"])
    assert found(x, last=False)["rest"][1] is None
    with pytest.raises(CircuitError, match=r"converted for scale = 2\.0"):
        found(x, scale=3.0)


@torch.no_grad()
def test_what_stays_software_and_borders(tmp_path: Path) -> None:
    x, path = inputs_of("attention"), tmp_path / "n.safetensors"
    network = saved(made("attention"), x, path, exclude=["attention", nn.GRU])
    assert torch.equal(imac.load(path)(x), network(x))
    x = inputs_of("convolutions")
    bits = EXACT.replace(converter=imac.Converter(bits=6), driver=imac.Driver(bits=6))
    network = imac.convert(made("convolutions"), bits, samples=x).eval()
    found = imac.load(imac.save(network, tmp_path / "bits.safetensors"))
    assert torch.equal(found(x), network(x))


@pytest.mark.parametrize("name", ["untraceable part", "untraceable"])
def test_own_code_is_asked_for_by_name(name: str, tmp_path: Path) -> None:
    x, path = inputs_of(name), tmp_path / "n.safetensors"
    network = saved(made(name), x, path)
    with pytest.raises(DataError, match=r"Gate.*cannot be traced.*--original module:factory"):
        imac.load(path)
    with torch.no_grad():
        assert torch.equal(imac.load(path, made(name))(x), network(x))


def rewritten(path: Path, change: Any) -> Path:
    """The file with another blueprint."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[ENTRY])
    change(header["graph"]["blueprint"])
    other = path.with_name("other.safetensors")
    save_file(load_file(path), other, metadata={ENTRY: json.dumps(header)})
    return other


def test_a_file_cannot_name_code(tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    saved(made("residual"), inputs_of("residual"), path)

    def call(target: str, op: str = "call_function", *arguments: Any) -> Any:
        def change(found: dict[str, Any]) -> None:
            found["nodes"].insert(1, ["new", op, target, list(arguments), {}])
        return change

    def module(found: dict[str, Any]) -> None:
        next(iter(found["modules"].values()))["type"] = "torch.hub.load"

    def keyword(found: dict[str, Any]) -> None:
        found["nodes"][1][4] = {"x=__import__('os').system('true')": 1}

    first = {"node": "x"}
    for change in (
        call("torch.load", "call_function", "x"), call("os.system", "call_function", "true"),
        call("torch.Tensor.__reduce_ex__"), call("__reduce_ex__", "call_method", first, 2),
        call("builtins.getattr", "call_function", first, "__class__"),
        call("x: exec('1')", "placeholder"), call("a\").__class__(\"", "get_attr"),
        call("torch.relu", "call_nothing", first), module, keyword,
    ):  # fmt: skip
        with pytest.raises(DataError, match="what it says of its model is damaged"):
            imac.load(rewritten(path, change))


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(2, 4, 3, padding="same", padding_mode="reflect", groups=2, bias=False),
        nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2), nn.RNN(3, 4, nonlinearity="relu"),
        nn.MultiheadAttention(8, 2, bias=False, add_bias_kv=True, kdim=3).double(),
        nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=True),
        nn.BatchNorm1d(3, affine=False), nn.GroupNorm(2, 4), nn.Embedding(5, 6, padding_idx=1),
    ],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_modules_of_torch_are_built_again(module: nn.Module) -> None:
    found = build_module(json.loads(json.dumps(describe_module(module))))
    assert repr(found) == repr(module)
    found.load_state_dict(module.state_dict())
    found.noted = 3  # what users write on a module says nothing of what it computes
    assert "arguments" in describe_module(found)


def test_what_torch_cannot_build_is_said() -> None:
    class Mine(nn.Linear):
        pass

    odd = nn.TransformerEncoderLayer(8, 2, 16, activation=nn.ReLU())
    for module in (Mine(2, 3), odd, nn.Hardtanh(0.0, float("inf"))):
        assert set(describe_module(module)) == {"type"}
