"""Read the directories of IMAC-Sim: ternary weights, biases, test data and labels as CSV.

Facts about the format are from IMAC-Sim's documentation and its shipped 400-120-84-10 network
(https://github.com/iCAS-Lab/IMAC-Sim; Amin, Elbtity, Zand, GLSVLSI 2023, 10.1145/3583781.3590264):

* ``Wk.csv``, k from 1: one line per input, one column per output of layer k, so the transpose of
  ``torch.nn.Linear``'s weight;
* ``Bk.csv``: one bias per line;
* the data file: one line per sample, one column per input of the first layer;
* the label file: one line per sample, one column per class, one of them 1 and the others 0; class
  indices, one per line, are accepted too.

IMAC-Sim takes the sign of every input, and leaves out weights that are not -1, 0 or 1. Here both
are kept as they are: :meth:`ImacSimData.signed` takes the sign where that is wanted, and such
weights are counted and warned of.

Dimension letters: ``S`` samples, ``N`` inputs and ``M`` outputs of a layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from imac_torch.base.shown import Brief
from imac_torch.datasets.csvfile import line_of_row, read_csv
from imac_torch.errors import DataError
from imac_torch.periphery.activations import InverterSigmoid

__all__ = ["ImacSimData", "read_imac_sim"]


@dataclass(frozen=True)
class ImacSimData(Brief):
    """A network and its test data as IMAC-Sim stores them.

    Attributes:
        weights: One per layer, shape (M, N) as in ``torch.nn.Linear``, float64, in IMAC-Sim's sign:
            +1 is a low resistance on the I+ line.
        biases: One per layer, shape (M,), float64.
        inputs: Shape (S, N of the first layer), float64, as in the file.
        labels: Class indices, shape (S,), int64.
        not_ternary: Per layer, how many weights and biases are none of -1, 0, 1.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    inputs: Tensor
    labels: Tensor
    not_ternary: tuple[int, ...]

    @property
    def nodes(self) -> tuple[int, ...]:
        """Sizes of all layers, inputs first (IMAC-Sim: nodes)."""
        return (self.weights[0].shape[1], *(weight.shape[0] for weight in self.weights))

    def signed(self) -> ImacSimData:
        """The same data with the sign of every input (0 stays 0), which is what IMAC-Sim applies.

        Returns:
            A copy with inputs in {-1, 0, 1}; everything else is shared.
        """
        return replace(self, inputs=self.inputs.sign())

    def model(self, *, slope: float = 1.0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
        """The network in software, with the files' own signs.

        IMAC-Sim's neuron is a CMOS inverter: its output falls from vdd to 0 as the weighted sum
        rises, and the weights in the files were trained for that. (Its shipped network, as read,
        classifies 97.9 % of the MNIST test images with a falling sigmoid, 0.4 % with a rising one.)

        Args:
            slope: Steepness of the sigmoids, for sums of inputs in [-1, 1]. IMAC-Sim stores none:
                in its circuit it follows from gain, resistances and the inverter.
            dtype: Floating dtype of the parameters.

        Returns:
            Linear, InverterSigmoid, Linear, InverterSigmoid, ... for inputs of shape (B, N).
        """
        modules: list[nn.Module] = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            linear = nn.utils.skip_init(
                nn.Linear, weight.shape[1], weight.shape[0], dtype=dtype, device="cpu"
            )
            with torch.no_grad():
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            modules += [linear, InverterSigmoid(slope)]
        return nn.Sequential(*modules)

    def dataset(self, *, dtype: torch.dtype = torch.float32) -> TensorDataset:
        """Pairs of input, shape (N,), and class index, in the order of the files.

        Args:
            dtype: Floating dtype of the inputs.
        """
        return TensorDataset(self.inputs.to(dtype), self.labels)


def read_imac_sim(
    data_dir: str | Path,
    *,
    nodes: Sequence[int] | None = None,
    dataset_file: str = "test_data.csv",
    label_file: str = "test_labels.csv",
    testnum: int | None = None,
    firstimage: int = 0,
) -> ImacSimData:
    """Read a directory of IMAC-Sim and check that everything in it fits together.

    The arguments have IMAC-Sim's names. The files are checked as a whole, whichever samples are
    asked for.

    Args:
        data_dir: Directory with ``W1.csv``, ``B1.csv``, ... and the test data.
        nodes: Sizes of all layers, inputs first; further layers in the directory are then not read.
            None: from the files, all of them.
        dataset_file: Name of the test data in ``data_dir``.
        label_file: Name of the labels in ``data_dir``.
        testnum: Number of samples; None: all from ``firstimage`` on.
        firstimage: The first sample, from 0.

    Raises:
        DataError: A file is missing, truncated or holds something that is not a finite number;
            layers do not chain; labels do not match; the samples asked for are not there.

    Warns:
        UserWarning: Weights or biases are none of -1, 0, 1, which IMAC-Sim cannot represent.
    """
    directory = Path(data_dir)
    if not directory.is_dir():
        raise DataError(f"{directory}: there is no such directory")
    sizes = None if nodes is None else _checked_nodes(nodes)
    count = _count_layers(directory) if sizes is None else len(sizes) - 1
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    not_ternary = []
    for layer in range(1, count + 1):
        weight_file, bias_file = directory / f"W{layer}.csv", directory / f"B{layer}.csv"
        expected = None if sizes is None else (sizes[layer - 1], sizes[layer])
        weight = _read_weight(weight_file, expected)
        if weights and weight.shape[1] != weights[-1].shape[0]:
            raise DataError(
                f"{weight_file}: {weight.shape[1]} lines (inputs), but layer {layer - 1} has "
                f"{weights[-1].shape[0]} outputs (columns of W{layer - 1}.csv)"
            )
        weights.append(weight)
        biases.append(_read_bias(bias_file, weight.shape[0]))
        not_ternary.append(
            _count_not_ternary(weight.T, weight_file) + _count_not_ternary(biases[-1], bias_file)
        )
    data_path, label_path = directory / dataset_file, directory / label_file
    inputs = read_csv(data_path)
    if inputs.shape[1] != weights[0].shape[1]:
        raise DataError(
            f"{data_path}: {inputs.shape[1]} columns, but the network has {weights[0].shape[1]} "
            "inputs; one line per sample is expected"
        )
    labels = _read_labels(label_path, weights[-1].shape[0], len(inputs), data_path)
    chosen = _slice(len(inputs), firstimage, testnum, data_path)
    return ImacSimData(
        weights=tuple(weights),
        biases=tuple(biases),
        inputs=inputs[chosen],
        labels=labels[chosen],
        not_ternary=tuple(not_ternary),
    )


def _checked_nodes(nodes: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(nodes)
    if len(sizes) < 2 or any(isinstance(n, bool) or int(n) != n or n < 1 for n in sizes):
        raise DataError(f"nodes must be two or more positive integers, got {sizes}")
    return tuple(int(n) for n in sizes)


def _count_layers(directory: Path) -> int:
    """How many layers there are: ``W1.csv``, ``W2.csv``, ... without a gap."""
    numbers = {
        int(file.stem[1:])
        for file in directory.glob("[WB]*.csv")
        if file.stem[1:].isascii() and file.stem[1:].isdigit()
    }
    count = max(numbers, default=0)
    if not count:
        raise DataError(f"{directory}: no W1.csv in it, so no network")
    for layer in range(1, count + 1):
        for file in (directory / f"W{layer}.csv", directory / f"B{layer}.csv"):
            if not file.is_file():
                raise DataError(f"{file}: missing, but the directory holds layer {count}")
    return count


def _read_weight(path: Path, expected: tuple[int, int] | None) -> Tensor:
    """Weights of one layer, shape (M, N); ``expected`` is (N, M), the shape in the file."""
    table = read_csv(path)
    shape = (table.shape[0], table.shape[1])
    if expected is not None and shape != expected:
        if shape == (expected[1], expected[0]):
            raise DataError(
                f"{path}: {shape[0]}x{shape[1]}, the transpose of {expected[0]}x{expected[1]}; "
                "IMAC-Sim has one line per input and one column per output"
            )
        if min(shape) != 1 or table.numel() != expected[0] * expected[1]:
            raise DataError(
                f"{path}: {shape[0]} lines of {shape[1]} columns, but nodes asks for "
                f"{expected[0]} inputs (lines) and {expected[1]} outputs (columns)"
            )
        table = table.reshape(expected)  # all in one line or column: IMAC-Sim takes that too
    return table.T.contiguous()


def _read_bias(path: Path, outputs: int) -> Tensor:
    table = read_csv(path)
    if 1 not in table.shape or table.numel() != outputs:
        raise DataError(
            f"{path}: {table.shape[0]} lines of {table.shape[1]} columns, but its layer has "
            f"{outputs} outputs; one bias per line is expected"
        )
    return table.flatten()


def _count_not_ternary(table: Tensor, path: Path) -> int:
    bad = (table != 0) & (table.abs() != 1)
    count = int(bad.sum())
    if count:
        value = table[bad][0].item()
        warnings.warn(
            f"{path}: {count} of {table.numel()} values are none of -1, 0, 1 (the first is "
            f"{value:g}); IMAC-Sim leaves such weights out, here they are kept as they are",
            stacklevel=3,
        )
    return count


def _read_labels(path: Path, classes: int, samples: int, data_path: Path) -> Tensor:
    table = read_csv(path)
    column = table.shape[1] == 1
    line = table.shape[0] == 1 and not (samples == 1 and table.shape[1] == classes)
    if column or line:
        labels = _class_indices(path, table, classes)
    else:
        labels = _one_hot(path, table, classes)
    if len(labels) != samples:
        raise DataError(f"{path}: {len(labels)} labels, but {data_path} has {samples} samples")
    return labels


def _class_indices(path: Path, table: Tensor, classes: int) -> Tensor:
    values = table.flatten()
    bad = (values != values.round()) | (values < 0) | (values >= classes)
    if bad.any():
        index = int(bad.nonzero()[0])
        line = line_of_row(path, index if table.shape[1] == 1 else 0)
        raise DataError(
            f"{path}, line {line}: label {values[index].item():g} is no class index; the network "
            f"has {classes} outputs, so 0 to {classes - 1} are expected"
        )
    return values.long()


def _one_hot(path: Path, table: Tensor, classes: int) -> Tensor:
    if table.shape[1] != classes:
        raise DataError(
            f"{path}: {table.shape[1]} columns, but the network has {classes} outputs; expected "
            "one column per class, or a single column of class indices"
        )
    bad = ((table != 0) & (table != 1)).any(1) | (table.sum(1) != 1)
    if bad.any():
        line = line_of_row(path, int(bad.nonzero()[0]))
        raise DataError(f"{path}, line {line}: expected a single 1 and otherwise 0 (one-hot)")
    return table.argmax(1)


def _slice(samples: int, first: int, count: int | None, path: Path) -> slice:
    if first < 0 or first >= samples:
        raise DataError(f"firstimage = {first}: {path} has samples 0 to {samples - 1}")
    if count is None:
        return slice(first, samples)
    if count < 1 or first + count > samples:
        raise DataError(
            f"testnum = {count} from firstimage = {first}: {path} has {samples} samples, so 1 to "
            f"{samples - first} are possible"
        )
    return slice(first, first + count)
