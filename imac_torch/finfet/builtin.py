"""Built-in model cards: the 14 nm high-performance FinFETs of PTM-MG.

Values: Predictive Technology Model for multi-gate devices; S. Sinha, G. Yeric, V. Chandra,
B. Cline, Y. Cao, "Exploring sub-20nm FinFET design with predictive technology models", DAC 2012.
Only the parameters that act on DC and quasi-static results are kept; of these also such as equal
this package's defaults, because a simulator that reads a written card may have others.
"""

from __future__ import annotations

from typing import Final

from imac_torch.finfet.card import ModelCard

_COMMON: Final[dict[str, float]] = {
    "bulkmod": 1, "igcmod": 1, "igbmod": 1, "gidlmod": 0, "iimod": 0, "geomod": 1, "rdsmod": 1,
    "rgatemod": 0, "rgeomod": 1, "shmod": 0, "nqsmod": 0, "coremod": 0, "cgeomod": 2, "capmod": 0,
    "tnom": 300.15, "eot": 7.5e-10, "eotbox": 1.4e-07, "tfin": 1e-08, "toxp": 1.3e-09,
    "nbody": 5e+22, "epsrox": 3.9, "epsrsub": 11.9, "easub": 4.05, "ni0sub": 1.1e+16,
    "bg0sub": 1.12, "nc0sub": 2.86e+25, "nsd": 3e+26, "l": 1.8e-08, "xl": 0.0, "lint": 1.5e-09,
    "ll": 0.0, "lln": 1.0, "llc": 0.0, "dlc": 0.0, "hfin": 2.3e-08, "fech": 1.0, "deltaw": 0.0,
    "deltawcv": 0.0, "fechcv": 1.0, "hepi": 9e-09, "tsili": 8e-09, "cratio": 0.5, "deltaprsd": 0.0,
    "sdterm": 0, "ldg": 2.5e-09, "epsrsp": 3.9, "tgate": 8.5e-09, "tmask": 0.0, "asiliend": 0.0,
    "arsdend": 0.0, "prsdend": 0.0, "nsde": 6e+25, "rgeoa": 1.0, "rgeob": 0.0, "rgeoc": 0.0,
    "rgeod": 0.0, "rgeoe": 0.0, "cgeoa": 1.0, "cgeob": 0.0, "cgeoc": 0.0, "cgeod": 0.0,
    "cgeoe": 1.0, "cit": 1.3e-05, "cdsc": 0.0226, "cdscd": 0.007, "dvt0": 0.01, "dvt1": 0.69,
    "phin": 0.05, "dsub": 0.9, "k1rsce": 0.0, "lpe0": 5e-09, "dvtshift": 0.0, "delvfbacc": 0.0,
    "etamob": 2.0, "up": 0.0, "lpa": 1.0, "ua": 0.3, "aua": 0.0, "bua": 1e-07, "eu": 1.8,
    "ud": 0.0, "aud": 0.0, "bud": 5e-08, "ucs": 0.0, "prwg": 0.0, "wr": 1.0, "rswmin": 0.0,
    "rsw": 0.0, "arsw": 0.0, "brsw": 1e-07, "rdwmin": 0.0, "rdw": 0.0, "ardw": 0.0, "brdw": 1e-07,
    "deltavsat": 1.0, "ksativ": 0.8, "avsat": 0.0, "avsat1": 0.0, "bvsat": 1e-07, "bvsat1": 1e-07,
    "mexp": 3.0, "amexp": 0.0, "bmexp": 1.0, "ptwg": 0.0, "aptwg": 0.0, "bptwg": 1e-07,
    "pclm": 0.2, "pclmcv": 0.013, "apclm": 0.0, "bpclm": 1e-07, "pclmg": 0.0, "pclmgcv": 0.0,
    "vasat": 0.6, "vasatcv": 0.2, "pdibl1": 1.3, "pdibl2": 0.0002, "drout": 1.06, "pvag": 1.0,
    "fpitch": 3.2e-08, "aigbinv": 0.0111, "bigbinv": 0.03, "cigbinv": 0.006, "eigbinv": 1.1,
    "nigbinv": 1.2, "aigbacc": 0.0149, "bigbacc": 0.000949, "cigbacc": 0.075, "nigbacc": 3.0,
    "aigc": 0.0136, "bigc": 0.00171, "cigc": 0.075, "nigc": 1.0, "dlcigs": 0.0, "dlcigd": 0.0,
    "aigs": 0.0136, "aigd": 0.0136, "bigs": 0.00171, "bigd": 0.00171, "cigs": 0.075, "cigd": 0.075,
    "poxedge": 1.0, "lintigen": 0.0, "ntgen": 1.0, "aigen": 0.0, "bigen": 0.0, "jss": 0.0001,
    "jsd": 0.0001, "jsws": 0.0, "jswgs": 0.0, "njs": 1.0, "njd": 1.0, "ijthsfwd": 0.1,
    "ijthdfwd": 0.1, "ijthsrev": 0.1, "ijthdrev": 0.1, "bvs": 10.0, "bvd": 10.0, "xjbvs": 1.0,
    "xjbvd": 1.0, "cjs": 0.0005, "cjd": 0.0005, "cjsws": 5e-10, "cjswgs": 0.0, "pbs": 1.0,
    "pbd": 1.0, "pbsws": 1.0, "mjs": 0.5, "mjd": 0.5, "mjsws": 0.33, "cdsp": 0.0, "cgsl": 0.0,
    "ckappas": 0.6, "cgbo": 0.0, "cgbl": 0.0, "tbgasub": 0.000702, "tbgbsub": 1108.0, "kt1": 0.0,
    "kt1l": 0.0, "ute": 0.0, "utl": -0.0015, "ua1": 0.001032, "ud1": 0.0, "ucste": -0.00478,
    "at": -0.00156, "ptwgt": 0.004, "tmexp": 0.0, "prt": 0.001, "igt": 2.5, "tcj": 0.0,
    "tcjsw": 0.0, "tcjswg": 0.0, "tpb": 0.0, "tpbsw": 0.0, "tpbswg": 0.0, "xtis": 3.0, "xtid": 3.0,
}  # fmt: skip
_NFET: Final[dict[str, float]] = {
    "phig": 4.4187, "rhoc": 8e-13, "eta0": 0.5063, "u0": 0.052, "vsat": 110000.0,
}  # fmt: skip
_PFET: Final[dict[str, float]] = {
    "phig": 4.7518, "rhoc": 9e-13, "eta0": 0.767, "u0": 0.0336, "vsat": 105000.0,
}  # fmt: skip


def builtin_14nm_hp() -> tuple[ModelCard, ModelCard]:
    """The 14 nm high-performance pair of PTM-MG, BSIM-CMG 105.03.

    Returns:
        The n and the p card, named ``nfet`` and ``pfet``.

    Examples:
        >>> n, p = builtin_14nm_hp()
        >>> n.parameters["l"], p.polarity
        (1.8e-08, 'p')
    """
    return (
        ModelCard("nfet", "n", "105.03", _COMMON | _NFET),
        ModelCard("pfet", "p", "105.03", _COMMON | _PFET),
    )
