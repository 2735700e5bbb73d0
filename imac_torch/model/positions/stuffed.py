"""Transposed convolutions: a window that moves over the input with zeros between its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from torch import Tensor, nn

from imac_torch.model.positions.windows import Spatial

TRANSPOSED: Final = (
    nn.functional.conv_transpose1d, nn.functional.conv_transpose2d, nn.functional.conv_transpose3d,
)  # fmt: skip


@dataclass(frozen=True)
class Stuffed(Spatial):
    """``nn.ConvTranspose1d``, ``nn.ConvTranspose2d`` and ``nn.ConvTranspose3d``.

    ``stride - 1`` zeros stand between neighbours; over that moves a window in single steps, whose
    kernel is the module's, mirrored. A position's inputs that are zeros are lines at 0 V.

    Attributes:
        padding: (D,) that the output is shorter by on both sides.
        more: (D,) ``output_padding``: that it is longer by behind.
    """

    padding: tuple[int, ...] = (0,)
    more: tuple[int, ...] = (0,)

    kind: ClassVar[str] = "stuffed"

    def _in_windows(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        count = len(self.kernel)
        sizes = x.shape[x.ndim - count :]
        steps = zip(sizes, self.stride, strict=True)
        stuffed = x.new_zeros(*x.shape[:-count], *((size - 1) * step + 1 for size, step in steps))
        between: list[Any] = [..., *(slice(None, None, step) for step in self.stride)]
        stuffed[tuple(between)] = x
        around: list[int] = []
        for window, gap, less, more in zip(
            self.kernel, self.dilation, self.padding, self.more, strict=True
        ):
            own = gap * (window - 1) - less
            around = [own, own + more, *around]
        return nn.functional.pad(stuffed, around), (1,) * count

    def through(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See :class:`Positions`."""
        self.places(x)
        found: Tensor = TRANSPOSED[len(self.kernel) - 1](  # type: ignore[operator]
            x, mirrored(weight, self.groups, self.kernel), bias, self.stride, self.padding,
            self.more, self.groups, self.dilation,
        )  # fmt: skip
        return found

    def _places(self, sizes: Sequence[int]) -> tuple[int, ...]:
        values = zip(
            sizes, self.stride, self.padding, self.dilation, self.kernel, self.more, strict=True
        )
        return tuple(
            (size - 1) * step - 2 * less + gap * (window - 1) + more + 1
            for size, step, less, gap, window, more in values
        )


def mirrored(weight: Tensor, groups: int, kernel: Sequence[int]) -> Tensor:
    """Between a matrix (M, C/G·K) and torch's kernel (C, M/G, …) of a transposed convolution.

    Args:
        weight: The matrix.
        groups: G.
        kernel: (D,)
    """
    by_groups = weight.reshape(groups, len(weight) // groups, -1, *kernel)
    turned = by_groups.transpose(1, 2).flip(tuple(range(3, 3 + len(kernel))))
    return turned.flatten(0, 1)
