"""External tests run, skip or fail as asked for: a check that never runs must not look passed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = """
import pytest

def test_fixture(ngspice):
    assert ngspice.name == "ngspice"

@pytest.mark.ngspice
def test_marker():
    pass

def test_shared(shared):
    assert shared.is_dir()
"""
CONFIGURATION = "[pytest]\nmarkers =\n    ngspice: needs ngspice\n"


@pytest.fixture
def outcome(tmp_path: Path):
    """Run the tests above under this directory's conftest; what became of each."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_external.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(CONFIGURATION)
    programs = tmp_path / "bin"
    programs.mkdir()

    def run(*arguments: str, found: bool, **variables: str) -> tuple[int, str]:
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("CI", "PYTEST_ADDOPTS") and not key.startswith("IMAC_TORCH_")
        }
        if found:
            (programs / "ngspice").write_text("#!/bin/sh\n")
            (programs / "ngspice").chmod(0o755)
        environment |= {"PATH": str(programs), **variables}
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return result.returncode, result.stdout + result.stderr

    return run


def test_auto_runs_what_is_there(outcome, tmp_path: Path) -> None:
    code, text = outcome(found=True, IMAC_TORCH_SHARED=str(tmp_path))
    assert code == 0
    assert "3 passed" in text


def test_auto_skips_with_a_reason(outcome) -> None:
    code, text = outcome(found=False)
    assert code == 0
    assert "3 skipped" in text
    assert "ngspice is not on the PATH; install it" in text
    assert "IMAC_TORCH_SHARED does not name" in text


def test_required_fails(outcome) -> None:
    code, text = outcome(found=False, IMAC_TORCH_SIMULATORS="required", CI="true")
    assert code == 1
    # An error is a failure before the test's first line, here of the fixture.
    assert "3 errors" in text
    assert "IMAC_TORCH_SIMULATORS=required" in text
    assert "CI=true requires it" in text


def test_disabled_skips_even_what_is_there(outcome) -> None:
    code, text = outcome(found=True, IMAC_TORCH_SIMULATORS="disabled")
    assert code == 0
    assert "3 skipped" in text


def test_the_marker_selects_both_ways_of_asking(outcome) -> None:
    _, text = outcome("-m", "ngspice", found=True)
    assert "2 passed, 1 deselected" in text


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"IMAC_TORCH_SIMULATORS": "always"}, "expected one of auto, required, disabled"),
        ({"IMAC_TORCH_SHARED": "/nowhere/at/all"}, "is not a directory"),
    ],
)
def test_misspelt_settings_are_errors(outcome, variables: dict, message: str) -> None:
    code, text = outcome(found=True, **variables)
    assert code != 0
    assert message in text


def test_the_generator_is_the_same_everywhere(generator: torch.Generator) -> None:
    again = torch.Generator().manual_seed(generator.initial_seed())
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=again))
