"""A few images at a time: the same solution from plain arrays, where calls cost more than work.

A circuit of ohmic cells, ideal amplifiers and neurons that are compiled or known directly is a
chain of products and of kernels whose arguments never change. They are collected once per
eliminated circuit (which is made anew when anything in it changes). Whatever is out of the ordinary
(an image that does not converge, leaves a table or is not finite) is left to the general solution.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.dc.layer import PreparedLayer
from imac_torch.dc.load import Load
from imac_torch.dc.network import PortLayer, PortsDriven, powers_of, sum_power
from imac_torch.dc.newton import (
    NeuronSolution,
    NewtonOptions,
    circuit_arguments,
    compiled_ready,
    near_table,
    requires_gradients,
    stopping,
    use_compiled,
)
from imac_torch.dc.starts import switching, widened
from imac_torch.kernels.ahead import kept
from imac_torch.numeric.modes import ordinary
from imac_torch.periphery.neuron.behavioural import BehaviouralCore
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.neuron.tabulated import TableCore
from imac_torch.results.solution import LayerSolution, Power, Solution, Status

FloatArray = NDArray[np.float64]

FEW: Final = 8
"""Images up to which calls cost more than work."""
EACH: Final = 4
"""Images up to which tabulated neurons of each are solved alone: tiles would be almost empty."""
_SUM, _LEAST, _MOST = (
    partial(function.reduce, axis=None) for function in (np.add, np.minimum, np.maximum)
)
"""As methods of arrays, without their calls in Python."""


class Found(NamedTuple):
    """Neurons of one layer.

    Attributes:
        gates: (B, M) V.
        outputs: (B, M) V.
        residual: (B,) A, the largest; or what tells it.
        iterations: (B,), or of all images.
    """

    gates: FloatArray
    outputs: FloatArray
    residual: FloatArray | Callable[[], FloatArray]
    iterations: NDArray[np.int64] | int


class Neurons(ABC):
    """A layer's neurons and what they drive."""

    @abstractmethod
    def solve(self, combined: FloatArray) -> Found | None:
        """Solve (B, M) V; None: something is out of the ordinary."""


class Direct(Neurons):
    """Without feedback the gate is known, and the output is linear in the shape's value."""

    def __init__(self, neuron: NeuronCircuit, core: BehaviouralCore, load: Load | None) -> None:
        self.core, self.shift = core, float(neuron.level_shift)
        self.load = load
        if load is not None:
            self.offset = load.offset.numpy()[0]
            self.conductance = 1.0 / float(core.output_resistance)
            parts = load.factored(core.output_resistance)[1:]
            self.system = [np.ascontiguousarray(part[0].numpy()) for part in parts]

    def solve(self, combined: FloatArray) -> Found | None:
        """See :class:`Neurons`."""
        gates = combined + self.shift
        sources = self.core.value(torch.from_numpy(gates)).numpy()
        if self.load is None:
            outputs, residual = sources, partial(np.zeros, len(gates))
        else:
            shift, through, _ = self.system
            outputs = sources @ through - shift
            residual = partial(self._residual, sources, outputs)
        return Found(gates, outputs, residual, 1) if math.isfinite(_SUM(outputs)) else None

    def _residual(self, sources: FloatArray, outputs: FloatArray) -> FloatArray:
        defect = sources * self.conductance - self.offset - outputs @ self.system[2]
        found: FloatArray = np.abs(defect).max(1)
        return found


class Tabled(Neurons):
    """Tabulated neurons, in a kernel for one image where it is there, or in that of many."""

    def __init__(
        self,
        neuron: NeuronCircuit,
        core: TableCore,
        load: Load | None,
        count: int,
        options: NewtonOptions,
    ) -> None:
        from imac_torch.kernels.newton import solve_tiles
        from imac_torch.kernels.one import solve_images

        self.tiles: Any = solve_tiles
        self.images: Any = solve_images
        self.neuron, self.load = neuron, load
        self.fixed, self.stopping = circuit_arguments(neuron, load, (1, count)), stopping(options)
        self.transposed = np.ascontiguousarray(self.fixed[0].swapaxes(-1, -2))
        self.parts = len(self.fixed[2]) - 1
        self.window = switching(neuron)
        self.bounds = core.table.start, core.table.end
        self.near: dict[tuple[float, float], tuple[Any, ...]] = {}

    def solve(self, combined: FloatArray) -> Found | None:
        """See :class:`Neurons`."""
        if not compiled_ready(combined.size):
            return None
        least, most = float(_LEAST(combined)), float(_MOST(combined))
        if not most - least < np.inf:
            return None
        where = widened(self.window, least, most)
        near = self.near.get(where)
        if near is None:
            with ordinary():
                made = near_table(torch.from_numpy(combined[None]), self.neuron, self.load)
            self.near.clear()
            near = self.near[where] = made.arguments(self.load)
        if len(combined) <= EACH and kept("one.solve_images"):
            found = self._images(combined, near)
        else:
            found = self._tiles(combined, near)
        if found is None:
            return None
        gates, outputs = found.gates, found.outputs
        (first, second), (first_end, second_end) = self.bounds
        inside = (
            first <= _LEAST(gates) and _MOST(gates) <= first_end
            and second <= _LEAST(outputs) and _MOST(outputs) <= second_end
        )  # fmt: skip
        return found if inside else None

    def _images(self, combined: FloatArray, near: tuple[Any, ...]) -> Found | None:
        gates, outputs = np.empty_like(combined), np.empty_like(combined)
        residual, iterations = np.empty(len(combined)), np.empty(len(combined), dtype=np.int64)
        converged = self.images(
            combined, gates, outputs, residual, iterations, self.transposed, *self.fixed[1:],
            *near[:3], *self.stopping,
        )  # fmt: skip
        return Found(gates, outputs, residual, iterations) if converged else None

    def _tiles(self, combined: FloatArray, near: tuple[Any, ...]) -> Found | None:
        batch, parts = len(combined), self.parts
        gates, outputs = np.empty_like(combined), np.empty_like(combined)
        residual = np.zeros((1, batch, parts))
        iterations = np.zeros((1, batch, parts), dtype=np.int64)
        converged = np.zeros((1, batch, parts), dtype=np.bool_)
        self.tiles(
            0, parts, combined[None], gates[None], outputs[None], residual, iterations, converged,
            *self.fixed, *near, *self.stopping,
        )  # fmt: skip
        if not converged.all():
            return None
        return Found(gates, outputs, residual[0].max(1), iterations[0].max(1))


def _neurons(layer: PortLayer, options: NewtonOptions) -> Neurons | None:
    """Of a layer, if they are of one of these kinds."""
    neuron, load, count = layer.neuron, layer.load, layer.ports.transfer.shape[-2]
    core = neuron.core
    if isinstance(core, BehaviouralCore):
        plain = float(neuron.feedback_conductance) == 0.0 and (load is None or load.joinable)
        return Direct(neuron, core, load) if plain else None
    if isinstance(core, TableCore) and use_compiled(options.kernel, able=True):
        return Tabled(neuron, core, load, count, options)
    return None


@dataclass(frozen=True)
class Few:
    """A circuit for a few images.

    Attributes:
        layers: As they are prepared.
        matrices: Per layer: (N, M) V per V and (M,) V, from lines to combined voltages.
        neurons: Per layer.
    """

    layers: tuple[PortLayer, ...]
    matrices: tuple[tuple[FloatArray, FloatArray], ...]
    neurons: tuple[Neurons, ...]

    @classmethod
    def of(cls, layers: Sequence[PreparedLayer], options: NewtonOptions) -> Few | None:
        """Of prepared layers; None where they are no such circuit."""
        kept: list[PortLayer] = []
        for layer in layers:
            if not isinstance(layer, PortLayer) or layer.shape[0] is not None:
                return None
            ports = layer.ports
            with torch.enable_grad():
                tracked = any(
                    requires_gradients(item, layer.neuron, layer.load)
                    for item in (ports.transfer, ports.admittance, layer.vdd)
                )
            usual = ports.groups == 1 and ports.feedback is None
            if tracked or not usual or ports.transfer.device.type != "cpu":
                return None
            kept.append(layer)
        neurons = [_neurons(layer, options) for layer in kept]
        known = [item for item in neurons if item is not None]
        if len(known) < len(neurons):
            return None
        matrices = [
            (layer.passing.matrix[0].contiguous().numpy(), layer.passing.constant[0, 0].numpy())
            for layer in kept
        ]
        return cls(tuple(kept), tuple(matrices), tuple(known))

    def _pass(self, lines: FloatArray) -> Iterator[tuple[FloatArray, Found | None]]:
        """Combined voltages (B, M) and neurons of every layer, for V on its lines."""
        for (matrix, constant), neurons in zip(self.matrices, self.neurons, strict=True):
            combined = lines @ matrix
            combined += constant
            found = neurons.solve(combined)
            yield combined, found
            if found is None:
                return
            lines = found.outputs

    def outputs(self, lines: FloatArray) -> FloatArray | None:
        """(B, M) V for (B, N) V; None where an image is out of the ordinary."""
        for _, found in self._pass(lines):
            last = found
        return None if last is None else last.outputs

    @ordinary()
    def solve(self, inputs: Tensor, *, power: bool) -> Solution | None:
        """Solve (B, N) V without a graph; None where an image is out of the ordinary.

        Args:
            inputs: float64, on the CPU.
            power: Whether to compute powers.
        """
        voltages, count = inputs, len(inputs)
        found: list[LayerSolution] = []
        passed: list[tuple[PortsDriven, NeuronSolution]] = []
        residual, iterations = np.zeros(count), np.zeros(count, dtype=np.int64)
        status = torch.full((count,), int(Status.CONVERGED), device="cpu")
        for layer, (combined, solved) in zip(self.layers, self._pass(inputs.numpy()), strict=True):
            if solved is None:
                return None
            own = solved.residual() if callable(solved.residual) else solved.residual
            residual = np.maximum(residual, own)
            iterations = iterations + solved.iterations
            at = [torch.from_numpy(item) for item in (combined, solved.gates, solved.outputs)]
            found.append(LayerSolution(voltages, *at))
            if power:
                here = PortsDriven(voltages[None], at[0][None], None, layer)
                steps = NeuronSolution(at[2][None], at[1][None], status, at[0], status)
                passed.append((here, steps))
            voltages = at[2]
        total = None
        if power:
            parts = sum_power(powers_of(self.layers, passed), None)
            total = Power(*(getattr(parts, part.name)[0] for part in fields(Power)))
        return Solution(
            voltages,
            tuple(found),
            total,
            status,
            torch.from_numpy(residual),
            torch.from_numpy(iterations),
        )
