"""Reference answers of tasks, and what members prefer before they have read a question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.ensemble import load_spec
from unisono.errors import SpecError
from unisono.evals import systems as make
from unisono.evals.analysis.references import priors, read_answers, references_of
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Grade, Question, Task
from unisono.evals.runner import choose_all
from unisono.records import Limits
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake

LETTERS = ("X", "Y", "Z")


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    """Both prefer a letter whatever is asked; at a question that has the right one, they like it a little more."""
    for name, liked in (("a", "X"), ("b", "Z")):
        table = byte_level_table([])
        tokenizer = LongestMatchTokenizer(table)
        letters = {letter: tokenizer.encode(letter)[0] for letter in LETTERS}

        def next_token(
            read: tuple[int, ...], liked: str = liked, letters: dict[str, int] = letters, size: int = len(table.texts)
        ) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
            logits = np.zeros(size, np.float32)
            logits[letters[liked]] = 4.0
            asked = [letter for letter, token in letters.items() if token in read]
            for letter in asked:
                logits[letters[letter]] += 2.0
            return logits

        register_fake(name, FakeModel(tokenizer, next_token))
    yield
    FAKE_MODELS.clear()


def question(place: int, right: str) -> Question:
    words = f"which is {right} {place}?"
    return Question(
        *("letters", "letters", f"letters.{place}", Prompt(text=f"Q: {words}\nAnswer:"), LETTERS, Limits(), right),
        lambda reply: Grade({"acc": 1.0}, LETTERS[int(np.argmax([logp for logp, _ in reply.choices]))]),
        words=words,
        reference=right,
    )


def task() -> Task:
    return Task("letters", ("acc",), 0, "1", "here", [question(place, LETTERS[place % 3]) for place in range(6)])


def test_what_a_member_prefers_without_a_question_is_divided_out() -> None:
    spec = load_spec({"members": [{"name": name, "model": f"fake:{name}"} for name in ("a", "b")]})
    with ModelPool(spec) as pool:
        pool.load_weights()
        found = priors(pool, [task()])
        assert {name: max(its, key=lambda letter: its[letter]) for name, its in found.items()} == {"a": "X", "b": "Z"}
        alone = make.members(pool)
        before = [[answer.answer for answer, _ in its] for its in choose_all(pool, alone, task().questions)]
        assert before == [["X"] * 6, ["Z"] * 6]
    members = [{"name": name, "model": f"fake:{name}", "calibrate": found[name]} for name in ("a", "b")]
    with ModelPool(load_spec({"members": members})) as pool:
        pool.load_weights()
        for its in choose_all(pool, [*make.members(pool), make.ensemble(pool)], task().questions):
            assert [answer.answer for answer, _ in its] == ["X", "Y", "Z"] * 2
            assert all(answer.error is None for answer, _ in its)
        assert priors(pool, [task()]) == found, "calibrating twice equals once"


def test_what_cannot_be_calibrated_is_named() -> None:
    spec = load_spec({"members": [{"name": name, "model": f"fake:{name}"} for name in ("a", "b")]})
    with ModelPool(spec) as pool:
        pool.load_weights()
        texts = replace(
            task(), questions=[replace(each, choices=(" the sun", " a stone")) for each in task().questions]
        )
        with pytest.raises(SpecError, match="no question is answered by a letter"):
            priors(pool, [texts])
        other = replace(task(), questions=[*task().questions, replace(question(7, "X"), choices=("X", "Y"))])
        with pytest.raises(SpecError, match=r'\["X", "Y", "Z"\] and \["X", "Y"\]'):
            priors(pool, [other])


def test_references_are_the_right_answers_and_a_task_without_any_is_named() -> None:
    assert [(each.id, each.answer) for each in references_of([task()])][:2] == [("letters.0", "X"), ("letters.1", "Y")]
    without = replace(task(), questions=[replace(each, reference="") for each in task().questions])
    with pytest.raises(SpecError, match="the task 'letters' has no answers to fit on"):
        references_of([without])


def test_a_line_that_has_a_key_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prompt": "?", "answer": "a"}\n{"prompt": "?", "answer": "a", "answer": "b"}\n')
    with pytest.raises(SpecError, match="line 2: the key 'answer' stands twice"):
        read_answers(path)
