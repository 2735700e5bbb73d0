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

    def vectors(self, x: Tensor) -> Tensor:
        """See :class:`Positions`."""
        self.places(x)
        padded, stride = self._in_windows(x)
        return unfolded(padded, self.kernel, stride, self.dilation)

    def lines(self, x: Tensor, numbers: Tensor) -> Tensor:
        """See :class:`Positions`; the last of the places' dimensions are samples."""
        self.places(x)
        padded, stride = self._in_windows(x)
        padded = padded if self.batched(padded) else padded[None]
        return gathered(padded, self.kernel, stride, self.dilation, numbers)

    def placed(self, rows: Tensor, x: Tensor) -> Tensor:
        """See :class:`Positions`."""
        places = self.places(x)
        samples = x.shape[: x.ndim - len(self.kernel) - 1].numel()
        found = rows.reshape(*places, samples, rows.shape[-1]).movedim((-2, -1), (0, 1))
        return found.contiguous() if self.batched(x) else found[0].contiguous()

    def _in_windows(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """What windows move over, padded, and by how much they do."""
        raise NotImplementedError

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


def gathered(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    lines: Tensor,
) -> Tensor:
    """(L, places·B): what lies on lines of the window at each of its places, in each sample.

    Samples are neighbours in memory, so that runs of them are copied.

    Args:
        x: (B, C, …), padded.
        kernel: (D,)
        stride: (D,)
        dilation: (D,)
        lines: (L,) int64, their numbers: channel by channel, what is in the window in order.
    """
    x = x.movedim(0, -1).contiguous()
    for d, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(1 + d, gap * (size - 1) + 1, step)[..., ::gap]
    # (C, places, B, kernel) → (C, kernel, places, B)
    count = len(kernel)
    x = x.movedim(tuple(range(-count, 0)), tuple(range(1, 1 + count)))
    return x.flatten(count + 1).flatten(0, count).index_select(0, lines)


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

    def _in_windows(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        return self._padded(x), self.stride

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
