"""A model as a graph of calls, with torch.fx; what cannot be traced stays a module of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

__all__ = ["Inputs", "Traced", "trace"]

_CONTAINERS: tuple[type[nn.Module], ...] = (
    nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict,
)  # fmt: skip
"""Classes of torch that compute nothing themselves."""


@dataclass(frozen=True)
class Inputs:
    """What of a forward's parameters varies from run to run.

    Attributes:
        signature: Of the forward, without ``self``.
        names: Parameters that are inputs of the graph, in order; ``*args`` are ``args_0``, ….
        fixed: Values of the others, which are their defaults.
    """

    signature: inspect.Signature
    names: tuple[str, ...]
    fixed: Mapping[str, Any]

    @classmethod
    def of(cls, model: nn.Module, samples: Sequence[tuple[Sequence[Any], Mapping[str, Any]]]
           ) -> Inputs:  # fmt: skip
        """Inputs are parameters without a default, and what samples give.

        Args:
            model: Whose forward it is.
            samples: Positional and named arguments of runs.

        Raises:
            TypeError: Samples do not fit the forward.
        """
        signature = inspect.signature(model.forward)
        given: set[str] = set()
        longest = 0
        for positional, named in samples:
            bound = signature.bind(*positional, **named)
            given |= set(bound.arguments)
            for name, parameter in signature.parameters.items():
                if parameter.kind is parameter.VAR_POSITIONAL:
                    longest = max(longest, len(bound.arguments.get(name, ())))
        names: list[str] = []
        fixed: dict[str, Any] = {}
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                # How many there are only samples say; without any it is the model's one input.
                count = longest if samples else int(not names)
                names += [f"{name}_{index}" for index in range(count)]
            elif parameter.default is parameter.empty or name in given:
                names.append(name)
            else:
                fixed[name] = parameter.default
        return cls(signature, tuple(names), fixed)

    def call(self, forward: Callable[..., Any], values: Sequence[Any]) -> Any:  # noqa: ANN401
        """What a forward gives for one value per name, the others being fixed."""
        pending = dict(zip(self.names, values, strict=True))
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                positional += [pending[key] for key in self.names if key.startswith(f"{name}_")
                               and key[len(name) + 1 :].isdigit()]  # fmt: skip
            elif parameter.kind is parameter.VAR_KEYWORD:
                continue
            else:
                value = pending[name] if name in pending else self.fixed[name]
                if parameter.kind is parameter.KEYWORD_ONLY:
                    named[name] = value
                else:
                    positional.append(value)
        return forward(*positional, **named)


@dataclass
class Traced:
    """What became of a model.

    Attributes:
        model: The graph's module, or the model itself where its own forward cannot be traced.
        opaque: Paths of modules that stay one call each, and why; ``""`` is the model itself.
        inputs: What the graph takes.
    """

    model: nn.Module
    opaque: dict[str, str] = field(default_factory=dict)
    inputs: Inputs | None = None

    @property
    def graph(self) -> fx.Graph | None:
        """The calls in order; None where nothing could be traced."""
        return self.model.graph if isinstance(self.model, fx.GraphModule) else None


class _Tracer(fx.Tracer):
    """torch.fx's tracer, which follows every module that may hold layers.

    Args:
        inputs: The forward's.
        kinds: Classes that are layers or activations, whoever defines them.
        opaque: Paths of modules that are not followed.
    """

    def __init__(
        self, inputs: Inputs, kinds: tuple[type[nn.Module], ...], opaque: Mapping[str, str]
    ) -> None:
        super().__init__()
        self._inputs, self._kinds, self._opaque = inputs, kinds, opaque
        self._inside: list[str] = []
        self.failed: str | None = None

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: dict[str, Any] | tuple[Any, ...] | None = None,
    ) -> tuple[Any, list[Any]]:
        """Inputs as proxies, everything else at its default, whatever the forward is."""
        values = [
            self.create_proxy("placeholder", name, (), {}) for name in self._inputs.names
        ]
        forward = self.root.forward  # the instance's own, if it has one

        def run(*proxies: Any) -> Any:  # noqa: ANN401
            return self._inputs.call(forward, proxies)

        return run, values

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Modules of torch, those made of them, layers of any origin, and what failed before."""
        if module_qualified_name in self._opaque or isinstance(m, self._kinds):
            return True
        if isinstance(m, torch.jit.ScriptModule):
            return True
        if any(isinstance(part, self._kinds) for part in m.modules()):
            return False  # a torch module with layers inside, too
        origins = (kind for kind in type(m).__mro__ if kind.__module__.startswith("torch.nn"))
        return any(kind not in _CONTAINERS for kind in origins)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # noqa: ANN401
        """Remember in which module tracing fails first."""
        path = self.path_of_module(m)
        self._inside.append(path)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None:
                self.failed = path
            raise
        finally:
            self._inside.pop()


def trace(model: nn.Module, inputs: Inputs, kinds: tuple[type[nn.Module], ...]) -> Traced:
    """The calls that a model's forward makes, in evaluation mode.

    Where a module's forward depends on values (or does what torch.fx cannot record), the module
    stays one call, and tracing begins again.

    Args:
        model: In evaluation mode; it becomes part of the result.
        inputs: Of its forward.
        kinds: Classes that are layers or activations, whoever defines them.
    """
    found = Traced(model, inputs=inputs)
    while True:
        tracer = _Tracer(inputs, kinds, found.opaque)
        try:
            graph = tracer.trace(model)
        except Exception as error:  # noqa: BLE001 - a user's forward may raise anything
            text = str(error).strip().partition("\n")[0]
            reason = f"cannot be traced ({type(error).__name__}: {text})"
            path = tracer.failed or ""
            if path in found.opaque:  # it is not followed, so what fails is how it is called
                path = ""
            found.opaque[path] = reason
            if path == "":
                return found
            continue
        found.model = fx.GraphModule(tracer.root, graph, type(model).__name__)
        found.opaque = {
            path: reason for path, reason in found.opaque.items()
            if any(node.op == "call_module" and node.target == path for node in graph.nodes)
        }  # fmt: skip
        return found
