"""Model cards: HSPICE ``.model`` statements of level 72 (BSIM-CMG), read and written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from imac_torch.base.files import read_text
from imac_torch.base.units import parse_spice_number
from imac_torch.errors import ModelCardError, NetlistError
from imac_torch.finfet.parameters import check_parameters

VERSIONS: Final = ("105.03", "107")
"""Implemented versions of BSIM-CMG."""
PTM_NODES: Final = (7, 10, 14, 16, 20)
"""Technology nodes of the PTM-MG cards, nm."""
_POLARITIES: Final[Mapping[str, Literal["n", "p"]]] = {"nmos": "n", "pmos": "p"}
_ASSIGNMENT: Final = re.compile(r"(?<!\w)([a-z_]\w*)\s*=\s*([^\s=]+)", re.IGNORECASE)


@dataclass(frozen=True)
class ModelCard:
    """A transistor model card.

    Attributes:
        name: Model name as written.
        polarity: ``"n"`` or ``"p"``.
        version: Version of BSIM-CMG, one of :data:`VERSIONS`.
        parameters: Parameters by lower-case name, without ``level`` and ``version``; read-only.
    """

    name: str
    polarity: Literal["n", "p"]
    version: str = "105.03"
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate, and make the parameters read-only.

        Raises:
            ModelCardError: The polarity or version is not known, or a parameter is not a finite
                number.
        """
        if self.polarity not in ("n", "p"):
            raise ModelCardError(
                f"model card {self.name!r}: polarity must be 'n' or 'p', got {self.polarity!r}"
            )
        if not re.fullmatch(r"[A-Za-z_][\w.$-]*", self.name):
            raise ModelCardError(f"not a SPICE model name: {self.name!r}")
        object.__setattr__(self, "version", normalise_version(self.version, self.name))
        values = {key.lower(): float(value) for key, value in self.parameters.items()}
        for key, value in values.items():
            if not math.isfinite(value):
                raise ModelCardError(f"model card {self.name!r}: {key} = {value} is not finite")
        object.__setattr__(self, "parameters", MappingProxyType(values))


def normalise_version(version: str | float, name: str) -> str:
    """Canonical text of a version of BSIM-CMG.

    Args:
        version: Such as ``"105.03"``, ``"107.0.0"`` or 107.
        name: Model name for messages.

    Returns:
        One of :data:`VERSIONS`.

    Raises:
        ModelCardError: The version is not implemented.
    """
    text = str(version).strip()
    if re.fullmatch(r"105\.0?3(0*)?", text):
        return "105.03"
    if re.fullmatch(r"107(\.0+)*", text):
        return "107"
    raise ModelCardError(
        f"model card {name!r}: BSIM-CMG version {text} is not implemented; "
        f"use one of {', '.join(VERSIONS)}"
    )


def parse_model_cards(text: str, source: str = "<text>") -> dict[str, ModelCard]:
    """Read every ``.model`` card of level 72 in a SPICE text.

    Understood: ``+`` continuations, comment lines (``*``) also between them, ``$`` comments, any
    case, blanks around ``=``, parentheses around the parameters, SPICE scale factors. Of a
    parameter given twice the last value counts. Statements other than ``.model`` are skipped.

    Raises:
        ModelCardError: A card is malformed, is not level 72, or asks for something that is not
            implemented; the message has the line.
    """
    cards: dict[str, ModelCard] = {}
    names: set[str] = set()
    for number, statement in _statements(text):
        where = f"{source}, line {number}"
        if not re.match(r"\.model(\s|$)", statement, re.IGNORECASE):
            continue
        card = _parse_card(statement, where)
        if card.name.lower() in names:
            raise ModelCardError(f"{where}: model {card.name!r} is defined twice")
        names.add(card.name.lower())
        cards[card.name] = card
    if not cards:
        raise ModelCardError(f"{source}: no .model statement found")
    return cards


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Logical lines with the number of their first line: comments cut, continuations joined."""
    first, parts = 0, list[str]()
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("$", 1)[0].strip()
        if not line or line.startswith("*"):
            continue
        if line.startswith("+"):
            parts.append(line[1:])
            continue
        if parts:
            yield first, " ".join(parts)
        first, parts = number, [line]
    if parts:
        yield first, " ".join(parts)


def _parse_card(statement: str, where: str) -> ModelCard:
    """One ``.model`` statement."""
    words = re.sub(r"[(),]", " ", statement).split(maxsplit=3)
    if len(words) < 3 or "=" in words[1] or "=" in words[2]:
        raise ModelCardError(f"{where}: expected '.model NAME nmos|pmos level=72 ...'")
    name, kind = words[1], words[2].lower()
    where = f"{where}, model {name!r}"
    if kind not in _POLARITIES:
        raise ModelCardError(f"{where}: type {words[2]!r} is not a transistor (nmos or pmos)")
    body = words[3] if len(words) > 3 else ""
    rest = _ASSIGNMENT.sub(" ", body).split()
    if rest:
        raise ModelCardError(f"{where}: cannot read {rest[0]!r}; expected 'parameter = number'")
    values: dict[str, float] = {}
    version: str | None = None
    for key, value in _ASSIGNMENT.findall(body):
        key = key.lower()
        if key == "version":
            version = value
            continue
        try:
            values[key] = parse_spice_number(value)
        except NetlistError as error:
            raise ModelCardError(f"{where}: {key} = {value!r} is not a number") from error
    level = values.pop("level", None)
    if level != 72:
        found = "no level" if level is None else f"level {level:g}"
        raise ModelCardError(f"{where}: {found}; only level 72 (BSIM-CMG) is implemented")
    try:
        card = ModelCard(name, _POLARITIES[kind], version or VERSIONS[0], values)
    except ModelCardError as error:
        raise ModelCardError(f"{where}: {error}") from error
    check_parameters(card.parameters, where)
    return card


def read_model_cards(path: str | Path) -> dict[str, ModelCard]:
    """Read every ``.model`` card of level 72 in a file (see :func:`parse_model_cards`).

    Raises:
        ModelCardError: The file cannot be read, or a card cannot be used.
    """
    path = Path(path)
    try:
        text = read_text(path, errors="replace")
    except OSError as error:
        raise ModelCardError(f"cannot read model cards: {error}") from error
    return parse_model_cards(text, str(path))


def write_model_card(card: ModelCard) -> str:
    """Write a card as HSPICE reads it; reading it back gives the same card.

    Returns:
        A ``.model`` statement with one parameter a line.
    """
    lines = [f".model {card.name} {card.polarity}mos level=72", f"+ version={card.version}"]
    # Every digit: spice_number rounds off what arithmetic leaves, and a card holds none of it.
    lines += [f"+ {key}={float(value)!r}" for key, value in card.parameters.items()]
    return "\n".join(lines) + "\n"


def load_ptm(directory: str | Path, node: int, flavour: str = "hp") -> tuple[ModelCard, ModelCard]:
    """Read a pair of PTM-MG cards from a user's directory.

    Args:
        directory: Directory with ``hp/`` and ``lstp/``, files such as ``hp/14nfet.pm``.
        node: Technology node, nm: one of :data:`PTM_NODES`.
        flavour: ``hp`` (high performance) or ``lstp`` (low standby power).

    Raises:
        ModelCardError: There is no such node or flavour, or a file is missing or malformed.
    """
    if node not in PTM_NODES:
        raise ModelCardError(f"PTM-MG has no {node} nm node; use one of {PTM_NODES}")
    if flavour.lower() not in ("hp", "lstp"):
        raise ModelCardError(f"PTM-MG has no flavour {flavour!r}; use 'hp' or 'lstp'")
    pair = []
    for polarity in ("n", "p"):
        path = Path(directory) / flavour.lower() / f"{node}{polarity}fet.pm"
        cards = [c for c in read_model_cards(path).values() if c.polarity == polarity]
        if len(cards) != 1:
            raise ModelCardError(f"{path}: expected one {polarity}mos card, found {len(cards)}")
        pair.append(cards[0])
    return pair[0], pair[1]
