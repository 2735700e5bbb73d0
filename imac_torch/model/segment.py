"""Segment: a chain of analog layers between two borders, solved together as one circuit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise
from typing import Any, Concatenate, Final, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import ParamSpec

from imac_torch.base.memo import Memory
from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.circuit.engine import BoundEngine, Engine
from imac_torch.circuit.topology import Circuit, build_layer
from imac_torch.config import Config, Supplies, Timing
from imac_torch.dc.native import Native, Prepared
from imac_torch.errors import CircuitError, ConversionError, SolverError
from imac_torch.model.analyses import Analyses
from imac_torch.model.borders import BorderCosts, Borders, Range
from imac_torch.model.coding import (
    Signs,
    check_features,
    check_tensor,
    line_voltages,
    relative_inputs,
)
from imac_torch.model.effective import NARROW, Effective
from imac_torch.model.linear import IMACLinear, connect
from imac_torch.model.partial import Partial
from imac_torch.model.positions import Positions, Vectors, positions_of
from imac_torch.model.reads import BoundByRead
from imac_torch.model.state import pack, unpack
from imac_torch.numeric.modes import ordinary, refuse_transforms
from imac_torch.periphery.activations import Bounded
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.results.solution import Solution

Made = TypeVar("Made")
Model = TypeVar("Model", bound=nn.Module)
Arguments = ParamSpec("Arguments")

INPUTS: Final = ""
"""In :attr:`Segment.scaled`: no layer has this name."""
LARGE: Final = 2**16
"""Weights of a layer above which it is not worth the memory to remember how they were mapped."""
POSITIONS: Final = 16384
"""Input vectors that are solved at a time, where a segment is no matrix: what bounds memory."""


class Segment(Analyses):
    """A chain of analog layers, one circuit: software units in and out, volts in between.

    It may stand anywhere in a model: ``forward`` codes its inputs as voltages, solves the circuit
    with wires and loading, and gives its outputs in the units of the software layers that it
    stands for; differentiable. :meth:`solve` gives volts, watts and statuses.

    Args:
        layers: The analog layers, in order.
        config: The supplies and the timing are the circuit's, the rest is in its layers.
        engine: What solves; None: the native engine.
        positions: Where in a tensor of the model the circuit is applied; None: along its last
            dimension.

    Attributes:
        positions: As given.
        supplies: Of the circuit, its inputs and their coding.
        pace: When inputs follow one another.
        engine: What solves.
        open: Whether full scales are not known yet; :func:`imac_torch.model.ranges.set_ranges`
            takes them from data.
        scaled: Names of layers whose full scales are given, and :data:`INPUTS` if that of the
            segment's inputs is.
        saturates: Whether inputs beyond full scale are full scale, as at a driver that cannot
            leave its supplies; else they are refused.
        stand_in: What :meth:`forward` does instead of its own, if anything.
        range: The voltages that converters tell apart.
        exact: Whether driver and converter are left out, see :func:`circuits_alone`.

    Raises:
        ConversionError: There is no layer, or shapes do not chain.
    """

    supplies: Supplies
    pace: Timing

    def __init__(
        self,
        layers: Sequence[IMACLinear],
        config: Config,
        engine: Engine | None = None,
        *,
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        if not layers:
            raise ConversionError("a segment has at least one analog layer")
        for before, after in pairwise(layers):
            if after.groups > 1:
                raise ConversionError(
                    f"{after.name} has {after.groups} groups: such a layer begins a segment"
                )
            if before.out_features != after.in_features:
                raise ConversionError(
                    f"{before.name} has {before.out_features} outputs, {after.name} takes "
                    f"{after.in_features}"
                )
        connect(layers)
        self.layers = nn.ModuleList(layers)
        self.engine: Engine = Native() if engine is None else engine
        self.positions = Vectors() if positions is None else positions
        self.open, self.saturates = False, False
        self.scaled: frozenset[str] = frozenset()
        self.stand_in: Callable[[Tensor], Tensor] | None = None
        if self.positions.groups != layers[0].groups:
            raise ConversionError(
                f"{layers[0].name} has {layers[0].groups} groups, its positions "
                f"{self.positions.groups}"
            )
        self._set(config)
        self._told = Signs()
        self.range = Range()
        self.exact = False
        Borders.of(layers, self.range)  # refused here if they do not suit the layers
        self._cache: Memory[Any] = Memory()
        self._matrices: Memory[Effective] = Memory(2)
        self._partials: Memory[Partial] = Memory(2)
        self._of_layers: list[Memory[Any]] = [Memory() for _ in layers]

    def _set(self, config: Config) -> None:
        self.supplies, self.pace = config.supplies, config.timing

    def analog_layers(self) -> Iterator[IMACLinear]:
        """The analog layers, in order."""
        for layer in self.layers:
            assert isinstance(layer, IMACLinear)  # noqa: S101 - narrows the type only
            yield layer

    @property
    def first(self) -> IMACLinear:
        """The layer at the border before."""
        return next(self.analog_layers())

    @property
    def threshold(self) -> float | None:
        """V, above which a single output says yes.

        The middle of a sigmoid or tanh; 0 without an activation, where the output is a logit.
        None: several outputs, or no natural threshold (ReLU).
        """
        last = self.last
        function = last.activation.function
        if last.out_features > 1 or function.clips:
            return None
        middle = function.middle if isinstance(function, Bounded) else 0.0
        return middle * self.supplies.vdd / last.scaling.output_scale

    @property
    def last(self) -> IMACLinear:
        """The layer at the border behind."""
        return list(self.analog_layers())[-1]

    # Borders

    def check(self, features: object) -> None:
        """Refuse what cannot be inputs of the circuit: it takes (B, N), in any real type.

        Raises:
            CircuitError: They are not.
        """
        check_features(features, self.first.lines, f"layer {self.first.name}")

    @property
    def borders(self) -> Borders:
        """Driver and converter, as the configurations of the first and the last layer say."""
        return Borders.of(list(self.analog_layers()), self.range, exact=self.exact)

    @property
    def border_costs(self) -> BorderCosts:
        """Energy, time and area of driver and converter."""
        return self.borders.costs()

    def relative(self, x: Tensor) -> Tensor:
        """Inputs relative to full scale, before they are rounded to what a driver can do.

        Args:
            x: Software units, any shape and type.

        Returns:
            Likewise, in [-1, 1].

        Raises:
            CircuitError: An input is not finite or beyond full scale, or negative and
                ``supplies.vss`` is 0.

        Warns:
            SettingWarning: Inputs are negative, and ``supplies.vss`` is not -vdd; said once.
        """
        driver = self.borders.driver
        if driver is None or driver.settings.sign != "unipolar":
            self._told.check(x, self.coding)
        return relative_inputs(self.within(x), self.supplies, self.first.scaling.input_scale)

    @property
    def coding(self) -> Supplies:
        """Between which inputs are coded: the supplies, or what they are in two passes."""
        return self.borders.coding(self.supplies)

    def coded(self, x: Tensor) -> Tensor:
        """Inputs of any shape as V on lines, in a driver's only pass; see :meth:`voltages`."""
        return line_voltages(self.borders.rounded(self.relative(x)), self.coding)

    def voltages(self, features: Tensor) -> Tensor:
        """Input voltages of the circuit, in every pass of the driver.

        Args:
            features: (B, N) software units.

        Returns:
            (P·B, N) float64, V; pass after pass of the whole batch where there are several.

        Raises:
            CircuitError: See :meth:`relative`; or lines are driven to one side only, and inputs
                are negative.
        """
        self.check(features)
        passes = list(self.borders.passes(self.relative(features.to(torch.float64))))
        lines = passes[0] if len(passes) == 1 else torch.cat(passes)
        return line_voltages(lines, self.coding)

    def within(self, features: Tensor) -> Tensor:
        """Inputs of any shape as the circuit gets them: within full scale, if it saturates.

        Raises:
            CircuitError: Full scale is not known yet.

        Warns:
            SettingWarning: Some are beyond full scale, said once.
        """
        if self.open:
            raise CircuitError(
                f"layer {self.first.name}: full scales are not known yet; run the network on a "
                "batch first, or convert with samples"
            )
        if not self.saturates:
            return features
        scale = self.first.scaling.input_scale
        self._told.saturation(features, scale, self.first.name)
        return features.clamp(-scale, scale)

    def decode(self, outputs: Tensor) -> Tensor:
        """Output voltages (…, M) as converters see them, in software units.

        Raises:
            CircuitError: Activations are computed in software, so that these are no outputs.
        """
        borders = self.borders
        if borders.in_software:
            raise CircuitError(
                f"{self.last.name}: the activation is computed in software, of sums of conversions "
                "(several passes of the driver, or converter.after = 'partition'); call the "
                "segment, or the network, for its outputs"
            )
        volts = borders.converted(outputs)
        return volts / self.supplies.vdd * self.last.scaling.output_scale

    # Circuit

    @property
    def native(self) -> Native:
        """The native engine, where it is what solves.

        Raises:
            SolverError: Another one does.
        """
        if not isinstance(self.engine, Native):
            raise SolverError(
                f"{type(self.engine).__name__} solves this network, and only the native engine "
                "does this (calibration, ablation, transients, Monte Carlo, looking "
                "inside): set network.engine = imac_torch.Native() for it"
            )
        return self.engine

    def prepare(self, engine: Native | None = None) -> Prepared:
        """The eliminated circuit of the present conductances, see :meth:`kept`.

        Args:
            engine: Settings of the native solver; None: the segment's.
        """
        native = self.native if engine is None else engine
        return native.bind(self).prepared

    def kept(self, settings: object, make: Callable[[], Made]) -> Made:
        """What was made of the layers, remembered until conductances or settings change.

        With gradients enabled and a layer that requires them, it is made anew with its graph;
        so it is while devices are varied.

        Args:
            settings: Compared by ``==``.
            make: Makes it of the layers as they are.
        """
        return self._kept(self._cache, settings, make)

    def _kept(
        self, memory: Memory[Made], settings: object, make: Callable[[], Made]
    ) -> Made:
        if self._tracked():
            return make()
        tensors: list[Tensor] = [*self.layers.parameters()]
        for layer in self.analog_layers():
            tensors += layer.matrix.sources()
        everything = (
            settings,
            self.supplies.vdd,
            tuple(
                (
                    layer.config, layer.scaling, layer.activation, layer.matrix.devices,
                    layer.matrix.read,
                )
                for layer in self.analog_layers()
            ),
        )  # fmt: skip
        # Gains that are determined on demand are in buffers afterwards.
        return memory.get(everything, tensors, make)

    def _tracked(self) -> bool:
        """Whether what is made of layers has a graph, or is of one draw only."""
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.layers.parameters()):
            return True
        return any(layer.matrix.sample is not None for layer in self.analog_layers())

    def kept_of(
        self, layer: int, settings: object, tensors: Sequence[Tensor], make: Callable[[], Made]
    ) -> Made:
        """What was made of one layer, remembered until its tensors or settings change."""
        if self._tracked():
            return make()
        analog = list(self.analog_layers())[layer]
        everything = (settings, analog.config, analog.matrix.gain())
        made: Made = self._of_layers[layer].get(everything, tensors, make)
        return made

    def _check_supplies(self) -> None:
        """A circuit has one set of supplies and one timing, which layers only repeat."""
        for layer in self.analog_layers():
            for name, common in (("supplies", self.supplies), ("timing", self.pace)):
                own = getattr(layer.config, name)
                if own == common:
                    continue
                other = next(
                    field for field in type(own).model_fields
                    if getattr(own, field) != getattr(common, field)
                )  # fmt: skip
                raise CircuitError(
                    f"{layer.name} has {name}.{other} = {getattr(own, other)}, the network "
                    f"{getattr(common, other)}, and a circuit has only one: convert the model "
                    f"again with the {name} you want"
                )

    def parts(self) -> list[tuple[CrossbarSpec, NeuronSpec]]:
        """Crossbar and neuron of every layer, with the present conductances."""
        self._check_supplies()
        return [(layer.matrix.crossbar(), layer.neuron_spec()) for layer in self.analog_layers()]

    def circuit(self) -> Circuit:
        """The neutral circuit of the present conductances: what netlists are written from."""
        parts = zip(self.parts(), self.analog_layers(), strict=True)
        layers = [
            build_layer(f"layer{number}", *part, layer.config)
            for number, (part, layer) in enumerate(parts, 1)
        ]
        return Circuit(tuple(layers), self.supplies.vdd, self.pace)

    @contextmanager
    def reading(self, read: int | None) -> Iterator[None]:
        """Have the conductances of one read for a while, or with None those that do not vary."""
        matrices = [layer.matrix for layer in self.analog_layers()]
        before = [matrix.read for matrix in matrices]
        for matrix in matrices:
            matrix.read = read
        try:
            yield
        finally:
            for matrix, own in zip(matrices, before, strict=True):
                matrix.read = own

    def bind(self, engine: Engine | None = None) -> BoundEngine:
        """An engine ready for the circuit; where reads differ, each input is one, from 0 on.

        Args:
            engine: None: the segment's.
        """
        engine = self.engine if engine is None else engine

        def bound(read: int) -> BoundEngine:
            with self.reading(read):
                return engine.bind(self)

        if any(layer.matrix.varies_by_read for layer in self.analog_layers()):
            return BoundByRead(bound)
        return engine.bind(self)

    def solve(self, features: Tensor, *, power: bool = True) -> Solution:
        """The circuit's DC solution.

        Args:
            features: (B, N) software units.
            power: Whether to compute the power of every source.

        Returns:
            Voltages, powers and a status per sample; per pass and sample, as :meth:`voltages` has
            them, where the driver makes several passes.
        """
        refuse_transforms([features, *self.parameters()])
        voltages = self.voltages(features)
        return self.bind().solve(voltages, power=power)

    def read_outs(self, voltages: Tensor) -> Tensor:
        """What converters behind read-outs see; neurons are not asked.

        Args:
            voltages: (B, N) V on lines.

        Returns:
            (B, M) V, partitions and slices combined; or (B, M·L, H) with
            ``converter.after = 'partition'``.

        Raises:
            CircuitError: The engine is not native and gives outputs only.
        """
        split = self.borders.by_partition
        if isinstance(self.engine, Native):
            stage = self.prepare().stages[0]
            driven = stage.drive(voltages[None], None, self.engine.newton)
            return (driven.read_outs if split else driven.combined)[0]
        layers = self.engine.bind(self).solve(voltages, power=False).layers
        if split or not layers:
            raise CircuitError(
                f"{self.last.name}: {type(self.engine).__name__} does not give the voltages of "
                "read-outs that converters see (converter.after = 'partition', or several passes "
                "of the driver): set network.engine = imac_torch.Native() for it"
            )
        return layers[-1].combined

    def outputs(self, features: Tensor) -> Tensor:
        """Circuit-accurate outputs (B, M) float64 in software units; see :meth:`forward`."""
        if self.borders.in_software:
            self.check(features)
            return self._summed(features.to(torch.float64))
        return self.decode(self.solve(features, power=False).outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Circuit-accurate outputs in software units, at every position.

        Args:
            x: As the software layers that the segment stands for take it: (…, N), or what
                :attr:`positions` says.

        Returns:
            As those layers give it, (…, M), in the type of ``x`` (integers give float64); NaN at
            positions that did not converge. The circuit is solved in float64; where the segment
            is one matrix (:meth:`effective`), that is applied in the type of ``x``, so that
            outputs of float32 are off by some 2e-7 of their range.
        """
        if self.stand_in is not None:
            return self.stand_in(x)
        refuse_transforms([x, *self.parameters()] if isinstance(x, Tensor) else [])
        check_tensor(x, f"layer {self.first.name}")
        if (width := self.positions.inputs(x)) != self.first.lines:
            raise CircuitError(
                f"layer {self.first.name} takes {self.first.lines} inputs at every position, "
                f"a tensor {tuple(x.shape)} gives {width}"
            )
        given = x if x.is_floating_point() else x.to(torch.float64)
        if self.borders.in_software:
            return self._summed(given).to(given.dtype)
        effective = self.effective(_computed(given.dtype))
        if effective is not None and given.numel():
            volts = self.coded(given.to(effective.weight.dtype))
            return self.decode(effective(volts, self.positions)).to(given.dtype)
        return torch.cat(
            [self._position_by_position(part) for part in self._in_parts(given, 1)]
        ).to(given.dtype)

    def _in_parts(self, x: Tensor, size: int) -> Sequence[Tensor]:
        """Some samples at a time, with numbers of so many elements at every position."""
        step = max(1, POSITIONS // max(1, size * self.positions.count(x))) if x.ndim else 1
        return x.split(step) if self.positions.batched(x) else (x,)

    def _position_by_position(self, x: Tensor) -> Tensor:
        rows = self.positions.vectors(x)
        outputs = torch.cat(
            [self.solve(part, power=False).outputs for part in rows.split(POSITIONS)]
        )
        return self.positions.tensor(self.decode(outputs), x)

    def _summed(self, x: Tensor) -> Tensor:
        """Outputs where sums and activations are software, of inputs of any shape."""
        borders, dtype = self.borders, _computed(x.dtype)
        effective = None if borders.by_partition else self.effective(dtype)
        partial = self.partial(dtype) if borders.by_partition else None

        def at(rows: Tensor, exact: bool) -> Tensor:
            volts = line_voltages(rows, self.coding)
            if partial is not None:
                return borders.sums(partial, volts, exact=exact)
            found = self.read_outs(volts)
            return borders.combined(found if exact else borders.converted(found))

        def converted(lines: Tensor, exact: bool) -> Tensor:
            if effective is not None:
                volts = line_voltages(lines, self.coding)
                found = self.positions.through(volts, effective.weight, effective.bias)
                return found if exact else borders.converted(found)
            parts = self._in_parts(lines, 1 + self.first.lines // 64)
            return torch.cat([
                self.positions.tensor(at(self.positions.vectors(part), exact), part)
                for part in parts
            ])  # fmt: skip

        kept = dtype if effective is not None or partial is not None else torch.float64
        return borders.summed(self.relative(x.to(kept)), converted)

    def effective(self, dtype: torch.dtype) -> Effective | None:
        """The segment as one matrix at every position; None: it is none.

        It is one where a single layer of ohmic cells is solved by the native engine.

        Args:
            dtype: Of the matrix.
        """
        native = self._linear()
        if native is None:
            return None

        def make() -> Effective:
            # Nothing but the matrix is kept: what the crossbars are made of is several times it.
            with ordinary():
                found = Effective.of(native.prepare(self.parts()), native, dtype)
            if found.weight.numel() > LARGE:
                self.first.matrix.forget()
            return found

        return self._kept(self._matrices, (native, dtype), make)

    def partial(self, dtype: torch.dtype) -> Partial | None:
        """The same for every partition on its own."""
        native = self._linear()
        if native is None:
            return None

        def make() -> Partial:
            with ordinary():
                found = Partial.of(native.prepare(self.parts()).stages[0], dtype)
            if found.size > LARGE:
                self.first.matrix.forget()
            return found

        return self._kept(self._partials, (native, dtype), make)

    def _linear(self) -> Native | None:
        """What makes a matrix of the segment, if it is one."""
        if len(self.layers) > 1 or not isinstance(self.engine, Native):
            return None
        first = self.first
        if first.config.device.bend is not None or first.matrix.varies_by_read:
            return None
        return self.engine

    def software(self, x: Tensor) -> list[Tensor]:
        """What the software layers give that the segment stands for.

        Args:
            x: As :meth:`forward` takes it.

        Returns:
            The output of every layer, in the type of ``x``; integers give float64.
        """
        x = x if x.is_floating_point() else x.to(torch.float64)
        found: list[Tensor] = []
        for layer in self.analog_layers():
            weight = layer.weight.to(x.dtype)
            bias = None if layer.bias is None else layer.bias.to(x.dtype)
            places = Vectors() if found else self.positions
            x = layer.activation.apply(places.through(x, weight, bias))
            found.append(x)
        return found

    # State

    def get_extra_state(self) -> Tensor:
        """Supplies, timing, positions and ranges as bytes, so that safetensors can hold them."""
        config = Config(supplies=self.supplies, timing=self.pace)
        content: dict[str, Any] = {"config": config.to_dict()}
        if self.positions != Vectors():
            content["positions"] = self.positions.record()
        if self.open:
            content["open"] = sorted(self.scaled)
        if self.saturates:
            content["saturates"] = True
        if self.range.ends is not None:
            content["range"] = list(self.range.ends)
        return pack(content)

    def set_extra_state(self, state: Any) -> None:  # noqa: ANN401 - torch's signature
        """Restore :meth:`get_extra_state`.

        Raises:
            ConversionError: The state is not one of ours.
        """
        unpack(state, self._restore, "segment")

    def _restore(self, content: Mapping[str, Any]) -> None:
        """Set what a state holds; without positions they are vectors."""
        positions = positions_of(content["positions"]) if "positions" in content else Vectors()
        self._set(Config.from_dict(content["config"]))
        self.positions = positions
        self.open = "open" in content
        self.scaled = frozenset(str(name) for name in content.get("open", ()))
        self.saturates = content.get("saturates") is True
        self.range.restore(content.get("range"))


def _computed(dtype: torch.dtype) -> torch.dtype:
    """The type that a matrix is applied in."""
    return torch.float32 if dtype in NARROW else dtype


def circuits_alone(
    analysis: Callable[Concatenate[Model, Arguments], Made],
) -> Callable[Concatenate[Model, Arguments], Made]:
    """For functions of a model that ask about its circuits: drivers and converters are left out."""

    @wraps(analysis)
    def run(model: Model, /, *arguments: Arguments.args, **options: Arguments.kwargs) -> Made:
        segments = [part for part in model.modules() if isinstance(part, Segment)]
        before = [segment.exact for segment in segments]
        try:
            for segment in segments:
                segment.exact = True
            return analysis(model, *arguments, **options)
        finally:
            for segment, exact in zip(segments, before, strict=True):
                segment.exact = exact

    return run
