"""Readers of published runs, on small files of ours in their format; scripts for GPUs and peers."""

from __future__ import annotations

import io
import tarfile

import gpu
import imac_sim_netlist
import peers
import pytest
import reference
import torch
from golden import ReferenceNetwork
from published import device_runs_of, imac_sim_runs, read_metrics, read_transcript
from rich.table import Table

import imac_torch as imac
from imac_torch.errors import DataError

HEADER = "image_num,golden_label,predicted_label,energy," + ",".join(
    f"output{m}" for m in range(10)
)
SCRIPT = """
import os
base_dir = '/somewhere/IMAC-Sim'
os.chdir(base_dir)
testnum=3
firstimage=2
vdd=0.8
vss=-0.8
tsampling=1
nodes=[400,120,84,10]
xbar=[64,64]
gain=[30,30,10]
tech_node=7e-09
L=23*tech_node
rlow=8500.0
rhigh=25500.0
"""


@pytest.fixture(scope="module")
def network():
    return ReferenceNetwork.shipped(5)


def metrics(labels, energy, outputs):
    rows = [
        f"{k},{label},0,{joule!r}," + ",".join(repr(v) for v in row)
        for k, (label, joule, row) in enumerate(zip(labels, energy, outputs))
    ]
    return "\n".join([HEADER, *rows, ""])


def transcript(labels, outputs, powers):
    text = "Rlow=8500.000000\n"
    for label, row, power in zip(labels, outputs, powers):
        hot = [float(m == label) for m in range(10)]
        text += f"1\nActual label: {hot}\nOutput voltages: {row}\nPower consumption = {power}\n"
    return text + f"average total power = {sum(powers) / len(powers)}\n"


def archive(path, runs):
    with tarfile.open(path, "w:bz2") as tar:
        for name, files in runs.items():
            for file, text in files.items():
                content = text.encode()
                info = tarfile.TarInfo(f"64_cb/{name}/{file}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@torch.no_grad()
def test_runs_that_are_the_circuits_own_results_are_read_and_agree(network, tmp_path):
    """Read, aligned with the images by their labels, and compared: we find what we wrote."""
    config = imac.Config.imac_sim()
    solution = network.circuit_f(config).solve(network.inputs[2:])
    energy = (solution.power.supply * config.timing.period).tolist()
    labels, outputs = network.labels[2:].tolist(), solution.outputs.tolist()
    file = tmp_path / "inference_metrics_with_labels_2_4.csv"
    file.write_text(metrics(labels, energy, outputs))
    (run,) = imac_sim_runs(tmp_path, network)
    assert run.first == 2
    (row,) = reference.compare(network, run)
    assert row.passed and row.largest < 1e-9 and row.power < 1e-9
    outputs[0][3] += 1e-3  # a table that is a millivolt off does not pass
    file.write_text(metrics(labels, energy, outputs))
    assert not next(reference.compare(network, next(imac_sim_runs(tmp_path, network)))).passed
    file.rename(tmp_path / "inference_metrics_with_labels_1_3.csv")  # other images' labels
    with pytest.raises(DataError, match="not those of images 1"):
        next(imac_sim_runs(tmp_path, network))


def test_an_archive_of_runs_with_other_devices(network, tmp_path):
    """Scripts give the circuit, transcripts the results; powers that are spikes are left out."""
    labels, outputs = network.labels[2:].tolist(), [[0.1 * m for m in range(10)]] * 3
    text = transcript(labels, outputs, [4.0, 4.1, 9.9])
    runs = {
        "64x64_7nm_MRAM_2T1R_first12": {"a.py": SCRIPT, "simulation_output.txt": text},
        "64x64_9nm_MRAM_2T1R": {"a.py": SCRIPT},
        "64x64_9nm_PCM_2T1R": {"a.py": SCRIPT, "simulation_output.txt": text[:400]},
        "64x64_9nm_RRAM_2T1R": {
            "a.py": SCRIPT, "simulation_output.txt": text.replace("= 4.0", "= 5.0"),
        },
    }
    # The last one: the average that it prints is not that of the powers it lists.
    found = list(device_runs_of(archive(tmp_path / "runs.tar.bz2", runs), network))
    run, *reasons = found
    assert [reason.partition(":")[0] for reason in reasons] == list(runs)[1:]
    assert "no transcript" in reasons[0]
    assert "not the whole run" in reasons[1]
    assert "results of two runs" in reasons[2]
    assert (run.name, run.first) == ("64x64_7nm_MRAM_2T1R", 2)
    assert run.config.crossbar.rows == 64
    assert run.config.device.rlow == 8500.0
    assert run.config.neuron.rlow == 5e3
    assert run.config.interconnect.length == pytest.approx(23 * 7e-9)
    assert run.config.timing.period == 1e-9
    assert run.power[:2].tolist() == [4.0, 4.1]
    assert run.power[2].isnan()


def test_what_is_no_such_file_says_so(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("image_num,energy\n0,1e-10\n")
    with pytest.raises(DataError, match="no column golden_label"):
        read_metrics(file)
    file.write_text(metrics([1], [1e-10], [[0.5] * 9 + [None]]))
    with pytest.raises(DataError, match="None"):
        read_metrics(file)
    with pytest.raises(DataError, match="here: not the whole run"):
        read_transcript("Rlow=1\n", "here")


def test_a_directory_that_is_no_clone_says_what_to_fetch(tmp_path):
    with pytest.raises(SystemExit, match=r"git clone .*IMAC-Sim"):
        imac_sim_netlist.main([str(tmp_path)])


def test_without_references_it_says_what_to_fetch(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("IMAC_TORCH_SHARED", raising=False)
    for arguments in ([], ["--references", str(tmp_path)], ["--references", str(tmp_path / "no")]):
        assert reference.main(arguments) == 2
        said = capsys.readouterr().out
        assert "chekfung/IMAC-Sim" in said
        assert "ACADLab/LIMCA" in said


def test_the_script_for_gpus_compares_on_the_processor_too(capsys):
    """The torch path against compiled kernels: outputs, powers, gradients; nothing is copied."""
    table = Table()
    assert gpu.measure("logistic", torch.device("cpu"), 8, 1, table)
    assert table.row_count == 1
    if not torch.cuda.is_available():
        assert gpu.main([]) == 2
        assert "--device cpu" in capsys.readouterr().out


def test_peers_that_are_missing_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(peers, "optional", lambda name: None)
    found = peers.peers()
    assert sum(what.startswith("not here; ") for what in found.values()) >= len(peers.PEERS)
    assert found["KLU"] == "not here; pip install kvxopt"
