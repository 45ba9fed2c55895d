"""Constraints on the command line, on fake members."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from support.command_line import Run, jsonl

SCHEMA = Path(__file__).parents[2] / "examples" / "person.schema.json"


def test_a_schema_in_a_file_binds_the_answer(run: Run, duo: Path) -> None:
    shown = run("run", duo, "Who?", "--json-schema", SCHEMA, "--max-new-tokens", 400)
    assert shown.code == 0
    jsonschema.validate(json.loads(shown.out), json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_a_constraint_in_words_binds_all_texts_of_a_prompt_and_of_a_file(run: Run, duo: Path, tmp_path: Path) -> None:
    shown = run("run", duo, "x", "--constraint", "regex:(ab|cd){3}", "--n", 3, "--sampling", "1 seed:1", "--json")
    texts = [line["text"] for line in shown.lines()]
    assert len(texts) == 3
    assert all(re.fullmatch("(ab|cd){3}", text) for text in texts)
    prompts = jsonl(tmp_path / "in.jsonl", *({"id": number, "prompt": "x"} for number in range(3)))
    out = tmp_path / "out.jsonl"
    run("run", duo, "--prompts", prompts, "--out", out, "--constraint", "regex:(ab|cd){3}", "--batch", 2)
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(answers) == 3
    assert all(re.fullmatch("(ab|cd){3}", answer["text"]) for answer in answers)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--json-schema", "missing.json"], "cannot be read"),
        (["--constraint", "regex:("], "unclosed group"),
        (["--constraint", "jsonobject"], "did you mean 'json_object'"),
        (["--constraint", 'json_schema:{"not": {}}'], "JSON Schema that are not supported"),
        (["--constraint", 'json_schema:{"enum": [1], "enum": [2]}'], "the key 'enum' stands twice"),
        (["--json-schema", "."], "cannot be read: Is a directory"),
        (["--constraint", "regex:a", "--json-schema", "x.json"], "does not go with --constraint"),
    ],
)
def test_a_wrong_constraint_is_told_before_anything_is_written(
    run: Run, duo: Path, tmp_path: Path, words: list[str], problem: str
) -> None:
    prompts, out = jsonl(tmp_path / "in.jsonl", {"id": 1, "prompt": "x"}), tmp_path / "out.jsonl"
    for shown in (run("run", duo, "x", *words), run("run", duo, "--prompts", prompts, "--out", out, *words)):
        assert shown.code == 2
        assert problem in shown.err
        assert not shown.out
    assert not out.exists()


def test_a_schema_may_begin_with_a_byte_order_mark(run: Run, duo: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"enum": [7]}', encoding="utf-8-sig")
    assert run("run", duo, "x", "--json-schema", tmp_path / "schema.json").out == "7\n"
