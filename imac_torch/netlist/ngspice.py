"""The ngspice dialect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from torch import Tensor

from imac_torch.base.units import spice_number
from imac_torch.finfet import write_model_card
from imac_torch.netlist.inverter import Inverter, table_inverter
from imac_torch.netlist.layer import wrap
from imac_torch.netlist.measures import band
from imac_torch.netlist.osdi import osdi_inverter
from imac_torch.netlist.testbench import BenchNetlist, TestBench
from imac_torch.netlist.writer import (
    BatchDeck,
    FloatArray,
    NetlistWriter,
    transient_line,
)
from imac_torch.periphery.neuron.base import NeuronSpec

# ngspice ends a sweep when the accumulated value exceeds the stop value; a stop a part of a step
# further makes the number of points certain whatever the rounding.
_OVERSHOOT: Final = 0.25
# Charge below which ngspice does not control the time step. Its default, 1e-14 C, is more than
# all the charge of a wire segment (0.05 fF at 0.8 V is 4e-17 C): steps would not be controlled.
_CHARGE_TOLERANCE: Final = 1e-21
_KEPT: Final = 4
_TABLES: Final[dict[tuple[object, ...], Inverter]] = {}
"""A table takes seconds, and decks of a study mostly have the same transistors."""


class NgSpiceWriter(NetlistWriter):
    """Netlists for ngspice, with a ``.control`` block that runs and writes everything.

    Accuracy: the linear part needs no tolerance, it is solved directly. ``reltol`` and ``vntol``
    decide when Newton's method stops; since it converges quadratically, voltages that moved by
    less than 1e-9 in the last step are exact to rounding. ``abstol`` must not be as small: currents
    through the 1 mΩ resistors between amplifiers carry rounding noise of 1e-16 V/1 mΩ and more,
    which would never pass a test of 1e-12 A. ``gmin`` acts on nothing but semiconductors.

    Integration: Gear's method of order 2. A crossbar settles within picoseconds, far less than the
    time steps of the rest of a period; the trapezoidal rule then rings, and outputs at the end of
    a 4 ns period were 3e-5 V off (2e-12 V with Gear's method, 64-16-10 at crossbar 32).

    Precision: ngspice's `meas` rounds to seven digits, also in the vector that it leaves behind.
    Outputs, latencies and energies are measured with it all the same, so that a user sees them in
    the log, but results are taken from binary waveform files, which hold doubles.
    """

    name = "ngspice"
    suffix = ".cir"
    transistors = "tables"

    def own_inverter(self, spec: NeuronSpec) -> Inverter:
        """See :class:`NetlistWriter`: a compiled BSIM-CMG, or a table of the transistors."""
        osdi = spec.named_file("osdi")
        if osdi is not None:
            return osdi_inverter(Path(osdi), *spec.model.cards(spec), spec.temperature)
        cards, fins = map(write_model_card, spec.model.cards(spec)), spec.options.fins
        key = *cards, fins, spec.temperature, spec.vdd
        if key not in _TABLES:
            if len(_TABLES) == _KEPT:
                _TABLES.clear()

            def currents(gate: Tensor, output: Tensor) -> Sequence[Tensor]:
                return spec.model.on_grid(spec, gate[:, 0], output[0]).unbind(0)

            _TABLES[key] = table_inverter(currents, vdd=spec.vdd, fins=fins)
        return _TABLES[key]

    def options(self, deck: BatchDeck) -> list[str]:
        """See :class:`NetlistWriter`."""
        settings = deck.settings
        return [
            f".options reltol={spice_number(settings.relative)} "
            f"vntol={spice_number(settings.absolute_voltage)} "
            f"abstol={spice_number(settings.abstol)} gmin=1e-15 "
            f"chgtol={spice_number(_CHARGE_TOLERANCE)} itl1=500 method=gear maxord=2 nomod"
            + (" klu" if settings.klu else "")
        ]

    def measures(self, deck: BatchDeck) -> tuple[str, ...]:
        """See :class:`NetlistWriter`."""
        if deck.settings.analysis == "dc":
            return ()
        names = [*deck.output_nodes, *(f"{kind}_{q}" for q in deck.sources for kind in ("e", "s"))]
        return (
            *(f"{node}_start" for node in deck.output_nodes),
            *(f"{name}_{k}" for k in range(deck.images) for name in names),
        )

    def waveform_files(self, deck: BatchDeck) -> tuple[str, ...]:
        """See :class:`NetlistWriter`."""
        if deck.settings.analysis == "transient":
            return (f"{deck.stem}.raw",)
        return tuple(f"{deck.stem}_{k}.raw" for k in range(deck.images))

    def analysis(self, deck: BatchDeck) -> list[str]:
        """See :class:`NetlistWriter`."""
        control = self._transient(deck) if deck.settings.analysis == "transient" else self._dc(deck)
        return [
            *self._saved(deck),
            *([transient_line(deck, with_limit=True)] if self.measures(deck) else []),
            ".control",
            "set filetype=binary",
            *control,
            "quit 0",
            ".endc",
        ]

    @staticmethod
    def _saved(deck: BatchDeck) -> list[str]:
        if deck.settings.save == "all":
            return []
        vectors = [f"v({node})" for node in ["vdd", *deck.output_nodes, *deck.input_nodes]]
        vectors += ["i(vdd)", "i(vneurons)", *(f"i(v{node})" for node in deck.input_nodes)]
        if deck.rails:
            vectors += ["v(vdda)", "v(vssa)", "i(vdda)", "i(vssa)"]
        return [wrap(vectors, ".save")]

    def _transient(self, deck: BatchDeck) -> list[str]:
        lines = ["run", "let p_inputs = 0*v(vdd)"]
        lines += [f"let p_inputs = p_inputs{term}" for term in deck.input_power_terms()]
        lines += [f"let p_{name} = {power}" for name, power in deck.supply_powers.items()]
        vectors = (
            ["all"]
            if deck.settings.save == "all"
            else [
                *(f"v({node})" for node in deck.output_nodes),
                *(f"p_{name}" for name in deck.sources),
            ]
        )
        # Measures leave vectors of one element behind: they come after what is written.
        return [*lines, wrap(vectors, f"write {deck.stem}.raw"), *self._measured(deck)]

    @staticmethod
    def _measured(deck: BatchDeck) -> list[str]:
        settings, nodes = deck.settings, deck.output_nodes
        lines = ["set numdgt=12"]
        lines += [f"meas tran {node}_start find v({node}) at=0" for node in nodes]
        for k, (first, last) in enumerate(zip(deck.starts, deck.ends, strict=True)):
            start, end = spice_number(first), spice_number(last)
            lines += [f"meas tran {node}_{k} find v({node}) at={end}" for node in nodes]
            for node in nodes if settings.measure_latency else ():
                width = band(node, k, settings.fraction, settings.resolution)
                lines += [
                    f"let width = {width}",
                    f"let upper = {node}_{k}+width",
                    f"let lower = {node}_{k}-width",
                    *(
                        f"meas tran {edge}_{node}_{k} when v({node})=$&{level} cross=last "
                        f"from={start} to={end}"
                        for edge, level in (("up", "upper"), ("low", "lower"))
                    ),
                ]
            for source in deck.sources:
                lines += [
                    f"meas tran e_{source}_{k} integ p_{source} from={start} to={end}",
                    f"meas tran s_{source}_{k} find p_{source} at={end}",
                ]
        return lines

    def _dc(self, deck: BatchDeck) -> list[str]:
        lines = []
        values = deck.inputs.tolist()
        for k, image in enumerate(values):
            before = values[k - 1] if k else image
            lines += [
                f"alter v{node} dc={spice_number(value)}"
                for node, value, old in zip(deck.input_nodes, image, before, strict=True)
                if value != old
            ]
            lines += ["op", f"write {deck.stem}_{k}.raw all"]
        return lines

    def bench(self, bench: TestBench) -> BenchNetlist:
        """See :class:`NetlistWriter`; results are in a file beside the netlist."""
        settings = bench.settings
        lines = [
            bench.title(self.name),
            f".options reltol={spice_number(settings.relative)} "
            f"vntol={spice_number(settings.absolute_voltage)} "
            f"abstol={spice_number(settings.abstol)} gmin=1e-15 itl1=500 itl2=500 nomod",
            *bench.circuit("0", "0"),
            ".save v(z) v(out) i(vout) i(vz) i(vdd)",
            ".control",
            "set filetype=binary",
            f"dc {_range('vz', bench.inputs)} {_range('vout', bench.outputs)}",
            f"write {bench.stem}.raw",
            "quit 0",
            ".endc",
            ".end",
        ]
        return BenchNetlist(lines, waveform_files=(f"{bench.stem}.raw",))


def _range(source: str, values: FloatArray) -> str:
    step = float(values[-1] - values[0]) / (len(values) - 1)
    stop = float(values[-1]) + _OVERSHOOT * step
    return f"{source} {spice_number(values[0])} {spice_number(stop)} {spice_number(step)}"
