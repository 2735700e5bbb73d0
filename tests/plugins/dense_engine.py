"""An engine for small networks: Newton's method on all nodes at once, with one dense matrix."""

from dataclasses import dataclass

import torch

from imac_torch.circuit.engine import BoundEngine, Engine, register_engine
from imac_torch.circuit.topology import GROUND, SUPPLY
from imac_torch.reference.nodal import stamp
from imac_torch.results.solution import Solution, Status


@register_engine
@dataclass(frozen=True)
class Dense(Engine):
    name = "dense"

    def bind(self, segment):
        return BoundDense(segment.circuit())


class BoundDense(BoundEngine):
    def __init__(self, circuit):
        self.pins, self.neurons, u = circuit.layers[0].inputs, [], None
        self.matrix = torch.block_diag(*(stamp(layer).dense() for layer in circuit.layers))
        self.known, start = self.matrix.new_zeros(len(self.matrix)), 0
        for layer in circuit.layers:
            pins, z = start + layer.inputs, start + layer.neurons.nodes[:, 0]
            (plus, minus, out), read_out = start + layer.read_outs.nodes.T, layer.read_outs.read_out
            if self.neurons:  # the outputs u of the layer before drive this one
                self.matrix[u] = self.matrix[pins]
            fixed = [start + GROUND, start + SUPPLY, *pins, *out, *z]  # laws of sources instead
            self.matrix[fixed], self.matrix[fixed, fixed] = 0.0, 1.0
            self.known[start + SUPPLY] = circuit.vdd
            self.matrix[out, plus], self.matrix[out, minus] = (-x for x in read_out.stamp().output)
            self.matrix[z[:, None], out.reshape(len(z), -1)] = -len(z) / len(out)  # the mean
            if self.neurons:
                self.matrix[pins, u] = -1.0
            u, spec = start + layer.neurons.nodes[:, 1], layer.neurons.spec
            self.neurons.append((z, u, spec.model.core(spec)))
            start += layer.node_count

    def description(self):
        return {"name": Dense.name}

    def solve(self, inputs, *, power=True):
        v = torch.full((len(inputs), len(self.known)), 0.4, dtype=torch.float64)
        known = self.known.repeat(len(inputs), 1)
        known[:, self.pins] = inputs.detach()
        for _ in range(40):
            error, slopes = v @ self.matrix.T - known, self.matrix.repeat(len(v), 1, 1)
            for z, u, core in self.neurons:
                current, _, by_gate, by_output, *_ = core.currents(v[:, z], v[:, u])
                error[:, u] -= current
                slopes[:, u, z] -= by_gate
                slopes[:, u, u] -= by_output
            step = torch.linalg.solve(slopes, error)
            v -= step.clamp(-0.2, 0.2)
        status = torch.where(step.abs().amax(1) < 1e-9, Status.CONVERGED, Status.MAX_ITERATIONS)
        return Solution(v[:, u], (), None, status, error.abs().amax(1), status)
