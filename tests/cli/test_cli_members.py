"""Ensembles that a command line names without a file."""

from __future__ import annotations

import asyncio
import json
from dataclasses import fields
from pathlib import Path

import pytest

from support.command_line import Run
from unisono.async_ensemble import AsyncEnsemble
from unisono.cli.spec_flags import content_of, text_beside
from unisono.config.ensemble import load_spec
from unisono.config.member_line import read_member
from unisono.config.method import Method
from unisono.ensemble import Ensemble
from unisono.server.ensembles import named_files

MEMBERS = ("-m", "a=fake:a", "--member", "b=fake:b weight:0.5")
FEW = ("--max-new-tokens", 6, "-q")


@pytest.fixture(autouse=True)
def here(duo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(duo.parent)


def test_members_of_a_command_line_write_what_their_file_writes(run: Run, duo: Path) -> None:
    duo.write_text("members: [{name: a, model: 'fake:a'}, {name: b, model: 'fake:b', weight: 0.5}]\ngate: every:3\n")
    written = run("run", duo, "Together", *FEW, "--show")
    assert written.code == 0
    assert run("run", *MEMBERS, "Together", "--gate", "every:3", *FEW, "--show").out == written.out
    assert run("run", *MEMBERS, "--gate", "every:3", *FEW, "--show", stdin=b"Together").out == written.out


def test_saved_members_are_the_file_that_says_the_same(run: Run) -> None:
    method = ("--gate", "confidence:0.5", "--boundary", "--temperature", 0.8, "--seed", 3, "--lead", "b")
    named = run("run", *MEMBERS, "Together", *method, *FEW, "--save", "saved.yaml")
    assert named.code == 0, named.err
    assert run("run", "saved.yaml", "Together", *FEW).out == named.out
    spec = load_spec("saved.yaml")
    assert [(member.name, member.weight) for member in spec.members] == [("a", 1), ("b", 0.5)]
    again = run("run", *MEMBERS, "Together", *method, *FEW, "--save", "saved.yaml")
    assert (again.code, again.out) == (0, named.out)
    other = run("run", *MEMBERS, "Together", *FEW, "--save", "saved.yaml")
    assert "--save is 'saved.yaml', which holds another ensemble" in other.err
    assert load_spec("saved.yaml") == spec


@pytest.mark.parametrize(
    "keys",
    [
        {"combine": "geometric weights:entropy"},
        {"gate": "margin:0.25 boundary", "lead": "b"},
        {"gate": "certain"},
        {"speculate": "ngram:4"},
        {"sampling": "0.7 top_p:0.9 seed:1"},
        {"sampling": "beam_width:4"},
        {"sampling": "mixture"},
        {"reasoning": "64"},
        {"reasoning": "off"},
        {"sampling": {"temperature": 0.5, "bias": {" a b": 2.0}, "logit_bias": {3: -1}}},
    ],
)
def test_every_method_is_saved_as_it_is(keys: dict[str, object]) -> None:
    spec = load_spec({"members": [{"name": "a", "model": "fake:a"}, {"name": "b", "model": "fake:b"}], **keys})
    saved = content_of(spec)
    assert {*saved} <= {"members", *(field.name for field in fields(Method))}
    assert load_spec(saved) == spec


def test_paths_of_saved_members_hold_from_where_the_file_is(run: Run, duo: Path) -> None:
    (duo.parent / "models").mkdir()
    (duo.parent / "files").mkdir()
    (duo.parent / "models" / "x.gguf").write_bytes(b"GGUF")
    run("doctor", "-m", "x=models/x.gguf", "--save", "files/x.yaml")
    assert load_spec("files/x.yaml").members[0].model == "../models/x.gguf"


def test_a_member_is_subtracted_where_the_flag_of_the_rule_allows_it(run: Run) -> None:
    members, rule = ("-m", "a=fake:a weight:-0.5", "-m", "b=fake:b weight:1.5"), ("--combine", "logits")
    written = run("run", *members, "Together", *rule, *FEW, "--save", "signed.yaml")
    assert written.code == 0, written.err
    assert run("run", "signed.yaml", "Together", *FEW).out == written.out
    assert "has no use for a negative weight" in run("run", *members, "Together", *FEW).err


def test_a_path_that_is_there_is_a_model_whatever_its_words_look_like() -> None:
    path = Path("my models", "by name:x", "weight:2.gguf")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    assert read_member(f"{path}") == {"name": "weight-2", "model": str(path)}
    assert read_member(f"x={path} weight:0.5") == {"name": "x", "model": str(path), "weight": 0.5}


def test_a_model_alone_is_an_ensemble_of_one(run: Run) -> None:
    alone = run("run", "fake:a", "Together", *FEW)
    assert alone.code == 0, alone.err
    assert alone.out == run("run", "-m", "fake:a", "Together", *FEW).out
    assert alone.out == run("run", "fake:a", "Together", "--save", "one.yaml", *FEW).out
    assert run("run", "one.yaml", "Together", *FEW).out == alone.out


def test_doctor_and_bench_take_members_and_a_method(run: Run) -> None:
    shown = run("doctor", *MEMBERS, "--gate", "every:2", "--json", "-q")
    found = json.loads(shown.out)
    assert [(member["name"], round(member["weight"], 3)) for member in found["members"]] == [("a", 0.667), ("b", 0.333)]
    words = ("--rounds", 1, "--pieces", 4, "--json", "-q")
    bench = run("bench", *MEMBERS, "--gate", "every:2", *words)
    assert bench.code == 0, bench.err
    assert json.loads(bench.out)["method"]["gate"]["kind"] == "every"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("run",), "there is no ensemble"),
        (("doctor",), "there is no ensemble"),
        (("serve",), "there is no ensemble"),
        (("run", "duo.yaml", *MEMBERS), "'duo.yaml' stands where the text does"),
        (("run", "fake:a", *MEMBERS), "'fake:a' stands where the text does"),
        (("run", "duo.yaml", "Hello", *MEMBERS), "'duo.yaml' and a text are given beside -m"),
        (("run", "-m", "duo.yaml", "Hello"), "'duo.yaml' is an ensemble file"),
        (("run", "duo.yaml", "Hello", "--save", "x.yaml"), "'duo.yaml' is an ensemble file already"),
        (("run", *MEMBERS, "Hello", "--save", "nowhere/x.yaml"), "--save is 'nowhere/x.yaml', in a folder that"),
        (("run", *MEMBERS, "Hello", "--lead", "c"), "the lead 'c' is not a member"),
        (("run", "-m", "a=fake:a weight:x", "Hello"), "members[0].weight is 'x'"),
        (("doctor", "duo.yaml", *MEMBERS), "'duo.yaml' and -m are both given"),
        (("doctor", "duo.yaml", "--gate", "every:2"), "--gate is given, but 'duo.yaml' says how it writes"),
        (("run", "duo.yml", "Hello"), "did you mean 'duo.yaml'?"),
        (("serve", "duo.yaml", *MEMBERS), "duo.yaml and -m are both given"),
        (("serve", "duo.yaml", "--gate", "every:2"), "--gate is given without -m"),
        (("serve", *MEMBERS, "--ray"), "--ray does not go with -m"),
        (("run", "http://[::1", "Hello"), "is not an address"),
        (("run", "-m", "x=http://[::1", "Hello"), "is not an address"),
        (("member", "serve", "duo.yaml"), "'duo.yaml' has several members: a, b"),
        (("match", "fake:a", "-m", "b=fake:b weight:2", "--tasks", "piqa"), "the member 'b' has a weight"),
    ],
)
def test_what_may_be_misread_is_refused(run: Run, words: tuple[str, ...], problem: str) -> None:
    shown = run(*words)
    assert shown.code == 2
    assert problem in shown.err, shown.err
    assert "Traceback" not in shown.err


LONG = "x" * 300


@pytest.mark.parametrize("text", ["https://x.org/a summarise", "demo: what is it?", f"Say {LONG}.yaml", f"{LONG}.yaml"])
def test_words_that_name_no_model_and_no_file_are_the_text(text: str) -> None:
    assert text_beside(None, ["fake:a"], None) == (None, None)
    assert text_beside(text, ["fake:a"], None) == (None, text)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("run", f"{LONG}.yaml", "Hello"), "cannot read the ensemble file"),
        (("run", f"mdels/{LONG}.yaml", "Hello"), "there is no ensemble file"),
        (("run", *MEMBERS, "Hello", "--save", f"{LONG}.yaml"), "cannot write"),
        (("run", "-m", f"a={LONG}", "Hello"), "cannot be looked up: "),
        (("run", "-m", f"~nobody/{LONG} x", "Hello"), "there is no model"),
        (("run", "duo.yaml", "--prompts", "in.jsonl", "--out", LONG), "cannot write"),
        (("run", "duo.yaml", "Hello", "--trace", LONG), "cannot write the trace"),
    ],
)
def test_a_name_that_is_too_long_is_no_file(run: Run, words: tuple[str, ...], problem: str) -> None:
    Path("models").mkdir()
    Path("in.jsonl").write_text('{"prompt": "Hello"}\n')
    shown = run(*words)
    assert shown.code == 2
    assert shown.err.startswith("unisono: ")
    assert problem in shown.err, shown.err
    assert not shown.err.startswith("unisono: File name too long")


def test_a_server_names_models_alone_by_their_models() -> None:
    assert named_files(["demo:gemma3-270m", "one=Org/Model", "duo.yaml", "two=duo.yaml"]) == {
        "gemma3-270m": "demo:gemma3-270m",
        "one": "Org/Model",
        "duo": Path("duo.yaml"),
        "two": Path("duo.yaml"),
    }


def test_python_takes_lists_and_keywords() -> None:
    async def asynchronous() -> str:
        async with await AsyncEnsemble.load(a="fake:a", b="fake:b", batch=2) as both:
            return (await both.generate("Together", max_new_tokens=6)).text

    texts = [asyncio.run(asynchronous())]
    for ensemble in (Ensemble.load(["a=fake:a", "b=fake:b"]), Ensemble.load(a="fake:a", b={"model": "fake:b"})):
        with ensemble:
            assert ensemble.members == ("a", "b")
            texts.append(ensemble.generate("Together", max_new_tokens=6).text)
    assert len(set(texts)) == 1
