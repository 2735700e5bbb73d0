"""Train the sample network of ``data/`` with the circuit's own weights and neurons.

First an ordinary float network, then the same one as a circuit: ternary weights (two memristors
each), floating read-out lines, CMOS inverters as neurons. ``IMACLinear`` layers compute the ideal
circuit and pass gradients straight through the rounding of weights, so training sees what the
devices can store. Weights are made ternary by a parametrisation (:class:`Ternary`), which costs
less per step than the search for the best scale that conversion does once. The result is compared
with the circuit, wires and loading included.

    python examples/train_sample.py --out my_network.safetensors

The file holds plain tensors, the configuration and the figures: no pickle.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, Dataset

import imac_torch as imac
from imac_torch.base.progress import progress_bar

SIZES = (64, 48, 24, 10)
SEED = 2023
SHARPNESS = 10.0
"""Outputs in [0, 1] times this are the logits that the loss sees."""


@dataclass
class Sample:
    """A pair of trained networks.

    Attributes:
        floating: Trained as software.
        ternary: Trained as the ideal circuit; every weight and bias is -1, 0 or 1.
        config: The circuit that ``ternary`` was trained for.
        figures: Test accuracies at the time of training, by name.
    """

    floating: nn.Sequential
    ternary: nn.Sequential
    config: imac.Config
    figures: dict[str, float] = field(default_factory=dict)


class Ternary(nn.Module):
    """Parametrisation of a tensor by {-1, 0, 1} with straight-through gradients.

    Values below 0.7 times the mean magnitude become 0 (Li et al., Ternary Weight Networks,
    arXiv:1605.04711, eq. 6).
    """

    def forward(self, latent: Tensor) -> Tensor:
        """Any shape to the same shape."""
        magnitude = latent.detach().abs()
        mean = magnitude.mean().clamp(min=1e-12)
        levels = torch.where(magnitude > 0.7 * mean, latent.detach().sign(), 0.0)
        return levels + (latent - latent.detach()) / mean


def circuit_config() -> imac.Config:
    """IMAC-Sim's circuit: PCM devices, 9 nm wires, 32×32 arrays, amplifier gains 30, 30, 10."""
    return imac.Config.imac_sim()


def mlp(sizes: Sequence[int] = SIZES) -> nn.Sequential:
    """Linear layers, each followed by the falling sigmoid that an inverter computes."""
    modules: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        modules += [nn.Linear(inputs, outputs), imac.InverterSigmoid()]
    return nn.Sequential(*modules)


def ideal_circuit(network: imac.IMACNetwork) -> nn.Sequential:
    """The layers of a converted network without wires and loading; parameters are shared."""
    return nn.Sequential(network.digital, *network.analog_layers(), network.tail)


def tensors(dataset: Dataset[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """All inputs and labels of a (small) data set."""
    return next(iter(DataLoader(dataset, batch_size=len(dataset))))  # type: ignore[arg-type]


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of inputs whose largest output is the labelled one."""
    return float((model(inputs).argmax(dim=1) == labels).double().mean())


def train(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    steps: int,
    generator: torch.Generator,
    label: str,
    batch_size: int = 128,
    rate: float = 1e-2,
    sharpness: float = SHARPNESS,
) -> None:
    """Adam with a cosine schedule on the cross-entropy of the outputs times ``sharpness``."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with progress_bar(label, steps, "steps") as advance:
        for _ in range(steps):
            chosen = torch.randint(len(inputs), (batch_size,), generator=generator)
            loss = nn.functional.cross_entropy(sharpness * model(inputs[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(1)


def initialise(model: nn.Sequential, generator: torch.Generator) -> None:
    """Uniform weights in ±1/sqrt(inputs) from a generator of ours, not the global one."""
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                for parameter in (module.weight, module.bias):
                    parameter.uniform_(-bound, bound, generator=generator)


def as_software(network: imac.IMACNetwork, like: nn.Sequential) -> nn.Sequential:
    """The network trained with ternary weights as plain Linear layers."""
    model = mlp([like[1].in_features, *(m.out_features for m in like if isinstance(m, nn.Linear))])
    linears = [module for module in model if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for linear, layer in zip(linears, network.analog_layers(), strict=True):
            linear.weight.copy_(layer.weight)
            linear.bias.copy_(layer.bias)
    return model


def make_sample(*, float_steps: int = 1000, circuit_steps: int = 1000, seed: int = SEED) -> Sample:
    """Train both networks on scikit-learn's digits and measure them on the test split."""
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = tensors(imac.load_dataset("digits", train=True))
    test_inputs, test_labels = tensors(imac.load_dataset("digits", train=False))
    floating = mlp()
    initialise(floating, generator)
    train(floating, inputs, labels, steps=float_steps, generator=generator, label="float network")
    config = circuit_config()
    rounded = imac.convert(floating, config)
    # The parametrisation rounds, so the mapping need not: ternary weights use its end points.
    unrounded = config.replace(mapping=config.mapping.replace(levels="continuous"))
    network = imac.convert(floating, unrounded)
    for layer in network.analog_layers():
        parametrize.register_parametrization(layer, "weight", Ternary())
        parametrize.register_parametrization(layer, "bias", Ternary())
    train(
        ideal_circuit(network),
        inputs,
        labels,
        steps=circuit_steps,
        generator=generator,
        label="ternary circuit",
    )
    ternary = as_software(network, floating)
    circuit = imac.convert(ternary, config)
    figures = {
        "float software": accuracy(floating, test_inputs, test_labels),
        "float network rounded, circuit": accuracy(rounded, test_inputs, test_labels),
        "ternary, ideal circuit": accuracy(ideal_circuit(circuit), test_inputs, test_labels),
        "ternary, circuit": accuracy(circuit, test_inputs, test_labels),
    }
    return Sample(floating.eval(), ternary.eval(), config, figures)


def save_sample(sample: Sample, path: Path) -> None:
    """Write a new safetensors file; an existing one is not overwritten."""
    if path.exists():
        raise SystemExit(f"{path} exists; remove it or choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        f"{name}.{key}": tensor.contiguous()
        for name, model in (("float", sample.floating), ("ternary", sample.ternary))
        for key, tensor in model.state_dict().items()
    }
    sizes = [module.in_features for module in sample.ternary if isinstance(module, nn.Linear)]
    header = {
        "kind": "imac_torch sample",
        "sizes": json.dumps([*sizes, SIZES[-1]]),
        "config": sample.config.to_json(),
        "figures": json.dumps(sample.figures),
        "made by": "examples/train_sample.py",
    }
    save_file(content, path, metadata=header)


def load_sample(path: Path) -> Sample:
    """Read what :func:`save_sample` wrote."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header.get("kind") != "imac_torch sample":
        raise SystemExit(f"{path} is not a file of examples/train_sample.py")
    models = []
    for name in ("float", "ternary"):
        model = mlp(json.loads(header["sizes"]))
        prefix = f"{name}."
        model.load_state_dict(
            {key.removeprefix(prefix): v for key, v in content.items() if key.startswith(prefix)}
        )
        models.append(model.eval())
    config = imac.Config.from_json(header["config"])
    return Sample(models[0], models[1], config, json.loads(header["figures"]))


def training_parser(text: str, suffix: str, *, steps: int, seed: int) -> argparse.ArgumentParser:
    """The command line of a training script, of which ``text`` is the docstring."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help=f"new {suffix} file")
    parser.add_argument("--float-steps", type=int, default=steps)
    parser.add_argument("--circuit-steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=seed)
    return parser


def main(arguments: Sequence[str] | None = None) -> Sample:
    """Command line."""
    parser = training_parser(__doc__ or "", ".safetensors", steps=1000, seed=SEED)
    options = parser.parse_args(arguments)
    sample = make_sample(
        float_steps=options.float_steps, circuit_steps=options.circuit_steps, seed=options.seed
    )
    for name, value in sample.figures.items():
        print(f"{name:32s} {100 * value:6.2f} % of the test digits")
    save_sample(sample, options.out)
    print(f"written to {options.out}")
    return sample


if __name__ == "__main__":
    main()
