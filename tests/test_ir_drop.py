"""Voltages inside crossbars, against the dense nodal analysis of the same circuit."""

import pytest
import torch

from imac_torch import Config, Crossbar, Interconnect, Memristor, Neuron, convert
from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.dc.ir_drop import cell_voltages
from imac_torch.elimination.ports import eliminate_layer
from imac_torch.errors import SolverError
from imac_torch.model.network import IMACNetwork
from imac_torch.reference.nodal import solve_layer

# Condition of the nodal matrix: at most gv/g_min ~ (1/9 Ω)/(1/202 kΩ) times the square of a
# line's length, ~1e6; times 2^-53 and 0.8 V that is 1e-10 V.
TOLERANCE = 1e-10


def network(generator: torch.Generator, **sections: object) -> IMACNetwork:
    model = torch.nn.Sequential(torch.nn.Linear(9, 7), torch.nn.Sigmoid()).double()
    torch.nn.init.uniform_(model[0].weight, -1, 1, generator=generator)
    config = Config(
        neuron=Neuron(kind="logistic"),
        **{"crossbar": Crossbar(rows=3, columns=4), **sections},  # type: ignore[arg-type]
    )
    return convert(model, config, generator=generator)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"device": Memristor(rlow=500.0, rhigh=5e3, variation=0.2)},
        {"crossbar": Crossbar(rows=64, columns=64)},
        {"crossbar": Crossbar(rows=1, columns=2)},
    ],
)
def test_every_node_equals_the_dense_solution(
    generator: torch.Generator, sections: dict[str, object]
) -> None:
    net = network(generator, **sections)
    inputs = torch.rand(3, 9, generator=generator, dtype=torch.float64) * 1.6 - 0.8
    circuit = net.circuit().layers[0]
    dense = solve_layer(circuit, inputs, 0.8)
    layer = next(net.analog_layers())
    lines = torch.cat([inputs, inputs.new_full((3, 1), 0.8)], dim=1)
    found = cell_voltages(layer.matrix.crossbar(), lines)
    for name, ours in (("a", found.cell), ("p", found.positive), ("n", found.negative)):
        index = torch.from_numpy(circuit.array(name).index)
        torch.testing.assert_close(ours, dense[:, index], rtol=0, atol=TOLERANCE)
    ends = torch.from_numpy(circuit.array("pe").index)
    last = [stop - 1 for stop in layer.matrix.crossbar().column_ends]
    torch.testing.assert_close(
        found.positive_end[:, :, last], dense[:, ends], rtol=0, atol=TOLERANCE
    )
    ends = torch.from_numpy(circuit.array("ne").index)
    torch.testing.assert_close(
        found.negative_end[:, :, last], dense[:, ends], rtol=0, atol=TOLERANCE
    )


def test_ideal_wires_drop_nothing(generator: torch.Generator) -> None:
    net = network(generator, interconnect=Interconnect(resistance=False))
    lines = torch.rand(2, 10, generator=generator, dtype=torch.float64)
    found = cell_voltages(next(net.analog_layers()).matrix.crossbar(), lines)
    assert float(found.input_drop.abs().max()) == 0.0
    assert float(found.output_drop.abs().max()) < 1e-14


def test_what_does_not_fit_is_refused(generator: torch.Generator) -> None:
    spec: CrossbarSpec = next(network(generator).analog_layers()).matrix.crossbar()
    with pytest.raises(SolverError, match=r"\(2, 9\)"):
        cell_voltages(spec, torch.zeros(2, 9, dtype=torch.float64))


def test_cell_currents_obey_kirchhoffs_law(generator: torch.Generator) -> None:
    """What the cells of a row bring to its I+ line leaves into the amplifier's R2 + R4."""
    layer = next(network(generator, crossbar=Crossbar(rows=3, columns=4)).analog_layers())
    spec = layer.matrix.crossbar()
    inputs = torch.rand(2, spec.inputs + 1, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        inside = cell_voltages(spec, inputs)
        load = spec.read_out.resistance * (1.0 + spec.read_out.gain)
        for first, last in spec.column_ranges:
            brought = inside.positive_current[..., first:last].sum(-1)
            leaving = inside.positive_end[..., first] / load
            # Sums of a few dozen currents of the size of the largest: rounding only.
            scale = float(inside.positive_current.abs().max())
            torch.testing.assert_close(brought, leaving, rtol=0.0, atol=1e-11 * scale)
        drawn = (inside.positive_current + inside.negative_current).sum(1)
        ports = eliminate_layer(spec)[0].input_currents(inputs)
        torch.testing.assert_close(drawn, ports, rtol=1e-9, atol=0.0)
