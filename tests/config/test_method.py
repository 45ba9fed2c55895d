"""The method of an ensemble: how it is changed, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.config.gate import Gate
from unisono.config.method import Method
from unisono.config.sampling import Sampling
from unisono.config.speculation import AUTO, NGRAM, OFF, Speculation, check_off
from unisono.errors import SpecError

METHOD = Method("a", gate=Gate("confidence", threshold=0.5, boundary=True), speculate=Speculation("b", 4))
NAMES = st.text(st.characters(exclude_characters=":"), min_size=1).filter(lambda name: name != OFF)


@pytest.mark.parametrize(
    ("value", "speculation"),
    [
        (None, None),
        ("off", None),
        (False, None),
        ("smol", Speculation("smol")),
        ("smol:6", Speculation("smol", 6)),
        ("ngram:64", Speculation(NGRAM, 64)),
        ("auto", Speculation(AUTO)),
        ({"drafter": "smol"}, Speculation("smol")),
        ({"drafter": "smol", "max_pieces": 1}, Speculation("smol", 1)),
        ({"drafter": "smol", "max_pieces": np.int64(3)}, Speculation("smol", 3)),
        (Speculation("smol", 3), Speculation("smol", 3)),
    ],
)
def test_a_speculation_is_read(value: object, speculation: Speculation | None) -> None:
    assert Speculation.parse(value) == speculation


@given(NAMES, st.integers(1, 64))
def test_a_speculation_is_read_from_what_it_is_written_as(drafter: str, pieces: int) -> None:
    speculation = Speculation(drafter, pieces)
    assert Speculation.parse(str(speculation)) == speculation


@pytest.mark.parametrize(
    ("value", "message", "way_out"),
    [
        ("smol:0", "max_pieces is 0: it must be a whole number from 1 to 64", "pieces of a draft"),
        ("smol:65", "max_pieces is 65", "pieces of a draft"),
        ("smol:-1", "max_pieces is -1", "pieces of a draft"),
        ("smol:many", "max_pieces is 'many'", "pieces of a draft"),
        ("smol:", "max_pieces is ''", "pieces of a draft"),
        ("", "the drafter is ''", "name a member, ngram or auto"),
        ("smol:" + "9" * 5000, "max_pieces is '999", "pieces of a draft"),
        ({"drafter": "smol", "max_pieces": 10**5000}, "max_pieces is a value of type int that", "pieces of a draft"),
        ("smol:６", "max_pieces is '６'", "pieces of a draft"),
        ("smol:1_0", "max_pieces is '1_0'", "pieces of a draft"),
        ({"drafter": "smol", "max_pieces": "6"}, "max_pieces is '6'", "write 6"),
        ({"drafter": False}, "the drafter is off", "write speculate: off"),
        ({"drafter": "off"}, "the drafter is off", "write speculate: off"),
        ({"smol": 6}, "unknown key 'smol' in speculate", "write it as smol, smol:6"),
        (True, "speculate is true", "off for nobody"),
        (":6", "the drafter is ''", "name a member, ngram or auto"),
        ({"max_pieces": 6}, "speculate lacks the key 'drafter'", "name a member, ngram or auto"),
        ({"drafter": 7}, "the drafter is 7", "name a member, ngram or auto"),
        ({"drafter": "smol", "max_pieces": True}, "max_pieces is true", "pieces of a draft"),
        ({"drafter": "smol", "max_pieces": 6.0}, "max_pieces is 6.0", "pieces of a draft"),
        ({"drafter": "smol", "max_piece": 6}, "'max_piece' in speculate; did you mean 'max_pieces'?", ""),
        (6, "speculate is 6", "write it as smol, smol:6"),
    ],
)
def test_a_bad_speculation_is_refused_with_its_value_and_the_way_out(value: object, message: str, way_out: str) -> None:
    with pytest.raises(SpecError) as refusal:
        Speculation.parse(value)
    assert message in refusal.value.message
    assert way_out in (refusal.value.hint or "")


def test_a_method_with_nothing_changed_is_that_method() -> None:
    assert METHOD.but() == METHOD
    assert Method().but() == Method()


def test_what_is_given_is_replaced_and_the_rest_stays() -> None:
    assert METHOD.but(lead="b") == Method("b", gate=METHOD.gate, speculate=METHOD.speculate)
    assert METHOD.but(boundary=False).gate == Gate("confidence", threshold=0.5)
    assert METHOD.but(max_pieces=9).speculate == Speculation("b", 9)
    assert METHOD.but(speculate="ngram").speculate == Speculation(NGRAM)
    assert METHOD.but(speculate="ngram", max_pieces=9).speculate == Speculation(NGRAM, 9)
    assert METHOD.but(gate="every:3").gate == Gate("every", n=3)
    assert METHOD.but(gate="every:3", boundary=True).gate == Gate("every", n=3, boundary=True)


def test_off_ends_speculation() -> None:
    assert METHOD.but(speculate="off").speculate is None
    assert Method().but(speculate="off") == Method()


@pytest.mark.parametrize(
    ("method", "keys", "message"),
    [
        (METHOD, {"gate": "confidence:1.5"}, "the threshold of the gate 'confidence' is 1.5"),
        (METHOD, {"boundary": "yes"}, "boundary is 'yes'"),
        (METHOD, {"max_pieces": 0}, "max_pieces is 0"),
        (METHOD, {"speculate": "off", "max_pieces": 4}, "max_pieces is given, but nobody drafts"),
        (Method(), {"max_pieces": 4}, "max_pieces is given, but nobody drafts"),
    ],
)
def test_a_bad_change_is_refused(method: Method, keys: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as refusal:
        method.but(**keys)  # type: ignore[arg-type]
    assert message in refusal.value.message
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("method", "members"),
    [
        (Method(), ["a"]),
        (METHOD, ["a", "b"]),
        (Method("b", gate=Gate("first", n=3), speculate=Speculation(AUTO)), ["a", "b"]),
        (Method("a", speculate=Speculation(NGRAM)), ["a"]),
        (Method(speculate=Speculation(AUTO)), ["a"]),
        (Method("a", speculate=Speculation("a")), ["a", "b"]),
        (Method(speculate=Speculation("a")), ["a", "ngram"]),
    ],
)
def test_a_method_that_fits_its_members_is_let_pass(method: Method, members: list[str]) -> None:
    method.check(dict.fromkeys(members, 1 / len(members)))


@pytest.mark.parametrize(
    ("method", "members", "message", "way_out"),
    [
        pytest.param(
            Method("gema"),
            ["smol", "gemma"],
            "the lead 'gema' is not a member that votes; did you mean 'gemma'?",
            "members that vote: smol, gemma",
            id="the lead is no member",
        ),
        pytest.param(
            Method(gate=Gate("confidence", threshold=0.5)),
            ["a"],
            "the gate 'confidence:0.5' has no other member to ask: a votes alone",
            "leave the gate out, or add a member",
            id="a gate without others",
        ),
        pytest.param(
            Method(gate=Gate(boundary=True)), ["a"], "the gate 'always boundary' has no other", "", id="a boundary too"
        ),
        pytest.param(
            Method(speculate=Speculation("gema")),
            ["smol", "gemma"],
            "the drafter 'gema' is not a member that votes; did you mean 'gemma'?",
            "name one of smol, gemma, or ngram, auto, or off for nobody",
            id="the drafter is no member",
        ),
        pytest.param(
            Method(speculate=Speculation("ngam")), ["smol", "gemma"], "did you mean 'ngram'?", "", id="nearly ngram"
        ),
        pytest.param(
            Method(speculate=Speculation("OFF")),
            ["a", "b"],
            "did you mean 'off'?",
            "or off for nobody",
            id="nearly off",
        ),
        pytest.param(
            Method(speculate=Speculation("a")),
            ["a"],
            "'a' votes alone: drafts of its own would be verified by nobody",
            "let ngram draft, or nobody, or add a member",
            id="the drafter votes alone",
        ),
        pytest.param(
            Method(speculate=Speculation(NGRAM)),
            ["a", "ngram"],
            "the drafter 'ngram' could be the member of that name",
            "give that member another name",
            id="a member is named ngram",
        ),
        pytest.param(
            Method(speculate=Speculation(AUTO)),
            ["auto", "b"],
            "the drafter 'auto' could be the member of that name",
            "give that member another name",
            id="a member is named auto",
        ),
    ],
)
def test_a_method_that_does_not_fit_is_refused_with_the_way_out(
    method: Method, members: list[str], message: str, way_out: str
) -> None:
    with pytest.raises(SpecError) as refusal:
        method.check(dict.fromkeys(members, 1 / len(members)))
    assert message in refusal.value.message
    assert way_out in (refusal.value.hint or "")


def test_a_lead_that_is_no_name_is_refused_like_any_other() -> None:
    with pytest.raises(SpecError, match="the lead is 3"):
        Method().but(lead=3)  # type: ignore[arg-type]


def test_a_method_reads_its_fields_as_a_spec_does() -> None:
    method = Method(gate="confidence:0.5 boundary", speculate="smol:4")  # type: ignore[arg-type]
    assert method == Method(gate=Gate("confidence", 0.5, boundary=True), speculate=Speculation("smol", 4))
    assert Method(gate=None, speculate=False) == Method()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gate": "confidance"}, "unknown gate 'confidance'"),
        ({"gate": 3}, "gate is 3"),
        ({"speculate": 3}, "speculate is 3"),
        ({"lead": b"a"}, "the lead is b'a'"),
        ({"combine": None}, "combine is null"),
        ({"combine": "median"}, "unknown rule 'median'; did you mean 'mean'?"),
        ({"sampling": "one-member", "combine": "geometric"}, "one-member draws from the weighted mean of all members"),
        ({"sampling": "one-member", "combine": "mean weights:entropy"}, "but combine is 'mean weights:entropy'"),
        ({"sampling": "beam_width:4", "speculate": "a"}, "a draft continues one text, and a beam follows several"),
    ],
)
def test_a_method_is_checked_when_it_is_built(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as refusal:
        Method(**fields)  # type: ignore[arg-type]
    assert message in refusal.value.message
    assert refusal.value.hint


def test_a_member_named_off_cannot_be_told_from_nobody() -> None:
    for value in ("off", False):
        with pytest.raises(SpecError, match="'off' could be the member of that name"):
            check_off(value, ["off", "b"])
        check_off(value, ["a", "b"])
    check_off(None, ["off", "b"])
    check_off("b", ["off", "b"])


@pytest.mark.parametrize(
    ("keys", "weights", "message"),
    [
        ({}, {"a": 1, "b": -0.5}, "the rule 'mean' has no use for a negative weight: a 1, b -0.5"),
        ({"combine": "contrastive"}, {"a": 0.5, "b": 0.5}, "needs an amateur, but no member has a negative weight"),
        ({"combine": "contrastive truncate:5"}, {"a": 1, "b": -0.5}, "truncate is 5, but b has a negative weight"),
        ({"combine": "contrastive", "lead": "b"}, {"a": 1, "b": -0.5}, "the lead 'b' has a negative weight"),
        ({"combine": "logits", "lead": "b"}, {"a": 1, "b": -0.5}, "the lead 'b' has a negative weight"),
        ({"combine": "logits"}, {"a": 0.5, "b": -0.5}, "the weights of the rule 'logits' sum to 0: a 0.5, b -0.5"),
    ],
)
def test_negative_weights_are_for_amateurs_alone(
    keys: dict[str, object], weights: dict[str, float], message: str
) -> None:
    with pytest.raises(SpecError) as refusal:
        Method().but(**keys).check(weights)  # type: ignore[arg-type]
    assert message in refusal.value.message
    assert refusal.value.hint


def test_the_lead_of_experts_and_amateurs_is_an_expert() -> None:
    Method().but(combine="contrastive", lead="b").check({"a": -0.5, "b": 1})


def test_piecewise_spelling_is_accepted_with_a_warning_and_changes_nothing() -> None:
    with pytest.warns(FutureWarning, match="spelling: piecewise is what always happens"):
        assert Method().but(spelling="piecewise") == Method()


@pytest.mark.parametrize("spelling", ["canonical", "cannonical", 3])
def test_every_other_spelling_is_refused_with_the_reason(spelling: object) -> None:
    with pytest.raises(SpecError, match=f"spelling is {spelling!r}, but members only read") as refusal:
        Method().but(spelling=spelling)
    assert "canonical was measured, improved nothing, and was removed" in str(refusal.value.hint)


def test_options_of_the_sampling_have_keywords_of_their_own() -> None:
    drawn = Method().but(temperature=0.7, top_p=0.9, seed=3)
    assert drawn.sampling == Sampling(temperature=0.7, top_p=0.9, seed=3) == drawn.draw
    assert drawn.but(sampling="0.5", top_k=4).sampling == Sampling(temperature=0.5, top_k=4)
    assert drawn.but(temperature=0).sampling == Sampling(seed=3), "what only acts on what is drawn does nothing"
    assert Method().but(top_p=0.9, min_p=None).sampling == Sampling()
    for wrong in ({"top_p": 3.0}, {"top_k": -3}, {"min_p": 7}, {"temperature": 0, "top_p": "much"}):
        with pytest.raises(SpecError, match=f"{list(wrong)[-1]} is .*: it must be a"):
            Method().but(**wrong)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="did you mean 'temperature'"):
        Method().but(temprature=0.7)  # type: ignore[call-arg]
    with pytest.raises(SpecError, match="old name"):
        Method().but(sampling=1, draw=1)
