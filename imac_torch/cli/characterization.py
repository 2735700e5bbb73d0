"""The command that measures a part of the circuit: characterize."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import torch
import typer

from imac_torch.base.files import strict_json, write_text
from imac_torch.base.tables import text_table
from imac_torch.cli import options as o
from imac_torch.cli.measures import VOLTAGE, measured
from imac_torch.cli.opening import check_output
from imac_torch.config import Config
from imac_torch.errors import ConfigError
from imac_torch.simulator import NgSpice
from imac_torch.study.characterization import characterize_neuron
from imac_torch.study.useramplifier import (
    NODES,
    amplifier_offsets,
    example_amplifier,
    tabulate_amplifier,
)
from imac_torch.study.userneuron import INPUT_RANGE, tabulate_neuron
from imac_torch.study.userneuron import NODES as NEURON_NODES

__all__ = ["characterize"]

TAKES: Final = {
    "neuron": ("--from", "--to", "--points"),
    "neuron FILE": ("--from", "--to", "--nodes", "--trust"),
    "amplifier": ("--plus", "--nodes", "--draws", "--seed"),
    "amplifier FILE": ("--plus", "--nodes", "--draws", "--seed", "--trust"),
}
"""What says something about which part."""
UNITS: Final = {
    "slope": "1/V", "steepest_gain": "V/V", "mean_power": "W", "largest_power": "W", "gain": "V/V",
    "quiescent_power": "W", "quiescent_current": "A",
}  # fmt: skip
"""Of figures; V where nothing is said."""


class Part(str, Enum):
    """What is characterised."""

    neuron = "neuron"
    amplifier = "amplifier"


def characterize(
    part: Annotated[Part, typer.Argument(help="What to characterise.")] = Part.neuron,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A sub-circuit of yours, measured by ngspice into a table: of a neuron (ports z "
            "out vdd), of an amplifier (plus minus out vdd vss). Without: the configured neuron; "
            "the transistor-level amplifier of the package."
        ),
    ] = None,
    config: o.ConfigOption = None,
    changes: o.SetOption = None,
    low: Annotated[
        float | None,
        typer.Option(
            "--from", parser=measured(VOLTAGE), metavar="V",
            help="First input of a neuron; -1, of a FILE -6.",
        ),
    ] = None,
    high: Annotated[
        float | None,
        typer.Option(
            "--to", parser=measured(VOLTAGE), metavar="V",
            help="Last input of a neuron; 1, of a FILE 6.",
        ),
    ] = None,
    points: Annotated[
        int | None, typer.Option(min=2, help="Inputs of the configured neuron; 201.")
    ] = None,
    plus: Annotated[
        tuple[float, float, int] | None,
        typer.Option(
            help="Of an amplifier: lowest and highest V of its input plus, and how many values, "
            "for read-outs that move it (differential)."
        ),
    ] = None,
    nodes: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Of tables: how many inputs (an amplifier's differential) and outputs."),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(min=0, help="Of an amplifier: draws of thresholds, for its offset."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of these draws; 0.")] = None,
    trust: o.TrustOption = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="New file: the table (.safetensors), or curves (CSV)."),
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Transfer curve, threshold, slope and power of the neuron; or of a sub-circuit, by ngspice.

    Examples: `imac-torch characterize --set device.rlow=8.5e3 --set device.rhigh=25.5e3`,
    `imac-torch characterize neuron mine.sp -o mine.safetensors`,
    `imac-torch characterize amplifier mine.sp --draws 100 -o mine.safetensors`
    """
    what = part.value if file is None else f"{part.value} FILE"
    given = {
        "--from": low, "--to": high, "--points": points, "--plus": plus, "--nodes": nodes,
        "--draws": draws, "--seed": seed, "--trust": trust or None,
    }  # fmt: skip
    idle = [name for name, value in given.items() if value is not None and name not in TAKES[what]]
    if idle:
        raise ConfigError(
            f"{', '.join(idle)}: without effect on `characterize {what}`, which takes "
            f"{', '.join(TAKES[what])}"
        )
    if seed is not None and not draws:
        raise ConfigError("--seed is of draws: add how many, --draws")
    check_output(output, new=True)
    built = o.build_config(config, changes)
    if part is Part.amplifier:
        _characterize_amplifier(
            built, file, plus, nodes or NODES, draws or 0, seed or 0, output, as_json, trust=trust
        )
        return
    if file is not None:
        lowest, highest = INPUT_RANGE
        given_range = lowest if low is None else low, highest if high is None else high
        _characterize_file(
            built, file, given_range, nodes or NEURON_NODES, output, as_json, trust=trust
        )
        return
    curve = characterize_neuron(
        built, low=-1.0 if low is None else low, high=1.0 if high is None else high,
        points=points or 201,
    )  # fmt: skip
    figures = curve.figures()
    if output is not None:
        write_text(output, curve.to_csv(), new=True)
    title = f"{curve.spec.kind} neuron, {curve.inputs[0]:g} V to {curve.inputs[-1]:g} V"
    _show(title, figures, output, as_json=as_json)


def _show(
    title: str, figures: Mapping[str, float], output: Path | None, *, as_json: bool, note: str = ""
) -> None:
    if as_json:
        typer.echo(strict_json(figures))
        return
    rows = [
        (name.replace("_", " "), f"{value:.6g} {UNITS.get(name, 'V')}")
        for name, value in figures.items()
    ]
    typer.echo(text_table(title, rows, headings=("figure", "value")), nl=False)
    if note:
        typer.echo(note)
    if output is not None:
        typer.echo(f"wrote {output}")


def _characterize_file(
    config: Config,
    path: Path,
    inputs: tuple[float, float],
    nodes: tuple[int, int],
    output: Path | None,
    as_json: bool,
    *,
    trust: bool,
) -> None:
    table = tabulate_neuron(
        path, NgSpice(), vdd=config.supplies.vdd, input_range=inputs, nodes=nodes,
        temperature=config.temperature, neuron=config.neuron, trust=trust,
    )  # fmt: skip
    if output is not None:
        table.save(output)
    low, high = table.input_range
    figures = {
        "lowest_input": low, "highest_input": high, "vdd": table.vdd,
        "interpolation_error": table.error.voltage,
        "interpolation_error_rms": table.error.voltage_rms,
    }  # fmt: skip
    use = f"to use it: --set neuron.kind=table --set neuron.table={output or 'FILE'}"
    _show(
        f"{table.subcircuit}, {table.simulator}", figures, output, as_json=as_json,
        note=f"{use} --set neuron.subcircuit={path}",
    )  # fmt: skip


def _characterize_amplifier(
    config: Config,
    file: Path | None,
    plus: tuple[float, float, int] | None,
    nodes: tuple[int, int],
    draws: int,
    seed: int,
    output: Path | None,
    as_json: bool,
    *,
    trust: bool,
) -> None:
    path, supplies = example_amplifier() if file is None else file, config.supplies
    vdd, vss, temperature = supplies.vdd, supplies.vss, config.temperature
    table = tabulate_amplifier(
        path, NgSpice(), plus=plus, nodes=nodes, vdd=vdd, vss=vss, temperature=temperature,
        trust=trust,
    )  # fmt: skip
    figures = table.figures()
    if draws:
        generator = torch.Generator().manual_seed(seed)
        found = amplifier_offsets(
            path, NgSpice(), generator, draws=draws, vdd=vdd, vss=vss, temperature=temperature,
            trust=trust,
        )  # fmt: skip
        figures["offset_spread"] = found.spread
    if output is not None:
        table.save(output)
    _show(
        f"{table.subcircuit}, {table.simulator}", figures, output, as_json=as_json,
        note=str(table.error),
    )  # fmt: skip
