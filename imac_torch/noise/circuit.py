"""Noise of a whole circuit at an operating point, frequency by frequency.

Nothing flows back through read-outs, so layers follow one another: what a layer's neurons put out
has a covariance, its load couples them, and the next layer passes it on and adds its own. Every
kind of source keeps a covariance of its own, which is how shares are told apart.

Shapes: P parts, B operating points, M neurons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.config import Interconnect
from imac_torch.dc.layer import PreparedLayer
from imac_torch.dc.network import PortLayer
from imac_torch.elimination.linalg import solve
from imac_torch.noise.layer import QUIET, LayerAt, NoisyLayer
from imac_torch.noise.neurons import NeuronsAt, SmallSignal
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.readout.noise import AmplifierNoise
from imac_torch.results.solution import LayerSolution, Solution

PARTS: Final = ("cells and wires", "read-outs", "resistors", "transistors", "1/f noise")
"""Kinds of sources that make noise in time; resistors and transistors are those of neurons."""


class Shares(NamedTuple):
    """To which part each kind of source of a layer counts."""

    array: int = 0
    read_out: int = 1
    meeting: int = 1
    input: int = 2
    feedback: int = 2
    core: int = 2
    channels: int = 3
    flicker: int = 4


BY_KIND: Final = Shares()
""":data:`PARTS`, the same for all layers."""
PLACES: Final = 3
"""Parts of every layer in :func:`by_place`."""


def by_place(layer: int) -> Shares:
    """Apart by layer: what is added before its neurons, in them, and in them as 1/f noise."""
    before = PLACES * layer
    own, flicker = before + 1, before + 2
    return Shares(before, before, before, before, own, own, own, flicker)


class LayerDensity(NamedTuple):
    """Noise of one layer's neurons at a frequency.

    Attributes:
        gates: (P, B, M) V²/Hz.
        outputs: (P, B, M) V²/Hz.
        combined: (P, B, M, M) V²/Hz, covariance of what drives the neurons.
        covariance: (P, B, M, M) V²/Hz, of their outputs.
    """

    gates: Tensor
    outputs: Tensor
    combined: Tensor
    covariance: Tensor


def taken(solution: Solution, which: Tensor | slice) -> Solution:
    """Some samples of a solution without sample dimensions, powers left out."""
    layers = tuple(
        LayerSolution(
            item.inputs[which], item.combined[which], item.gates[which], item.outputs[which]
        )
        for item in solution.layers
    )
    return Solution(
        solution.outputs[which], layers, None, solution.status[which], solution.residual[which],
        solution.iterations[which],
    )  # fmt: skip


class Loaded:
    """X = (diag(d) + Y)⁻¹ of neurons and what they drive, block by block.

    Args:
        diagonal: (B, M) S.
        admittance: (H, K, K) S of the next layer's lines; None: nothing.
        ranges: Neurons of each block, and where they begin in it.
    """

    def __init__(
        self, diagonal: Tensor, admittance: Tensor | None, ranges: Sequence[tuple[int, int, int]]
    ) -> None:
        self.diagonal, self.blocks = 1.0 / diagonal, []
        if admittance is None:
            return
        for part, (first, last, start) in enumerate(ranges):
            where = slice(start, start + last - first)
            own = torch.diag_embed(diagonal[:, first:last]) + admittance[part, where, where]
            unit = torch.eye(last - first, dtype=own.dtype, device=own.device)
            self.blocks.append((first, last, solve(own, unit.expand_as(own))))

    def times(self, matrices: Tensor) -> Tensor:
        """X·A for (..., B, M, Q)."""
        if not self.blocks:
            return self.diagonal[..., None] * matrices
        parts = [block @ matrices[..., first:last, :] for first, last, block in self.blocks]
        return torch.cat(parts, dim=-2)

    def around(self, matrices: Tensor) -> Tensor:
        """X·A·Xᴴ for (..., B, M, M)."""
        return self.times(self.times(matrices).mH).mH

    @property
    def dense(self) -> Tensor:
        """(B, M, M)."""
        if not self.blocks:
            return torch.diag_embed(self.diagonal)
        whole = torch.zeros(
            *self.diagonal.shape, self.diagonal.shape[-1],
            dtype=self.diagonal.dtype, device=self.diagonal.device,
        )  # fmt: skip
        for first, last, block in self.blocks:
            whole[:, first:last, first:last] = block
        return whole


def _extended(combined: Tensor, parts: int) -> Tensor:
    """(parts, …) with zeros for those that are not there."""
    missing = parts - len(combined)
    return torch.cat([combined, combined.new_zeros(missing, *combined.shape[1:])])


def _gathered(lines: Tensor, ranges: Sequence[tuple[int, int, int]]) -> Tensor:
    """(H, K, …) of lines to (M, …) of the neurons that drive them."""
    return torch.cat(
        [lines[part, start : start + last - first] for part, (first, last, start) in
         enumerate(ranges)]
    )  # fmt: skip


def _spread(blocks: Tensor, ranges: Sequence[tuple[int, int, int]]) -> Tensor:
    """(H, K, K) of lines to (M, M)."""
    cut = (
        blocks[part, start : start + last - first, start : start + last - first]
        for part, (first, last, start) in enumerate(ranges)
    )
    return torch.block_diag(*cut)


@dataclass(frozen=True)
class NoisyCircuit:
    """A segment's circuit, ready for noise at any operating point.

    Attributes:
        layers: Crossbars and read-outs.
        prepared: Of the DC solution, with exact models of the neurons.
        specs: The neurons.
        capacitances: (M,) F each, from every output to ground.
    """

    layers: tuple[NoisyLayer, ...]
    prepared: tuple[PreparedLayer, ...]
    specs: tuple[NeuronSpec, ...]
    capacitances: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        parts: Sequence[tuple[CrossbarSpec, NeuronSpec]],
        interconnects: Sequence[Interconnect],
        prepared: Sequence[PreparedLayer],
        load_capacitance: float,
        amplifiers: AmplifierNoise = QUIET,
        *,
        flicker: bool = True,
    ) -> NoisyCircuit:
        """Prepare a circuit.

        Args:
            parts: Crossbars and neurons.
            interconnects: Wires of every layer.
            prepared: Their DC description, with exact models.
            load_capacitance: F, at the last outputs.
            amplifiers: Noise at the inputs of operational amplifiers.
            flicker: Whether transistors of cells have 1/f noise.

        Raises:
            SolverError: Conductances have sample dimensions.
        """
        layers = tuple(
            NoisyLayer.of(crossbar, wires, spec.temperature, amplifiers, flicker=flicker)
            for (crossbar, spec), wires in zip(parts, interconnects, strict=True)
        )
        held = []
        for k, (crossbar, spec) in enumerate(parts):
            pins = layers[k + 1].port_capacitance if k + 1 < len(parts) else None
            own = torch.full(
                (crossbar.outputs,), spec.output_capacitance, dtype=torch.float64,
                device=crossbar.input_segment.device,
            )  # fmt: skip
            own = own if pins is None else own + pins[:-1]
            held.append(own + (load_capacitance if k + 1 == len(parts) else 0.0))
        specs = tuple(spec for _, spec in parts)
        return cls(layers, tuple(prepared), specs, tuple(held))

    def by_point(self, solution: Solution) -> Iterator[tuple[NoisyCircuit, Solution]]:
        """The circuit with its cells and amplifiers as they are at the points of a solution.

        Samples stay together where they have them in common: where cells are ohmic, and no
        amplifier is at a rail.
        """
        alike = True
        for layer, static, found in zip(self.layers, self.prepared, solution.layers, strict=True):
            if not isinstance(static, PortLayer):
                alike = False
                continue
            feedback = static.network.feedback
            if feedback is None or not feedback.saturates:
                continue
            held = static.limited(found.inputs[None]).at_rails
            alike &= layer.spec.read_out.table is None and (held is None or not bool(held.any()))
        count = len(solution.outputs)
        step = max(count, 1) if alike else 1
        for first in range(0, count, step):
            which = slice(first, first + step)
            layers = tuple(
                layer.at_point(static, found.inputs[first : first + 1])
                for layer, static, found in zip(
                    self.layers, self.prepared, solution.layers, strict=True
                )
            )
            yield replace(self, layers=layers), taken(solution, which)

    @property
    def saturates(self) -> bool:
        """Whether amplifiers of the first layer can."""
        first = self.prepared[0]
        feedback = first.network.feedback if isinstance(first, PortLayer) else None
        return feedback is not None and feedback.saturates

    def linearised(self, solution: Solution, voltage: float = 0.0) -> tuple[SmallSignal, ...]:
        """The neurons at the operating points of a solution without sample dimensions.

        Args:
            solution: With voltages inside.
            voltage: V/√Hz, see :class:`SmallSignal`.
        """
        with torch.no_grad():
            return tuple(
                SmallSignal.of(static.neuron, spec, held, layer.gates, layer.outputs, voltage)
                for static, spec, held, layer in zip(
                    self.prepared, self.specs, self.capacitances, solution.layers, strict=True
                )
            )

    def ranges(self, layer: int) -> Sequence[tuple[int, int, int]]:
        """Neurons of a layer by the next layer's partitions; none behind the last."""
        behind = self.layers[layer + 1 :]
        return behind[0].layout.driven if behind else ()

    def corners(self, signals: Sequence[SmallSignal]) -> list[float]:
        """Hz, where something in the circuit stops following."""
        found = []
        for k, (layer, signal) in enumerate(zip(self.layers, signals, strict=True)):
            found += layer.poles
            found += [] if layer.slowest is None else [layer.slowest]
            loads = torch.zeros_like(signal.capacitance)
            if k + 1 < len(self.layers):
                own = self.layers[k + 1].at(0.0).admittance.diagonal(dim1=-2, dim2=-1).real
                loads = _gathered(own, self.ranges(k))
            found += signal.corners(loads)
        return found

    @torch.no_grad()
    def density(
        self,
        signals: Sequence[SmallSignal],
        frequency: float,
        sources: Tensor | None = None,
        *,
        places: bool = False,
    ) -> list[LayerDensity]:
        """Noise of every layer at a frequency.

        Args:
            signals: Of :meth:`linearised`.
            frequency: Hz.
            sources: (C - 1,) V²/Hz at the first layer's lines: then of them alone, as the only
                part; None: of everything in the circuit.
            places: Whether parts are those of :func:`by_place` instead of :data:`PARTS`.
        """
        shares = [by_place(k) if places else BY_KIND for k in range(len(signals))]
        parts = PLACES * len(signals) if places else len(PARTS)
        found: list[LayerDensity] = []
        outputs: Tensor | None = None
        loaded: Loaded | None = None
        for k, signal in enumerate(signals):
            here = self.layers[k].at(frequency)
            behind = self.layers[k + 1].at(frequency) if k + 1 < len(signals) else None
            at = signal.at(frequency)
            transfer = here.transfer[:, :-1].to(at.diagonal.dtype)
            # Layers on have added nothing yet, but for what the next one draws.
            wanted = min(parts, PLACES * (k + 1) + 1) if places else parts
            if outputs is None:
                shape = (wanted if sources is None else 1, 1, len(transfer), len(transfer))
                combined = torch.zeros(shape, dtype=transfer.dtype, device=transfer.device)
                if sources is not None:
                    combined[0] = (transfer * sources) @ transfer.mH
            else:
                combined = transfer @ outputs @ transfer.mH
                if sources is None:
                    combined = _extended(combined, wanted)
            if sources is None:
                self._add_own(combined, k, here, transfer, loaded, shares[k])
            loaded = Loaded(
                at.diagonal, None if behind is None else behind.admittance.to(at.diagonal.dtype),
                self.ranges(k),
            )
            quiet = None if sources is not None else frequency
            found.append(
                self._neurons(
                    k, signal, at, combined, loaded, behind, quiet, shares[k : k + 2]
                )
            )
            outputs = found[-1].covariance
        return found

    def _add_own(
        self,
        combined: Tensor,
        k: int,
        here: LayerAt,
        transfer: Tensor,
        loaded: Loaded | None,
        shares: Shares,
    ) -> None:
        """Add what a layer's own crossbars and read-outs do, (P, B, M, M), in place.

        What they draw from the lines moves the neurons before by -X·n, and that comes back.
        """
        for part, added in ((shares.array, here.array), (shares.read_out, here.read_out)):
            combined[part] += added.inputs
            if loaded is not None:
                drawn = _gathered(added.mixed, self.ranges(k - 1)).to(transfer.dtype)
                back = transfer @ loaded.times(drawn.expand(len(loaded.diagonal), *drawn.shape))
                combined[part] -= back + back.mH

    def _neurons(
        self,
        k: int,
        signal: SmallSignal,
        at: NeuronsAt,
        combined: Tensor,
        loaded: Loaded,
        behind: LayerAt | None,
        frequency: float | None,
        shares: Sequence[Shares],
    ) -> LayerDensity:
        """Neurons driven by (P, B, M, M) V²/Hz.

        ``frequency`` is None where they and what they drive are without noise; ``shares`` are
        their layer's and the next one's.
        """
        parts, size = len(combined), combined.shape[-1]
        own = torch.zeros(
            parts, *at.diagonal.shape, dtype=torch.float64, device=combined.device
        )  # of the core, A²/Hz
        combined = combined.expand(parts, len(at.diagonal), size, size)
        feedback = 0.0
        if frequency is not None:
            combined = combined.clone()
            series = combined.diagonal(dim1=-2, dim2=-1)
            meeting, resistor = signal.input_noise
            here = shares[0]
            series[here.meeting] += meeting
            series[here.input] += resistor
            feedback = signal.feedback_noise
            if signal.noise is not None:
                own[here.core] += signal.noise.resistors
                own[here.channels] += signal.noise.channels
                falling = max(frequency, 1e-300) ** signal.noise.exponent
                own[here.flicker] += signal.noise.flicker / falling
        resistance = signal.circuit.input_resistance
        through = at.through
        fed = through * resistance - 1.0  # of the feedback resistor's current
        driven = through[..., :, None] * combined * through.conj()[..., None, :]
        local = driven.diagonal(dim1=-2, dim2=-1)
        local += own
        if frequency is not None:
            local[here.feedback] += fed.abs().square() * feedback
            if behind is not None:
                after = shares[1]
                for part, added in (
                    (after.array, behind.array), (after.read_out, behind.read_out)
                ):  # fmt: skip
                    driven[part] += _spread(added.lines, self.ranges(k))
        outputs = loaded.around(driven)
        variance = outputs.diagonal(dim1=-2, dim2=-1).real
        gates = at.gate.abs().square() * combined.diagonal(dim1=-2, dim2=-1).real
        if bool((at.coupling != 0.0).any()):
            inverse = loaded.dense
            across = (combined * (inverse * through[..., None, :]).conj()).sum(-1)
            if frequency is not None:
                own_way = inverse.diagonal(dim1=-2, dim2=-1)
                across[here.feedback] += resistance * feedback * (own_way * fed).conj()
                gates[here.feedback] += (resistance * at.gate).abs().square() * feedback
            gates = gates + at.coupling.abs().square() * variance
            gates = gates + 2.0 * (at.gate * at.coupling.conj() * across).real
        return LayerDensity(gates, variance, combined, outputs)
