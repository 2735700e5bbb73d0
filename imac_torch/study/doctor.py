"""What an installation has and lacks: versions, files, kernels, simulators, places to write."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import torch

from imac_torch.base.resources import data_file, spice_file
from imac_torch.config.kinds import ENGINES
from imac_torch.errors import ImacError
from imac_torch.finfet import kept
from imac_torch.kernels.ahead import cache_place
from imac_torch.kernels.compiled import obstacle
from imac_torch.reports.report import environment
from imac_torch.simulator import Simulator

__all__ = ["Finding", "examine"]

OPTIONAL: Final = {
    "torchvision": "named data sets but digits, and its models",
    "scikit-learn": "the data set digits",
    "plotly": "reports whose charts can be pointed at and zoomed",
    "optuna": "search",
    "distributed": "sweeps on a Dask cluster",
}
"""Packages that something needs, and what."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        fine: Whether everything that it is for works; None: it is not needed, and not there.
        detail: What was found, and where something is missing what that costs.
    """

    what: str
    fine: bool | None
    detail: str


def examine() -> Iterator[Finding]:
    """Look at everything, without changing anything; simulators are asked for their versions."""
    for package, number in environment().items():
        yield Finding(package, number != "not installed", number)
    for package, purpose in OPTIONAL.items():
        try:
            yield Finding(package, True, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(package, None, f"not installed; needed for {purpose}")
    yield _files()
    yield from _kernels()
    for name in ENGINES.names:
        kind = ENGINES.get(name)
        if isinstance(kind, type) and issubclass(kind, Simulator):
            yield _simulator(kind())
    for what, path in (("temporary files", Path(tempfile.gettempdir())), ("here", Path.cwd())):
        fine = os.access(path, os.W_OK)
        yield Finding(what, fine, f"{path}{'' if fine else ' is read-only: results go elsewhere'}")
    yield _processors()


def _files() -> Finding:
    try:
        found = spice_file("amplifier.sp").parent, data_file("README.md").parent
    except ImacError as error:
        return Finding("package files", False, str(error))
    return Finding("package files", True, ", ".join(map(str, found)))


def _kernels() -> Iterator[Finding]:
    why = obstacle()
    if why is not None:
        yield Finding(
            "compiled kernels", False, f"{why}: native solving is hundreds of times as slow"
        )
        return
    place = cache_place()
    if place is None:
        yield Finding("compiled kernels", False, (
            "compiled anew by every process (half a minute), and transistors tabulated: the "
            "package's directory is read-only and there is no home directory; set NUMBA_CACHE_DIR"
        ))  # fmt: skip
        return
    number = len(list(place.glob("*.nbc"))) if place.is_dir() else 0
    above = next(path for path in (place, *place.parents) if path.exists())
    fine = number > 0 or os.access(above, os.W_OK)
    advice = "" if fine else " cannot be written; set NUMBA_CACHE_DIR"
    said = f"{number} kept" if number else "none yet: the first run compiles them (half a minute)"
    yield Finding("compiled kernels", fine, f"{said}, {place}{advice}")
    tables = kept.kept_place()
    found = [] if tables is None else kept.kept_files(tables)
    size = sum(path.stat().st_size for path in found) / 1e6
    said = f"{len(found)} kept, {size:.1f} MB" if found else "none yet: the first run computes them"
    yield Finding("tables of transistors", fine, f"{said}, {tables}{advice}")


def _simulator(simulator: Simulator) -> Finding:
    if not simulator.available():
        return Finding(simulator.name, None, f"not found. {simulator.install_hint}")
    try:
        found = f"{simulator.version()}, {simulator.find()}"
    except ImacError as error:
        return Finding(simulator.name, False, str(error))
    parts = simulator.abilities()
    return Finding(simulator.name, True, "; ".join([found, *parts]))


def _processors() -> Finding:
    cards = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    threads = f"{os.cpu_count()} processors, {torch.get_num_threads()} threads of torch"
    return Finding("computing", True, f"{threads}; GPU: {', '.join(cards) or 'none'}")
