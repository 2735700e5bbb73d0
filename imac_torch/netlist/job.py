"""One run of a simulator: which netlist, and which results it must leave behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imac_torch.errors import NetlistError

# What may stand in a file name that is handed to a simulator: no separators, no blanks, nothing
# a shell or a command line parser gives a meaning to. The first character is never a dash.
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_file_name(name: str) -> str:
    """Return ``name`` if it is a plain file name that is safe on a command line.

    Raises:
        NetlistError: The name contains a separator, a blank or another special character.
    """
    if _SAFE_NAME.fullmatch(name) is None or ".." in name:
        raise NetlistError(
            f"{name!r} is not accepted as a file name for a simulator: use letters, digits, "
            "'_', '-' and '.' only, starting with a letter, a digit or '_'"
        )
    return name


@dataclass(frozen=True)
class SimulationJob:
    """One run of a simulator on one netlist, in the directory that holds the netlist.

    Attributes:
        netlist: Path of the netlist; its directory is the run directory.
        measures: Names of the measures that must come back, lower case.
        optional: Names of measures that may fail, such as the time of a crossing that need not
            take place.
        waveform_files: Names of the result files to read, in order. Several files with one
            operating point each (ngspice) are stacked into one array per name.
    """

    netlist: Path
    measures: tuple[str, ...] = ()
    waveform_files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject names that could reach a command line or leave the run directory.

        Raises:
            NetlistError: A file name is not a plain, safe name.
        """
        check_file_name(self.netlist.name)
        for name in self.waveform_files:
            check_file_name(name)

    @property
    def directory(self) -> Path:
        """Run directory, where every output file is written."""
        return self.netlist.parent
