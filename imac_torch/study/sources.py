"""Models and data sets named on a command line or in a sweep's file."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from imac_torch.base.files import read_tensors
from imac_torch.config import Amplifier, Config
from imac_torch.conversion.software import to_software
from imac_torch.conversion.storage import load
from imac_torch.datasets.imac_sim import read_imac_sim
from imac_torch.datasets.imac_sim_script import ImacSimScript, read_imac_sim_script
from imac_torch.datasets.named import DATASETS, load_dataset
from imac_torch.errors import DataError
from imac_torch.model.network import IMACNetwork

__all__ = ["Loader", "Source", "import_object", "open_data", "open_model"]

SCRIPT = "testIMAC.py"


@dataclass(frozen=True)
class Source:
    """A model ready to be converted, or converted already.

    Attributes:
        software: The model to compare with.
        network: Where it is converted already.
        config: Configuration that the source suggests, or None.
        dataset: Data that came with it, or None.
        testnum: Samples that the source suggests, or None.
        firstimage: First sample that the source suggests.
        per_batch: Samples per netlist that the source suggests, or None.
    """

    software: nn.Module
    network: IMACNetwork | None = None
    config: Config | None = None
    dataset: Dataset[Any] | None = None
    testnum: int | None = None
    firstimage: int = 0
    per_batch: int | None = None


def import_object(text: str) -> Any:  # noqa: ANN401 - whatever the user named
    """The object ``module:name``; modules are looked for in the current directory too.

    Raises:
        DataError: There is no such module or name, or importing it fails.
    """
    module_name, _, name = text.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise DataError(
            f"cannot import {module_name!r} (of {text!r}): {type(error).__name__}: {error}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise DataError(f"{module_name} has no {name!r}; write module:function")
        found = getattr(found, part)
    return found


def open_model(
    text: str,
    *,
    weights: Path | None = None,
    digital: str | None = None,
    trust: bool = False,
) -> Source:
    """Open a model by name.

    Args:
        text: ``network.safetensors``, ``module:factory``, or a directory of IMAC-Sim.
        weights: State dict of a factory's model, safetensors.
        digital: ``module:factory`` of the modules before a saved network's circuit.
        trust: Use the files that a saved network names.

    Raises:
        DataError: It is none of them, or cannot be read.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        _only(weights is None and digital is None, text, "a directory of IMAC-Sim")
        return _imac_sim(path)
    if path.suffix == ".safetensors":
        _only(weights is None, text, "a saved network (its weights are in it)")
        factory = None if digital is None else import_object(digital)
        network = load(path, factory, files=trust)
        # One dtype throughout; the modules before the circuit are shared with the network.
        software = to_software(network).double().eval()
        return Source(software=software, network=network, config=network.config)
    if ":" not in text:
        raise DataError(
            f"{text!r} is no model: give a network (.safetensors) that exists, module:factory, or "
            "a directory of IMAC-Sim"
        )
    _only(digital is None, text, "a factory (the whole model comes from it)")
    return Source(software=_from_factory(text, weights))


def _only(fine: bool, text: str, kind: str) -> None:
    if not fine:
        raise DataError(f"{text} is {kind}: --weights and --digital do not go with it")


def _from_factory(text: str, weights: Path | None) -> nn.Module:
    found = import_object(text)
    try:
        model = found if isinstance(found, nn.Module) else found()
    except Exception as error:
        raise DataError(f"{text}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise DataError(f"{text} gave a {type(model).__name__}; a torch.nn.Module is needed")
    if weights is not None:
        if weights.suffix != ".safetensors":
            raise DataError(
                f"{weights}: weights are read from .safetensors only, because other formats run "
                "code on loading; write them with safetensors.torch.save_file(model.state_dict(), "
                "...)"
            )
        try:
            state, _ = read_tensors(weights)
        except (OSError, ValueError) as error:
            raise DataError(f"{weights} cannot be read: {error}") from None
        try:
            # Strict, and in a model's own override of it too.
            left = model.load_state_dict(fitted(state, model))
        except RuntimeError as error:
            raise DataError(f"{weights} does not fit {text}: {error}") from None
        if left is not None and (left.missing_keys or left.unexpected_keys):
            raise DataError(
                f"{weights} does not fit {text}: missing {left.missing_keys}, not expected "
                f"{left.unexpected_keys}"
            )
    return model.eval()


_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel, AveragedModel and torch.compile put before the names of weights."""


def fitted(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict under the names that a model has for it.

    Trained and built model may differ in what wrapped the one, and in what recomputed its weights:
    pruned weights are put together (weight_orig·weight_mask), and so are weights that were
    normalised by ``weight_norm`` (g·v/‖v‖, the norm over all dimensions that g does not have), if
    the model has them plain.

    Args:
        state: As read from a file.
        model: What is to load it.
    """
    names = model.state_dict().keys()
    for prefix in _PREFIXES:
        inner = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
        if inner and not any(key.startswith(prefix) for key in names):
            state = {
                key.removeprefix(prefix): value
                for key, value in state.items()
                if key != "n_averaged"
            }
    result = dict(state)
    for name in names:
        if name in result:
            continue
        parts = {suffix: f"{name}_{suffix}" for suffix in ("orig", "mask", "g", "v")}
        if parts["orig"] in result and parts["mask"] in result:
            result[name] = result.pop(parts["orig"]) * result.pop(parts["mask"])
        elif parts["g"] in result and parts["v"] in result:
            size, direction = result.pop(parts["g"]), result.pop(parts["v"])
            summed = [k for k in range(direction.ndim) if size.ndim == 0 or size.shape[k] == 1]
            result[name] = size * direction / direction.norm(dim=summed, keepdim=size.ndim > 0)
    return result


def _imac_sim(path: Path) -> Source:
    """IMAC-Sim's own directory, or one with its data files."""
    script: ImacSimScript | None = None
    directory = path
    if (path / SCRIPT).is_file():
        script = read_imac_sim_script(path / SCRIPT)
        directory = script.data_dir
    data = read_imac_sim(
        directory,
        nodes=None if script is None else script.nodes,
        dataset_file="test_data.csv" if script is None else script.dataset_file,
        label_file="test_labels.csv" if script is None else script.label_file,
    ).signed()
    software = data.model(dtype=torch.float64).eval()
    dataset = data.dataset(dtype=torch.float64)
    if script is None:
        # Its gains are for its three layers; for others each layer gets its own.
        config = Config.imac_sim()
        if len(data.weights) != 3:
            config = config.replace(amplifier=Amplifier())
        return Source(software=software, config=config, dataset=dataset)
    return Source(
        software=software,
        config=script.config,
        dataset=dataset,
        testnum=script.testnum,
        firstimage=script.firstimage,
        per_batch=script.testnum_per_batch,
    )


def open_data(
    text: str | None, source: Source | None, *, root: Path | None = None, train: bool = False
) -> Dataset[Any]:
    """Open a data set by name.

    Args:
        text: A name of :data:`imac_torch.datasets.named.DATASETS`, a directory of IMAC-Sim,
            ``module:factory``, or None for what came with the model.
        source: The model; named data need none.
        root: Where named data sets lie.
        train: The training split of a named data set.

    Raises:
        DataError: There is none, or it cannot be read.
    """
    if text is None:
        if source is None or source.dataset is None:
            raise DataError(
                f"this model brings no data: add --data with one of {', '.join(DATASETS)}, a "
                "directory of IMAC-Sim, or module:factory"
            )
        return source.dataset
    if text in DATASETS:
        return load_dataset(text, root, train=train)
    path = Path(text).expanduser()
    if path.is_dir():
        found = _imac_sim(path).dataset
        assert found is not None  # noqa: S101 - narrows the type only
        return found
    if ":" in text:
        made = import_object(text)
        made = made() if callable(made) and not isinstance(made, Dataset) else made
        if not hasattr(made, "__getitem__") or not hasattr(made, "__len__"):
            raise DataError(f"{text} gave a {type(made).__name__}; a data set is needed")
        return cast("Dataset[Any]", made)
    raise DataError(
        f"no data set {text!r}: there are {', '.join(DATASETS)}, directories of IMAC-Sim, and "
        "module:factory"
    )


@dataclass(frozen=True)
class Loader:
    """Batches of a data set in its order, in the dtype and shape that a model takes.

    Attributes:
        dataset: Pairs (input, class index).
        batch_size: Samples per batch.
        dtype: That floating inputs are given in.
        flat: Whether to flatten inputs to vectors: the model starts with a linear layer.
    """

    dataset: Dataset[Any]
    batch_size: int
    dtype: torch.dtype
    flat: bool

    @classmethod
    def of(cls, dataset: Dataset[Any], model: nn.Module, batch_size: int) -> Loader:
        """The loader that suits a software model."""
        leaves = (m for m in model.modules() if not isinstance(m, nn.Sequential))
        first = next((m for m in leaves if not list(m.children())), model)
        dtype = next((p.dtype for p in model.parameters()), torch.float64)
        return cls(dataset, batch_size, dtype, isinstance(first, nn.Linear))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches; what the data set gives is checked by whoever takes them."""
        for batch in DataLoader(self.dataset, batch_size=self.batch_size):
            if isinstance(batch, list | tuple) and len(batch) == 2:
                inputs, labels = batch
                if isinstance(inputs, Tensor):
                    inputs = inputs.to(self.dtype)
                    inputs = inputs.flatten(1) if self.flat else inputs
                yield inputs, labels
            else:
                yield batch

    def samples(self, first: int, count: int) -> Loader:
        """A loader of a range of samples only."""
        indices = range(first, min(first + count, len(cast(Any, self.dataset))))
        return replace(self, dataset=torch.utils.data.Subset(self.dataset, indices))

