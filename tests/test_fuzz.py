"""A short part of ``make fuzz``, and whether it would notice anything at all."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from fuzz import samples
from fuzz.areas import AREAS, SHARES
from fuzz.commands import Commands
from fuzz.directories import Directories, edited_deck, one_file, two_decks
from fuzz.documents import Documents
from fuzz.harness import BAD, CLEAR, RAN, Outcome, Tally, attempt, run_area
from fuzz.kills import Kills
from fuzz.readers import READERS, Reader, Readers
from fuzz.simulators import COMPANY, ENDS, LEFT, Simulators

from imac_torch.errors import DataError

SEED = 1
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, forks and /proc")


def clean(tally: Tally) -> None:
    assert not tally.bad, "\n".join(tally.bad)
    assert tally.total() == tally.total(CLEAR) + tally.total(RAN) > 0


def test_readers(tmp_path: Path) -> None:
    tally = run_area(Readers(), SEED, tmp_path, count=75)
    clean(tally)
    assert {reader.name for reader in READERS} == set(tally.counts)
    assert tally.total(CLEAR) > 30 and tally.total(RAN) > 9  # neither all refused nor all taken


def test_documents(tmp_path: Path) -> None:
    clean(run_area(Documents(examples=20), SEED, tmp_path, count=12))


def test_commands(tmp_path: Path) -> None:
    clean(run_area(Commands(separate=0.0), SEED, tmp_path, count=20))


def test_simulators(tmp_path: Path) -> None:
    left = ("a file is missing", "files are pipes", "files are directories", "two plots")
    area = Simulators(left, ("it ends", "it crashes"), ("alone", "a daemon"))
    clean(run_area(area, SEED, tmp_path, count=4))


def test_simulators_misbehave_in_many_ways() -> None:
    assert len(LEFT) * len(COMPANY) * len(ENDS) > 1000


def test_kills(tmp_path: Path) -> None:
    clean(run_area(Kills(("config", "report", "sweep"), separate=0.0), SEED, tmp_path, count=4))


def test_directories(tmp_path: Path) -> None:
    clean(run_area(Directories((two_decks, edited_deck, one_file)), SEED, tmp_path, count=5))


def test_every_area_has_its_share() -> None:
    assert set(AREAS) == set(SHARES)
    assert sum(SHARES.values()) == pytest.approx(1.0)


def falls(error: BaseException):
    def read(path: Path) -> None:
        raise error

    return read


def endless(path: Path) -> None:
    while True:
        time.sleep(0)


@pytest.mark.parametrize(
    "read",
    [falls(KeyError("x")), falls(MemoryError()), falls(SystemExit(0)), falls(DataError("")),
     falls(RecursionError()), endless],
    ids=["KeyError", "MemoryError", "SystemExit", "no message", "recursion", "endless"],
)  # fmt: skip
def test_what_is_bad_is_counted_and_kept(read, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fuzz.harness.SECONDS", 0.2)
    reader = Reader("one", READERS[0].make, lambda path: read(path))
    found = attempt("one", lambda: reader.read(tmp_path), seconds=0.2)
    assert found.kind == BAD
    tally = run_area(Readers((reader,)), SEED, tmp_path / "failures", count=1) if (
        read is not endless) else Tally({}, [])
    if read is not endless:
        assert (tally.total(BAD), tally.total()) == (1, 1)
        text = (tmp_path / "failures/readers-0/WHAT_HAPPENED.txt").read_text()
        assert f"SEED={SEED} --area readers --case 0" in text
        assert (tmp_path / "failures/readers-0/mine.py").exists()  # what the attempt was made of


def test_messages_are_no_longer_than_anybody_reads() -> None:
    text = str(DataError(f"begin {'x' * 10**6} end"))
    assert len(text) < 5000 and text.startswith("begin") and text.endswith("end")


def test_an_attempt_depends_on_its_number_only(tmp_path: Path) -> None:
    def contents(first: int, count: int, place: Path) -> dict[str, bytes]:
        reader = Reader("one", READERS[1].make, falls(KeyError()))
        run_area(Readers((reader,)), SEED, place, first=first, count=count)
        return {p.parent.name: p.read_bytes() for p in place.rglob("c.json") if p.is_file()}

    several = contents(0, 6, tmp_path / "several")
    alone = contents(4, 1, tmp_path / "alone")
    assert several["readers-4"] == alone["readers-4"]


def test_tallies_are_stored(tmp_path: Path) -> None:
    tally = Tally()
    tally.add(Outcome(RAN, "a"))
    tally.add(Outcome(BAD, "b", "line\nlast"))
    tally.save(tmp_path / "t.json")
    again = Tally.load(tmp_path / "t.json")
    assert (again.counts, again.bad) == (tally.counts, ["b: last"])
    assert json.loads((tmp_path / "t.json").read_text())["counts"]["a"] == {RAN: 1}


def test_samples_are_valid(tmp_path: Path) -> None:
    """Readers take what nobody has changed: otherwise only refusals would be tested."""
    untouched = {reader.name: attempt(reader.name, lambda r=reader: r.read(_valid(r, tmp_path)))
                 for reader in READERS if reader.name in VALID}  # fmt: skip
    assert {item.kind for item in untouched.values()} == {RAN}, untouched


VALID = {
    "network": ("n.safetensors", lambda: samples.networks()[0]),
    "weights": ("w.safetensors", samples.weights),
    "neuron table": ("t.safetensors", samples.table),
    "sub-circuit": ("a.sp", lambda: samples.subcircuits()[0]),
    "model cards": ("m.sp", samples.cards),
    "ngspice raw file": ("a.raw", lambda: samples.raw_file(samples.RAW)),
    "sweep table": ("s.sqlite", samples.sweep_table),
    "sweep file": ("s.toml", samples.SWEEP.encode),
    "CSV": ("a.csv", samples.CSV["W1.csv"].encode),
}  # fmt: skip


def _valid(reader: Reader, place: Path) -> Path:
    name, content = VALID[reader.name]
    (place / "mine.py").write_text(samples.MODULE)
    sys.path.insert(0, str(place))
    (place / name).write_bytes(content())
    return place / name
