"""Blocks to ports by whichever method suits their size; what was chosen is part of the answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from imac_torch.base.progress import long_work
from imac_torch.elimination.blocks import Advance, BlockPorts, Termination
from imac_torch.elimination.cuts import BASE, Cuts
from imac_torch.elimination.rows import eliminate_rows
from imac_torch.elimination.tiles import eliminate_tiles
from imac_torch.errors import SolverError
from imac_torch.kernels import Kernel, choose_kernel
from imac_torch.kernels.ahead import ready
from imac_torch.numeric.budget import elimination_bytes, require_memory
from imac_torch.numeric.forecast import announce, clock, elimination_operations

__all__ = ["CROSSOVER", "EliminationInfo", "Kernel", "Method", "eliminate"]

Method: TypeAlias = Literal["auto", "rows", "tiles"]
"""How to eliminate; "auto" decides by size."""

CROSSOVER: Final = 192
"""Columns above which merging tiles beats the row recursion.

Measured by ``benchmarks/elimination.py --crossover`` on two cores: with compiled kernels rows take
0.3 to 0.4 times as long as tiles at 128 columns and 0.7 to 0.9 times at 192, from 32 to 128 rows,
because both costs are proportional to the rows; with torch alone 0.4 and 0.5 to 0.6 times.
"""
TORCH_RATE: Final = 7e8
"""Operations per second by rows in torch, roughly."""
LARGE: Final = 2e10
"""Operations from which on the time is estimated: some seconds' worth."""


@dataclass(frozen=True)
class EliminationInfo:
    """How blocks were eliminated.

    Attributes:
        method: "rows" (:mod:`imac_torch.elimination.rows`), "tiles"
            (:mod:`imac_torch.elimination.tiles`), or of curved cells, for every input vector,
            "sweeps" (:mod:`imac_torch.dc.sweeps`) or "tangents" (:mod:`imac_torch.dc.curved`).
        kernel: What ran: "numba" or "torch".
    """

    method: Literal["rows", "tiles", "sweeps", "tangents"]
    kernel: Literal["torch", "numba"]

    def __str__(self) -> str:
        return f"{self.method} ({self.kernel})"


def eliminate(
    positive: Tensor,
    negative: Tensor,
    wires: Termination,
    *,
    method: Method = "auto",
    kernel: Kernel = "auto",
) -> tuple[BlockPorts, EliminationInfo]:
    """Eliminate every inner node of a batch of blocks, exactly.

    Args:
        positive: (..., R, K) S, conductances of the I+ side, >= 0; leading dimensions are
            partitions and samples.
        negative: (..., R, K) S, the same of the I- side.
        wires: Segments and amplifier inputs, shared by all blocks.
        method: "rows", "tiles", or "auto": rows up to :data:`CROSSOVER` columns.
        kernel: "torch", "numba" (CPU, float64), or "auto": numba where possible. Tiles have
            gradients with torch only, so "auto" takes torch where gradients are wanted.

    Returns:
        Ports with the same leading dimensions, and what was chosen.

    Raises:
        SolverMemoryError: It would take more memory than is free.
        SolverError: Shapes do not match, values are not physical, or the method or kernel is
            unknown or cannot be used here.
    """
    rows, columns = positive.shape[-2:]
    blocks = (positive.numel() // max(1, rows * columns), rows, columns)
    info = decide(positive, negative, wires, blocks, method=method, kernel=kernel)
    gradients = followed(positive, negative, wires)
    with foreseen(info, blocks, positive.device, gradients=gradients) as advance:
        return run(info, positive, negative, wires, advance), info


def decide(
    positive: Tensor,
    negative: Tensor,
    wires: Termination,
    blocks: tuple[int, int, int],
    *,
    method: Method = "auto",
    kernel: Kernel = "auto",
) -> EliminationInfo:
    """How cells would be eliminated.

    Args:
        positive: S, as in :func:`eliminate`, or as layers have them.
        negative: S.
        wires: See :func:`eliminate`.
        blocks: How many, their rows and columns.
        method: See :func:`eliminate`.
        kernel: See :func:`eliminate`.

    Raises:
        SolverError: See :func:`eliminate`.
    """
    if method not in ("auto", "rows", "tiles"):
        raise SolverError(f'method = {method!r} is not one of "auto", "rows", "tiles"')
    _check(positive, negative, wires)
    chosen: Literal["rows", "tiles"] = "rows" if blocks[2] <= CROSSOVER else "tiles"
    chosen = chosen if method == "auto" else method
    runs = choose_kernel(kernel, positive)
    if chosen == "tiles" and kernel == "auto" and followed(positive, negative, wires):
        runs = "torch"
    if chosen == "rows" and kernel == "auto" and runs == "numba":
        count, rows, columns = blocks
        operations = elimination_operations(count, rows, columns, tiles=False)
        runs = "numba" if ready("rows.eliminate_up", operations / TORCH_RATE) else "torch"
    return EliminationInfo(chosen, runs)


def run(
    info: EliminationInfo,
    positive: Tensor,
    negative: Tensor,
    wires: Termination,
    advance: Advance | None = None,
) -> BlockPorts:
    """Eliminate as it was decided.

    Args:
        info: From :func:`decide`.
        positive: See :func:`eliminate`.
        negative: See :func:`eliminate`.
        wires: See :func:`eliminate`.
        advance: Called with the number of smallest tiles, or blocks of rows, done just now.
    """
    eliminated = eliminate_rows if info.method == "rows" else eliminate_tiles
    return eliminated(positive, negative, wires, kernel=info.kernel, advance=advance)


@contextmanager
def foreseen(
    info: EliminationInfo,
    blocks: tuple[int, int, int],
    device: torch.device,
    *,
    gradients: bool = False,
    in_place: bool = False,
) -> Iterator[Advance | None]:
    """Around an elimination: refuse what does not fit, say what it takes, show how far it is.

    Args:
        info: How it will be done.
        blocks: How many, their rows and columns.
        device: Where.
        gradients: Whether gradients are wanted.
        in_place: Whether blocks are read and written where layers have them.

    Yields:
        What :func:`run` takes; None: nobody looks.

    Raises:
        SolverMemoryError: It would take more memory than is free.
    """
    count, rows, columns = blocks
    tiles, threads = info.method == "tiles", torch.get_num_threads()
    method: Literal["rows", "tiles"] = "tiles" if tiles else "rows"
    needed = elimination_bytes(
        count, rows, columns, method=method, compiled=info.kernel == "numba", threads=threads,
        gradients=gradients, in_place=in_place,
    )  # fmt: skip
    what = f"eliminating {count} blocks of {rows}×{columns} cells"
    require_memory(
        needed,
        f"{what} by {method}" + (" with gradients" if gradients else ""),
        "take smaller arrays (crossbar.rows, crossbar.columns), fewer samples at once"
        + (', or method = "tiles"' if not tiles and rows * columns > BASE**4 else ""),
        device,
    )
    operations = elimination_operations(count, rows, columns, tiles=tiles)
    if operations < LARGE:
        yield None
        return
    seconds = operations / _rate(method, info.kernel)
    seconds /= min(count, threads) if not tiles and info.kernel == "numba" else 1
    announce(what, seconds, needed)
    total, unit = count, "blocks"
    if tiles:
        total, unit = count * Cuts.of(rows, columns).smallest, "tiles"
    label = f"eliminating {rows}×{columns}, {needed / 2**30:.2g} GiB"  # short: a line has 80 places
    with long_work(label, total, unit, seconds) as advance:
        yield advance


def followed(positive: Tensor, negative: Tensor, wires: Termination) -> bool:
    """Whether gradients go through what is eliminated."""
    return torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (positive, negative, *vars(wires).values())
    )


@cache
def _rate(method: Literal["rows", "tiles"], kernel: Literal["numba", "torch"]) -> float:
    """Operations per second of a small elimination on this machine; of rows, of one thread."""
    size = 192 if method == "tiles" else 48
    cells = torch.full((1, size, size), 1e-5, dtype=torch.float64, device="cpu")
    wires = Termination(
        *(cells.new_tensor(value) for value in (10.0, 10.0, 1e4, 1e4, 0.5))
    )  # fmt: skip
    info = EliminationInfo(method, kernel)
    with torch.no_grad():
        run(info, cells, cells, wires)  # kernels are compiled, or read
        started = clock()
        run(info, cells, cells, wires)
    operations = elimination_operations(1, size, size, tiles=method == "tiles")
    return operations / max(clock() - started, 1e-9)


def _check(positive: Tensor, negative: Tensor, wires: Termination) -> None:
    if positive.shape != negative.shape or positive.ndim < 2 or positive.numel() == 0:
        raise SolverError(
            "conductances must be two tensors of the same (..., R, K) shape with at least one "
            f"cell, got {tuple(positive.shape)} and {tuple(negative.shape)}"
        )
    for name, open_interval in (
        ("input_segment", False),
        ("output_segment", False),
        ("positive_load", True),
        ("negative_load", True),
    ):
        value = float(getattr(wires, name).detach())
        within = value > 0.0 if open_interval else value >= 0.0
        if not (within and value != float("inf")):
            sign = ">" if open_interval else ">="
            raise SolverError(f"{name} = {value} must be finite, {sign} 0")
    alpha = float(wires.alpha.detach())
    if not -float("inf") < alpha <= 1.0:
        raise SolverError(f"alpha = {alpha} must be finite and <= 1")
    for name, tensor in (("positive", positive), ("negative", negative)):
        lowest, highest = (float(x) for x in torch.aminmax(tensor.detach()))
        if not (lowest >= 0.0 and highest < float("inf")):
            raise SolverError(
                f"{name} conductances must be finite and >= 0 (0 is an open cell), got "
                f"{lowest} to {highest} S"
            )
