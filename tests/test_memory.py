"""Results are remembered while settings and tensors are the same, and not a change longer."""

import copy
import pickle

import pytest
import torch

from imac_torch.base.memo import Memory


def counted(memory, settings, *tensors):
    """Whether the result was computed."""
    calls = []
    memory.get(settings, tensors, lambda: calls.append(torch.is_grad_enabled()))
    assert calls in ([], [False])  # never with a graph, which would be freed by its first use
    return bool(calls)


def test_equal_settings_and_values_are_remembered():
    memory, tensor = Memory(), torch.tensor([1.0, torch.nan], requires_grad=True)
    assert counted(memory, 1, tensor)
    assert not counted(memory, 1, tensor)
    assert not counted(memory, 1, tensor.detach().clone())
    assert counted(memory, 2, tensor)


@pytest.mark.parametrize(
    "other",
    [(torch.tensor([1.0, 3.0]),), (torch.tensor([1.0, 2.0], dtype=torch.float64),),
     (torch.tensor([[1.0, 2.0]]),), (torch.tensor([1.0, 2.0]),) * 2, ()],
)  # fmt: skip
def test_other_tensors_are_computed_for(other):
    memory = Memory()
    assert counted(memory, 1, torch.tensor([1.0, 2.0]))
    assert counted(memory, 1, *other)
    assert not counted(memory, 1, *other)  # the newest counts


def test_a_change_in_place_is_seen_however_it_is_made():
    memory, tensor = Memory(), torch.zeros(3)
    assert counted(memory, 1, tensor)
    tensor.numpy()[0] = 1.0
    assert counted(memory, 1, tensor)


def test_tensors_count_as_they_are_after_the_computation():
    memory, tensor = Memory(), torch.tensor(torch.nan)
    memory.get(1, (tensor,), lambda: tensor.fill_(2.0))
    assert not counted(memory, 1, tensor)


def test_the_limit_bounds_what_is_kept():
    memory = Memory(2)
    assert [counted(memory, k) for k in (1, 2, 1, 2)] == [True, True, False, False]
    assert [counted(memory, k) for k in (3, 3, 1)] == [True, False, True]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
def test_copies_start_empty(copied):
    memory = Memory(2)
    counted(memory, 1)
    other = copied(memory)
    assert other.limit == 2 and counted(other, 1) and not counted(memory, 1)


@pytest.mark.parametrize("size", [2051, 4096, 70001])
def test_large_tensors_are_known_by_digests_that_see_every_change(size):
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(size))
    memory = Memory()
    assert counted(memory, 1, tensor)
    assert not counted(memory, 1, tensor.clone())
    assert not any(isinstance(item, torch.Tensor) for item in memory._entries[0][1])
    far = size - 1
    for change in (
        lambda t: t.neg_(), lambda t: t[:2].neg_(), lambda t: t[[0, far]].neg_(),
        lambda t: t.copy_(t.flip(0)), lambda t: t[0].nextafter_(torch.tensor(9.0)),
        lambda t: t[far].nextafter_(torch.tensor(9.0)), lambda t: t.copy_(t.roll(2)),
    ):  # fmt: skip
        other = tensor.clone()
        change(other.data)
        if torch.equal(other, tensor):  # an index made a copy
            other[[0, far]] = -other[[0, far]]
        assert counted(memory, 1, other)
        assert counted(memory, 1, tensor)
    assert counted(memory, 1, tensor.view(torch.int32))
    assert counted(memory, 1, tensor[None])
