#!/usr/bin/env python3
"""Stands in for HSPICE in tests: reads `.measure` lines, writes a listing and a measure file.

It computes nothing: measure number k gets the value (k + 1) mV. Comments of the form
``* fake: word`` in the netlist make it behave like a run that goes wrong.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

BANNER = " ****** HSPICE -- T-2022.06 linux64 (May 27 2022) ******\n"
LICENCE = (
    " lic: Checkout 1 hspice\n lic: License/Maintenance for hspice will expire on 12-jul-2030\n"
)


def main() -> int:
    """Behave like ``hspice -v`` or ``hspice -i netlist -o prefix``."""
    arguments = sys.argv[1:]
    if arguments == ["-v"]:
        print("HSPICE Version T-2022.06 64-BIT")
        return 0
    netlist = Path(arguments[arguments.index("-i") + 1])
    prefix = arguments[arguments.index("-o") + 1]
    text = netlist.read_text()
    modes = re.findall(r"^\* fake: (.*)$", text, re.MULTILINE)
    names = re.findall(r"^\.measure\s+\w+\s+(\w+)", text, re.IGNORECASE | re.MULTILINE)
    for mode in modes:
        if mode.startswith("refused "):  # some versions go on without what they do not understand
            names = [name for name in names if re.match(mode.split()[1], name) is None]
    rows = 1
    failing = set()
    for mode in modes:
        if mode.startswith("failed "):
            failing.add(mode.split()[1])
        if mode.startswith("rows "):
            rows = int(mode.split()[1])
    with Path("runs.txt").open("a") as runs:
        runs.write(f"{netlist}\n")
    listing = Path(f"{prefix}.lis")
    if "licence" in modes:
        listing.write_text(BANNER + " lic: Unable to checkout (hspice)\n ***** job aborted\n")
        print(">error      ***** hspice job aborted")
        return 1
    if "hang" in modes:
        listing.write_text(BANNER + LICENCE)
        child = subprocess.Popen(["sleep", "60"])
        Path("child.pid").write_text(str(child.pid))
        time.sleep(60)
    if "silent" in modes:
        return 0
    for mode in modes:
        if mode.startswith("error "):
            words = mode.partition(" ")[2]
            listing.write_text(f"{BANNER}{LICENCE} **error** {words}\n ***** job aborted\n")
            return 1
    if "convergence" in modes:
        values = [f"{name}= {k + 1}.0000m" for k, name in enumerate(names[:1])]
        listing.write_text(
            BANNER
            + LICENCE
            + " **warning** dc convergence failure,\n resetting dcon option to 1 and retrying\n"
            + "\n".join(f" {value}" for value in values)
            + "\n **error** internal timestep too small in transient analysis\n"
            + "  time= 1.234n; delta= 1.e-20; numnit=  45\n ***** job aborted\n"
        )
        print(">error      ***** hspice job aborted")
        return 1
    sweep = ["index"] if rows > 1 else []
    columns = [*sweep, *names, "temper", "alter#"]
    words = []
    for row in range(rows):
        words += [f"{row + 1}.0000"] * len(sweep)
        words += [
            "failed" if name in failing else f"{(k + 1) * (row + 1)}.0000m"
            for k, name in enumerate(names)
        ]
        words += ["25.0000", "1.0000"]
    suffix = "mt0" if re.search(r"^\.tran", text, re.IGNORECASE | re.MULTILINE) else "ms0"
    body = ["$DATA1 SOURCE='HSPICE' VERSION='T-2022.06 linux64' PARAM_COUNT=0", ".TITLE '* test'"]
    for table in (
        columns,
        *(words[i : i + len(columns)] for i in range(0, len(words), len(columns))),
    ):
        body += [
            " " + " ".join(f"{word:<16}" for word in table[i : i + 4])
            for i in range(0, len(table), 4)
        ]
    Path(f"{prefix}.{suffix}").write_text("\n".join(body) + "\n")
    listing.write_text(
        BANNER
        + LICENCE
        + " ******  transient analysis           tnom=  25.000 temp=  25.000 ******\n"
        + "".join(
            f" {name}=  {'failed' if name in failing else f'{k + 1}.0000m'}\n"
            for k, name in enumerate(names)
        )
        + "\n          ***** job concluded\n"
    )
    print(">info:         ***** hspice job concluded")
    return 1 if "code" in modes else 0


if __name__ == "__main__":
    sys.exit(main())
