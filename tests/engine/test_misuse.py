"""What careless or unlucky users do: nothing of theirs is lost, nothing hangs, every error is ours."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.command_line import Run, jsonl
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.benchmark import measure
from unisono.build import prepare
from unisono.chat.messages import Prompt
from unisono.config.ensemble import load_spec
from unisono.config.method import Method
from unisono.engine.request import Request
from unisono.ensemble import Ensemble
from unisono.errors import ModelError, SpecError
from unisono.records import Generation, Limits
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, fake_member, register_fake

ANSWER = '{"id": 1, "text": "kept"}\n'


@pytest.fixture
def one() -> Iterator[dict[str, Any]]:
    fake_member("a", [" the"], seed=1)
    yield {"members": [{"name": "a", "model": "fake:a"}]}
    FAKE_MODELS.clear()


def test_resuming_never_cuts_a_file_that_is_no_output_of_a_run(run: Run, duo: Path, tmp_path: Path) -> None:
    prompts = jsonl(tmp_path / "in.jsonl", {"id": 2, "prompt": "Hi"})
    out = tmp_path / "out"
    for content in ("my only notes, no newline", '{"name": "not an answer"}\n', '[1]\n{"id": 1'):
        out.write_text(content)
        assert run("run", duo, "--prompts", prompts, "--out", out, "--resume").code == 2
        assert out.read_text() == content


def test_the_prompts_are_never_the_output(run: Run, duo: Path, tmp_path: Path) -> None:
    prompts = jsonl(tmp_path / "in.jsonl", {"id": 2, "prompt": "Hi"})
    before = prompts.read_text()
    for flags in ((), ("--resume",), ("--overwrite",)):
        shown = run("run", duo, "--prompts", prompts, "--out", prompts, *flags)
        assert shown.code == 2
        assert "the file of the prompts itself" in shown.err
        assert prompts.read_text() == before


def test_answers_are_replaced_only_once_the_models_are_loaded(run: Run, duo: Path, tmp_path: Path) -> None:
    prompts = jsonl(tmp_path / "in.jsonl", {"id": 2, "prompt": "Hi"}, "broken")
    out = tmp_path / "out.jsonl"
    out.write_text(ANSWER)
    assert run("run", tmp_path / "none.yaml", "--prompts", prompts, "--out", out, "--overwrite").code == 2
    assert out.read_text() == ANSWER
    assert run("run", tmp_path / "none.yaml", "--prompts", prompts, "--out", tmp_path / "fresh").code == 2
    assert not (tmp_path / "fresh").exists()


def test_a_faulty_line_with_an_earlier_lines_id_does_not_stand_for_it(run: Run, duo: Path, tmp_path: Path) -> None:
    prompts = jsonl(tmp_path / "in.jsonl", {"id": 1, "prompt": "Hi"}, {"id": 1, "prompt": 5})
    out = tmp_path / "out.jsonl"
    assert run("run", duo, "--prompts", prompts, "--out", out, "--max-new-tokens", 3).code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [1, None]
    assert "text" in rows[0]


def test_no_line_however_strange_stops_the_others(run: Run, duo: Path, tmp_path: Path) -> None:
    everything = "".join(map(chr, (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE)))) + "</s>"
    prompts = jsonl(
        tmp_path / "in.jsonl",
        "[" * 100_000,
        '{"id": 1, "prompt": ' + "1" * 5000 + "}",
        {"id": 2, "prompt": everything},
        '{"id": "\\ud800", "prompt": "a"}',
        {"id": True, "prompt": "a"},
        {"id": "good", "prompt": "Hi"},
    )
    shown = run("run", duo, "--prompts", prompts, "--max-new-tokens", 3, "-q")
    assert shown.code == 0
    assert [row["id"] for row in shown.lines() if "text" in row] == ["\ud800", "good"]
    assert len(shown.lines()) == 6


def test_a_prompts_file_may_begin_with_a_byte_order_mark(run: Run, duo: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'\xef\xbb\xbf{"id": 1, "prompt": "Hi"}')
    shown = run("run", duo, "--prompts", tmp_path / "in.jsonl", "--max-new-tokens", 2, "-q")
    assert "text" in shown.lines()[0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_told_wherever_it_is_met(run: Run, duo: Path, tmp_path: Path) -> None:
    prompts = jsonl(tmp_path / "in.jsonl", {"id": 1, "prompt": "Hi"})
    for words in (("--prompts", prompts, "--out", "/dev/full"), ("Hi", "--trace", "/dev/full")):
        shown = run("run", duo, *words, "--max-new-tokens", 2)
        assert shown.code == 2
        assert "cannot write to '/dev/full': No space left on device" in shown.err
    assert shown.out == run("run", duo, "Hi", "--max-new-tokens", 2).out  # the answer itself is there
    program = [sys.executable, "-m", "unisono", "models", "--json"]
    with open("/dev/full", "w") as full:
        models = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (models.returncode, "No space left" in models.stderr) == (2, True)
    assert "Traceback" not in models.stderr


def test_closed_streams_and_old_encodings_do_no_harm() -> None:
    closed = subprocess.run(f'"{sys.executable}" -m unisono models <&- >&- 2>&-', shell=True)
    assert closed.returncode == 0
    ascii_only = subprocess.run(
        [sys.executable, "-m", "unisono", "run", "näh.yaml", "x"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert ascii_only.returncode == 2
    assert "Traceback" not in ascii_only.stderr


@pytest.mark.parametrize(
    "text",
    [
        "members: &a [*a]",
        "[" * 5000,
        "? [1, 2]\n: 4",
        "members: [{name: a, model: x, weight: 2024-02-30}]",
        "members: [{name: a, model: x, weight: !!int foo}]",
        "members: [3]",
        "members: [{name: a, model: x, weight: 1.0e+308}]",
        "members: [{name: a, model: x, threads: 1000000000}]",
        "members: [{name: a, model: '~nosuchuser/x.gguf'}]",
        f"members: [{{name: a, model: {'x' * 5000}}}]",
        "members: [{name: a, model: 'fake:a', chat_template: '{{ 1/0 }}'}]",
        "members: [{name: a, model: 'fake:a'}]\ngate: {? null : null}",
        "members: [{name: a, model: 'fake:a'}]\nspeculate: {drafter: {}}",
    ],
)
def test_no_spec_however_strange_is_a_fault_of_ours(run: Run, duo: Path, text: str) -> None:
    duo.write_text(text)
    shown = run("run", duo, "Hi")
    assert shown.code == 2, shown.err
    assert "internal error" not in shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"prompt": "a", "messages": []},
        {"prompt": 5},
        {"prompt": b"x"},
        {"messages": "hi"},
        {"messages": {"role": "user"}},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": ["x"]}]},
        {"prompt": "a", "max_new_tokens": "5"},
        {"prompt": "a", "max_new_tokens": 1.5},
        {"prompt": "a", "max_new_tokens": 0},
        {"prompt": "a", "max_new_tokens": -(10**5000)},
        {"prompt": "a", "stop": None},
        {"prompt": "a", "stop": [1]},
        {"prompt": "a", "stop": [""]},
        {"prompt": "a", "stop": "\ud800"},
        {"prompt": "a", "lead": "b"},
        {"prompt": "a", "gate": "confidence:0.5"},
        {"prompt": "a", "gate": 0.5},
        {"prompt": "a", "gate": {"kind": "every", "threshold": 2}},
        {"prompt": "a", "gate": {"knd": "every"}},
        {"prompt": "a", "speculate": "a"},
        {"prompt": "a", "speculate": "b"},
        {"prompt": "a", "speculate": 4},
        {"prompt": "a", "speculate": {"max_pieces": 4}},
    ],
)
def test_wrong_arguments_are_refused_and_take_no_slot(one: dict[str, Any], arguments: dict[str, Any]) -> None:
    with Ensemble.load(one) as ensemble:
        with pytest.raises(SpecError):
            ensemble.generate(**arguments)
        assert ensemble.generate("Hello", max_new_tokens=2).usage.pieces == 2


@pytest.mark.parametrize("field", [{"prompt": "Hi"}, {"prompt": None}, {"limits": 5}, {"limits": None}])
def test_a_field_of_the_wrong_type_spoils_its_own_request_alone(one: dict[str, Any], field: dict[str, Any]) -> None:
    good = Request("good", Prompt(text="Hi"), Limits(2))
    with Ensemble.load(one) as ensemble:
        batch = ensemble.generate_batch([replace(good, id="bad", **field), good])
        results = {request.id: result for request, result in batch}
    assert isinstance(results["good"], Generation)
    assert isinstance(results["bad"], SpecError)


@pytest.mark.parametrize("method", ["first:0", "", {}, {"gate": "first:0"}, 0, []])
def test_a_method_that_is_none_spoils_its_own_request_alone(one: dict[str, Any], method: Any) -> None:
    requests = [
        Request("bad", Prompt(text="Hi"), Limits(2), method=method),
        Request("good", Prompt(text="Hi"), Limits(2)),
    ]
    with Ensemble.load(one) as ensemble:
        results = {request.id: result for request, result in ensemble.generate_batch(requests)}
    assert isinstance(results["good"], Generation)
    bad = results["bad"]
    assert isinstance(bad, SpecError)
    assert "not a Method" in bad.message
    assert "ensemble.method.but" in (bad.hint or "")


def test_a_method_may_be_written_as_in_a_spec(one: dict[str, Any]) -> None:
    methods = [Method(speculate="ngram"), Method(gate="first:0")]  # type: ignore[arg-type]
    requests = [Request(str(n), Prompt(text="Hi"), Limits(2), method=method) for n, method in enumerate(methods)]
    with Ensemble.load(one) as ensemble:
        results = {request.id: result for request, result in ensemble.generate_batch(requests)}
    assert isinstance(results["0"], Generation)
    assert isinstance(results["1"], SpecError)  # nobody else is there to be asked
    with Ensemble.load(one) as ensemble:
        assert ensemble.generate("Hi", max_new_tokens=2, speculate=False).usage.drafted == 0


@pytest.mark.parametrize("spec", [None, [], "a\0b", 3])
def test_what_is_no_spec_is_refused(spec: Any) -> None:
    with pytest.raises(SpecError):
        Ensemble.load(spec)


def test_a_stream_ends_when_the_ensemble_is_closed_and_frees_its_slot_when_forgotten(one: dict[str, Any]) -> None:
    ensemble = Ensemble.load(one)
    stream = ensemble.stream("Hello", max_new_tokens=5)
    del stream
    gc.collect()
    stream = ensemble.stream("Hello", max_new_tokens=5)
    ensemble.close()
    with pytest.raises(RuntimeError, match="given up"):
        list(stream)


def test_a_batch_with_no_room_says_so(one: dict[str, Any]) -> None:
    request = Request("1", Prompt(text="Hi"), Limits(2))
    with (
        Ensemble.load(one) as ensemble,
        ensemble.stream("Hello"),
        pytest.raises(RuntimeError, match="all slots are taken"),
    ):
        list(ensemble.generate_batch([request]))


def broken(value: float) -> dict[str, Any]:
    table = byte_level_table()
    logits = np.full(len(table.texts), value, np.float32)
    register_fake("broken", FakeModel(LongestMatchTokenizer(table), lambda read: logits))
    return {"members": [{"name": "a", "model": "fake:a"}, {"name": "broken", "model": "fake:broken"}]}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_probabilities_that_are_no_numbers_are_noticed_and_the_member_named(one: dict[str, Any]) -> None:
    with Ensemble.load(broken(np.nan)) as ensemble, pytest.raises(ModelError, match="'broken' gave probabilities"):
        ensemble.generate("Hello")


def test_texts_that_end_at_once_cannot_be_timed_and_do_not_hang(one: dict[str, Any]) -> None:
    table = byte_level_table()
    logits = np.zeros(len(table.texts), np.float32)
    logits[table.eos_id] = 50
    register_fake("mute", FakeModel(LongestMatchTokenizer(table), lambda read: logits))
    with pytest.raises(ModelError, match="nothing to time"):
        measure(prepare(load_spec({"members": [{"name": "mute", "model": "fake:mute"}]})), rounds=1, pieces=4)


def test_a_template_that_never_sees_the_question_is_found_by_doctor(run: Run, duo: Path) -> None:
    duo.write_text("members: [{name: a, model: 'fake:a', chat_template: '...'}]")
    assert "the chat template of a writes the same whatever is asked" in run("doctor", duo, "-q").out


def test_a_prompt_too_long_is_refused_before_the_weights_are_loaded(run: Run, duo: Path) -> None:
    duo.write_text("members: [{name: a, model: 'fake:a', context: 10}]")
    shown = run("run", duo, "--raw", "x" * 50)
    assert shown.code == 2
    assert "more than its context of 10" in shown.err
    assert "loaded" not in shown.err
