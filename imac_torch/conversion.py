"""From a trained model to an analog network: an ordered list of passes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from imac_torch.activations import Activation, InverterSigmoid, activation_of
from imac_torch.analog import IMACNetwork, LayerRecord
from imac_torch.config import Config, LayerConfig
from imac_torch.dc.native import Native
from imac_torch.errors import CircuitError, ConversionError, ConversionWarning
from imac_torch.layers import IMACLinear, Scaling

DIGITAL_TAIL: tuple[type[nn.Module], ...] = (nn.LogSoftmax, nn.Softmax)
"""Modules after the last linear layer that stay software: they only normalise scores."""


SUPPORTED = (
    "supported is an nn.Sequential that ends in Linear layers with Sigmoid, Tanh, ReLU, "
    "InverterSigmoid or no activation, BatchNorm1d before the activation, Dropout, Identity, "
    "Flatten, and a final (Log)Softmax"
)


@dataclass
class _Leaf:
    """A module of the flattened model, with its path."""

    path: str
    module: nn.Module

    @property
    def label(self) -> str:
        module = self.module
        if isinstance(module, nn.Linear | IMACLinear):
            return f"{type(module).__name__} {module.in_features}→{module.out_features}"
        return type(module).__name__


def _leaves(model: nn.Module, prefix: str = "") -> Iterator[_Leaf]:
    """Modules in order of execution: only nested Sequentials have a known one."""
    if type(model) is nn.Sequential:
        # Not named_children(), which leaves out a module that stands in two places.
        for name, child in model._modules.items():
            if child is None:
                continue
            yield from _leaves(child, f"{prefix}.{name}" if prefix else name)
    else:
        yield _Leaf(prefix or type(model).__name__, model)


def _fold_batch_norm(leaf: _Leaf, linear: nn.Linear, where: str) -> nn.Linear:
    """The linear layer with a following BatchNorm1d in its weights.

    In evaluation mode batch normalisation is y = γ·(x - μ)/√(σ² + ε) + β per output.
    """
    norm = leaf.module
    if not isinstance(norm, nn.BatchNorm1d):
        raise ConversionError(f"{where} is not a BatchNorm1d")
    if norm.running_mean is None or norm.running_var is None:
        raise ConversionError(
            f"{where}: without running statistics its output depends on the batch and cannot be "
            "folded; train with track_running_stats=True"
        )
    if norm.num_features != linear.out_features:
        raise ConversionError(
            f"{where}: normalises {norm.num_features} features, the layer before it has "
            f"{linear.out_features}"
        )
    scale = 1.0 / torch.sqrt(norm.running_var.to(torch.float64) + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().to(torch.float64)
    mean = norm.running_mean.to(torch.float64)
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().to(torch.float64)
    weight = linear.weight.detach().to(torch.float64)
    folded = nn.Linear(
        linear.in_features, linear.out_features, dtype=torch.float64, device=weight.device
    ).requires_grad_(linear.weight.requires_grad)
    with torch.no_grad():
        folded.weight.copy_(weight * scale[:, None])
        bias = shift
        if linear.bias is not None:
            bias = bias + linear.bias.detach().to(torch.float64) * scale
        folded.bias.copy_(bias)
    return folded


@dataclass
class _Plan:
    """What the passes have found so far."""

    digital: list[_Leaf]
    layers: list[tuple[_Leaf, nn.Linear | IMACLinear, Activation]]
    tail: list[_Leaf]
    records: list[LayerRecord]

    def record(self, leaf: _Leaf, target: str, detail: str) -> None:
        self.records.append(LayerRecord(leaf.path, leaf.label, target, detail))


def _first_analog(
    leaves: Sequence[_Leaf], keep_digital: Callable[[str], bool]
) -> tuple[int, _Leaf | None]:
    """Index of the first leaf of the longest tail that can be analog, and what ends it."""
    start = len(leaves)
    found = len(leaves)
    for index in range(len(leaves) - 1, -1, -1):
        module = leaves[index].module
        linear = isinstance(module, nn.Linear | IMACLinear)
        if linear and not keep_digital(leaves[index].path):
            start = found = index
        elif linear or not _belongs(module, after_linear=found < len(leaves)):
            return start, leaves[index]
    return start, None


def _belongs(module: nn.Module, *, after_linear: bool) -> bool:
    """Whether a module may stand between or after analog layers."""
    if isinstance(module, nn.BatchNorm1d) or _no_operation(module) is not None:
        return True
    if activation_of(module) is not None:
        return True
    return not after_linear and isinstance(module, DIGITAL_TAIL)


def _no_operation(module: nn.Module) -> str | None:
    """Why a module does nothing between analog layers; None if it does something."""
    if isinstance(module, nn.Dropout):
        return "Dropout is the identity in evaluation mode"
    if type(module) is nn.Identity:
        return "does nothing"
    # From dimension 0 on it would mix samples.
    if isinstance(module, nn.Flatten) and module.start_dim in (1, -1):
        return "vectors are flat already"
    return None


def _check_front(
    front: Sequence[_Leaf], blocker: _Leaf | None, keep_digital: Callable[[str], bool]
) -> None:
    """Refuse to leave linear layers in software that nobody excluded."""
    linear = [leaf for leaf in front if isinstance(leaf.module, nn.Linear | IMACLinear)]
    if not linear or blocker is None or any(keep_digital(leaf.path) for leaf in linear):
        return
    raise ConversionError(
        f"{blocker.path} ({blocker.label}) has no circuit and stands after {linear[-1].path} "
        f"({linear[-1].label}); {SUPPORTED}. To keep the layers up to it in software, pass "
        f"exclude=[{linear[-1].path!r}]"
    )


def _plan(leaves: Sequence[_Leaf], keep_digital: Callable[[str], bool]) -> _Plan:
    start, blocker = _first_analog(leaves, keep_digital)
    _check_front(leaves[:start], blocker, keep_digital)
    plan = _Plan([], [], [], [])
    for leaf in leaves[:start]:
        plan.digital.append(leaf)
        why = "excluded by name" if keep_digital(leaf.path) else "before the analog tail"
        plan.record(leaf, "digital", why)
    index = start
    while index < len(leaves):
        leaf = leaves[index]
        module = leaf.module
        if isinstance(module, nn.Linear | IMACLinear):
            index = _plan_layer(plan, leaves, index)
            continue
        _plan_other(plan, leaf)
        index += 1
    return plan


def _plan_layer(plan: _Plan, leaves: Sequence[_Leaf], index: int) -> int:
    """One linear layer with what follows it up to the next; returns where to go on."""
    leaf = leaves[index]
    linear = leaf.module
    assert isinstance(linear, nn.Linear | IMACLinear)  # noqa: S101 - narrows the type only
    position = len(plan.records)
    activation = None
    if isinstance(linear, IMACLinear) and linear.activation.kind != "identity":
        activation = linear.activation
    index += 1
    while index < len(leaves):
        after = leaves[index]
        where = f"{after.path} ({after.label})"
        if (reason := _no_operation(after.module)) is not None:
            plan.record(after, "dropped", reason)
        elif isinstance(after.module, nn.BatchNorm1d) and activation is None:
            if not isinstance(linear, nn.Linear):
                raise ConversionError(f"{where}: cannot fold into an IMACLinear; remove it")
            linear = _fold_batch_norm(after, linear, where)
            plan.record(after, "folded", f"into {leaf.path}")
        elif activation is None and (found := activation_of(after.module)) is not None:
            activation = found
            plan.record(after, "analog", f"activation circuit of {leaf.path}")
        else:
            break
        index += 1
    activation = Activation("identity") if activation is None else activation
    plan.layers.append((leaf, linear, activation))
    plan.records.insert(position, LayerRecord(leaf.path, leaf.label, "analog", ""))
    return index


def _plan_other(plan: _Plan, leaf: _Leaf) -> None:
    where = f"{leaf.path} ({leaf.label})"
    if (reason := _no_operation(leaf.module)) is not None:
        plan.record(leaf, "dropped", reason)
    elif isinstance(leaf.module, DIGITAL_TAIL):
        plan.tail.append(leaf)
        plan.record(leaf, "digital", "normalises the circuit's outputs in software")
    elif isinstance(leaf.module, nn.BatchNorm1d):
        raise ConversionError(
            f"{where}: batch normalisation after an activation cannot be folded into the layer "
            "before it; place it before the activation"
        )
    else:
        raise ConversionError(f"{where}: a second activation in a row has no circuit; remove it")


LARGE_ERROR = 0.1
"""Relative rounding error of weights from which a conversion warns."""


def _warn_of_losses(layer: IMACLinear) -> None:
    """Say what a network that was not trained as a circuit will lose, and what helps."""
    error = layer.quantized().error
    if error > LARGE_ERROR:
        warnings.warn(
            f"{layer.name}: rounding to {layer.config.mapping.levels} levels moves the weights by "
            f"{100 * error:.0f} % (rms); use more levels (WeightMapping(levels=17, "
            "scheme='matched')) or, for devices of two states, more of them per weight "
            "(WeightMapping(slices=3)), and calibrate; or train with the levels (README, Train for "
            "the circuit)",
            ConversionWarning,
            stacklevel=3,
        )
    if layer.activation.kind == "relu" and layer.scaling.output_scale == 1.0:
        warnings.warn(
            f"{layer.name}: nothing is known of the range of its ReLU, and outputs above 1 are "
            "clipped at vdd; use WeightMapping(scheme='matched') and "
            "imac_torch.calibrate(network, samples), which fits the range to data",
            ConversionWarning,
            stacklevel=3,
        )


def convert(
    model: nn.Module,
    config: Config | None = None,
    *,
    exclude: Iterable[str] | Callable[[str], bool] = (),
    generator: torch.Generator | None = None,
    engine: Native | None = None,
) -> IMACNetwork:
    """Turn a trained model into an analog network.

    The longest fully connected tail becomes analog: Linear (and :class:`IMACLinear`), with
    BatchNorm1d folded, Dropout dropped and activations as circuits. What comes before stays as
    it is, in software; so does a final (Log)Softmax. The model itself is not changed, and shares
    nothing with the network: modules that stay are copied.

    Args:
        model: An ``nn.Sequential`` (nested ones too), in any mode.
        config: Of the circuit; per-layer overrides by module path are in ``config.layers``. None:
            what the model's :class:`IMACLinear` layers were trained with, or the default.
        exclude: Paths of linear layers, or of modules that hold them, to keep in software (all
            layers before an excluded one stay in software too), or a function that says so for a
            path.
        generator: Randomness of the devices' spread; needed if ``device.variation`` > 0.
        engine: Settings of the native solver.

    Returns:
        A new module with :class:`IMACLinear` layers; ``print(network.summary())`` shows what was
        mapped, folded and left in software, and why.

    Raises:
        ConversionError: A module cannot be converted; its path and what is supported are named.
    """
    leaves = list(_leaves(model))
    excluded = exclude if callable(exclude) else _named(exclude, leaves)
    plan = _plan(leaves, excluded)
    if not plan.layers:
        last = leaves[-1] if leaves else _Leaf("model", model)
        raise ConversionError(
            f"{last.path} ({last.label}): nothing to convert; {SUPPORTED}. What is excluded, and "
            "all before it, stays in software"
        )
    config = _trained_config(plan) if config is None else config
    _check_names(config, plan)
    layers = []
    for index, (leaf, linear, activation) in enumerate(plan.layers):
        layers.append(_analog_layer(leaf, linear, activation, config, index, len(plan.layers)))
    _check_chain(layers)
    for layer in layers:
        if layer.config.device.variation > 0.0:
            if generator is None:
                raise ConversionError(
                    f"{layer.name}: device.variation = {layer.config.device.variation} needs a "
                    "torch.Generator: convert(..., generator=torch.Generator().manual_seed(0))"
                )
            layer.spread(generator)
    for layer, (_, linear, _) in zip(layers, plan.layers, strict=True):
        if not isinstance(linear, IMACLinear):
            _warn_of_losses(layer)
    details = {}
    for layer in layers:
        try:
            details[layer.name] = layer.description()
        except CircuitError as error:
            raise ConversionError(f"{layer.name}: {error}") from None
    records = [
        LayerRecord(item.path, item.module, item.target, details.get(item.path, item.detail))
        if item.target == "analog" and not item.detail
        else item
        for item in plan.records
    ]
    network = IMACNetwork(
        nn.Sequential(*copy.deepcopy([leaf.module for leaf in plan.digital])),
        layers,
        nn.Sequential(*copy.deepcopy([leaf.module for leaf in plan.tail])),
        config,
        records,
        engine,
    )
    # The copies keep the modes of their originals, one by one.
    for module in (network, network.digital, network.layers, *network.layers, network.tail):
        module.training = model.training
    return network


def _named(exclude: Iterable[str], leaves: Sequence[_Leaf]) -> Callable[[str], bool]:
    """Whether a path is one of those named, or inside one.

    Raises:
        ConversionError: A name stands for no linear layer.
    """
    names = (exclude,) if isinstance(exclude, str) else tuple(exclude)

    def inside(path: str, name: str) -> bool:
        return path == name or path.startswith(f"{name}.")

    linear = [leaf.path for leaf in leaves if isinstance(leaf.module, nn.Linear | IMACLinear)]
    for name in names:
        if not any(inside(path, name) for path in linear):
            raise ConversionError(
                f"exclude names {name!r}, which is no linear layer and holds none; there are "
                f"{', '.join(linear) or 'none'}"
            )
    return lambda path: any(inside(path, name) for name in names)


def _trained_config(plan: _Plan) -> Config:
    """What the model's IMACLinear layers were built with; the default if there are none.

    Raises:
        ConversionError: They disagree on what a circuit has only one of.
    """
    trained = [(leaf, item) for leaf, item, _ in plan.layers if isinstance(item, IMACLinear)]
    if not trained:
        return Config()
    first, common = trained[0][0], trained[0][1].config
    overrides = {}
    for leaf, layer in trained:
        for name in ("supplies", "interconnect", "timing", "temperature"):
            if getattr(layer.config, name) != getattr(common, name):
                raise ConversionError(
                    f"{leaf.path} and {first.path} were built with different {name}; pass a config"
                )
        changed = {
            name: getattr(layer.config, name).model_dump()
            for name in LayerConfig.model_fields
            if getattr(layer.config, name) != getattr(common, name)
        }
        if changed:
            overrides[leaf.path] = LayerConfig(**changed)
    return common.replace(layers=overrides)


def _check_names(config: Config, plan: _Plan) -> None:
    paths = {leaf.path for leaf, _, _ in plan.layers}
    unknown = set(config.layers) - paths
    if unknown:
        raise ConversionError(
            f"Config.layers names {', '.join(sorted(unknown))}; the analog layers are "
            f"{', '.join(sorted(paths))}"
        )


def _check_weights(leaf: _Leaf, linear: nn.Linear | IMACLinear) -> None:
    """Refuse weights that are not there yet, or that conductances cannot stand for."""
    where = f"{leaf.path} ({type(linear).__name__})"
    if isinstance(linear.weight, nn.UninitializedParameter):
        raise ConversionError(
            f"{where}: its shape is not known yet; run the model on one batch before converting it"
        )
    if linear.weight.is_complex():
        raise ConversionError(f"{where}: complex weights have no circuit")


def _analog_layer(
    leaf: _Leaf,
    linear: nn.Linear | IMACLinear,
    activation: Activation,
    config: Config,
    index: int,
    count: int,
) -> IMACLinear:
    _check_weights(leaf, linear)
    scaling = linear.scaling if isinstance(linear, IMACLinear) else Scaling(
        input_scale=config.supplies.input_scale if index == 0 else 1.0
    )
    layer = IMACLinear(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        activation=activation,
        config=config.for_layer(index, leaf.path, count),
        scaling=scaling,
        name=leaf.path,
    )
    if index == 0:
        layer.driver_resistance = 0.0
    with torch.no_grad():
        layer.weight.copy_(linear.weight).requires_grad_(linear.weight.requires_grad)
        if layer.bias is not None and linear.bias is not None:
            layer.bias.copy_(linear.bias).requires_grad_(linear.bias.requires_grad)
        if isinstance(linear, IMACLinear):
            if layer.slicing.count != linear.slicing.count:
                raise ConversionError(
                    f"{leaf.path}: the layer's devices are those of {linear.slicing.count} slices, "
                    f"the configuration asks for {layer.slicing.count}; build it with the "
                    "configuration that it is converted with"
                )
            layer.positive_factor.copy_(linear.positive_factor)
            layer.negative_factor.copy_(linear.negative_factor)
            if linear.config == layer.config:  # calibration holds for the same circuit only
                for name, buffer in linear.named_buffers():
                    layer.get_buffer(name).copy_(buffer)
    return layer.to(linear.weight.device)


def _check_chain(layers: Sequence[IMACLinear]) -> None:
    for before, after in pairwise(layers):
        if before.out_features != after.in_features:
            raise ConversionError(
                f"{after.name} takes {after.in_features} inputs, {before.name} before it has "
                f"{before.out_features} outputs"
            )


def to_software(network: IMACNetwork) -> nn.Sequential:
    """The way back: a software model with the effective weights of the devices.

    Args:
        network: A converted model.

    Returns:
        Copies of the digital part and the tail, Linear layers with activations between them;
        wires and loading are not in it. All of it is float64: give it ``x.double()``, or turn it
        into another type with ``.float()``.
    """
    modules: list[nn.Module] = [copy.deepcopy(network.digital)]
    for layer in network.analog_layers():
        weight, bias = layer.effective_weights()
        activation = layer.activation
        if activation.kind == "sigmoid" and activation.slope > 0.0:
            weight, bias = activation.slope * weight, activation.slope * bias
        linear = nn.Linear(layer.in_features, layer.out_features, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        modules.append(linear.to(weight.device))
        if activation.kind == "sigmoid":
            falling = activation.slope < 0
            modules.append(InverterSigmoid(-activation.slope) if falling else nn.Sigmoid())
        elif activation.kind == "tanh":
            modules.append(nn.Tanh())
        elif activation.kind == "relu":
            modules.append(nn.ReLU())
    modules.append(copy.deepcopy(network.tail))
    software = nn.Sequential(*modules).double()
    software.training = network.training
    return software
