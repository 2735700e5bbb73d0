"""What stands elsewhere since version 0.1: its old names work for one release."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from types import ModuleType
from typing import Any, Final

__all__ = ["MOVED", "RENAMED", "RESULTS", "keep_old_names", "old_name"]

MOVED: Final = {
    "ablation": "conversion.ablation",
    "activations": "periphery.activations",
    "analog": "model.network",
    "calibration": "conversion.calibration",
    "characterization": "study.characterization",
    "crossbar": "circuit.crossbar",
    "deck": "study.deck",
    "energy": "results.energy",
    "engine": "simulator.engine",
    "evaluation": "study.evaluation",
    "files": "base.files",
    "ir_drop": "dc.ir_drop",
    "latency": "results.latency",
    "layers": "model.linear",
    "montecarlo": "study.montecarlo",
    "nodal": "reference.nodal",
    "nonlinear": "reference.nonlinear",
    "overrides": "config.assignment",
    "plots": "reports.plots",
    "presets": "devices.presets",
    "progress": "base.progress",
    "resources": "base.resources",
    "solution": "results.solution",
    "sources": "study.sources",
    "storage": "conversion.storage",
    "tables": "base.tables",
    "transient_verification": "study.transient_verification",
    "units": "base.units",
    "userneuron": "study.userneuron",
    "variation": "model.variation",
    "verification": "study.verification",
    "waveform": "results.waveform",
    "wires": "circuit.wires",
}
"""Modules: old name to new one, both below the package."""

RESULTS: Final = {
    "Energy": "results.energy",
    "InferenceReport": "transient.inference_report",
    "Latency": "results.latency",
    "LayerRecord": "model.network",
    "LayerSolution": "results.solution",
    "Power": "results.solution",
    "Scaling": "model.linear",
    "Solution": "results.solution",
    "TransientResult": "transient.result",
}
"""Types of results that the package itself had: name to module below the package."""

RENAMED: Final = {
    "characterize": "tabulate_neuron",
    "verify": "verify_nodes",
}
"""Functions of the package whose names meant something else on the command line."""


class _MovedModule(ModuleType):
    """Gives what the module at the new place has, and says where that is."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__(old, f"See {new}.")
        self._new = new

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _warn(self.__name__, self._new, 3)
        return getattr(import_module(self._new), name)


def keep_old_names(package: str) -> None:
    """Let ``import package.old`` work; nothing is imported before it is used.

    Args:
        package: The package's name.
    """
    for old, new in MOVED.items():
        name = f"{package}.{old}"
        sys.modules.setdefault(name, _MovedModule(name, f"{package}.{new}"))


def old_name(package: str, name: str) -> object:
    """What a package has no more of its own, for its ``__getattr__``.

    Raises:
        AttributeError: It never had that.
    """
    if name in MOVED:
        return sys.modules[f"{package}.{name}"]
    if name in RENAMED:
        _warn(f"{package}.{name}", f"{package}.{RENAMED[name]}", 4)
        return getattr(sys.modules[package], RENAMED[name])
    if name not in RESULTS:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    place = f"{package}.{RESULTS[name]}"
    _warn(f"{package}.{name}", f"{place}.{name}", 4)
    return getattr(import_module(place), name)


def _warn(old: str, new: str, stacklevel: int) -> None:
    warnings.warn(
        f"{old} is now {new}; the old name goes with version 0.3",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
