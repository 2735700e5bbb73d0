"""From ``python script.py`` to the first answer, in processes of their own.

The script converts the 400-120-84-10 network of ``data/`` with FinFET neurons and asks for the
outputs of 100 images. It runs without anything kept where it waits for kernels, without anything
kept where torch computes while other processes compile them, then with what that has left. Beside
it, what imports take. Processes that compile kernels show in the seconds that pass, not in the
processor's, which are those of the script's own process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table

ANSWER = """
import numpy as np, torch
from torch import nn
import imac_torch as it
from imac_torch.base.resources import data_file

content = np.load(data_file("lenet_400_120_84_10.npz"))
modules = []
for k in (1, 2, 3):
    weight = torch.from_numpy(content[f"W{k}"].T.astype(float))
    linear = nn.Linear(*weight.shape[::-1], dtype=torch.float64)
    linear.weight.data, linear.bias.data = weight, torch.from_numpy(content[f"B{k}"].astype(float))
    modules += [linear, it.InverterSigmoid()]
config = it.Config(
    amplifier=it.Amplifier(gain=(30.0, 30.0, 10.0)), neuron=it.Neuron(kind="finfet")
)
network = it.convert(nn.Sequential(*modules), config)
bits = np.unpackbits(content["inputs_bits"][:100], axis=1)
with torch.no_grad():
    print(network(torch.from_numpy(2.0 * bits - 1.0)))
"""
TORCH, PACKAGE = "import torch", "import imac_torch"
KEPT, NOTHING = "first answer, all kept", "first answer, nothing kept"
WAITED = "first answer, nothing kept, waiting for kernels"


def seconds(script: str, cache: str, kernels: str = "background") -> tuple[float, float]:
    """That pass, and that the processor takes, until a script in a new process ends."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["NUMBA_CACHE_DIR"], environment["IMAC_TORCH_KERNELS"] = cache, kernels
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the script failed with status {status}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as cache:
        found[WAITED] = [seconds(ANSWER, cache, "wait")]
    with tempfile.TemporaryDirectory() as cache:
        seconds(PACKAGE, cache)  # files are read, and bytecode is written
        found[NOTHING] = [seconds(ANSWER, cache)]
        seconds(ANSWER, cache, "wait")  # until its processes are done with their kernels
        for _ in range(arguments.repeat):
            for name, script in ((TORCH, TORCH), (PACKAGE, PACKAGE), (KEPT, ANSWER)):
                found.setdefault(name, []).append(seconds(script, cache))
    table = Table(title="From the start of Python")
    for heading in ("what", "seconds", "of the processor", f"ratio to {TORCH}"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    medians = {
        name: [statistics.median(values) for values in zip(*runs, strict=True)]
        for name, runs in found.items()
    }
    for name in (TORCH, PACKAGE, KEPT, NOTHING, WAITED):
        passed, used = medians[name]
        table.add_row(name, f"{passed:.1f}", f"{used:.1f}", f"{passed / medians[TORCH][0]:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
