"""Driver of ngspice."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from imac_torch.base.units import parse_spice_number
from imac_torch.errors import SimulatorConvergenceError, SimulatorError
from imac_torch.netlist.job import SimulationJob
from imac_torch.netlist.testbench import TestBench
from imac_torch.simulator.engine import Simulator
from imac_torch.simulator.process import ProcessOutput
from imac_torch.simulator.rawfile import read_raw
from imac_torch.simulator.result import FloatArray, SimulationResult

_VERSION: Final = re.compile(r"ngspice[- ](\d[\w.+-]*)")
# "name = value", as `meas` prints it (seven digits) and as `print` does (`numdgt` digits).
_VALUE: Final = re.compile(
    r"^[ \t]*([a-z_]\w*)[ \t]*=[ \t]*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?=\s|$)",
    re.IGNORECASE | re.MULTILINE,
)
_FAILED: Final = re.compile(
    r"^\s*\.?meas(?:ure)?\s+\w+\s+(\S+)\s.*failed", re.IGNORECASE | re.MULTILINE
)
# ngspice prints these once an analysis is given up; before that it may well report single
# failures of its stepping algorithms, which are not errors.
_CONVERGENCE: Final = re.compile(
    r"^(?:doAnalyses:.*|.*simulation\(s\) aborted.*|DC solution failed.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_ASKING: Final = "* asking\n.control\nosdi\nquit 0\n.endc\n.end\n"
_ERROR: Final = re.compile(
    r"^.*(?:\bMismatch:|\bError\b:?(?!: measure)|fatal|Simulation interrupted|No such file|"
    r"not found|can't find|unknown (?:subckt|model)|circuit not parsed).*$",
    re.IGNORECASE | re.MULTILINE,
)
_FINISHED: Final = re.compile(r"ngspice-\S+ done")


class NgSpice(Simulator):
    """ngspice in batch mode, run on netlists with a ``.control`` block.

    The netlist's control block runs the analyses, evaluates and prints measures and writes the
    result files. Three habits of ngspice 39 matter: in batch mode with ``-r`` it does not evaluate
    ``.measure`` at all; `meas` rounds to seven digits, also in the vector it leaves behind, so
    that anything needed in full precision comes from a (binary) waveform file; and it exits
    with 0 after a failed analysis, so that the log decides.
    """

    name = "ngspice"
    install_hint = (
        "Install it (Debian, Ubuntu: apt-get install ngspice; macOS: brew install ngspice; "
        "Windows: https://ngspice.sourceforge.io)"
    )

    def _version_arguments(self) -> list[str]:
        return ["--version"]

    def _parse_version(self, text: str) -> str | None:
        match = _VERSION.search(text)
        return match[1] if match else None

    def abilities(self) -> list[str]:
        """See :class:`Program`: whether it was built with KLU and with compiled models (OSDI)."""
        with tempfile.TemporaryDirectory(prefix="imac_torch_") as directory:
            (Path(directory) / "asking.cir").write_text(_ASKING)
            output = self._start(["-b", "-n", "asking.cir"], Path(directory), timeout=60.0)
            banner = self._start(self._version_arguments(), Path(directory), timeout=60.0)
        text = "".join((output.stdout, output.stderr, banner.stdout, banner.stderr))
        osdi = "no" if "no such command" in text else "yes"
        if not _FINISHED.search(text):  # it has not answered
            osdi = "not known"
        return [f"KLU {'yes' if 'KLU' in text else 'no'}", f"OSDI {osdi}"]

    def _run_arguments(self, job: SimulationJob) -> list[str]:
        # -n: the user's .spiceinit must not change results.
        return ["-b", "-n", "-o", self._log_path(job).name, job.netlist.name]

    def _log_path(self, job: SimulationJob) -> Path:
        return job.netlist.with_suffix(".log")

    def _output_files(self, job: SimulationJob) -> Iterable[Path]:
        return [self._log_path(job), *(job.directory / name for name in job.waveform_files)]

    def _diagnose(
        self, job: SimulationJob, output: ProcessOutput, log: str
    ) -> SimulatorError | None:
        text = f"{output.stdout}\n{output.stderr}\n{log}"
        found = _CONVERGENCE.search(text)
        if found is not None:
            return self._failure(
                job,
                output,
                f"ngspice did not converge on {job.netlist}: {found[0].strip()}; see "
                f"{self._log_path(job)}",
                SimulatorConvergenceError,
            )
        if output.returncode == 0 and _FINISHED.search(text):
            return None
        found = _ERROR.search(text)
        reason = found[0].strip() if found else "it stopped without a message"
        return self._failure(
            job,
            output,
            f"ngspice failed on {job.netlist} (exit code {output.returncode}): {reason}; see "
            f"{self._log_path(job)}",
        )

    def _read_measures(self, job: SimulationJob, log: str) -> tuple[dict[str, float], set[str]]:
        wanted = {*job.measures, *job.optional}
        values = {
            name.lower(): parse_spice_number(text)
            for name, text in _VALUE.findall(log)
            if name.lower() in wanted
        }
        failed = {name.lower() for name in _FAILED.findall(log)}
        for name in failed:
            values.pop(name, None)
        return values, failed

    def _read_tables(self, path: Path) -> list[dict[str, FloatArray]]:
        return read_raw(path)

    def currents(self, bench: TestBench, result: SimulationResult) -> FloatArray:
        """See :class:`Program`: from a file of all points."""
        rows, columns = len(bench.inputs), len(bench.outputs)
        data = result.waveforms or {}
        points = max((len(value) for value in data.values()), default=0)
        if "v(z)" not in data or len(data["v(z)"]) != rows * columns:
            raise SimulatorError(
                f"{points} of {rows * columns} points came back from the sweep of "
                f"{bench.subcircuit.name}; see {result.log}",
                directory=result.log.parent,
            )
        # The input is swept inside, the output outside.
        grid = {name: value.reshape(columns, rows).T for name, value in data.items()}
        off = max(
            float(np.abs(grid["v(z)"] - bench.inputs[:, None]).max()),
            float(np.abs(grid["v(out)"] - bench.outputs).max()),
        )
        if off > 1e-9:  # a sweep accumulates its steps: 1e-13 V over a thousand of them
            raise SimulatorError(
                f"the sweep of {bench.subcircuit.name} is {off:g} V off its grid; see {result.log}",
                directory=result.log.parent,
            )
        currents = np.stack([grid["i(vout)"], -grid["i(vz)"], -grid["i(vdd)"]], axis=-1)
        return np.ascontiguousarray(currents)
