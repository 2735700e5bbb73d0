import dataclasses
import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from imac_torch.datasets.batches import labelled_batches
from imac_torch.datasets.imac_sim import read_imac_sim
from imac_torch.errors import DataError
from imac_torch.periphery.activations import InverterSigmoid

NODES = (5, 4, 3)
SAMPLES = 7


def write_csv(path: Path, table: Tensor) -> None:
    """As IMAC-Sim's files are: comma separated, lines ended by CR LF."""
    table = table.reshape(len(table), -1)
    lines = (",".join(f"{value:g}" for value in row) for row in table.tolist())
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())


@pytest.fixture
def directory(tmp_path: Path, generator: torch.Generator) -> Path:
    """A 5-4-3 network with ternary weights, seven samples and one-hot labels."""
    for layer, (n, m) in enumerate(itertools.pairwise(NODES), start=1):
        write_csv(tmp_path / f"W{layer}.csv", torch.randint(-1, 2, (n, m), generator=generator))
        write_csv(tmp_path / f"B{layer}.csv", torch.randint(-1, 2, (m,), generator=generator))
    write_csv(tmp_path / "test_data.csv", torch.rand(SAMPLES, 5, generator=generator) - 0.5)
    write_csv(tmp_path / "test_labels.csv", torch.eye(3)[torch.arange(SAMPLES) % 3])
    return tmp_path


def numbers(path: Path) -> Tensor:
    """The same file through another reader."""
    return torch.from_numpy(np.genfromtxt(path, delimiter=","))


def test_everything_arrives_in_its_place(directory: Path) -> None:
    data = read_imac_sim(directory)
    assert data.nodes == NODES
    for layer in (1, 2):
        # One line per input in the file, one row per output in torch.
        assert torch.equal(data.weights[layer - 1].T, numbers(directory / f"W{layer}.csv"))
        assert torch.equal(data.biases[layer - 1], numbers(directory / f"B{layer}.csv"))
    assert torch.equal(data.inputs, numbers(directory / "test_data.csv"))
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert data.not_ternary == (0, 0)
    assert data.weights[0].dtype == data.inputs.dtype == torch.float64
    again = read_imac_sim(directory, nodes=NODES)
    assert all(torch.equal(a, b) for a, b in zip(again.weights, data.weights, strict=True))


def test_the_model_is_the_inverting_circuit(directory: Path) -> None:
    data = read_imac_sim(directory)
    model = data.model(slope=0.5, dtype=torch.float64)
    assert [type(module) for module in model] == [nn.Linear, InverterSigmoid] * 2
    assert torch.equal(model[0].weight, data.weights[0])
    value = data.inputs
    for layer in (1, 2):
        total = value @ numbers(directory / f"W{layer}.csv") + numbers(directory / f"B{layer}.csv")
        value = 1.0 / (1.0 + (0.5 * total).exp())  # falls as the sum rises
    # Values below 1, some 30 operations of one rounding each.
    torch.testing.assert_close(model(data.inputs), value, rtol=0, atol=1e-14)


def test_the_data_set_feeds_a_loader(directory: Path) -> None:
    data = read_imac_sim(directory)
    batches = list(labelled_batches(DataLoader(data.dataset(), batch_size=3), classes=3))
    assert torch.equal(torch.cat([x for x, _ in batches]), data.inputs.float())
    assert torch.equal(torch.cat([y for _, y in batches]), data.labels)


def test_signs_are_taken_only_when_asked_for(directory: Path) -> None:
    write_csv(directory / "test_data.csv", torch.tensor([[-0.2, 0.0, 0.7, -3.0, 1.0]] * SAMPLES))
    data = read_imac_sim(directory)
    assert data.inputs[0].tolist() == [-0.2, 0.0, 0.7, -3.0, 1.0]
    assert data.signed().inputs[0].tolist() == [-1.0, 0.0, 1.0, -1.0, 1.0]
    assert data.inputs[0].tolist() == [-0.2, 0.0, 0.7, -3.0, 1.0]


def test_firstimage_and_testnum_choose_samples(directory: Path) -> None:
    everything = read_imac_sim(directory)
    some = read_imac_sim(directory, firstimage=2, testnum=3)
    assert torch.equal(some.inputs, everything.inputs[2:5])
    assert torch.equal(some.labels, everything.labels[2:5])
    assert len(read_imac_sim(directory, firstimage=6).labels) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"firstimage": -1}, "firstimage = -1"),
        ({"firstimage": 7}, "samples 0 to 6"),
        ({"testnum": 0}, "testnum = 0"),
        ({"firstimage": 5, "testnum": 3}, "1 to 2 are possible"),
        ({"nodes": (5,)}, "two or more"),
        ({"nodes": (5, 0)}, "positive integers"),
        (
            {"nodes": (5, 4, 2)},
            r"W2.csv: 4 lines of 3 columns, but nodes asks for 4 inputs.* 2 out",
        ),
        ({"nodes": (4, 5, 3)}, r"W1.csv: 5x4, the transpose of 4x5"),
        ({"nodes": (5, 4, 3, 2)}, r"W3.csv: there is no such file"),
        ({"nodes": (5, 4)}, r"test_labels.csv: 3 columns, but the network has 4 outputs"),
        ({"dataset_file": "images.csv"}, r"images.csv: there is no such file"),
        ({"label_file": "classes.csv"}, r"classes.csv: there is no such file"),
    ],
)
def test_arguments_that_do_not_fit(directory: Path, arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_imac_sim(directory, **arguments)


def test_the_label_file_is_the_one_asked_for(directory: Path) -> None:
    write_csv(directory / "classes.csv", torch.full((SAMPLES,), 2))
    assert read_imac_sim(directory, label_file="classes.csv").labels.tolist() == [2] * SAMPLES


@pytest.mark.parametrize("as_line", [False, True])
def test_class_indices_as_labels(directory: Path, as_line: bool) -> None:
    labels = torch.tensor([2, 1, 0, 0, 1, 2, 2])
    write_csv(directory / "test_labels.csv", labels[None] if as_line else labels)
    assert torch.equal(read_imac_sim(directory).labels, labels)


def test_labels_in_one_line_that_look_like_one_hot(directory: Path) -> None:
    # Three samples, three classes, one line: three class indices, not one one-hot row ...
    write_csv(directory / "test_data.csv", torch.ones(3, 5))
    write_csv(directory / "test_labels.csv", torch.tensor([[0, 1, 0]]))
    assert read_imac_sim(directory).labels.tolist() == [0, 1, 0]
    # ... and for a single sample a one-hot row.
    write_csv(directory / "test_data.csv", torch.ones(1, 5))
    assert read_imac_sim(directory).labels.tolist() == [1]


def test_bias_in_one_line_and_weights_in_one_column(directory: Path) -> None:
    expected = read_imac_sim(directory)
    for name in ("W1.csv", "B1.csv"):
        table = numbers(directory / name)
        write_csv(directory / name, table.reshape(-1, 1) if name == "W1.csv" else table[None])
    data = read_imac_sim(directory, nodes=NODES)
    assert torch.equal(data.weights[0], expected.weights[0])
    assert torch.equal(data.biases[0], expected.biases[0])


def test_weights_beyond_ternary_are_kept_and_reported(directory: Path) -> None:
    weight = numbers(directory / "W2.csv")
    weight[1, 2], weight[3, 0] = 0.5, -2.0
    write_csv(directory / "W2.csv", weight)
    with pytest.warns(UserWarning, match=r"W2.csv: 2 of 12 values.*the first is 0.5"):
        data = read_imac_sim(directory)
    assert data.not_ternary == (0, 2)
    assert torch.equal(data.weights[1], weight.T)


def test_ternary_weights_give_no_warning(directory: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_imac_sim(directory)


def edit(name: str, change):
    """A change of the lines of one file."""

    def apply(directory: Path) -> None:
        lines = (directory / name).read_text().splitlines()
        (directory / name).write_text("\n".join(change(lines)) + "\n")

    return apply


def remove(name: str):
    return lambda directory: (directory / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("W1.csv"), r"W1.csv: missing, but the directory holds layer 2"),
        (remove("B2.csv"), r"B2.csv: missing"),
        (remove("W2.csv"), r"W2.csv: missing"),
        (edit("W1.csv", lambda t: t[:-1]), r"test_data.csv: 5 columns.*4 inputs"),
        (edit("W1.csv", lambda t: [*t[:3], "1,0"]), r"W1.csv, line 4: 2 entries"),
        (
            edit("W2.csv", lambda t: t[:-1]),
            r"W2.csv: 3 lines \(inputs\), but layer 1 has 4 outputs",
        ),
        (edit("W2.csv", lambda t: [*t[:-1], "1,nan,0"]), r"W2.csv, line 4: column 2 is nan"),
        (edit("B1.csv", lambda t: t[:-1]), r"B1.csv: 3 lines of 1 columns.*4 outputs"),
        (edit("test_data.csv", lambda t: t[:-1]), r"7 labels, but .*test_data.csv has 6 samples"),
        (edit("test_labels.csv", lambda t: t[:-1]), r"6 labels, but .*has 7 samples"),
        (edit("test_labels.csv", lambda t: ["1,1,0", *t[1:]]), r"labels.csv, line 1: .*single 1"),
        (edit("test_labels.csv", lambda t: [t[0], "", "0,0,0", *t[2:]]), "line 3: .*single 1"),
        (edit("test_labels.csv", lambda t: ["2,0,-1", *t[1:]]), "line 1: .*single 1"),
        (edit("test_labels.csv", lambda t: ["0,1"] * 7), r"2 columns, but the network has 3"),
        (edit("test_labels.csv", lambda t: list("1203120")), r"line 4: label 3 is no class index"),
        (edit("test_labels.csv", lambda t: [*"120012", "0.5"]), r"line 7: label 0.5"),
    ],
)
def test_damaged_directories(directory: Path, damage, message: str) -> None:
    damage(directory)
    with pytest.raises(DataError, match=message):
        read_imac_sim(directory)


def test_not_a_directory_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such directory"):
        read_imac_sim(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no W1.csv"):
        read_imac_sim(tmp_path)


def test_the_result_is_immutable(directory: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_imac_sim(directory).inputs = torch.zeros(1, 5)  # type: ignore[misc]


def test_the_shipped_network_classifies(tmp_path: Path, shared: Path) -> None:
    """IMAC-Sim's own 400-120-84-10 network, written in its format, read and run in software."""
    count = 1000
    with np.load(shared / "golden" / "network.npz", allow_pickle=False) as stored:
        for name in ("W1", "B1", "W2", "B2", "W3", "B3"):
            write_csv(tmp_path / f"{name}.csv", torch.from_numpy(stored[name]))
        bits = np.unpackbits(stored["inputs_bits"][:count], axis=1).astype(np.int8)
        write_csv(tmp_path / "test_data.csv", torch.from_numpy(bits * 2 - 1))
        labels = torch.from_numpy(stored["labels"][:count].astype(np.int64))
    write_csv(tmp_path / "test_labels.csv", torch.eye(10)[labels])
    with np.load(shared / "golden" / "hspice_flat_0_999.npz", allow_pickle=False) as stored:
        hspice = torch.from_numpy(stored["output_voltage"]).argmax(1)
    data = read_imac_sim(tmp_path, nodes=(400, 120, 84, 10))
    assert torch.equal(data.labels, labels)
    predicted = data.model()(data.inputs.float()).argmax(1)
    # A wrong orientation or sign gives 0.1 or less. HSPICE's circuit gets 0.963 of these, and
    # agrees with software of the same network but for hard images: a few per cent of 1000.
    assert (predicted == labels).double().mean() > 0.95
    assert (predicted == hspice).double().mean() > 0.95
