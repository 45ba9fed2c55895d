"""What is told of two models, counted by hand."""

from __future__ import annotations

import pytest

from unisono.cli.match import _ceiling, _row, _unsure
from unisono.evals.analysis.match import Pair, match
from unisono.evals.records import Answer, Results
from unisono.vocab.pieces import Vocabulary

VOCABULARIES = {
    "a": Vocabulary((b"x", b"y", b"z", None), (3,)),
    "b": Vocabulary((b"x", b"y", b"x", None), (3,)),
}
MAIN = {"t": "acc", "u": "exact_match"}


def results(a: str, b: str, *, texts: tuple[str, str] = ("word", "a word")) -> Results:
    """Answers to a question a letter: R is right, others are wrong, equal letters the same mistake."""
    answers = [
        Answer("u", str(index), name, {"exact_match": float(letter == "R")}, letter, text=text)
        for name, letters, text in (("a", a, texts[0]), ("b", b, texts[1]))
        for index, letter in enumerate(letters)
    ]
    return Results({}, answers)


def test_a_pair_is_counted_by_hand() -> None:
    matching = match(results("RRRxxy", "RRxRxz"), VOCABULARIES, MAIN)
    [pair] = matching.pairs
    assert [(model.name, model.accuracy, model.characters) for model in matching.models] == [
        ("a", 0.5, 4.0),
        ("b", 0.5, 6.0),
    ]
    assert (pair.gap, pair.questions) == (0.0, 6)
    assert (pair.both_wrong, pair.one_right) == (pytest.approx(2 / 6), pytest.approx(2 / 6))
    assert pair.same_mistake == 0.5
    assert pair.error_agreement == pytest.approx((4 / 6 - 0.5) / 0.5)
    assert pair.length_ratio == 1.5
    assert pair.vocabulary_overlap == 1.0
    assert pair.fits_unite


def test_tasks_count_alike_and_gaps_do_not_cancel_out() -> None:
    """At one task a is better, at the other b; on each of them they err as if by chance."""
    marks = {"t": ("RRRx", "Rxxx"), "u": ("Rx", "RR")}
    answers = [
        Answer(task, str(index), name, {MAIN[task]: float(letter == "R")}, letter, text="")
        for task, both in marks.items()
        for name, letters in zip("ab", both, strict=True)
        for index, letter in enumerate(letters)
    ]
    [pair] = match(Results({}, answers), VOCABULARIES, MAIN).pairs
    assert (pair.gap, pair.one_right, pair.both_wrong, pair.questions) == (0.5, 0.5, 0.125, 6)
    assert not pair.fits_unite
    assert pair.same_mistake == 1.0
    assert pair.error_agreement == pytest.approx(((0.5 - 0.375) / (1 - 0.375) + 0) / 2)


def test_few_questions_leave_the_advice_open_and_many_settle_it() -> None:
    def pair(a: str, b: str, **more: tuple[str, str]) -> Pair:
        return match(results(a, b, **more), VOCABULARIES, MAIN).pairs[0]

    few, many = pair("RR", "RR"), pair("R" * 100, "R" * 100)
    assert (few.gap, few.is_sure, many.is_sure) == (0, False, True)
    assert many.gap_error == pytest.approx(1.96 / 102, rel=1e-3)
    assert pair("RRRRx", "RRRxx").gap_error > 0.35
    assert pair("RR", "RR", texts=("w", "www")).is_sure  # styles differ, whatever the gap
    assert _unsure([few]) == '"?": 2 questions leave open whether the gap is above 10%; ask more (--limit)'
    assert (_row(few)[1], _row(few)[-1], _row(many)[-1]) == ("0.0% ± 49.0%", "join?", "join")


def test_a_model_beside_itself_agrees_in_everything() -> None:
    [pair] = match(results("RRxy", "RRxy"), VOCABULARIES, MAIN).pairs
    assert (pair.error_agreement, pair.same_mistake, pair.one_right) == (1.0, 1.0, 0.0)


def test_what_cannot_be_told_is_not() -> None:
    [pair] = match(results("RR", "RR"), VOCABULARIES, MAIN).pairs
    assert (pair.error_agreement, pair.same_mistake) == (None, None)
    choices = [Answer("t", "0", name, {"acc": 1.0}, "A", choices=(-1.0, -2.0)) for name in "ab"]
    [pair] = match(Results({}, choices), VOCABULARIES, MAIN).pairs
    assert pair.length_ratio is None


@pytest.mark.parametrize(
    ("a", "b", "texts", "fits"),
    [
        ("R" * 10, "R" * 9 + "x", ("w", "w"), True),
        ("R" * 10, "R" * 8 + "xx", ("w", "w"), False),
        ("R" * 10, "R" * 10, ("w", "www"), False),
        ("R" * 10, "R" * 10, ("w", "ww"), True),
    ],
)
def test_unite_joins_models_that_are_near_in_accuracy_and_length(
    a: str, b: str, texts: tuple[str, str], fits: bool
) -> None:
    [pair] = match(results(a, b, texts=texts), VOCABULARIES, MAIN).pairs
    assert pair.fits_unite is fits


def test_the_ceiling_is_counted_by_hand_on_what_all_were_asked() -> None:
    matching = match(results("RRRxxy", "RRxRx"), VOCABULARIES, MAIN)
    ceiling = matching.ceiling
    assert ceiling is not None
    assert (ceiling.oracle, ceiling.co_failure) == (0.8, pytest.approx(0.2))
    assert (ceiling.best, ceiling.questions) == (0.6, 5)
    assert 0 < ceiling.interval.low < 0.2 < ceiling.interval.high < 1
    assert match(results("RR", ""), VOCABULARIES, MAIN).ceiling is None
    words = _ceiling(ceiling)
    assert "no ensemble of these can exceed 80.0% by choosing among their answers" in words
    assert matching.to_json()["ceiling"]["co_failure"] == pytest.approx(0.2)
