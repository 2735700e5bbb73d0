"""What a new process imports, loads and compiles until its first answer; nothing is timed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from small_networks import mlp, signs

import imac_torch as imac
from imac_torch.kernels import ahead
from imac_torch.kernels.compiled import obstacle
from imac_torch.kernels.digest import digest

pytestmark = pytest.mark.skipif(obstacle() is not None, reason="there is nothing to compile")

FINFETS = imac.Config(crossbar=imac.Crossbar(rows=3, columns=4))
ANSWER = """
import sys
import torch
from torch import nn
import imac_torch as imac

model = nn.Sequential(nn.Linear(6, 5), imac.InverterSigmoid(), nn.Linear(5, 3))
network = imac.convert(model, imac.Config(crossbar=imac.Crossbar(rows=3, columns=4)))
with torch.no_grad():
    network(torch.ones(2, 6))
kernels = {
    name.rpartition(".")[2]
    for name, module in list(sys.modules.items()) if name.startswith("imac_torch.kernels.")
    for kernel in vars(module).values()
    if getattr(kernel, "overloads", None) and kernel.__module__ == name
}
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("imac_torch.")}
late = {"reports", "study", "simulator", "netlist", "sweep", "cli"} & rooms
others = {"jinja2", "rich", "matplotlib", "torchvision"} & set(sys.modules)
# Those, and what they call.
kernels -= {"newton", "one", "rows", "table", "dense", "lines", "lookup", "loads", "starts"}
print(sorted(kernels), sorted(late), sorted(others), "imac_torch.transient.network" in sys.modules)
"""


def test_the_first_answer_needs_few_kernels_and_no_report() -> None:
    found = subprocess.run(
        [sys.executable, "-c", ANSWER], capture_output=True, text=True, check=True
    )
    assert found.stdout.split("\n")[-2] == "[] [] [] False"


LISTED = [kernel for kernels in ahead.PARTS.values() for kernel in kernels]


@pytest.mark.parametrize("kernel", LISTED)
def test_what_is_compiled_elsewhere_is_what_is_called(kernel: str) -> None:
    """Parts of kernels are not there where the whole was loaded: what is kept has them."""
    with torch.no_grad():
        network = imac.convert(mlp(6, 5, 3), FINFETS)
        network.solve(signs(9, 6))
        network.solve(signs(1, 6))
    whole, found = np.zeros(2000, np.uint64), np.zeros(2, np.uint64)
    digest(whole, whole, found)
    called = ahead._dispatcher(kernel)
    types = ahead.signature(ahead.PARTS[ahead._part(kernel)][kernel])
    kept = [key[0] for key in called._cache._cache_file._load_index()]
    assert types in [*called.overloads, *kept] or not (kept or called.overloads)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bool]]:
    """Nothing is known to be there; what another process does is written down here."""
    state = {"compiles": True, "kept": False}
    monkeypatch.setattr(ahead, "_others_wait", lambda: False)
    monkeypatch.setattr(ahead, "begin", lambda part: None)
    monkeypatch.setattr(ahead, "_compiles", lambda part: state["compiles"])
    monkeypatch.setattr(ahead, "_is_kept", lambda kernel: state["kept"])
    monkeypatch.setattr(ahead, "_there", set())
    monkeypatch.setattr(ahead, "_looked", {})
    monkeypatch.setattr(ahead, "PAUSE", 0.0)
    yield state


def test_torch_computes_while_another_process_compiles(elsewhere: dict[str, bool]) -> None:
    """To rounding and the tolerance of Newton's method, 1e-9 V; what is compiled takes over."""
    network = imac.convert(mlp(6, 5, 3), FINFETS)
    with torch.no_grad():
        first = network.solve(signs(9, 6))
        assert not ahead._there
        elsewhere["kept"] = True
        then = network.solve(signs(9, 6))
    assert {"newton.solve_tiles"} <= ahead._there
    assert float((first.outputs - then.outputs).abs().max()) < 1e-9
    assert first.power is not None and then.power is not None
    torch.testing.assert_close(first.power.total, then.power.total, rtol=1e-8, atol=0.0)
    assert bool((first.status == then.status).all())


def test_what_takes_torch_long_waits(elsewhere: dict[str, bool]) -> None:
    assert not ahead.ready("newton.solve_tiles", 0.5 * ahead.PATIENCE)
    assert ahead.ready("newton.solve_tiles", 2.0 * ahead.PATIENCE)
    assert not ahead._there


def test_where_the_other_process_has_ended_this_one_compiles(elsewhere: dict[str, bool]) -> None:
    elsewhere["compiles"] = False
    assert ahead.ready("newton.solve_tiles", 0.0)
    assert not ahead.wait_for("newton.solve_tiles")
    assert not ahead.wait_for("tiles.base_tiles")  # is in no list


def test_what_another_kernel_does_as_well_is_not_compiled_here(elsewhere: dict[str, bool]) -> None:
    elsewhere["compiles"] = False
    assert not ahead.kept("one.solve_images")
    elsewhere["kept"] = True
    assert ahead.kept("one.solve_images")


def test_two_processes_do_not_compile_the_same(tmp_path: Path) -> None:
    def lock() -> FileLock:
        return FileLock(tmp_path / "neurons.lock")

    one, two = lock(), lock()
    assert ahead._taken(one, 0.0)
    assert not ahead._taken(two, 0.0)
    one.release()
    assert ahead._taken(two, 0.0)
    two.release()


def test_a_word_for_waiting_that_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ahead.VARIABLE, "later")
    with pytest.raises(imac.ImacError, match='IMAC_TORCH_KERNELS = "later": expected "background"'):
        ahead._others_wait.__wrapped__()
