"""The read-out that a configuration asks for, and how to add a kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from imac_torch.base.registry import Registry
from imac_torch.config import Config
from imac_torch.config.kinds import READ_OUT_KINDS
from imac_torch.errors import CircuitError
from imac_torch.mapping.slices import Slicing
from imac_torch.periphery.readout.base import ReadOut
from imac_torch.periphery.readout.combination import combination_of
from imac_torch.periphery.readout.opamp import Imperfections, Measured, Rails

# Read when it is needed: netlists know read-outs, and not the compiled splines of tables.
_READERS: Final[Registry[Any]] = Registry(
    "table",
    {"amplifier": "imac_torch.periphery.readout.amplifiertable:read_amplifier_table"},
    instantiate=False,
)


def register_read_out(kind: type[ReadOut]) -> type[ReadOut]:
    """Add a kind of your own: ``Amplifier(kind=…)`` takes its name from now on, in this process.

    Raises:
        ConfigError: The name is no identifier, or one of the package's own.
    """
    READ_OUT_KINDS.register(kind.kind, kind)
    return kind


def build_read_out(
    config: Config,
    gain: float,
    partitions: int,
    *,
    device: torch.device | None = None,
    offsets: Tensor | None = None,
) -> ReadOut:
    """The read-out of a layer.

    Args:
        config: From :meth:`Config.for_layer`.
        gain: As configured or chosen.
        partitions: H, horizontal partitions.
        device: Where its tensors live.
        offsets: (M·L, H, n) V that amplifiers have besides ``amplifier.offset``.

    Raises:
        CircuitError: Values are not physical, or its output is not linear.
    """
    amplifier = config.amplifier
    resistance = torch.tensor(amplifier.output_resistance, dtype=torch.float64, device=device)
    slicing = Slicing.of(config.mapping, config.device)
    combination = combination_of(amplifier.combine, partitions, resistance, slicing)
    kind: type[ReadOut] = READ_OUT_KINDS.get(amplifier.kind)
    table = _table(config)
    if table is not None:  # the linear amplifier that this one deviates from
        linear = amplifier.replace(table=None, subcircuit=None, open_loop_gain=table.gain)
        config = config.replace(amplifier=linear)
    built = kind.of(config, gain, combination)
    if amplifier.second_pole is not None or amplifier.slew_rate is not None:
        built = replace(
            built, second_pole=amplifier.second_pole, slew_rate=amplifier.slew_rate
        )
    _check_linear(built, device)
    if amplifier.offset_spread > 0.0 and not built.amplifiers:
        built.wiring()  # says that it can have none, before any are drawn
    real = _imperfections(config, offsets, device)
    if table is not None:
        real = Imperfections(
            torch.zeros(1, 1, 1, dtype=torch.float64, device=device) if real is None
            else real.offsets, table=table, subcircuit=amplifier.subcircuit,
        )  # fmt: skip
    if real is None:
        return built
    built = replace(built, imperfections=real)
    if table is not None and table.grounded and not all(p.grounded for p in built.terminals):
        raise CircuitError(
            f"the read-out '{built.kind}' moves the input plus of its amplifiers, and "
            f"amplifier.table = {amplifier.table!r} was measured with it at ground: characterise "
            "the sub-circuit again with plus=(lowest, highest, count)"
        )
    if not built.amplifiers:
        built.wiring()  # says that it can have none
    return built


def _table(config: Config) -> Measured | None:
    """What the configuration's amplifiers were measured to do; None: they are described."""
    amplifier, supplies = config.amplifier, config.supplies
    if amplifier.table is None:
        return None
    if "open_loop_gain" not in READ_OUT_KINDS.get(amplifier.kind).reads:
        raise CircuitError(
            f"the read-out '{amplifier.kind}' has no operational amplifier in a loop that "
            "amplifier.table could stand for"
        )
    table: Measured = _READERS.get("amplifier")(amplifier.table)
    table.check(
        vdd=supplies.vdd, vss=supplies.vss, temperature=config.temperature, where=amplifier.table
    )
    return table


def _imperfections(
    config: Config, offsets: Tensor | None, device: torch.device | None
) -> Imperfections | None:
    amplifier = config.amplifier
    resistance = None
    if "open_loop_resistance" in READ_OUT_KINDS.get(amplifier.kind).reads:
        resistance = amplifier.open_loop_resistance
    ideal = amplifier.swing is None and resistance is None
    if amplifier.offset == 0.0 and offsets is None and ideal:
        return None
    same = torch.full((1, 1, 1), amplifier.offset, dtype=torch.float64, device=device)
    low, high = amplifier.swing or (-float("inf"), float("inf"))
    rails = None
    if amplifier.quiescent_current is not None:
        rails = Rails(config.supplies.vss, config.supplies.vdd, amplifier.quiescent_current)
    return Imperfections(
        same if offsets is None else same + offsets.to(device), low, high, rails,
        resistance=None if resistance is None else torch.full_like(same[0, 0, 0], resistance),
    )  # fmt: skip


@torch.no_grad()
def _check_linear(read_out: ReadOut, device: torch.device | None) -> None:
    """Refuse what elimination and netlists would compute differently.

    Raises:
        CircuitError: The output, or what a source delivers, is not linear in the voltages of the
            ends: it has a constant (an offset), or it saturates.
    """
    volts = [[0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 1.0, 0.5]]
    ends = torch.tensor(volts, dtype=torch.float64, device=device)
    inside = [item for source in read_out.sources(*ends) for item in source]
    found_by = [("output", read_out.output(*ends)), *(("sources", item) for item in inside)]
    for what, found in found_by:
        nothing, one, other, both = found.expand(4).tolist()
        error = max(abs(nothing), abs(both - 2.0 * one - 0.5 * other))
        if not error <= 1e-9 * max(abs(one), abs(other)):
            raise CircuitError(
                f"{type(read_out).__name__}.{what} of the read-out '{read_out.kind}' is not linear "
                f"in the voltages of the line ends: {nothing:g} at 0 V and 0 V, {one:g} at 1 V "
                f"and 0 V, {other:g} at 0 V and 1 V, {both:g} at 2 V and 0.5 V. What it says of "
                "its `amplifiers` is where offsets and swing belong"
            )
