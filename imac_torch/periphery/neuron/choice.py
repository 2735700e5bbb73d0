"""Which kind of neuron computes an activation, and how to add one."""

from __future__ import annotations

from collections.abc import Iterator

from imac_torch.config.kinds import NEURON_KINDS
from imac_torch.errors import ConversionError
from imac_torch.periphery.activations import ACTIVATIONS, Activation
from imac_torch.periphery.neuron.base import NeuronKind

__all__ = ["computes", "kind_for", "neuron_kinds", "register_neuron"]


def neuron_kinds() -> Iterator[NeuronKind]:
    """Every kind there is, the package's first."""
    return iter(NEURON_KINDS)


def register_neuron(kind: NeuronKind) -> NeuronKind:
    """Add a kind of your own: ``Neuron(kind=…)`` takes its name from now on, in this process.

    Its activation is added too, if there is none of that name yet. Registering a name again
    replaces what was registered before.

    Raises:
        ConfigError: The name is no identifier, or one of the package's own.
    """
    NEURON_KINDS.register(kind.name, kind)
    if kind.activation.name not in ACTIVATIONS.built_in:
        ACTIVATIONS.register(kind.activation.name, kind.activation)
    return kind


def computes(kind: str | None, activation: Activation) -> bool:
    """Whether a kind of neuron computes an activation; None stands for the one that does."""
    function = activation.function.name
    return kind is None or any(
        item.name == kind for item in neuron_kinds() if item.activation.name == function
    )


def kind_for(activation: Activation, asked: str | None, *, where: str) -> NeuronKind:
    """The kind of neuron that computes an activation.

    Args:
        activation: Of the software layer.
        asked: The configuration's kind, or None for the default.
        where: The layer's path, for errors.

    Raises:
        ConversionError: The circuit asked for does not compute the activation, or none does.
    """
    function = activation.function
    allowed = {kind.name: kind for kind in neuron_kinds() if kind.activation.name == function.name}
    if not allowed:
        raise ConversionError(
            f"{where}: no kind of neuron computes {function.name}; register one "
            "(imac_torch.periphery.neuron.register_neuron)"
        )
    if asked in allowed:
        return allowed[asked]
    # A kind of neurons is about activations, not read-outs.
    if asked is None or function.read_out:
        return next(iter(allowed.values()))
    raise ConversionError(
        f"{where}: neuron kind {asked!r} does not compute {function.name}; allowed: "
        f"{', '.join(allowed)}. Set neuron.kind for this layer in Config.layers"
    )
