"""The network that a system is run on, with its test data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from train_sample import load_sample, tensors

import imac_torch as imac
from imac_torch.base.resources import data_file
from imac_torch.datasets.batches import labelled_batches
from imac_torch.errors import DataError
from imac_torch.study.sources import Loader, open_data, open_model

__all__ = ["PUBLISHED_NEURON", "Subject", "open_subject", "read_npz"]

PUBLISHED_NEURON: Final = imac.Neuron(rlow=5e3, rhigh=15e3)
"""Ω. Devices of the neurons in the published HSPICE runs with other synapses (one neuron for all
of them, so that runs differ in their crossbars only)."""

SAMPLE: Final = "digits_mlp.safetensors"


@dataclass(frozen=True)
class Subject:
    """A trained network and labelled samples.

    Attributes:
        name: What it is, for titles.
        model: In software, float64.
        inputs: (B, N) float64.
        labels: (B,) int64.
        base: The circuit that experiments change.
    """

    name: str
    model: nn.Module
    inputs: Tensor
    labels: Tensor
    base: imac.Config

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of the layers that go to crossbars, inputs first."""
        linears = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        return (linears[0].in_features, *(linear.out_features for linear in linears))

    @property
    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Batches for :func:`imac_torch.evaluate`."""
        return list(zip(self.inputs.split(1000), self.labels.split(1000), strict=True))

    def gains(self, factor: float = 1.0) -> list[float]:
        """The published amplifier gains, 30 and 10 for the last layer, times a factor."""
        layers = len(self.sizes) - 1
        return [30.0 * factor] * (layers - 1) + [10.0 * factor]

    def sweep_base(self) -> imac.Config:
        """The configuration of sweeps: published neurons and gains."""
        amplifier = self.base.amplifier.replace(gain=tuple(self.gains()))
        return self.base.replace(neuron=PUBLISHED_NEURON, amplifier=amplifier)


def read_npz(path: Path) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network in the format of the reference results.

    Arrays: ``W1`` (inputs, outputs), ``B1`` (outputs,), ``W2``, …; ``labels`` (B,); inputs of ±1
    packed into ``inputs_bits`` (B, ceil(N/8)), or as they are in ``inputs`` (B, N).

    Returns:
        The model with falling sigmoids, inputs (B, N) float64, labels (B,) int64.

    Raises:
        DataError: Arrays are missing.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    modules: list[nn.Module] = []
    number = 1
    while f"W{number}" in arrays and f"B{number}" in arrays:
        weight = torch.from_numpy(arrays[f"W{number}"].T.astype(np.float64))
        linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(torch.from_numpy(arrays[f"B{number}"].astype(np.float64)))
        modules += [linear, imac.InverterSigmoid()]
        number += 1
    if not modules or "labels" not in arrays or not {"inputs", "inputs_bits"} & set(arrays):
        raise DataError(
            f"{path} has {', '.join(sorted(arrays))}; needed are W1, B1, …, labels, and inputs or "
            "inputs_bits"
        )
    if "inputs_bits" in arrays:
        bits = np.unpackbits(arrays["inputs_bits"], axis=1)[:, : modules[0].in_features]
        inputs = torch.from_numpy(2.0 * bits.astype(np.float64) - 1.0)
    else:
        inputs = torch.from_numpy(arrays["inputs"].astype(np.float64))
    return nn.Sequential(*modules), inputs, torch.from_numpy(arrays["labels"].astype(np.int64))


def open_subject(
    network: str | None, data: str | None, root: Path | None, images: int | None
) -> Subject:
    """A network by name, with its first test samples.

    Args:
        network: A directory of IMAC-Sim, a network of this package (.safetensors), the reference
            network's format (.npz), ``module:factory``, or None for the digits network that ships
            in ``data/``.
        data: Name of a data set where the network brings none.
        root: Where named data sets lie.
        images: Most samples to take; None for all.

    Raises:
        DataError: Something cannot be read.
    """
    if network is None:
        sample = load_sample(data_file(SAMPLE))
        model: nn.Module = sample.ternary.double()
        inputs, labels = tensors(imac.load_dataset("digits", train=False))
        inputs, base, name = inputs.double(), sample.config, "digits"
    elif network.endswith(".npz"):
        model, inputs, labels = read_npz(Path(network))
        base, name = imac.Config.imac_sim(), Path(network).stem
    else:
        source = open_model(network)
        model, base = source.software.double(), source.config or imac.Config.imac_sim()
        loader = Loader.of(open_data(data, source, root=root), model, 1000)
        batches = list(labelled_batches(loader))
        inputs, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        name = Path(network).stem
    subject = Subject(name, model.eval(), inputs[:images], labels[:images], base)
    layers = "-".join(map(str, subject.sizes))
    return Subject(f"{layers} ({name})", subject.model, subject.inputs, subject.labels, base)
