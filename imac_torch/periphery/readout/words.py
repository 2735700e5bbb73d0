"""What stands above the sources of generated read-outs, for those who read netlists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

WORDS: Final = {
    "Evirtual": "nullor: v(n1) = v(n2), and out = (1+gain)*v(n2) - gain*v(minus)",
    "Eop": "operational amplifier of open-loop gain a",
    "Eplus": "operational amplifier of open-loop gain a at the I+ end",
    "Eminus": "the same at the I- end",
    "Ereference": "the same at the end of the reference line, which the rows of an array share",
    "Edifference": "ideal: the difference of both",
    "Egain": "ideal amplifier of the voltage between the line ends",
    "Eout": "ideal buffer",
    "Gcopy": "the mirror's copy of the current of the I+ end",
    "Eamplifier": "operational amplifier, solved for its feedback, between its rails",
    "Voffset": "its offset",
    "Vamplifier": "ammeter: what the operational amplifier delivers, for its supplies",
    "Ejoin": "what the operational amplifiers' outputs make together",
    "Gpole": "current of the low-pass, limited to the slew rate (tanh); Lpole is a short for DC",
    "Epole": "buffer between the poles",
    "Ebuffer": "buffer behind the read-out",
    "Vout": "ammeter: what goes on from here",
    "Ghigh": "supply currents: quiescent ones, what outputs deliver from vdd and take to vss",
}  # fmt: skip
"""By the letters of an element's name; others are plain, or follow one that has words."""


def with_words(lines: Iterable[str]) -> list[str]:
    """Lines of a sub-circuit, with a comment above the first source of each sort."""
    told: set[str] = set()
    found: list[str] = []
    nullor = False
    for line in lines:
        sort = line.split(maxsplit=1)[0].rstrip("0123456789")
        nullor = nullor or sort == "Evirtual"
        if sort in WORDS and sort not in told and not (nullor and sort in ("Eplus", "Eminus")):
            found.append(f"* {WORDS[sort]}")
        told.add(sort)
        found.append(line)
    return found
