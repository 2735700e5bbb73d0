"""Draw a transistor's characteristics and a neuron's transfer curves, without and with load.

    python examples/neuron_curves.py

Needs matplotlib. With ngspice installed, it also characterises one of the package's sub-circuits
as it would characterise yours, and draws the result. Figures go to ./runs/neuron_curves/.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import imac_torch as imac
from imac_torch.base.resources import spice_file
from imac_torch.finfet import FinFET, builtin_14nm_hp
from imac_torch.reports.plots import plot_finfet, plot_neuron
from imac_torch.study.characterization import neuron_of


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Command line; returns the files written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("runs/neuron_curves"))
    parser.add_argument(
        "--subcircuit", type=Path, default=spice_file("neuron_logistic.sp"),
        help="your neuron: a sub-circuit of ports z out vdd",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    options.directory.mkdir(parents=True, exist_ok=True)
    config = imac.Config()
    figures = {
        f"finfet_{card.polarity}.png": plot_finfet(
            FinFET(card, nfin=config.neuron.fins, temperature=config.temperature),
            title=f"14 nm HP {card.name}, {config.neuron.fins} fins, 25 °C",
        )
        for card in builtin_14nm_hp()
    }
    figures["neuron_finfet.png"] = plot_neuron(
        neuron_of(config), title="CMOS inverter neuron of PCM resistances"
    )
    if imac.NgSpice().available():
        table = imac.tabulate_neuron(options.subcircuit, imac.NgSpice(), input_range=(-1.5, 1.5))
        print(f"{table.subcircuit}, {table.simulator}: {table.error}")
        path = options.directory / "neuron.safetensors"
        path.unlink(missing_ok=True)
        table.save(path)
        neuron = imac.Neuron(kind="table", table=str(path), subcircuit=str(options.subcircuit))
        figures["neuron_table.png"] = plot_neuron(
            neuron_of(config.replace(neuron=neuron)), title=f"{table.subcircuit}, characterised"
        )
    else:
        print("ngspice is not installed: no sub-circuit was characterised")
    written = []
    for name, figure in figures.items():
        written.append(options.directory / name)
        figure.savefig(written[-1], dpi=120)
        print(f"wrote {written[-1]}")
    return written


if __name__ == "__main__":
    main()
