"""Gates: each score against its definition, where each gate opens, and how one is written down."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unisono.config.gate import Gate
from unisono.errors import SpecError
from unisono.fusion.gate_scores import GATE_KINDS

SCORES = ["confidence", "margin", "entropy"]
ROW = [0.5, 0.25, 0.125, 0.125, 0.0]


def score_of(kind: str, row: list[float], position: int = 0) -> float:
    [score] = GATE_KINDS[kind].score(np.array([row], np.float32), [position])
    return score


def gate_of(kind: str, parameter: float) -> Gate:
    return Gate.parse({"kind": kind, GATE_KINDS[kind].parameter: parameter})


@st.composite
def distributions(draw: st.DrawFn) -> np.ndarray:
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 12)))
    raw = draw(arrays.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
    raw[:, draw(st.integers(0, shape[1] - 1))] += np.float32(0.125)  # no row is empty
    return raw / raw.sum(axis=1, keepdims=True)


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    kind = draw(st.sampled_from(list(GATE_KINDS)))
    boundary, known = draw(st.booleans()) and kind != "certain", GATE_KINDS[kind]
    if known.parameter == "threshold":
        return Gate(kind, threshold=draw(st.floats(known.low, known.high) | st.just(1)), boundary=boundary)
    if known.parameter == "n":
        return Gate(kind, n=draw(st.integers(int(known.low), int(known.high))), boundary=boundary)
    return Gate(kind, boundary=boundary)


@pytest.mark.parametrize(
    ("kind", "row", "score"),
    [
        ("confidence", ROW, 0.5),
        ("confidence", [0.0, 0.0, 1.0], 1.0),
        ("margin", ROW, 0.25),
        ("margin", ROW[::-1], 0.25),
        ("margin", [0.125, 0.5, 0.375], 0.125),
        ("margin", [0.5, 0.5], 0.0),
        ("margin", [0.0, 1.0], 1.0),
        ("margin", [1.0], 1.0),
        ("entropy", ROW, 1.75 * math.log(2)),
        ("entropy", [0.25] * 4, math.log(4)),
        ("entropy", [0.0, 1.0], 0.0),
        ("entropy", [1.0000001], 0.0),
        ("always", ROW, 0.0),
    ],
)
def test_a_score_by_hand(kind: str, row: list[float], score: float) -> None:
    assert score_of(kind, row) == pytest.approx(score, abs=1e-6)


def test_the_position_is_the_score_of_gates_that_count() -> None:
    p_BU = np.full((3, 4), 0.25, np.float32)
    for kind in ("every", "first"):
        assert gate_of(kind, 2).score(p_BU, [0, 7, 3]) == [0, 7, 3]


@given(distributions())
def test_a_score_is_what_its_definition_says(p_BU: np.ndarray) -> None:
    for row in p_BU.tolist():
        second, first = sorted([0.0, *row])[-2:]
        entropy = -sum(mass * math.log(mass) for mass in row if mass)
        expected = [first, first - second, max(0.0, entropy)]
        assert [score_of(kind, row) for kind in SCORES] == pytest.approx(expected, abs=1e-5)


@given(distributions())
def test_rows_scored_together_are_rows_scored_one_by_one(p_BU: np.ndarray) -> None:
    positions = list(range(len(p_BU)))
    for kind in GATE_KINDS:
        score = GATE_KINDS[kind].score
        together = score(p_BU, positions)
        assert together == [score(p_BU[row : row + 1], [row])[0] for row in positions]
        assert all(type(value) is float for value in together)


@settings(deadline=None)  # the first use of torch takes its time
@given(distributions())
def test_an_accelerators_scores_are_the_hosts(p_BU: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    tensor, positions = torch.from_numpy(p_BU.copy()), [3] * len(p_BU)
    for kind in GATE_KINDS.values():
        scores = kind.score(tensor, positions)
        assert scores == pytest.approx(kind.score(p_BU, positions), abs=1e-6)
        assert all(type(score) is float for score in scores)
    np.testing.assert_array_equal(tensor.numpy(), p_BU)


def test_scoring_changes_no_distribution() -> None:
    p_BU = np.array([ROW, ROW[::-1]], np.float32)
    before = p_BU.copy()
    for kind in GATE_KINDS.values():
        kind.score(p_BU, [0, 1])
    np.testing.assert_array_equal(p_BU, before)


@pytest.mark.parametrize("kind", ["confidence", "margin"])
def test_a_sure_lead_is_left_alone_and_at_the_threshold_the_others_are_asked(kind: str) -> None:
    score = score_of(kind, ROW)
    assert gate_of(kind, score).opens(score)
    assert gate_of(kind, np.nextafter(score, 1)).opens(score)
    assert not gate_of(kind, np.nextafter(score, 0)).opens(score)


def test_where_the_entropy_reaches_the_threshold_the_others_are_asked() -> None:
    score = score_of("entropy", ROW)
    assert gate_of("entropy", score).opens(score)
    assert gate_of("entropy", np.nextafter(score, 0)).opens(score)
    assert not gate_of("entropy", np.nextafter(score, 20)).opens(score)


@pytest.mark.parametrize("kind", SCORES)
def test_the_widest_threshold_always_opens(kind: str) -> None:
    gate = gate_of(kind, 0 if kind == "entropy" else 1)
    assert all(gate.opens(score_of(kind, row)) for row in (ROW, [1.0], [0.0, 1.0], [0.5, 0.5]))


@pytest.mark.parametrize(
    ("gate", "opened"),
    [
        (Gate(), [0, 1, 2, 3, 4, 5, 6, 7]),
        (Gate("every", n=1), [0, 1, 2, 3, 4, 5, 6, 7]),
        (Gate("every", n=3), [0, 3, 6]),
        (Gate("first", n=0), []),
        (Gate("first", n=3), [0, 1, 2]),
    ],
    ids=str,
)
def test_gates_that_count_open_at_their_positions(gate: Gate, opened: list[int]) -> None:
    scores = gate.score(np.full((8, 2), 0.5, np.float32), range(8))
    assert [position for position, score in enumerate(scores) if gate.opens(score)] == opened


def test_only_the_default_needs_to_know_nothing_of_the_lead() -> None:
    assert Gate().always_open
    assert not Gate(boundary=True).always_open
    assert not Gate("confidence", threshold=1).always_open
    assert not Gate("every", n=1).always_open


@pytest.mark.parametrize(
    ("value", "gate"),
    [
        ("always", Gate()),
        ("confidence:0.5", Gate("confidence", threshold=0.5)),
        ("margin:1", Gate("margin", threshold=1)),
        ("entropy:2.5e-1", Gate("entropy", threshold=0.25)),
        ("every:4", Gate("every", n=4)),
        ("first:0", Gate("first", n=0)),
        ("always boundary", Gate(boundary=True)),
        ("confidence:0.5 boundary", Gate("confidence", threshold=0.5, boundary=True)),
        ({}, Gate()),
        (None, Gate()),
        ({"kind": "every", "n": np.int64(4)}, Gate("every", n=4)),
        ({"kind": "margin", "threshold": np.float32(0.25)}, Gate("margin", threshold=0.25)),
        ({"kind": "margin", "threshold": 1}, Gate("margin", threshold=1.0)),
        ({"kind": "every", "n": 4}, Gate("every", n=4)),
        ({"kind": "margin", "threshold": 0.1, "boundary": True}, Gate("margin", threshold=0.1, boundary=True)),
        ({"boundary": True}, Gate(boundary=True)),
        (Gate("first", n=2), Gate("first", n=2)),
    ],
)
def test_a_gate_is_read(value: object, gate: Gate) -> None:
    assert Gate.parse(value) == gate


@given(gates())
def test_a_gate_is_read_from_what_it_is_written_as(gate: Gate) -> None:
    assert Gate.parse(str(gate)) == gate
    assert Gate.parse({key: value for key, value in asdict(gate).items() if value is not None}) == gate


@pytest.mark.parametrize(
    ("value", "message", "way_out"),
    [
        ("confidence:1.5", "the threshold of the gate 'confidence' is 1.5: it must be a number from 0 to 1", "asked"),
        ("margin:-0.1", "the threshold of the gate 'margin' is -0.1: it must be a number from 0 to 1", "asked"),
        ("entropy:nan", "the threshold of the gate 'entropy' is 'nan': it must be a number from 0 to 20", "asked"),
        ("entropy:inf", "is 'inf': it must be a number from 0 to 20", "in nats"),
        ("confidence:x", "is 'x': it must be a number", "asked"),
        ("confidence:", "is '': it must be a number", "asked"),
        ("confidence", "the gate 'confidence' needs threshold", "write confidence:NUMBER, or give the key threshold"),
        ("every", "the gate 'every' needs n", "write every:NUMBER, or give the key n"),
        ("every:0", "the n of the gate 'every' is 0: it must be a whole number of 1 or more", "every n pieces"),
        ("every:1.5", "is 1.5: it must be a whole number", "every n pieces"),
        ("first:-1", "is -1: it must be a whole number of 0 or more", "the first n pieces"),
        (
            {"kind": "first", "n": 10**400},
            "it must be a whole number of 0 or more, 2,147,483,648 at most",
            "the first n pieces",
        ),
        ("always:3", "unknown gate 'always:3'; did you mean 'always'?", "write it as always, confidence:0.5"),
        ("confidance:0.5", "unknown gate 'confidance:0.5'; did you mean 'confidence'?", "write it as always"),
        ("", "unknown gate ''; known: always, confidence, margin, entropy, every, first", "write it as always"),
        ({"kind": "evry", "n": 3}, "unknown gate 'evry'; did you mean 'every'?", "write it as always"),
        ({"kind": ["every"], "n": 3}, 'unknown gate ["every"]', "write it as always"),
        ({"kind": "confidence", "threshold": 10**400}, "it must be a number from 0 to 1", "asked"),
        ({"kind": "confidence", "threshold": "0.5"}, "is '0.5': it must be a number", "asked"),
        ({"kind": "confidence", "threshold": True}, "is true: it must be a number", "asked"),
        ({"kind": "confidence", "threshold": 0.5, "n": 2}, "'confidence' has no n, but n is 2", "every, first"),
        ({"kind": "every", "threshold": 0.5}, "has no threshold, but threshold is 0.5", "write 'every' with n"),
        ({"threshold": 0.5}, "'always' has no threshold, but threshold is 0.5", "confidence, margin, entropy"),
        ({"kind": "every", "n": True}, "is true: it must be a whole number", "every n pieces"),
        ({"kind": "every", "n": 2.0}, "is 2.0: it must be a whole number", "every n pieces"),
        ({"boundary": "yes"}, "boundary is 'yes'", "true or false"),
        (0.5, "gate is 0.5", "write it as always, confidence:0.5"),
        (True, "gate is true", "write it as always, confidence:0.5"),
        (False, "the gate is off", "or first:0, which never asks"),
        ("off", "unknown gate 'off'; known:", "write always, which asks the others at every step, or first:0"),
        ({"kind": False}, "the gate is off", "first:0"),
        ({"confidence": 0.5}, "unknown key 'confidence' in gate", "write confidence:0.5 or {kind: confidence, thresh"),
        ({"every": None}, "unknown key 'every' in gate", "write every:NUMBER"),
        ("confidence: 0.5", "is ' 0.5': it must be", "write confidence:0.5"),
        ({"kind": "entropy", "threshold": "1e-1"}, "is '1e-1': it must be", "write entropy:0.1 or threshold: 0.1;"),
        ("confidence:٠.٥", "is '٠.٥': it must be a number", "asked"),
        ("every:３", "is '３': it must be a whole number", "every n pieces"),
        ("every:1_0", "is '1_0': it must be a whole number", "every n pieces"),
        ("every:+3", "is '+3': it must be a whole number", "every n pieces"),
        ("first:" + "9" * 5000, "is '9999", "the first n pieces"),
        ({"kind": "first", "n": 10**5000}, "is a value of type int that cannot be shown", "the first n pieces"),
        ("x" * 5000, "…; known: always", "write it as always"),
    ],
)
def test_a_bad_gate_is_refused_with_its_value_and_the_way_out(value: object, message: str, way_out: str) -> None:
    with pytest.raises(SpecError) as refusal:
        Gate.parse(value)
    assert message in refusal.value.message
    assert way_out in (refusal.value.hint or "")
    assert len(refusal.value.message) < 300


def test_numbers_are_kept_as_pythons_own() -> None:
    assert type(Gate("margin", threshold=np.float32(0.25)).threshold) is float  # type: ignore[arg-type]
    assert type(Gate("every", n=np.int8(3)).n) is int  # type: ignore[arg-type]


def test_an_unknown_key_is_refused_and_the_nearest_suggested() -> None:
    with pytest.raises(SpecError, match="unknown key 'treshold' in gate; did you mean 'threshold'"):
        Gate.parse({"kind": "confidence", "treshold": 0.5})


def test_a_gate_is_checked_when_it_is_changed() -> None:
    with pytest.raises(SpecError, match=r"is 1\.5"):
        replace(Gate("confidence", threshold=0.5), threshold=1.5)
