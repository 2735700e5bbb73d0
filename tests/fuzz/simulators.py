"""Stand-ins for ngspice that hang, lie, flood, and leave anything but the results asked for."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

import imac_torch as imac
from fuzz import samples
from fuzz.harness import BAD, Outcome, WrongAnswer, attempt
from fuzz.mutate import scrambled
from imac_torch.errors import SimulatorError
from imac_torch.simulator import NgSpice
from imac_torch.study.deck import Deck

SETTINGS = imac.NetlistSettings(analysis="dc", images_per_netlist=3)
DONE = "echo ngspice-39 done > batch.log\n"
HEAD = '[ "$1" = --version ] && { echo ngspice-39; exit; }\n'
GOOD = 'cp "$ANSWERS/$(sha256sum batch.* | head -c 64)"/*.raw .\n' + DONE
"""Answers by the digest of the netlist: another netlist gets none."""


def _each(command: str) -> str:
    return GOOD + f'for f in *.raw; do {command}; done'


# What becomes of the results, and whether what is there can still be right.
LEFT: dict[str, tuple[str, bool]] = {
    "nothing": ("", False),
    "all is well": (GOOD, True),
    "the log tells of no convergence": (
        GOOD + "echo 'doAnalyses: iteration limit reached' > batch.log", True),
    "no log": (GOOD + "rm batch.log", True),
    "a file is missing": (GOOD + "rm $(ls *.raw | head -n 1)", True),
    "files are empty": (_each(': > "$f"'), False),
    "files are cut": (_each('head -c 150 "$f" > x; mv x "$f"'), False),
    "files are pipes": (_each('rm "$f"; mkfifo "$f"'), False),
    "files are directories": (_each('rm "$f"; mkdir "$f"; touch "$f/x"'), False),
    "files are devices": (_each('ln -sf /dev/zero "$f"'), False),
    "files are loops": (_each('rm "$f"; ln -s "$f" "$f"'), False),
    "files may not be read": (_each('mv "$f" x; ln -s /proc/1/mem "$f"'), False),
    "files are random": (_each('head -c 3000 /dev/urandom > "$f"'), False),
    "files are other files": (_each('cp batch.log "$f"'), False),
    "files are huge": (_each('truncate -s 3G "$f"'), True),
    "nodes have other names": (GOOD + "sed -i 's/v(/w(/' *.raw", False),
    "the log is binary": (GOOD + "head -c 5000 /dev/urandom >> batch.log", True),
    "the log is a directory": (GOOD + "rm batch.log; mkdir batch.log", True),
    "the log is a pipe": (GOOD + "rm batch.log; mkfifo batch.log", True),
    "the log is huge": (GOOD + "yes no | head -c 100000000 >> batch.log", True),
    "the netlist is gone": (GOOD + "rm batch.cir batch.sp 2>/dev/null", True),
    "it floods": (GOOD + "yes ngspice | head -c 80000000", True),
    "it floods standard error": (GOOD + "yes ngspice | head -c 80000000 >&2", True),
    "results of another netlist": ('cp "$ANSWERS"/other/*.raw .\n' + DONE, True),
    "scrambled files": ('cp "$ANSWERS"/scrambled/*.raw .\n' + DONE, True),
}  # fmt: skip
NOT_TOLD = {"results of another netlist", "scrambled files", "columns change places"}
"""A file in the right form with other numbers in it: nobody can tell, but nothing breaks."""
AWAY = "(trap '' TERM INT HUP; exec {}sh -c 'echo $$ > stubborn; exec sleep 300') {}&\n" + (
    "while [ ! -s stubborn ]; do sleep 0.05; done\n")  # fmt: skip
COMPANY: dict[str, str] = {
    "alone": "",
    "a child keeps the pipe": AWAY.format("", ""),
    "a child goes to another session": AWAY.format("setsid ", ""),
    "a daemon": AWAY.format("setsid ", "</dev/null >/dev/null 2>&1 "),
    "its streams are closed": "exec <&- >&- 2>&-\n",
    "it prints bytes": "head -c 100000 /dev/urandom\n",
}
ENDS: dict[str, str] = {
    "it ends": "exit 0", "it fails": "echo 'Error: no' >&2; exit 1",
    "it exits with 255": "exit 255",
    "it crashes": "kill -SEGV $$", "it is killed": "kill -KILL $$", "it is ended": "kill -TERM $$",
    "it never ends": "sleep 300",
    "it ignores signals": "trap '' TERM INT HUP\nwhile :; do sleep 1; done",
}  # fmt: skip
Values = dict[str, list[float]]


def _with(values: Values, number: float) -> bytes:
    return samples.raw_file({name: [number] for name in values})


def _others(values: Values) -> Values:
    """Every value under another name."""
    return dict(zip(values, [*list(values.values())[1:], next(iter(values.values()))]))


# Files in which the right answer is changed, or hidden, and whether it can still be read.
FORMS: dict[str, tuple[Callable[[Values], bytes], bool]] = {
    "text instead of binary": (lambda v: samples.raw_file(v, binary=False), True),
    "variables in another order": (lambda v: samples.raw_file(dict(reversed(v.items()))), True),
    "more variables": (lambda v: samples.raw_file({**v, "v(more)": [7.0]}), True),
    "fewer variables": (lambda v: samples.raw_file(dict(list(v.items())[:2])), False),
    "columns change places": (lambda v: samples.raw_file(_others(v)), True),
    "values are not numbers": (lambda v: _with(v, float("nan")), False),
    "values are infinite": (lambda v: _with(v, float("inf")), False),
    "too many points": (lambda v: samples.raw_file({k: x * 2 for k, x in v.items()}), False),
    "no points": (lambda v: samples.raw_file({k: [] for k in v}), False),
    "two plots": (lambda v: 2 * samples.raw_file(v), False),
    "bytes behind": (lambda v: samples.raw_file(v) + b"\0" * 37, True),
    "a byte is missing": (lambda v: samples.raw_file(v)[:-1], False),
    "only the head": (lambda v: samples.raw_file(v).partition(b"Binary:")[0], False),
    "no head": (lambda v: samples.raw_file(v).partition(b"Binary:\n")[2], False),
    "complex": (lambda v: samples.raw_file(v).replace(b"Flags: real", b"Flags: complex"), False),
    "a huge count": (
        lambda v: samples.raw_file(v).replace(b"Points: 1", b"Points: 99999999999"), False),
    "a negative count": (lambda v: samples.raw_file(v).replace(b"Points: 1", b"Points: -1"), False),
    "no count": (lambda v: samples.raw_file(v).replace(b"Points: 1", b"Points: x"), False),
}  # fmt: skip
for _name in FORMS:
    LEFT[_name] = (GOOD.replace("$ANSWERS/", f"$ANSWERS/{_name}/"), FORMS[_name][1])


@cache
def truth(seed: int) -> torch.Tensor:
    """(6, 3) V, what the stand-in answers for a set of samples: any numbers will do."""
    return torch.rand(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compiled(directory: Path, seed: int = 0) -> Deck:
    return imac.compile(samples.network(), samples.pairs(6, seed), directory, settings=SETTINGS)


def vectors(deck: Deck, k: int, image: int, seed: int) -> dict[str, list[float]]:
    """The operating point of one image of a batch, by the names that the driver reads."""
    item = deck.run_files.batches[k].deck
    outputs = truth(seed)[deck.run_files.batches[k].first + image].tolist()
    return {
        **{f"v({node})": [0.1] for node in item.input_nodes},
        **{f"i(v{node})": [-1e-6] for node in item.input_nodes},
        **{f"v({node})": [value] for node, value in zip(item.output_nodes, outputs)},
        "v(vdd)": [0.8], "i(vdd)": [-1e-5], "i(vneurons)": [1e-6],
    }  # fmt: skip


def write_answers(
    deck: Deck, place: Path, seed: int, form: Callable[[Values], bytes] = samples.raw_file
) -> None:
    """What the stand-in gives for a deck's netlists."""
    for k, batch in enumerate(deck.run_files.batches):
        digest = hashlib.sha256(batch.job.netlist.read_bytes()).hexdigest()
        folder = place / digest
        folder.mkdir(parents=True, exist_ok=True)
        for image, name in enumerate(batch.job.waveform_files):
            (folder / name).write_bytes(form(vectors(deck, k, image, seed)))


@cache
def answers() -> Path:
    """Answers for two sets of samples, and what lies are made of."""
    place = samples.place() / "answers"
    for seed in (1, 0):
        deck = compiled(samples.place() / f"answered{seed}", seed)
        write_answers(deck, place, seed)
    for name, (form, _) in FORMS.items():
        write_answers(deck, place / name, 0, form)
    (place / "other").mkdir()
    for image, name in enumerate(deck.run_files.batches[0].job.waveform_files):
        (place / "other" / name).write_bytes(samples.raw_file(vectors(deck, 0, image, 1)))
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
    """A lying simulator for one of the batches or all, then an honest one on what is left.

    What it leaves, in which company, and how it ends: any with any other.
    """

    name = "simulators"

    def __init__(self, left: tuple[str, ...] = tuple(LEFT), ends: tuple[str, ...] = tuple(ENDS),
                 company: tuple[str, ...] = tuple(COMPANY)) -> None:  # fmt: skip
        self.kinds = left, company, ends

    def attack(self, rng: random.Random, place: Path) -> list[Outcome]:
        left, company, ends = (rng.choice(kinds) for kinds in self.kinds)
        if (left, company, ends) == ("all is well", "alone", "it ends"):
            left = "nothing"
        lie, may_be_right = LEFT[left]
        body = f"{COMPANY[company]}{lie}\n{ENDS[ends]}"
        source = answers()
        if left == "scrambled files":
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
            seconds = 2.0 if ends in ("it never ends", "it ignores signals") else 60.0
            told = deck.run(NgSpice(str(program), timeout=seconds), workers=workers, progress=False)
            good = told.solution.converged
            if left not in NOT_TOLD:
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
            if left in NOT_TOLD or left == "the netlist is gone":
                return
            again = stand_in(place / "honest", GOOD)
            told = deck.run(NgSpice(str(again), timeout=60), progress=False)
            if not bool(told.solution.converged.all()):
                raise WrongAnswer(f"not solved when run again: {told.errors[:1]}")
            check_right(told.solution.outputs, told.solution.converged, 0)

        name = ", ".join((left, company, ends))
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
