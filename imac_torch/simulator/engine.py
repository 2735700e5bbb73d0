"""Simulators as engines: netlists are written, run and read back."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from torch import Tensor

from imac_torch.circuit.engine import BoundEngine, Engine, EngineOptions, Solvable
from imac_torch.circuit.topology import Circuit
from imac_torch.config.kinds import DIALECTS
from imac_torch.errors import DataError, SimulatorError
from imac_torch.netlist.run import write_netlists
from imac_torch.netlist.settings import NetlistSettings
from imac_torch.results.solution import Solution
from imac_torch.simulator.base import Program
from imac_torch.simulator.solve import SpiceSolution, check, solve_netlists


class Simulator(Program, Engine):
    """A simulator that solves networks too; :class:`Spice` has the settings of that.

    Attributes:
        licensed: Whether a run holds a licence.
    """

    netlists = True
    licensed: ClassVar[bool] = False

    def bind(self, segment: Solvable) -> BoundEngine:
        """See :class:`Engine`: exact operating points in a temporary directory."""
        return Spice(self).bind(segment)

    @classmethod
    def of(cls, options: EngineOptions) -> Engine:
        """See :class:`Engine`."""
        if options.licences is not None and not cls.licensed:
            raise DataError("--licences belongs to --engine hspice")
        return Spice(
            cls(timeout=options.timeout, licences=options.licences),
            directory=options.directory,
            settings=NetlistSettings(
                analysis=options.analysis, images_per_netlist=options.per_netlist or 10
            ),
            workers=options.workers,
            trust=options.trust,
        )

    def require(self) -> None:
        """See :class:`Engine`."""
        self.find()

    @property
    def held_licences(self) -> int:
        """See :class:`Engine`."""
        return int(self.licensed)

    def content(self) -> object:
        """See :class:`Engine`."""
        return (type(self), self.executable)


@dataclass(frozen=True)
class Spice(Engine):
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

    name = "spice"
    netlists = True

    simulator: Simulator
    directory: Path | None = None
    settings: NetlistSettings = field(default_factory=lambda: NetlistSettings(analysis="dc"))
    workers: int = 1
    trust: bool = False

    def bind(self, segment: Solvable) -> BoundEngine:
        """See :class:`Engine`.

        Raises:
            SimulatorNotFoundError: The simulator is not installed.
        """
        self.require()
        return _BoundSpice(self, segment.circuit())

    def require(self) -> None:
        """See :class:`Engine`."""
        self.simulator.require()

    @property
    def held_licences(self) -> int:
        """See :class:`Engine`."""
        return self.workers * self.simulator.held_licences

    @property
    def over_time(self) -> bool:
        """See :class:`Engine`."""
        return self.settings.analysis == "transient"

    def content(self) -> object:
        """See :class:`Engine`."""
        return (self.simulator.content(), self.settings)


@dataclass
class _BoundSpice(BoundEngine):
    engine: Spice
    circuit: Circuit
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
        engine = self.engine
        writer = DIALECTS.get(engine.simulator.dialect)(trust=engine.trust)
        run = write_netlists(
            self.circuit, inputs, root, writer, engine.settings, shared=True
        )
        return solve_netlists(run, engine.simulator, workers=engine.workers)

    def description(self) -> dict[str, str]:
        simulator = self.engine.simulator
        return {
            "name": simulator.name,
            "version": simulator.version(),
            "analysis": self.engine.settings.analysis,
            **({"first failure": str(self.errors[0])} if self.errors else {}),
        }


class _Network(Protocol):
    @property
    def segment(self) -> Solvable: ...

    @property
    def engine(self) -> Engine: ...


def bind(network: _Network, engine: Engine | None = None) -> BoundEngine:
    """``engine.bind(network.segment)``, as version 0.1 said it.

    Args:
        network: Of one circuit.
        engine: None: the network's own.
    """
    engine = network.engine if engine is None else engine
    engine.require()
    return engine.bind(network.segment)
