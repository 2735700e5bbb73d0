"""Power by source and by part: what is physical is counted, what is ideal says so."""

import csv
import json
import re

import pytest
import torch
from dense_network import behavioural, circuit_of, random_layers, solve_dense
from dense_network import signs as line_voltages
from small_networks import LOGISTIC, loader, mlp, signs

import imac_torch as imac
from imac_torch.dc.dissipation import dissipated
from imac_torch.dc.native import Native
from imac_torch.errors import ConfigError, SettingWarning
from imac_torch.netlist import NetlistSettings
from imac_torch.periphery.readout.opamp import Rails
from imac_torch.reports.html_report import render_report, samples_csv
from imac_torch.study.deck import write_deck

LOW, HIGH, IDLE = -0.8, 0.8, 3e-6
REAL = {
    "swing": (-0.3, 0.35), "open_loop_gain": 300.0, "offset": 2e-3, "gain": 8.0,
    "quiescent_current": IDLE, "output_resistance": 200.0,
}  # fmt: skip
"""Small enough a swing that some outputs are at each rail."""
ALL = ("inputs", "bias", "neurons", "amplifier_supply")


def config(*, neuron=None, **amplifier):
    return LOGISTIC.replace(
        amplifier=imac.Amplifier(**{**REAL, **amplifier}),
        neuron=imac.Neuron(kind="logistic", **(neuron or {})),
        crossbar=imac.Crossbar(rows=3, columns=4),
    )


def network(settings, *sizes, activation=imac.InverterSigmoid):
    model = mlp(*(sizes or (6, 4, 2)), activation=activation)
    return imac.convert(model.append(activation()), settings)


@pytest.mark.parametrize("columns", [3, 16])
def test_compiled_powers_are_those_of_torch_and_of_every_line(columns):
    """Two executors, and the voltages and currents of every line."""
    settings = LOGISTIC.replace(crossbar=imac.Crossbar(rows=3, columns=columns))
    made = network(settings, 7, 5, 2)
    first, second = made.prepare().layers
    rows = signs(70, 7)  # the last tile is not full
    with torch.no_grad():
        many = made.solve(rows)
    traced = made.solve(rows)
    assert traced.power.inputs.requires_grad and not many.power.inputs.requires_grad
    for part in ("inputs", "bias", "amplifiers", "neurons"):
        found, other = getattr(many.power, part), getattr(traced.power, part).detach()
        torch.testing.assert_close(found, other, rtol=1e-11, atol=1e-18)
    lines = [layer.lines(found.inputs[None]) for layer, found in zip((first, second), many.layers)]
    flows = [
        volts * layer.network.input_currents(volts)
        for layer, volts in zip((first, second), lines)
    ]
    # Sums of a few dozen terms in another order.
    inputs, bias = flows[0][0, :, :-1].sum(-1), sum(flow[0, :, -1] for flow in flows)
    torch.testing.assert_close(many.power.inputs, inputs, rtol=1e-11, atol=1e-18)
    torch.testing.assert_close(many.power.bias, bias, rtol=1e-11, atol=1e-18)


def test_gradients_follow_what_is_kept_of_a_layer():
    """A first run without gradients leaves nothing behind that has none."""
    made = network(LOGISTIC, 4, 3, 2)
    prepared = made.engine.prepare(made.segment.parts())
    volts = made.voltages(signs(2, 4))
    with torch.no_grad():
        made.engine.solve(prepared, volts)
    power = made.engine.solve(prepared, volts).power
    (power.inputs + power.bias + power.amplifiers).sum().backward()
    slopes = [layer.weight.grad for layer in made.analog_layers()]
    assert all(slope is not None and bool(slope.abs().sum() > 0) for slope in slopes)


def test_rails_give_what_leaves_an_output_and_take_what_enters():
    """By hand: 1 mA out of the output from 0.8 V, 1 mA into it to -0.5 V."""
    found = Rails(-0.5, 0.8, 2e-6).driving(torch.tensor([1e-3, -1e-3, 0.0]))
    torch.testing.assert_close(found, torch.tensor([0.8e-3, 0.5e-3, 0.0]))
    assert Rails(-0.5, 0.8, 2e-6).idle == pytest.approx(2.6e-6)


@pytest.mark.filterwarnings("ignore::imac_torch.errors.SettingWarning")  # not of every kind
@pytest.mark.parametrize(
    ("kind", "combine", "pole"),
    [
        *((kind, "average", None) for kind in (
            "differential", "transimpedance", "current_mirror", "sense_resistor"
        )),
        ("differential", "sum", None),
        ("transimpedance", "sum", None),
        ("differential", "average", 1e9),
    ],
)  # fmt: skip
def test_supplies_equal_ngspice(ngspice, tmp_path, kind, combine, pole):
    """Of every source; ngspice is told to solve to 1e-12 A beside currents of 1e-6 A and more."""
    made = network(config(
        kind=kind, combine=combine, pole=pole,
        neuron={"quiescent_current": 2e-6, "output_resistance": 300.0},
    ))  # fmt: skip
    inputs = 0.7 * signs(3, 6)
    ours = made.solve(inputs)
    deck = write_deck(
        made, made.voltages(inputs), torch.zeros(3, dtype=torch.int64), tmp_path / "run",
        dialect="ngspice", settings=NetlistSettings(analysis="dc", abstol=1e-12),
    )  # fmt: skip
    theirs = deck.run(imac.NgSpice(str(ngspice)), progress=False).solution
    torch.testing.assert_close(ours.outputs, theirs.outputs, rtol=0, atol=1e-9)
    for part in ALL:
        torch.testing.assert_close(
            getattr(ours.power, part), getattr(theirs.power, part), rtol=1e-6, atol=0
        )
    idle = 4 * 2 + 2 * 2  # rows times partitions: 7 lines in 2, 5 lines in 2
    count = {"transimpedance": 2}.get(kind, 1)
    least = idle * count * IDLE * (HIGH - LOW)
    assert bool((ours.power.amplifier_supply > least).all())


@pytest.mark.parametrize(
    ("kind", "activation"), [("tanh", torch.nn.Tanh), ("relu", torch.nn.ReLU)]
)
def test_supplies_of_neurons_equal_ngspice(ngspice, tmp_path, kind, activation):
    """Outputs of both signs take a second supply; loaded neurons more than idle ones."""
    settings = LOGISTIC.replace(
        neuron=imac.Neuron(kind=kind, quiescent_current=1e-6), amplifier=imac.Amplifier(gain=20.0)
    )
    made = network(settings, 5, 4, 2, activation=activation)
    inputs = 0.7 * signs(2, 5)
    ours = made.solve(inputs)
    deck = write_deck(
        made, made.voltages(inputs), torch.zeros(2, dtype=torch.int64), tmp_path / "run",
        dialect="ngspice", settings=NetlistSettings(analysis="dc", abstol=1e-13),
    )  # fmt: skip
    theirs = deck.run(imac.NgSpice(str(ngspice)), progress=False).solution
    torch.testing.assert_close(ours.power.neurons, theirs.power.neurons, rtol=1e-6, atol=0)
    supplies = 2 if kind == "tanh" else 1
    assert bool((ours.power.neurons > 0.999 * 6 * supplies * 1e-6 * 0.8).all())


@pytest.mark.parametrize("combine", ["average", "sum"])
def test_heat_of_cells_and_wires_is_that_of_a_dense_solution(combine):
    """Sum of v²/R over every resistor of the arrays, whose voltages another program found."""
    layers = random_layers(
        [5, 4, 2], behavioural(), read_out="differential", combine=combine, columns=3, rows=2,
        output_resistance=50.0,
    )  # fmt: skip
    inputs = line_voltages(2, 5)
    prepared = Native().prepare(layers)
    solution = Native().solve(prepared, inputs)
    found = dissipated(prepared.layers, solution, imac.NewtonOptions())
    circuit = circuit_of(layers)
    for image in range(2):
        dense = solve_dense(circuit, inputs[image].numpy())
        for number, layer in enumerate(circuit.layers):
            names = ["0", "vdd", *layer.node_names().tolist()[2:]]
            volts = [
                {"0": 0.0, "vdd": 0.8}.get(name, dense.nodes.get(f"{layer.name}.{name}"))
                for name in names
            ]
            heat = sum(
                (volts[a] - volts[b]) ** 2 / value
                for element in layer.elements if element.name != "ro"
                for (a, b), value in zip(element.nodes.tolist(), element.values, strict=True)
            )  # fmt: skip
            # Node voltages of both differ by 1e-13 V, drops along wires are 1e-5 V and more.
            assert float(found.cells[image, number]) == pytest.approx(heat, rel=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        config(), config(combine="sum", output_resistance=1e-3), LOGISTIC,
        LOGISTIC.replace(device=imac.Memristor(rlow=4e3, rhigh=4e4, bend=0.3)),
        LOGISTIC.replace(device=imac.Memristor(cell={"fefet": {"specific_current": 1e-6}})),
    ],
)
def test_parts_add_up_to_what_sources_deliver(settings):
    """Rounding only: with ideal amplifiers tied by 1 mΩ, of the kilowatts that they exchange."""
    made = network(settings)
    inputs = 0.7 * signs(3, 6)
    power, parts = made.solve(inputs).power, made.dissipation(inputs)
    physical = settings.amplifier.quiescent_current is not None
    given = power.inputs + power.bias + power.neurons + power.level_shift
    given = given + (power.amplifier_supply if physical else power.amplifiers)
    taken = (parts.cells + parts.amplifiers + parts.neurons - parts.sums).sum(-1)
    scale = float(power.amplifiers.detach().abs().max())
    torch.testing.assert_close(taken, given, rtol=1e-9, atol=1e-12 * scale)
    assert bool((parts.cells > 0).all())
    if physical:
        assert bool((parts.amplifiers > 0).all())


def test_reports_count_what_is_physical_and_say_what_is_ideal(tmp_path):
    data = loader(signs(4, 6))
    cut = LOGISTIC.replace(crossbar=imac.Crossbar(rows=3, columns=4))
    ideal = imac.evaluate(network(cut), data, progress=False)
    text = str(ideal)
    # The chart library of the page is compressed text, in which any letters may follow each other.
    page = re.sub(r"<script.*?</script>", "", render_report(ideal), flags=re.DOTALL)
    assert "power, amplifiers" in text and "ideal, not counted" in text
    assert "kW" not in text + page and "MW" not in text + page
    figures = ideal.figures()
    assert figures["ideal"] == ["amplifiers", "neurons", "drivers", "converters"]
    assert figures["mean_power"]["amplifiers_artefact"] > 1.0
    assert "amplifiers_artefact" in figures["power_by_part"]

    settings = config(neuron={"quiescent_current": 1e-6}).replace(
        driver=imac.Driver(kind="dac"), converter=imac.Converter(kind="sar", limits=(0.0, 0.8))
    )
    made = network(settings)
    real = imac.evaluate(made, data, progress=False)
    figures = real.figures()
    assert figures["ideal"] == []
    costs, power = made.segment.border_costs, figures["mean_power"]
    assert power["drivers"] * real.period == pytest.approx(costs.driver_energy, rel=1e-6, abs=0)
    assert power["converters"] * real.period == pytest.approx(
        costs.converter_energy, rel=1e-6, abs=0
    )
    counted = ("inputs", "bias", "neurons", "amplifiers", "drivers", "converters")
    assert power["total"] == pytest.approx(sum(power[name] for name in counted))
    assert figures["mean_energy"] == pytest.approx(power["total"] * real.period, rel=1e-6, abs=0)
    # Where it goes is what was given, the level shifts included, which are in no total.
    given = power["total"] + power["level_shift"]
    assert sum(figures["power_by_part"].values()) == pytest.approx(given, rel=1e-6)
    assert "ideal, not counted" not in str(real)
    assert "where it goes" in render_report(real)
    row = next(csv.DictReader(samples_csv(real).splitlines()))
    assert float(row["power_amplifiers_W"]) == float(real.solution.power.amplifier_supply[0])
    assert float(row["energy_J"]) == pytest.approx(float(real.energy[0]), rel=1e-6, abs=0)

    read = imac.Report.load(real.save(tmp_path / "report"))
    assert read.counted == real.counted and read.mean_power() == power
    text = tmp_path / "report" / "report.json"
    old = json.loads(text.read_text())
    del old["counted"]
    text.write_text(json.dumps(old))
    assert imac.Report.load(tmp_path / "report").counted.ideal == ("amplifiers",)


def test_layers_with_and_without_supplies(tmp_path):
    settings = config().replace(
        layers={"2": imac.LayerConfig(amplifier={"quiescent_current": None})}
    )
    report = imac.evaluate(network(settings), loader(signs(4, 6)), progress=False)
    assert "amplifiers of 2" in report.counted.ideal
    assert "(amplifiers of 2: ideal, not counted)" in str(report)
    assert report.mean_power()["amplifiers"] > 0.0
    # In parts, the artefact of the second layer's ties is left out as well.
    assert 0.0 < report.counted.parts["amplifiers"] < 2.0 * report.mean_power()["total"]


@pytest.mark.parametrize("swing", [None, (-0.9, 0.5), (-0.5, 0.81)])
def test_supplies_without_a_swing_within_them_are_refused(swing):
    with pytest.raises(ConfigError, match=r"beyond which they cannot put out .* amplifier.swing"):
        imac.Config(amplifier=imac.Amplifier(swing=swing, quiescent_current=1e-6))


def test_a_last_layer_without_neurons_does_not_split_the_ideal_ones():
    made = imac.convert(mlp(6, 4, 2), LOGISTIC)
    report = imac.evaluate(made, loader(signs(4, 6)), progress=False)
    assert report.counted.ideal == ("amplifiers", "neurons", "drivers", "converters")


def test_amplifiers_with_supplies_are_a_step_of_the_ablation():
    made = network(config(swing=(-0.1, 0.1)))
    steps = {step.name: step for step in imac.ablate(made, signs(9, 6))}
    assert steps["amplifiers"].output_error > 1.1 * steps["partitioning"].output_error


def test_supplies_of_outputs_that_fight_each_other_are_warned_of():
    with pytest.warns(SettingWarning, match="0, 2: amplifiers have supplies.*1 mΩ"):
        network(config(output_resistance=1e-3))
