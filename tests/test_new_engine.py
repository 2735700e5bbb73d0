"""An engine and a dialect that the package does not have, in one file each."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from dense_network import finfet
from torch import nn
from typer.testing import CliRunner, Result

import imac_torch as imac
from imac_torch.circuit.engine import EngineOptions, register_engine
from imac_torch.cli import app, commands
from imac_torch.config.kinds import DIALECTS, ENGINES
from imac_torch.errors import ConfigError, DataError, NetlistError, SolverError
from imac_torch.netlist import NetlistSettings, NetlistWriter, register_dialect
from imac_torch.simulator import Simulator
from imac_torch.simulator.engine import bind

PLUGINS = Path(__file__).parent / "plugins"
LINES = 60
"""What the file of an engine or a dialect may take."""
CONFIG = imac.Config(
    crossbar=imac.Crossbar(horizontal=2, vertical=1), neuron=imac.Neuron(kind="logistic")
)
MODEL = '''
import torch
from torch import nn

def build():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3), nn.Sigmoid()).double()

def data():
    torch.manual_seed(4)
    return [(2 * torch.rand(5, dtype=torch.float64) - 1, k % 3) for k in range(4)]
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with the plug-ins and a model of the user's; nothing of them stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "small_model.py").write_text(MODEL)
    names = ["small_model"]
    for path in PLUGINS.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"))
        names.append(path.stem)
    CONFIG.save(tmp_path / "circuit.toml")
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)
    ENGINES.remove("dense")
    DIALECTS.remove("spectre")


@pytest.fixture
def dense(place: Path) -> ModuleType:
    return importlib.import_module("dense_engine")


@pytest.fixture
def spectre(place: Path) -> ModuleType:
    return importlib.import_module("spectre_dialect")


def network(**options: object) -> tuple[imac.IMACNetwork, list[tuple[torch.Tensor, int]]]:
    found = importlib.import_module("small_model")
    return imac.convert(found.build(), CONFIG, **options), found.data()


@pytest.mark.parametrize("name", ["dense_engine", "spectre_dialect"])
def test_the_file_is_short(name: str) -> None:
    assert len((PLUGINS / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= LINES


def test_an_engine_solves_the_circuit_that_the_native_one_solves(dense: ModuleType) -> None:
    circuit, pairs = network(engine=dense.Dense())
    inputs = torch.stack([x for x, _ in pairs])
    native = imac.Native().bind(circuit.segment).solve(circuit.voltages(inputs)).outputs
    assert torch.equal(bind(circuit, imac.Native()).solve(circuit.voltages(inputs)).outputs, native)
    found = circuit.solve(inputs)
    assert bool(found.converged.all())
    # Both end with a Newton step below 1e-9 V, the next one would be its square. LU loses 2^-53
    # times the condition of the laws: cells of 5e-6 S on wires of 0.1 S, some hundred nodes.
    torch.testing.assert_close(found.outputs, native, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(circuit(inputs), circuit.scores(native), rtol=0.0, atol=2e-9)
    report = imac.evaluate(network()[0], [pairs_of(pairs)], engine=dense.Dense(), progress=False)
    assert report.engine == {"name": "dense"}
    torch.testing.assert_close(report.solution.outputs, native.detach(), rtol=0.0, atol=1e-9)


def invoke(arguments: list[str]) -> Result:
    commands.register(app)
    return CliRunner().invoke(app, arguments)


def pairs_of(pairs: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([x for x, _ in pairs]), torch.tensor([label for _, label in pairs])


def test_what_only_the_native_engine_does_says_so(dense: ModuleType) -> None:
    circuit, pairs = network(engine=dense.Dense())
    inputs, labels = pairs_of(pairs)
    with pytest.raises(SolverError, match=r"Dense solves.*network\.engine = imac_torch\.Native"):
        circuit.transient(inputs)
    with pytest.raises(SolverError, match="timing is measured by the native engine"):
        imac.evaluate(circuit, [(inputs, labels)], timing=True, progress=False)
    for options in (EngineOptions(analysis="transient"), EngineOptions(directory=Path("runs"))):
        with pytest.raises(DataError, match="belong to simulators"):
            dense.Dense.of(options)
    with pytest.raises(DataError, match="--licences"):
        dense.Dense.of(EngineOptions(licences=2))


def test_an_engine_by_name_on_the_command_line_and_in_sweeps(place: Path) -> None:
    common = ["simulate", "small_model:build", "-d", "small_model:data", "-c", "circuit.toml"]
    outputs = {}
    for engine in ("native", "dense_engine:Dense", "dense"):  # known from the second one on
        result = invoke([*common, "--quiet", "--json", "--engine", engine])
        assert result.exit_code == 0, result.output
        outputs[engine] = json.loads(result.stdout)
    assert outputs["dense"]["engine"] == outputs["dense_engine:Dense"]["engine"]
    assert outputs["dense"]["engine"]["name"] == "dense"
    assert outputs["dense"]["accuracy"] == outputs["native"]["accuracy"]
    result = invoke([*common, "--engine", "none"])
    assert result.exit_code == 2 and "no engine 'none'" in " ".join(result.output.split())
    result = invoke([*common, "--engine", "small_model:build"])
    assert result.exit_code == 3 and "is not a subclass" in result.output
    (place / "sweep.toml").write_text(
        'model.source = "small_model:build"\ndata.source = "small_model:data"\n'
        'base.config = "circuit.toml"\nrun.engine = "dense_engine:Dense"\n'
        'objectives.accuracy = "max"\ngrid."amplifier.gain" = [10, 20]\n'
    )
    result = invoke(["sweep", "sweep.toml", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "2 of 2 points done" in result.output


def test_a_dialect_writes_a_network(spectre: ModuleType) -> None:
    circuit, pairs = network()
    loader = [pairs_of(pairs)]
    deck = imac.compile(circuit, loader, "run", dialect="spectre")
    batch = deck.run_files.batches[0].job.netlist
    assert batch.suffix == ".scs"
    lines = batch.read_text().splitlines()
    assert lines[0].startswith("* imac_torch, spectre: ")
    assert lines[1:4] == [
        "simulator lang=spectre", "accuracy options reltol=1e-06 vabstol=1e-09 iabstol=1e-09",
        "simulator lang=spice",
    ]  # fmt: skip
    assert "images tran stop=1.6e-08 maxstep=1e-10 method=gear2only" in lines
    assert sum(line.startswith("Vx") for line in lines) == 5
    # The circuit itself is the one that HSPICE gets, which tests read back.
    other = imac.compile(circuit, loader, "other", dialect="hspice")
    for path in (other.directory / "circuit").iterdir():
        assert (deck.directory / "circuit" / path.name).read_text() == path.read_text()
    with pytest.raises(NetlistError, match=r"no simulator here runs netlists of spectre.*run"):
        deck.run()
    with pytest.raises(NetlistError, match="are for spectre, not for ngspice"):
        deck.run(imac.NgSpice())
    with pytest.raises(NetlistError, match="transients only"):
        imac.compile(
            circuit, loader, "dc", dialect="spectre", settings=NetlistSettings(analysis="dc")
        )
    with pytest.raises(NetlistError, match="no transistors of their own"):
        spectre.SpectreWriter().own_inverter(finfet())


def test_a_dialect_by_name_on_the_command_line(place: Path) -> None:
    common = ["netlist", "small_model:build", "-d", "small_model:data", "-c", "circuit.toml"]
    for number, name in enumerate(("spectre_dialect:SpectreWriter", "spectre")):
        result = invoke([*common, "-o", f"run{number}", "--dialect", name])
        assert result.exit_code == 0, result.output
    first, second = (
        [path.read_text() for path in sorted((place / f"run{k}").rglob("*.s[cp]*"))]
        for k in range(2)
    )
    assert first == second and len(first) > 3
    result = invoke([*common, "-o", "run2", "--dialect", "none"])
    assert result.exit_code == 2 and "no dialect 'none'" in " ".join(result.output.split())


def test_what_cannot_be_registered(dense: ModuleType, spectre: ModuleType) -> None:
    with pytest.raises(ConfigError, match="cannot name a engine"):
        register_engine(type("Mine", (dense.Dense,), {"name": "native"}))
    with pytest.raises(ConfigError, match="no engine"):
        register_engine(nn.Linear)
    with pytest.raises(NetlistError, match="cannot name a dialect"):
        register_dialect(type("Mine", (spectre.SpectreWriter,), {"name": "hspice"}))
    with pytest.raises(NetlistError, match="no dialect"):
        register_dialect(nn.Linear)


def test_every_simulator_of_the_package_has_its_dialect() -> None:
    for name in ENGINES.built_in - {"native"}:
        driver = ENGINES.get(name)
        assert issubclass(driver, Simulator) and driver.name == name
        assert issubclass(DIALECTS.get(driver().dialect), NetlistWriter)


def test_nobody_tests_the_name_of_an_engine_or_a_dialect() -> None:
    """A comparison with a name is a place that a new engine or dialect would miss."""
    package = Path(imac.__file__).parent
    names = {*ENGINES.built_in, *DIALECTS.built_in}
    found = []
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if not any(f'"{name}"' in text or f"'{name}'" in text for name in names):
            continue  # most say none of the names, and need not be parsed
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Compare):
                parts = ast.walk(ast.Tuple([node.left, *node.comparators], ast.Load()))
                words = {part.value for part in parts if isinstance(part, ast.Constant)} & names
                found += [f"{path.relative_to(package)}: {ast.unparse(node)}"] if words else []
    assert found == ["simulator/hspice.py: 'hspice' in text.lower()"]
