"""Circuits in time by an integrator of its own: nothing of the package but its list of elements.

Behavioural neurons and amplifiers let nothing flow back, so that a circuit is a chain of linear
networks M·dx/dt + K·x = B·e, each driven by what the one before has made known (e: the inputs, or
the neurons' shapes). Nodes without charge are eliminated exactly. Each network is integrated over
all of time at once by Radau IIA collocation of eight stages (order 15; Hairer and Wanner, Solving
Ordinary Differential Equations II, IV.5), mode after mode of its Schur form, on elements that grow
from 10 as behind every corner of the inputs and are cut where a rectifier bends.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.linalg import schur
from scipy.special import roots_jacobi

STAGES = 8
NODES = np.append((roots_jacobi(STAGES - 1, 1, 0)[0] + 1) / 2, 1.0)
_POWERS = np.arange(1, STAGES + 1)
RULE = (NODES[:, None] ** _POWERS / _POWERS) @ np.linalg.inv(
    np.vander(NODES, STAGES, increasing=True)
)
LOW_PASS = 1e3  # ohm, of spice/amplifier_pole.sp
PARTS = ("inputs", "bias", "amplifiers")


def shape(kind, slope, vdd, v):
    if kind == "logistic":
        return vdd * (1.0 - np.tanh(slope * v / 2.0)) / 2.0
    if kind == "tanh":
        return vdd * np.tanh(slope * v / 2.0)
    if kind == "relu":
        return np.clip(v, 0.0, vdd)
    assert kind == "identity"
    return v


def solve(matrix, right):
    """With rows and columns scaled: they hold siemens, ratios and seconds."""
    rows = 1.0 / np.abs(matrix).max(1)
    scaled = matrix * rows[:, None]
    columns = 1.0 / np.abs(scaled).max(0)
    return columns[:, None] * np.linalg.solve(scaled * columns, right * rows[:, None])


class Network:
    """One link of the chain: the sources' resistances and charges, crossbars, read-outs.

    ``layer`` None: what the last neurons drive.
    """

    def __init__(self, layer, resistance, charge):
        self.layer, first = layer, resistance is None
        sources = len(resistance) if layer is None else len(layer.inputs)
        nodes = np.arange(sources) if layer is None else np.arange(layer.node_count)
        known = {} if layer is None else {0: None, 1: sources}
        if first:
            known |= {int(pin): k for k, pin in enumerate(layer.inputs)}
        outside = set(known) if layer is None else set(known) | set(layer.outputs.tolist())
        place = {node: k for k, node in enumerate(n for n in nodes.tolist() if n not in outside)}
        size = len(place)
        self.M, self.K = np.zeros(size), np.zeros((size, size))
        self.B = np.zeros((size, sources + 1))
        self.by_x = np.zeros((sources + 1, size))  # currents of the sources
        self.by_e = np.zeros((sources + 1, sources + 1))
        self.pins = np.zeros(sources + 1)
        pins = range(sources) if layer is None else layer.inputs.tolist()
        if not first:
            for k, pin in enumerate(pins):
                node = place[pin]
                self.K[node, node] += 1.0 / resistance[k]
                self.B[node, k] += 1.0 / resistance[k]
                self.M[node] += charge[k]
        if layer is None:
            self._reduce(np.arange(sources))
            return
        for element in layer.elements:
            for (a, b), value in zip(element.nodes.tolist(), element.values.tolist()):
                if element.kind == "resistor":
                    self._resistor(place, known, a, b, 1.0 / value)
                    self._resistor(place, known, b, a, 1.0 / value)
                elif a in place:
                    self.M[place[a]] += value
                else:
                    self.pins[known[a]] += value
        spec, read_out = layer.neurons.spec, layer.read_outs.read_out
        self.shape = (spec.kind, spec.options.slope, spec.vdd)
        self.gain, self.r = float(read_out.gain), float(read_out.resistance)
        self.pole = read_out.pole
        self.ends = np.array([[place[n] for n in row] for row in layer.read_outs.nodes.tolist()])
        z = np.array([place[n] for n in layer.neurons.nodes[:, 0].tolist()])
        self.onward = self.K[self.ends[:, 2]].copy()
        ratio = self.gain / (1.0 + self.gain)
        for plus, minus, out in self.ends:
            self.K[plus, plus] += 1.0 / (self.r * (1.0 + self.gain))
            self.K[minus, [minus, plus]] += np.array([1.0, -ratio]) / self.r
            self.K[out] = 0.0
            self.K[out, [out, plus, minus]] = 1.0, -self.gain, self.gain
            self.M[out] = 0.0 if self.pole is None else 1.0 / (2.0 * np.pi * self.pole)
        if layer.sums is None:
            self.M[z] += spec.input_capacitance
        else:
            self.onward[:] = 0.0
            for terms, node in zip(layer.sums.terms.tolist(), z):
                self.K[node] = 0.0
                self.K[node, node] = 1.0
                self.K[node, [place[term] for term in terms]] = -layer.sums.factors
        self._reduce(z)

    def _resistor(self, place, known, a, b, g):
        if a in place:
            row, own, e = self.K[place[a]], place[a], self.B[place[a]]
        elif known[a] is not None:
            row, own, e = self.by_x[known[a]], None, -self.by_e[known[a]]
            self.by_e[known[a], known[a]] += g
        else:
            return
        if own is not None:
            row[own] += g
        if b in place:
            row[place[b]] -= g
        elif known[b] is not None:
            e[known[b]] += g

    def _reduce(self, z):
        self.z = z
        self.charged = charged = np.flatnonzero(self.M > 0.0)
        rest = np.flatnonzero(self.M == 0.0)
        self.of_d = np.zeros((len(self.M), len(charged)))
        self.of_e = np.zeros(self.B.shape)
        self.of_d[charged, np.arange(len(charged))] = 1.0
        if len(rest):
            inner = self.K[np.ix_(rest, rest)]
            self.of_d[rest] = solve(inner, -self.K[np.ix_(rest, charged)])
            self.of_e[rest] = solve(inner, self.B[rest])
        mass = self.M[charged][:, None]
        self.rate_d = -(self.K[charged] @ self.of_d) / mass
        self.rate_e = (self.B[charged] - self.K[charged] @ self.of_e) / mass
        self.rest = solve(self.K, self.B)

    def integrate(self, start, e, steps):
        """x (E, 8, X) for sources e (E, 8, S) from charges ``start``."""
        T, Q = schur(self.rate_d, output="complex")
        drive = (e @ self.rate_e.T) @ Q.conj()
        y, begin = np.zeros(drive.shape, complex), Q.conj().T @ start
        for i in range(len(T) - 1, -1, -1):
            known = drive[..., i] + y[..., i + 1 :] @ T[i, i + 1 :]
            inverse = np.linalg.inv(np.eye(STAGES) - (steps * T[i, i])[:, None, None] * RULE)
            own = np.einsum("eij,ej->ei", inverse, steps[:, None] * (known @ RULE.T))
            passed, left, value = inverse.sum(-1), [], complex(begin[i])
            for factor, added in zip(passed[:, -1].tolist(), own[:, -1].tolist()):
                left.append(value)
                value = factor * value + added
            y[..., i] = own + passed * np.array(left)[:, None]
        return (y @ Q.T).real @ self.of_d.T + e @ self.of_e.T

    def powers(self, x, e, slope):
        """(3, E, 8) W: inputs, bias, amplifiers."""
        current = x @ self.by_x.T + e @ self.by_e.T + self.pins * slope
        plus, minus, out = (x[..., k] for k in self.ends.T)
        ideal = self.gain * (plus - minus)
        inner = (ideal - plus * self.gain / (1.0 + self.gain)) / (self.gain * self.r)
        if self.pole is not None:
            inner = inner + (ideal - out) / LOW_PASS
        onward = (out * (x @ self.onward.T)).sum(-1)
        return np.stack([
            (e * current)[..., :-1].sum(-1),
            e[..., -1] * current[..., -1],
            (ideal * inner).sum(-1) + onward,
        ])  # fmt: skip


def elements(corners, parts):
    edges = [corners[0]]
    for start, end in pairwise(corners):
        step, largest, time = 1e-17, (end - start) / parts, start
        while time + 1.3 * step < end:
            time += step
            edges.append(time)
            step = min(1.6 * step, largest)
        edges.append(end)
    return np.array(edges)


def crossings(time, z, level):
    """s, where (E, 8, M) V at (E, 8) s pass a level, by chords."""
    time, z = time.ravel(), z.reshape(time.size, -1) - level
    at, neuron = np.nonzero(z[1:] * z[:-1] < 0.0)
    low, high = z[at, neuron], z[at + 1, neuron]
    return time[at] + (time[at + 1] - time[at]) * low / (low - high)


def in_time(circuit, before, after, parts=40):
    """One period from the settled state of ``before``; (N,) V.

    Returns:
        Times (T,) s, outputs (T, M) V, energies (3,) J by :data:`PARTS`, powers at the end (3,) W,
        largest powers (3,) W.
    """
    chain, resistance, charge = [], None, None
    for layer in circuit.layers:
        chain.append(Network(layer, resistance, charge))
        spec = layer.neurons.spec
        resistance = np.full(len(layer.outputs), spec.options.output_resistance)
        charge = np.full(len(layer.outputs), spec.output_capacitance)
    chain.append(Network(None, resistance, charge + circuit.timing.load_capacitance))
    ramp, period = circuit.timing.transition, circuit.timing.period
    edges, bends = elements((0.0, ramp, period), parts), [np.empty(0)]
    for _ in range(3):  # chords find the bends of what has been cut already better
        found, bends = _pass(chain, circuit.vdd, before, after, ramp, edges)
        if not len(bends):
            break
        edges = np.unique(np.append(edges, bends))
    return found


def _pass(chain, vdd, before, after, ramp, edges):
    """What :func:`in_time` returns, and the times at which rectifiers bend."""
    steps = np.diff(edges)
    time = edges[:-1, None] + steps[:, None] * NODES
    part = np.minimum(time / ramp, 1.0)[..., None]
    inside = (edges[1:] <= ramp * (1.0 + 1e-12))[:, None, None]
    e = np.concatenate([before + part * (after - before), 0.0 * part + vdd], -1)
    slope = inside * np.append(after - before, 0.0) / ramp
    rest, power, bends = np.append(before, vdd), 0.0, []
    for number, network in enumerate(chain):
        start = network.rest @ rest
        x = network.integrate(start[network.charged], e, steps)
        if network.layer is None:
            break
        power = power + network.powers(x, e, slope) * np.array(
            [number == 0, 1, 1]
        )[:, None, None]
        slope = 0.0
        rest = np.append(shape(*network.shape, start[network.z]), vdd)
        if network.shape[0] == "relu":
            bends += [crossings(time, x[..., network.z], level) for level in (0.0, vdd)]
        e = np.concatenate([shape(*network.shape, x[..., network.z]), e[..., -1:]], -1)
    energy = (power * (steps[:, None] * RULE[-1])).sum((1, 2))
    outputs = x[..., network.z].reshape(time.size, -1)
    found = time.ravel(), outputs, energy, power[:, -1, -1], np.abs(power).max((1, 2))
    return found, np.concatenate([np.empty(0), *bends])
