"""FinFETs as access devices: 1T1R, 2T1R, and with p transistors in parallel 1TG1R."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.base.units import spice_number
from imac_torch.cells.base import Cell, CellCurrents, Flicker, Part, number
from imac_torch.cells.series import LAST_STEP, REACH, Access, Ohmic
from imac_torch.cells.sinh import Sinh
from imac_torch.cells.surface import axis, spline_lines, table_lines
from imac_torch.config import Config
from imac_torch.config.quantity import TRANSISTOR_NODE, VOLTAGE
from imac_torch.errors import ConfigError, NetlistError, SolverError
from imac_torch.finfet import (
    FinFET,
    ModelCard,
    builtin_14nm_hp,
    load_ptm,
    write_model_card,
)
from imac_torch.finfet.kept import kept
from imac_torch.finfet.noise import TransistorNoise
from imac_torch.kernels.compiled import obstacle
from imac_torch.numeric.cell_kinds import TRANSISTOR
from imac_torch.numeric.modes import differentiating, lasting, leaf
from imac_torch.periphery.neuron.spline import SplineTable

__all__ = ["AccessTransistor"]

STEP: Final = 5e-3
"""V. Largest distance of the nodes of a table. Interpolation errs by step⁴/384 times the fourth
derivative, which is largest where a transistor turns off: measured with two fins, 0.12 nA at most
and 5 pA rms, of currents up to 1 mA."""
MARGIN: Final = 0.1
"""V. Tables reach this far beyond the supplies, which lines do not leave."""
ON: Final = 3e-2
"""V. Likewise of the lower end, of the splines that ngspice has."""
SATURATION: Final = 0.1
"""V. How far the ends are apart has nodes at sinh of equal steps, of this times them."""
ABOVE: Final = 80
"""Nodes of that. Of the voltage across a 4 kΩ device in series, the error is 1e-6 V at most."""
LEAK: Final = 5e-2
"""V. What tunnels, some 0.1 nA, is interpolated bilinearly to 1e-12 A."""


@dataclass(frozen=True)
class Bias:
    """What a transistor's current depends on besides its source and drain.

    Attributes:
        gate: V, of n transistors.
        p_gate: V, of p transistors.
        bulk: V, of n transistors.
        p_bulk: V, of p transistors.
        temperature: K.
        low: V, lowest of the lines.
        high: V, highest of the lines.
        tabulated: Whether currents are those of a table.
    """

    gate: float
    p_gate: float
    bulk: float
    p_bulk: float
    temperature: float
    low: float
    high: float
    tabulated: bool = True

    @property
    def span(self) -> tuple[float, float]:
        """V, from where to where currents are tabulated."""
        return self.low - MARGIN, self.high + MARGIN

    def covers(self, voltage: Tensor) -> Tensor:
        """Elementwise, whether V is within :attr:`span`."""
        low, high = self.span
        return (voltage >= low) & (voltage <= high)


@dataclass(frozen=True)
class AccessTransistor(Access):
    """FinFETs (BSIM-CMG) from the memory device to the I± line, gates at constant voltages.

    Source and drain are whichever terminal the current makes them. What tunnels from the gate to
    them is part of their currents; what flows from the gate to the bulk does not pass the lines
    and is not counted. 1T1R has n fins only, 2T1R two transistors in parallel, so twice the fins,
    1TG1R (a transmission gate) p fins besides.

    Attributes:
        fins: Of n transistors.
        p_fins: Of p transistors in parallel; 0: none.
        gate: V, of n transistors; None: vdd.
        p_gate: V, of p transistors; None: vss.
        bulk: V, below n transistors; None: vss. Below p transistors it is vdd.
        node: nm, of the PTM-MG cards.
        flavour: ``hp`` or ``lstp``.
        model_directory: Directory of PTM-MG cards; empty: 14 nm hp, which is built in.
        bias: What the circuit says of the rest.
        live: Voltages of it where they are differentiated.
    """

    fins: int = 1
    p_fins: int = 0
    gate: Annotated[float | None, VOLTAGE] = None
    p_gate: Annotated[float | None, VOLTAGE] = None
    bulk: Annotated[float | None, VOLTAGE] = None
    node: Annotated[int, TRANSISTOR_NODE] = 14
    flavour: str = "hp"
    model_directory: str = ""
    bias: Bias | None = None
    live: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)

    absolute: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is not allowed.
        """
        if self.fins < 0 or self.p_fins < 0 or self.fins + self.p_fins < 1:
            raise ConfigError(
                f"fins = {self.fins}, p_fins = {self.p_fins}: a cell has one at least"
            )
        if not self.model_directory and (self.node, self.flavour) != (14, "hp"):
            raise ConfigError(
                f"only the 14 nm hp transistor is built in; for {self.node} nm {self.flavour} set "
                "model_directory to a directory of PTM-MG cards"
            )

    def of_circuit(self, config: Config) -> AccessTransistor:
        """See :class:`Access`: gates and bulks at the supplies, where nothing else is said."""
        vdd, vss = config.supplies.vdd, config.supplies.vss
        bias = Bias(
            gate=vdd if self.gate is None else self.gate,
            p_gate=vss if self.p_gate is None else self.p_gate,
            bulk=vss if self.bulk is None else self.bulk,
            p_bulk=vdd,
            temperature=config.temperature,
            low=vss,
            high=vdd,
        )
        return replace(self, bias=bias)

    def exact(self) -> AccessTransistor:
        """See :class:`Access`: the compact model itself."""
        return replace(self, bias=replace(self.known, tabulated=False))

    def numbers(self) -> dict[str, float]:
        """See :class:`Access`: voltages of the transistors that there are."""
        names = (("gate", "bulk") if self.fins else ()) + (("p_gate",) if self.p_fins else ())
        return {name: getattr(self.known, name) for name in names}

    def of_tensors(self, values: Mapping[str, Tensor]) -> AccessTransistor:
        """See :class:`Access`."""
        return replace(self, live=values)

    @property
    def known(self) -> Bias:
        """Of a cell without a circuit: that of the default one."""
        found = self.bias or self.of_circuit(Config()).bias
        assert found is not None  # noqa: S101 - narrows the type only
        return found

    @property
    def bend(self) -> float:
        """See :class:`Access`: currents fall by a decade in some 70 mV where gates turn off."""
        return 0.2

    @property
    def code(self) -> tuple[float, ...] | None:
        """See :class:`Access`."""
        return (TRANSISTOR, 0.0, 0.0, 0.0, 0.0) if self.known.tabulated else None

    @property
    def table(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """See :class:`Access`."""
        if not self.known.tabulated:
            return None
        table = _table(self.unbiased, self.known)
        return table.coefficients.numpy(), table.grid()

    def inside(self, end: Tensor, node: Tensor) -> Tensor | None:
        """See :class:`Access`."""
        return self.known.covers(end) & self.known.covers(node)

    def currents(self, across: Tensor, end: Tensor | None = None) -> CellCurrents:
        """See :class:`Access`."""
        assert end is not None  # noqa: S101 - absolute
        node = end + across
        bias = self.known
        if not bias.tabulated:
            return self._of_model(node, end)
        table = _table(self.unbiased, bias)
        if node.device.type != "cpu":
            table = table.to(node.device)
        found = table.differentiable(node, end)
        into, leak = found.value.unbind(-1)
        if self.live and torch.is_grad_enabled():
            # Tables have no derivatives by what is held: those of the model, without its value.
            exact = self.terminals(*map(torch.Tensor.detach, torch.broadcast_tensors(node, end)))
            into, leak = (x + (y - y.detach()) for x, y in zip((into, leak), exact, strict=True))
        return CellCurrents(into, found.by_first[..., 0], -found.by_second[..., 0], leak)

    def terminal_capacitances(self) -> tuple[float, float]:
        """See :class:`Access`: of the model, both ends moving together in the middle of supplies.

        Channel, overlaps, fringes and junctions. Where a transistor is on, its two ends are nearly
        at one voltage, and a charge is that times both terminals' shares. Ends nearer to the gate's
        voltage hold less (half of it 0.3 V below a gate at 0.8 V).
        """
        return _capacitances(self.unbiased, self.known)

    def in_series(
        self, memory: Cell, conductance: Tensor, across: Tensor, end: Tensor | None
    ) -> tuple[Tensor, CellCurrents] | None:
        """See :class:`Access`: compiled, behind resistors and hyperbolic sines.

        Raises:
            SolverError: An inner node was not found.
        """
        bend = {Ohmic: 0.0, Sinh: number(memory.bend)}.get(type(memory))
        compiled = across.device.type == "cpu" and obstacle() is None
        if bend is None or not compiled or not self.known.tabulated:
            return None
        from imac_torch.kernels.access import solve
        from imac_torch.kernels.threads import run_blocks

        table = _table(self.unbiased, self.known)
        assert end is not None  # noqa: S101 - absolute
        conductance, across, end = torch.broadcast_tensors(conductance, across, end)
        result = across.new_empty(5, across.numel())
        run_blocks(
            solve, across.numel(), torch.get_num_threads(), table.coefficients.numpy(),
            table.grid(), bend, REACH, LAST_STEP,
            *(item.reshape(-1).contiguous().numpy() for item in (conductance, across, end)),
            result.numpy(),
        )  # fmt: skip
        if not bool(torch.isfinite(result[0]).all()) and bool(torch.isfinite(across).all()):
            raise SolverError("inner nodes of cells behind a transistor were not found")
        at, *found = result.unflatten(1, across.shape or (1,)).unbind(0)
        return at.reshape(across.shape), CellCurrents(*(x.reshape(across.shape) for x in found))

    def noise(self, across: Tensor, end: Tensor | None, temperature: float) -> Tensor:
        """See :class:`Access`: of channels and their series resistances."""
        return sum((item.thermal for item in self._noises(across, end)), torch.zeros_like(across))

    def flicker(self, across: Tensor, end: Tensor | None) -> Flicker:
        """See :class:`Access`: of traps in their oxides."""
        found = self._noises(across, end)
        return Flicker(
            sum((item.flicker for item in found), torch.zeros_like(across)), found[0].exponent
        )

    @torch.no_grad()
    def _noises(self, across: Tensor, end: Tensor | None) -> list[TransistorNoise]:
        """Of the transistors that there are."""
        assert end is not None  # noqa: S101 - absolute
        bias = self.known
        return [
            transistor.noise(end + across, gate, end, bulk)
            for transistor, gate, bulk in zip(
                transistors(self.unbiased, bias.temperature),
                (bias.gate, bias.p_gate), (bias.bulk, bias.p_bulk), strict=True,
            )
            if transistor is not None
        ]  # fmt: skip

    @property
    def unbiased(self) -> AccessTransistor:
        """The transistors alone."""
        return replace(self, gate=None, p_gate=None, bulk=None, bias=None, live=None)

    def terminals(self, node: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Into the transistors from the memory device, and into the I± line besides (A).

        Args:
            node: V, behind the memory device.
            end: V, of the I± line.
        """
        bias, live = self.known, self.live or {}
        into, leak = torch.zeros_like(node), torch.zeros_like(node)
        for transistor, gate, bulk in zip(
            transistors(self.unbiased, bias.temperature),
            (live.get("gate", bias.gate), live.get("p_gate", bias.p_gate)),
            (live.get("bulk", bias.bulk), bias.p_bulk), strict=True,
        ):  # fmt: skip
            if transistor is not None:
                found = transistor.currents(node, gate, end, bulk)
                into, leak = into + found.drain, leak - found.drain - found.source
        return into, leak

    def _of_model(self, node: Tensor, end: Tensor) -> CellCurrents:
        with differentiating():
            at = [leaf(item) for item in torch.broadcast_tensors(node, end)]
            into, _ = self.terminals(*at)
            by_node, by_end = torch.autograd.grad(into.sum(), at)
        into, leak = self.terminals(node, end)
        return CellCurrents(into, by_node, -by_end, leak)

    @property
    def name(self) -> str:
        """Of its sub-circuit."""
        return name_of("access", replace(self, bias=self.known))

    def lines(self, name: str, first: str, second: str) -> list[str]:
        """See :class:`Access`."""
        return [f"X{name} {first} {second} {self.name}"]

    def part(self, transistors: str) -> Part | None:
        """See :class:`Access`: model cards, or for ngspice, which has no level 72, tables."""
        if transistors == "cards":
            return Part(self.name, _cards_text(self.name, self))
        if transistors == "tables":
            return Part(self.name, *_tables(self))
        raise without_form(transistors)


def without_form(transistors: str) -> NetlistError:
    """What to say of a dialect that cannot have transistors of cells."""
    return NetlistError(
        f"cells have transistors, and this dialect says transistors = {transistors!r}: write for "
        "hspice or ngspice, or let its writer say 'cards' (HSPICE's level 72) or 'tables'"
    )


def cards(access: AccessTransistor) -> tuple[ModelCard, ModelCard]:
    """Model cards of its n and p transistors."""
    if access.model_directory:
        return load_ptm(access.model_directory, access.node, access.flavour)
    return builtin_14nm_hp()


@lru_cache(maxsize=16)
@lasting()
def transistors(
    access: AccessTransistor, temperature: float
) -> tuple[FinFET | None, FinFET | None]:
    n, p = (
        FinFET(card, nfin=fins, temperature=temperature) if fins else None
        for card, fins in zip(cards(access), (access.fins, access.p_fins), strict=True)
    )
    return n, p


@lru_cache(maxsize=16)  # a pure function of its arguments
@lasting()
def _capacitances(access: AccessTransistor, bias: Bias) -> tuple[float, float]:
    middle = 0.5 * (bias.low + bias.high)
    node, line = 0.0, 0.0
    for transistor, gate, bulk in zip(
        transistors(access, bias.temperature), (bias.gate, bias.p_gate), (bias.bulk, bias.p_bulk),
        strict=True,
    ):  # fmt: skip
        if transistor is not None:
            found = transistor.capacitances(middle, gate, middle, bulk)
            node = node + float(found[0, 0] + found[0, 2])
            line = line + float(found[2, 2] + found[2, 0])
    return node, line


@lru_cache(maxsize=16)  # a pure function of its arguments
@lasting()
def _table(access: AccessTransistor, bias: Bias) -> SplineTable:
    """Of the inner node's and the I± line's voltage: current into the transistors, and leak."""
    nodes = axis(*bias.span, STEP)
    return SplineTable.fit(nodes, nodes, _on_grid(replace(access, bias=bias), nodes))


def _on_grid(access: AccessTransistor, nodes: Tensor) -> Tensor:
    """(P, P, 2) A of :meth:`AccessTransistor.terminals`.

    The cards are symmetric (a test says so): source and drain exchanged, currents are exchanged.
    """

    def compute() -> Tensor:
        count = len(nodes)
        first, second = torch.triu_indices(count, count, device="cpu").unbind(0)
        into, leak = access.terminals(nodes[first], nodes[second])
        result = nodes.new_empty(count, count, 2)
        result[first, second] = torch.stack([into, leak], dim=-1)
        result[second, first] = torch.stack([-into - leak, leak], dim=-1)
        return result

    return kept("access", (access, cards(access), nodes.tolist()), compute)


def _cards_text(name: str, access: AccessTransistor) -> str:
    """A sub-circuit of level 72; gates and bulks are nodes that all cells share."""
    bias = access.known
    rails = {"g": bias.gate, "b": bias.bulk, "gp": bias.p_gate, "bp": bias.p_bulk}
    used = [*(("g", "b") if access.fins else ()), *(("gp", "bp") if access.p_fins else ())]
    lines = ["* Access transistors; word lines and bulks are held.", ".global"]
    lines[-1] += "".join(f" {name}_{rail}" for rail in used)
    lines += [f"V{name}_{rail} {name}_{rail} 0 {spice_number(rails[rail])}" for rail in used]
    lines.append(f".subckt {name} a b")
    for card, fins, gate, bulk in zip(
        cards(access), (access.fins, access.p_fins), ("g", "gp"), ("b", "bp"), strict=True
    ):
        if fins:
            lines += transistor_lines(card, fins, ("a", f"{name}_{gate}", "b", f"{name}_{bulk}"))
    return "\n".join([*lines, f".ends {name}", ""])


@lru_cache(maxsize=16)
@lasting()
def _tables(access: AccessTransistor) -> tuple[str, dict[str, str]]:
    """A sub-circuit of what passes and of what leaks into both ends, and its files.

    What passes is the voltage between the ends times a conductance, whose logarithm is a spline of
    the lower end's voltage and of how far the other one is above it: the first decides how far the
    transistor is on, and moves its logarithm slowly; along the other one it saturates.
    """
    bias, name = access.known, access.name
    low, high = bias.span
    lower = axis(low, high, ON)
    reach = math.asinh((high - low) / SATURATION)
    above = torch.linspace(0.0, reach, ABOVE, dtype=torch.float64, device="cpu")
    end, across = torch.meshgrid(lower, SATURATION * above.sinh(), indexing="ij")
    exact = replace(access, bias=replace(bias, tabulated=False))
    into, leak = exact.terminals(end + across, end)
    at_rest = exact.currents(torch.zeros_like(end), end)
    passed = torch.where(
        across > 0.0, (into + 0.5 * leak) / across, 0.5 * (at_rest.slope + at_rest.chord)
    )
    if not bool((passed > 0.0).all()):
        raise NetlistError(f"{access}: a current against its voltage has no table for ngspice")
    places = (
        f"(min(v(a),v(b))-({spice_number(low)}))/{spice_number(float(lower[1] - lower[0]))}",
        f"asinh(abs(v(a)-v(b))/{spice_number(SATURATION)})/{spice_number(float(above[1]))}",
    )
    lines, found, logarithm = spline_lines(name, places, passed.log())
    lines.append(f"Bpassed a b i=(v(a)-v(b))*exp({logarithm})")
    files = dict(found)
    nodes = axis(low, high, LEAK)
    _, leak = exact.terminals(*torch.meshgrid(nodes, nodes, indexing="ij"))
    for terminal in "ab":
        table, found = table_lines(
            f"{name}_leak", f"leak{terminal}", f"a b %id(0 {terminal})", (nodes, nodes), 0.5 * leak
        )
        lines += table if terminal == "a" else table[:1]
        files.update(found)
    for terminal, value in zip("ab", access.terminal_capacitances(), strict=True):
        lines.append(f"C{terminal} {terminal} 0 {spice_number(value)}")
    head = "* Access transistors, gates held: splines of their currents, and mean capacitances."
    return "\n".join([head, f".subckt {name} a b", *lines, f".ends {name}", ""]), files


def name_of(kind: str, device: object) -> str:
    """Of a sub-circuit; other devices have other ones."""
    return f"{kind}_{hashlib.sha256(repr(device).encode()).hexdigest()[:8]}"


def transistor_lines(card: ModelCard, fins: int, nodes: tuple[str, ...]) -> list[str]:
    """A transistor of level 72 with its card; drain, gate, source, bulk."""
    return [
        *write_model_card(card).splitlines(),
        f"M{card.polarity} {' '.join(nodes)} {card.name} "
        f"l={spice_number(float(card.parameters['l']))} nfin={fins}",
    ]
