"""Models and data sets named on a command line or in a sweep's file."""

from __future__ import annotations

import ast
import importlib
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from imac_torch.base.files import read_tensors
from imac_torch.config import Amplifier, Config
from imac_torch.conversion.layers import Expanded
from imac_torch.conversion.software import to_software
from imac_torch.conversion.storage import load
from imac_torch.datasets.imac_sim import read_imac_sim
from imac_torch.datasets.imac_sim_script import ImacSimScript, read_imac_sim_script
from imac_torch.datasets.named import DATASETS, load_dataset
from imac_torch.datasets.own import SUFFIXES, read_samples
from imac_torch.datasets.torchvision_compat import import_torchvision
from imac_torch.errors import DataError
from imac_torch.model.network import IMACNetwork, evaluating
from imac_torch.numeric.modes import lasting

__all__ = ["Loader", "Source", "import_object", "open_data", "open_model", "read_state"]

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
    """The object ``module:name``, or what ``module:name(…)`` gives.

    Modules are looked for in the current directory too; ``path/to/file.py:name`` names one by its
    file. Arguments are literals: numbers, texts, lists, True, None. Of torchvision ``name`` may be
    one of its models.

    Raises:
        DataError: There is no such module or name, or importing or calling it fails.
    """
    module_name, _, rest = text.partition(":")
    path, called = _call(rest, text)
    found = module = _module(module_name, text)
    for part in path.split("."):
        if found is module and module.__name__ == "torchvision" and not hasattr(module, part):
            found = module.models
        if not hasattr(found, part):
            raise DataError(f"{module_name} has no {path!r}; write module:function")
        found = getattr(found, part)
    if called is None:
        return found
    positional, named = called
    try:
        return found(*positional, **named)
    except Exception as error:
        raise DataError(f"{text} failed: {type(error).__name__}: {error}") from error


def _call(rest: str, text: str) -> tuple[str, tuple[list[Any], dict[str, Any]] | None]:
    """The name in ``name`` or ``name(…)``, and the arguments."""
    if "(" not in rest:
        return rest, None
    try:
        tree = ast.parse(rest, mode="eval").body
        if not isinstance(tree, ast.Call):
            raise ValueError
        named = {item.arg: ast.literal_eval(item.value) for item in tree.keywords}
        positional = [ast.literal_eval(item) for item in tree.args]
        return ast.unparse(tree.func), (positional, {str(key): named[key] for key in named})
    except (SyntaxError, ValueError):
        raise DataError(
            f"{text!r}: write module:function or module:function(arguments), where arguments are "
            "numbers, texts, lists, True, False or None"
        ) from None


def _module(name: str, text: str) -> Any:  # noqa: ANN401 - a module
    """A module by its name, or by its file."""
    file = Path(name).expanduser() if name.endswith(".py") else None
    if file is not None and not file.is_file():
        raise DataError(f"{name} (of {text!r}): there is no such file")
    here = str(Path.cwd() if file is None else file.resolve().parent)
    name = name if file is None else file.stem
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = import_torchvision() if name == "torchvision" else importlib.import_module(name)
    except Exception as error:
        raise DataError(
            f"cannot import {name!r} (of {text!r}): {type(error).__name__}: {error}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    if file is not None and Path(str(module.__file__)).resolve() != file.resolve():
        raise DataError(
            f"{text}: another module is called {name!r}, {module.__file__}; rename the file"
        )
    return module


def open_model(
    text: str,
    *,
    weights: Path | None = None,
    original: str | None = None,
    trust: bool = False,
) -> Source:
    """Open a model by name.

    Args:
        text: ``network.safetensors``, ``module:factory`` (:func:`import_object`), or a directory of
            IMAC-Sim.
        weights: State dict of a factory's model: safetensors, or what ``torch.save`` wrote.
        original: ``module:factory`` of the model that a saved network was converted from, or of its
            modules before the circuit, where the file does not suffice.
        trust: Use the files that a saved network names.

    Raises:
        DataError: It is none of them, or cannot be read.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        _only(weights is None and original is None, text, "a directory of IMAC-Sim")
        return _imac_sim(path)
    if path.suffix == ".safetensors":
        _only(weights is None, text, "a saved network (its weights are in it)")
        factory = None if original is None else partial(_from_factory, original, None)
        network = load(path, factory, files=trust)
        # One dtype throughout. A traced model's is that of its own software, which may be all there
        # is of it besides circuits.
        dtype = torch.float64 if network.inputs is None else next(network.parameters()).dtype
        software = to_software(network).to(dtype).eval()
        return Source(software=software, network=network, config=network.config)
    if ":" not in text:
        raise DataError(
            f"{text!r} is no model: give a network (.safetensors) that exists, module:factory or "
            "file.py:factory, or a directory of IMAC-Sim"
        )
    _only(original is None, text, "a factory (the whole model comes from it)")
    return Source(software=_from_factory(text, weights))


def _only(fine: bool, text: str, kind: str) -> None:
    if not fine:
        raise DataError(f"{text} is {kind}: --weights and --original do not go with it")


def _from_factory(text: str, weights: Path | None) -> nn.Module:
    found = import_object(text)
    try:
        model = found if isinstance(found, nn.Module) else found()
    except Exception as error:
        raise DataError(f"{text}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise DataError(f"{text} gave a {type(model).__name__}; a torch.nn.Module is needed")
    if weights is not None:
        state = read_state(weights)
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


_TORCH_FILES = (".pt", ".pth", ".ckpt", ".bin")
"""What files of ``torch.save`` are called."""
_STATES = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Where checkpoints keep a model's state."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, of which nothing but tensors is ever unpickled.

    Args:
        path: A safetensors file, or one of ``torch.save``: a state dict, or a checkpoint that has
            one under a usual name.

    Raises:
        DataError: It cannot be read, or holds something else.
    """
    advice = "write it with torch.save(model.state_dict(), ...) or safetensors.torch.save_file"
    if path.suffix == ".safetensors":
        try:
            return read_tensors(path)[0]
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None
    if path.suffix not in _TORCH_FILES:
        raise DataError(
            f"{path}: weights are a .safetensors file or one of torch.save "
            f"({', '.join(_TORCH_FILES)}); {advice}"
        )
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DataError(
            f"{path} holds more than tensors (a whole model?), which is not read, because doing so "
            f"may run code: {advice}"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    for name in _STATES:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
            break
    if not isinstance(found, dict) or not all(isinstance(item, Tensor) for item in found.values()):
        raise DataError(f"{path} holds no state dict: {advice}")
    return dict(found)


_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, AveragedModel, torch.compile and Lightning put before the names of weights."""


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
            a file (:func:`imac_torch.datasets.own.read_samples`), ``module:factory``, or None for
            what came with the model.
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
                "file (.npz, .csv), a directory of IMAC-Sim, or module:factory"
            )
        return source.dataset
    if text in DATASETS:
        return load_dataset(text, root, train=train)
    path = Path(text).expanduser()
    if path.suffix in SUFFIXES:
        return read_samples(path)
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
        f"no data set {text!r}: there are {', '.join(DATASETS)}, files (.npz, .csv), directories "
        "of IMAC-Sim, and module:factory"
    )


@dataclass(frozen=True)
class Loader:
    """Batches of a data set in its order, in the dtype and shape that a model takes.

    Attributes:
        dataset: Pairs (input, class index).
        batch_size: Samples per batch.
        dtype: That floating inputs are given in.
        flat: Whether to flatten inputs to vectors, see :meth:`of`.
    """

    dataset: Dataset[Any]
    batch_size: int
    dtype: torch.dtype
    flat: bool

    @classmethod
    def of(cls, dataset: Dataset[Any], model: nn.Module, batch_size: int) -> Loader:
        """The loader that suits a software model.

        Inputs are flattened where the first of the model's layers is linear, unless the model
        takes the first sample only as it is; and where it takes that only flattened.
        """
        leaves = (m for m in model.modules() if not isinstance(m, nn.Sequential))
        # A recurrent layer's matrices are linear layers, but it takes sequences.
        first = next(
            (m for m in leaves if isinstance(m, Expanded) or not list(m.children())), model
        )
        dtype = next((p.dtype for p in model.parameters()), torch.float64)
        made = cls(dataset, batch_size, dtype, isinstance(first, nn.Linear))
        other = replace(made, flat=not made.flat)
        return other if not made._suits(model) and other._suits(model) else made

    def _suits(self, model: nn.Module) -> bool:
        """Whether a model takes the first sample without an error."""
        try:
            with torch.random.fork_rng(devices=[]), lasting(), evaluating(model):
                inputs, _ = next(iter(self.samples(0, 1)))
                model(inputs)
        except Exception:  # of the data set or the model; whoever runs it says what it is
            return False
        return True

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

