"""What tables of measured circuits, neurons or amplifiers, have in common: their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final

from torch import Tensor
from typing_extensions import Self

from imac_torch.base.files import parse_json, read_tensors, write_tensors
from imac_torch.base.shown import Brief
from imac_torch.errors import ConfigError, DataError
from imac_torch.numeric.modes import lasting

__all__ = ["MeasuredTable"]

FORMAT: Final = 1
"""Version of the files; older readers refuse newer ones."""


class MeasuredTable(Brief):
    """A table with the figures that belong to it, in a safetensors file; a frozen dataclass."""

    what: ClassVar[str]
    """What was measured, in words."""
    maker: ClassVar[str]
    """Of the package: measures it."""
    errors: ClassVar[type[Any]]
    """Of the field ``error``."""
    tensors: ClassVar[tuple[str, ...]]
    figures_kept: ClassVar[tuple[str, ...]]
    """Numbers, pairs of them and texts."""
    error: Any

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file; an existing file is not overwritten.

        Raises:
            DataError: The file exists, or the suffix is not ``.safetensors``.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise DataError(f"{path}: a table of this kind ({self.what}) is a .safetensors file")
        header = {name: getattr(self, name) for name in self.figures_kept}
        header["error"] = asdict(self.error)
        kind = f"imac_torch {self.what} table"
        metadata = {"kind": kind, "format": str(FORMAT), "header": json.dumps(header)}
        parts: dict[str, Tensor] = {name: getattr(self, name).contiguous() for name in self.tensors}
        try:
            return write_tensors(path, parts, metadata, new=True)
        except FileExistsError:
            raise DataError(f"{path} exists; choose another name or remove it first") from None
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read :meth:`save`'s file.

        Raises:
            DataError: There is no such file, or it is not such a table.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{cls.what} table {path}: there is no such file")
        try:
            tensors, metadata = read_tensors(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {error}") from None
        if metadata.get("kind") != f"imac_torch {cls.what} table":
            raise DataError(f"{path} holds no {cls.what} table; make one with {cls.maker}")
        version = metadata.get("format", "")
        if not version.isdigit() or not 1 <= int(version) <= FORMAT:
            raise DataError(
                f"{path}: file format {version!r}, this version reads up to {FORMAT}; update "
                "imac_torch"
            )
        try:
            header = parse_json(metadata["header"])
            fields = {"error": cls.errors(**header.pop("error"))}
            fields |= {name: _figure(value) for name, value in header.items()}
            fields |= {name: tensors[name] for name in cls.tensors}
            return cls(**fields)
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: the {cls.what} table is damaged: {error!r}") from None

    @classmethod
    def read(cls, name: str, field: str) -> Self:
        """The table in a file that a field of the configuration names, read anew if replaced.

        Raises:
            ConfigError: It cannot be read.
            DataError: It is no table.
        """
        path = Path(name).expanduser()
        try:
            state = path.stat()
        except OSError as error:
            raise ConfigError(f"{field} = {name!r} cannot be read: {error.strerror}") from None
        found: Self = _read(cls.load, str(path), state.st_mtime_ns, state.st_size)
        return found

    def check_conditions(self, where: str, **conditions: float) -> None:
        """Refuse conditions other than those of the measurement.

        Raises:
            ConfigError: One differs.
        """
        for name, wanted in conditions.items():
            mine, of, unit = getattr(self, name), *_FIELDS[name]
            if abs(mine - wanted) > 1e-9 * abs(wanted):
                raise ConfigError(
                    f"the {self.what} table {where} was characterised at {of} = {mine:g} {unit}, "
                    f"the configuration has {wanted:g} {unit}; characterise the sub-circuit again"
                )


_FIELDS: Final = {
    "vdd": ("supplies.vdd", "V"), "vss": ("supplies.vss", "V"), "temperature": ("temperature", "K"),
}  # fmt: skip


def _figure(value: Any) -> Any:
    """Numbers as floats (an integer may be larger than any), pairs as tuples, texts."""
    if isinstance(value, list):
        low, high = value
        return 1.0 * low, 1.0 * high
    return value if isinstance(value, str) else 1.0 * value


@lru_cache(maxsize=16)
def _read(load: Callable[[str], Any], path: str, modified: int, size: int) -> Any:
    del modified, size  # in the key: a replaced file is another one
    with lasting():
        return load(path)
