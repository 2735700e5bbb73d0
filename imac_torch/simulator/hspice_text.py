"""Text files of HSPICE: measure files (``.mt0``, ``.ms0``) and the listing (``.lis``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imac_torch.base.files import read_text
from imac_torch.base.units import parse_spice_number
from imac_torch.errors import NetlistError, SimulatorError

_LAST_COLUMN: Final = "alter#"
_FAILED: Final = "failed"

# HSPICE writes these words to the listing when it gives up; while it is still trying, lines start
# with **warning** or **diagnostic** (HSPICE User Guide: Basic Simulation and Analysis,
# "Initializing DC-Operating Point Analysis", "DC convergence").
_CONVERGENCE: Final = re.compile(
    r"^.*(?:no convergence in|convergence (?:termination|failure)|non-?convergen|"
    r"internal timestep too small|timestep too small|failed to converge).*$",
    re.IGNORECASE | re.MULTILINE,
)
_LICENCE: Final = re.compile(
    r"^.*(?:unable to check ?out|cannot (?:find|connect to|checkout) .*licen[cs]e|"
    r"licen[cs]e (?:checkout )?(?:denied|failed|not available)|"
    r"licensed number of users already reached|no such feature exists|"
    r"licen[cs]e server .*(?:down|not respond)|flex(?:lm|net).*error).*$",
    re.IGNORECASE | re.MULTILINE,
)
_ERROR: Final = re.compile(r"^.*\*\*\s*error\s*\*\*.*(?:\n(?!\s*\*).*\S.*)?$", re.I | re.M)
_ABORTED: Final = re.compile(r"\*+\s*(?:hspice\s+)?job\s+aborted", re.IGNORECASE)
_CONCLUDED: Final = re.compile(r"\*+\s*(?:hspice\s+)?job\s+concluded", re.IGNORECASE)
_VERSION: Final = re.compile(r"HSPICE\S*\s+(?:--\s+|version\s+)(\S+)", re.IGNORECASE)
_MEASURE: Final = re.compile(r"^[ \t]*([a-z_][\w.\[\]#:]*)[ \t]*=[ \t]*(\S+)", re.I | re.M)


@dataclass(frozen=True)
class MeasureTable:
    """Contents of a measure file.

    Attributes:
        columns: Lower-case names, ``temper`` and ``alter#`` included.
        rows: One tuple per sweep point; None where HSPICE wrote ``failed``.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[float | None, ...], ...]


def read_measure_file(path: Path) -> MeasureTable:
    """Read a ``.mt#``, ``.ms#`` or ``.ma#`` file in HSPICE's default form (``measform=0``).

    Names and values are wrapped over as many lines as HSPICE likes; names end with ``alter#``.
    Numbers may carry engineering suffixes (``12.3456f`` is 1.23456e-14).

    Raises:
        FileNotFoundError: There is no such file.
        SimulatorError: The file is truncated or not a measure file.
    """
    lines = read_text(path, errors="replace").splitlines()
    start = 0
    while start < len(lines) and lines[start].lstrip()[:1] in ("$", ".", ""):
        start += 1
    words = [word for line in lines[start:] for word in line.split()]
    lowered = [word.lower() for word in words]
    if _LAST_COLUMN not in lowered:
        raise SimulatorError(
            f"{path} is not a complete HSPICE measure file: no column {_LAST_COLUMN!r}",
            directory=path.parent,
        )
    width = lowered.index(_LAST_COLUMN) + 1
    values = words[width:]
    if not values or len(values) % width:
        raise SimulatorError(
            f"{path} is truncated: {width} columns, {len(values)} values", directory=path.parent
        )
    numbers = []
    for position, word in enumerate(values):
        try:
            numbers.append(None if word.lower() == _FAILED else parse_spice_number(word))
        except NetlistError as error:
            name = lowered[position % width]
            raise SimulatorError(
                f"{path}, measure {name!r}: {error}", directory=path.parent
            ) from error
    rows = tuple(tuple(numbers[i : i + width]) for i in range(0, len(numbers), width))
    return MeasureTable(tuple(lowered[:width]), rows)


def name_measures(table: MeasureTable) -> tuple[dict[str, float], set[str]]:
    """Give every value of a table a name.

    Returns:
        Values, and the names of failed measures. The value of ``x`` in row k is ``x[k]``, and
        also ``x`` if there is one row only.
    """
    values: dict[str, float] = {}
    failed: set[str] = set()
    for index, row in enumerate(table.rows):
        for column, value in zip(table.columns, row, strict=True):
            names = [f"{column}[{index}]"] + ([column] if len(table.rows) == 1 else [])
            for name in names:
                if value is None:
                    failed.add(name)
                else:
                    values[name] = value
    return values, failed


@dataclass(frozen=True)
class Listing:
    """What a listing tells.

    Attributes:
        version: HSPICE version, or None.
        measures: Values of measures (and of whatever else is printed as ``name= value``).
        failed: Names of measures printed as ``failed``.
        concluded: True if HSPICE says that the job concluded.
        aborted: True if HSPICE says that the job was aborted.
        errors: The ``**error**`` messages.
        convergence: First message about missing convergence, or None.
        licence: First message about a missing licence, or None.
    """

    version: str | None
    measures: dict[str, float]
    failed: set[str]
    concluded: bool
    aborted: bool
    errors: tuple[str, ...]
    convergence: str | None
    licence: str | None


def parse_listing(text: str) -> Listing:
    """Read an HSPICE listing (``.lis``) or what HSPICE prints on the terminal.

    Returns:
        Everything that matters for judging the run. A convergence message in a **warning** line
        does not count: HSPICE goes on to try other algorithms.
    """
    measures: dict[str, float] = {}
    failed: set[str] = set()
    for name, word in _MEASURE.findall(text):
        if word.lower() == _FAILED:
            failed.add(name.lower())
            continue
        try:
            measures[name.lower()] = parse_spice_number(word)
        except NetlistError:
            continue  # "name= text" that is not a measure
    version = _VERSION.search(text)
    return Listing(
        version=version[1] if version else None,
        measures=measures,
        failed=failed,
        concluded=_CONCLUDED.search(text) is not None,
        aborted=_ABORTED.search(text) is not None,
        errors=tuple(" ".join(found.split()) for found in _ERROR.findall(text)),
        convergence=_first(_CONVERGENCE, text),
        licence=_first(_LICENCE, text),
    )


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    for match in pattern.finditer(text):
        line = " ".join(match[0].split())
        if not line.lower().startswith(("**warning", "**diagnostic", "**info")):
            return line
    return None
