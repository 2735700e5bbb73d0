"""Tables of numbers from CSV files, with the line named that is wrong."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imac_torch.base.files import LARGEST_DATA, regular_file
from imac_torch.errors import DataError

__all__ = ["line_of_row", "read_csv"]

# A file edited on Windows may start with a byte order mark.
_ENCODING = "utf-8-sig"


def read_csv(path: str | Path) -> Tensor:
    """Read a table of finite numbers, separated by commas, without a header.

    Args:
        path: The file. Blank lines in it are skipped.

    Returns:
        Shape (rows, columns), float64.

    Raises:
        DataError: The file is missing or empty, its lines differ in length (a truncated file), or
            an entry is not a finite number; file and line are named.
    """
    path = Path(path)
    try:
        regular_file(path, limit=LARGEST_DATA)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numpy's, about an empty file
            table = np.loadtxt(
                path, delimiter=",", ndmin=2, comments=None, encoding=_ENCODING, dtype=np.float64
            )
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        _explain(path)
        raise DataError(f"{path}: {error}") from error
    if not table.size:
        raise DataError(f"{path}: no numbers in it")
    if not np.isfinite(table).all():
        _explain(path)
    return torch.from_numpy(table)


def line_of_row(path: str | Path, row: int) -> int:
    """The line of a file that holds a row of its table.

    Args:
        path: A file that :func:`read_csv` reads.
        row: Row of the table, from 0.

    Returns:
        The line, from 1; blank lines count.
    """
    filled = [number for number, line in _lines(Path(path)) if line]
    return filled[row]


def _lines(path: Path) -> list[tuple[int, str]]:
    text = path.read_text(encoding=_ENCODING)
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]


def _explain(path: Path) -> None:
    """Find the first line that is wrong, which the fast reader does not tell.

    Raises:
        DataError: Such a line was found.
    """
    width = None
    for number, line in _lines(path):
        if not line:
            continue
        entries = line.split(",")
        for column, entry in enumerate(entries, start=1):
            try:
                value = float(entry)
            except ValueError:
                problem = f"{entry.strip()!r} is not a number" if entry.strip() else "is empty"
                raise DataError(f"{path}, line {number}: column {column}: {problem}") from None
            if not math.isfinite(value):
                raise DataError(f"{path}, line {number}: column {column} is {value}, not finite")
        width = len(entries) if width is None else width
        if len(entries) != width:
            raise DataError(
                f"{path}, line {number}: {len(entries)} entries, the lines before have {width}; "
                "is the file truncated?"
            )
