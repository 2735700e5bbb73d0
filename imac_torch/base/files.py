"""Files that appear under their names only when complete, and readers that always come back."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its name on Python 3.10
    import tomli as tomllib

__all__ = [
    "LARGEST_DATA", "LARGEST_RESULT", "LARGEST_TEXT", "LOCK", "atomic_path", "check_place",
    "exclusive", "file_digest", "is_remnant", "parse_json", "parse_toml", "read_bytes",
    "read_tensors", "read_text", "regular_file", "strict_json", "unread", "write_tensors",
    "write_text",
]  # fmt: skip

LARGEST_DATA: Final = 2**36
"""Bytes of data sets and tensors: what a file may have that is larger than all others."""
LARGEST_RESULT: Final = 2**31
"""Bytes of a simulator's result: hours of waveforms."""
LARGEST_TEXT: Final = 64 * 2**20
"""Bytes; text files of users are kilobytes."""
LOCK: Final = ".imac_torch.lock"
"""Held by whoever fills a directory. It is left behind, and means nothing unless it is held."""
_PIECE: Final = 2**20
_NO_FILE: Final = "no file but a pipe, a socket or a device; name a file"
_DEEPEST: Final = 64
_DEEP: Final = "it is nested too deeply"


@contextmanager
def atomic_path(path: str | Path, *, new: bool = False) -> Iterator[Path]:
    """A temporary path that takes its final name when the block ends without an error.

    A reader, or a run after a kill, sees the old file or the whole new one. Permissions are those
    that ``open`` would give: of the file that is replaced, or those that the process's mask leaves.

    Args:
        path: The final name; its directory is created. What a symbolic link leads to is replaced.
        new: Whether to refuse a file that is there by then, whoever wrote it meanwhile.

    Yields:
        A path in the same directory to write to.

    Raises:
        FileExistsError: The file exists and should be new.
        OSError: It cannot be written; the file that was there is as it was.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if new and path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if path.exists() and not path.is_file():  # a rename would put a file in place of /dev/null
        raise OSError(errno.EINVAL, _NO_FILE, str(path))
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    # The kernel applies the process's mask; reading it otherwise would set it for all threads.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        mode = stat.S_IMODE((path if path.exists() else temporary).stat().st_mode)
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        _settle(temporary)
        if new:
            _name(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _name(temporary: Path, path: Path) -> None:
    """Give a file its name unless there is one of that name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.replace(path)


@contextmanager
def exclusive(
    directory: str | Path, *, wait: bool = False, results: bool = False
) -> Iterator[None]:
    """Hold a directory while something goes into it: nobody else fills it meanwhile.

    Args:
        directory: Created if needed; where nothing went into it, it is removed again.
        wait: For another holder; without it, that is an error.
        results: Whether it is one for users to look at: no lock is left there in the end. This
            thread may hold it already.

    Raises:
        BlockingIOError: Another process, or thread, holds it.
        OSError: It cannot be made, or not be locked.
    """
    directory = Path(os.path.realpath(directory))
    made = [place for place in (directory, *directory.parents) if not place.exists()]
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / LOCK, is_singleton=results)
        outermost = not lock.is_locked
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            words = "in use by another run; wait for its end, or choose another directory"
            raise BlockingIOError(errno.EWOULDBLOCK, words, str(directory)) from None
        except NotImplementedError as error:
            raise OSError(errno.ENOLCK, str(error), str(directory)) from None
        if (directory / LOCK).exists():
            break
        lock.release()  # its last holder has removed it meanwhile
    try:
        yield
    finally:
        empty = bool(made) and all(item.name == LOCK for item in directory.iterdir())
        with suppress(OSError):
            if outermost and (results or empty):
                (directory / LOCK).unlink(missing_ok=True)
            if empty:
                for place in made:
                    place.rmdir()
        lock.release()


def is_remnant(path: Path) -> bool:
    """Whether a file is one that :func:`exclusive`, or a killed :func:`atomic_path`, left."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(".part"))


def _settle(path: Path) -> None:
    """What was written is on the disk: a full one, or a failing one, is noticed before the name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str, *, new: bool = False) -> Path:
    """Write UTF-8 text in one step.

    Args:
        path: The file; replaced if it exists, unless it has to be new.
        text: Its content. What has no UTF-8 (names of files in other encodings) is escaped.
        new: See :func:`atomic_path`.
    """
    with atomic_path(path, new=new) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))
    return Path(path)


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, str] | None = None,
    *,
    new: bool = False,
) -> Path:
    """Write a safetensors file in one step.

    Args:
        path: The file.
        tensors: On any device; copied, since a file cannot hold tensors that share memory.
        metadata: Texts of its header.
        new: See :func:`atomic_path`.
    """
    copies = {name: item.detach().cpu().contiguous().clone() for name, item in tensors.items()}
    with atomic_path(path, new=new) as temporary:
        try:
            save_file(copies, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(path)) from None
    return Path(path)


def strict_json(content: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes: NaN and infinity, which it does not have, become null.

    Args:
        content: Dictionaries, lists and tuples of plain values.
        indent: As for :func:`json.dumps`.
    """
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def file_digest(path: str | Path, *, limit: int = LARGEST_RESULT) -> str:
    """SHA-256 of a file in hexadecimal, read piece by piece; that of a larger one is none.

    Raises:
        OSError: It cannot be read, or is not a regular file.
    """
    path = regular_file(path)
    if path.stat().st_size > limit:
        return ""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(_PIECE):
            found.update(part)
    return found.hexdigest()


def read_text(
    path: str | Path, *, limit: int = LARGEST_TEXT, encoding: str = "utf-8", errors: str = "strict"
) -> str:
    """Text of a user's file, in bounded time and memory, line ends as they are.

    Raises:
        OSError: See :func:`read_bytes`.
        UnicodeDecodeError: It is in another encoding.
    """
    return read_bytes(path, limit=limit).decode(encoding, errors)


def unread(error: OSError | UnicodeDecodeError) -> str:
    """Why :func:`read_text` failed, for people."""
    return "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return _shallow(json.loads(text))
    except RecursionError:
        raise ValueError(_DEEP) from None


def parse_toml(text: str) -> dict[str, Any]:
    """What a TOML text holds.

    Raises:
        ValueError: See :func:`parse_json`.
    """
    try:
        for line in text.splitlines():  # the parser's memory grows with the square of a key
            key = line.partition("=")[0]
            if key.count(".") > _DEEPEST and "," not in key:
                raise ValueError(_DEEP)
        found: dict[str, Any] = _shallow(tomllib.loads(text))
    except RecursionError:
        raise ValueError(_DEEP) from None
    return found


def _shallow(value: Any) -> Any:  # noqa: ANN401
    """The value, if functions that call themselves can work on it.

    Raises:
        ValueError: It is nested too deeply.
    """
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return value
    raise ValueError(_DEEP)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file, on the CPU, and the texts in its header.

    Raises:
        OSError: It cannot be read, or is not a regular file.
        ValueError: It is no safetensors file, or not a whole one.
    """
    path = regular_file(path, limit=LARGEST_DATA)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"no readable safetensors file (truncated?): {error}") from None
    except MemoryError:
        raise OSError(f"{path} has {path.stat().st_size} bytes, too many for the memory") from None


def _check(path: Path, status: os.stat_result, limit: int | None) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a directory, not a file", str(path))
    if not stat.S_ISREG(mode):
        words = "no file but a pipe, a socket or a device; save it to a file"
        raise OSError(errno.EINVAL, words, str(path))
    if limit is not None and status.st_size > limit:
        raise _too_large(path, f"{status.st_size}", limit)


def _too_large(path: Path, size: str, limit: int) -> OSError:
    words = f"{size} bytes, of which at most {limit} are read; is it the right file?"
    return OSError(errno.EFBIG, words, str(path))


def check_place(path: str | Path, *, directory: bool = False) -> None:
    """See before any work whether results will have a place, without leaving anything there.

    Args:
        path: Of a file to be written, or of a directory for several.
        directory: Which of the two.

    Raises:
        OSError: Nothing can be written there; the message says why.
    """
    path = Path(os.path.realpath(path))
    if not directory and path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    place = path if directory else path.parent
    longest = 0
    while not os.path.lexists(place):
        longest = max(longest, len(os.fsencode(place.name)))
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not directory and path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if not directory and path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, _NO_FILE, str(path))
    if max(longest, len(os.fsencode(path.name))) > os.pathconf(place, "PC_NAME_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
    # A trial is the only test that knows all of permissions, read-only mounts and full disks.
    trial = place / f".{secrets.token_hex(8)}.part"
    try:
        trial.write_bytes(b"\0" * 4096)
    finally:
        trial.unlink(missing_ok=True)
