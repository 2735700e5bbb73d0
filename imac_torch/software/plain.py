"""Modules with plain weights: what the next forward in evaluation mode uses, as parameters.

Pruning and the older weight and spectral normalisations recompute a weight in a hook before every
forward; between an optimiser's step, or ``load_state_dict``, and the next forward the attribute
``weight`` is out of date. Parametrisations recompute it on every access, and may do so differently
in training mode. Here the recomputation is done once more, in evaluation mode, on a copy; then it
is removed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from imac_torch.errors import ConversionError
from imac_torch.numeric.modes import lasting

__all__ = ["copied", "settled"]

_HOOKS = (prune.BasePruningMethod, WeightNorm, SpectralNorm)
"""Forward pre-hooks of torch that do nothing but recompute a parameter."""


def settled(modules: Sequence[nn.Module], names: Sequence[str]) -> list[nn.Module]:
    """The modules themselves, or copies with plain weights where weights are recomputed.

    Args:
        modules: Of one model; a module may stand in several places, and does so afterwards.
        names: Their paths, for errors.

    Raises:
        ConversionError: One that recomputes its weights cannot be copied, or fails to do so.
    """
    done: dict[int, nn.Module] = {}
    for module, name in zip(modules, names, strict=True):
        if id(module) in done:
            continue
        if any(_recomputes(part) for part in _parts(module)):
            (plain,) = copied([module], [name])
            _settle(plain, name)
        else:
            plain = module
        done[id(module)] = plain
    return [done[id(module)] for module in modules]


@lasting()
def copied(modules: Sequence[nn.Module], names: Sequence[str]) -> list[nn.Module]:
    """Deep copies that share with each other what their originals share.

    Tensors that a forward left behind in a module (features it remembers, weights that a hook
    has recomputed) are copied as values: torch refuses to copy them with their graph.

    Args:
        modules: What to copy.
        names: Their paths, for errors.

    Raises:
        ConversionError: One cannot be copied.
    """
    memo: dict[int, Any] = {
        id(tensor): tensor.detach().clone() for module in modules for tensor in _computed(module)
    }
    found = []
    for module, name in zip(modules, names, strict=True):
        try:
            found.append(copy.deepcopy(module, memo))
        except Exception as error:
            raise ConversionError(
                f"{name} ({type(module).__name__}) cannot be copied ({type(error).__name__}: "
                f"{error}), and a network shares nothing with the model that it was made of; "
                "remove what it holds, or give its class a __deepcopy__"
            ) from error
    return found


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    # What TorchScript recomputes is in its code.
    if not isinstance(module, torch.jit.ScriptModule):
        yield from module.modules()


def _recomputes(module: nn.Module) -> bool:
    return bool(
        parametrize.is_parametrized(module) or _weight_hooks(module) or _is_ready_lazy(module)
    )


def _weight_hooks(module: nn.Module) -> list[Any]:
    hooks = vars(module).get("_forward_pre_hooks", {}).values()
    return [hook for hook in hooks if isinstance(hook, _HOOKS)]


def _is_ready_lazy(module: nn.Module) -> bool:
    """Whether a lazy module has its weights, from a state dict, but has not run yet."""
    return isinstance(module, LazyModuleMixin) and not module.has_uninitialized_params()


def _computed(module: nn.Module) -> Iterator[Tensor]:
    """Tensors in a module's attributes that come out of a computation with a graph."""
    for part in _parts(module):
        pending: list[Any] = list(vars(part).values())
        seen: set[int] = set()
        while pending:
            item = pending.pop()
            if isinstance(item, Tensor):
                if not item.is_leaf:
                    yield item
            elif isinstance(item, dict | list | tuple | set) and id(item) not in seen:
                seen.add(id(item))
                pending.extend(item.values() if isinstance(item, dict) else item)


@lasting()
def _settle(module: nn.Module, name: str) -> None:
    """Replace recomputation by its result, in place."""
    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        for part in list(module.modules()):
            if _is_ready_lazy(part):
                _end_laziness(part)
            if _weight_hooks(part):
                _remove_hooks(part)
            if parametrize.is_parametrized(part):
                _remove_parametrisations(part)
    except Exception as error:
        raise ConversionError(
            f"{name} ({type(module).__name__}): its weights cannot be recomputed "
            f"({type(error).__name__}: {error}); remove the pruning, normalisation or "
            "parametrisation first"
        ) from error
    for part, training in modes:
        part.training = training


def _end_laziness(module: nn.Module) -> None:
    for name in ("_initialize_hook", "_load_hook"):
        if handle := vars(module).pop(name, None):
            handle.remove()
    become = getattr(module, "cls_to_become", None)
    if become is not None:
        module.__class__ = become


def _remove_hooks(module: nn.Module) -> None:
    hooks = _weight_hooks(module)
    names = [_tensor_name(hook) for hook in hooks]
    for hook in hooks:  # in the order of a forward: one may read what another one writes
        hook(module, ())
    values = {name: getattr(module, name).detach().clone() for name in names}
    learning = {name: _learns(module, name) for name in names}
    for hook, name in zip(reversed(hooks), reversed(names), strict=True):
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, name)  # type: ignore[no-untyped-call]
        elif isinstance(hook, WeightNorm):
            remove_weight_norm(module, name)
        else:
            remove_spectral_norm(module, name)
            _remove_load_hooks(module)
    for name, value in values.items():
        if name in dict(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(value, requires_grad=learning[name]))


def _remove_load_hooks(module: nn.Module) -> None:
    """What torch leaves behind, because it looks for the hooks without what they are wrapped in."""
    hooks = vars(module)["_load_state_dict_pre_hooks"]
    for key, wrapped in list(hooks.items()):
        if isinstance(getattr(wrapped, "hook", wrapped), SpectralNormLoadStateDictPreHook):
            del hooks[key]


def _tensor_name(hook: Any) -> str:  # noqa: ANN401 - three classes without a common base
    return str(vars(hook).get("_tensor_name", getattr(hook, "name", None)))


def _learns(module: nn.Module, name: str) -> bool:
    """Whether one of the parameters that a weight is computed from requires a gradient."""
    own = module.named_parameters(recurse=False)
    return any(p.requires_grad for key, p in own if key.startswith(f"{name}_"))


def _remove_parametrisations(module: nn.Module) -> None:
    lists = module.get_submodule("parametrizations")
    found = {}
    for name, chain in lists.named_children():
        originals = [key for key, _ in chain.named_parameters(recurse=False)]
        learning = any(p.requires_grad for _, p in chain.named_parameters(recurse=False))
        value = getattr(module, name).detach().clone()
        found[name] = (value, bool(originals), learning)
    module.__class__ = parametrize.type_before_parametrizations(module)  # type: ignore[assignment]
    del module.parametrizations
    for name, (value, is_parameter, learning) in found.items():
        if is_parameter:
            module.register_parameter(name, nn.Parameter(value, requires_grad=learning))
        else:
            module.register_buffer(name, value)
