"""Convolutions: a matrix at every place of a window that moves over the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from torch import Tensor, nn

from imac_torch.errors import CircuitError
from imac_torch.model.positions.base import Positions

CONVOLUTIONS: Final = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)
MODES: Final = {"zeros": "constant"}
"""What ``torch.nn.functional.pad`` calls the modes of padding, where the name is another one."""


@dataclass(frozen=True)
class Spatial(Positions):
    """(B, C, …) or (C, …) with D spatial dimensions; inputs are ordered channel by channel.

    Attributes:
        kernel: (D,) size of the window.
        stride: (D,)
        dilation: (D,)
    """

    kernel: tuple[int, ...] = (1,)
    stride: tuple[int, ...] = (1,)
    dilation: tuple[int, ...] = (1,)

    def inputs(self, x: Tensor) -> int:
        """See :class:`Positions`."""
        count = len(self.kernel)
        if x.ndim not in (count + 1, count + 2):
            raise CircuitError(
                f"a window of {count} dimensions takes (B, C, …) or (C, …) with as many behind C, "
                f"this is {tuple(x.shape)}"
            )
        size = 1
        for one in self.kernel:
            size *= one
        return size * int(x.shape[-count - 1])

    def tensor(self, rows: Tensor, x: Tensor) -> Tensor:
        """See :class:`Positions`."""
        batch = x.shape[: x.ndim - len(self.kernel) - 1]
        return rows.reshape(*batch, *self.places(x), rows.shape[-1]).movedim(-1, len(batch))

    def batched(self, x: Tensor) -> bool:
        """See :class:`Positions`."""
        return x.ndim == len(self.kernel) + 2

    def count(self, x: Tensor) -> int:
        """See :class:`Positions`."""
        count = 1
        for one in self.places(x):
            count *= one
        return count

    def places(self, x: Tensor) -> tuple[int, ...]:
        """(D,) size of the output.

        Raises:
            CircuitError: The window is larger than the padded input.
        """
        found = self._places(x.shape[x.ndim - len(self.kernel) :])
        if min(found) < 1:
            raise CircuitError(
                f"a window of {self.kernel} (dilation {self.dilation}) does not fit into "
                f"{tuple(x.shape)} with its padding"
            )
        return found

    def _places(self, sizes: Sequence[int]) -> tuple[int, ...]:
        raise NotImplementedError


def unfolded(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """(R, C·K): what lies in the window at each of its places, K numbers of every channel.

    Neighbours in memory are neighbouring places, as in the input: copied in the other order it
    would take several times as long.

    Args:
        x: (B, C, …) or (C, …), padded.
        kernel: (D,)
        stride: (D,)
        dilation: (D,)
    """
    count = len(kernel)
    channel = x.ndim - count - 1
    for d, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(channel + 1 + d, gap * (size - 1) + 1, step)[..., ::gap]
    # (…, C, places, kernel) → (C, kernel, …, places)
    order = [channel, *range(x.ndim - count, x.ndim), *range(channel)]
    order += range(channel + 1, x.ndim - count)
    return x.permute(order).flatten(count + 1).flatten(0, count).T


@dataclass(frozen=True)
class Windows(Spatial):
    """``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d``.

    Attributes:
        padding: (2·D,) before and behind every spatial dimension, the first one first.
        mode: What is there, as torch names it: ``zeros``, ``reflect``, ``replicate``, ``circular``.
    """

    padding: tuple[int, ...] = (0, 0)
    mode: str = "zeros"

    kind: ClassVar[str] = "windows"

    def vectors(self, x: Tensor) -> Tensor:
        """See :class:`Positions`."""
        self.places(x)
        return unfolded(self._padded(x), self.kernel, self.stride, self.dilation)

    def through(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See :class:`Positions`."""
        self.places(x)
        padding = self.padding[::2]
        if self.mode != "zeros" or padding != self.padding[1::2]:
            x, padding = self._padded(x), (0,) * len(self.kernel)
        weight = weight.reshape(len(weight), -1, *self.kernel)
        found: Tensor = CONVOLUTIONS[len(self.kernel) - 1](  # type: ignore[operator]
            x, weight, bias, self.stride, padding, self.dilation, self.groups
        )
        return found

    def _padded(self, x: Tensor) -> Tensor:
        if not any(self.padding):
            return x
        pairs = zip(self.padding[::2], self.padding[1::2], strict=True)
        backwards = [one for pair in reversed(list(pairs)) for one in pair]
        alone = x.ndim == len(self.kernel) + 1
        padded = nn.functional.pad(
            x[None] if alone else x, backwards, mode=MODES.get(self.mode, self.mode)
        )
        return padded[0] if alone else padded

    def _places(self, sizes: Sequence[int]) -> tuple[int, ...]:
        lasts = zip(
            sizes, self.padding[::2], self.padding[1::2], self.kernel, self.stride, self.dilation,
            strict=True,
        )  # fmt: skip
        return tuple(
            (size + before + behind - gap * (window - 1) - 1) // step + 1
            for size, before, behind, window, step, gap in lasts
        )
