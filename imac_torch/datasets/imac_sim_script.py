"""Read the inputs of an IMAC-Sim script (testIMAC.py) without running it.

IMAC-Sim has no input file: users edit the assignments at the top of its script. What Python would
make of them is found from the syntax tree (:mod:`imac_torch.datasets.script_values`); an input that
is not known without running the script is refused, with the line and the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imac_torch.base.files import read_bytes
from imac_torch.config import (
    Amplifier,
    Config,
    Crossbar,
    Interconnect,
    Memristor,
    Neuron,
    Noise,
    Supplies,
    Timing,
)
from imac_torch.datasets.script_values import LARGEST_SCRIPT, Unknown, script_values
from imac_torch.errors import DataError

__all__ = ["SCRIPT_NAMES", "ImacSimScript", "read_imac_sim_script"]

SCRIPT_NAMES: Final = (
    "nodes", "xbar", "gain", "hpar", "vpar", "weight_var", "testnum", "testnum_per_batch",
    "firstimage", "vdd", "vss", "tsampling", "tech_node", "metal", "T", "H", "L", "W", "D", "eps",
    "rho", "rlow", "rhigh", "data_dir", "spice_dir", "dataset_file", "label_file", "noise",
)  # fmt: skip
"""Inputs of IMAC-Sim's script."""
SIMULATION: Final = "mapIMAC.mapIMAC"
"""What the script's inputs are handed to: what it computes later is no input."""
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
    """Read the inputs at the top of a ``testIMAC.py`` without running it.

    Args:
        path: The script; its directories are relative to where it stands.

    Returns:
        The inputs, translated. Models in ``spice_dir`` are taken if there are any.

    Raises:
        DataError: The script is not Python, or an input is missing, of another kind than IMAC-Sim
            takes, or not known without running the script.
        ConfigError: The values make no circuit.
    """
    path = Path(path)
    inputs = _Inputs(path)
    nodes = inputs.row("nodes", int) or ()
    sizes = inputs.row("xbar", int) or ()
    if len(sizes) != 2:
        raise DataError(f"{path}: xbar = {list(sizes)} must have two entries")
    vdd = inputs.number("vdd", 0.0)
    config = Config(
        supplies=Supplies(vdd=vdd, vss=inputs.number("vss", -vdd)),
        device=Memristor(
            rlow=inputs.number("rlow", 0.0),
            rhigh=inputs.number("rhigh", 0.0),
            variation=inputs.number("weight_var", 0.0) / 100.0,
        ),
        interconnect=_interconnect(inputs),
        # Its first number divides the inputs of a layer, its second the outputs.
        crossbar=Crossbar(
            columns=sizes[0],
            rows=sizes[1],
            horizontal=_partitions(inputs, "hpar", [n + 1 for n in nodes[:-1]], sizes[0]),
            vertical=_partitions(inputs, "vpar", nodes[1:], sizes[1]),
        ),
        amplifier=Amplifier(gain=inputs.row("gain", float)),
        neuron=_neuron(path.parent / inputs.text("spice_dir", "spice")),
        timing=_timing(inputs),
        noise=_noise(inputs),
    )
    return ImacSimScript(
        config=config,
        data_dir=path.parent / inputs.text("data_dir", "data"),
        dataset_file=inputs.text("dataset_file", "test_data.csv"),
        label_file=inputs.text("label_file", "test_labels.csv"),
        nodes=nodes,
        testnum=inputs.whole("testnum", 1),
        testnum_per_batch=inputs.whole("testnum_per_batch", 1),
        firstimage=inputs.whole("firstimage", 0),
    )


def _noise(inputs: _Inputs) -> Noise:
    """Of inputs alone, as far as a script (an earlier one) has an amplitude."""
    amplitude = inputs.number("noise", 0.0)
    return Noise(inputs=amplitude, circuit=False) if amplitude else Noise()


class _Inputs:
    """The script's names, each asked for by what it must be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.names = script_values(read_bytes(path, limit=LARGEST_SCRIPT), end=SIMULATION)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from None
        except SyntaxError as error:
            line = "" if error.lineno is None else f", line {error.lineno}"
            raise DataError(f"{path}{line}: not Python: {error.msg}") from None
        missing = [name for name in _REQUIRED if self.names.find(name) is None]
        if missing:
            raise DataError(f"{path}: no assignment of {', '.join(missing)}; is it IMAC-Sim's?")

    def find(self, name: str) -> Any:  # noqa: ANN401
        """The value of a name; None if the script has none.

        Raises:
            DataError: It has one that is not known without running the script.
        """
        value = self.names.find(name)
        if isinstance(value, Unknown):
            raise DataError(
                f"{self.path}, line {value.line}: {name} is not known without running the script "
                f"({value.reason}); write its value at the top"
            )
        return value

    def number(self, name: str, default: float) -> float:
        """A number."""
        value = self.find(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{self.path}: {name} = {value!r} is not a number")
        return value

    def whole(self, name: str, default: int) -> int:
        """A whole number."""
        value = self.number(name, default)
        if not math.isfinite(value) or value != int(value):
            raise DataError(f"{self.path}: {name} = {value!r} is not a whole number")
        return int(value)

    def text(self, name: str, default: str) -> str:
        """A text."""
        value = self.find(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise DataError(f"{self.path}: {name} = {value!r} is not a text")
        return value

    def row(self, name: str, kind: type[int] | type[float]) -> tuple[Any, ...] | None:
        """A list of numbers; None if the script has none."""
        value = self.find(name)
        if value is None:
            return None
        kinds = (int,) if kind is int else (int, float)
        right = isinstance(value, list | tuple) and all(
            isinstance(item, kinds) and not isinstance(item, bool) for item in value
        )
        if not right:
            words = "integers" if kind is int else "numbers"
            raise DataError(f"{self.path}: {name} = {value!r} must be a list of {words}")
        return tuple(kind(item) for item in value)


def _partitions(
    inputs: _Inputs, name: str, lines: Sequence[int], largest: int
) -> tuple[int, ...] | None:
    """Parts per layer; None where the script has none, or those that the size of arrays gives.

    IMAC-Sim takes as many entries as there are layers, whatever follows.
    """
    found = inputs.row(name, int)
    if found is None or largest < 1:
        return None
    found = found[: len(lines)]
    return None if found == tuple(-(-count // largest) for count in lines) else found


def _interconnect(inputs: _Inputs) -> Interconnect:
    names = {
        "tech_node": "tech_node", "metal": "metal", "T": "thickness", "H": "height", "L": "length",
        "W": "width", "D": "spacing", "rho": "resistivity", "eps": "permittivity",
    }  # fmt: skip
    given = {
        ours: inputs.number(theirs, 0.0)
        for theirs, ours in names.items()
        if inputs.names.find(theirs) is not None
    }
    made = Interconnect(**given)
    # Every script has D, which only capacitances read: five λ, as here, are nobody's choice.
    plain = made.replace(spacing=None)
    usual = made.spacing is not None and math.isclose(made.spacing, plain.line_spacing)
    return plain if usual else made


def _timing(inputs: _Inputs) -> Timing:
    period = inputs.number("tsampling", 4.0) * 1e-9
    return Timing(period=period, transition=min(1e-10, period / 10))


def _neuron(spice_dir: Path) -> Neuron:
    """The neuron with the transistors that IMAC-Sim's directory holds; 14 nm HP is its choice."""
    cards = spice_dir / "modelfiles"
    there = all((cards / "hp" / f"14{kind}fet.pm").is_file() for kind in "np")
    return Neuron(kind="finfet", model_directory=str(cards) if there else None)
