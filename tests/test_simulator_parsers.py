"""Parsers of what simulators write, on recorded files of the documented formats."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from imac_torch.errors import SimulatorError
from imac_torch.simulator import NgSpice, parse_listing, read_measure_file, read_post, read_raw
from imac_torch.simulator.hspice_text import name_measures

DATA = Path(__file__).parent / "data" / "hspice"
LONG_NAME = "v(a_name_longer_than_sixteen_characters)"


def test_measure_file_with_wrapped_lines_and_engineering_notation():
    values, failed = name_measures(read_measure_file(DATA / "wrapped.mt0"))
    assert values["vout0_0"] == 612.3456e-3
    # The trap of IMAC-Sim: the suffix is a factor of 1e-15, not text to be dropped.
    assert values["vout0_1"] == pytest.approx(1.23456e-14, rel=1e-15, abs=0.0)
    assert values["vout1_1"] == -0.12345678901
    assert values["pwr"] == 3.5e6
    assert failed == {"vout1_0", "vout1_0[0]"}
    assert "vout1_0" not in values


def test_measure_file_of_a_sweep_names_rows():
    table = read_measure_file(DATA / "sweep.ms0")
    assert table.columns == ("index", "x1", "x2", "vout0", "temper", "alter#")
    values, failed = name_measures(table)
    assert values["vout0[0]"] == 0.125
    assert values["x2[1]"] == 0.8
    assert failed == {"vout0[1]"}
    assert "vout0" not in values


@pytest.mark.parametrize("cut", [" 3.5meg              25.0000             1.0000\n", "alter#"])
def test_truncated_measure_file_is_an_error(tmp_path, cut):
    text = (DATA / "wrapped.mt0").read_text()
    assert cut in text
    path = tmp_path / "cut.mt0"
    path.write_text(text[: text.index(cut)])
    with pytest.raises(SimulatorError, match=r"cut\.mt0"):
        read_measure_file(path)


def test_measure_file_names_the_measure_with_a_bad_number(tmp_path):
    path = tmp_path / "bad.mt0"
    path.write_text((DATA / "wrapped.mt0").read_text().replace("12.3456f", "12,3456"))
    with pytest.raises(SimulatorError, match="vout0_1"):
        read_measure_file(path)


def test_listing_of_a_concluded_run():
    listing = parse_listing((DATA / "concluded.lis").read_text())
    assert listing.version == "T-2022.06"
    assert listing.concluded
    assert not listing.aborted
    assert listing.errors == ()
    assert listing.measures["vout0_0"] == 612.3456e-3
    assert listing.measures["vout0_1"] == pytest.approx(1.23456e-14, rel=1e-15, abs=0.0)
    assert listing.measures["tdelay"] == pytest.approx(421e-12, rel=1e-15, abs=0.0)
    assert listing.failed == {"vout1_0"}
    # A retried DC point and a normal licence checkout are not failures.
    assert listing.convergence is None
    assert listing.licence is None


def test_listing_tells_convergence_and_licence_failures():
    listing = parse_listing((DATA / "no_convergence.lis").read_text())
    assert listing.aborted
    assert not listing.concluded
    assert listing.convergence is not None
    assert "no convergence in operating point" in listing.convergence
    assert listing.licence is None
    listing = parse_listing((DATA / "no_licence.lis").read_text())
    assert listing.licence is not None
    assert "license" in listing.licence.lower()
    assert listing.convergence is None
    assert "DP parseonly failed" in listing.errors[0]


@pytest.mark.parametrize(
    "name",
    ["ascii_9601", "ascii_2001", "binary_9601_little", "binary_9601_big", "binary_2001_little"],
)
def test_post_files(name):
    (table,) = read_post(DATA / f"{name}.tr0")
    assert list(table) == ["time", "v(in)", LONG_NAME]
    # 9601 keeps 24 bits (binary) or five digits (ASCII) of a number
    tolerance = 1e-7 if "9601" in name else 1e-15
    np.testing.assert_allclose(table["time"], [0.0, 1.25e-10, 4e-9], rtol=tolerance)
    np.testing.assert_allclose(table["v(in)"], [0.0, 0.8, -0.8], rtol=tolerance)
    np.testing.assert_array_equal(table[LONG_NAME], [0.5, -0.25, 0.125])


@pytest.mark.parametrize("name", ["ascii_2001", "binary_2001_little"])
def test_truncated_post_file_is_an_error(tmp_path, name):
    content = (DATA / f"{name}.tr0").read_bytes()
    for length in (10, 200, len(content) - 20):
        path = tmp_path / f"cut_{length}.tr0"
        path.write_bytes(content[:length])
        with pytest.raises(SimulatorError, match=f"cut_{length}"):
            read_post(path)


def raw_header(points, kind="Binary", flags="real"):
    return (
        "Title: * t\nDate: today\nPlotname: Transient Analysis\n"
        f"Flags: {flags}\nNo. Variables: 2\nNo. Points: {points}\n"
        f"Variables:\n\t0\ttime\ttime\n\t1\tV(Out)\tvoltage\n{kind}:\n"
    ).encode()


def test_raw_binary_with_several_plots(tmp_path):
    path = tmp_path / "a.raw"
    first = raw_header(2) + struct.pack("<4d", 0.0, 0.1, 1e-9, -0.25)
    second = raw_header(1) + struct.pack("<2d", 5.0, 6.0)
    path.write_bytes(first + second)
    plots = read_raw(path)
    assert len(plots) == 2
    np.testing.assert_array_equal(plots[0]["v(out)"], [0.1, -0.25])
    np.testing.assert_array_equal(plots[1]["time"], [5.0])
    path.write_bytes(first[:-8])
    with pytest.raises(SimulatorError, match="truncated"):
        read_raw(path)
    path.write_bytes(first[:40])
    with pytest.raises(SimulatorError, match="inside a header"):
        read_raw(path)


def test_a_result_file_of_several_plots_is_refused(tmp_path):
    path = tmp_path / "a.raw"
    plot = raw_header(1) + struct.pack("<2d", 5.0, 6.0)
    path.write_bytes(plot)
    assert NgSpice()._read_waveforms(path) == read_raw(path)[0]
    path.write_bytes(plot + plot)
    with pytest.raises(SimulatorError, match="2 tables, one was expected"):
        NgSpice()._read_waveforms(path)


def test_raw_ascii(tmp_path):
    path = tmp_path / "a.raw"
    text = raw_header(2, "Values") + b" 0\t0.0\n\t1.0e-01\n\n 1\t1e-9\n\t-2.5e-01\n"
    path.write_bytes(text + b"\n" + text)
    plots = read_raw(path)
    assert len(plots) == 2
    for plot in plots:
        np.testing.assert_array_equal(plot["time"], [0.0, 1e-9])
        np.testing.assert_array_equal(plot["v(out)"], [0.1, -0.25])
    path.write_bytes(text[:-10])
    with pytest.raises(SimulatorError, match=r"truncated|a\.raw"):
        read_raw(path)


def test_raw_refuses_complex_values(tmp_path):
    path = tmp_path / "ac.raw"
    path.write_bytes(raw_header(1, flags="complex") + struct.pack("<4d", 1.0, 0.0, 0.5, 0.5))
    with pytest.raises(SimulatorError, match="complex"):
        read_raw(path)
