"""Crossbars with wire capacitances: block elimination with shunts, exact and reduced.

Every cell has a capacitance to ground on its input line, its I+ and its I- line. With the backward
rules of :mod:`imac_torch.transient.integrator` each is a conductance σ·c with a known current
besides, so that one time step is the DC elimination of :mod:`imac_torch.elimination.rows` with
shunts, factored once per step size. The same elimination at σ = 0, applied again and again to the
capacitors' currents, gives the series from which the reduced model is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.circuit.wires import input_line_capacitances, output_line_capacitance
from imac_torch.config import Interconnect
from imac_torch.elimination.blocks import BlockLayout, Termination
from imac_torch.elimination.chain import Shunts
from imac_torch.elimination.interior import CellValues, Interior, PortResponse
from imac_torch.elimination.ports import PortNetwork

POWER_ITERATIONS: Final = 12
"""Of the longest time constant, which the reduced model needs to a few percent only."""
SLOWER: Final = 1.05
"""What it is multiplied by, because iterations find too short a one."""
SHORTEST: Final = 0.02
"""Time constant of the fastest filter of a reduced model, relative to the slowest."""


@dataclass(frozen=True)
class LineCapacitances:
    """Capacitance of one cell's segments to ground.

    Attributes:
        input_line: (C,) F, of every column's input line.
        output_line: F, 0-dimensional, of an I+ and of an I- line.
    """

    input_line: Tensor
    output_line: Tensor

    @classmethod
    def of(cls, interconnect: Interconnect, spec: CrossbarSpec) -> LineCapacitances | None:
        """What the configuration asks for, as :func:`imac_torch.circuit.build_layer` places it.

        Returns:
            None where wire capacitances are off.
        """
        if not interconnect.capacitance:
            return None
        positive = spec.conductances.positive
        parts = [
            input_line_capacitances(interconnect, last - first)
            for first, last in spec.column_ranges
        ]
        return cls(
            torch.cat(parts).to(positive),
            torch.tensor(
                output_line_capacitance(interconnect),
                dtype=positive.dtype,
                device=positive.device,
            ),
        )


@dataclass(frozen=True)
class DynamicBlocks:
    """The blocks of a layer with their capacitors.

    Attributes:
        positive: (blocks, R, K) S; blocks are partitions, H major, V minor.
        negative: (blocks, R, K) S.
        wires: Segments and amplifier inputs.
        capacitance: (blocks, R, K) F each, zero where padded.
        port_capacitance: (C,) F at the input pins themselves: that of input lines without
            resistance, which no elimination can hold. Summed over vertical partitions.
        layout: Of the layer.
    """

    positive: Tensor
    negative: Tensor
    wires: Termination
    capacitance: Shunts
    port_capacitance: Tensor
    layout: BlockLayout

    @classmethod
    def of(cls, spec: CrossbarSpec, capacitances: LineCapacitances) -> DynamicBlocks:
        """Gather a layer's cells; conductances without sample dimensions."""
        layout = BlockLayout.of(spec)
        cells = torch.ones_like(spec.conductances.positive)
        input_line = cells * capacitances.input_line
        at_pins = torch.zeros_like(capacitances.input_line)
        if float(spec.input_segment) == 0.0:
            at_pins = input_line.sum(dim=0)
            input_line = torch.zeros_like(input_line)

        def blocks(values: Tensor) -> Tensor:
            return layout.gather(values).flatten(0, 1)

        output_line = blocks(cells * capacitances.output_line)
        return cls(
            blocks(spec.conductances.positive),
            blocks(spec.conductances.negative),
            Termination.of(spec),
            Shunts(blocks(input_line), output_line, output_line),
            at_pins,
            layout,
        )

    @property
    def vertical(self) -> int:
        """V."""
        return int(self.layout.row_index.shape[0])

    def spread(self, inputs: Tensor) -> Tensor:
        """(B, C) voltages of the layer's inputs → (blocks, K, B)."""
        shares = self.layout.gather_inputs(inputs).permute(1, 2, 0)  # (H, K, B)
        return shares.repeat_interleave(self.vertical, dim=0)

    def input_currents(self, currents: Tensor) -> Tensor:
        """(blocks, K, B) → (B, C): partitions over rows load in parallel."""
        summed = currents.unflatten(0, (-1, self.vertical)).sum(dim=1)
        return self.layout.scatter_inputs(summed.permute(2, 0, 1))

    def ends(self, values: Tensor) -> Tensor:
        """(blocks, R, B) → (B, M·L, H)."""
        horizontal = self.layout.column_index.shape[0]
        rows = values.unflatten(0, (horizontal, self.vertical))  # (H, V, R, B)
        flat = rows.flatten(1, 2)[:, self.layout.row_position]  # (H, M, B)
        return flat.permute(2, 1, 0)

    def factor(self, shift: float) -> Interior:
        """Eliminate with every capacitor c replaced by a conductance ``shift``·c (1/s)."""
        return Interior.of(
            self.positive, self.negative, self.wires, self.capacitance.times(shift)
        )


@dataclass(frozen=True)
class SeriesModel:
    """A layer's linear part as a series of high-pass filters x_k = Π_{j ≤ k} s/(s + p_j).

    Y(s) = Σ_k Y_k·x_k, likewise the line ends, k = 0 … K; x_0 = 1, so that Y_0 is the DC solution
    itself, and K terms reproduce all moments up to s^K. With one pole for all filters these are
    Laguerre's (Knockaert and De Zutter, IEEE Trans. MTT 48, 1563, 2000). A natural frequency λ of
    the crossbars is left with Π_j (1 - p_j/λ) of itself after K terms: a polynomial in 1/λ, small
    between the slowest one and the fast ones where the p_j are spread over them. All filters are
    passive, whence the model is stable for any K.

    What is left out is known: exactly, it is what the crossbars make of the currents C·Z_K·d(x_K·u)
    /dt into their nodes, Z_K the node voltages that the series leaves, for input voltages u. The
    last coefficient, of one filter more that is as fast as the fastest, is that taken as static:
    not part of the model, but its error.

    Attributes:
        poles: (K+1,) p_j, 1/s; the last is that of the error's filter.
        admittance: (K+2, H, K, K) S; the first is the DC solver's.
        positive_end: (K+2, M·L, C).
        negative_end: (K+2, M·L, C).
        port_capacitance: (C,) F at the pins themselves.
    """

    poles: Tensor
    admittance: Tensor
    positive_end: Tensor
    negative_end: Tensor
    port_capacitance: Tensor

    @property
    def order(self) -> int:
        """K."""
        return int(self.admittance.shape[0]) - 2

    @classmethod
    def static(cls, ports: PortNetwork) -> SeriesModel:
        """A layer without wire capacitances."""
        zero = torch.zeros_like(ports.admittance)
        none = torch.zeros_like(ports.positive_end)
        return cls(
            none.new_full((1,), 1e12),
            torch.stack([ports.admittance, zero]),
            torch.stack([ports.positive_end, none]),
            torch.stack([ports.negative_end, none]),
            torch.zeros_like(ports.positive_end[0]),
        )

    @classmethod
    def of(
        cls,
        blocks: DynamicBlocks,
        ports: PortNetwork,
        order: int,
        *,
        swing: float = 0.0,
        transition: float = 1.0,
        target: float = 0.0,
    ) -> SeriesModel:
        """Reduce a layer.

        With G·Z_0 = B the recursion is X_k = -p_k·G⁻¹C·Z_{k-1}, Z_k = Z_{k-1} + X_k, which follows
        from s·(x_{k-1} - x_k) = p_k·x_k in (G + s·C)·Σ X_k·x_k = B.

        Args:
            blocks: With capacitors.
            ports: The DC elimination of the same layer.
            order: K >= 1, at most.
            swing: V, of all inputs at once, in either direction.
            transition: s, within which they ramp.
            target: V. Fewer terms are taken where such ramps leave no more than this; 0: all.
        """
        charge, layout = blocks.capacitance, blocks.layout
        elimination = blocks.factor(0.0)
        count, _, columns = blocks.positive.shape
        unit = torch.eye(columns, dtype=ports.admittance.dtype, device=ports.admittance.device)
        voltages, _ = elimination.solve(unit.expand(count, columns, columns), None)
        slowest = 1.0 / (SLOWER * _slowest(elimination, charge, voltages))
        poles = [float(slowest / part) for part in spread_times(order)]
        fast = float(slowest / SHORTEST)
        parts = (layout.column_index.shape[0], blocks.vertical)

        def ends(seen: PortResponse) -> tuple[Tensor, Tensor]:
            return (
                layout.scatter(seen.positive_end.unflatten(0, parts)),
                layout.scatter(seen.negative_end.unflatten(0, parts)),
            )

        terms = [(ports.admittance, ports.positive_end, ports.negative_end)]
        for k in range(order + 1):
            # Of a unit pole: the error's, times its pole, or the next term, times its own.
            step, seen = elimination.solve(None, voltages.scaled(charge).times(-1.0))
            admittance = seen.currents.unflatten(0, parts).sum(dim=1)
            unscaled = (admittance, *ends(seen))
            left = ports.combine_columns(unscaled[1], unscaled[2])
            # Inputs that change at random: their contributions add up like their squares.
            size = fast * swing * float(left.square().sum(-1).max().sqrt())
            enough = k > 0 and target > 0.0 and (
                size * ramp_peak([*poles[:k], fast], transition) <= target
            )
            if k == order or enough:
                terms.append((fast * unscaled[0], fast * unscaled[1], fast * unscaled[2]))
                poles = [*poles[:k], fast]
                break
            pole = poles[k]
            terms.append((pole * unscaled[0], pole * unscaled[1], pole * unscaled[2]))
            voltages = voltages + step.times(poles[k])
        return cls(
            torch.tensor(poles, dtype=unit.dtype, device=unit.device),
            torch.stack([term[0] for term in terms]),
            torch.stack([term[1] for term in terms]),
            torch.stack([term[2] for term in terms]),
            blocks.port_capacitance,
        )


def ramp_step(matrix: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """u(t + h) = E·u(t) + slope·r for u' = slope·1 - L·u: inputs behind filters on a ramp.

    Args:
        matrix: (n, n) L, 1/s; L_kj = p_j for j ≤ k.
        step: h, s.

    Returns:
        E, (n, n), and r, (n,) s.
    """
    count = len(matrix)
    whole = matrix.new_zeros(count + 1, count + 1)
    whole[:-1, :-1] = -step * matrix
    whole[:-1, -1] = 1.0
    found = torch.linalg.matrix_exp(whole)
    return found[:-1, :-1], step * found[:-1, -1]


def ramp_peak(poles: Sequence[float], transition: float) -> float:
    """The most that ever passes the last of the filters, of a ramp from 0 to 1.

    Behind the ramp the same comes with the opposite sign, so that what is left of it adds at most
    as much again.
    """
    row = torch.tensor(poles, dtype=torch.float64, device="cpu")
    matrix = torch.tril(row.expand(len(row), -1))
    step = 0.2 / sum(poles)
    state, largest = torch.zeros_like(matrix[0]), 0.0
    decay, rise = ramp_step(matrix, step)
    time = 0.0
    while time < transition and time * min(poles) < 4.0:
        state = decay @ state + rise / transition
        largest = max(largest, abs(float(state[-1])))
        time += step
    return largest


def spread_times(count: int) -> list[float]:
    """Time constants of filters relative to the longest, each list the start of a longer one.

    Leja points of [:data:`SHORTEST`, 1] with the weight of a ramp's response (a time constant τ
    delays it by τ): every next one is where τ·Π|τ - τ_j| is largest, which makes that product
    small everywhere (Reichel, BIT 30, 332, 1990).
    """
    grid = torch.linspace(SHORTEST, 1.0, 4001, dtype=torch.float64, device="cpu")
    size = grid.log()
    found: list[float] = []
    for _ in range(count):
        found.append(float(grid[size.argmax()]))
        size = size + (grid - found[-1]).abs().clamp(min=1e-300).log()
    return found


def _slowest(elimination: Interior, charge: Shunts, voltages: CellValues) -> float:
    """Longest time constant (s) by power iteration with G⁻¹C; it comes from below."""
    vector = CellValues(*(
        part.sum(dim=-1, keepdim=True)
        for part in (voltages.input_line, voltages.positive, voltages.negative)
    ))
    longest = 0.0
    for _ in range(POWER_ITERATIONS):
        vector = vector.times(1.0 / _size(vector))
        vector, _ = elimination.solve(None, vector.scaled(charge))
        longest = _size(vector)
    return longest


def _size(vector: CellValues) -> float:
    parts = (vector.input_line, vector.positive, vector.negative)
    return max(float(part.abs().max()) for part in parts)
