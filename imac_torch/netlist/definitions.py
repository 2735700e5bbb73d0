"""Sub-circuit files as data: read, checked statement by statement, and written anew.

A simulator's input language runs programs (``.control`` and its abbreviations, ``*#`` comments),
reads and writes files, and lets one file redefine what another one says. Files that a user brings
are therefore never handed to a simulator as they are. They are read here, what they include is put
in their place, and what is written is made of the statements that were understood:

- ``.subckt`` … ``.ends`` with elements inside, nested ones included;
- ``.model`` of the kinds of :data:`MODELS`; ``.param`` with values, not with functions;
- ``.include`` and ``.lib`` of files of the same kind, by absolute paths or relative to the file;
- comments, which are left out.

Everything else is refused by name, with file and line. Names are those of HSPICE and ngspice
(ngspice manual, "Circuit description"; it takes any statement that *begins* like one it knows,
``.controlx`` for ``.control``, so that names are compared whole here).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imac_torch.base.files import read_text, unread
from imac_torch.errors import NetlistError

ELEMENTS: Final = "rclkefghbdqjmxvisw"
"""First letters of elements; not ``a`` (code models, which read files), ``n``, ``p``, ``u`` …"""
MODELS: Final = frozenset({
    "c", "csw", "d", "l", "lpnp", "njf", "nmf", "nmos", "npn", "pjf", "pmf", "pmos", "pnp", "r",
    "sw",
})  # fmt: skip
"""Kinds of models; none of them names a file."""
FUNCTIONS: Final = frozenset({
    "v", "i", "abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "cos",
    "cosh", "ddt", "exp", "floor", "int", "limit", "ln", "log", "log10", "max", "min", "nint",
    "pow", "pwl", "pwr", "round", "sgn", "sign", "sin", "sinh", "sqrt", "tan", "tanh",
    "ternary_fcn", "u", "u2", "uramp",
})  # fmt: skip
"""What may be called in expressions."""
_WAVEFORMS: Final = frozenset({
    "ac", "am", "cur", "dc", "exp", "poly", "pulse", "pwl", "sffm", "sin", "table", "value", "vol",
})  # fmt: skip
_RESERVED: Final = FUNCTIONS | {"time", "temper", "temp", "hertz", "pi", "e", "vdd", "scan"}

_LARGEST_TOTAL: Final = 64 * 2**20
_MOST_FILES: Final = 1000
_DEEPEST: Final = 16
_LINE: Final = 200

_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_OUTSIDE: Final = re.compile(r"[^A-Za-z0-9_ .,+\-*/^%()<>=!&|?:~{}'\"\[\]#@]")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_CALL: Final = re.compile(r"([A-Za-z_]\w*)[ ]*\(", re.ASCII)
_FILE: Final = re.compile(r"\b(\w*file\w*)[ ]*=|=[ ]*(file)\b|[ ](\w*file)(?=[ ]|$)", re.I)
_ASSIGNMENT: Final = re.compile(
    r"[ ,]*([A-Za-z_]\w*)[ ]*=[ ]*('[^']*'|\"[^\"]*\"|\{[^{}]*\}|[^ ='\"{},]+)", re.ASCII
)
_TARGET: Final = re.compile(r"(\.\w+)[ \t]*(?:'([^']*)'|\"([^\"]*)\"|(\S+))(.*)", re.DOTALL)
_WORD: Final = re.compile(r"(?:[^ '\"{]|'[^']*'|\"[^\"]*\"|\{[^{}]*\})+")


@dataclass(frozen=True)
class Definition:
    """One definition at the top level of a file.

    Attributes:
        kind: ``subckt``, ``model`` or ``param``.
        name: Lower case.
        text: Its lines, as they are written into netlists.
        names: ``(kind, name)`` of everything defined in it, itself included, lower case.
        place: File and line.
    """

    kind: str
    name: str
    text: str
    names: frozenset[tuple[str, str]]
    place: str


@dataclass
class _Reader:
    """One file with everything that it includes."""

    definitions: list[Definition] = field(default_factory=list)
    open: list[tuple[str, str]] = field(default_factory=list)  # name and place of each .subckt
    lines: list[str] = field(default_factory=list)
    names: set[tuple[str, str]] = field(default_factory=set)
    size: int = 0
    files: int = 0
    includes: int = 0

    def file(self, path: Path, section: str | None, above: tuple[Path, ...]) -> None:
        resolved = path.resolve()
        if resolved in above:
            raise NetlistError(f"{path} includes itself")
        if len(above) >= _DEEPEST or self.files >= _MOST_FILES:
            raise NetlistError(
                f"{path}: included more than {_DEEPEST} deep, or one of more than {_MOST_FILES} "
                "files"
            )
        try:
            text = read_text(path, limit=_LARGEST_TOTAL - self.size, encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = unread(error)
            raise NetlistError(f"sub-circuit file {path} cannot be read: {reason}") from error
        self.files += 1
        self.size += len(text)
        depth = len(self.open)
        inside: str | None = None
        seen = False
        for place, line in _statements(text, path):
            keyword = line.split(None, 1)[0].lower()
            if keyword == ".lib" and len(line.split()) == 2 and section is not None:
                inside = line.split()[1].lower()
                seen = seen or inside == section
            elif keyword == ".endl" and section is not None:
                inside = None
            elif section is None or inside == section:
                self.statement(line, keyword, place, path, (*above, resolved))
        if section is not None and not seen:
            raise NetlistError(f"{path} has no section {section}")
        if len(self.open) != depth:
            name, place = self.open[-1] if self.open else ("?", str(path))
            raise NetlistError(f"{place}: sub-circuit {name} is not closed by .ends in this file")

    def statement(
        self, line: str, keyword: str, place: str, path: Path, above: tuple[Path, ...]
    ) -> None:
        if keyword in (".include", ".inc", ".lib"):
            self.include(line, place, path, above)
            return
        match = _OUTSIDE.search(line)
        if match is not None:
            raise _refuse(place, f"the character {match[0]!r} outside a comment", line)
        if "".join(_WORD.findall(line)).replace(" ", "") != line.replace(" ", ""):
            raise _refuse(place, "a quote or brace without its partner", line)
        if "//" in line:
            raise _refuse(place, "//, which begins a comment in some simulators", line)
        match = _FILE.search(line)
        if match is not None:
            raise _refuse(place, f"{match[1] or match[2] or match[3]}, which names a file", line)
        if keyword == ".subckt":
            self.begin(line, place)
        elif keyword == ".ends":
            self.end(line, place)
        elif keyword == ".model":
            self.add("model", _model(line, place), line, place)
        elif keyword in (".param", ".params", ".parameter", ".parameters"):
            body = line[len(keyword) :].strip()
            for name, value in _assignments(body, place, line):
                if not self.open and (name in _RESERVED or name.startswith("value_")):
                    raise _refuse(place, f"a parameter called {name} for the whole netlist", line)
                _check_calls(value, place, line)
                self.add("param", name, f".param {name}={value}", place)
        elif keyword in (".protect", ".unprotect", ".prot", ".unprot"):
            pass  # what HSPICE lists
        elif keyword[0] == ".":
            raise _refuse(place, f"a {keyword} statement", line)
        elif keyword[0] not in ELEMENTS or _NAME.match(keyword) is None:
            raise _refuse(place, f"an element {keyword}", line)
        elif not self.open:
            raise _refuse(place, f"the element {keyword} outside any sub-circuit", line)
        else:
            _check_calls(line[len(keyword) :], place, line)
            self.write(line)

    def include(self, line: str, place: str, path: Path, above: tuple[Path, ...]) -> None:
        match = _TARGET.fullmatch(line)
        name = None if match is None else match[2] or match[3] or match[4]
        rest = [] if match is None else match[5].split()
        is_library = line[:4].lower() == ".lib"
        if not name or len(rest) != int(is_library) or re.search(r"[$`\x00-\x1f'\"]", name):
            raise _refuse(place, "an include that is not one file (and, of .lib, a section)", line)
        self.includes += 1
        target = path.parent / Path(name).expanduser()
        section = rest[0].strip("'\"").lower() if is_library else None
        try:
            self.file(target, section, above)
        except NetlistError as error:
            raise NetlistError(f"{place}: {error}") from error

    def begin(self, line: str, place: str) -> None:
        first = re.search(r"\w+ *=", line)
        cut = len(line) if first is None else first.start()
        words = line[:cut].split()
        if len(words) < 2 or _NAME.fullmatch(words[1]) is None:
            raise _refuse(place, "a .subckt without a usable name", line)
        for _, value in _assignments(line[cut:], place, line):
            _check_calls(value, place, line)
        ports = [word for word in words[2:] if word.lower() != "params:"]
        if any(re.fullmatch(r"[\w.#!\[\]<>:+\-]+", port) is None for port in ports):
            raise _refuse(place, "a .subckt whose ports are not names", line)
        self.open.append((words[1].lower(), place))
        self.names.add(("subckt", words[1].lower()))
        self.lines += _wrapped(line)

    def end(self, line: str, place: str) -> None:
        words = line.split()
        if not self.open or len(words) > 2:
            raise _refuse(place, "an .ends without .subckt, or with more than a name", line)
        name, start = self.open[-1]
        if len(words) == 2 and words[1].lower() != name:
            raise _refuse(place, f"an .ends of another sub-circuit than {name}", line)
        self.open.pop()
        self.lines.append(f".ends {name}")
        if not self.open:
            text = "\n".join(self.lines) + "\n"
            self.definitions.append(
                Definition("subckt", name, text, frozenset(self.names), start)
            )
            self.lines, self.names = [], set()

    def add(self, kind: str, name: str, line: str, place: str) -> None:
        if self.open:
            self.write(line)
            return
        text = "\n".join(_wrapped(line)) + "\n"
        self.definitions.append(Definition(kind, name, text, frozenset({(kind, name)}), place))

    def write(self, line: str) -> None:
        self.lines += _wrapped(line)


def read_definitions(path: Path, section: str | None = None) -> tuple[tuple[Definition, ...], int]:
    """Read a file of definitions, with everything that it includes in its place.

    Args:
        path: The file.
        section: Of a library: what stands between ``.lib section`` and ``.endl``.

    Returns:
        Its definitions in order, and the number of include statements.

    Raises:
        NetlistError: A file cannot be read, or a statement is not a definition; file and line are
            named.
    """
    reader = _Reader()
    reader.file(path, None if section is None else section.lower(), ())
    return tuple(reader.definitions), reader.includes


def join_definitions(definitions: tuple[Definition, ...]) -> str:
    """Their text; what is defined twice in the same words stands there once.

    Raises:
        NetlistError: A name is defined twice, differently.
    """
    known: dict[tuple[str, str], Definition] = {}
    kept = []
    for item in definitions:
        earlier = [known[name] for name in item.names if name in known]
        if any(other.text == item.text for other in earlier):
            continue
        if earlier:
            raise NetlistError(
                f"{item.place}: {item.kind} {item.name} defines a name that {earlier[0].place} "
                "defines differently; rename one"
            )
        known |= dict.fromkeys(item.names, item)
        kept.append(item.text)
    return "".join(kept)


def _refuse(place: str, what: str, line: str) -> NetlistError:
    return NetlistError(
        f"{place}: {what} is refused in a sub-circuit file ({line[:60]!r}): such files hold "
        "sub-circuits, models and parameters only; if you trust every file that is named there, "
        "say so (trust=True, on the command line --trust)"
    )


def _statements(text: str, path: Path) -> Iterator[tuple[str, str]]:
    """Place and text of every logical line, comments and continuation marks taken out."""
    pending: list[str] = []
    start = 0
    for number, raw in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        place = f"{path}:{number}"
        if _CONTROL.search(raw) is not None:
            raise _refuse(place, "a control character", raw)
        line = raw.replace("\t", " ").strip(" ")
        if line.startswith("*#"):
            raise _refuse(place, "a command in a comment (*#)", line)
        if not line or line[0] in "*$;":
            continue
        if line[0] == "+":
            if not pending:
                raise _refuse(place, "a continuation of nothing", line)
            pending.append(_code(line[1:]))
            continue
        if pending:
            yield f"{path}:{start}", " ".join(pending)
        pending, start = [_code(line)], number
    if pending:
        yield f"{path}:{start}", " ".join(pending)


def _code(line: str) -> str:
    """A line without the comment at its end; quoted file names of includes may hold anything."""
    quote = ""
    for k, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == ";" or (character == "$" and (k == 0 or line[k - 1] == " ")):
            return line[:k].strip(" ")
    return line.strip(" ")


def _assignments(body: str, place: str, line: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(body):
        match = _ASSIGNMENT.match(body, position)
        if match is None:
            if body[position:].strip(" ,)"):
                raise _refuse(place, "something else than name=value", line)
            return
        yield match[1].lower(), match[2]
        position = match.end()


def _model(line: str, place: str) -> str:
    words = line.replace("(", " ").replace(")", " ").split()
    if len(words) < 3 or _NAME.match(words[1]) is None:
        raise _refuse(place, "a .model without a name and a kind", line)
    if words[2].lower() not in MODELS:
        raise _refuse(place, f"a .model of kind {words[2]}", line)
    head = re.match(r"\.\w+ +\S+ +\w+ *", line)
    _check_calls(line if head is None else line[head.end() :].lstrip("("), place, line)
    return words[1].lower()


def _check_calls(text: str, place: str, line: str) -> None:
    for match in _CALL.finditer(text):
        if match[1].lower() not in FUNCTIONS | _WAVEFORMS:
            raise _refuse(place, f"the function {match[1]}", line)


def _wrapped(line: str) -> list[str]:
    """A statement in lines of moderate length; HSPICE takes 1024 characters."""
    lines: list[str] = []
    current: list[str] = []
    length = 0
    for word in _WORD.findall(line):
        if current and length + len(word) > _LINE:
            lines.append(" ".join(current))
            current, length = ["+"], 1
        current.append(word)
        length += len(word) + 1
    return [*lines, " ".join(current)]
