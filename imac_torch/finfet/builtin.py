"""Built-in model cards: the 14 nm high-performance FinFETs of PTM-MG.

Values: Predictive Technology Model for multi-gate devices, S. Sinha, G. Yeric, V. Chandra, B. Cline,
Y. Cao, "Exploring sub-20nm FinFET design with predictive technology models", DAC 2012. Only the
parameters that act on DC and quasi-static results and differ from BSIM-CMG's defaults are kept.
"""

from __future__ import annotations

from typing import Final

from imac_torch.finfet.card import ModelCard

_COMMON: Final[dict[str, float]] = {
    "bulkmod": 1, "igcmod": 1, "igbmod": 1, "gidlmod": 0, "iimod": 0, "geomod": 1, "rdsmod": 1,
    "rgatemod": 0, "rgeomod": 1, "shmod": 0, "nqsmod": 0, "coremod": 0, "cgeomod": 2,
    "capmod": 0, "tnom": 300.15, "eot": 7.5e-10, "tfin": 1e-08, "toxp": 1.3e-09, "nbody": 5e+22,
    "nsd": 3e+26, "l": 1.8e-08, "lint": 1.5e-09, "hfin": 2.3e-08, "hepi": 9e-09, "tsili": 8e-09,
    "sdterm": 0, "ldg": 2.5e-09, "tgate": 8.5e-09, "tmask": 0.0, "nsde": 6e+25, "cit": 1.3e-05,
    "cdsc": 0.0226, "dvt0": 0.01, "dvt1": 0.69, "dsub": 0.9, "eu": 1.8, "ucs": 0.0, "rsw": 0.0,
    "rdw": 0.0, "ksativ": 0.8, "mexp": 3.0, "pclm": 0.2, "vasat": 0.6, "fpitch": 3.2e-08,
    "bigbinv": 0.03, "nigbinv": 1.2, "aigbacc": 0.0149, "bigbacc": 0.000949, "nigbacc": 3.0,
    "ucste": -0.00478,
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
