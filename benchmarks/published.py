"""Published HSPICE results, from the users' own clones of the repositories that hold them.

    git clone https://github.com/chekfung/IMAC-Sim references/IMAC-Sim
    git clone https://github.com/ACADLab/LIMCA references/LIMCA
    make reference REFERENCES=references

The first has runs of IMAC-Sim's 400-120-84-10 network on 10,000 images, as one circuit and row by
row, beside the network and its images; the second an archive of runs of the same network with other
devices, bit cells, nodes and arrays. What the circuits are: :mod:`golden`. Nothing here is copied
from them: these are readers, and every reader checks that labels are those of the images.
"""

from __future__ import annotations

import csv
import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from golden import ReferenceNetwork
from torch import Tensor

import imac_torch as it
from imac_torch.datasets.imac_sim_script import read_imac_sim_script
from imac_torch.errors import ConfigError, DataError

NEURON = it.Neuron(rlow=5e3, rhigh=15e3)
"""Of all runs with other devices. Their archive lacks the neuron's sub-circuit, and their scripts
do not rewrite it; these are the resistances (Ω) whose powers and voltages they have."""
SPIKE = 1.5
"""Images of one circuit differ by some per cent in power. In some runs with RRAM HSPICE's power
jumps from one image on, up to 1e33 W, and outputs move by millivolts with it: it has lost the
solution. Images above this many times the least power of their run are counted, not compared."""
_LIMIT = 64 << 20
_NUMBER = r"[-+.\deE]+"



@dataclass(frozen=True)
class Rows:
    """How circuit R was in one run.

    Attributes:
        neuron: ``logistic`` or ``finfet``.
        bits: Of the converters around it, None for none.
        average: Neurons saw the mean of their partitions, not the sum.
    """

    neuron: str = "finfet"
    bits: int | None = None
    average: bool = False


ROWS = {
    # The repository's log says of its first run that partitions in parallel gave their mean.
    "4_30_2025_full_run": Rows(average=True),
    "5_5_2025_full_run": Rows(),
    "5_6_2025_full_run": Rows(),
    "5_10_2025_full_run": Rows(),
    "5_11_2025_DIGITAL_NEURON": Rows("logistic"),
    "5_12_25_8_bit_quantization": Rows("logistic", bits=8),
}
"""Tables of circuit R in the clone, by name."""
BATCH = 10
"""Images per netlist of circuit R."""


@dataclass(frozen=True)
class Published:
    """One run.

    Attributes:
        name: For the table.
        first: Its first image.
        outputs: (B, 10) V.
        energy: (B,) J of the supply over the image's period, or None.
        power: (B,) W of all sources, average over the image's period, or None; NaN: not usable.
        config: Of circuit F; None for the published devices.
        rows: Circuit R's; None for circuit F (:mod:`golden`).
    """

    name: str
    first: int
    outputs: Tensor
    energy: Tensor | None = None
    power: Tensor | None = None
    config: it.Config | None = None
    rows: Rows | None = None


def imac_sim_clone(directory: Path) -> Path:
    """The clone in ``directory`` that holds runs, or ``directory`` itself.

    Raises:
        DataError: There is none.
    """
    for path in (directory, *sorted(p for p in directory.iterdir() if p.is_dir())):
        if (path / "data" / "W1.csv").is_file() and any(path.glob("inference_metrics*.csv")):
            return path
    raise DataError(
        f"{directory}: no clone of IMAC-Sim with inference_metrics_*.csv; "
        "git clone https://github.com/chekfung/IMAC-Sim"
    )


def limca_archive(directory: Path) -> Path | None:
    """The archive of LIMCA's clone in ``directory``; None if there is none."""
    return next(iter(sorted(directory.glob("**/imac_python_ds.tar*"))), None)


def network_of(clone: Path) -> ReferenceNetwork:
    """The network and images of a clone, by the package's own reader."""
    data = it.read_imac_sim(clone / "data").signed()
    return ReferenceNetwork(
        tuple(weight.double() for weight in data.weights),
        tuple(bias.double() for bias in data.biases),
        data.inputs.double(),
        data.labels,
    )


def read_metrics(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """One of IMAC-Sim's tables of results.

    Returns:
        Labels (B,), energies (B,) J, outputs (B, 10) V.

    Raises:
        DataError: Columns are missing, or an entry is no number.
    """
    wanted = ["golden_label", "energy", *(f"output{m}" for m in range(10))]
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path}: no column {', '.join(missing)}")
        rows = list(reader)
    try:
        table = torch.tensor(
            [[float(row[name]) for name in wanted] for row in rows], dtype=torch.float64
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    if not len(table):
        raise DataError(f"{path}: no rows")
    return table[:, 0].long(), table[:, 1], table[:, 2:]


def check_labels(found: Tensor, network: ReferenceNetwork, first: int, where: str) -> None:
    """Results belong to the images that they are compared with.

    Raises:
        DataError: Their labels are others.
    """
    ours = network.labels[first : first + len(found)]
    if len(ours) < len(found) or not bool((ours == found).all()):
        raise DataError(f"{where}: its labels are not those of images {first} and following")


def imac_sim_runs(clone: Path, network: ReferenceNetwork) -> Iterator[Published]:
    """Every table of a clone that is a run of circuit F or R."""
    for path in sorted(clone.glob("inference_metrics*.csv")):
        labels, energy, outputs = read_metrics(path)
        number = re.search(r"_(\d+)_\d+\.csv$", path.name)
        first = int(number[1]) if number else 0
        check_labels(labels, network, first, path.name)
        yield Published(f"F, {first}-{first + len(labels) - 1}", first, outputs, energy)
    for name, rows in ROWS.items():
        path = clone / f"{name}.csv"
        if path.is_file():
            labels, _, outputs = read_metrics(path)
            check_labels(labels, network, 0, path.name)
            yield Published(f"R, {name}", 0, outputs, rows=rows)


def read_transcript(text: str, where: str) -> tuple[Tensor, Tensor, Tensor]:
    """What IMAC-Sim's script prints.

    Returns:
        Labels (B,), outputs (B, 10) V, powers (B,) W, NaN where HSPICE has lost the solution.

    Raises:
        DataError: The run is not complete, or its results are of two runs.
    """
    lists = {
        what: [
            [float(word) for word in line.split(",")]
            for line in re.findall(rf"^{what}: \[([^\]]*)\]", text, re.MULTILINE)
        ]
        for what in ("Actual label", "Output voltages")
    }
    powers = [float(word) for word in re.findall(rf"^Power consumption = ({_NUMBER})", text, re.M)]
    counts = {len(powers), *(len(rows) for rows in lists.values())}
    widths = {len(row) for rows in lists.values() for row in rows}
    if len(counts) > 1 or widths != {10}:
        raise DataError(f"{where}: not the whole run: {sorted(counts)} labels, outputs, powers")
    power = torch.tensor(powers, dtype=torch.float64)
    average = re.search(rf"^average total power = ({_NUMBER})", text, re.MULTILINE)
    if average and abs(float(average[1]) / float(power.mean()) - 1.0) > 1e-3:
        raise DataError(
            f"{where}: its average power, {average[1]} W, is not that of the images it lists, "
            f"{float(power.mean()):.6f} W: HSPICE's listing held the results of two runs"
        )
    return (
        torch.tensor(lists["Actual label"]).argmax(dim=1),
        torch.tensor(lists["Output voltages"], dtype=torch.float64),
        torch.where(power < SPIKE * power.min(), power, torch.nan),
    )


def device_runs_of(archive: Path, network: ReferenceNetwork) -> Iterator[Published | str]:
    """Every run of LIMCA's archive; of one that cannot be used, the reason."""
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(archive) as tar:
        texts: dict[PurePosixPath, dict[str, str]] = {}
        for member in tar:
            path = PurePosixPath(member.name)
            wanted = path.suffix == ".py" or path.name == "simulation_output.txt"
            if member.isfile() and wanted and member.size < _LIMIT:
                file = tar.extractfile(member)
                assert file is not None
                kind = "script" if path.suffix == ".py" else "transcript"
                texts.setdefault(path.parent, {})[kind] = file.read().decode(errors="replace")
        for folder, found in sorted(texts.items()):
            name = re.sub(r"_first\d+$", "", folder.name)
            if len(found) < 2:
                yield f"{name}: no {'script' if 'transcript' in found else 'transcript'}"
                continue
            script = Path(scratch) / "script.py"
            script.write_text(found["script"])
            try:
                read = read_imac_sim_script(script)
                labels, outputs, power = read_transcript(found["transcript"], name)
                check_labels(labels, network, read.firstimage, name)
            except (DataError, ConfigError) as error:
                yield f"{name}: {error}".replace(f"{name}: {name}:", f"{name}:")
                continue
            config = read.config.replace(neuron=NEURON)
            yield Published(name, read.firstimage, outputs, power=power, config=config)
