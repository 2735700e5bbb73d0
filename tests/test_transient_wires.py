"""Crossbars with wire capacitances against the stamped circuit, node by node."""

import pytest
import torch
from torch import nn

from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.circuit.topology import build_layer
from imac_torch.config import Amplifier, Config, Crossbar, Interconnect, Timing
from imac_torch.conversion.convert import convert
from imac_torch.elimination.ports import eliminate_layer
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.reference.nodal import stamp
from imac_torch.results.waveform import sample
from imac_torch.transient.dynamics import FITS, DynamicBlocks, LineCapacitances, SeriesModel
from imac_torch.transient.integrator import StepControl
from imac_torch.transient.options import TransientOptions

OUTPUTS, INPUTS, GAIN = 5, 7, 10.0


def layer(generator, *, resistance=True, combine="average"):
    """A layer of five rows and seven inputs on 3×4 arrays, spread over two decades."""
    config = Config(
        interconnect=Interconnect(capacitance=True, resistance=resistance),
        crossbar=Crossbar(rows=3, columns=4),
        amplifier=Amplifier(combine=combine),
    ).for_layer(0, "a", 1)
    shape = (2, OUTPUTS, INPUTS + 1)
    draw = torch.rand(shape, generator=generator, dtype=torch.float64)
    conductances = 1.0 / (1e3 * 10.0 ** (2.0 * draw))
    conductances[0, 2, 3] = 0.0  # an open cell
    spec = build_crossbar(ConductancePair(conductances[0], conductances[1]), config, GAIN)
    neuron = NeuronSpec("logistic", 0.0, float("inf"), 0.0, 0.8, 300.0, config.neuron)
    return spec, config, build_layer("layer", spec, neuron, config)


class Stamped:
    """The same from the neutral circuit: dense G + s·C."""

    def __init__(self, circuit):
        self.conductance = stamp(circuit).dense()
        self.capacitance = torch.zeros_like(self.conductance)
        for element in circuit.elements:
            if element.kind == "capacitor":
                for (first, second), value in zip(element.nodes, element.values):
                    for row, column, sign in (
                        (first, first, 1), (second, second, 1),
                        (first, second, -1), (second, first, -1),
                    ):
                        self.capacitance[row, column] += sign * value
        self.pins = torch.tensor([*circuit.inputs.tolist(), 1])
        plus, minus, out = (torch.tensor(circuit.read_outs.nodes[:, k]) for k in range(3))
        self.ends = plus, minus
        known = torch.cat([torch.tensor([0]), self.pins, out,
                           torch.tensor(circuit.neurons.nodes.reshape(-1))])
        mask = torch.ones(len(self.conductance), dtype=torch.bool)
        mask[known] = False
        self.unknown = torch.nonzero(mask).squeeze(1)

    def at(self, s):
        """Admittance (C, C), I+ ends and I- ends (M·H, C) at a complex frequency."""
        matrix = self.conductance + s * self.capacitance
        inner = torch.linalg.solve(
            matrix[self.unknown][:, self.unknown], -matrix[self.unknown][:, self.pins]
        )
        voltages = torch.zeros(len(matrix), len(self.pins), dtype=matrix.dtype)
        voltages[self.unknown] = inner
        voltages[self.pins] = torch.eye(len(self.pins), dtype=matrix.dtype)
        return matrix[self.pins] @ voltages, voltages[self.ends[0]], voltages[self.ends[1]]


@pytest.mark.parametrize("resistance", [True, False])
@pytest.mark.parametrize("shift", [0.0, 1e10, 1e12])
def test_one_elimination_equals_the_stamped_circuit(generator, resistance, shift):
    spec, config, circuit = layer(generator, resistance=resistance)
    blocks = DynamicBlocks.of(spec, LineCapacitances.of(config.interconnect, spec))
    admittance, plus, minus = Stamped(circuit).at(shift)
    unit = torch.eye(INPUTS + 1, dtype=torch.float64)
    _, seen = blocks.factor(shift).solve(blocks.spread(unit), None)
    pins = shift * torch.diag(blocks.port_capacitance)
    # Both are direct solutions with condition numbers around 1e4: 1e-11 is some 100 roundings.
    found = blocks.input_currents(seen.currents).T + pins
    assert torch.allclose(found, admittance, rtol=0, atol=1e-11 * float(admittance.abs().max()))
    for mine, theirs in ((seen.positive_end, plus), (seen.negative_end, minus)):
        ends = blocks.ends(mine).permute(1, 2, 0).reshape(-1, INPUTS + 1)
        assert torch.allclose(ends, theirs, rtol=0, atol=1e-11)


def test_injections_and_voltages_superpose(generator):
    spec, config, _ = layer(generator)
    blocks = DynamicBlocks.of(spec, LineCapacitances.of(config.interconnect, spec))
    elimination = blocks.factor(3e11)
    shape = (*blocks.positive.shape, 2)
    inner = [1e-6 * torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    from imac_torch.elimination.interior import CellValues

    injected = CellValues(*inner)
    voltages = blocks.spread(torch.rand(2, INPUTS + 1, generator=generator, dtype=torch.float64))
    both, seen = elimination.solve(voltages, injected)
    one, seen_one = elimination.solve(voltages, None)
    two, seen_two = elimination.solve(None, injected)
    assert torch.allclose(both.negative, one.negative + two.negative, atol=1e-13)
    for whole, parts, rounding in zip(
        seen, zip(seen_one, seen_two, strict=True), (1e-16, 1e-13, 1e-13), strict=True
    ):
        assert torch.allclose(whole, sum(parts), atol=rounding)


@pytest.mark.parametrize("resistance", [True, False])
def test_filters_are_the_stamped_circuit(generator, resistance):
    spec, config, circuit = layer(generator, resistance=resistance)
    ports, _ = eliminate_layer(spec)
    blocks = DynamicBlocks.of(spec, LineCapacitances.of(config.interconnect, spec))
    stamped = Stamped(circuit)
    largest = float(stamped.at(0.0)[1].abs().max())
    modes = torch.linspace(0.0, 1.0, 401, dtype=torch.float64)
    for order, fit in enumerate(FITS, 1):
        model = SeriesModel.of(blocks, ports, order)
        slowest = float(model.poles[-1])
        for part in (0.03, 0.3, 3.0):
            s = torch.tensor(part * 1j * slowest, dtype=torch.complex128)
            _, plus, minus = stamped.at(s)
            exact = (plus - minus).unflatten(0, (OUTPUTS, -1)).sum(dim=1)
            filters = torch.cat([torch.ones_like(s)[None], s / (s + model.poles[:order])])
            ends = (model.positive_end - model.negative_end).to(torch.complex128)
            made = (torch.tensordot(filters, ends, dims=1) - exact).abs().max()
            # What the filters miss of any one mode at this frequency; modes of both signs add up.
            mode = part * 1j * modes / (1.0 + part * 1j * modes)
            missed = filters[1:] @ fit.shares(modes).to(filters) - mode
            assert float(made) < 3.0 * largest * float(missed.abs().max()) + 1e-9
    # The slowest filter is the stamped circuit's slowest mode, to the few percent asked for.
    unknown = stamped.unknown
    rates = torch.linalg.eigvals(torch.linalg.solve(
        stamped.conductance[unknown][:, unknown], stamped.capacitance[unknown][:, unknown]
    )).abs().max()
    assert 1.0 / slowest == pytest.approx(float(rates), rel=0.1)


@pytest.mark.parametrize("fit", FITS, ids=lambda fit: len(fit.times))
def test_what_filters_miss_of_any_mode(fit):
    modes = torch.logspace(-4, 0, 801, dtype=torch.float64)
    time = torch.cat([torch.zeros(1), torch.logspace(-4, 1, 400)]).double()[:, None]
    filters = torch.tensor(fit.times, dtype=torch.float64)
    # A ramp of slope 1 behind s·τ/(1 + s·τ) is τ·(1 - e^(-t/τ)).
    made = -filters * torch.expm1(-time / filters) @ fit.shares(modes)
    missed = (made + modes * torch.expm1(-time / modes)).abs().amax(0)
    assert 0.95 * fit.missed < float(missed.max()) <= fit.missed


@pytest.mark.parametrize(
    ("node", "transition"),
    [(9e-9, 1e-10), pytest.param(45e-9, 1e-11, marks=pytest.mark.slow)],
)
def test_the_error_that_reduced_wires_report_holds(node, transition):
    """Against every node of the crossbars, first layer and second, and in a period too short."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 8), nn.Sigmoid(), nn.Linear(8, 4))
    config = Config(
        interconnect=Interconnect(tech_node=node, capacitance=True),
        crossbar=Crossbar(rows=8, columns=12),
        timing=Timing(period=3.0 * transition, transition=transition),
    )
    network = convert(model, config)
    signs = torch.sign(torch.rand(2, 20) - 0.5)
    control = StepControl(tolerance=3e-4)
    exact, *reduced = (
        network.transient(
            signs,
            options=TransientOptions(wires=wires, order=order, control=control, amplifiers=False),
        )
        for wires, order in (("exact", None), ("reduced", None), ("reduced", 1))
    )
    time = torch.linspace(0, 6.0 * transition, 2001, dtype=torch.float64)
    wanted = sample(exact.time, exact.outputs[:, 0], time)
    for result in reduced:
        made = float((sample(result.time, result.outputs[:, 0], time) - wanted).abs().max())
        # Both integrations keep the tolerance.
        assert made < float(result.reduction_error) + 2 * control.tolerance
    assert float(reduced[0].reduction_error) < 1e-3
    assert float(reduced[1].reduction_error) > float(reduced[0].reduction_error)


def test_no_capacitance_no_model(generator):
    spec, config, _ = layer(generator)
    off = config.interconnect.replace(capacitance=False)
    assert LineCapacitances.of(off, spec) is None
