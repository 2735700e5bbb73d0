"""Waveform files of ngspice, binary and ASCII."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imac_torch.base.files import LARGEST_RESULT, read_bytes
from imac_torch.errors import SimulatorError
from imac_torch.simulator.result import FloatArray


def read_raw(path: Path) -> list[dict[str, FloatArray]]:
    """Read every plot of an ngspice raw file (ngspice manual, "Rawfile format").

    Returns:
        One dictionary per plot: arrays of shape (points,) by lower-case vector name. The real
        part is returned for complex vectors of zero imaginary part.

    Raises:
        FileNotFoundError: There is no such file.
        SimulatorError: The file is truncated or is not a raw file.
    """
    content = read_bytes(path, limit=LARGEST_RESULT)
    plots = []
    position = 0
    while content[position:].strip():
        plot, position = _read_plot(content, position, path)
        plots.append(plot)
    if not plots:
        raise SimulatorError(f"{path} is empty", directory=path.parent)
    return plots


def _read_plot(content: bytes, position: int, path: Path) -> tuple[dict[str, FloatArray], int]:
    header: dict[str, str] = {}
    names: list[str] = []
    while True:
        end = content.find(b"\n", position)
        if end < 0:
            raise SimulatorError(f"{path} ends inside a header", directory=path.parent)
        line = content[position:end].decode("utf-8", errors="replace").rstrip("\r")
        position = end + 1
        key, colon, value = line.partition(":")
        key = key.strip().lower()
        if line[:1] in "\t " and line.strip():
            fields = line.split()
            names.append(fields[1].lower() if len(fields) > 1 else "")
            continue
        if not line.strip():
            continue
        if not colon:
            raise SimulatorError(
                f"{path} is not an ngspice raw file: header line {line[:60]!r}",
                directory=path.parent,
            )
        if key in ("binary", "values"):
            break
        header[key] = value.strip()
    try:
        variables = int(header["no. variables"])
        points = int(header["no. points"])
    except (KeyError, ValueError) as error:
        raise SimulatorError(
            f"{path}: the header gives no number of variables and points", directory=path.parent
        ) from error
    if variables < 1 or points < 0:
        raise SimulatorError(
            f"{path}: {variables} variables of {points} points", directory=path.parent
        )
    if len(names) != variables:
        raise SimulatorError(
            f"{path}: {variables} variables announced, {len(names)} named", directory=path.parent
        )
    is_complex = "complex" in header.get("flags", "")
    if key == "binary":
        table, position = _binary(content, position, points, variables, is_complex, path)
    else:
        table, position = _ascii(content, position, points, variables, path)
    return {name: table[:, index].copy() for index, name in enumerate(names)}, position


def _binary(
    content: bytes, position: int, points: int, variables: int, is_complex: bool, path: Path
) -> tuple[FloatArray, int]:
    count = points * variables * (2 if is_complex else 1)
    available = (len(content) - position) // 8
    if available < count:
        raise SimulatorError(
            f"{path} is truncated: {count} numbers announced, {available} there",
            directory=path.parent,
        )
    flat = np.frombuffer(content, dtype="<f8", count=count, offset=position).astype(np.float64)
    position += count * 8
    if is_complex:
        if np.any(flat[1::2] != 0.0):
            raise SimulatorError(
                f"{path} holds complex values; only real analyses are read", directory=path.parent
            )
        flat = flat[0::2]
    return flat.reshape(points, variables), position


def _ascii(
    content: bytes, position: int, points: int, variables: int, path: Path
) -> tuple[FloatArray, int]:
    # Every point: its index, then one value per variable, separated by white space.
    end = content.find(b"\nTitle:", position)
    stop = len(content) if end < 0 else end + 1
    words = content[position:stop].split()
    if len(words) != points * (variables + 1):
        raise SimulatorError(
            f"{path} is truncated: {points * (variables + 1)} numbers expected, {len(words)} there",
            directory=path.parent,
        )
    try:
        table = np.array(words, dtype=np.float64).reshape(points, variables + 1)
    except ValueError as error:
        raise SimulatorError(f"{path}: {error}", directory=path.parent) from error
    return table[:, 1:], stop
