"""What happened at each piece, as traces tell it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fakes import make_fakes
from unisono.ensemble import Ensemble
from unisono.outcomes import Kind, outcome_of, summary_of
from unisono.step_records import DraftRecord, GateReading, StepRecord

A, B = b" sky", b" sea"


def step(
    tops: dict[str, list[tuple[bytes | str | None, float]]], piece: bytes | None = A, **keys: object
) -> StepRecord:
    """A record of members that share what they do not show."""
    given = {"lead": "x", "voted": tuple(tops), **keys}
    symbol = given.get("mark") or piece
    masses = {name: dict(pieces).get(symbol, 0.0) for name, pieces in tops.items()}
    its = {name: tuple(pieces) for name, pieces in tops.items()}
    return StepRecord(piece=piece, p=0.5, members=masses, top=its, **given)  # type: ignore[arg-type]


SHUT = GateReading(0.9, 0.5, asked=False)
SURE, OTHER, TORN = [(A, 0.9), (B, 0.1)], [(B, 0.6), (A, 0.4)], [(B, 0.5), (A, 0.5)]


@pytest.mark.parametrize(
    ("record", "kind", "winners", "overruled"),
    [
        (step({"x": SURE, "y": SURE}), "agreed", ("x", "y"), ()),
        (step({"x": SURE, "y": OTHER}), "carried", ("x",), ("y",)),
        (step({"x": OTHER, "y": SURE}), "overruled", ("y",), ("x",)),
        (step({"x": OTHER, "y": SURE, "z": OTHER}), "overruled", ("y",), ("x", "z")),
        (step({"x": OTHER, "y": OTHER}), "nobody", (), ("x", "y")),
        (step({"x": TORN, "y": SURE}), "agreed", ("x", "y"), ()),
        (step({"x": SURE}, gate=SHUT, unasked=("y",)), "shut", ("x",), ()),
        (step({"y": SURE, "z": OTHER}, unasked=("x",)), "carried", ("y",), ("z",)),
        (step({}, unasked=("x", "y")), "forced", (), ()),
        (step({"x": [(None, 0.7)], "y": SURE}, piece=None), "carried", ("x",), ("y",)),
        (step({"x": SURE, "y": SURE}, subtracted=("y",)), "agreed", ("x",), ()),
        (step({"x": SURE, "y": OTHER}, subtracted=("y",)), "agreed", ("x",), ()),
        (step({"x": OTHER, "y": SURE}, subtracted=("y",)), "nobody", (), ("x",)),
        (step({"x": OTHER, "y": SURE, "z": SURE}, subtracted=("y",)), "overruled", ("z",), ("x",)),
        (step({"x": [("reasoning_end", 0.7)], "y": SURE}, b"", mark="reasoning_end"), "carried", ("x",), ("y",)),
    ],
)
def test_an_outcome_says_whose_first_choice_was_written(
    record: StepRecord, kind: Kind, winners: tuple[str, ...], overruled: tuple[str, ...]
) -> None:
    found = outcome_of(record)
    assert (found.kind, found.winners, found.overruled) == (kind, winners, overruled)


def test_a_summary_counts_members_and_drafts_and_ranks_what_is_contested() -> None:
    drafts = [DraftRecord("x", A, accepted=True), DraftRecord("x", B, accepted=False)]
    steps = [
        step({"x": SURE, "y": SURE}, draft=drafts[0]),
        step({"x": SURE, "y": OTHER}, draft=drafts[1]),
        step({"x": [(B, 0.99)], "y": SURE}),
        step({"x": SURE}, gate=SHUT, unasked=("y",)),
        step({"x": [(None, 0.7)], "y": SURE}, piece=None),
    ]
    found = summary_of([outcome_of(each) for each in steps])
    assert (found.pieces, found.ensembled, found.accepted) == (4, 3, 1)
    assert found.kinds == {"agreed": 1, "carried": 2, "overruled": 1, "shut": 1}
    assert {name: (its.asked, its.overruled) for name, its in found.members.items()} == {"x": (5, 1), "y": (4, 2)}
    assert [place for place, _ in found.contested] == [2, 4, 1]
    assert found.contested[0][1].contest == pytest.approx(0.9)


@pytest.fixture(scope="module")
def trio() -> Iterator[Ensemble]:
    make_fakes()
    with Ensemble.load({"members": [{"name": name, "model": f"fake:{name}"} for name in "abc"]}) as loaded:
        yield loaded


@pytest.mark.parametrize("rule", ["logits", "contrastive"])
def test_a_trace_says_who_is_subtracted_and_that_they_win_nothing(rule: str) -> None:
    make_fakes()
    members = [
        {"name": name, "model": f"fake:{name}", "weight": weight}
        for name, weight in zip("abc", (1, 1, -1), strict=True)
    ]
    with Ensemble.load({"members": members, "combine": rule}) as loaded:
        written = loaded.generate("the cat", max_new_tokens=12, trace=True)
    assert {each.subtracted for each in written.steps or ()} == {("c",)}
    assert all("c" not in each.winners for each in written.steps or ())
    found = [outcome_of(each) for each in written.steps or ()]
    assert all(each.subtracted == ("c",) and "c" not in each.overruled for each in found)
    assert written.steps[0].to_json()["subtracted"] == ["c"]


@pytest.mark.parametrize("method", [{}, {"gate": "confidence:0.5"}, {"gate": "certain"}, {"speculate": "b:3"}])
def test_summaries_of_real_traces_agree_with_what_the_engine_counts(trio: Ensemble, method: dict[str, str]) -> None:
    written = trio.generate("the cat", max_new_tokens=24, trace=True, **method)  # type: ignore[call-overload]
    found = [outcome_of(each) for each in written.steps or ()]
    summary = summary_of(found)
    assert (summary.pieces, summary.ensembled) == (written.usage.pieces, written.usage.ensembled)
    assert summary.accepted == written.usage.accepted
    assert all(each.lead == "a" for each in found)
    for record in written.steps:
        assert {*record.voted, *record.unasked} == {"a", "b", "c"}
