"""A sweep described in a TOML file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from imac_torch.base.files import parse_toml, read_text
from imac_torch.config import Config, Section
from imac_torch.config.assignment import apply_overrides, field_paths
from imac_torch.config.kinds import NAMED
from imac_torch.conversion.calibration import ROUNDS
from imac_torch.errors import ConfigError
from imac_torch.sweep.metrics import (
    METRICS,
    NOISE_METRICS,
    PHYSICAL,
    PROGRAMMING_METRICS,
    TIMING_METRICS,
)
from imac_torch.sweep.points import SEED, grid, product
from imac_torch.sweep.search import Choices, Range

__all__ = ["EXAMPLE", "SweepFile", "read_sweep"]

_INNER: Final = ("layers.", *(f"device.{field}." for field in NAMED))
"""Paths into tables, which are checked with their values."""

EXAMPLE: Final = '''\
[model]
source = "mymodel:build"            # or network directory of IMAC-Sim
weights = "mymodel.safetensors"

[data]
source = "digits"                   # a data set's name, a directory of IMAC-Sim, module:factory
testnum = 200

[base]
config = "circuit.toml"             # optional; [set] then changes single fields

[set]
"mapping.levels" = 15

[calibration]                       # optional: every circuit is fitted to samples
samples = 300                       # of the data set's training split, or of `source` here

[grid]                              # every combination, the last field changing fastest
"interconnect.tech_node" = [7e-9, 14e-9, 22e-9]
"device.variation" = [0.0, 0.1]
seed = [0, 1, 2]

[objectives]
accuracy = "max"
energy = "min"
area = "min"
'''
"""What a file looks like."""

class ModelTable(Section):
    """``[model]``: what is converted at every point."""

    source: str = Field(description="module:factory, or a directory of IMAC-Sim.")
    weights: str | None = Field(None, description="State dict (.safetensors).")
    exclude: tuple[str, ...] = Field(
        (), description="Layers that stay in software: paths, or classes (Conv2d)."
    )
    include: tuple[str, ...] = Field(
        (), description="The only layers to become analog, named likewise; Module: all that can."
    )


class DataTable(Section):
    """``[data]``: what it is tested on."""

    source: str | None = Field(None, description="As on the command line; None: the model's own.")
    root: str | None = Field(None, description="Where named data sets lie.")
    train: bool = Field(False, description="Whether to take the training split.")
    testnum: int | None = Field(None, description="Samples.")
    firstimage: int | None = Field(None, description="The first of them.")


class CalibrationTable(Section):
    """``[calibration]``: samples that every circuit is fitted to."""

    samples: int = Field(ge=1, description="How many.")
    source: str | None = Field(None, description="Where from; None: [data]'s training split.")
    rounds: int = Field(ROUNDS, ge=0, description="Repetitions of the row fits.")


class RunTable(Section):
    """``[run]``: how points are evaluated."""

    area_model: str = Field("imac-sim", description="Name of an area model.")
    engine: str = Field("native", description="What solves, or module:Class.")
    analysis: Literal["dc", "transient"] = Field("dc", description="Of simulators.")
    timeout: float = Field(3600.0, gt=0, description="s. Of one simulator run.")
    workers: int = Field(1, ge=1, description="Simultaneous simulator runs.")
    timing: bool | None = Field(
        None, description="Whether transients are integrated; None: if an objective needs them."
    )
    noise: bool | None = Field(
        None,
        description="Whether noise is drawn for every image; None: if an objective needs it.",
    )

    @field_validator("timing", "noise", mode="before")
    @classmethod
    def _yes_or_no(cls, value: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError(f"{value} is no bool: true or false")
        return value


class _BaseTable(Section):
    config: str | None = None
    imac_sim: bool = False


class _RangeTable(Section):
    low: float
    high: float
    log: bool = False


class _SearchTable(Section):
    trials: int = Field(100, ge=1)
    space: dict[str, Any] = Field(min_length=1)


class Sweep(Section):
    """The whole file."""

    model: ModelTable
    data: DataTable = DataTable()
    base: _BaseTable = _BaseTable()
    set: dict[str, Any] = Field({})
    calibration: CalibrationTable | None = None
    grid: dict[str, Any] = Field({})
    points: tuple[dict[str, Any], ...] = ({},)
    objectives: dict[str, Literal["max", "min"]] = Field(
        {"accuracy": "max", "energy": "min"}, min_length=1
    )
    search: _SearchTable | None = None
    run: RunTable = RunTable()


@dataclass(frozen=True)
class SweepFile:
    """What a file asks for; paths are relative to it.

    Attributes:
        path: The file.
        model: What is converted.
        data: What it is tested on.
        config: Configuration that points change; None: the model's own, or the defaults.
        changes: Fields set for all points.
        points: The sweep.
        objectives: ``max`` or ``min`` by metric.
        run: How points are evaluated.
        calibration: Samples that circuits are fitted to, or None.
        space: Of a search, by field.
        trials: Of a search.
    """

    path: Path
    model: ModelTable
    data: DataTable
    config: Config | None
    changes: Mapping[str, Any]
    points: tuple[Mapping[str, Any], ...]
    objectives: Mapping[str, str]
    run: RunTable
    calibration: CalibrationTable | None = None
    space: Mapping[str, Range | Choices] = field(default_factory=dict)
    trials: int = 0

    def base(self, suggested: Config | None) -> Config:
        """The configuration that points change.

        Args:
            suggested: By the model, where the file names none.
        """
        config = self.config or suggested or Config()
        return apply_overrides(config, self.changes)

    @property
    def timing(self) -> bool:
        """Whether transients are wanted: ``[run] timing``, or an objective that needs them.

        Raises:
            ConfigError: ``timing`` is false, and an objective needs it.
        """
        return self._wanted("timing", TIMING_METRICS)

    @property
    def noise(self) -> bool:
        """Whether noise is drawn, likewise.

        Raises:
            ConfigError: ``noise`` is false, and an objective needs it.
        """
        return self._wanted("noise", NOISE_METRICS)

    def _wanted(self, name: str, metrics: Sequence[str]) -> bool:
        needed = [metric for metric in self.objectives if metric in metrics]
        asked: bool | None = getattr(self.run, name)
        if needed and asked is False:
            raise ConfigError(f"[run] {name} must be true for the objective {needed[0]}")
        return bool(needed) if asked is None else asked

    def relative(self, name: str) -> str:
        """A path of the file, from here; names of modules and data sets stay as they are."""
        file, colon, rest = name.partition(":")
        if not file.endswith(".py"):
            file, colon, rest = name, "", ""
        place = self.path.parent / Path(file).expanduser()
        return f"{place}{colon}{rest}" if place.exists() else name


def read_sweep(path: str | Path) -> SweepFile:
    """Read a sweep's file; see :data:`EXAMPLE`.

    Raises:
        ConfigError: It cannot be read, has unknown entries, or misses some.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file in UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the sweep {path}: {reason}") from None
    try:
        content = parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    try:
        return _parse(path, content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _parse(path: Path, content: dict[str, Any]) -> SweepFile:
    read = Sweep(**content)
    known = (*METRICS, *PHYSICAL, *TIMING_METRICS, *NOISE_METRICS, *PROGRAMMING_METRICS)
    for name in read.objectives:
        if name not in known:
            hint = _similar(name, known) or f"; there are {', '.join(known)}"
            raise ConfigError(f"[objectives] there is no metric {name!r}{hint}")
    config = Config.imac_sim() if read.base.imac_sim else None
    if read.base.config is not None:
        config = Config.load(path.parent / read.base.config)
    described = SweepFile(
        path=path,
        model=read.model,
        data=read.data,
        config=config,
        changes=_flat(read.set),
        points=tuple(product(read.points, grid(read.grid))),
        objectives=read.objectives,
        run=read.run,
        calibration=read.calibration,
        space={} if read.search is None else _space(read.search.space),
        trials=0 if read.search is None else read.search.trials,
    )
    _ = described.timing, described.noise  # contradictions are reported here
    return described


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"device": {"rlow": 1}}`` and ``{"device.rlow": 1}`` alike."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def _space(described: Mapping[str, Any]) -> dict[str, Range | Choices]:
    space: dict[str, Range | Choices] = {}
    known = sorted(path for path, _ in field_paths())
    for name, item in described.items():
        inner = name.startswith(_INNER)
        if name != SEED and name not in known and not inner:
            hint = _similar(name, known)
            raise ConfigError(f"[search.space] there is no field {name!r}{hint}")
        if isinstance(item, list):
            space[name] = Choices(tuple(item))
            continue
        try:
            ends = _RangeTable(**item)
        except (ConfigError, TypeError) as error:
            raise ConfigError(
                f"[search.space] {name!r} = {item!r}: give a list of choices, or numbers "
                f"{{ low = ..., high = ..., log = true }}: {error}"
            ) from None
        space[name] = Range(item["low"], item["high"], ends.log)  # integers stay integers
    return space


def _similar(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
