"""The command line: options that nobody should give, files that are missing or something else."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from typer.testing import CliRunner

import imac_torch
from fuzz import samples
from fuzz.harness import BAD, CLEAR, RAN, Outcome, WrongAnswer, attempt
from fuzz.mutate import NUMBERS, WORDS, as_toml, scrambled, tree
from imac_torch.base.files import parse_toml
from imac_torch.cli import app, commands
from imac_torch.cli.exits import ExitCode
from imac_torch.config.assignment import field_paths

LOGISTIC = ("-s", "neuron.kind=logistic", "-s", "mapping.levels=continuous")
DATA = ("--data", "mine:data", "-q", "-n", "4")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("config",),
    ("config", "-o", "new.toml", "--device", "MRAM", "--tech-node", "14", "--bit-cell", "2T1R"),
    ("config", "-o", "new.json", "--imac-sim", "-s", "amplifier.gain=[30, 30, 10]"),
    ("convert", "mine:build", "--weights", "w.safetensors", "-o", "new.safetensors", *LOGISTIC),
    ("convert", "mine:build", "-o", "n.safetensors", "--force", "-c", "c.toml", "--seed", "3"),
    ("simulate", "n.safetensors", *DATA),
    ("simulate", "n.safetensors", *DATA, "-o", "run", "--json", "--title", "[red]x"),
    ("simulate", "mine:build", *DATA, "-c", "c.toml", "--exclude", "0", "--firstimage", "1"),
    ("simulate", "imac", "-q", *LOGISTIC, "--area-model", "layout"),
    ("simulate", "imac/data", "-q", *LOGISTIC, "--testnum-per-batch", "2"),
    ("simulate", "n.safetensors", *DATA, "--engine", "hspice", "--licences", "1"),
    ("simulate", "n.safetensors", *DATA, "--reference", "mine:build", "--reference-weights",
     "w.safetensors"),
    ("netlist", "n.safetensors", "--data", "mine:data", "-n", "2", "-o", "deck"),
    ("netlist", "mine:build", "--data", "mine:data", "-n", "3", "--testnum-per-batch", "2", "-o",
     "deck", "--dialect", "ngspice", "--analysis", "dc", *LOGISTIC),
    ("characterize", *LOGISTIC, "--points", "11", "-o", "curve.csv"),
    ("characterize", *LOGISTIC, "--from", "-0.5", "--to", "0.5", "--points", "5", "--json"),
    ("area", "n.safetensors", "-m", "layout", "--json"),
    ("area", "mine:build", *LOGISTIC),
    ("report", "done", "-o", "page.html", "--title", "[/b] <script>"),
    ("sweep", "s.toml", "-q", "-o", "swept"),
    ("sweep", "s.toml", "-q", "-o", "swept", "--show"),
    ("search", "s.toml", "-q", "-o", "found", "--trials", "2", "--batch", "2"),
    ("verify", "n.safetensors", "--data", "mine:data", "-n", "1", "-e", "hspice"),
    ("--version",), ("--help",), ("simulate", "--help"),
)  # fmt: skip
OPTIONS = (
    "-o", "--output", "-s", "--set", "-c", "--config", "-n", "--testnum", "--seed", "--exclude",
    "--weights", "--digital", "--data", "--data-root", "--train-split", "--firstimage", "--engine",
    "--analysis", "--workers", "-j", "--timeout", "--licences", "--area-model", "--json", "-q",
    "--testnum-per-batch", "--title", "--trust", "--run-directory", "--from", "--to", "--points",
    "--device", "--tech-node", "--bit-cell", "--fields", "--force", "--settling", "--dialect",
    "--trials", "--batch", "--retry-failed", "--show", "--nonsense", "--", "-", "-qq",
    "--reference", "--tolerance", "--help",
)  # fmt: skip
VALUES = (
    "mine:build", "mine:broken", "mine:number", "mine:nothing", "nothing:at_all", "mine", ":", "::",
    "mine:build:x", "n.safetensors", "w.safetensors", "c.toml", "s.toml", "imac", "done", "folder",
    "pipe", "missing.toml", "missing.safetensors", "folder/x/y", "c.toml/x", "loop", "x" * 300,
    "native", "ngspice", "hspice", "dc", "transient", "digits", "MNIST", "tcp://nowhere:1", "0.5",
    "neuron.kind=table", "neuron.kind=nonsense", "device.rlow=-1", "device.rlow=1e400", "=", "a=b",
    "layers.0.amplifier.gain=3", 'layers."0".amplifier.gain=3', "x\ny=1", "a=[[[[", "schema=2",
    "neuron.subcircuit=pipe", "neuron.table=n.safetensors", "neuron.model_directory=folder",
    "device.states=2", "mapping.levels=0", "crossbar.rows=0", "crossbar.rows=1", "temperature=0",
    "supplies.vdd=nan", "amplifier.gain=[]", "interconnect.resistance=true", "mapping.slices=4",
)  # fmt: skip
_SAFE = tuple(
    word for word in (*WORDS, *NUMBERS)
    if "\0" not in word and "/" not in word and word not in (".", "~")
)  # fmt: skip
"""Words that name nothing outside the directory of the attempt: outputs may go there."""
_LARGE = 10**5
"""Whoever asks for 10 million points gets 10 million points: not an attack, only slow."""


@cache
def _files() -> dict[str, bytes]:
    import tomli_w

    config = tomli_w.dumps(samples.LOGISTIC.to_dict()).encode()
    script = samples.SCRIPT.replace(b"spice_dir='spice'", b"spice_dir='none'")
    return {
        "mine.py": samples.MODULE.encode(), "c.toml": config, "w.safetensors": samples.weights(),
        "s.toml": samples.SWEEP.encode(), "n.safetensors": samples.networks()[0],
        "imac/testIMAC.py": script,
        **{f"imac/data/{name}": text.encode() for name, text in samples.CSV.items()},
        **{f"done/{name}": data for name, data in samples.report().items()},
    }  # fmt: skip


def project(place: Path) -> None:
    """What a user has: a module, weights, files, and a few things that are no files."""
    samples.write_all(place, _files())
    (place / "folder").mkdir()
    os.mkfifo(place / "pipe")
    (place / "loop").symlink_to("loop")


def hostile_arguments(rng: random.Random, valid: tuple[str, ...]) -> list[str]:
    """A command line of which an argument or two are wrong."""
    found = list(valid)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(1, len(found) + 1) if len(found) > 1 else 1
        word = rng.choice(rng.choice((VALUES, VALUES, _SAFE)))
        action = rng.randrange(7)
        if action == 0 and at < len(found):
            del found[at]
        elif action == 1 and at < len(found):
            found[at] = word
        elif action == 2:
            found.insert(at, word)
        elif action == 3:
            found[at:at] = [rng.choice(OPTIONS), word]
        elif action == 4:
            path, _ = rng.choice(_fields())
            found += ["-s", f"{path}={word}"]
        elif action == 5:
            found.insert(at, rng.choice(OPTIONS))
        else:
            found += [rng.choice(OPTIONS), word]
    return [_bounded(item) for item in found]


@cache
def _fields() -> tuple[tuple[str, str], ...]:
    return tuple(field_paths())


def _bounded(text: str) -> str:
    head, equals, number = text.rpartition("=")
    try:
        large = float(number) > _LARGE
    except ValueError:
        return text
    return f"{head}{equals}{_LARGE // 500}" if large and not equals else text


def _damage(rng: random.Random, place: Path) -> None:
    """One of the files is another one, no file, or not to be had."""
    path = place / rng.choice(sorted(set(_files()) - {"mine.py"}))
    match rng.randrange(6):
        case 0:
            path.unlink()
        case 1:
            path.unlink()
            os.mkfifo(path)
        case 2:
            path.unlink()
            path.mkdir()
        case 3 if path.suffix == ".toml":
            path.write_bytes(as_toml(rng, tree(rng, parse_toml(path.read_text()))))
        case _:
            path.write_bytes(scrambled(rng, path.read_bytes(), list(_files().values())))


class Commands:
    """Commands in this process, now and then one in a process of its own."""

    name = "command line"

    def __init__(self, separate: float = 0.004) -> None:
        commands.register(app)
        # Libraries log to the standard error of the first command, which is closed by the second.
        logging.raiseExceptions = False
        self.separate = separate

    def attack(self, rng: random.Random, place: Path) -> list[Outcome]:
        project(place)
        valid = rng.choice(COMMANDS)
        if rng.random() < 0.25:
            _damage(rng, place)
            arguments = list(valid)
        else:
            arguments = hostile_arguments(rng, valid)
        (place / "ARGUMENTS.txt").write_text(repr(arguments), errors="replace")
        inside = rng.random() >= self.separate
        run: Callable[[list[str]], tuple[int, str]] = _inside if inside else _separate
        target = next((item for item in valid if not item.startswith("-")), "program")
        code, text = -1, ""

        def action() -> None:
            nonlocal code, text
            code, text = run(arguments)
            _judge(code, text)
            if not (place / "pipe").is_fifo():
                raise WrongAnswer("a file was put in the place of a pipe")

        found = attempt(target, action)
        if found.kind != BAD:
            found = Outcome(RAN if code == 0 else CLEAR, target, text)
        return [Outcome(found.kind, target, f"{arguments}\n{found.text}")]


def _inside(arguments: list[str]) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return result.exit_code, result.output


def _separate(arguments: list[str]) -> tuple[int, str]:
    root = str(Path(imac_torch.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "imac_torch", *arguments], capture_output=True, text=True,
        errors="replace", timeout=150, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def _judge(code: int, text: str) -> None:
    if "Traceback" in text or code == ExitCode.CRASH or code < 0:
        raise WrongAnswer(f"exit code {code}: {text[-1500:]}")
    if code not in {*ExitCode}:
        raise WrongAnswer(f"exit code {code}, which means nothing: {text[-500:]}")
    if code and not text.strip():
        raise WrongAnswer(f"exit code {code} without a word")
