"""Small models, their data, and a stand-in for ngspice; for tests above circuits."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from imac_torch import Config, InverterSigmoid, Neuron, WeightMapping
from imac_torch.simulator import NgSpice

LOGISTIC = Config(neuron=Neuron(kind="logistic"))
"""Behavioural neurons: no transistor has to be tabulated."""
CONTINUOUS = LOGISTIC.replace(mapping=WeightMapping(levels="continuous"))


def seeded(make, seed=3):
    """What ``make()`` returns with torch's generator seeded, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def mlp(*sizes, activation=InverterSigmoid, seed=3):
    """Linear layers with an activation between them; none after the last."""

    def make():
        layers = []
        for k, (inputs, outputs) in enumerate(pairwise(sizes)):
            layers += [activation()] if k else []
            layers.append(nn.Linear(inputs, outputs))
        return nn.Sequential(*layers)

    return seeded(make, seed)


def drawn(generator, *sizes, activation=InverterSigmoid):
    """Linear layers in float64, all parameters uniform in ±1, an activation behind each."""
    model = nn.Sequential()
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.uniform_(-1, 1, generator=generator)
        model.append(linear).append(activation())
    return model


def reals(generator, count, width):
    """(count, width), uniform in ±1, float64."""
    return 2 * torch.rand(count, width, generator=generator, dtype=torch.float64) - 1


def signs(count, width, seed=5):
    """(count, width) of ±1, float32."""
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(0, 2, (count, width), generator=generator).float() - 1.0


def loader(inputs, labels=None, batch=4):
    """Batches of pairs; labels 0, 1, 0, 1, … if not given."""
    labels = torch.arange(len(inputs)) % 2 if labels is None else labels
    return list(zip(inputs.split(batch), labels.split(batch), strict=True))


def failing_ngspice(real: Path, directory: Path, *, on: str) -> NgSpice:
    """The real ngspice, except that netlists of batch ``on`` (``batch_00001``) fail."""
    script = directory / "ngspice"
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, pathlib, sys\n"
        f"if pathlib.Path.cwd().name == {on!r}:\n"
        "    print('doAnalyses: iteration limit reached', file=sys.stderr)\n"
        "    sys.exit(1)\n"
        f"os.execv({str(real)!r}, [{str(real)!r}, *sys.argv[1:]])\n"
    )
    script.chmod(0o755)
    return NgSpice(str(script))
