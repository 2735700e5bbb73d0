"""Circuit F with amplifiers that have supplies: accuracy, power and time of all 10,000 images.

Two settings of the 400-120-84-10 network (:meth:`golden.ReferenceNetwork.at_hand`): the published
devices and gains, and the 5 kΩ and 15 kΩ that IMAC-Sim ships with. Amplifiers are ideal, saturate
at ±0.8 V, and have an output resistance besides; then gains are searched that suit amplifiers that
saturate, one layer after the other, on the first 2,000 images::

    python benchmarks/amplifiers.py [--images 10000] [--search 2000] [--rounds 2]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from golden import ReferenceNetwork
from rich.console import Console
from rich.table import Table

import imac_torch as it

SWING = (-0.8, 0.8)
GAINS = (1.0, 1.5, 2.0, 3.0, 4.5, 7.0, 10.0, 15.0, 20.0, 30.0, 45.0, 70.0)
BATCH = 1_000
"""Images at a time, whose voltages are not kept."""


@dataclass(frozen=True)
class Outcome:
    """What a circuit does.

    Attributes:
        accuracy: %.
        power: W of inputs, bias and neurons, mean of all images.
        amplifiers: W that outputs deliver, likewise.
        milliseconds: Of processor time, per image.
    """

    accuracy: float
    power: float
    amplifiers: float
    milliseconds: float


def run(network: ReferenceNetwork, config: it.Config, images: int, *, power: bool) -> Outcome:
    """The circuit on the first images.

    Raises:
        SystemExit: An image was not solved.
    """
    circuit = network.circuit_f(config)
    prepared, voltages = circuit.prepare(), circuit.voltages(network.inputs[:images])
    right, watts, delivered, seconds = 0, 0.0, 0.0, 0.0
    for first in range(0, images, BATCH):
        started = time.process_time()
        solution = circuit.engine.solve(prepared, voltages[first : first + BATCH], power=power)
        seconds += time.process_time() - started
        if not bool(solution.converged.all()):
            raise SystemExit(f"{int((~solution.converged).sum())} images were not solved")
        labels = network.labels[first : first + BATCH]
        right += int((solution.outputs.argmax(-1) == labels).sum())
        if solution.power is not None:
            found = solution.power
            watts += float((found.inputs + found.bias + found.neurons + found.level_shift).sum())
            delivered += float(found.amplifiers.sum())
    return Outcome(
        100.0 * right / images, watts / images, delivered / images, 1e3 * seconds / images
    )


def with_amplifier(config: it.Config, **changes: object) -> it.Config:
    """The same with other amplifiers."""
    return config.replace(amplifier=config.amplifier.replace(**changes))


def settings() -> dict[str, it.Config]:
    """By name."""
    published = it.Config.imac_sim()
    shipped = it.Config.imac_sim(device=it.Memristor(rlow=5e3, rhigh=15e3))
    return {"78 kΩ, 202 kΩ (published)": published, "5 kΩ, 15 kΩ (shipped)": shipped}


def variants(config: it.Config) -> Iterator[tuple[str, it.Config]]:
    """Amplifiers from ideal to poor."""
    yield "ideal", config
    limited = with_amplifier(config, swing=SWING)
    yield "±0.8 V", limited
    for ohms in (1e3, 5e3, 15e3):
        yield f"±0.8 V, {ohms / 1e3:g} kΩ", with_amplifier(limited, output_resistance=ohms)


def search(
    network: ReferenceNetwork, config: it.Config, images: int, rounds: int
) -> tuple[float, ...]:
    """Gains of the highest accuracy, changed one layer after the other."""
    gains = list(config.amplifier.gain)
    best = -1.0
    for _ in range(rounds):
        before = list(gains)
        for layer in range(len(gains)):
            for gain in GAINS:
                tried = tuple(gain if k == layer else old for k, old in enumerate(gains))
                found = run(network, with_amplifier(config, gain=tried), images, power=False)
                if found.accuracy > best:
                    best, gains = found.accuracy, list(tried)
        if gains == before:
            break
    return tuple(gains)


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--search", type=int, default=2_000, help="images of the search, 0: none")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    network = ReferenceNetwork.at_hand(arguments.images)
    print(network.name)
    console = Console(width=120)
    with torch.no_grad():
        for name, config in settings().items():
            table = Table(title=f"{name}, {arguments.images} images")
            headings = ("amplifiers", "gains", "accuracy / %", "power / mW", "outputs / mW",
                        "ms per image", "with powers")  # fmt: skip
            for heading in headings:
                table.add_column(heading, justify="right")
            rows = list(variants(config))
            if arguments.search:
                limited = with_amplifier(config, swing=SWING)
                gains = search(network, limited, arguments.search, arguments.rounds)
                for ohms in (1e-3, 1e3):
                    text = "±0.8 V" if ohms < 1 else "±0.8 V, 1 kΩ"
                    rows.append((text, with_amplifier(
                        limited, gain=gains, output_resistance=ohms
                    )))  # fmt: skip
            for text, variant in rows:
                plain = run(network, variant, arguments.images, power=False)
                full = run(network, variant, arguments.images, power=True)
                table.add_row(
                    text, ", ".join(f"{gain:g}" for gain in variant.amplifier.gain),
                    f"{full.accuracy:.2f}", f"{1e3 * full.power:.2f}",
                    "" if text == "ideal" else f"{1e3 * full.amplifiers:.4g}",
                    f"{plain.milliseconds:.3f}", f"{full.milliseconds:.3f}",
                )  # fmt: skip
            console.print(table)


if __name__ == "__main__":
    main()
