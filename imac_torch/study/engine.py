"""What evaluates a network: the native engine or a simulator, behind one interface."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from imac_torch.dc.native import Native
from imac_torch.errors import SimulatorError
from imac_torch.model.network import IMACNetwork
from imac_torch.netlist import NetlistSettings
from imac_torch.results.solution import Solution
from imac_torch.simulator import Simulator, SpiceSolution, check
from imac_torch.study.deck import write_deck


class BoundEngine(Protocol):
    """An engine with one network's circuit ready."""

    def solve(self, inputs: Tensor, *, power: bool = True) -> Solution:
        """Solve input voltages (B, N), V."""
        ...

    def description(self) -> dict[str, str]:
        """What solves, in words, for reports."""
        ...


@dataclass(frozen=True)
class Spice:
    """Solve by writing netlists and running a simulator.

    Attributes:
        simulator: ``NgSpice()`` or ``HSpice()``.
        directory: Where to keep runs, each set of netlists in a directory of its own, so that
            many engines, points of a sweep and processes may use one; None: a temporary directory,
            removed when done unless something failed in it.
        settings: Analysis; by default exact operating points.
        workers: Simultaneous runs.
        trust: Take sub-circuit files as they are; see :func:`imac_torch.compile`.
    """

    simulator: Simulator
    directory: Path | None = None
    settings: NetlistSettings = field(default_factory=lambda: NetlistSettings(analysis="dc"))
    workers: int = 1
    trust: bool = False


Engine = Native | Spice | Simulator
"""What ``evaluate`` accepts."""


@dataclass
class _BoundNative:
    network: IMACNetwork
    engine: Native

    def __post_init__(self) -> None:
        self.prepared = self.network.prepare(self.engine)

    def solve(self, inputs: Tensor, *, power: bool = True) -> Solution:
        return self.engine.solve(self.prepared, inputs, power=power)

    def description(self) -> dict[str, str]:
        methods = sorted({f"{info.method} ({info.kernel})" for info in self.prepared.methods})
        return {
            "name": "native",
            "elimination": ", ".join(methods),
            "device model": self.engine.device_model,
            "Newton tolerance": f"{self.engine.newton.tolerance:g} V",
        }


@dataclass
class _BoundSpice:
    network: IMACNetwork
    engine: Spice
    solved: int = 0
    errors: list[SimulatorError] = field(default_factory=list)

    def solve(self, inputs: Tensor, *, power: bool = True) -> Solution:
        if self.engine.directory is not None:
            spice = self._run(inputs, Path(self.engine.directory))
        else:
            temporary = Path(tempfile.mkdtemp(prefix="imac_torch_"))
            keep = False
            try:
                spice = self._run(inputs, temporary)
                keep = bool(spice.errors)  # they name files in it
            finally:
                if not keep:
                    shutil.rmtree(temporary)
        self.errors.extend(spice.errors)
        self.solved += int(spice.solution.converged.sum())
        if not self.solved:
            check(spice)  # nothing has come back so far: the error says why
        return spice.solution

    def _run(self, inputs: Tensor, root: Path) -> SpiceSolution:
        deck = write_deck(
            self.network,
            inputs.cpu(),
            torch.full((len(inputs),), -1, device="cpu"),
            root,
            dialect="hspice" if self.engine.simulator.name == "hspice" else "ngspice",
            settings=self.engine.settings,
            trust=self.engine.trust,
            shared=True,
        )
        return deck.run(self.engine.simulator, workers=self.engine.workers, progress=False)

    def description(self) -> dict[str, str]:
        simulator = self.engine.simulator
        return {
            "name": simulator.name,
            "version": simulator.version(),
            "analysis": self.engine.settings.analysis,
            **({"first failure": str(self.errors[0])} if self.errors else {}),
        }


def bind(network: IMACNetwork, engine: Engine | None) -> BoundEngine:
    """Make an engine ready for a network's present conductances.

    Args:
        network: The network.
        engine: None: the network's own native engine.

    Raises:
        SimulatorNotFoundError: A simulator was asked for that is not installed.
    """
    if engine is None:
        engine = network.engine
    if isinstance(engine, Native):
        return _BoundNative(network, engine)
    if isinstance(engine, Simulator):
        engine = Spice(engine)
    engine.simulator.find()
    return _BoundSpice(network, engine)
