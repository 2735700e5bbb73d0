"""The systems of the papers behind this package, each by one command.

    python examples/papers.py imac-sim       # an IMAC-Sim directory: accuracy, power, time
    python examples/papers.py partitioning   # accuracy against array size, devices, bit cells
    python examples/papers.py access         # the same with and without access transistors
    python examples/papers.py resistances    # accuracy over Rlow and Rhigh: wires, partitions
    python examples/papers.py trends         # the two before, in one
    python examples/papers.py coprocessor    # convolutions in software, the tail as a circuit
    python examples/papers.py neuron         # the sigmoid neuron of two devices and an inverter
    python examples/papers.py interconnect   # wires against technology node

Without ``--network`` they run on the digits network that ships in ``data/``. Sweeps go on where
they ended. docs/reproducing.md has the results on the papers' network, and what they compare to.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from imac_sim_directory import write_sample
from paper_systems import coprocessor as cnn
from paper_systems import drawing, grids, processor
from paper_systems import neuron as sigmoid
from paper_systems.running import (
    WiresEvaluator,
    percent,
    run_cases,
    save_tables,
    show,
)
from paper_systems.subjects import PUBLISHED_NEURON, Subject, open_subject

import imac_torch as imac
from imac_torch.circuit.wires import segments
from imac_torch.config import BIT_CELL_LENGTHS, DEVICES, NODES
from imac_torch.sweep import NetworkEvaluator

app = typer.Typer(add_completion=False, no_args_is_help=True, help=(__doc__ or "").splitlines()[0])

NOISE = (0.0, 0.1, 0.2, 0.4)
"""V rms at the inputs, beside what the circuit itself makes."""

NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        "-n",
        help="A directory of IMAC-Sim, a network of this package (.safetensors), the reference "
        "network (network.npz), or module:factory. Default: the digits network in data/.",
    ),
]
DataOption = Annotated[str | None, typer.Option(help="Data set, where the network brings none.")]
RootOption = Annotated[Path | None, typer.Option(help="Where named data sets lie.")]
ImagesOption = Annotated[int, typer.Option(min=1, help="Most test images.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Directory of tables, figures.")]
WorkersOption = Annotated[int, typer.Option("--workers", "-j", min=1, help="Processes.")]
DevicesOption = Annotated[
    list[str] | None, typer.Option("--device", help="MRAM, RRAM, CBRAM, PCM; may be repeated.")
]
FactorsOption = Annotated[
    list[float] | None,
    typer.Option(
        "--gain-factor", help="Amplifier gains, in units of 30 (10 in the last layer); repeated."
    ),
]
HERE = Path("runs/papers")


def _evaluator(subject: Subject, base: imac.Config | None = None) -> NetworkEvaluator:
    base = subject.sweep_base() if base is None else base
    return NetworkEvaluator(subject.model, subject.inputs, subject.labels, base)


def _start(subject: Subject, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        right = (subject.model(subject.inputs).argmax(1) == subject.labels).double().mean()
    typer.echo(
        f"{subject.name}: {len(subject.labels)} images, software {100 * float(right):.2f} %"
    )


def _factors(given: list[float] | None) -> tuple[float, ...]:
    """The gains to try; the published ones are always among them."""
    return tuple(dict.fromkeys((*(given or grids.FACTORS), 1.0)))


@app.command("imac-sim")
def imac_sim(
    network: NetworkOption = None,
    data: DataOption = None,
    root: RootOption = None,
    images: ImagesOption = 1000,
    timed: Annotated[int, typer.Option(min=2, help="Images whose latency is measured.")] = 20,
    output: OutputOption = HERE / "imac_sim",
) -> imac.Report:
    """IMAC-Sim's own flow: a directory of weights and images in; accuracy, power, time out."""
    output.mkdir(parents=True, exist_ok=True)
    if network is None:
        directory = output / "imac_sim_data"
        directory.mkdir(exist_ok=True)
        write_sample(directory)
        network = str(directory)
    subject = open_subject(network, data, root, images)
    _start(subject, output)
    circuit = imac.convert(subject.model, subject.base).eval()
    circuit.solve(subject.inputs[:1])  # compiles kernels and tabulates the transistors
    started = time.perf_counter()
    report = imac.evaluate(circuit, subject.pairs, reference=subject.model)
    seconds = time.perf_counter() - started
    measured = circuit.measure(subject.inputs[:timed])
    power = report.mean_power()
    latency = measured.latency.images
    rows = {
        "accuracy, software, %": percent(report.reference_accuracy or 0.0),
        "accuracy, circuit, %": percent(report.accuracy),
        "images not solved": str(report.failures),
        "power, mW": f"{1e3 * power['total']:.1f}",
        "  inputs, bias lines, neurons, mW": ", ".join(
            f"{1e3 * power[name]:.1f}" for name in ("inputs", "bias", "neurons")
        ),
        "energy per inference, nJ": f"{1e9 * power['total'] * report.period:.3f}",
        "time per inference (sampling period), ns": f"{1e9 * report.period:.3g}",
        "latency, mean and largest, ps": f"{1e12 * latency.mean():.0f}, {1e12 * latency.max():.0f}",
        "simulation per image, ms": f"{1e3 * seconds / len(report.labels):.3f}",
    }
    text = show(f"IMAC-Sim's flow: {subject.name}", ("figure", "value"), list(rows.items()))
    save_tables(output, "imac_sim", [text])
    report.save(output / "report")
    return report


@app.command()
def partitioning(
    network: NetworkOption = None,
    data: DataOption = None,
    root: RootOption = None,
    images: ImagesOption = 1000,
    device: DevicesOption = None,
    size: Annotated[
        list[int] | None, typer.Option("--size", help="Rows and columns of an array; repeated.")
    ] = None,
    gain_factor: FactorsOption = None,
    amplitude: Annotated[
        list[float] | None, typer.Option("--amplitude", help="Noise at inputs, V rms; repeated.")
    ] = None,
    workers: WorkersOption = 1,
    output: OutputOption = HERE / "partitioning",
) -> list[dict[str, object]]:
    """Accuracy and power against the size of arrays, and against noise, for devices and cells."""
    subject = open_subject(network, data, root, images)
    _start(subject, output)
    devices, widths = tuple(device or DEVICES), tuple(size or (16, 32, 64, 128, 256))
    cells = tuple(BIT_CELL_LENGTHS)
    cases = grids.sizes(subject, devices, cells, widths, _factors(gain_factor))
    rows = run_cases(cases, _evaluator(subject), output, "partitioning", workers=workers)
    keys: tuple[str, ...] = ("device", "cell", "size")
    published = grids.best([row for row in rows if row["factor"] == 1.0], keys)
    tuned = grids.best(rows, keys)
    parts = []
    # For noise: arrays of 32×32 and the largest ones, each with the best of its gains.
    arrays = [
        (name, cell, width, tuned[name, cell, width])
        for name in devices
        for cell in (cells if name == "PCM" else cells[:1])
        for width in (min(widths, key=lambda width: abs(width - 32)), max(widths))
    ]
    for kind, found in (("published gains", published), ("best of the gains", tuned)):
        table = [
            (name, cell, *(percent(found[name, cell, width]["accuracy"]) for width in widths))
            for name in devices
            for cell in (*cells, grids.IDEAL)
        ]
        title = f"accuracy, %, against array size, {kind}: {subject.name}"
        parts.append(show(title, ("device", "bit cell", *map(str, widths)), table))
    powers = [
        (name, *(f"{published[name, cells[0], width]['power']:.3f}" for width in widths))
        for name in devices
    ]
    title = f"power, W, {cells[0]}, published gains"
    parts.append(show(title, ("device", *map(str, widths)), powers))
    cases = grids.partitions(subject, devices, _factors(gain_factor))
    if cases:
        cut = run_cases(cases, _evaluator(subject), output, "published", workers=workers)
        keys = ("device", "partitions")
        tuned = grids.best(cut, keys)
        plain = grids.best([row for row in cut if row["factor"] == 1.0], keys)
        table = [
            (
                *map(str, key),
                percent(plain[key]["accuracy"]),
                percent(row["accuracy"]),
                f"{plain[key]['power']:.3f}",
            )
            for key, row in tuned.items()
        ]
        headings = ("device", "partitions", "published gains, %", "best of the gains, %", "W")
        parts.append(show(f"partitions of the papers, 1T1R: {subject.name}", headings, table))
    levels = tuple(amplitude or NOISE)
    evaluator = replace(_evaluator(subject), noise=True)
    noisy = run_cases(
        grids.noises(subject, arrays, levels), evaluator, output, "noise", workers=workers
    )
    heard = {(row["device"], row["cell"], row["size"], row["noise"]): row for row in noisy}
    table = [
        (name, cell, str(width), percent(quiet["accuracy"]),
         *(percent(heard[name, cell, width, level]["accuracy"]) for level in levels))
        for name, cell, width, quiet in arrays
    ]  # fmt: skip
    headings = ("device", "bit cell", "size", "no noise", *(f"{level:g} V" for level in levels))
    parts.append(show(f"accuracy, %, with noise at inputs: {subject.name}", headings, table))
    save_tables(output, "partitioning", parts)
    path = drawing.draw_sizes(rows, subject.name, output / "partitioning.png")
    typer.echo(f"wrote {path}")
    return rows


@app.command()
def access(
    network: NetworkOption = None,
    data: DataOption = None,
    root: RootOption = None,
    images: ImagesOption = 100,
    device: DevicesOption = None,
    size: Annotated[
        list[int] | None, typer.Option("--size", help="Rows and columns of an array; repeated.")
    ] = None,
    workers: WorkersOption = 1,
    output: OutputOption = HERE / "access",
) -> list[dict[str, object]]:
    """What access transistors take: accuracy and power of bit cells with and without them."""
    subject = open_subject(network, data, root, images)
    _start(subject, output)
    devices, widths = tuple(device or DEVICES), tuple(size or (16, 64))
    cells = tuple(BIT_CELL_LENGTHS)
    cases = grids.accesses(subject, devices, cells, widths)
    rows = run_cases(cases, _evaluator(subject), output, "access", workers=workers)
    found = {(row["device"], row["cell"], row["size"], row["transistors"]): row for row in rows}
    parts = []
    for title, text in (
        ("accuracy, %", lambda row: percent(row["accuracy"])),
        ("power, W", lambda row: f"{row['power']:.4f}"),
    ):
        table = [
            (name, cell,
             *(" / ".join(text(found[name, cell, width, each]) for each in (False, True))
               for width in widths))
            for name in devices
            for cell in cells
        ]  # fmt: skip
        heading = f"{title}, without / with access transistors: {subject.name}"
        parts.append(show(heading, ("device", "bit cell", *map(str, widths)), table))
    save_tables(output, "access", parts)
    return rows


@app.command()
def resistances(
    network: NetworkOption = None,
    data: DataOption = None,
    root: RootOption = None,
    images: ImagesOption = 1000,
    low: Annotated[list[float] | None, typer.Option("--rlow", help="Ω; repeated.")] = None,
    high: Annotated[list[float] | None, typer.Option("--rhigh", help="Ω; repeated.")] = None,
    gain_factor: FactorsOption = None,
    workers: WorkersOption = 1,
    output: OutputOption = HERE / "resistances",
) -> list[dict[str, object]]:
    """Accuracy over Rlow × Rhigh without wires, with wires, with wires and partitions."""
    subject = open_subject(network, data, root, images)
    _start(subject, output)
    lows = tuple(low or (1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5))
    highs = tuple(high or (3e3, 1e4, 3e4, 1e5, 3e5, 1e6))
    cases = grids.resistances(subject, lows, highs, _factors(gain_factor))
    rows = run_cases(cases, _evaluator(subject), output, "resistances", workers=workers)
    keys = ("case", "rlow", "rhigh")
    published = grids.best([row for row in rows if row["factor"] == 1.0], keys)
    tuned = grids.best(rows, keys)
    parts = []
    for kind, found in (("published gains", published), ("best of the gains", tuned)):
        table = []
        for case in grids.CASES:
            values = [row["accuracy"] for key, row in found.items() if key[0] == case]
            good = sum(value >= 0.9 for value in values)
            table.append(
                (
                    case,
                    percent(sum(values) / len(values)),
                    percent(max(values)),
                    f"{good} of {len(values)}",
                )
            )
        headings = ("case", "mean, %", "best, %", "pairs at 90 % or more")
        parts.append(show(f"accuracy over Rlow × Rhigh, {kind}: {subject.name}", headings, table))
    save_tables(output, "resistances", parts)
    path = drawing.draw_resistances(rows, subject.name, output / "resistances.png")
    typer.echo(f"wrote {path}")
    return rows


@app.command()
def trends(
    network: NetworkOption = None,
    data: DataOption = None,
    root: RootOption = None,
    images: ImagesOption = 1000,
    workers: WorkersOption = 1,
    output: OutputOption = HERE / "trends",
) -> None:
    """Accuracy against array size for all devices and bit cells, and over Rlow × Rhigh."""
    partitioning(network, data, root, images, workers=workers, output=output)
    resistances(network, data, root, images, workers=workers, output=output)


@app.command()
def coprocessor(
    data: Annotated[str, typer.Option(help="digits, or 28×28 images: MNIST, …")] = "digits",
    root: RootOption = None,
    split: Annotated[
        int | None,
        typer.Option(help="Train on so many images of the test split, test on the others."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of training, float and ternary.")] = 400,
    images: ImagesOption = 1000,
    device: DevicesOption = None,
    product: Annotated[
        float, typer.Option("--product-energy", help="J per product on the processor.")
    ] = processor.Processor.product,
    rate: Annotated[
        float, typer.Option("--product-rate", help="Products per second there.")
    ] = processor.Processor.product_rate,
    workers: WorkersOption = 1,
    output: OutputOption = HERE / "coprocessor",
) -> list[dict[str, object]]:
    """Convolutions in software, their signs into an analog tail of ternary weights."""
    output.mkdir(parents=True, exist_ok=True)
    found = cnn.open_cnn(data, root, split, steps, output)
    cases = [
        grids.Case({"device": name, "cell": cell}, case.point)
        for name in device or DEVICES
        for cell in (grids.IDEAL, "1T1R")
        for case in [_tail(name, cell)]
    ]
    base = found.base.replace(neuron=PUBLISHED_NEURON)
    evaluator = NetworkEvaluator(found.model, found.inputs[:images], found.labels[:images], base)
    rows = run_cases(cases, WiresEvaluator(evaluator), output, "coprocessor", workers=workers)
    counts = cnn.operations(found.model, found.inputs[:1])
    table = [
        ("software, float weights", percent(found.floating), "", "", ""),
        ("ternary tail, ideal circuit", percent(found.ideal), "", "", ""),
    ]
    table += [
        (
            f"{row['device']}, {row['cell']}",
            percent(row["accuracy"]),
            f"{1e3 * row['power']:.0f}",
            f"{1e9 * row['energy']:.2f}",
            f"{1e12 * row['latency']:.0f}",
        )
        for row in rows
    ]
    headings = ("network", "accuracy, %", "tail, mW", "tail, nJ per image", "median latency, ps")
    text = show(f"CNN with an analog tail: {data}, {len(found.labels)} images", headings, table)
    shares = [
        (kind, str(weights), str(products)) for kind, (weights, products) in counts.items()
    ]
    work = show("where the work is", ("layers", "weights", "products per image"), shares)
    conv, linear = (
        processor.Work(counts[kind][1], counts[kind][0]) for kind in ("conv", "linear")
    )
    borders = cnn.border_energy(found.model, base)
    largest = max(float(str(row["energy"])) for row in rows) + borders
    saved = show(
        f"beside a processor: the tail takes {1e9 * largest:.1f} nJ at most, {1e9 * borders:.2f} "
        "of it at its borders",
        processor.HEADINGS,
        processor.table(
            processor.Processor(product=product, product_rate=rate), (conv, linear),
            largest / linear.weights,
        ),
    )  # fmt: skip
    save_tables(output, "coprocessor", [text, work, saved])
    return rows


def _tail(device: str, cell: str) -> grids.Case:
    low, high = DEVICES[device]
    wires = {"interconnect.resistance": cell != grids.IDEAL}
    return grids.Case({}, {"device.rlow": low, "device.rhigh": high, **wires})


@app.command()
def neuron(
    network: NetworkOption = None,
    data: DataOption = None,
    root: RootOption = None,
    images: ImagesOption = 1000,
    points: Annotated[int, typer.Option(min=2, help="Of every curve.")] = 161,
    low: Annotated[list[float] | None, typer.Option("--rlow", help="Ω; repeated.")] = None,
    ratio: Annotated[list[float] | None, typer.Option(help="Rhigh/Rlow; repeated.")] = None,
    workers: WorkersOption = 1,
    output: OutputOption = HERE / "neuron",
) -> list[dict[str, object]]:
    """Transfer curve and power of the neuron; accuracy against the resistances of its devices."""
    subject = open_subject(network, data, root, images)
    _start(subject, output)
    curves = sigmoid.curves(points)
    headings = (
        "devices", "threshold, mV", "slope, 1/V", "gain", "output, V", "mean from vdd, µW",
        "largest, µW", "mean from the input, µW", "from a sigmoid, mV rms",
    )  # fmt: skip
    figures = [(name, *sigmoid.figures(curve)) for name, curve in curves.items()]
    parts = [show("the neuron without load, inputs from -0.8 to 0.8 V", headings, figures)]
    for name, curve in curves.items():
        stem = name.split()[0].lower().replace("-", "_")
        (output / f"curve_{stem}.csv").write_text(curve.to_csv(), encoding="utf-8")
    lows = tuple(low or (1e3, 2e3, 5e3, 8.5e3, 2e4, 5e4, 1e5))
    ratios = tuple(ratio or (1.5, 2.0, 3.0, 5.0, 10.0, 30.0))
    rows = run_cases(
        grids.neurons(lows, ratios), _evaluator(subject), output, "neuron", workers=workers
    )
    accuracies = {(row["rlow"], row["ratio"]): percent(row["accuracy"]) for row in rows}
    table = [(f"{a / 1e3:g} kΩ", *(accuracies[a, b] for b in ratios)) for a in lows]
    title = f"accuracy, %, against the neuron's Rlow and Rhigh/Rlow: {subject.name}"
    parts.append(show(title, ("Rlow", *(f"{b:g}" for b in ratios)), table))
    save_tables(output, "neuron", parts)
    path = sigmoid.draw_neuron(curves, output / "neuron.png")
    typer.echo(f"wrote {path}")
    return rows


@app.command()
def interconnect(
    network: NetworkOption = None,
    data: DataOption = None,
    root: RootOption = None,
    images: ImagesOption = 1000,
    device: DevicesOption = None,
    node: Annotated[list[float] | None, typer.Option("--node", help="λ, m; repeated.")] = None,
    workers: WorkersOption = 1,
    output: OutputOption = HERE / "interconnect",
) -> list[dict[str, object]]:
    """Accuracy, IR drop, power and latency against technology node, arrays of 32×32."""
    subject = open_subject(network, data, root, images)
    _start(subject, output)
    cases = grids.nodes(device or DEVICES, tuple(node or NODES))
    evaluator = WiresEvaluator(_evaluator(subject))
    rows = run_cases(cases, evaluator, output, "interconnect", workers=workers)
    table = []
    for case, row in zip(cases, rows, strict=True):
        values = {name.partition(".")[2]: value for name, value in case.point.items()}
        wires = imac.Interconnect(
            tech_node=values["tech_node"], thickness=values["thickness"], height=values["height"]
        )
        wire = segments(wires)
        table.append(
            (
                f"{row['device']}, T and H {row['metal']}",
                f"{1e9 * row['node']:g}",
                f"{wire.input_line:.2f}, {wire.output_line:.2f}",
                percent(row["accuracy"]),
                f"{1e3 * row['input_drop']:.0f}",
                f"{1e3 * row['output_drop']:.0f}",
                f"{row['power']:.3f}",
                f"{1e12 * row['latency']:.0f}",
            )
        )
    headings = (
        "device", "λ, nm", "segments, Ω", "accuracy, %", "input drop, mV", "output drop, mV",
        "power, W", "median latency, ps",
    )  # fmt: skip
    text = show(f"wires against technology node: {subject.name}", headings, table)
    save_tables(output, "interconnect", [text])
    path = drawing.draw_nodes(rows, subject.name, output / "interconnect.png")
    typer.echo(f"wrote {path}")
    return rows


if __name__ == "__main__":
    app()
