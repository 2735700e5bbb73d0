"""Save a network to one safetensors file, and load it back; nothing is ever unpickled.

The file holds every tensor of the network, the configuration (inside the state, as text), and in
its header what is needed to build the modules again: standard torch modules from their arguments, a
traced model from the calls of its graph. What only the user's code can build is asked for.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from imac_torch.base.files import parse_json, read_tensors, write_tensors
from imac_torch.config import Config
from imac_torch.conversion.graph.blueprint import build_blueprint, inputs_of_blueprint
from imac_torch.conversion.graph.building import rebuild_graph
from imac_torch.conversion.layers import expandable
from imac_torch.conversion.modules import DAMAGE, build_module, describe_module
from imac_torch.conversion.plan import DIGITAL_TAIL
from imac_torch.errors import ConversionError, ConversionWarning, DataError, FileWarning, ImacError
from imac_torch.model.linear import IMACLinear, settings
from imac_torch.model.network import Chain, IMACNetwork, LayerRecord, renew
from imac_torch.model.segment import Segment
from imac_torch.model.state import unpack
from imac_torch.numeric.modes import lasting
from imac_torch.software.leaves import leaves, plain_leaves
from imac_torch.software.plain import copied

__all__ = ["FORMAT", "load", "read_saved", "save"]

FORMAT: Final = 2
"""Version of the file format. In 1 a network was one chain of layers."""
GRAPH_FORMAT: Final = 3
"""Of networks of models that were traced; newer files are refused."""

_ENTRY: Final = "imac_torch network"
"""Where in the file's metadata our header is."""


def save(network: IMACNetwork, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a converted network into one safetensors file.

    The file appears under its name only when it is complete.

    Args:
        network: The network; gradients and the engine's settings are not stored.
        path: Of the new file, ending in ``.safetensors``.
        overwrite: Whether an existing file may be replaced.

    Raises:
        DataError: The suffix is another one, the file exists, or it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise DataError(f"{path}: networks are .safetensors files; name it {path.stem}.safetensors")
    if path.exists() and not overwrite:
        raise DataError(f"{path} exists; choose another name or allow overwriting")
    header: dict[str, Any] = {"format": FORMAT}
    if network.inputs is None:
        header |= {
            "layers": [_layer_header(layer) for layer in network.analog_layers()],
            "digital": _headers(network.digital, path, "before"),
            "tail": _headers(network.tail, path, "after"),
        }
    else:
        # What was traced, as text where that is possible, and what was decided about it.
        header |= {"format": GRAPH_FORMAT, "graph": _graph_header(network)}
    header["records"] = [asdict(record) for record in network.conversion]
    # One entry: safetensors writes several in random order, files would differ.
    metadata = {_ENTRY: json.dumps(header)}
    try:
        write_tensors(path, network.state_dict(), metadata, new=not overwrite)
    except FileExistsError:  # somebody wrote it meanwhile
        raise DataError(f"{path} exists; choose another name or allow overwriting") from None
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from None
    return path


@lasting()
@torch.random.fork_rng(devices=[])  # modules draw weights when they are built
def load(
    path: str | Path,
    digital: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    files: bool = False,
) -> IMACNetwork:
    """Read a network written by :func:`save`.

    Args:
        path: The file.
        digital: The software modules before the circuit, or a function that makes them; the whole
            original model will do, and of one that was traced it is that. Needed where something
            in it is neither torch's nor could be traced. Weights come from the file.
        files: Use the files that the configuration inside names: tables, model cards and
            sub-circuits of neurons. Without it a warning says which they are, and what needs one
            is refused.

    Returns:
        The network in evaluation mode, on the CPU, with the native engine's default settings.

    Raises:
        DataError: The file is missing, damaged, of another kind or newer; a module has to be
            given, or the one given does not fit.
        ConfigError: The configuration inside is not valid.
    """
    path = Path(path)
    header, tensors = _read(path)
    if "graph" in header:
        network = _traced(path, header, tensors, digital)
        if not files:
            _leave_files(path, network)
        return network
    renew(tensors)
    layers = [
        _build_layer(path, item, tensors, index)
        for index, item in enumerate(_list(path, header, "layers"))
    ]
    given = None if digital is None else _given(digital)
    front = _part(path, _list(path, header, "digital"), "before", given)
    behind = None if given is None else [leaf for leaf in given if isinstance(leaf, DIGITAL_TAIL)]
    tail = _part(path, _list(path, header, "tail"), "after", behind)
    try:
        records = [LayerRecord(**record) for record in _list(path, header, "records")]
        segment = Segment(layers, Config())
        model = Chain(nn.Sequential(*front), segment, nn.Sequential(*tail))
        network = IMACNetwork(model, Config(), records)
        network.load_state_dict(tensors, strict=True)
    except ImacError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path}: tensors do not fit the modules: {error}") from None
    if not files:
        _leave_files(path, network)
    return network.eval()


def _graph_header(network: IMACNetwork) -> dict[str, Any]:
    """What was decided about a traced model: its circuits by their layers, and its inputs."""
    assert network.inputs is not None  # noqa: S101 - narrows the type only
    blueprint = network.blueprint
    return {
        "class": type(network.model).__name__,
        "own_code" if isinstance(blueprint, str) else "blueprint": blueprint,
        "segments": [
            [layer.name for layer in segment.analog_layers()]
            for segment in network.segments.values()
        ],
        "kept": [
            path for path, part in network.model.named_modules() if path and expandable(part)
        ],
        "inputs": list(network.inputs.names),
    }


def _traced(
    path: Path,
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    model: nn.Module | Callable[[], nn.Module] | None,
) -> IMACNetwork:
    """The network of a model that was traced: traced once more, with the decisions of the file."""
    try:
        decided = header["graph"]
        segments = [[str(name) for name in names] for names in decided["segments"]]
        inputs = [str(name) for name in decided["inputs"]]
        kept = [str(name) for name in decided.get("kept", ())]
        blueprint = decided.get("blueprint")
        records = [LayerRecord(**record) for record in _list(path, header, "records")]
        config = _config(tensors)
        if model is None and blueprint is None:
            own = decided.get("own_code")
            raise DataError(
                f"{path}: only your own code can build "
                f"{f'a part of its model, {own}' if own else 'its model'}: pass the original model "
                "(or a function that makes it) as load(path, model), on the command line "
                "--original module:factory; its weights come from the file"
            )
        if model is None:
            model = build_blueprint(blueprint, str(decided["class"]))
        else:
            blueprint = None
            model = model if isinstance(model, nn.Module) else model()
        network = rebuild_graph(model, config, segments, inputs, kept)
        if blueprint is not None:
            network.inputs, network.blueprint = inputs_of_blueprint(blueprint, inputs), blueprint
            type(network.model).__name__ = str(decided["class"])  # a graph has a class of its own
        network.conversion = tuple(records)
        for name, parameter in network.named_parameters():
            if name in tensors:  # without, it is said below
                parameter.data = parameter.data.to(tensors[name].dtype)
        network.load_state_dict(dict(tensors), strict=True)
    except DataError as error:
        raise error if str(error).startswith(str(path)) else DataError(f"{path}: {error}") from None
    except ConversionError as error:
        raise DataError(f"{path}: the model given does not fit: {error}") from None
    except ImacError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path}: tensors do not fit the model given: {error}") from None
    return network.eval()


def _leave_files(path: Path, network: IMACNetwork) -> None:
    """Say which files a network names, and see to it that they are not used."""
    named: dict[str, None] = {}
    for layer in network.analog_layers():
        layer.foreign = layer.matrix.foreign = str(path)
        for section, files in (
            ("neuron", ("table", "subcircuit", "model_directory", "osdi")),
            ("amplifier", ("table", "subcircuit")),
        ):
            for field in files:
                value = getattr(getattr(layer.config, section), field)
                if value is not None:
                    named[f"{section}.{field} = {value!r}"] = None
    if named:
        warnings.warn(
            f"{path} names other files, which are not used unasked: {', '.join(named)}; "
            "load(path, files=True) uses them (on the command line --trust)",
            FileWarning,
            stacklevel=3,
        )


def _layer_header(layer: IMACLinear) -> dict[str, Any]:
    return {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
        **({} if layer.groups == 1 else {"groups": layer.groups}),
    }


def _headers(part: nn.Module, path: Path, where: str) -> list[dict[str, Any]]:
    """How to build the modules of a part again; a warning names those that only the user can."""
    items = [leaf.module for leaf in leaves(part)]
    found = [describe_module(item) for item in items]
    unknown = [
        type(item).__name__
        for item, header in zip(items, found, strict=True)
        if "arguments" not in header
    ]
    if unknown:
        warnings.warn(
            f"{path}: {', '.join(unknown)} {where} the circuit can be built by your own code only; "
            "the file is to be loaded with load(path, digital=...), which takes the original model",
            ConversionWarning,
            stacklevel=3,
        )
    return found


def read_saved(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], Config]:
    """What a saved network holds, without building it: header, tensors, configuration.

    Raises:
        DataError: The file is missing, damaged, of another kind or newer.
        ConfigError: The configuration inside is not valid.
    """
    header, tensors = _read(path)
    _list(path, header, "records")
    try:
        return header, tensors, _config(tensors)
    except DAMAGE as error:
        raise DataError(f"{path}: the network is damaged: {error}") from None


def _config(tensors: Mapping[str, Tensor]) -> Config:
    return unpack(
        tensors["_extra_state"], lambda found: Config.from_dict(found["config"]), "network"
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        tensors, metadata = read_tensors(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    if _ENTRY not in metadata:
        raise DataError(
            f"{path} holds no network of imac_torch (a plain set of weights?); convert the model "
            "first and save the result"
        )
    try:
        header = parse_json(metadata[_ENTRY])
        version = int(header["format"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: the header is damaged") from None
    if not 1 <= version <= GRAPH_FORMAT:
        raise DataError(
            f"{path}: file format {version}, this version reads up to {GRAPH_FORMAT}; update "
            "imac_torch"
        )
    return header, tensors


def _list(path: Path, header: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = header.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{path}: the header's {name!r} is missing or damaged")
    return value


def _build_layer(
    path: Path, header: dict[str, Any], tensors: Mapping[str, Tensor], index: int
) -> IMACLinear:
    try:
        own = f"model.segment.layers.{index}."
        config, activation, scaling, name, _ = unpack(
            tensors[f"{own}_extra_state"], settings, f"layer {index}"
        )
        inputs, outputs = int(header["in_features"]), int(header["out_features"])
        shape = tuple(tensors[f"{own}weight"].shape)
        if shape != (outputs, inputs):  # before anything of that size is made
            raise ValueError(f"{outputs}x{inputs} weights are announced, {shape} are there")
        layer = IMACLinear(
            inputs,
            outputs,
            bias=bool(header["bias"]),
            groups=int(header.get("groups", 1)),
            activation=activation,
            config=config,
            scaling=scaling,
            name=name,
            dtype=tensors[f"{own}weight"].dtype,
            initialise=False,
        )
    except ConversionError as error:
        raise DataError(f"{path}: layer {index}: {error}") from None
    except ImacError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path}: layer {index} is damaged: {error}") from None
    return layer


def _build_module(path: Path, header: dict[str, Any], where: str) -> nn.Module:
    try:
        return build_module(header)
    except DAMAGE as error:
        raise DataError(f"{path}: {header.get('type')} {where} cannot be built: {error}") from None


def _given(digital: nn.Module | Callable[[], nn.Module]) -> list[nn.Module]:
    """Copies of the modules given, in order, with plain weights as networks have them."""
    module = digital if isinstance(digital, nn.Module) else digital()
    found = plain_leaves(module)
    return copied([leaf.module for leaf in found], [leaf.path for leaf in found])


def _part(
    path: Path, headers: list[dict[str, Any]], where: str, given: list[nn.Module] | None
) -> list[nn.Module]:
    """The modules before or after the circuit: rebuilt, or those given, the first or the last."""
    where = f"{where} the circuit"
    unknown = [str(item.get("type")) for item in headers if "arguments" not in item]
    if not unknown and (given is None or where.startswith("after")):
        return [_build_module(path, item, where) for item in headers]
    if given is None:
        raise DataError(
            f"{path}: {where} stands {', '.join(unknown)}, which only your own code "
            "can build; pass it (or a function that makes it) as load(path, digital=...)"
        )
    count = len(headers)
    found = given[:count] if where.startswith("before") else given[-count:]
    names = [type(item).__name__ for item in found]
    wanted = [str(item.get("type")).rpartition(".")[2] for item in headers]
    if names != wanted:
        raise DataError(
            f"{path}: the file was saved with {', '.join(wanted) or 'nothing'} {where}, "
            f"the module given has {', '.join(names) or 'nothing'} there"
        )
    return found
