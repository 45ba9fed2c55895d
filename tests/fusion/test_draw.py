"""What is said about drawing: how it is written down, and what is refused."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.config.sampling import OPTIONS, Sampling
from unisono.errors import SpecError


@st.composite
def draws(draw: st.DrawFn) -> Sampling:
    options: dict[str, object] = {
        "repetition_penalty": draw(st.floats(0, 100, exclude_min=True) | st.just(1)),
        "presence_penalty": draw(st.floats(-2, 2) | st.just(0)),
        "frequency_penalty": draw(st.floats(-2, 2) | st.just(0)),
        "bias": draw(st.dictionaries(st.binary(min_size=1, max_size=4), st.floats(-100, 100), max_size=3)),
        "logit_bias": draw(st.dictionaries(st.integers(0, 300_000), st.floats(-100, 100), max_size=3)),
        "seed": draw(st.none() | st.integers(0, 2**64 - 1)),
    }
    if draw(st.booleans()):
        options |= {
            "temperature": draw(st.floats(0.01, 100) | st.just(1)),
            "top_k": draw(st.none() | st.integers(1, 2**31)),
            "top_p": draw(st.floats(0, 1)),
            "min_p": draw(st.floats(0, 1)),
            "typical_p": draw(st.floats(0, 1, exclude_min=True)),
        }
    elif draw(st.booleans()):
        options |= {"beam_width": draw(st.integers(2, 64)), "length_penalty": draw(st.floats(-10, 10))}
    elif draw(st.booleans()):
        options = {"temperature": 1, "one_member": True, "seed": options["seed"]}
    options |= {
        "member_temperature": draw(st.floats(0.01, 100)),
        "member_top_k": draw(st.none() | st.integers(1, 2**31)),
        "member_typical_p": draw(st.floats(0, 1, exclude_min=True)),
        "member_bias": draw(st.dictionaries(st.binary(min_size=1, max_size=4), st.floats(-100, 100), max_size=3)),
    }
    return Sampling(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "draw"),
    [
        ("greedy", Sampling()),
        ({}, Sampling()),
        (0, Sampling()),
        ({"temperature": 0, "top_p": 1, "min_p": 0, "typical_p": 1, "top_k": None}, Sampling()),
        (0.7, Sampling(temperature=0.7)),
        ("0.7", Sampling(temperature=0.7)),
        ("0.7 top_p:0.9", Sampling(temperature=0.7, top_p=0.9)),
        ("temperature:1 top_k:40 seed:18446744073709551615", Sampling(temperature=1, top_k=40, seed=2**64 - 1)),
        ("greedy repetition_penalty:1.2", Sampling(repetition_penalty=1.2)),
        ("greedy seed:1", Sampling(seed=1)),
        ("1 top_k:0 seed:-1", Sampling(temperature=1)),
        ({"temperature": 1, "top_k": -1, "member_top_k": 0}, Sampling(temperature=1)),
        ({"top_k": 0, "seed": -1}, Sampling()),
        ("frequency_penalty:-0.5", Sampling(frequency_penalty=-0.5)),
        ("one-member", Sampling(temperature=1, mixture=True)),
        ("one-member member_min_p:0.1", Sampling(temperature=1, member_min_p=0.1, mixture=True)),
        ({"one_member": True, "seed": 2}, Sampling(temperature=1, mixture=True, seed=2)),
        ("0.7,top_p:0.9,member_bias:a=1", Sampling(temperature=0.7, top_p=0.9, member_bias={b"a": 1})),
        ("member_temperature:0.5", Sampling(member_temperature=0.5)),
        ("beam_width:4 length_penalty:0.6", Sampling(beam_width=4, length_penalty=0.6)),
        ("bias:%20the=-1.5 bias:a=2", Sampling(bias={b" the": -1.5, b"a": 2})),
        ("bias:%3D:=1", Sampling(bias={b"=:": 1})),
        ("logit_bias:9=-100 logit_bias:0=1.5", Sampling(logit_bias={9: -100, 0: 1.5})),
        (
            {"temperature": 1, "bias": {"é": 3, b"\xff": -3}},
            Sampling(temperature=1, bias={b"\xc3\xa9": 3, b"\xff": -3}),
        ),
        (Sampling(temperature=2), Sampling(temperature=2)),
    ],
)
def test_a_draw_is_read(value: object, draw: Sampling) -> None:
    assert Sampling.parse(value) == draw


@given(draws())
def test_a_draw_is_read_from_what_it_is_written_as(draw: Sampling) -> None:
    assert Sampling.parse(str(draw)) == draw
    assert Sampling.parse(asdict(draw)) == draw
    assert hash(Sampling.parse(str(draw))) == hash(draw)


@pytest.mark.parametrize(
    ("draw", "written"),
    [
        (Sampling(), "greedy"),
        (Sampling(temperature=0.7, top_p=0.9, seed=3), "temperature:0.7 top_p:0.9 seed:3"),
        (Sampling(bias={" a\n": 1.5}), "greedy bias:%20a%0A=1.5"),  # type: ignore[dict-item]
        (Sampling(temperature=1, mixture=True), "temperature:1 one-member"),
    ],
)
def test_a_draw_is_written_in_one_line(draw: Sampling, written: str) -> None:
    assert str(draw) == written


def test_only_temperature_zero_is_greedy() -> None:
    assert Sampling().is_greedy
    assert Sampling(temperature=0.0, presence_penalty=1).is_greedy
    assert not Sampling(temperature=0.01).is_greedy


def test_a_bias_is_not_changed_from_outside() -> None:
    bias: dict[bytes, float] = {b"a": 1}
    draw = Sampling(bias=bias)
    bias[b"a"] = 2
    assert draw.bias == {b"a": 1}


NO_DRAWING = "but at temperature 0 the most likely piece is taken and nothing is drawn"


@pytest.mark.parametrize(
    ("value", "message", "way_out"),
    [
        ({"temperature": -1}, "temperature is -1: it must be a number from 0 to 100", "0 takes the likeliest"),
        ({"temperature": -1e-9}, "temperature is -1e-09: it must be a number from 0 to 100", "1 draws"),
        ({"temperature": True}, "temperature is true: it must be", "1 draws from the distribution as it is"),
        ({"temperature": "0.7"}, "temperature is '0.7': it must be", "likeliest"),
        ({"temperature": None}, "temperature is null: it must be", "likeliest"),
        (101, "temperature is 101: it must be a number from 0 to 100", "likeliest"),
        ("nan", "unknown 'nan' in sampling", "write it as"),
        ("temperature:hot", "temperature is 'hot': it must be", "likeliest"),
        ("1 top_k:-2", "top_k is -2: it must be a whole number of 1 or more, 2,147,483,648 at most", "stands for all"),
        ("1 top_k:2.5", "top_k is 2.5: it must be a whole number", "0 or -1 stands for all"),
        ({"top_k": 2.0}, "top_k is 2.0: it must be a whole number", "0 or -1 stands for all"),
        ("1 top_p:1.1", "top_p is 1.1: it must be a number from 0 to 1", "1 leaves all"),
        ("1 top_p", "top_p is '': it must be a number from 0 to 1", "1 leaves all"),
        ("1 min_p:-0.1", "min_p is -0.1: it must be a number from 0 to 1", "0 leaves all"),
        ("1 typical_p:0", "typical_p is 0: it must be a number above 0, 1 at most", "1 leaves all"),
        ("repetition_penalty:0", "repetition_penalty is 0: it must be a number above 0, 100 at most", "1 changes"),
        ("presence_penalty:2.1", "presence_penalty is 2.1: it must be a number from -2 to 2", "taken once"),
        ("frequency_penalty:-3", "frequency_penalty is -3: it must be a number from -2 to 2", "for each time"),
        ({"seed": -2}, "seed is -2: it must be a whole number from 0 to 18,446,744,073,709,551,615", "the same text"),
        ({"seed": 2**64}, "seed is 18446744073709551616: it must be a whole number", "-1 stands for another"),
        ({"seed": 1.0}, "seed is 1.0: it must be a whole number", "-1 stands for another"),
        ({"top_k": 40}, f"top_k is 40, {NO_DRAWING}", "leave top_k out, or give a temperature above 0, such as 1"),
        ("greedy top_p:0.9", f"top_p is 0.9, {NO_DRAWING}", "leave top_p out, or give a temperature above 0"),
        ("min_p:0.1", f"min_p is 0.1, {NO_DRAWING}", "leave min_p out, or give a temperature above 0"),
        ("0 typical_p:0.5", f"typical_p is 0.5, {NO_DRAWING}", "leave typical_p out, or give a temperature above 0"),
        ("greedy one-member", "at temperature 0 nothing is drawn", "leave the temperature out"),
        ({"one_member": True, "temperature": 0}, "at temperature 0 nothing is drawn", "member_temperature"),
        ("one-member top_p:0.9", "but top_p acts on the distribution of all", "write member_top_p"),
        ("one-member temperature:0.7", "but temperature acts on the distribution of all", "member_temperature"),
        ("one-member bias:a=1", "but bias acts on the distribution of all", "member_bias"),
        ("member_temperature:0", "member_temperature is 0: it must be a number from 0.01 to 100", "surer"),
        ("member_top_p:2", "member_top_p is 2: it must be a number from 0 to 1", "1 leaves all"),
        ("beam_width:0", "beam_width is 0: it must be a whole number from 1 to 64", "1 is greedy"),
        ("beam_width:4 temperature:1", "but at temperature 1 pieces are drawn", "leave beam_width out"),
        ("one-member beam_width:2", "one-member draws, and a beam searches", "leave one of them out"),
        ("length_penalty:2", "length_penalty is 2, but without a beam", "give a beam_width"),
        ({"one_member": 1}, "one_member is 1", "true or false"),
        ({"bias": [1]}, "bias is [1]", "{TEXT: NUMBER, …}"),
        ({"bias": {3: 1}}, "bias is given for 3", "text or bytes that are not empty"),
        ({"bias": {"": 1}}, "bias is given for ''", "text or bytes that are not empty"),
        ("bias:the", "'bias:the' gives no number", "write bias:TEXT=NUMBER"),
        ({"bias": {"a" * 257: 1}}, "bias is given for a text of 257 bytes", "256 bytes at most"),
        ({"bias": {"a": 1, b"a": 2}}, "bias is given twice for b'a'", "it is the same: leave one"),
        ("bias:a=1 bias:%61=2", "sampling gives the bias of b'a' twice", "leave one of them out"),
        ({"logit_bias": 3}, "logit_bias is 3", "{COLUMN: NUMBER, …}"),
        ({"logit_bias": {"a": 1}}, "logit_bias is given for 'a', which is not a column", "for texts use bias"),
        ({"logit_bias": {-1: 1}}, "logit_bias is given for -1", "from 0 on"),
        ({"logit_bias": {7: 101}}, "the logit_bias of 7 is 101: it must be a number from -100 to 100", "bans it"),
        ("logit_bias:9", "'logit_bias:9' gives no number", "write logit_bias:COLUMN=NUMBER"),
        ("logit_bias:9=1 logit_bias:9=2", "sampling gives the logit_bias of 9 twice", "leave one of them out"),
        ("one-member logit_bias:1=1", "but logit_bias acts on the distribution of all", "leave one-member out"),
        ({"bias": {"a": 101}}, "the bias of 'a' is 101: it must be a number from -100 to 100", "as good as bans it"),
        ({"bias": {"a": True}}, "the bias of 'a' is true: it must be a number from -100 to 100", "as good as forces"),
        ("bias:a=b", "the bias of b'a' is 'b': it must be a number from -100 to 100", "log-mass"),
        ("0.7 temperature:0.8", "sampling gives temperature twice: '0.7 temperature:0.8'", "leave one of them out"),
        (
            "gredy",
            "unknown 'gredy' in sampling; did you mean 'greedy'?; known: greedy, mixture, truncated_sampling",
            "write it",
        ),
        ("topp:0.9", "unknown 'topp:0.9' in sampling; did you mean 'top_p'?", "temperature:0.7 top_p:0.9"),
        (
            "",
            "unknown '' in sampling; known: greedy, mixture, truncated_sampling, temperature, top_k",
            "write it as greedy, mixture, 0.7",
        ),
        (None, "sampling is null", "write it as greedy"),
        (True, "sampling is true", "{temperature: 0.7, top_p: 0.9}"),
    ],
)
def test_a_bad_draw_is_refused_with_its_value_and_the_way_out(value: object, message: str, way_out: str) -> None:
    with pytest.raises(SpecError) as refusal:
        Sampling.parse(value)
    assert message in refusal.value.message
    assert way_out in (refusal.value.hint or "")


def test_an_unknown_key_is_refused_and_the_nearest_suggested() -> None:
    with pytest.raises(SpecError, match="unknown key 'topp' in sampling; did you mean 'top_p'"):
        Sampling.parse({"temperature": 1, "topp": 0.9})


def test_every_number_has_a_limit_and_a_field() -> None:
    others = {"bias", "logit_bias", "member_bias", "mixture", "truncated_sampling"}
    assert set(OPTIONS) == set(asdict(Sampling())) - others


def test_a_draw_is_checked_when_it_is_changed() -> None:
    with pytest.raises(SpecError, match=r"top_p is 0\.9, but"):
        replace(Sampling(temperature=1, top_p=0.9), temperature=0)
