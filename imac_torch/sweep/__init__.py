"""Sweeps over configurations: cached, resumable, here or on a cluster; fronts and search."""

from imac_torch.sweep.backends import Backend, Dask, InProcess, Processes
from imac_torch.sweep.evaluator import Evaluator, NetworkEvaluator
from imac_torch.sweep.file import SweepFile, read_sweep
from imac_torch.sweep.page import render_sweep
from imac_torch.sweep.pareto import pareto_front
from imac_torch.sweep.points import Point, grid, product
from imac_torch.sweep.runner import run_sweep
from imac_torch.sweep.search import Choices, Range, search
from imac_torch.sweep.store import Store, SweepTable
from imac_torch.sweep.tasks import Outcome, Task

__all__ = [
    "Backend",
    "Choices",
    "Dask",
    "Evaluator",
    "InProcess",
    "NetworkEvaluator",
    "Outcome",
    "Point",
    "Processes",
    "Range",
    "Store",
    "SweepFile",
    "SweepTable",
    "Task",
    "grid",
    "pareto_front",
    "product",
    "read_sweep",
    "render_sweep",
    "run_sweep",
    "search",
]
