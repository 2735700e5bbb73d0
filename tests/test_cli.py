"""The command line: what it does, what it says, and its exit codes."""

from __future__ import annotations

import csv
import json
import re
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner, Result

from imac_torch import Config, Interconnect, MonteCarlo, Neuron, convert, load, to_software
from imac_torch.cli import app, commands
from imac_torch.cli.exits import ExitCode, exit_code
from imac_torch.datasets.imac_sim_script import read_imac_sim_script
from imac_torch.errors import (
    ConfigError,
    DataError,
    SimulatorNotFoundError,
    SolverError,
)
from imac_torch.reports.report import environment

MODULE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def build():
    return nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3)).double()

def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(12, 6, generator=generator, dtype=torch.float64) * 2 - 1
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())

def broken():
    raise RuntimeError("no model today")
"""

LOGISTIC = ["-s", "neuron.kind=logistic"]


def call(*arguments: object) -> Result:
    commands.register(app)
    return CliRunner().invoke(app, [str(item) for item in arguments])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a user's module and weights, the current one."""
    name = "mine_" + re.sub(r"\W", "_", tmp_path.name)
    (tmp_path / f"{name}.py").write_text(MODULE)
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3)).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1, generator=generator)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def module(project: Path, name: str = "build") -> str:
    (path,) = project.glob("mine_*.py")
    return f"{path.stem}:{name}"


def source(project: Path) -> list[str]:
    return [module(project), "--weights", "w.safetensors", *LOGISTIC]


def data(project: Path) -> list[str]:
    return ["--data", module(project, "data"), "--quiet"]


def test_convert_simulate_and_report(project: Path) -> None:
    result = call("convert", *source(project), "-o", "net.safetensors")
    assert result.exit_code == 0, result.output
    assert "analog" in result.output
    direct = call("simulate", *source(project), *data(project), "--json")
    saved = call("simulate", "net.safetensors", *data(project), "--json", "-o", "run")
    assert saved.exit_code == 0, saved.output
    one, two = json.loads(direct.stdout), json.loads(saved.stdout)
    assert one["mean_power"] == two["mean_power"]
    assert one["samples"] == 12
    assert one["area"]["model"] == "imac-sim"
    first = (project / "run" / "report.html").read_text()
    assert call("report", "run", "--title", "Another title").exit_code == 0
    second = (project / "run" / "report.html").read_text()
    assert second != first
    assert "Another title" in second
    assert call("convert", *source(project), "-o", "net.safetensors").exit_code == 3
    assert call("convert", *source(project), "-o", "net.safetensors", "--force").exit_code == 0
    assert call("simulate", "net.safetensors", *data(project), "-o", "run").exit_code == 3


def test_the_reference_of_a_saved_network_can_be_named(project: Path) -> None:
    assert call("convert", *source(project), "-o", "net.safetensors").exit_code == 0
    run = ["simulate", "net.safetensors", *data(project)]
    alone = call(*run)
    assert "does not hold the model" in alone.stdout
    named = [*run, "--reference", module(project), "--reference-weights", "w.safetensors"]
    compared = call(*named, "--json", "-o", "run")
    assert compared.exit_code == 0, compared.output
    figures = json.loads(compared.stdout)
    assert figures["reference"] == module(project)
    direct = json.loads(call("simulate", *source(project), *data(project), "--json").stdout)
    assert figures["reference_accuracy"] == direct["reference_accuracy"]
    assert figures["agreement"] == direct["agreement"]
    assert module(project) in (project / "run" / "report.html").read_text()


def test_timing_on_the_command_line(project: Path) -> None:
    charge = ["-s", "neuron.output_capacitance=50fF", "-s", "neuron.output_resistance=1k"]
    run = ["simulate", *source(project), *charge, *data(project), "--testnum", 3, "--timing"]
    found = call(*run, "--json", "-o", "run", "-s", "timing.period=2e-9")
    assert found.exit_code == 0, found.output
    timing = json.loads(found.stdout)["timing"]
    assert 0.0 < timing["latency"]["median"] <= timing["latency"]["worst"] < 2e-9
    assert timing["fraction"] == pytest.approx(0.1)
    assert "sampling" not in found.stderr
    assert "Outputs over time" in (project / "run" / "report.html").read_text()
    short = call(*run, "--settling", 20, "-s", "timing.period=1.5e-10")
    assert short.exit_code == 0, short.output
    assert "warning: sampling every 0.15 ns" in " ".join(short.stderr.split())
    plain = call("simulate", *source(project), *data(project))
    assert "--timing" in " ".join(plain.stdout.split())


def test_calibration_on_the_command_line(project: Path) -> None:
    options = [*source(project), "--quiet", "-o"]
    fitted = ["--calibrate", 9, "--calibration-data", module(project, "data")]
    plain = call("convert", *options, "plain.safetensors")
    assert plain.exit_code == 0, plain.output
    result = call("convert", *options, "fitted.safetensors", *fitted)
    assert result.exit_code == 0, result.output
    # nothing was said of the mapping: it is what suits calibration
    mapping = load(project / "fitted.safetensors").config.mapping
    assert (mapping.levels, mapping.scheme) == (17, "matched")
    again = call(
        "convert", *options, "other.safetensors", *fitted, "-s", "mapping.levels=9",
        "-s", "mapping.scheme=matched",
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    assert load(project / "other.safetensors").config.mapping.levels == 9
    # the same as in Python, on the same samples
    first, other = load(project / "fitted.safetensors").analog_layers()
    model = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3)).double()
    model.load_state_dict(load_file(project / "w.safetensors"))
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(12, 6, generator=generator, dtype=torch.float64) * 2 - 1
    network = convert(model, Config(neuron=Neuron(kind="logistic")), samples=x[:9])
    for ours, theirs in zip(network.analog_layers(), (first, other), strict=True):
        torch.testing.assert_close(ours.matrix.trim, theirs.matrix.trim, rtol=0, atol=0)
        assert bool(ours.matrix.trim.any())
    run = call("simulate", *source(project), *data(project), *fitted, "--json")
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["samples"] == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--calibrate", 9], "has no training split: name a data set with --calibration-data"),
        (["--calibrate", 13, "--calibration-data", "DATA"], "13 samples to calibrate with"),
        (["--calibration-data", "digits"], "--calibrate N"),
        (["--calibration-rounds", 2], "add that"),
    ],
)
def test_samples_to_calibrate_with_are_said(
    project: Path, arguments: list[object], message: str
) -> None:
    named = [module(project, "data") if item == "DATA" else item for item in arguments]
    result = call("simulate", *source(project), *data(project), *named)
    assert result.exit_code == 3
    assert message in " ".join(result.output.split())


def test_samples_are_a_range(project: Path) -> None:
    whole = call("simulate", *source(project), *data(project), "-o", "a", "--json")
    part = call("simulate", *source(project), *data(project), "-o", "b", "--firstimage", 4,
                "--testnum", 5, "--testnum-per-batch", 2, "--json")  # fmt: skip
    assert whole.exit_code == part.exit_code == 0
    rows = [
        list(csv.DictReader((project / d / "samples.csv").read_text().splitlines())) for d in "ab"
    ]
    assert len(rows[1]) == 5
    for row, same in zip(rows[1], rows[0][4:9], strict=True):
        assert row["label"] == same["label"]
        # The solver's tolerance: another batch, another path of Newton's method.
        assert abs(float(row["output_0_V"]) - float(same["output_0_V"])) < 1e-9
    beyond = call("simulate", *source(project), *data(project), "--firstimage", 10, "-n", 5)
    assert beyond.exit_code == 3
    assert "0 to 11" in beyond.output


def test_seeds_make_devices(project: Path) -> None:
    spread = [*source(project), "-s", "device.variation=0.2", *data(project), "--json"]
    without = call("simulate", *spread)
    assert without.exit_code == 3
    assert "Generator" in without.output
    found = [json.loads(call("simulate", *spread, "--seed", s).stdout) for s in (1, 1, 2)]
    assert found[0]["mean_power"] == found[1]["mean_power"] != found[2]["mean_power"]
    assert found[0]["seed"] == 1


def test_configuration_files_and_changes(project: Path) -> None:
    written = call("config", "--device", "MRAM", "--tech-node", 14, "-o", "c.toml",
                   "-s", "amplifier.gain=12")  # fmt: skip
    assert written.exit_code == 0, written.output
    config = Config.load("c.toml")
    assert config.device.rlow == 8.5e3
    assert config.interconnect == Interconnect.preset(14e-9)
    assert config.amplifier.gain == 12.0
    (project / "printed.toml").write_text(call("config", "--imac-sim").stdout)
    assert Config.load("printed.toml") == Config.imac_sim()
    assert call("config", "-o", "c.toml").exit_code == 3
    fields = call("config", "--fields").stdout
    assert "interconnect.tech_node" in fields
    run = ["simulate", *source(project), *data(project), "--json"]
    low = json.loads(call(*run).stdout)["mean_power"]["total"]
    high = json.loads(call(*run, "-c", "c.toml").stdout)["mean_power"]["total"]
    assert high > low  # MRAM conducts better than the default's PCM


def test_area_characterize_and_netlist(project: Path) -> None:
    area = json.loads(call("area", *source(project), "--json", "-m", "layout").stdout)
    assert area["total"] > 0
    assert set(area["layers"]) == {"0", "2"}
    curve = call("characterize", *LOGISTIC, "--points", 11, "-o", "n.csv", "--json")
    assert curve.exit_code == 0, curve.output
    assert json.loads(curve.stdout)["slope"] == -11.0
    rows = list(csv.DictReader(Path("n.csv").read_text().splitlines()))
    assert len(rows) == 11
    assert float(rows[5]["output_V"]) == pytest.approx(0.4)  # half of vdd at 0 V
    netlist = call("netlist", *source(project), "--data", module(project, "data"), "-n", 5,
                   "--testnum-per-batch", 2, "-o", "deck")  # fmt: skip
    assert netlist.exit_code == 0, netlist.output
    assert "3 netlists for 5 samples" in netlist.output


def test_chips_of_a_network(project: Path) -> None:
    """The figures of MonteCarlo, a chip per line; runs continue each other."""
    made = call("convert", *source(project), "-s", "device.variation=0.3", "--seed", 1,
                "-o", "n.safetensors", "--quiet")  # fmt: skip
    assert made.exit_code == 0, made.output
    run = ("montecarlo", "n.safetensors", *data(project))
    whole = call(*run, "--chips", 4, "--draw-seed", 3, "--passing", 50, "-o", "c.csv", "--json")
    assert whole.exit_code == 0, whole.output
    figures = json.loads(whole.stdout)
    network = load(project / "n.safetensors")
    images, labels = (torch.stack(item) for item in zip(*_samples(project), strict=True))
    expected = MonteCarlo(network, seed=3).run(images, labels, samples=4)
    assert figures["accuracies"] == expected.accuracy.tolist()
    assert figures["yield"]["value"] == expected.yield_above(0.5).value
    rows = list(csv.DictReader((project / "c.csv").open()))
    assert [float(row["power_W"]) for row in rows] == expected.power.tolist()
    rest = call(*run, "--chips", 2, "--first-chip", 2, "--draw-seed", 3, "--json")
    assert json.loads(rest.stdout)["accuracies"] == figures["accuracies"][2:]
    nothing = call("montecarlo", *source(project), *data(project))
    assert nothing.exit_code == ExitCode.INPUT and "--set device.variation" in nothing.stderr
    kept = call(*run, "-o", "c.csv")
    assert kept.exit_code == ExitCode.INPUT and "c.csv exists" in kept.stderr
    seedless = call("montecarlo", *source(project), *data(project), "-s", "device.variation=0.3")
    assert seedless.exit_code == ExitCode.INPUT and "--seed" in seedless.stderr


def test_a_network_does_not_differ_from_itself(project: Path) -> None:
    """Its gains are NaN until they are chosen; pages are of runs alone."""
    assert call("convert", *source(project), "-o", "n.safetensors", "--quiet").exit_code == 0
    assert "no difference" in call("compare", "n.safetensors", "n.safetensors").stdout
    page = call("compare", "n.safetensors", "n.safetensors", "-o", "page.html")
    assert page.exit_code == ExitCode.INPUT and "holds no report" in page.stderr


def _samples(project: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What ``data`` of the module gives."""
    namespace: dict[str, Any] = {}
    exec(MODULE, namespace)
    return list(namespace["data"]())


def test_noise_and_waveforms_of_a_few_samples(project: Path) -> None:
    """What network.noise and network.transient say."""
    quiet = ("-s", "noise.bandwidth=1e9", "-s", "neuron.output_capacitance=1e-15")
    assert call(
        "convert", *source(project), *quiet, "-o", "n.safetensors", "--quiet"
    ).exit_code == 0  # fmt: skip
    network = load(project / "n.safetensors")
    images = torch.stack([item for item, _ in _samples(project)[:2]])
    told = call("noise", "n.safetensors", *data(project), "-n", 2, "--json")
    assert told.exit_code == 0, told.output
    layers = json.loads(told.stdout)["layers"]
    for name, layer in network.noise(images).figures().layers.items():
        assert layers[name]["output_rms"] == layer.output_rms
    narrow = call("noise", "n.safetensors", *data(project), "-n", 2, "--bandwidth", 1e6)
    assert "1 MHz" in narrow.stdout, narrow.output
    with_unit = call("noise", "n.safetensors", *data(project), "-n", 2, "--bandwidth", "1MHz")
    assert with_unit.stdout == narrow.stdout
    wrong = call("noise", "n.safetensors", *data(project), "--bandwidth", "1kV")
    assert wrong.exit_code == 2 and "write 10 or 10GHz" in " ".join(wrong.output.split())

    run = call("transient", "n.safetensors", *data(project), "-n", 2, "-o", "w.csv", "--json")
    assert run.exit_code == 0, run.output
    waves = network.transient(images)
    rows = list(csv.DictReader((project / "w.csv").open()))
    assert [float(row["time_s"]) for row in rows] == waves.time.tolist()
    assert [float(row["y2_V"]) for row in rows] == waves.outputs[:, 0, 1].tolist()
    assert json.loads(run.stdout)["energy"] == pytest.approx(
        waves.energy.total[0].tolist(), rel=1e-6, abs=0
    )
    alone = call("transient", "n.safetensors", *data(project), "--layers")
    assert alone.exit_code == ExitCode.INPUT and "--output" in alone.stderr


def test_training_through_the_circuit(project: Path) -> None:
    """A loss that falls, a file that loads; samples that are no classes are refused."""
    run = ("tune", *source(project), "--data", module(project, "data"), "--quiet")
    done = call(*run, "--steps", 8, "--factor", 10, "--spread", 0.05, "-o", "t.safetensors",
                "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    losses = json.loads(done.stdout)["losses"]
    assert losses[-1] < losses[0]
    before = load_file(project / "w.safetensors")["0.weight"]
    after = to_software(load(project / "t.safetensors"))
    assert not torch.allclose(next(after.parameters()), before, atol=1e-3)
    again = call(*run, "-o", "t.safetensors")
    assert again.exit_code == ExitCode.INPUT and "new .safetensors" in again.stderr


def test_options_of_characterize_say_something_or_are_refused() -> None:
    """Until 0.1 a file of a neuron, and ranges of an amplifier, were ignored."""
    assert "--points" in call("characterize", "amplifier", "--points", 5).stderr
    assert "--draws" in call("characterize", "--draws", 5).stderr
    assert "--draws" in call("characterize", "amplifier", "--seed", 5).stderr
    missing = call("characterize", "neuron", "no.sp")
    assert missing.exit_code != 0 and "no.sp" in missing.stderr


def test_verify_agrees_and_tells_differences_apart(project: Path, ngspice: Path) -> None:
    arguments = ["verify", *source(project), "--data", module(project, "data"), "-n", 2, "--json"]
    agree = call(*arguments)
    assert agree.exit_code == 0, agree.output
    # Both solve the same equations; Newton's tolerance is 1e-9 V.
    assert json.loads(agree.stdout)["largest_difference"] < 1e-7
    differ = call(*arguments, "--tolerance", 0)
    assert differ.exit_code == int(ExitCode.DIFFERENT)
    assert json.loads(differ.stdout)["passed"] is False


def test_verify_compares_transients(project: Path, ngspice: Path) -> None:
    result = call("verify", *source(project), "--data", module(project, "data"), "-n", 2,
                  "--analysis", "transient", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["passed"] is True
    assert figures["samples"] == figures["same_class"] == 2
    assert figures["waveform_difference"] < 5e-3


def test_simulate_with_ngspice_keeps_its_run(project: Path, ngspice: Path) -> None:
    result = call("simulate", *source(project), *data(project), "-e", "ngspice", "-n", 2,
                  "--run-directory", "spice_run", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["engine"]["name"] == "ngspice"
    assert any(item.is_file() for item in (project / "spice_run").rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["simulate", "nothing", "-d", "digits"], 3, "module:factory"),
        (["simulate", "no_such_module:f", "-d", "digits"], 3, "cannot import"),
        (["simulate", "missing.safetensors"], 3, "no such file"),
        (["simulate", "@build"], 3, "brings no data"),
        (["simulate", "@build", "-d", "nonsense"], 3, "no data set"),
        (["simulate", "@nothing", "-d", "digits"], 3, "has no 'nothing'"),
        # What is mistyped is said before anything slow: the model is not even opened.
        (["simulate", "@broken", "-d", "nonsense"], 3, "no data set"),
        (["netlist", "@broken", "-d", "nonsense", "-o", "deck"], 3, "no data set"),
        (["simulate", "@broken", "-d", "@data", "--area-model", "guess"], 3, "layout-used"),
        (["simulate", "@broken", "-d", "@data", "--timing", "-e", "ngspice"], 3, "--timing"),
        (["simulate", "@broken", "-d", "@data", "--no-ablation"], 3, "give --output"),
        (["simulate", "@build", "-d", "@data", "--reference-weights", "w.safetensors"], 3,
         "--reference:"),
        (["simulate", "@build", "-d", "@data", "--reference", "n.safetensors"], 3,
         "software model is needed"),
        (["simulate", "@broken", "-d", "digits"], 3, "no model today"),
        (["simulate", "@build", "--weights", "w.h5", "-d", "@data"], 3, "torch.save"),
        (["simulate", "@build", "-d", "@data", "-s", "amplifer.gain=3"], 3, "did you mean"),
        (["simulate", "@build", "-d", "@data", "--analysis", "transient"], 3, "--engine"),
        (["simulate", "@build", "-d", "@data", "-e", "spectre"], 2, "spectre"),
        (["simulate", "@build", "-d", "@data", "-c", "none.toml"], 3, "none.toml"),
        (["verify", "@build", "-d", "@data", "-e", "native"], 3, "compared with itself"),
        (["area", "@build", "-m", "guess"], 3, "layout-used"),
        (["sweep", "none.toml"], 3, "cannot read the sweep"),
        (["report", "nowhere"], 3, "no readable report"),
        (["conver"], 2, "conver"),
    ],
)
def test_mistakes_have_a_message_and_a_code(
    project: Path, arguments: list[str], code: int, message: str
) -> None:
    spelled = [module(project, a[1:]) if a.startswith("@") else a for a in arguments]
    result = call(*spelled)
    assert result.exit_code == code, result.output
    assert message in re.sub(r"\s+", " ", result.output)
    assert "Traceback" not in result.output


def test_a_missing_simulator_has_its_own_code(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(project))
    result = call("simulate", *source(project), *data(project), "-e", "hspice")
    assert result.exit_code == int(ExitCode.SIMULATOR), result.output
    assert "HSPICE is a commercial program" in re.sub(r"\s+", " ", result.output)


def test_errors_map_to_codes() -> None:
    assert exit_code(ConfigError("")) is exit_code(DataError("")) is ExitCode.INPUT
    assert exit_code(SolverError("")) is ExitCode.UNSOLVED
    assert exit_code(SimulatorNotFoundError("")) is ExitCode.SIMULATOR


def test_a_saved_network_keeps_its_configuration(project: Path) -> None:
    call("convert", *source(project), "-o", "net.safetensors")
    result = call("simulate", "net.safetensors", *data(project), "-s", "amplifier.gain=3")
    assert result.exit_code == 3
    assert "converted already" in result.output


def test_help_teaches() -> None:
    text = call("--help").output
    for word in ("MODEL", "DATA", "Exit codes", "IMAC-Sim", "convert", "sweep", "characterize"):
        assert word in text
    assert "--testnum" in call("simulate", "--help").output


def test_the_module_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process; test_results_survive starts some of their own."""
    monkeypatch.setattr(sys, "argv", ["imac_torch", "--version"])
    for name in ("stdout", "stderr"):  # it replaces them
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("imac_torch", run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out == f"imac-torch {environment()['imac_torch']}\n"


# IMAC-Sim


SCRIPT = """
import os
start = time.time()
data_dir='data' #The directory where data files are located
spice_dir='spice'
dataset_file='test_data.csv'
label_file='test_labels.csv'
weight_var=2.5
testnum=4
testnum_per_batch=2
firstimage=1
vdd=0.8
vss=-0.8
tsampling=2
nodes=[5,4,3]
xbar=[4,2]
gain=[30,10]
tech_node=9e-9
metal=3*tech_node
T=22e-9
H=20e-9
L=15*tech_node
W=12*tech_node
D=5*tech_node
eps = 20*8.854e-12
rho = 1.9e-8
rlow=7
rlow=5e3
rhigh=15e3
hpar=[math.ceil((x+1)/xbar[0]) for x in nodes]
os.system("touch executed")
"""


@pytest.fixture
def imac_sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory as IMAC-Sim's users have it."""
    generator = torch.Generator().manual_seed(5)
    directory = tmp_path / "IMAC"
    (directory / "data").mkdir(parents=True)
    (directory / "testIMAC.py").write_text(SCRIPT)

    def write(name: str, values: torch.Tensor) -> None:
        lines = [",".join(str(int(v)) for v in row) for row in values.tolist()]
        (directory / "data" / name).write_text("\n".join(lines) + "\n")

    def signs(*shape: int) -> torch.Tensor:
        return torch.randint(0, 2, shape, generator=generator) * 2 - 1

    for k, (n, m) in enumerate([(5, 4), (4, 3)], start=1):
        write(f"W{k}.csv", signs(n, m))
        write(f"B{k}.csv", signs(m, 1))
    write("test_data.csv", signs(6, 5) * 3)  # IMAC-Sim takes the sign
    write("test_labels.csv", torch.eye(3)[torch.randint(0, 3, (6,), generator=generator)])
    monkeypatch.chdir(tmp_path)
    return directory


def test_a_script_is_read_and_not_run(imac_sim: Path) -> None:
    script = read_imac_sim_script(imac_sim / "testIMAC.py")
    config = script.config
    assert not Path("executed").exists()
    assert (config.device.rlow, config.device.rhigh, config.device.variation) == (5e3, 15e3, 0.025)
    assert (config.crossbar.columns, config.crossbar.rows) == (4, 2)
    assert config.crossbar.horizontal is None
    assert config.amplifier.gain == (30.0, 10.0)
    assert config.timing.period == 2e-9
    assert config.interconnect.length == 15 * 9e-9
    assert config.interconnect.spacing is None  # its 5 λ: no setting that a run could be without
    assert config.interconnect.permittivity == 20 * 8.854e-12
    assert (script.testnum, script.testnum_per_batch, script.firstimage) == (4, 2, 1)
    assert script.nodes == (5, 4, 3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rhigh=15e3", "", "rhigh"),
        ("vdd=0.8", "vdd='high'", "vdd = 'high' is not a number"),
        ("xbar=[4,2]", "xbar=[4]", "two entries"),
        ("xbar=[4,2]", "xbar=[4", "not Python"),
    ],
)
def test_scripts_with_mistakes(imac_sim: Path, old: str, new: str, message: str) -> None:
    path = imac_sim / "testIMAC.py"
    path.write_text(SCRIPT.replace(old, new))
    with pytest.raises(DataError, match=message):
        read_imac_sim_script(path)


def test_a_directory_of_imac_sim_is_a_whole_run(imac_sim: Path) -> None:
    result = call("simulate", imac_sim, "--seed", 0, "--json", "-q", "-o", "run")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["samples"] == 4
    assert found["period"] == 2e-9
    # hpar = [2, 2], vpar = [2, 2]: 8 arrays of 4×2
    cells = 12 * 9e-9 * 15 * 9e-9 * 4 * 2 * 8
    assert found["area"]["total"] == pytest.approx(cells + 0.56e-12 * 8 * 6, rel=1e-6, abs=0)
    data_only = call("simulate", imac_sim / "data", *LOGISTIC, "--json", "-q")
    assert data_only.exit_code == 0, data_only.output
    assert json.loads(data_only.stdout)["samples"] == 6


def test_a_sweep_from_a_file(project: Path) -> None:
    text = f"""
[model]
source = "{module(project)}"
weights = "w.safetensors"
[data]
source = "{module(project, 'data')}"
testnum = 8
[set]
"neuron.kind" = "logistic"
[grid]
"device.rlow" = [1e4, 5e4]
"crossbar.columns" = [3, 7]
[objectives]
accuracy = "max"
power = "min"
"""
    Path("s.toml").write_text(text)
    first = call("sweep", "s.toml", "-q")
    assert first.exit_code == 0, first.output
    assert "4 of 4 points done" in first.output
    rows = list(csv.DictReader(Path("s/sweep.csv").read_text().splitlines()))
    assert [(r["device.rlow"], r["crossbar.columns"]) for r in rows] == [
        ("10000.0", "3"), ("10000.0", "7"), ("50000.0", "3"), ("50000.0", "7"),
    ]  # fmt: skip
    assert Path("s/sweep.html").is_file()
    again = call("sweep", "s.toml", "-q", "--show")
    assert again.exit_code == 0
    # fitted to samples, points are other ones
    for table, code, words in (
        (f'samples = 6\nsource = "{module(project, "data")}"', 0, "4 of 4 points done"),
        ("samples = 6", 3, "[calibration] source"),
        ("samples = 0", 3, "samples: Input should be greater"),
        ("samples = 6\nrounds = -1", 3, "rounds: Input should be greater"),
        ("count = 6", 3, "count"),
    ):
        Path("s.toml").write_text(f"{text}[calibration]\n{table}\n")
        fitted = call("sweep", "s.toml", "-q")
        assert fitted.exit_code == code, fitted.output
        assert words in " ".join(fitted.output.split())
    others = list(csv.DictReader(Path("s/sweep.csv").read_text().splitlines()))
    assert all(one["power"] != two["power"] for one, two in zip(rows, others, strict=True))
    Path("s.toml").write_text(text.replace("[1e4, 5e4]", "[1e4, 3e5]"))
    invalid = call("sweep", "s.toml", "-q")
    assert invalid.exit_code == 3  # rlow above rhigh: said before anything runs
    assert "300000" in invalid.output
