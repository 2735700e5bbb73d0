"""Whole networks as one dense nonlinear system, written out anew: the oracle of the native solver.

Nothing of the solver is used: the elements of a :class:`Circuit` are stamped into one matrix of all
layers, every read-out as its resistors around operational amplifiers, ideal (nullator and norator)
or controlled sources, every neuron with its level shift and both resistors, and Newton's method
runs on everything at once. Only the current functions of transistors come from the package.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import torch

from imac_torch.circuit.crossbar import CrossbarSpec, build_crossbar
from imac_torch.circuit.topology import Circuit, build_layer
from imac_torch.config import (
    Amplifier,
    Config,
    Crossbar,
    Interconnect,
    Neuron,
    Timing,
    WeightMapping,
)
from imac_torch.finfet import FinFET, builtin_14nm_hp, inverter_currents
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.core import Core

VDD = 0.8
PLAIN_WIRES = Interconnect(capacitance=False)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def behavioural(kind: str = "logistic", **options) -> NeuronSpec:
    return NeuronSpec(kind, 0.0, float("inf"), 0.0, VDD, 298.15, Neuron(kind=kind, **options))


def core_of(spec: NeuronSpec) -> Core:
    """The exact core of a neuron."""
    return spec.model.core(spec)


def table_of(spec: NeuronSpec) -> Core:
    """The core that it is solved with."""
    return spec.model.tabulated_core(spec)


def finfet(rlow: float = 78e3, rhigh: float = 202e3, **options) -> NeuronSpec:
    return NeuronSpec("finfet", rlow, rhigh, 0.4, VDD, 298.15, Neuron(kind="finfet", **options))


def random_cells(*shape: int, seed: int, low: float = 78e3, high: float = 202e3, opened=0.0):
    """Conductances spread over a device's window, some cells open."""
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for _ in range(2):
        share = torch.rand(*shape, generator=generator, dtype=torch.float64)
        conductance = 1.0 / (low + share * (high - low))
        conductance[torch.rand(*shape, generator=generator) < opened] = 0.0
        sides.append(conductance)
    return ConductancePair(*sides)


def ternary_cells(outputs: int, columns: int, *, seed: int, low: float = 78e3, high: float = 202e3):
    """IMAC-Sim's mapping of random ±1."""
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, (outputs, columns), generator=generator) > 0
    return ConductancePair(
        torch.where(sign, 1 / low, 1 / high).double(), torch.where(sign, 1 / high, 1 / low).double()
    )


def random_layers(
    sizes,
    neuron: NeuronSpec,
    *,
    rows: int = 32,
    columns: int = 32,
    gain: float = 20.0,
    combine: str = "average",
    output_resistance: float = 1e-3,
    read_out: str = "differential",
    open_loop_gain: float | None = None,
    open_loop_resistance: float | None = None,
    swing: tuple[float, float] | None = None,
    offset_spread: float = 0.0,
    ideal: str = "",
    opened: float = 0.0,
    seed: int = 0,
    cells=None,
    slices: tuple[int, int] = (1, 1),
) -> list[tuple[CrossbarSpec, NeuronSpec]]:
    """What :meth:`Native.prepare` takes: layers of random conductances.

    ``slices`` are their number and base.
    """
    layers = []
    for k, (inputs, outputs) in enumerate(pairwise(sizes)):
        size = Crossbar(
            horizontal=-(-(inputs + 1) // columns), vertical=-(-outputs * slices[0] // rows)
        )
        config = Config(
            crossbar=size,
            interconnect=PLAIN_WIRES,
            amplifier=Amplifier(
                kind=read_out,
                combine=combine,
                output_resistance=output_resistance,
                open_loop_gain=open_loop_gain,
                open_loop_resistance=open_loop_resistance,
                swing=swing,
            ),
            mapping=WeightMapping(slices=slices[0], slice_base=slices[1]),
        ).for_layer(0, "layer", 1)
        make = random_cells if cells is None else cells
        extra = {"opened": opened} if cells is None else {}
        pair = make(outputs * slices[0], inputs + 1, seed=seed + k, **extra)
        offsets = None
        if offset_spread > 0.0:
            shape = len(pair.positive), size.horizontal, 2 if read_out == "transimpedance" else 1
            generator = torch.Generator().manual_seed(seed)
            offsets = offset_spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        spec = build_crossbar(pair, config, gain, offsets=offsets)
        if ideal in ("input", "both"):
            spec = replace(spec, input_segment=scalar(0.0))
        if ideal in ("output", "both"):
            spec = replace(spec, output_segment=scalar(0.0))
        layers.append((spec, neuron))
    return layers


def circuit_of(layers) -> Circuit:
    """The neutral circuit of layers."""
    config = Config(interconnect=PLAIN_WIRES).for_layer(0, "layer", 1)
    built = [
        build_layer(f"layer{k + 1}", spec, neuron, config)
        for k, (spec, neuron) in enumerate(layers)
    ]
    return Circuit(tuple(built), VDD, Timing())


def signs(count: int, lines: int, seed: int = 5) -> torch.Tensor:
    """(count, lines) V of ±0.8."""
    generator = torch.Generator().manual_seed(seed)
    return VDD * (2.0 * torch.randint(0, 2, (count, lines), generator=generator).double() - 1.0)


@cache
def transistors(fins: int) -> tuple[FinFET, FinFET]:
    n, p = (FinFET(card, nfin=fins, temperature=298.15) for card in builtin_14nm_hp())
    return n, p


def core_currents(spec: NeuronSpec, gate: np.ndarray, output: np.ndarray):
    """Output, gate and supply current and the four derivatives of the first two."""
    options = spec.options
    if spec.kind != "finfet":
        half = options.slope / 2
        zero = np.zeros_like(gate)
        if spec.kind == "logistic":
            value = spec.vdd * (1 - np.tanh(half * gate)) / 2
            slope = -spec.vdd * half / 2 / np.cosh(half * gate) ** 2
        elif spec.kind == "tanh":
            value = spec.vdd * np.tanh(half * gate)
            slope = spec.vdd * half / np.cosh(half * gate) ** 2
        elif spec.kind == "relu":
            value = np.clip(gate, 0.0, spec.vdd)
            slope = ((gate > 0) & (gate < spec.vdd)).astype(float)
        elif spec.kind == "hardtanh":
            value = np.clip(gate, -spec.vdd, spec.vdd)
            slope = (np.abs(gate) < spec.vdd).astype(float)
        else:
            value, slope = gate, np.ones_like(gate)
        r = options.output_resistance
        return (value - output) / r, zero, zero, slope / r, zero - 1 / r, zero, zero
    n, p = transistors(options.fins)
    pair = [torch.from_numpy(x.copy()).requires_grad_() for x in (gate, output)]
    current, tunnel, supply = inverter_currents(n, p, *pair, scalar(spec.vdd))
    first = torch.autograd.grad(current.sum(), pair, retain_graph=True)
    second = torch.autograd.grad(tunnel.sum(), pair)
    everything = (current, tunnel, supply, *first, *second)
    return tuple(x.detach().numpy() for x in everything)


def amplifier(read_out):
    """:func:`linear_amplifier`, its operational amplifiers behind their output resistances."""
    found = linear_amplifier(read_out)
    real = read_out.imperfections
    if real is None or real.resistance is None:
        return found
    inner, resistors, controlled, _, copies = found
    behind = []
    for k, (name, terms, *offset) in enumerate(controlled):
        if offset:
            inner, resistors = (*inner, f"u{k}"), [*resistors, (f"u{k}", name, real.resistance)]
            name = f"u{k}"
        behind.append((name, terms, *offset))
    return inner, resistors, behind, [], copies


def linear_amplifier(read_out):
    """A read-out as its parts: inner nodes, resistors, controlled voltages, nullors, copies.

    A controlled voltage is its node, what it is and, of an operational amplifier, V per V of its
    offset and which one it is; a nullor holds its first two nodes together by
    what its third delivers; a copy draws a current from its first node by its second's voltage.
    """
    if read_out.kind == "differential":
        gain, r = float(read_out.gain), float(read_out.resistance)
        parts = [("plus", "n2", r), ("n2", "0", gain * r), ("minus", "n1", r)]
        parts.append(("n1", "out", gain * r))
        if read_out.open_loop_gain is not None:
            a = float(read_out.open_loop_gain)
            return ("n1", "n2"), parts, [("out", {"n2": a, "n1": -a}, a, 0)], [], []
        if read_out.imperfections is not None:
            # What holds n1 at n2 is known; at a rail it does not.
            held = ("out", {"n2": 1.0 + gain, "minus": -gain}, 1.0 + gain, 0)
            return ("n1", "n2"), parts, [held], [], []
        return ("n1", "n2"), parts, [], [("n1", "n2", "out")], []
    if read_out.kind == "sense_resistor":
        gain, r = float(read_out.gain), float(read_out.resistance)
        out = ("out", {"plus": gain, "minus": -gain}, gain, 0)
        return (), [("plus", "0", r), ("minus", "0", r)], [out], [], []
    if read_out.kind == "current_mirror":
        r, rm = float(read_out.feedback), float(read_out.resistance)
        a = float(read_out.open_loop_gain)
        out = ("out", {"minus": -a}, a, 0)
        copy = ("minus", "plus", 1.0 / rm)
        return (), [("plus", "0", rm), ("minus", "out", r)], [out], [], [copy]
    if read_out.kind == "reference_column":
        r, a = float(read_out.feedback), float(read_out.open_loop_gain)
        controlled = [("o+", {"plus": -a}), ("o-", {"minus": -a})]
        controlled.append(("out", {"reference": -a, "o+": -1.0}))
        return ("o+", "o-"), [("plus", "o+", r), ("minus", "o-", r)], controlled, [], []
    assert read_out.kind == "transimpedance"
    r, a = float(read_out.feedback), float(read_out.open_loop_gain)
    controlled = [("o+", {"plus": -a}, a, 0), ("o-", {"minus": -a}, a, 1)]
    controlled.append(("out", {"o-": 1.0, "o+": -1.0}))
    return ("o+", "o-"), [("plus", "o+", r), ("minus", "o-", r)], controlled, [], []


@dataclass(frozen=True)
class DenseSolution:
    """One solved sample.

    Attributes:
        nodes: Voltages by ``layer.node`` name.
        gates: Per layer, (M,) V.
        power: By kind of source, W: inputs, bias, neurons, level_shift, amplifiers, sums.
        dissipation: In resistors and neuron cores, W.
        residual: Largest violation of Kirchhoff's current law, A.
        behind: Of the power of amplifiers, what their output resistances take, W.
    """

    nodes: dict[str, float]
    gates: list[np.ndarray]
    power: dict[str, float]
    dissipation: float
    residual: float
    behind: float

    def layer(self, circuit: Circuit, number: int, name: str) -> np.ndarray:
        """Voltages of a node array."""
        layer = circuit.layers[number]
        names = layer.node_names()[layer.array(name).index.reshape(-1)]
        shape = layer.array(name).shape
        return np.array([self.nodes[f"{layer.name}.{n}"] for n in names]).reshape(shape)


def solve_dense(circuit: Circuit, inputs: np.ndarray, *, limit: int = 400) -> DenseSolution:
    """Solve a network for one input vector, everything at once.

    Raises:
        AssertionError: Newton's method does not converge.
    """
    number, count = [], 1  # ground is node 0; vdd node 1
    vdd, count = 1, 2
    pins = None
    for layer in circuit.layers:
        index = np.full(layer.node_count, -1)
        index[0], index[1] = 0, vdd
        if pins is not None:
            index[layer.inputs] = pins
        fresh = np.flatnonzero(index < 0)
        index[fresh] = np.arange(count, count + len(fresh))
        count += len(fresh)
        number.append(index)
        pins = index[layer.outputs]
    resistors = []  # (a, b, conductance), arrays
    behind = []  # which of them are output resistances of operational amplifiers
    sources = []  # (kind, plus, {node: coefficient}, constant): v(plus) = constant + Σ
    limits = {}  # of sources: lowest and highest voltage
    nullors = []  # (first, second, output)
    copies = []  # (from, by, conductance): current drawn from one node by another's voltage
    neurons = []

    def fresh_nodes(n):
        nonlocal count
        result = np.arange(count, count + n)
        count += n
        return result

    sources.append(("vdd", vdd, {}, circuit.vdd))
    for pin, value in zip(number[0][circuit.layers[0].inputs], inputs):
        sources.append(("inputs", pin, {}, float(value)))
    for layer, index in zip(circuit.layers, number):
        for element in layer.elements:
            assert element.kind == "resistor"
            resistors.append((*index[element.nodes].T, 1.0 / element.values))
        plus, minus, out = index[layer.read_outs.nodes].T
        inner, branches, controlled, nullator, copied = amplifier(layer.read_outs.read_out)
        nodes = dict(zip(("plus", "minus", "out"), (plus, minus, out)))
        nodes |= {name: fresh_nodes(len(plus)) for name in inner}
        nodes["0"] = np.zeros(len(plus), dtype=int)
        if layer.read_outs.references is not None:
            nodes["reference"] = index[layer.read_outs.references]
        for a, b, ohms in branches:
            if isinstance(a, str) and a.startswith("u"):
                behind.append(len(resistors))
            resistors.append((nodes[a], nodes[b], np.full(len(plus), 1.0 / float(ohms))))
        real = layer.read_outs.read_out.imperfections
        for k, (row, part) in enumerate(layer.read_outs.labels.tolist()):
            for name, terms, *offset in controlled:
                terms = {nodes[item][k]: factor for item, factor in terms.items()}
                constant = 0.0
                if real is not None and offset:
                    place = [i if n > 1 else 0 for i, n in
                             zip((row - 1, part - 1, offset[1]), real.offsets.shape)]
                    constant = offset[0] * float(real.offsets[tuple(place)])
                    limits[len(sources)] = real.low, real.high
                sources.append(("amplifiers", nodes[name][k], terms, constant))
        nullors += [item for names in nullator for item in zip(*(nodes[n] for n in names))]
        copies += [(nodes[a], nodes[b], siemens) for a, b, siemens in copied]
        if layer.sums is not None:
            for terms, total in zip(index[layer.sums.terms], index[layer.sums.outputs]):
                factors = dict(zip(terms, layer.sums.factors))
                sources.append(("sums", total, factors, 0.0))
        z, u = index[layer.neurons.nodes].T
        spec = layer.neurons.spec
        shifted = fresh_nodes(len(z))
        for a, b in zip(shifted, z):
            sources.append(("level_shift", a, {b: 1.0}, spec.level_shift))
        gate = shifted
        if spec.input_resistance > 0:
            gate = fresh_nodes(len(z))
            resistors.append((shifted, gate, np.full(len(z), 1.0 / spec.input_resistance)))
        if np.isfinite(spec.feedback_resistance):
            resistors.append((gate, u, np.full(len(z), 1.0 / spec.feedback_resistance)))
        neurons.append((gate, u, spec))

    branches = len(sources) + len(nullors)
    size = count + branches
    matrix, right = np.zeros((size, size)), np.zeros(size)
    for a, b, g in resistors:
        np.add.at(matrix, (a, a), g)
        np.add.at(matrix, (b, b), g)
        np.subtract.at(matrix, (a, b), g)
        np.subtract.at(matrix, (b, a), g)
    for a, b, g in copies:
        np.add.at(matrix, (a, b), g)
    # A branch's current leaves its plus node; a level shift's returns into the node it shifts.
    for k, (kind, plus, terms, constant) in enumerate(sources, start=count):
        matrix[plus, k] += 1.0
        matrix[k, plus] += 1.0
        for node, coefficient in terms.items():
            matrix[k, node] -= coefficient
            if kind == "level_shift":
                matrix[node, k] -= 1.0
        right[k] = constant
    for k, (first, second, out) in enumerate(nullors, start=count + len(sources)):
        matrix[out, k] += 1.0
        matrix[k, first] += 1.0
        matrix[k, second] -= 1.0
    matrix[0] = 0.0
    matrix[:, 0] = 0.0
    matrix[0, 0] = 1.0

    # Rows and columns span 1e3 S to 1e-6 S and 1: equilibrate, so that LU keeps its digits.
    state = np.zeros(size)
    for gate, u, _ in neurons:
        state[gate] = state[u] = circuit.vdd / 2

    def currents(state):
        into = np.zeros(size)
        derivative = []
        for gate, u, spec in neurons:
            out, tunnel, supply, og, ou, tg, tu = core_currents(spec, state[gate], state[u])
            np.subtract.at(into, u, out)
            np.add.at(into, gate, tunnel)
            into[vdd] += supply.sum()
            derivative += [(u, gate, -og), (u, u, -ou), (gate, gate, tg), (gate, u, tu)]
        return into, derivative

    rails = dict.fromkeys(limits)  # which amplifier is held where; None: at neither rail

    def defects(state):
        leaving, derivative = currents(state)
        residual = matrix @ state - right + leaving
        for k, rail in rails.items():
            if rail is not None:
                residual[count + k] = state[sources[k][1]] - rail
        return residual, derivative

    for turn in range(limit):
        residual, derivative = defects(state)
        jacobian = matrix.copy()
        for k, rail in rails.items():
            if rail is not None:
                jacobian[count + k] = 0.0
                jacobian[count + k, sources[k][1]] = 1.0
        for row, column, value in derivative:
            np.add.at(jacobian, (row, column), value)
        step = _refined(jacobian, residual)
        hidden = [np.abs(step[np.concatenate([g, u])]).max() for g, u, _ in neurons]
        largest = max(hidden)
        state -= step * min(1.0, 0.1 / largest)
        wrong = {}
        for k, (low, high) in limits.items():
            row = count + k
            value = state[sources[k][1]] - (matrix[row] @ state - right[row])
            rail = low if value < low else high if value > high else None
            if rail != rails[k]:
                # Off a rail first: with its loop open it seems to belong to the other one.
                wrong[k] = rail if rails[k] is None else None
        if turn < 15:
            rails |= wrong
        elif largest < 1e-6 and wrong:
            # One at a time, the first: cannot go round in circles where the solution is unique
            # (K. G. Murty, Opsearch 11, 1974).
            first = min(wrong)
            rails[first] = wrong[first]
        if largest < 1e-11 and not wrong:
            break
    else:
        raise AssertionError("the oracle did not converge")
    residual, _ = defects(state)

    nodes = {}
    for layer, index in zip(circuit.layers, number):
        for name, k in zip(layer.node_names().tolist(), index):
            nodes[f"{layer.name}.{name}"] = float(state[k])
    power = dict.fromkeys(("inputs", "level_shift", "sums", "amplifiers", "vdd"), 0.0)
    for k, (kind, plus, _, constant) in enumerate(sources, start=count):
        volts = constant if kind == "level_shift" else state[plus]
        power[kind] -= volts * state[k]
    for k, (_, _, out) in enumerate(nullors, start=count + len(sources)):
        power["amplifiers"] -= state[out] * state[k]
    for a, b, g in copies:
        power["amplifiers"] -= float((state[a] * g * state[b]).sum())
    taken = [float((g * (state[a] - state[b]) ** 2).sum()) for a, b, g in resistors]
    dissipation = sum(taken)
    drawn = 0.0
    for gate, u, spec in neurons:
        out, tunnel, supply, *_ = core_currents(spec, state[gate], state[u])
        drawn += circuit.vdd * float(supply.sum())
        dissipation += float(
            (state[gate] * tunnel).sum() - (state[u] * out).sum() + circuit.vdd * supply.sum()
        )
    power["neurons"] = drawn
    power["amplifier_supply"] = 0.0  # amplifiers are ideal here
    power["bias"] = power.pop("vdd") - drawn
    return DenseSolution(
        nodes,
        [state[gate] for gate, _, _ in neurons],
        power,
        dissipation,
        float(np.abs(residual[:count]).max()),
        sum(taken[k] for k in behind),
    )


def _refined(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve an equilibrated system with one step of iterative refinement in long double."""
    rows = 1.0 / np.abs(matrix).max(axis=1)
    scaled = matrix * rows[:, None]
    columns = 1.0 / np.abs(scaled).max(axis=0)
    scaled = scaled * columns
    wanted = right * rows
    x = np.linalg.solve(scaled, wanted)
    defect = wanted.astype(np.longdouble) - scaled.astype(np.longdouble) @ x.astype(np.longdouble)
    return (x + np.linalg.solve(scaled, defect.astype(float))) * columns
