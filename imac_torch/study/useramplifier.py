"""Bring your own amplifier: a sub-circuit file, characterised by SPICE into a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from imac_torch.base.resources import spice_file
from imac_torch.config import Neuron
from imac_torch.errors import ConfigError, NetlistError, SimulatorError
from imac_torch.netlist import NetlistSettings
from imac_torch.netlist.subcircuits import (
    AMPLIFIER_PORTS,
    RAIL_PORTS,
    Subcircuit,
    read_subcircuit,
)
from imac_torch.netlist.testbench import AmplifierBench, amplifier_digest
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.readout.amplifiertable import AmplifierTable, InterpolationError
from imac_torch.simulator import Simulator
from imac_torch.study.userneuron import bench_directory, middles, simulate_benches

__all__ = ["OffsetSpread", "amplifier_offsets", "example_amplifier", "tabulate_amplifier"]

WIDTH: Final = 1e-4
"""V. Differential inputs are 5 µV apart where they are small, 5 % of themselves elsewhere."""
NODES: Final = (401, 171)
"""Differential inputs up to a volt; outputs 10 mV apart."""
REACH: Final = 1.0
"""V, largest differential input."""
MARGIN: Final = 0.05
"""V. Outputs this far beyond the supplies are measured too."""
PELGROM: Final = 4e-9
"""V·m, standard deviation of the difference of two thresholds times the root of a gate's area: 1
mV·µm per nm of oxide (Pelgrom, Tuinhout and Vertregt, IEDM 1998), of 4 nm in a 0.18 µm process."""
SETTINGS: Final = NetlistSettings(analysis="dc", abstol=1e-13)


def example_amplifier() -> Path:
    """The file of the transistor-level amplifier that the package brings along."""
    return spice_file("opamp_two_stage.sp")


def tabulate_amplifier(
    path: str | Path,
    simulator: Simulator,
    *,
    vdd: float = 0.8,
    vss: float = -0.8,
    plus: tuple[float, float, int] | None = None,
    nodes: tuple[int, int] = NODES,
    temperature: float = 298.15,
    settings: NetlistSettings = SETTINGS,
    directory: str | Path | None = None,
    trust: bool = False,
) -> AmplifierTable:
    """Measure an operational amplifier's static currents over its inputs and its output.

    Use the result: ``table.save("mine.safetensors")``, then ``Amplifier(table="mine.safetensors",
    subcircuit=path)``: native engine and netlists have the same amplifier in their read-outs.

    Args:
        path: File with a sub-circuit of ports ``plus minus out vdd vss``; any name.
        simulator: ``NgSpice()`` or ``HSpice()``.
        vdd: V.
        vss: V.
        plus: Lowest and highest V of the input plus and how many values, at least 5, for read-outs
            that move it (``differential``); None: it is grounded, as in transimpedance amplifiers.
        nodes: Differential inputs and outputs, at least 5 each.
        temperature: K.
        settings: Tolerances of the simulator.
        directory: Where to keep the netlists and results; None: a temporary directory.
        trust: Take the file and what it includes as they are; see :func:`imac_torch.compile`.

    Raises:
        ConfigError: A range is empty, or there are too few nodes.
        NetlistError: The file cannot be used.
        SimulatorError: The simulator failed; or the sub-circuit does not amplify.
    """
    low, high, count = (0.0, 0.0, 1) if plus is None else plus
    if min(nodes) < 5 or not vss < vdd or (plus is not None and not (count >= 5 and low < high)):
        raise ConfigError(
            f"{nodes} nodes, plus = {plus} and supplies of {vss} and {vdd} V are no measurement: "
            "give an ascending range and at least 5 values"
        )
    subcircuit = _amplifier(path, trust)
    bench = _bench(subcircuit, vdd, vss, temperature, nodes, settings)
    pluses = np.linspace(low, high, count)
    benches = [
        replace(bench, plus=float(value), stem=f"plus_{k}") for k, value in enumerate(pluses)
    ]
    between = middles(pluses) if count > 1 else pluses
    checks = [
        replace(
            bench, plus=float(value), stem=f"middle_{k}", inputs=middles(bench.inputs),
            outputs=middles(bench.outputs),
        )
        for k, value in enumerate(between)
    ]  # fmt: skip
    with bench_directory(directory) as folder:
        found = simulate_benches([*benches, *checks], simulator, folder)
    nothing = InterpolationError(0.0, 0.0, 0.0)
    table = AmplifierTable(
        pluses=torch.from_numpy(pluses), stretched=torch.from_numpy(bench.inputs),
        outputs=torch.from_numpy(bench.outputs), currents=torch.stack(found[:count])[..., [0, 2]],
        width=WIDTH, vdd=vdd, vss=vss, temperature=temperature,
        gain=2.0, offset=0.0, swing=(vss, vdd), quiescent=0.0, error=nothing,  # see below
        subcircuit=subcircuit.name, digest=amplifier_digest(subcircuit),
        simulator=f"{simulator.name} {simulator.version()}",
    )  # fmt: skip
    return _measured(table, [torch.from_numpy(values) for values in (
        between, checks[0].inputs, checks[0].outputs
    )], torch.stack(found[count:]))  # fmt: skip


def _amplifier(path: str | Path, trust: bool) -> Subcircuit:
    try:
        return read_subcircuit(Path(path), (*AMPLIFIER_PORTS, *RAIL_PORTS), trust=trust)
    except NetlistError as error:
        short = " ".join(AMPLIFIER_PORTS)
        if f"({short})" not in str(error):
            raise
        raise NetlistError(
            f"{error}. An operational amplifier is measured with its supplies: add "
            f"{' '.join(RAIL_PORTS)} to its ports. A whole read-out ({short}, resistors included) "
            "is for netlists only: imac.compile(…, amplifier=file)"
        ) from None


def _bench(
    subcircuit: Subcircuit,
    vdd: float,
    vss: float,
    temperature: float,
    nodes: tuple[int, int],
    settings: NetlistSettings,
) -> AmplifierBench:
    spec = NeuronSpec("identity", 0.0, math.inf, 0.0, vdd, temperature, Neuron())
    reach = math.asinh(REACH / WIDTH)
    inputs = np.linspace(-reach, reach, nodes[0])
    outputs = np.linspace(vss - MARGIN, vdd + MARGIN, nodes[1])
    return AmplifierBench(
        subcircuit, spec, inputs, outputs, settings, "nodes", plus=0.0, width=WIDTH, vss=vss
    )


@lasting()
def _measured(
    table: AmplifierTable, points: list[Tensor], middle: Tensor
) -> AmplifierTable:
    """With the error of interpolation and the figures of the unloaded amplifier."""
    plus, stretched, output = torch.meshgrid(*points, indexing="ij")
    minus = plus - table.width * torch.sinh(stretched)
    values = table.values(plus, minus, output)
    off = (values.output - middle[..., 0]).abs()
    inside = (output > table.vss) & (output < table.vdd)
    referred = (off / values.by_plus.abs().clamp(min=1e-30))[
        inside & (values.by_plus > 0.01 * values.by_plus.max())
    ]
    error = InterpolationError(
        float(off.max()),
        float((values.supply - middle[..., 2]).abs().max()),
        float(referred.square().mean().sqrt()),
    )
    outputs, inputs, power = unloaded(table)
    slope = outputs.diff() / inputs.diff()
    quarter = (table.vdd - table.vss) / 4
    half = (outputs > table.vss + quarter) & (outputs < table.vdd - quarter)
    if int(half.sum()) < 2 or not float(slope.max()) > 1.0:
        raise SimulatorError(
            f"the unloaded output of {table.subcircuit} does not follow its inputs through the "
            "middle of the supplies: it is no operational amplifier; are plus and minus exchanged?"
        )
    steep = slope >= 0.1 * slope.max()
    inner = (outputs[1:] + outputs[:-1]) / 2
    centre = int((outputs - (table.vdd + table.vss) / 2).abs().argmin())
    through = outputs[half], inputs[half]
    gain = float((through[0][-1] - through[0][0]) / (through[1][-1] - through[1][0]))
    return replace(
        table, error=error, gain=gain, offset=float(inputs[centre]),
        swing=(float(inner[steep].min()), float(inner[steep].max())),
        quiescent=float(power[centre]),
    )  # fmt: skip


@lasting()
def unloaded(table: AmplifierTable) -> tuple[Tensor, Tensor, Tensor]:
    """An amplifier without load, its input plus nearest to 0 V: a point per output of the table.

    Returns:
        (K,) outputs, V; the differential inputs at which they are reached, V; W of both supplies.
        Outputs that are not reached are left out.
    """
    outputs = table.outputs[(table.outputs > table.vss) & (table.outputs < table.vdd)]
    plus = table.pluses[table.pluses.abs().argmin()].expand_as(outputs)
    low, high = (table.stretched[k].expand_as(outputs) for k in (0, -1))
    for _ in range(60):  # bisection: the output current rises with the differential input
        middle = (low + high) / 2
        minus = plus - table.width * torch.sinh(middle)
        above = table.values(plus, minus, outputs).output > 0.0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    minus = plus - table.width * torch.sinh(middle)
    found = table.values(plus, minus, outputs)
    reached = (middle - table.stretched[0] > 1e-6) & (table.stretched[-1] - middle > 1e-6)
    power = (table.vdd - table.vss) * found.supply
    return outputs[reached], (plus - minus)[reached], power[reached]


@dataclass(frozen=True)
class OffsetSpread:
    """Offsets of amplifiers whose thresholds differ.

    Attributes:
        offsets: (K,) V, of every draw: between the inputs, for an output in the middle.
        thresholds: V, standard deviation by transistor's parameter.
    """

    offsets: Tensor
    thresholds: Mapping[str, float]

    @property
    def spread(self) -> float:
        """V, standard deviation."""
        return float(self.offsets.std())


def amplifier_offsets(
    path: str | Path,
    simulator: Simulator,
    generator: torch.Generator,
    *,
    draws: int = 100,
    pelgrom: float = PELGROM,
    vdd: float = 0.8,
    vss: float = -0.8,
    temperature: float = 298.15,
    directory: str | Path | None = None,
    trust: bool = False,
) -> OffsetSpread:
    """Monte Carlo over thresholds: the offsets of amplifiers that were meant to be the same.

    The sub-circuit declares parameters ``dvt1``, ``dvt2``, …, by which the thresholds of its
    transistors are shifted (V), and ``area1``, ``area2``, …, the areas of their gates (µm²). A
    threshold's standard deviation is pelgrom/√(2·area) (Pelgrom, Duinmaijer and Welbers, IEEE J.
    Solid-State Circuits 24, 1433, 1989, for the difference of two). The output is held in the
    middle of the supplies, and the input at which it takes no current is the offset.

    Args:
        path: See :func:`tabulate_amplifier`.
        simulator: Likewise.
        generator: Where thresholds come from.
        draws: Amplifiers.
        pelgrom: V·m.
        vdd: V.
        vss: V.
        temperature: K.
        directory: Where to keep the netlists; None: a temporary directory.
        trust: See :func:`tabulate_amplifier`.

    Raises:
        ConfigError: The sub-circuit declares no such parameters.
        SimulatorError: An offset is beyond a tenth of a volt.
    """
    subcircuit = _amplifier(path, trust)
    areas = _areas(subcircuit)
    deviations = {f"dvt{k}": pelgrom / math.sqrt(2e-12 * area) for k, area in areas.items()}
    drawn = torch.randn(
        draws, len(deviations), generator=generator, dtype=torch.float64, device="cpu"
    ) * torch.tensor(list(deviations.values()), dtype=torch.float64, device="cpu")
    middle = (vdd + vss) / 2
    bench = _bench(subcircuit, vdd, vss, temperature, (401, 5), SETTINGS)
    reach = math.asinh(0.1 / WIDTH)
    bench = replace(
        bench, inputs=np.linspace(-reach, reach, 401), outputs=middle + np.array([-1e-6, 0.0, 1e-6])
    )
    benches = [
        replace(bench, stem=f"draw_{k}", shifts=dict(zip(deviations, row, strict=True)))
        for k, row in enumerate(drawn.tolist())
    ]
    with bench_directory(directory) as folder:
        found = simulate_benches(benches, simulator, folder)
    currents = torch.stack(found)[:, :, 1, 0]  # (draws, P)
    stretched = torch.from_numpy(bench.inputs)
    before = (currents <= 0.0).sum(1) - 1
    if bool((before < 0).any() or (before >= len(stretched) - 1).any()):
        raise SimulatorError("an offset is beyond 0.1 V: what differs is more than thresholds")
    low, high = (currents.gather(1, before[:, None] + k)[:, 0] for k in (0, 1))
    at = stretched[before] + (stretched[1] - stretched[0]) * low / (low - high)
    return OffsetSpread(WIDTH * torch.sinh(at), deviations)


def _areas(subcircuit: Subcircuit) -> dict[int, float]:
    """µm² by number of the transistor."""
    defaults = subcircuit.defaults()
    found = {
        int(name[3:]): defaults.get(f"area{name[3:]}", math.nan)
        for name in sorted(subcircuit.parameters)
        if name.startswith("dvt") and name[3:].isdigit()
    }
    if not found or any(not area > 0.0 for area in found.values()):
        raise ConfigError(
            f"the spread of offsets needs parameters dvt1, dvt2, … (V, shifts of thresholds) and "
            f"area1, area2, … (µm², with default values) of the sub-circuit {subcircuit.name}; "
            f"it declares {', '.join(sorted(subcircuit.parameters)) or 'none'}"
        )
    return found
