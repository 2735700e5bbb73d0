"""From the arguments of a command to a network, its software model and its data.

What is quick and often mistyped is looked at first: names of data, ranges of samples; what takes
time, the conversion and the elimination of crossbars, comes last.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn
from torch.utils.data import Dataset

from imac_torch.base.files import check_place, exclusive
from imac_torch.cli.arguments import (
    CalibrationArguments,
    DataArguments,
    NetworkArguments,
    ReferenceArguments,
)
from imac_torch.cli.options import build_config
from imac_torch.conversion.calibration import ROUNDS
from imac_torch.conversion.convert import convert
from imac_torch.conversion.selection import named_layers
from imac_torch.datasets.batches import first_samples
from imac_torch.datasets.named import DATASETS
from imac_torch.errors import DataError
from imac_torch.model.network import IMACNetwork
from imac_torch.study.sources import Loader, Source, open_data, open_model

__all__ = [
    "NATIVE_BATCH",
    "Opened",
    "Samples",
    "called",
    "check_output",
    "choose",
    "claimed",
    "fitting_samples",
    "open_network",
    "open_run",
]

NATIVE_BATCH = 1000
"""Samples per solve of the native engine where nothing is said."""


def called(name: str) -> str:
    """A model or data set as texts call it: a directory by its own name, also where it is ``.``."""
    path = Path(name).expanduser()
    if not path.is_dir():
        return name
    return path.resolve().name or str(path.resolve())


@dataclass(frozen=True)
class Opened:
    """A network ready to run.

    Attributes:
        source: The model.
        network: Converted.
        seed: Of its devices' spread, or None.
        software: The model to compare with.
        reference: What that is, in words.
    """

    source: Source
    network: IMACNetwork
    seed: int | None
    software: nn.Module
    reference: str


@dataclass(frozen=True)
class Samples:
    """Labelled samples.

    Attributes:
        loader: In batches.
        count: How many.
    """

    loader: Loader
    count: int


def open_network(
    arguments: NetworkArguments,
    calibration: CalibrationArguments | None = None,
    *,
    data_root: Path | None = None,
    progress: bool = False,
) -> Opened:
    """Open a model and convert it, unless it is converted already.

    Args:
        arguments: Which network.
        calibration: Samples that it is fitted to.
        data_root: Where named data sets lie.
        progress: Show calibration's progress bar.

    Raises:
        DataError: Options do not go together, or with a network that is converted already.
    """
    source = _open(arguments)
    samples = _samples(calibration, source, DataArguments(data_root=data_root))
    if samples is None and data_root is not None:
        raise DataError("--data-root is where --calibration-data lie: add --calibrate N")
    rounds = _rounds(calibration)
    return _convert(arguments, source, ReferenceArguments(), samples, rounds, progress=progress)


def open_run(
    arguments: NetworkArguments,
    data: DataArguments,
    *,
    count: int | None,
    batch_size: int | None,
    reference: ReferenceArguments | None = None,
    calibration: CalibrationArguments | None = None,
    progress: bool = False,
) -> tuple[Opened, Samples]:
    """A network and samples for it.

    Args:
        arguments: Which network.
        data: Which data.
        count: Samples; None: as many as the source suggests, or all.
        batch_size: Samples per batch; None: :data:`NATIVE_BATCH`.
        reference: What to compare with.
        calibration: Samples that the circuit is fitted to.
        progress: Show calibration's progress bar.

    Raises:
        DataError: There are no data, the samples asked for are not there, or options do not go
            together.
    """
    # A model that brings data is opened for them; for all others the data have a name.
    named = None if data.data is None else _dataset(data, None)
    source = _open(arguments)
    dataset = _dataset(data, source) if named is None else named
    samples = choose(
        dataset,
        source,
        own=data.data is None,
        first=data.firstimage,
        count=count,
        batch_size=batch_size,
    )
    opened = _convert(
        arguments,
        source,
        reference or ReferenceArguments(),
        _samples(calibration, source, data),
        _rounds(calibration),
        progress=progress,
    )
    return opened, samples


def _samples(
    calibration: CalibrationArguments | None, source: Source, data: DataArguments
) -> Tensor | None:
    """The samples of ``--calibrate``, or None."""
    if calibration is None or calibration.calibrate is None:
        if calibration is not None and calibration.calibration_data is not None:
            raise DataError("--calibration-data says which samples: add how many, --calibrate N")
        if calibration is not None and calibration.calibration_rounds is not None:
            raise DataError("--calibration-rounds is about --calibrate: add that")
        return None
    if source.network is not None:
        raise DataError(
            "a saved network is converted already: --calibrate goes with the original model, for "
            "example when it is converted"
        )
    return fitting_samples(
        calibration.calibrate,
        source,
        named=calibration.calibration_data,
        tested=data.data,
        root=data.data_root,
        option="--calibration-data",
    )


def _rounds(calibration: CalibrationArguments | None) -> int:
    given = None if calibration is None else calibration.calibration_rounds
    return ROUNDS if given is None else given


def fitting_samples(
    count: int,
    source: Source,
    *,
    named: str | None,
    tested: str | None,
    root: Path | None,
    option: str,
) -> Tensor:
    """The first samples of a data set, in the form that a model takes, to fit a circuit to.

    Args:
        count: How many.
        source: The model.
        named: The data set; None: the training split of ``tested``.
        tested: What the circuit is tested on.
        root: Where named data sets lie.
        option: Where ``named`` is said, for errors.

    Raises:
        DataError: They are not there, or would be those that are tested.
    """
    if named is None and tested not in DATASETS:
        why = "" if tested is None else f", {called(tested)} has no training split"
        raise DataError(
            f"nothing says which samples to calibrate with{why}: name a data set with {option}, "
            f"one of {', '.join(DATASETS)}, a file (.npz, .csv), a directory of IMAC-Sim, or "
            "module:factory"
        )
    name = tested if named is None else named
    dataset = open_data(name, source, root=root, train=True)
    size = len(dataset)  # type: ignore[arg-type]
    if count > size:
        raise DataError(f"{count} samples to calibrate with were asked for, {name} has {size}")
    loader = Loader.of(dataset, source.software, NATIVE_BATCH).samples(0, count)
    return first_samples(loader)[0]


def choose(
    dataset: Dataset[Any],
    source: Source,
    *,
    own: bool,
    first: int | None,
    count: int | None,
    batch_size: int | None = None,
) -> Samples:
    """A range of samples, in the form that a model takes.

    Args:
        dataset: All samples.
        source: The model.
        own: Whether the data came with the model, whose suggestions are about them.
        first: The first sample; None: as suggested, or 0.
        count: Samples; None: as suggested, or all that follow.
        batch_size: Samples per batch; None: :data:`NATIVE_BATCH`.

    Raises:
        DataError: They are not there.
    """
    start = first if first is not None else (source.firstimage if own else 0)
    wanted = count if count is not None else (source.testnum if own else None)
    size = len(dataset)  # type: ignore[arg-type]
    wanted = size - start if wanted is None else wanted
    if start < 0 or wanted < 1 or start + wanted > size:
        raise DataError(
            f"samples {start} to {start + wanted - 1} were asked for (firstimage, testnum); "
            f"the data set has 0 to {size - 1}"
        )
    loader = Loader.of(dataset, source.software, batch_size or NATIVE_BATCH)
    return Samples(loader.samples(start, wanted), wanted)


def check_output(path: Path | None, *, directory: bool = False, new: bool = False) -> None:
    """Before any work: the results will have a place, with ``new`` one that nothing has yet.

    Raises:
        DataError: They will not.
    """
    if path is None:
        return
    try:
        check_place(path, directory=directory)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be written: {reason}") from None
    if new and path.exists():
        raise DataError(f"{path} exists; choose another name or remove it first")


@contextmanager
def claimed(directory: Path | None) -> Iterator[None]:
    """Before any work: the results will have a place, and nobody else's go there meanwhile.

    Raises:
        DataError: They will not, or another run's do.
    """
    check_output(directory, directory=True)
    with ExitStack() as stack:
        if directory is not None:
            try:
                stack.enter_context(exclusive(directory, results=True))
            except OSError as error:
                raise DataError(f"{directory} is {error.strerror or error}") from None
        yield


class _Told(logging.Handler):
    """What the package has to say, on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(self.format(record), err=True)


def _tell(*, shown: bool) -> None:
    """Show how long work will take."""
    logger = logging.getLogger("imac_torch")
    logger.setLevel(logging.INFO if shown else logging.WARNING)
    if not any(isinstance(handler, _Told) for handler in logger.handlers):
        logger.addHandler(_Told())


def _open(arguments: NetworkArguments) -> Source:
    return open_model(
        arguments.model,
        weights=arguments.weights,
        original=arguments.original,
        trust=arguments.trust,
    )


def _dataset(data: DataArguments, source: Source | None) -> Dataset[Any]:
    return open_data(data.data, source, root=data.data_root, train=data.train_split)


def _convert(
    arguments: NetworkArguments,
    source: Source,
    reference: ReferenceArguments,
    samples: Tensor | None,
    rounds: int,
    *,
    progress: bool,
) -> Opened:
    _tell(shown=progress)
    software, words = _reference(arguments, source, reference)
    if source.network is not None:
        given = (arguments.config, arguments.seed, arguments.changes or None,
                 arguments.exclude or None, arguments.include or None)  # fmt: skip
        if any(item is not None for item in given):
            raise DataError(
                f"{arguments.model} is converted already, its configuration and devices are in it: "
                "--config, --set, --seed, --exclude and --include go with the original model"
            )
        return Opened(source, source.network, None, software, words)
    built = build_config(arguments.config, arguments.changes, default=source.config)
    generator = None
    if arguments.seed is not None:
        generator = torch.Generator().manual_seed(arguments.seed)
    network = convert(
        source.software,
        built,
        exclude=named_layers(source.software, arguments.exclude or ()),
        include=named_layers(source.software, arguments.include) if arguments.include else None,
        generator=generator,
        samples=samples,
        rounds=rounds,
        progress=progress,
    )
    return Opened(source, network.eval(), arguments.seed, software, words)


def _reference(
    arguments: NetworkArguments, source: Source, reference: ReferenceArguments
) -> tuple[nn.Module, str]:
    """The software model, in the type of the source's, and what it is."""
    if reference.reference is None:
        if reference.reference_weights is not None:
            raise DataError("--reference-weights are the weights of --reference: name that too")
        if source.network is None:
            return source.software, called(arguments.model)
        return source.software, (
            "the weights that the devices stand for (a saved network does not hold the model it "
            "was converted from; --reference names it)"
        )
    if Path(reference.reference).suffix == ".safetensors":
        raise DataError(
            f"--reference {reference.reference}: a software model is needed, module:factory"
        )
    found = open_model(reference.reference, weights=reference.reference_weights).software
    dtype = next((p.dtype for p in source.software.parameters()), torch.float64)
    return found.to(dtype), reference.reference
