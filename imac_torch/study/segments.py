"""What the circuits of a model do in a run: how often they are used, how far off they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from imac_torch.conversion.handlers.attention import Attention
from imac_torch.conversion.handlers.recurrent import Recurrent
from imac_torch.errors import DataError, ImacError, SolverError
from imac_torch.model.noisy import Heard
from imac_torch.model.segment import Segment
from imac_torch.model.walk import ROWS, Drawn, places
from imac_torch.numeric.modes import lasting
from imac_torch.reports.area import Area, AreaModel, area_model, layer_area, layer_shape
from imac_torch.reports.model_report import SegmentFigures
from imac_torch.reports.power import Counted
from imac_torch.study.settling import settling
from imac_torch.transient.options import TimingOptions

COMPARED: Final = 256
"""Samples of a run on which circuits are compared with their software layers."""


@dataclass
class Traffic:
    """What has gone through one circuit.

    Attributes:
        drawn: Some input vectors.
        uses: Input vectors.
        calls: Input vectors per sample in every call of the last run of the model.
        pending: Input vectors of all samples in calls of a run that has not ended yet.
        squares: Sums over compared outputs: of the squared difference, of the software values,
            of their squares; and how many there were.
    """

    drawn: Drawn
    uses: int = 0
    calls: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    squares: tuple[float, float, float, int] = (0.0, 0.0, 0.0, 0)

    def see(self, segment: Segment, x: Tensor, output: Tensor, *, compare: bool) -> None:
        """Take note of one call.

        Args:
            segment: Which one it is.
            x: Its inputs.
            output: What it gave.
            compare: Whether to compare that with software.
        """
        self.drawn.see(segment.positions, x)
        self.pending.append(places(segment.positions, x))
        if compare:
            wanted = segment.software(x.detach())[-1].to(torch.float64)
            off = output.detach().to(torch.float64) - wanted
            good = off.isfinite()
            off, wanted = off[good], wanted[good]
            found = (off.square().sum(), wanted.sum(), wanted.square().sum())
            error, total, squares, count = self.squares
            error, total, squares = (
                old + float(new)
                for old, new in zip((error, total, squares), found, strict=True)
            )
            self.squares = (error, total, squares, count + wanted.numel())

    def end(self, samples: int) -> None:
        """A run of so many samples has ended."""
        self.uses += sum(self.pending)
        self.calls = [-(-count // samples) for count in self.pending]

    @property
    def error(self) -> float:
        """See :attr:`SegmentFigures.error`."""
        error, total, squares, count = self.squares
        if count == 0:
            return math.nan
        variance = squares / count - (total / count) ** 2
        return math.sqrt(error / count / variance) if variance > 1e-24 * squares / count else (
            math.nan
        )


class Watch:
    """Watches the circuits of a model."""

    def __init__(self, model: nn.Module, segments: Mapping[str, Segment]) -> None:
        self.model, self.segments = model, segments
        generator = torch.Generator().manual_seed(0)  # the same run gives the same figures
        self.traffic = {path: Traffic(Drawn(ROWS, generator)) for path in segments}
        self.samples = 0
        self.heard: Mapping[str, Heard] = {}

    @contextmanager
    def batch(self, samples: int, inputs: Tensor | None) -> Iterator[None]:
        """While the model runs on one batch.

        Args:
            samples: In it.
            inputs: The first of its tensors, whose first dimension is to count them; None: it does,
                as outputs and labels have shown.

        Raises:
            DataError: It does not.
        """
        compare = self.samples < COMPARED
        for traffic in self.traffic.values():
            traffic.pending = []

        def hook(path: str) -> Any:  # noqa: ANN401 - torch's type of hooks
            def see(segment: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
                assert isinstance(segment, Segment)  # noqa: S101 - narrows the type only
                if segment.ranging:
                    return
                x = arguments[0]
                if (
                    inputs is not None and x.numel() == inputs.numel()
                    and not segment.positions.batched(x)
                ):  # fmt: skip
                    raise DataError(
                        f"{path} gets a single sample {tuple(x.shape)}, of inputs "
                        f"{tuple(inputs.shape)}: samples are counted in the first dimension, give "
                        "batches (inputs[None])"
                    )
                with lasting():
                    self.traffic[path].see(segment, x, output, compare=compare)

            return see

        def ordered(path: str) -> Any:  # noqa: ANN401
            def check(module: nn.Module, arguments: tuple[Any, ...], named: Any) -> None:  # noqa: ANN401
                assert isinstance(module, Recurrent | Attention)  # noqa: S101 - likewise
                assert inputs is not None  # noqa: S101 - nobody asks then
                x = next(iter((*arguments, *named.values())))
                several = x.dim() > 2
                first = len(x) == samples and not (several and module.batch_first)
                if first and not (several and x.shape[1] == samples):
                    raise DataError(
                        f"{path or 'the model'} ({module.stands_for}) takes {tuple(x.shape)}, "
                        f"time first, and inputs {tuple(inputs.shape)} have as much in their first "
                        "dimension, in which samples are counted: let samples come first (a module "
                        "around the model that transposes)"
                    )

            return check

        handles = [
            segment.register_forward_hook(hook(path)) for path, segment in self.segments.items()
        ]
        handles += [
            part.register_forward_pre_hook(ordered(path), with_kwargs=True)
            for path, part in self.model.named_modules()
            if inputs is not None and isinstance(part, Recurrent | Attention)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for traffic in self.traffic.values():
            traffic.end(samples)
        self.samples += samples

    @lasting()
    def figures(
        self,
        area: AreaModel | str,
        timing: TimingOptions | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> tuple[SegmentFigures, ...]:
        """Of every circuit that was used.

        Args:
            area: What says how large arrays are.
            timing: How settling times are measured; None: they are not.
            advance: Called with 1 after every circuit that was measured.

        Raises:
            SolverError: A circuit could not be measured.
        """
        model = area_model(area) if isinstance(area, str) else area
        found = []
        for path, segment in self.segments.items():
            if not self.traffic[path].uses:
                continue
            item = self._figures(path, segment, model)
            if timing is not None:
                item = self._timed(item, segment, timing)
                if advance is not None:
                    advance(1)
            found.append(item)
        return tuple(found)

    def _timed(
        self, figures: SegmentFigures, segment: Segment, timing: TimingOptions
    ) -> SegmentFigures:
        traffic, costs = self.traffic[figures.path], segment.border_costs
        try:
            measured = settling(segment, traffic.drawn.rows, timing)
        except ImacError as error:
            raise SolverError(f"{figures.path}: its transients: {error}") from error
        passes = len(segment.borders.weights)
        longest = costs.time + passes * (measured.worst - segment.pace.period)
        uses = sum(-(-call // figures.copies) for call in traffic.calls)
        return replace(figures, settling=asdict(measured), settled=uses * longest)

    def _figures(self, path: str, segment: Segment, model: AreaModel) -> SegmentFigures:
        traffic, layers = self.traffic[path], list(segment.analog_layers())
        uses, copies = traffic.uses / self.samples, layers[0].config.crossbar.copies
        counted = Counted.of(segment, segment.voltages(traffic.drawn.rows))
        power, passes = _power(segment, counted, traffic.drawn.rows)
        shapes = [layer_shape(layer) for layer in layers]
        arrays = Area.sum([layer_area(shape, model) for shape in shapes])
        costs, period = segment.border_costs, segment.pace.period * passes
        found = {name: power.get(name, math.nan) for name in ("inputs", "bias", "neurons")}
        spent = {
            "arrays": (found["inputs"] + found["bias"]) * period,
            "neurons": found["neurons"] * period,
        }
        if counted.counts("amplifiers"):
            spent["amplifiers"] = power.get("amplifiers", math.nan) * period
        return SegmentFigures(
            path=path,
            layers=tuple(layer.name for layer in layers),
            uses=uses,
            copies=copies,
            arrays=copies * sum(shape.arrays for shape in shapes),
            error=traffic.error,
            power=power,
            energy={
                **{name: uses * value for name, value in spent.items()},
                "drivers": uses * costs.driver_energy,
                "converters": uses * costs.converter_energy,
                "sums": uses * costs.addition_energy,
            },
            noise=self.heard[path].figures(segment) if path in self.heard else None,
            latency=sum(costs.latency(call, copies) for call in traffic.calls),
            area={
                **{name: value for name, value in arrays.parts().items() if value is not None},
                "drivers": copies * costs.driver_area,
                "converters": copies * costs.converter_area,
            },
            counted=counted,
        )


def _power(
    segment: Segment, counted: Counted, rows: Tensor
) -> tuple[dict[str, float], float]:
    """Mean power (W) by source while vectors are at the inputs, and passes of the driver."""
    solution = segment.solve(rows)
    if solution.power is None:
        return {}, 1.0
    means = counted.mean(solution.power, solution.converged, segment.pace.period)
    return means, len(solution.status) / len(rows)


def critical_path(model: nn.Module, latency: Mapping[str, float]) -> float:
    """s: the longest way through the circuits of a model; software takes no time.

    Of a traced model circuits on parallel branches work at the same time, others follow one
    another. A circuit that is called several times takes its share in each call. Parts that were
    not traced, and models that were not, do everything one after the other.

    Args:
        model: With its segments.
        latency: s per sample, by path of the segment.
    """
    if not isinstance(model, fx.GraphModule):
        return sum(latency.values())
    calls: dict[str, int] = {}
    for node in model.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    end: dict[fx.Node, float] = {}
    for node in model.graph.nodes:
        start = max((end[before] for before in node.all_input_nodes), default=0.0)
        own = 0.0
        if node.op == "call_module":
            target = str(node.target)
            inside = (path == target or path.startswith(f"{target}.") for path in latency)
            taken = [value for value, here in zip(latency.values(), inside, strict=True) if here]
            own = sum(taken) / calls[target]
        end[node] = start + own
    return max(end.values(), default=0.0)
