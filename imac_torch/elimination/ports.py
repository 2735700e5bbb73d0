"""A layer seen from its ports: what remains of its crossbars after elimination."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.elimination.blocks import BlockLayout, BlockPorts, Termination
from imac_torch.elimination.choice import (
    EliminationInfo,
    Kernel,
    Method,
    decide,
    followed,
    foreseen,
    run,
)
from imac_torch.elimination.feedback import Feedback
from imac_torch.elimination.rows import eliminate_cut
from imac_torch.errors import SolverError
from imac_torch.periphery.readout import ReadOut


@dataclass(frozen=True)
class PortNetwork:
    """Linear part of one layer: inputs to amplifier outputs, and its load on what drives it.

    Shapes: M outputs of L slices, C = N+1 columns (bias last), H horizontal partitions of up to K
    columns. In groups (:class:`imac_torch.circuit.crossbar.CrossbarSpec`) shapes begin (..., G), M
    and C are of one group.

    Attributes:
        positive_end: (..., M·L, C), I+ end voltage of the column's own partition per input
            voltage.
        negative_end: (..., M·L, C), likewise for the I- end.
        admittance: (..., H, K, K) S, input currents per input voltage; partitions do not couple.
        layout: Where columns lie in the H blocks.
        read_out: What the lines end in, and how outputs of partitions and slices meet.
        groups: G.
        feedback: What amplifiers with offsets or a swing add to all of this; None: they are linear.
    """

    positive_end: Tensor
    negative_end: Tensor
    admittance: Tensor
    layout: BlockLayout
    read_out: ReadOut
    groups: int = 1
    feedback: Feedback | None = None

    @classmethod
    def of(cls, spec: CrossbarSpec, layout: BlockLayout, ports: BlockPorts) -> PortNetwork:
        """Assemble a layer from its eliminated blocks; vertical partitions load in parallel."""
        return cls(
            positive_end=layout.scatter(ports.positive_end),
            negative_end=layout.scatter(ports.negative_end),
            admittance=ports.admittance.sum(dim=-3),
            layout=layout,
            read_out=spec.read_out,
            groups=spec.groups,
            feedback=None if spec.read_out.ideal else Feedback.of(spec, layout, ports),
        )

    @property
    def partitions(self) -> int:
        """H."""
        return int(self.layout.column_index.shape[0])

    @property
    def outputs(self) -> int:
        """M, of all groups."""
        rows = self.groups * int(self.positive_end.shape[-2])
        return rows // self.read_out.combination.slicing.count

    @property
    def inputs(self) -> int:
        """Input lines of all groups, the bias not counted."""
        return self.groups * (int(self.positive_end.shape[-1]) - 1)

    @property
    def transfer(self) -> Tensor:
        """(..., M, C): combined amplifier voltage per input voltage."""
        return self.combine_columns(self.positive_end, self.negative_end)

    def combine_columns(self, positive: Tensor, negative: Tensor) -> Tensor:
        """From line ends to neuron inputs, columns apart.

        Args:
            positive: (..., M·L, C) V, I+ end due to each column.
            negative: (..., M·L, C) V, likewise of the I- end.

        Returns:
            (..., M, C) V.
        """
        return self.read_out.combination.of_columns(self.read_out.output(positive, negative))

    def combine_ends(self, positive: Tensor, negative: Tensor) -> Tensor:
        """From line ends (..., M·L, H) V to the neuron inputs (..., M) V they make."""
        return self.read_out.combination.of_partitions(self.read_out.output(positive, negative))

    def with_sample(self) -> PortNetwork:
        """With a leading dimension of one sample."""
        return replace(
            self,
            positive_end=self.positive_end[None],
            negative_end=self.negative_end[None],
            admittance=self.admittance[None],
            feedback=None if self.feedback is None else self.feedback.with_sample(),
        )

    def end_voltages(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Voltages of the I+ and I- ends of every partition.

        Args:
            inputs: (..., B, C) V, the bias included.

        Returns:
            Two tensors (..., B, M·L, H), V.
        """
        return (
            end_voltages(self.positive_end, self.layout, inputs),
            end_voltages(self.negative_end, self.layout, inputs),
        )

    def input_currents(self, inputs: Tensor) -> Tensor:
        """(..., B, C) A flowing into the input lines (bias last) for (..., B, C) V."""
        return input_currents(self.admittance, self.layout, inputs)

    def blocks(self, lines: Tensor) -> Tensor:
        """(..., B, C) V on the lines to (..., H, B, K)."""
        return self.layout.gather_inputs(lines).transpose(-3, -2)

    def line_currents(self, currents: Tensor) -> Tensor:
        """(..., H, B, K) A to the lines (..., B, C)."""
        return self.layout.scatter_inputs(currents.transpose(-3, -2))

    def block_currents(self, blocks: Tensor, beyond: Tensor | None) -> Tensor:
        """(..., H, B, K) A into lines at (..., H, B, K) V.

        Args:
            blocks: :meth:`blocks`.
            beyond: (..., H, B, V, N) V of amplifiers beyond their rails; None: none is.
        """
        currents = blocks @ self.admittance.mT
        if self.feedback is None:
            return currents
        if self.feedback.offset:
            currents = currents + self.feedback.drawn.unsqueeze(-2)
        return currents if beyond is None else currents + self.feedback.moved_currents(beyond)

    def bias_current(self, blocks: Tensor, beyond: Tensor | None) -> Tensor:
        """(..., B) A into the bias line alone, which is the last of the last partition."""
        current = (blocks[..., -1, :, :] @ self.admittance[..., -1, -1, :, None]).squeeze(-1)
        if self.feedback is None:
            return current
        if self.feedback.offset:
            current = current + self.feedback.drawn[..., -1, -1, None]
        if beyond is None:
            return current
        row = self.feedback.currents_beyond[..., -1, :, -1, :]  # (..., V, N)
        return current + (beyond[..., -1, :, :, :] * row.unsqueeze(-3)).sum((-2, -1))


def input_currents(admittance: Tensor, layout: BlockLayout, voltages: Tensor) -> Tensor:
    """(..., B, C) A into input lines at (..., B, C) V, for (..., H, K, K) S."""
    blocks = layout.gather_inputs(voltages).transpose(-3, -2)  # (..., H, B, K)
    return layout.scatter_inputs((blocks @ admittance.transpose(-1, -2)).transpose(-3, -2))


def end_voltages(end: Tensor, layout: BlockLayout, voltages: Tensor) -> Tensor:
    """(..., B, M·L, H) V of line ends for (..., B, C) V, from (..., M·L, C) of one side."""
    blocks, shares = layout.gather_inputs(end), layout.gather_inputs(voltages)
    return torch.einsum("...mhk,...bhk->...bmh", blocks, shares)


def refuse_curved(spec: CrossbarSpec, what: str) -> None:
    """Say that something is for ohmic cells.

    Raises:
        SolverError: The layer's cells are curved.
    """
    if spec.cell is not None:
        raise SolverError(
            f"{what} is for ohmic cells, these are {spec.cell}; take device.bend, device.cell and "
            "device.access out, or use what knows curved cells: network.solve, evaluate, "
            "MonteCarlo, netlists"
        )


def refuse_real(spec: CrossbarSpec, what: str) -> None:
    """Say that something is for amplifiers without offset and swing.

    Raises:
        SolverError: The layer's are others.
    """
    knows = "netlists" if spec.cell is not None else "network.solve, evaluate, netlists"
    if spec.read_out.table is not None:
        raise SolverError(
            f"{what} does not know amplifiers given as tables (amplifier.table): describe them by "
            "open_loop_gain, swing and quiescent_current instead, or use what knows them: "
            + knows
        )
    if not spec.read_out.ideal:
        raise SolverError(
            f"{what} is for amplifiers without offset and swing; leave amplifier.offset, "
            "offset_spread, swing and open_loop_resistance at their defaults, or use what knows "
            "them: " + knows
        )


def eliminate_layer(
    spec: CrossbarSpec, *, method: Method = "auto", kernel: Kernel = "auto"
) -> tuple[PortNetwork, EliminationInfo]:
    """Eliminate every inner node of a layer's crossbars, exactly.

    Args:
        spec: The crossbars; conductances may have leading sample dimensions.
        method: ``rows``, ``tiles`` or ``auto``.
        kernel: ``numba``, ``torch`` or ``auto``.

    Returns:
        The ports, differentiable, and what was used.

    Raises:
        SolverError: Cells are curved: a layer of them is no linear network.
    """
    refuse_curved(spec, "linear elimination")
    layout, pair, wires = BlockLayout.of(spec), spec.conductances, Termination.of(spec)
    horizontal, vertical, rows, columns = layout.sizes
    cells = pair.positive.shape[-2] * pair.positive.shape[-1]
    count = pair.positive.numel() // max(1, cells) * horizontal * vertical
    blocks, device = (count, rows, columns), pair.positive.device
    info = decide(pair.positive, pair.negative, wires, blocks, method=method, kernel=kernel)
    gradients = followed(pair.positive, pair.negative, wires)
    plain = spec.read_out.ideal and not gradients and info == EliminationInfo("rows", "numba")
    with foreseen(info, blocks, device, gradients=gradients, in_place=plain) as advance:
        if plain:
            admittance, *ends = eliminate_cut(
                pair.positive, pair.negative, spec.row_ends, spec.column_ends, wires, advance
            )
            loads = admittance.sum(dim=-3)
            return PortNetwork(ends[0], ends[1], loads, layout, spec.read_out, spec.groups), info
        sides = layout.gather(pair.positive), layout.gather(pair.negative)
        return PortNetwork.of(spec, layout, run(info, *sides, wires, advance)), info
