"""Any PyTorch model on crossbars: five families, each converted by one line.

Trains a small LeNet-5, ResNet, depthwise network, LSTM and vision transformer as software, converts
each, and shows the accuracy on held-out images that remains: of the ideal circuit, with the wires'
resistances, and with converters of 8, 6 and 4 bits at the borders of every segment; with --tune
also after some steps of training through the wires and the converters of 6 bits. With --compare,
what the same arrays take without converters, and with some behind every circuit, layer, partition.
With --levels, what so many levels of weights leave: as they are, matched, matched and calibrated.

    python examples/any_model.py
    python examples/any_model.py --network resnet --network vit
    python examples/any_model.py --network resnet --device MRAM --bit-cell 2T1R --tune 40
    python examples/any_model.py --network lenet --compare 8
    python examples/any_model.py --network resnet --device RRAM --levels 17
    python examples/any_model.py --dataset MNIST --root ~/data --network lenet --steps 2000
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from common import Data, add_data_options, load_data
from model_zoo import ZOO
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from train_sample import accuracy

import imac_torch as imac
from imac_torch.base.progress import progress_bar
from imac_torch.errors import ConversionWarning
from imac_torch.reports.comparison import Comparison, compared

BITS = (8, 6, 4)
SAMPLES = 256
"""Training images that ranges follow from."""


@dataclass(frozen=True)
class Kept:
    """Shares of correct held-out images.

    Attributes:
        software: Of the trained model.
        ideal: Of the circuit without wires, ideal borders.
        wires: With wires.
        converters: With wires and converters, by bits.
        tuned: With wires and converters of 6 bits, trained through both; None: not asked for.
    """

    software: float
    ideal: float
    wires: float
    converters: dict[int, float]
    tuned: float | None = None


def trained(
    build: Callable[[int, int], nn.Module], data: Data, *, steps: int, seed: int
) -> nn.Module:
    """A network, trained as any other software.

    Args:
        build: Makes it of the side of images in pixels and the number of classes, as those of the
            zoo.
        data: What it is trained with.
        steps: Of 64 images.
        seed: Of its first weights and of the images drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(data.images.shape[-1], int(data.labels.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    train("software", model, data, optimizer, schedule, steps=steps, seed=seed)
    return model.eval()


def train(
    label: str,
    model: nn.Module,
    data: Data,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    *,
    steps: int,
    seed: int,
) -> None:
    """Steps of 64 images, drawn with a seed."""
    images, labels = data.images.float(), data.labels
    generator = torch.Generator().manual_seed(seed)
    with progress_bar(label, steps, "steps") as advance:
        for _ in range(steps):
            chosen = torch.randint(0, len(images), (64,), generator=generator)
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            advance(1)


def circuit(
    device: str = "PCM", bit_cell: str = "1T1R", *, wires: bool = True, bits: int | None = None
) -> imac.Config:
    """32×32 arrays at 9 nm; with bits, converters at the borders of every segment."""
    config = imac.Config(
        device=imac.Memristor.preset(device),
        interconnect=imac.Interconnect.preset(9e-9, bit_cell).replace(resistance=wires),
    )
    if bits is None:
        return config
    return config.replace(
        driver=imac.Driver(kind="dac", bits=bits),
        converter=imac.Converter(kind="sar", bits=bits),
    )


def converted(
    model: nn.Module, config: imac.Config, samples: Tensor, *, rounds: int = 1
) -> imac.IMACNetwork:
    """The one line, without its advice about small networks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        return imac.convert(model, config, samples=samples, rounds=rounds)


def tuned(network: imac.IMACNetwork, data: Data, *, steps: int, seed: int) -> imac.IMACNetwork:
    """Trained through wires and converters; rounding passes gradients straight through."""
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    network.train()
    train("training through the circuit", network, data, optimizer, steps=steps, seed=seed)
    return network.eval()


def measured(name: str, data: Data, options: argparse.Namespace, *, seed: int) -> Kept:
    """Train, convert and compare."""
    model = trained(ZOO[name], data, steps=options.steps, seed=seed)
    images, labels = data.test_images.float(), data.test_labels
    samples = data.images[:SAMPLES].float()

    def of(*, wires: bool = True, bits: int | None = None, tune: int = 0) -> float:
        config = circuit(options.device, options.bit_cell, wires=wires, bits=bits)
        network = converted(model, config, samples)
        if tune:
            network = tuned(network, data, steps=tune, seed=seed + 1)
        return accuracy(network, images, labels)

    return Kept(
        accuracy(model, images, labels),
        of(wires=False),
        of(),
        {bits: of(bits=bits) for bits in BITS},
        of(bits=6, tune=options.tune) if options.tune else None,
    )


def of_levels(model: nn.Module, data: Data, options: argparse.Namespace) -> dict[str, float]:
    """Shares of correct held-out images, weights having levels."""
    samples, config = data.images[:SAMPLES].float(), circuit(options.device, options.bit_cell)
    images, labels = data.test_images.float(), data.test_labels
    found = {"software": accuracy(model, images, labels)}
    ways = ("levels", False, 0), ("matched", True, 0), ("calibrated", True, 3)
    for name, matched, rounds in ways:
        mapping = imac.WeightMapping(levels=options.levels)
        if matched:
            mapping = mapping.replace(scheme="matched")
        network = converted(model, config.replace(mapping=mapping), samples, rounds=rounds)
        found[name] = accuracy(network, images, labels)
    return found


def compare(model: nn.Module, data: Data, options: argparse.Namespace) -> Comparison:
    """Energies of the arrays without converters, and with them at other places."""
    bits = options.compare
    samples, loader = data.images[:SAMPLES].float(), [(data.test_images.float(), data.test_labels)]
    reports = {}
    for after in (None, "segment", "layer", "partition"):
        config = circuit(options.device, options.bit_cell, bits=bits if after else None)
        if after:
            config = config.replace(converter=config.converter.replace(after=after))
        network = converted(model, config, samples)
        name = "no converters" if after is None else f"{bits} bits after every {after}"
        reports[name] = imac.evaluate(network, loader, reference=model, limit=120)
    return compared(reports)


def main(arguments: Sequence[str] | None = None) -> dict[str, Kept]:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_data_options(parser)
    parser.add_argument("--network", action="append", choices=sorted(ZOO), help="default: all")
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--device", default="PCM", choices=sorted(imac.DEVICES))
    parser.add_argument("--bit-cell", default="1T1R", choices=sorted(imac.BIT_CELL_LENGTHS))
    parser.add_argument(
        "--tune", type=int, default=0, metavar="STEPS", help="of training through the circuit"
    )
    parser.add_argument(
        "--compare", type=int, metavar="BITS", help="energies without and with converters, instead"
    )
    parser.add_argument(
        "--levels", type=int, metavar="N", help="of weights, instead: plain, matched, calibrated"
    )
    options = parser.parse_args(arguments)
    data = load_data(options)
    names = options.network or list(ZOO)
    if options.compare or options.levels:
        for name in names:
            model = trained(ZOO[name], data, steps=options.steps, seed=0)
            if options.compare:
                Console(width=140).print(f"{name}\n{compare(model, data, options)}")
            else:
                shares = of_levels(model, data, options)
                parts = [f"{key} {100 * share:.2f} %" for key, share in shares.items()]
                Console(width=140).print(f"{name}: {', '.join(parts)}")
        return {}
    found = {name: measured(name, data, options, seed=0) for name in names}
    table = Table(title="held-out images classified correctly, %")
    headings = ["network", "software", "ideal circuit", "wires", *(f"{b} bits" for b in BITS)]
    headings += ["tuned"] if options.tune else []
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, kept in found.items():
        shares = [kept.software, kept.ideal, kept.wires, *kept.converters.values()]
        shares += [] if kept.tuned is None else [kept.tuned]
        table.add_row(name, *(f"{100 * share:.2f}" for share in shares))
    Console().print(table)
    return found


if __name__ == "__main__":
    main()
