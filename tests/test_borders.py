"""Drivers, converters and their ranges, against tables, loops and published figures."""

import math

import pytest
import torch
from torch import nn

from imac_torch import (
    Amplifier,
    Config,
    Converter,
    Crossbar,
    Driver,
    Supplies,
    WeightMapping,
    convert,
)
from imac_torch.config.kinds import CONVERTER_KINDS, DRIVER_KINDS
from imac_torch.errors import CircuitError, ConfigError, ConversionError, ConversionWarning
from imac_torch.model.coding import relative_inputs
from imac_torch.model.network import IMACNetwork
from imac_torch.periphery.border import (
    ConverterKind,
    Grid,
    converter_of,
    driver_of,
    fitted_range,
    register_converter,
)

F64 = torch.float64
EXACT = {
    "mapping": WeightMapping(levels="continuous"), "amplifier": Amplifier(kind="transimpedance"),
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:samples")  # they are for ranges of converters
DRIVERS = [
    Driver(kind=kind, bits=bits, sign=sign)
    for kind in ("dac", "bit_serial")
    for sign in ("bipolar", "two_pass", "unipolar")
    for bits in (1, 2, 5, 12)
    if not (bits == 1 and sign == "bipolar")
]


def layer(inputs=7, outputs=3, activation=nn.ReLU):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, outputs), activation()).double()


def data(count=9, inputs=7, low=-1.0):
    generator = torch.Generator().manual_seed(1)
    return low + (1 - low) * torch.rand(count, inputs, generator=generator, dtype=F64)


# Levels


@pytest.mark.parametrize(
    ("low", "high", "bits", "values", "levels"),
    [
        # 0 V outside or at the border: from end to end.
        (0.0, 3.0, 2, [-9.0, 0.4, 0.6, 1.4, 2.6, 9.0], [0.0, 0.0, 1.0, 1.0, 3.0, 3.0]),
        (1.0, 8.0, 3, [0.0, 1.4, 4.6, 9.0], [1.0, 1.0, 5.0, 8.0]),
        # Inside: a level is there, -1.5 … 1.5 V becomes -2 … 1 V (ties go to even).
        (-1.5, 1.5, 2, [-9.0, -0.4, 0.0, 0.6, 9.0], [-2.0, 0.0, 0.0, 1.0, 1.0]),
        (-1.0, 2.0, 2, [-9.0, -0.6, 0.4, 1.6, 9.0], [-1.0, -1.0, 0.0, 2.0, 2.0]),
        # One bit: both ends.
        (-1.0, 3.0, 1, [-9.0, 0.9, 1.1, 9.0], [-1.0, -1.0, 3.0, 3.0]),
    ],
)
def test_levels_of_a_converter(low, high, bits, values, levels):
    found = Grid.over(low, high, bits).levels(torch.tensor(values, dtype=F64))
    assert found.tolist() == levels


def test_many_bits_are_as_good_as_their_step():
    values = data(50, 50).flatten()
    grid = Grid.over(-1.0, 1.0, 16)
    assert float((grid.levels(values) - values).abs().max()) <= 1.0001 / 65535
    assert torch.isnan(grid.levels(torch.tensor([math.nan]))).all()


@pytest.mark.parametrize("ends", [(1.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_a_range_must_be_one(ends):
    with pytest.raises(CircuitError, match="which is none"):
        Grid.over(*ends, 4)


def test_gradients_pass_straight_through_within_the_range():
    values = torch.tensor([-2.0, -0.3, 0.2, 0.8, 2.0], dtype=F64, requires_grad=True)
    levels = Grid.over(-1.0, 1.0, 3).levels(values)
    (gradient,) = torch.autograd.grad((levels * torch.arange(1.0, 6.0)).sum(), values)
    assert gradient.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]
    with torch.no_grad():
        assert torch.equal(levels, Grid.over(-1.0, 1.0, 3).levels(values))


# Ranges


def test_ranges_of_known_distributions():
    even = torch.linspace(-1.0, 3.0, 4001, dtype=F64)
    assert fitted_range(even, "max", 4, 1.0) == (-1.0, 3.0)
    low, high = fitted_range(even, "percentile", 4, 0.9)
    assert (low, high) == pytest.approx((-0.8, 2.8), abs=1e-12)  # 5 % of 4 V on both sides
    # The best levels of a uniform density are the middles of equal parts.
    low, high = fitted_range(torch.linspace(0.0, 1.0, 4001, dtype=F64), "mse", 2, 1.0)
    assert (low, high) == pytest.approx((0.125, 0.875), abs=2e-3)
    # Two levels of a normal density: J. Max, IRE Trans. Inf. Theory 6(1), 1960, table I: ±0.7980.
    share = torch.linspace(0.0, 1.0, 4098, dtype=F64)[1:-1]
    normal = math.sqrt(2.0) * torch.erfinv(2.0 * share - 1.0)
    low, high = fitted_range(normal, "mse", 1, 1.0)
    assert (low, high) == pytest.approx((-0.798, 0.798), abs=5e-3)


def test_ranges_of_odd_data():
    for value in (0.3, -0.3, 0.0):  # one voltage is told exactly
        low, high = fitted_range(torch.full((5,), value, dtype=F64), "percentile", 3, 0.9)
        levels = Grid.over(low, high, 3).levels(torch.tensor([value], dtype=F64))
        assert float(levels) == pytest.approx(value, abs=1e-12)
    some = torch.tensor([math.nan, 1.0, 2.0], dtype=F64)
    assert fitted_range(some, "max", 3, 1.0) == (1.0, 2.0)
    with pytest.raises(CircuitError, match="there are none"):
        fitted_range(some[:1], "max", 3, 1.0)


# Drivers


@pytest.mark.parametrize("settings", DRIVERS, ids=lambda s: f"{s.kind}-{s.sign}-{s.bits}")
def test_passes_add_up_to_the_code(settings):
    driver = driver_of(settings)
    values = data(40, 5, low=0.0 if settings.sign == "unipolar" else -1.0).requires_grad_()
    steps = 2 ** (settings.bits - (settings.sign == "bipolar")) - 1
    wanted = torch.round(values.detach() * steps) / steps
    passes = list(driver.passes(values))
    total = sum(weight * lines for weight, lines in zip(driver.weights, passes, strict=True))
    torch.testing.assert_close(total, wanted, rtol=0, atol=1e-15 * 2**6)
    assert torch.equal(driver.rounded(values), wanted)
    (gradient,) = torch.autograd.grad(total.sum(), values)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))
    allowed = {-1.0, 0.0, 1.0} if settings.sign == "bipolar" else {0.0, 1.0}
    if settings.kind == "bit_serial":
        assert {float(v) for lines in passes for v in lines.flatten()} <= allowed
    elif settings.sign != "bipolar":
        assert all(bool((lines >= 0).all()) for lines in passes)


def test_bits_must_have_a_meaning():
    with pytest.raises(ConfigError, match="a sign without a magnitude"):
        Driver(kind="dac", bits=1)
    with pytest.raises(ConfigError, match="the lower end"):
        Converter(limits=(1.0, -1.0))
    with pytest.raises(ConfigError, match="no converter 'sigma_delta'"):
        Converter(kind="sigma_delta")


# Circuits


def network(samples=None, model=None, **sections):
    config = Config(crossbar=Crossbar(rows=2, columns=3), **EXACT, **sections)
    return convert(layer() if model is None else model, config, samples=samples)


@pytest.mark.parametrize("sign", ["bipolar", "two_pass"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_bit_serial_is_one_shot_where_converters_are_ideal(sign, activation):
    x, model = data(), layer(activation=activation)
    one, serial = (
        network(x, model, driver=Driver(kind=kind, bits=6, sign=sign), converter=Converter(
            after="partition"))
        for kind in ("dac", "bit_serial")
    )  # fmt: skip
    with torch.no_grad():
        assert float((one(x) - serial(x)).abs().max()) < 1e-12
        steps = 63 if sign == "two_pass" else 31
        codes = torch.round(x * steps) / steps
        # Circuits as they were programmed leave a few per cent.
        torch.testing.assert_close(serial(x), model(codes), rtol=0, atol=0.05)


def test_two_passes_need_no_negative_supply():
    x = data()
    found = network(
        x, supplies=Supplies(vss=0.0), driver=Driver(kind="dac", bits=12, sign="two_pass")
    )
    with torch.no_grad():
        torch.testing.assert_close(found(x), layer()(x), rtol=0, atol=0.02)
    one_sided = network(x.abs(), driver=Driver(kind="dac", bits=4, sign="unipolar"))
    with torch.no_grad(), pytest.raises(CircuitError, match="lines to one side only"):
        one_sided(x)


def test_a_converter_per_partition_against_loops_over_their_circuits():
    """Every partition solved alone, every read-out rounded by hand, the mean taken in Python."""
    x = data()
    settings = Converter(kind="sar", bits=4, after="partition", range="max")
    found = network(x, converter=settings)
    segment, matrix = found.segment, found.segment.first.matrix
    spec = matrix.crossbar()
    volts = 0.8 * torch.cat([x, torch.ones(len(x), 1, dtype=F64)], dim=1)
    parts = []
    with torch.no_grad():
        for first, last in spec.column_ranges:
            alone = torch.zeros_like(volts)
            alone[:, first:last] = volts[:, first:last]
            ports = segment.prepare().layers[0].network
            parts.append(alone @ (len(spec.column_ranges) * ports.transfer[0].T))
        outputs = torch.stack(parts)
        low, high = float(outputs.min()), float(outputs.max())
        assert segment.range.ends == pytest.approx((low, high), rel=1e-12)
        step = (high - low) / 15
        floor = round(low / step)
        codes = torch.round(outputs / step).clamp(floor, floor + 15)
        mean = (step * codes).sum(0) / len(parts)
        wanted = torch.relu(mean / 0.8) * segment.last.scaling.output_scale
        torch.testing.assert_close(found(x), wanted, rtol=0, atol=1e-12)
        assert float((found(x) - layer()(x)).abs().max()) > 0.02  # four bits are seen


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["dac", "bit_serial"])
def test_convolutions_are_converted_at_every_position(groups, kind):
    """Partitions as one matrix each, against read-outs of the circuit, row by row."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=groups), nn.ReLU()).double()
    x = data(2, 2 * 5 * 4).reshape(2, 2, 5, 4)
    config = Config(
        **EXACT, crossbar=Crossbar(rows=3, columns=4), driver=Driver(kind=kind, bits=4),
        converter=Converter(kind="sar", bits=5, after="partition"),
    )  # fmt: skip
    found = convert(model, config, samples=x)
    (segment,) = found.segments.values()
    grid = Grid.over(*segment.range.ends, 5)
    with torch.no_grad():
        lines = segment.borders.passes(segment.relative(x))
        total = 0.0
        for weight, part in zip(segment.borders.weights, lines, strict=True):
            read = segment.read_outs(0.8 * segment.positions.vectors(part))
            assert read.shape == (40, 4, 5 if groups == 1 else 3)  # 18 or 9 inputs and the bias
            total = total + weight * grid.levels(read).mean(-1)
        rows = torch.relu(total / 0.8) * segment.last.scaling.output_scale
        wanted = segment.positions.tensor(rows, x)
        torch.testing.assert_close(found(x), wanted, rtol=0, atol=1e-12)
    # With gradients rounding is done another way.
    torch.testing.assert_close(found(x), wanted, rtol=0, atol=1e-12)
    assert float((found(x.float()) - wanted).abs().median()) < 1e-5


def test_converters_see_amplifiers_that_saturate():
    x, model = data(), layer(activation=nn.Identity)
    swing = Amplifier(kind="transimpedance", swing=(-0.05, 0.05))
    config = Config(
        crossbar=Crossbar(rows=2, columns=3), mapping=EXACT["mapping"], amplifier=swing,
        converter=Converter(after="partition"),
    )  # fmt: skip
    found = convert(model, config)
    with torch.no_grad():
        volts = found.segment.read_outs(found.voltages(x))
        # The difference of two amplifiers, one per line.
        assert float(volts.abs().max()) == pytest.approx(0.1, rel=1e-9)
        combined = found.solve(x).layers[0].combined
        torch.testing.assert_close(volts.mean(-1), combined, rtol=0, atol=1e-12)
        scale = found.segment.last.scaling.output_scale / 0.8
        torch.testing.assert_close(found(x), scale * combined, rtol=0, atol=1e-12)


def test_ideal_borders_change_no_bit():
    x, model = data(), layer()
    before = network(x, model)
    with torch.no_grad():
        after = network(x, model, converter=Converter(after="layer"))
        assert torch.equal(before(x), after(x))


def test_converters_behind_neurons_round_what_these_give():
    x = data()
    found = network(x, converter=Converter(kind="flash", bits=3, limits=(0.0, 0.7)))
    volts = found.solve(x).outputs
    scale = found.segment.last.scaling.output_scale
    wanted = 0.1 * torch.round(volts / 0.1).clamp(0, 7) / 0.8 * scale
    torch.testing.assert_close(found(x), wanted)
    torch.testing.assert_close(found.scores(volts), wanted)


def test_a_chain_is_cut_where_layers_have_converters():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    x = data()
    found = network(x, model, converter=Converter(kind="sar", bits=8, after="partition"))
    assert isinstance(found, IMACNetwork) and len(found.segments) == 2
    with torch.no_grad():
        exact = network(x, model, converter=Converter(after="partition"))(x)
        torch.testing.assert_close(found(x), exact, rtol=0, atol=0.06)
        assert not torch.equal(found(x), exact)
    with pytest.raises(ConversionError, match="every layer must be a circuit of its own"):
        network(x, model, driver=Driver(kind="bit_serial"))


def test_without_samples_the_first_batch_gives_the_range():
    x = data()
    found = network(converter=Converter(kind="sar", range="max"))
    with torch.no_grad(), pytest.warns(ConversionWarning, match="from this batch and kept"):
        found(x)
    ends = found.segment.range.ends
    with torch.no_grad():
        found(x[:1])
    assert found.segment.range.ends == ends
    again = network(converter=Converter(kind="sar", range="max"))
    again.load_state_dict(found.state_dict())
    assert again.segment.range.ends == ends


def test_training_reaches_weights_through_converters():
    x = data()
    model = layer(activation=nn.Identity)
    settings = Converter(kind="sar", bits=6, after="partition", limits=(-9.0, 9.0))
    found, plain = network(x, model, converter=settings), network(x, model)
    gradients = []
    for item in (found, plain):
        (gradient,) = torch.autograd.grad(item(x).sum(), item.segment.first.weight)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients)  # straight through: as without converters


# Costs


def test_costs_are_the_published_ones():
    # ISAAC's table (ISCA 2016): 1200 µm² and, at four bits, 361 µm².
    for bits, area in ((8, 1200e-12), (4, 361e-12)):
        found = converter_of(Converter(kind="sar", bits=bits))
        assert found.circuit_area(1) == pytest.approx(area, rel=0.02, abs=0)
    # Kull et al. (ISSCC 2013): 34 fJ per step; noise asks for more from 15 bits on.
    assert converter_of(Converter(kind="sar")).energy == pytest.approx(
        256 * 34e-15, rel=1e-6, abs=0
    )
    wide = converter_of(Converter(kind="sar", bits=16))
    sndr = 6.02 * 16 + 1.76
    assert wide.energy == pytest.approx(0.5 * 10 ** ((sndr - 175) / 10), rel=0.01, abs=0.0)
    times = [converter_of(Converter(kind=kind, bits=6)).time for kind in ("flash", "sar", "ramp")]
    assert times == pytest.approx([1e-9, 6e-9, 64e-9], rel=1e-6, abs=0)


def test_costs_of_a_segment_by_hand():
    """8 lines in 3 arrays of 3 columns, 3 outputs in arrays of 2 rows, by partition."""
    driver = Driver(kind="bit_serial", bits=5)
    converter = Converter(kind="flash", bits=4, after="partition", shared_by=2, limits=(-1.0, 1.0))
    costs = network(driver=driver, converter=converter).segment.border_costs
    passes, conversions = 4, 4 * 3 * 3
    assert costs.conversions == conversions
    assert costs.driver_energy == pytest.approx(7 * passes * 3.9e-13, rel=1e-6, abs=0)
    assert costs.converter_energy == pytest.approx(
        conversions * (15 * 5e-14 + 1e-15), rel=1e-6, abs=0
    )
    assert costs.addition_energy == pytest.approx((conversions - 3) * 1e-13, rel=1e-6, abs=0)
    assert costs.time == pytest.approx(passes * (4e-9 + 2 * 1e-9), rel=1e-6, abs=0)
    each = 15 * 5e-11 + 6e-11
    assert costs.converter_area == pytest.approx(3 * (2 * each + 3 * 4e-14), rel=1e-6, abs=0)
    assert costs.driver_area == pytest.approx(7 * 1.7e-13, rel=1e-6, abs=0)
    assert costs.energy(10) == pytest.approx(10 * costs.energy(), rel=1e-6, abs=0)
    assert costs.latency(10, copies=4) == pytest.approx(3 * costs.time, rel=1e-6, abs=0)
    assert costs.area(2) == pytest.approx(2 * costs.area(), rel=1e-6, abs=0)
    free = network().segment.border_costs
    assert (free.energy(), free.area(), free.conversions) == (0.0, 0.0, 0)


def test_converters_of_ones_own():
    class Slow(ConverterKind):
        kind = "slow"
        comparisons = 1000
        circuit_energy = 1.0

        def circuit_area(self, converters):
            return float(converters)

    register_converter(Slow)
    try:
        costs = network(converter=Converter(kind="slow", limits=(0.0, 1.0))).segment.border_costs
        assert costs.converter_energy == 3.0
        assert costs.time == pytest.approx(4e-9 + 1000 * 1e-9, rel=1e-6, abs=0)
        with pytest.raises(ConfigError, match="one of the package's"):
            register_converter(type("Own", (Slow,), {"kind": "sar"}))
    finally:
        CONVERTER_KINDS.remove("slow")
    assert "dac" in DRIVER_KINDS


def test_full_scale_is_reached_in_single_precision():
    """0.1 in float32 is more than 0.1, and what is cut off there is full scale."""
    full = torch.tensor([[0.1, -0.1]])
    assert float(full[0, 0]) > 0.1
    assert relative_inputs(full, Supplies(), 0.1).tolist() == [[1.0, -1.0]]
    with pytest.raises(CircuitError, match=r"full scale is 0\.1"):
        relative_inputs(full * 1.001, Supplies(), 0.1)
    with pytest.raises(CircuitError, match="input 1 of the batch is not finite"):
        relative_inputs(torch.tensor([[0.0], [torch.nan]]), Supplies(), 0.1)
