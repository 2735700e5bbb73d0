"""Three-terminal cells: the input line holds a gate, and the current comes from vdd."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, ClassVar, Final

import torch
from torch import Tensor
from torch.nn.functional import softplus
from typing_extensions import Self

from imac_torch.base.units import BOLTZMANN, BOLTZMANN_EV, spice_number
from imac_torch.cells import finfet
from imac_torch.cells.base import Cell, CellCurrents, Flicker, Part
from imac_torch.cells.finfet import AccessTransistor, Bias
from imac_torch.cells.series import Access, Series
from imac_torch.cells.surface import axis, spline_lines
from imac_torch.config import Config
from imac_torch.config.quantity import CURRENT, TRANSISTOR_NODE, Quantity
from imac_torch.errors import ConfigError
from imac_torch.finfet.kept import kept
from imac_torch.finfet.noise import TransistorNoise
from imac_torch.numeric.modes import differentiating, lasting, leaf
from imac_torch.periphery.neuron.spline import SplineTable

__all__ = ["Gated", "ReadTransistor", "ThresholdTransistor"]

TURN: Final = 0.25
"""V. Where transistors turn on, of the splines that ngspice has: nodes of the gate's voltage over
the source's are at sinh of equal steps around it."""
WIDTH: Final = 0.2
"""V, of the sinh."""
OVER: Final = 4e-2
"""Of these steps; 8 mV at most where it turns on."""
SOURCE: Final = 5e-2
"""V. Distance of nodes of the source's voltage."""


@dataclass(frozen=True)
class Supply:
    """What a transistor is in.

    Attributes:
        vdd: V.
        thermal: V, kT/q.
    """

    vdd: float
    thermal: float


@dataclass(frozen=True)
class ThresholdTransistor(Cell):
    """A transistor whose threshold is its memory: FeFET, floating-gate flash.

    The EKV model (C. C. Enz, F. Krummenacher and E. A. Vittoz, "An analytical MOS transistor model
    valid in all regions of operation", Analog Integr. Circuits Signal Process. 8, 83-114, 1995),
    the drain at vdd, the source at the I± line and the gate at the input line::

        i = I_s·(F(v_p - v_end) - F(v_p - vdd)),   F(v) = ln²(1 + exp(v/2U)),   v_p = (v_in - v_T)/n

    with U = kT/q. The threshold v_T is what is programmed: as an array sees it, its state is the
    conductance g = I_s·F(v_p)/vdd, the saturated current at a full input over vdd. Inputs below 0 V
    turn it off: signs are those of weights only.

    Attributes:
        specific_current: A, I_s = 2·n·µ·C_ox·(W/L)·U².
        slope_factor: n.
        supply: What the circuit says of the rest.
    """

    specific_current: Annotated[float, CURRENT]
    slope_factor: Annotated[float, Quantity("1", (1.0, 3.0))] = 1.3
    supply: Supply | None = None

    absolute: ClassVar[bool] = True
    gated: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is not allowed.
        """
        if not (0.0 < self.specific_current < float("inf") and 1.0 <= self.slope_factor < 10.0):
            raise ConfigError(
                f"specific_current = {self.specific_current} A must be positive, slope_factor = "
                f"{self.slope_factor} at least 1"
            )

    def of_circuit(self, config: Config) -> Self:
        """See :class:`Cell`."""
        found = Supply(config.supplies.vdd, BOLTZMANN_EV * config.temperature)
        return replace(self, supply=found)

    @property
    def known(self) -> Supply:
        """Of a cell without a circuit: that of the default one."""
        return self.supply or Supply(Config().supplies.vdd, BOLTZMANN_EV * Config().temperature)

    @property
    def bend(self) -> float:
        """See :class:`Cell`."""
        return 4.0 * self.known.thermal

    def currents(
        self, conductance: Tensor, across: Tensor, end: Tensor | None = None
    ) -> CellCurrents:
        """See :class:`Cell`."""
        assert end is not None  # noqa: S101 - absolute
        there, back = self._pinched(conductance, across, end)
        forward, reverse = softplus(there), softplus(back)
        current = self.specific_current * (forward.square() - reverse.square())
        slope = self.specific_current / self.known.thermal * forward * torch.sigmoid(there)
        present = conductance > 0.0
        nothing = torch.zeros_like(current)
        current, slope = (torch.where(present, item, nothing) for item in (current, slope))
        return CellCurrents(nothing, nothing, slope.detach(), current)

    def noise(
        self, conductance: Tensor, across: Tensor, end: Tensor | None, temperature: float
    ) -> Tensor:
        """See :class:`Cell`: of the channel, between 2q·i and 8/3·kT·g_m, after the same paper.

        4kT·(I_s/U)·(2/3·(x² + x·y + y²)/(x + y) - 1/2), x and y the roots of 1/4 plus the forward
        and the reverse current over I_s.
        """
        assert end is not None  # noqa: S101 - absolute
        x, y = (
            (0.25 + softplus(half).square()).sqrt()
            for half in self._pinched(conductance, across, end)
        )
        shape = 2.0 / 3.0 * (x.square() + x * y + y.square()) / (x + y) - 0.5
        scale = BOLTZMANN * temperature * 4.0 * self.specific_current / self.known.thermal
        return torch.where(conductance > 0.0, scale * shape, 0.0)

    def over_memory(self, conductance: Tensor, across: Tensor, end: Tensor | None) -> Tensor:
        """See :class:`Cell`: from vdd to the I± line."""
        assert end is not None  # noqa: S101 - absolute
        return self.known.vdd - end

    def _pinched(self, conductance: Tensor, across: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """(v_p - v_end)/2U and (v_p - vdd)/2U."""
        vdd, twice = self.known.vdd, 2.0 * self.known.thermal
        root = (conductance * vdd / self.specific_current).clamp(min=1e-30).sqrt()
        pinch = twice * torch.log(torch.expm1(root)) + (across + end - vdd) / self.slope_factor
        return (pinch - end) / twice, (pinch - vdd) / twice

    def lines(self, name: str, first: str, second: str, resistance: str) -> list[str]:
        """See :class:`Cell`."""
        vdd, twice = self.known.vdd, 2.0 * self.known.thermal
        root = torch.tensor(
            vdd / (float(resistance) * self.specific_current), dtype=torch.float64, device="cpu"
        ).sqrt()
        shift = float(twice * torch.log(torch.expm1(root))) - vdd / self.slope_factor
        pinch = f"{spice_number(shift)}+v({first})/{spice_number(self.slope_factor)}"
        forward, reverse = (
            f"log(1+exp(({pinch}-v({node}))/{spice_number(twice)}))" for node in (second, "vdd")
        )
        scale = spice_number(self.specific_current)
        return [f"G{name} vdd {second} cur='{scale}*(({forward})**2-({reverse})**2)'"]


@dataclass(frozen=True)
class ReadTransistor(Access):
    """A FinFET (BSIM-CMG) from vdd to the memory device, its gate at the input line.

    The read path of SOT-MRAM, and of any memory device that a word line with the input's voltage
    connects to a source line: the current into the I± line passes transistor and memory device. The
    drain is at vdd, the bulk at 0 V; what tunnels through the gate, some 0.1 nA a fin, is left out.
    Inputs below the threshold turn it off: signs are those of weights only.

    Attributes:
        fins: Number.
        node: nm, of the PTM-MG cards.
        flavour: ``hp`` or ``lstp``.
        model_directory: Directory of PTM-MG cards; empty: 14 nm hp, which is built in.
        bias: What the circuit says of the rest; ``high`` is vdd.
    """

    fins: int = 1
    node: Annotated[int, TRANSISTOR_NODE] = 14
    flavour: str = "hp"
    model_directory: str = ""
    bias: Bias | None = None

    absolute: ClassVar[bool] = True
    gated: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is not allowed.
        """
        self.transistor  # noqa: B018 - says what is wrong

    @property
    def transistor(self) -> AccessTransistor:
        """The same, with a gate that is held."""
        return AccessTransistor(
            fins=self.fins, node=self.node, flavour=self.flavour,
            model_directory=self.model_directory,
        )  # fmt: skip

    def of_circuit(self, config: Config) -> ReadTransistor:
        """See :class:`Access`."""
        found = self.transistor.of_circuit(config).known
        return replace(self, bias=replace(found, gate=0.0, p_gate=0.0, bulk=0.0))

    @property
    def known(self) -> Bias:
        """Of a cell without a circuit: that of the default one."""
        found = self.bias or self.of_circuit(Config()).bias
        assert found is not None  # noqa: S101 - narrows the type only
        return found

    def exact(self) -> ReadTransistor:
        """See :class:`Access`."""
        return replace(self, bias=replace(self.known, tabulated=False))

    @property
    def bend(self) -> float:
        """See :class:`Access`."""
        return 0.2

    def inside(self, end: Tensor, node: Tensor) -> Tensor:
        """See :class:`Access`; here of the I± and of the input line."""
        return self.known.covers(end) & self.known.covers(node)

    def currents(self, across: Tensor, end: Tensor | None = None) -> CellCurrents:
        """See :class:`Access`, from vdd to the memory device; ``end`` is the gate's voltage."""
        assert end is not None  # noqa: S101 - absolute
        source = self.known.high - across
        if not self.known.tabulated:
            with differentiating():
                at = [leaf(item) for item in torch.broadcast_tensors(end, source)]
                (slope,) = torch.autograd.grad(self.passed(*at).sum(), at[1])
            return CellCurrents(self.passed(end, source), -slope)
        table = _table(replace(self, bias=self.known)).to(source.device)
        found = table.differentiable(end, source)
        return CellCurrents(found.value[..., 0], -found.by_second[..., 0])

    def behind(self, memory: Cell) -> Gated:
        """See :class:`Access`."""
        return Gated(memory, self)

    def noise(self, across: Tensor, end: Tensor | None, temperature: float) -> Tensor:
        """See :class:`Access`."""
        return self._noise(across, end).thermal

    def flicker(self, across: Tensor, end: Tensor | None) -> Flicker:
        """See :class:`Access`."""
        found = self._noise(across, end)
        return Flicker(found.flicker, found.exponent)

    @torch.no_grad()
    def _noise(self, across: Tensor, end: Tensor | None) -> TransistorNoise:
        assert end is not None  # noqa: S101 - absolute
        transistor, _ = finfet.transistors(self.transistor, self.known.temperature)
        assert transistor is not None  # noqa: S101 - it has fins
        return transistor.noise(self.known.high, end, self.known.high - across, 0.0)

    def passed(self, gate: Tensor, source: Tensor) -> Tensor:
        """Current out of the source (A) at voltages of gate and source (V)."""
        transistor, _ = finfet.transistors(self.transistor, self.known.temperature)
        assert transistor is not None  # noqa: S101 - it has fins
        return -transistor.currents(self.known.high, gate, source, 0.0).source

    @property
    def name(self) -> str:
        """Of its sub-circuit."""
        return finfet.name_of("read", replace(self, bias=self.known))

    def lines(self, name: str, first: str, second: str) -> list[str]:
        """See :class:`Access`; from the source ``first`` to the gate ``second``."""
        return [f"X{name} {first} {second} vdd {self.name}"]

    def part(self, transistors: str) -> Part | None:
        """See :class:`Access`: a model card, or for ngspice, which has no level 72, a table."""
        name, begin = self.name, f".subckt {self.name} a b vdd"
        head = "* A transistor from vdd to a, its gate at b."
        if transistors == "cards":
            card = finfet.cards(self.transistor)[0]
            lines = finfet.transistor_lines(card, self.fins, ("vdd", "b", "a", "0"))
            return Part(name, "\n".join([head, begin, *lines, f".ends {name}", ""]), ports=PORTS)
        if transistors == "tables":
            lines, files = _spline(replace(self, bias=self.known))
            text = "\n".join([head, begin, *lines, f".ends {name}", ""])
            return Part(name, text, files, ports=PORTS)
        raise finfet.without_form(transistors)


PORTS = ("a", "b", "vdd")


@lasting()
def _on_grid(access: ReadTransistor, nodes: Tensor) -> Tensor:
    """(P, P) A: of gates and sources."""

    def compute() -> Tensor:
        return access.passed(*torch.meshgrid(nodes, nodes, indexing="ij"))

    return kept("read", (access, finfet.cards(access.transistor), nodes.tolist()), compute)


@lasting()
def _spline(access: ReadTransistor) -> tuple[list[str], Mapping[str, str]]:
    """For ngspice, of the gate's voltage over the source's, and of the source's."""
    low, high = access.known.span
    first, last = (math.asinh((side - TURN) / WIDTH) for side in (low - high, high - low))
    over, source = axis(first, last, OVER), axis(low, high, SOURCE)
    above, ends = torch.meshgrid(TURN + WIDTH * over.sinh(), source, indexing="ij")
    places = (
        f"(asinh((v(b)-v(a)-{spice_number(TURN)})/{spice_number(WIDTH)})"
        f"-({spice_number(float(over[0]))}))/{spice_number(float(over[1] - over[0]))}",
        f"(v(a)-({spice_number(low)}))/{spice_number(float(source[1] - source[0]))}",
    )
    # ngspice knows the value like a voltage, to some absolute error.
    values = 1e3 * access.passed(above + ends, ends)
    lines, files, value = spline_lines(access.name, places, values)
    return [*lines, f"Bpassed vdd a i=1m*{value}"], files


@lru_cache(maxsize=16)  # a pure function of its arguments
@lasting()
def _table(access: ReadTransistor) -> SplineTable:
    # twice as many points as of two equal ends
    nodes = axis(*access.known.span, 1.6 * finfet.STEP)
    return SplineTable.fit(nodes, nodes, _on_grid(access, nodes)[..., None])


@dataclass(frozen=True)
class Gated(Cell):
    """A memory device between a transistor that the input line switches and the I± line.

    Attributes:
        memory: From the transistor on.
        access: From vdd to it.
    """

    memory: Cell
    access: ReadTransistor

    absolute: ClassVar[bool] = True
    gated: ClassVar[bool] = True

    @property
    def series(self) -> Series:
        """Both, between vdd and the I± line."""
        return Series(self.memory, self.access)

    @property
    def bend(self) -> float:
        """See :class:`Cell`."""
        return self.series.bend

    def of_both(self, memory: Mapping[str, Tensor], access: Mapping[str, Tensor]) -> Gated:
        """See :class:`Cell`."""
        return replace(
            self, memory=self.memory.of_tensors(memory), access=self.access.of_tensors(access)
        )

    def exact(self) -> Gated:
        """See :class:`Cell`."""
        return replace(self, memory=self.memory.exact(), access=self.access.exact())

    def inside(self, across: Tensor, end: Tensor | None = None) -> Tensor:
        """See :class:`Cell`."""
        assert end is not None  # noqa: S101 - absolute
        return self.access.inside(end, end + across)

    def currents(
        self, conductance: Tensor, across: Tensor, end: Tensor | None = None
    ) -> CellCurrents:
        """See :class:`Cell`."""
        assert end is not None  # noqa: S101 - absolute
        found = self.series.currents(conductance, self.access.known.high - end, across + end)
        nothing = torch.zeros_like(found.current)
        return CellCurrents(nothing, nothing, found.slope, found.current)

    def noise(
        self, conductance: Tensor, across: Tensor, end: Tensor | None, temperature: float
    ) -> Tensor:
        """See :class:`Cell`."""
        assert end is not None  # noqa: S101 - absolute
        above = self.access.known.high - end
        return self.series.noise(conductance, above, across + end, temperature)

    def over_memory(self, conductance: Tensor, across: Tensor, end: Tensor | None) -> Tensor:
        """See :class:`Cell`."""
        assert end is not None  # noqa: S101 - absolute
        above = self.access.known.high - end
        return self.series.over_memory(conductance, above, across + end)

    def flicker(
        self, conductance: Tensor, across: Tensor, end: Tensor | None
    ) -> Flicker | None:
        """See :class:`Cell`."""
        assert end is not None  # noqa: S101 - absolute
        return self.series.flicker(conductance, self.access.known.high - end, across + end)

    def lines(self, name: str, first: str, second: str, resistance: str) -> list[str]:
        """See :class:`Cell`."""
        inner = f"{name}m"
        return [
            *self.access.lines(f"{name}a", inner, first),
            *self.memory.lines(name, inner, second, resistance),
        ]

    def part(self, transistors: str) -> Part | None:
        """See :class:`Cell`."""
        return self.access.part(transistors)
