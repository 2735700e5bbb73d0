"""Compile a network into netlists, run them, get tensors back."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from imac_torch.base.progress import progress_bar
from imac_torch.datasets.batches import labelled_batches
from imac_torch.errors import NetlistError, NeuronWarning
from imac_torch.finfet import write_model_card
from imac_torch.model.network import IMACNetwork
from imac_torch.netlist import (
    HSpiceWriter,
    Inverter,
    NetlistRun,
    NetlistSettings,
    NetlistWriter,
    NgSpiceWriter,
    card_inverter,
    library_inverter,
    osdi_inverter,
    table_inverter,
    write_netlists,
)
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.finfet import transistors
from imac_torch.simulator import (
    HSpice,
    NgSpice,
    SimulationOutcome,
    Simulator,
    SpiceSolution,
    solve_netlists,
)
from imac_torch.study.userneuron import check_table

Dialect = Literal["ngspice", "hspice"]


@dataclass(frozen=True)
class Deck:
    """Netlists of a network for a set of samples, on disk.

    Attributes:
        run_files: The netlists and how to run them.
        labels: (B,) int64, in the loader's order.
    """

    run_files: NetlistRun = field(repr=False)
    labels: Tensor = field(repr=False)

    def __str__(self) -> str:
        """Where it is and what it holds."""
        run = self.run_files
        return (
            f"{run.dialect} netlists of {run.images} samples in {len(run.batches)} batches, "
            f"{run.settings.analysis} analysis: {run.directory}"
        )

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.run_files.directory

    def run(
        self,
        simulator: Simulator | None = None,
        *,
        workers: int = 1,
        resume: bool = True,
        progress: bool = True,
    ) -> SpiceSolution:
        """Run every netlist.

        A netlist that failed leaves NaN outputs for its samples and its error in
        ``.errors``; ``simulator.check(solution)`` raises the first.

        Args:
            simulator: A driver for the dialect; None: the program of that name on the path.
            workers: Simultaneous runs.
            resume: Read netlists that were completed earlier back instead of running them.
            progress: Show a progress bar.

        Returns:
            Outputs, powers, supply energies, in the loader's order.

        Raises:
            SimulatorNotFoundError: The simulator is not installed.
            NetlistError: The driver is for another dialect.
        """
        if simulator is None:
            simulator = HSpice() if self.run_files.dialect == "hspice" else NgSpice()
        batches = len(self.run_files.batches)
        with progress_bar(simulator.name, batches, "netlists", shown=progress) as advance:

            def report(done: int, total: int, outcome: SimulationOutcome) -> None:
                advance(1)

            return solve_netlists(
                self.run_files, simulator, workers=workers, resume=resume, progress=report
            )


def compile(
    network: IMACNetwork,
    loader: Iterable[object],
    directory: str | Path,
    *,
    dialect: Dialect = "ngspice",
    settings: NetlistSettings | None = None,
    first: int = 0,
    limit: int | None = None,
    amplifier: str | Path | None = None,
    trust: bool = False,
) -> Deck:
    """Write netlists and PWL sources for the samples of a loader.

    Args:
        network: A converted model; its present conductances are written.
        loader: Yields pairs (inputs, labels).
        directory: Run directory: new, empty, or of an earlier run of ours.
        dialect: ``ngspice`` or ``hspice``.
        settings: Analysis, samples per netlist, tolerances; None: a transient, ten per netlist.
        first: Samples to skip (IMAC-Sim: firstimage).
        limit: Samples to take, None for all (IMAC-Sim: testnum).
        amplifier: File with a sub-circuit that replaces the amplifier's; same ports.
        trust: Take sub-circuit files (``amplifier``, ``neuron.subcircuit``, the library of
            ``neuron.model_directory``) and all that they include as they are. A simulator obeys
            what is in them, programs and files included; without it, they may hold sub-circuits,
            models and parameters only.

    Returns:
        The deck; ``deck.run()`` runs it.

    Raises:
        DataError: The loader gives no labels, or too few samples.
        NetlistError: Something cannot be written, or the directory is somebody else's.
    """
    inputs, labels = collect(network, loader, first=first, limit=limit)
    _warn_of_subcircuits(network)
    return write_deck(
        network,
        inputs,
        labels,
        Path(directory),
        dialect=dialect,
        settings=settings,
        amplifier=None if amplifier is None else Path(amplifier),
        trust=trust,
    )


def _warn_of_subcircuits(network: IMACNetwork) -> None:
    """A table was characterised from its sub-circuit; any other kind was not compared with it."""
    for layer in network.analog_layers():
        spec = layer.neuron_spec()
        if spec.options.subcircuit is not None and not spec.model.characterised:
            warnings.warn(
                f"{layer.name}: netlists have the neuron of {spec.options.subcircuit}, the native "
                f"engine a built-in one of kind {spec.kind!r}, and nothing compares the two; "
                "characterise the sub-circuit (imac_torch.characterize, neuron.kind='table'), or "
                "verify that they agree (imac_torch.verify)",
                NeuronWarning,
                stacklevel=3,
            )


def write_deck(
    network: IMACNetwork,
    inputs: Tensor,
    labels: Tensor,
    directory: Path,
    *,
    dialect: Dialect,
    settings: NetlistSettings | None = None,
    amplifier: Path | None = None,
    trust: bool = False,
    shared: bool = False,
) -> Deck:
    """:func:`compile` for input voltages (B, N) at hand.

    ``shared``: the directory is for many decks; each gets one of its own in it, named by its
    contents.
    """
    circuit = network.circuit()
    settings = settings or NetlistSettings()
    specs = [layer.neurons.spec for layer in circuit.layers]
    writer = netlist_writer(specs, dialect, settings, amplifier=amplifier, trust=trust)
    run = write_netlists(circuit, inputs, directory, writer, settings, shared=shared)
    return Deck(run, labels)


def collect(
    network: IMACNetwork, loader: Iterable[object], *, first: int = 0, limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Input voltages (B, N) and labels (B,) of a range of a loader's samples.

    Raises:
        DataError: The range is not there, or the loader gives no labels, or labels of classes
            that the network does not have.
    """
    voltages, classes = [], []
    with lasting():
        for batch, labels in labelled_batches(
            loader, classes=network.classes, first=first, limit=limit
        ):
            voltages.append(network.voltages(batch.to(network.device)).cpu())
            classes.append(labels)
    return torch.cat(voltages), torch.cat(classes)


def netlist_writer(
    specs: list[NeuronSpec],
    dialect: Dialect,
    settings: NetlistSettings,
    *,
    amplifier: Path | None = None,
    trust: bool = False,
) -> NetlistWriter:
    """The writer of a dialect, with the transistors that the neurons need.

    Raises:
        NetlistError: The dialect is unknown, layers have different transistors, the table
            that stands for a FinFET in ngspice cannot do the analysis, or a sub-circuit is not
            the one that its table was characterised from.
    """
    if dialect not in ("ngspice", "hspice"):
        raise NetlistError(f"dialect must be 'ngspice' or 'hspice', got {dialect!r}")
    for spec in specs:
        if spec.model.characterised:
            check_table(spec, trust=trust)
    finfets = [spec for spec in specs if spec.has_inverter]
    inverter = None if not finfets else _inverter(finfets, dialect, settings, trust=trust)
    kind = HSpiceWriter if dialect == "hspice" else NgSpiceWriter
    return kind(amplifier=amplifier, inverter=inverter, trust=trust)


def _inverter(
    specs: list[NeuronSpec], dialect: Dialect, settings: NetlistSettings, *, trust: bool
) -> Inverter:
    first = specs[0]
    options = first.options
    # Resistances and level shifts may differ per layer, they are outside the inverter; so may
    # fins, except where one table stands for all inverters.
    kinds = {
        (
            spec.options.model_directory,
            spec.options.transistor_node,
            spec.options.flavour,
            spec.options.osdi if dialect == "ngspice" else None,
            spec.options.fins if dialect == "ngspice" and spec.options.osdi is None else None,
            spec.temperature,
            spec.vdd,
        )
        for spec in specs
    }
    if len(kinds) > 1:
        raise NetlistError("a netlist holds one kind of transistor; layers ask for several")
    if dialect == "hspice":
        directory = first.named_file("model_directory")
        if directory is not None and (Path(directory) / "models").is_file():
            return library_inverter(
                Path(directory), options.transistor_node, options.flavour, trust=trust
            )
        n, p = transistors(first)
        return card_inverter(
            write_model_card(n.card), write_model_card(p.card), float(n.card.parameters["l"])
        )
    osdi = first.named_file("osdi")
    if osdi is not None:
        n, p = transistors(first)
        return osdi_inverter(Path(osdi), n.card, p.card, first.temperature)
    if settings.analysis != "dc":
        raise NetlistError(
            "ngspice has no FinFET of HSPICE's level 72; it gets a table of ours, which has no "
            "charges and serves operating points: pass settings=NetlistSettings(analysis='dc'), "
            "your own sub-circuit in neuron.subcircuit, or a compiled BSIM-CMG in neuron.osdi"
        )
    return table_inverter(first.model.core(first).values, vdd=first.vdd, fins=options.fins)
