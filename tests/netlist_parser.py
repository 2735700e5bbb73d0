"""An oracle: reads netlists of ours back, to check them against the circuit.

This is not a parser for SPICE in general: it reads the statements that the writers use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.base.files import read_text
from imac_torch.base.units import parse_spice_number
from imac_torch.errors import NetlistError

_INCLUDE: Final = re.compile(r"\.(?:include|inc)\s+['\"]?([^'\"\s]+)['\"]?", re.IGNORECASE)


@dataclass(frozen=True)
class TwoTerminals:
    """Resistors or capacitors.

    Attributes:
        names: Element names, lower case.
        nodes: Pairs of node names.
        values: (E,) float64, Ω or F.
    """

    names: tuple[str, ...]
    nodes: tuple[tuple[str, str], ...]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Statement:
    """Any other element: sources, controlled sources, instances.

    Attributes:
        name: Element name, lower case; its first letter is its kind.
        words: The rest of the line, blanks and continuation lines joined.
    """

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class ParsedSubcircuit:
    """Contents of a sub-circuit, or of the top level.

    Attributes:
        name: Lower case; empty for the top level.
        ports: Lower case.
        parameters: Default values as text, by name.
        resistors: Resistors with numeric values.
        capacitors: Capacitors with numeric values.
        statements: All other elements, also resistors with expressions as values.
    """

    name: str
    ports: tuple[str, ...]
    parameters: Mapping[str, str]
    resistors: TwoTerminals
    capacitors: TwoTerminals
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class ParsedNetlist:
    """A netlist with everything that it includes.

    Attributes:
        top: The top level.
        subcircuits: By name.
        controls: Lines beginning with a dot, other than includes and sub-circuits, and the lines
            of control blocks.
    """

    top: ParsedSubcircuit
    subcircuits: Mapping[str, ParsedSubcircuit]
    controls: tuple[str, ...]


@dataclass
class _Scope:
    name: str
    ports: tuple[str, ...] = ()
    parameters: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, tuple[list[str], list[tuple[str, str]], list[float]]] = field(
        default_factory=lambda: {"r": ([], [], []), "c": ([], [], [])}
    )
    statements: list[Statement] = field(default_factory=list)

    def finish(self) -> ParsedSubcircuit:
        arrays = {
            letter: TwoTerminals(tuple(names), tuple(nodes), np.array(values, dtype=np.float64))
            for letter, (names, nodes, values) in self.pairs.items()
        }
        return ParsedSubcircuit(
            self.name,
            self.ports,
            self.parameters,
            arrays["r"],
            arrays["c"],
            tuple(self.statements),
        )


def parse_netlist(path: Path) -> ParsedNetlist:
    """Read a netlist that one of the writers wrote, with the files that it includes.

    Args:
        path: The netlist.

    Returns:
        Its elements.

    Raises:
        NetlistError: A line cannot be understood; file and line are named.
    """
    top = _Scope("")
    stack = [top]
    subcircuits: dict[str, ParsedSubcircuit] = {}
    controls: list[str] = []
    in_control = False
    for place, line in _lines(path, title=True):
        lowered = line.lower()
        if lowered.startswith(".control"):
            in_control = True
        elif lowered.startswith(".endc"):
            in_control = False
        elif in_control:
            controls.append(line)
        elif lowered.startswith(".subckt"):
            stack.append(_open(lowered, place))
        elif lowered.startswith(".ends"):
            if len(stack) == 1:
                raise NetlistError(f"{place}: .ends without .subckt")
            scope = stack.pop()
            if scope.name in subcircuits:
                raise NetlistError(f"{place}: sub-circuit {scope.name} is declared twice")
            subcircuits[scope.name] = scope.finish()
        elif line[0] == ".":
            controls.append(line)
        else:
            _element(stack[-1], line, place)
    if len(stack) != 1:
        raise NetlistError(f"{path}: sub-circuit {stack[-1].name} is not closed by .ends")
    return ParsedNetlist(top.finish(), subcircuits, tuple(controls))


def _lines(path: Path, *, title: bool = False) -> Iterator[tuple[str, str]]:
    """Logical lines with their place; the first line of a netlist is its title."""
    try:
        physical = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NetlistError(f"{path} cannot be read: {error}") from error
    pending: list[str] = []
    start = 0
    for number, raw in enumerate(physical, start=1):
        line = raw.strip()
        if not line or line[0] == "*" or (title and number == 1):
            continue
        if line[0] == "+":
            if not pending:
                raise NetlistError(f"{path}:{number}: continuation of nothing")
            pending.append(line[1:].strip())
            continue
        if pending:
            yield from _expand(path, start, " ".join(pending))
        pending, start = [line], number
    if pending:
        yield from _expand(path, start, " ".join(pending))


def _expand(path: Path, number: int, line: str) -> Iterator[tuple[str, str]]:
    include = _INCLUDE.match(line) if line[0] == "." else None
    if include is None:
        yield f"{path}:{number}", line
    else:
        yield from _lines(path.parent / include[1])


def _open(line: str, place: str) -> _Scope:
    words = line.split()
    if len(words) < 2:
        raise NetlistError(f"{place}: .subckt without a name")
    ports = tuple(word for word in words[2:] if "=" not in word)
    parameters = dict(word.split("=", 1) for word in words[2:] if "=" in word)
    return _Scope(words[1], ports, parameters)


def _element(scope: _Scope, line: str, place: str) -> None:
    words = line.split()
    name = words[0].lower()
    pair = scope.pairs.get(name[0])
    if pair is None or len(words) != 4 or words[3][0] == "'":
        if len(words) < 3:
            raise NetlistError(f"{place}: {line[:60]!r} is not an element")
        scope.statements.append(Statement(name, tuple(words[1:])))
        return
    try:
        value = parse_spice_number(words[3])
    except NetlistError as error:
        raise NetlistError(f"{place}: {error}") from error
    names, nodes, values = pair
    names.append(name)
    nodes.append((words[1].lower(), words[2].lower()))
    values.append(value)
