"""Fixtures shared by all tests, and the three states of tests that need something external.

``IMAC_TORCH_SIMULATORS`` says what happens to tests that need a SPICE simulator:

* ``auto`` (the default): they run if the simulator is found and skip with a reason otherwise;
* ``required``: a missing simulator is a failure (continuous integration);
* ``disabled``: they always skip.

``IMAC_TORCH_SHARED`` names the directory with the reference results. Tests that need it skip
with a reason when the variable is unset, except where ``CI=true``: there they fail.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch

# Figures are those of compiled kernels from the first one on.
os.environ.setdefault("IMAC_TORCH_KERNELS", "wait")
SIMULATOR_STATES = ("auto", "required", "disabled")
SEED = 20230605
# The same examples in every run: a test fails for the change that breaks it, not for another's.
# `make slow` draws new ones (--hypothesis-profile=default).
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
collect_ignore = ["plugins"]
"""Looking for doctests imports modules, and these register what only some tests may know."""


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a misspelt state at once: it would otherwise turn tests off silently."""
    state = os.environ.get("IMAC_TORCH_SIMULATORS", "auto")
    if state not in SIMULATOR_STATES:
        raise pytest.UsageError(
            f"IMAC_TORCH_SIMULATORS={state!r}: expected one of {', '.join(SIMULATOR_STATES)}"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the ``ngspice`` marker and the ``ngspice`` fixture imply each other."""
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        if item.get_closest_marker("ngspice"):
            if "ngspice" not in item.fixturenames:
                item.fixturenames.append("ngspice")
        elif "ngspice" in item.fixturenames:
            item.add_marker(pytest.mark.ngspice)


def find_simulator(name: str) -> Path:
    """Path of a simulator's executable; skips or fails the running test if it is not to be had."""
    state = os.environ.get("IMAC_TORCH_SIMULATORS", "auto")
    if state == "disabled":
        pytest.skip("external simulators are disabled (IMAC_TORCH_SIMULATORS=disabled)")
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not on the PATH"
        if state == "required":
            pytest.fail(f"{message}, and IMAC_TORCH_SIMULATORS=required")
        pytest.skip(f"{message}; install it to run this test")
    return Path(found)


def find_shared() -> Path:
    """The directory of reference results; skips or fails the running test if it is not there."""
    value = os.environ.get("IMAC_TORCH_SHARED")
    if not value:
        message = "IMAC_TORCH_SHARED does not name the directory of reference results"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{message}, and CI=true requires it")
        pytest.skip(message)
    directory = Path(value)
    if not directory.is_dir():
        # Somebody asked for these tests: a wrong path must not look like a pass.
        pytest.fail(f"IMAC_TORCH_SHARED={value!r} is not a directory")
    return directory


@pytest.fixture
def ngspice() -> Path:
    """Path of the ngspice executable."""
    return find_simulator("ngspice")


@pytest.fixture
def shared() -> Path:
    """Directory with the reference results (``golden/``, ``mnist/``, ``ptm/``)."""
    return find_shared()


@pytest.fixture
def generator() -> torch.Generator:
    """A freshly seeded random generator on the CPU, the same in every test."""
    import torch  # here, so that collecting tests of text only stays quick

    return torch.Generator().manual_seed(SEED)
