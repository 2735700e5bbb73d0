"""A convolutional network whose fully connected tail runs on the circuit.

Convolutions and pooling stay in software; the signs of their features drive the crossbars, whose
weights are ternary, trained with straight-through gradients as the ideal circuit.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize
from train_sample import Ternary, accuracy, ideal_circuit, tensors, train

import imac_torch as imac
from imac_torch.errors import DataError

__all__ = ["CNN", "SignFeatures", "border_energy", "open_cnn", "operations"]

RATE: Final = 5e-3
"""Of Adam, at the start."""


@dataclass(frozen=True)
class CNN:
    """A trained network with its test images.

    Attributes:
        model: Convolutions, signs of features, linear layers of ternary weights.
        inputs: (B, 1, H, W) float32, test images.
        labels: (B,) int64.
        floating: Share of them that the same network with float weights classifies correctly.
        ideal: Share, of ``model`` as the ideal circuit.
        base: The circuit.
    """

    model: nn.Sequential
    inputs: Tensor
    labels: Tensor
    floating: float
    ideal: float
    base: imac.Config


class SignFeatures(nn.Module):
    """-1 or 1 per feature, with the gradient of a clipped identity."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        clipped = x.clamp(-1.0, 1.0)
        signs = torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        return signs.detach() + clipped - clipped.detach()


def build(side: int, generator: torch.Generator) -> nn.Sequential:
    """LeNet-5's shape for 28×28 images (its tail is 400-120-84-10), a small one for 8×8.

    Raises:
        DataError: Images are of another size.
    """
    shapes = {28: (6, 16, 5, 2, 0, (400, 120, 84, 10)), 8: (8, 16, 3, 1, 1, (64, 32, 10))}
    if side not in shapes:
        raise DataError(f"images of {side}×{side} pixels: there are networks for 28×28 and 8×8")
    first, second, kernel, pad, inner, sizes = shapes[side]
    modules: list[nn.Module] = [
        nn.Conv2d(1, first, kernel, padding=pad),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, kernel, padding=inner),
        nn.MaxPool2d(2),
        nn.Flatten(),
        SignFeatures(),
    ]
    for inputs, outputs in itertools.pairwise(sizes):
        modules += [nn.Linear(inputs, outputs), imac.InverterSigmoid()]
    model = nn.Sequential(*modules)
    with torch.no_grad():
        for parameter in model.parameters():
            bound = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            # Through three sigmoids, whose slope is 1/4 at most, signals and gradients would fade.
            bound *= 3.0 if parameter.ndim == 2 else 1.0
            parameter.uniform_(-bound, bound, generator=generator)
    return model


def images(
    data: str, root: Path | None, split: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels for training and for testing.

    Args:
        data: Name of a data set.
        root: Where it lies.
        split: Train on so many images of the test split and test on the rest of it, where the
            training split is not at hand; None: the data set's own splits.
    """
    inputs, labels = tensors(imac.load_dataset(data, root, train=False))
    if split is None:
        return (*tensors(imac.load_dataset(data, root, train=True)), inputs, labels)
    if not 0 < split < len(labels):
        raise DataError(f"--split {split}: the test split has {len(labels)} images")
    return inputs[:split], labels[:split], inputs[split:], labels[split:]


def open_cnn(
    data: str, root: Path | None, split: int | None, steps: int, directory: Path
) -> CNN:
    """Train the network, or read what an earlier run with the same options has trained."""
    train_inputs, train_labels, inputs, labels = images(data, root, split)
    generator = torch.Generator().manual_seed(0)
    model = build(inputs.shape[-1], generator)
    linears = [module for module in model if isinstance(module, nn.Linear)]
    gains = (*(30.0 for _ in linears[1:]), 10.0)
    config = imac.Config.imac_sim(amplifier=imac.Amplifier(gain=gains))
    path = directory / f"cnn-{data}-{'all' if split is None else split}-{steps}.safetensors"
    if path.is_file():
        content = load_file(path)
        floating = float(content.pop("floating"))
        model.load_state_dict(content)
    else:
        train(
            model,
            train_inputs,
            train_labels,
            steps=steps,
            generator=generator,
            label="float",
            rate=RATE,
        )
        floating = accuracy(model.eval(), inputs, labels)
        model = _ternary(model, train_inputs, train_labels, config, steps, generator)
        content = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file({**content, "floating": torch.tensor(floating, dtype=torch.float64)}, path)
    network = imac.convert(model.eval(), config)
    ideal = accuracy(ideal_circuit(network), inputs, labels)
    return CNN(model, inputs, labels, floating, ideal, config)


def _ternary(
    model: nn.Sequential,
    inputs: Tensor,
    labels: Tensor,
    config: imac.Config,
    steps: int,
    generator: torch.Generator,
) -> nn.Sequential:
    """Go on training as the ideal circuit, weights rounded to {-1, 0, 1}."""
    unrounded = config.replace(mapping=config.mapping.replace(levels="continuous"))
    network = imac.convert(model, unrounded)
    layers = list(network.analog_layers())
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Ternary())
        parametrize.register_parametrization(layer, "bias", Ternary())
    ideal = ideal_circuit(network)
    train(
        ideal,
        inputs,
        labels,
        steps=steps,
        generator=generator,
        label="ternary circuit",
        rate=RATE,
    )
    front = copy.deepcopy(list(network.digital.children()))
    result = nn.Sequential(*front, *copy.deepcopy(list(model.children())[len(front) :]))
    linears = [module for module in result if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for linear, layer in zip(linears, layers, strict=True):
            linear.weight.copy_(layer.weight)
            linear.bias.copy_(torch.as_tensor(layer.bias))
    return result


def operations(model: nn.Sequential, sample: Tensor) -> dict[str, tuple[int, int]]:
    """Weights and multiplications per image, of convolutions and of linear layers.

    Args:
        model: The network.
        sample: (1, 1, H, W), for the sizes of feature maps.
    """
    weights, products = {"conv": 0, "linear": 0}, {"conv": 0, "linear": 0}
    features = sample
    for module in model:
        features = module(features)
        if isinstance(module, nn.Conv2d | nn.Linear):
            kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
            count = module.weight.numel()
            weights[kind] += count
            places = features[0, 0].numel() if kind == "conv" else 1
            products[kind] += count * places
    return {kind: (weights[kind], products[kind]) for kind in weights}


def border_energy(model: nn.Sequential, base: imac.Config) -> float:
    """J per image where the tail meets the processor: signs as voltages, 8 bits per output."""
    config = base.replace(
        driver=imac.Driver(kind="dac", bits=2),
        converter=imac.Converter(kind="sar", limits=(0.0, base.supplies.vdd)),
    )
    return imac.convert(model, config).segment.border_costs.energy()
