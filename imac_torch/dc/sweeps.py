"""Layers of curved cells, solved by sweeps over their rows, every input vector on its own.

Only cells are not linear, and they meet in two ways. Along an I± line, which floats, strongly: its
nodes are found by a step of Newton's method with the slopes that each vector has (a tridiagonal
matrix). Along an input line weakly, because its source holds it: what is behind a row of it is a
linear network of K ports, and of that it is enough to know what it is nearly. Rows look like stars:
every column is joined by the slopes s_k of its cells to a hub, which stands for the line, and that
to ground. A star is diag(e) - e·eᵀ/(Σe + γ), γ being the hub's conductance; its inverse is
diag(1/e) + 1/(…), so that a star seen through segments of r Ω is a star again, of e/(1 + r·e) and
the same γ (Sherman and Morrison), and rows in parallel are nearly one star: of the sum of their e
and of that γ with which columns at one voltage draw what they draw together. So a sweep from the
last row up finds lines and stars, and one down moves the input lines: numbers per cell, no
matrices. What the steps are solved with is exact but for what is behind a row, so that they
converge linearly: by a factor of 100 where wires take little, of 5 where they take a third.

Shapes: N = H·V blocks of R rows and K columns; G groups of L images each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.dc.load import Load
from imac_torch.dc.newton import NewtonOptions, iterate, kirchhoff_residual, solve_neurons
from imac_torch.dc.tangents import CurvedCells
from imac_torch.elimination.rows import line_scalars
from imac_torch.kernels import choose_kernel
from imac_torch.kernels.threads import run_blocks
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.results.solution import Status

__all__ = ["SWEEPS", "SweepState", "Swept", "can_sweep", "left_over", "pieces", "sweep"]

SWEEPS: Final = 60
"""Up and down, before another method is tried."""
NEURONS_ALONE: Final = 0.1
"""V. Where steps are longer neurons are solved for every load; then they make one step, too."""
ROUGHLY: Final = 1e-4
"""V, to which they are solved there."""
ARRAYS: Final = 9
"""Numbers per cell and image: both lines, inner nodes, and the input line's four."""
GIVEN: Final = 12
"""Likewise where currents come from torch: four of both sides, and what they are made of."""

Array = NDArray[np.float64]


@dataclass
class Swept:
    """Where sweeps have come to.

    Attributes:
        inputs: (B, N) V on the lines.
        gates: (B, N) V of the neurons that drive them; the same where sources do.
        ends: (2, B, H, V, R) V of the I+ and I- ends.
        currents: (B, C) A into the lines.
        status: (B,) int64.
        residual: (B,) A.
        iterations: (B,) int64.
        size: (B,) V, the longest of the last steps.
        voltages: (B, 2, H, V, R, K) V across the cells, and of the I± lines there; None: nobody
            asked for them.
    """

    inputs: Tensor
    gates: Tensor
    ends: Tensor
    currents: Tensor
    status: Tensor
    residual: Tensor
    iterations: Tensor
    size: Tensor
    voltages: tuple[Tensor, Tensor] | None


def can_sweep(layer: CurvedCells) -> bool:
    """Whether compiled kernels can be used here: float64 on the CPU, numba, linear amplifiers."""
    return layer.amplifiers is None and choose_kernel("auto", layer.positive) == "numba"


def sweep_bytes(layer: CurvedCells, *, held: bool) -> int:
    """What one input vector takes, where sources hold its lines (``held``) or neurons do."""
    horizontal, _, rows, columns = layer.positive.shape
    if held and layer.code is not None and not layer.cell.limited:
        return 8 * 4 * layer.positive.numel() // min(rows, columns)
    arrays = ARRAYS + (GIVEN if layer.code is None else 0)
    return 8 * (arrays * layer.positive.numel() + 4 * horizontal * columns**2)


def pieces(layer: CurvedCells, vectors: Tensor, memory: int, *, held: bool) -> tuple[Tensor, ...]:
    """(B, N) in equal parts that take ``memory`` bytes, whole groups of images."""
    from imac_torch.kernels.lanes import LANES

    groups = -(-len(vectors) // LANES)
    most = max(1, memory // (LANES * sweep_bytes(layer, held=held)))
    parts = max(1, -(-groups // most))  # one of an empty batch, too
    return vectors.split(LANES * max(1, -(-groups // parts)))


def sweep(
    layer: CurvedCells,
    vdd: Tensor,
    options: NewtonOptions,
    inputs: Tensor,
    neuron: NeuronCircuit | None,
    tolerance: float,
    *,
    keep: bool,
) -> Swept:
    """Sweep until ``tolerance`` (V) or less is left of steps.

    Args:
        layer: The crossbar.
        vdd: V, on the bias line.
        options: Of the neurons' solution, and the limit of steps.
        inputs: (B, N) V: of sources on the lines, or combined read-outs before.
        neuron: That drives the lines; None: sources do.
        tolerance: V, of what longest steps leave, see
            :func:`imac_torch.kernels.sweeps.left_over`.
        keep: Whether voltages of cells are wanted. Between neurons they are also given where
            steps are left.
    """
    limit = min(SWEEPS, options.max_iterations)
    if neuron is None and layer.code is not None:
        return _held(layer, vdd, inputs, tolerance, limit, keep=keep)
    state = SweepState(layer, vdd, len(inputs))
    count = len(inputs)
    solved = None if neuron is None else solve_neurons(inputs[:, None], neuron, None, options)
    lines = inputs if solved is None else solved.outputs[:, 0]
    state.begin(lines)
    roughly = replace(options, tolerance=max(options.tolerance, ROUGHLY))
    one_step = replace(options, max_iterations=1)
    status = torch.full((count,), int(Status.MAX_ITERATIONS), device=inputs.device)
    iterations = torch.zeros_like(status)
    size = torch.full_like(inputs[:, 0], torch.inf)
    rate = torch.ones_like(size)
    load = None
    for _ in range(limit):
        state.up()
        good = torch.ones(count, dtype=torch.bool, device=inputs.device)
        if neuron is not None and solved is not None:
            load = state.load()
            far = size > NEURONS_ALONE
            if bool(far.any()):
                # What is nearly solved must not end at what is rough.
                asked = roughly if bool(far.all()) else options
                solved = solve_neurons(inputs[:, None], neuron, load, asked, before=solved)
            else:
                equations = partial(neuron.linearise, inputs[:, None])
                solved, _ = iterate(equations, load, one_step, solved.outputs, solved.gates)
            lines = solved.outputs[:, 0]
            good = solved.status[:, 0] == int(Status.CONVERGED)
        before, size = size, state.down(lines)
        error, rate = left_over(size, before, rate)
        # Groups that are done have no new steps to be judged by.
        done = status == int(Status.CONVERGED)
        iterations += ~done
        status = torch.where(done, status, _status(good & (error <= tolerance), size))
        state.move(size)
        if not state.keep_working_on(status == int(Status.MAX_ITERATIONS)):
            break
    gates, residual = lines, torch.zeros_like(size)
    if neuron is not None and solved is not None and load is not None:
        gates = solved.gates[:, 0]
        residual = kirchhoff_residual(inputs[:, None], neuron, load, solved.gates, solved.outputs)
        residual = residual[:, 0]
    return Swept(
        lines, gates, state.images(state.ends).movedim(3, 0), state.currents(), status,
        torch.maximum(residual, state.moved()), iterations, size,
        state.voltages() if keep or bool((status != int(Status.CONVERGED)).any()) else None,
    )  # fmt: skip


def _held(
    layer: CurvedCells,
    vdd: Tensor,
    inputs: Tensor,
    tolerance: float,
    limit: int,
    *,
    keep: bool,
) -> Swept:
    """Lines that sources hold: every block by itself."""
    state = SweepState(layer, vdd, len(inputs), keep=keep)
    state.begin(inputs)
    state.up(limit, tolerance)
    error, size, count = (
        state.images(x).flatten(1).amax(-1) for x in (state.errors[0], state.sizes, state.counts)
    )
    return Swept(
        inputs, inputs, state.images(state.ends).movedim(3, 0), state.currents(),
        _status(error <= tolerance, size), state.moved(), count.to(torch.int64), size,
        state.voltages() if keep else None,
    )  # fmt: skip


def left_over(size: Tensor, before: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`imac_torch.kernels.sweeps.left_over`."""
    now = torch.where(torch.isfinite(before), size / before, 1.0)
    worst = torch.maximum(now, rate)
    return torch.where(worst < 0.5, size * worst / (1.0 - worst), size), now


def _status(good: Tensor, size: Tensor) -> Tensor:
    return torch.where(
        good,
        int(Status.CONVERGED),
        torch.where(torch.isfinite(size), int(Status.MAX_ITERATIONS), int(Status.NOT_FINITE)),
    )


class SweepState:
    """Voltages of all images as kernels have them, and what a sweep leaves."""

    def __init__(self, layer: CurvedCells, vdd: Tensor, count: int, *, keep: bool = True) -> None:
        from imac_torch.kernels.lanes import LANES

        self.layer, self.vdd, self.count = layer, vdd.detach(), count
        horizontal, vertical, rows, columns = layer.positive.shape
        self.blocks, self.groups = horizontal * vertical, -(-count // LANES)
        conductance = layer.cells.detach().flatten(1, 2).transpose(0, 1).contiguous()
        numbers, table = self.told()
        cell = np.array(numbers)
        none = np.empty((3, 3, 2)), np.empty(6)
        #: What kernels are told of cells and wires.
        self.known = (
            conductance.numpy(), self.scalars(layer), cell,
            *(none if table is None else table),
        )  # fmt: skip
        whole = self.blocks, self.groups
        held = whole if keep else (0, 0)
        self.inputs, self.behind, self.stars = np.empty((3, *held, rows, columns, LANES))
        self.lines = np.zeros((*held, 2, rows, columns, LANES))
        in_series = len(numbers) > 6
        self.nodes = np.zeros((*held, 2, rows if in_series else 0, columns, LANES))
        self.hubs = np.empty((*held, rows, LANES))
        self.ports = np.empty((*whole, columns, LANES))
        self.ends = np.empty((*whole, 2, rows, LANES))
        self.sizes, self.errors = np.empty((*whole, LANES)), np.empty((2, *whole, LANES))
        self.counts = np.ones((*whole, LANES))
        self.active = np.ones(self.groups, dtype=np.bool_)
        self.given = np.empty((*whole, 0, 2, 0, 0, LANES))

    def told(self) -> tuple[list[float], tuple[Array, Array] | None]:
        """What kernels are told of cells: V that no step is longer than, kinds, and tables."""
        cell = self.layer.cell
        return [cell.bend, *(cell.code or [])], cell.table

    @staticmethod
    def scalars(layer: CurvedCells) -> Array:
        """Of its wires, see :mod:`imac_torch.kernels.lines`."""
        return line_scalars(layer.wires).detach().numpy()

    def _grouped(self, inputs: Tensor) -> Array:
        """(B, C) → (N, G, K, L); the last image again where there are too few."""
        from imac_torch.kernels.lanes import LANES

        vertical = self.layer.positive.shape[1]
        blocks = self.layer.layout.gather_inputs(inputs)  # (B, H, K)
        missing = self.groups * LANES - self.count
        blocks = torch.cat([blocks, blocks[-1:].expand(missing, -1, -1)])
        blocks = blocks.unflatten(0, (self.groups, LANES)).permute(2, 0, 3, 1)
        return blocks.repeat_interleave(vertical, 0).contiguous().numpy()

    def images(self, values: Array) -> Tensor:
        """(N, G, ..., L) → (B, H, V, ...)."""
        found = torch.from_numpy(values).movedim(1, 0).movedim(-1, 1).flatten(0, 1)
        return found[: self.count].unflatten(1, self.layer.positive.shape[:2])

    def begin(self, lines: Tensor) -> None:
        """Lines driven with (B, N) V, and no current in any of them."""
        self.driven = self._grouped(self._with_bias(lines))
        if self.inputs.size:
            self.inputs[:] = self.driven[:, :, None]

    def _with_bias(self, lines: Tensor) -> Tensor:
        return torch.cat([lines, self.vdd.expand(len(lines), 1)], 1)

    def up(self, limit: int = 0, tolerance: float = 0.0) -> None:
        """See :func:`imac_torch.kernels.sweeps.sweep`."""
        from imac_torch.kernels.sweeps import sweep

        self.give()
        self._run(
            sweep, *self.known, self.driven, self.inputs, self.lines, self.nodes, self.given,
            self.behind, self.stars, self.hubs, self.ports, self.ends, self.sizes, self.errors,
            self.counts, limit, tolerance,
        )  # fmt: skip

    def _run(self, kernel: object, *arguments: object) -> None:
        tasks = self.blocks * self.groups
        run_blocks(kernel, tasks, torch.get_num_threads(), self.active, *arguments)  # type: ignore[arg-type]

    def give(self) -> None:
        """Currents of cells that kernels do not know."""
        if len(self.known[2]) > 1:
            return
        lines = torch.from_numpy(self.lines)
        across = torch.from_numpy(self.inputs)[:, :, None] - lines
        conductance = torch.from_numpy(self.known[0])[:, None, ..., None]
        cell = self.layer.cell
        found = cell.currents(
            conductance.expand_as(across), across, lines if cell.absolute else None
        )
        parts = [found.current, found.slope]
        if found.back is not None or found.leak is not None:
            into = found.current if found.leak is None else found.current + found.leak
            parts += [found.chord, into]
        self.given = torch.stack(torch.broadcast_tensors(*parts), 2).numpy()

    def load(self) -> Load:
        """What the lines draw from neurons, every image a sample."""
        layout = self.layer.layout
        star, hub = self.images(self.stars[:, :, 0]), self.images(self.hubs[:, :, 0])
        whole = star.sum(-1)  # (B, H, V)
        scaled = hub[..., None] * star
        admittance = torch.diag_embed(star.sum(2)) - torch.einsum("bhvk,bhvj->bhkj", scaled, star)
        drawn = self.images(self.ports).sum(2)
        before = self.images(self.driven)[:, :, 0]
        sources = drawn - (admittance @ before[..., None]).squeeze(-1)
        common = (scaled * whole[..., None]).sum(2)
        both = (hub * whole.square()).sum(2)[..., None]
        left = torch.where(both > 0.0, -common / both.clamp(min=1e-300), torch.zeros_like(both))
        return Load.of_blocks(layout, admittance, sources, self.vdd, (left, common))

    def down(self, lines: Tensor) -> Tensor:
        """Follow lines that are driven with (B, N) V; returns (B,) V, the longest step."""
        from imac_torch.kernels.sweeps import sweep_down

        self.target = self._grouped(self._with_bias(lines))
        self._run(
            sweep_down, float(self.known[1][0]), self.target - self.driven, self.behind,
            self.stars, self.hubs, self.sizes,
        )  # fmt: skip
        known = torch.from_numpy(self.ports).isfinite().all(2).all(0).flatten()
        size = torch.from_numpy(self.sizes).amax(0).flatten()
        return torch.where(known, size, torch.nan)[: self.count]

    def move(self, size: Tensor) -> None:
        """Take the steps, none longer than cells allow."""
        from imac_torch.kernels.lanes import LANES

        share = (float(self.known[2][0]) / size).clamp(max=1.0).nan_to_num(nan=0.0)
        missing = self.groups * LANES - self.count
        share = torch.cat([share, share[-1:].expand(missing)])
        factors = share.reshape(1, self.groups, 1, LANES).numpy()
        if bool((share < 1.0).any()):
            self.behind *= factors[:, :, None]
        for q in np.flatnonzero(self.active):
            self.inputs[:, q] += self.behind[:, q]
        self.driven += factors * (self.target - self.driven)

    def keep_working_on(self, left: Tensor) -> bool:
        """Groups of images with some of (B,) left; whether there is one."""
        from imac_torch.kernels.lanes import LANES

        padded = torch.nn.functional.pad(left, (0, self.groups * LANES - self.count))
        self.active = padded.unflatten(0, (self.groups, LANES)).any(1).numpy()
        return bool(self.active.any())

    def voltages(self) -> tuple[Tensor, Tensor]:
        """Across cells and of I± lines, (B, 2, H, V, R, K) V."""
        lines = self.images(self.lines).movedim(3, 1)
        return self.images(self.inputs)[:, None] - lines, lines

    def moved(self) -> Tensor:
        """(B,) A: what the last steps make in the lines that conduct best."""
        return self.images(self.errors[1] * self.sizes).flatten(1).amax(-1)

    def currents(self) -> Tensor:
        """(B, C) A into the lines."""
        return self.layer.layout.scatter_inputs(self.images(self.ports).sum(2))
