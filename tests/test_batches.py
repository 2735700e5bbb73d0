import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from imac_torch.datasets.batches import check_labelled, labelled_batches
from imac_torch.errors import DataError

X = torch.zeros(3, 4)
Y = torch.tensor([0, 1, 2])


def test_a_good_batch_passes_unchanged() -> None:
    inputs, labels = check_labelled([X, Y.to(torch.uint8)], classes=3)
    assert inputs is X
    assert labels.dtype == torch.int64
    assert torch.equal(labels, Y)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, "without labels"),
        ((X,), "tuple of 1"),
        ({"image": X, "label": Y}, "dict of 2"),
        ((X, Y, Y), "tuple of 3"),
        ((X, [0, 1, 2]), "must be tensors"),
        ((X, Y.float()), "integer class indices"),
        ((X, torch.eye(3)), "argmax"),
        ((X, Y > 0), "integer class indices"),
        ((X, Y[:2]), r"labels of shape \(3,\), got \(2,\)"),
        ((X, Y[:, None]), r"got \(3, 1\)"),
        ((torch.tensor(1.0), torch.tensor(1)), "labels of shape"),
        ((X[:0], Y[:0]), "no samples"),
        ((X, torch.tensor([0, -1, 1])), "span -1 to 1"),
        ((X, torch.tensor([0, 3, 1])), "span 0 to 3, expected 0 to 2"),
        ((torch.tensor([[0.0], [0.0], [float("nan")]]), Y), "sample 2"),
        ((torch.tensor([0.0, float("inf"), 0.0]), Y), "sample 1"),
    ],
)
def test_bad_batches_are_refused(batch: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_labelled(batch, classes=3)


def test_walks_through_a_loader_in_its_order() -> None:
    inputs, labels = torch.arange(10.0)[:, None], torch.arange(10)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=4)
    batches = list(labelled_batches(loader, classes=10))
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([x for x, _ in batches]), inputs)
    assert torch.equal(torch.cat([y for _, y in batches]), labels)


def test_names_the_batch_that_is_wrong() -> None:
    loader = DataLoader(TensorDataset(torch.zeros(10, 1), torch.arange(10)), batch_size=4)
    with pytest.raises(DataError, match="batch 1: labels span 4 to 7"):
        list(labelled_batches(loader, classes=5))


def test_a_loader_without_labels_or_without_batches() -> None:
    with pytest.raises(DataError, match=r"batch 0.*without labels"):
        list(labelled_batches(DataLoader(TensorDataset(X))))
    with pytest.raises(DataError, match="no batches"):
        list(labelled_batches([]))
