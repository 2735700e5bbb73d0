"""IMACLinear: a linear layer with its activation as crossbars, amplifiers and neurons."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn

from imac_torch.config import Config
from imac_torch.dc.prediction import output_resistance
from imac_torch.dc.shape import fitted_threshold_and_slope
from imac_torch.dc.transfer import threshold_and_slope
from imac_torch.devices.effects import Factors
from imac_torch.devices.model import DeviceSample
from imac_torch.devices.record import to_bytes
from imac_torch.errors import ConversionError
from imac_torch.mapping.quantization import join_bias, percent
from imac_torch.model.matrix import ProgrammedMatrix, Target
from imac_torch.model.state import pack, rename, unpack
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.activations import IDENTITY, Activation, Unbounded
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.choice import kind_for

DRIVER_RESISTANCE: Final = 500.0
"""Ω. Source resistance of neurons that drive lines, as long as nothing is known of them."""

_BUFFERS: Final = ("trim", "matched_gain", "input_mean", "input_variance", "input_factor")
"""Of the matrix; states of version 0.1 have them as the layer's."""
_SIDES: Final = ("positive", "negative")
_OLD_NAMES: Final = frozenset(
    {
        *_BUFFERS, "slicing", "matched", "statistics", "set_input_statistics", "quantized",
        "wanted_transfer", "partitions", "match", "nominal_conductances",
        "conductances", "gain", "choose_gain", "least_expected_error", "expected",
        "crossbar", "read_out_error", "weight_errors",
    }
)  # fmt: skip
"""What version 0.1 asked of the layer and is the matrix's now."""


@dataclass(frozen=True)
class Scaling:
    """How one layer's software quantities relate to volts.

    Attributes:
        input_scale: Software input that is vdd on an input line.
        output_scale: Software output that is vdd at the neuron's output.
    """

    input_scale: float = 1.0
    output_scale: float = 1.0


class IMACLinear(nn.Module):
    """``activation(weight·x + bias)`` on partitioned crossbars; trainable.

    In a model that is being trained, ``forward`` is the ideal circuit: quantised conductances,
    the read-out's divider and the activation, but ohmic cells, no wires and no loading. It is
    differentiable, gradients pass straight through the quantisation, so training sees what the
    devices can store. :func:`imac_torch.convert` takes such layers as they are; the converted
    network solves all layers together, with wires and loading.

    Args:
        in_features: N, of one group.
        out_features: M, of all groups.
        bias: Whether there is a bias. Its column exists either way; without a bias it has no
            memristors, but for the scheme 'matched', which has the neuron's threshold there.
        activation: What follows the weights.
        config: The layer's configuration; per-layer tuples must be resolved
            (:meth:`Config.for_layer`).
        scaling: Software units of vdd.
        name: The layer's path, for messages.
        dtype: Of the weights.
        initialise: Whether to draw weights at random, as torch's Linear does, from torch's global
            generator; without, they are 0 until they are set.
        groups: G; each has M/G outputs and N inputs of its own, one group after the other.

    Attributes:
        matrix: The devices, read-outs and gain: :class:`imac_torch.model.matrix.ProgrammedMatrix`.
        driver_resistance: Ω, of what drives the lines: see :func:`connect`.
        calibrated_error: Of its outputs, when it was calibrated, as
            :func:`imac_torch.conversion.outputs.relative_error` has it; None: it was not.
        foreign: The file that this layer came from, while it may not name further ones.

    Raises:
        ConversionError: A feature count is not positive, groups do not divide the outputs, or the
            neuron cannot compute the activation.
    """

    matrix: ProgrammedMatrix

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: Activation | None = None,
        config: Config | None = None,
        scaling: Scaling | None = None,
        name: str = "IMACLinear",
        dtype: torch.dtype = torch.float64,
        initialise: bool = True,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise ConversionError(f"{name}: {in_features}→{out_features} is not a layer")
        if groups < 1 or out_features % groups:
            raise ConversionError(f"{name}: {out_features} outputs are not {groups} equal groups")
        self.in_features = in_features
        self.out_features = out_features
        self.activation = Activation(IDENTITY.name) if activation is None else activation
        self.scaling = Scaling() if scaling is None else scaling
        self.calibrated_error: float | None = None
        self.foreign: str | None = None
        self.driver_resistance = DRIVER_RESISTANCE
        config = Config() if config is None else config
        kind_for(self.activation, config.neuron.kind, where=name)
        # On the CPU whatever the default device is; `.to` moves a layer as a whole.
        weight = torch.zeros(out_features, in_features, dtype=dtype, device="cpu")
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(out_features)) if bias else None
        self.matrix = ProgrammedMatrix(
            out_features, in_features + 1, config, self.target, name=name, groups=groups
        )
        if initialise:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    @property
    def config(self) -> Config:
        """The layer's configuration; its matrix has it."""
        matrix: Any = self._modules["matrix"]  # what torch's __getattr__ finds, every forward
        found: Config = matrix.config
        return found

    @config.setter
    def config(self, config: Config) -> None:
        self.matrix.config = config

    @property
    def groups(self) -> int:
        """G."""
        return self.matrix.groups

    @property
    def lines(self) -> int:
        """G·N, input lines without those of the bias."""
        return self.groups * self.in_features

    def by_group(self, rows: Tensor) -> Tensor:
        """(R·G, N) of input vectors (R, G·N): those of its groups, one after the other."""
        return rows.reshape(-1, self.in_features)

    @property
    def name(self) -> str:
        """The layer's path."""
        return self.matrix.name

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - torch's annotation
        """What version 0.1 asked the layer for."""
        if name not in _OLD_NAMES:
            return super().__getattr__(name)
        text = f"IMACLinear.{name} is IMACLinear.matrix.{name} now; the old name goes with 0.3"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(self.matrix, name)

    def extra_repr(self) -> str:
        """Shape, activation, levels."""
        return (
            f"{self.in_features}→{self.out_features}, activation={self.activation.kind}, "
            f"levels={self.config.mapping.levels}"
        )

    def neuron_spec(self) -> NeuronSpec:
        """The activation circuit, resistances following the device where not set."""
        config, options = self.config, self.config.neuron
        kind = kind_for(self.activation, options.kind, where=self.name)
        own = options.subcircuit is not None or options.table is not None
        if own and kind.activation.read_out and options.kind != kind.name:
            # A network-wide neuron is for activations; a read-out has no circuit of the user's.
            config = config.replace(neuron=options.replace(subcircuit=None, table=None))
        return replace(kind.spec(config), foreign=self.foreign)

    @lasting()
    def description(self) -> str:
        """Partitions, mapping, errors of the devices' weights, gain and neuron, as they are now."""
        matrix = self.matrix
        mapping, slicing = self.config.mapping, matrix.slicing
        column_ends, row_ends = matrix.partitions()
        levels = f"{mapping.levels}/{mapping.scheme}"
        if slicing.count > 1:
            levels += f" in {slicing.count} slices to base {slicing.base}"
        clipped = (
            f"; outputs above {self.scaling.output_scale:.3g} are clipped at vdd"
            if self.activation.function.clips
            else ""
        )
        groups = f"{self.groups} groups of " if self.groups > 1 else ""
        calibrated = (
            ""
            if self.calibrated_error is None
            else f"; calibrated, its outputs were off by {percent(self.calibrated_error)} (rms) of "
            "what varies in them"
        )
        return (
            f"{groups}{len(column_ends)}×{len(row_ends)} partitions of up to "
            f"{self.config.crossbar.columns}×{self.config.crossbar.rows}, mapping {levels} "
            f"({matrix.weight_errors().text(bias=self.bias is not None)}), "
            f"gain {matrix.gain():.4g}{self.config.amplifier.described()}, "
            f"neuron {self.neuron_spec().kind}{clipped}{calibrated}"
        )

    def threshold_and_slope(self) -> tuple[float, float]:
        """z0 (V) and k (1/V) of the activation that the neuron is taken for."""
        spec = self.neuron_spec()
        find = fitted_threshold_and_slope if self.matrix.matched else threshold_and_slope
        return find(spec)

    def volts_per_unit(self) -> float:
        """κ: change of the neuron's input voltage per unit of ``weight·x + bias``."""
        if not self.activation.function.bounded:
            return self.config.supplies.vdd / self.scaling.output_scale
        _, slope = self.threshold_and_slope()
        # The neuron is vdd·f(slope·(z - z0)), f being the activation's function.
        return self.activation.slope / slope

    def software_units(self, volts: Tensor) -> Tensor:
        """Output voltages of its neurons in the software layer's units, any shape."""
        return volts / self.config.supplies.vdd * self.scaling.output_scale

    def target(self) -> Target:
        """What the layer wants of its matrix: weights in software units by lines at vdd."""
        vdd = self.config.supplies.vdd
        weight = self.weight.to(torch.float64) * self.scaling.input_scale
        bias = None if self.bias is None else self.bias.to(torch.float64)
        return Target(
            weights=join_bias(weight, bias),
            unit=self.volts_per_unit() / vdd,
            bias=bias is not None,
            threshold=self.threshold_and_slope()[0] / vdd,
            driver_resistance=self.driver_resistance,
        )

    def forward(self, x: Tensor) -> Tensor:
        """The ideal circuit in software units, for training.

        Args:
            x: (..., G·N).

        Returns:
            (..., M) in the type of ``x``, computed in float64; integers give float64.
        """
        lines = x.to(torch.float64) / self.scaling.input_scale
        transfer = self.matrix.transfer()
        if self.groups > 1:
            lines = lines.unflatten(-1, (self.groups, self.in_features)).unsqueeze(-2)
            transfer = transfer.unflatten(0, (self.groups, -1))
        lines = torch.cat([lines, lines.new_ones(*lines.shape[:-1], 1)], dim=-1)
        vdd = self.config.supplies.vdd
        combined = vdd * (lines @ transfer.transpose(-1, -2))
        if self.groups > 1:
            combined = combined.flatten(-3)
        result = self.ideal(combined)
        return result.to(x.dtype) if x.is_floating_point() else result

    def ideal(self, combined: Tensor) -> Tensor:
        """What ideal neurons make of combined read-outs (V), in software units; any shape."""
        function, vdd = self.activation.function, self.config.supplies.vdd
        result = function.ideal(combined, *self.threshold_and_slope(), vdd)
        return result if function.bounded else result * self.scaling.output_scale

    def limited(self, outputs: Tensor) -> Tensor:
        """Outputs in software units as they are where a circuit cuts them off at its supplies."""
        function = self.activation.function
        if not isinstance(function, Unbounded):
            return outputs
        vdd, scale = self.config.supplies.vdd, self.scaling.output_scale
        volts = outputs * (vdd / scale)
        cut = function.limit(volts, vdd)
        return torch.where(cut == volts, outputs, cut * (scale / vdd))

    @lasting()
    def effective_weights(self) -> tuple[Tensor, Tensor]:
        """The way back: software weights and bias that the devices stand for.

        Returns:
            (M, N) and (M,) float64, in the software layer's units, spread included, wires not.
        """
        joined = self.matrix.effective()
        return joined[:, :-1] / self.scaling.input_scale, joined[:, -1]

    def get_extra_state(self) -> Tensor:
        """The configuration, as UTF-8 bytes in a tensor so that safetensors can hold it."""
        content = {
            "config": self.config.to_dict(),
            "activation": {k: v for k, v in asdict(self.activation).items() if v is not None},
            "scaling": asdict(self.scaling),
            "name": self.name,
            "calibrated_error": self.calibrated_error,
        }
        return pack(content)

    def set_extra_state(self, state: Any) -> None:  # noqa: ANN401 - torch's signature
        """Restore what :meth:`get_extra_state` stored.

        Raises:
            ConversionError: The state is not one of ours.
        """
        found = unpack(state, settings, self.name)
        self.config, self.activation, self.scaling, self.matrix.name, self.calibrated_error = found

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any  # noqa: ANN401 - torch's
    ) -> None:
        """States of version 0.1 have what is the matrix's now, and spread as factors of cells."""
        rename(state_dict, prefix, {name: f"matrix.{name}" for name in _BUFFERS})
        sides = [state_dict.pop(f"{prefix}{side}_factor", None) for side in _SIDES]
        if isinstance(sides[0], Tensor) and isinstance(sides[1], Tensor):
            ideal = all(bool((side == 1.0).all()) for side in sides)
            devices = () if ideal else (DeviceSample.known(Factors(*sides)),)
            state_dict[f"{prefix}matrix._extra_state"] = to_bytes(devices)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def settings(
    content: Mapping[str, Any]
) -> tuple[Config, Activation, Scaling, str, float | None]:
    """Configuration, activation, scaling, name and calibrated error in a layer's state."""
    error = content.get("calibrated_error")
    return (
        Config.from_dict(content["config"]),
        Activation(**content["activation"]),
        Scaling(**content["scaling"]),
        str(content["name"]),
        None if error is None else float(error),
    )


def connect(layers: Sequence[IMACLinear]) -> None:
    """Tell layers what drives their lines: ideal sources the first, neurons the others."""
    layers[0].driver_resistance = 0.0
    for before, after in pairwise(layers):
        if after.matrix.matched:
            after.driver_resistance = output_resistance(before.neuron_spec())
