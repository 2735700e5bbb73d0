"""Gradients of layers of curved cells: the implicit function theorem along the iteration itself.

Where layers are solved by sweeps so is the transposed circuit (:mod:`imac_torch.dc.transposed`);
what is here serves the others, and vectors for which sweeps do not converge. A solution is a fixed
point z = F(z, θ) of the iteration in :mod:`imac_torch.dc.curved`, so that
dz/dθ = (1 - ∂F/∂z)⁻¹·∂F/∂θ, whatever conductances the chords have. Backwards this is the fixed
point of u ← (∂F/∂z)ᵀ·u + r, found as the solution was: with chords that all vectors share, and
where these do not converge with every vector's own slopes, for which ∂F/∂z is 0. Products with
∂F/∂z are those of automatic differentiation through one step (S. Bai, J. Z. Kolter and V. Koltun,
"Deep equilibrium models", NeurIPS 2019, do so for networks); nothing of the iteration is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from imac_torch.cells.parameters import cell_of_tensors
from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.dc.anderson import Anderson
from imac_torch.dc.layer import with_bias
from imac_torch.dc.newton import NewtonOptions, solve_loaded
from imac_torch.dc.sweeps import can_sweep
from imac_torch.dc.tangents import CurvedCells, Eliminated
from imac_torch.dc.transposed import SolvedLayer, swept_gradients
from imac_torch.errors import SolverError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.numeric.modes import differentiating
from imac_torch.periphery.neuron.circuit import NeuronCircuit

__all__ = ["attach_cells", "refuse_other_gradients"]

STEPS: Final = 60
"""Of the backward iteration with shared chords."""
TOLERANCE: Final = 1e-11
"""Of its last step, relative to what it started with."""


def refuse_other_gradients(spec: CrossbarSpec, vdd: Tensor) -> None:
    """Say that gradients are by inputs, conductances and numbers of devices.

    Raises:
        SolverError: The supply or a wire requires a gradient.
    """
    others = {
        "the supply": vdd, "segments of input lines": spec.input_segment,
        "segments of output lines": spec.output_segment,
    }  # fmt: skip
    for name, tensor in others.items():
        if tensor.requires_grad and torch.is_grad_enabled():
            raise SolverError(
                "layers of curved cells have gradients by inputs, conductances and numbers of "
                f"devices, not by {name}"
            )


def attach_cells(
    spec: CrossbarSpec,
    vdd: Tensor,
    options: NewtonOptions,
    neuron: NeuronCircuit | None,
    size: int,
    sources: Tensor,
    solved: SolvedLayer,
    combined: Tensor,
) -> tuple[Tensor, Tensor]:
    """Make a solution differentiable.

    Args:
        spec: Crossbars of one sample, conductances with their graph.
        vdd: V, on the bias line.
        options: Of the neurons' solution.
        neuron: That drives the lines; None: sources do.
        size: Vectors at a time.
        sources: (B, N) V, with their graph: on the lines, or combined read-outs before.
        solved: The solution.
        combined: (B, M) V that its read-outs combine to.
    """

    def swept(
        cells: CurvedCells, sources: Tensor, piece: Tensor, gradients: tuple[Tensor, Tensor]
    ) -> Tensor | None:
        if not can_sweep(cells):
            return None
        return swept_gradients(cells, neuron, solved[piece], sources, gradients)

    def parts(
        cells: CurvedCells, known: Eliminated, sources: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _step(cells, known, vdd.detach(), options, neuron, sources, state)

    pair, state = spec.conductances, solved.state
    if not spec.read_out.ideal:
        state = CurvedCells(spec).packed(state, solved.ends)
    found: tuple[Tensor, Tensor] = _Implicit.apply(
        parts, swept, spec, size, state, solved.lines, combined,
        sources, pair.positive, pair.negative, *spec.numbers.values(),
    )
    return found


def _step(
    cells: CurvedCells,
    known: Eliminated,
    vdd: Tensor,
    options: NewtonOptions,
    neuron: NeuronCircuit | None,
    sources: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Voltages of lines, combined ones and the next state, all differentiable."""
    state, injected = cells.unpacked(state)
    tangents = known.tangents(cells.currents(state), state[:, 0], injected)
    lines = sources
    if neuron is not None:
        load = tangents.load(known.load(vdd))
        lines = solve_loaded(sources[:, None], neuron, load, options).outputs[:, 0]
    found = tangents.follow(with_bias(lines, vdd))
    read_out = cells.spec.read_out
    ends, real = cells.ends(found), cells.amplifiers
    own = read_out.output(*ends) if real is None else read_out.join(real.outputs(ends))
    return lines, read_out.combination.of_partitions(own), cells.packed(found.state, ends)


class _Implicit(torch.autograd.Function):
    """A solution in value, a fixed point in derivative."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's signature
        step: Callable[[CurvedCells, Eliminated, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
        swept: Callable[[CurvedCells, Tensor, Tensor, tuple[Tensor, Tensor]], Tensor | None],
        spec: CrossbarSpec,
        size: int,
        state: Tensor,
        lines: Tensor,
        combined: Tensor,
        sources: Tensor,
        positive: Tensor,
        negative: Tensor,
        *numbers: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.step, ctx.swept, ctx.spec, ctx.size = step, swept, spec, size
        ctx.save_for_backward(state, sources, positive, negative, *numbers)
        return lines.clone(), combined.clone()

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, lines: Tensor, combined: Tensor  # noqa: ANN401 - torch's signature
    ) -> tuple[Tensor | None, ...]:
        state, sources, *of_cells = ctx.saved_tensors
        by_sources, by_cells = [], [torch.zeros_like(item) for item in of_cells]
        for piece in torch.arange(len(sources), device=sources.device).split(ctx.size):
            found = _backward(
                ctx.step, partial(ctx.swept, piece=piece), ctx.spec, state[piece], sources[piece],
                of_cells, (lines[piece], combined[piece]),
            )  # fmt: skip
            by_sources.append(found[0])
            for total, part in zip(by_cells, found[1:], strict=True):
                total += part
        return (*[None] * 7, torch.cat(by_sources), *by_cells)


def _backward(
    step: Callable[[CurvedCells, Eliminated, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    swept: Callable[..., Tensor | None],
    spec: CrossbarSpec,
    state: Tensor,
    sources: Tensor,
    of_cells: Sequence[Tensor],
    gradients: tuple[Tensor, Tensor],
) -> tuple[Tensor, ...]:
    """Gradients by sources, by conductances of both sides and by numbers of cells."""
    with differentiating():
        asked = [item.detach().requires_grad_() for item in (sources, *of_cells)]
        numbers = dict(zip(spec.numbers, asked[3:], strict=True))
        assert spec.cell is not None  # noqa: S101 - ohmic layers go another way
        cell = cell_of_tensors(spec.cell, numbers) if numbers else spec.cell
        cells = CurvedCells(replace(spec, conductances=ConductancePair(*asked[1:3]), cell=cell))
        total = swept(cells, asked[0], gradients=gradients)
        if total is not None:
            return tuple(_product([total], asked, [torch.ones_like(total)]))
        slopes = cells.currents(cells.unpacked(state)[0]).chord.detach()
        for known in (slopes.mean(0, keepdim=True), slopes):
            at = state.detach().requires_grad_()
            eliminated = cells.eliminate(known)
            lines, combined, following = step(cells, eliminated, asked[0], at)
            outputs = [lines, combined]
            # A line that sources drive does not depend on the cells.
            right = _product(outputs, [at], list(gradients))[0]
            through = _fixed_point(following, at, right)
            if through is not None:
                break
        else:
            raise SolverError("gradients of curved cells did not converge")
        found = _product([*outputs, following], asked, [*gradients, through])
    return tuple(found)


def _fixed_point(following: Tensor, at: Tensor, right: Tensor) -> Tensor | None:
    """U = (∂following/∂at)ᵀ·u + right for every vector; None: it was not found."""
    found, acceleration = right, Anderson()
    limit = TOLERANCE * right.flatten(1).abs().amax(-1)
    for _ in range(STEPS):
        step = _product([following], [at], [found])[0] + right - found
        size = step.flatten(1).abs().amax(-1)
        if not bool((size > limit).any()):
            return found + step
        if not bool(torch.isfinite(size).all()):
            return None
        found = found + acceleration.step(found.flatten(1), step.flatten(1)).reshape(found.shape)
    return None


def _product(outputs: list[Tensor], inputs: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Gradients of outputs that have some, zeros where there is no way."""
    pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
    values = torch.autograd.grad(
        [item for item, _ in pairs], inputs, [item for _, item in pairs],
        retain_graph=True, allow_unused=True,
    )  # fmt: skip
    return [
        torch.zeros_like(item) if value is None else value
        for item, value in zip(inputs, values, strict=True)
    ]
