"""Valid files of every kind, made by the package itself or written down here."""

from __future__ import annotations

import json
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import imac_torch as imac
from imac_torch.base.resources import spice_file
from imac_torch.finfet.builtin import builtin_14nm_hp
from imac_torch.finfet.card import write_model_card
from imac_torch.periphery.neuron.neurontable import InterpolationError, NeuronTable
from imac_torch.sweep.store import Store
from imac_torch.sweep.tasks import Outcome

DATA = Path(__file__).parent.parent / "data"
LOGISTIC = imac.Config(
    neuron=imac.Neuron(kind="logistic"), mapping=imac.WeightMapping(levels="continuous")
)
MODULE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def build():
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3)).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1, generator=generator)
    return model

def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(24, 6, generator=generator, dtype=torch.float64) * 2 - 1
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())

def broken():
    raise RuntimeError("no model [/today]")

number = 3
"""
"""A user's module."""
SCRIPT = b"""\
import math
data_dir = 'data'
spice_dir='spice'
dataset_file='test_data.csv'
label_file='test_labels.csv'
weight_var=0.0
vdd=0.8
vss=-0.8
tsampling=4
tech_node=9e-9
nodes=[4,3,2]
xbar=[32,32]
gain=[30,30]
hpar=[math.ceil((x+1)/xbar[0]) for x in nodes]
hpar.pop()
vpar=[math.ceil(x/xbar[1]) for x in nodes]
vpar.pop(0)
metal=9e-9
T=22e-9
H=20e-9
L=16*5*9e-9*2/3
W=9e-9
D=9e-9
eps=20*8.9e-12
rho=1.9e-9
rlow=5e3
rhigh=15e3
testnum=3
testnum_per_batch=2
firstimage=0
#------------------------- END OF INPUTS
"""
"""The inputs at the top of IMAC-Sim's script, in words of our own."""
SWEEP = """\
[model]
source = "mine:build"
exclude = []
[data]
source = "mine:data"
testnum = 12
[set]
"neuron.kind" = "logistic"
"mapping.levels" = "continuous"
[grid]
"device.rlow" = [4e3, 5e3]
"device.variation" = [0.0, 0.1]
seed = [0, 1]
[objectives]
accuracy = "max"
power = "min"
[run]
engine = "native"
area_model = "layout"
[search]
trials = 4
[search.space]
"device.rlow" = { low = 2e3, high = 9e3, log = true }
"mapping.levels" = [3, 15]
"""
CSV = {
    "W1.csv": "1,0,-1\n0,1,1\n-1,-1,0\n1,1,1\n",
    "B1.csv": "0\n1\n-1\n",
    "W2.csv": "1,-1\n0,1\n-1,1\n",
    "B2.csv": "0\n1\n",
    "test_data.csv": "1,0,0,1\n0,1,1,0\n1,1,0,0\n0.5,-0.25,1e-3,0\n",
    "test_labels.csv": "1,0\n0,1\n1,0\n0,1\n",
}
"""A directory of IMAC-Sim: 4-3-2 and four samples."""


def quiet_convert(model: nn.Module, config: imac.Config = LOGISTIC) -> imac.IMACNetwork:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return imac.convert(model, config)


@cache
def network() -> imac.IMACNetwork:
    """6-5-3, saved and solved in no time."""
    return quiet_convert(_seeded(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3)))


def _seeded(*modules: nn.Module) -> nn.Sequential:
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(*modules)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1, generator=generator)
    return model.eval()


def pairs(count: int = 6, seed: int = 0) -> DataLoader[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = 2 * torch.rand(count, 6, generator=generator) - 1
    return DataLoader(TensorDataset(inputs, torch.arange(count) % 3), batch_size=3)


@cache
def place() -> Path:
    """A directory for what is made once in a process."""
    holder = tempfile.TemporaryDirectory(prefix="fuzz-samples-")
    _KEPT.append(holder)
    return Path(holder.name)


_KEPT: list[object] = []


@cache
def networks() -> tuple[bytes, ...]:
    """Network files: layers alone, and with a convolutional front and a tail."""
    front = _seeded(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8, 4), nn.Sigmoid(), nn.Linear(4, 2), nn.Softmax(dim=1),
    )  # fmt: skip
    return tuple(
        imac.save(made, place() / f"network{k}.safetensors").read_bytes()
        for k, made in enumerate((network(), quiet_convert(front)))
    )


@cache
def table() -> bytes:
    """A neuron's table, small and smooth."""
    z = torch.linspace(-1, 1, 9, dtype=torch.float64)
    u = torch.linspace(0, 1, 7, dtype=torch.float64)
    grid = torch.meshgrid(z, u, indexing="ij")
    currents = torch.stack(
        [1e-6 * (torch.sigmoid(-8 * grid[0]) - grid[1]), 1e-9 * grid[0], 1e-6 * grid[1]], dim=-1
    )
    made = NeuronTable(
        z, u, currents, 0.8, 300.15, 1e-9, 1e-7, InterpolationError(*[1e-9] * 6), "neuron",
        "0" * 64, "ngspice 39",
    )  # fmt: skip
    return made.save(place() / "table.safetensors").read_bytes()


@cache
def weights() -> bytes:
    """A state dictionary that fits ``mine:build``."""
    path = place() / "weights.safetensors"
    model = _seeded(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3)).double()
    save_file(model.state_dict(), path)
    return path.read_bytes()


@cache
def subcircuits() -> tuple[bytes, ...]:
    return tuple(
        spice_file(f"{name}.sp").read_bytes()
        for name in ("amplifier", "amplifier_pole", "neuron_logistic", "neuron_tanh")
    )


@cache
def cards() -> bytes:
    n, p = builtin_14nm_hp()
    text = f"* cards\n{write_model_card(n)}\n{write_model_card(p)}"
    return text.encode()


@cache
def report() -> dict[str, bytes]:
    """The files of a report's directory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = imac.evaluate(network(), pairs(), timing=False, progress=False)
        imac.write_report(
            place() / "report", result, network=network(), loader=pairs(),
            software=imac.to_software(network()).float(),
        )  # fmt: skip
    return {
        item.name: item.read_bytes() for item in sorted((place() / "report").iterdir())
        if item.suffix in (".json", ".safetensors")
    }  # fmt: skip


@cache
def timed_report() -> dict[str, bytes]:
    """Of a report with latencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = imac.evaluate(network(), pairs(3), timing=True, progress=False)
        result.save(place() / "timed")
    return {item.name: item.read_bytes() for item in sorted((place() / "timed").iterdir())}


@cache
def sweep_table() -> bytes:
    """A sweep's SQLite file, outside of its write-ahead log."""
    path = place() / "sweep.sqlite"
    with Store(path) as store:
        store.set_points([("a", {"device.rlow": 1e3}), ("b", {"device.rlow": 2e3})])
        store.record(Outcome("a", {"accuracy": 0.5, "energy": 1.0}, "", 0.1, "here"))
        store.record(Outcome("b", None, "no", 0.1, "here"))
        store.finish()
    return path.read_bytes()


def raw_file(values: dict[str, list[float]], *, binary: bool = True) -> bytes:
    """What ngspice writes (its manual, "Rawfile format"): vectors of equal lengths by name."""
    points = len(next(iter(values.values())))
    kinds = ["current" if name.startswith("i(") else "voltage" for name in values]
    lines = [
        "Title: * fuzz", "Date: today", "Plotname: Operating Point", "Flags: real",
        f"No. Variables: {len(values)}", f"No. Points: {points}", "Variables:",
        *(f"\t{k}\t{name}\t{kind}" for k, (name, kind) in enumerate(zip(values, kinds))),
    ]  # fmt: skip
    head = "\n".join(lines) + "\n"
    table = np.array(list(values.values()), dtype="<f8").T
    if binary:
        return f"{head}Binary:\n".encode() + table.tobytes()
    body = "".join(
        f"{k}\t" + "\n\t".join(repr(float(x)) for x in row) + "\n" for k, row in enumerate(table)
    )
    return f"{head}Values:\n{body}".encode()


RAW = {"time": [0.0, 1e-9, 2e-9], "v(out0)": [0.0, 0.5, 0.8], "i(vdd)": [-1e-6, -2e-6, -3e-6]}


@cache
def deck_files() -> dict[str, bytes]:
    """Every file of a run directory."""
    settings = imac.NetlistSettings(analysis="dc", images_per_netlist=3)
    deck = imac.compile(network(), pairs(), place() / "deck", settings=settings)
    return {
        str(item.relative_to(deck.directory)): item.read_bytes()
        for item in sorted(deck.directory.rglob("*"))
        if item.is_file() and item.suffix != ".lock"
    }


def write_all(place: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def config_dict() -> dict[str, object]:
    """A configuration with every section, also of one layer."""
    made = imac.Config.imac_sim().to_dict()
    return json.loads(json.dumps({**made, "layers": {"0": {"amplifier": {"gain": 3.0}}}}))
