"""A run: the circuit's files and one netlist per batch of images, in a run directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.circuit.topology import Circuit
from imac_torch.errors import NetlistError
from imac_torch.netlist.job import SimulationJob
from imac_torch.netlist.rundir import read_run_directory, write_run_directory
from imac_torch.netlist.settings import NetlistSettings
from imac_torch.netlist.writer import BatchDeck, NetlistWriter


@dataclass(frozen=True)
class NetlistBatch:
    """One netlist of a run.

    Attributes:
        deck: What is in it.
        first: Index of its first image.
        job: How to run it.
    """

    deck: BatchDeck
    first: int
    job: SimulationJob


@dataclass(frozen=True)
class NetlistRun:
    """Netlists on disk, ready to be run.

    Attributes:
        directory: The run directory.
        dialect: ``ngspice`` or ``hspice``.
        settings: Analysis and tolerances.
        circuit: What the netlists describe.
        images: Number of images, B.
        batches: One netlist per batch of images, in their order.
        digests: Of every file, by name; what is run must be what was written.
        shared: The directory's name tells its contents, so that whoever finds it in use wants the
            same results and waits for them.
    """

    directory: Path
    dialect: str
    settings: NetlistSettings
    circuit: Circuit
    images: int
    batches: tuple[NetlistBatch, ...]
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)
    shared: bool = False


def write_netlists(
    circuit: Circuit,
    inputs: Tensor,
    directory: Path,
    writer: NetlistWriter,
    settings: NetlistSettings | None = None,
    *,
    shared: bool = False,
) -> NetlistRun:
    """Write the netlists of a circuit for a sequence of input vectors.

    Args:
        circuit: The circuit.
        inputs: (B, N) V, at the input lines.
        directory: Run directory: new, empty, or of an earlier run of ours.
        writer: The dialect.
        settings: Analysis and tolerances; None: a transient with ten images per netlist.
        shared: ``directory`` is for many runs: write into one below it, ``samples_`` and a digest
            of the netlists. The same netlists come to the same place, others never do.

    Raises:
        NetlistError: The inputs do not fit the circuit, something cannot be written, or the
            directory holds files that are not ours.
    """
    settings = settings or NetlistSettings()
    values = inputs.detach().cpu().to(torch.float64).numpy()
    expected = len(circuit.layers[0].inputs)
    if values.ndim != 2 or values.shape[1] != expected or values.shape[0] < 1:
        raise NetlistError(
            f"inputs must be (B, {expected}) voltages for this circuit with B >= 1, got shape "
            f"{tuple(inputs.shape)}"
        )
    if not np.isfinite(values).all():
        image, line = np.argwhere(~np.isfinite(values))[0].tolist()
        raise NetlistError(f"inputs[{image}, {line}] is {values[image, line]} V; inputs are finite")
    circuit_files = writer.circuit_files(circuit)
    decks = _decks(circuit, values, writer, settings)
    files = circuit_files | {
        name: writer.deck_text(deck, circuit_files) for name, (_, deck) in decks.items()
    }
    description = {
        "dialect": writer.name,
        "images": len(values),
        "settings": asdict(settings),
    }
    directory = Path(directory).absolute()
    if shared:
        content = json.dumps([description, sorted(files.items())]).encode()
        directory /= f"samples_{hashlib.sha256(content).hexdigest()[:16]}"
    digests = write_run_directory(directory, files, description, wait=shared)
    return NetlistRun(
        directory, writer.name, settings, circuit, len(values),
        _batches(decks, directory, writer), digests, shared,
    )  # fmt: skip


def read_netlists(
    circuit: Circuit, inputs: Tensor, directory: Path, writer: NetlistWriter
) -> NetlistRun:
    """Netlists that :func:`write_netlists` has written, not written again.

    Args:
        circuit: What they describe.
        inputs: (B, N) V, of all of them.
        directory: The run directory.
        writer: The dialect.

    Raises:
        NetlistError: The directory is none of ours, or its netlists are others.
    """
    directory = directory.absolute()
    content, digests = read_run_directory(directory)
    try:
        settings = NetlistSettings(**content["settings"])
        images = int(content["images"])
    except (KeyError, TypeError, ValueError) as error:
        raise NetlistError(f"the manifest of {directory} is damaged: {error}") from None
    decks = _decks(circuit, inputs.double().numpy(), writer, settings)
    if content.get("dialect") != writer.name or images != len(inputs) or not set(decks) <= set(
        digests
    ):
        raise NetlistError(f"the netlists in {directory} are not those of its samples")
    batches = _batches(decks, directory, writer)
    return NetlistRun(directory, writer.name, settings, circuit, images, batches, digests)


def _decks(
    circuit: Circuit, values: NDArray[np.float64], writer: NetlistWriter, settings: NetlistSettings
) -> dict[str, tuple[int, BatchDeck]]:
    """By name of the netlist: its first image, and what is in it."""
    found = {}
    for number, first in enumerate(range(0, len(values), settings.images_per_netlist)):
        part = values[first : first + settings.images_per_netlist]
        deck = writer.deck(circuit, part, settings, "batch")
        found[f"batch_{number:05d}/{deck.stem}{writer.suffix}"] = first, deck
    return found


def _batches(
    decks: Mapping[str, tuple[int, BatchDeck]], directory: Path, writer: NetlistWriter
) -> tuple[NetlistBatch, ...]:
    return tuple(
        NetlistBatch(
            deck,
            first,
            SimulationJob(
                directory / name,
                writer.measures(deck),
                writer.waveform_files(deck),
                writer.optional_measures(deck),
            ),
        )
        for name, (first, deck) in decks.items()
    )
