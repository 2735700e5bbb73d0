"""Files that appear under their names only when complete, and readers that always come back."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["LARGEST_TEXT", "atomic_path", "read_bytes", "read_text", "regular_file", "write_text"]

LARGEST_TEXT: Final = 64 * 2**20
"""Bytes; text files of users are kilobytes."""
_PIECE: Final = 2**20


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path that takes its final name when the block ends without an error.

    A reader, or a run after a kill, sees the old file or the whole new one.

    Args:
        path: The final name; its directory is created.

    Yields:
        A path in the same directory to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # Private by mkstemp's choice; a result is as readable as any other file of the user's.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text in one step.

    Args:
        path: The file; replaced if it exists.
        text: Its content.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def regular_file(path: str | Path, *, limit: int | None = None) -> Path:
    """Return the path if it is a file of bounded size, for readers of other libraries.

    A pipe may never end, nor even open, and a device is no file.

    Args:
        path: Of a file; symbolic links are followed.
        limit: Largest size, bytes; None for any.

    Raises:
        OSError: It is not there, not a regular file, or too large.
    """
    path = Path(path)
    _check(path, path.stat(), limit)
    return path


def read_bytes(path: str | Path, *, limit: int = LARGEST_TEXT) -> bytes:
    """Contents of a user's file, in bounded time and memory.

    Args:
        path: Of a regular file; symbolic links are followed.
        limit: Largest size, bytes.

    Raises:
        OSError: It cannot be read, is not a regular file, or is too large.
    """
    path = Path(path)
    # Opening a pipe waits for its other end unless told not to; what was opened is what is checked.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb") as stream:
        _check(path, os.fstat(descriptor), limit)
        content = bytearray()
        while part := stream.read(_PIECE):  # some files in /proc say that they are empty
            content += part
            if len(content) > limit:
                raise _too_large(path, f"more than {limit}", limit)
    return bytes(content)


def read_text(
    path: str | Path, *, limit: int = LARGEST_TEXT, encoding: str = "utf-8", errors: str = "strict"
) -> str:
    """Text of a user's file, in bounded time and memory, line ends as they are.

    Raises:
        OSError: See :func:`read_bytes`.
        UnicodeDecodeError: It is in another encoding.
    """
    return read_bytes(path, limit=limit).decode(encoding, errors)


def _check(path: Path, status: os.stat_result, limit: int | None) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a directory, not a file")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is no file but a pipe, a socket or a device; save it to a file")
    if limit is not None and status.st_size > limit:
        raise _too_large(path, f"{status.st_size}", limit)


def _too_large(path: Path, size: str, limit: int) -> OSError:
    return OSError(f"{path} has {size} bytes, at most {limit} are read; is it the right file?")
