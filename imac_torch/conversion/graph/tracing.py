"""A model as a graph of calls, with torch.fx; what cannot be traced stays a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from imac_torch.model.inputs import Inputs

__all__ = ["Traced", "of_torch", "trace"]

_CONTAINERS: tuple[type[nn.Module], ...] = (
    nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict,
)  # fmt: skip
"""Classes of torch that compute nothing themselves."""
_CALLING: tuple[type[nn.Module], ...] = (
    nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerDecoderLayer,
)  # fmt: skip
"""Classes of torch that only call their parts."""
_TORCH = ("torch.nn", "torch.ao.nn")


def of_torch(module: nn.Module) -> bool:
    """Whether a module is one of torch's own that computes something.

    Those that hold layers (MultiheadAttention, TransformerEncoderLayer, …) compute with the weights
    of these layers, not by calling them.
    """
    kind = type(module)
    return kind not in (*_CONTAINERS, *_CALLING) and kind.__module__.startswith(_TORCH)


@dataclass
class Traced:
    """What became of a model.

    Attributes:
        model: The graph's module, or the model itself where its own forward cannot be traced.
        opaque: Paths of modules that stay one call each, and why; ``""`` is the model itself.
    """

    model: nn.Module
    opaque: dict[str, str] = field(default_factory=dict)


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
        if isinstance(m, torch.jit.ScriptModule) or of_torch(m):
            return True
        if any(isinstance(part, self._kinds) for part in m.modules()):
            return False  # it was made of a module of torch, but has layers
        origins = (kind for kind in type(m).__mro__ if kind.__module__.startswith(_TORCH))
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


def trace(
    model: nn.Module,
    inputs: Inputs,
    kinds: tuple[type[nn.Module], ...],
    opaque: Mapping[str, str] | None = None,
) -> Traced:
    """The calls that a model's forward makes, in evaluation mode.

    Where a module's forward depends on values (or does what torch.fx cannot record), the module
    stays one call, and tracing begins again.

    Args:
        model: In evaluation mode; it becomes part of the result.
        inputs: Of its forward.
        kinds: Classes that are layers or activations, whoever defines them.
        opaque: Paths of modules that are one call each whatever they do, and why.
    """
    found = Traced(model, dict(opaque or {}))
    while True:
        tracer = _Tracer(inputs, kinds, found.opaque)
        try:
            graph = tracer.trace(model)
        except Exception as error:
            text = str(error).strip().partition("\n")[0]
            reason = f"cannot be traced ({type(error).__name__}: {text})"
            path = tracer.failed or ""
            if path in found.opaque:  # it is not followed, so what fails is how it is called
                path = ""
            found.opaque[path] = reason
            if path == "":
                return found
            continue
        plain = fx.Graph()  # the tracer's own remembers its class, which no file can hold
        plain.output(plain.graph_copy(graph, {}))
        found.model = fx.GraphModule(model, plain, type(model).__name__)
        found.opaque = {
            path: reason for path, reason in found.opaque.items()
            if any(node.op == "call_module" and node.target == path for node in plain.nodes)
        }  # fmt: skip
        return found
