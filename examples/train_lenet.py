"""Train the 400-120-84-10 network of ``data/``: the tail of a LeNet-5 as a circuit, for digits.

A LeNet-5 whose 16×5×5 features are signs, so that a circuit gets ±vdd. It is trained as software;
then its tail is trained again as the ideal circuit with ternary weights, as in
:mod:`train_sample`. Training images are MNIST's, and scikit-learn's digits enlarged to MNIST's
frame. Only the digits' features are in the file: scikit-learn's digits may be passed on
(data/README.md), of MNIST there is the trained network alone.

    python examples/train_lenet.py --root DIRECTORY --out my_network.npz

DIRECTORY holds MNIST as torchvision lays it out (``--download`` lets it fetch that). Without the
training files, ``--from-test 8000`` trains with the first images of the test files and tests with
the others; the file that ships was made so. Its format is that of ``network.npz`` of the reference
results (W1, B1, …, inputs_bits, labels), with the filters and the figures besides:

    python examples/papers.py trends --network my_network.npz
    imac-torch simulate examples/train_lenet.py:tail --data examples/train_lenet.py:digits
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from common import add_data_options, load_data
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, TensorDataset
from train_sample import (
    Ternary,
    accuracy,
    as_software,
    circuit_config,
    ideal_circuit,
    initialise,
    mlp,
    tensors,
    train,
    training_parser,
)

import imac_torch as imac
from imac_torch.base.resources import data_file

SAMPLE = "lenet_400_120_84_10.npz"
SIZES = (400, 120, 84, 10)
SEED = 2026
SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Pixels by which training images of the circuit are moved."""


class Sign(nn.Module):
    """-1 or 1; gradients pass where the input is between them."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape to the same shape."""
        clipped = inputs.clamp(-1.0, 1.0)
        return torch.where(inputs < 0, -1.0, 1.0).to(inputs) + (clipped - clipped.detach())


def front() -> nn.Sequential:
    """(B, 1, 28, 28) to (B, 400) of ±1."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), Sign(),
    )  # fmt: skip


def enlarged(images: Tensor) -> Tensor:
    """(B, 1, 8, 8) to (B, 1, 28, 28): 20×20 in the middle of an empty frame, as MNIST's digits."""
    larger = nn.functional.interpolate(images, size=(20, 20), mode="bilinear")
    return nn.functional.pad(larger, (4, 4, 4, 4), value=-1.0)


@dataclass
class LeNet:
    """A trained network, and the digits' features.

    Attributes:
        front: Convolutions.
        tail: 400-120-84-10, every weight and bias -1, 0 or 1.
        inputs: (B, 400) of ±1, of scikit-learn's test digits.
        labels: (B,).
        figures: Accuracies at the time of training, by name.
    """

    front: nn.Sequential
    tail: nn.Sequential
    inputs: Tensor
    labels: Tensor
    figures: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write a new file; an existing one is not overwritten."""
        if path.exists():
            raise SystemExit(f"{path} exists; remove it or choose another --out")
        path.parent.mkdir(parents=True, exist_ok=True)
        linears = [module for module in self.tail if isinstance(module, nn.Linear)]
        arrays = {
            "inputs_bits": np.packbits(self.inputs.numpy() > 0, axis=1),
            "labels": self.labels.numpy().astype(np.uint8),
            "figures": np.array(json.dumps(self.figures)),
        }
        for k, linear in enumerate(linears, 1):
            arrays[f"W{k}"] = linear.weight.detach().numpy().T.astype(np.int8)
            arrays[f"B{k}"] = linear.bias.detach().numpy().astype(np.int8)
        arrays |= {f"front.{key}": value.numpy() for key, value in self.front.state_dict().items()}
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> LeNet:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        made, tail = front(), mlp(SIZES)
        prefix = "front."
        made.load_state_dict(
            {
                key.removeprefix(prefix): torch.from_numpy(value)
                for key, value in arrays.items()
                if key.startswith(prefix)
            }
        )
        linears = [module for module in tail if isinstance(module, nn.Linear)]
        with torch.no_grad():
            for k, linear in enumerate(linears, 1):
                linear.weight.copy_(torch.from_numpy(arrays[f"W{k}"].T.astype(np.float32)))
                linear.bias.copy_(torch.from_numpy(arrays[f"B{k}"].astype(np.float32)))
        bits = np.unpackbits(arrays["inputs_bits"], axis=1)[:, : SIZES[0]]
        return cls(
            made.eval(), tail.eval(), torch.from_numpy(2.0 * bits.astype(np.float32) - 1.0),
            torch.from_numpy(arrays["labels"].astype(np.int64)),
            json.loads(str(arrays["figures"])),
        )  # fmt: skip


def shipped() -> LeNet:
    """The network of ``data/``."""
    return LeNet.load(data_file(SAMPLE))


def tail() -> nn.Sequential:
    """Its layers that become a circuit, (B, 400) of ±1 to (B, 10): a factory for the shell."""
    return shipped().tail


def lenet() -> nn.Sequential:
    """All of it, (B, 1, 28, 28) in [-1, 1] to (B, 10): for MNIST's own images."""
    sample = shipped()
    return nn.Sequential(*sample.front, *sample.tail)


def digits() -> DataLoader[tuple[Tensor, ...]]:
    """Features and labels of the digits, in batches: data for the shell."""
    sample = shipped()
    return DataLoader(TensorDataset(sample.inputs, sample.labels), batch_size=120)


@torch.no_grad()
def features(made: nn.Module, images: Tensor, shifts: Sequence[tuple[int, int]]) -> Tensor:
    """(B·shifts, 400) of images moved by each shift."""
    return torch.cat(
        [made(part) for shift in shifts for part in images.roll(shift, dims=(2, 3)).split(500)]
    )


def make(
    images: Tensor,
    labels: Tensor,
    digit_images: tuple[Tensor, Tensor],
    digit_labels: tuple[Tensor, Tensor],
    tests: tuple[Tensor, Tensor],
    *,
    float_steps: int,
    circuit_steps: int,
    seed: int = SEED,
) -> LeNet:
    """Train with MNIST's and scikit-learn's images; measure on the test images of both.

    Args:
        images: (B, 1, 28, 28) in [-1, 1].
        labels: (B,).
        digit_images: (B, 1, 8, 8) in [-1, 1], to train with and to test with.
        digit_labels: Of these.
        tests: Images and labels of MNIST to test with.
        float_steps: Of the network as software.
        circuit_steps: Of its tail as the ideal circuit.
        seed: Of everything random.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = front()
    floating = mlp(SIZES)
    initialise(floating, generator)
    mixed = torch.cat([images, enlarged(digit_images[0])])
    answers = torch.cat([labels, digit_labels[0]])
    train(
        nn.Sequential(made, floating), mixed, answers,
        steps=float_steps, generator=generator, label="LeNet-5", rate=3e-3,
    )  # fmt: skip
    made.eval().requires_grad_(False)
    config = circuit_config()
    unrounded = config.replace(mapping=config.mapping.replace(levels="continuous"))
    network = imac.convert(floating, unrounded)
    for layer in network.analog_layers():
        parametrize.register_parametrization(layer, "weight", Ternary())
        parametrize.register_parametrization(layer, "bias", Ternary())
    train(
        ideal_circuit(network), features(made, mixed, SHIFTS), answers.repeat(len(SHIFTS)),
        steps=circuit_steps, generator=generator, label="ternary circuit",
    )  # fmt: skip
    ternary = as_software(network, floating)
    circuit = imac.convert(ternary, config)
    held_out = {
        "MNIST": (features(made, tests[0], SHIFTS[:1]), tests[1]),
        "digits": (features(made, enlarged(digit_images[1]), SHIFTS[:1]), digit_labels[1]),
    }
    figures: dict[str, float] = {}
    for name, (inputs, known) in held_out.items():
        figures[f"{name}, float software"] = accuracy(floating, inputs, known)
        figures[f"{name}, ternary, ideal circuit"] = accuracy(ideal_circuit(circuit), inputs, known)
        figures[f"{name}, ternary, circuit"] = accuracy(circuit, inputs, known)
    return LeNet(made, ternary.eval(), *held_out["digits"], figures)


def main(arguments: Sequence[str] | None = None) -> LeNet:
    """Command line."""
    parser = training_parser(__doc__ or "", ".npz", steps=2500, seed=SEED)
    add_data_options(parser)
    parser.set_defaults(dataset="MNIST")
    options = parser.parse_args(arguments)
    data = load_data(options)
    shown = [tensors(imac.load_dataset("digits", train=part)) for part in (True, False)]
    sample = make(
        data.images.float(), data.labels,
        (shown[0][0], shown[1][0]), (shown[0][1], shown[1][1]),
        (data.test_images.float(), data.test_labels),
        float_steps=options.float_steps, circuit_steps=options.circuit_steps, seed=options.seed,
    )  # fmt: skip
    for name, value in sample.figures.items():
        print(f"{name:32s} {100 * value:6.2f} %")
    sample.save(options.out)
    print(f"written to {options.out}")
    return sample


if __name__ == "__main__":
    main()
