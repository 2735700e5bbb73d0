"""IMACNetwork: a converted model, parts of which are analog circuits."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from imac_torch.base.progress import asking
from imac_torch.base.shown import Table
from imac_torch.circuit.engine import Engine
from imac_torch.circuit.topology import Circuit
from imac_torch.config import Config, Noise
from imac_torch.datasets.batches import chosen
from imac_torch.dc.native import Native, Prepared
from imac_torch.devices.programming import Programming, programming_of
from imac_torch.errors import CircuitError, ConfigError, ConversionError, ConversionWarning
from imac_torch.model.converters import fit_converters, without_range
from imac_torch.model.inputs import Arguments, Inputs, arguments_of
from imac_torch.model.linear import IMACLinear
from imac_torch.model.ranges import in_software, set_ranges
from imac_torch.model.segment import Segment, watched
from imac_torch.model.state import pack, rename, unpack
from imac_torch.noise.result import NoiseReport
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.activations import Bounded
from imac_torch.results.solution import Dissipation, Solution

if TYPE_CHECKING:
    from imac_torch.transient.inference import InferenceRun
    from imac_torch.transient.inference_report import InferenceReport
    from imac_torch.transient.options import TimingOptions, TransientOptions
    from imac_torch.transient.result import TransientResult

HEADINGS = ("path", "module", "becomes", "detail")
"""Of the conversion table."""

NOISY = 16
"""Input vectors of each circuit whose noise is analysed, in models of several."""

_OLD_NAMES = {
    "layers.": "model.segment.layers.", "digital.": "model.digital.", "tail.": "model.tail.",
}  # fmt: skip
"""Parts in states of version 0.1, and where they are now."""


@dataclass(frozen=True)
class LayerRecord:
    """One row of the conversion table.

    Attributes:
        path: Module path in the original model.
        module: What it was, with its shape.
        target: ``analog``, ``folded``, ``dropped`` or ``digital``.
        detail: What became of it, and why.
    """

    path: str
    module: str
    target: str
    detail: str


class Chain(nn.Module):
    """Software, a segment, software again.

    Args:
        digital: What runs before the circuit (feature extraction).
        segment: The circuit.
        tail: What runs after it (for example LogSoftmax).
    """

    def __init__(self, digital: nn.Module, segment: Segment, tail: nn.Module) -> None:
        super().__init__()
        self.digital, self.segment, self.tail = digital, segment, tail

    def forward(self, x: Tensor) -> Tensor:
        """(B, M) in the type of ``x``, which is given to the first module as it is."""
        features = self.digital(x)
        self.segment.check(features)
        scores: Tensor = self.tail(self.segment(features.to(torch.float64)))
        return scores.to(x.dtype) if x.is_floating_point() else scores


class IMACNetwork(nn.Module):
    """A model with analog circuits in it: its segments.

    ``forward`` is a drop-in for the original model: software units in and out, circuit-accurate
    in between, differentiable. :meth:`solve` gives volts, watts and statuses; like everything
    that is about one circuit, it is the segment's own, with inputs of the model in its place.

    Args:
        model: Any module with a :class:`Segment` in it: :class:`Chain` where everything between
            software before and after is one.
        config: The network's configuration.
        records: The conversion table; what it says of analog layers is renewed when it is asked
            for (:attr:`records`).
        inputs: What of the original's forward the model takes; None: whatever it is given.
        blueprint: Of a model that was traced: what it computes, for a file to hold, or what of it
            no file can.

    Raises:
        ConversionError: There is no segment in the model.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        records: Sequence[LayerRecord] = (),
        inputs: Inputs | None = None,
        blueprint: Mapping[str, Any] | str = "",
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.blueprint = blueprint
        self._config = config
        self.conversion = tuple(records)
        if not self.segments:
            raise ConversionError("the model has no layer that can be analog")

    @property
    def segments(self) -> Mapping[str, Segment]:
        """The circuits in the model, by their paths in it."""
        # As named_modules has them, but asked at every call: circuits have no others inside.
        found: dict[str, Segment] = {}
        left: list[tuple[str, nn.Module]] = [("", self.model)]
        seen: set[nn.Module] = set()
        while left:
            path, part = left.pop()
            if part in seen:
                continue
            seen.add(part)
            if isinstance(part, Segment):
                found[path] = part
                continue
            inside = reversed(part._modules.items())
            dot = f"{path}." if path else ""
            left += [(dot + name, item) for name, item in inside if item is not None]
        return found

    def programming(self) -> tuple[Programming, ...]:
        """What it took to program the layers whose devices are written by pulses.

        Of the devices as they were drawn (``device.effects.write_verify``), drawn again.
        """
        found = []
        for segment in self.segments.values():
            for layer in segment.analog_layers():
                matrix = layer.matrix
                with lasting():
                    pair = matrix.nominal_conductances()
                device = matrix.config.device
                made = programming_of(layer.name, matrix.devices, pair, device)
                found += [] if made is None else [made]
        return tuple(found)

    def _refusal(self, what: str) -> CircuitError:
        return CircuitError(
            f"the model's circuits are {', '.join(self.segments)}, and this is about a model that "
            f"{what}; ask one of network.segments, with inputs of that circuit "
            "(network.inputs_of(path, x); its positions.vectors makes input vectors of them)"
        )

    def _chain(self) -> Chain:
        if not isinstance(self.model, Chain):
            raise self._refusal("is one circuit between software before and behind it")
        return self.model

    @property
    def segment(self) -> Segment:
        """The circuit, where there is one.

        Raises:
            CircuitError: There are several.
        """
        found = list(self.segments.values())
        if len(found) > 1:
            raise self._refusal("has one circuit")
        return found[0]

    @property
    def layers(self) -> nn.ModuleList:
        """The analog layers of the circuit, where there is one."""
        return self.segment.layers

    @property
    def digital(self) -> nn.Module:
        """What runs before the circuit of a :class:`Chain`."""
        return self._chain().digital

    @property
    def tail(self) -> nn.Module:
        """What runs after it."""
        return self._chain().tail

    @property
    def engine(self) -> Engine:
        """What solves, the same for all segments."""
        return next(iter(self.segments.values())).engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        for segment in self.segments.values():
            segment.engine = engine

    @property
    def records(self) -> tuple[LayerRecord, ...]:
        """The conversion table, with the analog layers as they are now.

        They may have been calibrated, trained or spread since they were converted.
        """
        now = {layer.name: layer.description() for layer in self.analog_layers()}
        return tuple(
            replace(item, detail=now.pop(item.path))
            if item.target == "analog" and item.path in now
            else item
            for item in self.conversion
        )

    @property
    def config(self) -> Config:
        """What the circuit was built with."""
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        if config != self._config:
            raise ConfigError(
                "network.config is what the circuit was built with, and its layers hold it too: "
                "assigning another one changes no circuit. Convert the model again: "
                "convert(model, config)"
            )

    def analog_layers(self) -> Iterator[IMACLinear]:
        """The analog layers, in order."""
        for segment in self.segments.values():
            yield from segment.analog_layers()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.analog_layers()).weight.device

    def features(self, x: Tensor) -> Tensor:
        """(B, N): what the circuit is given for model inputs (B, …).

        The digital part runs as in evaluation mode, whatever mode it is in.

        Raises:
            CircuitError: It does not fit the first layer.
        """
        chain = self._chain()
        if isinstance(x, Tensor) and x.is_inference() and not torch.is_inference_mode_enabled():
            x = x.clone()  # modules that work in place must not meet a tensor of another mode
        with evaluating(chain.digital):
            features: Tensor = chain.digital(x)
        chain.segment.check(features)
        return features

    def voltages(self, x: Tensor) -> Tensor:
        """(B, N) V for model inputs (B, …); see :meth:`Segment.voltages`."""
        return self.segment.voltages(self.features(x))

    def prepare(self, engine: Native | None = None, *, progress: bool = False) -> Prepared:
        """See :meth:`Segment.prepare`.

        Args:
            engine: Settings of the native solver; None: the network's.
            progress: Show a bar for each layer whose elimination takes seconds, which says how
                much memory that takes.
        """
        with asking(progress):
            return self.segment.prepare(engine)

    def circuit(self) -> Circuit:
        """See :meth:`Segment.circuit`."""
        return self.segment.circuit()

    def solve(self, x: Tensor, *, power: bool = True) -> Solution:
        """The circuit's DC solution for model inputs (B, …); see :meth:`Segment.solve`."""
        return self.segment.solve(self.features(x), power=power)

    @lasting()
    def transient(
        self, x: Tensor, *, initial: Tensor | None = None, options: TransientOptions | None = None
    ) -> TransientResult:
        """Waveforms for a sequence of model inputs (L, …); see :meth:`Segment.transient`."""
        start = None if initial is None else self.features(initial)
        return self.segment.transient(self.features(x), initial=start, options=options)

    def timing(self, options: TimingOptions | None = None) -> InferenceRun:
        """See :meth:`Segment.timing`."""
        return self.segment.timing(options)

    @lasting()
    def measure(
        self, x: Tensor, *, options: TimingOptions | TransientOptions | None = None
    ) -> InferenceReport:
        """Latency and energy of model inputs (B, …); see :meth:`Segment.measure`."""
        return self.segment.measure(self.features(x), options=options)

    def dissipation(self, x: Tensor) -> Dissipation:
        """Where the power goes, for model inputs (B, …); see :meth:`Segment.dissipation`."""
        return self.segment.dissipation(self.features(x))

    @lasting()
    def noise(self, x: Any, settings: Noise | None = None) -> NoiseReport:  # noqa: ANN401
        """Noise at operating points of all circuits, layer by layer; see :meth:`Segment.noise`.

        Args:
            x: (B, …) as the model takes it; a tuple or list is several inputs, a dict named ones.
                Of a model of several circuits, :data:`NOISY` of the input vectors that reach each
                of them are analysed, evenly among all its calls and positions.
            settings: Amplitudes and band; None: those of each circuit's configuration.
        """
        if isinstance(self.model, Chain):
            return self.segment.noise(self.features(x), settings)
        inputs, named = arguments_of(x)
        found: dict[str, list[Tensor]] = {path: [] for path in self.segments}

        def see(path: str, reached: Tensor) -> None:
            found[path].append(self.segments[path].positions.vectors(reached.detach()))

        with watched(self.segments, see), evaluating(self.model):
            self.forward(*inputs, **named)
        reports = []
        for path, segment in self.segments.items():
            if found[path]:
                rows = torch.cat(found[path])
                rows = rows[:: max(1, len(rows) // NOISY)][:NOISY]
                reports.append(segment.noise(rows.to(torch.float64), settings))
        return NoiseReport.joined(reports)

    def decode(self, outputs: Tensor) -> Tensor:
        """See :meth:`Segment.decode`."""
        return self.segment.decode(outputs)

    def forward(self, *inputs: Any, **named: Any) -> Any:  # noqa: ANN401 - as the original has it
        """Circuit-accurate outputs in the original model's units.

        In training mode the digital part trains, as in any module: Dropout drops, BatchNorm
        moves. Everything else (:meth:`solve`, :meth:`measure`, evaluation, calibration, …) runs
        as in evaluation mode.

        Args:
            inputs: As the original model takes them, (B, …) mostly.
            named: Likewise.

        Returns:
            What the original gives. Of a :class:`Chain`, (B, M) in the type of its input (the
            circuit is solved in float64; integers give float64); NaN in rows of samples that did
            not converge.

        Raises:
            CircuitError: An optional input is not at its default, for which the model was traced.

        Warns:
            ConversionWarning: Full scales of circuits were open, and are this batch's now.
        """
        segments = self.segments
        still = [path for path, segment in segments.items() if segment.open]
        if still:
            self.find_ranges([(inputs, named)])
            still = [path for path in still if not segments[path].open]
        if still:
            warnings.warn(
                f"full scales of {len(still)} circuits ({still[0]}, …) are taken from this batch "
                "and kept: later inputs beyond them saturate. convert(…, samples=…) takes them "
                "from more data",
                ConversionWarning,
                stacklevel=4,
            )
        if without_range(segments.values()):
            self.find_converter_ranges([(inputs, named)])
            warnings.warn(
                "ranges of converters are taken from this batch and kept: later voltages beyond "
                "them are cut off. convert(…, samples=…) takes them from more data, "
                "converter.limits sets them",
                ConversionWarning,
                stacklevel=4,
            )
        return self._run(inputs, named)

    def _run(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Any:  # noqa: ANN401
        if self.inputs is None:
            return self.model(*inputs, **named)
        values = self.inputs.values(inputs, named)
        if isinstance(self.model, fx.GraphModule):
            return self.model(*values)
        return self.inputs.call(self.model, values)

    def _run_all(self, runs: Iterable[Arguments]) -> None:
        for inputs, named in runs:
            self._run(inputs, named)

    def software(self, *inputs: Any, **named: Any) -> Any:  # noqa: ANN401 - as the original has it
        """What the model gives with the software layers in the places of circuits.

        Args:
            inputs: As :meth:`forward` takes them.
            named: Likewise.
        """
        with in_software(self.segments), evaluating(self.model):
            return self._run(inputs, named)

    @lasting()
    def find_ranges(self, runs: Iterable[Arguments]) -> None:
        """Take full scales of circuits that are not known yet from data; others stay.

        Args:
            runs: Inputs of the model and named ones, of one run or several.
        """
        with evaluating(self.model):
            set_ranges(self.segments, lambda: self._run_all(runs))

    @lasting()
    def find_converter_ranges(self, runs: Iterable[Arguments]) -> None:
        """Take the ranges of all converters from data; ``converter.limits`` stay.

        Args:
            runs: Inputs of the model and named ones, of one run or several.
        """
        with evaluating(self.model):
            fit_converters(self.model, lambda: self._run_all(runs))

    def inputs_of(self, segment: str, *inputs: Any, **named: Any) -> list[Tensor]:  # noqa: ANN401
        """The tensors that reach a segment in a run of the model, one per call of the segment.

        Args:
            segment: Its path (:attr:`segments`).
            inputs: Of the model, as :meth:`forward` takes them.
            named: Likewise.

        Raises:
            CircuitError: There is no such segment.
        """
        if segment not in self.segments:
            raise CircuitError(
                f"there is no circuit {segment!r}; there are {', '.join(self.segments)}"
            )
        found: list[Tensor] = []
        part = {segment: self.segments[segment]}
        with watched(part, lambda _, x: found.append(x)), evaluating(self.model):
            self.forward(*inputs, **named)
        return found

    @property
    def width(self) -> int:
        """Outputs of the model for one sample, software after the circuit included."""
        outputs = self.segment.last.out_features
        one = torch.zeros(1, outputs, dtype=torch.float64, device=self.device)
        return self.scores(one).shape[-1]

    @property
    def classes(self) -> int:
        """Classes that labels can name: one per output of the model, two where it has one."""
        return max(2, self.width)

    @property
    def threshold(self) -> float | None:
        """Output, in software units, above which a network of one output says yes (class 1).

        The middle of a sigmoid (0.5) or tanh (0); 0 without an activation, where the output is a
        logit. None: several outputs, or no natural threshold (ReLU, Softmax).
        """
        normalised = any(not isinstance(part, nn.Sequential) for part in self.tail.modules())
        function = self.segment.last.activation.function
        if self.width > 1 or normalised or function.clips:
            return None
        return function.middle if isinstance(function, Bounded) else 0.0

    def answers(self, outputs: Tensor) -> Tensor:
        """(…) int64: the classes that output voltages (…, M) stand for.

        The largest output; of one output whether it is above :attr:`threshold`. -1, which is no
        class, where all outputs are equal.

        Raises:
            DataError: There is one output, and no threshold.
        """
        return chosen(self.scores(outputs), self.threshold)

    def scores(self, outputs: Tensor) -> Tensor:
        """What the original model would give for output voltages, in evaluation mode.

        Args:
            outputs: (…, M) V.

        Returns:
            (…, M) float64, what comes after the circuit in software included.
        """
        with evaluating(self.tail):
            result: Tensor = self.tail(self.decode(outputs))
        return result

    def summary(self) -> str:
        """The conversion table as text: what was mapped, folded and left digital, and why."""
        return self._table().text()

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return self._table().html()

    def _table(self) -> Table:
        rows = [(item.path, item.module, item.target, item.detail) for item in self.records]
        return Table("imac_torch conversion", rows, HEADINGS)

    def get_extra_state(self) -> Tensor:
        """The network's configuration as bytes, so that safetensors can hold it."""
        return pack({"config": self.config.to_dict()})

    def set_extra_state(self, state: Any) -> None:  # noqa: ANN401 - torch's signature
        """Restore :meth:`get_extra_state`.

        Raises:
            ConversionError: The state is not one of ours.
        """
        self._config = unpack(state, lambda found: Config.from_dict(found["config"]), "network")

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any  # noqa: ANN401 - torch's
    ) -> None:
        renew(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def renew(state: MutableMapping[str, Any], prefix: str = "") -> None:
    """Turn a state of version 0.1, where a network was one circuit, into one of today.

    Args:
        state: Changed in place.
        prefix: Of the network's entries.
    """
    own = f"{prefix}_extra_state"
    if own in state and f"{prefix}layers.0.weight" in state:
        rename(state, prefix, _OLD_NAMES)
        state[f"{prefix}model.segment._extra_state"] = state[own]


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Put modules into evaluation mode, and every one of their parts back into its own mode.

    Args:
        modules: None is left out.
    """
    given = [(module, module.training) for module in modules if module is not None]
    modes = [(part, part.training) for module, _ in given for part in module.modules()]
    try:
        for module, _ in given:
            module.eval()  # not only a flag: what parts of their own do then is theirs
        yield
    finally:
        for module, training in given:
            module.train(training)
        for part, training in modes:
            part.training = training
