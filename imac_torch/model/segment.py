"""Segment: a chain of analog layers between two borders, solved together as one circuit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from imac_torch.config import Config
from imac_torch.dc.native import BoundNative, Native
from imac_torch.errors import CircuitError
from imac_torch.model.analog_chain import AnalogChain
from imac_torch.model.coding import check_tensor, line_voltages, reach
from imac_torch.model.effective import NARROW, Effective
from imac_torch.model.partial import Partial
from imac_torch.model.positions import Vectors, positions_of
from imac_torch.model.reads import BoundByRead
from imac_torch.model.state import pack, unpack
from imac_torch.noise.sampling import REFERENCES
from imac_torch.numeric.modes import lasting, ordinary, refuse_transforms
from imac_torch.periphery.neuron.behavioural import BehaviouralNeuron
from imac_torch.results.solution import Solution

INPUTS: Final = ""
"""In :attr:`Segment.scaled`: no layer has this name."""
LARGE: Final = 2**16
"""Weights of a layer above which it is not worth the memory to remember how they were mapped."""
POSITIONS: Final = 16384
"""Input vectors that are solved at a time, where a segment is no matrix: what bounds memory."""


class Segment(AnalogChain):
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
        ranging: Whether the model runs to find full scales: nobody is to count that as a use.
        saturates: Whether inputs beyond full scale are full scale, as at a driver that cannot
            leave its supplies; else they are refused.
        stand_in: What :meth:`forward` does instead of its own, if anything.
        range: The voltages that converters tell apart.
        exact: Whether driver and converter are left out, see :func:`left_out`.
        heard: Noise in the outputs, while it is there (:func:`imac_torch.model.noisy.hearing`).

    Raises:
        ConversionError: There is no layer, or shapes do not chain.
    """

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
        if self.first.matrix.varies_by_read and len(voltages) > 1:
            found = []
            for read, row in enumerate(voltages):
                with self.reading(read):
                    found.append(self.read_outs(row[None]))
            return torch.cat(found)
        if isinstance(self.engine, Native):
            layer = self.prepare().layers[0]
            driven = layer.drive(voltages[None], None, self.engine.newton)
            return (driven.read_outs if split else driven.combined)[0]
        layers = self.engine.bind(self).solve(voltages, power=False).layers
        if split or not layers:
            raise CircuitError(
                f"{self.last.name}: {type(self.engine).__name__} does not give the voltages of "
                "read-outs that converters see (converter.after = 'partition', or several passes "
                "of the driver): set network.engine = imac_torch.Native() for it"
            )
        return layers[-1].combined

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
        if self.stand_in is None and self.heard is None and type(self.positions) is Vectors:
            several = len(self.layers) > 1  # one layer is a matrix
            if several and (found := self._outputs_of_few(x)) is not None:
                return found
        refuse_transforms([x, *self._parameters_of_layers()] if isinstance(x, Tensor) else [])
        if self.stand_in is not None:
            return self.stand_in(x)
        check_tensor(x, f"layer {self.first.name}")
        if (width := self.positions.inputs(x)) != self.first.lines:
            raise CircuitError(
                f"layer {self.first.name} takes {self.first.lines} inputs at every position, "
                f"a tensor {tuple(x.shape)} gives {width}"
            )
        given = x if x.is_floating_point() else x.to(torch.float64)
        if self.borders.in_software:
            return self._summed(given).to(given.dtype)
        if self.heard is None and (found := self._in_one_product(given)) is not None:
            return found.to(given.dtype)
        effective = self.effective(_computed(given.dtype))
        if effective is not None and given.numel():
            volts = self.coded(given.to(effective.weight.dtype))
            noise = self._noise_at(volts)
            return self.decode(effective(volts, self.positions, noise)).to(given.dtype)
        return torch.cat(
            [self._position_by_position(part) for part in self._in_parts(given, 1)]
        ).to(given.dtype)

    def _in_parts(self, x: Tensor, size: int) -> Sequence[Tensor]:
        """Some samples at a time, with numbers of so many elements at every position."""
        step = max(1, POSITIONS // max(1, size * self.positions.count(x))) if x.ndim else 1
        return x.split(step) if self.positions.batched(x) else (x,)

    def _noise_at(self, volts: Tensor) -> list[Tensor] | None:
        """Noise at all positions, shaped like the outputs; None: there is none.

        Args:
            volts: On the lines, of a tensor's shape.
        """
        if self.heard is None:
            return None
        count = self.positions.count(volts) * (len(volts) if self.positions.batched(volts) else 1)
        few = volts[:REFERENCES] if self.positions.batched(volts) else volts
        some = self.positions.vectors(few)
        shifts = self.heard.shifts(self, some, count)
        return [self.positions.tensor(shift, volts) for shift in shifts]

    def operated(self, rows: Tensor) -> Solution:
        """:meth:`solve` of (R, N) software units without powers, with noise while it is there."""
        if self.heard is None:
            return self.solve(rows, power=False)
        voltages, noise = self.heard.onto(self, self.voltages(rows))
        bound = self.bind(self.native)
        assert isinstance(bound, BoundNative | BoundByRead)  # noqa: S101 - of the native engine
        return bound.solve(voltages, power=False, noise=noise)

    def _position_by_position(self, x: Tensor) -> Tensor:
        rows = self.positions.vectors(x)
        outputs = torch.cat([self.operated(part).outputs for part in rows.split(POSITIONS)])
        return self.positions.tensor(self.decode(outputs), x)

    def _summed(self, x: Tensor) -> Tensor:
        """Outputs where sums and activations are software, of inputs of any shape."""
        borders, dtype = self.borders, _computed(x.dtype)
        effective = None if borders.by_partition else self.effective(dtype)
        partial = self.partial(dtype) if borders.by_partition else None

        def at(volts: Tensor, exact: bool) -> Tensor:
            if partial is not None:
                return borders.sums(partial, self.positions, volts, exact=exact)
            rows = self.positions.vectors(volts)
            shift: Tensor | float = 0.0
            if self.heard is not None:
                rows, (shift, *_) = self.heard.onto(self, rows)
            found = self.read_outs(rows) + shift
            combined = borders.combined(found if exact else borders.converted(found))
            return self.positions.tensor(combined, volts)

        def converted(lines: Tensor, exact: bool) -> Tensor:
            volts = line_voltages(lines, self.coding)
            if effective is not None:
                found = self.positions.through(volts, effective.weight, effective.bias)
                if (noise := self._noise_at(volts)) is not None:
                    found = found + noise[0].to(found.dtype)
                return found if exact else borders.converted(found)
            parts = self._in_parts(volts, 1 + self.first.lines // 64)
            return torch.cat([at(part, exact) for part in parts])

        kept = dtype if effective is not None or partial is not None else torch.float64
        return borders.summed(self.relative(x.to(kept)), converted)

    def _in_one_product(self, x: Tensor) -> Tensor | None:
        """Outputs without further passes over inputs and outputs, where nothing asks for them.

        That is where borders are ideal and coding is a factor: units are in the matrix.
        """
        native = self._linear() if self._units else None
        if native is None or x.numel() == 0:
            return None
        if not (largest := reach(x)) <= self.first.scaling.input_scale:
            if not (self.saturates and largest < math.inf):
                return None  # it is refused there
            x = self.within(x)
        effective = self._effective(native, _computed(x.dtype), units=True)
        found = effective(x.to(effective.weight.dtype), self.positions)
        return found if effective.neuron is None else self.decode(found)

    @lasting()
    def program(self) -> None:
        """Eliminate the circuit now, as the first run in the weights' type would."""
        dtype = _computed(self.first.weight.dtype)
        if self._linear() is None:
            if isinstance(self.engine, Native):
                self.prepare()
        elif self.borders.by_partition:
            self.partial(dtype)
        else:
            self.effective(dtype, units=self._units)

    def effective(self, dtype: torch.dtype, *, units: bool = False) -> Effective | None:
        """The segment as one matrix at every position; None: it is none.

        It is one where a single layer of ohmic cells, whose amplifiers have neither offset nor
        swing, is solved by the native engine.

        Args:
            dtype: Of the matrix.
            units: Whether it takes software units in place of V, and where neurons only cut off
                their outputs gives them, too. Coding has to be a factor.
        """
        native = self._linear()
        return None if native is None else self._effective(native, dtype, units=units)

    def _effective(self, native: Native, dtype: torch.dtype, *, units: bool) -> Effective:
        def make() -> Effective:
            options: dict[str, Any] = {}
            if units:
                kind = self.first.neuron_spec().model
                options = {
                    "line": self.supplies.vdd / self.first.scaling.input_scale,
                    "unit": self.supplies.vdd / self.first.scaling.output_scale,
                    "cut": kind.cut if isinstance(kind, BehaviouralNeuron) else None,
                }
            # Nothing but the matrix is kept: what the crossbars are made of is several times it.
            with ordinary():
                found = Effective.of(native.prepare(self.parts()), native, dtype, **options)
            if found.weight.numel() > LARGE:
                self.first.matrix.forget()
            return found

        return self._kept(self._matrices, (native, dtype, units), make)

    def partial(self, dtype: torch.dtype) -> Partial | None:
        """The same for every partition on its own."""
        native = self._linear()
        if native is None:
            return None

        def make() -> Partial:
            with ordinary():
                found = Partial.of(native.prepare(self.parts()).layers[0], dtype)
            if found.size > LARGE:
                self.first.matrix.forget()
            return found

        return self._kept(self._partials, (native, dtype), make)

    def _linear(self) -> Native | None:
        """What makes a matrix of the segment, if it is one."""
        if len(self.layers) > 1 or not isinstance(self.engine, Native):
            return None
        config, matrix = self.first.config, self.first.matrix
        if not config.device.ohmic or matrix.varies_by_read or not config.amplifier.linear:
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


@contextmanager
def left_out(model: nn.Module) -> Iterator[None]:
    """Leave drivers and converters out for a while, for what is about circuits alone."""
    segments = [part for part in model.modules() if isinstance(part, Segment)]
    before = [segment.exact for segment in segments]
    try:
        for segment in segments:
            segment.exact = True
        yield
    finally:
        for segment, exact in zip(segments, before, strict=True):
            segment.exact = exact


@contextmanager
def watched(
    segments: Mapping[str, Segment], see: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call ``see(path, x)`` with what reaches circuits, whatever answers there.

    Runs that find full scales do not count.
    """

    def hook(path: str) -> Callable[[Segment, tuple[Any, ...]], None]:
        return lambda part, arguments: None if part.ranging else see(path, arguments[0])

    handles = [part.register_forward_pre_hook(hook(path)) for path, part in segments.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
