"""Run every benchmark at its default size, one after the other (``make benchmark``)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "peers.py",
    "native.py",
    "elimination.py",
    "transient.py",
    "montecarlo.py",
    "noise.py",
)


def main() -> int:
    """0 if all ran."""
    folder = Path(__file__).parent
    failed = []
    for script in SCRIPTS:
        print(f"\n=== {script} ===", flush=True)
        if subprocess.run([sys.executable, str(folder / script)], check=False).returncode:
            failed.append(script)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
