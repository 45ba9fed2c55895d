"""Tasks: lm-evaluation-harness's own prompts and grades on our lines, in an order that is a fair sample."""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.lm_eval_files import choice, harness_tasks, sum_of, write_data, write_lines
from unisono.errors import BackendMissing, SpecError, UnisonoError
from unisono.evals.records import NATS, Question, Reply, Task
from unisono.evals.tasks import load_tasks
from unisono.evals.tasks.definitions import Definition
from unisono.evals.tasks.loading import _task
from unisono.evals.tasks.rows import RECIPES, Line, Row

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("tasks from files ask nobody")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def load(data: Path, name: str, **keys: Any) -> Task:
    [task] = load_tasks([name], data=data, **keys)
    return task


@pytest.mark.parametrize("name", RECIPES)
def test_prompts_and_choices_are_those_of_lm_evaluation_harness(data: Path, name: str) -> None:
    """Its own instances, as its command line builds them over the whole file."""
    theirs: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for task in harness_tasks(data, name):
        if task.config.num_fewshot is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234)
        task.build_all_requests()
        prompts: dict[int, tuple[str, list[str]]] = {}
        for instance in task.instances:
            context, more = instance.args
            text = prompts.setdefault(instance.doc_id, (context, []))
            if isinstance(more, str):
                text[1].append(more)
        theirs.update((prompt, tuple(choices)) for prompt, choices in prompts.values())
    task = load(data, name)
    ours = Counter((question.prompt.text or "", question.choices) for question in task.questions)
    assert ours == theirs
    assert task.shots == {"mmlu": 5, "triviaqa": 5, "nq_open": 5, "gsm8k": 5, "bbh": 3, "math500": 4}.get(name, 0)


@pytest.mark.parametrize("name", ["gsm8k", "mmlu", "triviaqa", "piqa"])
def test_a_question_is_the_same_whichever_others_are_asked(data: Path, name: str) -> None:
    every = load(data, name, shots=2).questions
    for limit in (1, 3, len(every)):
        some = load(data, name, shots=2, limit=limit).questions
        assert [(each.id, each.prompt) for each in some] == [(each.id, each.prompt) for each in every[:limit]]


def test_the_first_questions_are_of_all_parts(data: Path) -> None:
    questions = load(data, "mmlu").questions
    for start in range(0, 12, 3):
        assert {each.part for each in questions[start : start + 3]} == {
            "mmlu_anatomy",
            "mmlu_virology",
            "mmlu_marketing",
        }


def test_the_order_does_not_depend_on_that_of_the_file(data: Path, tmp_path: Path) -> None:
    rows = [choice("piqa", n, 2) for n in reversed(range(6))]
    write_lines(tmp_path / "piqa.jsonl", rows)
    assert [each.id for each in load(tmp_path, "piqa").questions] == [each.id for each in load(data, "piqa").questions]


def right_reply(name: str, question: Question, row: dict[str, Any]) -> Reply:
    if question.is_choice:
        best = row["answer_index"]
        return Reply(choices=tuple((-1.0 if place == best else -9.0, False) for place in range(len(question.choices))))
    answer = row["answer"] if isinstance(row["answer"], str) else row["answer"][0]
    words = {
        "gsm8k": f" So it is #### {answer}",
        "bbh": f"So the answer is {answer}.",
        "math500": f" Final Answer: The final answer is ${answer}$. I hope it is correct.",
    }
    return Reply(text=words.get(name, f" {answer.upper()} "))


@pytest.mark.parametrize("name", RECIPES)
def test_a_right_reply_is_graded_right_and_understood_and_a_wrong_one_wrong(data: Path, name: str) -> None:
    from support.lm_eval_files import _questions

    rows = {row["id"]: row for row in _questions()[name]}
    task = load(data, name)
    for question in task.questions:
        grade = question.grade(right_reply(name, question, rows[question.id]))
        assert grade.metrics[task.metrics[0]] == 1.0, (question.id, grade)
        assert tuple(grade.metrics) == (*task.metrics, *([NATS] if question.is_choice else []))
        if question.is_choice:
            assert grade.answer == rows[question.id]["answer"]
            wrong = Reply(
                choices=tuple(
                    (-abs(place - (rows[question.id]["answer_index"] + 1) % 2), False)
                    for place in range(len(question.choices))
                )
            )
        else:
            assert grade.answer
            wrong = Reply(text=" I do not know")
        found = question.grade(wrong)
        assert found.metrics[task.metrics[0]] == 0.0
        assert found.answer != grade.answer


def test_nats_a_byte_are_those_of_the_right_choice_as_it_is_written(data: Path) -> None:
    question = load(data, "arc_easy").questions[0]
    place = question.choices.index(question.reference)
    choices = [(-3.0 - each, False) for each in range(len(question.choices))]
    grade = question.grade(Reply(choices=tuple(choices)))
    assert grade.metrics[NATS] == pytest.approx((3.0 + place) / len(question.reference.encode()))
    choices[place] = (-math.inf, False)
    impossible = question.grade(Reply(choices=tuple(choices)))
    assert impossible.metrics[NATS] == 1000 / len(question.reference.encode())


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of no choice that is possible
def test_answers_agree_where_the_metric_takes_them_for_the_same(data: Path) -> None:
    [question] = load(data, "triviaqa", limit=1).questions
    assert question.grade(Reply(text=" The Nile!")).answer == question.grade(Reply(text="the nile")).answer
    [question] = load(data, "gsm8k", limit=1).questions
    assert question.grade(Reply(text="#### 1,000.")).answer == question.grade(Reply(text="x #### 1000")).answer
    assert question.grade(Reply(text="I think it is 5")).answer == ""
    [question] = load(data, "piqa", limit=1).questions
    assert question.grade(Reply(choices=((-math.inf, False),) * 2)).answer == ""


def test_mathematics_is_graded_the_same_in_any_thread(data: Path) -> None:
    [question] = [each for each in load(data, "math500").questions if each.id == "math.2"]
    replies = [
        Reply(text=text)
        for text in (
            "Final Answer: The final answer is $\\frac{4}{6}$. I hope it is correct.",
            "It is $\\boxed{\\frac{2}{3}}$.",
            "Final Answer: The final answer is $7$. I hope it is correct.",
        )
    ]
    here = [question.grade(reply) for reply in replies]
    assert [grade.metrics["exact_match"] for grade in here] == [1.0, 0.0, 0.0]
    assert [grade.metrics["math_verify"] for grade in here] == [1.0, 1.0, 0.0]
    there: list[Any] = []
    thread = threading.Thread(target=lambda: there.extend(question.grade(reply) for reply in replies))
    thread.start()
    thread.join()
    assert there == here


@pytest.mark.parametrize("missing", ["sympy", "antlr4"])
def test_mathematics_without_its_libraries_is_refused_at_once(
    data: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "lm_eval.tasks.minerva_math.utils", raising=False)
    with pytest.raises(BackendMissing, match=r"the task 'minerva_math500' needs a library .*sympy") as refused:
        load(data, "math500")
    assert "unisono[evals]" in str(refused.value.hint)


def test_a_reply_that_cannot_be_graded_is_an_error_of_its_own(data: Path) -> None:
    [question] = load(data, "piqa", limit=1).questions
    with pytest.raises(UnisonoError, match=r"cannot grade .* question 'piqa"):
        question.grade(Reply(choices=((-1.0, True),)))


def test_a_task_that_draws_by_itself_is_left_to_lm_evaluation_harness(data: Path) -> None:
    own = harness_tasks(data, "gsm8k")[0]
    own.set_config(key="generation_kwargs", value={"until": ["\n"], "do_sample": True, "temperature": 0.7})
    with pytest.raises(SpecError, match=r"it says itself how texts are drawn, with .*0\.7"):
        Definition(own, None)


def test_parts_that_are_counted_in_different_ways_are_no_task(data: Path) -> None:
    definitions = {name: Definition(harness_tasks(data, name)[0], 0) for name in ("gsm8k", "piqa")}
    rows = {name: [Row(f"{name}.0", name, {})] for name in definitions}
    with pytest.raises(SpecError, match="the parts of 'both' are not counted alike: gsm8k by exact_match"):
        _task("both", definitions, rows, [("gsm8k", "gsm8k.0"), ("piqa", "piqa.0")], ("here", ""), None)


def test_prompts_of_conversations_hold_the_examples_in_one_message(data: Path) -> None:
    [question] = load(data, "mmlu", limit=1, chat=True).questions
    assert question.choices == ("A", "B", "C", "D")
    messages = question.prompt.messages
    assert messages is not None
    assert [message["role"] for message in messages] == ["system", "user"]
    assert (messages[1].get("content") or "").count("Answer:") == 6
    [plain] = load(data, "gsm8k", limit=1).questions
    [asked] = load(data, "gsm8k", limit=1, chat=True).questions
    assert asked.prompt.messages == ({"role": "user", "content": plain.prompt.text},)


GOOD = {**choice("piqa", 1, 2)}
BROKEN: list[tuple[str, object, str]] = [
    ("piqa", "{", "line 2: it is no JSON"),
    ("piqa", [1], "line 2: it is \\[1\\], not an object"),
    ("piqa", {**GOOD, "id": "piqa.0"}, "line 2: its id 'piqa.0' is that of line 1"),
    ("piqa", {**GOOD, "id": 3.5}, "line 2: id is 3.5, not a text"),
    ("piqa", {**GOOD, "id": True}, "line 2: id is true, not a text"),
    ("piqa", '{"id": "x", "question": "?", "answer": "A", "answer": "B"}', "line 2: the key 'answer' stands twice"),
    ("arc_easy", {"id": "x", "question": "?", "choices": ["a", "b"], "answer": 1}, "answer is 1, none of its choices"),
    ("piqa", {key: GOOD[key] for key in GOOD if key != "question"}, "line 2: the key 'question' is missing"),
    ("piqa", {**GOOD, "choices": ["a"]}, "line 2: choices has 1 texts, not 2"),
    ("piqa", {**GOOD, "choices": "ab"}, "line 2: choices is 'ab', not a list"),
    ("piqa", {**GOOD, "answer_index": 2}, "line 2: answer_index is 2, none of its choices 0 to 1"),
    ("piqa", {**GOOD, "answer": "A"}, "line 2: answer is 'A', but answer_index is 1, B"),
    ("arc_easy", {"id": "x", "question": "?", "choices": ["a", "b"], "answer": "C"}, "none of its choices A, B"),
    ("mmlu", choice("x", 1, subject="anatomi"), "line 2: subject is 'anatomi', .*did you mean 'anatomy'"),
    ("gsm8k", {**sum_of("x", 1), "solution": "It is 2."}, "line 2: solution has no '#### '"),
    ("math500", {"id": "x", "question": "?", "answer": "1", "solution": "1"}, "line 2: solution has no .*boxed"),
    ("nq_open", {"id": "x", "question": "?", "answer": []}, "line 2: answer has 0 texts, not 1 or more"),
]


@pytest.mark.parametrize(("name", "line", "words"), BROKEN)
def test_a_broken_line_is_named(tmp_path: Path, name: str, line: object, words: str) -> None:
    import json

    from support.lm_eval_files import _questions

    text = line if isinstance(line, str) else json.dumps(line)
    (tmp_path / f"{name}.jsonl").write_text(f"{json.dumps(_questions()[name][0])}\n{text}\n")
    with pytest.raises(SpecError, match=words) as caught:
        load(tmp_path, name, shots=0)
    assert f"{name}.jsonl" in caught.value.message
    assert caught.value.hint


def test_numbers_and_letters_of_lines_are_read_as_they_were_meant(tmp_path: Path) -> None:
    line = Line(tmp_path, 1, {"id": 7, "choices": [3, "4"], "answer": " b"})
    assert (line.text("id"), line.choice()) == ("7", (["3", "4"], 1))
    for values in ({"answer_index": "1"}, {"answer_index": 1, "answer": "b"}, {"answer_index": 1, "answer": 4}):
        assert Line(tmp_path, 1, {"choices": ["3", "4"], **values}).choice() == (["3", "4"], 1)
    assert Line(tmp_path, 1, {"answer": "Paris"}).answers() == ["Paris"]
    assert Line(tmp_path, 1, {"answer": [1969, "in 1969"]}).answers() == ["1969", "in 1969"]


def test_a_compressed_file_is_refused_as_one(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "piqa.jsonl").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(SpecError, match="it is compressed: unpack it"):
        load(tmp_path, "piqa", shots=0)


def test_what_is_not_there_is_named(data: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"names": ["arc_esay"], "data": data}, "no task 'arc_esay'.*did you mean 'arc_easy'"),
        ({"names": [], "data": data}, "no task is named"),
        ({"names": ["piqa"], "data": tmp_path / "none"}, "there is no folder"),
        ({"names": ["piqa"], "data": tmp_path}, "cannot read .*piqa.jsonl"),
        ({"names": ["piqa"], "data": data, "limit": 7}, "limit is 7, but the task 'piqa' has 6 questions"),
        ({"names": ["piqa"], "data": data, "limit": 0}, "limit is 0"),
        ({"names": ["hellaswag"], "data": data, "shots": 1}, "cannot read .*hellaswag.shots.jsonl"),
        ({"names": ["piqa"], "data": data, "shots": 8}, "wants 8 examples .* has 8 to draw from, besides"),
        ({"names": ["mmlu"], "data": data, "shots": 6}, "wants 6 examples in a prompt, but has 5"),
        ({"names": ["bbh"], "data": data, "shots": 4}, "wants 4 examples in a prompt, but has 3"),
    ]
    for keys, words in cases:
        with pytest.raises(SpecError, match=words) as caught:
            load_tasks(**keys)
        assert caught.value.hint or "whole number" in caught.value.message
    (tmp_path / "piqa.jsonl").write_text("\n")
    with pytest.raises(SpecError, match="has no lines"):
        load(tmp_path, "piqa")


@pytest.mark.skipif("UNISONO_DATA" not in os.environ, reason="UNISONO_DATA names no folder of files")
@pytest.mark.parametrize("name", RECIPES)
def test_real_files_load(name: str) -> None:
    task = load(Path(os.environ["UNISONO_DATA"]), name, limit=60)
    assert len({question.id for question in task.questions}) == 60
    assert all((question.prompt.text or "").strip() for question in task.questions)
