"""A type of layer that the package does not have, in one file that changes nothing else."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_networks import LOGISTIC, mlp, seeded, signs
from torch import nn

import imac_torch as imac
from imac_torch.conversion import Source, register_layer
from imac_torch.conversion.layers import remove_layer
from imac_torch.errors import ConversionError

pytestmark = pytest.mark.filterwarnings("ignore")  # what conversions lose

PERMUTED = Path(__file__).parent / "plugins" / "permuted_layer.py"
ORDER = torch.tensor([3, 0, 4, 1, 2])
CONFIG = LOGISTIC.replace(mapping=imac.WeightMapping(levels=9, scheme="matched"))


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[ModuleType]:
    """The file, imported; its class is forgotten again."""
    path = shutil.copy(PERMUTED, tmp_path)
    spec = importlib.util.spec_from_file_location("permuted_layer", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["permuted_layer"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["permuted_layer"]
    remove_layer(module.Permuted)


def models(plugin: ModuleType) -> tuple[nn.Sequential, nn.Sequential]:
    """One that permutes inputs of a hidden layer, and what it computes with plain layers."""
    plain = mlp(4, 5, 3, 2).double()
    norm = seeded(lambda: nn.BatchNorm1d(3).double())
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([0.1, -0.2, 0.0]))
    hidden = nn.Linear(5, 3).double()
    with torch.no_grad():
        hidden.weight.copy_(plain[2].weight[:, ORDER])
        hidden.bias.copy_(plain[2].bias)
    ours = nn.Sequential(*plain[:2], plugin.Permuted(hidden, ORDER), norm, *plain[3:])
    return ours.eval(), nn.Sequential(*plain[:3], norm, *plain[3:]).eval()


def test_the_file_is_short() -> None:
    assert len(PERMUTED.read_text(encoding="utf-8").splitlines()) <= 60


@torch.no_grad()
def test_a_new_type_is_a_file(plugin, tmp_path):
    ours, plain = models(plugin)
    x = 0.9 * signs(4, 4).double()
    torch.testing.assert_close(ours(x), plain(x))
    network, expected = imac.convert(ours, CONFIG), imac.convert(plain, CONFIG)
    # Weights differ by the rounding of their products with the norm's scale at most: none.
    assert torch.equal(network(x), expected(x))
    assert torch.equal(network.solve(x).power.total, expected.solve(x).power.total)
    assert "Permuted" in network.summary()
    # Trainable as the module is, whatever the mode was when it was converted.
    assert all(parameter.requires_grad for parameter in network.parameters())
    # The way back, and files, need nothing of it.
    torch.testing.assert_close(imac.to_software(network)(x), imac.to_software(expected)(x))
    remove_layer(plugin.Permuted)
    path = imac.save(network, tmp_path / "network.safetensors")
    assert torch.equal(imac.load(path)(x), network(x))


def test_what_is_not_registered_or_does_something_else_is_refused(plugin):
    ours, _ = models(plugin)
    kept = imac.convert(ours, CONFIG, exclude=["2"])
    assert [layer.name for layer in kept.analog_layers()] == ["5"]
    handle = ours[2].linear.register_forward_hook(lambda module, given, found: 2 * found)
    # It computes something else now, so that it stays in software.
    assert [layer.name for layer in imac.convert(ours, CONFIG).analog_layers()] == ["0", "5"]
    handle.remove()
    for handler, message in (
        (lambda module: Source(module.weights, None), "handler of Permuted failed"),
        (lambda module: Source(module.linear.bias, None), r"weight is \(3,\)"),
        (lambda module: Source(module.linear.weight, module.order), r"bias is \(5,\) for 3"),
    ):
        register_layer(plugin.Permuted, handler)
        with pytest.raises(ConversionError, match=rf"2 \(Permuted\).*{message}"):
            imac.convert(ours, CONFIG)
    with pytest.raises(ConversionError, match="Linear has its handler"):
        register_layer(nn.Linear, plugin.permuted)
    remove_layer(plugin.Permuted)
    # Nobody knows the class: it is traced, and the linear layer in it is one.
    names = [layer.name for layer in imac.convert(ours, CONFIG).analog_layers()]
    assert names == ["0", "2.linear", "5"]
