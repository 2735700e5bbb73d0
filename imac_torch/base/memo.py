"""Results that are remembered while the tensors they came from stay the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from imac_torch.kernels.compiled import obstacle
from imac_torch.numeric.modes import lasting

Result = TypeVar("Result")
Seen = Tensor | tuple[object, ...]
"""A copy of a tensor, or a digest of it."""

COPIED: Final = 4096
"""Bytes up to which tensors are copied: digests are for those whose copies would cost memory."""
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
        known = next((entry for entry in self._entries if entry[0] == settings), None)
        if known is not None and len(known[1]) == len(tensors) and all(
            same_values(one, two) if isinstance(one, Tensor) else one == _seen(two)
            for one, two in zip(known[1], tensors, strict=True)
        ):
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


def _seen(tensor: Tensor) -> Seen:
    """What a tensor is compared by later on."""
    size = tensor.numel() * tensor.element_size()
    if tensor.device.type != "cpu" or size <= COPIED or obstacle() is not None:
        return tensor.detach().clone()
    from imac_torch.kernels.digest import PIECE, digest, digests  # imports numba
    from imac_torch.kernels.threads import run_blocks

    found = np.empty(2, np.uint64)
    if tensor.dtype == torch.float64:
        words, rest = tensor.detach().contiguous().view(-1).numpy().view(np.uint64), b""
    else:
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        whole = size - size % 8
        words, rest = data[:whole].numpy().view(np.uint64), bytes(data[whole:].tolist())
    if len(words) > PIECE:
        pieces = np.empty((-(-len(words) // PIECE), 2), np.uint64)
        run_blocks(digests, len(pieces), torch.get_num_threads(), words, KEYS, pieces)
        words = pieces.reshape(-1)
    digest(words, KEYS, found)
    return tensor.device, tensor.dtype, tensor.shape, int(found[0]), int(found[1]), rest


def same_values(one: Tensor, two: Tensor) -> bool:
    """Same place, type and values; NaN (what is not determined yet) equals NaN."""
    if one.device != two.device or one.dtype != two.dtype or one.shape != two.shape:
        return False
    return torch.equal(one, two) or bool(((one == two) | (one.isnan() & two.isnan())).all())
