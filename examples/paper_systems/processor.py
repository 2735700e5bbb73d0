"""What a processor takes for layers in software, and what a circuit beside it saves.

The energy of a layer is products·product + weights·bytes·byte, its time the larger of what products
and what bytes take. Defaults are M. Horowitz, "Computing's energy problem (and what we can do about
it)", ISSCC 2014, doi:10.1109/ISSCC.2014.6757323, 45 nm, 0.9 V: an instruction of an in-order
processor 70 pJ, of which the arithmetic is 3 pJ at most; 64 bits from a cache of 32 KB 20 pJ, from
one of 1 MB 100 pJ, from DRAM 1.3 to 2.6 nJ.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Final

__all__ = [
    "HEADINGS", "PUBLISHED", "Processor", "Work", "byte_energy_for", "saving", "table", "vgg16",
]  # fmt: skip

BYTES: Final = {"32 KB": 20e-12 / 8, "1 MB": 100e-12 / 8, "DRAM": 1.3e-9 / 8}
"""J per byte of weights, from caches of that size and from DRAM (at least)."""
PUBLISHED: Final = {"LeNet": 0.065, "VGG": 0.10}
"""Savings that the paper's abstract gives."""
HEADINGS: Final = (
    "network", "products: software, tail", "weights: software, tail",
    *(f"saved, % (weights from {place})" for place in BYTES),
    "pJ per byte for the published figure", "tail on the processor, µs",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Of layers, per image.

    Attributes:
        products: Multiplications with additions.
        weights: Read once per image.
    """

    products: int
    weights: int


@dataclass(frozen=True)
class Processor:
    """What computes layers in software.

    Attributes:
        product: J per multiplication and addition, the instruction's overhead included.
        byte: J per byte of weights.
        bytes: Per weight.
        product_rate: Products per second. Assumed: one per cycle at 1 GHz.
        byte_rate: Bytes per second. Assumed: one channel of LPDDR4.
    """

    product: float = 70e-12
    byte: float = BYTES["1 MB"]
    bytes: int = 4
    product_rate: float = 1e9
    byte_rate: float = 12.8e9

    def energy(self, work: Work) -> float:
        """J per image."""
        return work.products * self.product + work.weights * self.bytes * self.byte

    def time(self, work: Work) -> float:
        """Seconds per image: products while weights arrive."""
        return max(work.products / self.product_rate, work.weights * self.bytes / self.byte_rate)


def saving(processor: Processor, software: Work, moved: Work, circuit: float) -> float:
    """Share of a network's energy that is saved if a circuit does some of its layers.

    Args:
        processor: Does the others.
        software: What it keeps.
        moved: What the circuit does.
        circuit: J per image of the circuit, its borders included.
    """
    whole = processor.energy(software) + processor.energy(moved)
    return (processor.energy(moved) - circuit) / whole


def byte_energy_for(share: float, processor: Processor, software: Work, moved: Work) -> float:
    """J per byte with which the moved layers are a share of the energy; negative: none is."""
    products = (1.0 - share) * moved.products - share * software.products
    weights = (1.0 - share) * moved.weights - share * software.weights
    return -products * processor.product / (weights * processor.bytes)


def vgg16(tail: tuple[int, ...] = (512, 4096, 4096, 10), side: int = 32) -> tuple[Work, Work]:
    """Convolutions and tail of VGG-16 (K. Simonyan, A. Zisserman, ICLR 2015) for square images."""
    products = weights = 0
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            weights += 9 * channels * width
            products += 9 * channels * width * side**2
            channels = width
        side //= 2
    dense = sum(a * b for a, b in itertools.pairwise(tail))
    return Work(products, weights), Work(dense, dense)


def table(
    processor: Processor, lenet: tuple[Work, Work] | None, circuit: float
) -> list[tuple[str, ...]]:
    """Rows under :data:`HEADINGS`: LeNet-5, with its third layer here or there, and VGG-16.

    Args:
        processor: Its ``byte`` is replaced by those of :data:`BYTES`.
        lenet: Convolutions and tail; None: LeNet-5's, 400-120-84-10.
        circuit: J per image and weight of the tail as a circuit, borders included.
    """
    software, tail = lenet or (Work(357_600, 2_550), Work(58_920, 58_920))
    cases = [("LeNet", "this network", software, tail)]
    if lenet is None or tail.products == 58_920:
        # Y. LeCun et al., Proc. IEEE 86, 1998: C5, 400-120, is a convolution.
        third = Work(48_000, 48_000)
        cases.append((
            "LeNet", "LeNet-5, C5 a convolution",
            Work(software.products + third.products, software.weights + third.weights),
            Work(tail.products - third.products, tail.weights - third.weights),
        ))  # fmt: skip
    cases += [
        ("VGG", f"VGG-16, tail {'-'.join(map(str, sizes))}", *vgg16(sizes))
        for sizes in ((512, 4096, 4096, 10), (512, 512, 512, 10))
    ]
    rows = []
    for name, label, convolutions, dense in cases:
        saved = [
            saving(replace(processor, byte=byte), convolutions, dense, dense.weights * circuit)
            for byte in BYTES.values()
        ]
        needed = byte_energy_for(PUBLISHED[name], processor, convolutions, dense)
        rows.append((
            label,
            f"{convolutions.products}, {dense.products}",
            f"{convolutions.weights}, {dense.weights}",
            *(f"{100 * share:.1f}" for share in saved),
            f"{1e12 * needed:.0f}" if needed >= 0 else "none",
            f"{1e6 * processor.time(dense):.1f}",
        ))  # fmt: skip
    return rows
