"""What a read-out must answer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from imac_torch.config import Config
from imac_torch.errors import CircuitError
from imac_torch.mapping.divider import RowDivider
from imac_torch.periphery.readout.combination import Combination
from imac_torch.periphery.readout.lag import Lag
from imac_torch.periphery.readout.noise import AmplifierNoise, HeldNoise
from imac_torch.periphery.readout.opamp import (
    Imperfections,
    Measured,
    OpAmp,
    PassiveLoads,
    Rails,
    Terminals,
)
from imac_torch.periphery.readout.words import with_words

NO_RAIL: Final = 1e12
"""V in netlists, what nothing reaches."""
IDEAL: Final = 1e9
"""V/V, what stands for an infinite open-loop gain."""


class Stamp(NamedTuple):
    """A read-out in nodal analysis: numbers, for oracles that know nothing of its equations.

    Attributes:
        drawn: ((a, b), (c, d)) S: currents out of the I+ and the I- end, a·p + b·q and c·p + d·q.
        output: (e, f): output voltage e·p + f·q.
    """

    drawn: tuple[tuple[float, float], tuple[float, float]]
    output: tuple[float, float]


def check_positive(**values: Tensor) -> None:
    """Refuse what is not physical.

    Raises:
        CircuitError: One of the values, named as the arguments, is not finite and > 0.
    """
    for name, tensor in values.items():
        value = float(tensor.detach())
        if not 0 < value < float("inf"):
            raise CircuitError(f"{name} of the amplifiers = {value} must be finite and > 0")


@dataclass(frozen=True)
class ReadOut(ABC):
    """What the I+ and the I- line of one row of one partition end in.

    With p and q the voltages of the two ends it draws p/positive_load from the I+ end and
    (q - coupling·p)/negative_load from the I- end, and puts out a voltage that is linear in p
    and q. Values are 0-dimensional float64 tensors, so that gradients with respect to them exist.

    Attributes:
        combination: How the outputs of partitions and slices meet at the neuron's input.
        pole: Hz, the output follows its static value through a buffered low-pass with this
            pole; None: at once.
        second_pole: Hz, of a low-pass behind that one; None: there is none.
        slew_rate: V/s, the most that the first one's voltage changes; None: unlimited.
        imperfections: Offsets and swing of its amplifiers; None: neither. Everything else that a
            read-out answers is about it without them.
    """

    combination: Combination
    pole: float | None
    imperfections: Imperfections | None = field(default=None, kw_only=True)
    second_pole: float | None = field(default=None, kw_only=True)
    slew_rate: float | None = field(default=None, kw_only=True)

    kind: ClassVar[str]
    """Name in the configuration."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """Fields of the section ``amplifier`` that not every kind reads, and this one does."""
    proportional: ClassVar[bool] = False
    """Whether the output is proportional to the gain, whatever the conductances: lines end at
    virtual ground. The gain then follows from the weights in closed form."""
    shared: ClassVar[bool] = False
    """Whether rows have an I+ line only, and those of an array share the I- line of its first."""
    operational_amplifiers: ClassVar[int] = 1
    """Of one read-out, which take area."""

    def __post_init__(self) -> None:
        """Check poles and slew rate.

        Raises:
            CircuitError: One is not physical, or has no pole that it could belong to.
        """
        for name, unit in (("pole", "Hz"), ("second_pole", "Hz"), ("slew_rate", "V/s")):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise CircuitError(
                    f"{name} = {value} {unit} of the amplifiers must be finite and > 0"
                )
            if value is not None and self.pole is None:
                raise CircuitError(f"{name} = {value} {unit} of the amplifiers needs a pole")

    @classmethod
    @abstractmethod
    def of(cls, config: Config, gain: float, combination: Combination) -> Self:
        """The read-out of a (per-layer) configuration.

        Args:
            config: Its section ``amplifier`` is read.
            gain: Of the layer, as configured or chosen.
            combination: Of the layer's partitions and slices; its tensors say on which device.
        """

    @property
    @abstractmethod
    def positive_load(self) -> Tensor:
        """Ω from the I+ end to ground, > 0."""

    @property
    @abstractmethod
    def negative_load(self) -> Tensor:
        """Ω from the I- end to the node at ``coupling`` times the I+ end, > 0."""

    @property
    @abstractmethod
    def coupling(self) -> Tensor:
        """Voltage behind ``negative_load`` per voltage of the I+ end, at most 1."""

    @abstractmethod
    def output(self, positive: Tensor, negative: Tensor) -> Tensor:
        """V out for V at the I+ and the I- end, elementwise and linear."""

    @abstractmethod
    def sources(self, positive: Tensor, negative: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """What its active outputs deliver within the read-out.

        Args:
            positive: V of the I+ end.
            negative: V of the I- end.

        Returns:
            V and A out of each of them, elementwise and linear. The first is the output itself,
            without what it delivers to the neuron and to other partitions.
        """

    def on_rows(self, row_ends: Sequence[int]) -> Self:
        """The read-out of rows in arrays, of which these are the last ones, from 1."""
        return self

    @property
    def ideal(self) -> bool:
        """Whether outputs are linear in the ends."""
        return self.imperfections is None

    @property
    def amplifiers(self) -> tuple[OpAmp, ...]:
        """Its operational amplifiers, for offsets and swing; none: it can have neither."""
        return ()

    @property
    def terminals(self) -> tuple[Terminals, ...]:
        """Where each of :attr:`amplifiers` stands, for those that are given as tables.

        Raises:
            CircuitError: The kind does not say.
        """
        raise CircuitError(
            f"the read-out '{self.kind}' has no operational amplifiers that could be a sub-circuit "
            "(amplifier.table)"
        )

    def passive_loads(self) -> PassiveLoads:
        """Loads of the ends while all amplifier outputs are at 0 V."""
        return PassiveLoads(self.positive_load, self.negative_load, self.coupling)

    def join(self, outputs: Tensor) -> Tensor:
        """The read-out's output (...,) V from those of its amplifiers (..., n)."""
        parts = zip(outputs.unbind(-1), self.amplifiers, strict=True)
        return sum((output * item.share for output, item in parts), start=outputs.new_zeros(()))

    def deliveries(
        self, outputs: Tensor, positive: Tensor, negative: Tensor
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """What amplifiers, whose outputs are known, deliver within the read-out.

        Args:
            outputs: (..., n) V of the amplifiers.
            positive: (...,) V of the I+ end.
            negative: (...,) V of the I- end.

        Returns:
            V and A out of each amplifier, then of whatever else is active; elementwise and linear.
        """
        return tuple(
            (
                output,
                item.to_positive * (output - positive) + item.to_negative * (output - negative),
            )
            for output, item in zip(outputs.unbind(-1), self.amplifiers, strict=True)
        )

    def absorbed(
        self, positive: Tensor, negative: Tensor, outputs: Tensor | None = None
    ) -> Tensor:
        """(...,) W that lines deliver to the read-out at their ends.

        Args:
            positive: (...,) V of the I+ end.
            negative: (...,) V of the I- end.
            outputs: (..., n) V of amplifiers that are not ideal; None: they are.
        """
        loads = PassiveLoads(self.positive_load, self.negative_load, self.coupling)
        if outputs is not None:
            loads = self.passive_loads()
        from_plus = positive / loads.positive_load
        from_minus = (negative - loads.coupling * positive) / loads.negative_load
        if outputs is not None:
            for output, item in zip(outputs.unbind(-1), self.amplifiers, strict=True):
                from_plus = from_plus - item.to_positive * output
                from_minus = from_minus - item.to_negative * output
        return positive * from_plus + negative * from_minus

    @property
    def rails(self) -> Rails | None:
        """Supplies of its amplifiers; None: they are ideal."""
        if self.table is not None:
            return Rails(self.table.vss, self.table.vdd, 0.0)
        return None if self.imperfections is None else self.imperfections.rails

    @property
    def table(self) -> Measured | None:
        """What its amplifiers were measured to do; None: they are described."""
        return None if self.imperfections is None else self.imperfections.table

    @property
    def loaded(self) -> bool:
        """Whether what its amplifiers put out depends on what they deliver."""
        return self.imperfections is not None and self.imperfections.loaded

    @property
    def lag(self) -> Lag:
        """What its output passes in time."""
        poles = [hertz for hertz in (self.pole, self.second_pole) if hertz is not None]
        return Lag(tuple(2.0 * math.pi * hertz for hertz in poles), self.slew_rate)

    @property
    def lag_parameters(self) -> dict[str, float]:
        """Values of the parameters that sub-circuits need of :attr:`lag`."""
        given = {name: getattr(self, name) for name in ("pole", "second_pole", "slew_rate")}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def loop_gain(self) -> Tensor:
        """A of its amplifiers, 0-dimensional; :data:`IDEAL` where they are ideal."""
        found = getattr(self, "open_loop_gain", None)
        return torch.full_like(self.positive_load, IDEAL) if found is None else found

    @property
    def drives(self) -> bool:
        """Whether its only amplifier's output is the read-out's: it delivers what goes on, too.

        What combines several amplifiers, or buffers a pole, takes that from the same supplies,
        without a quiescent current of its own.
        """
        return len(self.amplifiers) == 1 and self.pole is None

    def supplied(
        self, outputs: Tensor, positive: Tensor, negative: Tensor, onward: Tensor
    ) -> Tensor:
        """(...,) W that the amplifiers' supplies deliver; 0 where there are none.

        Args:
            outputs: (..., n) V of the amplifiers.
            positive: (...,) V of the I+ end.
            negative: (...,) V of the I- end.
            onward: (...,) A that the read-out delivers towards the neuron.
        """
        rails = self.rails
        if rails is None:
            return torch.zeros_like(positive)
        if self.table is not None:
            return self._supplied_by_table(self.table, outputs, positive, negative, onward)
        delivered = self.deliveries(outputs, positive, negative)
        currents = [current for _, current in delivered[: len(self.amplifiers)]]
        currents = [currents[0] + onward] if self.drives else [*currents, onward]
        power = torch.full_like(positive, len(self.amplifiers) * rails.idle)
        for current in currents:
            power = power + rails.driving(current)
        return power

    def _supplied_by_table(
        self,
        table: Measured,
        outputs: Tensor,
        positive: Tensor,
        negative: Tensor,
        onward: Tensor,
    ) -> Tensor:
        """:meth:`supplied` of measured amplifiers."""
        assert self.imperfections is not None  # noqa: S101 - the table is one
        power, offsets = torch.zeros_like(positive), self.imperfections.offsets
        offsets = offsets.expand(*offsets.shape[:-1], outputs.shape[-1])
        for output, offset, place in zip(
            outputs.unbind(-1), offsets.unbind(-1), self.terminals, strict=True
        ):
            plus, minus = place.inputs(positive, negative, output)
            found = table.values(plus + offset, minus, output)
            power = power + table.vdd * found.supply - table.vss * (found.supply - found.output)
        if not self.drives:
            power = power + torch.where(onward > 0.0, table.vdd, table.vss) * onward
        return power

    @property
    @abstractmethod
    def subcircuit(self) -> str:
        """Name of the sub-circuit, and of the file of the package that declares it.

        Its ports are ``plus minus out``.
        """

    @abstractmethod
    def parameters(self) -> dict[str, float]:
        """Values of every parameter that a sub-circuit may declare."""

    @property
    @abstractmethod
    def resistance_total(self) -> float:
        """Ω, sum of its resistors, which take area."""

    def named(self, stem: str) -> str:
        """A sub-circuit's name with what is particular about this one."""
        real, pole = "" if self.ideal else "_real", "" if self.pole is None else "_pole"
        pole += "" if self.second_pole is None else "_pole2"
        pole += "" if self.slew_rate is None else "_slew"
        if self.table is not None:
            return f"{stem}_of_{self.table.subcircuit}{pole}"
        if self.loaded:
            real = "_loaded"
        return f"{stem}{real}{'' if self.rails is None else '_supplied'}{pole}"

    @property
    def ports(self) -> tuple[str, ...]:
        """Of its sub-circuit; ``reference`` is the I- end of the first row of the array."""
        shared = ("reference",) if self.shared else ()
        return ("plus", "minus", "out", *shared, *(() if self.rails is None else ("vdd", "vss")))

    @property
    def subcircuit_text(self) -> str | None:
        """The sub-circuit's text; None: it is the package's file of that name."""
        return None

    def wiring(self) -> tuple[str, ...]:
        """Lines of a sub-circuit between the ports and the amplifiers' outputs o1, o2 and so on."""
        raise CircuitError(
            f"the read-out '{self.kind}' has no operational amplifiers that could have an offset "
            "or a swing; leave amplifier.offset, offset_spread and swing at their defaults"
        )

    def declared_real(self) -> str:
        """The text of the sub-circuit with offsets and swing, in any dialect."""
        if self.loaded:
            return self._declared_loaded()
        body, terms = list(self.wiring()), []
        for k, _ in enumerate(self.amplifiers, start=1):
            value = f"a{k}*v(plus)+b{k}*v(minus)+n{k}*vos{k}"
            output = f"o{k}"
            if self.rails is not None:
                output = f"inner{k}"
                body.append(f"Vamplifier{k} {output} o{k} 0")
            body.append(f"Eamplifier{k} {output} 0 vol='min(max({value},low),high)'")
            terms.append(f"s{k}*v(o{k})")
        body.append(f"Ejoin ideal 0 vol='{'+'.join(terms)}'")
        return self.declared(*body)

    def _declared_loaded(self) -> str:
        """The text around operational amplifiers whose outputs notice what they deliver."""
        body, terms = list(self.wiring()), []
        for k, (place, item) in enumerate(zip(self.terminals, self.amplifiers, strict=True), 1):
            plus, minus, output = place.nodes
            if self.table is not None:
                body += [
                    f"Voffset{k} in{k} {plus} 'vos{k}'",
                    f"Xamplifier{k} in{k} {minus} {output} vdd vss {self.table.subcircuit}",
                ]
            else:
                onward = "i(Vout)" if self.drives else "0"
                value = f"a{k}*v(plus)+b{k}*v(minus)+n{k}*vos{k}-rl*{onward}"
                moved = f"ra{k}*v(plus)+rb{k}*v(minus)-rr*{onward}"
                body += [
                    f"Vamplifier{k} inner{k} {output} 0",
                    f"Eamplifier{k} inner{k} 0 "
                    f"vol='min(max({value},low+{moved}),high+{moved})'",
                ]
            terms.append(f"{float(item.share):+g}*v({output})")
        if self.drives:
            body.append(f"Vout {self.terminals[0].nodes[2]} out 0")
        else:
            body.append(f"Ejoin ideal 0 vol='{''.join(terms)}'")
        return self.declared(*body)

    def real_parameters(self) -> dict[str, float]:
        """Values of the parameters of :meth:`declared_real` besides :meth:`parameters`.

        Offsets, which differ, are :meth:`offset_parameters`.
        """
        values = self.lag_parameters
        values.pop("pole", None)
        if self.imperfections is None or self.table is not None:
            return values
        shrink = 1.0
        if self.imperfections.resistance is None:
            for k, item in enumerate(self.amplifiers, start=1):
                of = item.by_positive, item.by_negative, item.by_offset, item.share
                named = zip("abns", of, strict=True)
                values |= {f"{name}{k}": float(value) for name, value in named}
        else:
            found, shrink = self.behind_resistance(self.imperfections.resistance)
            values |= found
        rails = ((self.imperfections.low, -1.0), (self.imperfections.high, 1.0))
        low, high = (
            shrink * value if abs(value) < float("inf") else sign * NO_RAIL
            for value, sign in rails
        )
        supply = {} if self.rails is None else {"iq": self.rails.quiescent}
        return values | {"low": low, "high": high} | supply

    def behind_resistance(self, resistance: Tensor) -> tuple[dict[str, float], float]:
        """Outputs of amplifiers with a resistance, solved for: parameters, and what rails lose.

        With d = s·e - β·o the voltage between the inputs for ends e, f the conductances from the
        output to them, and i what goes onward, o = A·d - R_o·(f·(o - e) + i) gives
        o = ((A·s + R_o·f)·e + A·v_os - R_o·i)/(1 + A·β + R_o·Σf), and a rail in place of A·d the
        same without A.
        """
        values: dict[str, float] = {}
        gain, ohms = float(self.loop_gain), float(resistance)
        for k, (place, item) in enumerate(zip(self.terminals, self.amplifiers, strict=True), 1):
            seen = [float(x) - float(y) for x, y in zip(place.plus, place.minus, strict=True)]
            back = [ohms * float(item.to_positive), ohms * float(item.to_negative)]
            shrink = 1.0 / (1.0 + sum(back))
            closed = 1.0 / (1.0 - gain * seen[2] + sum(back))
            values |= {
                f"a{k}": (gain * seen[0] + back[0]) * closed,
                f"b{k}": (gain * seen[1] + back[1]) * closed,
                f"n{k}": gain * closed, "rl": ohms * closed,
                f"ra{k}": back[0] * shrink, f"rb{k}": back[1] * shrink, "rr": ohms * shrink,
            }  # fmt: skip
        return values, shrink

    def offset_parameters(self, row: int, part: int) -> dict[str, float]:
        """Offsets (V) of the amplifiers of one row and partition, from 0, as parameters."""
        if self.imperfections is None:
            return {}
        offsets = self.imperfections.offsets
        place = min(row, offsets.shape[0] - 1), min(part, offsets.shape[1] - 1)
        found = offsets[place].expand(len(self.amplifiers)).tolist()
        return {f"vos{k}": value for k, value in enumerate(found, start=1)}

    def _supplies(self) -> list[str]:
        """Lines that draw from vdd and vss what :meth:`supplied` says."""
        currents = [f"i(Vamplifier{k})" for k, _ in enumerate(self.amplifiers, start=1)]
        idle = f"{len(self.amplifiers)}*iq"
        if self.table is not None:  # these have their own
            currents, idle = [], "0"
        if not self.drives:
            currents.append("i(Vout)")
        elif not self.loaded:
            currents[-1] += "+i(Vout)"
        from_high, to_low = (
            "+".join([idle, *(f"max({sign}({item}),0)" for item in currents)])
            for sign in ("", "-")
        )
        return [
            f"Ghigh vdd 0 cur='{from_high}'",
            f"Glow 0 vss cur='{to_low}'",
        ]

    def declared(self, *body: str) -> str:
        """The text of a sub-circuit in any dialect, with a low-pass before its output if need be.

        Args:
            body: Lines that give the node ``ideal`` its voltage; the parameters are
                :meth:`parameters`, the ports ``plus minus out``.
        """
        names = [*self.parameters(), *self.real_parameters(), *self.offset_parameters(0, 0)]
        values = " ".join(f"{name}=1" for name in names)
        rails, last = self.rails is not None, self.lag.node
        behind = self.lag.lines()
        if not (self.loaded and self.drives):
            behind.append(f"Ebuffer {'buffered' if rails else 'out'} 0 {last} 0 1")
            if rails:
                behind.append("Vout buffered out 0")
        if rails and not (self.table is not None and self.drives):
            behind += self._supplies()
        head = f".subckt {self.subcircuit} {' '.join(self.ports)} {values}"
        lines = [head, *with_words([*body, *behind]), f".ends {self.subcircuit}"]
        return "\n".join(lines) + "\n"

    def noise_sources(
        self, temperature: float, amplifiers: AmplifierNoise
    ) -> tuple[HeldNoise, ...]:
        """Its independent sources of noise, while the outputs of its amplifiers are held.

        Loads that active circuits imitate have no noise of a resistor, so that nothing follows
        from them.

        Args:
            temperature: K.
            amplifiers: At the inputs of its operational amplifiers.

        Raises:
            CircuitError: The kind does not know.
        """
        raise CircuitError(
            f"the noise of read-outs of kind {self.kind!r} is not known: "
            f"{type(self).__name__}.noise_sources is missing"
        )

    def power(
        self,
        positive: Tensor,
        negative: Tensor,
        combined: Tensor,
        drawn: Tensor,
        *,
        behind: Tensor | None = None,
        amplifiers: Tensor | None = None,
    ) -> Tensor:
        """(...,) W that the outputs of a layer deliver, those behind poles included.

        What the read-out itself takes comes from its output before the first pole, what goes on to
        the neuron from the one behind the last; between them are the low-passes of the netlists.

        Args:
            positive: (..., M·L, H) V of the I+ ends.
            negative: (..., M·L, H) V of the I- ends.
            combined: (..., M) V, what the outputs (behind a pole) combine to.
            drawn: (..., M) A that neurons draw.
            behind: (n, ..., M·L, H) V of the outputs behind each of n poles; None: at rest, as
                before them.
            amplifiers: (..., M·L, H, n) V of amplifiers with offsets or a swing; None: linear.
        """
        if amplifiers is None:
            sources = self.sources(positive, negative)
            output = sources[0][0]
        else:
            sources = self.deliveries(amplifiers, positive, negative)
            output = self.join(amplifiers)
        power, onward = torch.zeros_like(output), output
        for volts, current in sources:
            power = power + volts * current
        if behind is not None:
            power, onward = power + self.lag.power(output, behind), behind[-1]
        return (power + onward * self.combination.current(onward, combined, drawn)).sum((-1, -2))

    def stamp(self) -> Stamp:
        """For nodal analysis."""
        one = self.positive_load.new_ones(())
        zero = self.positive_load.new_zeros(())
        negative = 1.0 / float(self.negative_load)
        return Stamp(
            drawn=(
                (1.0 / float(self.positive_load), 0.0),
                (-float(self.coupling) * negative, negative),
            ),
            output=(float(self.output(one, zero)), float(self.output(zero, one))),
        )

    def divider(self, column_ends: tuple[int, ...]) -> RowDivider:
        """What rows without wires compute that end in this read-out; plain numbers.

        Args:
            column_ends: Last column (1-based) of each of its partitions.
        """
        ((positive, _), coupling), output = self.stamp()
        meeting = self.combination
        return RowDivider.of(
            (positive, *coupling), output, meeting.weight, column_ends, meeting.slicing
        )
