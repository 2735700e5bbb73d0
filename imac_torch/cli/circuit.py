"""Commands about the circuit: config, convert, summary, netlist, read, area, doctor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from imac_torch.base.files import strict_json
from imac_torch.base.tables import console, text_table
from imac_torch.base.units import quantity
from imac_torch.cli import options as o
from imac_torch.cli.arguments import (
    CalibrationArguments,
    DataArguments,
    NetworkArguments,
    expanded,
)
from imac_torch.cli.exits import ExitCode
from imac_torch.cli.measures import TRANSISTOR_NODE, measured
from imac_torch.cli.opening import check_output, open_network, open_run
from imac_torch.config import DEVICES, MODELS, Amplifier, Config, Interconnect, Memristor
from imac_torch.config.assignment import apply_overrides, field_paths, parse_assignment
from imac_torch.config.kinds import DIALECTS
from imac_torch.config.named import named_paths
from imac_torch.config.periphery import AMPLIFIERS
from imac_torch.conversion.storage import load, save
from imac_torch.dc.native import Native
from imac_torch.devices.programming import programming_tables
from imac_torch.errors import DataError
from imac_torch.netlist import NetlistSettings
from imac_torch.reports.area import AREA_MODELS, network_area
from imac_torch.reports.power import IDEAL
from imac_torch.results.latency import same_answers
from imac_torch.study.deck import CIRCUIT, VECTORS, Deck
from imac_torch.study.deck import compile as compile_deck
from imac_torch.study.doctor import examine

__all__ = ["area", "config", "convert", "doctor", "netlist", "read", "summary"]


def config(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="New file (.toml or .json); default: print TOML."),
    ] = None,
    changes: o.SetOption = None,
    device: Annotated[
        str | None, typer.Option(help=f"Start from a device: {', '.join((*DEVICES, *MODELS))}.")
    ] = None,
    amplifier: Annotated[
        str | None, typer.Option(help=f"Start from amplifiers: {', '.join(AMPLIFIERS)}.")
    ] = None,
    tech_node: Annotated[
        float | None,
        typer.Option(
            parser=measured(TRANSISTOR_NODE), metavar="NM",
            help="Start from the wires of a node: 7, 9, ... 45.",
        ),
    ] = None,
    bit_cell: Annotated[
        str,
        typer.Option(
            help="With --tech-node: 1T1R, 2T1R, 1TG1R; or of assumed size 0T1R, 1S1R, SOT_2T1R."
        ),
    ] = "1T1R",
    access: Annotated[
        bool, typer.Option("--access", help="With the access transistors of the bit cell.")
    ] = False,
    imac_sim: Annotated[bool, typer.Option("--imac-sim", help="IMAC-Sim's set-up.")] = False,
    fields: Annotated[
        bool, typer.Option("--fields", help="List every field with its unit and meaning.")
    ] = False,
) -> None:
    """Write a configuration to start from, or explain its fields.

    Example: `imac-torch config --device MRAM --tech-node 14 -o circuit.toml`
    """
    if fields:
        table = Table("field", "meaning", show_lines=False)
        for path, text in (*field_paths(), *named_paths()):
            table.add_row(path, text)
        console().print(table)
        return
    made = Config.imac_sim() if imac_sim else Config()
    if device is not None:
        made = made.replace(device=Memristor.preset(device))
    if access:
        changed = made.device.replace(access=Memristor.preset("PCM", bit_cell).access)
        made = made.replace(device=changed)
    if amplifier is not None:
        chosen = Amplifier.preset(amplifier).replace(gain=made.amplifier.gain)
        made = made.replace(amplifier=chosen)
    if tech_node is not None:
        made = made.replace(interconnect=Interconnect.preset(float(f"{tech_node}e-9"), bit_cell))
    made = apply_overrides(made, dict(parse_assignment(text) for text in changes or ()))
    if output is not None:
        made.save(output)
        typer.echo(f"wrote {output}")
        return
    import tomli_w

    typer.echo(tomli_w.dumps(made.to_dict()), nl=False)


@expanded
def convert(
    network: NetworkArguments,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The network's new file (.safetensors).")
    ],
    calibration: CalibrationArguments,
    data_root: o.DataRootOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    quiet: o.QuietOption = False,
) -> None:
    """Turn a trained model into an analog network and save it.

    Prints what was mapped, folded and left in software. The file holds devices and configuration.
    With `--calibrate 300 --calibration-data digits` the circuit is fitted to samples.
    """
    if output.exists() and not force:
        raise DataError(f"{output} exists; --force replaces it")
    if output.suffix != ".safetensors":
        raise DataError(f"{output}: networks are .safetensors files; name it so")
    check_output(output)
    opened = open_network(network, calibration, data_root=data_root, progress=not quiet)
    path = save(opened.network, output, overwrite=force)
    typer.echo(opened.network.summary())
    typer.echo(f"wrote {path}")


@expanded
def summary(
    network: NetworkArguments,
    calibration: CalibrationArguments,
    data_root: o.DataRootOption = None,
    quiet: o.QuietOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Show what becomes, or became, of every module of a model, and write nothing.

    Example: `imac-torch summary model_zoo.py:ResNet(8,10) --exclude stem`
    """
    opened = open_network(network, calibration, data_root=data_root, progress=not quiet)
    if as_json:
        rows = [asdict(record) for record in opened.network.records]
        circuits = {
            path: [layer.name for layer in segment.analog_layers()]
            for path, segment in opened.network.segments.items()
        }
        programming = [asdict(item) for item in opened.network.programming()]
        typer.echo(strict_json({"modules": rows, "circuits": circuits, "programming": programming}))
        return
    typer.echo(opened.network.summary())
    for table in programming_tables(opened.network.programming()):
        typer.echo(table.text())


@expanded
def netlist(
    network: NetworkArguments,
    samples: DataArguments,
    calibration: CalibrationArguments,
    output: Annotated[Path, typer.Option("--output", "-o", help="New run directory.")],
    dialect: Annotated[
        str,
        typer.Option(
            metavar="DIALECT", callback=lambda name: o.known(DIALECTS, name),
            help=f"Whose: {', '.join(DIALECTS.names)}, or module:Class of yours.",
        ),
    ] = "hspice",
    analysis: o.AnalysisOption = o.Analysis.TRANSIENT,
    testnum: o.TestnumOption = None,
    testnum_per_batch: o.PerBatchOption = None,
    segment: Annotated[
        str | None,
        typer.Option(
            help="Of a model with several circuits: which one; `imac-torch summary` names them.",
        ),
    ] = None,
    vectors: Annotated[
        int, typer.Option(min=1, help="With --segment: input vectors that reach it, at most.")
    ] = VECTORS,
) -> None:
    """Write the netlists of a network and its inputs, for a simulator of your own.

    Run them where you like; `imac-torch simulate --engine ... --run-directory` does both steps.
    """
    check_output(output, directory=True)
    writer = o.dialect_class(dialect)
    opened, found = open_run(
        network, samples, count=testnum, batch_size=None, calibration=calibration
    )
    per_netlist = testnum_per_batch or opened.source.per_batch or 10
    deck = compile_deck(
        opened.network,
        found.loader,
        output,
        dialect=writer,
        settings=NetlistSettings(
            analysis=analysis.value, images_per_netlist=per_netlist
        ),
        trust=network.trust,
        segment=segment,
        vectors=vectors,
    )
    run = deck.run_files
    what = "samples" if segment is None else f"input vectors of {segment}"
    typer.echo(f"wrote {len(run.batches)} netlists for {run.images} {what} to {deck.directory}")


def read(
    directory: Annotated[Path, typer.Argument(help="Of `imac-torch netlist`.")],
    trust: o.TrustOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Read what a simulator that you, or somebody else, ran by hand made of netlists.

    Results are looked for beside each netlist; README.md in the directory says how to run them.
    Nothing is run. What came back is compared with the native engine. Exits with 5 if netlists
    were not run, or failed.
    """
    deck = Deck.read(directory, trust=trust)
    found = deck.results()
    solution, run = found.solution, deck.run_files
    done = solution.converged
    network = load(deck.directory / CIRCUIT, files=trust)
    with torch.no_grad():
        ours = Native().bind(network.segment).solve(deck.inputs)
    figures: dict[str, object] = {"samples": run.images, "solved": int(done.sum())}
    if bool(done.any()):
        assert solution.power is not None  # noqa: S101 - simulators give it
        classes = same_answers(solution.outputs, ours.outputs, network.segment.threshold)
        difference = (solution.outputs - ours.outputs).abs()[done]
        figures |= {
            "mean_power": float(solution.power.total[done].mean()),
            "largest_difference_from_native": float(difference.max()),
            "same_class_as_native": int(classes[done].sum()),
        }
        if deck.vectors is None:
            right = network.answers(network.decode(solution.outputs)) == deck.labels
            figures["accuracy"] = float(right[done].double().mean())
        if run.settings.analysis == "transient":
            figures |= {
                "mean_energy": float(found.energy.total[done].mean()),
                "mean_latency": float(found.latency.images[done].mean()),
            }
    if as_json:
        errors = [str(error) for error in found.errors]
        typer.echo(strict_json({**figures, "errors": errors}))
    else:
        units = {"mean_power": "W", "mean_energy": "J", "mean_latency": "s",
                 "largest_difference_from_native": "V"}  # fmt: skip
        rows = [
            (name.replace("_", " "), quantity(value, units[name]) if name in units
             and isinstance(value, float) else f"{value:.6g}")
            for name, value in figures.items()
        ]  # fmt: skip
        typer.echo(text_table(f"{run.dialect}, {run.settings.analysis} analysis", rows), nl=False)
    if found.errors:
        typer.echo(f"{len(found.errors)} of {len(run.batches)} netlists gave no results", err=True)
        raise found.errors[0]


def doctor(as_json: o.JsonOption = False) -> None:
    """Show what this installation has: versions, simulators, compiled kernels, places to write.

    Exits with 3 if something is missing that everything needs.
    """
    found = list(examine())
    if as_json:
        typer.echo(strict_json([asdict(item) for item in found]))
    else:
        words = {True: "ok", False: "BAD", None: "–"}
        rows = [(item.what, words[item.fine], item.detail) for item in found]
        typer.echo(text_table("imac-torch doctor", rows, width=100), nl=False)
    if any(item.fine is False for item in found):
        raise typer.Exit(int(ExitCode.INPUT))


@expanded
def area(
    network: NetworkArguments,
    area_model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            callback=o.check_area_model,
            help=f"One of {', '.join(AREA_MODELS)}.",
        ),
    ] = "imac-sim",
    as_json: o.JsonOption = False,
) -> None:
    """Silicon area by layer and part: cells, amplifiers, neurons, switches; and of borders.

    `imac-sim` is IMAC-Sim's formula (whole arrays and switches only); `layout` estimates every
    part from layout rules; `layout-used` counts only the lines that are used.
    """
    opened = open_network(network)
    found = network_area(opened.network, area_model)
    if as_json:
        content = {
            "model": found.model,
            "unit": "m²",
            "layers": {name: item.parts() for name, item in found.layers.items()},
            **found.borders,
            "total": found.whole,
        }
        typer.echo(strict_json(content))
        return
    table = Table(title=f"area by the model {found.model!r}, µm²")
    for heading in ("layer", "cells", "amplifiers", "neurons", "switches", "total"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    parts = len(found.total.parts())
    for name, item in (*found.layers.items(), ("layers", found.total)):
        values = (*item.parts().values(), item.total)
        table.add_row(
            name, *("not modelled" if v is None else f"{v * 1e12:.4g}" for v in values)
        )
    for name, value in (*found.borders.items(), ("total", found.whole)):
        text = IDEAL if value is None else f"{value * 1e12:.4g}"
        table.add_row(name, *[""] * parts, text)
    console().print(table)
