"""What a traced model computes, as text: the calls of its graph, and how to build its modules.

A saved network holds it, so that it opens without the class that it was made of. Nothing in it is
code: functions and methods are those of torch that take tensors, by its own list of them
(``torch.overrides``), and Python's operators; modules are torch's; names are plain words. Whatever
else a model calls makes it one that only its author's code can build.
"""

from __future__ import annotations

import builtins
import inspect
import keyword
import math
import operator
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from types import BuiltinFunctionType
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.overrides import get_overridable_functions

from imac_torch.conversion.modules import DAMAGE, build_module, describe_module
from imac_torch.errors import DataError
from imac_torch.model.inputs import Inputs

__all__ = ["OwnCodeError", "blueprint_of", "build_blueprint", "inputs_of_blueprint"]

Blueprint = dict[str, Any]
"""``nodes``, ``modules`` and ``tensors`` by path, ``inputs``: plain values."""

_OPERATORS: Final = frozenset(
    {
        "abs", "add", "and_", "contains", "eq", "floordiv", "ge", "getitem", "gt", "iadd", "iand",
        "ifloordiv", "imatmul", "imod", "imul", "invert", "ior", "ipow", "isub", "itruediv", "le",
        "lshift", "lt", "matmul", "mod", "mul", "ne", "neg", "not_", "or_", "pos", "pow", "rshift",
        "sub", "truediv", "xor",
    }
)  # fmt: skip
_OTHERS: Final[dict[Any, tuple[str, ...]]] = {
    torch: (
        "_assert", "arange", "as_tensor", "broadcast_shapes", "empty", "eye", "full", "linspace",
        "ones", "promote_types", "tensor", "tril_indices", "triu_indices", "zeros",
    ),
    functional: (
        "celu_", "elu_", "hardsigmoid", "hardswish", "hardtanh_", "leaky_relu_", "relu_", "rrelu_",
        "selu_", "sigmoid", "tanh", "threshold_", "upsample", "upsample_bilinear",
        "upsample_nearest",
    ),
}  # fmt: skip
"""What is not in torch's list of functions that take tensors: it makes them, takes numbers, or is
another function by name."""
_METHODS: Final = frozenset(
    {"new_empty", "new_full", "new_ones", "new_tensor", "new_zeros", "stride", "unflatten"}
)
"""Methods that are not in it."""
_BUILTINS: Final = frozenset({"abs", "float", "int", "len", "max", "min", "round", "sum"})
_ATTRIBUTES: Final = frozenset(
    {"H", "T", "data", "device", "dtype", "imag", "is_cuda", "layout", "mH", "mT", "ndim", "real",
     "shape"}
)  # fmt: skip
_GETATTR: Final = "builtins.getattr"
_KINDS: Final = (torch.dtype, torch.layout, torch.memory_format)


class OwnCodeError(Exception):
    """Something in a model cannot be text; the message says what."""


def blueprint_of(
    model: fx.GraphModule,
    module_at: Callable[[str], nn.Module],
    opaque: Mapping[str, str],
    inputs: Inputs,
) -> Blueprint:
    """A traced model as text.

    Args:
        model: Traced, nothing replaced in it.
        module_at: The original module at a path, without what was put in its place.
        opaque: Modules that were not followed because of what they do, and why.
        inputs: Of its forward.

    Raises:
        OwnCodeError: It calls what is not torch's.
    """
    modules: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    nodes = []
    for node in model.graph.nodes:
        target: Any = node.target
        if node.op == "call_module":
            found = describe_module(module_at(target))
            if "arguments" not in found:
                why = f", {opaque[target]}" if target in opaque else ""
                raise OwnCodeError(f"{target} ({found['type']}{why})")
            modules[target] = found
        elif node.op == "call_function":
            target = _name_of(node)
        elif node.op == "call_method" and target not in _methods():
            raise OwnCodeError(f"the method {target} of a tensor")
        elif node.op == "get_attr":
            tensors[target] = _described(model, target)
        arguments = [_encoded(item) for item in node.args]
        named = {name: _encoded(item) for name, item in node.kwargs.items()}
        nodes.append([node.name, node.op, target, arguments, named])
    parameters = [
        [name, parameter.kind.name, name in inputs.fixed, _default(parameter)]
        for name, parameter in inputs.signature.parameters.items()
    ]
    return {"nodes": nodes, "modules": modules, "tensors": tensors, "inputs": parameters}


def build_blueprint(text: Mapping[str, Any], name: str) -> fx.GraphModule:
    """The model that a blueprint is of, with weights of no meaning.

    Args:
        text: From :func:`blueprint_of`, or from a file.
        name: Of its class, for texts.

    Raises:
        DataError: Something in it is none of what a blueprint may name, or does not fit.
    """
    try:
        root = nn.Module()
        for path, described in text["modules"].items():
            _place(root, path, build_module(described))
        for path, described in text["tensors"].items():
            _place_tensor(root, path, described)
        graph = fx.Graph()
        known: dict[str, fx.Node] = {}
        for key, op, target, arguments, named in text["nodes"]:
            # What is a name becomes source text of the graph's forward, so it must be no more.
            words = [key, *named, *([] if op == "call_function" else str(target).split("."))]
            if not all(_is_name(word) for word in words):
                raise ValueError(f"{target!r} is no name")
            values = tuple(_decoded(item, known) for item in arguments)
            if target == _GETATTR and values[1] not in _ATTRIBUTES:
                raise ValueError(f"{values[1]!r} is no attribute of tensors that graphs read")
            known[key] = graph.create_node(
                op, _target(op, target), values,
                {word: _decoded(item, known) for word, item in named.items()}, key,
            )  # fmt: skip
        graph.lint()
        return fx.GraphModule(root, graph, name if name.isidentifier() else "Model")
    except DAMAGE as error:
        raise DataError(f"what it says of its model is damaged: {error}") from None


def inputs_of_blueprint(text: Mapping[str, Any], names: list[str]) -> Inputs:
    """The inputs that the original's forward had.

    Raises:
        DataError: They are damaged.
    """
    try:
        parameters = []
        fixed = {}
        for name, kind, is_fixed, default in text["inputs"]:
            value = inspect.Parameter.empty if default is None else _decoded(default[0], {})
            parameters.append(
                inspect.Parameter(name, getattr(inspect.Parameter, kind), default=value)
            )
            if is_fixed:
                fixed[name] = value
        return Inputs(inspect.Signature(parameters), tuple(names), fixed)
    except DAMAGE as error:
        raise DataError(f"what it says of its model's inputs is damaged: {error}") from None


@cache
def _functions() -> dict[str, Callable[..., Any]]:
    """What a graph may call, by the name that it has in a file."""
    listed = {item for items in get_overridable_functions().values() for item in items}
    found: dict[str, Callable[..., Any]] = {}
    for place in (
        torch, torch.functional, functional, torch.fft, torch.linalg, torch.special,
    ):  # fmt: skip
        # A function has the name that it has there, which may not be what it calls itself.
        for name, item in vars(place).items():
            if name.startswith("_") or not (callable(item) and isinstance(item, Hashable)):
                continue
            plain = getattr(place, name[:-1], None) if name.endswith("_") else None
            if item in listed or (plain in listed and isinstance(item, BuiltinFunctionType)):
                found[f"{place.__name__}.{name}"] = item
    for place, names in _OTHERS.items():
        found |= {f"{place.__name__}.{name}": getattr(place, name) for name in names}
    found |= {f"operator.{name}": getattr(operator, name) for name in _OPERATORS}
    found |= {f"math.{name}": item for name, item in vars(math).items() if callable(item)}
    found |= {f"builtins.{name}": getattr(builtins, name) for name in _BUILTINS}
    return {**found, _GETATTR: getattr}


@cache
def _names() -> dict[Any, str]:
    return {item: name for name, item in reversed(_functions().items())}


@cache
def _methods() -> frozenset[str]:
    """Methods of tensors."""
    found = {item.__name__ for item in get_overridable_functions()[Tensor]}
    return _METHODS.union(name for name in found if not name.startswith("_"))


def _name_of(node: fx.Node) -> str:
    try:
        name = _names().get(node.target)
    except TypeError:  # not hashable
        name = None
    if name is None:
        raise OwnCodeError(f"the function {getattr(node.target, '__name__', node.target)}")
    if name == _GETATTR and node.args[1] not in _ATTRIBUTES:
        raise OwnCodeError(f"the attribute {node.args[1]} of a tensor")
    return name


def _target(op: str, target: Any) -> Any:  # noqa: ANN401 - torch.fx's type
    if op == "call_function":
        if target not in _functions():
            raise ValueError(f"{target} is no function of torch's that takes tensors")
        return _functions()[target]
    if op == "call_method" and target not in _methods():
        raise ValueError(f"{target} is no method of tensors")
    if op not in ("call_method", "call_module", "get_attr", "placeholder", "output"):
        raise ValueError(f"{op!r} is no call")
    return target


def _is_name(word: str) -> bool:
    return (word.isidentifier() and not keyword.iskeyword(word)) or word.isdecimal()


def _encoded(value: Any) -> Any:  # noqa: ANN401 - whatever a call was given
    """A value as JSON: what JSON does not have is an object with one key."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, slice):
        return {"slice": [_encoded(item) for item in (value.start, value.stop, value.step)]}
    if isinstance(value, tuple) and type(value) in (tuple, torch.Size):
        return {"tuple": [_encoded(item) for item in value]}
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    if isinstance(value, Mapping):
        return {"dict": [[_encoded(key), _encoded(item)] for key, item in value.items()]}
    if isinstance(value, _KINDS):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise OwnCodeError(f"an argument of type {type(value).__name__}")


def _decoded(value: Any, known: Mapping[str, fx.Node]) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_decoded(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "torch":
        found = getattr(torch, content, None)
        if isinstance(found, _KINDS):
            return found
        raise ValueError(f"torch.{content} is no type")
    made: dict[str, Callable[[Any], Any]] = {
        "node": lambda name: known[name],
        "float": float,
        "ellipsis": lambda _: Ellipsis,
        "device": torch.device,
        "slice": lambda items: slice(*(_decoded(item, known) for item in items)),
        "tuple": lambda items: tuple(_decoded(item, known) for item in items),
        "dict": lambda items: {_decoded(k, known): _decoded(v, known) for k, v in items},
    }
    return made[kind](content)


def _default(parameter: inspect.Parameter) -> list[Any] | None:
    if parameter.default is inspect.Parameter.empty:
        return None
    return [_encoded(parameter.default)]


def _described(model: nn.Module, path: str) -> list[Any]:
    """Shape and type of a tensor, and whether it is a parameter."""
    above, _, name = path.rpartition(".")
    found = getattr(model.get_submodule(above), name)
    if not isinstance(found, Tensor):
        raise OwnCodeError(f"{path}, which is no tensor")
    dtype = str(found.dtype).removeprefix("torch.")
    return [list(found.shape), dtype, isinstance(found, nn.Parameter), found.requires_grad]


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path; what holds it is made where it is not there yet."""
    above, _, name = path.rpartition(".")
    for word in path.split("."):
        if not _is_name(word):
            raise ValueError(f"{path!r} is no path")
    _holder(root, above).add_module(name, module)


def _holder(root: nn.Module, path: str) -> nn.Module:
    place = root
    for word in path.split(".") if path else ():
        if word not in place._modules:
            place.add_module(word, nn.Module())
        place = place.get_submodule(word)
    return place


def _place_tensor(root: nn.Module, path: str, described: list[Any]) -> None:
    shape, dtype, learned, wanted = described
    above, _, name = path.rpartition(".")
    if not all(_is_name(word) for word in path.split(".")):
        raise ValueError(f"{path!r} is no path")
    holder = _holder(root, above)
    if isinstance(getattr(holder, name, None), Tensor):
        return  # a module that was built has it
    value = torch.zeros(shape, dtype=_decoded({"torch": dtype}, {}), device="cpu")
    if learned:
        holder.register_parameter(name, nn.Parameter(value, requires_grad=wanted))
    else:
        holder.register_buffer(name, value)
