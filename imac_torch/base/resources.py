"""Where the package's own files are: SPICE sub-circuits and sample data.

In a checkout they are the directories ``spice/`` and ``data/`` at its top, in an installed wheel
``_spice/`` and ``_data/`` inside the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from imac_torch.errors import DataError

__all__ = ["data_file", "spice_file"]

_PACKAGE: Final = Path(__file__).resolve().parent.parent


def spice_file(name: str) -> Path:
    """Path of a SPICE file that belongs to the package.

    Args:
        name: File name, or a relative path below ``spice/`` with forward slashes.

    Returns:
        Path of an existing file; it must not be written to.

    Raises:
        DataError: There is no such file, or the name leads out of the directory.
    """
    return _find("spice", name)


def data_file(name: str) -> Path:
    """Path of a sample data file that belongs to the package; otherwise as :func:`spice_file`."""
    return _find("data", name)


def _find(kind: str, name: str) -> Path:
    # A checkout comes first: an editable install may have left a copy of an older state behind.
    checkout = _PACKAGE.parent
    in_checkout = (checkout / "pyproject.toml").is_file()
    directory = checkout / kind if in_checkout else _PACKAGE / f"_{kind}"
    path = (directory / name).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise DataError(f"{name!r} leads out of the package's {kind} directory")
    if not path.is_file():
        known = sorted(
            file.relative_to(directory).as_posix()
            for file in directory.rglob("*")
            if file.is_file()
        )
        raise DataError(f"no file {name!r} in {directory}; there are {', '.join(known) or 'none'}")
    return path
