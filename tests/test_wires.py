"""Wire resistances and capacitances: against the published numbers, formulas and limits."""

from __future__ import annotations

import math

import pytest
import torch

from imac_torch import Interconnect
from imac_torch.circuit.wires import (
    coupling_capacitance,
    effective_resistivity,
    ground_capacitance,
    input_line_capacitances,
    output_line_capacitance,
    segment_resistance,
    segments,
)
from imac_torch.errors import CircuitError


def test_segments_of_the_published_netlists():
    wire = segments(Interconnect())
    # The list in the reference results is printed with seven digits.
    assert wire.input_line == pytest.approx(9.241569, abs=5e-7)
    assert wire.output_line == pytest.approx(11.551961, abs=5e-7)


def test_resistivity_worked_by_hand():
    # IMAC-Sim's shipped geometry: 27 nm wide. α = 39·0.3/(27·0.7) = 0.619048,
    # 1 - 1.5α + 3α² - 3α³·ln(1 + 1/α) = 0.536856…, 0.75·0.75·39/27 = 0.8125
    alpha = 39 * 0.3 / (27 * 0.7)
    grain = 1 - 1.5 * alpha + 3 * alpha**2 - 3 * alpha**3 * math.log(1 + 1 / alpha)
    expected = 1.9e-8 * (0.8125 + 1 / grain)
    assert effective_resistivity(1.9e-8, 27e-9) == pytest.approx(expected, rel=1e-12)


def test_wide_wires_are_bulk():
    # Both corrections are of first order in λ0/width: (9/16 + 1.5·3/7)·39 nm/width here.
    for width in (1e-4, 1e-3, 1e-2):
        excess = effective_resistivity(1.9e-8, width) / 1.9e-8 - 1
        assert excess == pytest.approx((9 / 16 + 1.5 * 3 / 7) * 39e-9 / width, rel=1e-2)


def test_narrow_wires_resist_more():
    values = [effective_resistivity(1.9e-8, w * 1e-9) for w in (5, 10, 20, 40, 80, 160)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("field", "factor", "input_line", "output_line"),
    [
        ("resistivity", 2.0, 2.0, 2.0),
        ("thickness", 2.0, 0.5, 0.5),
        ("length", 2.0, 1.0, 2.0),
        ("width", 2.0, 2.0, 1.0),
        ("spacing", 2.0, 1.0, 1.0),
        ("height", 2.0, 1.0, 1.0),
    ],
)
def test_scaling(field, factor, input_line, output_line):
    plain = Interconnect(length=135e-9, width=108e-9, metal=27e-9, spacing=45e-9)
    changed = plain.replace(**{field: factor * getattr(plain, field)})
    before, after = segments(plain), segments(changed)
    assert after.input_line / before.input_line == pytest.approx(input_line, rel=1e-12)
    assert after.output_line / before.output_line == pytest.approx(output_line, rel=1e-12)


def test_input_lines_follow_the_width_of_a_cell_and_output_lines_its_length():
    wires = Interconnect(length=2e-7, width=3e-8)
    wire = segments(wires)
    assert wire.input_line == segment_resistance(wires, 3e-8)
    assert wire.output_line == segment_resistance(wires, 2e-7)
    assert wire.output_line / wire.input_line == pytest.approx(2e-7 / 3e-8, rel=1e-12)


def test_switched_off():
    wire = segments(Interconnect(resistance=False))
    assert (wire.input_line, wire.output_line) == (0.0, 0.0)


def reference_coupling(wires, distance):
    """Sakurai and Tamaru (1983) eq. 4, once more, in plain arithmetic."""
    w, t, h = wires.metal_width, wires.thickness, wires.height
    bracket = 0.03 * w / h + 0.83 * t / h - 0.07 * (t / h) ** 0.222
    return wires.permittivity * bracket * (h / distance) ** 1.34


def reference_ground(wires):
    w, t, h = wires.metal_width, wires.thickness, wires.height
    return wires.permittivity * (1.15 * w / h + 2.8 * (t / h) ** 0.222) / 2


GEOMETRIES = [
    Interconnect(),
    Interconnect(height=40e-9, metal=30e-9, spacing=60e-9, length=2e-7, width=1e-7),
]


@pytest.mark.parametrize("wires", GEOMETRIES)
@pytest.mark.parametrize("imac_sim", [False, True])
def test_capacitances_line_by_line(wires, imac_sim):
    wires = wires.replace(imac_sim_capacitance=imac_sim)
    count = 7
    pitch = wires.cell_width if imac_sim else wires.cell_length
    expected = [
        wires.cell_width
        * (
            reference_ground(wires)
            + sum(
                reference_coupling(wires, abs(i - j) * pitch) for j in range(count) if j != i
            )
        )
        for i in range(count)
    ]
    found = input_line_capacitances(wires, count)
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0.0
    )
    along = wires.cell_width if imac_sim else wires.cell_length
    assert output_line_capacitance(wires) == pytest.approx(
        along * (reference_ground(wires) + reference_coupling(wires, wires.line_spacing)),
        rel=1e-12, abs=0.0,
    )


def test_capacitance_of_lone_and_neighbouring_lines():
    wires = Interconnect()
    lone = float(input_line_capacitances(wires, 1))
    assert lone == pytest.approx(ground_capacitance(wires) * wires.cell_width, rel=1e-15, abs=0.0)
    many = input_line_capacitances(wires, 9)
    torch.testing.assert_close(many, many.flip(0), rtol=1e-14, atol=0.0)  # the array is symmetric
    assert int(many.argmax()) == 4  # the middle line has the most neighbours
    assert float(many.min()) > lone
    assert input_line_capacitances(wires, 0).shape == (0,)


def test_coupling_falls_with_distance():
    distance = torch.tensor([20e-9, 40e-9, 400e-9], dtype=torch.float64)
    found = coupling_capacitance(Interconnect(), distance)
    ratio = found[0] / found[1:]
    torch.testing.assert_close(ratio, torch.tensor([2.0, 20.0], dtype=torch.float64) ** 1.34)


def test_negative_capacitances_are_refused():
    """Thin metal far above the plane: the fit's coupling is negative, a circuit's is not."""
    wires = Interconnect(height=1e-6)
    with pytest.raises(CircuitError, match=r"input line .* thickness/height = 0\.022"):
        input_line_capacitances(wires, 32)
    with pytest.raises(CircuitError, match="I± line"):
        output_line_capacitance(wires)
