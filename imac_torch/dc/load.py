"""The next layer as a load on neurons, and linear systems with it: (diag(d) + Y)·x = r."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.elimination.blocks import BlockLayout
from imac_torch.elimination.linalg import solve
from imac_torch.elimination.ports import PortNetwork

POWER_ITERATIONS = 30
FEWER = 12
"""The same for 16 lines and more, whose diagonal matters less: rounding is all that is left."""
INNER_LIMIT = 60
JOINED = 256
"""Neurons up to which matrices of partitions are joined to one, which costs fewer passes."""
DENSE_BYTES = 64 * 2**20
"""Matrices factored at a time where iterations do not converge."""


@dataclass(frozen=True)
class Load:
    """Currents that a layer's input lines draw from what drives them.

    Attributes:
        admittance: (S, H, K, K) S, bias row and column zero.
        offset: (S, 1 or B, M) A, what lines draw besides, with all images or with each.
        layout: Where the M inputs (and the bias, last) lie in the H blocks.
        left: (S, H, K) and
        right: (S, H, K): Y is close to a diagonal plus ``left·rightᵀ`` per block, because the
            I± lines float near a weighted mean of their inputs.
    """

    admittance: Tensor
    offset: Tensor
    layout: BlockLayout
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, network: PortNetwork, vdd: Tensor) -> Load:
        """The load of a layer; ``network`` has one leading sample dimension S."""
        admittance = network.admittance
        sources = torch.zeros_like(admittance[..., 0])
        if network.feedback is not None:
            sources = sources + network.feedback.drawn
        return cls.of_blocks(network.layout, admittance, sources, vdd)

    @classmethod
    def of_blocks(
        cls,
        layout: BlockLayout,
        admittance: Tensor,
        sources: Tensor,
        vdd: Tensor,
        factors: tuple[Tensor, Tensor] | None = None,
    ) -> Load:
        """The load of lines that draw currents of their own, too.

        Args:
            layout: Where inputs lie in the blocks.
            admittance: (S, H, K, K) S, the bias line included.
            sources: (S, H, K) A, what lines draw at 0 V.
            vdd: V, on the bias line, 0-dimensional.
            factors: ``left`` and ``right`` where they are known.
        """
        lines = len(layout.column_position)
        bias = torch.zeros(lines, dtype=admittance.dtype, device=admittance.device)
        bias[-1] = vdd.detach()
        drawn = (admittance @ layout.gather_inputs(bias)[..., None]).squeeze(-1)
        offset = layout.scatter_inputs(drawn)[..., :-1]
        if vdd.requires_grad:
            offset = offset / vdd.detach() * vdd  # linear in vdd
        offset = (offset + layout.scatter_inputs(sources)[..., :-1])[:, None]
        keep = torch.ones_like(bias)
        keep[-1] = 0.0
        keep = layout.gather_inputs(keep)
        admittance = admittance * keep[..., :, None] * keep[..., None, :]
        if factors is None:
            factors = rank_one(admittance.detach())
        else:
            factors = factors[0] * keep, factors[1] * keep
        return cls(admittance, offset, layout, *factors)

    def expand(self, samples: int) -> Load:
        """The same for a number of samples, of which it has one or as many."""
        return Load(
            self.admittance.expand(samples, -1, -1, -1),
            self.offset.expand(samples, -1, -1),
            self.layout,
            self.left.expand(samples, -1, -1),
            self.right.expand(samples, -1, -1),
        )

    def with_drawn(self, drawn: Tensor) -> Load:
        """The same whose lines draw (S, B, M) A besides, other currents in every image."""
        return replace(self.expand(len(drawn)), offset=self.offset + drawn)

    @cached_property
    def blocks(self) -> Blocks:
        """The load as plain arrays, for compiled kernels on the CPU."""
        return Blocks.of(self)

    def typical(self, voltage: float) -> Load:
        """The load of one neuron when all others are at ``voltage`` (V), averaged."""
        admittance = self.admittance.detach()
        own = admittance.diagonal(dim1=-2, dim2=-1)
        count = own.shape[0] * self.offset.shape[-1]
        others = (admittance.sum(-1) - own).sum() * voltage + self.offset.detach().mean() * count
        single = torch.zeros(1, 1, 2, 2, dtype=admittance.dtype, device=admittance.device)
        single[0, 0, 0, 0] = own.sum() / count
        zero = torch.zeros(1, 1, 2, dtype=admittance.dtype, device=admittance.device)
        layout = BlockLayout.single(single.device)
        return Load(single, (others / count).reshape(1, 1, 1), layout, zero, zero)

    @cached_property
    def mean_conductance(self) -> float:
        """S, of one line alone, averaged over all."""
        own = self.admittance.detach().diagonal(dim1=-2, dim2=-1)
        return float(own.sum()) / (own.shape[0] * self.offset.shape[-1])

    @cached_property
    def together(self) -> tuple[float, float]:
        """S and A of one line, averaged, where all are at one voltage: what it draws is linear."""
        count = len(self.admittance) * self.offset.shape[-1]
        return float(self.admittance.detach().sum()) / count, float(self.offset.detach().mean())

    @classmethod
    def towards(cls, conductance: float, voltages: Tensor) -> Load:
        """One line with a conductance, S, to (1, B, 1) V."""
        single = torch.zeros(1, 1, 2, 2, dtype=torch.float64, device="cpu")
        single[0, 0, 0, 0] = conductance
        zero = torch.zeros(1, 1, 2, dtype=torch.float64, device="cpu")
        return cls(single, -conductance * voltages, BlockLayout.single(single.device), zero, zero)

    def matrix(self, *, transpose: bool = False) -> Tensor:
        """(S, H, K, K) S."""
        return self.admittance.transpose(-1, -2) if transpose else self.admittance

    def currents(self, voltages: Tensor) -> Tensor:
        """(S, B, M) A for (S, B, M) V, the bias included."""
        return self.product(voltages) + self.offset

    def product(self, voltages: Tensor, *, transpose: bool = False) -> Tensor:
        """(S, B, M): Y times vectors."""
        return self._in_parts(voltages, self.matrix(transpose=transpose))

    def _in_parts(self, vectors: Tensor, matrices: Tensor) -> Tensor:
        """(S, B, M): (S, H, K, K) matrices times the partitions of vectors."""
        parts = [
            vectors[..., first:last] @ block.transpose(-1, -2)
            for (first, last), block in self._parts(matrices)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _parts(self, matrices: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Neuron range and the part of (S, H, K, K) matrices that belongs to each partition."""
        for part, (first, last, start) in enumerate(self.layout.driven):
            where = slice(start, start + last - first)
            yield (first, last), matrices[:, part, where, where]

    def _gather(self, vectors: Tensor) -> Tensor:
        """(S, B, M) → (S, H, B, K)."""
        padded = torch.nn.functional.pad(vectors, (0, 1))
        return self.layout.gather_inputs(padded).transpose(-3, -2)

    def _scatter(self, blocks: Tensor) -> Tensor:
        """(S, H, B, K) → (S, B, M)."""
        return self.layout.scatter_inputs(blocks.transpose(-3, -2))[..., :-1]

    def solve(
        self, diagonal: Tensor, right: Tensor, *, tolerance: float, transpose: bool = False
    ) -> Tensor:
        """Solve (diag(d) + Y)·x = r for every sample.

        Richardson iterations preconditioned with the diagonal plus rank one; samples for which
        they do not reach ``tolerance`` are finished by dense factorisations.

        Args:
            diagonal: (S, B, M) S, positive.
            right: (S, B, M) A.
            tolerance: Of the residual relative to the largest right side of the sample.
            transpose: Solve with Yᵀ.

        Returns:
            (S, B, M) V.
        """
        if right.numel() == 0:
            return torch.zeros_like(right)
        matrix = self.matrix(transpose=transpose).detach()
        left, across = (self.right, self.left) if transpose else (self.left, self.right)
        blocks = self._gather(right)
        shift = self._gather(diagonal)
        shift = torch.where(shift == 0, torch.ones_like(shift), shift)  # padding
        own = matrix.diagonal(dim1=-2, dim2=-1) - left * across
        inverse = 1.0 / (shift + own[..., None, :])
        scaled = left[..., None, :] * inverse
        denominator = 1.0 + (across[..., None, :] * scaled).sum(-1, keepdim=True)

        def precondition(vector: Tensor) -> Tensor:
            partial = vector * inverse
            weight = (across[..., None, :] * partial).sum(-1, keepdim=True) / denominator
            return partial - scaled * weight

        def remaining(found: Tensor) -> Tensor:
            return blocks - shift * found - found @ matrix.transpose(-1, -2)

        # Once it leaves about 1 %, which is never enough: no device is asked about that.
        solution = precondition(blocks)
        solution = solution + precondition(remaining(solution))
        bound = tolerance * blocks.abs().amax(-1, keepdim=True)
        previous = torch.inf
        for _ in range(INNER_LIMIT):
            defect = remaining(solution)
            # What is not finite stays so, and must not keep the others from being finished.
            excess = (defect.abs() - bound).nan_to_num(nan=-1.0, posinf=-1.0).amax(-1)
            worst = float(excess.amax())
            if worst <= 0.0:
                return self._scatter(solution)
            if not worst < 0.7 * previous:
                break
            previous = worst
            solution = solution + precondition(defect)
        self._factorise(matrix, shift, blocks, excess > 0.0, solution)
        return self._scatter(solution)

    @staticmethod
    def _factorise(
        matrix: Tensor, shift: Tensor, right: Tensor, which: Tensor, solution: Tensor
    ) -> None:
        """Solve the systems ``which`` (S, H, B) exactly, in place, some at a time."""
        index = torch.nonzero(which)
        size = matrix.shape[-1]
        step = max(1, DENSE_BYTES // (matrix.element_size() * size * size))
        for part in index.split(step):
            sample, block, image = part.unbind(1)
            dense = matrix[sample, block] + torch.diag_embed(shift[sample, block, image])
            exact = solve(dense, right[sample, block, image][..., None])
            solution[sample, block, image] = exact.squeeze(-1)

    def behind(self, resistance: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        """Voltages of sources behind a resistance each: (1/R + Y)·x = e/R - offset.

        One factorisation serves all samples and batches; the last one is remembered, by the
        resistance's tensor itself.

        Args:
            resistance: 0-dimensional, Ω.
            sources: (S, B, M) V, e.

        Returns:
            (S, B, M) V, x; and (S, B, M) A, what is left of the equation.
        """
        _, shift, through, system = self.factored(resistance)
        product = torch.matmul if self.joinable else self._in_parts
        outputs = product(sources, through)
        outputs -= shift
        defect = sources / resistance
        defect -= self.offset.detach()
        defect -= product(outputs, system)
        return outputs, defect

    def factored(self, resistance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The resistance, and for :meth:`behind`: shift, inverse over it, system.

        Matrices are (S, M, M), transposed, up to :data:`JOINED` neurons, else (S, H, K, K).
        """
        if not any(known is resistance for known, *_ in self._factored):
            size = self.admittance.shape[-1]
            plain = self.admittance.detach()
            identity = torch.eye(size, dtype=plain.dtype, device=plain.device)
            matrices = plain + identity / resistance
            flat = matrices.flatten(0, 1)
            inverse = solve(flat, identity.expand_as(flat)).reshape(matrices.shape)
            shift = self._in_parts(self.offset.detach(), inverse)
            kept = inverse / resistance, matrices
            if self.joinable:
                kept = self._joined(kept[0]), self._joined(matrices)
            self._factored[:] = [(resistance, shift, *kept)]
        return self._factored[0]

    @cached_property
    def _factored(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        return []

    @property
    def joinable(self) -> bool:
        """Whether one matrix of all partitions is as good as one of each."""
        return self.offset.shape[-1] <= JOINED

    def _joined(self, matrices: Tensor) -> Tensor:
        """(S, M, M), transposed, of (S, H, K, K) matrices of the partitions."""
        lines = self.offset.shape[-1]
        joined = matrices.new_zeros(len(matrices), lines, lines)
        for (first, last), block in self._parts(matrices):
            joined[:, first:last, first:last] = block.transpose(-1, -2)
        return joined


@dataclass(frozen=True)
class Blocks:
    """A load as plain arrays, real columns in front, for compiled kernels.

    Attributes:
        admittance: (S, H, K, K) S.
        offset: (S, 1 or B, M) A.
        first: (H+1,) int64, neuron ranges of the partitions.
        left: (S, H, K) and
        right: (S, H, K): the rank-one part.
    """

    admittance: NDArray[np.float64]
    offset: NDArray[np.float64]
    first: NDArray[np.int64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]

    @classmethod
    def of(cls, load: Load) -> Blocks:
        """The load of a next layer."""
        first = np.array([0, *(last for _, last, _ in load.layout.driven)])
        # In one order of memory: kernels are compiled for each that they are given.
        admittance, left, right = (
            item.detach().contiguous().numpy() for item in (load.admittance, load.left, load.right)
        )
        compact = np.zeros_like(admittance)
        compact_left, compact_right = np.zeros_like(left), np.zeros_like(right)
        for part, (begin, end, start) in enumerate(load.layout.driven):
            count = end - begin
            where = slice(start, start + count)
            compact[:, part, :count, :count] = admittance[:, part, where, where]
            compact_left[:, part, :count] = left[:, part, where]
            compact_right[:, part, :count] = right[:, part, where]
        return cls(
            compact, load.offset.detach().numpy(), first, compact_left, compact_right
        )

    @classmethod
    def unloaded(cls, samples: int, count: int) -> Blocks:
        """No load; neurons are cut into chunks only to spread the work."""
        first = np.unique(np.append(np.arange(0, count, 32), count))
        parts = len(first) - 1
        vector = np.zeros((samples, parts, 1))
        return cls(
            np.zeros((samples, parts, 1, 1)), np.zeros((samples, 1, count)), first, vector, vector
        )


def rank_one(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors whose outer product fits the off-diagonal part of each matrix.

    Alternating least squares (power iterations) in which the diagonal is completed by the fit.
    """
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    off = matrix - torch.diag_embed(diagonal)
    right = torch.ones_like(diagonal)
    left = off.sum(-1)
    for _ in range(FEWER if matrix.shape[-1] >= 16 else POWER_ITERATIONS):
        norm = right.square().sum(-1, keepdim=True).clamp(min=1e-300)
        left = ((off @ right[..., None]).squeeze(-1) + left * right * right) / norm
        norm = left.square().sum(-1, keepdim=True).clamp(min=1e-300)
        right = ((off.transpose(-1, -2) @ left[..., None]).squeeze(-1) + right * left * left) / norm
    return left, right
