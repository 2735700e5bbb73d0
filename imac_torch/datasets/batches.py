"""Checked pairs of inputs and labels out of a loader.

Dimension letter: ``B`` batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from imac_torch.errors import DataError, ImacError

__all__ = [
    "check_labelled", "check_labels", "chosen", "first_samples", "labelled_batches", "samples_in",
    "taken",
]  # fmt: skip

Batch = TypeVar("Batch")


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
    labels = check_labels(labels, inputs, classes=classes, where=where)
    if not len(labels):
        raise DataError(f"{where}: no samples in it")
    if inputs.is_floating_point():
        bad = (~torch.isfinite(inputs.flatten(1) if inputs.ndim > 1 else inputs[:, None])).any(1)
        if bad.any():
            raise DataError(f"{where}: sample {int(bad.nonzero()[0])} has a NaN or infinite input")
    return inputs, labels


def check_labels(
    labels: Tensor, inputs: Tensor, *, classes: int | None = None, where: str = "labels"
) -> Tensor:
    """Check that labels are class indices of inputs.

    Args:
        labels: (B,), of an integer type.
        inputs: (B, ...).
        classes: Number of classes, if known.
        where: What to call them in errors.

    Returns:
        (B,) int64, on the CPU or wherever they are.

    Raises:
        DataError: Count, dtype or range do not fit.
    """
    if not isinstance(labels, Tensor):
        raise DataError(f"{where}: class indices are a tensor, not a {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(
            f"{where}: labels must be integer class indices, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}; turn one-hot labels into indices with argmax(dim=1), yes and "
            "no into 1 and 0 with .long()"
        )
    if labels.ndim != 1 or inputs.ndim < 1 or len(inputs) != len(labels):
        raise DataError(
            f"{where}: inputs of shape {tuple(inputs.shape)} need labels of shape "
            f"({len(inputs) if inputs.ndim else 'B'},), got {tuple(labels.shape)}"
        )
    if not len(labels):
        return labels.long()
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        limit = "" if classes is None else f" to {classes - 1}"
        raise DataError(f"{where}: labels span {low} to {high}, expected 0{limit}")
    return labels.long()


def chosen(scores: Tensor, threshold: float | None = None) -> Tensor:
    """The class that outputs stand for.

    Args:
        scores: (..., M): the largest is the answer. Of M = 1, class 1 is the answer above the
            threshold, class 0 below.
        threshold: For one output; None: it has none.

    Returns:
        (...) int64; -1, which is no class, where all outputs are equal or one is no number.

    Raises:
        DataError: There is one output, and no threshold.
    """
    if scores.shape[-1] == 1:
        if threshold is None:
            raise DataError(
                "a network of one output says yes or no by a threshold: 0.5 of a sigmoid, 0 of a "
                "tanh or without an activation; after a ReLU or a softmax there is none. Train "
                "it with two outputs, or do without labels"
            )
        single = scores[..., 0]
        tied = single == threshold
        answer = (single > threshold).long()
    else:
        answer = scores.argmax(-1)
        tied = (scores == scores[..., :1]).all(-1)
    return torch.where(tied | scores.isnan().any(-1), -1, answer)


def labelled_batches(
    loader: Iterable[object],
    *,
    classes: int | None = None,
    first: int = 0,
    limit: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Walk through a loader and check every batch with :func:`check_labelled`.

    Args:
        loader: A DataLoader, or any iterable of pairs (inputs, labels).
        classes: Number of classes, if known.
        first: Samples to skip.
        limit: Samples to take, None for all; nothing is read behind them.

    Yields:
        Inputs of shape (B, ...) and labels of shape (B,), int64, of the samples asked for.

    Raises:
        DataError: A batch is malformed (its number, from 0, is named), the loader raised an error,
            or there is no batch, or fewer samples than asked for.
    """
    def read(batch: object, where: str) -> tuple[tuple[Tensor, Tensor], int]:
        pair = check_labelled(batch, classes=classes, where=where)
        return pair, len(pair[1])

    def cut(pair: tuple[Tensor, Tensor], which: slice) -> tuple[Tensor, Tensor]:
        return pair[0][which], pair[1][which]

    yield from taken(loader, read, cut, first=first, limit=limit)


def first_samples(
    loader: Iterable[object], samples: int | None = None
) -> tuple[Tensor, Tensor]:
    """Inputs and classes of the first samples that a loader gives, or of all.

    Raises:
        DataError: It gives none, or a batch is malformed.
    """
    batches, classes, found = [], [], 0
    for inputs, labels in labelled_batches(loader):
        left = None if samples is None else samples - found
        batches.append(inputs[:left])
        classes.append(labels[:left])
        found += len(classes[-1])
        if found == samples:
            break
    if not found:
        raise DataError("the loader has no samples")
    return torch.cat(batches), torch.cat(classes)


def taken(
    loader: Iterable[object],
    read: Callable[[object, str], tuple[Batch, int]],
    cut: Callable[[Batch, slice], Batch],
    *,
    first: int = 0,
    limit: int | None = None,
) -> Iterator[Batch]:
    """Walk through a loader for the samples asked for.

    Args:
        loader: Any iterable of batches.
        read: Checks what the loader yielded, given what to call it in errors, and says how many
            samples it has.
        cut: Some samples of a batch.
        first: Samples to skip.
        limit: Samples to take, None for all; nothing is read behind them.

    Yields:
        Batches, the first and the last cut where not all of their samples were asked for.

    Raises:
        DataError: The loader raised an error, or there is no batch, or fewer samples than asked
            for; and what ``read`` raises.
    """
    if first < 0 or (limit is not None and limit < 1):
        raise DataError(f"first = {first} must be >= 0 and limit = {limit} >= 1")
    end = math.inf if limit is None else first + limit
    seen = 0
    for number, item in enumerate(_told(loader)):
        batch, count = read(item, f"batch {number}")
        start, stop = max(0, first - seen), int(min(count, end - seen))
        seen += count
        if start < stop:
            yield cut(batch, slice(start, stop))
        if seen >= end:
            return
    if seen <= first or limit is not None:
        raise DataError(
            f"the loader has {seen} samples; samples {first} to "
            f"{'the end' if limit is None else first + limit - 1} were asked for"
        )


def samples_in(loader: Iterable[object], first: int = 0, limit: int | None = None) -> int | None:
    """How many samples :func:`taken` will give, if the loader tells."""
    dataset = getattr(loader, "dataset", None)
    try:
        size = len(dataset) - first  # type: ignore[arg-type]
    except TypeError:
        return limit
    return size if limit is None else min(size, limit)


def _told(loader: Iterable[object]) -> Iterator[object]:
    """Batches, at least one; what the user's data set raises says at which one."""
    count = 0
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            break
        except ImacError:
            raise
        except Exception as error:  # the user's data set
            raise DataError(
                f"the loader failed at batch {count}: {type(error).__name__}: {error}"
            ) from error
        yield batch
        count += 1
    if not count:
        raise DataError("the loader yielded no batches")
