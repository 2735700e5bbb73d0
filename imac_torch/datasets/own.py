"""Labelled samples of one's own in one file: arrays of numpy, or a table."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from imac_torch.base.files import regular_file
from imac_torch.datasets.csvfile import read_csv
from imac_torch.errors import DataError

__all__ = ["SUFFIXES", "read_samples"]

SUFFIXES: Final = (".npz", ".csv")
LARGEST: Final = 2**32
"""Bytes of an unpacked file."""
_INPUTS: Final = ("inputs", "images", "x")
_LABELS: Final = ("labels", "y")


def read_samples(path: Path) -> TensorDataset:
    """Samples and their classes.

    Args:
        path: ``.npz``: arrays ``inputs`` (or ``images``, ``x``) of shape (B, …) and ``labels`` (or
            ``y``) of shape (B,). ``.csv``: a sample per line, its inputs and then its class,
            without a header.

    Returns:
        Pairs of float64 inputs and int64 classes. Inputs are as the model takes them.

    Raises:
        DataError: The file cannot be read, lacks one of them, or they do not fit; inputs are the
            integers of pixels.
    """
    if path.suffix == ".csv":
        table = read_csv(path)
        if table.shape[1] < 2:
            raise DataError(f"{path}: a line has inputs and, last, a class: one column is too few")
        inputs, labels = table[:, :-1], table[:, -1]
    else:
        arrays = _arrays(path)
        inputs, labels = _named(arrays, _INPUTS, path), _named(arrays, _LABELS, path)
    if labels.shape != inputs.shape[:1] or inputs.ndim < 2 or not len(inputs):
        raise DataError(
            f"{path}: inputs of shape {tuple(inputs.shape)} and labels of shape "
            f"{tuple(labels.shape)}; (B, …) and (B,) are needed"
        )
    if not inputs.is_floating_point() and bool((inputs.abs() > 1).any()):
        raise DataError(
            f"{path}: inputs are integers up to {int(inputs.abs().max())}: scale them as for the "
            "training of the model (-1 to 1 are vss to vdd)"
        )
    classes = labels.to(torch.int64)
    if bool((classes != labels).any()):
        raise DataError(f"{path}: labels are classes, 0, 1, …; not all of these are whole numbers")
    return TensorDataset(inputs.to(torch.float64), classes)


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of a file, none of them of Python objects."""
    try:
        regular_file(path, limit=LARGEST)
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > LARGEST:
            raise DataError(f"{path}: {size} bytes unpacked; {LARGEST} are read at most")
        with np.load(path, allow_pickle=False) as found:
            names = [name for name in (*_INPUTS, *_LABELS) if name in found.files]
            return {name: found[name] for name in names}
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except Exception as error:  # whatever numpy makes of damaged bytes
        raise DataError(f"{path}: no file of numpy.savez: {error}") from error


def _named(arrays: Mapping[str, Any], names: tuple[str, ...], path: Path) -> Tensor:
    found = next((arrays[name] for name in names if name in arrays), None)
    if found is None:
        raise DataError(f"{path}: no array {' or '.join(names)} in it")
    if found.dtype.kind not in "fiub":
        raise DataError(f"{path}: {names[0]} are {found.dtype}; numbers are needed")
    return torch.from_numpy(found.astype(np.float64 if found.dtype.kind == "f" else np.int64))
