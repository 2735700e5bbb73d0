"""Options that several commands share, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from imac_torch.base.registry import Registry
from imac_torch.circuit.engine import Engine
from imac_torch.cli.measures import TIME, measured
from imac_torch.config import Config
from imac_torch.config.assignment import apply_overrides, parse_assignment
from imac_torch.config.kinds import DIALECTS, ENGINES
from imac_torch.errors import ConfigError
from imac_torch.netlist import NetlistWriter
from imac_torch.reports.area import AREA_MODELS, area_model
from imac_torch.study.sources import import_object

__all__ = [
    "Analysis",
    "ModelSource",
    "build_config",
    "dialect_class",
    "engine_class",
]


class Analysis(str, Enum):
    """What a simulator computes."""

    DC = "dc"
    TRANSIENT = "transient"


ModelSource = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="network.safetensors, module:factory or file.py:factory, or a directory of IMAC-Sim.",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="State dict of a module:factory model: .safetensors, or of torch.save (.pt, ...).",
    ),
]
OriginalOption = Annotated[
    str | None,
    typer.Option(
        "--original", "--digital",
        help="module:factory of the model that MODEL, a saved network, was converted from (or of "
        "the modules before its circuit), where the file does not suffice.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration of the circuit (.toml or .json)."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="FIELD=VALUE",
        help='Change one field; repeat at will. Example: --set device.rlow=5e3 --set '
        'amplifier.gain="[30, 30, 10]". `imac-torch config --fields` lists all fields.',
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of the devices' spread; needed if they vary."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Use the files that a network file names, and take sub-circuit files as they are: "
        "a simulator obeys what is in them, programs included.",
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        help="Layers to keep in software: a path in the model, or a class (Conv2d); repeat at "
        "will.",
    ),
]
IncludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        help="The only layers to become analog, named likewise; Module takes all that can.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        help="Data set: a name (digits, MNIST, ...), a file of samples (.npz, .csv), a directory "
        "of IMAC-Sim, or module:factory. A directory of IMAC-Sim given as MODEL brings its own.",
    ),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option("--data-root", help="Where data sets lie, in torchvision's layout."),
]
TrainSplitOption = Annotated[
    bool, typer.Option("--train-split", help="Use the training split of a named data set.")
]
CalibrateOption = Annotated[
    int | None,
    typer.Option(
        "--calibrate",
        min=1,
        help="Fit the circuit to this many samples, without their labels: ranges, mapping, trims "
        "(`convert(…, samples=…)`). They come from the training split of the data set.",
    ),
]
CalibrationDataOption = Annotated[
    str | None,
    typer.Option(
        "--calibration-data",
        help="Data set for --calibrate, named as for --data; of named ones the training split. "
        "Default: the training split of --data, if that is a named one.",
    ),
]
CalibrationRoundsOption = Annotated[
    int | None,
    typer.Option(
        "--calibration-rounds",
        min=0,
        help="Repetitions of the row fits of --calibrate (default: 1).",
    ),
]
TestnumOption = Annotated[
    int | None, typer.Option("--testnum", "-n", min=1, help="Samples to take (default: all).")
]
FirstimageOption = Annotated[
    int | None, typer.Option("--firstimage", min=0, help="First sample, from 0.")
]
PerBatchOption = Annotated[
    int | None,
    typer.Option(
        "--testnum-per-batch",
        min=1,
        help="Samples per netlist (simulators) or per solve (native; default 1000).",
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine", "-e", metavar="ENGINE", callback=lambda name: known(ENGINES, name),
        help=f"What solves the circuit: {', '.join(ENGINES.names)}, or module:Class of yours.",
    ),
]
AnalysisOption = Annotated[
    Analysis,
    typer.Option(
        help="Of simulators: exact operating points, or the transient over all inputs in turn."
    ),
]
WorkersOption = Annotated[int, typer.Option("--workers", "-j", min=1, help="Simultaneous runs.")]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout", parser=measured(TIME, 0.001), metavar="S",
        help="Limit of one simulator run.",
    ),
]
LicencesOption = Annotated[
    int | None, typer.Option("--licences", min=1, help="HSPICE licences to use at once.")
]
NoiseOption = Annotated[
    bool,
    typer.Option(
        "--noise",
        help="Draw noise anew for every sample (native engine), from the seed; the section "
        "[noise] says how much.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
AreaModelOption = Annotated[
    str,
    typer.Option(
        "--area-model",
        callback=lambda name: check_area_model(name),
        help=f"One of {', '.join(AREA_MODELS)}.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print figures as JSON on standard output.")
]


def check_area_model(name: str) -> str:
    """The name of an area model, looked up before anything is computed."""
    area_model(name)
    return name


def build_config(
    file: Path | None, changes: Sequence[str] | None, *, default: Config | None = None
) -> Config:
    """The configuration of a command line.

    Args:
        file: Of ``--config``.
        changes: Of ``--set``.
        default: Where there is no file; None: the package's defaults.

    Raises:
        ConfigError: The file or a change is not valid.
    """
    config = (default or Config()) if file is None else Config.load(file)
    return apply_overrides(config, dict(parse_assignment(text) for text in changes or ()))


def known(registry: Registry[Any], name: str) -> str:
    """A name of a registry, or a place ``module:Class``.

    Raises:
        BadParameter: It is neither.
    """
    if ":" not in name and name not in registry:
        raise typer.BadParameter(registry.unknown(name))
    return name


def engine_class(name: str) -> type[Engine]:
    """The class of an engine, by its name or as ``module:Class``.

    Raises:
        ConfigError: There is none of that name, or the class is no engine.
        DataError: The module cannot be imported.
    """
    found: type[Engine] = _named(ENGINES, Engine, name)
    return found


def dialect_class(name: str) -> type[NetlistWriter]:
    """The class of a dialect's writer, by its name or as ``module:Class``.

    Raises:
        ConfigError: The class is no writer.
        NetlistError: There is none of that name.
        DataError: The module cannot be imported.
    """
    found: type[NetlistWriter] = _named(DIALECTS, NetlistWriter, name)
    return found


def _named(registry: Registry[Any], kind: Any, name: str) -> Any:  # noqa: ANN401 - abstract classes
    found = import_object(name) if ":" in name else registry.get(name)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigError(f"{name} is not a subclass of {kind.__module__}.{kind.__name__}")
    return found
