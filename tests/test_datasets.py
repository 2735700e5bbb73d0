import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from imac_torch.datasets.batches import labelled_batches
from imac_torch.datasets.encode import Encode
from imac_torch.datasets.named import DATASETS, dataset_files, load_dataset
from imac_torch.datasets.own import read_samples
from imac_torch.errors import DataError

IDX_NAMES = [name for name in DATASETS if name not in ("digits", "USPS")]


def idx(array: torch.Tensor) -> bytes:
    """An IDX file of unsigned bytes, or of 32-bit integers."""
    code = 0x08 if array.dtype == torch.uint8 else 0x0C
    header = bytes([0, 0, code, array.ndim])
    header += b"".join(size.to_bytes(4, "big") for size in array.shape)
    width = 1 if code == 0x08 else 4
    return header + b"".join(int(v).to_bytes(width, "big") for v in array.flatten())


def write_split(name: str, root: Path, *, train: bool, count: int = 4) -> torch.Tensor:
    """Lay out one split of synthetic 3x5 images; labels are 1, 2, 3, ..."""
    images = torch.arange(count * 15, dtype=torch.int64).remainder(256).to(torch.uint8)
    images = images.reshape(count, 3, 5)
    labels = torch.arange(1, count + 1, dtype=torch.uint8)
    if name == "QMNIST":  # class, series, writer, ...: eight integers for each image
        labels = torch.stack([labels.int()] + [labels.int() + 300 * k for k in range(1, 8)], dim=1)
    image_file, label_file = dataset_files(name, root, train=train)
    image_file.parent.mkdir(parents=True, exist_ok=True)
    image_file.write_bytes(idx(images))
    label_file.write_bytes(idx(labels))
    return images


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", IDX_NAMES)
def test_idx_sets_open_with_one_split_only(tmp_path: Path, name: str, train: bool) -> None:
    images = write_split(name, tmp_path, train=train)
    dataset = load_dataset(name, tmp_path, train=train)
    (inputs, labels) = next(labelled_batches(DataLoader(dataset, batch_size=4)))
    assert inputs.shape == (4, 1, 3, 5)
    # EMNIST's files are transposed by those who want to look at them, not by torchvision.
    assert torch.equal(inputs, Encode()(images[:, None]))
    assert labels.tolist() == [1, 2, 3, 4]
    with pytest.raises(DataError, match="these files are missing"):
        load_dataset(name, tmp_path, train=not train)


def test_the_result_is_torchvisions_own_and_goes_to_workers(tmp_path: Path) -> None:
    write_split("MNIST", tmp_path, train=False)
    dataset = load_dataset("MNIST", tmp_path, train=False)
    assert type(dataset).__module__ == "torchvision.datasets.mnist"
    assert dataset.root == str(tmp_path)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[3][0], dataset[3][0])


def test_packed_files_are_read_and_nothing_is_written(tmp_path: Path) -> None:
    images = write_split("KMNIST", tmp_path, train=False)
    image_file, _ = dataset_files("KMNIST", tmp_path, train=False)
    with gzip.open(f"{image_file}.gz", "wb") as stream:
        stream.write(image_file.read_bytes())
    image_file.unlink()
    before = sorted(tmp_path.rglob("*"))
    dataset = load_dataset("KMNIST", tmp_path, train=False)
    assert sorted(tmp_path.rglob("*")) == before
    assert dataset.root == str(tmp_path)
    assert torch.equal(dataset[2][0], Encode()(images[2:3]))


def test_a_given_transform_gets_the_image(tmp_path: Path) -> None:
    write_split("MNIST", tmp_path, train=False)
    dataset = load_dataset("MNIST", tmp_path, train=False, transform=lambda image: image.size)
    assert dataset[0] == ((5, 3), 1)


def test_missing_files_are_listed_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset("FashionMNIST", tmp_path, train=False)
    message = str(caught.value)
    for file in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        assert str(tmp_path / "FashionMNIST" / "raw" / file) in message
    assert "download=True" in message


def truncated(files: tuple[Path, ...]) -> None:
    files[0].write_bytes(files[0].read_bytes()[:-1])


def truncated_header(files: tuple[Path, ...]) -> None:
    files[0].write_bytes(files[0].read_bytes()[:10])


def too_long(files: tuple[Path, ...]) -> None:
    files[1].write_bytes(files[1].read_bytes() + b"\0")


def web_page(files: tuple[Path, ...]) -> None:
    files[1].write_bytes(b"<html>not found</html>")


def fewer_labels(files: tuple[Path, ...]) -> None:
    files[1].write_bytes(idx(torch.tensor([1, 2, 3], dtype=torch.uint8)))


def label_of_no_class(files: tuple[Path, ...]) -> None:
    files[1].write_bytes(idx(torch.tensor([1, 2, 3, 10], dtype=torch.uint8)))


def no_images(files: tuple[Path, ...]) -> None:
    files[0].write_bytes(idx(torch.zeros(0, 3, 5, dtype=torch.uint8)))
    files[1].write_bytes(idx(torch.zeros(0, dtype=torch.uint8)))


def flat_images(files: tuple[Path, ...]) -> None:
    files[0].write_bytes(idx(torch.zeros(4, 15, dtype=torch.uint8)))


def broken_gzip(files: tuple[Path, ...]) -> None:
    packed = gzip.compress(files[0].read_bytes())
    files[0].unlink()
    Path(f"{files[0]}.gz").write_bytes(packed[: len(packed) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "t10k-images-idx3-ubyte: truncated: 75 bytes.*4x3x5, promises 76"),
        (truncated_header, "t10k-images-idx3-ubyte: truncated within"),
        (too_long, "t10k-labels-idx1-ubyte: too long"),
        (web_page, "t10k-labels-idx1-ubyte: not an IDX file"),
        (fewer_labels, "4 images but 3 labels"),
        (label_of_no_class, "labels span 1 to 10, expected 0 to 9"),
        (no_images, "t10k-images-idx3-ubyte: empty, its header says shape .0x3x5"),
        (flat_images, "could not read .*t10k-images-idx3-ubyte"),
        (broken_gzip, "t10k-images-idx3-ubyte.gz: cannot be unpacked"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, damage, message: str) -> None:
    write_split("MNIST", tmp_path, train=False)
    damage(dataset_files("MNIST", tmp_path, train=False))
    with pytest.raises(DataError, match=message):
        load_dataset("MNIST", tmp_path, train=False)


def test_old_processed_pickles_are_never_opened(tmp_path: Path) -> None:
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        images, labels = torch.zeros(1, 3, 5, dtype=torch.uint8), torch.zeros(1).long()
        torch.save((images, labels), processed / name)
    with pytest.raises(DataError, match="these files are missing"):
        load_dataset("MNIST", tmp_path, train=False)
    write_split("MNIST", tmp_path, train=False)
    assert len(load_dataset("MNIST", tmp_path, train=False)) == 4


def test_usps(tmp_path: Path) -> None:
    import bz2

    lines = [f"{k} " + " ".join(f"{i}:{(-1) ** i}" for i in range(1, 257)) for k in (1, 10)]
    (file,) = dataset_files("USPS", tmp_path, train=False)
    file.write_bytes(bz2.compress("\n".join(lines).encode()))
    dataset = load_dataset("USPS", tmp_path, train=False)
    image, label = dataset[1]
    assert (image.shape, label) == ((1, 16, 16), 9)
    assert image[0, 0, :2].tolist() == [-1.0, 1.0]
    file.write_bytes(bz2.compress(b"3 1:0.5 2:zero"))
    with pytest.raises(DataError, match=r"could not read .*usps.t.bz2"):
        load_dataset("USPS", tmp_path, train=False)


def test_names_that_are_not_known_or_not_safe(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown data set 'mnist'; known are digits, MNIST"):
        load_dataset("mnist", tmp_path, train=True)
    with pytest.raises(DataError, match="pickle"):
        load_dataset("CIFAR10", tmp_path, train=True)
    with pytest.raises(DataError, match="give root"):
        load_dataset("MNIST", train=True)


def test_a_failed_download_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imac_torch.datasets.torchvision_compat import import_torchvision

    def offline(*_args, **_kwargs) -> None:
        raise OSError("no network")

    mnist = import_torchvision().datasets.mnist
    monkeypatch.setattr(mnist, "download_and_extract_archive", offline)
    with pytest.raises(DataError, match=r"could not download .*no network"):
        load_dataset("MNIST", tmp_path, train=False, download=True)
    # With the files in place there is nothing to download.
    write_split("MNIST", tmp_path, train=False)
    assert len(load_dataset("MNIST", tmp_path, train=False, download=True)) == 4


def test_digits_are_split_once_and_for_all() -> None:
    pytest.importorskip("sklearn")
    train = load_dataset("digits", train=True, transform=lambda image: image)
    test = load_dataset("digits", train=False, transform=lambda image: image)
    assert (len(train), len(test)) == (1437, 360)
    images = torch.cat([train.images, test.images])
    assert (images.shape, images.min(), images.max()) == ((1797, 1, 8, 8), 0.0, 1.0)
    # The two splits are disjoint and together the whole set: its pixel sum, counted once.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    assert float(images.double().sum() * 16) == bunch.images.sum()
    both = torch.cat([train.targets, test.targets])
    assert torch.bincount(both).tolist() == torch.bincount(torch.tensor(bunch.target)).tolist()
    again = load_dataset("digits", train=False)
    assert torch.equal(again.targets, test.targets)
    assert torch.bincount(test.targets).min() > 20  # every class can be tested


def test_digits_default_encoding() -> None:
    pytest.importorskip("sklearn")
    loader = DataLoader(load_dataset("digits", train=False), batch_size=360)
    inputs, labels = next(labelled_batches(loader, classes=10))
    assert (inputs.min(), inputs.max(), len(labels)) == (-1.0, 1.0, 360)


def test_the_real_mnist_test_files(tmp_path: Path, shared: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (shared / "mnist").glob("*.gz"):
        (raw / file.name).symlink_to(file.resolve())
    dataset = load_dataset("MNIST", tmp_path, train=False, transform=Encode(size=(20, 20)))
    assert len(dataset) == 10_000
    inputs, labels = next(labelled_batches(DataLoader(dataset, batch_size=64), classes=10))
    assert inputs.shape == (64, 1, 20, 20)
    # The first labels of the MNIST test set, as printed in many places.
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # 980 zeros, 1135 ones, ... (Y. LeCun et al.)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(torch.as_tensor(dataset.targets)).tolist() == counts
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        load_dataset("MNIST", tmp_path, train=True)


def test_samples_of_ones_own_file(tmp_path) -> None:
    inputs, labels = np.linspace(-1, 1, 24).reshape(4, 2, 3), np.array([0, 2, 1, 2], dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=inputs.astype(np.float32), y=labels)
    found = read_samples(tmp_path / "own.npz")
    assert torch.equal(found.tensors[0], torch.from_numpy(inputs.astype(np.float32)).double())
    assert found.tensors[1].tolist() == [0, 2, 1, 2]
    (tmp_path / "own.csv").write_text("0.5,-1,2\n1,0.25,0\n")
    found = read_samples(tmp_path / "own.csv")
    assert found.tensors[0].tolist() == [[0.5, -1.0], [1.0, 0.25]]
    assert found.tensors[1].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": np.zeros((2, 3))}, "no array labels or y"),
        ({"inputs": np.zeros((2, 3)), "labels": np.zeros(3)}, r"labels of shape \(3,\)"),
        ({"inputs": np.full((2, 3), 255, np.uint8), "labels": np.zeros(2)}, "up to 255: scale"),
        ({"inputs": np.zeros((2, 3)), "labels": np.array([0.5, 1.0])}, "whole numbers"),
        ({"inputs": np.zeros((2, 3)), "labels": np.array([{}, {}])}, "no file of numpy.savez"),
        ({"inputs": np.array([["a"], ["b"]]), "labels": np.zeros(2)}, "numbers are needed"),
    ],
)
def test_samples_that_are_none_are_refused(arrays, message, tmp_path) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_samples(tmp_path / "own.npz")


def test_files_that_hold_no_samples_are_refused(tmp_path) -> None:
    (tmp_path / "own.npz").write_bytes(b"PK\x03\x04 damaged")
    (tmp_path / "own.csv").write_text("1\n0\n")
    for name in ("own.npz", "own.csv", "none.npz", "none.csv"):
        with pytest.raises(DataError, match=name):
            read_samples(tmp_path / name)
