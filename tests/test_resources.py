from pathlib import Path

import pytest

from imac_torch.base import resources
from imac_torch.base.resources import data_file, spice_file
from imac_torch.errors import DataError


@pytest.fixture(params=["checkout", "wheel"])
def package(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> Path:
    """The package as in a checkout or as in site-packages, with a file of each kind."""
    root = tmp_path / "imac_torch"
    prefix = "_"
    if request.param == "checkout":
        (tmp_path / "pyproject.toml").touch()
        # A copy that an older editable install left must not be preferred.
        (root / "_spice").mkdir(parents=True)
        (root / "_spice" / "neuron.sp").write_text("old")
        root, prefix = tmp_path, ""
    for kind in ("spice", "data"):
        directory = root / f"{prefix}{kind}" / "sub"
        directory.mkdir(parents=True)
        (directory / "inner.txt").write_text(kind)
        (directory.parent / "neuron.sp").write_text(f"new {kind}")
    (tmp_path / "secret.sp").write_text("secret")
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "imac_torch")
    return tmp_path


def test_files_are_found(package: Path) -> None:
    assert spice_file("neuron.sp").read_text() == "new spice"
    assert data_file("neuron.sp").read_text() == "new data"
    assert data_file("sub/inner.txt").read_text() == "data"


@pytest.mark.parametrize("name", ["../secret.sp", "../../secret.sp", "/etc/passwd", "sub/../../x"])
def test_names_do_not_lead_out(package: Path, name: str) -> None:
    with pytest.raises(DataError, match="leads out"):
        spice_file(name)


def test_what_is_missing_is_said_together_with_what_is_there(package: Path) -> None:
    with pytest.raises(DataError, match=r"no file 'neurone.sp'.*neuron.sp, sub/inner.txt"):
        spice_file("neurone.sp")
    with pytest.raises(DataError, match="no file ''"):
        data_file("")


def test_the_sub_circuits_of_this_installation() -> None:
    text = spice_file("amplifier.sp").read_text(encoding="utf-8")
    assert ".subckt" in text.lower()
