"""Text of one layer's sub-circuit; the same in every dialect."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from imac_torch.base.units import spice_number
from imac_torch.circuit.topology import ElementArray, LayerCircuit
from imac_torch.errors import NetlistError
from imac_torch.netlist.subcircuits import Subcircuit, has_rails

_IDENTIFIER: Final = re.compile(r"[A-Za-z]\w*")
_LETTER: Final = {"resistor": "r", "capacitor": "c", "cell": "r"}
_PER_LINE: Final = 16

NEURON_SUPPLY: Final = "vddn"
"""Port of a layer that supplies its neurons, apart from the bias lines, to measure both."""
AMPLIFIER_SUPPLIES: Final = ("vdda", "vssa")
"""Ports of a layer whose amplifiers have supplies, again apart."""


def supply_ports(amplifier: Subcircuit) -> tuple[str, ...]:
    """Ports of a layer behind its inputs and outputs."""
    return ("vdd", NEURON_SUPPLY, *(AMPLIFIER_SUPPLIES if has_rails(amplifier) else ()))


def wrap(words: Sequence[str], first: str = "") -> str:
    """Words on as many continuation lines as needed."""
    lines = [" ".join(words[i : i + _PER_LINE]) for i in range(0, len(words), _PER_LINE)]
    return "\n+ ".join([first, *lines] if first else lines)


def element_lines(element: ElementArray, names: Sequence[str]) -> Iterator[str]:
    """One line per element, for bit cells with an access device two.

    Raises:
        NetlistError: The prefix does not begin with the letter of the kind.
    """
    prefix = element.name
    if prefix[:1].lower() != _LETTER[element.kind] or _IDENTIFIER.fullmatch(prefix) is None:
        raise NetlistError(f"{prefix!r} is not a name for a {element.kind} in SPICE")
    # Most values repeat (wires, two memristor states): each distinct one is printed once.
    distinct, which = np.unique(element.values, return_inverse=True)
    texts = [spice_number(value) for value in distinct.tolist()]
    first, second = element.nodes[:, 0].tolist(), element.nodes[:, 1].tolist()
    labels = ("_".join(map(str, label)) for label in element.labels.tolist())
    for label, a, b, k in zip(labels, first, second, which.tolist(), strict=True):
        first_end, second_end = names[a], names[b]
        value = texts[k]
        if element.cell is None:
            yield f"{prefix}{label} {first_end} {second_end} {value}"
        else:
            yield from element.cell.lines(f"{prefix}{label}", first_end, second_end, value)


def layer_text(layer: LayerCircuit, amplifier: Subcircuit, neuron: Subcircuit) -> str:
    """The sub-circuit of a layer: ports are input pins, outputs, vdd and the neurons' vdd.

    Args:
        layer: The layer.
        amplifier: Sub-circuit to call for every differential amplifier.
        neuron: Sub-circuit to call for every neuron.

    Returns:
        Text from ``.subckt`` to ``.ends``.

    Raises:
        NetlistError: The layer's name cannot stand in a netlist.
    """
    if _IDENTIFIER.fullmatch(layer.name) is None:
        raise NetlistError(f"{layer.name!r} is not a name for a sub-circuit")
    names: list[str] = layer.node_names().tolist()
    ports = [names[k] for k in [*layer.inputs.tolist(), *layer.outputs.tolist()]]
    lines = [
        f"* {layer.name}: {len(layer.inputs)} inputs, {len(layer.outputs)} outputs",
        *(f"* {note}" for note in layer.notes),
        wrap([*ports, *supply_ports(amplifier)], f".subckt {layer.name}"),
    ]
    for element in layer.elements:
        lines.extend(element_lines(element, names))
    lines.extend(_amplifier_lines(layer, amplifier, names))
    lines.extend(_sum_lines(layer, names))
    spec = layer.neurons.spec
    arguments = neuron.arguments({**spec.model.arguments(spec), **spec.model.capacitances(spec)})
    for label, (z, out) in zip(
        layer.neurons.labels.tolist(), layer.neurons.nodes.tolist(), strict=True
    ):
        lines.append(
            f"Xneuron{_joined(label)} {names[z]} {names[out]} {NEURON_SUPPLY} "
            f"{neuron.name}{arguments}"
        )
    lines.append(f".ends {layer.name}")
    return "\n".join(lines) + "\n"


def _joined(label: list[int]) -> str:
    return "_".join(map(str, label))


def _amplifier_lines(layer: LayerCircuit, amplifier: Subcircuit, names: list[str]) -> Iterator[str]:
    array = layer.read_outs
    read_out = array.read_out
    rails = "".join(f" {node}" for node in AMPLIFIER_SUPPLIES) if has_rails(amplifier) else ""
    arguments = amplifier.arguments(read_out.parameters() | read_out.real_parameters())
    every = array.nodes
    if array.references is not None:
        every = np.column_stack([every, array.references])
    for label, nodes in zip(array.labels.tolist(), every.tolist(), strict=True):
        ends = " ".join(names[node] for node in nodes)
        row, part = label
        own = amplifier.arguments(read_out.offset_parameters(row - 1, part - 1))
        yield f"Xamplifier{_joined(label)} {ends}{rails} {amplifier.name}{arguments}{own}"


def _sum_lines(layer: LayerCircuit, names: list[str]) -> Iterator[str]:
    """Ideal sums as controlled sources in series: v(output) = Σ factor·v(term)."""
    if layer.sums is None:
        return
    factors = [spice_number(factor) for factor in layer.sums.factors.tolist()]
    rows = zip(
        layer.sums.labels.tolist(),
        layer.sums.terms.tolist(),
        layer.sums.outputs.tolist(),
        strict=True,
    )
    for label, terms, output in rows:
        row = _joined(label)
        below = "0"
        for k, term in enumerate(terms, start=1):
            above = names[output] if k == len(terms) else f"s{row}_{k}"
            yield f"Esum{row}_{k} {above} {below} {names[term]} 0 {factors[k - 1]}"
            below = above
