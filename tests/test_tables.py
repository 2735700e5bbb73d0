"""Text is text wherever it is made, a notebook included."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import types
from types import SimpleNamespace

import pytest
import torch
from small_networks import LOGISTIC, loader, mlp, signs

from imac_torch import DeviceModel, MonteCarlo, Noise, convert, evaluate
from imac_torch.base.progress import progress_bar
from imac_torch.base.tables import html_table, text_table
from imac_torch.cli.opening import called
from imac_torch.devices.effects import Gaussian
from imac_torch.reports.comparison import compared
from imac_torch.sweep import SweepTable

NOTEBOOK = """
    import builtins
    class ZMQInteractiveShell: pass
    builtins.get_ipython = ZMQInteractiveShell  # what rich looks for
    from rich.console import Console
    assert Console().is_jupyter  # that it still does
    from imac_torch.base.tables import text_table
    print(text_table("title", [("a", "b")], headings=("x", "y")), end="")
    from imac_torch.cli import circuit
    circuit.config(fields=True)
"""


def test_tables_and_the_command_line_are_text_in_a_notebook():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(NOTEBOOK)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = text_table("title", [("a", "b")], headings=("x", "y"))
    assert "title" in table
    assert done.stdout.startswith(table)
    assert "temperature" in done.stdout[len(table) :]


def test_names_are_no_markup():
    assert "[bold]x[/]" in text_table("[red]", [("[bold]x[/]",)], headings=("[y]",))
    assert "[red]" in text_table("[red]", [("a",)])


def test_html_is_escaped():
    assert html_table("a & b", [("<b>", "1")], headings=("x", "y")) == (
        "<table><caption>a &amp; b</caption><tr><th>x</th><th>y</th></tr>"
        "<tr><td>&lt;b&gt;</td><td>1</td></tr></table>"
    )


def test_results_render_as_html():
    network = convert(mlp(6, 4, 3), LOGISTIC)
    inputs = signs(25, 6)
    page = network._repr_html_()
    assert page.startswith("<table>")
    assert "Linear 6→4" in page
    report = evaluate(network, loader(inputs), progress=False)
    assert "accuracy of the circuit" in report._repr_html_()
    solution = network.solve(inputs)
    page = solution._repr_html_()
    assert "25 of 25 samples solved, the first 20" in page
    assert page.count("CONVERGED") == 20
    assert f"{float(solution.outputs[0, 0].detach()):.4g}" in page
    assert "25 of 25 samples solved" in str(solution)
    table = SweepTable(("a",), ("b",), ({"a": 1, "b": None, "status": "failed"},))
    assert "<td>1</td><td>–</td><td>failed</td>" in table._repr_html_()


def test_reprs_tell_of_tensors_and_not_their_numbers():
    network = convert(mlp(6, 4, 3), LOGISTIC)
    solution = network.solve(signs(25, 6))
    assert repr(solution).startswith(
        "Solution(outputs=<float64 (25, 3)>, layers=<2 × LayerSolution>, power=<Power>, "
    )
    assert "inputs=<float64 (25,)>" in repr(solution.power)
    report = evaluate(network, loader(signs(5, 6)), progress=False)
    for found in (solution, report, report.solution.layers):
        assert "tensor(" not in repr(found)
        assert len(repr(found)) < 1000


def test_notebooks_get_one_line_of_progress(monkeypatch):
    """As a kernel would show it: a display that is rewritten, and no widgets."""
    seen = []

    class Handle:
        def update(self, content, *, raw):
            seen.append(content)

    def display(content, *, raw, display_id):
        seen.append(content)
        return Handle()

    package = types.ModuleType("IPython")
    package.get_ipython = lambda: SimpleNamespace(kernel=object())
    package.display = types.ModuleType("IPython.display")
    package.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", package.display)
    with progress_bar("<a>", 3, "points") as advance:
        advance(3)
    with progress_bar("b", 3, "points", shown=False):
        pass
    assert [item["text/plain"].partition(" points")[0] for item in seen] == [
        "<a>: 0 of 3", "<a>: 3 of 3",
    ]  # fmt: skip
    assert '<progress max="3" value="0">' in seen[0]["text/html"]
    assert "&lt;a&gt;" in seen[1]["text/html"]


def test_ideal_amplifiers_are_not_counted():
    config = LOGISTIC.replace(crossbar=LOGISTIC.crossbar.replace(columns=3))
    report = evaluate(convert(mlp(6, 4, 3), config), loader(signs(4, 6)), progress=False)
    power = float(report.solution.power.amplifiers.mean())
    assert power > 1.0  # watts, of four outputs tied through milliohms
    for text in (str(report), report._repr_html_()):
        assert "ideal, not counted" in text
        assert "artefact" not in text
        assert f"{power:.4g}" not in text
    assert report.figures()["mean_power"]["amplifiers_artefact"] == pytest.approx(power)
    assert "amplifiers" not in report.figures()["mean_power"]


def test_directories_are_called_by_their_names(tmp_path, monkeypatch):
    place = tmp_path / "my network"
    place.mkdir()
    monkeypatch.chdir(place)
    assert called(".") == called("../my network/") == "my network"
    assert called("/") == "/"
    assert called("mine:build") == "mine:build"
    assert called("") == "my network"


def test_importing_tables_leaves_random_numbers_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    text_table("a", [("b",)])
    assert torch.equal(before, torch.get_rng_state())


def test_results_plot_themselves():
    """Each as a figure of matplotlib, with what its table says."""
    network = convert(mlp(6, 4, 3), LOGISTIC)
    report = evaluate(network, loader(signs(25, 6)), progress=False)
    assert report.plot()._repr_png_().startswith(b"\x89PNG")
    confusion, power, energies, _ = report.plot().axes  # the last is the scale of the first
    assert int(confusion.images[0].get_array().sum()) == 25
    widths = [patch.get_width() for patch in power.patches]
    assert sum(widths) == pytest.approx(report.mean_power()["total"], rel=1e-12)
    assert sum(patch.get_height() for patch in energies.patches) == 25
    (bars,) = network.noise(signs(5, 6), Noise(bandwidth=1e9)).plot().axes
    assert len(bars.patches) == 4
    (bars,) = compared({"a": report, "b": report}).plot().axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ["a", "b"]
    rows = ({"x": k, "y": 2 * k, "status": "done"} for k in range(3))
    (axes,) = SweepTable(("x",), ("y",), tuple(rows)).plot("x", "y", {"y": "max"}).axes
    others, best, _ = axes.get_lines()
    assert (list(others.get_xdata()), list(best.get_xdata())) == ([0, 1], [2])
    devices = DeviceModel((Gaussian(0.1),))
    result = MonteCarlo(network, devices, seed=1).run(signs(5, 6), samples=3)
    power, _ = result.plot().axes
    assert sum(patch.get_height() for patch in power.patches) == 3
    assert "power" in str(result)
    assert "tensor(" not in repr(result)
