"""A sweep described in a TOML file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from imac_torch.base.files import parse_toml, read_text
from imac_torch.config import Config
from imac_torch.config.assignment import apply_overrides, field_paths
from imac_torch.conversion.calibration import ROUNDS
from imac_torch.errors import ConfigError
from imac_torch.sweep.evaluator import METRICS, TIMING_METRICS
from imac_torch.sweep.points import SEED, grid, product
from imac_torch.sweep.search import Choices, Range

__all__ = ["EXAMPLE", "SweepFile", "read_sweep"]

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

_TABLES: Final = {
    "model": {"source", "weights", "exclude"},
    "data": {"source", "root", "train", "testnum", "firstimage"},
    "base": {"config", "imac_sim"},
    "calibration": {"samples", "source", "rounds"},
    "run": {"area_model", "engine", "analysis", "timeout", "workers", "timing"},
}
_OTHER: Final = {"set", "grid", "points", "objectives", "search"}


@dataclass(frozen=True)
class SweepFile:
    """What a file asks for; paths are relative to it.

    Attributes:
        path: The file.
        model: ``source``, ``weights``, ``exclude``.
        data: ``source``, ``root``, ``train``, ``testnum``, ``firstimage``.
        config: Configuration that points change; None: the model's own, or the defaults.
        changes: Fields set for all points.
        points: The sweep.
        objectives: ``max`` or ``min`` by metric.
        space: Of a search, by field.
        trials: Of a search.
        calibration: ``samples``, ``source``, ``rounds``; empty: circuits are not fitted to samples.
        run: ``area_model``, ``engine``, ``analysis``, ``timeout``, ``workers``, ``timing``.
    """

    path: Path
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    config: Config | None
    changes: Mapping[str, Any]
    points: tuple[Mapping[str, Any], ...]
    objectives: Mapping[str, str]
    space: Mapping[str, Range | Choices] = field(default_factory=dict)
    trials: int = 0
    calibration: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

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
            ConfigError: ``timing`` is false or not a truth value, and an objective needs it.
        """
        needed = [name for name in self.objectives if name in TIMING_METRICS]
        asked = self.run.get("timing", bool(needed))
        if not isinstance(asked, bool) or (needed and not asked):
            raise ConfigError(
                f"[run] timing = {asked!r} must be true or false"
                + (f", and true for the objective {needed[0]}" if needed else "")
            )
        return asked

    def relative(self, name: str) -> str:
        """A path of the file, from here; names of modules and data sets stay as they are."""
        place = self.path.parent / Path(name).expanduser()
        return str(place) if place.exists() else name


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
    unknown = set(content) - set(_TABLES) - _OTHER
    if unknown:
        known = ", ".join(sorted([*_TABLES, *_OTHER]))
        raise ConfigError(f"unknown table {', '.join(sorted(unknown))}; there are {known}")
    for table in (*_TABLES, "set", "grid", "objectives", "search"):
        if not isinstance(content.get(table, {}), dict):
            raise ConfigError(f"{table} = {content[table]!r} must be a table: [{table}]")
    for table, names in _TABLES.items():
        if extra := set(content.get(table, {})) - names:
            raise ConfigError(
                f"[{table}] has no {', '.join(sorted(extra))}; there are {', '.join(sorted(names))}"
            )
    if "source" not in content.get("model", {}):
        raise ConfigError("[model] source is missing")
    _check_types(content)
    base = content.get("base", {})
    config = None
    if "config" in base:
        config = Config.load(path.parent / base["config"])
    elif base.get("imac_sim"):
        config = Config.imac_sim()
    space, trials = _search(content.get("search", {}))
    points = product(content.get("points", [{}]), grid(content.get("grid", {})))
    described = SweepFile(
        path=path,
        model=content["model"],
        data=content.get("data", {}),
        config=config,
        changes=_flat(content.get("set", {})),
        points=tuple(points),
        objectives=content.get("objectives", {"accuracy": "max", "energy": "min"}),
        space=space,
        trials=trials,
        calibration=_calibration(content),
        run=content.get("run", {}),
    )
    _ = described.timing  # a contradiction is reported here
    return described


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "model.source": (str,), "model.weights": (str,), "data.source": (str,), "data.root": (str,),
    "data.train": (bool,), "data.testnum": (int,), "data.firstimage": (int,),
    "base.config": (str,), "base.imac_sim": (bool,), "run.area_model": (str,),
    "run.engine": (str,), "run.analysis": (str,), "run.timeout": (int, float),
    "run.workers": (int,),
}  # fmt: skip


def _check_types(content: dict[str, Any]) -> None:
    """What is of a wrong type, or no name of anything, is found before the first point.

    Raises:
        ConfigError: An entry is.
    """
    for name, kinds in _TYPES.items():
        table, _, entry = name.partition(".")
        value = content.get(table, {}).get(entry)
        if value is None:
            continue
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            words = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigError(f"[{table}] {entry} = {value!r} must be of type {words}")
    exclude = content["model"].get("exclude", [])
    if not isinstance(exclude, list) or not all(isinstance(item, str) for item in exclude):
        raise ConfigError(f"[model] exclude = {exclude!r} must be a list of module paths")
    points = content.get("points", [])
    if not isinstance(points, list) or not all(isinstance(item, dict) for item in points):
        raise ConfigError("points must be a list of tables: [[points]]")
    known = (*METRICS, *TIMING_METRICS)
    for name, goal in content.get("objectives", {}).items():
        if goal not in ("max", "min"):
            raise ConfigError(f"[objectives] {name} = {goal!r} must be 'max' or 'min'")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            raise ConfigError(f"[objectives] there is no metric {name!r}{hint}")
    if "objectives" in content and not content["objectives"]:
        raise ConfigError("[objectives] is empty")


def _calibration(content: Mapping[str, Any]) -> Mapping[str, Any]:
    if "calibration" not in content:
        return {}
    table = content["calibration"]
    count, source = table.get("samples"), table.get("source")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(
            f"[calibration] samples = {count!r} must be a number of samples, at least 1"
        )
    if not isinstance(source, str | None):
        raise ConfigError(f"[calibration] source = {source!r} must be the name of a data set")
    rounds = table.get("rounds", ROUNDS)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise ConfigError(f"[calibration] rounds = {rounds!r} must be a number, 0 or more")
    return {"samples": count, "source": source, "rounds": rounds}


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"device": {"rlow": 1}}`` and ``{"device.rlow": 1}`` alike."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def _search(table: Mapping[str, Any]) -> tuple[dict[str, Range | Choices], int]:
    if not table:
        return {}, 0
    if extra := set(table) - {"trials", "space"}:
        raise ConfigError(f"[search] has no {', '.join(sorted(extra))}; there are trials, space")
    trials = table.get("trials", 100)
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ConfigError(f"[search] trials = {trials!r} must be an integer of at least 1")
    space: dict[str, Range | Choices] = {}
    described = table.get("space", {})
    if not isinstance(described, dict):
        raise ConfigError(f"[search] space = {described!r} must be a table: [search.space]")
    known = {path for path, _ in field_paths()}
    for name, item in described.items():
        inner = name.startswith(("layers.", "device.effects."))  # checked with the values
        if name != SEED and name not in known and not inner:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"[search.space] there is no field {name!r}{hint}")
        if isinstance(item, list):
            space[name] = Choices(tuple(item))
        elif isinstance(item, Mapping) and {"low", "high"} <= set(item) <= {"low", "high", "log"}:
            space[name] = _range(name, item)
        else:
            raise ConfigError(
                f"[search.space] {name!r} = {item!r}: give a list of choices, or "
                "{ low = ..., high = ..., log = true }"
            )
    if not space:
        raise ConfigError("[search.space] is empty")
    return space, trials


def _range(name: str, item: Mapping[str, Any]) -> Range:
    low, high, log = item["low"], item["high"], item.get("log", False)
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not isinstance(log, bool):
        raise ConfigError(f"[search.space] {name!r} = {dict(item)}: low and high are numbers")
    return Range(low, high, log)
