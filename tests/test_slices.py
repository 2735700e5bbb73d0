"""Bit slicing: digits, the circuit that puts them together, and everything that draws on it."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import imac_torch as imac
from imac_torch import Amplifier, Config, Crossbar, Interconnect, Memristor, Neuron, WeightMapping
from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.conversion.ablation import ablate
from imac_torch.conversion.convert import convert
from imac_torch.conversion.layer_effects import layer_effects
from imac_torch.conversion.software import to_software
from imac_torch.devices import DeviceModel, DeviceSample, Factors, Gaussian
from imac_torch.elimination.ports import eliminate_layer
from imac_torch.errors import CircuitError, ConversionError, MappingError
from imac_torch.mapping.quantization import ConductancePair, levels, quantize, to_conductances
from imac_torch.mapping.slices import Slicing
from imac_torch.model.linear import IMACLinear
from imac_torch.model.network import IMACNetwork
from imac_torch.reports.area import LayoutArea, layer_shapes
from imac_torch.study.montecarlo import MonteCarlo
from imac_torch.transient.network import solve_transient
from imac_torch.transient.options import TransientOptions
from imac_torch.transient.preparation import prepare_transient

# Some of these weights are rounded coarsely on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")

LOGISTIC = Config(neuron=Neuron(kind="logistic"), crossbar=Crossbar(rows=8, columns=4))
IDEAL = Interconnect(resistance=False)


def network(
    generator: torch.Generator, mapping: WeightMapping, **sections: object
) -> IMACNetwork:
    """9-6-4 with normal weights, on arrays of 8×4."""
    model = nn.Sequential(nn.Linear(9, 6), nn.Sigmoid(), nn.Linear(6, 4)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * values)
    return convert(model, LOGISTIC.replace(mapping=mapping, **sections), generator=generator)


def images(generator: torch.Generator, count: int = 3) -> Tensor:
    return torch.rand(count, 9, generator=generator, dtype=torch.float64) * 2 - 1


def first(net: IMACNetwork) -> IMACLinear:
    return next(net.analog_layers())


slicings = st.integers(2, 5).flatmap(
    lambda count: st.builds(
        lambda slices, base: (Slicing(slices, base), count),
        st.integers(1, 4),
        st.integers(1, count),
    )
)
"""A slicing and levels of a pair that it has digits for."""


@settings(max_examples=60, deadline=None)
@given(slicings)
def test_every_integer_has_digits(case: tuple[Slicing, int]) -> None:
    slicing, count = case
    total = slicing.levels(count)
    values = torch.linspace(-1, 1, total, dtype=torch.float64)[None]
    digits = slicing.digits(values, count)
    assert digits.shape == (slicing.count, total)
    allowed = torch.linspace(-1, 1, count, dtype=torch.float64)
    # 2j/(n - 1) - 1 against linspace: roundings of numbers up to 2
    assert float((digits[..., None] - allowed).abs().min(-1).values.max()) < 1e-15
    # a few roundings of numbers up to 1
    torch.testing.assert_close(slicing.join(digits), values, rtol=0, atol=1e-14)
    assert len(torch.unique((slicing.join(digits) * (total - 1)).round())) == total


@settings(max_examples=60, deadline=None)
@given(slicings, st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_a_weight_is_at_most_half_a_step_off(
    case: tuple[Slicing, int], weights: list[float]
) -> None:
    slicing, count = case
    values = torch.tensor([weights], dtype=torch.float64)
    step = 2 / (slicing.levels(count) - 1)
    found = slicing.join(slicing.digits(values, count))
    assert float((found - values).abs().max()) <= step / 2 + 1e-14


@pytest.mark.parametrize(
    ("mapping", "device", "slicing", "total"),
    [
        # Two states make a ternary pair: radix 3; binary pairs have radix 2.
        (WeightMapping(slices=4), Memristor(), Slicing(4, 3), 81),
        (WeightMapping(slices=4, levels="binary"), Memristor(), Slicing(4, 2), 16),
        (WeightMapping(slices=2, levels=4), Memristor(), Slicing(2, 4), 16),
        (WeightMapping(slices=4, slice_base=2), Memristor(), Slicing(4, 2), 31),
        # Residuals need reach: pairs of two states hold three values.
        (WeightMapping(slices=4, scheme="matched"), Memristor(states=2), Slicing(4, 2), 31),
        (WeightMapping(slices=3, levels="continuous"), Memristor(states=2), Slicing(3, 1), None),
        (WeightMapping(slices=1, slice_base=3), Memristor(), Slicing(1, 1), 3),
    ],
)
def test_base_follows_from_the_levels(
    mapping: WeightMapping, device: Memristor, slicing: Slicing, total: int | None
) -> None:
    found = Slicing.of(mapping, device)
    assert found == slicing
    allowed = levels(mapping, found)
    assert (None if allowed is None else len(allowed)) == total


def test_digits_to_base_one_are_alike_and_repeat_the_weight() -> None:
    """A choice of digits is used to keep rows alike: 5 of 9 is 2, 2 and 1 of 3."""
    slicing = Slicing(3, 1)
    values = torch.linspace(-1, 1, slicing.levels(4), dtype=torch.float64)[:, None]
    digits = slicing.digits(values, 4).reshape(-1, 3)
    spread = digits.amax(1) - digits.amin(1)
    assert float(spread.max()) <= 2 / 3 + 1e-12  # one step of a digit
    free = slicing.digits(values, None).reshape(-1, 3)
    torch.testing.assert_close(free, values.expand(-1, 3), rtol=0, atol=0)


def test_digits_move_with_their_weight() -> None:
    slicing = Slicing(3, 2)
    values = torch.tensor([[-1.0, 0.2]], dtype=torch.float64, requires_grad=True)
    slicing.join(slicing.digits(values, 3)).sum().backward()
    assert values.grad is not None
    # shares add up to 1 up to rounding
    torch.testing.assert_close(values.grad, torch.ones_like(values), rtol=0, atol=1e-15)


def test_refusals(generator: torch.Generator) -> None:
    with pytest.raises(MappingError, match="base = 0"):
        Slicing(2, 0)
    with pytest.raises(MappingError, match="pairs of 3 levels cannot be digits to base 4"):
        Slicing(2, 4).levels(3)
    pair = ConductancePair(*torch.full((2, 5, 4), 1e-5, dtype=torch.float64))
    config = LOGISTIC.replace(mapping=WeightMapping(slices=2)).for_layer(0, "a", 1)
    with pytest.raises(CircuitError, match="5 rows cannot be outputs of 2 slices"):
        build_crossbar(pair, config, 10.0)
    trained = nn.Sequential(IMACLinear(3, 2, config=config, name="0"))
    with pytest.raises(ConversionError, match="2 slices, the configuration asks for 1"):
        convert(trained, LOGISTIC)


def test_rows_of_equal_sums_compute_the_integers(generator: torch.Generator) -> None:
    """Opposite weights side by side, balanced pairs: all rows have the same sums.

    Then the read-out is the same for all slices, and the circuit is the integer matrix times a
    constant that can be written down: G·(window)/(S + 1/R) per unit of weight.
    """
    mapping = WeightMapping(slices=3, scheme="balanced")
    slicing = Slicing.of(mapping, LOGISTIC.device)
    integers = torch.randint(-13, 14, (5, 4), generator=generator).double()
    integers = torch.stack([integers, -integers], dim=-1).flatten(1)
    pair = to_conductances(
        slicing.digits(integers / 13, 3), LOGISTIC.device, mapping, where="test"
    )
    for combine, parts in (("average", 1), ("average", 2), ("sum", 2)):
        config = Config(
            mapping=mapping,
            interconnect=IDEAL,
            crossbar=Crossbar(horizontal=parts),
            amplifier=Amplifier(combine=combine),
        ).for_layer(0, "a", 1)
        found = eliminate_layer(build_crossbar(pair, config, 30.0))[0].transfer
        low, high = 1 / config.device.rhigh, 1 / config.device.rlow
        sums = 8 / parts * (low + high) / 2 + 1 / config.amplifier.input_resistance
        scale = 30.0 * (high - low) / sums / (parts if combine == "average" else 1)
        # sums of eight conductances, differences of nearly equal ones: some hundred roundings
        torch.testing.assert_close(found, scale * integers / 13, rtol=0, atol=1e-13)


@pytest.mark.parametrize("combine", ["average", "sum"])
def test_circuit_without_wires_is_kirchhoffs_law_row_by_row(
    generator: torch.Generator, combine: str
) -> None:
    """The formulas of the read-out and of the summing network, written out with numpy."""
    net = network(
        generator,
        WeightMapping(slices=3, slice_base=2),
        interconnect=IDEAL,
        amplifier=Amplifier(combine=combine),
    )
    x = images(generator)
    solution = net.solve(x)
    layer = first(net)
    spec = layer.matrix.crossbar()
    resistance, gain = 1e3, layer.matrix.gain()
    lines = np.append(0.8 * x.numpy(), np.full((3, 1), 0.8), axis=1)
    plus, minus = (
        side.detach().numpy() for side in (spec.conductances.positive, spec.conductances.negative)
    )
    rows = []
    for row in range(18):
        outputs = []
        for begin, end in spec.column_ranges:
            v, p, n = lines[:, begin:end], plus[row, begin:end], minus[row, begin:end]
            positive = v @ p / (p.sum() + 1 / (resistance * (1 + gain)))
            held = gain / (1 + gain) * positive / resistance
            negative = (v @ n + held) / (n.sum() + 1 / resistance)
            outputs.append(gain * (positive - negative))
        rows.append(np.stack(outputs, axis=-1))
    amplifiers = np.stack(rows, axis=1).reshape(3, 6, 3, -1)  # (B, M, L, H)
    if combine == "sum":
        combined = np.einsum("bmlh,l->bm", amplifiers, np.array([4, 2, 1]) / 7)
    else:
        # R, 2R and 4R meet in a node that nothing loads.
        weights = np.array([1.0, 0.5, 0.25])[:, None] * np.ones(amplifiers.shape[-1])
        combined = np.einsum("bmlh,lh->bm", amplifiers, weights) / weights.sum()
    # differences of line ends of 1e-3 V, times the gain
    found = solution.layers[0].combined.detach().numpy()
    np.testing.assert_allclose(found, combined, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", ["unilateral", "balanced"])
def test_software_weights_come_back(generator: torch.Generator, scheme: str) -> None:
    net = network(generator, WeightMapping(slices=4, scheme=scheme), interconnect=IDEAL)
    layer = first(net)
    quantized = layer.matrix.quantized()
    assert quantized.error < 0.02  # 81 levels; ternary is 0.4
    linear = to_software(net)[1]
    wanted = (quantized.scale * quantized.values).detach()
    # digits are differences of conductances over the window: 1e-16·(high/window)
    torch.testing.assert_close(linear.weight.detach(), wanted[:, :-1], rtol=0, atol=1e-14)
    assert layer.matrix.crossbar().outputs == 6
    assert layer.matrix.conductances().positive.shape == (24, 10)
    assert "ternary/" + scheme + " in 4 slices to base 3" in net.summary()


def test_more_slices_are_closer_to_software(generator: torch.Generator) -> None:
    """Rounding to 3^L levels: each slice takes the error to about a third."""
    weights = torch.randn(40, 60, generator=generator, dtype=torch.float64)
    errors = [
        quantize(weights, WeightMapping(), Slicing(count, 3), where="a").error
        for count in range(1, 6)
    ]
    for coarse, fine in pairwise(errors):
        assert fine < coarse / 2
    # uniform levels: step/√12 over the weights' rms, full scale at most four of those
    assert errors[-1] < 2 * 4 / 242 / 12**0.5 * 1.5


def test_residuals_make_up_for_what_earlier_slices_do(generator: torch.Generator) -> None:
    """Pairs of two states only, where neither range nor bias limits the rows."""
    model = nn.Sequential(nn.Linear(16, 5)).double()
    weights = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        model[0].weight.copy_(0.3 * torch.cat([weights, -weights], dim=1))
        model[0].bias.zero_()
    errors = []
    for count in (1, 2, 4):
        config = Config(
            device=Memristor(states=2),
            mapping=WeightMapping(levels="continuous", scheme="matched", slices=count),
        )
        layer = first(convert(model, config))
        found = layer.matrix.match()
        errors.append(found.error)
        for side in (found.pair.positive.detach(), found.pair.negative.detach()):
            states = torch.tensor([1 / 202e3, 1 / 78e3], dtype=torch.float64)
            assert float((side[..., None] - states).abs().min(-1).values.max()) < 1e-18
        matrix = layer.matrix
        transfer = matrix.divider(matrix.gain()).transfer(found.pair).detach()
        error = matrix.statistics.relative_error(transfer, matrix.wanted_transfer().detach())
        assert error == pytest.approx(found.error, rel=1e-9)
    # A slice to base 2 halves the error at least; the gain is from a list, hence not at each.
    assert errors[1] < errors[0]
    assert errors[2] < errors[0] / 4


@pytest.mark.parametrize("states", [None, 2])
def test_matched_slices_have_gradients(generator: torch.Generator, states: int | None) -> None:
    mapping = WeightMapping(levels="continuous", scheme="matched", slices=3, slice_base=2)
    device = Memristor.preset("CBRAM").replace(states=states)
    gain = Amplifier(gain=150.0)
    net = network(generator, mapping, device=device, amplifier=gain, interconnect=IDEAL)
    layer = first(net)
    x = images(generator)
    assert bool(layer.matrix.match().exact.all())  # as far as the devices' range goes
    weight = layer.weight.detach().clone()
    loss = layer(x).square().sum()
    (gradient,) = torch.autograd.grad(loss, layer.weight)
    if states is not None:  # straight through the states
        assert bool(gradient.isfinite().all())
        assert float(gradient.abs().min()) > 0
        return
    direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            layer.weight.copy_(weight + step * direction)
            values.append(float(layer(x).square().sum()))
    # second-order differences: 1e-10 of the loss over 2e-5
    slope = (values[0] - values[1]) / 2e-5
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_gradients_reach_every_slice_through_wires(generator: torch.Generator) -> None:
    mapping = WeightMapping(levels="continuous", slices=2, slice_base=2)
    net = network(generator, mapping, amplifier=Amplifier(gain=30.0))
    x, weight = images(generator), first(net).weight
    (gradient,) = torch.autograd.grad(net(x).square().sum(), weight)
    direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    direction[weight.detach().abs() == weight.detach().abs().max()] = 0.0  # the full scale
    start, values = weight.detach().clone(), []
    for step in (1e-4, -1e-4):
        with torch.no_grad():
            weight.copy_(start + step * direction)
            values.append(float(net(x).square().sum()))
    # Newton leaves 1e-9 V in 2e-4 of a slope around 1; the third order is smaller
    slope = (values[0] - values[1]) / 2e-4
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4)


def test_ngspice_agrees_on_every_node(generator: torch.Generator, ngspice: Path) -> None:
    for mapping, combine in (
        (WeightMapping(slices=3), "average"),
        (WeightMapping(slices=2, levels="binary", scheme="balanced"), "sum"),
    ):
        net = network(
            generator, mapping, amplifier=Amplifier(combine=combine, output_resistance=10.0)
        )
        pairs = [(images(generator), torch.zeros(3, dtype=torch.int64))]
        found = imac.verify_nodes(net, pairs, samples=2, simulator=imac.NgSpice(str(ngspice)))
        # Newton's tolerance of either side
        assert found.output_difference < 1e-9
        assert found.node_difference < 1e-9
        assert found.power_difference < 1e-9


@pytest.mark.parametrize(("wires", "combine"), [("exact", "sum"), ("reduced", "average")])
def test_transients_settle_at_the_operating_point(
    generator: torch.Generator, wires: str, combine: str
) -> None:
    net = network(
        generator,
        WeightMapping(slices=2),
        interconnect=Interconnect(capacitance=True),
        amplifier=Amplifier(combine=combine, output_resistance=100.0),
    )
    x = images(generator, 2)
    options = TransientOptions(wires=wires)  # type: ignore[arg-type]
    with torch.no_grad():
        prepared, solution = net.prepare(), net.solve(x)
        timed = prepare_transient(
            net.segment.parts(), [LOGISTIC.interconnect.replace(capacitance=True)] * 2,
            prepared.layers, options,
        )  # fmt: skip
        result = solve_transient(timed, net.voltages(x)[None], net.config.timing, options=options)
    ends = result.periods[1:]
    assert solution.power is not None
    # Everything settles within picoseconds; what is left is Newton's tolerance, 1e-2·1e-4 V.
    torch.testing.assert_close(result.outputs[ends, 0], solution.outputs, rtol=0, atol=1e-6)
    for name in ("inputs", "bias", "amplifiers"):
        found = getattr(result.power, name)[ends, 0]
        torch.testing.assert_close(found, getattr(solution.power, name), rtol=1e-4, atol=1e-9)


def test_a_saved_network_is_the_same(generator: torch.Generator, tmp_path: Path) -> None:
    net = network(
        generator, WeightMapping(slices=3, slice_base=2), device=Memristor(variation=0.1)
    )
    x = images(generator)
    again = imac.load(imac.save(net, tmp_path / "net.safetensors"))
    assert again.config == net.config
    torch.testing.assert_close(again(x), net.eval()(x), rtol=0, atol=0)


def test_every_device_of_every_slice_varies(generator: torch.Generator) -> None:
    net = network(generator, WeightMapping(slices=3), device=Memristor(variation=0.1))
    layer = first(net)
    factors = Factors.between(layer.matrix.nominal_conductances(), layer.matrix.conductances())
    for factor in (factors.positive, factors.negative):
        assert factor.shape == (18, 10)
        # A quotient is rounded: two may differ in nothing else.
        assert len(torch.unique(factor[:, :-1])) > 0.9 * factor[:, :-1].numel()
    # Spread shows in the weights by each slice's share.
    ideal = copy.deepcopy(layer)
    last = torch.ones_like(factors.positive)
    last[2::3] = factors.positive[2::3]  # the least significant slice only
    ideal.matrix.devices = (DeviceSample.known(Factors(last, last)),)
    quiet = (ideal.effective_weights()[0] - to_weights(layer)).abs().max()
    loud = (layer.effective_weights()[0] - to_weights(layer)).abs().max()
    assert 0 < float(quiet) < float(loud) / 3


def to_weights(layer: IMACLinear) -> Tensor:
    quantized = layer.matrix.quantized()
    return (quantized.scale * quantized.values).detach()[:, :-1]


def test_monte_carlo_samples_and_the_ablation(generator: torch.Generator) -> None:
    net = network(generator, WeightMapping(slices=2))
    x, labels = images(generator, 5), torch.arange(5) % 4
    run = MonteCarlo(net, DeviceModel((Gaussian(0.1),)), seed=3)
    result = run.run(x, labels, samples=3, keep_outputs=True)
    assert result.outputs is not None
    for sample in range(3):
        alone = run.realise(sample).solve(x)
        # both converge to 1e-9 V
        torch.testing.assert_close(alone.outputs, result.outputs[sample], rtol=0, atol=1e-9)
    steps = {step.name: step.output_error for step in ablate(net, x, labels)}
    direct = net(x)
    software = to_software(net)(x)
    assert steps["software"] == 0.0
    assert steps["partitioning"] > 0.0
    assert bool(direct.isfinite().all()) and bool(software.isfinite().all())
    for effect in layer_effects(net):
        assert effect.effective.shape == effect.wanted.shape


def test_one_array_holds_all_slices_in_the_ablation(generator: torch.Generator) -> None:
    """The step "wires" is the circuit itself where a layer fits one array."""
    net = network(generator, WeightMapping(slices=2), crossbar=Crossbar(rows=12, columns=10))
    layer = first(net)
    assert layer.matrix.crossbar().row_ends == (12,)
    steps = {step.name: step.output_error for step in ablate(net, images(generator))}
    assert steps["wires"] == pytest.approx(steps["partitioning"], rel=1e-12)


def test_calibration_trims_all_slices_of_a_row(generator: torch.Generator) -> None:
    mapping = WeightMapping(levels="continuous", scheme="matched", slices=3)
    net = network(generator, mapping, device=Memristor(states=2))
    x = images(generator, 30)
    before = first(net).matrix.conductances().positive.detach()
    records = imac.calibrate(net, x, rounds=1)
    assert [record.gain for record in records] == [item.matrix.gain() for item in net.layers]
    layer = first(net)
    assert layer.matrix.trim.shape == (6, 10)
    assert bool((layer.matrix.trim != 0).any())
    changed = (layer.matrix.conductances().positive != before).reshape(6, 3, 10)
    assert bool(changed.any(dim=-1).any(dim=0).all())  # in every slice
    assert bool(net.solve(x).converged.all())


def test_area_counts_rows_and_amplifiers_of_slices(generator: torch.Generator) -> None:
    one = layer_shapes(network(generator, WeightMapping()))[0]
    three = layer_shapes(network(generator, WeightMapping(slices=3)))[0]
    assert (one.used_rows, three.used_rows) == (6, 18)
    assert (one.vertical, three.vertical) == (1, 3)  # arrays of 8 rows
    model = LayoutArea(whole_arrays=False)
    # The amplifiers' resistors follow the gain, which slices change a little.
    same_gain = LayoutArea(whole_arrays=False).layer(
        type(one)(**{**vars(three), "read_out_resistance": one.read_out_resistance})
    )
    assert same_gain.amplifiers == pytest.approx(3 * model.layer(one).amplifiers)
    assert same_gain.cells == pytest.approx(3 * model.layer(one).cells)
    assert same_gain.neurons == model.layer(one).neurons


def test_one_layer_may_be_sliced_alone(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(9, 6), nn.Sigmoid(), nn.Linear(6, 4)).double()
    config = LOGISTIC.replace(layers={"2": imac.LayerConfig(mapping={"slices": 2})})
    net = convert(model, config)
    rows = [layer.matrix.conductances().positive.shape[0] for layer in net.analog_layers()]
    assert rows == [6, 8]
    assert net(images(generator)).shape == (3, 4)
