"""Convolutions: the kernel is a matrix, applied at every place of its window."""

from __future__ import annotations

from typing import TypeAlias

from torch import nn

from imac_torch.conversion.handlers.source import Source
from imac_torch.model.positions import Stuffed, Windows

Convolution: TypeAlias = "nn.Conv1d | nn.Conv2d | nn.Conv3d"
Transposed: TypeAlias = "nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d"


def convolution(module: Convolution) -> Source:
    """A row per output channel, over the channels of its group and the places of the window."""
    padding: list[int] = []
    if module.padding == "same":  # torch's rule: what is odd more goes behind
        for gap, window in zip(module.dilation, module.kernel_size, strict=True):
            total = gap * (window - 1)
            padding += [total // 2, total - total // 2]
    elif module.padding == "valid":
        padding = [0, 0] * len(module.kernel_size)
    else:
        padding = [int(one) for one in module.padding for _ in range(2)]
    positions = Windows(
        groups=module.groups,
        kernel=tuple(module.kernel_size),
        stride=tuple(module.stride),
        dilation=tuple(module.dilation),
        padding=tuple(padding),
        mode=module.padding_mode,
    )
    return Source(module.weight.flatten(1), module.bias, positions=positions)


def transposed(module: Transposed) -> Source:
    """The same with the mirrored kernel, over inputs with zeros between them.

    A call's ``output_size`` is not in it, ``output_padding`` is.
    """
    groups, kernel = module.groups, tuple(module.kernel_size)
    by_groups = module.weight.unflatten(0, (groups, -1)).transpose(1, 2)
    mirrored = by_groups.flip(tuple(range(3, 3 + len(kernel))))
    positions = Stuffed(
        groups=groups,
        kernel=kernel,
        stride=tuple(module.stride),
        dilation=tuple(module.dilation),
        padding=tuple(int(one) for one in module.padding),
        more=tuple(module.output_padding),
    )
    return Source(mirrored.flatten(0, 1).flatten(1), module.bias, positions=positions)
