"""Values of transistors that are kept on disk: the same to the bit, or computed anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from imac_torch.cells.finfet import AccessTransistor, _on_grid, axis
from imac_torch.config import Config
from imac_torch.finfet.kept import kept, kept_files
from imac_torch.study.doctor import examine

HOME = "imac_torch.finfet.kept."
VALUES = torch.tensor([1.0, -0.0, 5e-324, float("nan"), 1 / 3], dtype=torch.float64)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(f"{HOME}kept_place", lambda: tmp_path / "kept")
    return tmp_path / "kept"


def never() -> Tensor:
    raise AssertionError("computed again")


def bits(values: Tensor) -> bytes:
    return values.numpy().tobytes()


def test_what_is_read_is_what_was_computed_to_the_bit(place: Path) -> None:
    access = AccessTransistor(fins=2).of_circuit(Config())
    nodes = axis(0.0, 0.2, 0.05)
    computed = _on_grid(access, nodes)
    (file,) = kept_files(place)
    assert bits(_on_grid(access, nodes)) == bits(computed)
    assert kept_files(place) == [file]
    _on_grid(AccessTransistor(fins=3).of_circuit(Config()), nodes)
    assert len(kept_files(place)) == 2
    assert bits(kept("test", 1, VALUES.clone)) == bits(kept("test", 1, never)) == bits(VALUES)


@pytest.mark.parametrize("what", ["key", "kind", "code"])
def test_whatever_differs_is_another_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    kept("test", (1.0, "a"), VALUES.clone)
    if what == "code":
        monkeypatch.setattr(f"{HOME}_code", lambda: "newer")
    asked = ("other" if what == "kind" else "test", (1.0 + 2e-16 * (what == "key"), "a"))
    assert bits(kept(*asked, lambda: 2 * VALUES)) == bits(2 * VALUES)
    assert len(kept_files(place)) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "of another", "text"])
def test_what_is_damaged_is_computed_anew(place: Path, damage: str) -> None:
    kept("test", 1, VALUES.clone)
    (file,) = kept_files(place)
    whole = file.read_bytes()
    if damage == "of another":
        kept("test", 2, lambda: 2 * VALUES)
        other = next(path for path in kept_files(place) if path != file)
        file.write_bytes(other.read_bytes())
    else:
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        file.write_bytes({"cut": whole[:-9], "flipped": flipped, "text": b"no table"}[damage])
    assert bits(kept("test", 1, VALUES.clone)) == bits(VALUES)
    assert bits(kept("test", 1, never)) == bits(VALUES)  # mended


def test_no_place_and_a_full_disk_cost_time_only(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write_text("a file where the directory would be")
    assert bits(kept("test", 1, VALUES.clone)) == bits(VALUES)
    monkeypatch.setattr(f"{HOME}kept_place", lambda: None)
    assert bits(kept("test", 1, VALUES.clone)) == bits(VALUES)


def test_the_latest_used_stay(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{HOME}LIMIT", 2)
    for key in (1, 2):
        kept("test", key, VALUES.clone)
        for file in kept_files(place):  # time passes
            status = file.stat()
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns - 10**10))
    kept("test", 1, never)
    kept("test", 3, VALUES.clone)
    kept("test", 1, never)
    with pytest.raises(AssertionError, match="computed again"):
        kept("test", 2, never)


def test_doctor_says_where_they_are(place: Path) -> None:
    kept("test", 1, VALUES.clone)
    (found,) = (item for item in examine() if item.what == "tables of transistors")
    assert found.fine and found.detail.startswith("1 kept") and str(place) in found.detail
