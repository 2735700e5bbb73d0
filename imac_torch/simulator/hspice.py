"""Driver of HSPICE."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from imac_torch.errors import (
    MeasureWarning,
    SimulatorConvergenceError,
    SimulatorError,
    SimulatorLicenceError,
)
from imac_torch.netlist.job import SimulationJob
from imac_torch.netlist.testbench import CURRENTS, TestBench
from imac_torch.netlist.writer import BatchDeck
from imac_torch.simulator.engine import Simulator
from imac_torch.simulator.hspice_post import read_post
from imac_torch.simulator.hspice_text import name_measures, parse_listing, read_measure_file
from imac_torch.simulator.process import ProcessOutput
from imac_torch.simulator.result import FloatArray, SimulationResult
from imac_torch.simulator.transients import TransientValues, from_measures

_ADVICE: Final = (
    "leave measures of latency out and have waveforms written: "
    "NetlistSettings(measure_latency=False, waveforms=True); latencies then come from waveforms"
)
_VERSION: Final = re.compile(r"\b([A-Z]-\d{4}\.\d{2}(?:-SP\d+)?(?:-\d+)?|\d{4}\.\d+)\b")


class HSpice(Simulator):
    """HSPICE, started as ``hspice -i netlist -o prefix``.

    Values of measures come from the measure file (``prefix.mt0`` of a transient, ``prefix.ms0``
    of a DC sweep); the listing ``prefix.lis`` is read for what failed, and for values if there
    is no measure file. Values of row k of a sweep are named ``name[k]``.
    """

    name = "hspice"
    licensed = True
    install_hint = (
        "HSPICE is a commercial program of Synopsys: install it, set its environment "
        "(LM_LICENSE_FILE or SNPSLMD_LICENSE_FILE, PATH), or use ngspice or the native solver,"
    )

    def _version_arguments(self) -> list[str]:
        return ["-v"]

    def _parse_version(self, text: str) -> str | None:
        match = _VERSION.search(text) if "hspice" in text.lower() else None
        return match[1] if match else None

    def _run_arguments(self, job: SimulationJob) -> list[str]:
        return ["-i", job.netlist.name, "-o", job.netlist.stem]

    def _log_path(self, job: SimulationJob) -> Path:
        return job.directory / f"{job.netlist.stem}.lis"

    def _output_files(self, job: SimulationJob) -> Iterable[Path]:
        suffixes = ("lis", "mt0", "ms0", "tr0", "sw0", "st0", "ic0")
        stem = job.netlist.stem
        return [
            *(job.directory / f"{stem}.{suffix}" for suffix in suffixes),
            *(job.directory / name for name in job.waveform_files),
        ]

    def _diagnose(
        self, job: SimulationJob, output: ProcessOutput, log: str
    ) -> SimulatorError | None:
        listing = parse_listing(f"{log}\n{output.stdout}\n{output.stderr}")
        if output.returncode == 0 and listing.concluded and not (listing.aborted or listing.errors):
            return None
        kind: type[SimulatorError] = SimulatorError
        if listing.licence is not None:
            kind = SimulatorLicenceError
            reason = f"no licence: {listing.licence}"
        elif listing.convergence is not None:
            kind = SimulatorConvergenceError
            reason = f"no convergence: {listing.convergence}"
        elif listing.errors:
            reason = listing.errors[0]
            words = set(re.findall(r"\w+", " ".join(listing.errors).lower()))
            if words & {*job.optional, "measure", "meas"}:
                reason += f"; if that is about a measure of latency, {_ADVICE}"
        elif listing.aborted:
            reason = "the job was aborted without a message"
        elif not listing.concluded:
            reason = "the listing does not say that the job concluded"
        else:
            reason = "it reported success but returned an error code"
        return self._failure(
            job,
            output,
            f"HSPICE failed on {job.netlist} (exit code {output.returncode}): {reason}; see "
            f"{self._log_path(job)}",
            kind,
        )

    def _read_measures(self, job: SimulationJob, log: str) -> tuple[dict[str, float], set[str]]:
        values: dict[str, float] = {}
        failed: set[str] = set()
        files = [job.directory / f"{job.netlist.stem}.{suffix}" for suffix in ("mt0", "ms0")]
        for path in files:
            if path.is_file():
                more, more_failed = name_measures(read_measure_file(path))
                values |= more
                failed |= more_failed
        if not values and not failed:
            listing = parse_listing(log)
            values, failed = listing.measures, listing.failed
        # What was tried and not found is reported as failed; what is not mentioned was refused.
        refused = [name for name in job.optional if name not in values and name not in failed]
        if refused and values:
            warnings.warn(
                f"HSPICE made nothing of {len(refused)} measures of latency, such as {refused[0]}, "
                f"in {job.netlist}; {_ADVICE}",
                MeasureWarning,
                stacklevel=2,
            )
            values |= dict.fromkeys(refused, math.nan)
        wanted = {*job.measures, *job.optional}
        return {name: value for name, value in values.items() if name in wanted}, failed

    def _read_tables(self, path: Path) -> list[dict[str, FloatArray]]:
        return read_post(path)

    def values(self, deck: BatchDeck, result: SimulationResult) -> TransientValues:
        """See :class:`Program`: from measures."""
        return from_measures(deck, result)

    def currents(self, bench: TestBench, result: SimulationResult) -> FloatArray:
        """See :class:`Program`: from measures."""
        rows, columns = len(bench.inputs), len(bench.outputs)
        names = [f"{name}[{k}]" for k in range(rows * columns) for name in CURRENTS]
        found = np.array([result.measures[name] for name in names])
        return found.reshape(rows, columns, len(CURRENTS))
