"""Between software and a circuit: drivers before it, converters behind it, one file per kind.

Here belongs everything that depends on which they are: codes, passes, energy, time, area.
:class:`DriverKind` and :class:`ConverterKind` say what a kind must answer; a new one is a file like
``dac.py`` or ``sar.py`` and a line in :mod:`imac_torch.config.kinds`, or, outside of the package, a
call of :func:`register_driver` or :func:`register_converter`.
"""

from imac_torch.periphery.border.base import (
    ConverterKind,
    DriverKind,
    converter_of,
    driver_of,
    register_converter,
    register_driver,
)
from imac_torch.periphery.border.grid import Grid, fitted_range, straight_through

__all__ = [
    "ConverterKind",
    "DriverKind",
    "Grid",
    "converter_of",
    "driver_of",
    "fitted_range",
    "register_converter",
    "register_driver",
    "straight_through",
]
