"""What evaluates a network: the native engine or a simulator, behind one interface."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from imac_torch.analog import IMACNetwork
from imac_torch.deck import write_deck
from imac_torch.native import Native
from imac_torch.netlist import NetlistSettings
from imac_torch.simulator import Simulator, check
from imac_torch.solution import Solution


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
        directory: Where to keep the run; None: a temporary directory, removed when done.
        settings: Analysis; None: exact operating points.
        workers: Simultaneous runs.
    """

    simulator: Simulator
    directory: Path | None = None
    settings: NetlistSettings = field(default_factory=lambda: NetlistSettings(analysis="dc"))
    workers: int = 1


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
    calls: int = 0

    def solve(self, inputs: Tensor, *, power: bool = True) -> Solution:
        labels = torch.full((len(inputs),), -1)
        with tempfile.TemporaryDirectory(prefix="imac_torch_") as temporary:
            root = Path(temporary) if self.engine.directory is None else self.engine.directory
            directory = root / f"samples_{self.calls:06d}"
            self.calls += 1
            deck = write_deck(
                self.network,
                inputs.cpu(),
                labels,
                directory,
                dialect="hspice" if self.engine.simulator.name == "hspice" else "ngspice",
                settings=self.engine.settings,
            )
            spice = deck.run(self.engine.simulator, workers=self.engine.workers, progress=False)
            if bool((~spice.solution.converged).all()):
                check(spice)  # nothing came back: the error says why
            return spice.solution

    def description(self) -> dict[str, str]:
        simulator = self.engine.simulator
        return {
            "name": simulator.name,
            "version": simulator.version(),
            "analysis": self.engine.settings.analysis,
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
