"""Coming from aihwkit: a LeNet on PCM devices, hours and months after they were programmed.

What the second half of aihwkit's 06_lenet5_hardware_aware.py asks: how much of the accuracy of a
trained network is left when phase-change memory has been programmed, has drifted and is read, with
one factor per layer that makes up for the mean drift and without. Devices are those of its
statistics (0 to 25 µS) in arrays of 256×256; the second half of the table is of the same chips with
the wires' resistances. Accuracies are means over chips, of held-out images.

    python examples/coming_from_aihwkit.py
    python examples/coming_from_aihwkit.py --size 32
    python examples/coming_from_aihwkit.py --times 20 3600 31536000 --chips 10
    python examples/coming_from_aihwkit.py --dataset MNIST --root ~/data --steps 2000
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from statistics import fmean

from any_model import SAMPLES, circuit, converted, trained
from common import Data, add_data_options, load_data
from model_zoo import ZOO
from train_sample import accuracy

import imac_torch as imac
from imac_torch.base.tables import console, text_table

FRESH = 20.0
"""s after programming, from which the statistics count drift."""


@dataclasses.dataclass(frozen=True)
class Aged:
    """Of some chips at one time; shares of correct images are means.

    Attributes:
        left: Mean reading of the arrays' single lines, relative to that at 20 s.
        drifted: Share of correct images.
        compensated: The same with a factor per layer on the amplifiers' gain.
    """

    left: float
    drifted: float
    compensated: float


def statistics(seconds: float) -> imac.DeviceModel:
    """Published PCM statistics, read once for all images, as ``drift_analog_weights`` does."""
    effects = imac.device_model("PCM", seconds).effects
    return imac.DeviceModel([dataclasses.replace(effect, cycle=False) for effect in effects])


def compensate(aged: imac.IMACNetwork, fresh: imac.IMACNetwork) -> float:
    """Let every layer's lines, read one by one, give on average what they gave when fresh.

    Returns:
        What was left of that, mean over layers.
    """
    left = []
    for now, before in zip(aged.analog_layers(), fresh.analog_layers(), strict=True):
        reading, wanted = (layer.matrix.transfer().abs().mean().item() for layer in (now, before))
        gain = now.matrix.gain() * wanted / reading
        now.config = now.config.replace(amplifier=now.config.amplifier.replace(gain=gain))
        left.append(reading / wanted)
    return fmean(left)


def after(network: imac.IMACNetwork, data: Data, seconds: float, chips: int) -> Aged:
    """The same chips at any time: what is drawn belongs to seed and chip."""
    found = []
    for chip in range(chips):
        fresh = imac.MonteCarlo(network, statistics(FRESH)).realise(chip)
        aged = imac.MonteCarlo(network, statistics(seconds)).realise(chip)
        test = data.test_images.float(), data.test_labels
        drifted = accuracy(aged, *test)
        left = compensate(aged, fresh)
        found.append((left, drifted, accuracy(aged, *test)))
    return Aged(*map(fmean, zip(*found, strict=True)))


def main(arguments: Sequence[str] | None = None) -> dict[tuple[bool, float], Aged]:
    """Command line; results by whether there are wires, and seconds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_data_options(parser)
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--chips", type=int, default=5, help="with devices of their own")
    parser.add_argument("--size", type=int, default=256, help="rows and columns of an array")
    parser.add_argument(
        "--times", type=float, nargs="+", default=[20.0, 3600.0, 86400.0, 2592000.0], metavar="S"
    )
    options = parser.parse_args(arguments)
    data = load_data(options)
    model = trained(ZOO["lenet"], data, steps=options.steps, seed=0)
    software = accuracy(model, data.test_images.float(), data.test_labels)
    found: dict[tuple[bool, float], Aged] = {}
    for wires in (False, True):
        config = circuit(wires=wires).replace(
            device=imac.Memristor(rlow=40e3, rhigh=40e6),  # 25 µS and, as good as nothing, 25 nS
            crossbar=imac.Crossbar(rows=options.size, columns=options.size),
        )
        network = converted(model, config, data.images[:SAMPLES].float())
        for time in options.times:
            found[wires, time] = after(network, data, time, options.chips)
    rows = []
    for time in options.times:
        of = [found[wires, time] for wires in (False, True)]
        shares = [share for item in of for share in (item.drifted, item.compensated)]
        rows.append((f"{time:,.0f} s", f"{of[0].left:.3f}", *(f"{100 * x:.2f}" for x in shares)))
    headings = ("programmed", "reading", "no wires", "compensated", "wires", "compensated")
    title = f"held-out images classified correctly, % (software: {100 * software:.2f})"
    console().print(text_table(title, rows, headings=headings), end="")
    return found


if __name__ == "__main__":
    main()
