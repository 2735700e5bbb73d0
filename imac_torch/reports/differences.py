"""Two runs, networks or configurations side by side: what differs, line by line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from imac_torch.base.shown import Shown, Table
from imac_torch.config import Config
from imac_torch.conversion.storage import read_saved
from imac_torch.errors import DataError
from imac_torch.reports.model_report import ModelReport, is_model_report
from imac_torch.reports.report import Report
from imac_torch.reports.saved import TEXT

__all__ = ["Difference", "Differences", "differences"]

HEADINGS: Final = ("what", "first", "second", "change")
_PASSING: Final = ("seconds", "environment.machine")
"""What differs from run to run whatever is run."""
_ARTEFACT: Final = "_artefact"
"""End of the names of what ideal parts deliver, which says nothing of a circuit."""


@dataclass(frozen=True)
class Difference:
    """One value that two things do not share.

    Attributes:
        what: Its path, such as ``config.device.rlow`` or ``figures.accuracy``.
        first: Of the first; None: it has none.
        second: Of the second.
        change: Of numbers, the second relative to the first, minus 1; of tensors, the rms of the
            difference relative to the rms of the first; else None.
    """

    what: str
    first: Any
    second: Any
    change: float | None = None

    def row(self) -> tuple[str, str, str, str]:
        """Cells of the table under :data:`HEADINGS`."""
        change = "" if self.change is None else f"{100 * self.change:+.3g} %"
        return self.what, _text(self.first), _text(self.second), change


@dataclass(frozen=True)
class Differences(Shown):
    """What two things do not share.

    Attributes:
        first: Name of the first.
        second: Of the second.
        found: Figures first, then settings.
    """

    first: str
    second: str
    found: tuple[Difference, ...]

    def tables(self) -> tuple[Table]:
        """One, or that there is nothing to show."""
        title = f"{self.first} against {self.second}"
        if not self.found:
            return (Table(f"{title}: no difference", ()),)
        return (Table(title, [item.row() for item in self.found], HEADINGS, width=130),)


def differences(first: str | Path, second: str | Path) -> Differences:
    """Two runs (directories of reports), saved networks, or configurations.

    Args:
        first: A directory that a report was saved to, a ``.safetensors`` network, or a
            configuration (``.toml``, ``.json``).
        second: The same kind of thing, or one of another kind: then configurations are compared.

    Raises:
        DataError: One is none of them, or cannot be read.
        ConfigError: A configuration is not valid.
    """
    contents = [_content(Path(path)) for path in (first, second)]
    shared = [name for name in contents[0] if name in contents[1]]
    found: list[Difference] = []
    for section in shared:
        one, other = (dict(_flat(content[section], section)) for content in contents)
        for what in {**one, **other}:
            if what.removeprefix("figures.") in _PASSING or what.endswith(_ARTEFACT):
                continue
            difference = _difference(what, one.get(what), other.get(what))
            if difference is not None:
                found.append(difference)
    return Differences(str(first), str(second), tuple(found))


def _content(path: Path) -> dict[str, Any]:
    """What can be compared of something, by section."""
    if path.is_dir():
        if not (path / TEXT).is_file():
            raise DataError(f"{path} holds no {TEXT}: name the directory of `simulate --output`")
        report: Report | ModelReport
        report = ModelReport.load(path) if is_model_report(path) else Report.load(path)
        return {
            "figures": report.figures(),
            "samples": dict(report.tensors) if isinstance(report, ModelReport) else {
                "labels": report.labels, "predictions": report.predictions,
            },
            "engine": report.engine,
            "seed": report.seed,
            "layers": {item.path or item.module: f"{item.module}, {item.target}: {item.detail}"
                       for item in report.layers},
            "environment": report.environment,
            "config": report.config.to_dict(),
        }  # fmt: skip
    if path.suffix == ".safetensors":
        header, tensors, config = read_saved(path)
        return {
            "layers": {item["path"] or item["module"]: f"{item['module']}, {item['target']}"
                       for item in header["records"]},
            "config": config.to_dict(),
            "tensors": {name: value for name, value in tensors.items()
                        if "_extra_state" not in name},
        }  # fmt: skip
    if path.suffix in (".toml", ".json"):
        return {"config": Config.load(path).to_dict()}
    raise DataError(
        f"{path} cannot be compared: name a directory of `simulate --output`, a network "
        "(.safetensors) or a configuration (.toml, .json)"
    )


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - nested plain values
    """The plain values in something nested; items of lists are called by their own path."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}")
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            name = item.get("path", index) if isinstance(item, Mapping) else index
            yield from _flat(item, f"{path}.{name}")
    else:
        yield path, value


def _difference(what: str, first: Any, second: Any) -> Difference | None:  # noqa: ANN401
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        return _of_tensors(what, first, second)
    if first == second or (_number(first) and _number(second) and first != first != second):
        return None
    change = None
    if _number(first) and _number(second) and first != 0 and math.isfinite(second / first):
        change = second / first - 1
    return Difference(what, first, second, change)


def _of_tensors(what: str, first: Any, second: Any) -> Difference | None:  # noqa: ANN401
    one, other = (f"{tuple(item.shape)}" if isinstance(item, Tensor) else None
                  for item in (first, second))  # fmt: skip
    if one is None or other is None or one != other:
        return Difference(what, one, other)
    wide, wide_second = first.double(), second.double()
    differ = (wide != wide_second) & ~(wide.isnan() & wide_second.isnan())  # NaN: not chosen yet
    if not bool(differ.any()):
        return None
    scale = float(wide.square().mean().sqrt())
    rms = float((wide_second - wide).square().mean().sqrt())
    change = rms / scale if scale else math.nan
    text = f"{int(differ.sum())} of {first.numel()} differ"
    return Difference(what, one, text, change if math.isfinite(change) else None)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
