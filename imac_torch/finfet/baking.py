"""One temperature of a 105.03 card as a card of BSIM-CMG 107, for simulators that have only 107."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from imac_torch.base.units import ZERO_CELSIUS
from imac_torch.errors import ModelCardError
from imac_torch.finfet.card import ModelCard
from imac_torch.finfet.geometry import BOLTZMANN_PER_CHARGE, Geometry, build_geometry
from imac_torch.finfet.numerics import limited_exp
from imac_torch.finfet.parameters import (
    DEFAULTS,
    FLAGS,
    REQUIRED,
    Parameters,
    check_parameters,
    resolve_parameters,
)
from imac_torch.finfet.temperature import Thermal, band_gap, build_thermal

TNOM: Final = 27.0
"""°C. Nominal temperature of baked cards, and another for devices that are that warm."""
_OTHER_TNOM: Final = 37.0

# Coefficients that act as coefficient·(T − TNOM), and exponents of T/TNOM.
_LINEAR: Final = (
    "teta0", "tss", "emobt", "tmexp", "ptwgt", "aigbinv1", "aigbacc1", "aigc1", "aigs1", "aigd1",
    "tcj", "tcjsw", "tcjswg", "tpb", "tpbsw", "tpbswg",
)  # fmt: skip
_EXPONENT: Final = ("igt", "ud1", "ucste")


def bake_temperature(card: ModelCard, temperature: float) -> ModelCard:
    """A card of version 107 that is the given 105.03 card at one temperature.

    Mobility, its degradation, saturation velocity and series resistance get their values at the
    temperature, with temperature coefficients of zero: 105.03 multiplies where 107 adds, and the
    extension resistance of 105.03, which 107 has not, becomes RSWMIN and RDWMIN. The other
    coefficients are rescaled to the new TNOM so that the result at the temperature is the same
    (tunnelling: (T/TNOM)^IGT). What remains is channel length modulation: 105.03 takes it against
    VASAT, 107 against its own saturation voltage.

    Args:
        card: Version 105.03.
        temperature: K.

    Returns:
        The card, with the name and polarity of the old one and only parameters that act.

    Raises:
        ModelCardError: The card is not of version 105.03 or cannot be used, or the temperature
            is not positive.
    """
    where = f"model card {card.name!r}"
    if card.version != "105.03":
        raise ModelCardError(f"{where}: only version 105.03 is baked, this is {card.version}")
    if not (math.isfinite(temperature) and temperature > 0.0):
        raise ModelCardError(f"{where}: temperature = {temperature} K is not positive")
    check_parameters(card.parameters, where)
    known = FLAGS.keys() | DEFAULTS.keys() | REQUIRED.keys()
    values = {name: value for name, value in card.parameters.items() if name in known}
    values.pop("vasat", None)
    p = resolve_parameters(card.parameters, {}, where)
    sign = 1 if card.polarity == "n" else -1
    sdterm = card.parameters.get("sdterm", 0.0) == 1.0
    kelvin = torch.tensor(temperature, dtype=torch.float64, device="cpu")
    g = build_geometry(p, sign, extension=True, sdterm=sdterm)
    t = build_thermal(p, g, kelvin, multiplicative=True)

    tnom = TNOM if abs(temperature - ZERO_CELSIUS - TNOM) > 1.0 else _OTHER_TNOM
    old, new = float(p["tnom"]) + ZERO_CELSIUS, tnom + ZERO_CELSIUS
    linear = (temperature - old) / (temperature - new)
    ratio_old, ratio_new = temperature / old, temperature / new
    exponent = math.log(ratio_old) / math.log(ratio_new)
    values["tnom"] = tnom
    values |= {name: float(p[name]) * linear for name in _LINEAR}
    values |= {name: float(p[name]) * exponent for name in _EXPONENT}
    values |= {n: float(p[n]) * (ratio_old - 1.0) / (ratio_new - 1.0) for n in ("kt1", "kt1l")}
    values["cit"] = float(p["cit"]) * ratio_new / ratio_old
    values |= {"ute": 0.0, "utl": 0.0, "ua1": 0.0, "at": 0.0, "prt": 0.0}
    for names, factor in _factors(p, g, t):
        values |= {name: float(p[name]) * factor for name in names}
    values |= _junctions(p, t, old, new)
    values |= _extension(values, p, g, t, where=where, sign=sign, sdterm=sdterm)
    if "prwg" in values:  # 107 knows one per side only
        del values["prwg"]
        values |= {"prwgs": float(p["prwgs"]), "prwgd": float(p["prwgd"])}
    for name in values.keys() - card.parameters.keys():
        # Zeros that nobody gave are defaults; fewer names are fewer that a compiler may not know.
        if values[name] == 0.0 and (DEFAULTS[name] == 0.0 or isinstance(DEFAULTS[name], str)):
            del values[name]
    return ModelCard(card.name, card.polarity, "107", values)


def _factors(p: Parameters, g: Geometry, t: Thermal) -> list[tuple[tuple[str, ...], float]]:
    """Parameters, and what each of them is at the temperature over what the card says."""
    length, channel = g.length, g.length_cv

    def decaying(base: str, amplitude: str, decay: str, at: Tensor) -> Tensor:
        return p[base] + p[amplitude] * (-at / p[decay]).exp()

    def factor(value: Tensor, nominal: Tensor) -> float:
        return float(value) / float(nominal) if float(nominal) != 0.0 else 1.0

    resistance = float(t.resistance_factor)
    mobility = p["u0"] * (1.0 - p["up"] * length ** (-p["lpa"].clamp(min=0.0)))
    return [
        (("u0",), factor(t.u0, mobility)),
        (("ua", "aua"), factor(t.ua, decaying("ua", "aua", "bua", length))),
        (("vsat", "avsat"), factor(t.vsat, decaying("vsat", "avsat", "bvsat", length))),
        (("vsat1", "avsat1"), factor(t.vsat1, decaying("vsat1", "avsat1", "bvsat1", length))),
        (
            ("vsatcv", "avsatcv"),
            factor(t.vsat_cv, decaying("vsatcv", "avsatcv", "bvsatcv", channel)),
        ),
        (("rgeoa", "rgeob", "rgeoc", "rgeod", "rgeoe"), resistance),
        (("rsw", "arsw", "rdw", "ardw", "rswmin", "rdwmin"), resistance),
    ]


def _junctions(p: Parameters, t: Thermal, old: float, new: float) -> dict[str, float]:
    """Saturation currents at the new TNOM that give the same at the temperature."""
    values = {}
    for side in ("s", "d"):
        growth = []
        for kelvin in (old, new):
            tnom = torch.tensor(kelvin, dtype=torch.float64, device="cpu")
            gap = band_gap(p, tnom) / (BOLTZMANN_PER_CHARGE * tnom)
            ratio = t.ratio * old / kelvin
            # eqs. 3.124, 3.128
            argument = (gap - t.gap / t.vt + p[f"xti{side}"] * ratio.log()) / p[f"nj{side}"]
            growth.append(float(limited_exp(argument)))
        for name in (f"js{side}", f"jsw{side}", f"jswg{side}"):
            values[name] = float(p[name]) * growth[0] / growth[1]
    return values


def _extension(
    values: dict[str, float],
    p: Parameters,
    g: Geometry,
    t: Thermal,
    *,
    where: str,
    sign: int,
    sdterm: bool,
) -> dict[str, float]:
    """RSWMIN and RDWMIN, Ω·µm^WR, with the extension resistance at the temperature added."""
    without = build_geometry(
        resolve_parameters(values, {}, where), sign, extension=False, sdterm=sdterm
    )
    missing = t.resistance_factor * g.resistance - without.resistance
    width = (g.width * 1e6) ** p["wr"] * g.nfin
    return {
        name: values.get(name, 0.0) + float(missing * width) for name in ("rswmin", "rdwmin")
    }
