"""Units of fields, what values are usual in them, and which unit a value looks like it is in."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

__all__ = [
    "AGE",
    "AREA",
    "BEND",
    "CAPACITANCE",
    "CONDUCTANCE",
    "CURRENT",
    "DECIBEL",
    "ENERGY",
    "FRACTION",
    "FREQUENCY",
    "JOULE",
    "LENGTH",
    "PERMITTIVITY",
    "RESISTANCE",
    "RESISTIVITY",
    "TEMPERATURE",
    "TIME",
    "TRANSISTOR_NODE",
    "VOLTAGE",
    "Quantity",
]

# Units that a value may have been meant in: their names in text (the first is printed), what one
# of them is in the field's unit, and what is added.
_OTHERS: Final[dict[str, tuple[tuple[tuple[str, ...], float, float], ...]]] = {
    "V": ((("mV",), 1e-3, 0.0), (("µV", "uV"), 1e-6, 0.0), (("kV",), 1e3, 0.0)),
    "K": ((("°C", "C", "degC"), 1.0, 273.15),),
    "m": ((("nm",), 1e-9, 0.0), (("µm", "um"), 1e-6, 0.0), (("mm",), 1e-3, 0.0)),
    "s": (
        (("ns",), 1e-9, 0.0), (("ps",), 1e-12, 0.0), (("µs", "us"), 1e-6, 0.0),
        (("ms",), 1e-3, 0.0),
    ),
    "Ω": (
        (("kΩ", "kohm", "kOhm", "k"), 1e3, 0.0), (("MΩ", "Mohm", "MOhm", "M"), 1e6, 0.0),
        (("mΩ", "mohm", "mOhm"), 1e-3, 0.0),
    ),
    "F": (
        (("fF",), 1e-15, 0.0), (("pF",), 1e-12, 0.0), (("aF",), 1e-18, 0.0),
        (("nF",), 1e-9, 0.0),
    ),
    "Hz": ((("GHz",), 1e9, 0.0), (("MHz",), 1e6, 0.0), (("kHz",), 1e3, 0.0)),
    "V/s": ((("V/µs", "V/us"), 1e6, 0.0), (("V/ns",), 1e9, 0.0), (("V/ms",), 1e3, 0.0)),
    "Ω·m": ((("µΩ·cm", "uohm*cm"), 1e-8, 0.0), (("nΩ·m",), 1e-9, 0.0)),
    "F/m": ((("vacuum permittivities", "eps0"), 8.8541878128e-12, 0.0),),
    "nm": ((("m",), 1e9, 0.0),),
    "eV": ((("meV",), 1e-3, 0.0),),
    "J": (
        (("fJ",), 1e-15, 0.0), (("pJ",), 1e-12, 0.0), (("aJ",), 1e-18, 0.0),
        (("nJ",), 1e-9, 0.0),
    ),
    "m²": ((("µm²", "um2", "um^2"), 1e-12, 0.0), (("mm²", "mm2", "mm^2"), 1e-6, 0.0)),
    "dB": (),
    "A": (
        (("µA", "uA"), 1e-6, 0.0), (("nA",), 1e-9, 0.0), (("mA",), 1e-3, 0.0),
        (("pA",), 1e-12, 0.0),
    ),
    "S": ((("µS", "uS"), 1e-6, 0.0), (("nS",), 1e-9, 0.0), (("mS",), 1e-3, 0.0)),
    "V/√Hz": ((("nV/√Hz", "nV/sqrtHz"), 1e-9, 0.0), (("µV/√Hz", "uV/sqrtHz"), 1e-6, 0.0)),
    "A/√Hz": (
        (("pA/√Hz", "pA/sqrtHz"), 1e-12, 0.0), (("fA/√Hz", "fA/sqrtHz"), 1e-15, 0.0),
        (("nA/√Hz", "nA/sqrtHz"), 1e-9, 0.0),
    ),
    "1": ((("%",), 1e-2, 0.0),),
}  # fmt: skip
_OWN: Final = {"Ω": ("Ω", "ohm", "Ohm"), "K": ("K",), "1": ()}
_TEXT: Final = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S.*?)\s*$")


@dataclass(frozen=True)
class Quantity:
    """What a number of a field measures; stands beside the field's type.

    A value outside the usual range is a question (a warning), one beyond the largest that can be
    is an error. Both name the unit that was probably meant. Ranges are for magnitudes, and 0 is
    never asked about. They are wide: what anybody builds or studies is inside.

    Attributes:
        unit: SI, or ``1`` for a fraction.
        usual: Smallest and largest magnitude that nobody asks about.
        largest: Magnitude beyond which no circuit can be.
    """

    unit: str
    usual: tuple[float, float]
    largest: float = math.inf

    def meant(self, value: float) -> str:
        """``; were 800 mV meant? write 0.8``, or nothing if no other unit makes it usual."""
        if value < 0.0 and self.unit not in ("V", "K"):
            return ""  # no other unit makes it positive
        for names, factor, offset in _OTHERS[self.unit]:
            converted = _rounded(value * factor + offset)
            if self._usual(converted) and converted != 0.0:
                number = int(converted) if self.unit == "nm" else converted
                gap = "" if names[0] == "%" else " "
                return f"; were {value:g}{gap}{names[0]} meant? write {number:.12g}"
        return ""

    def question(self, value: float) -> str | None:
        """What to ask about a value that can be but is not usual; None if it is."""
        if value == 0.0 or self._usual(value):
            return None
        low, high = self.usual
        return f"{value:g} {self.unit} is unusual ({low:g} to {high:g} are){self.meant(value)}"

    def refusal(self, value: float) -> str | None:
        """Why a value cannot be; None if it can."""
        if abs(value) <= self.largest:
            return None
        return (
            f"{value:g} {self.unit} is beyond what can be (at most {self.largest:g})"
            f"{self.meant(value)}"
        )

    def example(self) -> str:
        """How a number of it can be written: ``10 or 10mV``."""
        others = _OTHERS[self.unit]
        return f"10 or 10{others[0][0][0]}" if others else "10"

    def read(self, text: str) -> float | None:
        """A number with a unit behind it (``9nm``, ``5 %``) in the field's unit; None if not."""
        match = _TEXT.match(text)
        if match is None:
            return None
        number, name = float(match[1]), match[2]
        if name in _OWN.get(self.unit, (self.unit,)):
            return number
        for names, factor, offset in _OTHERS[self.unit]:
            if name in names:
                return _rounded(number * factor + offset)
        return None

    def _usual(self, value: float) -> bool:
        return self.usual[0] <= abs(value) <= self.usual[1]


def _rounded(value: float) -> float:
    """Without the last digits that 9·1e-9 adds: the number that a person would write."""
    return float(f"{value:.12g}")


FRACTION: Final = Quantity("1", (0.0, 1.0))
"""Written as 0.05 for 5 %."""
VOLTAGE: Final = Quantity("V", (1e-3, 20.0), 200.0)
"""Of circuits on a chip; at most what anything there stands."""
BEND: Final = Quantity("V", (1e-3, 20.0))
"""Of curved cells; they are ohmic where it is far beyond the voltages across them."""
TEMPERATURE: Final = Quantity("K", (200.0, 500.0), 2000.0)
"""What cards of transistors are made for; colder ones exist, so they are only asked about."""
LENGTH: Final = Quantity("m", (1e-10, 1e-4), 1.0)
"""From an atom to a bond pad."""
RESISTANCE: Final = Quantity("Ω", (100.0, 1e13), 1e18)
"""Of memory devices."""
RESISTIVITY: Final = Quantity("Ω·m", (1e-9, 1e-3), 1.0)
"""From pure metals in the cold to poor semiconductors."""
PERMITTIVITY: Final = Quantity("F/m", (8.8e-12, 1e-7), 1e-5)
"""From vacuum to ferroelectrics."""
CAPACITANCE: Final = Quantity("F", (0.0, 1e-9), 1e-3)
"""Of nodes on a chip."""
CURRENT: Final = Quantity("A", (0.0, 1.0), 1e3)
"""Of a device on a chip."""
CONDUCTANCE: Final = Quantity("S", (0.0, 1.0))
"""Of a device on a chip."""
FREQUENCY: Final = Quantity("Hz", (1e3, 1e13), 1e16)
"""Of amplifiers."""
TIME: Final = Quantity("s", (1e-15, 1e-2), 1e6)
"""Of an inference."""
AGE: Final = Quantity("s", (1e-9, 1e10))
"""Of devices since they were programmed."""
JOULE: Final = Quantity("J", (1e-18, 1e-6), 1.0)
"""Of one operation: from an attojoule to what a processor takes for thousands of them."""
AREA: Final = Quantity("m²", (1e-16, 1e-5), 1.0)
"""Of a circuit: from a transistor to a chip."""
DECIBEL: Final = Quantity("dB", (100.0, 220.0), 400.0)
"""Of Schreier's figure of merit; no converter of the last decades is outside."""
ENERGY: Final = Quantity("eV", (1e-3, 10.0))
"""Of activation."""
TRANSISTOR_NODE: Final = Quantity("nm", (1.0, 1000.0), 1e6)
"""Of model cards."""
