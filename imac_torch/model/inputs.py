"""What of a forward's parameters varies from run to run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imac_torch.errors import CircuitError, ConversionError

__all__ = ["Arguments", "Inputs", "arguments_of"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of a run."""


def arguments_of(batch: object) -> Arguments:
    """A batch as arguments: a tuple or list is several inputs, a dict named ones."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, tuple | list):
        return tuple(batch), {}
    return (batch,), {}

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Inputs:
    """Parameters of a forward: inputs, and those that keep the value they had in tracing.

    Attributes:
        signature: Of the forward, without ``self``.
        names: Parameters that are inputs, in order; those of ``*args`` are ``args_0``, ….
        fixed: Values of the others, which are their defaults.
    """

    signature: inspect.Signature
    names: tuple[str, ...]
    fixed: Mapping[str, Any]

    @classmethod
    def of(cls, forward: Callable[..., Any], samples: Sequence[Arguments] = ()) -> Inputs:
        """Inputs are parameters without a default, and what samples give.

        Raises:
            ConversionError: Samples do not fit the forward.
        """
        signature = inspect.signature(forward)
        given: set[str] = set()
        longest = 0 if samples else 1
        for positional, named in samples:
            try:
                bound = signature.bind(*positional, **named)
            except TypeError as error:
                raise ConversionError(
                    f"samples do not fit the model's forward{signature}: {error}; several inputs "
                    "of one run are a tuple, or a dict by name"
                ) from None
            for name, value in bound.arguments.items():
                given.add(name)
                if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                    longest = max(longest, len(value))
        names: list[str] = []
        fixed: dict[str, Any] = {}
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                # Without samples nothing says how many: a model has one input at least.
                count = longest if samples or not names else 0
                names += [f"{name}_{index}" for index in range(count)]
            elif parameter.kind is parameter.VAR_KEYWORD:
                continue
            elif parameter.default is parameter.empty or name in given:
                names.append(name)
            else:
                fixed[name] = parameter.default
        return cls(signature, tuple(names), fixed)

    @classmethod
    def named(cls, forward: Callable[..., Any], names: Sequence[str]) -> Inputs:
        """The same of parameters that are known by name.

        Raises:
            ConversionError: It has no such parameter, or others without a default.
        """
        found = cls.of(forward)
        parameters = found.signature.parameters
        single = [name for name in parameters if parameters[name].kind not in _VARIABLE]
        various = [f"{name}_" for name in parameters
                   if parameters[name].kind is inspect.Parameter.VAR_POSITIONAL]  # fmt: skip
        needed = [name for name in single if parameters[name].default is inspect.Parameter.empty]
        unknown = [
            name for name in names if name not in single and not name.startswith(tuple(various))
        ]
        if unknown or not set(needed) <= set(names):
            raise ConversionError(
                f"its forward{found.signature} has other inputs than {', '.join(names)}"
            )
        fixed = {
            name: parameters[name].default for name in single if name not in names
        }
        return cls(found.signature, tuple(names), fixed)

    def values(self, positional: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        """The inputs in order, of arguments as the model takes them.

        Raises:
            CircuitError: A parameter that was fixed in tracing is given another value, or an
                input is missing.
        """
        bound = self.signature.bind(*positional, **named)
        found: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                found.update({f"{name}_{index}": item for index, item in enumerate(value)})
            elif name in self.fixed:
                if not _same(value, self.fixed[name]):
                    raise CircuitError(
                        f"the model was converted for {name} = {self.fixed[name]!r}, its default; "
                        f"to make {name} an input, convert with samples that give it "
                        "(samples=[{...}])"
                    )
            else:
                found[name] = value
        unknown = set(found) - set(self.names)
        missing = [name for name in self.names if name not in found]
        if unknown or missing:
            raise CircuitError(
                f"the model was converted for the inputs {', '.join(self.names)}; "
                + (f"{', '.join(missing)} is missing" if missing else f"{min(unknown)} is not one")
            )
        return [found[name] for name in self.names]

    def call(self, forward: Callable[..., Any], values: Sequence[Any]) -> Any:  # noqa: ANN401
        """What a forward gives for one value per name, the others being fixed."""
        pending = iter(values)
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                count = sum(item.startswith(f"{name}_") and item not in self.signature.parameters
                            for item in self.names)  # fmt: skip
                positional += [next(pending) for _ in range(count)]
            elif parameter.kind is parameter.VAR_KEYWORD:
                continue
            else:
                value = self.fixed[name] if name in self.fixed else next(pending)
                if parameter.kind is parameter.KEYWORD_ONLY:
                    named[name] = value
                else:
                    positional.append(value)
        return forward(*positional, **named)


def _same(value: object, other: object) -> bool:
    if isinstance(value, Tensor) or isinstance(other, Tensor):
        return value is other or (
            isinstance(value, Tensor) and isinstance(other, Tensor) and torch.equal(value, other)
        )
    return value is other or value == other
