"""One directory, one file, one table for two: each gets its own answers, or a refusal."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path

import torch

import imac_torch as imac
from fuzz import samples
from fuzz.commands import LOGISTIC, project
from fuzz.harness import Outcome, WrongAnswer, attempt
from fuzz.processes import Forked, command
from fuzz.simulators import GOOD, SETTINGS, check_right, compiled, stand_in, truth
from imac_torch.cli.exits import ExitCode
from imac_torch.config import Config
from imac_torch.conversion.storage import load
from imac_torch.errors import ImacError, NetlistError
from imac_torch.reports.report import Report
from imac_torch.simulator import NgSpice
from imac_torch.study.deck import Deck
from imac_torch.sweep import NetworkEvaluator, grid, run_sweep

REFUSED = 3


def _ngspice(place: Path, rng: random.Random) -> NgSpice:
    path = place / "ngspice"
    if not path.exists():
        stand_in(path, GOOD, pause=rng.choice((0.0, 0.05)))
    return NgSpice(str(path), timeout=60)


def two_decks(rng: random.Random, place: Path) -> None:
    """The second takes the place, and the first says so instead of answering."""
    first = compiled(place / "deck", 0)
    second: Deck | None = None
    try:
        second = compiled(place / "deck", 1)
    except NetlistError:
        if rng.random() < 0.5:
            raise
    order = [(first, 0), (second, 1)]
    rng.shuffle(order)
    for deck, seed in order:
        if deck is not None:
            try:
                told = deck.run(_ngspice(place, rng), progress=False)
            except NetlistError:
                continue
            check_right(told.solution.outputs, told.solution.converged, seed)


def edited_deck(rng: random.Random, place: Path) -> None:
    """Files that were changed, taken away or added between writing and running."""
    deck = compiled(place / "deck", 0)
    if rng.random() < 0.5:
        deck.run(_ngspice(place, rng), progress=False)
    files = sorted(p for p in deck.directory.rglob("*") if p.is_file())
    path = rng.choice(files)
    match rng.randrange(4):
        case 0:
            path.unlink()
        case 1:
            path.write_bytes(path.read_bytes() + b"* mine\n")
        case 2:
            path.write_bytes(rng.choice(files).read_bytes())
        case _:
            (path.parent / "mine.raw").write_text("mine")
    told = deck.run(_ngspice(place, rng), progress=False)
    check_right(told.solution.outputs, told.solution.converged, 0)


def _solve(place: Path, rng: random.Random, seed: int) -> Callable[[], int]:
    simulator = _ngspice(place, rng)

    def run() -> int:
        engine = imac.Spice(simulator, directory=place / "runs", settings=SETTINGS)
        try:
            result = imac.evaluate(
                samples.network(), samples.pairs(6, seed), engine=engine, progress=False
            )
        except ImacError as error:
            print(error)
            return REFUSED
        # Batches of three samples are one netlist each, in the order of the loader.
        outputs = torch.cat([result.outputs])
        return 0 if torch.equal(outputs, truth(seed)) else 9

    return run


def shared_engine(rng: random.Random, place: Path) -> None:
    """Two processes with one directory for an engine: both get their own."""
    seeds = rng.choice(((0, 1), (0, 0), (1, 0)))
    _both([Forked(_solve(place, rng, seed), place, place / f"log{k}.txt")
           for k, seed in enumerate(seeds)], (0,))  # fmt: skip


def one_deck_twice(rng: random.Random, place: Path) -> None:
    """Two processes run the same netlists: one of them may be refused."""
    deck = compiled(place / "deck", 0)
    simulator = _ngspice(place, rng)

    def run() -> int:
        try:
            told = deck.run(simulator, progress=False)
            check_right(told.solution.outputs, told.solution.converged, 0)
        except NetlistError as error:
            print(error)
            return REFUSED
        return 0 if bool(told.solution.converged.all()) else 9

    _both([Forked(run, place, place / f"log{k}.txt") for k in range(2)], (0, REFUSED))


def _both(processes: list[Forked], allowed: tuple[int, ...]) -> list[int]:
    codes = [item.wait() for item in processes]
    for code, item in zip(codes, processes):
        if code not in allowed:
            raise WrongAnswer(f"one ended with {code}: {item.text[-2000:]}")
    if 0 not in codes:
        raise WrongAnswer(f"both were refused: {processes[0].text[-1000:]}")
    return codes


def one_report(rng: random.Random, place: Path) -> None:
    """Two simulations into one directory: one report, whole, of one of them."""
    project(place)
    base = ["simulate", "n.safetensors", "--data", "mine:data", "-q", "-o", "run"]
    numbers = ("5", "7")
    codes = _both([command([*base, "-n", n], place, f"log{n}.txt") for n in numbers],
                  (0, int(ExitCode.INPUT)))  # fmt: skip
    count = len(Report.load(place / "run").labels)
    if count not in {int(n) for n, code in zip(numbers, codes) if code == 0}:
        raise WrongAnswer(f"a report of {count} samples, codes {codes}")
    if codes == [0, 0]:
        raise WrongAnswer("both say that they wrote the report, and only one is there")


def one_file(rng: random.Random, place: Path) -> None:
    """Two new files of one name: only one is written, and it is the one of who says so."""
    project(place)
    if rng.random() < 0.5:
        words = [["config", "-s", f"device.rlow={r}", "-o", "new.toml"] for r in (4e3, 6e3)]
    else:
        words = [["convert", "mine:build", *LOGISTIC, "-s", f"device.rlow={r}", "-o",
                  "new.safetensors"] for r in (4e3, 6e3)]  # fmt: skip
    codes = _both([command(item, place, f"log{k}.txt") for k, item in enumerate(words)],
                  (0, int(ExitCode.INPUT)))  # fmt: skip
    if words[0][0] == "config":
        made = Config.load(place / "new.toml")
    else:
        made = load(place / "new.safetensors").config
    if made.device.rlow not in {r for r, code in zip((4e3, 6e3), codes) if code == 0}:
        raise WrongAnswer(f"the file is of somebody who was refused, codes {codes}")
    if codes == [0, 0]:
        raise WrongAnswer("both say that they wrote a new file, and one of them is lost")


def one_table(rng: random.Random, place: Path) -> None:
    """Two sweeps into one table: one waits or is refused, every point is there."""
    project(place)
    words = ["sweep", "s.toml", "-q", "-o", "swept"]
    _both([command(words, place, f"log{k}.txt") for k in range(2)], (0, int(ExitCode.INPUT)))
    with (place / "swept/sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    if len(rows) != 8 or any(row["status"] != "done" for row in rows):
        raise WrongAnswer(f"{len(rows)} rows: {[row['status'] for row in rows]}")


def one_netlist_directory(rng: random.Random, place: Path) -> None:
    """Two processes write netlists of different samples into one directory."""
    project(place)
    base = ["netlist", "n.safetensors", "--data", "mine:data", "-o", "deck", "-n"]
    _both([command([*base, n], place, f"log{n}.txt") for n in ("3", "5")],
          (0, int(ExitCode.INPUT)))  # fmt: skip
    deck = compiled(place / "deck", 0)  # it is a whole directory of ours
    told = deck.run(_ngspice(place, rng), progress=False)
    check_right(told.solution.outputs, told.solution.converged, 0)


def swept_directory(rng: random.Random, place: Path) -> None:
    """Points of a sweep share an engine's directory; each has the answers of its own circuit."""
    model = imac.to_software(samples.network()).float()
    engine = imac.Spice(NgSpice(timeout=100), directory=place / "runs", settings=SETTINGS)
    points = grid({"device.rlow": [5e3, 2e4], "amplifier.gain": [10.0, 20.0]})
    tables = [
        run_sweep(
            points, NetworkEvaluator.of(model, samples.pairs(4), samples.LOGISTIC, **options),
            place / f"{k}.sqlite", progress=False,
        )
        for k, options in enumerate(({}, {"engine": engine}))
    ]  # fmt: skip
    for ours, theirs in zip(tables[0].rows, tables[1].rows):
        if theirs["status"] != "done" or abs(theirs["power"] / ours["power"] - 1) > 1e-3:
            raise WrongAnswer(f"{dict(theirs)} of ngspice, {dict(ours)} of the native engine")


CASES: tuple[Callable[[random.Random, Path], None], ...] = (
    two_decks, edited_deck, shared_engine, one_deck_twice, one_report, one_file, one_table,
    one_netlist_directory,
)  # fmt: skip


class Directories:
    """Two of something in one place."""

    name = "shared directories"

    def __init__(self, cases: tuple[Callable[[random.Random, Path], None], ...] = ()) -> None:
        real = (swept_directory,) if NgSpice().available() else ()
        self.cases = cases or (*CASES, *real)

    def attack(self, rng: random.Random, place: Path) -> list[Outcome]:
        case = rng.choice(self.cases)
        return [attempt(case.__name__.replace("_", " "), lambda: case(rng, place), seconds=60)]
