"""The linear part of one layer at one frequency: what it passes on, draws, and adds as noise.

Shapes: M outputs of L slices, C = N+1 columns, H·V partitions of up to R rows and K columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.config import Interconnect
from imac_torch.dc.curved import CurvedLayer
from imac_torch.dc.layer import PreparedLayer
from imac_torch.dc.network import eliminated
from imac_torch.elimination.blocks import BlockLayout
from imac_torch.elimination.linalg import solve
from imac_torch.elimination.ports import refuse_real
from imac_torch.errors import SolverError
from imac_torch.noise.amplifiers import SmallSignal, closed_sources, small_signal
from imac_torch.noise.cells import CellSignals, cell_signals, curved_ports
from imac_torch.noise.ports import EndPorts, end_ports
from imac_torch.periphery.readout.noise import AmplifierNoise
from imac_torch.transient.dynamics import DynamicBlocks, LineCapacitances

QUIET: Final = AmplifierNoise()
"""Of amplifiers that add nothing but the noise of their resistors."""
KEPT = 128
"""Frequencies whose matrices are kept."""


@dataclass(frozen=True)
class Added:
    """Noise of one kind of source, per Hz, at neuron inputs and input lines.

    Attributes:
        inputs: (M, M) V², of the combined read-outs.
        lines: (H, K, K) A², of currents into the layer's input lines, these held at 0 V.
        mixed: (H, K, M) A·V, of a line with an input's conjugate.
    """

    inputs: Tensor
    lines: Tensor
    mixed: Tensor


@dataclass(frozen=True)
class LayerAt:
    """A layer at a frequency; real at 0 Hz, and without capacitors and poles.

    Attributes:
        transfer: (M, C), combined read-outs per line voltage.
        admittance: (H, K, K) S, of the lines.
        array: What cells and wires add.
        read_out: What read-outs add, the resistances where they meet left out.
    """

    transfer: Tensor
    admittance: Tensor
    array: Added
    read_out: Added


@dataclass(frozen=True)
class NoisyLayer:
    """A layer's crossbars and read-outs, ready for any frequency.

    Attributes:
        spec: The crossbars.
        layout: Where their cells lie.
        temperature: K.
        amplifiers: Noise of operational amplifiers at their inputs.
        blocks: With the wires' capacitors; None: there are none.
        point: (H, V, R, n), amplifiers that are not all alike; None: they amplify.
        cells: Curved cells at an operating point; None: cells are ohmic, or at none yet.
        flicker: Whether their transistors have 1/f noise.
    """

    spec: CrossbarSpec
    layout: BlockLayout
    temperature: float
    amplifiers: AmplifierNoise
    blocks: DynamicBlocks | None
    point: SmallSignal | None = None
    cells: CellSignals | None = None
    flicker: bool = True
    _ports: dict[float, EndPorts] = field(default_factory=dict, repr=False, compare=False)
    _kept: dict[float, LayerAt] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        spec: CrossbarSpec,
        interconnect: Interconnect,
        temperature: float,
        amplifiers: AmplifierNoise = QUIET,
        *,
        flicker: bool = True,
    ) -> NoisyLayer:
        """Of crossbars without sample dimensions.

        Raises:
            SolverError: There are some, or the layer is in groups.
        """
        read_out = spec.read_out
        if read_out.loaded and read_out.drives and read_out.combination.tied:
            raise SolverError(
                "noise does not know what neurons draw from amplifiers that notice it "
                "(amplifier.table, open_loop_resistance) and drive them: set an amplifier.pole, "
                "whose buffer drives them, or combine = 'sum', or leave these out"
            )
        if spec.groups > 1:
            raise SolverError(
                f"noise is known of layers of one group, this one has {spec.groups}: keep it in "
                "software (convert(…, exclude=…)), or leave noise out"
            )
        if spec.conductances.positive.ndim != 2:
            raise SolverError("noise takes conductances without sample dimensions; select one")
        capacitances = LineCapacitances.of(interconnect, spec)
        blocks = None if capacitances is None else DynamicBlocks.of(spec, capacitances)
        layout = BlockLayout.of(spec)
        return cls(spec, layout, temperature, amplifiers, blocks, flicker=flicker)

    def at_point(self, static: PreparedLayer, inputs: Tensor) -> NoisyLayer:
        """With cells and amplifiers as they are for (1, N) V on the lines.

        Args:
            static: The layer's DC description.
            inputs: What drives it.
        """
        if isinstance(static, CurvedLayer):
            refuse_real(self.spec, "noise of curved cells")
            cells = cell_signals(
                static.cells[0], static.vdd, inputs, self.temperature, flicker=self.flicker
            )
            return replace(self, cells=cells, _kept={}, _ports={})
        static = eliminated(static, "noise")
        read_out, feedback = self.spec.read_out, static.network.feedback
        if feedback is None or not feedback.saturates:
            return self
        found = static.limited(inputs[None])
        held = found.at_rails
        if not read_out.loaded and (held is None or not bool(held.any())):
            return self
        (positive, negative), outputs = static.real_outputs(
            static.lines(inputs[None]), found.beyond
        )
        places = torch.zeros_like(outputs, dtype=torch.bool)
        if held is not None:
            places = feedback.by_row(held)
        small = small_signal(
            read_out, places[0, 0], positive[0, 0], negative[0, 0], outputs[0, 0]
        )
        point = SmallSignal(*(
            self.layout.gather_rows(item.detach()).unflatten(-1, (-1, feedback.count))
            for item in small
        ))  # fmt: skip
        return replace(self, point=point, _kept={})

    @property
    def flickers(self) -> float | None:
        """Exponent of the 1/f noise of its cells; None: they have none."""
        found = None if self.cells is None else self.cells.flicker
        return None if found is None else found.exponent

    def without_flicker(self) -> NoisyLayer:
        """The same with white noise only."""
        if self.cells is None or self.cells.flicker is None:
            return self
        return replace(self, cells=replace(self.cells, flicker=None), _kept={}, _ports={})

    @property
    def poles(self) -> list[float]:
        """Hz, of the read-outs."""
        return [rate / (2.0 * math.pi) for rate in self.spec.read_out.lag.rates]

    @property
    def slowest(self) -> float | None:
        """Hz, below which wires' capacitors surely do nothing; None: there are none.

        All of a line's capacitance, charged through all of its resistance and its end.
        """
        if self.blocks is None:
            return None
        wires, charge = self.blocks.wires, self.blocks.capacitance
        _, _, rows, columns = self.layout.sizes
        ends = torch.maximum(wires.positive_load, wires.negative_load)
        output, inputs = charge.positive, charge.input_line
        if self.blocks.cells is not None:
            output = output + self.blocks.cells.amax(0)
            inputs = inputs + self.blocks.cells.sum(0)
        line = output.sum(-1).max() * (ends + columns * wires.output_segment)
        line = line + inputs.sum(-2).max() * rows * wires.input_segment
        return 1.0 / (2.0 * math.pi * float(line))

    @property
    def port_capacitance(self) -> Tensor | None:
        """(C,) F at the pins of ideal input lines; None: none."""
        return None if self.blocks is None else self.blocks.port_capacitance

    def at(self, frequency: float) -> LayerAt:
        """The layer at a frequency, Hz."""
        key = frequency if self.blocks is not None or self.flickers is not None else 0.0
        if key not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[key] = self._build(key)
        found = self._kept[key]
        for pole in self.poles:
            found = _delayed(found, 1j * frequency / pole)
        return found

    @torch.no_grad()
    def _build(self, frequency: float) -> LayerAt:
        if frequency not in self._ports:
            if len(self._ports) >= KEPT:
                self._ports.clear()
            self._ports[frequency] = self._eliminated(frequency)
        return self._terminated(self._ports[frequency])

    def _eliminated(self, frequency: float) -> EndPorts:
        pair, shunts = self.spec.conductances, None
        sides = torch.stack([self.layout.gather(side) for side in vars(pair).values()])
        held = None
        if self.blocks is not None and frequency > 0.0:
            angular = 2.0 * math.pi * frequency
            horizontal, vertical, _, _ = self.layout.sizes
            charge = self.blocks.capacitance.times(1j * angular)  # type: ignore[arg-type]
            shunts = type(charge)(
                *(
                    part.unflatten(0, (horizontal, vertical))
                    for part in (charge.input_line, charge.positive, charge.negative)
                )
            )
            if self.blocks.cells is not None:
                held = 1j * angular * self.blocks.cells.unflatten(1, (horizontal, vertical))
        if self.cells is not None:
            cells = self.cells if held is None else self.cells.beside(held.movedim(0, 2))
            return curved_ports(
                cells, self.spec.input_segment, self.spec.output_segment, self.temperature,
                shunts, frequency,
            )  # fmt: skip
        positive, negative = sides if held is None else sides + held
        return end_ports(
            positive, negative, self.spec.input_segment, self.spec.output_segment, shunts
        )

    def _terminated(self, ports: EndPorts) -> LayerAt:
        """Put the read-outs at the ends.

        With i = Y·v + ν of the block and j(e) + n drawn by the read-outs, which put out A·e + m,
        e = -X·(Y_ea·a + ν_e + n), X = (Y_ee + J)⁻¹. So outputs are o = -A·X·(Y_ea·a + ν_e + n) + m,
        and lines draw (Y_aa - Y_ae·X·Y_ea)·a + ν_a - Y_ae·X·(ν_e + n).
        """
        horizontal, vertical, rows, columns = self.layout.sizes
        like = ports.ends
        unit = torch.eye(rows, dtype=like.dtype, device=like.device)

        drawn, output, own = self._read_outs(like)
        whole = ports.ends + drawn
        flat = whole.reshape(-1, *whole.shape[-2:])
        eye = torch.eye(2 * rows, dtype=like.dtype, device=like.device)
        inverse = solve(flat, eye.expand_as(flat)).reshape(whole.shape)
        out = -output @ inverse  # (H, V, R, 2R): outputs per current
        back = -ports.returned @ inverse  # (H, V, K, 2R)
        transfer = self._columns(out @ ports.across)
        admittance = (ports.lines + back @ ports.across).sum(dim=1)
        covariance = ports.covariance(self.temperature)
        lines = torch.eye(columns, dtype=like.dtype, device=like.device).expand(
            horizontal, vertical, columns, columns
        )
        zero = torch.zeros(
            horizontal, vertical, rows, columns, dtype=like.dtype, device=like.device
        )
        array = self._added(
            torch.cat([out, zero], dim=-1), torch.cat([back, lines], dim=-1), covariance
        )
        # By their roots and not by covariances: what feedback takes away is taken from amplitudes.
        at_outputs = torch.cat([out, unit.expand(horizontal, vertical, rows, rows)], dim=-1)
        nothing = like.new_zeros(horizontal, vertical, columns, rows)
        read_out = self._added(
            at_outputs @ own, torch.cat([back, nothing], dim=-1) @ own
        )
        return LayerAt(transfer, admittance, array, read_out)

    def _read_outs(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Currents drawn from the ends and outputs per V there, and roots of what read-outs add.

        Returns:
            ([H, V,] 2R, 2R) S, ([H, V,] R, 2R) and ([H, V,] 3R, Q): at the ends, and of outputs.
        """
        read_out, rows = self.spec.read_out, self.layout.sizes[2]
        unit = torch.eye(rows, dtype=like.dtype, device=like.device)
        if self.point is None:
            stamp = read_out.stamp()
            sources = closed_sources(read_out, self.temperature, self.amplifiers)
            amplitudes = like.new_tensor([item for item in sources if any(item)]).T.contiguous()
            drawn, output = (like.new_tensor(item) for item in (stamp.drawn, (stamp.output,)))
            return torch.kron(drawn, unit), torch.kron(output, unit), torch.kron(amplitudes, unit)
        point = SmallSignal(*(item.to(like.dtype) for item in self.point))
        to = [
            like.new_tensor([float(getattr(item, f"to_{side}")) for item in read_out.amplifiers])
            for side in ("positive", "negative")
        ]
        share = like.new_tensor([float(item.share) for item in read_out.amplifiers])
        by = point.by_positive, point.by_negative
        loads = read_out.passive_loads()
        beside = 1.0 / float(loads.negative_load)
        passive = (
            (1.0 / float(loads.positive_load), 0.0), (-float(loads.coupling) * beside, beside)
        )
        drawn = torch.cat([
            torch.cat([torch.diag_embed(load - of @ side) for load, of in
                       zip(row, by, strict=True)], dim=-1)
            for row, side in zip(passive, to, strict=True)
        ], dim=-2)  # fmt: skip
        output = torch.cat([torch.diag_embed(of @ share) for of in by], dim=-1)
        added = []
        for source in read_out.noise_sources(self.temperature, self.amplifiers):
            if not any((source.positive, source.negative, *source.inputs)):
                continue
            seen, into = like.new_zeros(2, len(share))
            seen[: len(source.inputs)] = like.new_tensor(source.inputs)
            into[: len(source.delivered)] = like.new_tensor(source.delivered)
            moved = point.by_offset * seen + point.by_current * into  # (H, V, R, n) V of outputs
            parts = source.positive - moved @ to[0], source.negative - moved @ to[1], moved @ share
            added.append(torch.cat([torch.diag_embed(part) for part in parts], dim=-2))
        return drawn, output, torch.cat(added, dim=-1)

    def _columns(self, outputs: Tensor) -> Tensor:
        """(H, V, R, K) outputs per line to (M, C) combined."""
        return self.spec.read_out.combination.of_columns(self.layout.scatter(outputs))

    def _added(
        self, outputs: Tensor, lines: Tensor, covariance: Tensor | None = None
    ) -> Added:
        """From sources with a covariance per block to a layer's inputs and lines.

        Args:
            outputs: (H, V, R, Q) outputs per source.
            lines: (H, V, K, Q) line currents per source.
            covariance: (H, V, Q, Q); None: they are independent, of 1 per Hz each.
        """
        combination, layout = self.spec.read_out.combination, self.layout
        there = outputs if covariance is None else outputs @ covariance
        own = (there @ outputs.mH).sum(0) * combination.weight**2  # (V, R, R)
        rows = torch.block_diag(*own)[layout.row_position][:, layout.row_position]
        join = combination.slicing.join
        inputs = join(join(rows, dim=0), dim=1)
        seen = lines if covariance is None else lines @ covariance
        across = seen @ outputs.mH * combination.weight  # (H, V, K, R)
        mixed = across.permute(0, 2, 1, 3).flatten(-2)[..., layout.row_position]
        return Added(inputs, (seen @ lines.mH).sum(1), join(mixed, dim=-1))


def _delayed(layer: LayerAt, ratio: complex) -> LayerAt:
    """The same with outputs behind a low-pass 1/(1 + ratio)."""
    factor = 1.0 / (1.0 + ratio)

    def added(item: Added) -> Added:
        return Added(
            item.inputs * abs(factor) ** 2, item.lines, item.mixed * factor.conjugate()
        )

    return LayerAt(
        layer.transfer * factor, layer.admittance, added(layer.array), added(layer.read_out)
    )
