"""Files are whole or as they were, with the permissions that open would give."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError

from imac_torch.base import files
from imac_torch.base.files import (
    LOCK,
    atomic_path,
    check_place,
    exclusive,
    parse_json,
    parse_toml,
    read_tensors,
    write_tensors,
    write_text,
)
from imac_torch.config import Config
from imac_torch.errors import ConfigError


def names(directory: Path) -> list[str]:
    return sorted(item.name for item in directory.iterdir())


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_open(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        (tmp_path / "plain").write_text("")
        write_text(tmp_path / "ours", "")
    finally:
        os.umask(before)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "ours").chmod(0o640)
    write_text(tmp_path / "ours", "again")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o640


def test_the_mask_of_the_process_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the mask belongs to all threads"))
    write_text(tmp_path / "file", "text")


def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "file", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_error_midway_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "file") as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_links_are_followed_and_new_files_are_new(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "target", "newer", new=True)
    with pytest.raises(FileExistsError), atomic_path(tmp_path / "late", new=True) as path:
        path.write_text("ours")
        (tmp_path / "late").write_text("somebody else's")
    assert (tmp_path / "late").read_text() == "somebody else's"


def test_letters_without_an_encoding_are_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"odd\xff")  # a name in another encoding
    assert write_text(tmp_path / "file", name).read_bytes() == b"odd\\udcff"


def test_places_are_looked_at_without_leaving_anything(tmp_path: Path) -> None:
    check_place(tmp_path / "a" / "b", directory=True)
    check_place(tmp_path / "a" / "file.toml")
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        check_place(tmp_path / "file" / "run", directory=True)
    with pytest.raises(NotADirectoryError):
        check_place(tmp_path / "file", directory=True)
    with pytest.raises(IsADirectoryError):
        check_place(tmp_path)
    with pytest.raises(OSError, match="too long"):
        check_place(tmp_path / ("x" * 300) / "y", directory=True)


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_half_a_configuration_is_no_configuration(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"whole{suffix}"
    Config(temperature=310.0).save(path)
    assert Config.load(path).temperature == 310.0
    text = path.read_text()
    half = tmp_path / f"half{suffix}"
    for end in range(0, len(text) - 2, max(1, len(text) // 60)):
        half.write_text(text[:end])
        with pytest.raises(ConfigError):
            Config.load(half)


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="pipe"):
        check_place(pipe)
    with pytest.raises(OSError, match="pipe"):
        write_text(pipe, "text")
    assert pipe.is_fifo()


@pytest.mark.parametrize("text", ["[" * 100_000, "{\"a\":" * 100_000, "[" * 200 + "]" * 200])
def test_what_is_nested_too_deeply_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(text)
    assert parse_json("[" * 20 + "]" * 20)


def test_what_is_nested_too_deeply_is_no_toml() -> None:
    for text in ("x = " + "[" * 100_000, "a." * 5000 + "b = 1"):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_toml(text)


def test_directories_are_filled_by_one_at_a_time(tmp_path: Path) -> None:
    place = tmp_path / "new/run"
    with exclusive(place, results=True):
        with exclusive(place, results=True):  # the same thread, further inside
            pass
        with pytest.raises(BlockingIOError, match="in use by another run"), exclusive(place):
            pass
        write_text(place / "file", "text")
    assert names(place) == ["file"]
    with FileLock(place / LOCK), pytest.raises(BlockingIOError), exclusive(place, results=True):
        pass
    with exclusive(tmp_path / "a/b"):
        pass
    assert names(tmp_path) == ["new"]


def test_tensors_are_whole_or_as_they_were(tmp_path: Path, monkeypatch) -> None:
    path = write_tensors(tmp_path / "t.safetensors", {"a": torch.ones(2)})

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, {"a": torch.zeros(2)})
    assert names(tmp_path) == ["t.safetensors"]
    assert read_tensors(path)[0]["a"].tolist() == [1.0, 1.0]
