"""Compiles the kernels of the package, before tests in several processes do it at the same time.

``make test`` runs this beside mypy. Small circuits use one kernel each; one that is missing here
costs its time in every process whose tests need it, nothing else.
"""

import os
import warnings

import torch
from small_networks import LOGISTIC, loader, mlp, signs

import imac_torch as imac

MATCHED = imac.WeightMapping(scheme="matched")
PARTS = imac.Crossbar(rows=3, columns=4)
CIRCUITS = {
    "wires and transistors": imac.Config(crossbar=PARTS),
    "logistic neurons": LOGISTIC,
    "matched": LOGISTIC.replace(
        mapping=MATCHED, device=imac.Memristor(rlow=10e3, rhigh=1e6, states=4, variation=0.1)
    ),
    "cells that bend": LOGISTIC.replace(device=imac.Memristor(bend=0.3)),
    "access transistors": LOGISTIC.replace(
        device=imac.Memristor(access={"finfet": {"fins": 2}}), crossbar=PARTS
    ),
    "amplifiers that saturate": LOGISTIC.replace(
        amplifier=imac.Amplifier(gain=10.0, swing=(-0.03, 0.04)), crossbar=PARTS
    ),
}


def main() -> None:
    """Outputs, gradients, latencies, calibration of every circuit that has them."""
    warnings.simplefilter("ignore")
    os.environ["IMAC_TORCH_KERNELS"] = "wait"
    x = signs(16, 6)
    for name, config in CIRCUITS.items():
        network = imac.convert(mlp(6, 5, 3), config, generator=torch.Generator().manual_seed(0))
        if name == "matched":
            imac.calibrate(network, x, trim=True)
        imac.evaluate(network, loader(x), progress=False)
        network(x).sum().backward()
        with torch.no_grad():
            network(x[:1])
        print(f"compiled: {name}", flush=True)
    for config in (imac.Config(crossbar=PARTS), LOGISTIC):
        charged = config.replace(interconnect=imac.Interconnect(capacitance=True))
        for wires in ("exact", "reduced"):
            options = imac.TransientOptions(wires=wires)
            imac.convert(mlp(6, 5, 3), charged).transient(x[:2], options=options)
    # Where every layer has transistors, a kernel takes all steps.
    neurons = torch.nn.Sequential(*mlp(6, 5, 3), imac.InverterSigmoid())
    network = imac.convert(neurons, imac.Config(crossbar=PARTS))
    imac.evaluate(network, loader(x), timing=True, progress=False)
    print("compiled: transients", flush=True)


if __name__ == "__main__":
    main()
