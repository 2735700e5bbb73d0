"""The published HSPICE results and the circuits they belong to, built from our own primitives.

The files are described in ``golden/README.md`` of the shared references, whose directory the
environment variable ``IMAC_TORCH_SHARED`` names. Benchmarks that want such a network, but none of
the results, run without: then ours, from ``data/``, takes its place.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import imac_torch as it
from imac_torch.base.resources import data_file
from imac_torch.circuit.crossbar import CrossbarSpec, partition_ends
from imac_torch.circuit.wires import segments
from imac_torch.dc.transfer import transfer_curve
from imac_torch.elimination.ports import PortNetwork, eliminate_layer
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.periphery.readout import build_read_out

LAYERS = 3
CROSSBAR_INPUTS = 32


def shared_directory() -> Path:
    """Where the references are.

    Raises:
        SystemExit: The environment variable is not set or names no such directory.
    """
    path = os.environ.get("IMAC_TORCH_SHARED")
    if not path or not (Path(path) / "golden").is_dir():
        raise SystemExit("set IMAC_TORCH_SHARED to the directory that holds golden/")
    return Path(path)


def load(shared: Path, name: str) -> dict[str, np.ndarray]:
    """Arrays of one reference file."""
    with np.load(shared / "golden" / name, allow_pickle=False) as content:
        return {key: content[key] for key in content.files}


@dataclass(frozen=True)
class ReferenceNetwork:
    """A 400-120-84-10 network with inputs of ±1 and their labels."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    inputs: Tensor
    labels: Tensor
    name: str = "the published network, MNIST"

    @classmethod
    def read(cls, shared: Path) -> ReferenceNetwork:
        """The published one with its 10,000 inputs, from ``network.npz``."""
        return cls.of(load(shared, "network.npz"))

    @classmethod
    def shipped(cls, images: int | None = None) -> ReferenceNetwork:
        """Ours, which ships in ``data/`` (``examples/train_lenet.py``).

        Args:
            images: Inputs, its 360 over and over; None for these.
        """
        with np.load(data_file("lenet_400_120_84_10.npz"), allow_pickle=False) as content:
            network = replace(cls.of(dict(content)), name="the network of data/, digits")
        chosen = torch.arange(images or len(network.labels)) % len(network.labels)
        return replace(network, inputs=network.inputs[chosen], labels=network.labels[chosen])

    @classmethod
    def at_hand(cls, images: int) -> ReferenceNetwork:
        """The published one where the references are, otherwise ours: ``name`` says which."""
        if os.environ.get("IMAC_TORCH_SHARED"):
            network = cls.read(shared_directory())
            chosen = slice(0, images)
            return replace(network, inputs=network.inputs[chosen], labels=network.labels[chosen])
        return cls.shipped(images)

    @classmethod
    def of(cls, content: Mapping[str, np.ndarray]) -> ReferenceNetwork:
        """From the arrays of either file."""
        bits = np.unpackbits(content["inputs_bits"], axis=1).astype(np.float64)
        numbers = range(1, LAYERS + 1)
        return cls(
            tuple(torch.tensor(content[f"W{k}"].T.astype(np.float64)) for k in numbers),
            tuple(torch.tensor(content[f"B{k}"].astype(np.float64)) for k in numbers),
            torch.from_numpy(2.0 * bits - 1.0),
            torch.from_numpy(content["labels"].astype(np.int64)),
        )

    def model(self) -> nn.Sequential:
        """As PyTorch: falling sigmoids, because the neuron is an inverter."""
        modules: list[nn.Module] = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
            with torch.no_grad():
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            modules += [linear, it.InverterSigmoid()]
        return nn.Sequential(*modules)

    def circuit_f(self, config: it.Config | None = None, **options: Any) -> it.IMACNetwork:  # noqa: ANN401
        """Circuit F: the IMAC-Sim circuit, one netlist."""
        return it.convert(self.model(), config or it.Config.imac_sim(), **options)


def device_config(entry: dict[str, Any]) -> it.Config:
    """The configuration of one run of ``hspice_devices.npz``."""
    size = entry["crossbar"]
    return it.Config(
        device=it.Memristor(rlow=entry["rlow"], rhigh=entry["rhigh"]),
        interconnect=it.Interconnect(
            tech_node=entry["tech_node"], length=entry["bitcell_length"]
        ),
        crossbar=it.Crossbar(rows=size, columns=size),
        neuron=it.Neuron(rlow=entry["neuron_rlow"], rhigh=entry["neuron_rhigh"]),
        amplifier=it.Amplifier(gain=tuple(map(float, entry["gain"]))),
        timing=it.Timing(period=entry["tsampling"]),
    )


def device_runs(shared: Path) -> list[tuple[dict[str, Any], Tensor, Tensor]]:
    """Configuration, outputs (50, 10) V and average powers (50,) W of every device run."""
    content = load(shared, "hspice_devices.npz")
    entries = json.loads(str(content["configurations"]))
    return [
        (
            entry,
            torch.from_numpy(content[f"output_voltage_{k}"]),
            torch.from_numpy(content[f"average_power_{k}"]),
        )
        for k, entry in enumerate(entries)
    ]


def circuit_r_ports(
    weight: Tensor, bias: Tensor, gain: float, config: it.Config
) -> tuple[PortNetwork, list[int]]:
    """Crossbars of one layer of circuit R: every row of every partition on its own.

    A unit has 32 columns and a bias column. The inputs of a partition are those of the cut of
    N+1 lines; unused columns are wires without memristors. The last partition has the real bias,
    the others a zero (rlow, rlow).

    Returns:
        The ports, and the first input of every partition with the end of the last.
    """
    rlow, rhigh = 1.0 / config.device.rlow, 1.0 / config.device.rhigh
    outputs, inputs = weight.shape
    parts = -(-(inputs + 1) // CROSSBAR_INPUTS)
    ends = [min(end, inputs) for end in partition_ends(inputs + 1, parts)]
    sides: list[Tensor] = []
    for sign in (1.0, -1.0):
        columns = []
        for part, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            cells = torch.where(sign * weight[:, start:end] > 0, rlow, rhigh)
            unused = torch.zeros(outputs, CROSSBAR_INPUTS - (end - start))
            last = torch.full((outputs,), rlow)
            if part == parts - 1:
                last = torch.where(sign * bias > 0, rlow, rhigh)
            columns += [cells.double(), unused.double(), last.double()[:, None]]
        sides.append(torch.cat(columns, dim=1))
    wire = segments(config.interconnect)
    summed = config.replace(amplifier=config.amplifier.replace(combine="sum"))

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64)

    width = CROSSBAR_INPUTS + 1
    spec = CrossbarSpec(
        ConductancePair(*sides),
        tuple(width * (part + 1) for part in range(parts)),
        tuple(range(1, outputs + 1)),
        scalar(wire.input_line),
        scalar(wire.output_line),
        build_read_out(summed, gain, parts),
    )
    return eliminate_layer(spec)[0], [0, *ends]


def circuit_r(
    network: ReferenceNetwork,
    inputs: Tensor,
    neuron: str,
    *,
    bits: int | None = None,
    average: bool = False,
) -> Tensor:
    """Outputs of circuit R: layers apart, partitions summed.

    Args:
        network: The network.
        inputs: (B, 400) of ±1.
        neuron: ``logistic`` (0.8/(1 + exp(11 s))) or ``finfet``.
        bits: Converters around the neuron: round s to 2**bits - 1 steps over ±0.8 V, and its
            output again; None for none.
        average: Neurons see the mean of the partitions instead.

    Returns:
        (B, 10) V.
    """
    config = it.Config.imac_sim()
    vdd = config.supplies.vdd
    signals = inputs * vdd
    gains = (30.0, 30.0, 10.0)
    spec = it.IMACLinear(1, 1, activation=it.Activation("sigmoid"), config=config).neuron_spec()
    for weight, bias, gain in zip(network.weights, network.biases, gains, strict=True):
        ports, ends = circuit_r_ports(weight, bias, gain, config)
        lines = []
        for start, end in itertools.pairwise(ends):
            grounded = signals.new_zeros(len(signals), CROSSBAR_INPUTS - (end - start))
            lines += [signals[:, start:end], grounded, signals.new_full((len(signals), 1), vdd)]
        summed = torch.cat(lines, dim=1) @ ports.transfer.T
        if average:
            summed = summed / (len(ends) - 1)
        if bits is not None:
            summed = _convert(summed, bits, vdd)
        if neuron == "logistic":
            signals = vdd / (1.0 + torch.exp(11.0 * summed))
        else:
            signals = transfer_curve(spec, summed.reshape(-1)).reshape(summed.shape)
        if bits is not None:
            signals = _convert(signals, bits, vdd)
    return signals


def _convert(voltage: Tensor, bits: int, full_scale: float) -> Tensor:
    steps = 2**bits - 1
    unit = (voltage.clamp(-full_scale, full_scale) + full_scale) / (2 * full_scale)
    return torch.round(unit * steps) / steps * 2 * full_scale - full_scale
