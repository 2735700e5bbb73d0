"""Gradients of layers of curved cells: the transposed circuit, solved by sweeps as the layer was.

At a solution every cell is linear. With R(z, θ) = 0 for the currents that leave the nodes, a loss L
has dL/dθ = -λᵀ·∂R/∂θ where (∂R/∂z)ᵀ·λ = ∂L/∂z. That is a circuit again: wires are symmetric; a
cell that carries s·v - b·e from an input line at v V to an I± line at e V, and lets l·v - m·e into
the latter besides, carries s·v - (s + l)·e out of the former and b·v - (b + m)·e into the latter.
The I+ line's end drives the I- line's; transposed it is the other way about, so that the sides
change places. ∂L/∂z are currents into the ends of the lines, and into the neurons in front, which
are conductances there. All of it is linear and as well behaved as the layer: some ten sweeps.

Shapes: as in :mod:`imac_torch.dc.sweeps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from imac_torch.cells import CellCurrents
from imac_torch.dc.newton import LINEAR_TOLERANCE
from imac_torch.dc.sweeps import SWEEPS, Array, SweepState, left_over
from imac_torch.dc.tangents import CurvedCells
from imac_torch.periphery.neuron.circuit import NeuronCircuit

__all__ = ["SolvedLayer", "swept_gradients"]

TOLERANCE: Final = 1e-11
"""Of what sweeps leave, relative to the largest λ of the vector."""


@dataclass(frozen=True)
class SolvedLayer:
    """A solution that is differentiated.

    Attributes:
        lines: (B, N) V on the input lines.
        gates: (B, N) V of the neurons that drive them.
        ends: (B, M·L, H) V of the I+ and of the I- ends.
        state: (B, Q, 2, H, V, R, K) V of the cells.
    """

    lines: Tensor
    gates: Tensor
    ends: tuple[Tensor, Tensor]
    state: Tensor

    def __getitem__(self, piece: Tensor) -> SolvedLayer:
        plus, minus = self.ends
        return SolvedLayer(
            self.lines[piece], self.gates[piece], (plus[piece], minus[piece]), self.state[piece]
        )


class _Transposed(SweepState):
    """The transposed circuit; sides have changed places."""

    def __init__(self, layer: CurvedCells, found: CellCurrents, at: Tensor, into: Tensor) -> None:
        from imac_torch.kernels import lines

        super().__init__(layer, at.new_zeros(()), len(at))
        conductance, scalars, cell, *table = self.known
        scalars, forward = scalars.copy(), scalars
        plus, minus = forward[lines.POSITIVE_END], forward[lines.NEGATIVE_END]
        scalars[lines.POSITIVE_END], scalars[lines.NEGATIVE_END] = minus, plus
        scalars[lines.POSITIVE_SHARE] = scalars[lines.NEGATIVE_SHARE] = 1.0
        scalars[lines.ALPHA] *= forward[lines.POSITIVE_SHARE] * minus / plus
        self.known = (conductance, scalars, cell, *table)
        slope, back = _derivatives(found.current, at)
        leak_slope, leak_back = (
            (torch.zeros_like(slope),) * 2 if found.leak is None else _derivatives(found.leak, at)
        )
        #: S: out of input lines by their voltage and by the other line's, into that likewise.
        self.slopes = [
            torch.from_numpy(self._of_cells(item))
            for item in (slope, slope + leak_slope, back, back + leak_back)
        ]
        self.into = torch.from_numpy(self._of_cells(into[..., None])[..., 0, :])
        self.given = np.empty((self.blocks, self.groups, 4, *self.lines.shape[2:]))
        self.given[:, :, 1], self.given[:, :, 2] = self.slopes[0], self.slopes[3]

    def told(self) -> tuple[list[float], None]:
        """See :class:`SweepState`: steps may be as long as they are."""
        return [np.inf], None

    def _of_cells(self, values: Tensor) -> Array:
        """(B, 2, H, V, R, K) → (N, G, 2, R, K, L), sides changed; the last image again."""
        lanes = self.lines.shape[-1]
        blocks = values.flip(1).flatten(2, 3)
        missing = self.groups * lanes - self.count
        blocks = torch.cat([blocks, blocks[-1:].expand(missing, *blocks.shape[1:])])
        blocks = blocks.unflatten(0, (self.groups, lanes)).permute(3, 0, 2, 4, 5, 1)
        return blocks.contiguous().numpy()

    def give(self) -> None:
        """See :class:`SweepState`."""
        near, line = torch.from_numpy(self.inputs)[:, :, None], torch.from_numpy(self.lines)
        out, into = (torch.from_numpy(self.given)[:, :, k] for k in (0, 3))
        slope, by_line, back, falls = self.slopes
        torch.mul(slope, near, out=out).addcmul_(by_line, line, value=-1.0)
        torch.mul(back, near, out=into).addcmul_(falls, line, value=-1.0)
        into[..., -1, :] += self.into

    def largest(self) -> Tensor:
        """(B,) of the λ at I± lines, which are the largest: currents enter there."""
        found = torch.from_numpy(self.lines[..., -1, :]).abs().amax((0, 2, 3))
        return found.flatten()[: self.count]


def swept_gradients(
    layer: CurvedCells,
    neuron: NeuronCircuit | None,
    solved: SolvedLayer,
    sources: Tensor,
    gradients: tuple[Tensor, Tensor],
) -> Tensor | None:
    """A number whose gradients by whatever the layer's graph knows are those of the loss.

    Args:
        layer: The crossbar, with the graph of its conductances.
        neuron: That drives the lines; None: sources do.
        solved: The solution.
        sources: (B, N) V, with their graph: on the lines, or combined read-outs before.
        gradients: Of the loss by (B, N) voltages of lines and (B, M) combined ones.

    Returns:
        0-dimensional; None: sweeps did not converge.
    """
    by_lines, by_combined = gradients
    at = solved.state.detach().requires_grad_()
    found = layer.currents(at)
    state = _Transposed(layer, found, at, _into_ends(layer, solved.ends, by_combined))
    right = diagonal = None
    if neuron is not None:
        zero = torch.zeros_like(solved.lines)
        system, defects = neuron.linearise(sources, solved.gates, solved.lines, zero)
        _, right = system.reduced(*defects)
        diagonal = system.diagonal[:, None]
    lines = torch.zeros_like(solved.lines)
    state.begin(lines)
    size = torch.full_like(lines[:, 0], torch.inf)
    rate = torch.ones_like(size)
    for _ in range(SWEEPS):
        state.up()
        if diagonal is not None:
            load, at_neurons = state.load(), lines[:, None]
            defect = by_lines[:, None] - diagonal * at_neurons - load.currents(at_neurons)
            lines = lines + load.solve(diagonal, defect, tolerance=LINEAR_TOLERANCE)[:, 0]
        before, size = size, state.down(lines)
        error, rate = left_over(size, before, rate)
        state.move(size)
        largest = torch.maximum(state.largest(), lines.abs().amax(-1))
        if bool((error <= TOLERANCE * largest).all()):
            break
        if not bool(torch.isfinite(size).all()):
            return None
    else:
        return None
    behind = state.images(state.lines).movedim(3, 1).flip(1)
    through = (behind - state.images(state.inputs)[:, None]) * found.current
    total = through.sum()
    if found.leak is not None:
        total = total + (behind * found.leak).sum()
    if right is not None:
        return total + (lines * right).sum()
    return total + (sources * (by_lines - state.currents()[..., :-1])).sum()


def _derivatives(value: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """By the voltage of the input line, and by that of the I± line with the other sign."""
    if not value.requires_grad:  # gated cells draw nothing
        return (torch.zeros_like(at[:, 0]),) * 2
    by_state = torch.autograd.grad(value.sum(), at, retain_graph=True)[0]
    slope = by_state[:, 0]
    return slope, slope - by_state[:, 1] if by_state.shape[1] > 1 else slope


def _into_ends(
    layer: CurvedCells, ends: tuple[Tensor, Tensor], gradient: Tensor
) -> Tensor:
    """(B, 2, H, V, R) A into the last nodes of the I+ and of the I- lines."""
    from imac_torch.kernels import lines

    read_out = layer.spec.read_out
    asked = [item.detach().requires_grad_() for item in ends]
    combined = read_out.combination.of_partitions(read_out.output(*asked))
    by_ends = torch.autograd.grad(
        combined, asked, gradient, allow_unused=True, materialize_grads=True
    )
    blocks = ends[0].new_zeros(2, len(gradient), *layer.positive.shape[:3]).requires_grad_()
    plus, minus = torch.autograd.grad(
        [layer.by_row(side) for side in blocks.unbind(0)], blocks, by_ends
    )[0].unbind(0)
    scalars = torch.from_numpy(SweepState.scalars(layer))
    share, other = scalars[lines.POSITIVE_SHARE], scalars[lines.NEGATIVE_SHARE]
    plus = share * (plus + (1.0 - other) * scalars[lines.ALPHA] * minus)
    return torch.stack([plus, other * minus], dim=1)
