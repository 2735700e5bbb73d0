"""The native engine: exact DC solution of the netlist's circuit, batched in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.circuit.engine import BoundEngine, Engine, Solvable
from imac_torch.dc.clamped import refuse_amplifiers
from imac_torch.dc.few import FEW, Few
from imac_torch.dc.layer import PreparedLayer
from imac_torch.dc.load import Load
from imac_torch.dc.network import chain_layers, solve_dc
from imac_torch.dc.newton import NewtonOptions, solve_loaded
from imac_torch.elimination.choice import EliminationInfo, Kernel, Method
from imac_torch.elimination.ports import PortNetwork, eliminate_layer
from imac_torch.errors import SolverError
from imac_torch.kernels import choose_kernel
from imac_torch.numeric.budget import fitting, image_bytes, require_memory
from imac_torch.numeric.modes import ordinary
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.behavioural import BehaviouralCore
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.results.solution import Solution, Status, concatenate, replace_samples

Eliminated: TypeAlias = "tuple[PortNetwork | CrossbarSpec, EliminationInfo]"


@dataclass(frozen=True)
class Prepared:
    """A network eliminated to its ports.

    Attributes:
        layers: One by one.
        exact: The same with exact device models instead of tables.
        methods: What eliminated each layer.
    """

    layers: tuple[PreparedLayer, ...]
    exact: tuple[PreparedLayer, ...]
    methods: tuple[EliminationInfo, ...]

    @cached_property
    def few(self) -> dict[object, Few | None]:
        """For a few images, by what solves; None: they are solved like many."""
        return {}


@dataclass(frozen=True)
class Native(Engine):
    """Settings of the native engine.

    Attributes:
        method: Elimination: ``rows``, ``tiles`` or ``auto``.
        kernel: ``numba`` (compiled, CPU), ``torch`` (any device) or ``auto``.
        device_model: ``table`` (bicubic spline of the transistors, 4 nV rms from the model) or
            ``exact``.
        newton: Tolerance and limit of Newton's method.
        batch_size: Samples solved at a time, which bounds memory; fewer where less is free.
    """

    name = "native"
    measures_time = True

    method: Method = "auto"
    kernel: Kernel = "auto"
    device_model: str = "table"
    newton: NewtonOptions = field(default_factory=NewtonOptions)
    batch_size: int = 16384

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            SolverError: One is not valid.
        """
        if self.device_model not in {"table", "exact"}:
            raise SolverError(f"device_model = {self.device_model!r}: 'table' or 'exact'")
        if self.batch_size < 1:
            raise SolverError(f"batch_size = {self.batch_size} must be at least 1")

    def bind(self, segment: Solvable) -> BoundNative:
        """See :class:`Engine`."""
        return BoundNative(self, segment.kept(self, lambda: self._prepared(segment)))

    @ordinary()
    def _prepared(self, segment: Solvable) -> Prepared:
        """Built anew, but for layers whose conductances are what they were."""
        parts = segment.parts()
        found = []
        for k, (crossbar, _) in enumerate(parts):
            exact = crossbar.cell is not None and self.device_model == "exact"
            settings = self.method, self.kernel, exact
            pair, real = crossbar.conductances, crossbar.read_out.imperfections
            tensors = (pair.positive, pair.negative, *(() if real is None else (real.offsets,)))
            found.append(
                segment.kept_of(k, settings, tensors, partial(self.eliminate, crossbar))
            )
        return self.prepare(parts, found)

    @ordinary()
    def prepare(
        self,
        layers: Sequence[tuple[CrossbarSpec, NeuronSpec]],
        eliminated: Sequence[Eliminated] | None = None,
    ) -> Prepared:
        """Eliminate the layers' crossbars and build their neurons.

        Args:
            layers: In order.
            eliminated: What :meth:`eliminate` gave for the crossbars, where that is known.
        """
        if not layers:
            raise SolverError("a circuit has at least one layer")
        if eliminated is None:
            eliminated = [self.eliminate(crossbar) for crossbar, _ in layers]
        neurons = [self._neurons(crossbar, spec) for crossbar, spec in layers]
        first = layers[0]
        vdd = torch.tensor(first[1].vdd, dtype=torch.float64, device=first[0].input_segment.device)
        chained = chain_layers(
            [
                (crossbar, neuron)
                for (crossbar, _), (neuron, _) in zip(eliminated, neurons, strict=True)
            ],
            vdd,
        )
        exact = tuple(
            replace(layer, neuron=model)
            for layer, (_, model) in zip(chained, neurons, strict=True)
        )
        return Prepared(chained, exact, tuple(info for _, info in eliminated))

    def eliminate(self, crossbar: CrossbarSpec) -> Eliminated:
        """One layer's ports, or (curved cells) itself, and how it is eliminated."""
        if crossbar.cell is not None:
            refuse_amplifiers(crossbar)
            if self.device_model == "exact":
                crossbar = replace(crossbar, cell=crossbar.cell.exact())
            kernel = choose_kernel("auto", crossbar.conductances.positive)
            kernel = kernel if crossbar.read_out.ideal else "torch"
            method: Literal["sweeps", "tangents"] = "sweeps" if kernel == "numba" else "tangents"
            return crossbar, EliminationInfo(method, kernel)
        return eliminate_layer(crossbar, method=self.method, kernel=self.kernel)

    def _neurons(
        self, crossbar: CrossbarSpec, spec: NeuronSpec
    ) -> tuple[NeuronCircuit, NeuronCircuit]:
        """A layer's neurons as they are solved, and with the exact device model."""
        device = crossbar.input_segment.device
        model = spec.model.core(spec, device=device)
        exact = self.device_model == "exact"
        core = model if exact else spec.model.tabulated_core(spec, device=device)
        neuron = NeuronCircuit.of(
            spec, core, crossbar.read_out.combination.series_resistance
        )
        return neuron, replace(neuron, core=model)

    @ordinary()
    def solve(
        self,
        prepared: Prepared,
        inputs: Tensor,
        *,
        power: bool = True,
        noise: Sequence[Tensor] | None = None,
    ) -> Solution:
        """Solve input voltages (B, N), in batches of bounded size.

        Samples that leave the tabulated range of a device are solved again with the exact model;
        outside the range of that one (a characterised sub-circuit has no other) they fail with
        ``Status.OUTSIDE``.

        Args:
            prepared: The circuit.
            inputs: (B, N) V.
            power: Whether to compute powers.
            noise: (B, M) V each, see :func:`imac_torch.dc.network.solve_dc`; of ohmic cells.

        Raises:
            SolverMemoryError: All voltages together take more memory than is free.
        """
        if noise is None and (found := self._solve_few(prepared, inputs, power)) is not None:
            return found
        size = self._fitting(prepared, inputs)
        batches = inputs.split(size)
        parts: list[Sequence[Tensor] | None] = [None] * len(batches)
        if noise is not None:
            parts = [*zip(*(part.split(size) for part in noise), strict=True)]
        return concatenate(
            [
                self._solve(prepared, batch, power=power, noise=part)
                for batch, part in zip(batches, parts, strict=True)
            ]
        )

    def _solve_few(self, prepared: Prepared, inputs: Tensor, power: bool) -> Solution | None:
        """A few images at a time; None where that is not how they are solved."""
        tracked = inputs.requires_grad and torch.is_grad_enabled()
        plain = inputs.dtype == torch.float64 and inputs.device.type == "cpu" and inputs.ndim == 2
        if tracked or not plain or not 0 < len(inputs) <= FEW:
            return None
        few = self.few(prepared)
        if few is None or inputs.shape[1] != prepared.layers[0].shape[2] - 1:
            return None
        return few.solve(inputs.detach(), power=power)

    @ordinary()
    def few(self, prepared: Prepared) -> Few | None:
        """What solves a few images; None: they are solved like many."""
        if self not in prepared.few:
            prepared.few.clear()
            prepared.few[self] = Few.of(prepared.layers, self.newton)
        return prepared.few[self]

    def neuron_outputs(self, prepared: Prepared, layer: int, combined: Tensor) -> Tensor:
        """Outputs of one layer's neurons, loaded by the next layer.

        Args:
            prepared: Of ohmic cells.
            layer: Which one.
            combined: (B, M) V, what the neurons are driven with.

        Returns:
            (B, M) V, NaN in samples that do not converge.
        """
        both = prepared.layers[layer], prepared.exact[layer]
        return self._outputs([(item.neuron, item.load) for item in both], combined)

    def unloaded_outputs(
        self, neuron: NeuronCircuit, exact: NeuronCircuit, combined: Tensor
    ) -> Tensor:
        """Outputs of neurons of one kind that drive nothing, each on its own.

        Args:
            neuron: As they are solved.
            exact: The same with the exact device model.
            combined: V, what they are driven with, any shape and type.

        Returns:
            V, likewise, solved in float64; NaN where one does not converge.
        """
        models = [(neuron, None), (exact, None)]
        flat = combined.to(torch.float64).reshape(-1, 1)
        found = [self._outputs(models, part) for part in flat.split(self.batch_size)]
        return torch.cat(found).reshape(combined.shape).to(combined.dtype)

    def _outputs(
        self, models: Sequence[tuple[NeuronCircuit, Load | None]], combined: Tensor
    ) -> Tensor:
        """(B, M) V of the first model in whose range a sample is, NaN where there is none."""
        outputs = torch.full_like(combined, torch.nan)
        left = torch.arange(len(combined), device=combined.device)
        for neuron, load in models:
            solved = solve_loaded(combined[None, left], neuron, load, self.newton)
            good = neuron.core.inside(solved.gates, solved.outputs).all(-1)[0]
            good = good & (solved.status[0] == int(Status.CONVERGED))
            outputs[left[good]] = solved.outputs[0, good]
            left = left[~good]
            if len(left) == 0:
                break
        return outputs

    def _fitting(self, prepared: Prepared, inputs: Tensor) -> int:
        """Images to solve at a time: ``batch_size``, or fewer where less memory is free."""
        each, kept = 0, 0
        for layer in prepared.layers:
            count, outputs, lines = layer.shape
            samples = count or 1
            each += samples * (image_bytes(outputs, lines) + layer.image_bytes)
            kept += samples * 16 * (3 * outputs + lines)  # in parts, and joined
        require_memory(
            len(inputs) * kept,
            f"keeping all voltages of {len(inputs)} images",
            "solve fewer images, or samples, at once",
            inputs.device,
        )
        return min(self.batch_size, fitting(len(inputs), each, inputs.device))

    def _solve(
        self, prepared: Prepared, inputs: Tensor, *, power: bool, noise: Sequence[Tensor] | None
    ) -> Solution:
        solution = solve_dc(prepared.layers, inputs, options=self.newton, power=power, noise=noise)
        if self.device_model == "exact":
            return _outside_fail(solution, prepared.exact)
        again = _any_sample(_outside(solution, prepared.layers) | ~solution.converged)
        if not bool(again.any()):
            return solution
        # Nothing is found for inputs that are no numbers, and the model takes seconds to say so.
        again = again & inputs.isfinite().all(-1)
        if not bool(again.any()):
            return solution
        index = torch.nonzero(again).squeeze(1)
        noise = None if noise is None else [part[index] for part in noise]
        exact = solve_dc(
            prepared.exact, inputs[index], options=self.newton, power=power, noise=noise
        )
        return replace_samples(solution, index, _outside_fail(exact, prepared.exact))


@dataclass(frozen=True)
class BoundNative(BoundEngine):
    """The native engine with an eliminated circuit."""

    engine: Native
    prepared: Prepared

    def solve(
        self, inputs: Tensor, *, power: bool = True, noise: Sequence[Tensor] | None = None
    ) -> Solution:
        """See :class:`BoundEngine`; with noise as :meth:`Native.solve` takes it."""
        return self.engine.solve(self.prepared, inputs, power=power, noise=noise)

    def description(self) -> dict[str, str]:
        """See :class:`BoundEngine`."""
        methods = sorted({f"{info.method} ({info.kernel})" for info in self.prepared.methods})
        return {
            "name": self.engine.name,
            "elimination": ", ".join(methods),
            "device model": self.engine.device_model,
            "Newton tolerance": f"{self.engine.newton.tolerance:g} V",
        }


def _outside(solution: Solution, layers: Sequence[PreparedLayer]) -> Tensor:
    """(…, B): whether a neuron of a sample left the range of its model."""
    outside = torch.zeros_like(solution.converged)
    if outside.numel() == 0:
        return outside
    for layer, found in zip(layers, solution.layers, strict=True):
        core = layer.neuron.core
        if isinstance(core, BehaviouralCore):
            continue  # it is everywhere, and what is not finite has its status
        # The corners of what occurs are inside for almost every batch: one look decides.
        gates, outputs = (
            torch.stack(item.detach().aminmax()) for item in (found.gates, found.outputs)
        )
        if not bool(core.inside(gates, outputs).all()):
            outside = outside | ~core.inside(found.gates, found.outputs).all(dim=-1)
    return outside


def _any_sample(marked: Tensor) -> Tensor:
    """(B,): marked in any of the conductance samples."""
    return marked if marked.ndim == 1 else marked.flatten(0, -2).any(dim=0)


def _outside_fail(solution: Solution, layers: Sequence[PreparedLayer]) -> Solution:
    outside = _outside(solution, layers) & solution.converged
    if not bool(outside.any()):
        return solution
    return replace(
        solution,
        outputs=torch.where(outside[..., None], torch.nan, solution.outputs),
        status=torch.where(outside, int(Status.OUTSIDE), solution.status),
    )
