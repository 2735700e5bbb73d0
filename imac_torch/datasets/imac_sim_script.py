"""Read the inputs of an IMAC-Sim script (testIMAC.py) without running it.

IMAC-Sim has no input file: users edit the assignments at the top of its script. They are plain
arithmetic on numbers, strings and lists, which is evaluated here from the syntax tree.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imac_torch.config import (
    Amplifier,
    Config,
    Crossbar,
    Interconnect,
    Memristor,
    Neuron,
    Supplies,
    Timing,
)
from imac_torch.errors import DataError

__all__ = ["ImacSimScript", "read_imac_sim_script"]

_OPERATORS: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_NUMBERS: Final = (
    "weight_var", "testnum", "testnum_per_batch", "firstimage", "vdd", "vss", "tsampling",
    "tech_node", "metal", "T", "H", "L", "W", "D", "eps", "rho", "rlow", "rhigh",
)  # fmt: skip
_REQUIRED: Final = ("nodes", "xbar", "gain", "tech_node", "rlow", "rhigh", "vdd")


@dataclass(frozen=True)
class ImacSimScript:
    """What an IMAC-Sim script asks for.

    Attributes:
        config: The circuit.
        data_dir: Directory of weights and samples.
        dataset_file: In it.
        label_file: In it.
        nodes: Sizes of all layers, inputs first.
        testnum: Samples.
        testnum_per_batch: Samples per netlist.
        firstimage: First sample.
    """

    config: Config
    data_dir: Path
    dataset_file: str
    label_file: str
    nodes: tuple[int, ...]
    testnum: int
    testnum_per_batch: int
    firstimage: int


def read_imac_sim_script(path: str | Path) -> ImacSimScript:
    """Read the inputs at the top of a ``testIMAC.py``; nothing of it is executed.

    Args:
        path: The script; its directories are relative to where it stands.

    Returns:
        The inputs, translated. Models in ``spice_dir`` are taken if there are any.

    Raises:
        DataError: The script is not Python, an input is missing or not plain arithmetic.
        ConfigError: The values make no circuit.
    """
    path = Path(path)
    values = _assignments(path)
    missing = [name for name in _REQUIRED if name not in values]
    if missing:
        raise DataError(f"{path}: no plain assignment of {', '.join(missing)}; is it IMAC-Sim's?")
    for name in _NUMBERS:
        if name in values and not isinstance(values[name], int | float):
            raise DataError(f"{path}: {name} = {values[name]!r} is not a number")
    nodes = _integers(path, values, "nodes")
    sizes = _integers(path, values, "xbar")
    if len(sizes) != 2:
        raise DataError(f"{path}: xbar = {list(sizes)} must have two entries")
    config = Config(
        supplies=Supplies(vdd=values["vdd"], vss=values.get("vss", -values["vdd"])),
        device=Memristor(
            rlow=values["rlow"],
            rhigh=values["rhigh"],
            variation=values.get("weight_var", 0.0) / 100.0,
        ),
        interconnect=_interconnect(values),
        # Its first number divides the inputs of a layer, its second the outputs.
        crossbar=Crossbar(
            columns=sizes[0],
            rows=sizes[1],
            horizontal=_partitions(path, values, "hpar"),
            vertical=_partitions(path, values, "vpar"),
        ),
        amplifier=Amplifier(gain=tuple(float(gain) for gain in values["gain"])),
        neuron=_neuron(path.parent / str(values.get("spice_dir", "spice"))),
        timing=_timing(values),
    )
    return ImacSimScript(
        config=config,
        data_dir=path.parent / str(values.get("data_dir", "data")),
        dataset_file=str(values.get("dataset_file", "test_data.csv")),
        label_file=str(values.get("label_file", "test_labels.csv")),
        nodes=nodes,
        testnum=int(values.get("testnum", 1)),
        testnum_per_batch=int(values.get("testnum_per_batch", 1)),
        firstimage=int(values.get("firstimage", 0)),
    )


def _assignments(path: Path) -> dict[str, Any]:
    """Top-level ``name = arithmetic`` of a script; the first of a name, others are left out."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    except SyntaxError as error:
        raise DataError(f"{path}, line {error.lineno}: not Python: {error.msg}") from None
    values: dict[str, Any] = {}
    for statement in tree.body:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            continue
        target = statement.targets[0]
        if isinstance(target, ast.Name) and target.id not in values:
            try:
                values[target.id] = _evaluate(statement.value, values)
            except (ValueError, ArithmeticError, TypeError):
                continue  # not an input: a computation of the script's own
    return values


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_evaluate(item, values) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, values)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate(node.left, values), _evaluate(node.right, values)
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            raise ValueError("arithmetic on numbers only")
        if isinstance(node.op, ast.Pow) and abs(right) > 64:
            raise ValueError("an exponent that no input has")
        return _OPERATORS[type(node.op)](left, right)
    raise ValueError("not plain arithmetic")


def _integers(path: Path, values: Mapping[str, Any], name: str) -> tuple[int, ...]:
    value = values[name]
    if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
        raise DataError(f"{path}: {name} = {value!r} must be a list of integers")
    return tuple(value)


def _partitions(path: Path, values: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    """Partitions where they are written out; else they are computed, as IMAC-Sim does."""
    return _integers(path, values, name) if name in values else None


def _interconnect(values: Mapping[str, Any]) -> Interconnect:
    names = {
        "metal": "metal", "T": "thickness", "H": "height", "L": "length", "W": "width",
        "D": "spacing", "rho": "resistivity", "eps": "permittivity",
    }  # fmt: skip
    given = {ours: values[theirs] for theirs, ours in names.items() if theirs in values}
    return Interconnect(tech_node=values["tech_node"], **given)


def _timing(values: Mapping[str, Any]) -> Timing:
    period = float(values.get("tsampling", 4.0)) * 1e-9
    return Timing(period=period, transition=min(1e-10, period / 10))


def _neuron(spice_dir: Path) -> Neuron:
    """The neuron with the transistors that IMAC-Sim's directory holds; 14 nm HP is its choice."""
    cards = spice_dir / "modelfiles"
    there = all((cards / "hp" / f"14{kind}fet.pm").is_file() for kind in "np")
    return Neuron(kind="finfet", model_directory=str(cards) if there else None)
