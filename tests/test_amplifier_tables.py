"""Operational amplifiers as tables: measured, saved, solved natively and by ngspice."""

import json
import math
from dataclasses import replace

import pytest
import torch
from small_networks import LOGISTIC, mlp, signs
from typer.testing import CliRunner

import imac_torch as imac
from imac_torch.cli import app, commands
from imac_torch.errors import (
    AmplifierWarning,
    CircuitError,
    ConfigError,
    DataError,
    FileWarning,
    NetlistError,
)
from imac_torch.netlist import NetlistSettings
from imac_torch.periphery.readout.amplifiertable import AmplifierTable, InterpolationError
from imac_torch.study.deck import write_deck
from imac_torch.study.useramplifier import amplifier_offsets, example_amplifier, unloaded

pytestmark = pytest.mark.filterwarnings("ignore::imac_torch.errors.SettingWarning")
MOST, STEEP, LEAK, IDLE = 40e-6, 2e-2, 2e-6, 30e-6
"""A, S, S, A of an amplifier with a formula."""


def current(differential, output):
    """A out of the output: a pair of transistors behind a leak, and rails near 0.75 V."""
    return MOST * (torch.tanh(STEEP * differential / MOST) - (output / 0.75) ** 9) - LEAK * output


def formula(count=5):
    """The table of that amplifier; plus at 0 V, or moved by up to 0.8 V."""
    pluses = torch.zeros(1).double() if count == 1 else torch.linspace(-0.8, 0.8, count).double()
    reach = math.asinh(1e4)
    stretched = torch.linspace(-reach, reach, 401, dtype=torch.float64)
    outputs = torch.linspace(-0.85, 0.85, 171, dtype=torch.float64)
    d, o = torch.meshgrid(1e-4 * torch.sinh(stretched), outputs, indexing="ij")
    both = torch.stack([current(d, o), IDLE + current(d, o).clamp(min=0.0)], dim=-1)
    return AmplifierTable(
        pluses, stretched, outputs, both.expand(len(pluses), -1, -1, -1), 1e-4, 0.8, -0.8, 298.15,
        gain=STEEP / LEAK, offset=0.0, swing=(-0.7, 0.7), quiescent=IDLE * 1.6,
        error=InterpolationError(0.0, 0.0, 0.0), subcircuit="formula", digest="", simulator="hand",
    )  # fmt: skip


def config(table, **amplifier):
    return LOGISTIC.replace(
        amplifier=imac.Amplifier(table=str(table), **amplifier),
        crossbar=imac.Crossbar(rows=3, columns=4),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return {count: formula(count).save(folder / f"of_{count}.safetensors") for count in (1, 5)}


def test_interpolation_has_the_slopes_of_its_values():
    """Differences of 1e-7 V: rounding makes 1e-9 S of them, curvature 1e-7 times it."""
    table = formula()
    plus, minus, out = torch.tensor([[0.11, 0.1098, 0.2], [-0.2, 0.1, -0.3]]).double().T
    found = table.values(plus, minus, out)
    torch.testing.assert_close(found.output, current(plus - minus, out), rtol=0, atol=1e-9)
    step = 1e-7
    for k, slope in enumerate((found.by_plus, found.by_minus, found.by_output)):
        moved = [torch.stack([plus, minus, out]) for _ in range(2)]
        moved[0][k] -= step
        moved[1][k] += step
        low, high = (table.values(*values).output for values in moved)
        torch.testing.assert_close(slope, (high - low) / (2 * step), rtol=1e-4, atol=1e-8)


def test_a_transimpedance_amplifier_is_where_currents_meet(saved):
    """One cell of each sign into virtual ground, by bisection of the formula.

    A table that is off by 1e-9 A (above) moves the input by 1e-9/STEEP V, and outputs by as much.
    """
    settings = config(saved[1], kind="transimpedance", gain=50.0, input_resistance=1e3).replace(
        interconnect=imac.Interconnect(resistance=False), neuron=imac.Neuron(kind="identity")
    )
    made = imac.convert(mlp(1, 1), settings)
    x = torch.tensor([[1.0], [-0.7], [0.05]])
    solution = made.solve(x)
    assert bool(solution.converged.all())
    pair = made.segment.first.matrix.conductances()
    for image, volts in enumerate(made.voltages(x)[:, 0].tolist()):
        outputs = []
        for side in (pair.positive, pair.negative):
            g = side[0].tolist()
            low, high = -0.8, 0.8  # of the line: a line that rises pulls the output down
            for _ in range(80):
                line = (low + high) / 2
                into = g[0] * (volts - line) + g[1] * (0.8 - line)
                output = line - 50e3 * into
                back = (output - line) / 50e3
                found = float(current(torch.tensor(-line).double(), torch.tensor(output).double()))
                low, high = (line, high) if found > back else (low, line)
            outputs.append(output)
        wanted = outputs[1] - outputs[0]
        assert float(solution.outputs[image, 0].detach()) == pytest.approx(wanted, abs=1e-6)
    assert float(solution.outputs.detach().abs().max()) > 0.3


@pytest.mark.parametrize(
    ("kind", "combine"), [("transimpedance", "average"), ("differential", "average"),
                          ("differential", "sum")],
)  # fmt: skip
def test_power_is_conserved_and_gradients_are_differences(saved, kind, combine):
    settings = config(
        saved[1 if kind == "transimpedance" else 5], kind=kind, combine=combine, gain=8.0,
        input_resistance=2e4, output_resistance=1e4, offset=1e-3,
    )  # fmt: skip
    made = imac.convert(mlp(4, 3, 2).append(imac.InverterSigmoid()), settings)
    x = 0.7 * signs(2, 4).double()
    solution, heat = made.solve(x), made.dissipation(x)
    assert bool(solution.converged.all())
    power = solution.power
    given = power.inputs + power.bias + power.neurons + power.level_shift + power.amplifier_supply
    taken = (heat.cells + heat.amplifiers + heat.neurons - heat.sums).sum(-1)
    torch.testing.assert_close(taken, given, rtol=1e-8, atol=0)
    inputs = made.voltages(x).requires_grad_()
    bound = made.segment.bind()
    gradient, = torch.autograd.grad(bound.solve(inputs, power=False).outputs.sum(), inputs)
    step = torch.zeros_like(inputs)
    step[:, 2] = 1e-6
    with torch.no_grad():
        sides = (inputs - step, inputs + step)
        low, high = (bound.solve(side, power=False).outputs.sum() for side in sides)
    slope = float(high - low) / 2e-6  # neurons stop at 1e-9 V, of 2e-6 V across
    assert float(gradient[:, 2].sum()) == pytest.approx(slope, rel=5e-3, abs=1e-6)


def test_small_signals_for_noise_are_the_slopes_of_solutions(saved):
    """What a layer passes on at an operating point, against differences of two solutions."""
    net = imac.convert(mlp(6, 4), config(saved[1], kind="transimpedance", gain=60.0))
    x = 0.7 * signs(1, 6)
    ((here, _),) = net.segment.noisy(imac.Noise()).by_point(net.solve(x))
    found = here.layers[0].at(0.0).transfer[:, :-1]
    step = 1e-4 * torch.eye(6, dtype=torch.float64)
    volts = net.voltages(x)
    up, down = (
        net.segment.native.solve(net.prepare(), volts + sign * step).layers[0].combined
        for sign in (1.0, -1.0)
    )
    wanted = (up - down).T.detach() / 2e-4
    # Third derivatives of tanh times (1e-4 V)², and 1e-11 V of the solutions over 1e-4 V.
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_what_does_not_fit_a_table_is_refused(saved, tmp_path):
    with pytest.raises(ConfigError, match=r"swing = .* has its own"):
        imac.Amplifier(table=str(saved[1]), swing=(-0.1, 0.1))
    with pytest.raises(ConfigError, match="without a table"):
        imac.Amplifier(subcircuit="mine.sp")
    with pytest.raises(CircuitError, match=r"plus=\(lowest, highest, count\)"):
        imac.convert(mlp(3, 2), config(saved[1], kind="differential", gain=5.0)).prepare()
    with pytest.raises(CircuitError, match="no operational amplifier in a loop"):
        imac.convert(mlp(3, 2), config(saved[1], kind="sense_resistor", gain=5.0)).prepare()
    other = config(saved[1], kind="transimpedance", gain=5.0).replace(temperature=330.0)
    with pytest.raises(ConfigError, match=r"characterised at temperature = 298\.15 K"):
        imac.convert(mlp(3, 2), other).prepare()
    path = tmp_path / "broken.safetensors"
    path.write_bytes(saved[1].read_bytes()[:-8])
    with pytest.raises(DataError):
        AmplifierTable.load(path)
    with pytest.raises(DataError, match="at least 5"):
        replace(formula(), pluses=torch.zeros(2).double())
    short = tmp_path / "short.sp"
    short.write_text(".subckt mine plus minus out\nE1 out 0 plus minus 1e3\n.ends\n")
    with pytest.raises(NetlistError, match=r"mine \(plus minus out\)\. .*: add vdd vss"):
        imac.tabulate_amplifier(short, imac.NgSpice())
    made = imac.convert(mlp(3, 2), config(saved[1], kind="transimpedance", gain=5.0))
    with pytest.raises(NetlistError, match=r"amplifier\.subcircuit"):
        write_deck(made, made.voltages(signs(1, 3)), torch.zeros(1), tmp_path / "run",
                   dialect="ngspice")  # fmt: skip
    imac.save(made, tmp_path / "net.safetensors")
    with pytest.warns(FileWarning, match=r"amplifier\.table"):
        read = imac.load(tmp_path / "net.safetensors")
    with pytest.raises(ConfigError, match="not used unasked"):
        read.solve(signs(1, 3))
    trusted = imac.load(tmp_path / "net.safetensors", files=True)
    x = signs(1, 3)
    assert torch.equal(trusted.solve(x).outputs, made.solve(x).outputs)


def test_the_ablation_knows_amplifiers_with_transistors(saved):
    found = {}
    for more in ({}, {"subcircuit": "mine.sp"}):
        made = imac.convert(
            mlp(3, 2), config(saved[1], kind="transimpedance", gain=60.0, **more)
        )
        found[len(more)] = [
            (step.name, step.output_error) for step in imac.ablate(made, signs(4, 3))
        ]
    assert found[1] == found[0] and "amplifiers" in dict(found[0])


MEASURED = {}


@pytest.fixture
def measured(ngspice, tmp_path_factory):
    """The example in transistors, plus grounded: 2·16,000 operating points, once."""
    if not MEASURED:
        table = imac.tabulate_amplifier(
            example_amplifier(), imac.NgSpice(str(ngspice)), nodes=(201, 69)
        )
        path = table.save(tmp_path_factory.mktemp("measured") / "opamp.safetensors")
        MEASURED["example"] = table, path
    return MEASURED["example"]


def test_the_example_amplifies(measured):
    """By hand within a factor of two: what λ makes of the mirrors' currents is left out.

    Of a stage of square-law transistors gm/(λₙ + λₚ)I = 2/(V_ov·0.367): 107 and 36.
    """
    table, _ = measured
    assert 0.5 * 107 * 36 < table.gain < 2 * 107 * 36
    preset = imac.Amplifier.preset("two_stage_180nm")
    assert preset.open_loop_gain == pytest.approx(table.gain, rel=0.02)
    assert preset.swing == pytest.approx(table.swing, abs=0.02)
    assert preset.quiescent_current == pytest.approx(table.figures()["quiescent_current"], rel=1e-2)
    assert -0.8 < table.swing[0] < -0.6 and 0.6 < table.swing[1] < 0.8
    # 20 µA of the bias, 20 µA of the pair, 40 µA of the second stage, from 1.6 V.
    assert table.quiescent == pytest.approx(80e-6 * 1.6, rel=0.1)
    outputs, inputs, _ = unloaded(table)
    assert bool((inputs.diff() > 0).all()) and len(outputs) > 50


def test_a_network_equals_ngspice(measured, ngspice, tmp_path):
    """With transistors in every read-out.

    A table is off by error.input V between the inputs (rms, most of it where transistors leave
    saturation), and a loop of noise gain 1 + R_f·Σg, below 12 here, makes 12 times of it at the
    outputs of both layers.
    """
    table, path = measured
    settings = config(
        path, kind="transimpedance", gain=60.0, subcircuit=str(example_amplifier()),
        output_resistance=5e3, offset=1e-3,
    )  # fmt: skip
    made = imac.convert(mlp(6, 4, 2).append(imac.InverterSigmoid()), settings)
    x = 0.7 * signs(3, 6)
    ours = made.solve(x)
    assert bool(ours.converged.all())
    deck = write_deck(
        made, made.voltages(x), torch.zeros(3, dtype=torch.int64), tmp_path / "run",
        dialect="ngspice", settings=NetlistSettings(analysis="dc", abstol=1e-13),
    )  # fmt: skip
    theirs = deck.run(imac.NgSpice(str(ngspice)), progress=False).solution
    tolerance = 2 * 12 * table.error.input
    assert tolerance < 1e-3
    torch.testing.assert_close(ours.outputs, theirs.outputs, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        ours.power.amplifier_supply, theirs.power.amplifier_supply, rtol=1e-3, atol=0
    )


def test_offsets_follow_pelgrom(ngspice):
    """A pair of 20 µm² and a mirror of 10 µm² at gm₃/gm₁: by hand within the error of 40 draws.

    σ² = σ₁²·2 + (gm₃/gm₁)²·2·σ₃², gm = √(2·kp·W/L·I): gm₃/gm₁ = √(86·10/(387·20)) = 0.333.
    """
    found = amplifier_offsets(
        example_amplifier(), imac.NgSpice(str(ngspice)), torch.Generator().manual_seed(1), draws=40
    )
    pair, mirror = (4e-9 / math.sqrt(area * 1e-12) for area in (20.0, 10.0))
    wanted = math.hypot(pair, 0.333 * mirror)
    assert found.spread == pytest.approx(wanted, rel=4 / math.sqrt(2 * 40))


def test_the_command(ngspice, tmp_path):
    out = tmp_path / "mine.safetensors"
    commands.register(app)
    result = CliRunner().invoke(
        app, ["characterize", "amplifier", "--nodes", "41", "21", "--json", "-o", str(out)]
    )
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["gain"] > 500 and AmplifierTable.load(out).figures() == figures


def test_a_read_out_in_netlists_only_is_warned_of(tmp_path):
    path = tmp_path / "mine.sp"
    path.write_text(
        ".subckt mine plus minus out vdd vss\nR1 plus 0 1k\nR2 minus 0 1k\n"
        "E1 out 0 plus minus 5\n.ends\n"
    )
    made = imac.convert(mlp(3, 2), LOGISTIC)
    pairs = [(signs(1, 3), torch.zeros(1, dtype=torch.int64))]
    with pytest.warns(AmplifierWarning, match="tabulate_amplifier"):
        deck = imac.compile(made, pairs, tmp_path / "run", amplifier=path)
    text = (deck.directory / "circuit" / "layer1.sp").read_text()
    assert " vdda vssa mine" in text


def test_verification_shows_what_a_read_out_in_netlists_makes(ngspice, tmp_path):
    """The configured one written by hand agrees; another gain is seen."""
    path = tmp_path / "mine.sp"
    made = imac.convert(
        mlp(3, 2), LOGISTIC.replace(amplifier=imac.Amplifier(kind="sense_resistor", gain=5.0))
    )
    pairs = [(signs(1, 3), torch.zeros(1, dtype=torch.int64))]
    apart = []
    for gain in (5, 6):
        path.write_text(
            ".subckt mine plus minus out\nR1 plus 0 1k\nR2 minus 0 1k\n"
            f"E1 out 0 plus minus {gain}\n.ends\n"
        )
        apart.append(imac.verify_nodes(made, pairs, 1, amplifier=path).output_difference)
    assert apart[0] < 1e-9
    assert apart[1] == pytest.approx(0.2 * float(made.solve(pairs[0][0]).outputs.abs().max()))
