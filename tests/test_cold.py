"""What a new process imports, loads and compiles until its first answer; nothing is timed."""

import functools
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
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
kernels -= {"newton", "rows", "table", "dense", "lines", "lookup", "loads", "starts"}
print(sorted(kernels), sorted(late), sorted(others), "imac_torch.transient.network" in sys.modules)
"""


def test_the_first_answer_needs_few_kernels_and_no_report() -> None:
    found = subprocess.run(
        [sys.executable, "-c", ANSWER], capture_output=True, text=True, check=True
    )
    assert found.stdout.split("\n")[-2] == "[] [] [] False"


@pytest.mark.parametrize("kernel", ["digest.digest", "rows.eliminate_up"])
def test_what_is_compiled_beside_is_what_is_called(kernel: str) -> None:
    with torch.no_grad():
        imac.convert(mlp(6, 5, 3), FINFETS)(signs(2, 6))
    whole, found = np.zeros(2000, np.uint64), np.zeros(2, np.uint64)
    digest(whole, whole, found)
    assert ahead.signature(ahead.BESIDE[kernel]) in dispatcher(kernel).overloads


def dispatcher(kernel: str):
    module, name = kernel.split(".")
    return getattr(sys.modules[f"imac_torch.kernels.{module}"], name)


@pytest.mark.parametrize("kernel", [k for k in ahead.BESIDE if k.startswith("newton.")])
def test_parts_that_are_compiled_beside_are_those_that_are_kept(kernel: str) -> None:
    """By the cache's list of them; empty where nothing is kept."""
    import imac_torch.kernels.newton  # noqa: F401

    with torch.no_grad():
        imac.convert(mlp(6, 5, 3), FINFETS)(signs(2, 6))
    kept = [key[0] for key in dispatcher(kernel)._cache._cache_file._load_index()]
    assert not kept or ahead.signature(ahead.BESIDE[kernel]) in kept


def test_a_kernel_is_waited_for_until_the_second_process_has_told_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = functools.cache(lambda: io.StringIO("digest.digest\nrows.eliminate_up\n"))
    monkeypatch.setattr(ahead, "_said", said)
    assert not ahead.wait_for("rows.eliminate_up")  # nobody was asked for it
    monkeypatch.setattr(ahead, "_processors", lambda: 1)
    ahead.begin(ahead.FIRST)  # there is no second core
    assert not ahead.wait_for("rows.eliminate_up")
    monkeypatch.setattr(ahead, "_processors", lambda: 2)
    ahead.begin("tiles.base_tiles")
    assert not ahead.wait_for("digest.digest")
    ahead.begin(ahead.FIRST)
    assert ahead.wait_for("digest.digest")
    assert not ahead.wait_for("tiles.base_tiles")
    assert ahead.wait_for("rows.eliminate_up")
    assert not ahead.wait_for("newton._step")  # it has ended, whatever it did
