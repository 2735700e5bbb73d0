"""compile: from a model and a loader to netlists, through ngspice, and back as tensors."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from conftest import find_shared
from netlist_parser import parse_netlist
from small_networks import CONTINUOUS, LOGISTIC, failing_ngspice, loader, mlp, seeded, signs
from torch import nn

from imac_torch import (
    Config,
    Crossbar,
    HSpice,
    InverterSigmoid,
    LayerConfig,
    NetlistSettings,
    Neuron,
    NgSpice,
    Supplies,
    compile,
    convert,
)
from imac_torch.errors import (
    CircuitError,
    DataError,
    NetlistError,
    NeuronWarning,
    SimulatorConvergenceError,
    SimulatorError,
    SimulatorNotFoundError,
)
from imac_torch.results.solution import Status
from imac_torch.simulator import check
from imac_torch.study.deck import collect

DC = NetlistSettings(analysis="dc", images_per_netlist=2)
INPUTS = signs(7, 6)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def network(config=LOGISTIC):
    return convert(mlp(6, 5, 3), config)


# The published network


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The 400-120-84-10 network through convert and compile; its weights, network and netlist."""
    data = np.load(find_shared() / "golden" / "network.npz", allow_pickle=False)
    model = nn.Sequential(
        nn.Linear(400, 120), InverterSigmoid(), nn.Linear(120, 84), InverterSigmoid(),
        nn.Linear(84, 10), InverterSigmoid(),
    )  # fmt: skip
    weights = []
    with torch.no_grad():
        for k in range(3):
            w, b = data[f"W{k + 1}"].T, data[f"B{k + 1}"]
            model[2 * k].weight.copy_(torch.from_numpy(w))
            model[2 * k].bias.copy_(torch.from_numpy(b))
            weights.append(np.concatenate([w, b[:, None]], axis=1))
    config = Config.imac_sim(neuron=Neuron(kind="logistic"))
    item = convert(model, config)
    bits = np.unpackbits(data["inputs_bits"][:2], axis=1)[:, :400] * 2.0 - 1.0
    batches = loader(torch.from_numpy(bits), torch.from_numpy(data["labels"][:2]).long())
    directory = tmp_path_factory.mktemp("published") / "run"
    deck = compile(item, batches, directory, dialect="hspice")
    return weights, item, parse_netlist(deck.run_files.batches[0].job.netlist), deck


def test_published_partitions(published):
    _, item, netlist, _ = published
    details = [r.detail for r in item.records if "partitions" in r.detail]
    assert [text.split(" ")[0] for text in details] == ["13×4", "4×3", "3×1"]
    cuts = (
        (
            (31, 62, 93, 124, 155, 186, 216, 247, 278, 309, 340, 371, 401),
            (31, 61, 91, 121),
            (29, 57, 85),
        ),
        ((30, 60, 90, 120), (28, 56, 84), (10,)),
    )
    for k, name in enumerate(("layer1", "layer2", "layer3")):
        parsed = netlist.subcircuits[name]
        ends = dict(zip(parsed.resistors.names, parsed.resistors.nodes, strict=True))
        # A horizontal part ends where a line leads to an amplifier, a vertical one begins where
        # a line is driven from the layer's input again.
        rows, columns = cuts[1][k][-1], cuts[0][k][-1]
        last = tuple(
            c for c in range(1, columns + 1)
            if ends[f"rwp1_{c}"][1].startswith("pe")
        )  # fmt: skip
        first = tuple(r for r in range(1, rows + 1) if ends[f"rw{r}_1"][0] == "in1")
        assert last == cuts[0][k]
        assert first == (1, *(end + 1 for end in cuts[1][k][:-1]))


def test_published_segments_and_values(published):
    _, item, netlist, deck = published
    for name in ("layer1", "layer2", "layer3"):
        resistors = netlist.subcircuits[name].resistors
        of = {
            kind: {v for n, v in zip(resistors.names, resistors.values, strict=True)
                   if n.rstrip("0123456789_") == kind}
            for kind in ("rw", "rwp", "rwn", "rp", "rn")
        }  # fmt: skip
        assert [round(value, 6) for value in of["rw"]] == [9.241569]
        assert of["rwp"] == of["rwn"]
        # the published list truncates, 11.5519614 Ω is printed 11.551961
        assert [f"{value:.6f}" for value in of["rwp"]] == ["11.551961"]
        # 1/(1/R): within one unit in the last place
        for side in ("rp", "rn"):
            assert sorted(of[side]) == pytest.approx([78e3, 202e3], rel=3e-16)
    assert [layer.matrix.gain() for layer in item.analog_layers()] == [30.0, 30.0, 10.0]
    assert deck.labels.tolist() == [7, 2]  # MNIST begins 7, 2


def test_published_netlist_is_the_network_entry_by_entry(published):
    """Every memristor against the weights themselves, not against our own circuit.

    A +1 is (rlow, rhigh), a -1 the swap; columns beyond the inputs are the bias, fed by vdd.
    """
    weights, _, netlist, _ = published
    for k, matrix in enumerate(weights, start=1):
        resistors = netlist.subcircuits[f"layer{k}"].resistors
        values = dict(zip(resistors.names, resistors.values.round(6), strict=True))
        nodes = dict(zip(resistors.names, resistors.nodes, strict=True))
        rows, columns = matrix.shape
        assert len(values) == 5 * rows * columns + rows * len(
            {n for n in values if n.startswith("ro1_")}
        )
        for r in range(1, rows + 1):
            for c in range(1, columns + 1):
                low_first = matrix[r - 1, c - 1] > 0
                assert values[f"rp{r}_{c}"] == (78e3 if low_first else 202e3)
                assert values[f"rn{r}_{c}"] == (202e3 if low_first else 78e3)
                assert nodes[f"rp{r}_{c}"] == (f"a{r}_{c}", f"p{r}_{c}")
                assert nodes[f"rn{r}_{c}"] == (f"a{r}_{c}", f"n{r}_{c}")
        assert nodes[f"rw1_{columns}"][0] == "vdd"


@pytest.mark.parametrize("dialect", ["ngspice", "hspice"])
def test_read_back_conductances_are_the_circuits(dialect, tmp_path):
    """A network of odd values (spread, levels, gain): every printed number reads back exactly."""
    config = CONTINUOUS.replace(
        crossbar=Crossbar(rows=2, columns=3), device=CONTINUOUS.device.replace(variation=0.2)
    )
    item = convert(mlp(6, 5, 3), config, generator=torch.Generator().manual_seed(1))
    deck = compile(item, loader(INPUTS), tmp_path / "run", dialect=dialect)
    netlist = parse_netlist(deck.run_files.batches[0].job.netlist)
    for k, (built, layer) in enumerate(
        zip(item.circuit().layers, item.analog_layers(), strict=True)
    ):
        parsed = netlist.subcircuits[f"layer{k + 1}"]
        names = built.node_names().tolist()
        place = {name: index for index, name in enumerate(names)}

        def matrix(pairs, values, size):
            total = np.zeros((size, size))
            for (a, b), value in zip(pairs, values, strict=True):
                total[a, b] += 1 / value
                total[b, a] += 1 / value
            return total

        of_text = matrix(
            [(place[a], place[b]) for a, b in parsed.resistors.nodes],
            parsed.resistors.values, len(names),
        )  # fmt: skip
        of_circuit = matrix(
            np.concatenate([array.nodes for array in built.elements]).tolist(),
            np.concatenate([array.values for array in built.elements]), len(names),
        )  # fmt: skip
        np.testing.assert_allclose(of_text, of_circuit, rtol=2e-15, atol=0.0)  # as printed
        # … and the memristors are the layer's, through 1/R (1 ulp each way)
        pair = layer.matrix.conductances()
        values = dict(zip(parsed.resistors.names, parsed.resistors.values, strict=True))
        for side, tensor in (("p", pair.positive), ("n", pair.negative)):
            for (r, c), g in np.ndenumerate(tensor.detach().numpy()):
                assert 1 / values[f"r{side}{r + 1}_{c + 1}"] == pytest.approx(g, rel=5e-16)


# Samples


def test_samples_in_order():
    item = network(LOGISTIC.replace(supplies=Supplies(vdd=0.7, vss=-0.5)))
    batches = loader(INPUTS, LABELS, batch=3)
    voltages, labels = collect(item, batches)
    assert voltages.dtype == torch.float64
    expected = torch.where(INPUTS > 0, 0.7, -0.5).double()
    torch.testing.assert_close(voltages, expected, rtol=0, atol=1e-7)
    expected = voltages
    torch.testing.assert_close(voltages, expected, rtol=0, atol=0)
    assert labels.tolist() == LABELS.tolist()
    for first, limit in ((0, 7), (2, 3), (3, 1), (5, None), (6, 1), (0, 3), (1, 5)):
        part, names = collect(item, batches, first=first, limit=limit)
        stop = 7 if limit is None else first + limit
        torch.testing.assert_close(part, expected[first:stop], rtol=0, atol=0)
        assert names.tolist() == LABELS[first:stop].tolist()


def test_loader_is_read_no_further_than_needed():
    def endless():
        while True:
            yield INPUTS, LABELS

    voltages, _ = collect(network(), endless(), first=5, limit=10)
    assert voltages.shape == (10, 6)


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([INPUTS], {}, "batch 0: .*without labels"),
        ([(INPUTS, LABELS), {"x": INPUTS}], {}, "batch 1: .*without labels"),
        ([(INPUTS, LABELS[:5])], {}, r"batch 0: .*need labels of shape \(7,\), got \(5,\)"),
        ([(INPUTS, LABELS + 1)], {}, "batch 0: labels span 1 to 3, expected 0 to 2"),
        ([(INPUTS, LABELS - 1)], {}, "labels span -1 to 1"),
        ([(INPUTS, nn.functional.one_hot(LABELS))], {}, r"got \(7, 3\)"),
        ([(INPUTS, LABELS.float())], {}, "integer class indices"),
        ([(INPUTS * torch.nan, LABELS)], {}, "batch 0: sample 0 has a NaN"),
        ([], {}, "no batches"),
        ([(INPUTS, LABELS)], {"first": 7}, "has 7 samples; samples 7 to the end were asked for"),
        ([(INPUTS, LABELS)], {"first": 5, "limit": 3}, "samples 5 to 7 were asked for"),
        ([(INPUTS, LABELS)], {"first": -1}, "first = -1"),
        ([(INPUTS, LABELS)], {"limit": 0}, "limit = 0"),
    ],
)
def test_loaders_that_cannot_be_used(batches, options, message, tmp_path):
    with pytest.raises(DataError, match=message):
        compile(network(), batches, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_compiling_changes_no_statistics(tmp_path):
    model = seeded(
        lambda: nn.Sequential(
            nn.BatchNorm1d(6), nn.Dropout(), nn.Hardtanh(), nn.Linear(6, 3), InverterSigmoid()
        )
    )
    item = convert(model.train(), LOGISTIC)
    before = item.digital[0].running_mean.clone()
    one, _ = collect(item, loader(INPUTS))
    again, _ = collect(item, loader(INPUTS))
    assert torch.equal(one, again)  # no dropout
    assert torch.equal(item.digital[0].running_mean, before)
    assert item.digital[0].training


# Directories


def test_foreign_directory_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(NetlistError, match="not empty and is not a run directory"):
        compile(network(), loader(INPUTS), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_edited_netlist_is_not_overwritten(tmp_path):
    deck = compile(network(), loader(INPUTS), tmp_path / "run")
    netlist = deck.run_files.batches[0].job.netlist
    netlist.write_text(netlist.read_text() + "* mine\n")
    with pytest.raises(NetlistError, match="was changed since imac_torch wrote it"):
        compile(network(CONTINUOUS), loader(INPUTS), tmp_path / "run")
    assert netlist.read_text().endswith("* mine\n")


def test_unwritable_directory(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(NetlistError, match=r"is not a directory|cannot be written"):
        compile(network(), loader(INPUTS), tmp_path / "file")
    with pytest.raises(NetlistError, match="cannot be written"):
        compile(network(), loader(INPUTS), tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "precious"
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(NetlistError, match="cannot be written"):
            compile(network(), loader(INPUTS), tmp_path / "locked" / "run")


# Simulators


def test_missing_simulator(tmp_path):
    deck = compile(network(), loader(INPUTS), tmp_path / "run", settings=DC)
    with pytest.raises(SimulatorNotFoundError, match="no executable 'nowhere/ngspice'"):
        deck.run(NgSpice("nowhere/ngspice"), progress=False)


def test_dialects(tmp_path):
    with pytest.raises(NetlistError, match="no dialect 'spectre'; there are ngspice, hspice"):
        compile(network(), loader(INPUTS), tmp_path / "run", dialect="spectre")
    deck = compile(network(), loader(INPUTS), tmp_path / "run", settings=DC)
    with pytest.raises(NetlistError, match="are for ngspice, not for hspice"):
        deck.run(HSpice("hspice"), progress=False)


def native(item, inputs):
    with torch.no_grad():
        return item.solve(inputs)


def test_operating_points_equal_the_native_solver(ngspice, tmp_path):
    """Seven samples of three loader batches in four netlists, two at a time, in order."""
    item = network()
    expected = native(item, INPUTS)
    deck = compile(item, loader(INPUTS, LABELS, batch=3), tmp_path / "run", settings=DC)
    spice = check(deck.run(NgSpice(str(ngspice)), workers=2, progress=False))
    assert len(spice.outcomes) == 4
    assert deck.labels.tolist() == LABELS.tolist()
    assert bool(spice.solution.converged.all())
    # The required accuracy; reltol 1e-9 and Newton's 1e-9 V are well inside.
    torch.testing.assert_close(spice.solution.outputs, expected.outputs, rtol=0, atol=1e-6)
    for part in ("inputs", "bias", "neurons"):
        torch.testing.assert_close(
            getattr(spice.solution.power, part), getattr(expected.power, part),
            rtol=1e-6, atol=1e-12,
        )  # fmt: skip
    # rows differ, so order is seen
    assert float(torch.pdist(expected.outputs).min()) > 1e-4


def test_range_of_samples(ngspice, tmp_path):
    item = network()
    deck = compile(
        item, loader(INPUTS, LABELS, batch=3), tmp_path / "run", settings=DC, first=2, limit=3
    )
    spice = check(deck.run(NgSpice(str(ngspice)), progress=False))
    assert deck.labels.tolist() == [2, 0, 1]
    torch.testing.assert_close(
        spice.solution.outputs, native(item, INPUTS[2:5]).outputs, rtol=0, atol=1e-6
    )


def test_transient_settles_to_the_operating_points(ngspice, tmp_path):
    item = network(LOGISTIC)
    settings = NetlistSettings(images_per_netlist=3)
    deck = compile(item, loader(INPUTS[:4]), tmp_path / "run", settings=settings)
    spice = check(deck.run(NgSpice(str(ngspice)), progress=False))
    expected = native(item, INPUTS[:4])
    # Without capacitors there is nothing to settle: the tolerance of the transient is 1e-6.
    torch.testing.assert_close(spice.solution.outputs, expected.outputs, rtol=0, atol=1e-5)
    total = spice.solution.power.total
    torch.testing.assert_close(total, expected.power.total, rtol=1e-3, atol=0)
    assert bool((spice.supply_energy > 0).all())


def test_resuming_runs_nothing_twice(ngspice, tmp_path):
    item = network()
    deck = compile(item, loader(INPUTS), tmp_path / "run", settings=DC)
    simulator = NgSpice(str(ngspice))
    first = deck.run(simulator, progress=False)
    again = compile(item, loader(INPUTS), tmp_path / "run", settings=DC)
    resumed = again.run(simulator, progress=False)
    assert [o.unwrap().resumed for o in first.outcomes] == [False] * 4
    assert [o.unwrap().resumed for o in resumed.outcomes] == [True] * 4
    assert torch.equal(first.solution.outputs, resumed.solution.outputs)
    # other inputs in the last netlist only: that one is run again
    other = INPUTS.clone()
    other[6] *= -1
    changed = compile(item, loader(other), tmp_path / "run", settings=DC)
    mixed = changed.run(simulator, progress=False)
    assert [o.unwrap().resumed for o in mixed.outcomes] == [True] * 3 + [False]
    torch.testing.assert_close(
        mixed.solution.outputs, native(item, other).outputs, rtol=0, atol=1e-6
    )
    fresh = changed.run(simulator, progress=False, resume=False)
    assert not any(outcome.unwrap().resumed for outcome in fresh.outcomes)


def test_one_failing_netlist_keeps_the_others(ngspice, tmp_path):
    item = network()
    deck = compile(item, loader(INPUTS), tmp_path / "run", settings=DC)
    broken = failing_ngspice(ngspice, tmp_path, on="batch_00001")
    spice = deck.run(broken, workers=2, progress=False)
    status = [int(Status.CONVERGED)] * 7
    status[2:4] = [int(Status.FAILED)] * 2
    assert spice.solution.status.tolist() == status
    good = spice.solution.converged
    torch.testing.assert_close(
        spice.solution.outputs[good], native(item, INPUTS).outputs[good], rtol=0, atol=1e-6
    )
    assert bool(spice.solution.outputs[~good].isnan().all())
    (error,) = spice.errors
    assert isinstance(error, SimulatorError)
    assert "batch_00001" in str(error.directory)
    with pytest.raises(SimulatorError):
        check(spice)
    # repaired, only the failed one runs
    repaired = deck.run(NgSpice(str(ngspice)), progress=False)
    assert [outcome.ok for outcome in repaired.outcomes] == [True] * 4
    assert bool(repaired.solution.converged.all())


def test_failures_of_convergence_are_called_so(ngspice, tmp_path):
    deck = compile(network(), loader(INPUTS[:2]), tmp_path / "run", settings=DC)
    spice = deck.run(failing_ngspice(ngspice, tmp_path, on="batch_00000"), progress=False)
    assert isinstance(spice.errors[0], SimulatorConvergenceError)


# The user's own sub-circuits

AMPLIFIER = """* one resistor on each end and an ideal source, not the package's nullor
.subckt my_amplifier plus minus out gain=1 r=1
Rplus plus 0 'r*(1+gain)'
Rminus minus middle 'r'
Emiddle middle 0 plus 0 'gain/(1+gain)'
Eout out mid2 plus 0 'gain'
Eoff mid2 0 minus 0 '-gain'
.ends my_amplifier
"""
NEURON = """.subckt my_neuron z out vdd slope=1 rout=1
Bshape f 0 v='v(vdd)/(1+exp(slope*v(z)))'
Rout f out 'rout'
.ends my_neuron
"""


def test_own_amplifier_and_neuron(ngspice, tmp_path):
    """Other files that compute the same: the results are the native solver's."""
    (tmp_path / "amplifier.sp").write_text(AMPLIFIER)
    (tmp_path / "neuron.sp").write_text(NEURON)
    model = mlp(6, 5, 3)
    model.append(InverterSigmoid())
    expected = native(convert(model, LOGISTIC), INPUTS[:2])
    own = Neuron(kind="logistic", subcircuit=str(tmp_path / "neuron.sp"))
    item = convert(model, LOGISTIC.replace(neuron=own))
    with pytest.warns(NeuronWarning, match=r"kind 'logistic'.*tabulate_neuron"):
        deck = compile(
            item, loader(INPUTS[:2]), tmp_path / "run", settings=DC,
            amplifier=tmp_path / "amplifier.sp",
        )  # fmt: skip
    layer = (deck.directory / "circuit" / "layer1.sp").read_text()
    assert " my_amplifier gain=" in layer
    assert " my_neuron slope=11.0 rout=1000.0" in layer
    spice = check(deck.run(NgSpice(str(ngspice)), progress=False))
    torch.testing.assert_close(spice.solution.outputs, expected.outputs, rtol=0, atol=1e-6)
    assert (tmp_path / "amplifier.sp").read_text() == AMPLIFIER  # users' files stay as they are
    assert (tmp_path / "neuron.sp").read_text() == NEURON


def test_another_amplifier_gives_other_results(ngspice, tmp_path):
    (tmp_path / "amplifier.sp").write_text(AMPLIFIER.replace("'gain'", "'0.5*gain'"))
    item = network()
    deck = compile(
        item, loader(INPUTS[:2]), tmp_path / "run", settings=DC,
        amplifier=str(tmp_path / "amplifier.sp"),
    )  # fmt: skip
    spice = check(deck.run(NgSpice(str(ngspice)), progress=False))
    difference = (spice.solution.outputs - native(item, INPUTS[:2]).outputs).abs().max()
    assert float(difference) > 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        (".subckt a plus minus output\n.ends\n", r"no sub-circuit with the ports .*declares: a"),
        ("R1 plus minus 1k\n", "r1 outside any sub-circuit"),
        (AMPLIFIER + ".control\nshell touch hacked\n.endc\n", "a .control statement is refused"),
        (".include 'other.sp'\n" + AMPLIFIER, r"other\.sp cannot be read"),
    ],
)
def test_unusable_sub_circuits(text, message, tmp_path):
    path = tmp_path / "a.sp"
    if text is not None:
        path.write_text(text)
    with pytest.raises(NetlistError, match=message):
        compile(network(), loader(INPUTS), tmp_path / "run", amplifier=path)
    own = LOGISTIC.replace(neuron=Neuron(kind="logistic", subcircuit=str(path)))
    with pytest.raises(NetlistError, match=message if text != AMPLIFIER else "ports"):
        compile(network(own), loader(INPUTS), tmp_path / "run2")


# Transistors


def finfet(**layers):
    """A network with transistor neurons and overrides of the second layer's."""
    model = mlp(6, 5, 3)
    model.append(InverterSigmoid())
    second = LayerConfig(neuron=layers) if layers else LayerConfig()
    return convert(model, Config(layers={"2": second}))


def test_transients_of_transistors_are_refused_in_ngspice(tmp_path):
    with pytest.raises(NetlistError, match=r"analysis='dc'.*neuron.subcircuit"):
        compile(finfet(), loader(INPUTS), tmp_path / "run")


def test_what_is_outside_the_transistors_may_differ_per_layer(tmp_path):
    """Resistors, level shift, and what behavioural neurons read are not the inverter's."""
    item = finfet(rlow=5e4, rhigh=3e5, level_shift=0.41, slope=3.0, output_resistance=5.0)
    deck = compile(item, loader(INPUTS), tmp_path / "run", settings=DC)
    first, second = (
        (deck.directory / "circuit" / f"layer{k}.sp").read_text() for k in (1, 2)
    )
    assert "rin=78000.0 rfb=202000.0" in first
    assert "rin=50000.0 rfb=300000.0" in second
    with pytest.raises(NetlistError, match="one kind of transistor"):
        compile(finfet(fins=4), loader(INPUTS), tmp_path / "other", settings=DC)


def test_fins_may_differ_in_hspice(tmp_path):
    deck = compile(finfet(fins=4), loader(INPUTS), tmp_path / "run", dialect="hspice")
    first, second = (
        (deck.directory / "circuit" / f"layer{k}.sp").read_text() for k in (1, 2)
    )
    assert "fins=10" in first
    assert "fins=4" in second
    assert "measure_latency=False" in (deck.directory / "README.md").read_text()


@pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")
def test_one_circuit_of_several_with_what_reaches_it(tmp_path, ngspice):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3, stride=2, padding=1)
            self.last = nn.Linear(12, 2)

        def forward(self, x):
            return self.last(nn.functional.gelu(self.conv(x)).flatten(1))

    model = seeded(Small)
    x = torch.linspace(-1, 1, 3 * 16).reshape(3, 1, 4, 4)
    network = convert(model, Config(crossbar=Crossbar(columns=6)), samples=x)
    deck = compile(
        network, [(x, torch.tensor([0, 1, 0]))], tmp_path / "run", segment="conv", vectors=6,
        settings=NetlistSettings(analysis="dc"),
    )  # fmt: skip
    # Four positions of each of three images: every second vector.
    assert deck.vectors.shape == (6, 9)
    assert deck.labels.tolist() == [0, 0, 1, 1, 0, 0]
    found = check(deck.run(NgSpice(str(ngspice)), progress=False)).solution.outputs
    wanted = network.segments["conv"].solve(deck.vectors)
    torch.testing.assert_close(found, wanted.outputs, rtol=0, atol=1e-9)
    with torch.no_grad():
        at = network.segments["conv"](x)[:, :, 0, 0]
    units = network.segments["conv"].decode(found)[::2]
    torch.testing.assert_close(units.float(), at, rtol=0, atol=1e-5)
    # Netlists do not need what a sample should give, which may be a picture.
    dense = compile(
        network, [((x,), torch.zeros(3, 4, 4))], tmp_path / "dense", segment="conv", vectors=6
    )
    assert torch.equal(dense.vectors, deck.vectors)
    assert dense.labels.tolist() == [-1] * 6
    with pytest.raises(CircuitError, match="conv, last"):
        compile(network, [(x, torch.zeros(3).long())], tmp_path / "other", segment="nothing")
