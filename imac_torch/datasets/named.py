"""Labelled images for circuits: torchvision's data sets by name, and a small one without download.

Dimension letters: ``S`` samples, ``H`` image height, ``W`` image width.
"""

from __future__ import annotations

import gzip
import math
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from imac_torch.datasets.batches import check_labelled
from imac_torch.datasets.encode import Encode
from imac_torch.datasets.torchvision_compat import import_torchvision
from imac_torch.errors import DataError

__all__ = [
    "DATASETS",
    "ImageDataset",
    "dataset_files",
    "load_dataset",
]


@dataclass(frozen=True)
class _Source:
    """Where torchvision keeps a data set: its class, extra arguments, and the files of a split."""

    class_name: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    arguments: Mapping[str, str] = field(default_factory=dict)


def _idx(prefix: str, labels: str = "labels-idx1-ubyte") -> tuple[str, str]:
    return f"{prefix}images-idx3-ubyte", f"{prefix}{labels}"


_EMNIST_SPLITS: Final = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")
_SOURCES: Final[Mapping[str, _Source]] = {
    **{
        name: _Source(name, f"{name}/raw", _idx("train-"), _idx("t10k-"))
        for name in ("MNIST", "FashionMNIST", "KMNIST")
    },
    "QMNIST": _Source(
        "QMNIST",
        "QMNIST/raw",
        _idx("qmnist-train-", "labels-idx2-int"),
        _idx("qmnist-test-", "labels-idx2-int"),
    ),
    **{
        f"EMNIST-{split}": _Source(
            "EMNIST",
            "EMNIST/raw",
            _idx(f"emnist-{split}-train-"),
            _idx(f"emnist-{split}-test-"),
            {"split": split},
        )
        for split in _EMNIST_SPLITS
    },
    "USPS": _Source("USPS", ".", ("usps.bz2",), ("usps.t.bz2",)),
}
# torchvision unpickles these, and unpickling a file runs whatever it says.
_PICKLED: Final = ("CIFAR10", "CIFAR100")

DATASETS: Final[tuple[str, ...]] = ("digits", *_SOURCES)
"""The names that :func:`load_dataset` knows."""

_DIGITS_TEST: Final = 360  # of 1797: the fifth that is usual for this set
_DIGITS_SEED: Final = 1797


class ImageDataset(Dataset[tuple[Any, int]]):
    """Images in memory with their classes.

    Args:
        images: Shape (S, channels, H, W), floating, values in [0, 1].
        targets: Class indices, shape (S,), int64.
        transform: Applied to each image when it is asked for.
    """

    def __init__(
        self, images: Tensor, targets: Tensor, transform: Callable[[Any], Any] | None = None
    ) -> None:
        check_labelled((images, targets), where="ImageDataset")
        self.images = images
        self.targets = targets
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        return image if self.transform is None else self.transform(image), int(self.targets[index])


def dataset_files(name: str, root: str | Path, *, train: bool) -> tuple[Path, ...]:
    """Which files a data set needs, in torchvision's layout.

    Args:
        name: One of :data:`DATASETS`.
        root: Directory that holds the data sets.
        train: The training split, or the test split.

    Returns:
        The paths, existing or not; none for ``digits``. A ``.gz`` beside an IDX file's name serves
        as well.

    Raises:
        DataError: There is no such data set.
    """
    if name == "digits":
        return ()
    source = _source(name)
    names = source.train if train else source.test
    return tuple(Path(root) / source.folder / file for file in names)


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    train: bool,
    download: bool = False,
    transform: Callable[[Any], Any] | None = None,
) -> Dataset[tuple[Any, int]]:
    """Open a data set by name.

    ``digits`` are scikit-learn's 1797 handwritten digits of 8x8 pixels, which need no download,
    split once and for all into 1437 for training and 360 for testing. All others are torchvision's
    own classes. Only the files of the split asked for have to be there; nothing is written unless
    ``download`` is set.

    Args:
        name: One of :data:`DATASETS`.
        root: Directory that holds the data sets in torchvision's layout; unused for ``digits``.
        train: The training split, or the test split.
        download: Whether torchvision may download what is missing.
        transform: From image to network input; None stands for ``Encode()``, values in [-1, 1].
            It gets a PIL image, for ``digits`` a float32 tensor of shape (1, 8, 8) in [0, 1].

    Returns:
        A data set of pairs (input, class index).

    Raises:
        DataError: The name is unknown, files are missing (the message says which, and where they
            belong) or malformed, or a package is missing.
    """
    transform = Encode() if transform is None else transform
    if name == "digits":
        return _load_digits(train, transform)
    source = _source(name)
    if root is None:
        raise DataError(f"{name}: give root, the directory that holds (or shall hold) its files")
    files = dataset_files(name, root, train=train)
    missing = [file for file in files if not file.is_file() and not _compressed(file).is_file()]
    if missing and not download:
        raise DataError(_missing_message(name, missing))
    if missing or all(file.is_file() for file in files):
        return _open(name, source, Path(root), Path(root), train, bool(missing), transform)
    # torchvision reads unpacked files only. They go to a temporary directory: root may be
    # read-only, and everything is in memory once the data set is open.
    with tempfile.TemporaryDirectory(prefix="imac_torch-") as directory:
        for file in files:
            target = Path(directory) / source.folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            _unpack(file, target)
        return _open(name, source, Path(root), Path(directory), train, False, transform)


def _source(name: str) -> _Source:
    if name in _PICKLED:
        raise DataError(
            f"{name} is distributed as Python pickle, which runs code on loading, so it is not "
            f"opened by name; build torchvision.datasets.{name} yourself and pass it on"
        )
    if name not in _SOURCES:
        raise DataError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    return _SOURCES[name]


def _compressed(file: Path) -> Path:
    return file.with_name(file.name + ".gz")


def _missing_message(name: str, missing: list[Path]) -> str:
    listing = "\n".join(f"  {file}" for file in missing)
    gzipped = "" if name == "USPS" else " (or the same names with .gz)"
    return (
        f"{name}: these files are missing{gzipped}:\n{listing}\n"
        f"Put them there, or let torchvision download them: "
        f"load_dataset({name!r}, ..., download=True)"
    )


def _unpack(file: Path, target: Path) -> None:
    if file.is_file():
        shutil.copyfile(file, target)
        return
    packed = _compressed(file)
    try:
        with gzip.open(packed) as stream, target.open("wb") as out:
            shutil.copyfileobj(stream, out)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{packed}: cannot be unpacked, perhaps truncated: {error}") from error


def _open(
    name: str,
    source: _Source,
    root: Path,
    location: Path,
    train: bool,
    download: bool,
    transform: Callable[[Any], Any],
) -> Dataset[tuple[Any, int]]:
    """Let torchvision read ``location``; what comes back says that it came from ``root``."""
    original = getattr(import_torchvision().datasets, source.class_name)
    names = source.train if train else source.test
    files = [location / source.folder / name for name in names]
    shown = [root / source.folder / name for name in names]

    class OneSplit(original):  # type: ignore[misc, valid-type]
        """The data set, asking only for the files of one split and never for old pickles."""

        def _check_exists(self) -> bool:
            return all(file.is_file() for file in files)

        def _check_legacy_exist(self) -> bool:
            return False

    OneSplit.__name__ = source.class_name  # torchvision's folder is called like the class
    if not download:
        for file, user_file in zip(files, shown, strict=True):
            if "-idx" in file.name:
                _check_idx(file, user_file)
    try:
        dataset = OneSplit(
            str(location), train=train, download=download, transform=transform, **source.arguments
        )
    # torchvision checks little: what a malformed file raises depends on where it went wrong.
    except (
        ArithmeticError,
        AssertionError,
        EOFError,
        LookupError,
        OSError,  # failed downloads too: urllib's URLError is one
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        listing = ", ".join(map(str, shown))
        raise DataError(
            f"{name}: torchvision could not {'download' if download else 'read'} {listing}: {error}"
        ) from error
    dataset.root = str(root)
    # The restricted class has done its work; torchvision's own can be pickled for worker processes.
    dataset.__class__ = original
    labels = torch.as_tensor(dataset.targets, device="cpu")
    labels = labels[:, 0] if labels.ndim == 2 else labels  # QMNIST: class first, then origin
    if len(labels) != len(dataset.data):
        raise DataError(
            f"{name}: {len(dataset.data)} images but {len(labels)} labels in {root / source.folder}"
        )
    classes = len(getattr(dataset, "classes", range(10)))
    if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= classes:
        span = f"{int(labels.min())} to {int(labels.max())}" if len(labels) else "nothing"
        raise DataError(f"{name}: labels span {span}, expected 0 to {classes - 1}")
    return cast("Dataset[tuple[Any, int]]", dataset)


def _check_idx(file: Path, shown: Path) -> None:
    """Check that an IDX file has the length its header promises; errors call it ``shown``.

    Format (Y. LeCun, "The MNIST database"): two zero bytes, a type code, the number of
    dimensions, that many big-endian 32-bit sizes, then the values.
    """
    item_size = {0x08: 1, 0x09: 1, 0x0B: 2, 0x0C: 4, 0x0D: 4, 0x0E: 8}
    with file.open("rb") as stream:
        header = stream.read(4)
        if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in item_size:
            raise DataError(f"{shown}: not an IDX file, it starts with {header.hex(' ')}")
        sizes = stream.read(4 * header[3])
    if len(sizes) < 4 * header[3]:
        raise DataError(f"{shown}: truncated within its header")
    shape = [int.from_bytes(sizes[k : k + 4], "big") for k in range(0, len(sizes), 4)]
    text = "x".join(map(str, shape))
    if not shape or 0 in shape:
        raise DataError(f"{shown}: empty, its header says shape ({text})")
    expected = 4 + 4 * len(shape) + math.prod(shape) * item_size[header[2]]
    actual = file.stat().st_size
    if actual != expected:
        raise DataError(
            f"{shown}: {'truncated' if actual < expected else 'too long'}: {actual} bytes, but its "
            f"header, shape {text}, promises {expected}"
        )


def _load_digits(train: bool, transform: Callable[[Any], Any]) -> ImageDataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "digits come with scikit-learn: pip install scikit-learn, or imac_torch[examples]"
        ) from error
    bunch = load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32, device="cpu")[:, None]
    images = images / 16.0  # 17 grey levels
    targets = torch.as_tensor(bunch.target, dtype=torch.int64, device="cpu")
    generator = torch.Generator().manual_seed(_DIGITS_SEED)
    order = torch.randperm(len(targets), generator=generator, device="cpu")
    chosen = order[_DIGITS_TEST:] if train else order[:_DIGITS_TEST]
    return ImageDataset(images[chosen], targets[chosen], transform)
