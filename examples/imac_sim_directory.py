"""Run a directory of IMAC-Sim: W1.csv, B1.csv, … with test data and labels.

The options have IMAC-Sim's names and units (weight_var in percent, tsampling in nanoseconds).
Without ``--data_dir`` the sample network of this package is written in IMAC-Sim's format first,
into a new directory below ``./runs/imac_sim``.

IMAC-Sim stores no steepness of its sigmoids, so the software it is compared with takes 1.

    python examples/imac_sim_directory.py --data_dir data --testnum 100 --gain 30 30 10
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from demo import get_sample, new_directory
from torch import Tensor, nn
from torch.utils.data import DataLoader
from train_sample import tensors

import imac_torch as imac


def write_csv(path: Path, table: Tensor) -> None:
    """Numbers separated by commas, one line per row."""
    lines = (",".join(f"{value:g}" for value in row) for row in table.tolist())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sample(directory: Path) -> None:
    """The sample network and 8×8 digits, black and white, in IMAC-Sim's format."""
    model = get_sample(directory).ternary
    linears = [module for module in model if isinstance(module, nn.Linear)]
    for number, linear in enumerate(linears, start=1):
        write_csv(directory / f"W{number}.csv", linear.weight.T)
        write_csv(directory / f"B{number}.csv", linear.bias[:, None])
    inputs, labels = tensors(imac.load_dataset("digits", train=False))
    write_csv(directory / "test_data.csv", inputs.flatten(1))
    write_csv(directory / "test_labels.csv", nn.functional.one_hot(labels, 10))


def main(arguments: Sequence[str] | None = None) -> imac.Report:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data_dir", type=Path, default=None)
    parser.add_argument("--dataset_file", default="test_data.csv")
    parser.add_argument("--label_file", default="test_labels.csv")
    parser.add_argument("--weight_var", type=float, default=0.0, help="percent")
    parser.add_argument("--vdd", type=float, default=0.8, help="V")
    parser.add_argument("--testnum", type=int, default=None)
    parser.add_argument("--firstimage", type=int, default=0)
    parser.add_argument("--tsampling", type=float, default=4.0, help="ns")
    parser.add_argument("--nodes", type=int, nargs="*", default=None)
    parser.add_argument("--xbar", type=int, nargs=2, default=(32, 32), help="inputs, outputs")
    parser.add_argument("--gain", type=float, nargs="*", default=(30.0, 30.0, 10.0))
    parser.add_argument("--tech_node", type=float, default=9e-9, help="m")
    parser.add_argument("--rlow", type=float, default=78e3, help="ohm")
    parser.add_argument("--rhigh", type=float, default=202e3, help="ohm")
    parser.add_argument("--sign", action="store_true", help="sign of the inputs, as IMAC-Sim")
    parser.add_argument("--out", type=Path, default=Path("runs/imac_sim"))
    options = parser.parse_args(arguments)

    directory = options.data_dir
    if directory is None:
        directory = new_directory(options.out)
        write_sample(directory)
        print(f"sample written to {directory}")
    data = imac.read_imac_sim(
        directory,
        nodes=options.nodes,
        dataset_file=options.dataset_file,
        label_file=options.label_file,
        testnum=options.testnum,
        firstimage=options.firstimage,
    )
    if options.sign:
        data = data.signed()
    config = imac.Config(
        supplies=imac.Supplies(vdd=options.vdd, vss=-options.vdd),
        device=imac.Memristor(
            rlow=options.rlow, rhigh=options.rhigh, variation=options.weight_var / 100.0
        ),
        interconnect=imac.Interconnect(tech_node=options.tech_node),
        crossbar=imac.Crossbar(columns=options.xbar[0], rows=options.xbar[1]),
        amplifier=imac.Amplifier(gain=tuple(options.gain)),
        timing=imac.Timing(period=options.tsampling * 1e-9),
    )
    network = imac.convert(data.model(), config, generator=torch.Generator().manual_seed(0))
    print(network.summary())
    report = imac.evaluate(
        network, DataLoader(data.dataset(), batch_size=500), reference=data.model(), seed=0
    )
    print(report)
    return report


if __name__ == "__main__":
    main()
