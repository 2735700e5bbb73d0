"""An evaluator on its way to workers, with what they need to know to unpack it."""

from __future__ import annotations

import importlib
import pickle
import pickletools
import sys
from dataclasses import dataclass
from pathlib import Path

from imac_torch.errors import ConfigError
from imac_torch.sweep.digest import installed
from imac_torch.sweep.evaluator import Evaluator

__all__ = ["Parcel", "WorkerError", "cannot_start"]


class WorkerError(Exception):
    """A worker cannot evaluate anything; the message says why."""


def cannot_start(error: Exception) -> str:
    """Why a worker could not unpack or begin, and what helps."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ImportError | AttributeError):
        text += (
            "; classes and functions that workers use must be in a module that they can import, "
            "not in a notebook or a function"
        )
    return text


@dataclass(frozen=True)
class Parcel:
    """A pickle that workers open.

    Attributes:
        data: The pickle.
        places: Directories in which modules of the user's own were found.
    """

    data: bytes
    places: tuple[str, ...]

    @classmethod
    def of(cls, evaluator: Evaluator, *, by_value: bool = False) -> Parcel:
        """Pack an evaluator.

        Args:
            evaluator: What to send.
            by_value: Whether the user's own modules travel with it (by cloudpickle, which comes
                with Dask), for workers that do not see this machine's files.

        Raises:
            ConfigError: It cannot be pickled; the message says what of it.
        """
        try:
            data = pickle.dumps(evaluator)
        except Exception as error:  # whatever objects of the user raise
            raise ConfigError(
                f"the model, or what belongs to it, cannot be sent to workers: "
                f"{type(error).__name__}: {error}; classes and functions must stand at the top of "
                "a module"
            ) from error
        names = _own_modules(data)
        if by_value and names:
            data = _pickle_by_value(evaluator, names)
        return cls(data, tuple(dict.fromkeys(map(_place, names))))

    def open(self) -> Evaluator:
        """Unpack it, in the worker."""
        sys.path += [place for place in self.places if place not in sys.path]
        found: Evaluator = pickle.loads(self.data)  # noqa: S301 - from our own parent process
        return found


def _own_modules(data: bytes) -> list[str]:
    """Modules that a pickle names and that belong to no installed package."""
    texts = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
    # Protocol 0 to 3 write "module name" as one text.
    names = {name for text in texts for name in (text, text.partition(" ")[0])}
    return sorted(
        name for name in names
        if name in sys.modules and name not in ("__main__", "__mp_main__") and not installed(name)
        and getattr(sys.modules[name], "__file__", None)
    )  # fmt: skip


def _place(name: str) -> str:
    """Directory from which a module can be imported under its name."""
    file = Path(str(sys.modules[name].__file__)).absolute()
    levels = name.count(".") + (file.name == "__init__.py")
    return str(file.parents[levels])


def _pickle_by_value(evaluator: Evaluator, names: list[str]) -> bytes:
    cloudpickle = importlib.import_module("cloudpickle")
    registered = [sys.modules[name] for name in names]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        data: bytes = cloudpickle.dumps(evaluator)
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)
    return data
