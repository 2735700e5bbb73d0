"""A layer seen from its ports: what remains of its crossbars after elimination."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from imac_torch.crossbar import CrossbarSpec
from imac_torch.elimination.blocks import BlockLayout, BlockPorts, Termination
from imac_torch.elimination.choice import EliminationInfo, Kernel, Method, eliminate
from imac_torch.errors import SolverError
from imac_torch.mapping.slices import Slicing


@dataclass(frozen=True)
class PortNetwork:
    """Linear part of one layer: inputs to amplifier outputs, and its load on what drives it.

    Shapes: M outputs of L slices, C = N+1 columns (bias last), H horizontal partitions of up to K
    columns.

    Attributes:
        positive_end: (..., M·L, C), I+ end voltage of the column's own partition per input
            voltage.
        negative_end: (..., M·L, C), likewise for the I- end.
        admittance: (..., H, K, K) S, input currents per input voltage; partitions do not couple.
        layout: Where columns lie in the H blocks.
        gain: Amplifier gain, 0-dimensional.
        averaged: Whether partitions are averaged (else summed).
        series_resistance: Ω between the ideal combined source and the neuron, 0-dimensional.
        amplifier_resistance: R1 = R2 of the amplifiers, Ω, 0-dimensional.
        slicing: Rows of one output.
    """

    positive_end: Tensor
    negative_end: Tensor
    admittance: Tensor
    layout: BlockLayout
    gain: Tensor
    averaged: bool
    series_resistance: Tensor
    amplifier_resistance: Tensor
    slicing: Slicing = field(default_factory=Slicing)

    @classmethod
    def of(cls, spec: CrossbarSpec, layout: BlockLayout, ports: BlockPorts) -> PortNetwork:
        """Assemble a layer from its eliminated blocks; vertical partitions load in parallel."""
        return cls(
            positive_end=layout.scatter(ports.positive_end),
            negative_end=layout.scatter(ports.negative_end),
            admittance=ports.admittance.sum(dim=-3),
            layout=layout,
            gain=spec.gain,
            averaged=spec.combine == "average",
            series_resistance=spec.series_resistance,
            amplifier_resistance=spec.amplifier_resistance,
            slicing=spec.slicing,
        )

    @property
    def partitions(self) -> int:
        """H."""
        return int(self.layout.column_index.shape[0])

    @property
    def outputs(self) -> int:
        """M."""
        return int(self.positive_end.shape[-2]) // self.slicing.count

    @property
    def tied(self) -> bool:
        """Whether several amplifiers of one output are tied together through resistances."""
        return self.averaged and self.partitions * self.slicing.count > 1

    @property
    def inputs(self) -> int:
        """N, the bias not counted."""
        return int(self.positive_end.shape[-1]) - 1

    @property
    def transfer(self) -> Tensor:
        """(..., M, C): combined amplifier voltage per input voltage."""
        return self.combine_columns(self.positive_end - self.negative_end)

    def combine_columns(self, difference: Tensor) -> Tensor:
        """From line ends to neuron inputs, columns apart.

        Args:
            difference: (..., M·L, C) V, I+ end minus I- end due to each column.

        Returns:
            (..., M, C) V.
        """
        scale = self.gain / self.partitions if self.averaged else self.gain
        return self.slicing.join(scale * difference)

    def combine_partitions(self, amplifiers: Tensor) -> Tensor:
        """From amplifier outputs (..., M·L, H) V to the neuron inputs (..., M) V they make."""
        total = amplifiers.mean(-1) if self.averaged else amplifiers.sum(-1)
        return self.slicing.join(total, dim=-1)

    def meeting_conductance(self, rows: int) -> Tensor:
        """(M·L, 1) S between every amplifier and its neuron input, where they are averaged."""
        shares = self.slicing.row_shares(self.series_resistance, rows)
        return (shares / (self.series_resistance * self.partitions))[:, None]

    @property
    def amplifier_form(self) -> Tensor:
        """(..., H, K, K) S: power of the amplifiers' outputs per input voltage squared.

        An amplifier at A drives R3 = gain·R1 towards its virtual node at α·pe and, where several
        are averaged, its output resistance towards the neuron input (whose voltage is left to the
        caller). One alone drives what the neuron draws, which is left to the caller as well.
        """
        ends = [
            self.layout.gather_inputs(end).transpose(-3, -2)  # (..., H, M·L, K)
            for end in (self.positive_end, self.negative_end)
        ]
        output = self.gain * (ends[0] - ends[1])
        virtual = self.gain / (1.0 + self.gain) * ends[0]
        current = (output - virtual) / (self.gain * self.amplifier_resistance)
        if self.tied:
            current = current + output * self.meeting_conductance(output.shape[-2])
        return output.transpose(-1, -2) @ current

    def end_voltages(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Voltages of the I+ and I- ends of every partition.

        Args:
            inputs: (..., B, C) V, the bias included.

        Returns:
            Two tensors (..., B, M·L, H), V.
        """
        shares = self.layout.gather_inputs(inputs)
        ends = []
        for end in (self.positive_end, self.negative_end):
            blocks = self.layout.gather_inputs(end)
            ends.append(torch.einsum("...mhk,...bhk->...bmh", blocks, shares))
        return ends[0], ends[1]

    def input_currents(self, inputs: Tensor) -> Tensor:
        """(..., B, C) A flowing into the input lines (bias last) for (..., B, C) V."""
        blocks = self.layout.gather_inputs(inputs)
        currents = torch.einsum("...hij,...bhj->...bhi", self.admittance, blocks)
        return self.layout.scatter_inputs(currents)


def refuse_curved(spec: CrossbarSpec, what: str) -> None:
    """Say that something is for ohmic cells.

    Raises:
        SolverError: The layer's cells are curved.
    """
    if spec.bend is not None:
        raise SolverError(
            f"{what} is for ohmic cells, device.bend is {spec.bend} V; set device.bend to None, or "
            "use what knows curved cells: network.solve, evaluate, MonteCarlo, netlists"
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
    layout = BlockLayout.of(spec)
    ports, info = eliminate(
        layout.gather(spec.conductances.positive),
        layout.gather(spec.conductances.negative),
        Termination.of(spec),
        method=method,
        kernel=kernel,
    )
    return PortNetwork.of(spec, layout, ports), info
