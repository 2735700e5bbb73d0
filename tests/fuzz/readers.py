"""Every reader of the package on files that somebody, or a failing disk, has changed."""

from __future__ import annotations

import io
import json
import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import imac_torch as imac
from fuzz import samples
from fuzz.harness import Outcome, WrongAnswer, attempt
from fuzz.mutate import as_json, as_safetensors, as_toml, scrambled, tree
from imac_torch.base.files import parse_toml
from imac_torch.config import Config
from imac_torch.conversion.storage import load
from imac_torch.datasets.csvfile import read_csv
from imac_torch.datasets.imac_sim import read_imac_sim
from imac_torch.datasets.imac_sim_script import read_imac_sim_script
from imac_torch.datasets.own import read_samples
from imac_torch.errors import NetlistError
from imac_torch.finfet.card import read_model_cards
from imac_torch.netlist.inverter import library_inverter
from imac_torch.netlist.rundir import MANIFEST
from imac_torch.netlist.subcircuits import AMPLIFIER_PORTS, NEURON_PORTS, read_subcircuit
from imac_torch.periphery.neuron.neurontable import NeuronTable
from imac_torch.reports.analysis import Analysis
from imac_torch.reports.html_report import render_report
from imac_torch.reports.report import Report
from imac_torch.simulator import parse_listing, read_measure_file, read_post, read_raw
from imac_torch.simulator.hspice_text import name_measures
from imac_torch.study.sources import open_data, open_model
from imac_torch.sweep import read_sweep, render_sweep
from imac_torch.sweep.store import Store

HOSTILE_LINES = (
    ".control\nshell touch {flag}\n.endc", ".controlx\nshell touch {flag}\n.endcx",
    ".CONTROL\r\nshell touch {flag}\r\n.ENDC", "*# shell touch {flag}", ".func tanh(x) {{0}}",
    ".option filetype=ascii", ".if (1)\nR1 plus 0 1\n.endif", ".print v(out) > {flag}",
    ".csparam x=1", ".exec touch {flag}", ".include {outside}", ".inc '{outside}'",
    ".lib {outside} x", "A1 plus out filesrc\n.model filesrc filesource (file=\"{outside}\")",
    "Rshort plus 0 1", ".global out", ".ic v(out)=1", ".nodeset v(out)=1", ".temp 500",
    ".model m nmos level=72\n+ file='{outside}'", "+ .control", "Bx out 0 V=time\n.control",
    ".subckt amplifier plus minus out\n.ends", ".param tanh(x)='0'", ".data x\n.enddata", ".end",
    ".alter\n.include {outside}", ".probe all", ".save all", ".measure tran x find v(out) at=1",
    ".verilog '{outside}'", ".hdl '{outside}'", ".protect\n.control\n.unprotect", "$ .control",
    "* comment\n+ .control\n+ shell touch {flag}", ".tit\n.control",
    ". control\nshell touch {flag}", ".cont\nshell touch {flag}\n.endc",
    "\x0b.control\nshell touch {flag}", "Vx out 0 pwl file='{outside}'", ".pre_osdi {outside}",
    "B1 out 0 v={{system(1)}}", "pre_shell touch {flag}", ".endc",
)  # fmt: skip
"""Statements of simulators that a file of sub-circuits has no business with."""
_HARMLESS = re.compile(r"(?:\.subckt|\.ends|\.model|\.param|[+rclkefghbdqjmxvisw])", re.I)


@dataclass(frozen=True)
class Reader:
    """One reader and how its files are attacked."""

    name: str
    make: Callable[[random.Random, Path], Path]
    read: Callable[[Path], object]


def _bytes_of(name: str, *options: Callable[[], bytes]) -> Callable[[random.Random, Path], Path]:
    """A changed copy of one of several valid files."""

    def make(rng: random.Random, place: Path) -> Path:
        valid = [option() for option in options]
        path = place / name
        path.write_bytes(scrambled(rng, rng.choice(valid), valid))
        return path

    return make


def _tree_of(
    name: str,
    content: Callable[[], object],
    write: Callable[[random.Random, object], bytes],
    share: float = 0.7,
) -> Callable[[random.Random, Path], Path]:
    """A table with changed values, or its text with changed bytes."""

    def make(rng: random.Random, place: Path) -> Path:
        path = place / name
        value = content()
        if rng.random() < share:
            data = write(rng, tree(rng, value))
        else:
            data = scrambled(rng, write(random.Random(0), value))
        path.write_bytes(data)
        return path

    return make


def _tensors_of(
    name: str, inner: Sequence[str], *options: Callable[[], bytes]
) -> Callable[[random.Random, Path], Path]:
    """A safetensors file with a changed header, or with changed bytes."""

    def make(rng: random.Random, place: Path) -> Path:
        valid = [option() for option in options]
        data = rng.choice(valid)
        path = place / name
        kind = rng.random()
        if kind < 0.6:
            path.write_bytes(as_safetensors(rng, data, inner))
        elif kind < 0.7:  # in the tensors only: numbers that nobody meant
            start = 8 + int.from_bytes(data[:8], "little")
            path.write_bytes(data[:start] + scrambled(rng, data[start:]))
        else:
            path.write_bytes(scrambled(rng, data, valid))
        return path

    return make


def _directory_of(files: Callable[[], dict[str, bytes]]) -> Callable[[random.Random, Path], Path]:
    """A directory of which one or two files are changed, missing, or of another kind."""

    def make(rng: random.Random, place: Path) -> Path:
        folder = place / "directory"
        found = dict(files())
        samples.write_all(folder, found)
        for name in rng.sample(sorted(found), min(len(found), rng.choice((1, 1, 2)))):
            path, data = folder / name, found[name]
            if rng.random() < 0.12:
                path.unlink()
                _something_else(rng, path)
            elif name.endswith(".json") and rng.random() < 0.7:
                path.write_bytes(as_json(rng, tree(rng, json.loads(data))))
            elif name.endswith(".safetensors") and rng.random() < 0.6:
                path.write_bytes(as_safetensors(rng, data, ()))
            else:
                path.write_bytes(scrambled(rng, data, list(found.values())))
        return folder

    return make


def _something_else(rng: random.Random, path: Path) -> None:
    """A directory, a pipe, a device, a loop, or nothing where a file should be."""
    match rng.randrange(7):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to("/dev/zero")
        case 3:
            path.symlink_to(path)
        case 4:
            path.symlink_to("/proc/self/mem")
        case 5:
            with path.open("wb") as stream:
                stream.truncate(200 * 2**30)  # sparse: huge, and costs nothing
        case _:
            pass


def _odd(make: Callable[[random.Random, Path], Path]) -> Callable[[random.Random, Path], Path]:
    """Now and then no file at all under the file's name."""

    def made(rng: random.Random, place: Path) -> Path:
        path = make(rng, place)
        if path.is_file() and rng.random() < 0.05:
            path.unlink()
            _something_else(rng, path)
        return path

    return made


# Readers with a look at what they gave


def _config(path: Path) -> None:
    made = Config.load(path)
    if Config.from_json(made.to_json()) != made:
        raise WrongAnswer("a configuration is another one when it is written and read")


def _sweep(path: Path) -> None:
    described = read_sweep(path)
    described.base(None)


def _network(path: Path) -> None:
    network = load(path)
    network.circuit()
    again = path.with_name("again.safetensors")
    imac.save(network, again)
    load(again)


def _table(path: Path) -> None:
    NeuronTable.load(path).spline()


def _weights(path: Path) -> None:
    open_model("mine:build", weights=path)


def _subcircuit(path: Path) -> None:
    for ports in (AMPLIFIER_PORTS, NEURON_PORTS):
        try:
            found = read_subcircuit(path, ports)
        except NetlistError:
            if ports is NEURON_PORTS:
                raise
            continue
        break
    depth = 0
    for line in found.text.splitlines():
        word = line.split()[0].lower() if line.split() else "*"
        if word[0] == "*":
            continue
        if not _HARMLESS.match(word):
            raise WrongAnswer(f"{line[:80]!r} got into a netlist")
        depth += (word == ".subckt") - (word == ".ends")
        if depth == 0 and word[0] not in ".+":
            raise WrongAnswer(f"{line[:80]!r} got into a netlist outside sub-circuits")


def _hostile_subcircuit(rng: random.Random, place: Path) -> Path:
    valid = samples.subcircuits()
    lines = rng.choice(valid).decode().splitlines()
    outside = place / "outside.sp"
    outside.write_text(".control\nshell touch flag\n.endc\n")
    for _ in range(rng.choice((1, 1, 2))):
        line = rng.choice(HOSTILE_LINES).format(flag=place / "flag", outside=outside)
        line = rng.choice((str, str.upper, str.title, lambda text: " " + text))(line)
        lines.insert(rng.randrange(len(lines) + 1), line)
    path = place / "own.sp"
    text = rng.choice(("\n", "\n", "\r\n")).join(lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    if rng.random() < 0.3:
        path.write_bytes(scrambled(rng, path.read_bytes(), valid))
    return path


def _library(rng: random.Random, place: Path) -> Path:
    folder = place / "models_dir"
    folder.mkdir()
    data = b".lib ptm14hp\n" + samples.cards() + b".endl\n"
    path = folder / "models"
    path.write_bytes(scrambled(rng, data))
    if rng.random() < 0.05:
        path.unlink()
        _something_else(rng, path)
    return folder


def _imac_sim(path: Path) -> None:
    read_imac_sim(path).model()


def _script_directory(path: Path) -> None:
    source = open_model(str(path))
    open_data(None, source)


def _script_files() -> dict[str, bytes]:
    data = {f"data/{name}": text.encode() for name, text in samples.CSV.items()}
    return {"testIMAC.py": samples.SCRIPT, **data}


def _report(path: Path) -> None:
    result, details = Report.load(path), Analysis.load(path)
    str(result)
    result.figures()
    render_report(result, details, title="[/title] <script>")


def _equal_lengths(tables: Sequence[dict[str, object]]) -> None:
    for item in tables:
        if len({len(column) for column in item.values()}) > 1:  # type: ignore[arg-type]
            raise WrongAnswer("columns of different lengths")


def _post(path: Path) -> None:
    read_post(path)


def _raw(path: Path) -> None:
    _equal_lengths(read_raw(path))


def _deck(path: Path) -> None:
    """A directory that was ours is written again, or refused with every file as it was."""
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and not p.is_symlink()
              and p.stat().st_size < 2**24}  # fmt: skip
    settings = imac.NetlistSettings(analysis="dc", images_per_netlist=3)
    try:
        imac.compile(samples.network(), samples.pairs(), path, settings=settings)
    except imac.ImacError:
        changed = [p for p, data in before.items() if not p.is_file() or p.read_bytes() != data]
        if any(p.name != MANIFEST for p in changed):
            raise WrongAnswer(f"refused, but {changed[0]} is another one by now") from None
        raise
    for name, data in samples.deck_files().items():
        if name != MANIFEST and (path / name).read_bytes() != data:
            raise WrongAnswer(f"{name} is not what was to be written")


def _store(path: Path) -> None:
    with Store(path) as store:
        table = store.table()
        store.finished()
        store.metrics("a")
        table.to_csv(path.with_name("table.csv"))
        table._repr_html_()
        render_sweep(table, {"accuracy": "max", "energy": "min"}, title="x")


def _csv(path: Path) -> None:
    if not bool(torch.isfinite(read_csv(path)).all()):
        raise WrongAnswer("a table of finite numbers has others")


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, inputs=np.linspace(-1, 1, 12).reshape(4, 3), labels=np.arange(4))
    return stream.getvalue()


def _measures(path: Path) -> None:
    name_measures(read_measure_file(path))


def _listing(path: Path) -> None:
    parse_listing(path.read_bytes().decode(errors="replace"))


def _hspice(*suffixes: str) -> tuple[Callable[[], bytes], ...]:
    files = [p for p in sorted((samples.DATA / "hspice").iterdir()) if p.suffix in suffixes]
    return tuple(p.read_bytes for p in files)


_RAWS = (
    lambda: samples.raw_file(samples.RAW), lambda: samples.raw_file(samples.RAW, binary=False),
    lambda: 2 * samples.raw_file(samples.RAW),
)  # fmt: skip
READERS: tuple[Reader, ...] = (
    Reader("configuration, TOML", _tree_of("c.toml", samples.config_dict, as_toml), _config),
    Reader("configuration, JSON", _tree_of("c.json", samples.config_dict, as_json), _config),
    Reader("sweep file", _tree_of("s.toml", lambda: parse_toml(samples.SWEEP), as_toml), _sweep),
    Reader(
        "network",
        _tensors_of("n.safetensors", ("imac_torch network",),
                    lambda: samples.networks()[0], lambda: samples.networks()[1]),
        _network,
    ),
    Reader("weights", _tensors_of("w.safetensors", (), samples.weights), _weights),
    Reader("neuron table", _tensors_of("t.safetensors", ("header",), samples.table), _table),
    Reader("sub-circuit", _bytes_of("own.sp", *(lambda k=k: samples.subcircuits()[k]
                                                for k in range(4))), _subcircuit),
    Reader("hostile sub-circuit", _hostile_subcircuit, _subcircuit),
    Reader("model cards", _bytes_of("cards.sp", samples.cards), read_model_cards),
    Reader("model library", _library, lambda path: library_inverter(path, 14, "hp")),
    Reader("IMAC-Sim's script", _bytes_of("testIMAC.py", lambda: samples.SCRIPT),
           read_imac_sim_script),
    Reader("IMAC-Sim's directory",
           _directory_of(lambda: {k: v.encode() for k, v in samples.CSV.items()}), _imac_sim),
    Reader("IMAC-Sim, script and data", _directory_of(_script_files), _script_directory),
    Reader("CSV", _bytes_of("a.csv", *(text.encode for text in samples.CSV.values())), _csv),
    Reader("samples, numpy", _bytes_of("own.npz", _npz), read_samples),
    Reader("ngspice raw file", _bytes_of("a.raw", *_RAWS), _raw),
    Reader("HSPICE waveforms", _bytes_of("a.tr0", *_hspice(".tr0")), _post),
    Reader("HSPICE measures", _bytes_of("a.mt0", *_hspice(".mt0", ".ms0")), _measures),
    Reader("HSPICE listing", _bytes_of("a.lis", *_hspice(".lis")), _listing),
    Reader("report", _directory_of(samples.report), _report),
    Reader("report with latencies", _directory_of(samples.timed_report), _report),
    Reader("run directory", _directory_of(samples.deck_files), _deck),
    Reader("sweep table", _bytes_of("s.sqlite", samples.sweep_table), _store),
)  # fmt: skip
WHOLE = {"HSPICE listing", "ngspice raw file", "HSPICE waveforms", "HSPICE measures"}
"""Files that are looked at before they are read: no pipes and devices for these readers alone."""


class Readers:
    """Changed files for every reader in turn."""

    name = "readers"

    def __init__(self, readers: Sequence[Reader] = READERS) -> None:
        self.readers = readers
        self.turn: dict[str, int] = {}

    def attack(self, rng: random.Random, place: Path) -> list[Outcome]:
        reader = rng.choice(self.readers)
        make = reader.make if reader.name in WHOLE else _odd(reader.make)
        (place / "mine.py").write_text(samples.MODULE)
        path = make(rng, place)
        found = attempt(reader.name, lambda: reader.read(path))
        if (place / "flag").exists():
            return [Outcome("bad", reader.name, "a program was run")]
        return [found]
