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
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.elimination.blocks import BlockPorts, Termination
from imac_torch.elimination.linalg import solve
from imac_torch.elimination.strips import strip_matrix
from imac_torch.errors import SolverError
from imac_torch.kernels import Kernel, choose_kernel

BASE: Final = 16
"""Least rows and columns of the tiles that are not cut further."""
WIDTH: Final = 4
"""Columns per row up to which tiles are merged side by side before they are merged downwards.

Every row is two lines that cross a tile and every column one. Merges that cut few lines of tiles
that have many others come last: 190·n³ operations for 1024×1024 instead of the 314·n³ of tiles that
are kept square, the least of all orders (tried for 128×128 to 1024×1024).
"""
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
    positive: Tensor, negative: Tensor, wires: Termination, *, kernel: Kernel = "auto"
) -> BlockPorts:
    """Eliminate every inner node of blocks of any size, about 190·n³ operations for n×n.

    Args:
        positive: (..., R, K) S, conductances of the I+ side.
        negative: (..., R, K) S.
        wires: Segments and amplifier inputs.
        kernel: How the smallest tiles are made: "torch", "numba" (CPU, float64, no gradients), or
            "auto". Everything else is torch.

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
    blocks = [
        _Dissection(p, n, wires, chosen).ports()
        for p, n in zip(
            positive.reshape(-1, count, columns), negative.reshape(-1, count, columns), strict=True
        )
    ]
    if not blocks:
        raise SolverError(f"there are no blocks in conductances of shape {tuple(positive.shape)}")
    return BlockPorts(
        torch.stack([b.admittance for b in blocks]).reshape(*batch, columns, columns),
        torch.stack([b.positive_end for b in blocks]).reshape(*batch, count, columns),
        torch.stack([b.negative_end for b in blocks]).reshape(*batch, count, columns),
    )


def _levels(count: int) -> int:
    """How often ``count`` lines are halved, to leave BASE or a little more."""
    return max(0, (count // BASE).bit_length() - 1)


def _order(
    rows: int, columns: int, row_levels: int, column_levels: int
) -> list[Literal["side by side", "downwards"]]:
    """In which order tiles of rows×columns cells are merged, so often in each direction."""
    order: list[Literal["side by side", "downwards"]] = []
    while row_levels or column_levels:
        if column_levels and (columns < WIDTH * rows or not row_levels):
            order.append("side by side")
            columns, column_levels = 2 * columns, column_levels - 1
        else:
            order.append("downwards")
            rows, row_levels = 2 * rows, row_levels - 1
    return order


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
        self.row_levels, self.column_levels = _levels(self.rows), _levels(self.columns)
        self.base_rows = -(-self.rows // 2**self.row_levels)
        self.base_columns = -(-self.columns // 2**self.column_levels)
        self.added_rows = (self.base_rows << self.row_levels) - self.rows
        self.added_columns = (self.base_columns << self.column_levels) - self.columns
        # Open cells at the far ends of both kinds of line change nothing.
        padding = (self.added_columns, 0, 0, self.added_rows)
        self.positive = torch.nn.functional.pad(positive, padding)
        self.negative = torch.nn.functional.pad(negative, padding)
        self.merges = _order(
            self.base_rows, self.base_columns, self.row_levels, self.column_levels
        )
        self.wires = wires
        self.kernel = kernel
        self.ready: dict[int, list[Tiles]] = {}  # rows of smallest tiles made ahead

    def ports(self) -> BlockPorts:
        """The block seen from its input lines and amplifiers."""
        (whole,) = self._build(len(self.merges), 0)
        matrix = whole.matrix[0]
        columns = slice(self.added_columns, whole.columns)
        ends = matrix[whole.slices(inputs=False)["s"], columns]
        ends = ends.reshape(whole.rows, 2, self.columns)[: self.rows]
        return BlockPorts(matrix[columns, columns], ends[:, 0], ends[:, 1])

    def _build(self, merged: int, index: int) -> list[Tiles]:
        """A row of tiles from left to right, after so many rounds of merging."""
        if merged == 0:
            return self._base(index)
        if self.merges[merged - 1] == "side by side":
            return _merge_row(self._build(merged - 1, index))
        upper = self._build(merged - 1, 2 * index)
        lower = self._build(merged - 1, 2 * index + 1)
        return [merge_vertically(a, b) for a, b in zip(upper, lower, strict=True)]

    def _base(self, index: int) -> list[Tiles]:
        """The smallest tiles of one row: leftmost, middle and rightmost."""
        if index not in self.ready:
            tiles = 1 << self.row_levels
            cells = (self.base_columns + 2) ** 2 * 4 * self.base_rows << self.column_levels
            step = max(1, STRIP_NUMBERS // cells) if self.kernel == "torch" else 1
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


def _join(tiles: tuple[Tiles, Tiles], edges: tuple[str, str], pieces: Pieces) -> Tensor:
    """Eliminate the lines between two tiles.

    x₀ are the voltages and x₁ the currents of these lines: outputs of the one tile, inputs of the
    other. From x₀ = F₀·e₀ + Q₀·x₁ and x₁ = F₁·e₁ + Q₁·x₀ with external inputs e follows
    (1 - Q₀·Q₁)·x₀ = F₀·e₀ + Q₀·F₁·e₁. Q₀ is minus an impedance, Q₁ an admittance, both passive.

    Args:
        tiles: Tile 0's output at its edge is voltages, tile 1's is currents.
        edges: The edge of each where they meet.
        pieces: Order of the result's edges, as (tile, edge).
    """
    ins = [tile.slices(inputs=True) for tile in tiles]
    outs = [tile.slices(inputs=False) for tile in tiles]
    matrices = [tile.matrix for tile in tiles]
    shared_in = [matrices[n][:, :, ins[n][edges[n]]] for n in (0, 1)]
    shared_out = [matrices[n][:, outs[n][edges[n]], :] for n in (0, 1)]
    impedance = matrices[0][:, outs[0][edges[0]], ins[0][edges[0]]]  # Q₀
    admittance = matrices[1][:, outs[1][edges[1]], ins[1][edges[1]]]  # Q₁
    batch, lines = impedance.shape[:2]

    def place(sizes: list[int]) -> list[slice]:
        ends = torch.tensor([0, *sizes], device="cpu").cumsum(0).tolist()
        return [slice(a, b) for a, b in itertools.pairwise(ends)]

    columns = place([ins[n][edge].stop - ins[n][edge].start for n, edge in pieces])
    rows = place([outs[n][edge].stop - outs[n][edge].start for n, edge in pieces])
    right_side = impedance.new_empty(batch, lines, columns[-1].stop)
    currents = torch.empty_like(right_side)
    for (n, edge), column in zip(pieces, columns, strict=True):
        direct = shared_out[n][:, :, ins[n][edge]]
        if n == 0:
            right_side[:, :, column] = direct
            currents[:, :, column] = 0.0
        else:
            right_side[:, :, column] = impedance @ direct
            currents[:, :, column] = direct
    identity = torch.eye(lines, dtype=impedance.dtype, device=impedance.device)
    system = identity - impedance @ admittance
    voltages = solve(system, right_side)
    del right_side, system
    currents = torch.baddbmm(currents, admittance, voltages)
    arriving = (currents, voltages)
    result = impedance.new_empty(batch, rows[-1].stop, columns[-1].stop)
    for (n, edge), row in zip(pieces, rows, strict=True):
        out = outs[n][edge]
        if out.start == out.stop:
            continue
        block = result[:, row]
        for (other, input_edge), column in zip(pieces, columns, strict=True):
            own = matrices[n][:, out, ins[n][input_edge]] if other == n else 0.0
            block[:, :, column] = own
        block.baddbmm_(shared_in[n][:, out], arriving[n])
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
