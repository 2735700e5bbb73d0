"""What solves a circuit: the interface of every engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeVar

from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.circuit.topology import Circuit
from imac_torch.config.kinds import ENGINES
from imac_torch.errors import ConfigError, DataError
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.results.solution import Solution

__all__ = ["BoundEngine", "Engine", "EngineOptions", "Solvable", "register_engine"]

Made = TypeVar("Made")
EngineClass = TypeVar("EngineClass", bound="type[Engine]")


class Solvable(Protocol):
    """What an engine solves: layers that drive each other, as one circuit: a segment."""

    def parts(self) -> list[tuple[CrossbarSpec, NeuronSpec]]:
        """Crossbar and neuron of every layer, with the present conductances."""
        ...

    def circuit(self) -> Circuit:
        """The same as nodes and elements."""
        ...

    def kept(self, settings: object, make: Callable[[], Made]) -> Made:
        """What ``make`` gives, remembered until conductances or settings change."""
        ...

    def kept_of(
        self, layer: int, settings: object, tensors: Sequence[Tensor], make: Callable[[], Made]
    ) -> Made:
        """The same of one layer, until these tensors or settings change."""
        ...


class BoundEngine(ABC):
    """An engine with one circuit ready."""

    @abstractmethod
    def solve(self, inputs: Tensor, *, power: bool = True) -> Solution:
        """Solve input voltages (B, N), V.

        Args:
            inputs: float64.
            power: Whether powers are asked for.

        Returns:
            A status per sample; what an engine does not know (``layers``, ``power``) is left out.
        """

    @abstractmethod
    def description(self) -> dict[str, str]:
        """What solves, in words, for reports; ``name`` is one of them."""


@dataclass(frozen=True)
class EngineOptions:
    """What the command line and the files of sweeps say of an engine chosen by its name.

    Attributes:
        analysis: ``dc``: operating points; ``transient``: over all inputs in turn.
        per_netlist: Samples per netlist; None: not said.
        workers: Simultaneous runs.
        directory: Where runs are kept.
        timeout: s, of one run.
        licences: To use at once.
        trust: Take sub-circuit files as they are; see :func:`imac_torch.compile`.
    """

    analysis: Literal["dc", "transient"] = "dc"
    per_netlist: int | None = None
    workers: int = 1
    directory: Path | None = None
    timeout: float = 3600.0
    licences: int | None = None
    trust: bool = False


class Engine(ABC):
    """Solves operating points of a circuit; an engine of your own is a subclass.

    Attributes:
        name: What it is called where engines are chosen by name.
        netlists: Whether it solves netlists: what only they read counts then, and all samples
            are given to it at once.
        measures_time: Whether latency and energy of samples may be asked for beside its
            solutions: they are measured by the native engine.
    """

    name: ClassVar[str]
    netlists: ClassVar[bool] = False
    measures_time: ClassVar[bool] = False

    @abstractmethod
    def bind(self, segment: Solvable) -> BoundEngine:
        """Get ready for a circuit with its present conductances.

        Args:
            segment: Of a network.
        """

    @classmethod
    def of(cls, options: EngineOptions) -> Engine:
        """The engine of a command line; here one of default settings, in this process.

        Raises:
            DataError: An option belongs to simulators.
        """
        if options.directory is not None or options.analysis != "dc":
            raise DataError(
                "--run-directory and --analysis transient belong to simulators: add "
                "--engine ngspice or --engine hspice"
            )
        if options.licences is not None:
            raise DataError("--licences belongs to --engine hspice")
        return cls()

    def require(self) -> None:  # noqa: B027 - most need nothing
        """Look for what it needs on this machine, before anything slow; here nothing.

        Raises:
            SimulatorNotFoundError: A program is not installed.
        """

    @property
    def held_licences(self) -> int:
        """Licences that are held while it solves."""
        return 0

    @property
    def over_time(self) -> bool:
        """Whether a solution is the end of a transient."""
        return False

    def content(self) -> object:
        """What its results depend on: neither where runs are kept nor how many run at once."""
        return self


def register_engine(engine: EngineClass) -> EngineClass:
    """Let a subclass of :class:`Engine` be chosen by its name; serves as its decorator.

    Raises:
        ConfigError: It is no engine, or its name is one of the package's.
    """
    if not (isinstance(engine, type) and issubclass(engine, Engine)):
        raise ConfigError(f"{engine!r} is no engine: derive from imac_torch.circuit.engine.Engine")
    ENGINES.register(engine.name, engine)
    return engine
