"""Run the benchmarks at their default sizes, one after the other (``make benchmark``).

It says first how long all of it takes on two cores of its own with every program there, and at
most: a script is stopped after thrice its time. What scripts print stays, on the terminal and below
``runs/benchmarks``, also when they are stopped or all is interrupted. Scripts can be named::

    python benchmarks/run.py                    # all
    python benchmarks/run.py native.py peers.py
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

PATIENCE = 3.0
"""Times as long as likely, after which a script is stopped."""


@dataclass(frozen=True)
class Script:
    """A benchmark: its file, arguments, and s that it takes with two cores of 2023 of its own."""

    name: str
    seconds: float
    arguments: tuple[str, ...] = ()


SCRIPTS = (
    Script("peers.py", 150.0),
    Script("native.py", 60.0),
    Script("roofline.py", 90.0),
    Script("elimination.py", 40.0),
    Script("transient.py", 40.0, ("--images", "128")),
    Script("montecarlo.py", 30.0, ("--samples", "100")),
    Script("noise.py", 60.0),
    Script("gain.py", 60.0, ("--data", "digits", "--devices", "MRAM", "--wires", "yes")),
    Script("convolution.py", 60.0),
)


def run(script: Script, output: Path, progress: Progress, task: TaskID) -> str:
    """Run one; "" if all went well, otherwise what did not."""
    command = [sys.executable, str(Path(__file__).parent / script.name), *script.arguments]
    width = str(shutil.get_terminal_size((110, 24)).columns)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": width}
    environment["IMAC_TORCH_KERNELS"] = "wait"  # torch is not what is measured
    started, limit = time.monotonic(), PATIENCE * script.seconds
    before = progress.tasks[0].completed
    # A session of its own: an interrupt comes through this process, once.
    with output.open("w", encoding="utf-8") as file, subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment, start_new_session=True
    ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        said, stopped = b"", False
        try:
            while True:
                part = process.stdout.read()
                said += part or b""
                *lines, said = said.split(b"\n")
                for line in lines:
                    text = line.decode("utf-8", "replace")
                    file.write(f"{text}\n")
                    file.flush()
                    print(text, flush=True)
                spent = time.monotonic() - started
                progress.update(task, completed=before + min(spent, script.seconds))
                if part == b"" or (process.poll() is not None and part is None):
                    break
                if spent > limit and not stopped:
                    stopped = True
                    os.killpg(process.pid, signal.SIGINT)
                if spent > limit + 10.0:
                    os.killpg(process.pid, signal.SIGKILL)
                time.sleep(0.1)
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            raise
    if stopped:
        return f"{script.name} was stopped after {limit:.0f} s"
    return f"{script.name} failed" if process.returncode else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all ran."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = {script.name: script for script in SCRIPTS}
    parser.add_argument("scripts", nargs="*", metavar="script", help=", ".join(known))
    options = parser.parse_args(arguments)
    for name in options.scripts:
        if name not in known:
            parser.error(f"{name} is none of {', '.join(known)}")
    chosen = [known[name] for name in options.scripts] or SCRIPTS
    minutes = sum(script.seconds for script in chosen) / 60
    folder = Path("runs/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(chosen)} scripts: about {minutes:.0f} min on two cores that do nothing else, at "
        f"most {PATIENCE * minutes:.0f}. What they print is kept in {folder}.", flush=True
    )  # fmt: skip
    bad: list[str] = []
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=60 * minutes)
        done = 0.0
        for k, script in enumerate(chosen, 1):
            progress.update(task, description=f"{script.name} ({k} of {len(chosen)})")
            print(f"\n=== {script.name} {' '.join(script.arguments)}".rstrip(), flush=True)
            try:
                problem = run(script, folder / f"{script.name[:-3]}.txt", progress, task)
            except KeyboardInterrupt:
                print(f"interrupted in {script.name}; what is above is complete")
                return 130
            if problem:
                bad.append(problem)
                print(problem, flush=True)
            done += script.seconds
            progress.update(task, completed=done)
    for problem in bad:
        print(problem)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
