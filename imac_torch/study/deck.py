"""Compile a network into netlists, run them, get tensors back."""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from imac_torch.base.files import read_tensors, write_tensors, write_text
from imac_torch.base.progress import progress_bar
from imac_torch.base.version import VERSION
from imac_torch.config import Config
from imac_torch.config.kinds import DIALECTS, ENGINES
from imac_torch.conversion.storage import load, save
from imac_torch.datasets.batches import labelled_batches
from imac_torch.errors import AmplifierWarning, DataError, NetlistError, NeuronWarning
from imac_torch.model.network import Chain, IMACNetwork
from imac_torch.model.segment import Segment
from imac_torch.netlist import (
    NetlistRun,
    NetlistSettings,
    NetlistWriter,
    read_netlists,
    write_netlists,
)
from imac_torch.netlist.rundir import MANIFEST, read_run_directory
from imac_torch.netlist.writer import CIRCUIT_FOLDER
from imac_torch.numeric.modes import lasting
from imac_torch.simulator import (
    SimulationOutcome,
    Simulator,
    SpiceSolution,
    check,
    read_results,
    solve_netlists,
)
from imac_torch.study.model_evaluation import argument_batches

CIRCUIT: Final = "circuit.safetensors"
"""In a run directory: the circuit that the netlists describe, as a network."""
UNLABELLED: Final = -1
"""Label of a segment's vector whose sample has another target than one class."""
SAMPLES: Final = "samples.safetensors"
"""In a run directory: ``inputs`` (B, N) V, ``labels`` (B,) and, of a segment, ``vectors``."""
README: Final = "README.md"
VECTORS: Final = 16
"""Input vectors of a segment's netlists, if nothing else is asked for."""


@dataclass(frozen=True)
class Deck:
    """Netlists of a network for a set of samples, on disk.

    Attributes:
        run_files: The netlists and how to run them.
        labels: (B,) int64, in the loader's order; of a segment's netlists those of the samples that
            its input vectors are of (-1: their target is no class).
        inputs: (B, N) V, at the input lines.
        vectors: (B, N) software units: the input vectors of a segment's netlists, for
            ``network.segments[segment].solve``; None: of a whole network.
    """

    run_files: NetlistRun = field(repr=False)
    labels: Tensor = field(repr=False)
    inputs: Tensor = field(repr=False)
    vectors: Tensor | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Where it is and what it holds."""
        run = self.run_files
        return (
            f"{run.dialect} netlists of {run.images} samples in {len(run.batches)} batches, "
            f"{run.settings.analysis} analysis: {run.directory}"
        )

    @classmethod
    def read(cls, directory: str | Path, *, trust: bool = False) -> Deck:
        """A deck that :func:`compile` has written, here or on another machine.

        :meth:`results` reads what somebody's runs of its netlists have left beside them.

        Args:
            directory: The run directory.
            trust: Use the files that the circuit in it names, see :func:`compile`.

        Raises:
            NetlistError: It is no run directory, or was not written to the end.
            DataError: The circuit or the samples in it are missing, damaged or of other netlists.
        """
        directory = Path(directory)
        content, digests = read_run_directory(directory)
        try:
            found, metadata = read_tensors(directory / SAMPLES)
            inputs, labels = found["inputs"], found["labels"]
        except (KeyError, OSError, ValueError) as error:
            raise DataError(f"{directory / SAMPLES} cannot be read: {error}") from None
        if metadata.get("netlists") != _digest(digests):
            raise DataError(f"{directory / SAMPLES} is not of the netlists in {directory}")
        circuit = load(directory / CIRCUIT, files=trust).circuit()
        kind = DIALECTS.get(str(content.get("dialect")))
        run = read_netlists(circuit, inputs, directory, kind(trust=trust))
        return cls(run, labels, inputs, found.get("vectors"))

    def results(self, simulator: Simulator | None = None) -> SpiceSolution:
        """What somebody's runs of the netlists have left in their directories; nothing is run.

        Args:
            simulator: A driver for the dialect, which need not be installed; None: the program of
                that name.

        Returns:
            The solution. Netlists without complete results have failed: their errors say what is
            missing, and how to run them.

        Raises:
            NetlistError: A netlist is not what was written any more, or no driver reads it.
        """
        return read_results(self.run_files, simulator or _simulator_of(self.run_files))

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
            simulator: A driver for the dialect; None: the program of that name.
            workers: Simultaneous runs.
            resume: Read netlists that were completed earlier back instead of running them.
            progress: Show a progress bar.

        Returns:
            Outputs, powers, supply energies, in the loader's order.

        Raises:
            SimulatorNotFoundError: The simulator is not installed.
            NetlistError: The driver is for another dialect, or there is none for it.
        """
        if simulator is None:
            simulator = _simulator_of(self.run_files)
        batches = len(self.run_files.batches)
        with progress_bar(simulator.name, batches, "netlists", shown=progress) as advance:

            def report(done: int, total: int, outcome: SimulationOutcome) -> None:
                advance(1)

            return solve_netlists(
                self.run_files, simulator, workers=workers, resume=resume, progress=report
            )


def _simulator_of(run: NetlistRun) -> Simulator:
    """The simulator that has the name of a run's dialect."""
    driver = ENGINES.get(run.dialect) if run.dialect in ENGINES else None
    if driver is None or not issubclass(driver, Simulator):
        raise NetlistError(
            f"no simulator here runs netlists of {run.dialect}: run those in {run.directory} with "
            "one of yours, or pass a driver for it (a subclass of imac_torch.simulator.Simulator)"
        )
    found: Simulator = driver()
    return found


def compile(
    network: IMACNetwork,
    loader: Iterable[object],
    directory: str | Path,
    *,
    dialect: str | type[NetlistWriter] = "ngspice",
    settings: NetlistSettings | None = None,
    first: int = 0,
    limit: int | None = None,
    amplifier: str | Path | None = None,
    trust: bool = False,
    segment: str | None = None,
    vectors: int = VECTORS,
) -> Deck:
    """Write netlists and PWL sources for the samples of a loader.

    Args:
        network: A converted model; its present conductances are written.
        loader: Yields pairs (inputs, labels); with ``segment`` pairs as
            :func:`imac_torch.evaluate` takes them, with any targets.
        directory: Run directory: new, empty, or of an earlier run of ours.
        dialect: ``ngspice``, ``hspice``, or one of yours
            (:class:`imac_torch.netlist.NetlistWriter`).
        settings: Analysis, samples per netlist, tolerances; None: a transient, ten per netlist.
        first: Samples to skip (IMAC-Sim: firstimage).
        limit: Samples to take, None for all (IMAC-Sim: testnum).
        amplifier: File with a sub-circuit that replaces the whole read-out's, resistors included,
            in netlists only; ports ``plus minus out``, or these and ``vdd vss``. (An operational
            amplifier of yours within them is ``amplifier.table`` and ``amplifier.subcircuit``.)
        trust: Take sub-circuit files (``amplifier``, ``neuron.subcircuit``, the library of
            ``neuron.model_directory``) and all that they include as they are. A simulator obeys
            what is in them, programs and files included; without it, they may hold sub-circuits,
            models and parameters only.
        segment: Path of the circuit to write, of a model with several
            (:attr:`IMACNetwork.segments`), with the input vectors that reach it in a run on the
            samples; None: the network's only one, with the samples themselves.
        vectors: With ``segment``: how many of those at most, spread over the run.

    Returns:
        The deck; ``deck.run()`` runs it.

    Raises:
        DataError: The loader gives no labels (without ``segment``), or too few samples; or nothing
            reaches the segment.
        CircuitError: There is no such segment.
        NetlistError: Something cannot be written, or the directory is somebody else's.
    """
    if amplifier is not None:
        warnings.warn(
            f"netlists have the sub-circuit {amplifier} for every read-out, the native engine the "
            "configured one, and nothing compares the two: see how far they are apart "
            "(imac_torch.verify_nodes(…, amplifier=…)), or have an operational amplifier measured "
            "(imac_torch.tabulate_amplifier, amplifier.table), which both then solve",
            AmplifierWarning,
            stacklevel=2,
        )
    part: IMACNetwork | Segment = network
    rows = None
    if segment is None:
        inputs, labels = collect(network, loader, first=first, limit=limit)
    else:
        rows, labels = _reaching(network, loader, segment, vectors, first=first, limit=limit)
        part = network.segments[segment]
        inputs = part.voltages(rows)
    _warn_of_subcircuits(part)
    deck = write_deck(
        part, inputs, labels, Path(directory), dialect=dialect, settings=settings,
        amplifier=None if amplifier is None else Path(amplifier), trust=trust,
    )  # fmt: skip
    circuit = part if isinstance(part, Segment) else network.segment
    return _described(replace(deck, vectors=rows), circuit, network.config)


def _described(deck: Deck, segment: Segment, config: Config) -> Deck:
    """Put beside the netlists what reading their results back takes, and what to do with them."""
    directory = deck.directory
    alone = IMACNetwork(Chain(nn.Sequential(), segment, nn.Sequential()), config)
    save(alone, directory / CIRCUIT, overwrite=True)
    tensors = {"inputs": deck.inputs, "labels": deck.labels}
    if deck.vectors is not None:
        tensors["vectors"] = deck.vectors
    write_tensors(directory / SAMPLES, tensors, {"netlists": _digest(deck.run_files.digests)})
    write_text(directory / README, _readme(deck))
    return deck


def _digest(digests: Mapping[str, str]) -> str:
    """What identifies the netlists of a run."""
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


UNTRIED: Final = """

HSPICE was not available to the authors of imac_torch. Should it refuse measures of latency (`when
par(…)=par(…)`), ask for netlists of `NetlistSettings(measure_latency=False, waveforms=True)`:
latencies are then taken from waveforms."""
"""What whoever runs HSPICE by hand should know: our driver would say so."""


def _needs(run: NetlistRun) -> str:
    """What of the simulator not every installation has."""
    files = (run.directory / CIRCUIT_FOLDER).glob("*.sp")
    if not any("level=72" in file.read_text() for file in files):
        return ""
    return (
        "The transistors' cards are of HSPICE's level 72 (BSIM-CMG), which ngspice does not have\n"
        "and other simulators number differently.\n\n"
    )


def _readme(deck: Deck) -> str:
    run = deck.run_files
    job = run.batches[0].job
    driver = ENGINES.get(run.dialect) if run.dialect in ENGINES else None
    if driver is not None and issubclass(driver, Simulator):
        simulator: Simulator = driver()
        needed = simulator.results(job)
        how = (
            f"    for d in batch_*; do (cd \"$d\" && {simulator.command(job)}); done\n\n"
            "Every netlist is run in its own directory, and its results stay there. Of what it\n"
            f"leaves, {', '.join(needed)} are read back."
            + UNTRIED * ("when par(" in job.netlist.read_text())
        )
    else:
        how = "Run every netlist in its own directory with your simulator; results stay there."
    first, last = run.circuit.layers[0], run.circuit.layers[-1]
    return f"""# Netlists for {run.dialect}

{_counted(run.images, "input vector")} in {_counted(len(run.batches), "netlist")} \
(`batch_*/{job.netlist.name}`), {run.settings.analysis} analysis, written by imac_torch {VERSION}.

## Run

{how}

{_needs(run)}Netlists include the files of `circuit/`, which stay where they are; change nothing in
either, their digests are in `{MANIFEST}`.

## Read back

    imac-torch read path/to/this/directory

or, in Python, `imac_torch.Deck.read(directory).results()`; both also take this directory back after
it was copied to a cluster. Part of the netlists is enough, the others are listed as missing.
`{CIRCUIT}` (the circuit) and `{SAMPLES}` (input voltages and labels)
are for that.

## Names

| name | what it is |
|---|---|
| `x1` to `x{len(first.inputs)}` | inputs, V |
| `y1` to `y{len(last.outputs)}` | outputs, V |
| `..._k` | of the k-th vector of its netlist, from 0: `y1_0` is output 1 at the end of its period |
| `p_...` | mean power, W |
| `e_...` | energy, J |
| `s_...` | power at the end of the period, W |
| `..._inputs` | of all inputs |
| `..._supply`, `..._neurons` | of vdd, the neurons' included; of the neurons |
"""


@lasting()
def _reaching(
    network: IMACNetwork,
    loader: Iterable[object],
    segment: str,
    vectors: int,
    *,
    first: int,
    limit: int | None,
) -> tuple[Tensor, Tensor]:
    """(R, N) input vectors of a segment, and (R,) labels of the samples that they are of.

    A model may have other targets than one class per sample, or several inputs: netlists need
    neither. The label is then :data:`UNLABELLED`.
    """
    if vectors < 1:
        raise DataError(f"vectors = {vectors} must be at least 1")
    rows: list[Tensor] = []
    labels: list[Tensor] = []
    for arguments, targets, count in argument_batches(loader, first=first, limit=limit):
        classes = torch.full((count,), UNLABELLED, dtype=torch.int64, device="cpu")
        if isinstance(targets, Tensor) and targets.shape == (count,) and not targets.is_complex():
            whole = targets.detach().cpu().long()
            classes = whole if bool((whole == targets.cpu()).all()) else classes
        positional, named = tree_map_only(Tensor, lambda x: x.to(network.device), arguments)
        for x in network.inputs_of(segment, *positional, **named):
            found = network.segments[segment].positions.vectors(x)
            rows.append(found.detach())
            labels.append(classes.repeat_interleave(max(1, len(found) // count))[: len(found)])
    if not rows:
        raise DataError(f"no sample reaches the circuit {segment}")
    together, of = torch.cat(rows), torch.cat(labels)
    step = max(1, -(-len(together) // vectors))
    return together[::step], of[::step]


def _warn_of_subcircuits(network: IMACNetwork | Segment) -> None:
    """A table was characterised from its sub-circuit; any other kind was not compared with it."""
    for layer in network.analog_layers():
        spec = layer.neuron_spec()
        if spec.options.subcircuit is not None and not spec.model.characterised:
            warnings.warn(
                f"{layer.name}: netlists have the neuron of {spec.options.subcircuit}, the native "
                f"engine a built-in one of kind {spec.kind!r}, and nothing compares the two; "
                "measure the sub-circuit (imac_torch.tabulate_neuron, neuron.kind='table'), or "
                "verify that they agree (imac_torch.verify_nodes)",
                NeuronWarning,
                stacklevel=3,
            )


def write_deck(
    network: IMACNetwork | Segment,
    inputs: Tensor,
    labels: Tensor,
    directory: Path,
    *,
    dialect: str | type[NetlistWriter],
    settings: NetlistSettings | None = None,
    amplifier: Path | None = None,
    trust: bool = False,
    shared: bool = False,
) -> Deck:
    """:func:`compile` for input voltages (B, N) at hand.

    ``shared``: the directory is for many decks; each gets one of its own in it, named by its
    contents.
    """
    kind = DIALECTS.get(dialect) if isinstance(dialect, str) else dialect
    writer, settings = kind(amplifier=amplifier, trust=trust), settings or NetlistSettings()
    run = write_netlists(network.circuit(), inputs, directory, writer, settings, shared=shared)
    return Deck(run, labels, inputs.detach().cpu().double())


def simulate_first(
    network: IMACNetwork,
    loader: Iterable[object],
    samples: int,
    simulator: Simulator,
    settings: NetlistSettings,
    *,
    directory: str | Path | None = None,
    trust: bool = False,
    amplifier: str | Path | None = None,
) -> tuple[Tensor, SpiceSolution]:
    """Input voltages (B, N) of a loader's first samples, and what a simulator makes of them.

    Without a ``directory`` the netlists go to a temporary one.

    Raises:
        SimulatorError: It failed on a sample.
    """
    inputs, labels = collect(network, loader, limit=samples)
    with tempfile.TemporaryDirectory(prefix="imac_torch_") as temporary:
        target = Path(temporary) / "verify" if directory is None else Path(directory)
        deck = write_deck(
            network, inputs, labels, target, dialect=simulator.dialect, settings=settings,
            amplifier=None if amplifier is None else Path(amplifier), trust=trust,
        )  # fmt: skip
        return inputs, check(solve_netlists(deck.run_files, simulator))


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
