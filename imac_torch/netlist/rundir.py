"""Run directories: new or ours, described by a manifest, never overwriting anything else.

A directory belongs to one run at a time. Whoever writes into it, or runs what is in it, holds its
lock; whoever runs says which contents it expects, since another run may have replaced them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final

from imac_torch.base.files import (
    LOCK,
    exclusive,
    file_digest,
    is_remnant,
    parse_json,
    read_text,
    write_text,
)
from imac_torch.errors import NetlistError

MANIFEST: Final = "imac_torch_run.json"
"""Name of the manifest in a run directory."""
_FORMAT: Final = 1


def write_run_directory(
    directory: Path,
    files: Mapping[str, str],
    description: Mapping[str, Any],
    *,
    wait: bool = False,
) -> dict[str, str]:
    """Write files into a run directory and describe them in its manifest.

    A directory that already exists must be empty or hold a manifest of ours. Files that are there
    with the same contents are left alone, so that finished batches stay finished; files of an
    earlier run that the user has not touched are replaced or removed; simulators' results are
    left where they are.

    Args:
        directory: The run directory; created if needed.
        files: Text by path relative to the directory, with ``/`` as separator.
        description: Whatever else belongs into the manifest (JSON values).
        wait: For a run that is using the directory; without it, that is an error.

    Returns:
        Digests of the files, for :func:`run_directory`.

    Raises:
        NetlistError: The directory is somebody else's or in use, holds files that were edited by
            hand, or cannot be written.
    """
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or name == MANIFEST:
            raise NetlistError(f"{name!r} is not a file name inside a run directory")
    hashes = {name: _hash(text.encode()) for name, text in files.items()}
    try:
        if not (directory / LOCK).exists():
            _read_manifest(directory)  # no lock is left behind in somebody else's
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory, wait=wait):
            _write(directory, files, hashes, description)
    except OSError as error:
        raise NetlistError(f"the run directory {directory} cannot be written: {error}") from error
    return hashes


@contextmanager
def run_directory(
    directory: Path, digests: Mapping[str, str], *, wait: bool = False
) -> Iterator[None]:
    """Hold a run directory whose files are those that were written.

    Args:
        directory: From :func:`write_run_directory`.
        digests: What it returned.
        wait: For another run that is using the directory; without it, that is an error.

    Raises:
        NetlistError: The directory is in use or gone, or a file in it is another one by now.
    """
    if not directory.is_dir():
        raise NetlistError(f"the run directory {directory} is gone; write the netlists again")
    with _locked(directory, wait=wait):
        for name, digest in digests.items():
            path = directory / name
            if not path.is_file() or file_digest(path) != digest:
                raise NetlistError(
                    f"{path} is not what was written for this run: another run has used the "
                    "directory since, or the file was edited; write the netlists again, each run "
                    "into a directory of its own"
                )
        yield


@contextmanager
def _locked(directory: Path, *, wait: bool) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(directory, wait=wait))
        except BlockingIOError as error:
            raise NetlistError(f"the run directory {directory} is {error.strerror}") from None
        except OSError as error:
            raise NetlistError(
                f"the run directory {directory} cannot be locked: {error}"
            ) from error
        yield


def _write(
    directory: Path,
    files: Mapping[str, str],
    hashes: Mapping[str, str],
    description: Mapping[str, Any],
) -> None:
    earlier = _read_manifest(directory)
    for name in {*earlier, *files}:
        _check_untouched(directory / name, {*earlier.get(name, ()), hashes.get(name)})
    # The manifest goes first and lists old and new: were writing interrupted, every file that
    # is there would still be recognised as ours the next time.
    both = {
        name: [*earlier.get(name, ()), *([hashes[name]] if name in hashes else [])]
        for name in {*earlier, *files}
    }
    _write_manifest(directory, both, description, complete=False)
    for name in earlier:
        if name not in files:
            (directory / name).unlink(missing_ok=True)
    for name, text in files.items():
        path = directory / name
        if path.is_file() and file_digest(path) == hashes[name]:
            continue
        write_text(path, text)
    new = {name: [value] for name, value in hashes.items()}
    _write_manifest(directory, new, description, complete=True)


def read_run_directory(directory: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What the manifest of a run directory says of its run, and digests of its files.

    Raises:
        NetlistError: It is no run directory, or writing it was interrupted.
    """
    if not (directory / MANIFEST).is_file():
        raise NetlistError(f"{directory} is no run directory of imac_torch: it has no {MANIFEST}")
    digests = _read_manifest(directory)
    content: dict[str, Any] = parse_json(read_text(directory / MANIFEST))
    if not content.get("complete") or any(len(values) != 1 for values in digests.values()):
        raise NetlistError(f"writing {directory} was interrupted; write the netlists again")
    return content, {name: values[0] for name, values in digests.items()}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_manifest(
    directory: Path,
    hashes: Mapping[str, list[str]],
    description: Mapping[str, Any],
    *,
    complete: bool,
) -> None:
    content = {
        "tool": "imac_torch",
        "format": _FORMAT,
        "complete": complete,
        **description,
        "files": dict(sorted(hashes.items())),
    }
    write_text(directory / MANIFEST, json.dumps(content, indent=1) + "\n")


def _read_manifest(directory: Path) -> dict[str, list[str]]:
    """Hashes of an earlier run's files; empty for a new directory."""
    if not directory.exists():
        return {}
    if not directory.is_dir():
        raise NetlistError(f"{directory} is not a directory; choose another run directory")
    path = directory / MANIFEST
    if not path.is_file():
        if not all(is_remnant(item) for item in directory.iterdir()):
            raise NetlistError(
                f"{directory} is not empty and is not a run directory of imac_torch (no "
                f"{MANIFEST}); choose a new or empty directory"
            )
        return {}
    try:
        content = parse_json(read_text(path))
        files = content["files"]
        usable = content["tool"] == "imac_torch" and content["format"] == _FORMAT
        if not usable or not all(isinstance(v, list) for v in files.values()):
            raise ValueError("not written by this version of imac_torch")
        names = {str(name): [str(value) for value in values] for name, values in files.items()}
        if any(name.startswith("/") or ".." in PurePosixPath(name).parts for name in names):
            raise ValueError("it names files outside the directory")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NetlistError(f"{path} cannot be used: {error}; choose another directory") from error
    return names


def _check_untouched(path: Path, ours: set[str | None]) -> None:
    """Refuse to replace or remove a file that we did not write as it is now."""
    if not path.exists():
        return
    if not path.is_file() or file_digest(path) not in ours:
        raise NetlistError(
            f"{path} was changed since imac_torch wrote it, or was written by somebody else; "
            "move it away or choose another run directory"
        )
