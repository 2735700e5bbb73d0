"""Networks saved and loaded: the same outputs, or a clear error."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from imac_torch import Config, IMACNetwork, LayerConfig, Memristor, Neuron, convert
from imac_torch.conversion.storage import load, save
from imac_torch.errors import DataError


class Mine(nn.Module):
    """A module that only its author can build."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 6, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(x.flatten(1)))


def model(front: list[nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        *front, nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3), nn.LogSoftmax(dim=1)
    ).double()


def network(front: list[nn.Module], generator: torch.Generator) -> IMACNetwork:
    config = Config(
        neuron=Neuron(kind="logistic"),
        device=Memristor(variation=0.1),
        layers={f"{len(front)}": LayerConfig(amplifier={"gain": 12.5})},
    )
    return convert(model(front), config, generator=generator).eval()


CONV = [
    nn.Conv2d(1, 2, 3, stride=2, padding=(1, 0), bias=False),
    nn.BatchNorm2d(2),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d((3, 1)),
    nn.Flatten(),
    nn.Hardtanh(),
]


@pytest.mark.parametrize("front", [[], CONV], ids=["circuit only", "convolutions before it"])
@torch.no_grad()
def test_a_network_comes_back_as_it_was(
    tmp_path: Path, generator: torch.Generator, front: list[nn.Module]
) -> None:
    original = network(front, generator)
    path = save(original, tmp_path / "n.safetensors")
    restored = load(path)
    shape = (4, 1, 4, 4) if front else (4, 6)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    assert torch.equal(restored(x), original(x))
    assert restored.config == original.config
    assert restored.records == original.records
    assert not restored.training
    again = save(restored, tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()


@torch.no_grad()
def test_modules_of_ones_own_are_asked_for(tmp_path: Path, generator: torch.Generator) -> None:
    original = network([Mine()], generator)
    path = save(original, tmp_path / "n.safetensors")
    with pytest.raises(DataError, match=r"Mine.*digital="):
        load(path)
    x = torch.rand(4, 16, generator=generator, dtype=torch.float64)
    for digital in (Mine, Mine(), lambda: model([Mine()])):
        assert torch.equal(load(path, digital)(x), original(x))
    with pytest.raises(DataError, match="Linear there"):
        load(path, nn.Linear(16, 6))


def test_nothing_is_overwritten_unless_asked(tmp_path: Path, generator: torch.Generator) -> None:
    net = network([], generator)
    path = save(net, tmp_path / "n.safetensors")
    with pytest.raises(DataError, match="exists"):
        save(net, path)
    save(net, path, overwrite=True)
    with pytest.raises(DataError, match=r"n\.safetensors"):
        save(net, tmp_path / "n.pt")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["n.safetensors"]


def test_other_files_are_told_apart(tmp_path: Path, generator: torch.Generator) -> None:
    path = save(network([], generator), tmp_path / "n.safetensors")
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "missing.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated"):
        load(cut)
    weights = tmp_path / "weights.safetensors"
    save_file({"x": torch.ones(1)}, weights)
    with pytest.raises(DataError, match="plain set of weights"):
        load(weights)
    newer = tmp_path / "newer.safetensors"
    save_file({"x": torch.ones(1)}, newer, metadata={"imac_torch network": '{"format": 9}'})
    with pytest.raises(DataError, match="update imac_torch"):
        load(newer)
    damaged = tmp_path / "damaged.safetensors"
    entry = '{"format": 1, "layers": {}}'
    save_file({"x": torch.ones(1)}, damaged, metadata={"imac_torch network": entry})
    with pytest.raises(DataError, match="'layers' is missing or damaged"):
        load(damaged)
