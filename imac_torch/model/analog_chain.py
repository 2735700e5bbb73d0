"""Analog layers in series: one circuit with its borders, and what solves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from imac_torch.base.memo import Memory, Standing
from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.circuit.engine import BoundEngine, Engine
from imac_torch.circuit.topology import Circuit, build_layer
from imac_torch.config import Config, Supplies, Timing
from imac_torch.dc.few import FEW, Few, FloatArray
from imac_torch.dc.native import Native, Prepared
from imac_torch.errors import CircuitError, ConversionError, SolverError
from imac_torch.model.analyses import Analyses
from imac_torch.model.borders import BorderCosts, Borders, Range
from imac_torch.model.coding import (
    Signs,
    check_features,
    line_voltages,
    reach,
    relative_inputs,
)
from imac_torch.model.effective import Effective
from imac_torch.model.linear import IMACLinear, connect
from imac_torch.model.noisy import Heard
from imac_torch.model.partial import Partial
from imac_torch.model.positions import Positions, Vectors
from imac_torch.model.reads import BoundByRead
from imac_torch.numeric.modes import refuse_transforms
from imac_torch.periphery.activations import Bounded
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.results.solution import Solution

Made = TypeVar("Made")


class _Plain(NamedTuple):
    """A circuit of a few images whose inputs and outputs are volts but for factors.

    Attributes:
        few: The circuit; None: few images are solved like many.
        parameters: Of its layers.
        lines: It has.
        input_scale: Software input that is vdd.
        output_scale: Software output that is vdd.
        vdd: V.
    """

    few: Few | None
    parameters: list[Tensor]
    lines: int
    input_scale: float
    output_scale: float
    vdd: float


class AnalogChain(Analyses):
    """Analog layers in series as one circuit, which :class:`Segment` applies in a model.

    Args:
        layers: In order.
        config: Supplies and timing of the circuit.
        engine: What solves; None: the native engine.
        positions: Where in a tensor of the model it is applied.

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
        self.open, self.saturates, self.ranging = False, False, False
        self.scaled: frozenset[str] = frozenset()
        self.stand_in: Callable[[Tensor], Tensor] | None = None
        self.heard: Heard | None = None
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
        self._borders: Memory[Borders] = Memory()
        self._cache: Memory[Any] = Memory()
        self._matrices: Memory[Effective] = Memory(2)
        self._partials: Memory[Partial] = Memory(2)
        self._of_layers: list[Memory[Any]] = [Memory() for _ in layers]
        self._standing: Standing[_Plain] = Standing()

    def _set(self, config: Config) -> None:
        self.supplies, self.pace = config.supplies, config.timing

    def analog_layers(self) -> Iterator[IMACLinear]:
        """The analog layers, in order."""
        layers: Any = self._modules["layers"]  # what torch's __getattr__ finds, every forward
        found: Iterator[IMACLinear] = iter(layers._modules.values())
        return found

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
        layers = list(self.analog_layers())
        # The range changes in place.
        settings = (self.exact, self.range, *layers, *[layer.config for layer in layers])
        return self._borders.get(
            settings, (), lambda: Borders.of(layers, self.range, exact=self.exact)
        )

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
        scale = self.first.scaling.input_scale
        if not self.saturates or reach(features) <= scale:
            return features
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
        return memory.get(everything, self._tensors(), make)

    def _tensors(self) -> list[Tensor]:
        """Tensors that circuits depend on."""
        found = self._parameters_of_layers()
        for layer in self.analog_layers():
            found += layer.matrix.sources()
        return found

    def _tracked(self) -> bool:
        """Whether what is made of layers has a graph, or is of one draw only."""
        trained = torch.is_grad_enabled() and self._parameters_of_layers()
        if trained and any(parameter.requires_grad for parameter in trained):
            return True
        matrices = [layer.matrix for layer in self.analog_layers()]
        return any(matrix.sample is not None or matrix.numbers for matrix in matrices)

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

    def _parameters_of_layers(self) -> list[Tensor]:
        """What ``self.layers.parameters()`` gives, without its walk where layers are ours alone."""
        found: list[Tensor] = []
        for layer in self.analog_layers():
            matrix = layer.matrix
            if len(layer._modules) > 1 or matrix._parameters or matrix._modules:
                return list(self.layers.parameters())
            found += [one for one in layer._parameters.values() if one is not None]
        return found

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
        return Circuit(tuple(layers), self.supplies.vdd, self.pace, self.supplies.vss)

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

    @property
    def _units(self) -> bool:
        """Whether borders are ideal and coding is a factor: units may be in the matrix."""
        borders, supplies = self.borders, self.supplies
        if borders.driver is not None or borders.converter is not None or self.open:
            return False
        return supplies.vss == -supplies.vdd and supplies.encoding == "linear"

    def _few(self, x: object) -> tuple[Few, _Plain, FloatArray] | None:
        """What solves a few images without further ado, and their V on lines; None: not these."""
        if (
            type(x) is not Tensor or x.dtype != torch.float64 or not x.is_cpu or x.ndim != 2
            or not 0 < len(x) <= FEW or x.layout != torch.strided or x.is_neg()
            or (torch.is_grad_enabled() and (x.requires_grad or self._tracked()))
        ):  # fmt: skip
            return None
        plain = self._standing.get() or self._stand()
        if plain.few is None or x.shape[1] != plain.lines:
            return None
        refuse_transforms([x, *plain.parameters])
        relative = x.detach().numpy() / plain.input_scale
        # What is beyond full scale, or no number, is refused or cut off elsewhere.
        if not np.maximum.reduce(np.abs(relative), axis=None) <= 1.0:
            return None
        return plain.few, plain, relative * plain.vdd

    def _stand(self) -> _Plain:
        """Make what solves a few images, if that is how, and remember it while nothing changes."""
        layers, few = list(self.analog_layers()), None
        tensors = self._tensors()
        usual = type(self.engine) is Native and self._units and not self._tracked()
        by_read = any(layer.matrix.varies_by_read for layer in layers)
        if usual and not by_read and all(one.is_cpu and one.is_contiguous() for one in tensors):
            refuse_transforms(tensors)
            few = self.native.few(self.native.bind(self).prepared)
            tensors = self._tensors()  # some are determined on demand
        plain = _Plain(
            few, self._parameters_of_layers(), layers[0].lines, layers[0].scaling.input_scale,
            layers[-1].scaling.output_scale, self.supplies.vdd,
        )  # fmt: skip
        self._standing.put(self.modules(), [self.range], [] if few is None else tensors, plain)
        return plain

    def _outputs_of_few(self, x: object) -> Tensor | None:
        """Outputs of a few images in software units; None: they are solved like others."""
        if (known := self._few(x)) is None:
            return None
        few, plain, lines = known
        outputs = few.outputs(lines)
        if outputs is None:
            return None
        return torch.from_numpy(outputs / plain.vdd * plain.output_scale)

    def solve(self, features: Tensor, *, power: bool = True) -> Solution:
        """The circuit's DC solution.

        Args:
            features: (B, N) software units.
            power: Whether to compute the power of every source.

        Returns:
            Voltages, powers and a status per sample; per pass and sample, as :meth:`voltages` has
            them, where the driver makes several passes.
        """
        if (known := self._few(features)) is not None:
            few, _, lines = known
            if (solution := few.solve(torch.from_numpy(lines), power=power)) is not None:
                return solution
        refuse_transforms([features, *self.parameters()])
        voltages = self.voltages(features)
        return self.bind().solve(voltages, power=power)
