"""All areas, two at a time, and the table of what became of the attempts."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from fuzz.areas import AREAS, SHARES
from fuzz.harness import BAD, CLEAR, RAN, Outcome, Tally, limit_memory, run_area

LANES = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=540.0, help="On the clock, in all.")
    parser.add_argument("--seed", default=str(int(time.time())))
    parser.add_argument("--area", action="append", choices=sorted(AREAS))
    parser.add_argument("--case", type=int, help="This attempt of the area only.")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--targets", action="store_true", help="Counts of every target, too.")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.area or list(SHARES)
    if options.case is not None or options.report is not None:
        limit_memory()
        tally = run_area(
            AREAS[names[0]](), options.seed, options.failures, seconds=options.seconds,
            first=options.case or 0, count=None if options.case is None else 1,
            report=options.report,
        )  # fmt: skip
        if options.report is not None:
            tally.save(options.report)
            return 0
        return show({names[0]: tally}, options)
    return show(all_areas(names, options), options)


def all_areas(names: list[str], options: argparse.Namespace) -> dict[str, Tally]:
    """Every area in a process of its own, so that a crash costs one line of the table."""
    lanes: list[list[str]] = [[] for _ in range(min(LANES, os.cpu_count() or 1, len(names)))]
    for name in sorted(names, key=lambda item: -SHARES[item]):
        min(lanes, key=lambda lane: sum(SHARES[item] for item in lane)).append(name)
    longest = max(sum(SHARES[item] for item in lane) for lane in lanes)
    found: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        threads = [
            threading.Thread(
                target=lambda lane=lane: [
                    found.__setitem__(
                        name,
                        one_area(name, options.seconds * SHARES[name] / longest, options, folder),
                    )
                    for name in lane
                ]
            )
            for lane in lanes
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {name: found[name] for name in names}


def one_area(name: str, seconds: float, options: argparse.Namespace, folder: str) -> Tally:
    report = Path(folder) / f"{name}.json"
    started = time.monotonic()
    command = [
        sys.executable, "-X", "faulthandler", "-m", "fuzz", "--area", name, "--seed", options.seed,
        "--seconds", f"{seconds - 8:g}", "--failures", str(options.failures), "--report",
        str(report),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    problem = ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment,
            timeout=seconds + 120, check=False,
        )  # fmt: skip
        if done.returncode:
            problem = f"the process ended with {done.returncode}: {done.stderr[-2000:]}"
    except subprocess.TimeoutExpired:
        problem = f"the process did not end in {time.monotonic() - started:.0f} s"
    tally = Tally.load(report) if report.is_file() else Tally()
    if problem:
        tally.add(Outcome(BAD, "the process itself", problem))
        sys.stderr.write(f"{name}: {problem}\n")
    return tally


def show(tallies: dict[str, Tally], options: argparse.Namespace) -> int:
    print(f"{'area':<32}{'tried':>9}{CLEAR:>14}{RAN:>9}{BAD:>7}")
    whole = Tally()
    for name, tally in tallies.items():
        print(_row(name, tally) + (f"   {tally.note}" if tally.note else ""))
        for target, counter in sorted(tally.counts.items()):
            joined = whole.counts.setdefault(f"{name}/{target}", counter)
            if options.targets:
                print(_row(f"  {target}", Tally({target: joined})))
        whole.bad += tally.bad
    print(_row("all", whole))
    for item in whole.bad[:40]:
        print(f"bad: {item}")
    print(f"seed {options.seed}; again: make fuzz SEED={options.seed}" + (
        f"; inputs are kept in {options.failures}" if whole.bad else ""))
    if os.environ.get("FUZZ_JSON"):
        Path(os.environ["FUZZ_JSON"]).write_text(json.dumps(whole.counts, indent=1))
    return 1 if whole.total(BAD) or not whole.total() else 0


def _row(name: str, tally: Tally) -> str:
    return (
        f"{name:<32}{tally.total():>9}{tally.total(CLEAR):>14}{tally.total(RAN):>9}"
        f"{tally.total(BAD):>7}"
    )


if __name__ == "__main__":
    sys.exit(main())
