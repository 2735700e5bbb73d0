"""The command line with models that are no Sequential, from a file, and results read back."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from test_cli import call
from torch import nn

import imac_torch as imac
from imac_torch.conversion.layers import expand
from imac_torch.errors import DataError, NetlistError
from imac_torch.study.sources import Loader, import_object, open_model, read_state

MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width, classes=3):
        super().__init__()
        self.conv, self.deep = nn.Conv2d(1, width, 3), nn.Conv2d(width, width, 1)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.head(torch.tanh(x + self.deep(x)).flatten(1))

class Own(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > -1e9 else -x

def own():
    return nn.Sequential(nn.Linear(4, 3), nn.GELU(), Own(), nn.Linear(3, 2))

def data():
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(1, 4, 4, generator=generator), k % 3) for k in range(6)]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's file, by its path, with weights ``w.pt`` beside it; the directory is another one."""
    name = "net_" + re.sub(r"\W", "_", tmp_path.name)
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / f"{name}.py"
    path.write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save({"state_dict": import_object(f"{path}:Net(2)").state_dict(), "epoch": 3}, "w.pt")
    return f"models/{name}.py"


def run(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_any_model_from_a_file_to_netlists(file: str, ngspice: Path) -> None:
    model, data = [f"{file}:Net(2, classes=3)", "--weights", "w.pt"], ["--data", f"{file}:data"]
    found = json.loads(run("summary", *model, "--exclude", "Linear", "--json"))
    assert found["circuits"] == {"conv": ["conv"], "deep": ["deep"]}
    found = json.loads(run("summary", *model, "--include", "deep", "--include", "torch.nn.Linear",
                           "--json"))
    assert list(found["circuits"]) == ["deep", "head"]
    fit = ["--calibrate", 3, "--calibration-data", f"{file}:data", "--quiet"]
    run("convert", *model, "-o", "n.safetensors", *fit)
    saved = json.loads(run("simulate", "n.safetensors", *data, "--json", "--quiet", "-o", "a"))
    direct = json.loads(run("simulate", *model, *data, *fit, "--json", "-o", "b", "--ablation"))
    assert [Path(name, "ablation.json").exists() for name in "ab"] == [False, True]
    assert saved["accuracy"] == direct["accuracy"]
    assert saved["energy"] == pytest.approx(direct["energy"], rel=1e-6, abs=0)  # of float32 inputs
    changed = ["-s", "device.rlow=5e3"]
    run("simulate", *model, *data, *fit, *changed, "--json", "-o", "c")
    rows = {item["what"]: item for item in json.loads(run("compare", "a", "c", "--json"))}
    assert rows["config.device.rlow"]["second"] == 5e3
    assert rows["figures.mean_energy"]["change"] != 0
    assert "no difference" in run("compare", "b", "b")
    run("compare", "a", "c", "-o", "beside.html")
    beside = Path("beside.html").read_text()
    assert "<h1>a beside c</h1>" in beside and "<td>config.device.rlow</td>" in beside
    steps = json.loads(run("ablate", "n.safetensors", *data, "--json", "--quiet"))["steps"]
    assert [steps[0]["name"], steps[-1]["name"]] == ["software", "calibration"]
    assert steps[-1]["accuracy"] == saved["accuracy"] and steps[0]["output_error"] == 0.0
    assert "partitioning" in run("ablate", "n.safetensors", *data, "--testnum", 2, "--quiet")
    deck = ["netlist", "n.safetensors", *data, "--dialect", "ngspice", "--analysis", "dc"]
    assert "2 input vectors of deep" in run(*deck, "--segment", "deep", "--vectors", 2, "-o", "d")
    missing = call("read", "d")
    assert missing.exit_code == 5 and "batch.cir" in missing.output
    (command,) = re.findall(r"^    (for d in .*)$", Path("d/README.md").read_text(), re.MULTILINE)
    subprocess.run(["bash", "-c", command], cwd="d", check=True, capture_output=True)
    figures = json.loads(run("read", "d", "--json"))
    assert figures["solved"] == 2 and "accuracy" not in figures
    assert figures["largest_difference_from_native"] < 1e-9  # Newton's tolerance


def test_sweeps_of_classes_take_some_layers_only(file: str) -> None:
    """Circuits of one layer take less than those of three, whatever their number is called."""
    energies = []
    for choice in ("", 'include = ["deep", "Linear"]', 'exclude = ["Conv2d"]'):
        Path("s.toml").write_text(
            f'[model]\nsource = "{file}:Net(2, classes=3)"\nweights = "w.pt"\n{choice}\n'
            f'[data]\nsource = "{file}:data"\n[grid]\n"converter.kind" = ["ideal", "sar"]\n'
            f'[calibration]\nsamples = 3\nsource = "{file}:data"\n'
        )
        run("sweep", "s.toml", "--quiet", "--output", f"s{len(energies)}")
        rows = Path(f"s{len(energies)}/sweep.csv").read_text().splitlines()
        energy = rows[0].split(",").index("energy")
        energies.append([float(row.split(",")[energy]) for row in rows[1:]])
    ideal, converted = zip(*energies, strict=True)
    assert ideal[0] > ideal[1] > ideal[2] and converted[0] > converted[1] > converted[2]


def test_only_linear_layers_get_images_as_vectors() -> None:
    model = nn.Sequential(nn.LSTM(4, 3))
    expand(model)  # as a saved network has it
    assert not Loader.of([], model, 1).flat
    assert Loader.of([], nn.Sequential(nn.Linear(4, 3)), 1).flat
    images = [(torch.rand(1, 4, 4), 0)]
    for flat, first in (
        (True, nn.LayerNorm(16)), (True, nn.Linear(16, 2)), (False, nn.Linear(4, 2)),
        (False, nn.Conv2d(1, 2, 3)), (False, nn.Conv2d(3, 2, 3)),
    ):  # fmt: skip
        assert Loader.of(images, first, 1).flat == flat


def test_own_code_is_asked_for_by_its_option(file: str) -> None:
    torch.save(import_object(f"{file}:own()").state_dict(), "own.pth")
    run("convert", f"{file}:own", "--weights", "own.pth", "-o", "n.safetensors")
    refused = call("summary", "n.safetensors")
    assert refused.exit_code == 3
    assert re.search(r"2 \(.*Own.*--original module:factory", " ".join(refused.output.split()))
    assert '"3"' in run("summary", "n.safetensors", "--original", f"{file}:own", "--json")


def test_files_and_arguments_are_literal(file: str, tmp_path: Path) -> None:
    assert import_object("torch:float32") is torch.float32
    assert import_object("torch.nn:Linear(2, 3, bias=False)").bias is None
    for text, words in (
        (f"{file}:Net(__import__('os'))", "arguments are numbers"),
        (f"{file}:Net(2", "arguments are numbers"),
        (f"{file}:Net(two=2)", "TypeError"),
        ("models/none.py:Net", "no such file"),
        ("torch:nonsense", "has no 'nonsense'"),
    ):
        with pytest.raises(DataError, match=words):
            import_object(text)
    (tmp_path / "json.py").write_text("x = 1")
    with pytest.raises(DataError, match="another module is called 'json'"):
        import_object(f"{tmp_path}/json.py:x")


def test_checkpoints_hold_tensors_only(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    torch.save(model, tmp_path / "whole.pt")
    (tmp_path / "damaged.pt").write_bytes(b"nothing")
    torch.save({"epoch": 3}, tmp_path / "empty.ckpt")
    for name, words in (
        ("whole.pt", "more than tensors"), ("damaged.pt", "damaged.pt"),
        ("empty.ckpt", "no state dict"),
        ("w.h5", "weights are a .safetensors file"), ("none.pt", "no such file"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=re.escape(words)):
            read_state(tmp_path / name)
    torch.save({f"model.{k}": v for k, v in model.state_dict().items()}, tmp_path / "l.ckpt")
    found = open_model("torch.nn:Linear(2, 3)", weights=tmp_path / "l.ckpt").software
    assert torch.equal(found.weight, model.weight)


def test_torchvision_by_name() -> None:
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    source = open_model("torchvision:resnet18(num_classes=10)")
    assert source.software.fc.out_features == 10


def test_decks_of_others_are_told_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = imac.convert(
        nn.Sequential(nn.Linear(3, 2)), imac.Config(neuron=imac.Neuron(kind="logistic"))
    )
    deck = imac.compile(network, [(torch.rand(4, 3), torch.arange(4) % 2)], tmp_path / "d",
                        dialect="hspice")  # fmt: skip
    again = imac.Deck.read(tmp_path / "d")
    assert torch.equal(again.inputs, deck.inputs) and torch.equal(again.labels, deck.labels)
    assert again.run_files.batches[0].job == deck.run_files.batches[0].job
    found = again.results()
    assert "hspice -i batch.sp -o batch" in str(found.errors[0])
    assert found.solution.outputs.isnan().all()
    with pytest.raises(NetlistError, match="no run directory"):
        imac.Deck.read(tmp_path)
    (tmp_path / "d" / "batch_00000" / "batch.sp").write_text("* edited")
    with pytest.raises(NetlistError, match="not what was written"):
        again.results()
    (tmp_path / "d" / "samples.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        imac.Deck.read(tmp_path / "d")


def test_doctor_finds_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {item["what"]: item for item in json.loads(run("doctor", "--json"))}
    assert found["package files"]["fine"] and found["torch"]["detail"] == torch.__version__
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "not found" in call("doctor").output
