"""The torch path on a device that is not the processor: where it computes, and what it reads.

The device is torch's ``meta``, which has no data: whatever would copy a tensor to the host raises,
and so does an operation of tensors on different devices. Single numbers that a batch reads to
decide how to go on are those of the same batch on the processor.
"""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import torch
from gpu import on_device
from native import config, random_inputs, random_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import imac_torch as it

READ = "aten._local_scalar_dense"
SIZES = (40, 34, 10)
"""Two partitions of lines in the first layer, two in the second."""


class Reading(TorchDispatchMode):
    """Keeps the numbers that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if str(func).startswith(READ):
            self.numbers.append(found)
        return found


class Replaying(Reading):
    """Gives numbers that were read before, and looks at where and as what results are made."""

    def __init__(self, numbers: list[Any]) -> None:
        super().__init__()
        self.numbers = [*numbers]
        self.made: set[tuple[str, torch.dtype]] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if str(func).startswith(READ):
            return self.numbers.pop(0)
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.made.add((found.device.type, found.dtype))
        return found


def moved(things: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy without data, on the device ``meta``."""

    def without_data(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        return memo.setdefault(id(tensor), tensor.detach().to("meta"))

    copyreg.pickle(MappingProxyType, lambda item: (MappingProxyType, (dict(item),)))
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "__deepcopy__", without_data)
        return copy.deepcopy(things)


def solved(kind: str, images: int) -> tuple[Callable[..., it.Solution], list[Any], Any]:
    """The torch path's solution as a function, what a second call reads, and its arguments."""
    generator = torch.Generator().manual_seed(3)
    network = it.convert(random_model(SIZES, generator), config(2, kind))
    network = on_device(network, torch.device("cpu"))
    inputs = random_inputs(4, SIZES[0], generator).repeat(images // 4, 1)
    arguments = network.prepare(), network.voltages(inputs)
    with torch.no_grad():
        network.engine.solve(*arguments)
        with Reading() as reading:
            network.engine.solve(*arguments)
    return network.engine.solve, reading.numbers, arguments


@pytest.mark.parametrize(("kind", "most"), [("logistic", 6), ("finfet", 30)])
def test_a_batch_stays_on_its_device_in_float64(
    kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but single numbers is read: one per step of Newton's method and of its systems."""
    solve, numbers, arguments = solved(kind, 4)
    assert len(numbers) <= most
    prepared, voltages = moved(arguments, monkeypatch)
    with torch.no_grad(), Replaying(numbers) as replaying:
        solution = solve(prepared, voltages)
    assert not replaying.numbers
    assert solution.outputs.device.type == "meta"
    assert {device for device, _ in replaying.made} == {"meta"}
    assert {kind for _, kind in replaying.made} <= {torch.float64, torch.int64, torch.bool}
    _, of_more, _ = solved(kind, 32)
    assert len(of_more) == len(numbers)
