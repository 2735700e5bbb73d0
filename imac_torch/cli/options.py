"""Options that several commands share, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from imac_torch.config import Config
from imac_torch.config.assignment import apply_overrides, parse_assignment
from imac_torch.dc.native import Native
from imac_torch.errors import ConfigError, DataError
from imac_torch.netlist import NetlistSettings
from imac_torch.reports.area import AREA_MODELS
from imac_torch.simulator import HSpice, NgSpice
from imac_torch.study.engine import Engine, Spice

__all__ = [
    "Analysis",
    "EngineName",
    "ModelSource",
    "build_config",
    "build_engine",
    "require",
]


class EngineName(str, Enum):
    """Engines by name."""

    NATIVE = "native"
    NGSPICE = "ngspice"
    HSPICE = "hspice"


class Analysis(str, Enum):
    """What a simulator computes."""

    DC = "dc"
    TRANSIENT = "transient"


class Dialect(str, Enum):
    """Netlist dialects."""

    NGSPICE = "ngspice"
    HSPICE = "hspice"


ModelSource = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="network.safetensors, module:factory, or a directory of IMAC-Sim."
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option("--weights", help="State dict of a module:factory model (.safetensors)."),
]
DigitalOption = Annotated[
    str | None,
    typer.Option(
        "--digital",
        help="module:factory of the modules before the circuit, where a saved network asks for it.",
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
    typer.Option("--exclude", help="Path of a linear layer to keep in software; repeat at will."),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        help="Data set: a name (digits, MNIST, ...), a directory of IMAC-Sim, or module:factory. "
        "A directory of IMAC-Sim given as MODEL brings its own.",
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
    EngineName, typer.Option("--engine", "-e", help="What solves the circuit.")
]
AnalysisOption = Annotated[
    Analysis,
    typer.Option(
        help="Of simulators: exact operating points, or the transient over all inputs in turn."
    ),
]
WorkersOption = Annotated[int, typer.Option("--workers", "-j", min=1, help="Simultaneous runs.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.001, help="s. Limit of one simulator run.")
]
LicencesOption = Annotated[
    int | None, typer.Option("--licences", min=1, help="HSPICE licences to use at once.")
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
    """The name of an area model, before anything is computed.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in AREA_MODELS:
        raise ConfigError(f"no area model {name!r}; there are {', '.join(AREA_MODELS)}")
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


def build_engine(
    name: EngineName,
    *,
    analysis: Analysis = Analysis.DC,
    per_netlist: int | None = None,
    workers: int = 1,
    directory: Path | None = None,
    timeout: float = 3600.0,
    licences: int | None = None,
    trust: bool = False,
) -> Engine:
    """The engine of a command line.

    Raises:
        DataError: An option belongs to simulators, or to HSPICE, only.
    """
    if name is EngineName.NATIVE:
        if directory is not None or analysis is Analysis.TRANSIENT:
            raise DataError(
                "--run-directory and --analysis transient belong to simulators: add "
                "--engine ngspice or --engine hspice"
            )
        return Native()
    if licences is not None and name is not EngineName.HSPICE:
        raise DataError("--licences belongs to --engine hspice")
    settings = NetlistSettings(
        analysis="dc" if analysis is Analysis.DC else "transient",
        images_per_netlist=per_netlist or 10,
    )
    simulator: HSpice | NgSpice
    if name is EngineName.HSPICE:
        simulator = HSpice(timeout=timeout, licences=licences)
    else:
        simulator = NgSpice(timeout=timeout)
    return Spice(simulator, directory=directory, settings=settings, workers=workers, trust=trust)


def require(engine: Engine) -> None:
    """Look for the engine's simulator on this machine, before anything slow.

    Raises:
        SimulatorNotFoundError: It is not installed.
    """
    if isinstance(engine, Spice):
        engine.simulator.find()
