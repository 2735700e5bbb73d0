"""Stand-ins for ngspice that hang, lie, flood, and leave anything but the results asked for."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import time
from functools import cache
from pathlib import Path

import torch

import imac_torch as imac
from fuzz import samples
from fuzz.harness import BAD, Outcome, WrongAnswer, attempt
from fuzz.mutate import scrambled
from imac_torch.errors import SimulatorError
from imac_torch.simulator import NgSpice

SETTINGS = imac.NetlistSettings(analysis="dc", images_per_netlist=3)
DONE = "echo ngspice-39 done > batch.log\n"
HEAD = '[ "$1" = --version ] && { echo ngspice-39; exit; }\n'
STUBBORN = (
    "(trap '' TERM INT HUP; echo $$ > stubborn; exec sleep 300) &\n"
    "while [ ! -s stubborn ]; do sleep 0.05; done\n"
)
GOOD = 'cp "$ANSWERS/$(sha256sum batch.* | head -c 64)"/*.raw .\n' + DONE
"""Answers by the digest of the netlist: another netlist gets none."""
# What the stand-in does instead, and whether its answers can still be right.
LIES: dict[str, tuple[str, bool]] = {
    "it does nothing": ("exit 0", False),
    "it fails": ("echo 'Error: no' >&2; exit 1", False),
    "it fails after its work": (GOOD + "exit 1", True),
    "it dies": ("kill -SEGV $$", False),
    "it does not converge": (GOOD + "echo 'doAnalyses: iteration limit reached' > batch.log", True),
    "it says nothing": (GOOD + "rm batch.log", True),
    "it never ends": ("sleep 300", False),
    "it ignores signals": ("trap '' TERM\n" + STUBBORN + "while :; do sleep 1; done", False),
    "its child keeps the pipe": (STUBBORN + GOOD, True),
    "it floods": ("yes ngspice | head -c 300000000", False),
    "it floods standard error": ("yes ngspice | head -c 300000000 >&2", False),
    "a file is missing": (GOOD + "rm $(ls *.raw | head -n 1)", True),
    "files are empty": (GOOD + 'for f in *.raw; do : > "$f"; done', False),
    "files are cut": (GOOD + 'for f in *.raw; do head -c 150 "$f" > x; mv x "$f"; done', False),
    "files are pipes": (GOOD + 'for f in *.raw; do rm "$f"; mkfifo "$f"; done', False),
    "files are directories": (GOOD + 'for f in *.raw; do rm "$f"; mkdir "$f"; done', False),
    "files are devices": (GOOD + 'for f in *.raw; do ln -sf /dev/zero "$f"; done', False),
    "files are loops": (GOOD + 'for f in *.raw; do rm "$f"; ln -s "$f" "$f"; done', False),
    "nodes have other names": (GOOD + "sed -i 's/v(/w(/' *.raw", False),
    "the log is binary": (GOOD + "head -c 5000 /dev/urandom >> batch.log", True),
    "the log is a directory": (GOOD + "rm batch.log; mkdir batch.log", True),
    "results of another netlist": ('cp "$ANSWERS"/other/*.raw .\n' + DONE, True),
    "values are not numbers": ('cp "$ANSWERS"/nan/*.raw .\n' + DONE, False),
    "too many points": ('cp "$ANSWERS"/many/*.raw .\n' + DONE, False),
    "scrambled files": ('cp "$ANSWERS"/scrambled/*.raw .\n' + DONE, True),
}  # fmt: skip
NOT_TOLD = {"results of another netlist", "scrambled files"}
"""A file in the right form with other numbers in it: nobody can tell, but nothing breaks."""


@cache
def truth(seed: int) -> torch.Tensor:
    """(6, 3) V, what the stand-in answers for a set of samples: any numbers will do."""
    return torch.rand(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compiled(directory: Path, seed: int = 0) -> imac.Deck:
    return imac.compile(samples.network(), samples.pairs(6, seed), directory, settings=SETTINGS)


def vectors(deck: imac.Deck, k: int, image: int, seed: int) -> dict[str, list[float]]:
    """The operating point of one image of a batch, by the names that the driver reads."""
    item = deck.run_files.batches[k].deck
    outputs = truth(seed)[deck.run_files.batches[k].first + image].tolist()
    return {
        **{f"v({node})": [0.1] for node in item.input_nodes},
        **{f"i(v{node})": [-1e-6] for node in item.input_nodes},
        **{f"v({node})": [value] for node, value in zip(item.output_nodes, outputs)},
        "v(vdd)": [0.8], "i(vdd)": [-1e-5], "i(vneurons)": [1e-6],
    }  # fmt: skip


def write_answers(deck: imac.Deck, place: Path, seed: int) -> None:
    """What the stand-in gives for a deck's netlists."""
    for k, batch in enumerate(deck.run_files.batches):
        digest = hashlib.sha256(batch.job.netlist.read_bytes()).hexdigest()
        folder = place / digest
        folder.mkdir(parents=True, exist_ok=True)
        for image, name in enumerate(batch.job.waveform_files):
            (folder / name).write_bytes(samples.raw_file(vectors(deck, k, image, seed)))


@cache
def answers() -> Path:
    """Answers for two sets of samples, and what lies are made of."""
    place = samples.place() / "answers"
    for seed in (0, 1):
        deck = compiled(samples.place() / f"answered{seed}", seed)
        write_answers(deck, place, seed)
    names = deck.run_files.batches[0].job.waveform_files
    for kind in ("other", "nan", "many"):
        (place / kind).mkdir()
        for image, name in enumerate(names):
            found = vectors(deck, 0, image, 1)
            if kind == "nan":
                found = {key: [float("nan")] for key in found}
            if kind == "many":
                found = {key: value * 2 for key, value in found.items()}
            (place / kind / name).write_bytes(samples.raw_file(found))
    return place


def stand_in(path: Path, body: str, place: Path | None = None, pause: float = 0.0) -> Path:
    """An executable that answers as ngspice does and then runs some lines of shell."""
    wait = f"sleep {pause:g}\n" if pause else ""
    path.write_text(f"#!/bin/sh\n{HEAD}ANSWERS='{place or answers()}'\n{wait}{body}\n")
    path.chmod(0o755)
    return path


def check_right(found: torch.Tensor, good: torch.Tensor, seed: int) -> None:
    """Whatever is marked as solved is what the stand-in answers."""
    expected = truth(seed)
    if not torch.equal(found[good], expected[good]):
        raise WrongAnswer("samples marked as solved have other outputs")
    if bool(torch.isfinite(found[~good]).any()):
        raise WrongAnswer("samples marked as failed have outputs")


def _alive(place: Path) -> bool:
    for path in place.rglob("stubborn"):
        pid = int(path.read_text() or 0)
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return True
    return False


class Simulators:
    """A lying simulator for one of the batches or all, then an honest one on what is left."""

    name = "simulators"

    def __init__(self, lies: tuple[str, ...] = tuple(LIES)) -> None:
        self.lies = lies

    def attack(self, rng: random.Random, place: Path) -> list[Outcome]:
        name = rng.choice(self.lies)
        body, may_be_right = LIES[name]
        source = answers()
        if name == "scrambled files":
            source = place / "answers"
            _scramble(rng, source)
        which = rng.choice(("batch_00000", "batch_00001", ""))
        if which:  # the others are honest
            honest = GOOD.replace("$ANSWERS", str(answers()))
            body = f'if [ "$(basename "$PWD")" = {which} ]; then\n{body}\nelse\n{honest}\nfi'
        program = stand_in(place / "liar", body, source)
        workers = rng.choice((1, 2))

        def action() -> None:
            deck = compiled(place / "deck")
            seconds = 2.0 if ("ends" in name or "ignores" in name) else 60.0
            told = deck.run(NgSpice(str(program), timeout=seconds), workers=workers, progress=False)
            good = told.solution.converged
            if name not in NOT_TOLD:
                check_right(told.solution.outputs, good, 0)
                wrong = 6 if not which else 3
                if not may_be_right and int(good.sum()) > 6 - wrong:
                    raise WrongAnswer(f"{int(good.sum())} of 6 samples are marked as solved")
            for error in told.errors:
                if not isinstance(error, SimulatorError) or not str(error):
                    raise WrongAnswer(f"{error!r} is no error of a simulator")
            if _alive(place):
                time.sleep(1.0)
                if _alive(place):
                    raise WrongAnswer("a child of the simulator is left behind")
            if name in NOT_TOLD or "directories" in name or "directory" in name:
                return  # somebody has to take the directory away, and the error names it
            again = stand_in(place / "honest", GOOD)
            told = deck.run(NgSpice(str(again), timeout=60), progress=False)
            if not bool(told.solution.converged.all()):
                raise WrongAnswer(f"not solved when run again: {told.errors[:1]}")
            check_right(told.solution.outputs, told.solution.converged, 0)

        return [_told(attempt(name, action), name)]


def _told(outcome: Outcome, name: str) -> Outcome:
    """That a lie was told is a clear error of the batch; it was seen in the errors."""
    return outcome if outcome.kind == BAD else Outcome("clear error", name)


def _scramble(rng: random.Random, place: Path) -> None:
    folder = place / "scrambled"
    folder.mkdir(parents=True)
    for path in sorted((answers() / "other").iterdir()):
        (folder / path.name).write_bytes(scrambled(rng, path.read_bytes()))


def have_shell() -> bool:
    """Whether there is what the stand-ins are written in."""
    with contextlib.suppress(OSError):
        return subprocess.run(
            ["sh", "-c", "command -v sha256sum mkfifo"], capture_output=True, check=False
        ).returncode == 0 and os.name == "posix"  # fmt: skip
    return False
