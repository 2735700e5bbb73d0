"""How far a layer's neuron inputs will be from what is wanted, before the circuit is solved.

Ohmic crossbars with their wires are a linear network, so elimination gives what every line does to
every neuron input, T, exactly. What drives the lines has a resistance R_s, and the layer draws
currents Y·v from it: lines are at v = (1 + R_s·Y)⁻¹·f instead of f. Devices that spread by δ
(relative, independent) carry g·δ·(v - p) into their I± line, which floats at p. With first
and second moments of the lines all of this is a mean square error, without a sample and without
Newton's method.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.dc.newton import NewtonOptions, solve_loaded
from imac_torch.dc.transfer import threshold_and_slope
from imac_torch.elimination.linalg import solve
from imac_torch.elimination.ports import PortNetwork, eliminate_layer
from imac_torch.mapping.states import InputStatistics
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.circuit import NeuronCircuit

OUTPUT_POINTS = 25
"""Operating points over which a neuron's output resistance is averaged."""


@dataclass(frozen=True)
class Prediction:
    """Mean square errors of a layer's neuron inputs, relative to what varies in the wanted ones.

    Attributes:
        error: As it is built.
        spread: Of devices that vary.
    """

    error: float
    spread: float

    @property
    def total(self) -> float:
        """Rms of both."""
        return math.sqrt(self.error + self.spread)


@torch.no_grad()
def predict(
    spec: CrossbarSpec,
    wanted: Tensor,
    statistics: InputStatistics,
    *,
    source_resistance: float,
    load_factor: float,
    spread: float,
) -> Prediction:
    """Errors of some rows of a layer.

    Args:
        spec: Crossbars of these rows.
        wanted: (M, C) combined amplifier voltage per line voltage, the bias line last.
        statistics: Of the lines, in units of vdd.
        source_resistance: Ω, of what drives every line but the bias.
        load_factor: Rows of the layer per row of ``spec``: all of them load the lines.
        spread: Standard deviation of conductances, relative.

    Raises:
        SolverError: Cells are curved.
    """
    ports, _ = eliminate_layer(spec)
    built = loaded_transfer(ports, source_resistance, load_factor)
    signal = statistics.variances(wanted)
    power = float(signal.sum())
    reference = power if power > 0.0 else max(float(statistics.powers(wanted).sum()), 1e-300)
    noise = _spread_power(spec, ports, statistics) * spread**2
    return Prediction(
        float(statistics.powers(built - wanted).sum()) / reference,
        noise / reference,
    )


def loaded_transfer(ports: PortNetwork, resistance: float, factor: float = 1.0) -> Tensor:
    """(M, C): amplifier voltage per open-circuit voltage of what drives the lines.

    Args:
        ports: The layer.
        resistance: Ω, of what drives every line but the bias.
        factor: How often the ports' admittance loads the lines.
    """
    transfer = ports.transfer
    if resistance == 0.0:
        return transfer
    columns = torch.full_like(transfer[0], resistance * factor)
    columns[-1] = 0.0
    drop = ports.layout.gather_inputs(columns)[..., :, None] * ports.admittance
    identity = torch.eye(drop.shape[-1], dtype=drop.dtype, device=drop.device)
    blocks = ports.layout.gather_inputs(transfer).transpose(0, 1)  # (H, M, K)
    divided = solve((identity + drop).transpose(-1, -2), blocks.transpose(-1, -2))
    return ports.layout.scatter_inputs(divided.transpose(-1, -2).transpose(0, 1))


def _spread_power(spec: CrossbarSpec, ports: PortNetwork, statistics: InputStatistics) -> float:
    """Mean square of all rows' output for conductances that spread by 1, wires left out."""
    read_out, slicing = ports.read_out, spec.slicing
    gather = ports.layout.gather_inputs
    second = gather(statistics.variances(torch.diag(torch.ones_like(statistics.mean))))
    mean = gather(statistics.mean)
    positive, negative = (
        gather(side) for side in (spec.conductances.positive, spec.conductances.negative)
    )  # (M·L, H, K)
    behind = 1.0 / read_out.negative_load
    plus = positive.sum(-1, keepdim=True) + 1.0 / read_out.positive_load
    minus = negative.sum(-1, keepdim=True) + behind
    at_plus = (positive * mean).sum(-1, keepdim=True) / plus
    follows = read_out.coupling * behind / minus  # the I- end per volt of the I+ end
    at_minus = (negative * mean).sum(-1, keepdim=True) / minus + follows * at_plus
    by_plus = read_out.output(torch.ones_like(follows), follows) / plus * positive
    by_minus = read_out.output(torch.zeros_like(follows), torch.ones_like(follows))
    by_minus = by_minus / minus * negative
    rows = by_plus.square() * ((mean - at_plus).square() + second)
    rows = rows + by_minus.square() * ((mean - at_minus).square() + second)
    shares = slicing.row_shares(positive, len(positive)) * read_out.combination.weight
    return float((shares.square() * rows.sum((-1, -2))).sum())


@torch.no_grad()
def output_resistance(spec: NeuronSpec) -> float:
    """Ω: rms voltage that a neuron loses per ampere that it delivers, over its operating range."""
    threshold, slope = threshold_and_slope(spec)
    points = torch.linspace(-4.0, 4.0, OUTPUT_POINTS, dtype=torch.float64, device="cpu")
    inputs = threshold + points / slope
    core = spec.model.tabulated_core(spec)
    neuron = NeuronCircuit.of(spec, core, inputs.new_zeros(()))
    solved = solve_loaded(inputs[None, :, None], neuron, None, NewtonOptions())
    currents = core.currents(solved.gates, solved.outputs)
    resistance = 1.0 / -currents.output_by_output
    return math.sqrt(float(resistance.clamp(0.0, 1e5).square().nanmean()))


def least_by_octaves(
    function: Callable[[float], float], low: float, high: float, *, start: float
) -> float:
    """Where a function of a positive number is least: downhill by factors of two, then by finer.

    Args:
        function: Of one number. A bump one factor of two wide does not stop the search.
        low: Smallest number.
        high: Largest number.
        start: Where to begin, between them.
    """
    values = {start: function(start)}
    for factor in (2.0, 0.5):
        number, rises = start, 0
        while low <= number * factor <= high and rises < 2:
            number *= factor
            values[number] = function(number)
            rises = rises + 1 if values[number] > min(values.values()) else 0
    for factor in (math.sqrt(2.0), 2.0**0.25):
        best = min(values, key=values.__getitem__)
        for number in (best / factor, best * factor):
            if low <= number <= high:
                values[number] = function(number)
    return min(values, key=values.__getitem__)
