"""Whether a module computes what its class in torch does.

A circuit is derived from a module's class and weights. That is right only where calling the module
runs the class's own forward: subclasses may override it, instances may carry another one, and
hooks may change what goes in or comes out.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Final

from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from imac_torch.errors import ConversionError

__all__ = [
    "compiled_original", "computes_as", "foreign", "hooks_of", "own_behaviour",
    "refuse_global_hooks", "sets_its_mode",
]  # fmt: skip

_CALLED: Final = (
    "forward", "__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward",
)  # fmt: skip
"""What runs when a module of torch is called."""
_CALLED_BY: Final[Mapping[type[nn.Module], tuple[str, ...]]] = {
    nn.Sequential: ("__iter__",),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), ("_conv_forward",)),
    **dict.fromkeys(
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), ("_output_padding",)
    ),
}
"""What the forward of a class calls on itself besides."""
_NOT_CALLED: Final = ("__init__", "extra_repr")
_GLOBAL: Final = ("_global_forward_hooks", "_global_forward_pre_hooks")
_QUANTISED: Final = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.intrinsic", "torch.nn.qat")


def own_behaviour(module: nn.Module, kind: type[nn.Module]) -> str | None:
    """Why a module may compute something else than its base class; None if it does not.

    Args:
        module: An instance of ``kind``; hooks that only recompute weights are to be gone already
            (:func:`imac_torch.software.plain.settled`).
        kind: The class whose forward is relied on.
    """
    actual = parametrize.type_before_parametrizations(module)
    for name in _relied_on(kind):
        if _defined(actual, name) is not _defined(kind, name):
            return f"has {_article(name)} of its own ({_owner(actual, name)}.{name})"
        if name in vars(module) and not _is_own_method(module, name):
            return f"has {_article(name)} that was replaced on the instance"
    if sets_its_mode(module) and next(module.children(), None) is None:
        before, module.training = module.training, True
        module.train(False)  # what a model's eval calls on its parts
        lasting, module.training = module.training, before
        if lasting:
            return "stays in training mode when it is put into evaluation mode"
    forward = _defined(kind, "forward")
    origin = getattr(forward, "__module__", "torch")
    if kind.__module__.startswith("torch.") and not origin.startswith("torch."):
        return f"has a forward that {origin} put into torch's {kind.__name__}"
    return hooks_of(module)


def computes_as(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is of one of the classes, subclasses included, and computes as it does."""
    return any(isinstance(module, kind) and own_behaviour(module, kind) is None for kind in kinds)


def foreign(module: nn.Module) -> str | None:
    """What a module is that holds layers in a form which cannot be read, and what to do."""
    if (hooks := hooks_of(module)) is not None:
        return hooks
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__}
    if any(name.startswith("torch.jit.") for name in kinds):
        return "is TorchScript; pass the Python model that it was made of"
    if "torch.fx.graph_module.GraphModule" in kinds:
        return "is a traced graph; pass the model that was traced"
    if any(name.startswith("torch.distributed.fsdp.") for name in kinds):
        return "is sharded; pass a model with whole weights"
    if type(module).__module__.startswith(_QUANTISED):
        return "is quantised; pass the model from before quantisation, with float weights"
    if type(module).__module__.startswith("torch."):
        return None
    parts = [name for name, part in module.named_children() if isinstance(part, nn.Sequential)]
    if parts:
        return (
            f"has a forward of its own, which is not read; if it only runs its parts "
            f"({', '.join(parts)}), pass an nn.Sequential of them"
        )
    if next(module.children(), None) is not None:
        return (
            "has a forward of its own, which is not read; pass an nn.Sequential of the modules "
            "that it runs"
        )
    return None


def sets_its_mode(module: nn.Module) -> bool:
    """Whether something of its own decides on a module's training or evaluation mode."""
    return any(
        _defined(type(module), name) is not _defined(nn.Module, name)
        or (name in vars(module) and name != "training")
        for name in ("eval", "train", "training")
    )


def refuse_global_hooks() -> None:
    """Refuse hooks that torch calls for every module of the process.

    Raises:
        ConversionError: There are some.
    """
    found = [hook for name in _GLOBAL for hook in getattr(torch_module, name).values()]
    if found:
        raise ConversionError(
            f"forward hooks of all modules are registered in this process ({_names(found)}): what "
            "they do to a layer is not in its weights. Remove them while converting"
        )


def _relied_on(kind: type[nn.Module]) -> tuple[str, ...]:
    names = (*_CALLED, *_CALLED_BY.get(kind, ()))
    if kind.__module__.startswith("torch."):
        return names
    # A class of ours is rebuilt from its attributes: all that it defines counts.
    own = (
        name
        for name, value in vars(kind).items()
        if inspect.isfunction(value) or isinstance(value, property)
    )
    return (*names, *(name for name in own if name not in (*names, *_NOT_CALLED)))


def _defined(kind: type, name: str) -> object:
    return inspect.getattr_static(kind, name, None)


def _owner(kind: type, name: str) -> str:
    return next(base.__name__ for base in kind.__mro__ if name in vars(base))


def _article(name: str) -> str:
    return "a forward" if name == "forward" else f"a {name}"


def _is_own_method(module: nn.Module, name: str) -> bool:
    """Whether what stands on the instance is its class's own, as accelerate leaves it behind."""
    found = vars(module)[name]
    own = _defined(type(module), name)
    return getattr(found, "__self__", None) is module and getattr(found, "__func__", None) is own


def hooks_of(module: nn.Module) -> str | None:
    """That a module has hooks of its own, and which; None if it has none."""
    for attribute, words in (
        ("_forward_pre_hooks", "forward pre-hooks"),
        ("_forward_hooks", "forward hooks"),
    ):
        hooks = list(vars(module).get(attribute, {}).values())
        if isinstance(module, LazyModuleMixin):  # infers shapes, and leaves then
            hooks = [hook for hook in hooks if getattr(hook, "__name__", "") != "_infer_parameters"]
        if hooks:
            return f"has {words} ({_names(hooks)}), which may change what it computes; remove them"
    return None


def _names(hooks: list[object]) -> str:
    found = (getattr(hook, "__qualname__", type(hook).__qualname__) for hook in hooks)
    return ", ".join(dict.fromkeys(str(name) for name in found))


def compiled_original(module: nn.Module) -> nn.Module | None:
    """The module that ``torch.compile`` was given, where this is what it gave back."""
    # Without the compiler's module nothing was compiled, and importing it takes seconds.
    frame = sys.modules.get("torch._dynamo.eval_frame")
    kind = getattr(frame, "OptimizedModule", None)
    if kind is None or type(module) is not kind or hooks_of(module) is not None:
        return None
    original = vars(module)["_modules"]["_orig_mod"]
    assert isinstance(original, nn.Module)  # noqa: S101 - narrows the type only
    return original
