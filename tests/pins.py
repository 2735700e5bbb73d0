"""Figures of a dozen configurations that a change of the code's structure must not change.

``python tests/pins.py`` writes ``tests/data/pins.json`` anew; do that only where figures are meant
to change, and say in the commit why. ``tests/test_pins.py`` compares.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from small_networks import loader, mlp, signs
from torch import nn

import imac_torch as imac

FILE = Path(__file__).parent / "data" / "pins.json"
RELATIVE = 1e-12
"""Sums of a few thousand float64 terms in another order differ by less."""
IN_TIME = 1e-11
"""V. Filters of lines are fits to several eliminations, whose rounding they amplify.

When eliminations began to sum in another order, DC voltages moved by 1e-16 V, waveforms at the same
times by 1e-12 V. This is a millionth of the tolerance that steps are chosen for.
"""

NUMBER = re.compile(r"\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+")
"""What digests round: compiled sums differ in the last digits from processor to processor."""

LOGISTIC = imac.Neuron(kind="logistic")
SMALL = imac.Crossbar(rows=3, columns=4)
GAIN = imac.Amplifier(gain=12.0)


def configurations() -> dict[str, tuple[imac.Config, type[nn.Module]]]:
    """Name to configuration and activation: every read-out, neuron, mapping and kind of cell."""
    sigmoid = imac.InverterSigmoid
    base = imac.Config(neuron=LOGISTIC, crossbar=SMALL, amplifier=GAIN)
    mapping = imac.WeightMapping
    capacitive = base.replace(
        interconnect=imac.Interconnect(capacitance=True, tech_node=45e-9),
        amplifier=GAIN.replace(pole=2e9),
        neuron=LOGISTIC.replace(input_capacitance=1e-15, output_capacitance=2e-15),
    )
    plain = {
        "logistic": base,
        "finfet": base.replace(neuron=imac.Neuron()),
        "sum": base.replace(amplifier=GAIN.replace(combine="sum")),
        "slices": base.replace(mapping=mapping(levels=5, slices=2)),
        "sum of slices": base.replace(
            mapping=mapping(levels=3, slices=3), amplifier=GAIN.replace(combine="sum")
        ),
        "balanced": base.replace(mapping=mapping(levels=9, scheme="balanced")),
        "matched": base.replace(mapping=mapping(levels=9, scheme="matched")),
        "matched slices": base.replace(
            mapping=mapping(levels=5, scheme="matched", slices=2), device=imac.Memristor(states=8)
        ),
        "ideal wires": base.replace(
            interconnect=imac.Interconnect(resistance=False), crossbar=imac.Crossbar()
        ),
        "curved": base.replace(device=imac.Memristor(bend=0.3)),
        "one array": base.replace(crossbar=imac.Crossbar(rows=64, columns=64)),
        "capacitive": capacitive,
        "capacitive finfet": capacitive.replace(neuron=imac.Neuron(output_capacitance=2e-15)),
    }
    named = {name: (config, sigmoid) for name, config in plain.items()}
    plain_neuron = base.replace(neuron=imac.Neuron())
    return named | {
        "tanh": (plain_neuron, nn.Tanh),
        "relu": (plain_neuron, nn.ReLU),
    }


def figures(name: str) -> dict[str, Any]:
    """Solution, powers, gradients, waveforms and digests of netlists of one configuration."""
    config, activation = configurations()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = imac.convert(mlp(7, 5, 4, activation=activation), config)
        inputs = signs(3, 7) * 0.9
        return _solved(network, inputs) | _netlists(network, inputs)


def _solved(network: imac.IMACNetwork, inputs: torch.Tensor) -> dict[str, Any]:
    curved = network.config.device.bend is not None
    solution = network.solve(inputs)
    found: dict[str, Any] = {
        "outputs": solution.outputs.tolist(),
        "amplifiers": {str(k): v.combined.tolist() for k, v in enumerate(solution.layers)},
        "power": {k: v.tolist() for k, v in vars(solution.power).items()},
    }
    if curved:
        return found
    given = inputs.double().requires_grad_()
    weights = [layer.weight for layer in network.layers]
    total = (network(given) * torch.arange(1, 5)).sum()
    gradients = torch.autograd.grad(total, [given, *weights])
    found["gradients"] = {str(k): gradient.tolist() for k, gradient in enumerate(gradients)}
    if network.config.interconnect.capacitance:
        run = network.transient(inputs[:2])
        found["steps"] = len(run.time)
        found["waveform"] = run.outputs[:: max(1, len(run.time) // 12)].tolist()
    return found


def _netlists(network: imac.IMACNetwork, inputs: torch.Tensor) -> dict[str, str]:
    digests = {}
    for dialect in ("ngspice", "hspice"):
        for analysis in ("dc", "transient"):
            finfet = network.layers[0].neuron_spec().kind == "finfet"
            if finfet and (dialect, analysis) == ("ngspice", "transient"):
                continue  # there is no such deck: ngspice has no such transistor
            with tempfile.TemporaryDirectory() as directory:
                imac.compile(
                    network,
                    loader(inputs),
                    Path(directory) / "run",
                    dialect=dialect,
                    settings=imac.NetlistSettings(analysis=analysis),
                )
                digest = hashlib.sha256()
                for path in sorted(Path(directory).rglob("*")):
                    if path.suffix in {".sp", ".cir", ".spi", ".net", ".inc", ".txt", ".pwl"}:
                        text = NUMBER.sub(_rounded, path.read_text().replace(directory, ""))
                        digest.update(f"{path.name}\n{text}".encode())
                digests[f"{dialect} {analysis}"] = digest.hexdigest()
    return digests


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.10g}"


def main() -> None:
    """Write the file anew."""
    pins = {name: figures(name) for name in configurations()}
    lines = [f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in pins.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
