"""What reports of all kinds have in common: how they are saved and read back, first rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Final

from torch import Tensor
from typing_extensions import Self

from imac_torch.base.files import (
    exclusive,
    parse_json,
    read_tensors,
    read_text,
    strict_json,
    write_tensors,
    write_text,
)
from imac_torch.base.shown import Shown
from imac_torch.config import Config
from imac_torch.devices.programming import Programming
from imac_torch.errors import DataError
from imac_torch.model.network import LayerRecord

__all__ = ["FORMAT", "TENSORS", "TEXT", "SavedReport", "saved_text"]

FORMAT: Final = 1
"""Version of saved reports."""
TEXT: Final = "report.json"
TENSORS: Final = "report.safetensors"
_PLAIN: Final = ("engine", "environment", "seed", "seconds", "stopped")


def saved_text(directory: Path) -> Any:
    """The content of a saved report's text file, whatever it is.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return parse_json(read_text(directory / TEXT, limit=2**30))
    except (OSError, ValueError) as error:
        raise DataError(f"{directory} holds no readable report: {error}") from None


class SavedReport(Shown, ABC):
    """A report as far as all kinds have it; each is a frozen dataclass with these fields."""

    kind: ClassVar[str | None]  # as its file says
    what: ClassVar[str]  # in errors
    config: Config
    layers: tuple[LayerRecord, ...]
    engine: dict[str, str]
    environment: dict[str, str]
    seed: int | None
    seconds: float
    stopped: str
    programming: tuple[Programming, ...]

    @abstractmethod
    def _tensors(self) -> Mapping[str, Tensor]:
        """For the file of tensors; there is none where there are none."""

    @abstractmethod
    def _content(self) -> dict[str, Any]:
        """For the text file, besides what all have."""

    @classmethod
    @abstractmethod
    def _read(
        cls, content: dict[str, Any], tensors: dict[str, Tensor], common: dict[str, Any]
    ) -> Self:
        """Of both files; ``common`` are the fields that all have."""

    def _check_place(self, directory: Path) -> None:
        """Refuse a directory of another report."""
        if (directory / TEXT).exists():
            raise DataError(f"{directory} holds a {TEXT} already; choose another directory")

    def _first_rows(
        self, samples: int, failures: int, why: str = ""
    ) -> list[tuple[str, str]]:
        settings = dict(self.engine)
        name = str(settings.pop("name", "not said"))
        return [
            ("engine", ", ".join([name, *(f"{key} {value}" for key, value in settings.items())])),
            ("samples", f"{samples} ({failures} not solved)"),
            *([("not solved", why)] if why else []),
            *([("STOPPED EARLY", self.stopped)] if self.stopped else []),
        ]

    def save(self, directory: str | Path) -> Path:
        """Write ``report.json`` and, where there are tensors, ``report.safetensors``.

        Figures that were not measured are null in the JSON file. It is written last and makes the
        report a report: what an interrupted run left without it is replaced.

        Raises:
            DataError: The directory holds a report of other results, is being filled by another
                run, or cannot be written.
        """
        directory = Path(directory)
        content = {
            "format": FORMAT,
            **({} if self.kind is None else {"kind": self.kind}),
            **{name: getattr(self, name) for name in _PLAIN},
            "layers": [asdict(record) for record in self.layers],
            "config": self.config.to_dict(),
            "programming": [asdict(item) for item in self.programming],
            **self._content(),
        }  # fmt: skip
        try:
            with exclusive(directory, results=True):
                self._check_place(directory)
                if tensors := self._tensors():
                    write_tensors(directory / TENSORS, tensors)
                write_text(directory / TEXT, strict_json(content, indent=2))
        except OSError as error:
            raise DataError(f"cannot write the report to {directory}: {error}") from None
        return directory

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: The files are missing, damaged or of another version.
        """
        directory = Path(directory)
        content = saved_text(directory)
        known = isinstance(content, dict) and "format" in content
        if not known or content.get("kind") != cls.kind:
            raise DataError(f"{directory / TEXT} is no {cls.what}")
        if content["format"] != FORMAT:
            raise DataError(
                f"{directory}: report format {content['format']!r}, this version reads {FORMAT}"
            )
        try:
            there = cls.kind is None or (directory / TENSORS).exists()
            tensors = read_tensors(directory / TENSORS)[0] if there else {}
        except (OSError, ValueError) as error:
            raise DataError(f"{directory} holds no readable report: {error}") from None
        try:
            found = cls._read(content, tensors, {
                "config": Config.from_dict(content["config"]),
                "layers": tuple(LayerRecord(**record) for record in content["layers"]),
                "engine": content["engine"],
                "environment": dict(content["environment"]),
                "seed": content["seed"],
                "seconds": content["seconds"],
                "stopped": content.get("stopped", ""),
                "programming": tuple(
                    Programming(**item) for item in content.get("programming", ())
                ),
            })  # fmt: skip
            str(found)  # what is of another type or shape shows here
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
            raise DataError(f"{directory}: the report is damaged: {error!r}") from None
        except ValueError as error:
            raise DataError(f"{directory}: the report is damaged: {error}") from None
        return found
