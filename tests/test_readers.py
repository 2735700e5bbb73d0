"""Readers of users' files come back from pipes, devices and huge files, with a clear error."""

from __future__ import annotations

import os

import pytest

from imac_torch import Config, load
from imac_torch.base.files import read_bytes
from imac_torch.datasets.csvfile import read_csv
from imac_torch.datasets.imac_sim_script import read_imac_sim_script
from imac_torch.errors import ImacError, ModelCardError
from imac_torch.finfet import read_model_cards
from imac_torch.finfet.card import parse_model_cards
from imac_torch.netlist.subcircuits import AMPLIFIER_PORTS, read_subcircuit
from imac_torch.periphery.neuron.neurontable import NeuronTable
from imac_torch.study.sources import open_model
from imac_torch.sweep.file import read_sweep


def weights(path):
    return open_model("torch.nn:Identity", weights=path)


def trusted(path):
    return read_subcircuit(path, AMPLIFIER_PORTS, trust=True)


READERS = {
    "configuration": (Config.load, "a.toml"),
    "configuration, json": (Config.load, "a.json"),
    "sweep": (read_sweep, "a.toml"),
    "table": (read_csv, "a.csv"),
    "script": (read_imac_sim_script, "testIMAC.py"),
    "model cards": (read_model_cards, "a.pm"),
    "trusted sub-circuit": (trusted, "a.sp"),
    "network": (load, "a.safetensors"),
    "table of a neuron": (NeuronTable.load, "a.safetensors"),
    "weights": (weights, "a.safetensors"),
}


@pytest.mark.parametrize("kind", ["pipe", "device", "huge", "directory", "missing", "ring"])
@pytest.mark.parametrize("name", READERS)
def test_readers_come_back(tmp_path, name, kind):
    reader, file = READERS[name]
    path = tmp_path / file
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as stream:
            stream.truncate(2**40)
    elif kind == "directory":
        path.mkdir()
    elif kind == "ring":
        path.symlink_to(path)
    with pytest.raises(ImacError) as caught:
        reader(path)
    assert path.stem in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe", "pipe"),
        ("/dev/zero", "device"),
        ("huge", "at most"),
        ("folder", "directory"),
        ("missing", "No such"),
    ],
)
def test_the_helper_says_why(tmp_path, name, message):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(OSError, match=message):
        read_bytes(tmp_path / name)


def test_a_file_that_says_it_is_empty_is_read_to_its_limit():
    """Files of /proc have size 0."""
    with pytest.raises(OSError, match="at most 8 are read"):
        read_bytes("/proc/self/maps", limit=8)


def test_time_of_model_cards_is_linear():
    """A megabyte without an assignment, or of cards, takes what reading it takes."""
    for text in (
        ".model n nmos level=72 " + "a" * 1_000_000,
        ".model n nmos level=72 " + "a " * 500_000,
        ".model n nmos level=72 " + " " * 1_000_000 + "=",
    ):
        with pytest.raises(ModelCardError, match="cannot read"):
            parse_model_cards(text)
