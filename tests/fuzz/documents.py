"""Values and texts that nobody wrote by hand: hypothesis for whatever takes tables and strings."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz import samples
from fuzz.harness import Outcome, WrongAnswer, attempt
from imac_torch.base.units import parse_spice_number, spice_number
from imac_torch.config import Config
from imac_torch.config.assignment import apply_overrides, field_paths, parse_assignment
from imac_torch.datasets.imac_sim_script import read_imac_sim_script
from imac_torch.finfet.card import parse_model_cards
from imac_torch.netlist.subcircuits import AMPLIFIER_PORTS, read_subcircuit
from imac_torch.simulator import parse_listing
from imac_torch.sweep import read_sweep

EXAMPLES = 40
"""Of one attack."""

_scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from((10**400, 1e308, "9nm", "5%", "finfet", "none", "[/red]"))
)  # fmt: skip
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_paths = st.sampled_from([path for path, _ in field_paths()])
_anything = st.text(max_size=60)
_lines = st.lists(
    st.sampled_from((
        ".subckt amplifier plus minus out", ".ends", ".ends amplifier", "E1 out 0 plus minus 10",
        "R1 plus minus {1/2}", "+ a=1", ".param x=1", ".model m nmos level=72 l=1", "*# shell ls",
        ".control", "$ c", "", "B1 out 0 V='tanh(v(plus))'", ".include x.sp",
    )) | st.text(max_size=30), max_size=10,
).map("\n".join)  # fmt: skip
_numbers = st.from_regex(
    r"[+-]?[0-9]{0,4}\.?[0-9]{0,3}([eEdD][+-]?[0-9]{0,3})?[a-z]{0,4}", fullmatch=True
)
_script = st.lists(
    st.sampled_from((
        "vdd=0.8", "nodes=[1]*9", "nodes = nodes*2", "vdd = 10**10**10", "x = 'a'*10**9",
        "while True: pass", "for k in range(10**12): vdd = k", "def f(): return f()", "f()",
        "import os; os.system('touch flag')", "nodes = [[]]", "nodes.append(nodes)",
        "vdd = 1/0", "gain = [x for x in range(10**9)]", "x = -(-(-(-1)))", "vdd = '%s' % nodes",
        "vdd <<= 10**6", "if vdd: nodes.pop()", "class A: pass", "lambda: 0", "nodes[10**9] = 1",
    )) | st.text(max_size=20), max_size=8,
).map("\n".join)  # fmt: skip


def _assignment(text: str) -> None:
    path, value = parse_assignment(text)
    apply_overrides(samples.LOGISTIC, {path: value})


def _field(item: tuple[str, Any]) -> None:
    path, value = item
    made = apply_overrides(samples.LOGISTIC, {path: value})
    if Config.from_json(made.to_json()) != made:
        raise WrongAnswer(f"{path} = {value!r} is another one when it is written and read")


def _section(item: dict[str, Any]) -> None:
    Config.from_dict({"schema": 1, **item})


def _json(value: Any) -> None:
    Config.from_json(json.dumps(value))


def _spice(text: str) -> None:
    value = parse_spice_number(text)
    written = parse_spice_number(spice_number(value)) if math.isfinite(value) else value
    if math.isfinite(value) and abs(written - value) > 4 * math.ulp(value):
        raise WrongAnswer(f"{text!r} is another number when it is written and read")


def _subcircuit(text: str) -> None:
    path = Path("own.sp")
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    found = read_subcircuit(path, AMPLIFIER_PORTS)
    lines = found.text.lower().splitlines()
    if any(line.startswith((".control", "*#", ".include")) for line in lines):
        raise WrongAnswer("a statement that is no definition got into a netlist")


def _read_script(text: str) -> None:
    path = Path("testIMAC.py")
    path.write_bytes(samples.SCRIPT + text.encode("utf-8", "surrogatepass"))
    read_imac_sim_script(path)


def _sweep(content: dict[str, Any]) -> None:
    from fuzz.mutate import as_toml

    path = Path("s.toml")
    path.write_bytes(as_toml(random.Random(0), {"model": {"source": "x:y"}, **content}))
    read_sweep(path).base(None)


_sections = st.dictionaries(
    st.sampled_from(sorted({*(p.partition(".")[0] for p, _ in field_paths()), "layers", "x"})),
    st.dictionaries(
        st.sampled_from(sorted({path.rpartition(".")[2] for path, _ in field_paths()})),
        _values, max_size=3,
    ) | _values, max_size=3,
)  # fmt: skip
_sweeps = st.dictionaries(
    st.sampled_from(
        ("model", "data", "base", "run", "set", "grid", "points", "objectives", "search")
    ), _values, max_size=3,
)  # fmt: skip
TARGETS: tuple[tuple[str, st.SearchStrategy[Any], Callable[[Any], object]], ...] = (
    ("--set FIELD=VALUE", st.builds("{}={}".format, _paths | _anything, _values | _anything),
     _assignment),
    ("--set, any text", _anything, _assignment),
    ("a field's value", st.tuples(_paths, _values), _field),
    ("a section's values", _sections, _section),
    ("a JSON document", _values, _json),
    ("a sweep's tables", _sweeps, _sweep),
    ("SPICE numbers", _numbers | _anything, _spice),
    ("sub-circuit texts", _lines, _subcircuit),
    ("texts of model cards", _lines, lambda text: parse_model_cards(text)),
    ("listings", _lines, lambda text: parse_listing(text)),
    ("scripts", _script, _read_script),
)  # fmt: skip


class Documents:
    """Examples that hypothesis draws for one target after the other."""

    name = "documents"

    def __init__(self, examples: int = EXAMPLES) -> None:
        self.examples = examples

    def attack(self, rng: random.Random, place: Path) -> list[Outcome]:
        name, strategy, action = rng.choice(TARGETS)
        found: list[Outcome] = []

        @seed(rng.getrandbits(32))
        @settings(
            max_examples=self.examples, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(strategy)
        def examine(value: Any) -> None:
            outcome = attempt(name, lambda: action(value))
            if outcome.kind == "bad":
                outcome = Outcome(outcome.kind, name, f"{value!r:.2000}\n{outcome.text}")
            found.append(outcome)

        examine()
        return found

