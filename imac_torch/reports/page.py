"""What the pages of all reports have in common: templates, the directory, the section on noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from imac_torch.base.files import exclusive
from imac_torch.base.units import quantity
from imac_torch.conversion.storage import save
from imac_torch.model.network import IMACNetwork
from imac_torch.noise.result import NoiseFigures
from imac_torch.reports.chart import bar_chart, library
from imac_torch.reports.model_report import ModelReport
from imac_torch.reports.report import Report

__all__ = ["noise_section", "saved_in", "template_environment"]


def template_environment() -> Environment:
    """The environment of the package's templates: undefined names are errors."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html", "html.jinja"], default=True),
        undefined=StrictUndefined,
    )
    environment.globals.update(quantity=quantity, library=library)
    return environment


@contextmanager
def saved_in(
    directory: str | Path, report: Report | ModelReport, network: IMACNetwork | None
) -> Iterator[Path]:
    """A directory with a report and its network, which nobody else fills meanwhile.

    Args:
        directory: New, or without a report.
        report: Saved there.
        network: Saved beside it as ``network.safetensors``; None: it is not.

    Raises:
        DataError: The directory holds a report already, or cannot be written.
    """
    directory = Path(directory)
    with ExitStack() as stack:
        with suppress(OSError):  # saving the report says why
            stack.enter_context(exclusive(directory, results=True))
        report.save(directory)
        if network is not None:
            save(network, directory / "network.safetensors", overwrite=True)
        yield directory


def noise_section(noise: NoiseFigures | None) -> dict[str, Any] | None:
    """Chart and table of noise that was drawn; None where there was none."""
    if noise is None:
        return None
    (table,) = noise.tables()
    return {
        "table": table,
        "chart": bar_chart(
            {name: dict(layer.shares) for name, layer in noise.layers.items()},
            "what noise at outputs comes from",
            percent=True,
        ),
    }
