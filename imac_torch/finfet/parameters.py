"""Parameters of BSIM-CMG: names, defaults, which are modelled, and which have no effect here.

Defaults are those of the parameter tables of the BSIM-CMG 107.0.0 technical manual (University of
California, Berkeley, 2013), section 5. Parameters of version 105.03 that 107 dropped are included.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from torch import Tensor

from imac_torch.errors import ModelCardError
from imac_torch.finfet.numerics import float64

Parameters = Mapping[str, Tensor]
"""Every modelled parameter by lower-case name, float64, SI units, defaults filled in."""

# Flags: the default of the manual, and the values that are implemented.
FLAGS: Final[Mapping[str, tuple[int, tuple[int, ...]]]] = MappingProxyType(
    {
        "bulkmod": (0, (1,)),
        "igcmod": (0, (0, 1)),
        "igbmod": (0, (0, 1)),
        "gidlmod": (0, (0,)),
        "iimod": (0, (0,)),
        "geomod": (1, (1,)),
        "rdsmod": (0, (1,)),
        "asymmod": (0, (0,)),
        "rgatemod": (0, (0,)),
        "rgeomod": (0, (1,)),
        "shmod": (0, (0,)),
        "nqsmod": (0, (0,)),
        "coremod": (0, (0,)),
        "cgeomod": (0, (2,)),
        "capmod": (0, (0,)),
        "sdterm": (0, (0, 1)),
    }
)

# Modelled parameters and their defaults. A string names another parameter (taken after it is
# resolved); None marks a default that depends on the geometry (see ``geometry.py``).
DEFAULTS: Final[Mapping[str, float | str | None]] = MappingProxyType(
    {
        # instance and geometry
        "l": 30e-9, "xl": 0.0, "tfin": 15e-9, "hfin": 30e-9, "fpitch": 80e-9, "lrsd": "l",
        "nfin": 1.0, "fech": 1.0, "deltaw": 0.0, "fechcv": 1.0, "deltawcv": 0.0,
        "lint": 0.0, "ll": 0.0, "lln": 1.0, "dlc": 0.0, "llc": 0.0,
        "aseo": 0.0, "adeo": 0.0, "pseo": 0.0, "pdeo": 0.0,
        "asej": 0.0, "adej": 0.0, "psej": 0.0, "pdej": 0.0,
        # variability handles
        "dtemp": 0.0, "delvtrand": 0.0, "u0mult": 1.0, "ids0mult": 1.0,
        # materials and process
        "eot": 1e-9, "toxp": 1.2e-9, "eotbox": 140e-9, "epsrox": 3.9, "epsrsub": 11.9,
        "easub": 4.05, "ni0sub": 1.1e16, "bg0sub": 1.12, "nc0sub": 2.86e25,
        "nbody": 1e22, "nsd": 2e26, "phig": 4.61, "phigl": 0.0, "imin": 1e-15,
        # threshold
        "cit": 0.0, "cdsc": 7e-3, "cdscd": 7e-3, "dvt0": 0.0, "dvt1": 0.6, "dvt1ss": "dvt1",
        "phin": 0.05, "eta0": 0.6, "teta0": 0.0, "dsub": 1.06, "k1rsce": 0.0, "lpe0": 5e-9,
        "dvtshift": 0.0,
        # mobility
        "u0": 0.03, "etamob": 2.0, "up": 0.0, "lpa": 1.0, "ua": 0.3, "aua": 0.0, "bua": 100e-9,
        "eu": 2.5, "aeu": 0.0, "beu": 100e-9, "ud": 0.0, "aud": 0.0, "bud": 50e-9, "ucs": 1.0,
        # velocity saturation and output conductance
        "vsat": 85000.0, "avsat": 0.0, "bvsat": 100e-9, "vsat1": "vsat", "avsat1": "avsat",
        "bvsat1": "bvsat", "deltavsat": 1.0, "psat": 2.0, "apsat": 0.0, "bpsat": 1.0,
        "ksativ": 1.0, "mexp": 4.0, "amexp": 0.0, "bmexp": 1.0,
        "vsatcv": "vsat", "avsatcv": "avsat", "bvsatcv": "bvsat", "deltavsatcv": "deltavsat",
        "psatcv": "psat", "apsatcv": "apsat", "bpsatcv": "bpsat",
        "ptwg": 0.0, "aptwg": 0.0, "bptwg": 100e-9,
        "pclm": 0.013, "apclm": 0.0, "bpclm": 100e-9, "pclmg": 0.0, "pclmcv": "pclm",
        "vasat": None,  # version 105.03 only, which has to give it
        "pdibl1": 1.3, "pdibl2": 2e-4, "drout": 1.06, "pvag": 1.0,
        # series resistance
        "rswmin": 0.0, "rsw": 50.0, "arsw": 0.0, "brsw": 100e-9,
        "rdwmin": 0.0, "rdw": 50.0, "ardw": 0.0, "brdw": 100e-9,
        "prwg": 0.0, "prwgs": "prwg", "prwgd": "prwgs", "wr": 1.0,
        "hepi": 10e-9, "tsili": 10e-9, "rhoc": 1e-12, "rhorsd": None, "cratio": 0.5,
        "deltaprsd": 0.0, "lsp": None, "ldg": 5e-9, "nsde": 2e25, "epsrsp": 3.9,
        "tgate": 30e-9, "tmask": 30e-9, "asiliend": 0.0, "arsdend": 0.0, "prsdend": 0.0,
        "rgeoa": 1.0, "rgeob": 0.0, "rgeoc": 0.0, "rgeod": 0.0, "rgeoe": 0.0,
        # gate tunnelling
        "aigbinv": 1.11e-2, "aigbinv1": 0.0, "bigbinv": 9.49e-4, "cigbinv": 6e-3,
        "eigbinv": 1.1, "nigbinv": 3.0,
        "aigbacc": 1.36e-2, "aigbacc1": 0.0, "bigbacc": 1.71e-3, "cigbacc": 7.5e-2,
        "nigbacc": 1.0,
        "aigc": 1.36e-2, "aigc1": 0.0, "bigc": 1.71e-3, "cigc": 0.075, "pigcd": 1.0,
        "dlcigs": 0.0, "aigs": 1.36e-2, "aigs1": 0.0, "bigs": 1.71e-3, "cigs": 0.075,
        "dlcigd": "dlcigs", "aigd": "aigs", "aigd1": "aigs1", "bigd": "bigs", "cigd": "cigs",
        "toxref": 1.2e-9, "toxg": "toxp", "ntox": 1.0, "poxedge": 1.0,
        # capacitances
        "cgeoa": 1.0, "cgeob": 0.0, "cgeoc": 0.0, "cgeod": 0.0, "cgeoe": 1.0,
        "cgso": None, "cgdo": None, "cgsl": 0.0, "cgdl": "cgsl", "ckappas": 0.6,
        "ckappad": "ckappas", "cgbo": 0.0, "cgbn": 0.0, "cgbl": 0.0, "ckappab": 0.6,
        "ngcon": 1.0, "delvfbacc": 0.0, "csdesw": 0.0, "cdsp": 0.0,
        # junctions
        "cjs": 5e-4, "cjd": "cjs", "cjsws": 5e-10, "cjswd": "cjsws", "cjswgs": 0.0,
        "cjswgd": "cjswgs", "pbs": 1.0, "pbd": "pbs", "pbsws": 1.0, "pbswd": "pbsws",
        "pbswgs": "pbsws", "pbswgd": "pbswgs", "mjs": 0.5, "mjd": "mjs", "mjsws": 0.33,
        "mjswd": "mjsws", "mjswgs": "mjsws", "mjswgd": "mjswgs",
        "jss": 1e-4, "jsd": "jss", "jsws": 0.0, "jswd": "jsws", "jswgs": 0.0, "jswgd": "jswgs",
        "njs": 1.0, "njd": "njs", "ijthsfwd": 0.1, "ijthdfwd": "ijthsfwd", "ijthsrev": 0.1,
        "ijthdrev": "ijthsrev", "bvs": 10.0, "bvd": "bvs", "xjbvs": 1.0, "xjbvd": "xjbvs",
        "ntgen": 1.0, "aigen": 0.0, "bigen": 0.0, "lintigen": 0.0,
        # temperature
        "tnom": 27.0, "tbgasub": 7.02e-4, "tbgbsub": 1108.0, "kt1": 0.0, "kt1l": 0.0, "tss": 0.0,
        "ute": 0.0, "utl": -1.5e-3, "emobt": 0.0, "ua1": 1.032e-3, "ud1": 0.0, "ucste": -4.775e-3,
        "at": -1.56e-3, "tmexp": 0.0, "ptwgt": 4e-3, "prt": 1e-3, "igt": 2.5,
        "tcj": 0.0, "tcjsw": 0.0, "tcjswg": 0.0, "tpb": 0.0, "tpbsw": 0.0, "tpbswg": 0.0,
        "xtis": 3.0, "xtid": "xtis",
    }
)  # fmt: skip

# Effects that are not implemented: the card may name the parameter only with this value, at which
# the effect is off.
REQUIRED: Final[Mapping[str, float]] = MappingProxyType(
    {
        "nf": 1.0, "ngate": 0.0, "qmfactor": 0.0, "qmtceniv": 0.0, "qmtcencv": 0.0,
        "k0": 0.0, "k01": 0.0, "k1": 0.0, "k11": 0.0, "k1sat": 0.0, "k1sat1": 0.0, "dvtp0": 0.0,
        "a1": 0.0, "a11": 0.0, "a2": 0.0, "a21": 0.0, "uc": 0.0, "chargewf": 0.0,
        "rsdr": 0.0, "rddr": 0.0, "sjs": 0.0, "sjd": 0.0, "sjsws": 0.0, "sjswd": 0.0,
        "sjswgs": 0.0, "sjswgd": 0.0, "jtss": 0.0, "jtsd": 0.0, "jtssws": 0.0, "jtsswd": 0.0,
        "jtsswgs": 0.0, "jtsswgd": 0.0, "phign1": 0.0, "eta0n1": 0.0, "cdscn1": 0.0,
        "cdscdn1": 0.0, "nbodyn1": 0.0, "vsatn1": 0.0, "vsat1n1": 0.0, "u0n1": 0.0,
    }
)  # fmt: skip

# Parameters that BSIM-CMG knows and that cannot change DC or quasi-static results with the flags
# above: other model selections, noise, NQS, self-heating, binning limits, switched-off effects.
WITHOUT_EFFECT: Final[frozenset[str]] = frozenset(
    {
        "lmin", "lmax", "nfinmin", "nfinmax", "d", "nseg", "dlbin", "dlcacc", "eotacc", "tnoimod",
        "gidlclamp", "covs", "covd", "cgsp", "cgdp", "cfs", "cfd", "cgeo1sw", "nrs", "nrd", "rshs",
        "rshd", "rgfin", "rgext", "rhoext", "rdsw", "rdswmin", "ardsw", "brdsw", "aqmtcen",
        "bqmtcen", "etaqm", "qm0", "pqm", "qm0acc", "pqmacc", "qmtcencva", "alphaqm", "k0si",
        "k0si1", "k1si", "k1si1", "phibe", "uc1", "dvtp1", "prsdr", "prddr", "trsdr", "trddr",
        "agidl", "bgidl", "cgidl", "egidl", "pgidl", "agisl", "bgisl", "cgisl", "egisl", "pgisl",
        "tgidl", "alpha0", "alpha01", "alpha1", "alpha11", "alphaii", "alphaii0", "alphaii01",
        "alphaii1", "alphaii11", "beta0", "iit", "betaii0", "betaii1", "betaii2", "esatii", "lii",
        "sii0", "sii1", "sii2", "siid", "tii", "rth0", "cth0", "wth0", "xrcrg1", "xrcrg2", "ef",
        "em", "noia", "noib", "noic", "ntnoi", "lintnoi", "mjs2", "mjd2", "mjsws2", "mjswd2",
        "mjswgs2", "mjswgd2", "jtweff", "njts", "njtsd", "njtssw", "njtsswd", "njtsswg",
        "njtsswgd", "vtss", "vtsd", "vtssws", "vtsswd", "vtsswgs", "vtsswgd", "xtss", "xtsd",
        "xtssws", "xtsswd", "xtsswgs", "xtsswgd", "tnjts", "tnjtsd", "tnjtssw", "tnjtsswd",
        "tnjtsswg", "tnjtsswgd", "phign2", "eta0n2", "cdscn2", "cdscdn2", "nbodyn2", "vsatn2",
        "vsat1n2", "u0n2", "cdscdr", "cdscdrn1", "cdscdrn2", "eta0r", "teta0r", "vsat1r",
        "vsat1rn1", "vsat1rn2", "mexpr", "amexpr", "bmexpr", "tmexpr", "ptwgr", "pdibl1r", "rsdrr",
        "rddrr", "nigc", "vasatcv", "pclmgcv",
    }
)  # fmt: skip


def check_parameters(values: Mapping[str, float], where: str) -> None:
    """Refuse a set of parameters that this implementation would not honour.

    Args:
        values: Parameters by lower-case name, without ``level`` and ``version``.
        where: How to call the card in messages.

    Raises:
        ModelCardError: A flag asks for something not implemented, an effect that is not
            implemented is switched on, or a name is not a BSIM-CMG parameter.
    """
    for flag, (default, supported) in FLAGS.items():
        value = values.get(flag, float(default))
        if value not in supported:
            given = f"{flag} = {value:g}" + ("" if flag in values else " (the default)")
            choice = " or ".join(str(choice) for choice in supported)
            raise ModelCardError(f"{where}: {given} is not implemented; use {flag} = {choice}")
    for name, value in values.items():
        if name in REQUIRED and value != REQUIRED[name]:
            raise ModelCardError(
                f"{where}: {name} = {value:g} switches on an effect that is not implemented; "
                f"only {name} = {REQUIRED[name]:g} is"
            )
    known = FLAGS.keys() | DEFAULTS.keys() | REQUIRED.keys() | WITHOUT_EFFECT
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ModelCardError(
            f"{where}: not BSIM-CMG parameters (or binning parameters, which are not "
            f"implemented): {', '.join(unknown)}"
        )


def resolve_parameters(
    values: Mapping[str, float], overrides: Mapping[str, Tensor | float], where: str
) -> dict[str, Tensor]:
    """Fill in defaults, so that every modelled parameter has a value.

    Args:
        values: The card's parameters, checked by :func:`check_parameters`.
        overrides: Replacements by name; tensors keep their gradient and their batch dimensions.
        where: How to call the card in messages.

    Returns:
        Every modelled parameter that has a value; those whose default depends on the geometry
        (``lsp``, ``rhorsd``, ``cgso``, ``cgdo``) and ``vasat`` are absent unless given.

    Raises:
        ModelCardError: An override's name is not a modelled parameter.
    """
    not_modelled = sorted(overrides.keys() - DEFAULTS.keys())
    if not_modelled:
        raise ModelCardError(
            f"{where}: overrides of parameters that are not modelled: {', '.join(not_modelled)}"
        )
    given: dict[str, Tensor | float] = {**values, **overrides}
    resolved: dict[str, Tensor] = {}
    for name, default in DEFAULTS.items():
        if name in given:
            resolved[name] = float64(given[name])
        elif isinstance(default, str):
            resolved[name] = resolved[default]
        elif default is not None:
            resolved[name] = float64(default)
    return resolved
