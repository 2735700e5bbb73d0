"""Mutations: of bytes, of values in nested tables, and the values themselves."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (
    "1e308", "-1e308", "1e-320", "-0", "-0.0", "0", "-1", "1", "nan", "-nan", "inf", "-inf", "1e9",
    "1e400", "2147483648", "-2147483649", "9223372036854775808", "18446744073709551616", "9" * 400,
    "9" * 5000, "0x7f", "1_000", "١٢٣", "1e", ".", "+-1", "1.2.3", "1e+", "--1", "", " ",
)  # fmt: skip
WORDS = (
    "", "true", "none", "null", "[]", "{}", "[[]]", "''", '"', "'", "=", "\0", "\ufeff", "\x1b[31m",
    "[/red]", "[bold]", "%s%n", "{0}", "$(touch x)", "`touch x`", "../../../etc/passwd",
    "/dev/zero", "/dev/stdin", "/", ".", "~", "~nobody/x", "a" * 300, "ключ",
    "\ud7ff", "𝔘", "é\u0301",
    "\u202e", "\r", "\r\n", "\t",
    "\x0c", "\u2028", "*#", "+", ".end", "#", "//", ";", "\\", "__class__",
)  # fmt: skip
_NUMBER = re.compile(rb"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def scrambled(rng: random.Random, sample: bytes, others: Sequence[bytes] = ()) -> bytes:
    """A file with a few things done to it; ``others`` are valid files of the same kind."""
    data = sample
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        data = rng.choice(_BYTES)(rng, data, rng.choice(others) if others else sample)
    return data[: 2**21]


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 1, 2, 4, 16, 100, len(data))))


def _flip(rng: random.Random, data: bytes, other: bytes) -> bytes:
    if not data:
        return b"\x00"
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _byte(rng: random.Random, data: bytes, other: bytes) -> bytes:
    found = bytearray(data or b"\x00")
    found[rng.randrange(len(found))] = rng.choice((0, 9, 10, 13, 32, 34, 39, 92, 127, 128, 255))
    return bytes(found)


def _cut(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _double(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 50)) + data[end:]


def _insert(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    word = rng.choice(rng.choice((WORDS, NUMBERS)))
    return data[:at] + word.encode("utf-8", "surrogatepass") + data[at:]


def _number(rng: random.Random, data: bytes, other: bytes) -> bytes:
    found = list(_NUMBER.finditer(data[:100_000]))
    if not found:
        return _insert(rng, data, other)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(NUMBERS).encode() + data[match.end() :]


def _lines(rng: random.Random, data: bytes, other: bytes) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            lines[a], lines[b] = lines[b], lines[a]
        case 1:
            lines.insert(b, lines[a])
        case 2:
            del lines[a]
        case _:
            lines[a] = lines[a] * rng.choice((10, 1000))
    return b"".join(lines)


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _recode(rng: random.Random, data: bytes, other: bytes) -> bytes:
    match rng.randrange(4):
        case 0:
            return data.decode("utf-8", "replace").encode("utf-16")
        case 1:
            return b"\xef\xbb\xbf" + data
        case 2:
            return data.replace(b"\n", b"\r\n")
        case _:
            return data.replace(b"\n", b"\r")


def _integer(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A binary integer, such as a length in a header."""
    if len(data) < 8:
        return data
    at = rng.choice((0, 4, 8, rng.randrange(len(data) - 7)))
    number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**6, 10**10))
    code = rng.choice(("<Q", ">Q", "<I", ">I"))
    return data[:at] + struct.pack(code, number % 2 ** (64 if "Q" in code else 32)) + data[
        at + struct.calcsize(code) :
    ]


_BYTES: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    _flip, _byte, _cut, _drop, _double, _insert, _number, _number, _lines, _lines, _splice, _recode,
    _integer,
)  # fmt: skip


def nested(depth: int, kind: str = "list") -> Any:
    """``[[[…]]]`` or ``{"a": {"a": …}}``."""
    value: Any = []
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def hostile(rng: random.Random) -> Any:
    """A value where another one is expected."""
    match rng.randrange(12):
        case 0:
            return rng.choice((None, True, False))
        case 1:
            return rng.choice((0, 1, -1, 2, 255, 10**6, 2**31, 2**63, -(2**63) - 1, 10**400))
        case 2 | 3:
            return rng.choice((
                0.0, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), -float("inf"), 0.1,
                -0.5, 1e-30, 1e30,
            ))  # fmt: skip
        case 4 | 5:
            return rng.choice(WORDS)
        case 6:
            return rng.choice(NUMBERS)
        case 7:
            return rng.choice(([], [[]], [0], [None], [1e308, "x"], [True] * 50, [1, 2, 3]))
        case 8:
            return rng.choice(({}, {"a": 1}, {"": {}}, {"kind": "x"}, {"schema": 1}))
        case 9:
            return nested(rng.choice((3, 50)), rng.choice(("list", "table")))
        case 10:
            return [0.5] * rng.choice((2, 100, 2000))
        case _:
            return "x" * rng.choice((1, 1000, 100_000))


def tree(rng: random.Random, value: Any) -> Any:
    """A nested table with one or two of its entries changed, taken away, renamed or repeated."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return hostile(rng)
        holder, key = rng.choice(places)
        action = rng.randrange(8)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, dict):
            holder[str(rng.choice(WORDS))] = holder.pop(key)
        elif action == 2 and isinstance(holder, dict):
            holder[str(rng.choice(WORDS))] = hostile(rng)
        elif action == 2:
            holder.insert(key, copy.deepcopy(holder[key]))
        elif action == 3:
            source, name = rng.choice(places)
            holder[key] = copy.deepcopy(source[name]) if name in _keys(source) else hostile(rng)
        elif action == 4 and isinstance(holder[key], int | float):
            holder[key] = rng.choice((-holder[key], holder[key] * 1e9, str(holder[key]), 0))
        else:
            holder[key] = hostile(rng)
    return value


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _places(value: Any) -> list[tuple[Any, Any]]:
    found = []
    pending = [value]
    while pending:
        holder = pending.pop()
        for key in list(_keys(holder)):
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                pending.append(holder[key])
    return found


def as_json(rng: random.Random, value: Any) -> bytes:
    """The tree as JSON, now and then with what Python's reader takes and JSON does not have."""
    text = json.dumps(value, indent=rng.choice((None, 1)))
    if rng.random() < 0.03:
        deep = "[" * 100_000
        text = rng.choice((deep, '{"a":' * 100_000, text.replace("{", f'{{"x": {deep}, ', 1)))
    return text.encode("utf-8", "surrogatepass")


def as_toml(rng: random.Random, value: Any) -> bytes:
    """The tree as TOML, as far as TOML has such values."""
    import tomli_w

    try:
        text = tomli_w.dumps(_without_none(value) if isinstance(value, dict) else {"x": value})
    except (TypeError, ValueError, AttributeError):
        text = "x = 1"
    if rng.random() < 0.03:
        keys = "a." * 20_000
        text = rng.choice(("x = " + "[" * 20_000, f"{keys}b = 1", f"{text}\n[{keys}b]"))
    return text.encode("utf-8", "surrogatepass")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value if item is not None]
    return value


def as_safetensors(rng: random.Random, data: bytes, inner: Sequence[str]) -> bytes:
    """A safetensors file whose header is changed: names, shapes, types, or the texts in it.

    Args:
        rng: Of the changes.
        data: A valid file.
        inner: Entries of the metadata that are JSON themselves.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    names = [name for name in inner if name in metadata]
    if names and rng.random() < 0.7:
        name = rng.choice(names)
        metadata[name] = as_json(rng, tree(rng, json.loads(metadata[name]))).decode(
            "utf-8", "replace"
        )
    else:
        header = tree(rng, header)
    text = json.dumps(header).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
