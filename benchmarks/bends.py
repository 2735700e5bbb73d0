"""How many images are solved, and in how many steps, as cells bend ever more strongly.

    python benchmarks/bends.py --images 50

A random network of 64-48-24-10 at inputs of ±0.8 V; --access puts FinFETs behind the cells.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

import imac_torch as imac

BENDS = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
"""V, v0 of i = g·v0·sinh(v/v0)."""


def main() -> None:
    """Print a line per bend; what is not solved is counted, and says why in its status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--device", default="PCM")
    parser.add_argument("--access", choices=sorted(imac.BIT_CELL_LENGTHS))
    parser.add_argument("--bends", type=float, nargs="+", default=BENDS)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential()
    for inputs, outputs in ((64, 48), (48, 24), (24, 10)):
        model.append(nn.Linear(inputs, outputs, dtype=torch.float64)).append(nn.Sigmoid())
    x = 2.0 * torch.rand(options.images, 64, dtype=torch.float64) - 1.0
    print("v0, V | solved | not solved | steps, mean and most | processor, ms an image")
    for bend in options.bends:
        device = imac.Memristor.preset(options.device, options.access).replace(bend=bend)
        config = imac.Config(device=device, amplifier=imac.Amplifier(gain=10.0))
        network = imac.convert(model, config).eval()
        with torch.no_grad():
            network.solve(x[:1])
            begun = time.process_time()
            found = network.solve(x, power=False)
            seconds = time.process_time() - begun
        steps, solved = found.iterations.double(), int(found.converged.sum())
        print(
            f"{bend:g} | {solved} | {len(x) - solved} | {float(steps.mean()):.1f}, "
            f"{int(steps.max())} | {1e3 * seconds / len(x):.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
