"""The import graph points one way, importing does nothing, and public names exist."""

import ast
import functools
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import imac_torch
from imac_torch.base.old_names import MOVED, RENAMED, RESULTS

PACKAGE = "imac_torch"
ROOT = Path(imac_torch.__file__).parent

# The layers of the package, lowest first. A module imports from lower layers, or from its own as
# long as no cycle arises. A new module gets a place here; a sub-package has the place of its name.
LAYERS = (
    ("errors",),
    ("kernels", "numeric"),
    ("base", "software"),
    ("config", "finfet", "results"),
    ("mapping",),
    ("cells", "devices", "periphery"),
    ("circuit", "datasets"),
    ("elimination", "netlist", "reference"),
    ("dc", "simulator"),
    ("transient",),
    ("noise",),
    ("model",),
    ("conversion",),
    ("reports",),
    ("study",),
    ("sweep",),
    ("cli",),
    ("__main__",),
    ("",),  # the package's own __init__
)
# The two sides of a circuit. They meet above, in layers: neither imports the other, so that each
# checks the other's arithmetic and the package works without any SPICE.
NATIVE = {"kernels", "elimination", "reference", "dc", "transient", "noise"}
TEXT = {"netlist", "simulator"}
# Names with an underscore that others give their public things: os, torch's modules, named tuples,
# numba's dispatchers.
FOREIGN = {
    "_C", "_assert", "_cache", "_cache_file", "_exit", "_functorch", "_modules", "_parameters",
    "_replace",
}  # fmt: skip
LONGEST = 600
"""Lines of a module: about one noun it is half of that, and a longer one has two."""

Graph = dict[str, set[str]]


def noun(module: str) -> str:
    """The name below the package: ``imac_torch.netlist.layer`` → ``netlist``."""
    return module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]


def module_files(root: Path) -> dict[str, Path]:
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = (PACKAGE, *path.relative_to(root).with_suffix("").parts)
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


@functools.cache
def import_graph(root: Path) -> Graph:
    """Which module of the package imports which, wherever in a module the import stands."""
    files = module_files(root)
    graph: Graph = {}
    for module, path in files.items():
        base = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        targets = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                prefix = base[: len(base) - node.level + 1] if node.level else []
                source = ".".join([*prefix, *([node.module] if node.module else [])])
                for alias in node.names:
                    name = f"{source}.{alias.name}"
                    targets.add(name if name in files else source)
        graph[module] = {
            target
            for target in targets
            if target != module and (target == PACKAGE or target.startswith(f"{PACKAGE}."))
        }
    return graph


def wrong_way(graph: Graph) -> list[str]:
    """Imports of a higher layer, and modules without a place."""
    rank = {name: level for level, names in enumerate(LAYERS) for name in names}
    found = [
        f"{module}: give {noun(module)!r} a place in LAYERS of {Path(__file__).name}"
        for module in graph
        if noun(module) not in rank
    ]
    for module, targets in graph.items():
        for target in sorted(targets):
            if rank.get(noun(target), 0) > rank.get(noun(module), len(LAYERS)):
                found.append(f"{module} imports {target}, which is in a higher layer")
    return found


def cycle(graph: Graph) -> list[str]:
    """Modules that import each other in a circle, or an empty list."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph.get(module, ())):
            if circle := visit(target, [*path, module]):
                return circle
        done.add(module)
        return []

    for module in graph:
        if circle := visit(module, []):
            return circle
    return []


def crossings(graph: Graph) -> list[str]:
    """Ways, direct or not, from one side of the circuit to the other."""
    found = []
    for module in graph:
        forbidden = TEXT if noun(module) in NATIVE else NATIVE if noun(module) in TEXT else set()
        reached: set[str] = set()
        pending = [module]
        while pending:
            for target in graph.get(pending.pop(), set()) - reached:
                reached.add(target)
                pending.append(target)
        found += [f"{module} reaches {t}" for t in sorted(reached) if noun(t) in forbidden]
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in FOREIGN


def borrowed(root: Path) -> list[str]:
    """Private names that a module takes from another one of the package."""
    found = []
    for module, path in module_files(root).items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        own |= {node.id for node in nodes if isinstance(node, ast.Name)}
        own |= {
            node.attr for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        }  # fmt: skip
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                inside = node.level or (node.module or "").partition(".")[0] == PACKAGE
                names = [alias.name for alias in node.names] if inside else []
            elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
                # A method of one's base class is one's own.
                names = [] if ast.unparse(node.value) in ("self", "cls", "super()") else [node.attr]
            else:
                names = []
            private = filter(is_private, names)
            found += [f"{module} uses {name}, which is private" for name in private]
    return found


def too_long(root: Path) -> list[str]:
    counts = {
        module: path.read_text(encoding="utf-8").count("\n")
        for module, path in module_files(root).items()
    }
    return [f"{module} has {count} lines" for module, count in counts.items() if count > LONGEST]


def test_imports_point_downwards() -> None:
    assert wrong_way(import_graph(ROOT)) == []


def test_there_are_no_import_cycles() -> None:
    assert cycle(import_graph(ROOT)) == []


def test_text_and_native_side_do_not_know_each_other() -> None:
    assert crossings(import_graph(ROOT)) == []


def test_private_names_stay_in_their_module() -> None:
    assert borrowed(ROOT) == []


def test_modules_stand_in_rooms() -> None:
    # What users catch, the package itself and its command: everything else has a noun.
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


def test_the_picture_for_contributors_shows_these_layers() -> None:
    # Rooms stand in the first 34 columns, the top floor first; what has no room is left out.
    text = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = text.partition("```text\n")[2].partition("```")[0]
    floors = [tuple(line[:34].rstrip().split(" | ")) for line in picture.splitlines()]
    assert floors == [names for names in reversed(LAYERS) if names[0] not in ("", "__main__")]
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms | {"errors"} == {name for names in floors for name in names}


def test_files_that_contributors_are_sent_to_exist() -> None:
    text = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = re.findall(r"`((?:imac_torch|tests|benchmarks|docs|examples)/[^`*<]*)`", text)
    assert len(places) > 20 and [p for p in places if not (ROOT.parent / p).exists()] == []


def test_old_names_lead_to_what_they_named() -> None:
    for old, new in MOVED.items():
        assert (ROOT / f"{new.replace('.', '/')}.py").is_file()
        assert not (ROOT / f"{old}.py").exists()
    with pytest.warns(DeprecationWarning, match=r"imac_torch\.solution is now imac_torch\.results"):
        assert imac_torch.solution.Status is imac_torch.Status
    for name, place in RESULTS.items():
        text = rf"imac_torch\.{name} is now .*{place}\.{name}"
        with pytest.warns(DeprecationWarning, match=text):
            found = getattr(imac_torch, name)
        assert found.__module__ == f"imac_torch.{place}" and name not in imac_torch.__all__
    for old, new in RENAMED.items():
        with pytest.warns(DeprecationWarning, match=rf"imac_torch\.{old} is now imac_torch\.{new}"):
            assert getattr(imac_torch, old) is getattr(imac_torch, new)
    with pytest.raises(AttributeError):
        _ = imac_torch.nothing


def test_a_stage_is_a_part_of_a_time_step() -> None:
    """Layers are called layers; see the glossary."""
    named = [
        f"{path.parent.name}: {found}"
        for path in ROOT.rglob("*.py")
        for found in re.findall(r"^class (\w*Stage\w*)", path.read_text(encoding="utf-8"), re.M)
    ]
    assert all(item.startswith("transient: Stage") for item in named), named


def test_no_module_is_too_long() -> None:
    assert too_long(ROOT) == []


def fake_package(root: Path, **modules: str) -> Graph:
    for name, text in modules.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return import_graph(root)


def test_the_checks_see_what_they_look_for(tmp_path: Path) -> None:
    graph = fake_package(
        tmp_path,
        errors="def f():\n    from imac_torch.circuit import Circuit",
        circuit="from imac_torch import wires, errors",
        wires="import imac_torch.errors",
        netlist__text="from ..elimination.blocks import x\nfrom . import other",
        netlist__other="from .text import y",
        elimination__blocks="import imac_torch.elimination.chain",
        elimination__chain="from imac_torch.nodal import z",
        nodal="from imac_torch.netlist.other import w",
        novelty="",
    )
    assert graph["imac_torch.circuit"] == {"imac_torch.wires", "imac_torch.errors"}
    assert graph["imac_torch.netlist.text"] == {
        "imac_torch.elimination.blocks", "imac_torch.netlist.other"
    }  # fmt: skip
    problems = wrong_way(graph)
    assert any("errors imports imac_torch.circuit" in problem for problem in problems)
    assert any("give 'novelty' a place" in problem for problem in problems)
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert cycle(graph)[0] == cycle(graph)[-1]
    reached = crossings(graph)
    # not directly
    assert "imac_torch.elimination.chain reaches imac_torch.netlist.other" in reached
    assert "imac_torch.netlist.text reaches imac_torch.elimination.blocks" in reached


def test_the_checks_of_single_modules_see_what_they_look_for(tmp_path: Path) -> None:
    fake_package(
        tmp_path,
        one="from imac_torch.other import _hidden, shown\nfrom torch import _C",
        two="from imac_torch import other\nother._hidden()\nother.__name__",
        three="class A:\n    def f(self, a):\n        self._x = a._x\n        self._of_base()",
        four="x = 1\n" * (LONGEST + 1),
        five="x = 1\n" * LONGEST,
    )
    assert borrowed(tmp_path) == [
        "imac_torch.one uses _hidden, which is private",
        "imac_torch.two uses _hidden, which is private",
    ]
    assert too_long(tmp_path) == [f"imac_torch.four has {LONGEST + 1} lines"]


# What torch makes on the default device unless it is told where.
FACTORIES = {
    "arange", "as_tensor", "asarray", "empty", "empty_permuted", "empty_strided", "eye", "full",
    "linspace", "logspace", "normal", "ones", "rand", "randint", "randn", "randperm", "range",
    "scalar_tensor", "sparse_coo_tensor", "sparse_csr_tensor", "tensor", "tril_indices",
    "triu_indices", "zeros",
}  # fmt: skip


def without_device(source: str) -> list[int]:
    """Lines of factory calls of torch that leave the device to the user's default."""
    found: list[int] = []
    if not any(f"torch.{name}(" in source for name in FACTORIES):
        return found  # most files, which need not be parsed
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value
        if isinstance(owner, ast.Name) and owner.id == "torch" and node.func.attr in FACTORIES:
            device = [word.value for word in node.keywords if word.arg == "device"]
            if not device or (isinstance(device[0], ast.Constant) and device[0].value is None):
                found.append(node.lineno)
    return found


def test_every_tensor_is_made_where_it_is_said_to_be() -> None:
    assert without_device("torch.zeros(3)\ntorch.ones(2, device=None)") == [1, 2]
    assert without_device("torch.zeros(3, device=x.device)\nx.new_zeros(3)") == []
    found = [
        f"{path.name}:{line}"
        for path in module_files(ROOT).values()
        for line in without_device(path.read_text(encoding="utf-8"))
    ]
    assert not found, found


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


STATE = """
import logging, os, random, sys, warnings
import numpy, torch

def state():
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "interop": torch.get_num_interop_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "torch seed": torch.random.get_rng_state().tolist(),
        "numpy seed": numpy.random.get_state()[1].tolist(),
        "python seed": random.getstate(),
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "handlers": list(logging.getLogger().handlers),
        "numpy errors": numpy.geterr(),
    }
"""


def test_importing_is_light_and_changes_nothing() -> None:
    """In a new process: the package, a module by its old name, then every module."""
    heavy = ["numba", "torchvision", "matplotlib", "sklearn", "scipy", "hypothesis"]
    # The command line is a program of its own: rich, which it prints with, draws from Python's
    # random numbers when it is imported.
    modules = [
        name for name in module_files(ROOT) if noun(name) not in ("cli", "__main__")
    ]
    output = run(
        f"""{STATE}
import importlib
before = state()

def changed(*names):
    found = [key for key, value in state().items() if value != before[key]]
    return found + [name for name in names if name in sys.modules]

import imac_torch, imac_torch.elimination.choice
print(changed(*{heavy}))
import imac_torch.waveform
from imac_torch.waveform import sample
import imac_torch.results.waveform as new
print(sample is new.sample)
for name in {modules}:
    importlib.import_module(name)
print(changed("torchvision", "matplotlib", "sklearn"))
"""
    )
    assert output.split("\n") == ["[]", "True", "[]"]


@pytest.mark.parametrize("module", sorted(m for m in module_files(ROOT) if "__main__" not in m))
def test_public_names_exist(module: str) -> None:
    __import__(module)
    loaded = sys.modules[module]
    names = getattr(loaded, "__all__", [])
    assert len(set(names)) == len(names), "a name is listed twice"
    assert [name for name in names if not hasattr(loaded, name)] == []
