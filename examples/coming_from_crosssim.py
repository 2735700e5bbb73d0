"""Coming from CrossSim: a ResNet behind converters of few bits, with wires and without.

What CrossSim's applications/dnn/torch/cifar10_resnet does (calibrate_adcs.py, then
inference_cifar10_resnet.py) for several numbers of bits at once: 8-bit inputs, pairs of devices of
10 kΩ to 1 MΩ, ranges of converters calibrated on training images by percentile. Converters stand
behind every partition, whose results software adds up, as there; and, what is possible where
partitions are combined as currents and voltages, behind the neurons of whole layers.

    python examples/coming_from_crosssim.py
    python examples/coming_from_crosssim.py --size 128 --range mse --bits 8 6 4
    python examples/coming_from_crosssim.py --matched --bits 6
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from any_model import SAMPLES, circuit, converted, trained
from common import add_data_options, load_data
from model_zoo import ZOO
from train_sample import accuracy

import imac_torch as imac
from imac_torch.base.tables import console, text_table

PLACES = ("partition", "layer")
"""After which there are converters."""


def config(
    options: argparse.Namespace, *, wires: bool, after: str = "layer", bits: int | None = None
) -> imac.Config:
    """The circuits; without bits drivers and converters are ideal."""
    made = circuit(wires=wires).replace(
        device=imac.Memristor(rlow=10e3, rhigh=1e6),
        crossbar=imac.Crossbar(rows=options.size, columns=options.size),
    )
    if options.matched:
        made = made.replace(mapping=imac.WeightMapping(levels="continuous", scheme="matched"))
    if bits is None:
        return made
    return made.replace(
        driver=imac.Driver(kind="dac", bits=8),
        converter=imac.Converter(
            kind="sar", bits=bits, after=after, range=options.range, coverage=options.coverage
        ),
    )


def main(arguments: Sequence[str] | None = None) -> dict[tuple[int | None, str, bool], float]:
    """Command line; shares of correct images by bits (None: ideal), place and wires."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_data_options(parser)
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--size", type=int, default=64, help="rows and columns of an array")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 7, 6, 5, 4])
    parser.add_argument("--range", default="percentile", choices=("percentile", "mse", "max"))
    parser.add_argument("--coverage", type=float, default=0.9995, help="of the percentile")
    parser.add_argument(
        "--matched", action="store_true", help="solve for conductances, and fit them on samples"
    )
    options = parser.parse_args(arguments)
    data = load_data(options)
    model = trained(ZOO["resnet"], data, steps=options.steps, seed=0)
    test, samples = (data.test_images.float(), data.test_labels), data.images[:SAMPLES].float()

    def of(after: str, *, wires: bool, bits: int | None) -> float:
        made = config(options, wires=wires, after=after, bits=bits)
        return accuracy(converted(model, made, samples), *test)

    software, found = accuracy(model, *test), {}
    for wires in (False, True):
        ideal = of("layer", wires=wires, bits=None)
        for place in PLACES:
            found[None, place, wires] = ideal
            for bits in options.bits:
                found[bits, place, wires] = of(place, wires=wires, bits=bits)
    rows = [
        (
            "ideal" if bits is None else str(bits),
            *(f"{100 * found[bits, place, w]:.2f}" for w in (False, True) for place in PLACES),
        )
        for bits in (None, *options.bits)
    ]
    headings = ("bits", *PLACES, *(f"{place}, wires" for place in PLACES))
    title = f"held-out images classified correctly, % (software: {100 * software:.2f})"
    console().print(text_table(title, rows, headings=headings), end="")
    return found


if __name__ == "__main__":
    main()
