"""What tables of measured circuits, neurons or amplifiers, have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from imac_torch.base.files import write_tensors
from imac_torch.errors import ConfigError, DataError

__all__ = ["same_conditions", "write_table"]


def same_conditions(what: str, where: str, *conditions: tuple[str, str, float, float]) -> None:
    """Refuse conditions other than those of a measurement.

    Args:
        what: The table is of this.
        where: The table's file.
        *conditions: Field, unit, what it was measured at, and what the configuration has.

    Raises:
        ConfigError: A condition differs.
    """
    for name, unit, mine, wanted in conditions:
        if abs(mine - wanted) > 1e-9 * abs(wanted):
            raise ConfigError(
                f"the {what} table {where} was characterised at {name} = {mine:g} {unit}, the "
                f"configuration has {wanted:g} {unit}; characterise the sub-circuit again"
            )


def write_table(
    path: str | Path,
    what: str,
    kind: str,
    version: int,
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> Path:
    """Write a safetensors file; an existing file is not overwritten.

    Raises:
        DataError: The file exists, or the suffix is not ``.safetensors``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise DataError(f"{path}: {what} is a .safetensors file")
    metadata = {"kind": kind, "format": str(version), "header": json.dumps(header)}
    try:
        return write_tensors(path, dict(tensors), metadata, new=True)
    except FileExistsError:
        raise DataError(f"{path} exists; choose another name or remove it first") from None
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from None
