"""The demo: a trained network becomes a circuit, is solved, and is compared with software.

Run by ``make demo``. Everything that is written goes to a new directory below ``./runs/demo``.

    python examples/demo.py [--out runs/demo] [--samples 360] [--timed 24] [--spice-samples 2]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from train_sample import Sample, ideal_circuit, load_sample, make_sample, save_sample

import imac_torch as imac
from imac_torch.base.resources import data_file
from imac_torch.dc.ir_drop import cell_voltages
from imac_torch.errors import ConversionWarning, DataError
from imac_torch.reports.html_report import write_report

SAMPLE = "digits_mlp.safetensors"


def new_directory(parent: Path) -> Path:
    """The first of parent/1, parent/2, … that is not there yet, made."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            (parent / str(number)).mkdir()
        except FileExistsError:
            number += 1
        else:
            return parent / str(number)


def get_sample(directory: Path) -> Sample:
    """The sample that ships with the package, or one trained now."""
    try:
        path = data_file(SAMPLE)
    except DataError:
        print(f"{SAMPLE} is not in data/: training it")
        path = directory / SAMPLE
        save_sample(make_sample(), path)
    print(f"network: {path}")
    return load_sample(path)


@torch.no_grad()
def where_from(sample: Sample, inputs: Tensor, labels: Tensor) -> Table:
    """Accuracy as the circuit becomes real, effect by effect."""
    config = sample.config
    no_wires = config.replace(interconnect=config.interconnect.replace(resistance=False))
    ternary = imac.convert(sample.ternary, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)  # that rounding loses is what it shows
        rounded = imac.convert(sample.floating, config)
    stages = (
        ("float network, software", sample.floating),
        ("  its weights rounded to ternary, full circuit", rounded),
        ("network trained as a ternary circuit, ideal", ideal_circuit(ternary)),
        ("  + FinFET curves and loading", imac.convert(sample.ternary, no_wires)),
        ("  + wire resistances (the full circuit)", ternary),
    )
    ideal = ideal_circuit(ternary)(inputs)
    table = Table(title="where accuracy goes")
    table.add_column("network")
    table.add_column("accuracy", justify="right")
    table.add_column("rms from ideal", justify="right")
    for index, (name, model) in enumerate(stages):
        outputs = model(inputs)
        hits = (outputs.argmax(1) == labels).double().mean()
        deviation = (outputs - ideal).square().mean().sqrt() * config.supplies.vdd * 1e3
        shown = f"{float(deviation):.1f} mV" if index > 2 else ""
        table.add_row(name, f"{100 * float(hits):.2f} %", shown)
    return table


def check_with_ngspice(sample: Sample, loader: DataLoader[Any], directory: Path, count: int) -> str:
    """Solve a few samples with ngspice too; the neurons are behavioural so that it takes seconds.

    ngspice 39 has no FinFET model of HSPICE's level 72. It can interpolate a table of ours, which
    takes it minutes for this network.
    """
    simulator = imac.NgSpice()
    if not simulator.available():
        return f"ngspice is not installed: nothing was verified with it. {simulator.install_hint}"
    config = sample.config.replace(neuron=imac.Neuron(kind="logistic"))
    network = imac.convert(sample.ternary, config)
    started = time.perf_counter()
    engine = imac.Spice(simulator, directory / "ngspice")
    spice = imac.evaluate(network, loader, engine=engine, limit=count)
    seconds = time.perf_counter() - started
    native = imac.evaluate(network, loader, limit=count, progress=False)
    volts = float((spice.outputs - native.outputs).abs().max())
    ratio = spice.mean_power()["total"] / native.mean_power()["total"] - 1.0
    return (
        f"ngspice {simulator.version()} on {count} samples (logistic neurons, all wires): outputs "
        f"within {volts:.1e} V of the native engine, power within {abs(ratio):.1e} relative; "
        f"{seconds:.1f} s"
    )


def draw(network: imac.IMACNetwork, report: imac.Report, inputs: Tensor, path: Path) -> None:
    """Confusion matrix, circuit against ideal outputs, and what the wires take from each cell."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    classes = report.outputs.shape[1]
    pairs = report.labels * classes + report.predictions.clamp(min=0)
    confusion = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    left.imshow(confusion.numpy(), cmap="Blues")
    for row in range(classes):
        for column in range(classes):
            if confusion[row, column]:
                left.text(column, row, int(confusion[row, column]), ha="center", va="center")
    left.set(xlabel="circuit says", ylabel="label", title="confusion")
    with torch.no_grad():
        ideal = ideal_circuit(network)(inputs) * network.config.supplies.vdd
        first = next(network.analog_layers())
        lines = nn.functional.pad(
            network.voltages(inputs[:16]), (0, 1), value=network.config.supplies.vdd
        )
        drop = cell_voltages(first.matrix.crossbar(), lines).input_drop.abs().mean(0) * 1e3
    middle.plot([0, 0.8], [0, 0.8], color="grey", linewidth=0.5)
    middle.plot(ideal.flatten().numpy(), report.outputs.flatten().numpy(), ".", markersize=2)
    middle.set(xlabel="ideal circuit, V", ylabel="circuit, V", title="output voltages")
    image = right.imshow(drop.numpy())
    right.set(
        xlabel="input line (bias last)",
        ylabel="row",
        title=f"layer {first.name}: mean drop on the input lines",
    )
    figure.colorbar(image, ax=right, label="mV")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def summary(report: imac.Report, seconds: float) -> str:
    """The figures in two lines."""
    figures = report.figures()
    time_, energy = figures["timing"], figures["timing"]["energy"]["total"]["energy"]
    return (
        f"circuit {100 * report.accuracy:.2f} %, ideal circuit "
        f"{100 * (report.reference_accuracy or 0):.2f} %, agreement "
        f"{100 * (report.agreement or 0):.2f} %, {report.mean_power()['total'] * 1e3:.2f} mW, "
        f"{energy * 1e12:.1f} pJ per image\n"
        f"latency of {time_['images']} images: median {time_['latency']['median'] * 1e12:.0f} ps, "
        f"worst {time_['latency']['worst'] * 1e12:.0f} ps; {seconds:.0f} s in all"
    )


def main(arguments: Sequence[str] | None = None) -> imac.Report:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="parent directory")
    parser.add_argument("--samples", type=int, default=None, help="test digits; default: all 360")
    parser.add_argument("--timed", type=int, default=24, help="digits whose latency is measured")
    parser.add_argument("--spice-samples", type=int, default=2, help="0: no ngspice")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    directory = new_directory(options.out)
    console = Console()
    sample = get_sample(directory)
    # Capacitances of the wires change no operating point, only how long it takes to get there.
    wires = sample.config.interconnect.replace(capacitance=True)
    network = imac.convert(sample.ternary, sample.config.replace(interconnect=wires))
    print(network.summary())

    loader = DataLoader(imac.load_dataset("digits", train=False), batch_size=120)
    software = ideal_circuit(network)
    report = imac.evaluate(
        network,
        loader,
        reference=software,
        limit=options.samples,
        timing=imac.TimingOptions(samples=options.timed),
    )
    print("'software' is the ideal circuit that the network was trained as.")
    print(report)
    inputs, labels = (torch.cat(part) for part in zip(*loader, strict=True))
    inputs, labels = inputs[: options.samples], labels[: options.samples]
    console.print(where_from(sample, inputs, labels))
    if options.spice_samples:
        print(check_with_ngspice(sample, loader, directory, options.spice_samples))

    draw(network, report, inputs, directory / "demo.png")
    batches = list(zip(inputs.split(120), labels.split(120), strict=True))
    page = write_report(
        directory / "report",
        report,
        network=network,
        software=software,
        loader=batches,
        title="Handwritten digits as a circuit",
        reference="the ideal circuit that the network was trained as",
    )
    print(f"picture: {directory / 'demo.png'}")
    print(f"report:  {page.resolve()} (open it in a browser)")
    print(summary(report, time.perf_counter() - started))
    return report


if __name__ == "__main__":
    main()
