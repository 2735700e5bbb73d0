"""Area by part, against hand calculations."""

import pytest
import torch
from torch import nn

from imac_torch import Config, Crossbar, Neuron, convert
from imac_torch.errors import ConfigError
from imac_torch.reports.area import (
    AREA_MODELS,
    FIN_PITCH,
    GATE_PITCH,
    Area,
    ImacSimArea,
    LayerShape,
    LayoutArea,
    layer_shapes,
    network_area,
)


def shape(**changes: object) -> LayerShape:
    values = {
        "name": "0", "inputs": 400, "outputs": 120, "horizontal": 13, "vertical": 4, "rows": 32,
        "columns": 32, "cell": 12 * 9e-9 * 15 * 9e-9, "read_out_resistance": 2 * 31 * 1e3,
        "neuron": "finfet", "fins": 10, "node": 14,
    }  # fmt: skip
    return LayerShape(**{**values, **changes})  # type: ignore[arg-type]


def test_imac_sims_formula_gives_its_number_for_its_network() -> None:
    """testIMAC.py: hpar = [13, 4, 3], vpar = [4, 3, 1], 67 arrays of 32×32 at 9 nm."""
    layers = [
        shape(),
        shape(inputs=120, outputs=84, horizontal=4, vertical=3),
        shape(inputs=84, outputs=10, horizontal=3, vertical=1),
    ]
    total = Area.sum([ImacSimArea().layer(item) for item in layers])
    # W·L·32·32·67·1e12 + 0.56·67·64, in µm², as the script computes it
    expected = (12 * 9e-9) * (15 * 9e-9) * 32 * 32 * 67 * 1e12 + 0.56 * 67 * (32 + 32)
    assert total.total * 1e12 == pytest.approx(expected, rel=1e-14)
    assert total.amplifiers is None
    assert total.neurons is None


def test_layout_area_is_the_sum_of_its_parts_counted_by_hand() -> None:
    model = LayoutArea()
    area = model.layer(shape())
    fin = FIN_PITCH[14] * 2 * GATE_PITCH[14]
    resistors = 2 * 31 * 1e3 / 200 * (100e-9) ** 2 * 2
    assert area.cells == pytest.approx(shape().cell * 52 * 1024, rel=1e-6, abs=0)
    assert area.amplifiers == pytest.approx(120 * 13 * (160 * fin + resistors), rel=1e-6, abs=0)
    assert area.neurons == pytest.approx(120 * (2 * 10 * fin + 2 * shape().cell), rel=1e-6, abs=0)
    assert area.switches == pytest.approx(52 * (32 + 64) * 2 * 4 * fin, rel=1e-6, abs=0)
    parts = sum(v for v in area.parts().values() if v is not None)
    assert area.total == pytest.approx(parts, rel=1e-6, abs=0)
    used = LayoutArea(whole_arrays=False).layer(shape())
    assert used.cells == pytest.approx(shape().cell * 401 * 120, rel=1e-6, abs=0)
    assert used.switches == pytest.approx(
        (401 * 4 + 2 * 120 * 13) * 2 * 4 * fin, rel=1e-6, abs=0
    )


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"cell": 1e-13}, "cells"),
        ({"read_out_resistance": 64e3}, "amplifiers"),
        ({"horizontal": 14}, "amplifiers"),
        ({"fins": 11}, "neurons"),
        ({"node": 7}, "switches"),
        ({"outputs": 121}, "neurons"),
        ({"rows": 64}, "cells"),
        ({"columns": 64}, "switches"),
        ({"vertical": 5}, "cells"),
    ],
)
def test_every_property_counts(change: dict[str, object], part: str) -> None:
    before, after = (LayoutArea().layer(item).parts() for item in (shape(), shape(**change)))
    assert before[part] != after[part]


def test_parts_without_a_layout_are_unknown_not_zero() -> None:
    assert LayoutArea().layer(shape(neuron="logistic")).neurons is None
    assert LayoutArea().layer(shape(neuron="identity")).neurons == 0.0
    mixed = Area.sum([Area(1.0, None, 2.0, 3.0), Area(1.0, 1.0, None, 3.0)])
    assert mixed == Area(2.0, None, None, 6.0)


def test_a_network_is_measured_as_it_is_built() -> None:
    model = nn.Sequential(nn.Linear(9, 7), nn.Sigmoid(), nn.Linear(7, 3))
    torch.nn.init.uniform_(model[0].weight)
    config = Config(crossbar=Crossbar(rows=4, columns=5), neuron=Neuron(kind="logistic"))
    network = convert(model, config)
    first, second = layer_shapes(network)
    assert (first.inputs, first.outputs, first.horizontal, first.vertical) == (9, 7, 2, 2)
    assert (first.rows, first.columns, first.neuron) == (4, 5, "logistic")
    assert second.neuron == "identity"
    measured = network_area(network)
    assert measured.model == "imac-sim"
    assert set(measured.layers) == {"0", "2"}
    assert measured.total.cells == pytest.approx((4 + 2) * 20 * first.cell)
    # One undivided array is larger than the configured size.
    whole = Config(
        crossbar=Crossbar(rows=4, columns=5, horizontal=1, vertical=1),
        neuron=Neuron(kind="logistic"),
    )
    undivided = layer_shapes(convert(model, whole))[0]
    assert (undivided.rows, undivided.columns) == (7, 10)


def test_borders_count_where_they_are_not_ideal() -> None:
    model = nn.Sequential(nn.Linear(9, 7), nn.Sigmoid(), nn.Linear(7, 3))
    plain = network_area(convert(model))
    assert plain.borders == {"drivers": None, "converters": None}
    assert plain.whole == plain.total.total
    assert "ideal, not counted: drivers, converters" in plain.in_words()
    converter = {"kind": "sar", "unit_area": 1e-12}
    network = convert(model, Config(converter=converter, crossbar=Crossbar(copies=2)))
    measured = network_area(network)
    assert measured.borders["drivers"] is None
    each = network.segment.border_costs.area()
    assert measured.borders["converters"] == pytest.approx(2 * each, rel=1e-6, abs=0)
    assert measured.borders["converters"] > 0.0
    assert measured.whole == pytest.approx(measured.total.total + measured.borders["converters"])


def test_errors_say_what_there_is() -> None:
    network = convert(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(ConfigError, match="imac-sim, layout, layout-used"):
        network_area(network, "mine")
    with pytest.raises(ConfigError, match="45 nm"):
        LayoutArea().layer(shape(node=45))
    with pytest.raises(ConfigError, match="opamp_fins"):
        LayoutArea(opamp_fins=0)
    assert set(AREA_MODELS) == {"imac-sim", "layout", "layout-used"}
