"""What commands print: plain text that no terminal, pipe or locale can turn into an error.

What was computed is in its files before anything is printed; a reader that goes away, a full disk
behind standard output or letters that it does not know cost the text, never the command.
"""

from __future__ import annotations

import codecs
import os
import sys
from typing import Final, TextIO, cast

__all__ = ["OutputStream", "secure_output"]

_SPELLED: Final = {
    "µ": "u", "Ω": "Ohm", "°": " deg ", "²": "2", "³": "3", "–": "-", "—": "-", "−": "-",
    "…": "...", "→": "->", "×": "x", "±": "+-", "≤": "<=", "≥": ">=", "·": "*", "√": "sqrt",
    "α": "alpha", "σ": "sigma", "τ": "tau", "Δ": "d", "∞": "inf", "“": '"', "”": '"', "’": "'",
}  # fmt: skip
"""For terminals that know only ASCII."""


class OutputStream:
    """A text stream that remembers its first failure instead of raising it.

    Attributes:
        failure: The first error of the operating system, or None.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or drop the text once the stream has failed."""
        if self.failure is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Flush, likewise."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        try:  # what is still in the buffer must not fail once more when Python ends
            empty = os.open(os.devnull, os.O_WRONLY)
            os.dup2(empty, self._stream.fileno())
            os.close(empty)
        except (OSError, ValueError):
            pass

    def __getattr__(self, name: str) -> object:
        if name == "buffer":  # where the stream knows only ASCII, click writes UTF-8 there
            raise AttributeError(name)
        return getattr(self._stream, name)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_SPELLED.get(letter, "?") for letter in letters), error.end


def secure_output() -> tuple[OutputStream | None, OutputStream | None]:
    """Guard this process's standard streams; called once, by the program itself.

    Returns:
        Standard output and standard error; None where they are closed.
    """
    for number in range(3):  # a file opened later must not become a standard stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error("imac_torch", _spell)
    guarded: list[OutputStream | None] = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            guarded.append(None)
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="imac_torch")
        guarded.append(OutputStream(stream))
        setattr(sys, name, cast(TextIO, guarded[-1]))
    return guarded[0], guarded[1]
