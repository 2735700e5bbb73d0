"""IMAC-Sim's script is read as Python would, or refused: never misread, never slow."""

from __future__ import annotations

import math
import random
import textwrap
from pathlib import Path

import pytest

from imac_torch.config import Noise
from imac_torch.datasets.imac_sim_script import SCRIPT_NAMES, read_imac_sim_script
from imac_torch.datasets.script_values import LARGEST_SCRIPT, Module, Unknown, script_values
from imac_torch.errors import DataError

TOP = """
import math
vdd=0.8
vss=-0.8
nodes=[400,120,84,10]
xbar=[32,32]
gain=[30,30,10]
tech_node=9e-9
rlow=5e3
rhigh=15e3
"""

# Scripts that are run here, to compare names with what Python says.
RUN = {
    "last wins": "vdd = 0.7\nvdd = 0.9",
    "annotations": "vdd: float = 0.7\nvss: float\nrlow: 'Ohm' = 4e3",
    "augmented": "rlow *= 2\nrlow += 1\nrlow -= 3\nrlow /= 4\nrlow //= 3\nrlow **= 2\nrlow %= 999",
    "floor and modulo": "testnum = 7 // 2\nfirstimage = -7 // 2\nL = 7.5 // 2\nD = -7 % 3",
    "tuples": "vdd, vss = 0.7, -0.7\n(rlow, rhigh), gain = (1e3, 2e3), [1, 2, 3]",
    "swap": "rlow, rhigh = 10e3, 20e3\nrhigh, rlow = rlow, rhigh",
    "star": "a, *nodes, b = [1, 2, 3, 4, 5]\n*gain, c = (7, 8, 9)",
    "chains": "vdd = H = T = 0.5",
    "calls": "testnum = int('12')\nxbar = list((16, 8))\ngain = [30] * len(nodes)\nvdd = float(1)",
    "generators": "L = sum(x * k for x in nodes for k in range(2) if x > 10)\n"
    "W = max(v for v in [1])",
    "more calls": "L = abs(-3)\nW = max(1, 2)\nD = round(2.567, 1)\nH = sum([1, 2])\n"
    "T = min([3, 4])",
    "conditionals": "vdd = 0.9 if xbar[0] > 16 else 0.7\nif vdd > 0.8:\n    rlow = 1\nelse:\n"
    "    rlow = 2",
    "elif": "if vdd > 1: rlow = 1\nelif vdd == 0.8 and not vss > 0: rlow = 2\nelse: rlow = 3",
    "chained comparison": "rlow = 1 if 0 < vdd < 1 else 2",
    "loops": "for k in range(3):\n    rlow = rlow + k\nwhile rlow > 4000:\n    rlow -= 500",
    "break and else": "for k in range(9):\n    if k == 4: break\n    rlow = k\nelse:\n"
    "    rlow = 99",
    "continue": "gain = []\nfor k in range(6):\n    if k % 2: continue\n    gain.append(k)",
    "its own partitions": "hpar=[math.ceil((x+1)/xbar[0]) for x in nodes]\nhpar.pop()\n"
    "vpar=[math.ceil(x/xbar[1]) for x in nodes]\nvpar.pop(0)",
    "aliases": "other = nodes\nother[1] = 7\nother.append(3)\nother += [1]",
    "copies": "other = nodes[:]\nother[1] = 7\nmore = list(nodes)\nmore.append(3)\n"
    "n = nodes.copy()",
    "aliases again": "gain = nodes\nnodes = nodes + [1]\ngain *= 2",
    "slices": "nodes = nodes[1:]\ngain[0:2] = [1, 2]\nxbar = xbar[::-1]\nrlow = nodes[-1]",
    "items": "gain[0] = 5\ngain[-1] += 2",
    "texts": "data_dir = 'a' + 'b'\nspice_dir = f'{data_dir}/x{xbar[0]}'\nlabel_file = 'ab' * 2",
    "paths": "import os\nimport os.path as p\ndata_dir = os.path.join('a', 'b')\n"
    "spice_dir = p.join('c')",
    "names of math": "from math import ceil, floor as down\nL = ceil(2.1)\nW = down(2.9)\n"
    "D = math.sqrt(4)",
    "all of math": "from math import *\nL = ceil(2.1)",
    "numpy": "import numpy as np\nL = np.ceil(2.1)\nW = np.sqrt(9.0)",
    "tables": "s = {'vdd': 0.9, 'n': [1, 2]}\nvdd = s['vdd']\nnodes = s['n']\ns['n'].append(3)",
    "walrus": "(vdd := 0.9)\nrlow = (rhigh := 7e3) / 2",
    "main": "if __name__ == '__main__':\n    vdd = 0.9",
    "a variable of its own": "x = 5\nL = [x for x in range(3)]\nW = x",
    "booleans": "vdd = 0 or 0.9\nL = 1 and 2\nW = not 3\nD = vdd and 4",
    "nothing happens": "pass\n'text'\nassert vdd\nprint(vdd)",
    "a function that is not called": "def f():\n    global vdd\n    vdd = 5\n    nodes.append(3)",
    "powers": "L = 2 ** 10\nW = 10 ** -9\nD = 2.0 ** 0.5\nH = -2 ** 2",
    "starred": "nodes = [*nodes, 5]\ngain = (*gain, 1)",
    "latin": "# µ\nL = 5",
}

# Scripts of which Python cannot be sure without running them: none of these names is read.
REFUSED = {
    "input": ("vdd = float(input())", ("vdd",)),
    "argv": ("import sys\nvdd = float(sys.argv[1])", ("vdd",)),
    "own function": ("def f(x): return x\nvdd = f(0.8)", ("vdd",)),
    "global": ("def f():\n    global vdd\n    vdd = 5\nf()", ("vdd",)),
    "method with a global": (
        "class A:\n    def f(self):\n        global vdd\n        vdd = 5\nA().f()", ("vdd",),
    ),
    "function that changes a list": ("def f():\n    nodes.append(3)\nf()", ("nodes",)),
    "function that changes its argument": ("def f(n):\n    n[0] = 3\nf(nodes)", ("nodes",)),
    "lambda": ("f = lambda: nodes.append(3)\nf()", ("nodes",)),
    "condition": ("import os\nif os.path.exists('x'):\n    vdd = 0.7", ("vdd",)),
    "condition with a list": ("if input():\n    nodes.pop()\n    gain[0] = 1", ("nodes", "gain")),
    "loop": ("for line in open('x'):\n    vdd = float(line)\n    gain += [1]", ("vdd", "gain")),
    "long loop": ("while True:\n    vdd += 1", ("vdd",)),
    "try": ("try:\n    vdd = 0.7\n    int('x')\nexcept ValueError:\n    rlow = 3", ("vdd", "rlow")),
    "match": ("match input():\n    case 'a':\n        vdd = 3", ("vdd",)),
    "star import": ("from settings import *", ("vdd", "rlow", "H", "hpar")),
    "exec": ("exec('vdd = 3')", ("vdd", "vss", "T")),
    "globals": ("globals()['vdd'] = 3", ("vdd",)),
    "shuffle": ("import random\nrandom.shuffle(gain)", ("gain",)),
    "alias": ("other = nodes\nother[int(input())] = 3", ("nodes", "other")),
    "held": ("other = [nodes]\nother[0].append(int(input()))", ("nodes", "other")),
    "del": ("del vdd", ("vdd",)),
    "lengths": ("vdd, vss = 1, 2, 3", ("vdd", "vss")),
    "fails": ("vdd = 1 / 0\nL = [1][5]\nW = int('x')", ("vdd", "L", "W")),
    "with": ("with open('x') as vdd:\n    rlow = float(vdd.read())", ("vdd", "rlow")),
    "imported": ("from settings import vdd, rlow as rhigh", ("vdd", "rhigh")),
    "numbers of others": ("import settings\nvdd = settings.vdd", ("vdd",)),
    "formatted": ("data_dir = '%d' % 3\nspice_dir = f'{vdd:.2f}'", ("data_dir", "spice_dir")),
    "generator": ("b = 1\nx = (b for _ in [1])\nb = 2\nvdd = max(x)", ("x", "vdd")),
    "built-in": ("__builtins__['int'] = 3\nvdd = __builtins__", ("vdd",)),
    "after the run": (
        "import mapIMAC\nmapIMAC.mapIMAC(nodes)\nvdd = 3\nnodes.append(5)", ("vdd", "nodes"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUN)
def test_names_are_what_python_makes_of_them(name):
    source = TOP + RUN[name]
    expected: dict[str, object] = {"__name__": "__main__"}
    exec(compile(source, "script", "exec"), expected)
    found = script_values(source.encode())
    for key, value in found.items():
        if isinstance(value, Module) or key.startswith("__"):
            continue
        if isinstance(value, Unknown):
            assert callable(expected.get(key)) or (name == "all of math"), (key, value)
            continue
        if callable(value):
            continue
        assert value == expected[key], key
        assert isinstance(expected[key], type(value)), key
    assert {key for key in expected if not key.startswith("__")} <= set(found)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_known_is_said_so(name, tmp_path):
    text, names = REFUSED[name]
    found = script_values((TOP + text).encode(), end="mapIMAC.mapIMAC")
    for key in names:
        assert isinstance(found.find(key), Unknown), key
    path = tmp_path / "testIMAC.py"
    path.write_text(TOP + text)
    if set(names) & set(SCRIPT_NAMES):
        with pytest.raises(DataError, match=r"testIMAC.py, line \d+: \w+ is not known without"):
            read_imac_sim_script(path)


def test_random_programs_are_never_misread():
    """Names of random statements, some of which cannot be known, against Python's own answer."""
    generator = random.Random(7)
    simple = [
        "a = {n}", "b = a + {n}", "a, b = b, a", "c = [a, b, {n}]", "c.append(a)", "d = c",
        "d[0] = {n}", "c = c + [b]", "c += [{n}]", "a += b", "b = len(c) * {n}", "a = c[-1]",
        "b = sum(c)", "c = sorted(c)[:5]", "a = max(c) if len(c) > 3 else {n}", "f()", "g(c)",
        "b = h({n})", "d = [x * 2 for x in c]", "del c[0]", "a = unknown({n})", "d = list(c)",
        "u = (a, c)", "e = [c, d]", "e[0].append({n})", "c = c[:4]", "d = d[:4]", "e = []",
    ]  # fmt: skip
    blocks = [
        "for k in range(3):\n    {s}\n    {t}", "if a > b:\n    {s}\nelse:\n    {t}",
        "k = 0\nwhile k < 3:\n    k += 1\n    {s}\n    if b > 3: break",
        "if unknown({n}) % 2:\n    {s}", "try:\n    {s}\nexcept IndexError:\n    {t}",
    ]  # fmt: skip
    start = textwrap.dedent("""
        a, b, c, d, e, u = 1, 2, [1, 2, 3], [4, 5, 6], [], ()
        def f():
            global a
            a = 77
        def g(x):
            x[0] = 55
        def h(x):
            d.append(x)
            return x
    """)
    known = unknown = 0
    for _ in range(400):
        lines = []
        for _ in range(generator.randint(1, 12)):
            line = generator.choice(simple + blocks)
            parts = {
                key: generator.choice(simple).format(n=generator.randint(0, 9)) for key in "st"
            }
            lines.append(line.format(n=generator.randint(0, 9), **parts))
        source = start + "\n".join(lines)
        expected = {"unknown": lambda n: n * 3 + 1}
        try:
            exec(compile(source, "script", "exec"), expected)
        except (LookupError, ValueError, MemoryError):
            continue  # no script of anybody
        found = script_values(source.encode())
        for key in "abcdeu":
            value = found[key]
            if isinstance(value, Unknown):
                unknown += 1
                continue
            known += 1
            assert value == expected[key], f"{key} in\n{source}"
    assert min(known, unknown) > 100


HOSTILE = {
    "exponent": "vdd = 9 ** 9 ** 9",
    "power of powers": "vdd = 2 ** 1000 * 2 ** 1000",
    "shift": "vdd = 1 << 10 ** 9",
    "list": "vdd = [0] * 10 ** 9",
    "text": "vdd = 'x' * 10 ** 9",
    "range": "vdd = list(range(10 ** 12))",
    "doubling": "v = [0]\n" + "v = [v, v]\n" * 60 + "vdd = v",
    "growing": "v = [0]\nwhile True:\n    v += v\nvdd = v",
    "itself": "vdd = [0]\nvdd.append(vdd)\nvdd[0] = vdd",
    "printed": "v = [0] * 9000\nv = [v, v]\nvdd = str(v)",
    "comprehension": "vdd = [x for x in range(9999) for y in range(9999) for z in range(9999)]",
    "loops": "for a in range(9999):\n  for b in range(9999):\n    for c in range(9999):\n"
    "      vdd = a",
    "brackets": "vdd = " + "(" * 5000 + "1" + ")" * 5000,
    "minus": "vdd = " + "-" * 50_000 + "1",
    "sum": "vdd = " + "+".join(["1"] * 50_000),
    "attributes": "vdd = a" + ".b()" * 20_000,
    "branches": "if input(): pass\n" + "elif input(): pass\n" * 900 + "else: vdd = 3",
    "digits": "vdd = " + "9" * 5000,
    "statements": "a = 1\n" * 49_000 + "vdd = b",
    "lists": "".join(f"a{k} = [{k}]\n" for k in range(5000)) + "f(a0)\n" * 5000 + "vdd = f()",
    "format": "vdd = '{:1000000000d}'.format(3)",
    "rounding": "vdd = [round(5, -10 ** 9)]",
    "slices": "vdd = [0]\nwhile True: vdd[:0] = vdd",
    "extension": "vdd = [0]\nwhile True: vdd.extend(vdd)",
    "starred": "vdd = [0]\nwhile True: vdd = [*vdd, *vdd]",
    "in place": "vdd = [[0]]\nwhile True: vdd[0] += vdd[0]",
    "comparison": "v = [0]\nfor k in range(60): v = [v, v]\nw = [v, v]\nvdd = v == w",
    "percent": "vdd = '%1000000000d' % 3",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_takes_long_or_much_memory(name, tmp_path):
    path = tmp_path / "testIMAC.py"
    path.write_text(TOP + HOSTILE[name])
    if name == "statements":
        assert len(TOP + HOSTILE[name]) < LARGEST_SCRIPT
    with pytest.raises(DataError, match=r"testIMAC.py"):
        read_imac_sim_script(path)


def test_large_and_strange_files_are_refused(tmp_path: Path):
    path = tmp_path / "testIMAC.py"
    path.write_bytes(b"#" * 10_000_000)
    with pytest.raises(DataError, match="10000000 bytes, of which at most"):
        read_imac_sim_script(path)
    for content in (b"\x00", b"vdd = 3\x00", b"\xff\xfe", b"print 'a'", b"vdd = = 3"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"testIMAC\.py"):
            read_imac_sim_script(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_imac_sim_script(tmp_path)


LATIN = "# -*- coding: latin-1 -*-\n# µ".encode("latin-1")


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", LATIN])
def test_encodings_are_those_of_python(prefix, tmp_path):
    path = tmp_path / "testIMAC.py"
    path.write_bytes(prefix + TOP.encode())
    assert read_imac_sim_script(path).nodes == (400, 120, 84, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("testnum = 4.5", "testnum = 4.5 is not a whole number"),
        ("nodes = [4.0, 2]", "must be a list of integers"),
        ("gain = 30", "gain = 30 must be a list of numbers"),
        ("gain = ['30', 2, 3]", "must be a list of numbers"),
        ("vdd = True", "vdd = True is not a number"),
        ("data_dir = 3", "data_dir = 3 is not a text"),
        ("tech_node = 9", "9 nm meant"),
        ("weight_var = 500", "5% meant"),
    ],
)
def test_inputs_of_another_kind_are_refused(text, message, tmp_path):
    path = tmp_path / "testIMAC.py"
    path.write_text(TOP + text)
    with pytest.raises(ValueError, match=message):
        read_imac_sim_script(path)


def test_partitions_are_the_scripts_or_follow_from_the_size(tmp_path):
    path = tmp_path / "testIMAC.py"

    def partitions(text):
        path.write_text(TOP + text)
        size = read_imac_sim_script(path).config.crossbar
        return size.horizontal, size.vertical

    assert partitions("") == (None, None)
    assert partitions(RUN["its own partitions"]) == (None, None)  # 13, 4, 3 and 4, 3, 1
    assert partitions("hpar = [13, 4, 4]\nvpar = [4, 3, 2]") == ((13, 4, 4), (4, 3, 2))
    assert partitions("hpar = [math.ceil(x / 20) for x in nodes]") == ((20, 6, 5), None)
    assert math.ceil(84 / 20) == 5


def test_the_noise_of_earlier_scripts_is_that_of_the_inputs(tmp_path):
    path = tmp_path / "testIMAC.py"
    for text, noise in (("noise = 0.05", Noise(inputs=0.05, circuit=False)), ("", Noise())):
        path.write_text(TOP + text)
        assert read_imac_sim_script(path).config.noise == noise
