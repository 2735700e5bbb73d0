"""Keys of sweeps: what a result depends on is in them, and nothing else is."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imac_torch import Config, Neuron
from imac_torch.errors import ConfigError, ImacWarning
from imac_torch.sweep import NetworkEvaluator, Processes, read_sweep, run_sweep
from imac_torch.sweep.digest import Undigestible, content_of
from imac_torch.sweep.parcel import Parcel

BASE = Config(neuron=Neuron(kind="logistic"))


class Front(nn.Module):
    """Something of a user's: its attributes are no parameters."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        vars(self).update(attributes)

    def forward(self, values: Tensor) -> Tensor:
        return values


def evaluator(front: nn.Module, **options: Any) -> NetworkEvaluator:
    torch.manual_seed(0)
    model = nn.Sequential(front, nn.Linear(3, 2))
    return NetworkEvaluator(model, torch.zeros(2, 3), torch.tensor([0, 1]), BASE, **options)


def key(front: nn.Module) -> str:
    return evaluator(front).key({})


def scaled(by: float) -> Callable[[float], float]:
    return lambda value: value * by


def plus(by: float) -> Callable[[float], float]:
    return lambda value: value + by


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "number": (1.0, 0.1),
    "integer and float": (1, 1.0),
    "text": ("a", "b"),
    "list": ([1, 2], [2, 1]),
    "nesting": ([[1], 2], [[1, 2]]),
    "dictionary": ({"a": 1}, {"a": 2}),
    "set": ({1, 2}, {1, 3}),
    "tensor": (torch.zeros(2), torch.ones(2)),
    "shape": (torch.zeros(2, 1), torch.zeros(1, 2)),
    "type": (torch.zeros(2), torch.zeros(2).int()),
    "closure": (scaled(2.0), scaled(3.0)),
    "code": (scaled(2.0), plus(2.0)),
    "partial": (functools.partial(pow, 2), functools.partial(pow, 3)),
    "generator": (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
    "class": (nn.ReLU, nn.Tanh),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_every_attribute_is_in_the_key(kind: str) -> None:
    one, two = DIFFERENT[kind]
    assert key(Front(value=one)) != key(Front(value=two))
    assert key(Front(value=one)) == key(Front(value=one))


def test_hooks_and_replaced_methods_are_in_the_key() -> None:
    plain, hooked, hooked_too = Front(), Front(), Front()
    for item in (hooked, hooked_too):  # handles have different numbers
        item.register_forward_pre_hook(lambda module, inputs: None)
    assert key(hooked) == key(hooked_too)
    assert key(hooked) != key(plain)
    replaced = Front()
    replaced.forward = lambda values: 2 * values  # type: ignore[method-assign]
    assert key(replaced) != key(plain)


def test_training_mode_and_the_place_in_memory_are_not() -> None:
    assert key(Front().train()) == key(Front().eval())
    assert key(Front(value=[torch.zeros(1)] * 2)) == key(Front(value=[torch.zeros(1)] * 2))


def test_files_count_by_their_contents(tmp_path: Path) -> None:
    inner = tmp_path / "inner.sp"
    cell = tmp_path / "neuron.sp"
    cell.write_text(f".include {inner}\n")
    base = BASE.replace(neuron=Neuron(kind="logistic", subcircuit=str(cell)))
    keys = set()
    for text in ("* one\n", "* two\n"):
        inner.write_text(text)
        torch.manual_seed(0)
        sweep = NetworkEvaluator(
            nn.Linear(3, 2), torch.zeros(2, 3), torch.tensor([0, 1]), base
        )
        keys |= {sweep.key({}), key(Front(value=inner)), key(Front(value=str(inner)))}
    assert len(keys) == 6


def test_what_cannot_be_told_is_said_and_never_reused(tmp_path: Path) -> None:
    with pytest.raises(Undigestible, match=r"part\.lock"):
        content_of(part=Front(lock=threading.Lock()))
    first, second = (evaluator(Front(lock=threading.Lock())) for _ in range(2))
    with pytest.warns(ImacWarning, match=r"reuses no earlier results.*lock"):
        assert first.key({}) != second.key({})
    assert first.key({}) == first.key({})  # within one sweep it is one point


def test_mistyped_names_are_found_before_the_first_point() -> None:
    with pytest.raises(ConfigError, match="no module"):
        evaluator(Front(), exclude=("nothing",))
    with pytest.raises(ConfigError, match="include = 'Conv9d'"):
        evaluator(Front(), include=("Linear", "Conv9d"))
    with pytest.raises(ConfigError, match="area model"):
        evaluator(Front(), area_model="none")


BROKEN = {
    "model = 3": "model: .*dictionary",
    "[model]\nsource = 3": "source: .*valid string",
    "[model]\nsource = 'a:b'\n[data]\ntestnum = true": "testnum: True is not a value",
    "[model]\nsource = 'a:b'\nexclude = 'x'": "exclude: .*valid tuple",
    "points = 3\n[model]\nsource = 'a:b'": "points: .*valid tuple",
    "[model]\nsource = 'a:b'\n[objectives]\naccurcy = 'max'": "did you mean accuracy",
    "[model]\nsource = 'a:b'\n[objectives]\naccuracy = 1": "accuracy: .*'max' or 'min'",
    "[model]\nsource = 'a:b'\n[search]\nspace = 3": "space: .*valid dictionary",
    "[model]\nsource = 'a:b'\n[search.space]\n'device.rlo' = [1.0]": "did you mean device.rlow",
    "[model]\nsource = 'a:b'\n[search.space]\n'device.rlow' = {low = 'a', high = 3}": "numbers",
    "[model]\nsource = 'a:b'\n[grid]\n'device.rlow' = 3": "list of values",
    "[model": "TOML",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_wrong_sweep_file_says_what_is_wrong(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=BROKEN[text]):
        read_sweep(path)


def test_workers_that_cannot_start_say_why_once(tmp_path: Path) -> None:
    class Local(nn.Module):
        pass

    with pytest.raises(ConfigError, match=r"cannot be sent to workers.*Local"):
        run_sweep(
            [{"device.rlow": 1e5}], evaluator(Local()), tmp_path / "a.sqlite",
            backend=Processes(1), progress=False,
        )  # fmt: skip
    broken = evaluator(Front())
    object.__setattr__(broken, "inputs", torch.zeros(2, 4))  # which the model cannot take
    with pytest.raises(ConfigError, match=r"workers cannot start.*the model fails"):
        run_sweep(
            [{"device.rlow": rlow} for rlow in (1e5, 1.1e5, 1.2e5)], broken, tmp_path / "b.sqlite",
            backend=Processes(1), progress=False,
        )  # fmt: skip


def test_a_parcel_names_the_places_of_own_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_front.py").write_text(
        "from torch import nn\nclass Own(nn.Module):\n    def forward(self, v): return v\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import own_front  # type: ignore[import-not-found]

    assert str(tmp_path) in Parcel.of(evaluator(own_front.Own())).places
