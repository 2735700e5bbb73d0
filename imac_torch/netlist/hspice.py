"""The HSPICE dialect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from imac_torch.base.units import spice_number
from imac_torch.errors import NetlistError
from imac_torch.finfet import write_model_card
from imac_torch.netlist.inverter import Inverter, card_inverter, library_inverter
from imac_torch.netlist.layer import wrap
from imac_torch.netlist.measures import band
from imac_torch.netlist.testbench import CURRENTS, BenchNetlist, TestBench
from imac_torch.netlist.writer import (
    BatchDeck,
    NetlistWriter,
    pwl_sources,
    time_of,
    transient_line,
)
from imac_torch.periphery.neuron.base import NeuronSpec


def data_table(
    name: str, columns: Sequence[str], rows: Iterable[Sequence[float]]
) -> Iterator[str]:
    """A ``.data`` block: names of parameters, then a row of values after the other."""
    yield wrap(columns, f".data {name}")
    for row in rows:
        yield "+ " + wrap([spice_number(value) for value in row])
    yield ".enddata"


_SCAN: Final = (
    "* drives nothing: what is swept at each row of the table, so that measures are taken\n"
    "Vscan scan 0 0"
)
# HSPICE raises every resistor to RESMIN ohm: 1e-5 unless it is set, to 1e-15 at least.
_RESMIN: Final = 1e-5
_RESMIN_RANGE: Final = 1e-15


class HSpiceWriter(NetlistWriter):
    """Netlists for HSPICE.

    Every image's power is measured from its sources' voltages and currents, not with ``POWER``,
    so that it is known what is in it. Gear's method avoids the ringing of the trapezoidal rule on
    wires that settle within picoseconds (see :class:`NgSpiceWriter`). Operating points are a sweep
    over a ``.data`` table; to measure at each, a dummy source is swept inside.
    docs/engines.md lists every statement with where it is documented.

    The time of the last crossing in a period: a WHEN measure begins at TD, but its documented form
    has no end. ``Vclock`` rises by 1 V per ns, and from the end of the period on the output is
    pulled away from the edge of the band by 1e6 times as much.
    """

    name = "hspice"
    suffix = ".sp"
    transistors = "cards"

    def own_inverter(self, spec: NeuronSpec) -> Inverter:
        """See :class:`NetlistWriter`: the user's ``models`` library, or model cards."""
        options, directory = spec.options, spec.named_file("model_directory")
        if directory is not None and (Path(directory) / "models").is_file():
            return library_inverter(
                Path(directory), options.transistor_node, options.flavour, trust=self.trust
            )
        n, p = spec.model.cards(spec)
        return card_inverter(write_model_card(n), write_model_card(p), float(n.parameters["l"]))

    def options(self, deck: BatchDeck) -> list[str]:
        """See :class:`NetlistWriter`."""
        wanted = self.waveform_files(deck)
        post = "post=2" + (" probe" if deck.settings.save == "outputs" else "")
        relative = spice_number(deck.settings.relative)
        voltage = spice_number(deck.settings.absolute_voltage)
        smallest = min(
            (float(item.values.min()) for layer in deck.circuit.layers for item in layer.elements
             if item.kind == "resistor"), default=_RESMIN,
        )  # fmt: skip
        if smallest < _RESMIN_RANGE:
            raise NetlistError(
                f"a resistor of {smallest:.3g} ohm cannot be written for HSPICE, which raises "
                f"every one to {_RESMIN_RANGE:g} ohm; use ideal wires "
                "(interconnect.resistance = false)"
            )
        return [
            *([f".option resmin={spice_number(_RESMIN_RANGE)}"] if smallest < _RESMIN else []),
            ".option ingold=2 numdgt=10 measdgt=10 runlvl=6 method=gear measform=0 "
            f"{post if wanted else 'post=0'} nomod parhier=local",
            f".option relv={relative} relvdc={relative} absv={voltage} absvdc={voltage} "
            f"abstol={spice_number(deck.settings.abstol)}",
        ]

    def input_sources(self, deck: BatchDeck) -> list[str]:
        """See :class:`NetlistWriter`."""
        if deck.settings.analysis == "transient":
            stop = 2.0 * deck.ends[-1]
            clock = f"Vclock clock 0 pwl(0 0 {spice_number(stop)} {spice_number(stop * 1e9)})"
            return [
                *pwl_sources(deck), *self._input_power(deck),
                "* 1 V per ns: measures of latency end a search at a time with it", clock,
            ]  # fmt: skip
        names = [f"value_{node}" for node in deck.input_nodes]
        return [
            _SCAN,
            *(f".param {name}=0" for name in names),
            *(
                f"V{node} {node} 0 dc='{name}'"
                for node, name in zip(deck.input_nodes, names, strict=True)
            ),
            *data_table("images", names, deck.inputs.tolist()),
            *self._input_power(deck),
        ]

    @staticmethod
    def _input_power(deck: BatchDeck) -> list[str]:
        """Sources whose last one has, as its voltage, the power that all inputs deliver."""
        lines = ["* v(power1) and those after it: W as V, the sum so far of what inputs deliver"]
        sum_so_far = ""
        for number, term in enumerate(deck.input_power_terms(), 1):
            lines.append(f"Epower{number} power{number} 0 vol='{sum_so_far}{term}'")
            sum_so_far = f"v(power{number})"
        return lines

    def measures(self, deck: BatchDeck) -> tuple[str, ...]:
        """See :class:`NetlistWriter`."""
        names = self._quantities(deck)
        if deck.settings.analysis == "dc":
            return tuple(f"{name}[{k}]" for k in range(deck.images) for name in names)
        powers = [name for name in names if name.startswith("p_")]
        names += [f"{kind}{name[1:]}" for name in powers for kind in ("e", "s")]
        return (
            *(f"{node}_{k}" for k in range(deck.images) for node in names),
            *(f"{node}_start" for node in deck.output_nodes),
        )

    def waveform_files(self, deck: BatchDeck) -> tuple[str, ...]:
        """See :class:`NetlistWriter`."""
        settings = deck.settings
        wanted = settings.waveforms or settings.save == "all"
        return (f"{deck.stem}.tr0",) if settings.analysis == "transient" and wanted else ()

    @staticmethod
    def _quantities(deck: BatchDeck) -> list[str]:
        return [*deck.output_nodes, "p_inputs", *(f"p_{name}" for name in deck.supply_powers)]

    @staticmethod
    def _powers(deck: BatchDeck) -> list[tuple[str, str]]:
        return [
            ("p_inputs", f"v(power{len(deck.input_power_terms())})"),
            *((f"p_{name}", power) for name, power in deck.supply_powers.items()),
        ]

    def analysis(self, deck: BatchDeck) -> list[str]:
        """See :class:`NetlistWriter`."""
        return self._transient(deck) if deck.settings.analysis == "transient" else self._dc(deck)

    def _transient(self, deck: BatchDeck) -> list[str]:
        lines = [transient_line(deck, with_limit=False)]
        period, transition = deck.circuit.timing.period, deck.circuit.timing.transition
        if deck.settings.max_step is not None:
            lines.append(f".option delmax={spice_number(deck.settings.max_step)}")
        if self.waveform_files(deck):
            lines.append(wrap([f"v({node})" for node in deck.output_nodes], ".probe tran"))
        for k, (start, end) in enumerate(zip(deck.starts, deck.ends, strict=True)):
            until = spice_number(end)
            settled = f"from={spice_number(time_of(k, period, transition))} to={until}"
            lines += [
                f".measure tran {node}_{k} find v({node}) at={until}" for node in deck.output_nodes
            ]
            lines += [
                f".measure tran {name}_{k} avg par('{expression}') {settled}"
                for name, expression in self._powers(deck)
            ]
            for name, expression in self._powers(deck):
                lines += [
                    f".measure tran e{name[1:]}_{k} integ par('{expression}') "
                    f"from={spice_number(start)} to={until}",
                    f".measure tran s{name[1:]}_{k} find par('{expression}') at={until}",
                ]
        lines += [f".measure tran {node}_start find v({node}) at=0" for node in deck.output_nodes]
        return [*lines, *(self._crossings(deck) if deck.settings.measure_latency else ())]

    @staticmethod
    def _crossings(deck: BatchDeck) -> list[str]:
        settings = deck.settings
        lines = []
        for k, (start, end) in enumerate(zip(deck.starts, deck.ends, strict=True)):
            after = f"1e6*max(v(clock)-{spice_number(end * 1e9)},0)"
            for node in deck.output_nodes:
                width = band(node, k, settings.fraction, settings.resolution)
                for edge, at, away, sign in (("up", "upper", "-", "+"), ("low", "lower", "+", "-")):
                    level = f"{at}_{node}_{k}"
                    lines += [
                        f".measure tran {level} param='{node}_{k}{sign}{width}'",
                        f".measure tran {edge}_{node}_{k} when par('v({node}){away}{after}')="
                        f"par('{level}') td={spice_number(start)} cross=last",
                    ]
        return lines

    def _dc(self, deck: BatchDeck) -> list[str]:
        return [
            ".dc Vscan 0 1 1 sweep data=images",
            *(f".measure dc {node} find v({node}) at=0" for node in deck.output_nodes),
            *(
                f".measure dc {name} find par('{expression}') at=0"
                for name, expression in self._powers(deck)
            ),
        ]

    def bench(self, bench: TestBench) -> BenchNetlist:
        """See :class:`NetlistWriter`; results are measures."""
        # As for operating points of networks: a dummy source is swept inside a .data table, so
        # that something can be measured at each of its rows.
        relative = spice_number(bench.settings.relative)
        voltage = spice_number(bench.settings.absolute_voltage)
        z, out = np.meshgrid(bench.inputs, bench.outputs, indexing="ij")
        rows = zip(z.reshape(-1).tolist(), out.reshape(-1).tolist(), strict=True)
        expressions = ("i(vout)", "-i(vz)", "-i(vdd)")
        lines = [
            bench.title(self.name),
            ".option ingold=2 numdgt=10 measdgt=10 measform=0 post=0 nomod parhier=local",
            f".option relv={relative} relvdc={relative} absv={voltage} absvdc={voltage} "
            f"abstol={spice_number(bench.settings.abstol)}",
            *bench.circuit("dc='value_z'", "dc='value_out'"),
            _SCAN,
            ".param value_z=0",
            ".param value_out=0",
            *data_table("points", ("value_z", "value_out"), rows),
            ".dc Vscan 0 1 1 sweep data=points",
            *(
                f".measure dc {name} find par('{expression}') at=0"
                for name, expression in zip(CURRENTS, expressions, strict=True)
            ),
            ".end",
        ]
        names = tuple(f"{name}[{k}]" for k in range(z.size) for name in CURRENTS)
        return BenchNetlist(lines, names)
