"""IMACNetwork: a converted model, its analog layers solved together as one circuit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from imac_torch.base.memo import Memory
from imac_torch.base.tables import html_table, text_table
from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.circuit.topology import Circuit, build_layer
from imac_torch.config import Config, Supplies
from imac_torch.datasets.batches import chosen
from imac_torch.dc.native import Native, Prepared
from imac_torch.errors import CircuitError, ConfigError, ConversionError, SettingWarning
from imac_torch.model.linear import IMACLinear, connect
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.activations import Bounded
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.results.solution import Solution
from imac_torch.transient.inference import InferenceRun
from imac_torch.transient.inference_report import InferenceReport
from imac_torch.transient.network import solve_transient
from imac_torch.transient.options import TimingOptions, TransientOptions
from imac_torch.transient.preparation import DynamicStage, prepare_transient
from imac_torch.transient.result import TransientResult

HEADINGS = ("path", "module", "becomes", "detail")
"""Of the conversion table."""


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


class _Once:
    """Whether something was said of a network; its copies share it."""

    def __init__(self) -> None:
        self.said = False

    def __deepcopy__(self, memo: dict[int, object]) -> _Once:
        return self

    def first(self) -> bool:
        """True the first time it is asked."""
        said, self.said = self.said, True
        return not said


class IMACNetwork(nn.Module):
    """A model whose fully connected tail is an analog circuit.

    ``forward`` is a drop-in for the original model: software units in and out, circuit-accurate
    in between, differentiable. :meth:`solve` gives volts, watts and statuses.

    Args:
        digital: What runs before the circuit (feature extraction), in software.
        layers: The analog layers, in order.
        tail: What runs after it in software (for example LogSoftmax).
        config: The network's configuration.
        records: The conversion table; what it says of analog layers is renewed when it is asked
            for (:attr:`records`).
        engine: The native solver's settings.

    Raises:
        ConversionError: There is no analog layer, or shapes do not chain.
    """

    def __init__(
        self,
        digital: nn.Module,
        layers: Sequence[IMACLinear],
        tail: nn.Module,
        config: Config,
        records: Sequence[LayerRecord] = (),
        engine: Native | None = None,
    ) -> None:
        super().__init__()
        if not layers:
            raise ConversionError("the model has no layer that can be analog")
        for before, after in pairwise(layers):
            if before.out_features != after.in_features:
                raise ConversionError(
                    f"{before.name} has {before.out_features} outputs, {after.name} takes "
                    f"{after.in_features}"
                )
        connect(layers)
        self.digital = digital
        self.layers = nn.ModuleList(layers)
        self.tail = tail
        self._config = config
        self._told_of_signs = _Once()
        self.conversion = tuple(records)
        self.engine = Native() if engine is None else engine
        self._cache: Memory[Prepared] = Memory()

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
        for layer in self.layers:
            assert isinstance(layer, IMACLinear)  # noqa: S101 - narrows the type only
            yield layer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.analog_layers()).weight.device

    def voltages(self, x: Tensor) -> Tensor:
        """Input voltages of the circuit for model inputs.

        The digital part runs as in evaluation mode, whatever mode it is in.

        Args:
            x: (B, …) as the original model takes it.

        Returns:
            (B, N) float64, V.

        Raises:
            CircuitError: An input is not finite or beyond full scale, or negative and
                ``supplies.vss`` is 0.

        Warns:
            SettingWarning: Inputs are negative, and ``supplies.vss`` is not -vdd; said once.
        """
        return self._encoded(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """(B, N): what the digital part gives, in evaluation mode.

        Raises:
            CircuitError: It does not fit the first layer.
        """
        if isinstance(x, Tensor) and x.is_inference() and not torch.is_inference_mode_enabled():
            x = x.clone()  # modules that work in place must not meet a tensor of another mode
        with evaluating(self.digital):
            return self._checked(self.digital(x), x)

    def _encoded(self, features: Tensor) -> Tensor:
        self._check_signs(features)
        scale = next(self.analog_layers()).scaling.input_scale
        return encode(features.to(torch.float64), self.config.supplies, scale)

    def _checked(self, features: object, x: Tensor) -> Tensor:
        first = next(self.analog_layers())
        if not isinstance(features, Tensor):
            raise CircuitError(
                f"layer {first.name} takes a tensor, the digital part gives a "
                f"{type(features).__name__}; wrap the module that returns it"
            )
        if features.ndim != 2 or features.shape[1] != first.in_features:
            raise CircuitError(
                f"layer {first.name} takes (B, {first.in_features}), the digital part gives "
                f"{tuple(features.shape)} for inputs {tuple(x.shape)}"
            )
        if features.is_complex():
            raise CircuitError(f"layer {first.name} takes real inputs, they are {features.dtype}")
        return features

    def _check_signs(self, features: Tensor) -> None:
        """Refuse negative inputs that are lost; say, once, where they are smaller or larger."""
        supplies = self.config.supplies
        if supplies.vss == -supplies.vdd or not bool((features < 0).any()):
            return
        what = (
            f"inputs reach {float(features.detach().min()):g}, and with supplies.vss = "
            f"{supplies.vss:g} V, vdd = {supplies.vdd:g} V"
        )
        advice = (
            f"Set supplies.vss = {-supplies.vdd:g}, or give model and circuit inputs from 0 on"
        )
        if supplies.vss == 0.0:
            raise CircuitError(f"{what} all negative inputs would become 0 V. {advice}")
        if self._told_of_signs.first():
            warnings.warn(
                f"{what} negative inputs have {-supplies.vss / supplies.vdd:.3g} times the voltage "
                f"of positive ones: the circuit does not compute what the model does. {advice}",
                SettingWarning,
                stacklevel=3,
            )

    def prepare(self, engine: Native | None = None) -> Prepared:
        """The eliminated circuit of the present conductances, cached until they change.

        With gradients enabled and a layer that requires them, it is built anew with its graph;
        so it is while devices are varied.

        Args:
            engine: Settings of the native solver; None: the network's.
        """
        engine = self.engine if engine is None else engine
        tracked = torch.is_grad_enabled() and any(
            parameter.requires_grad for parameter in self.layers.parameters()
        )
        if tracked or any(layer.matrix.sample is not None for layer in self.analog_layers()):
            return engine.prepare(self._parts())
        tensors = [*self.layers.parameters(), *self.layers.buffers()]
        settings = (
            engine,
            self.config.supplies.vdd,
            tuple(
                (layer.config, layer.scaling, layer.activation) for layer in self.analog_layers()
            ),
        )
        # Gains that are determined on demand are in buffers afterwards.
        return self._cache.get(settings, tensors, lambda: engine.prepare(self._parts()))

    def _check_supplies(self) -> None:
        """A circuit has one set of supplies and one timing, which layers only repeat."""
        for layer in self.analog_layers():
            for name in ("supplies", "timing"):
                own, common = getattr(layer.config, name), getattr(self.config, name)
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

    def _parts(self) -> list[tuple[CrossbarSpec, NeuronSpec]]:
        self._check_supplies()
        return [(layer.matrix.crossbar(), layer.neuron_spec()) for layer in self.analog_layers()]

    def solve(self, x: Tensor, *, power: bool = True) -> Solution:
        """The circuit's DC solution for model inputs, the digital part in evaluation mode.

        Args:
            x: (B, …) as the original model takes it.
            power: Whether to compute the power of every source.

        Returns:
            Voltages, powers and a status per sample.
        """
        return self.engine.solve(self.prepare(), self.voltages(x), power=power)

    def _in_time(self, options: TransientOptions) -> tuple[DynamicStage, ...]:
        for layer in self.analog_layers():
            if layer.config.device.bend is not None:
                raise CircuitError(
                    f"{layer.name}: transients are of ohmic cells, device.bend is "
                    f"{layer.config.device.bend} V; set it to None to measure times"
                )
        parts = self._parts()
        interconnects = [layer.config.interconnect for layer in self.analog_layers()]
        return prepare_transient(
            parts, interconnects, self.prepare().stages, options, self.config.timing
        )

    @lasting()
    def transient(
        self, x: Tensor, *, initial: Tensor | None = None, options: TransientOptions | None = None
    ) -> TransientResult:
        """Waveforms while samples follow one another at the inputs, one per ``timing.period``.

        Args:
            x: (L, …) as the original model takes it: one sequence.
            initial: (1, …), whose operating point is the start; None: all inputs at 0 V.
            options: Step control, wires, what to keep. ``StepControl(grid=…,
                method="trapezoidal")`` integrates with the rule and on the time points of another
                simulator.

        Returns:
            A batch of one (B = 1).

        Raises:
            SolverError: Time steps became too small.
        """
        options = TransientOptions() if options is None else options
        start = None if initial is None else self.voltages(initial)
        return solve_transient(
            self._in_time(options), self.voltages(x)[None], self.config.timing,
            initial=start, options=options,
        )  # fmt: skip

    @lasting()
    def timing(self, options: TimingOptions | None = None) -> InferenceRun:
        """What measures latency and energy of samples that arrive in batches.

        Args:
            options: Step control, wires, settling band; None: the defaults.

        Returns:
            An object whose ``add`` takes input voltages (:meth:`voltages`).
        """
        options = TimingOptions() if options is None else options
        stages = self._in_time(options.transient)
        return InferenceRun(stages, self.config.timing, options)

    @lasting()
    def measure(
        self, x: Tensor, *, options: TimingOptions | TransientOptions | None = None
    ) -> InferenceReport:
        """Latency and energy of every sample, from transients of the whole circuit.

        Samples follow each other as in a stream, each from the settled state of the one before.
        Wires have capacitance where ``interconnect.capacitance`` says so.

        Args:
            x: (B, …) as the original model takes it.
            options: Settings of the measurement, or of its transients only; None: the defaults.

        Raises:
            SolverError: No sample was solved: time steps became too small.
        """
        if isinstance(options, TransientOptions):
            options = TimingOptions(transient=options)
        run = self.timing(options)
        run.add(self.voltages(x))
        return run.report()

    def decode(self, outputs: Tensor) -> Tensor:
        """Output voltages (…, M) in the software units of the original model's outputs."""
        last = list(self.analog_layers())[-1]
        return outputs / self.config.supplies.vdd * last.scaling.output_scale

    def forward(self, x: Tensor) -> Tensor:
        """Circuit-accurate outputs in the original model's units.

        In training mode the digital part trains, as in any module: Dropout drops, BatchNorm
        moves. Everything else (:meth:`solve`, :meth:`measure`, evaluation, calibration, …) runs
        as in evaluation mode.

        Args:
            x: (B, …).

        Returns:
            (B, M) in the type of ``x`` (the circuit is solved in float64; integers give float64);
            NaN in rows of samples that did not converge.
        """
        voltages = self._encoded(self._checked(self.digital(x), x))
        solution = self.engine.solve(self.prepare(), voltages, power=False)
        scores: Tensor = self.tail(self.decode(solution.outputs))
        return scores.to(x.dtype) if x.is_floating_point() else scores

    @property
    def classes(self) -> int:
        """Classes that labels can name: one per output, two where there is one output."""
        return max(2, list(self.analog_layers())[-1].out_features)

    @property
    def threshold(self) -> float | None:
        """Output, in software units, above which a network of one output says yes (class 1).

        The middle of a sigmoid (0.5) or tanh (0); 0 without an activation, where the output is a
        logit. None: several outputs, or no natural threshold (ReLU, Softmax).
        """
        last = list(self.analog_layers())[-1]
        normalised = any(not isinstance(part, nn.Sequential) for part in self.tail.modules())
        function = last.activation.function
        if last.out_features > 1 or normalised or function.clips:
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
        return text_table("imac_torch conversion", self._rows(), headings=HEADINGS)

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return html_table("imac_torch conversion", self._rows(), headings=HEADINGS)

    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [(item.path, item.module, item.target, item.detail) for item in self.records]

    def circuit(self) -> Circuit:
        """The neutral circuit of the present conductances: what netlists are written from."""
        self._check_supplies()
        layers = []
        for index, layer in enumerate(self.analog_layers()):
            layers.append(
                build_layer(
                    f"layer{index + 1}", layer.matrix.crossbar(), layer.neuron_spec(), layer.config
                )
            )
        return Circuit(tuple(layers), self.config.supplies.vdd, self.config.timing)

    def get_extra_state(self) -> Tensor:
        """The network's configuration as bytes, so that safetensors can hold it."""
        content = {"config": self.config.to_dict()}
        return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:  # noqa: ANN401 - torch's signature
        """Restore :meth:`get_extra_state`.

        Raises:
            ConversionError: The state is not one of ours.
        """
        if not isinstance(state, Tensor) or state.dtype != torch.uint8:
            raise ConversionError("the state holds no configuration")
        try:
            content = json.loads(bytes(state.cpu().tolist()).decode())["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConversionError(f"the state's configuration is damaged: {error}") from None
        self._config = Config.from_dict(content)


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Put modules into evaluation mode, and every one of their parts back into its own mode.

    Args:
        modules: None is left out.
    """
    parts = [part for module in modules if module is not None for part in module.modules()]
    modes = [(part, part.training) for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training


def encode(inputs: Tensor, supplies: Supplies, scale: float) -> Tensor:
    """Software inputs as voltages: +scale is vdd, 0 is 0 V, -scale is vss, linear between.

    Args:
        inputs: (B, N) float64.
        supplies: Supplies and the kind of coding.
        scale: Software input that is full scale.

    Returns:
        (B, N) V.

    Raises:
        CircuitError: An input is not finite or, with the linear coding, beyond full scale.
    """
    if not bool(torch.isfinite(inputs).all()):
        row = int(torch.nonzero(~torch.isfinite(inputs))[0, 0])
        raise CircuitError(f"input {row} of the batch is not finite")
    relative = inputs / scale
    if supplies.encoding == "sign":
        relative = torch.sign(relative)
    elif bool((relative.abs() > 1.0 + 1e-9).any()):
        raise CircuitError(
            f"inputs reach {float(inputs.detach().abs().max()):g}, full scale is {scale:g}: "
            "voltages would leave the supplies. Scale the data, or set supplies.input_scale"
        )
    return torch.where(relative >= 0, relative * supplies.vdd, -relative * supplies.vss)
