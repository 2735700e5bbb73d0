"""Cutting layers into partitions, and what a crossbar specification accepts."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imac_torch import Amplifier, Config, Crossbar, Interconnect
from imac_torch.circuit.crossbar import build_crossbar, partition_ends
from imac_torch.errors import CircuitError
from imac_torch.mapping.quantization import ConductancePair

# Columns (1-based) of the 400-120-84-10 network at crossbar 32, from the reference results.
CUTS = {
    (401, 13): "[1:31][32:62][63:93][94:124][125:155][156:186][187:216][217:247][248:278][279:309]"
    "[310:340][341:371][372:401]",
    (121, 4): "[1:31][32:61][62:91][92:121]",
    (85, 3): "[1:29][30:57][58:85]",
    (120, 4): "[1:30][31:60][61:90][91:120]",
    (84, 3): "[1:28][29:56][57:84]",
    (10, 1): "[1:10]",
}


@pytest.mark.parametrize(("count", "parts"), CUTS)
def test_published_cuts(count, parts):
    ends = partition_ends(count, parts)
    starts = [1, *(end + 1 for end in ends[:-1])]
    text = "".join(f"[{a}:{b}]" for a, b in zip(starts, ends, strict=True))
    assert text == CUTS[count, parts]


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_rule_in_exact_arithmetic(case):
    count, parts = case
    rest = count % parts
    expected = [
        int(Fraction(count * k, parts) + min(Fraction(rest, k), Fraction(1)))
        for k in range(1, parts + 1)
    ]
    ends = partition_ends(count, parts)
    whole = all(a < b for a, b in pairwise((0, *expected)))
    assert whole == (list(ends) == expected)
    assert whole or parts > count // 2  # otherwise the published rule leaves no part empty
    # Every line is in one part, and no part is longer than a share rounded up.
    sizes = [b - a for a, b in pairwise((0, *ends))]
    assert sum(sizes) == count
    assert min(sizes) >= 1
    assert max(sizes) <= -(-count // parts)


def test_no_part_is_empty_where_the_published_rule_leaves_one():
    # int(6·2/5 + min(1/2, 1)) = 2 = int(6/5 + 1): the second part would have no line.
    assert partition_ends(6, 5) == (2, 3, 4, 5, 6)


@pytest.mark.parametrize(("count", "parts"), [(3, 4), (5, 0), (5, -1)])
def test_impossible_cuts(count, parts):
    with pytest.raises(CircuitError, match=f"{count} lines cannot be cut into {parts}"):
        partition_ends(count, parts)


def pair(rows, columns, value=1e-5):
    ones = torch.full((rows, columns), value, dtype=torch.float64)
    return ConductancePair(ones, ones / 2)


@pytest.mark.parametrize(
    ("inputs", "outputs", "horizontal", "vertical"),
    [(400, 120, 13, 4), (120, 84, 4, 3), (84, 10, 3, 1), (31, 32, 1, 1), (32, 33, 2, 2)],
)
def test_partitions_follow_from_the_size_of_arrays(inputs, outputs, horizontal, vertical):
    spec = build_crossbar(pair(outputs, inputs + 1), Config(), 30.0)
    assert (len(spec.column_ends), len(spec.row_ends)) == (horizontal, vertical)
    assert (spec.inputs, spec.outputs) == (inputs, outputs)
    assert max(b - a for a, b in spec.column_ranges) <= 32
    assert max(b - a for a, b in spec.row_ranges) <= 32
    assert spec.column_ranges[0][0] == 0
    assert spec.column_ranges[-1][1] == inputs + 1


def test_explicit_partitions_win():
    config = Config(crossbar=Crossbar(rows=2, columns=2, horizontal=3, vertical=1))
    spec = build_crossbar(pair(6, 9), config, 1.0)
    assert spec.column_ends == partition_ends(9, 3)
    assert spec.row_ends == (6,)


def test_values_come_from_the_configuration():
    config = Config(
        amplifier=Amplifier(input_resistance=2e3, output_resistance=5.0),
        crossbar=Crossbar(columns=3),
    )
    spec = build_crossbar(pair(4, 9), config, 12.0)
    assert float(spec.read_out.gain) == 12.0
    assert float(spec.read_out.resistance) == 2e3
    assert float(spec.read_out.combination.output_resistance) == 5.0
    # Three ideal sources behind 5 Ω each, tied together: 5/3 Ω
    assert float(spec.read_out.combination.series_resistance) == pytest.approx(5.0 / 3, rel=1e-15)
    assert float(spec.input_segment) == pytest.approx(9.241569, abs=5e-7)
    assert float(spec.output_segment) == pytest.approx(11.551961, abs=5e-7)
    total = build_crossbar(
        pair(4, 9), config.replace(amplifier=Amplifier(combine="sum", output_resistance=5.0)), 1.0
    )
    assert float(total.read_out.combination.series_resistance) == 0.0
    ideal = build_crossbar(
        pair(4, 9), config.replace(interconnect=Interconnect(resistance=False)), 1.0
    )
    assert (float(ideal.input_segment), float(ideal.output_segment)) == (0.0, 0.0)


def test_unresolved_per_layer_values():
    config = Config(crossbar=Crossbar(horizontal=(1, 2)))
    with pytest.raises(CircuitError, match="for_layer"):
        build_crossbar(pair(4, 9), config, 1.0)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_segment": number(-1.0)}, "input_segment"),
        ({"output_segment": number(float("nan"))}, "output_segment"),
        ({"column_ends": (4, 9)}, "combines 1 partitions"),
        ({"column_ends": (4,)}, r"column_ends = \(4,\) does not cut 9 lines"),
        ({"column_ends": (5, 5, 9)}, "column_ends"),
        ({"column_ends": ()}, "column_ends"),
        ({"row_ends": (0, 4)}, "row_ends"),
        ({"conductances": ConductancePair(pair(4, 9).positive, pair(4, 8).positive)}, "same"),
        ({"conductances": pair(4, 9, -1e-6)}, "positive conductances must be finite and >= 0"),
        ({"conductances": pair(4, 9, float("nan"))}, "positive conductances"),
        ({"conductances": ConductancePair(number([1.0]), number([1.0]))}, "M, N"),
    ],
)
def test_specification_checks_what_it_gets(changes, message):
    spec = build_crossbar(pair(4, 9), Config(), 30.0)
    with pytest.raises(CircuitError, match=message):
        replace(spec, **changes)


def test_open_cells_are_allowed():
    spec = build_crossbar(pair(4, 9, 0.0), Config(), 30.0)
    assert float(spec.conductances.positive.max()) == 0.0
