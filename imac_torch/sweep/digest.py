"""What a result depends on, as one number: tensors, attributes, code, the contents of files."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from imac_torch.errors import ImacError
from imac_torch.simulator import content_digest

__all__ = ["Undigestible", "content_of", "files_of", "installed"]

_LARGEST_DIRECTORY: Final = 1000
"""Files of a directory that a configuration names (a library of model cards)."""
_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes, range, slice, type(...))
_BOOKKEEPING: Final = {"training", "_is_full_backward_hook", "_version"}


class Undigestible(Exception):  # noqa: N818 - an answer, not a failure
    """Something whose content cannot be told from outside; the message says where it is."""


def content_of(**parts: object) -> str:
    """Digest of values of any kind: equal digests mean equal contents.

    Modules and other objects count with all their attributes, functions and classes of the user
    with their code and what it refers to, those of installed packages by their names, paths with
    the contents of the files there.

    Raises:
        Undigestible: Somewhere in it is an open file, a lock, a generator, or their like.
    """
    walk = _Walk()
    try:
        for name, value in parts.items():
            walk.put("part", name)
            walk.add(value, name)
    except RecursionError:
        raise Undigestible(f"{name} (nested too deeply)") from None
    return walk.digest.hexdigest()


def files_of(values: object) -> dict[str, str]:
    """Digests of the files and directories that texts in nested dictionaries and lists name."""
    found: dict[str, str] = {}
    pending = [values]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
        elif isinstance(value, str | Path) and (digest := _place_digest(value)) is not None:
            found[str(value)] = digest
    return found


def _place_digest(value: str | Path) -> str | None:
    """Of what a path leads to; None where it leads nowhere, and is a word like any other."""
    try:
        path = Path(value).expanduser()
        if path.is_file():
            return _file_digest(path.absolute())
        if not str(value) or not path.is_dir():
            return None
        files = sorted(item for item in path.rglob("*") if item.is_file())
        if len(files) > _LARGEST_DIRECTORY:
            raise Undigestible(f"the directory {path}, of more than {_LARGEST_DIRECTORY} files")
        digest = hashlib.sha256()
        for item in files:
            content = _file_digest(item.absolute())
            digest.update(f"{item.relative_to(path)}\0{content}\0".encode(errors="replace"))
        return digest.hexdigest()
    except (OSError, ValueError, RuntimeError):  # too long for a name, or without a home
        return None


def _file_digest(path: Path) -> str:
    """Of a file and what it includes."""
    try:
        return content_digest(path)
    except ImacError:  # includes something that is not there, or no netlist at all
        return hashlib.sha256(path.read_bytes()).hexdigest()


def installed(module: str) -> bool:
    """Whether a module belongs to Python, to an installed package, or to this one."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in sys.builtin_module_names or top == "imac_torch":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module != "__main__"
    places = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
    return any(Path(file).is_relative_to(place) for place in places if place)


class _Walk:
    """Goes through everything that can be reached, each object once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[int, int] = {}
        self.kept: list[object] = []  # an address means something only while its object lives

    def put(self, *words: object) -> None:
        """One item, so that no two different sequences of items look the same."""
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode(errors="backslashreplace")
            self.digest.update(len(data).to_bytes(8, "little") + data)

    def add(self, value: object, where: str) -> None:
        """One value; ``where`` names it in errors."""
        if isinstance(value, _PLAIN) and type(value) in _PLAIN:
            self.put(type(value).__name__, value if isinstance(value, bytes) else repr(value))
            if isinstance(value, str) and (content := _place_digest(value)) is not None:
                self.put("file", content)
            return
        if id(value) in self.seen:
            self.put("again", self.seen[id(value)])
            return
        self.seen[id(value)] = len(self.seen)
        self.kept.append(value)
        if isinstance(value, Tensor):
            self._tensor(value, where)
        elif isinstance(value, np.ndarray | np.generic):
            self._array(np.asarray(value), where)
        elif isinstance(value, types.CodeType):
            self._code(value, where)
        elif isinstance(value, types.FunctionType):
            self._function(value, where)
        elif isinstance(value, types.ModuleType):
            self._module(value)
        elif isinstance(value, type):
            self._class(value, where)
        elif isinstance(value, types.MethodType):
            self.put("method")
            self.add(value.__func__, where)
            self.add(value.__self__, f"{where}.__self__")
        elif isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType):
            self.put("builtin", getattr(value, "__module__", ""), value.__qualname__)
        elif isinstance(value, Path):
            self.put("path", value, _place_digest(value) or "")
        elif isinstance(value, Enum):
            self.put("enum", type(value).__qualname__, value.name)
        elif isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
            self.put("torch", value)
        elif isinstance(value, torch.Generator):
            self.put("generator")
            self.add(value.get_state(), where)
        else:
            self._object(value, where)

    def _tensor(self, value: Tensor, where: str) -> None:
        try:
            data = value.detach().cpu().to_dense().contiguous().reshape(-1).view(torch.uint8)
        except (RuntimeError, NotImplementedError) as error:
            raise Undigestible(f"{where} ({type(value).__name__}: {error})") from None
        self.put("tensor", value.dtype, tuple(value.shape), data.numpy().tobytes())
        extra = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
        if extra:
            self.add(extra, where)

    def _array(self, value: np.ndarray[Any, Any], where: str) -> None:
        self.put("array", value.dtype, value.shape)
        if value.dtype.hasobject:
            self.add(value.tolist(), where)
        else:
            self.put(np.ascontiguousarray(value).tobytes())

    def _code(self, code: types.CodeType, where: str) -> None:
        # Not the file and its lines: a function that moved computes the same.
        self.put("code", code.co_code, code.co_names, code.co_varnames, code.co_freevars)
        for constant in code.co_consts:
            if isinstance(constant, frozenset):
                self.put("constants", sorted(map(repr, constant)))
            else:
                self.add(constant, where)

    def _function(self, function: types.FunctionType, where: str) -> None:
        self.put("function", function.__module__, function.__qualname__)
        if not installed(function.__module__ or "__main__"):
            self.add(function.__code__, where)
            self._names(function.__code__, function.__globals__, where)
        self.add(function.__defaults__, where)
        self.add(function.__kwdefaults__, where)
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents, f"{where}, a variable of {function.__qualname__}")
            except ValueError:
                self.put("empty")

    def _names(self, code: types.CodeType, known: Mapping[str, Any], where: str) -> None:
        """What code refers to outside itself, inner functions included."""
        for name in code.co_names:
            if name in known:
                self.put("name", name)
                self.add(known[name], f"{where}, global {name}")
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._names(constant, known, where)

    def _module(self, module: types.ModuleType) -> None:
        self.put("module", module.__name__)
        file = getattr(module, "__file__", None)
        if file is not None and not installed(module.__name__):
            self.put(_place_digest(file) or "")

    def _class(self, kind: type, where: str) -> None:
        self.put("class", kind.__module__, kind.__qualname__)
        if installed(kind.__module__):
            return
        for base in kind.__bases__:
            self.add(base, where)
        for name, item in sorted(vars(kind).items()):
            if name in ("__dict__", "__weakref__", "__doc__", "__module__", "__abstractmethods__",
                        "_abc_impl", "__firstlineno__", "__static_attributes__"):  # fmt: skip
                continue
            self.put("attribute", name)
            if isinstance(item, staticmethod | classmethod):
                item = item.__func__
            if isinstance(item, property):
                for part in (item.fget, item.fset, item.fdel):
                    self.add(part, f"{where}, {kind.__qualname__}.{name}")
            elif not isinstance(item, types.MemberDescriptorType | types.GetSetDescriptorType):
                self.add(item, f"{where}, {kind.__qualname__}.{name}")

    def _object(self, value: object, where: str) -> None:
        self.add(type(value), where)
        if isinstance(value, Mapping):
            self.put("mapping", len(value))
            for key, item in value.items():
                self.add(key, f"{where}, a key")
                self.add(item, f"{where}[{key!r}]")
        elif isinstance(value, list | tuple):
            self.put("sequence", len(value))
            for index, item in enumerate(value):
                self.add(item, f"{where}[{index}]")
        elif isinstance(value, set | frozenset):
            self.put("set", *sorted(content_of(item=item) for item in value))
        if isinstance(value, nn.Module):
            for name, item in vars(value).items():
                if name in _BOOKKEEPING:
                    continue
                self.put("attribute", name)
                # Hooks have numbers of this process for their names.
                hooks = "hooks" in name and isinstance(item, dict)
                self.add(list(item.values()) if hooks else item, f"{where}.{name}")
        elif not isinstance(value, dict | list | tuple | set | frozenset) or vars_of(value):
            self._state(value, where)

    def _state(self, value: object, where: str) -> None:
        """Any other object, as pickle would take it apart."""
        if type(value).__reduce_ex__ is object.__reduce_ex__ and (
            type(value).__reduce__ is object.__reduce__ and hasattr(value, "__dict__")
        ):
            self.add(dict(vars(value)), where)
            if not hasattr(type(value), "__slots__"):
                return
        try:
            parts = value.__reduce_ex__(4)
        except Exception as error:
            raise Undigestible(f"{where} ({type(value).__name__}: {error})") from None
        if isinstance(parts, str):
            self.put("named", parts)
            return
        for part in parts[:3]:
            self.add(part, where)
        for items in parts[3:5]:  # iterators over the items of lists and dictionaries
            self.add(None if items is None else list(items), where)


def vars_of(value: object) -> dict[str, Any]:
    """Attributes that an instance of a container has besides its items."""
    return dict(getattr(value, "__dict__", {}))
