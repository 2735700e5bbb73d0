"""The areas by name, and how the time is shared between them."""

from __future__ import annotations

from collections.abc import Callable

from fuzz.commands import Commands
from fuzz.directories import Directories
from fuzz.documents import Documents
from fuzz.harness import Area
from fuzz.kills import FullDisks, Kills
from fuzz.readers import Readers
from fuzz.simulators import Simulators

AREAS: dict[str, Callable[[], Area]] = {
    "readers": Readers, "documents": Documents, "command line": Commands,
    "simulators": Simulators, "kills": Kills,
    "full disks": FullDisks, "shared directories": Directories,
}  # fmt: skip
SHARES = {
    "readers": 0.22, "documents": 0.08, "command line": 0.2, "simulators": 0.1, "kills": 0.26,
    "full disks": 0.04, "shared directories": 0.1,
}  # fmt: skip
