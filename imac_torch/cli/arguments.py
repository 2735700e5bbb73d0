"""Arguments that many commands share, as one object each instead of the same options everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from imac_torch.cli import options as o

__all__ = [
    "CalibrationArguments",
    "DataArguments",
    "NetworkArguments",
    "ReferenceArguments",
    "expanded",
]


@dataclass(frozen=True)
class NetworkArguments:
    """Which network: MODEL and how it is converted."""

    model: o.ModelSource
    weights: o.WeightsOption = None
    original: o.OriginalOption = None
    config: o.ConfigOption = None
    changes: o.SetOption = None
    exclude: o.ExcludeOption = None
    include: o.IncludeOption = None
    seed: o.SeedOption = None
    trust: o.TrustOption = False


@dataclass(frozen=True)
class DataArguments:
    """Which samples, but for their number."""

    data: o.DataOption = None
    data_root: o.DataRootOption = None
    train_split: o.TrainSplitOption = False
    firstimage: o.FirstimageOption = None


@dataclass(frozen=True)
class CalibrationArguments:
    """Samples that the circuit is fitted to."""

    calibrate: o.CalibrateOption = None
    calibration_data: o.CalibrationDataOption = None
    calibration_rounds: o.CalibrationRoundsOption = None


@dataclass(frozen=True)
class ReferenceArguments:
    """What the circuit is compared with."""

    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="module:factory of the software model to compare with. Default: MODEL itself; of "
            "a saved network, which does not hold what it was converted from, the weights that "
            "its devices stand for.",
        ),
    ] = None
    reference_weights: Annotated[
        Path | None,
        typer.Option("--reference-weights", help="State dict of --reference, like --weights."),
    ] = None


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters of dataclass type are taken as options, one per field.

    The library reads a command's options from its signature. Here a parameter
    ``network: NetworkArguments`` stands for the fields of that class.
    """
    # Not get_type_hints, which in Python 3.10 hides annotations with a default of None in Optional.
    hints = inspect.get_annotations(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(
                parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY)
            )
            continue
        groups[name] = kind
        annotations = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                item.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if item.default is MISSING else item.default,
                annotation=annotations[item.name],
            )
            for item in fields(kind)
        ]

    @wraps(command)
    def run(**values: Any) -> None:  # noqa: ANN401 - whatever the options give
        for name, kind in groups.items():
            values[name] = kind(**{item.name: values.pop(item.name) for item in fields(kind)})
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in parameters}
    del run.__wrapped__  # type: ignore[attr-defined]
    return run
