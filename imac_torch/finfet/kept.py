"""What takes seconds to compute from transistors, kept on disk for the next process.

Only an economy: a file holds the model's values, bit for bit, at the nodes of a table. Its name is
a digest of all that they depend on: model cards, temperature, voltages, this package's code, torch
and the processor's instructions. Files lie beside the compiled kernels, are written in one step,
and only the latest stay; what is damaged or cannot be read is computed anew.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from imac_torch.base.files import read_tensors, write_tensors
from imac_torch.kernels.ahead import cache_place
from imac_torch.kernels.compiled import obstacle, sources_digest

__all__ = ["kept", "kept_files", "kept_place"]

LIMIT: Final = 64
"""Files, of 2 MB each at most: those of the last circuits."""
CODE: Final = ("base", "finfet", "numeric", "periphery/neuron", "cells")
"""Folders of the package whose code the values depend on."""


def kept_place() -> Path | None:
    """Where tables are kept; None: nowhere."""
    place = None if obstacle() is not None else cache_place()
    return None if place is None else place / "transistors"


def kept_files(place: Path) -> list[Path]:
    """All of them, the latest used first."""
    found = []
    for path in place.glob("*.safetensors"):
        with suppress(OSError):  # another process has removed it
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def kept(what: str, key: object, compute: Callable[[], Tensor]) -> Tensor:
    """The values of an earlier process, or those that are computed now.

    Args:
        what: Kind of values, a word.
        key: Its representation says all that they depend on, besides the code.
        compute: Gives them, float64 on the CPU.
    """
    place, code = kept_place(), _code()
    if place is None or code is None:
        return compute()
    name = hashlib.sha256(repr((what, key, code)).encode()).hexdigest()
    path = place / f"{name[:40]}.safetensors"
    with suppress(OSError, ValueError, KeyError):  # absent or damaged
        tensors, metadata = read_tensors(path)
        values = tensors["values"]
        if metadata["of"] == name and metadata["digest"] == _digest(values):
            with suppress(OSError):  # of somebody else
                os.utime(path)
            return values
    values = compute()
    with suppress(OSError):  # read-only, or full
        write_tensors(path, {"values": values}, {"of": name, "digest": _digest(values)})
        for old in kept_files(place)[LIMIT:]:
            old.unlink(missing_ok=True)
    return values


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


@functools.cache
def _code() -> str | None:
    """Of this package, torch and the processor; None where sources cannot be read."""
    root = Path(__file__).parent.parent
    files = [path for folder in CODE for path in (root / folder).glob("*.py")]
    found = sources_digest(files) if files else None
    if found is None:
        return None
    return f"{found} {torch.__version__} {torch.backends.cpu.get_cpu_capability()}"
