"""Files of users are data: what is no definition is refused, whatever its spelling."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from small_networks import LOGISTIC, loader, mlp, signs

from imac_torch import (
    NetlistSettings,
    Neuron,
    NgSpice,
    Spice,
    compile,
    convert,
    evaluate,
    load,
    save,
)
from imac_torch.errors import ConfigError, FileWarning, NetlistError
from imac_torch.netlist.definitions import read_definitions
from imac_torch.netlist.subcircuits import AMPLIFIER_PORTS, read_subcircuit
from imac_torch.simulator import check

pytestmark = pytest.mark.filterwarnings(
    "ignore::imac_torch.errors.ConversionWarning", "ignore::imac_torch.errors.NeuronWarning"
)

DC = NetlistSettings(analysis="dc")
AMPLIFIER = """.subckt mine plus minus out gain=10 r=1000
R2 plus n2 'r'
R4 n2 0 'gain*r'
R1 minus n1 'r'
R3 n1 out 'gain*r'
Evirtual n1 0 n2 0 1
Eplus out below n2 0 '1+gain'
Eminus below 0 minus 0 '-gain'
.ends mine
"""
BLOCK = "\nshell touch ran\n.endc\n"
INSIDE = ".subckt inner a b\n{}\n.ends inner\n"

HOSTILE = {
    # ngspice takes every line that begins with .control for one
    "control": ".control" + BLOCK,
    "longer": ".controlx" + BLOCK,
    "shorter": ".contro" + BLOCK,
    "upper": "\t .CONTROL x" + BLOCK,
    "vertical tab": "\x0b.control" + BLOCK,
    "null": ".control\x00" + BLOCK,
    "no-break space": "\u00a0.control" + BLOCK,
    "homoglyph": ".\u0441ontrol" + BLOCK,
    "carriage returns": "* x\r.control\rshell touch ran\r.endc\r\n",
    "windows": ".control\r\nshell touch ran\r\n.endc\r\n",
    "line separator": "* x\u2028\n.control" + BLOCK,
    "command in a comment": "*# shell touch ran\n",
    "continued": ".con\n+trol" + BLOCK,
    "split by a backslash": ".con\\\ntrol" + BLOCK,
    "after the end": ".end\n.control" + BLOCK,
    "inside": INSIDE.format(".control" + BLOCK),
    "included": ".include bad.sp\n",
    "abbreviated": ".inc 'bad.sp'\n",
    "longer include": ".includes bad.sp\n",
    "glued include": ".include'bad.sp'\n",
    "continued include": ".include\n* comment\n+ \"bad.sp\"\n",
    "nested include": ".include deep/next.sp\n",
    "linked include": ".include link.sp\n",
    "include with a comment": ".INCLUDE bad.sp $ harmless\n",
    "include inside": INSIDE.format(".include bad.sp"),
    "section": ".lib lib.sp bad\n",
    "section, quoted": ".LIB 'lib.sp' BAD\n",
    "own section": ".lib x\n.control" + BLOCK + ".endl x\n",
    "no such section": ".lib lib.sp other\n",
    "includes itself": ".include a.sp\n",
    "variable": ".include $HOME/bad.sp\n",
    "pipe": ".include pipe\n",
    "device": ".include /dev/zero\n",
    "huge": ".include huge\n",
    "directory": ".include deep\n",
    "element": "Rshort y1 0 1\n",
    "element, continued": "Rshort\n+ y1 0 1\n",
    "call": "X1 y1 0 mine\n",
    "code model": INSIDE.format("A1 [a] [b] m"),
    "compiled model": INSIDE.format("N1 a b m"),
    "model that reads a file": '.model m filesource (file="/etc/passwd")\n',
    "model that runs a program": INSIDE.format('.model m d_process (process_file="sh")'),
    "waveform from a file": INSIDE.format("V1 a b pwl pwlfile='x'"),
    "file of a line": INSIDE.format("W1 a 0 b 0 rlgcfile=x n=1 l=1"),
    "function": ".func tanh(x) {0}\n",
    "function, longer": ".functions tanh(x) {0}\n",
    "function as a parameter": ".param tanh(x)='0'\n",
    "function among parameters": ".param a=1 tanh (x) = {0}\n",
    "function inside": INSIDE.format(".func tanh(x) {0}"),
    "parameter called as a function": ".param tanh=0\n",
    "parameter of the deck": ".param value_x1=0\n",
    "unknown function": INSIDE.format("B1 a b v=system(1)"),
    "option": ".options reltol=1\n",
    "global": ".global y1\n",
    "initial": ".ic v(y1)=0\n",
    "analysis": ".tran 1n 1u\n",
    "measure": ".meas tran y1_0 param=0\n",
    "condition": ".if (1)\nR1 y1 0 1\n.endif\n",
    "constant": ".csparam a=1\n",
    "temperature": ".temp 400\n",
    "not closed": ".subckt inner a\nR1 a 0 1\n",
    "closed twice": ".ends\n",
    "another's end": ".subckt inner a\n.ends mine\n",
    "quote": INSIDE.format("R1 a b '1"),
    "brace": INSIDE.format("R1 a b {1"),
    "backtick": INSIDE.format("R1 a b `id`"),
    "comment of some": INSIDE.format("R1 a b 1//2"),
    "name of a layer": ".subckt LAYER1 a\nR1 a 0 1\n.ends\n",
    "name of ours": ".subckt neuron_logistic z out vdd\nR1 out 0 1\n.ends\n",
    "name of ours, nested": INSIDE.format(".subckt neuron_logistic z\nR1 z 0 1\n.ends"),
    "twice, differently": ".subckt mine a\nR1 a 0 1\n.ends\n",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bad.sp").write_text("* x\n.control" + BLOCK)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "next.sp").write_text(".include ../bad.sp\n")
    (tmp_path / "link.sp").symlink_to(tmp_path / "bad.sp")
    (tmp_path / "lib.sp").write_text(
        ".lib good\n.model dd d is=1e-14\n.endl good\n.lib bad\n.control" + BLOCK + ".endl\n"
    )
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(2**40)
    return tmp_path


@pytest.fixture(scope="module")
def network():
    return convert(mlp(4, 3, 2), LOGISTIC)


PAIRS = loader(signs(1, 4))


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_definition_is_refused(folder, network, name):
    path = folder / "a.sp"
    for text in (AMPLIFIER + HOSTILE[name], HOSTILE[name] + AMPLIFIER):
        path.write_bytes(text.encode())
        with pytest.raises(NetlistError) as caught:
            compile(network, PAIRS, folder / "run", settings=DC, amplifier=path)
        assert str(path) in str(caught.value)  # and mostly the line, which differs
        assert not (folder / "run").exists()


def test_definitions_are_written_as_they_were_understood(folder):
    (folder / "helper.sp").write_text(
        "\ufeff* a diode, its parameter\r\n.PARAM area = {2*3} scale='1 + 1'\r\n"
        ".subckt Helper a b w=1 $ a comment\r\n+ l = 2\r\nD1 a b dd 'area*w' ; another\r\n"
        ".ends helper\r\n"
    )
    path = folder / "a.sp"
    path.write_text(
        ".lib 'lib.sp' GOOD\n.inc 'helper.sp'\n.include helper.sp\n.protect\n"
        ".subckt mine plus minus\n+ out\nBx out 0 v='limit(v(plus)-v(minus),\n* c\n+ -1, 1)'\n"
        "X1 plus 0 Helper w=3\n.ends\n"
    )
    item = read_subcircuit(path, AMPLIFIER_PORTS)
    assert item.name == "mine"
    assert item.text == (
        ".model dd d is=1e-14\n.param area={2*3}\n.param scale='1 + 1'\n"
        ".subckt Helper a b w=1 l = 2\nD1 a b dd 'area*w'\n.ends helper\n"
        ".subckt mine plus minus out\nBx out 0 v='limit(v(plus)-v(minus), -1, 1)'\n"
        "X1 plus 0 Helper w=3\n.ends mine\n"
    )


def test_long_statements_are_wrapped_and_time_is_linear(tmp_path):
    """100,000 continuation lines are one statement; written in lines that HSPICE takes."""
    path = tmp_path / "a.sp"
    path.write_text(".model m nmos level=1\n" + "".join(f"+ p{k}={k}\n" for k in range(100_000)))
    (only,) = read_definitions(path)[0]
    assert max(map(len, only.text.splitlines())) <= 210
    assert only.text.count("=") == 100_001


def test_a_helper_with_the_name_of_another_serves_nobody_else(ngspice, tmp_path, network):
    """The same helper in two files stands once in the netlist; another one is refused."""
    native = evaluate(network, PAIRS, progress=False).outputs
    helper = ".subckt copy a b\nEcopy b 0 a 0 1\n.ends copy\n"
    other = helper.replace(" 1\n", " 2\n")
    amplifier, neuron = tmp_path / "amp.sp", tmp_path / "neuron.sp"
    amplifier.write_text(helper + AMPLIFIER)
    shape = (
        ".subckt own z out vdd slope=11 rout=1000\nXcopy z g copy\n"
        "Eshape f 0 vol='0.5*v(vdd)*(1-tanh(0.5*slope*v(g)))'\nRout f out 'rout'\n.ends\n"
    )
    item = convert(mlp(4, 3, 2), LOGISTIC.replace(
        neuron=Neuron(kind="logistic", subcircuit=str(neuron))
    ))  # fmt: skip
    neuron.write_text(helper + shape)
    deck = compile(item, PAIRS, tmp_path / "same", settings=DC, amplifier=amplifier)
    spice = check(deck.run(NgSpice(str(ngspice)), progress=False))
    torch.testing.assert_close(spice.solution.outputs, native, rtol=0, atol=1e-9)
    log = (deck.directory / "batch_00000" / "batch.log").read_text()
    assert "redefinition" not in log
    neuron.write_text(other + shape)
    with pytest.raises(NetlistError, match="both define copy, differently"):
        compile(item, PAIRS, tmp_path / "other", settings=DC, amplifier=amplifier)


def test_trust_is_the_users_word(ngspice, tmp_path, network):
    """What is refused runs when the user says so: the file is taken as it is."""
    ran = tmp_path / "ran"
    path = tmp_path / "a.sp"
    path.write_text(f"{AMPLIFIER}.control\nshell touch {ran}\n.endc\n")
    deck = compile(network, PAIRS, tmp_path / "run", settings=DC, amplifier=path, trust=True)
    assert (deck.directory / "circuit" / "amplifier.sp").read_text() == path.read_text()
    deck.run(NgSpice(str(ngspice)), progress=False)
    assert ran.exists()
    own = LOGISTIC.replace(neuron=Neuron(kind="logistic", subcircuit=str(tmp_path / "n.sp")))
    text = ".options gmin=1e-15\n.subckt own z out vdd\nRout out 0 1k\n.ends\n"
    (tmp_path / "n.sp").write_text(text)
    item = convert(mlp(4, 3, 2), own)
    with pytest.raises(NetlistError, match="trust=True"):
        evaluate(item, PAIRS, engine=Spice(NgSpice(str(ngspice))), progress=False)
    engine = Spice(NgSpice(str(ngspice)), trust=True)
    assert not evaluate(item, PAIRS, engine=engine, progress=False).failures


def test_a_network_file_does_not_use_other_files_unasked(tmp_path):
    named = LOGISTIC.replace(neuron=Neuron(kind="logistic", subcircuit=str(tmp_path / "n.sp")))
    (tmp_path / "n.sp").write_text(".subckt own z out vdd\nRout out 0 1k\n.ends\n")
    path = save(convert(mlp(4, 3, 2), named), tmp_path / "net.safetensors")
    with pytest.warns(FileWarning, match=r"net\.safetensors names other files.*n\.sp"):
        item = load(path)
    evaluate(item, PAIRS, progress=False)  # the native engine reads none
    with pytest.raises(ConfigError, match="files=True"):
        compile(item, PAIRS, tmp_path / "run", settings=DC)
    assert not (tmp_path / "run").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FileWarning)
        compile(load(path, files=True), PAIRS, tmp_path / "run", settings=DC)
        load(save(convert(mlp(4, 3, 2), LOGISTIC), tmp_path / "plain.safetensors"))
