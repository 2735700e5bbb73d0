"""HSPICE model cards: reading, refusing, writing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imac_torch.errors import ModelCardError
from imac_torch.finfet import (
    PTM_NODES,
    FinFET,
    ModelCard,
    builtin_14nm_hp,
    load_ptm,
    parse_model_cards,
    read_model_cards,
    write_model_card,
)
from imac_torch.finfet.parameters import DEFAULTS, FLAGS, REQUIRED, resolve_parameters

FLAGS_TEXT = "bulkmod=1 igcmod=1 igbmod=1 rdsmod=1 rgeomod=1 cgeomod=2"


def card_text(body: str = "", header: str = ".model nfet nmos level=72 version=105.03") -> str:
    return f"{header}\n+ {FLAGS_TEXT} vasat=0.6\n+ {body}\n"


def parse_one(text: str) -> ModelCard:
    (card,) = parse_model_cards(text, "user.pm").values()
    return card


def test_reads_the_layout_of_hspice_cards():
    text = """** title
.param vdd=0.8
.MODEL NFet NMOS level = 72
+ bulkmod = 1   $ a comment with = signs
+lmin    = 1e-008          lmax    = 3e-008
*=============== flags ================*
+version = 105.03 Bulkmod = 1  igcmod=1 igbmod = 1
+ rdsmod = 1 rgeomod = 1 cgeomod = 2

+ tfin = 10n  HFIN=23n u0 = 0.05
* a comment between continuations
+ u0 = 0.06 vasat=0.6
.model pfet pmos (level=72 bulkmod=1 rdsmod=1 rgeomod=1 cgeomod=2, vasat=.6)
"""
    cards = parse_model_cards(text)
    assert set(cards) == {"NFet", "pfet"}
    n = cards["NFet"]
    assert (n.polarity, n.version) == ("n", "105.03")
    assert n.parameters["tfin"] == 10e-9
    assert n.parameters["hfin"] == 23e-9
    assert n.parameters["u0"] == 0.06  # the last value counts
    assert "level" not in n.parameters
    assert cards["pfet"].polarity == "p"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r1 a b 1k\n", "no .model statement"),
        (card_text("u0 = fast"), "line 1.*u0 = 'fast' is not a number"),
        (card_text("u0"), "cannot read 'u0'"),
        (card_text("u0 = 1 2"), "cannot read '2'"),
        (card_text("gidlmod = 1"), "gidlmod = 1 is not implemented; use gidlmod = 0"),
        (card_text("geomod = 3"), "geomod = 3 is not implemented"),
        (card_text("k1 = 0.1"), "k1 = 0.1 switches on an effect"),
        (card_text("ngate = 1e26"), "ngate = 1e"),
        (card_text("qwerty = 1"), "not BSIM-CMG parameters.*qwerty"),
        (card_text("lu0 = 1"), "binning"),
        (card_text("u0 = nan"), "not finite"),
        (card_text(header=".model nfet nmos level=54"), "level 54"),
        (card_text(header=".model nfet nmos"), "no level"),
        (card_text(header=".model nfet npn level=72"), "'npn' is not a transistor"),
        (card_text(header=".model nmos level=72"), "expected '.model NAME"),
        (card_text(header=".model nfet nmos level=72 version=106.1"), "version 106.1"),
        (card_text() + card_text(), "defined twice"),
        (".model nfet nmos level=72 version=105.03\n", r"bulkmod = 0 \(the default\)"),
    ],
)
def test_refuses_by_name(text, message):
    with pytest.raises(ModelCardError, match=message) as caught:
        parse_model_cards(text, "user.pm")
    assert "user.pm" in str(caught.value)


@pytest.mark.parametrize("flag", sorted(FLAGS))
def test_refuses_every_flag_value_that_is_not_implemented(flag):
    supported = FLAGS[flag][1]
    other = max(supported) + 1
    n, _ = builtin_14nm_hp()
    card = ModelCard("x", "n", "105.03", {**n.parameters, flag: other})
    with pytest.raises(ModelCardError, match=f"{flag} = {other}"):
        FinFET(card)


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_refuses_every_effect_that_is_not_implemented(name):
    n, _ = builtin_14nm_hp()
    card = ModelCard("x", "n", "105.03", {**n.parameters, name: REQUIRED[name] + 1.0})
    with pytest.raises(ModelCardError, match=f"{name} = "):
        FinFET(card)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nfin": 0.0}, "nfin must be positive"),
        ({"length": 2e-9}, "gate length must be positive"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"version": "104"}, "version 104"),
        ({"overrides": {"nosuch": 1.0}}, "nosuch"),
        ({"overrides": {"l": 1e-8}}, "use the argument length"),
    ],
)
def test_refuses_instances_that_are_not_physical(arguments, message):
    with pytest.raises(ModelCardError, match=message):
        FinFET(builtin_14nm_hp()[0], **arguments)


def test_version_105_needs_vasat():
    n, _ = builtin_14nm_hp()
    values = {k: v for k, v in n.parameters.items() if k != "vasat"}
    with pytest.raises(ModelCardError, match="vasat"):
        FinFET(ModelCard("x", "n", "105.03", values))
    FinFET(ModelCard("x", "n", "107", values))


@pytest.mark.parametrize("arguments", [("nfet", "x"), ("n fet", "n"), ("nfet", "n", "99")])
def test_card_validates_itself(arguments):
    with pytest.raises(ModelCardError):
        ModelCard(*arguments)


def test_card_is_read_only():
    card = builtin_14nm_hp()[0]
    with pytest.raises(TypeError):
        card.parameters["u0"] = 1.0  # type: ignore[index]


def test_written_card_reads_back():
    for card in builtin_14nm_hp():
        assert parse_one(write_model_card(card)) == card


@given(
    st.dictionaries(
        st.sampled_from(sorted(DEFAULTS.keys() - {"vasat"})),
        st.floats(allow_nan=False, allow_infinity=False),
        max_size=12,
    )
)
@example({"adej": 3.639948771649997e16})  # within four units in the last place of twelve digits
def test_every_finite_card_survives_writing(values):
    base = builtin_14nm_hp()[0].parameters
    card = ModelCard("x1", "p", "107", {**base, **values})
    assert parse_one(write_model_card(card)) == card


@given(st.text(alphabet=".model nfet\n+*$=()'0123456789eunk-72", max_size=80))
def test_any_text_is_read_or_refused(text):
    # The only failure allowed is the reader's own error, whatever the bytes.
    for candidate in (text, card_text(text)):
        try:
            cards = parse_model_cards(candidate)
        except ModelCardError:
            continue
        assert all(isinstance(card, ModelCard) for card in cards.values())


def test_missing_file_and_unknown_node():
    with pytest.raises(ModelCardError, match="cannot read model cards"):
        read_model_cards(Path("no/such/file.pm"))
    with pytest.raises(ModelCardError, match="no 5 nm node"):
        load_ptm("x", 5)
    with pytest.raises(ModelCardError, match="flavour 'ulp'"):
        load_ptm("x", 7, "ulp")


def test_all_ptm_cards_can_be_used(shared):
    for flavour in ("hp", "lstp"):
        for node in PTM_NODES:
            for card in load_ptm(shared / "ptm", node, flavour):
                assert card.version == "105.03"
                FinFET(card)


def test_builtin_equals_ptm(shared):
    for builtin, ptm in zip(builtin_14nm_hp(), load_ptm(shared / "ptm", 14), strict=True):
        ours = resolve_parameters(builtin.parameters, {}, "builtin")
        theirs = resolve_parameters(ptm.parameters, {}, "ptm")
        assert {k: v.item() for k, v in ours.items()} == {k: v.item() for k, v in theirs.items()}
        assert all(builtin.parameters[k] == ptm.parameters[k] for k in FLAGS if k in ptm.parameters)
        assert (builtin.name, builtin.version) == (ptm.name, ptm.version)
