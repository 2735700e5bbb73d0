"""Physical constants and the numbers of SPICE: exact printing, tolerant reading."""

from __future__ import annotations

import math
import re
from decimal import Decimal, DecimalException
from typing import Final

from imac_torch.errors import NetlistError

# CODATA 2018; exact by the SI definition.
BOLTZMANN: Final = 1.380649e-23
"""Boltzmann constant, J/K."""
BOLTZMANN_EV: Final = 8.617333262e-5
"""The same in eV/K, which is V/K over the charge of an electron."""
ZERO_CELSIUS: Final = 273.15
"""0 degrees Celsius, K."""

# Scale factors of SPICE (HSPICE Reference Manual, "Numbers"; ngspice manual, "Some naming
# conventions"). They are not SI: m and M are both 1e-3, mega is "meg" or "x".
_SCALE: Final = {
    "t": Decimal("1e12"),
    "g": Decimal("1e9"),
    "meg": Decimal("1e6"),
    "x": Decimal("1e6"),
    "k": Decimal("1e3"),
    "mil": Decimal("25.4e-6"),
    "m": Decimal("1e-3"),
    "u": Decimal("1e-6"),
    "n": Decimal("1e-9"),
    "p": Decimal("1e-12"),
    "f": Decimal("1e-15"),
    "a": Decimal("1e-18"),
}
_NUMBER: Final = re.compile(
    r"^(?P<mantissa>[+-]?(?:\d+\.?\d*|\.\d+)(?:[ed][+-]?\d+)?)(?P<suffix>[a-z]*)$"
)


def parse_spice_number(text: str) -> float:
    """Read a number as SPICE writes it: ``12.3456f`` is 1.23456e-14, ``3meg`` is 3e6.

    Letters after the scale factor are a unit and are ignored, as every SPICE does (``10kohm``).

    Raises:
        NetlistError: The text is not a number (HSPICE's ``failed`` included).
    """
    stripped = text.strip().lower()
    match = _NUMBER.match(stripped)
    if match is None:
        try:
            special = float(stripped)
        except ValueError:
            raise NetlistError(f"not a SPICE number: {text!r}") from None
        return special  # inf and nan, which simulators do print
    suffix, plain = match["suffix"], float(match["mantissa"].replace("d", "e"))
    if not suffix and plain and math.isfinite(plain):
        return plain
    scale = next((name for name in ("meg", "mil", suffix[:1]) if suffix.startswith(name)), "")
    try:
        # Decimal, so that "12.3456f" is the double nearest to 1.23456e-14, not a rounded product.
        mantissa = Decimal(match["mantissa"].replace("d", "e"))
        return float(mantissa * _SCALE[scale] if scale in _SCALE else mantissa)
    except DecimalException:  # an exponent of dozens of digits
        raise NetlistError(f"not a SPICE number: {text!r}") from None


def spice_number(value: float) -> str:
    """Print a finite number, short and exact.

    Arithmetic leaves 0.6000000000000001 of 0.6: a number within four units in the last place of one
    of at most twelve digits (9e-16 of it) is printed as that one. Every other reads back as the
    same double.

    Returns:
        The shortest decimal text, never with a scale factor.

    Raises:
        NetlistError: The value is infinite or not a number.
    """
    number = float(value)
    if not math.isfinite(number):
        raise NetlistError(f"a netlist can only hold finite numbers, got {number!r}")
    short = float(f"{number:.12g}")
    return repr(short if abs(short - number) <= 4 * math.ulp(number) else number)


_PREFIXES: Final = {
    -18: "a", -15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G",
}  # fmt: skip


def area_text(value: float | None) -> str:
    """An area in µm² or mm², given in m², whose prefixes would be squared."""
    if value is None:
        return "–"
    return f"{value * 1e6:.4g} mm²" if value >= 1e-8 else f"{value * 1e12:.4g} µm²"


def quantity(value: float | None, unit: str = "", digits: int = 4) -> str:
    """A number with an SI prefix, for reading: ``17.82 mW``.

    Args:
        value: In the base unit; None and NaN are a dash.
        unit: The base unit; without one there is no prefix either.
        digits: Significant digits.
    """
    if value is None or math.isnan(value):
        return "–"
    if not unit or value == 0 or math.isinf(value):
        return f"{value:.{digits}g} {unit}".strip()
    power = 3 * math.floor(math.log10(abs(value)) / 3)
    power = min(max(power, min(_PREFIXES)), max(_PREFIXES))
    return f"{float(f'{value / 10.0**power:.{digits}g}'):g} {_PREFIXES[power]}{unit}"
