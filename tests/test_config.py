"""Configuration: validated, round-tripped, and without a field that does nothing."""

from __future__ import annotations

import copy
import functools
import json
import os
import pickle
import typing
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from small_networks import mlp, signs

from imac_torch import (
    DEVICES,
    Amplifier,
    Config,
    Converter,
    Crossbar,
    Driver,
    Interconnect,
    LayerConfig,
    Memristor,
    NetlistSettings,
    Neuron,
    Supplies,
    Timing,
    TimingOptions,
    TransientOptions,
    WeightMapping,
    convert,
)
from imac_torch.config import CONDITIONS, SCHEMA
from imac_torch.config.kinds import READ_OUT_KINDS
from imac_torch.config.section import is_section
from imac_torch.conversion.convert import unread
from imac_torch.errors import ConfigError, NetlistError, SettingWarning
from imac_torch.finfet import builtin_14nm_hp, write_model_card
from imac_torch.model.converters import fit_converters
from imac_torch.netlist.subcircuits import read_subcircuit
from imac_torch.netlist.testbench import amplifier_digest
from imac_torch.periphery.neuron.neurontable import InterpolationError, NeuronTable
from imac_torch.periphery.readout import Differential, register_read_out
from imac_torch.periphery.readout.amplifiertable import AmplifierTable
from imac_torch.periphery.readout.amplifiertable import InterpolationError as OfAmplifier
from imac_torch.reports.area import network_area
from imac_torch.study.deck import write_deck
from imac_torch.transient.integrator import StepControl

FILES = ("toml", "json")


# Every field changes some output


class Doubled(Differential):
    """Another read-out, so that ``amplifier.kind`` has a choice."""

    kind = "doubled"

    def output(self, positive, negative):
        return 2.0 * super().output(positive, negative)


@pytest.fixture(scope="module", autouse=True)
def doubled_read_out():
    register_read_out(Doubled)
    yield
    READ_OUT_KINDS.remove("doubled")


def amplifier_table(directory, gain):
    """Linear, 1 S at a gain of 1e4, of a sub-circuit in the same words."""
    path = directory / "opamp.sp"
    path.write_text(
        ".subckt opamp plus minus out vdd vss\nG1 0 out plus minus 1\nR1 out 0 1e4\n"
        "R2 vdd vss 1k\n.ends opamp\n"
    )
    found = read_subcircuit(path, ("plus", "minus", "out", "vdd", "vss"))
    stretched = torch.linspace(-9.0, 9.0, 61, dtype=torch.float64)
    outputs = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    d, o = torch.meshgrid(1e-4 * torch.sinh(stretched), outputs, indexing="ij")
    currents = torch.stack([1e-4 * (gain * d - o), 1e-3 + 0.0 * o], dim=-1)[None]
    return AmplifierTable(
        torch.zeros(1, dtype=torch.float64), stretched, outputs, currents, 1e-4, 0.8, -0.8, 298.15,
        gain=gain, offset=0.0, swing=(-0.8, 0.8), quiescent=1e-3,
        error=OfAmplifier(0.0, 0.0, 0.0), subcircuit="opamp",
        digest=amplifier_digest(found), simulator="hand",
    )  # fmt: skip


@dataclass(frozen=True)
class Change:
    """A field put to ``value`` in a configuration where it matters, and the output that shows it.

    Values of ``given`` and ``value`` that name a fixture file are replaced by its path.
    """

    value: Any
    output: str
    given: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] = (6, 4, 2)


CAPACITIVE = {"interconnect.capacitance": True}
FINFET = {"neuron.kind": "finfet"}
TABLED = {"amplifier.kind": "transimpedance", "amplifier.gain": 5.0}
TRANSISTOR_NOISE = {**FINFET, "amplifier.gain": 10.0}
TRANSISTORS = {**FINFET, "neuron.model_directory": "cards"}
DAC, SAR, FLASH = {"driver.kind": "dac"}, {"converter.kind": "sar"}, {"converter.kind": "flash"}
SHARED = {**SAR, "converter.shared_by": 2}
ALONE = {"neuron.kind": None}  # of a layer without an activation
SPLIT = {**SAR, **ALONE, "converter.after": "partition", "crossbar.columns": 3}
MATCHED = {"mapping.scheme": "matched", "mapping.levels": "continuous"}

CHANGES = {
    "supplies.vdd": Change(0.9, "voltages"),
    "supplies.vss": Change(-0.6, "voltages"),
    "supplies.encoding": Change("sign", "voltages"),
    "supplies.input_scale": Change(2.0, "inputs"),
    "device.rlow": Change(50e3, "voltages", {"amplifier.gain": 10.0}),
    "device.rhigh": Change(400e3, "voltages", {"amplifier.gain": 10.0}),
    "device.variation": Change(0.1, "voltages"),
    "device.effects": Change({"log_normal": {"sigma": 0.1}}, "voltages"),
    "device.bend": Change(0.3, "voltages"),
    "device.cell": Change({"sinh": {"v0": 0.3}}, "voltages"),
    "device.access": Change({"resistor": {"resistance": 5e3}}, "voltages"),
    "device.capacitance": Change(1e-16, "netlist"),
    "device.access_capacitance": Change(
        1e-16, "netlist", {"device.access": {"selector": {"scale": 1e-6, "v0": 0.1}}}
    ),
    "device.states": Change(4, "voltages", MATCHED),
    "interconnect.tech_node": Change(14e-9, "voltages"),
    "interconnect.metal": Change(40e-9, "voltages"),
    "interconnect.thickness": Change(30e-9, "voltages"),
    "interconnect.height": Change(30e-9, "netlist", CAPACITIVE),
    "interconnect.length": Change(200e-9, "voltages"),
    "interconnect.width": Change(200e-9, "voltages"),
    "interconnect.spacing": Change(90e-9, "netlist", CAPACITIVE),
    "interconnect.resistivity": Change(3e-8, "voltages"),
    "interconnect.permittivity": Change(4e-11, "netlist", CAPACITIVE),
    "interconnect.resistance": Change(False, "voltages"),
    "interconnect.capacitance": Change(True, "netlist"),
    "interconnect.imac_sim_capacitance": Change(True, "netlist", CAPACITIVE),
    "crossbar.rows": Change(2, "voltages"),
    "crossbar.columns": Change(3, "voltages"),
    "crossbar.horizontal": Change(2, "voltages"),
    "crossbar.vertical": Change(2, "voltages"),
    "crossbar.copies": Change(2, "area"),
    "amplifier.kind": Change("doubled", "voltages"),
    "amplifier.gain": Change(7.0, "voltages"),
    "amplifier.input_resistance": Change(2e3, "voltages"),
    "amplifier.open_loop_gain": Change(100.0, "voltages"),
    "amplifier.open_loop_resistance": Change(
        500.0, "voltages", {"amplifier.open_loop_gain": 100.0}
    ),
    "amplifier.offset": Change(5e-3, "voltages"),
    "amplifier.offset_spread": Change(5e-3, "voltages"),
    "amplifier.swing": Change((-0.1, 0.1), "voltages", {"amplifier.gain": 10.0}),
    "amplifier.quiescent_current": Change(1e-6, "power", {"amplifier.swing": (-0.5, 0.5)}),
    "amplifier.table": Change(
        "weak_opamp.safetensors", "voltages", {**TABLED, "amplifier.table": "opamp.safetensors"}
    ),
    "amplifier.subcircuit": Change(
        "opamp.sp", "netlist", {**TABLED, "amplifier.table": "opamp.safetensors"}
    ),
    "amplifier.output_resistance": Change(1e3, "voltages", FINFET),
    "amplifier.pole": Change(1e9, "latency"),
    "amplifier.second_pole": Change(1e9, "latency", {"amplifier.pole": 2e9}),
    "amplifier.slew_rate": Change(1e8, "latency", {"amplifier.pole": 2e9}),
    "amplifier.combine": Change("sum", "voltages", {"crossbar.columns": 3}),
    "neuron.kind": Change("finfet", "voltages"),
    "neuron.rlow": Change(50e3, "voltages", FINFET),
    "neuron.rhigh": Change(400e3, "voltages", FINFET),
    "neuron.level_shift": Change(0.5, "voltages", {**FINFET, "amplifier.gain": 10.0}),
    "neuron.fins": Change(4, "voltages", FINFET),
    "neuron.transistor_node": Change(7, "voltages", TRANSISTORS),
    "neuron.flavour": Change("lstp", "voltages", TRANSISTORS),
    "neuron.model_directory": Change("cards", "voltages", FINFET),
    "neuron.slope": Change(6.0, "voltages", {"amplifier.gain": 10.0}),
    "neuron.output_resistance": Change(5e3, "voltages"),
    "neuron.quiescent_current": Change(1e-6, "power"),
    "neuron.input_capacitance": Change(5e-16, "latency", FINFET),
    "neuron.output_capacitance": Change(2e-14, "latency"),
    "neuron.table": Change(
        "steep.safetensors", "voltages",
        {"neuron.kind": "table", "neuron.table": "flat.safetensors"},
    ),
    "neuron.osdi": Change("bsimcmg.osdi", "operating points", FINFET),
    "neuron.subcircuit": Change("mine.sp", "netlist"),
    "timing.period": Change(5e-9, "netlist"),
    "timing.transition": Change(2e-10, "netlist"),
    "timing.load_capacitance": Change(2e-14, "latency"),
    "mapping.levels": Change("binary", "voltages"),
    "mapping.scheme": Change("balanced", "voltages"),
    "mapping.scale": Change("row", "voltages", {**MATCHED, "mapping.levels": "ternary"}),
    "mapping.slices": Change(2, "voltages"),
    "mapping.slice_base": Change(2, "voltages", {"mapping.slices": 2}),
    "noise.inputs": Change(1e-3, "noise"),
    "noise.circuit": Change(False, "noise", {"noise.inputs": 1e-3}),
    "noise.bandwidth": Change(1e6, "noise"),
    "noise.lowest": Change(1e4, "noise", TRANSISTOR_NOISE),
    "noise.neurons": Change(False, "noise"),
    "noise.flicker": Change(False, "noise", TRANSISTOR_NOISE),
    "noise.amplifier_voltage": Change(1e-8, "noise"),
    "noise.amplifier_current": Change(1e-11, "noise"),
    "noise.neuron_voltage": Change(1e-8, "noise"),
    "driver.kind": Change("dac", "voltages"),
    "driver.bits": Change(4, "voltages", DAC),
    "driver.sign": Change("two_pass", "scores", {**DAC, **ALONE, "supplies.vss": -0.6}, (6, 2)),
    "driver.line_energy": Change(1e-12, "costs", DAC),
    "driver.step_energy": Change(1e-13, "costs", DAC),
    "driver.unit_area": Change(1e-12, "costs", DAC),
    "converter.kind": Change("sar", "scores"),
    "converter.bits": Change(3, "scores", SAR),
    "converter.after": Change(
        "partition", "scores", {**SAR, **ALONE, "crossbar.columns": 3}, (6, 2)
    ),
    "converter.shared_by": Change(2, "costs", SAR),
    "converter.range": Change("mse", "scores", {**SAR, "converter.bits": 2}),
    "converter.coverage": Change(0.5, "scores", SAR),
    "converter.limits": Change((-0.5, 1.0), "scores", SAR),
    "converter.clock": Change(2e9, "costs", SAR),
    "converter.walden": Change(1e-14, "costs", SAR),
    "converter.schreier": Change(165.0, "costs", {**SAR, "converter.bits": 16}),
    "converter.comparator_energy": Change(1e-14, "costs", FLASH),
    "converter.comparator_area": Change(1e-10, "costs", FLASH),
    "converter.bit_area": Change(1e-10, "costs", SAR),
    "converter.unit_area": Change(1e-12, "costs", SAR),
    "converter.hold_energy": Change(1e-14, "costs", SHARED),
    "converter.hold_area": Change(1e-13, "costs", SHARED),
    "converter.add_energy": Change(1e-14, "costs", SPLIT, (6, 2)),
    "converter.add_area": Change(1e-11, "costs", SPLIT, (6, 2)),
    "temperature": Change(350.0, "voltages", FINFET),
    "layers.driver": Change({"kind": "dac"}, "voltages"),
    "layers.converter": Change({"kind": "sar"}, "scores", ALONE, (6, 2)),
    "layers.device": Change({"rlow": 50e3}, "voltages", {"amplifier.gain": 10.0}),
    "layers.crossbar": Change({"columns": 3}, "voltages"),
    "layers.amplifier": Change({"gain": 7.0}, "voltages"),
    "layers.neuron": Change({"output_resistance": 5e3}, "voltages"),
    "layers.mapping": Change({"levels": "binary"}, "voltages"),
}  # fmt: skip


def nested_model(annotation):
    """The model in a field's type, or None: ``LayerConfig`` of ``dict[str, LayerConfig]``."""
    for kind in (annotation, *typing.get_args(annotation)):
        if is_section(kind):
            return kind
    return None


def walk(model, prefix=""):
    """Every field of a model, recursively."""
    for name, info in model.model_fields.items():
        nested = nested_model(info.annotation)
        if nested is None:
            yield f"{prefix}{name}"
        else:
            yield from walk(nested, f"{prefix}{name}.")


def test_every_field_is_perturbed():
    """A new field needs an entry, and with it an output that it changes."""
    assert sorted(walk(Config)) == sorted(CHANGES)


def neuron_table(slope):
    """A logistic behind 1 kΩ, as a table: what characterising one would give.

    It falls at 0.05 V, so that half of vdd is not at a node of anything.
    """
    inputs = torch.linspace(-6, 6, 601, dtype=torch.float64)
    outputs = torch.linspace(-0.1, 0.9, 21, dtype=torch.float64)
    curve = 0.8 * torch.sigmoid(-slope * (inputs - 0.05))
    currents = torch.zeros(601, 21, 3, dtype=torch.float64)
    currents[..., 0] = (curve[:, None] - outputs) / 1e3
    nothing = InterpolationError(0, 0, 0, 0, 0, 0)
    return NeuronTable(
        inputs, outputs, currents, 0.8, 298.15, 1e-9, 1e-9, nothing, "mine", "0", "by hand"
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files that fields name: model cards, neuron tables, a sub-circuit."""
    directory = tmp_path_factory.mktemp("files")
    for node, flavour, mobility in ((14, "hp", 0.8), (7, "hp", 0.6), (14, "lstp", 0.4)):
        (directory / "cards" / flavour).mkdir(parents=True, exist_ok=True)
        for card in builtin_14nm_hp():
            weak = {**card.parameters, "u0": mobility * card.parameters["u0"]}
            path = directory / "cards" / flavour / f"{node}{card.polarity}fet.pm"
            path.write_text(write_model_card(replace(card, parameters=weak)))
    neuron_table(11.0).save(directory / "flat.safetensors")
    neuron_table(22.0).save(directory / "steep.safetensors")
    (directory / "bsimcmg.osdi").write_bytes(b"compiled")  # it is named in netlists, not run
    for name, gain in (("opamp", 1e4), ("weak_opamp", 50.0)):
        amplifier_table(directory, gain).save(directory / f"{name}.safetensors")
    (directory / "mine.sp").write_text(
        ".subckt mine z out vdd\nR1 z out 1k\nR2 out 0 1k\n.ends mine\n"
    )
    return directory


def build(given, files):
    """A configuration with values by dotted path; names of files become paths."""
    sections: dict[str, Any] = {"neuron": {"kind": "logistic"}}
    for path, value in given.items():
        if isinstance(value, str) and (files / value).exists():
            value = str(files / value)
        section, _, name = path.partition(".")
        if section == "layers":
            sections["layers"] = {"0": {name: value}}
        elif name:
            sections.setdefault(section, {})[name] = value
        else:
            sections[section] = value
    return Config(**sections)


SEEN = {}


def observe(output, config, tmp_path, sizes=(6, 4, 2)):
    """One output of a 6-4-2 network: text, or a tensor; of a configuration once.

    The hidden layer feeds another one, so that neurons are loaded and their resistance shows.
    """
    key = output, config.to_json(), sizes
    if key not in SEEN:
        SEEN[key] = look(output, config, tmp_path, sizes)
    return SEEN[key]


@functools.cache
def converted(text, sizes):
    """A network of a configuration, drawn with one seed."""
    generator = torch.Generator().manual_seed(1)
    return convert(mlp(*sizes), Config.from_json(text), generator=generator)


def look(output, config, tmp_path, sizes):
    network = converted(config.to_json(), sizes)
    inputs = 0.7 * signs(3, 6)
    if output == "inputs":
        return network.voltages(inputs)
    if output == "area":
        return torch.tensor(network_area(network).total.total).double().log()
    if output == "costs":
        costs = network.segment.border_costs
        return torch.tensor([costs.energy(), costs.latency(), costs.area()]).double().log()
    if output == "scores":
        fitted = copy.deepcopy(network)
        fit_converters(fitted, lambda: fitted(inputs))
        return fitted(inputs).detach()
    if output == "latency":
        # Equal steps: what differs is not where time points lie. In ns.
        steps = TransientOptions(control=StepControl(fixed=4e-10))
        options = TimingOptions(steps, waveforms=0)
        return 1e9 * network.measure(inputs[:1], options=options).latency.outputs
    if output == "power":
        return network.solve(inputs).power.total.detach().log()
    if output == "noise":  # dB
        settings = config.noise.replace(bandwidth=config.noise.bandwidth or 1e7)
        layer = network.noise(inputs[:1], settings).layers[0]
        return 10.0 * layer.output_rms.log10()
    if output == "voltages":
        with torch.no_grad():
            solution = network.solve(inputs, power=False)
        assert bool(solution.converged.all())
        return solution.outputs
    try:
        deck = write_deck(
            network, network.voltages(inputs), torch.zeros(3, dtype=torch.int64), tmp_path,
            dialect="ngspice",
            settings=NetlistSettings(analysis="dc") if output == "operating points" else None,
        )  # fmt: skip
    except NetlistError as error:
        return str(error)
    texts = sorted(p for p in deck.directory.rglob("*") if p.suffix in (".sp", ".cir"))
    return "\n".join(path.read_text() for path in texts)


@pytest.mark.parametrize("path", CHANGES)
def test_field_changes_an_output(path, files, tmp_path):
    change = CHANGES[path]
    before = build(change.given, files)
    after = build({**change.given, path: change.value}, files)
    assert unread(mlp(*change.sizes), after) == []
    assert differ(change.output, before, after, tmp_path, sizes=change.sizes)


def differ(output, before, after, tmp_path, **network):
    """Whether an output of two configurations is not the same."""
    first = observe(output, before, tmp_path / f"{output} before", **network)
    second = observe(output, after, tmp_path / f"{output} after", **network)
    if isinstance(first, str):
        return first != second
    # Newton's method stops at 1e-9 V (1e-6 V in transients, which makes less than 1e-6 ns of
    # a latency): a difference of 1e-6 is not its doing.
    return float((first - second).abs().max()) > 1e-6


# Fields that the present configuration does not read are said so


@dataclass(frozen=True)
class Idle:
    """A field put to ``value`` where nothing reads it.

    Attributes:
        written: Netlists name the value, though it does nothing.
        only: Layers of the network; the last one has no activation.
    """

    value: Any
    given: dict[str, Any] = field(default_factory=dict)
    written: bool = False
    only: tuple[int, ...] = (6, 4, 2)


LIMITS = {**SAR, "converter.limits": (-0.5, 1.0)}
NO_RESISTANCE = {"interconnect.resistance": False}
INPUTS_ALONE = {"noise.inputs": 1e-3, "noise.circuit": False}
IDLE = {
    "device.states": Idle(4),
    "device.access_capacitance": Idle(1e-16),
    "interconnect.metal": Idle(40e-9, NO_RESISTANCE),
    "interconnect.thickness": Idle(30e-9, NO_RESISTANCE),
    "interconnect.height": Idle(30e-9),
    "interconnect.spacing": Idle(90e-9),
    "interconnect.resistivity": Idle(3e-8, {**NO_RESISTANCE, **CAPACITIVE}),
    "interconnect.permittivity": Idle(4e-11),
    "interconnect.imac_sim_capacitance": Idle(True),
    "amplifier.open_loop_gain": Idle(1e3, {"amplifier.kind": "sense_resistor"}),
    "amplifier.open_loop_resistance": Idle(
        500.0, {"amplifier.kind": "sense_resistor", "amplifier.swing": (-0.1, 0.1)}
    ),
    "amplifier.output_resistance": Idle(1e3, {"crossbar.columns": 3}, written=True),
    "amplifier.combine": Idle("sum", written=True),
    "neuron.kind": Idle("finfet", only=(6, 2)),
    "neuron.rlow": Idle(50e3),
    "neuron.rhigh": Idle(400e3),
    "neuron.level_shift": Idle(0.5),
    "neuron.fins": Idle(4),
    "neuron.flavour": Idle("lstp"),
    "neuron.model_directory": Idle("cards"),
    "neuron.slope": Idle(6.0, {"neuron.kind": None}, only=(6, 2)),
    "neuron.quiescent_current": Idle(1e-6, {"neuron.kind": None}, only=(6, 2)),
    "noise.bandwidth": Idle(1e6, INPUTS_ALONE),
    "noise.lowest": Idle(1e4, INPUTS_ALONE),
    "noise.neurons": Idle(False, INPUTS_ALONE),
    "noise.flicker": Idle(False, {"noise.neurons": False}),
    "noise.amplifier_voltage": Idle(1e-8, INPUTS_ALONE),
    "noise.amplifier_current": Idle(1e-11, INPUTS_ALONE),
    "noise.neuron_voltage": Idle(1e-8, INPUTS_ALONE),
    "neuron.output_resistance": Idle(5e3, {"neuron.kind": None}, written=True, only=(6, 2)),
    "neuron.input_capacitance": Idle(
        5e-16, {"amplifier.combine": "sum", "crossbar.columns": 3}, written=True
    ),
    "neuron.table": Idle("flat.safetensors"),
    "neuron.osdi": Idle("bsimcmg.osdi"),
    "neuron.subcircuit": Idle("mine.sp", {"neuron.kind": None}, only=(6, 2)),
    "mapping.scale": Idle("row", MATCHED),
    "mapping.slice_base": Idle(2),
    "driver.bits": Idle(4),
    "driver.sign": Idle("two_pass"),
    "driver.line_energy": Idle(1e-12),
    "driver.step_energy": Idle(1e-13),
    "driver.unit_area": Idle(1e-12),
    "converter.bits": Idle(4),
    "converter.shared_by": Idle(2),
    "converter.range": Idle("max", LIMITS),
    "converter.coverage": Idle(0.5, {**SAR, "converter.range": "mse"}),
    "converter.limits": Idle((-0.5, 1.0)),
    "converter.clock": Idle(2e9),
    "converter.walden": Idle(1e-14, FLASH),
    "converter.schreier": Idle(165.0),
    "converter.comparator_energy": Idle(1e-14, SAR),
    "converter.comparator_area": Idle(1e-10, SAR),
    "converter.bit_area": Idle(1e-10, FLASH),
    "converter.unit_area": Idle(1e-12, FLASH),
    "converter.hold_energy": Idle(1e-14, SAR),
    "converter.hold_area": Idle(1e-13, SAR),
    "converter.add_energy": Idle(1e-14, {**SAR, "crossbar.columns": 3}),
    "converter.add_area": Idle(
        1e-11, {**SAR, **ALONE, "converter.after": "partition"}, only=(6, 2)
    ),
}


def test_every_condition_is_tested():
    paths = set(walk(Config))
    assert set(CONDITIONS) <= paths
    # Some layer is the first, some the last: what they take of a network is read. Where all neurons
    # have transistors: tests/test_noise.py.
    always = {"supplies.input_scale", "driver.kind", "converter.kind"}
    assert set(CONDITIONS) == set(IDLE) | always


@pytest.mark.parametrize("path", IDLE)
def test_a_field_that_is_said_to_be_unread_changes_nothing(path, files, tmp_path):
    idle = IDLE[path]
    before = build(idle.given, files)
    after = build({**idle.given, path: idle.value}, files)
    (found,) = unread(mlp(*idle.only), after)
    assert found.path == path
    with pytest.warns(SettingWarning, match=f"without effect.*{path} = .*it needs "):
        convert(mlp(*idle.only), after)
    outputs = ["voltages", "latency"] + ["netlist"] * (not idle.written)
    if path.startswith(("driver.", "converter.")):  # no circuit knows of the others
        outputs = ["voltages", "scores", "costs"]
    if path.startswith("noise."):
        outputs = ["noise"]
    for output in outputs:
        assert not differ(output, before, after, tmp_path, sizes=idle.only)


ALSO_READ = [
    ("interconnect.metal", 40e-9, "netlist", {**NO_RESISTANCE, **CAPACITIVE}),
    ("interconnect.thickness", 30e-9, "netlist", {**NO_RESISTANCE, **CAPACITIVE}),
    ("amplifier.output_resistance", 1e6, "latency", {"neuron.input_capacitance": 1e-16}),
    ("neuron.output_resistance", 1e5, "latency", {"timing.load_capacitance": 1e-15}),
    ("neuron.output_resistance", 1e5, "latency", {"neuron.output_capacitance": 1e-15}),
    ("neuron.slope", 6.0, "netlist", {"neuron.subcircuit": "shaped.sp"}),
    ("neuron.fins", 4, "netlist", {"neuron.subcircuit": "shaped.sp"}),
]


@pytest.mark.parametrize(("path", "value", "output", "given"), ALSO_READ)
def test_other_ways_in_which_a_field_is_read(path, value, output, given, files, tmp_path):
    (files / "shaped.sp").write_text(
        ".subckt mine z out vdd slope=1 fins=1\nR1 z out 1k\nR2 out 0 1k\n.ends mine\n"
    )
    before, after = build(given, files), build({**given, path: value}, files)
    assert unread(mlp(6, 4, 2), after) == []
    assert differ(output, before, after, tmp_path)


def test_unread_overrides_of_a_layer_are_named():
    config = Config(
        neuron=Neuron(kind="logistic", slope=9.0),
        layers={
            "0": LayerConfig(neuron={"fins": 3, "slope": 8.0}, device={"states": 5}),
            "2": LayerConfig(
                neuron={"slope": 7.0}, mapping={"scheme": "matched"}, driver={"kind": "dac"}
            ),
        },
    )
    found = [item.path for item in unread(mlp(6, 4, 2), config)]
    assert found == [
        "neuron.slope", 'layers."0".device.states', 'layers."0".neuron.fins',
        'layers."2".neuron.slope', 'layers."2".driver.kind',
    ]  # fmt: skip
    # A value that one layer reads, or that all follow, is no setting without effect.
    states = Config(device=Memristor(states=5), layers={"2": {"mapping": {"scheme": "matched"}}})
    assert unread(mlp(6, 4, 2), states) == []


def test_poles_without_transients_are_read_where_noise_is_looked_at():
    lags = {"amplifier.pole", "amplifier.second_pole", "amplifier.slew_rate"}
    config = Config(amplifier=Amplifier(pole=2e9, second_pole=3e9, slew_rate=1e8))
    for noise, idle in ((False, lags), (True, {"amplifier.slew_rate"})):
        found = unread(mlp(6, 4, 2), config, transients=False, noise=noise)
        assert {item.path for item in found} == idle


def test_a_trained_layer_keeps_its_own_input_scale():
    layer = convert(mlp(6, 2), Config(supplies=Supplies(input_scale=2.0))).layers[0]
    config = Config(supplies=Supplies(input_scale=3.0))
    (found,) = unread(torch.nn.Sequential(layer), config)
    assert found.path == "supplies.input_scale"
    assert convert(torch.nn.Sequential(layer), config).layers[0].scaling.input_scale == 2.0
    assert unread(mlp(6, 2), config) == []


@pytest.mark.parametrize("device", DEVICES)
def test_presets_set_nothing_in_vain(device):
    with warnings.catch_warnings():
        warnings.simplefilter("error", SettingWarning)
        config = Config.imac_sim(
            device=Memristor.preset(device), interconnect=Interconnect.preset(45e-9, "1TG1R")
        )
        for neuron in (Neuron(), Neuron(kind="finfet"), Neuron(kind="logistic", slope=9.0)):
            assert unread(mlp(6, 4, 3, 2), config.replace(neuron=neuron)) == []


# Units


def quantities(section=Config, prefix=""):
    for name, info in section.model_fields.items():
        if is_section(info.annotation):
            yield from quantities(info.annotation, f"{prefix}{name}.")
        elif section.quantity(name) is not None:
            yield f"{prefix}{name}", section, name, info, section.quantity(name)


@pytest.mark.parametrize("given", list(quantities()), ids=lambda given: given[0])
def test_units_stand_beside_their_fields(given):
    _, _, _, info, quantity = given
    if quantity.unit != "1":
        assert info.description.startswith(f"{quantity.unit}. ")
    if info.default is not None:
        assert quantity.question(info.default) is None
    low, high = quantity.usual
    assert low < high <= quantity.largest


def test_fields_with_a_unit_have_a_quantity():
    known = {path for path, *_ in quantities()}
    units = ("V. ", "K. ", "m. ", "s. ", "Ω. ", "F. ", "Hz. ", "Ω·m. ", "F/m. ", "nm. ")
    for section, info in Config.model_fields.items():
        nested = nested_model(info.annotation)
        if nested is None or section == "layers":
            continue
        for name, item in nested.model_fields.items():
            if (item.description or "").startswith(units):
                assert f"{section}.{name}" in known


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Interconnect(tech_node=9), r"9 m is beyond .*9 nm meant\? write 9e-09"),
        (lambda: Interconnect(length=135), r"135 nm meant\? write 1.35e-07"),
        (lambda: Interconnect(permittivity=20), r"20 vacuum permittivities meant\? write 1.77"),
        (lambda: Interconnect(resistivity=1.9), r"1.9 µΩ·cm meant\? write 1.9e-08"),
        (lambda: Interconnect(tech_node="9nm"), r"tech_node: .*write 9e-09 m"),
        (lambda: Interconnect.preset(9), r"no preset for tech_node = 9 m; .*written 7e-09"),
        (lambda: Supplies(vdd=800), r"800 V is beyond .*800 mV meant\? write 0.8"),
        (lambda: Supplies(vdd=800, vss=-800), r"-800 mV meant\? write -0.8"),
        (lambda: Neuron(level_shift=400), r"400 mV meant\? write 0.4"),
        (lambda: Neuron(transistor_node=14e-9), r"1.4e-08 m meant\? write 14"),
        (lambda: Neuron(input_capacitance=0.5), r"0.5 fF meant\? write 5e-16"),
        (lambda: Timing(load_capacitance=2), r"2 fF meant\? write 2e-15"),
        (lambda: Memristor(variation=5), r"5% meant\? write 0.05"),
        (lambda: Memristor(variation="5%"), r"write 0.05"),
        (lambda: Memristor(rlow="78k"), r"write 78000 Ω"),
        (lambda: Interconnect(T=22e-9), r"T: Extra inputs .*IMAC-Sim's T is thickness here"),
        (lambda: Memristor(weight_var=5), r"IMAC-Sim's weight_var is variation here"),
        (lambda: Config(tsampling=4), r"IMAC-Sim's tsampling is timing.period here"),
        (lambda: Config(rows=4), r"rows: Extra .*did you mean crossbar.rows"),
        (lambda: Interconnect(thicknes=1e-9), r"did you mean thickness"),
        (lambda: Config(temperature=-40), r"-40 °C meant\? write 233.15"),
        (lambda: Config(temperature=1e5), r"100000 K is beyond"),
        (lambda: Config(layers={"0": {"device": {"rlow": "5k"}}}), r"layers.0: .*write 5000 Ω"),
    ],
)  # fmt: skip
def test_values_in_another_unit_are_refused_with_the_number_to_write(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Config(temperature=25), r"Config.temperature = 25 K .*25 °C .*write 298.15"),
        (lambda: Config(temperature=85), r"85 °C meant\? write 358.15"),
        (lambda: Timing(period=4), r"period = 4 s .*4 ns meant\? write 4e-09"),
        (lambda: Supplies(vdd=80), r"vdd = 80 V .*80 mV meant\? write 0.08"),
        (lambda: Memristor(rlow=78, rhigh=202), r"rlow = 78 Ω .*78 kΩ meant\? write 78000"),
        (lambda: Interconnect(thickness=0.022), r"0.022 µm meant\? write 2.2e-08"),
        (lambda: Amplifier(pole=3), r"3 GHz meant\? write 3000000000"),
        (lambda: Config().replace(temperature=27), r"27 °C meant"),
        (lambda: Config(layers={"0": {"device": {"rlow": 5.0}}}), r"rlow = 5 Ω"),
    ],
)  # fmt: skip
def test_unusual_values_are_asked_about_once(make, message):
    with pytest.warns(SettingWarning, match=message) as told:
        config = make()
        config.replace()
        if isinstance(config, Config):
            config.for_layer(0, "0", 1)
            config.replace(neuron=Neuron(fins=3))
    assert len(told) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Interconnect(resistivity=1e-30),  # below what double precision holds of a circuit
        lambda: Config(temperature=4.2),
        lambda: Timing(period=1.0),
        lambda: Supplies(vdd=12.0, vss=-12.0),
        lambda: Memristor(rlow=1e9, rhigh=1e12),
    ],
)
def test_what_can_be_is_not_refused(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SettingWarning)
        make()


@pytest.mark.parametrize(
    ("path", "value", "model"),
    [
        ("interconnect.tech_node", 14e-9, "imac-sim"),
        ("crossbar.rows", 64, "imac-sim"),
        ("crossbar.columns", 64, "imac-sim"),
        ("interconnect.length", 300e-9, "layout"),
        ("amplifier.gain", 20.0, "layout"),
        ("amplifier.input_resistance", 2e3, "layout"),
        ("neuron.transistor_node", 7, "layout"),
    ],
)
def test_field_changes_the_area(path, value, model, files):
    given = {"amplifier.gain": 10.0}
    first, second = (
        network_area(convert(mlp(6, 4, 2), build(values, files)), model).total
        for values in (given, {**given, path: value})
    )
    assert first != second


# Round trips

CONFIGS = {
    "default": Config(),
    "imac-sim": Config.imac_sim(),
    "full": Config(
        supplies=Supplies(vdd=0.7, vss=0.0, encoding="sign", input_scale=1 / 3),
        device=Memristor(rlow=1e4 / 3, rhigh=1e6, variation=0.05, states=16),
        interconnect=Interconnect(
            tech_node=7e-9, metal=1e-8, length=1 / 7e7, width=None, spacing=1e-7,
            capacitance=True, imac_sim_capacitance=True, permittivity=20 * 8.854e-12,
        ),
        crossbar=Crossbar(rows=16, columns=8, horizontal=(13, 4, 3), vertical=(4, 3, 1)),
        amplifier=Amplifier(
            gain=(30.0, 0.1, 10.0), output_resistance=0.0, pole=3e9, combine="sum",
            open_loop_gain=1e4, offset=-1e-3, offset_spread=2e-3, swing=(0.0, 0.65),
            quiescent_current=1e-6,
        ),
        neuron=Neuron(
            kind="finfet", rlow=None, rhigh=1e5, model_directory="/a b/ü", fins=3,
            input_capacitance=1e-16, output_capacitance=1e-15,
        ),
        timing=Timing(period=1e-9, transition=1e-12, load_capacitance=1e-14),
        mapping=WeightMapping(levels=(-1.0, -0.1, 0.3, 1.0), scheme="matched", scale="row"),
        driver=Driver(kind="bit_serial", bits=6, sign="two_pass"),
        converter=Converter(kind="ramp", after="partition", limits=(-0.25, 1 / 3)),
        temperature=273.15,
        layers={
            "0.2": LayerConfig(
                amplifier={"gain": None, "input_resistance": 2e3},
                mapping={"levels": [-1.0, 1.0]},
                crossbar={"horizontal": (1, 2, 3)},
                neuron={"rhigh": None, "kind": "logistic"},
                converter={"limits": [-0.5, 0.5], "bits": 5},
            ),
            "head.out": LayerConfig(device={"rlow": 1e3, "states": None}),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.parametrize("name", CONFIGS)
def test_file_round_trip(name, suffix, tmp_path):
    config = CONFIGS[name]
    path = tmp_path / f"config.{suffix}"
    config.save(path)
    assert Config.load(path) == config
    assert Config.from_dict(config.to_dict()) == config
    assert config.to_dict()["schema"] == SCHEMA


@pytest.mark.parametrize("name", CONFIGS)
def test_copies_are_equal(name):
    config = CONFIGS[name]
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize("suffix", FILES)
def test_none_in_an_override_frees_the_field(suffix, tmp_path):
    config = Config(
        amplifier=Amplifier(gain=30.0), layers={"2": LayerConfig(amplifier={"gain": None})}
    )
    config.save(tmp_path / f"c.{suffix}")
    again = Config.load(tmp_path / f"c.{suffix}")
    assert again.for_layer(0, "0", 2).amplifier.gain == 30.0
    assert again.for_layer(1, "2", 2).amplifier.gain is None


def test_overrides_reach_their_layer_only():
    config = CONFIGS["full"]
    first, second, third = (config.for_layer(k, name, 3) for k, name in
                            enumerate(("0.2", "1", "head.out")))  # fmt: skip
    assert first.amplifier.input_resistance == 2e3
    assert first.mapping.levels == (-1.0, 1.0)
    assert (first.neuron.kind, first.neuron.rhigh) == ("logistic", None)
    assert second.amplifier.gain == 0.1
    assert second.neuron.kind == "finfet"
    assert (third.device.rlow, third.device.states) == (1e3, None)
    assert [item.crossbar.horizontal for item in (first, second, third)] == [1, 4, 3]
    assert [item.crossbar.vertical for item in (first, second, third)] == [4, 3, 1]
    assert not any(item.layers for item in (first, second, third))


@pytest.mark.parametrize("schema", [None, 0, SCHEMA + 1, "1", True, 1.5])
def test_other_versions_are_refused(schema, tmp_path):
    values = {**Config().to_dict(), "schema": schema}
    if schema is None:
        del values["schema"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"config\.json: .*schema"):
        Config.load(path)


# Files that cannot be read or written


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"schema = = 1", "not valid TOML.*line 1"),
        ("a.json", b'{"schema": 1,', "not valid JSON.*line 1"),
        ("a.json", b"[1]", "is a table"),
        ("a.toml", b"\xff\xfe\x00", "not a text file"),
        ("a.toml", b"schema = 1\nvoltage = 1", "voltage: Extra inputs"),
        ("a.toml", b"schema = 1\nself = 1", "self: Extra inputs"),
        ("a.toml", b"schema = 1\n[supplies]\nvdd = -1", "supplies: .*vdd: .*greater than 0"),
        ("a.json", b'{"schema": 1, "temperature": NaN}', "temperature: .*finite"),
        ("a.toml", b"schema = 1\ntemperature = inf", "temperature: .*finite"),
        ("a.toml", b'schema = 1\nsupplies = "high"', "supplies"),
        ("a.toml", b"schema = 1\n[layers.a.device]\nrlow = 1e9", "layers.a: .*rlow = .*rhigh"),
        ("a.toml", b"schema = 1\n[layers.a.device]\nrlov = 1", "layers.a: .*rlov: Extra inputs"),
        ("a.toml", b"schema = 1\n[layers.a.devices]\na = 1", "layers.a: .*devices: Extra inputs"),
    ],
)
def test_unusable_files_name_file_and_field(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}.*{message}"):
        Config.load(path)


def test_missing_file_and_directory(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read the configuration"):
            Config.load(path)


@pytest.mark.parametrize("suffix", FILES)
def test_nothing_is_overwritten(suffix, tmp_path):
    path = tmp_path / f"mine.{suffix}"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="exists"):
        Config().save(path)
    assert path.read_text() == "precious"


def test_unwritable_directory(tmp_path):
    with pytest.raises(ConfigError, match="cannot write the configuration"):
        Config().save(tmp_path / "missing" / "a.toml")
    with pytest.raises(ConfigError, match=r"\.toml or \.json"):
        Config().save(tmp_path / "a.yaml")
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(ConfigError, match="cannot write the configuration"):
            Config().save(tmp_path / "locked" / "a.toml")


# Values that make no sense


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Supplies(vdd=0), "vdd: .*greater than 0"),
        (lambda: Supplies(vdd=float("nan")), "vdd: .*finite"),
        (lambda: Supplies(vss=0.1), "vss: .*less than or equal to 0"),
        (lambda: Supplies(encoding="digital"), "encoding"),
        (lambda: Supplies(input_scale=-1), "input_scale"),
        (lambda: Memristor(rlow=2e5, rhigh=1e5), r"rlow = 200000.0 Ω must be below rhigh"),
        (lambda: Memristor(rlow=1e5, rhigh=1e5), "must be below"),
        (lambda: Memristor(variation=1.0), "variation"),
        (lambda: Memristor(states=1), "states"),
        (lambda: Memristor.preset("DRAM"), "no device preset 'DRAM'"),
        (lambda: Interconnect(tech_node=0), "tech_node"),
        (lambda: Interconnect(metal=-1e-9), "metal"),
        (lambda: Interconnect(length=float("inf")), "length"),
        (lambda: Interconnect.preset(8e-9), "no preset for tech_node"),
        (lambda: Interconnect.preset(9e-9, "3T1R"), "no bit cell '3T1R'"),
        (lambda: Crossbar(rows=0), "rows"),
        (lambda: Crossbar(columns=3.5), "columns"),
        (lambda: Crossbar(rows=True), "rows: True is not a value"),
        (lambda: Memristor(rlow=True), "rlow: True is not a value"),
        (lambda: Amplifier(gain=False), "gain: False is not a value"),
        (lambda: Crossbar(horizontal=(1, 0)), "number of partitions must be >= 1"),
        (lambda: Amplifier(gain=0.0), "every gain must be positive"),
        (lambda: Amplifier(swing=(0.8, -0.8)), "the lowest output comes first"),
        (lambda: Amplifier(gain=(1.0, -1.0)), "every gain must be positive"),
        (lambda: Amplifier(output_resistance=0.0), "ideal sources cannot be tied"),
        (lambda: Amplifier(combine="max"), "combine"),
        (lambda: Neuron(kind="step"), "kind"),
        (lambda: Neuron(fins=0), "fins"),
        (lambda: Timing(transition=5e-9), "must be shorter than period"),
        (lambda: WeightMapping(levels=1), "at least 2 levels"),
        (lambda: WeightMapping(levels=(1.0, -1.0)), "ascending"),
        (lambda: WeightMapping(levels=(-2.0, 2.0)), r"\[-1, 1\]"),
        (lambda: WeightMapping(levels="quaternary"), "levels"),
        (lambda: WeightMapping(scale="row"), "scale = 'row' needs scheme = 'matched'"),
        (lambda: WeightMapping(slices=0), "slices"),
        (lambda: WeightMapping(slices=2, levels=(-1.0, 0.2, 1.0)), "equally spaced"),
        (lambda: WeightMapping(slices=2, slice_base=4), "slice_base = 4 leaves gaps"),
        (lambda: WeightMapping(slices=13), "more than 20 bits"),
        (lambda: Config(temperature=0), "temperature"),
        (lambda: Config(voltage=1), "voltage: Extra inputs"),
        (lambda: Config().replace(device=Memristor().replace(rlow=1e9)), "must be below"),
        (lambda: Config(layers={"1": {"crossbar": {"rows": 0}}}), "layers.1: .*rows"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_frozen():
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.temperature = 300.0
    with pytest.raises(ValueError, match="frozen"):
        config.device.rlow = 1.0


def test_per_layer_values_need_one_per_layer():
    config = Config.imac_sim()
    with pytest.raises(ConfigError, match=r"amplifier.gain = .* 3 entries for 2 analog layers"):
        config.for_layer(0, "0", 2)
    assert [config.for_layer(k, str(k), 3).amplifier.gain for k in range(3)] == [30.0, 30.0, 10.0]


# Presets: the published numbers


def test_presets():
    # M. H. Amin et al., IMAC-Sim (GLSVLSI 2023), and the list
    assert dict(DEVICES) == {
        "MRAM": (8.5e3, 25.5e3), "RRAM": (2.5e3, 100e3), "CBRAM": (10e3, 1e6), "PCM": (78e3, 202e3),
    }  # fmt: skip
    for name, (rlow, rhigh) in DEVICES.items():
        assert (Memristor.preset(name).rlow, Memristor.preset(name).rhigh) == (rlow, rhigh)
    for node in (7, 9, 10, 14, 16, 20, 22, 32, 45):
        for cell, length in (("1T1R", 15), ("2T1R", 23), ("1TG1R", 48)):
            wires = Interconnect.preset(node * 1e-9, cell)
            assert wires.cell_length == pytest.approx(length * node * 1e-9)
            assert wires.cell_width == pytest.approx(12 * node * 1e-9)
            assert wires.line_spacing == pytest.approx(5 * node * 1e-9)
            assert wires.metal_width == pytest.approx(3 * node * 1e-9)


def test_overrides_are_as_immutable_as_the_rest() -> None:
    config = Config(layers={"0": LayerConfig(amplifier={"gain": 3.0})})
    for change in (
        lambda: config.layers.update({"1": LayerConfig()}),
        lambda: config.layers.pop("0"),
        lambda: config.layers["0"].amplifier.__setitem__("gain", 4.0),
        lambda: config.layers["0"].amplifier.clear(),
    ):
        with pytest.raises(TypeError, match="replace"):
            change()
    assert config.layers["0"].amplifier == {"gain": 3.0}
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        with pytest.raises(TypeError, match="replace"):
            del other.layers["0"]
    assert Config.from_dict(config.to_dict()) == config
