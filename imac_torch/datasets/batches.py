"""Checked pairs of inputs and labels out of a loader.

Dimension letter: ``B`` batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from imac_torch.errors import DataError

__all__ = ["check_labelled", "labelled_batches"]


def check_labelled(
    batch: object, *, classes: int | None = None, where: str = "batch"
) -> tuple[Tensor, Tensor]:
    """Check that a batch is a pair of finite inputs and class indices that belong together.

    Args:
        batch: What a loader yielded.
        classes: Number of classes, if known.
        where: What to call the batch in errors.

    Returns:
        Inputs of shape (B, ...), and labels of shape (B,), int64.

    Raises:
        DataError: There are no labels, or their count, dtype or range do not fit; inputs hold NaN
            or infinities; the batch is empty.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        got = type(batch).__name__ + (
            f" of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else ""
        )
        raise DataError(f"{where}: expected a pair (inputs, labels), got a {got}: without labels")
    inputs, labels = batch
    if not isinstance(inputs, Tensor) or not isinstance(labels, Tensor):
        raise DataError(
            f"{where}: inputs and labels must be tensors, got {type(inputs).__name__} and "
            f"{type(labels).__name__}; give the data set a transform that makes tensors"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(
            f"{where}: labels must be integer class indices, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}; turn one-hot labels into indices with argmax(dim=1)"
        )
    if labels.ndim != 1 or inputs.ndim < 1 or len(inputs) != len(labels):
        raise DataError(
            f"{where}: inputs of shape {tuple(inputs.shape)} need labels of shape "
            f"({len(inputs) if inputs.ndim else 'B'},), got {tuple(labels.shape)}"
        )
    if not len(labels):
        raise DataError(f"{where}: no samples in it")
    if inputs.is_floating_point():
        bad = (~torch.isfinite(inputs.flatten(1) if inputs.ndim > 1 else inputs[:, None])).any(1)
        if bad.any():
            raise DataError(f"{where}: sample {int(bad.nonzero()[0])} has a NaN or infinite input")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        limit = "" if classes is None else f" to {classes - 1}"
        raise DataError(f"{where}: labels span {low} to {high}, expected 0{limit}")
    return inputs, labels.long()


def labelled_batches(
    loader: Iterable[object], *, classes: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Walk through a loader and check every batch with :func:`check_labelled`.

    Args:
        loader: A DataLoader, or any iterable of pairs (inputs, labels).
        classes: Number of classes, if known.

    Yields:
        Inputs of shape (B, ...) and labels of shape (B,), int64.

    Raises:
        DataError: A batch is malformed (its number, from 0, is named), or there is none.
    """
    count = 0
    for count, batch in enumerate(loader, start=1):
        yield check_labelled(batch, classes=classes, where=f"batch {count - 1}")
    if not count:
        raise DataError("the loader yielded no batches")
