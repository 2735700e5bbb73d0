"""The notebooks of the docs run as a reader runs them, and show what a notebook is for."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "docs" / "tutorials").glob("*.ipynb"))


def test_tutorials_run(tmp_path: Path) -> None:
    """One after another in one kernel, which forgets all names between them: imports are once."""
    forget = nbformat.v4.new_code_cell("%reset -f")
    books = [nbformat.read(path, as_version=4) for path in TUTORIALS]
    assert len(books) == 3
    together = nbformat.v4.new_notebook()
    for book in books:
        nbformat.validate(book)
        together.cells += [forget.copy(), *book.cells]
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(together, timeout=300, kernel_name="python3", resources=place).execute()
    for path, book in zip(TUTORIALS, books, strict=True):
        shown = [
            output["data"]
            for cell in book.cells
            if cell.cell_type == "code"
            for output in cell.outputs
            if output["output_type"] in ("execute_result", "display_data")
        ]
        assert any("<table>" in data.get("text/html", "") for data in shown), path
        assert any("image/png" in data for data in shown), path
        assert not any("tensor(" in data.get("text/plain", "") for data in shown), path
