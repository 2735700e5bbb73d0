"""Another default device, no numba, no place for its cache, terminals that know only ASCII."""

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import imac_torch as imac
from imac_torch.errors import ImacWarning, SolverError
from imac_torch.kernels import choose_kernel, compiled

LOGISTIC = imac.Config(neuron=imac.Neuron(kind="logistic"))
MATCHED = imac.WeightMapping(levels=17, scheme="matched")


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Sigmoid(), nn.Linear(5, 3))


INPUTS = torch.linspace(-1, 1, 48).reshape(4, 12)
LABELS = torch.tensor([0, 1, 2, 0])


def _forward(network: imac.IMACNetwork) -> Tensor:
    return network(INPUTS)


def _gradient(network: imac.IMACNetwork) -> Tensor:
    weight = next(iter(network.analog_layers())).weight
    return torch.autograd.grad(network(INPUTS).sum(), weight)[0]


def _ablation(network: imac.IMACNetwork) -> Tensor:
    steps = imac.ablate(network, INPUTS, LABELS)
    return torch.tensor([step.output_error for step in steps], device="cpu")


def _monte_carlo(network: imac.IMACNetwork) -> Tensor:
    run = imac.MonteCarlo(network, imac.device_model("PCM"))
    found = run.run(INPUTS, LABELS, samples=2, keep_outputs=True).outputs
    assert found is not None
    return found


USES: dict[str, tuple[imac.Config, Callable[[imac.IMACNetwork], Tensor]]] = {
    "forward": (LOGISTIC, _forward),
    "transistors": (imac.Config(), _forward),
    "gradient": (LOGISTIC, _gradient),
    "matched": (LOGISTIC.replace(mapping=MATCHED), _forward),
    "slices": (LOGISTIC.replace(mapping=imac.WeightMapping(slices=2)), _forward),
    "curved cells": (LOGISTIC.replace(device=imac.Memristor(bend=0.3)), _forward),
    "ablation": (LOGISTIC, _ablation),
    "devices": (LOGISTIC, _monte_carlo),
    "software": (LOGISTIC, lambda network: imac.to_software(network)(INPUTS.double())),
    "latency": (LOGISTIC, lambda network: network.measure(INPUTS[:2]).latency.outputs),
}


@pytest.fixture
def elsewhere() -> Iterator[Callable[[], None]]:
    """Makes ``meta`` the default device: what lands there meets tensors of the CPU, and fails."""
    yield lambda: torch.set_default_device("meta")
    torch.set_default_device(None)


@pytest.mark.parametrize("use", USES)
def test_the_default_device_does_not_matter(use: str, elsewhere: Callable[[], None]) -> None:
    config, job = USES[use]
    expected = job(imac.convert(model(), config))
    network = imac.convert(model(), config)
    elsewhere()
    found = job(network)
    torch.set_default_device(None)
    assert found.device.type == "cpu"
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_what_is_loaded_is_on_the_cpu(tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    network = imac.convert(model(), LOGISTIC)
    path = imac.save(network, tmp_path / "network.safetensors")
    elsewhere()
    assert torch.equal(imac.load(path)(INPUTS), network(INPUTS))


def script(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python elsewhere, with torch's kernels where nothing is said."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    kept["PYTHONPATH"] = str(Path(imac.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


CONVERT = """
import torch, imac_torch as imac
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 3))
def outputs(**sections):
    network = imac.convert(model, imac.Config(**sections))
    return network(torch.linspace(-1, 1, 12).reshape(2, 6)).detach()
"""


def test_without_numba_everything_is_computed_by_torch() -> None:
    plain = "outputs(neuron=imac.Neuron(kind='logistic'))"
    here: dict[str, Any] = {}
    exec(CONVERT, here)  # our own text
    expected = eval(plain, here)
    hidden = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
{CONVERT}
print({plain}.tolist())
outputs(
    neuron=imac.Neuron(kind="logistic"),
    mapping=imac.WeightMapping(levels=17, scheme="matched"),
)
"""
    found = script(hidden)
    assert found.returncode == 0, found.stderr
    alone = torch.tensor(eval(found.stdout), dtype=torch.float64)
    # The same direct solution, in another order of operations: rounding of outputs below 1 V.
    assert torch.allclose(alone, expected.double(), rtol=0.0, atol=1e-12)


def test_numba_switched_off_is_no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    compiled.obstacle.cache_clear()
    try:
        place = torch.zeros(1, dtype=torch.float64)
        assert choose_kernel("auto", place) == "torch"
        with pytest.raises(SolverError, match="NUMBA_DISABLE_JIT"):
            choose_kernel("numba", place)
    finally:
        compiled.obstacle.cache_clear()


def double(value: float) -> float:
    return 2.0 * value


def test_a_kernel_without_a_place_for_its_cache_is_compiled_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    compiled._warn_of_no_cache.cache_clear()
    with pytest.warns(ImacWarning, match="NUMBA_CACHE_DIR"):
        kernel = compiled.njit()(double)
    assert kernel(2.0) == 4.0
    assert type(kernel).__name__ == "CPUDispatcher"


def test_kernels_are_compiled_anew_when_others_that_they_use_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba looks at a kernel's own file; what it calls in another one is compiled into it."""
    path = tmp_path / "kernel_of_a_test.py"
    path.write_text("def thrice(value):\n    return 3.0 * value\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    thrice = importlib.import_module(path.stem).thrice

    def kept_with(sources: str) -> bool:
        monkeypatch.setattr(compiled, "_sources", lambda: sources)
        kernel = compiled.njit()(thrice)
        assert kernel(2.0) == 6.0
        return bool(kernel.stats.cache_hits)

    assert [kept_with(sources) for sources in ("old", "old", "new", "new")] == [
        False, True, False, True,
    ]  # fmt: skip


def test_a_cache_that_cannot_be_written_or_read_costs_time_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from numba.core import caching

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def damaged(*_: object) -> None:
        raise EOFError

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    monkeypatch.setattr(caching.IndexDataCacheFile, "load", damaged)
    compiled._warn_of_lost_cache.cache_clear()
    kernel = compiled.njit()(double)
    with pytest.warns(ImacWarning, match="disk full"):
        assert kernel(2.0) == 4.0


def test_names_that_are_imported_late_are_listed_for_completion() -> None:
    program = "import imac_torch; print(set(imac_torch.__all__) <= set(dir(imac_torch)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
