"""Run directories: nothing that is not ours is ever overwritten."""

from __future__ import annotations

import json

import pytest

from imac_torch.errors import NetlistError
from imac_torch.netlist.rundir import MANIFEST, write_run_directory

FILES = {"circuit/a.sp": "* a\n", "batch_0/b.cir": "* b\n"}


def test_new_directory_and_manifest(tmp_path):
    directory = tmp_path / "deep" / "run"
    write_run_directory(directory, FILES, {"dialect": "ngspice"})
    for name, text in FILES.items():
        assert (directory / name).read_text() == text
    manifest = json.loads((directory / MANIFEST).read_text())
    assert manifest["complete"] is True
    assert manifest["dialect"] == "ngspice"
    assert set(manifest["files"]) == set(FILES)


def test_same_contents_are_left_alone_with_their_results(tmp_path):
    write_run_directory(tmp_path, FILES, {})
    before = (tmp_path / "circuit/a.sp").stat()
    result = tmp_path / "batch_0" / "b.raw"
    result.write_text("result")
    write_run_directory(tmp_path, FILES, {})
    after = (tmp_path / "circuit/a.sp").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert result.read_text() == "result"


def test_changed_run_replaces_and_removes_its_own_files(tmp_path):
    write_run_directory(tmp_path, FILES, {})
    write_run_directory(tmp_path, {"circuit/a.sp": "* new\n"}, {})
    assert (tmp_path / "circuit/a.sp").read_text() == "* new\n"
    assert not (tmp_path / "batch_0/b.cir").exists()


def test_interrupted_writing_can_be_repeated(tmp_path, monkeypatch):
    write_run_directory(tmp_path, FILES, {})
    changed = {"circuit/a.sp": "* new\n", "circuit/c.sp": "* c\n"}
    from imac_torch.netlist import rundir

    write = rundir.write_text

    def fail(path, text):
        if path.name == "c.sp":
            raise OSError("disk full")
        write(path, text)

    monkeypatch.setattr(rundir, "write_text", fail)
    with pytest.raises(NetlistError, match="disk full"):
        write_run_directory(tmp_path, changed, {})
    assert json.loads((tmp_path / MANIFEST).read_text())["complete"] is False
    monkeypatch.undo()
    write_run_directory(tmp_path, FILES, {})
    write_run_directory(tmp_path, changed, {})
    assert (tmp_path / "circuit/c.sp").read_text() == "* c\n"


def test_somebody_elses_directory_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(NetlistError, match="not a run directory"):
        write_run_directory(tmp_path, FILES, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("again", [FILES, {}], ids=["replace", "remove"])
def test_edited_file_is_refused(tmp_path, again):
    write_run_directory(tmp_path, FILES, {})
    (tmp_path / "circuit/a.sp").write_text("* my own experiment\n")
    with pytest.raises(NetlistError, match=r"a\.sp was changed"):
        write_run_directory(tmp_path, again, {})
    assert (tmp_path / "circuit/a.sp").read_text() == "* my own experiment\n"


def test_foreign_file_in_the_way_is_refused(tmp_path):
    write_run_directory(tmp_path, FILES, {})
    (tmp_path / "circuit/new.sp").write_text("* mine\n")
    with pytest.raises(NetlistError, match=r"new\.sp"):
        write_run_directory(tmp_path, {**FILES, "circuit/new.sp": "* ours\n"}, {})
    assert (tmp_path / "circuit/new.sp").read_text() == "* mine\n"


@pytest.mark.parametrize("content", ["{", '{"tool": "other", "format": 1, "files": {}}', "[]"])
def test_unusable_manifest_is_refused(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(NetlistError, match="cannot be used"):
        write_run_directory(tmp_path, FILES, {})


def test_manifest_cannot_reach_outside(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("keep")
    run = tmp_path / "run"
    run.mkdir()
    content = {"tool": "imac_torch", "format": 1, "files": {"../victim": ["x"]}}
    (run / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(NetlistError, match="outside"):
        write_run_directory(run, FILES, {})
    assert victim.read_text() == "keep"


@pytest.mark.parametrize("name", ["../a", "/a", "", "a/../../b", MANIFEST])
def test_file_names_stay_inside(tmp_path, name):
    with pytest.raises(NetlistError, match="not a file name inside"):
        write_run_directory(tmp_path / "run", {name: ""}, {})


def test_unwritable_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NetlistError, match="cannot be written"):
        write_run_directory(tmp_path / "file" / "run", FILES, {})
    with pytest.raises(NetlistError, match="not a directory"):
        write_run_directory(tmp_path / "file", FILES, {})
