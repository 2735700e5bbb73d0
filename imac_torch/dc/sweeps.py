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

__all__ = ["Swept", "can_sweep", "sweep", "sweep_bytes"]

SWEEPS: Final = 60
"""Up and down, before another method is tried."""
NEURONS_ALONE: Final = 1e-2
"""V. Where steps are longer neurons are solved for every load; then they make one step, too."""
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
        state: What else there is.
    """

    inputs: Tensor
    gates: Tensor
    ends: Tensor
    currents: Tensor
    status: Tensor
    residual: Tensor
    iterations: Tensor
    state: SweepState

    def voltages(self) -> tuple[Tensor, Tensor]:
        """(B, 2, H, V, R, K) V across the cells, and of the I± lines there."""
        return self.state.voltages()

    def cells(self) -> Tensor:
        """(B, Q, 2, H, V, R, K) V, see :class:`imac_torch.dc.tangents.FoundCells`."""
        across, lines = self.voltages()
        absolute = self.state.layer.cell.absolute
        return torch.stack([across, lines] if absolute else [across], dim=1)


def can_sweep(layer: CurvedCells) -> bool:
    """Whether compiled kernels can be used here: float64 on the CPU, and numba."""
    return choose_kernel("auto", layer.positive) == "numba"


def sweep_bytes(layer: CurvedCells) -> int:
    """What one input vector takes."""
    horizontal, _, _, columns = layer.positive.shape
    arrays = ARRAYS + (GIVEN if layer.code is None else 0)
    return 8 * (arrays * layer.positive.numel() + 4 * horizontal * columns**2)


def sweep(
    layer: CurvedCells,
    vdd: Tensor,
    options: NewtonOptions,
    inputs: Tensor,
    neuron: NeuronCircuit | None,
    tolerance: float,
) -> Swept:
    """Sweep until steps are below ``tolerance`` (V).

    Args:
        layer: The crossbar.
        vdd: V, on the bias line.
        options: Of the neurons' solution, and the limit of steps.
        inputs: (B, N) V: of sources on the lines, or combined read-outs before.
        neuron: That drives the lines; None: sources do.
        tolerance: V, of the longest step anywhere.
    """
    state = SweepState(layer, vdd, len(inputs))
    count = len(inputs)
    gates = lines = inputs
    if neuron is not None:
        solved = solve_neurons(inputs[:, None], neuron, None, options)
        lines = solved.outputs[:, 0]
    state.begin(lines)
    one_step = replace(options, max_iterations=1)
    status = torch.full((count,), int(Status.MAX_ITERATIONS), device=inputs.device)
    iterations = torch.zeros_like(status)
    residual = torch.zeros_like(inputs[:, 0])
    size = torch.full_like(residual, torch.inf)
    for _ in range(min(SWEEPS, options.max_iterations)):
        state.up()
        good = torch.ones(count, dtype=torch.bool, device=inputs.device)
        if neuron is not None:
            load = state.load()
            if bool((size > NEURONS_ALONE).any()):
                solved = solve_neurons(inputs[:, None], neuron, load, options)
            else:
                equations = partial(neuron.linearise, inputs[:, None])
                solved, _ = iterate(equations, load, one_step, solved.outputs, solved.gates)
            lines = solved.outputs[:, 0]
            good = solved.status[:, 0] == int(Status.CONVERGED)
        size = state.down(lines)
        iterations += status != int(Status.CONVERGED)
        good &= size <= tolerance
        status = torch.where(
            good,
            int(Status.CONVERGED),
            torch.where(torch.isfinite(size), int(Status.MAX_ITERATIONS), int(Status.NOT_FINITE)),
        )
        state.move(size)
        if not state.keep_working_on(status == int(Status.MAX_ITERATIONS)):
            break
    if neuron is not None:
        gates = solved.gates[:, 0]
        residual = kirchhoff_residual(inputs[:, None], neuron, load, solved.gates, solved.outputs)
        residual = residual[:, 0]
    return Swept(
        lines, gates, state.found_ends(), state.currents(), status,
        torch.maximum(residual, state.uncertainty(size)), iterations, state,
    )  # fmt: skip


class SweepState:
    """Voltages of all images as kernels have them, and what a sweep leaves."""

    def __init__(self, layer: CurvedCells, vdd: Tensor, count: int) -> None:
        from imac_torch.kernels.cells import LANES

        self.layer, self.vdd, self.count = layer, vdd.detach(), count
        horizontal, vertical, rows, columns = layer.positive.shape
        self.blocks, self.groups = horizontal * vertical, -(-count // LANES)
        self.conductance: Array = layer.cells.detach().flatten(1, 2).contiguous().numpy()
        self.scalars: Array = line_scalars(layer.wires).detach().numpy()
        shape = (self.blocks, self.groups, rows, columns, LANES)
        self.lines = np.zeros((2, *shape))
        self.behind, self.stars = np.empty(shape), np.empty(shape)
        self.hubs = np.empty((*shape[:3], LANES))
        self.ports = np.empty((*shape[:2], columns, LANES))
        self.ends = np.empty((2, *shape[:3], LANES))
        self.sizes = np.empty((*shape[:2], LANES))
        self.active = np.ones(self.groups, dtype=np.bool_)
        code = layer.code
        self.cell: Array = np.array([layer.cell.bend, *(code or [])])
        in_series = code is not None and len(code) > 5
        self.nodes = np.zeros((2, *shape)) if in_series else np.empty((0,) * 6)
        self.given = np.empty((0,) * 7)

    def _grouped(self, inputs: Tensor) -> Array:
        """(B, C) → (N, G, K, L); the last image again where there are too few."""
        from imac_torch.kernels.cells import LANES

        vertical = self.layer.positive.shape[1]
        blocks = self.layer.layout.gather_inputs(inputs)  # (B, H, K)
        missing = self.groups * LANES - self.count
        blocks = torch.cat([blocks, blocks[-1:].expand(missing, -1, -1)])
        blocks = blocks.unflatten(0, (self.groups, LANES)).permute(2, 0, 3, 1)
        return blocks.repeat_interleave(vertical, 0).contiguous().numpy()

    def _images(self, values: Array, first: int) -> Tensor:
        """(..., N, G, ..., L) → (..., H, V, ..., B) moved to (B, ...); N is dimension ``first``."""
        found = torch.from_numpy(values).movedim(first + 1, 0).movedim(-1, 1).flatten(0, 1)
        sizes = self.layer.positive.shape[:2]
        return found[: self.count].unflatten(first + 1, sizes)

    def begin(self, lines: Tensor) -> None:
        """Lines driven with (B, N) V, and no current in any of them."""
        self.driven = self._grouped(self._with_bias(lines))
        rows = self.behind.shape[2]
        self.inputs = np.repeat(self.driven[:, :, None], rows, axis=2)

    def _with_bias(self, lines: Tensor) -> Tensor:
        return torch.cat([lines, self.vdd.expand(len(lines), 1)], 1)

    def up(self) -> None:
        """See :func:`imac_torch.kernels.cells.sweep_up`."""
        from imac_torch.kernels.cells import sweep_up

        if self.layer.code is None:
            self._give()
        self._run(
            sweep_up, self.conductance, self.scalars, self.cell, self.driven, self.inputs,
            self.lines, self.nodes, self.given, self.behind, self.stars, self.hubs, self.ports,
            self.ends, self.sizes,
        )  # fmt: skip

    def _run(self, kernel: object, *arguments: object) -> None:
        tasks = self.blocks * self.groups
        run_blocks(kernel, tasks, torch.get_num_threads(), self.active, *arguments)  # type: ignore[arg-type]

    def _give(self) -> None:
        """Currents of cells that kernels do not know."""
        lines = torch.from_numpy(self.lines)
        across = torch.from_numpy(self.inputs) - lines
        conductance = torch.from_numpy(self.conductance)[:, :, None, :, :, None]
        cell = self.layer.cell
        found = cell.currents(
            conductance.expand_as(across), across, lines if cell.absolute else None
        )
        parts = [found.current, found.slope]
        if found.back is not None or found.leak is not None:
            into = found.current if found.leak is None else found.current + found.leak
            parts += [found.chord, into]
        self.given = torch.stack(torch.broadcast_tensors(*parts)).numpy()

    def load(self) -> Load:
        """What the lines draw from neurons, every image a sample."""
        layout = self.layer.layout
        star, hub = self._images(self.stars[:, :, 0], 0), self._images(self.hubs[:, :, 0], 0)
        whole = star.sum(-1)  # (B, H, V)
        scaled = hub[..., None] * star
        admittance = torch.diag_embed(star.sum(2)) - torch.einsum("bhvk,bhvj->bhkj", scaled, star)
        drawn = self._images(self.ports, 0).sum(2)
        before = self._images(self.driven, 0)[:, :, 0]
        sources = drawn - (admittance @ before[..., None]).squeeze(-1)
        common = (scaled * whole[..., None]).sum(2)
        both = (hub * whole.square()).sum(2)[..., None]
        left = torch.where(both > 0.0, -common / both.clamp(min=1e-300), torch.zeros_like(both))
        return Load.of_blocks(layout, admittance, sources, self.vdd, (left, common))

    def down(self, lines: Tensor) -> Tensor:
        """Follow lines that are driven with (B, N) V; returns (B,) V, the longest step."""
        from imac_torch.kernels.cells import sweep_down

        self.target = self._grouped(self._with_bias(lines))
        self._run(
            sweep_down, float(self.scalars[0]), self.target - self.driven, self.behind, self.stars,
            self.hubs, self.sizes,
        )  # fmt: skip
        known = torch.from_numpy(self.ports).isfinite().all(2).all(0).flatten()
        size = torch.from_numpy(self.sizes).amax(0).flatten()
        return torch.where(known, size, torch.nan)[: self.count]

    def move(self, size: Tensor) -> None:
        """Take the steps, none longer than cells allow."""
        from imac_torch.kernels.cells import LANES

        share = (self.layer.cell.bend / size).clamp(max=1.0).nan_to_num(nan=0.0)
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
        from imac_torch.kernels.cells import LANES

        padded = torch.nn.functional.pad(left, (0, self.groups * LANES - self.count))
        self.active = padded.unflatten(0, (self.groups, LANES)).any(1).numpy()
        return bool(self.active.any())

    def voltages(self) -> tuple[Tensor, Tensor]:
        """Across cells and of I± lines, (B, 2, H, V, R, K) V."""
        lines = self._images(self.lines, 1)
        return self._images(self.inputs, 0)[:, None] - lines, lines

    def found_ends(self) -> Tensor:
        """(2, B, H, V, R) V."""
        return self._images(self.ends, 1).movedim(1, 0)

    def currents(self) -> Tensor:
        """(B, C) A into the lines."""
        return self.layer.layout.scatter_inputs(self._images(self.ports, 0).sum(2))

    def uncertainty(self, size: Tensor) -> Tensor:
        """(B,) A: what the last step makes in the lines that conduct best."""
        return size * self._images(self.stars[:, :, 0], 0).flatten(1).amax(-1)

