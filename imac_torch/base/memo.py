"""Results that are remembered while the tensors they came from stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import is_, methodcaller
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imac_torch.kernels.ahead import ready
from imac_torch.kernels.compiled import obstacle
from imac_torch.numeric.modes import lasting

Result = TypeVar("Result")
Seen = Tensor | tuple[object, ...]
"""A copy of a tensor, or a digest of it."""

COPIED: Final = 4096
"""Bytes up to which tensors are copied: digests are for those whose copies would cost memory."""
COPYING: Final = 1e-8
"""s per byte of a copy that is compared later on, which takes memory, too."""
KEYS: Final = np.random.default_rng().integers(0, 2**64, 1026, np.uint64)
"""Of digests; a process has its own, and no one's global generator moves on."""


class Memory(Generic[Result]):
    """The latest results, one per settings.

    Only an economy: results are functions of settings and tensors. A copy or a pickle starts empty.
    Tensors are compared by value: neither addresses nor version counters see everything that can
    be done to a tensor (``weight.data = …`` changes neither). Of large ones digests are kept.

    Args:
        limit: Settings that are remembered at once; where there are more, it starts anew.
    """

    def __init__(self, limit: int = 1) -> None:
        self.limit = limit
        self._entries: list[tuple[object, tuple[Seen, ...], Result]] = []

    def get(
        self, settings: object, tensors: Sequence[Tensor], compute: Callable[[], Result]
    ) -> Result:
        """The known result of the same settings and equal tensors, or a new one.

        Args:
            settings: What else the result depends on; compared by ``==``.
            tensors: As they are after the computation, which may settle some of them.
            compute: Called without gradients and outside of inference mode, so that its result
                serves whoever asks next.
        """
        known = None
        for entry in self._entries:  # without calls in Python where there are no tensors
            if entry[0] == settings:
                known = entry
        if known is not None and len(known[1]) == len(tensors):
            for one, two in zip(known[1], tensors, strict=True):
                if not (same_values(one, two) if isinstance(one, Tensor) else one == _seen(two)):
                    break
            else:
                return known[2]
        with lasting():
            result = compute()
            kept = tuple(_seen(tensor) for tensor in tensors)
        if known is not None:
            self._entries = [entry for entry in self._entries if entry is not known]
        elif len(self._entries) >= self.limit:
            self._entries.clear()
        self._entries.append((settings, kept, result))
        return result

    def clear(self) -> None:
        """Forget everything."""
        self._entries = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Memory[Result]:
        return Memory(self.limit)

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, (self.limit,)


class Standing(Generic[Result]):
    """The last result of modules, while they are what they were: a look, where calls cost most.

    It stands while everything that the modules hold is the same object, hooks and parts included,
    and tensors that it was made of are where they were, with the same values. Objects that change
    in place are not seen, so these are frozen, or given as ``others``, which are looked into.
    Where something is another object, whoever asks has to find out by himself what it means: it is
    an economy as :class:`Memory` is, and a copy or a pickle starts empty.
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, ...] | None = None

    def get(self) -> Result | None:
        """The result; None: there is none, or something has changed."""
        if self._kept is None:
            return None
        objects, inner, held, tensors, result = self._kept
        if _differ(_holdings(objects, inner), held) or not all(
            tensor.data_ptr() == address and tensor.shape == shape and tensor.is_contiguous()
            and _value(memory) == value
            for tensor, address, shape, memory, value in tensors
        ):  # fmt: skip
            self._kept = None  # nor is old memory held on to
            return None
        found: Result = result
        return found

    def put(
        self, modules: Iterable[nn.Module], others: Iterable[object], tensors: Iterable[Tensor],
        result: Result,
    ) -> None:
        """Remember a result.

        Args:
            modules: That it was made of.
            others: Objects that change in place.
            tensors: Contiguous ones, on the CPU.
            result: Likewise.
        """
        objects = [*modules, *others]
        inner = [
            value for item in objects for name, value in vars(item).items()
            if isinstance(value, dict) and "hooks" not in name
        ]  # fmt: skip
        kept = []
        for tensor in tensors:
            memory = tensor.detach().view(-1).view(torch.uint8).numpy()
            kept.append((tensor, tensor.data_ptr(), tensor.shape, memory, _value(memory)))
        self._kept = objects, inner, _holdings(objects, inner), kept, result

    def __deepcopy__(self, memo: dict[int, Any]) -> Standing[Result]:
        return Standing()

    def __reduce__(self) -> tuple[Any, ...]:
        return Standing, ()


_VALUES: Final = methodcaller("values")


def _holdings(objects: list[Any], inner: list[dict[Any, Any]]) -> list[Any]:
    """All that objects hold, directly or in dictionaries of theirs."""
    return [*chain.from_iterable(map(_VALUES, chain(map(vars, objects), inner)))]


def _differ(one: list[Any], two: list[Any]) -> bool:
    return len(one) != len(two) or not all(map(is_, one, two))


def _value(memory: NDArray[np.uint8]) -> object:
    """What bytes are compared by: themselves, or a digest."""
    if len(memory) <= COPIED or not _digests(len(memory)):
        return memory.tobytes()
    whole = len(memory) - len(memory) % 8
    return *_digest(memory[:whole].view(np.uint64)), memory[whole:].tobytes()


def _seen(tensor: Tensor) -> Seen:
    """What a tensor is compared by later on."""
    size = tensor.numel() * tensor.element_size()
    if tensor.device.type != "cpu" or size <= COPIED or not _digests(size):
        return tensor.detach().clone()
    memory = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return tensor.device, tensor.dtype, tensor.shape, _value(memory)


def _digests(size: int) -> bool:
    """Whether there are digests of so many bytes: the kernel may be compiling."""
    return obstacle() is None and ready("digest.digest", size * COPYING)


def _digest(words: NDArray[np.uint64]) -> tuple[int, int]:
    """Of (n,) words, by as many threads as torch has."""
    from imac_torch.kernels.digest import PIECE, digest, digests  # imports numba
    from imac_torch.kernels.threads import run_blocks

    if len(words) > PIECE:
        pieces = np.empty((-(-len(words) // PIECE), 2), np.uint64)
        run_blocks(digests, len(pieces), torch.get_num_threads(), words, KEYS, pieces)
        words = pieces.reshape(-1)
    found = np.empty(2, np.uint64)
    digest(words, KEYS, found)
    one, two = found.tolist()
    return one, two


def same_values(one: Tensor, two: Tensor) -> bool:
    """Same place, type and values; NaN (what is not determined yet) equals NaN."""
    if one.device != two.device or one.dtype != two.dtype or one.shape != two.shape:
        return False
    return torch.equal(one, two) or bool(((one == two) | (one.isnan() & two.isnan())).all())
