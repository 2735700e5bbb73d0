"""The notebooks of the docs run from top to bottom, and show what a notebook is for.

Here cell by cell in this process; ``make docs`` runs them in a kernel, as a reader does.
"""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "docs" / "tutorials").glob("*.ipynb"))


def run(path: Path, cells: list[dict[str, Any]]) -> list[object]:
    """Execute the cells in one namespace; what stands at their ends is what they show."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for cell in cells:
        tree = ast.parse("".join(cell["source"]), path.name)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), path.name, "eval"), names))
    return [value for value in shown if value is not None]


QUICK = "design_search"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=() if path.stem == QUICK else pytest.mark.slow, id=path.stem)
        for path in TUTORIALS
    ],
)
def test_a_tutorial_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["metadata"]["kernelspec"]["name"]) == (4, "python3")
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    with torch.random.fork_rng(devices=[]):
        values = run(path, cells)
    tables = [value._repr_html_() for value in values if hasattr(value, "_repr_html_")]
    assert any("<table>" in text for text in tables)
    figures = [value for value in values if isinstance(value, Figure)]
    assert figures
    for figure in figures:
        figure.savefig(picture := io.BytesIO(), format="png")
        assert picture.tell() > 5000
    assert not any("tensor(" in repr(value) for value in values)


def test_there_are_three_of_them() -> None:
    assert len(TUTORIALS) == 3 and QUICK in {path.stem for path in TUTORIALS}
