"""Sub-circuit files: the package's, or the user's with the same ports."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from imac_torch.base.files import read_text, unread
from imac_torch.base.resources import spice_file
from imac_torch.base.units import spice_number
from imac_torch.errors import NetlistError
from imac_torch.netlist.definitions import Definition, join_definitions, read_definitions
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.readout import ReadOut

AMPLIFIER_PORTS: Final = ("plus", "minus", "out")
RAIL_PORTS: Final = ("vdd", "vss")
"""Ports of amplifiers with supplies, behind the others."""
NEURON_PORTS: Final = ("z", "out", "vdd")
INVERTER_PORTS: Final = ("g", "out", "vdd")

_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w*")
_DEFINED: Final = re.compile(r"^[ \t]*\.(?:subckt|model|param)\b[ \t]*(\w+)", re.I | re.M)
_RELATIVE_INCLUDE: Final = re.compile(
    r"^[ \t]*\.(?:include|inc|lib)[ \t]+(?P<quote>['\"])(?!/)[^'\"]*(?P=quote)|"
    r"^[ \t]*\.(?:include|inc)[ \t]+(?!['\"/])\S+",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Subcircuit:
    """A sub-circuit in a file.

    Attributes:
        name: Name to call it by.
        ports: Its ports, lower case.
        parameters: Names of the parameters it declares, lower case.
        text: What is written into netlists.
        source: Where the file came from.
        definitions: What a user's file defines, in order; empty for texts that are taken as they
            are: the package's, and files that the user trusts.
        contents: What identifies it: the file's own text, and that of files which it includes.
    """

    name: str
    ports: tuple[str, ...]
    parameters: frozenset[str]
    text: str
    source: Path
    definitions: tuple[Definition, ...] = ()
    contents: str = ""

    def call(self, instance: str, nodes: Sequence[str], values: Mapping[str, float]) -> str:
        """One instance line; parameters that the sub-circuit does not declare are left out."""
        return f"X{instance} {' '.join(nodes)} {self.name}{self.arguments(values)}"

    def defaults(self) -> dict[str, float]:
        """Values that it declares for parameters, as far as they are numbers."""
        found = {}
        joined = re.sub(r"\r?\n[ \t]*\+", " ", self.text)
        header = re.search(rf"^[ \t]*\.subckt[ \t]+{self.name}\b.*$", joined, re.I | re.M)
        for name, value in re.findall(r"(\w+)\s*=\s*(\S+)", header[0] if header else ""):
            with suppress(ValueError):
                found[name.lower()] = float(value)
        return found

    def arguments(self, values: Mapping[str, float]) -> str:
        """``" name=value …"`` for every declared parameter among ``values``."""
        return "".join(
            f" {name}={spice_number(value)}"
            for name, value in values.items()
            if name in self.parameters
        )


def packaged(stem: str, ports: Sequence[str], *, name: str | None = None) -> Subcircuit:
    """The package's sub-circuit ``name`` (None: as the file) from the file ``stem``."""
    return read_subcircuit(spice_file(f"{stem}.sp"), ports, name=name or stem, trust=True)


def read_subcircuit(
    path: Path,
    ports: Sequence[str],
    *,
    name: str | None = None,
    trust: bool = False,
    more: Sequence[str] = (),
) -> Subcircuit:
    """Read a sub-circuit file and check its statements and ports.

    Args:
        path: The file; see :mod:`imac_torch.netlist.definitions` for what it may hold.
        ports: Names that the ports must have, in this order.
        name: Name of the sub-circuit; None: the first in the file with these ports.
        trust: Take the file and what it includes as they are, unchecked. It must be
            self-contained or include by absolute paths, since it is copied into the run directory.
        more: Ports that it may have behind these.

    Raises:
        NetlistError: The file cannot be read, holds a statement that is not a definition, has no
            such sub-circuit, or its ports differ.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise NetlistError(f"sub-circuit file {path} cannot be read: {unread(error)}") from error
    if trust:
        match = _RELATIVE_INCLUDE.search(text)
        if match is not None:
            raise NetlistError(
                f"sub-circuit file {path} includes by a relative path ({match[0].strip()}); "
                "trusted files are copied into the run directory as they are, so give absolute "
                "paths"
            )
        return parse_subcircuit(text, path, ports, name=name, more=more)
    definitions, includes = read_definitions(path)
    written = join_definitions(definitions)
    found = parse_subcircuit(written, path, ports, name=name, more=more)
    contents = f"{text}\n{written}" if includes else text
    return replace(found, definitions=definitions, contents=contents)


def parse_subcircuit(
    text: str,
    path: Path,
    ports: Sequence[str],
    *,
    name: str | None = None,
    more: Sequence[str] = (),
) -> Subcircuit:
    """The sub-circuit in a text that needs no check; ``path`` is named in errors.

    Raises:
        NetlistError: There is no such sub-circuit, or its ports differ.
    """
    wanted = tuple(port.lower() for port in ports)
    declared = subcircuit_headers(text)
    named = [item for item in declared if name is None or item[0].lower() == name.lower()]
    longer = wanted + tuple(port.lower() for port in more)
    fitting = [item for item in named if item[1] in (wanted, longer)]
    if not fitting:
        found = "; ".join(f"{item[0]} ({' '.join(item[1])})" for item in declared) or "none"
        called = f" called {name}" if name else ""
        raise NetlistError(
            f"{path} has no sub-circuit{called} with the ports ({' '.join(wanted)})"
            f"{f' or ({chr(32).join(longer)})' if more else ''}; it declares: {found}"
        )
    called, ports, parameters = fitting[0]
    if _IDENTIFIER.fullmatch(called) is None:
        raise NetlistError(f"{path}: {called!r} is not a usable sub-circuit name")
    return Subcircuit(called, tuple(ports), parameters, text, path, contents=text)


def subcircuit_headers(text: str) -> list[tuple[str, tuple[str, ...], frozenset[str]]]:
    """Name, ports and parameter names of every ``.subckt`` in a text, all but names lower case."""
    joined = re.sub(r"\r?\n[ \t]*\+", " ", text)
    headers = []
    for line in joined.splitlines():
        words = re.sub(r"\s*=\s*", "=", line.split("$")[0]).split()
        if len(words) < 2 or words[0].lower() != ".subckt":
            continue
        ports = tuple(
            word.lower() for word in words[2:] if "=" not in word and word.lower() != "params:"
        )
        parameters = frozenset(word.split("=")[0].lower() for word in words if "=" in word)
        headers.append((words[1], ports, parameters))
    return headers


def defined_names(subcircuit: Subcircuit) -> dict[str, str]:
    """Names that a sub-circuit's text defines for the whole netlist, with what defines them.

    Names inside sub-circuits of their own count, too: whether a simulator keeps them apart is
    its affair.
    """
    if subcircuit.definitions:
        return {name: item.text for item in subcircuit.definitions for _, name in item.names}
    return {name.lower(): subcircuit.text for name in _DEFINED.findall(subcircuit.text)}


def has_rails(amplifier: Subcircuit) -> bool:
    """Whether an amplifier's sub-circuit takes its current from supplies."""
    return amplifier.ports[-len(RAIL_PORTS) :] == RAIL_PORTS


def read_out_subcircuit(replacement: Subcircuit | None, read_out: ReadOut) -> Subcircuit:
    """The sub-circuit that stands for the read-outs of a layer.

    Args:
        replacement: The user's; None: the read-out's own.
        read_out: What the lines of the layer end in.

    Raises:
        NetlistError: There is a pole or a slew rate, and the sub-circuit has no parameter for it.
    """
    needed = read_out.lag_parameters
    if replacement is None:
        name, text = read_out.subcircuit, read_out.subcircuit_text
        if text is None:
            return packaged(name, AMPLIFIER_PORTS)
        found = parse_subcircuit(
            text, Path(f"{name}.sp"), AMPLIFIER_PORTS, name=name,
            more=("reference",) if read_out.shared else RAIL_PORTS,
        )  # fmt: skip
    elif read_out.shared:
        raise NetlistError(
            f"amplifier.kind = {read_out.kind!r} has a reference that rows share, which the ports "
            f"({' '.join(AMPLIFIER_PORTS)}) of the sub-circuit {replacement.name} in "
            f"{replacement.source} do not know; leave the sub-circuit out"
        )
    else:
        found = replacement
    for name, value in needed.items():
        if name not in found.parameters:
            raise NetlistError(
                f"amplifier.{name} is {value:g} {'V/s' if name == 'slew_rate' else 'Hz'}, but the "
                f"sub-circuit {found.name} in {found.source} declares no parameter '{name}'; "
                f"declare one, or leave amplifier.{name} out"
            )
    return found


def neuron_subcircuit(spec: NeuronSpec, *, trust: bool = False) -> Subcircuit:
    """The sub-circuit that stands for a neuron in netlists; a user's file may be trusted.

    Raises:
        NetlistError: The kind has no sub-circuit, or the resistors do not fit the kind.
    """
    path = spec.named_file("subcircuit")
    if path is not None:
        return read_subcircuit(Path(path), NEURON_PORTS, trust=trust)
    kind = spec.model
    name = f"neuron_{kind.name}"
    return parse_subcircuit(kind.subcircuit(spec), Path(f"{name}.sp"), NEURON_PORTS, name=name)


def quoted_path(path: Path) -> str:
    """A path as an include statement takes it.

    Raises:
        NetlistError: The path holds a quote or a control character.
    """
    text = str(path)
    if re.search(r"['\"\x00-\x1f]", text):
        raise NetlistError(f"the path {text!r} cannot be written into a netlist; rename it")
    return f"'{text}'"
