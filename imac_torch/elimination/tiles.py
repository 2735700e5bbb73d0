"""Nested dissection: an array cut into tiles, merged pairwise. Best for large arrays.

A tile of r rows and c columns is known by its edges only. Of every line that leaves it, one of
voltage and current is an input and the other an output:

======  =======================================  ======================================
edge    input                                    output
======  =======================================  ======================================
top     ``u``: voltages of the input lines (c)   currents into the tile
bottom  ``j``: currents out of the tile (c)      voltages
right   ``s``: voltages of the I± lines (2r)     currents out of the tile
left    ``k``: currents into the tile (2r)       voltages
======  =======================================  ======================================

In this hybrid description (a chain matrix, turned so that it is always well defined) open ends are
inputs that are zero, so they simply do not appear, ideal wires are no exception, and the small
current through a memristor is never the difference of two large ones through wires: the accuracy
does not depend on the ratio of wire and cell conductances. Tiles at the right edge include the
amplifiers, their ``s`` outputs are the voltages of the line ends. I± lines are ordered row by row,
I+ before I-.

Cutting grids into quarters recursively: George, SIAM J. Numer. Anal. 10 (1973) 345; joining
two-sided descriptions: Redheffer, J. Math. Phys. 41 (1962) 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.elimination.blocks import Advance, BlockPorts, Termination
from imac_torch.elimination.cuts import Cuts, Tell
from imac_torch.elimination.linalg import inverse, solve
from imac_torch.elimination.strips import strip_matrix
from imac_torch.errors import SolverError
from imac_torch.kernels import Kernel, choose_kernel
from imac_torch.numeric.side_by_side import side_by_side

HALVED: Final = 64
"""Lines between two tiles from which on half of the result is copied instead of computed."""
STRIP_NUMBERS: Final = 2**22
"""Numbers in the matrices of single rows that the torch kernel makes at a time."""

Pieces = list[tuple[int, str]]


@dataclass(frozen=True)
class Tiles:
    """Equal tiles side by side.

    Attributes:
        matrix: (T, outputs, inputs), edges in the order u, j, s, k.
        rows: r.
        columns: c.
        bottom: The tiles are at the lower edge: input lines end there, no ``j``.
        left: The tiles are at the left edge: I± lines begin there, no ``k``.
        right: The tiles include the amplifiers, no ``s`` input.
    """

    matrix: Tensor
    rows: int
    columns: int
    bottom: bool
    left: bool
    right: bool

    def sizes(self, *, inputs: bool) -> dict[str, int]:
        """Number of lines at each edge."""
        return edge_sizes(
            self.rows, self.columns, self.bottom, self.left, self.right and inputs
        )

    def slices(self, *, inputs: bool) -> dict[str, slice]:
        """Where each edge is in the matrix."""
        return _consecutive(self.sizes(inputs=inputs))

    def without_bottom(self) -> Tiles:
        """The tiles at the lower edge: no current leaves there, the voltages are not needed."""
        matrix = self.matrix
        for dimension, inputs in ((1, False), (2, True)):
            gone = self.slices(inputs=inputs)["j"]
            sizes = [gone.start, gone.stop - gone.start, matrix.shape[dimension] - gone.stop]
            parts = matrix.split(sizes, dimension)
            matrix = torch.cat([parts[0], parts[2]], dimension)
        return Tiles(matrix, self.rows, self.columns, True, self.left, self.right)

    def __getitem__(self, part: slice) -> Tiles:
        """Some of the tiles."""
        return Tiles(
            self.matrix[part], self.rows, self.columns, self.bottom, self.left, self.right
        )


def edge_sizes(
    rows: int, columns: int, bottom: bool, left: bool, right: bool
) -> dict[str, int]:
    """Number of inputs at each edge of a tile; outputs are the same with ``right`` False."""
    return {
        "u": columns,
        "j": 0 if bottom else columns,
        "s": 0 if right else 2 * rows,
        "k": 0 if left else 2 * rows,
    }


def _consecutive(sizes: dict[str, int]) -> dict[str, slice]:
    start, result = 0, {}
    for name, size in sizes.items():
        result[name] = slice(start, start + size)
        start += size
    return result


def eliminate_tiles(
    positive: Tensor,
    negative: Tensor,
    wires: Termination,
    *,
    kernel: Kernel = "auto",
    advance: Advance | None = None,
) -> BlockPorts:
    """Eliminate every inner node of blocks of any size, about 175·n³ operations for n×n.

    Args:
        positive: (..., R, K) S, conductances of the I+ side.
        negative: (..., R, K) S.
        wires: Segments and amplifier inputs.
        kernel: How the smallest tiles are made: "torch", "numba" (CPU, float64, no gradients), or
            "auto". Everything else is torch.
        advance: Called with the number of smallest tiles done just now: as many as the work of
            making and joining tiles is worth.

    Returns:
        Ports with the same leading dimensions. Differentiable in everything with the torch
        kernel (which "auto" takes then), by recording every merge.

    Raises:
        SolverError: The kernel is unknown or cannot be used here.
    """
    differentiable = torch.is_grad_enabled() and any(
        item.requires_grad
        for item in (
            positive,
            negative,
            wires.input_segment,
            wires.output_segment,
            wires.positive_load,
            wires.negative_load,
            wires.alpha,
        )
    )
    if differentiable and kernel == "numba":
        raise SolverError(
            'elimination by tiles has no gradients with kernel = "numba"; use "torch" or "auto"'
        )
    chosen = choose_kernel("torch" if differentiable else kernel, positive)
    batch = positive.shape[:-2]
    count, columns = positive.shape[-2:]
    pairs = zip(
        positive.reshape(-1, count, columns), negative.reshape(-1, count, columns), strict=True
    )
    dissections = [_Dissection(p, n, wires, chosen) for p, n in pairs]
    if advance is not None and dissections:
        cuts = dissections[0].cuts
        tell = Tell(advance, len(dissections) * cuts.smallest, len(dissections) * cuts.work)
        for item in dissections:
            item.tell = tell
    threads = torch.get_num_threads() if chosen == "numba" else 1
    if len(dissections) < threads:
        blocks = [item.ports(threads) for item in dissections]
    else:
        blocks = side_by_side([item.ports for item in dissections], threads)
    if not blocks:
        raise SolverError(f"there are no blocks in conductances of shape {tuple(positive.shape)}")
    return BlockPorts(
        torch.stack([b.admittance for b in blocks]).reshape(*batch, columns, columns),
        torch.stack([b.positive_end for b in blocks]).reshape(*batch, count, columns),
        torch.stack([b.negative_end for b in blocks]).reshape(*batch, count, columns),
    )


class _Dissection:
    """One block, cut and merged depth first, so that little is alive at a time."""

    def __init__(
        self,
        positive: Tensor,
        negative: Tensor,
        wires: Termination,
        kernel: Literal["torch", "numba"],
    ) -> None:
        self.rows, self.columns = positive.shape
        self.cuts = Cuts.of(self.rows, self.columns)
        self.base_rows, self.base_columns = self.cuts.base_rows, self.cuts.base_columns
        self.row_levels, self.column_levels = self.cuts.row_levels, self.cuts.column_levels
        self.added_rows = (self.base_rows << self.row_levels) - self.rows
        self.added_columns = (self.base_columns << self.column_levels) - self.columns
        # Open cells at the far ends of both kinds of line change nothing.
        padding = (self.added_columns, 0, 0, self.added_rows)
        self.positive = torch.nn.functional.pad(positive, padding)
        self.negative = torch.nn.functional.pad(negative, padding)
        self.wires = wires
        self.kernel = kernel
        self.ready: dict[int, list[Tiles]] = {}  # rows of smallest tiles made ahead
        self.tell: Callable[[float], None] = lambda work: None
        self.works = self.cuts.works

    def ports(self, threads: int = 1) -> BlockPorts:
        """The block seen from its input lines and amplifiers.

        Tiles as wide as the block are joined from below one by one. What is below has neither
        currents out of its bottom nor unknown ends: its only inputs are the input lines.
        """
        count = self.cuts.bands
        merged = len(self.cuts.merges) - count.bit_length() + 1
        whole: Tiles | None = None
        for last in range(count, 0, -threads):
            indices = range(max(0, last - threads), last)
            bands = side_by_side([partial(self._build, merged, k) for k in indices], threads)
            for index, band in zip(reversed(indices), reversed(bands), strict=True):
                if whole is None:
                    whole = band[0]
                else:
                    whole = merge_vertically(band[0], whole)
                    self.tell(self.cuts.band_work(index))
        assert whole is not None  # noqa: S101 - narrows the type only
        matrix = whole.matrix[0]
        columns = slice(self.added_columns, whole.columns)
        ends = matrix[whole.slices(inputs=False)["s"], columns]
        ends = ends.reshape(whole.rows, 2, self.columns)[: self.rows]
        return BlockPorts(matrix[columns, columns], ends[:, 0], ends[:, 1])

    def _build(self, merged: int, index: int) -> list[Tiles]:
        """A row of tiles from left to right, after so many rounds of merging."""
        if merged == 0:
            row = self._base(index)
        elif self.cuts.merges[merged - 1] == "side by side":
            row = _merge_row(self._build(merged - 1, index))
        else:
            upper = self._build(merged - 1, 2 * index)
            lower = self._build(merged - 1, 2 * index + 1)
            row = [merge_vertically(a, b) for a, b in zip(upper, lower, strict=True)]
        self.tell(sum(len(tiles.matrix) for tiles in row) * self.works[merged])
        return row

    def _base(self, index: int) -> list[Tiles]:
        """The smallest tiles of one row: leftmost, middle and rightmost."""
        if self.kernel == "numba":
            return self._base_rows(index, index + 1)[index]
        if index not in self.ready:
            tiles = 1 << self.row_levels
            cells = (self.base_columns + 2) ** 2 * 4 * self.base_rows << self.column_levels
            step = max(1, STRIP_NUMBERS // cells)
            self.ready = self._base_rows(index, min(tiles, index + step))
        return self.ready.pop(index)

    def _base_rows(self, first: int, last: int) -> dict[int, list[Tiles]]:
        """Rows first..last of smallest tiles."""
        r, c = self.base_rows, self.base_columns
        tiles = 1 << self.column_levels
        positive, negative = (
            cells[first * r : last * r].reshape(last - first, r, tiles, c).transpose(1, 2)
            for cells in (self.positive, self.negative)
        )
        make = _compiled_base if self.kernel == "numba" else _torch_base
        edges = sorted({0, 1, max(tiles - 1, 1), tiles})
        rows: dict[int, list[Tiles]] = {index: [] for index in range(first, last)}
        for begin, end in itertools.pairwise(edges):
            left, right = begin == 0, end == tiles
            made = make(
                positive[:, begin:end].reshape(-1, r, c),
                negative[:, begin:end].reshape(-1, r, c),
                self.wires,
                left,
                right,
            )
            for index in range(first, last):
                part = made[(index - first) * (end - begin) : (index - first + 1) * (end - begin)]
                lowest = index == (1 << self.row_levels) - 1
                rows[index].append(part.without_bottom() if lowest else part)
        return rows


def _merge_row(row: list[Tiles]) -> list[Tiles]:
    """Merge neighbours; groups of equal tiles in, groups of equal tiles out."""
    if len(row) == 2:
        return [merge_horizontally(row[0], row[1])]
    first, middle, last = row
    merged = [merge_horizontally(first, middle[:1])]
    if middle.matrix.shape[0] > 2:
        merged.append(merge_horizontally(middle[1:-1:2], middle[2:-1:2]))
    merged.append(merge_horizontally(middle[-1:], last))
    return merged


def merge_vertically(upper: Tiles, lower: Tiles) -> Tiles:
    """Join tiles along the input lines."""
    inputs: Pieces = [(0, "u"), (1, "j"), (0, "s"), (1, "s"), (0, "k"), (1, "k")]
    matrix = _join((upper, lower), ("j", "u"), inputs)
    return Tiles(
        matrix,
        upper.rows + lower.rows,
        upper.columns,
        lower.bottom,
        upper.left,
        upper.right,
    )


def merge_horizontally(left: Tiles, right: Tiles) -> Tiles:
    """Join tiles along the I± lines."""
    inputs: Pieces = [(1, "u"), (0, "u"), (1, "j"), (0, "j"), (0, "s"), (1, "k")]
    matrix = _join((right, left), ("k", "s"), inputs)
    return Tiles(
        matrix, left.rows, left.columns + right.columns, left.bottom, left.left, right.right
    )


def _place(sizes: list[int]) -> list[slice]:
    ends = [0, *itertools.accumulate(sizes)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


class _Joint:
    """Two tiles and the lines between them.

    x₀ are the voltages and x₁ the currents of these lines: outputs of the one tile, inputs of the
    other. From x₀ = F₀·e₀ + Q₀·x₁ and x₁ = F₁·e₁ + Q₁·x₀ with external inputs e follows
    x₀ = N·(F₀·e₀ + Q₀·F₁·e₁) with N = (1 - Q₀·Q₁)⁻¹. Q₀ is minus an impedance, Q₁ an admittance,
    both passive.

    Args:
        tiles: Tile 0's output at its edge is voltages, tile 1's is currents.
        edges: The edge of each where they meet.
        pieces: Order of the result's edges, as (tile, edge).
    """

    def __init__(self, tiles: tuple[Tiles, Tiles], edges: tuple[str, str], pieces: Pieces) -> None:
        self.pieces = pieces
        self.ins = [tile.slices(inputs=True) for tile in tiles]
        self.outs = [tile.slices(inputs=False) for tile in tiles]
        self.matrices = [tile.matrix for tile in tiles]
        self.shared_in = [self.ins[n][edges[n]] for n in (0, 1)]
        self.shared_out = [self.outs[n][edges[n]] for n in (0, 1)]
        self.impedance, self.admittance = (
            self.matrices[n][:, self.shared_out[n], self.shared_in[n]] for n in (0, 1)
        )  # Q₀, Q₁
        self.columns = _place([_length(self.ins[n][edge]) for n, edge in pieces])
        self.rows = _place([_length(self.outs[n][edge]) for n, edge in pieces])
        self.lines = self.impedance.shape[-1]

    def system(self) -> Tensor:
        """1 - Q₀·Q₁."""
        product = (self.impedance @ self.admittance).neg_()
        product.diagonal(dim1=-2, dim2=-1).add_(1.0)
        return product

    def new(self, rows: int) -> Tensor:
        """Uninitialised, a column for every input of the result."""
        return self.impedance.new_empty(len(self.impedance), rows, self.columns[-1].stop)

    def direct(self, tile: int, edge: str) -> Tensor:
        """What an edge of a tile does to the lines by itself: columns of F₀ or F₁."""
        return self.matrices[tile][:, self.shared_out[tile], self.ins[tile][edge]]

    def own(self, tile: int, edge: str, input_edge: str) -> Tensor:
        """What an edge's output would be without the lines."""
        return self.matrices[tile][:, self.outs[tile][edge], self.ins[tile][input_edge]]

    def reach(self, tile: int, edge: str) -> Tensor:
        """An edge's output per x₁ (tile 0) or x₀ (tile 1)."""
        return self.matrices[tile][:, self.outs[tile][edge], self.shared_in[tile]]


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _join(tiles: tuple[Tiles, Tiles], edges: tuple[str, str], pieces: Pieces) -> Tensor:
    """Eliminate the lines between two tiles, see :class:`_Joint`."""
    joint = _Joint(tiles, edges, pieces)
    differentiable = torch.is_grad_enabled() and any(item.requires_grad for item in joint.matrices)
    if joint.lines >= HALVED and not (tiles[0].right or tiles[1].right or differentiable):
        return _join_reciprocal(joint)
    voltages, currents = joint.new(joint.lines), joint.new(joint.lines)
    for (n, edge), column in zip(pieces, joint.columns, strict=True):
        direct = joint.direct(n, edge)
        if n == 0:
            voltages[:, :, column] = direct
            currents[:, :, column] = 0.0
        else:
            voltages[:, :, column] = joint.impedance @ direct
            currents[:, :, column] = direct
    if differentiable:
        voltages = solve(joint.system(), voltages)
    else:
        voltages = inverse(joint.system()) @ voltages
    currents.baddbmm_(joint.admittance, voltages)
    result = joint.new(joint.rows[-1].stop)
    for (n, edge), row in zip(pieces, joint.rows, strict=True):
        if row.start == row.stop:
            continue
        block = result[:, row]
        for (other, input_edge), column in zip(pieces, joint.columns, strict=True):
            block[:, :, column] = joint.own(n, edge, input_edge) if other == n else 0.0
        block.baddbmm_(joint.reach(n, edge), voltages if n else currents)
    return result


def _join_reciprocal(joint: _Joint) -> Tensor:
    """The same for tiles without amplifiers: half of the result is the mirror image of the other.

    Passive networks are reciprocal: H = S·Hᵀ·S with S = 1 at the edges u and j and -1 at s and k.
    So (1 - Q₁·Q₀)⁻¹ = Nᵀ, and x₁ = Q₁·N·F₀·e₀ + Nᵀ·F₁·e₁; of tile 1's edges only what e₁ does to
    them needs x₀ = … + Q₀·Nᵀ·F₁·e₁.
    """
    spread = inverse(joint.system())  # N
    across = joint.admittance @ spread
    currents, voltages = joint.new(joint.lines), joint.new(joint.lines)
    for (n, edge), column in zip(joint.pieces, joint.columns, strict=True):
        part = currents[:, :, column]
        torch.bmm(spread.mT if n else across, joint.direct(n, edge), out=part)
        if n:
            torch.bmm(joint.impedance, part, out=voltages[:, :, column])
    result = joint.new(joint.rows[-1].stop)
    parts = list(zip(joint.pieces, joint.rows, joint.columns, strict=True))
    parts.sort(key=lambda part: part[0][0])  # tile 0's first
    for index, ((n, edge), row, column) in enumerate(parts):
        reach = joint.reach(n, edge)
        for (other, input_edge), mirrored, across_column in parts[index:]:
            block = result[:, row, across_column]
            arriving = (voltages if n else currents)[:, :, across_column]
            if other == n:
                block.copy_(joint.own(n, edge, input_edge))
                block.baddbmm_(reach, arriving)
            else:
                torch.bmm(reach, arriving, out=block)
            if mirrored != row:
                image = result[:, mirrored, column]
                if (edge in "sk") == (input_edge in "sk"):
                    image.copy_(block.mT)
                else:
                    torch.neg(block.mT, out=image)
    return result


def _torch_base(
    positive: Tensor, negative: Tensor, wires: Termination, left: bool, right: bool
) -> Tiles:
    """Tiles from single rows, merged in pairs."""
    count, columns = positive.shape[-2:]
    everything = _consecutive(edge_sizes(1, columns, False, False, False))
    start, stop = everything["s"].start, everything["k"].start
    kept = range(stop) if left else range(2 * columns + 4)
    outputs = torch.tensor(list(kept), device=positive.device)
    inputs = torch.tensor(
        [i for i in kept if not (right and start <= i < stop)], device=positive.device
    )
    rows = []
    for r in range(count):
        matrix = strip_matrix(positive[:, r], negative[:, r], wires, terminated=right)
        rows.append(matrix.index_select(1, outputs).index_select(2, inputs))
    height, odd = 1, None
    merged = Tiles(torch.stack(rows), 1, columns, False, left, right)
    # (rows, T, …): halves are merged as one batch; a last odd one waits below.
    while merged.matrix.shape[0] > 1:
        matrix = merged.matrix
        if matrix.shape[0] % 2:
            rest = Tiles(matrix[-1], height, columns, False, left, right)
            odd = rest if odd is None else merge_vertically(rest, odd)
        upper, lower = (
            Tiles(part.flatten(0, 1), height, columns, False, left, right)
            for part in (matrix[:-1:2] if matrix.shape[0] % 2 else matrix[::2], matrix[1::2])
        )
        pair = merge_vertically(upper, lower)
        height *= 2
        shape = (matrix.shape[0] // 2, matrix.shape[1], *pair.matrix.shape[1:])
        merged = Tiles(pair.matrix.reshape(shape), height, columns, False, left, right)
    whole = Tiles(merged.matrix[0], height, columns, False, left, right)
    return whole if odd is None else merge_vertically(whole, odd)


def _compiled_base(
    positive: Tensor, negative: Tensor, wires: Termination, left: bool, right: bool
) -> Tiles:
    """The same in compiled code, tile by tile."""
    from imac_torch.kernels.threads import run_blocks
    from imac_torch.kernels.tiles import base_tiles

    tiles, count, columns = positive.shape
    width = -(-columns // 4) * 4

    def internal(end: bool) -> NDArray[np.int64]:
        sizes = edge_sizes(count, columns, False, left, end)
        index = list(range(sizes["u"])) + [width + i for i in range(sizes["j"])]
        for name, offset in (("s", 0), ("k", 2)):
            for line in range(sizes[name]):
                row, side = divmod(line, 2)
                index.append(2 * width + 4 * (count - 1 - row) + offset + side)
        return np.array(index, dtype=np.int64)

    outputs, inputs = internal(False), internal(right)
    result = np.empty((tiles, len(outputs), len(inputs)))
    run_blocks(
        base_tiles,
        tiles,
        torch.get_num_threads(),
        np.ascontiguousarray(positive.detach().numpy()),
        np.ascontiguousarray(negative.detach().numpy()),
        float(wires.input_segment.detach()),
        float(wires.output_segment.detach()),
        float(wires.positive_load.detach()),
        float(wires.negative_load.detach()),
        float(wires.alpha.detach()),
        right,
        outputs,
        inputs,
        result,
    )
    return Tiles(torch.from_numpy(result), count, columns, False, left, right)
