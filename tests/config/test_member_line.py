"""Members in a line, and words that name an ensemble without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unisono.config.ensemble import load_spec, source_of
from unisono.config.member_line import default_name, members_of, named_members, read_member
from unisono.config.spec_word import model_alone
from unisono.errors import SpecError


@pytest.mark.parametrize(
    ("line", "member"),
    [
        ("demo:gemma3-270m", {"name": "gemma3-270m", "model": "demo:gemma3-270m", "chat_template": "plain"}),
        ("gemma=demo:gemma3-270m", {"name": "gemma", "model": "demo:gemma3-270m", "chat_template": "plain"}),
        ("g=demo:x weight:0.5", {"name": "g", "model": "demo:x", "weight": 0.5}),
        (" g=demo:x  weight:2   device:cuda:1 ", {"name": "g", "model": "demo:x", "weight": 2, "device": "cuda:1"}),
        ("Qwen/Qwen2.5-0.5B", {"name": "Qwen2.5-0.5B", "model": "Qwen/Qwen2.5-0.5B"}),
        ("./models/a=b.gguf", {"name": "a-b", "model": "./models/a=b.gguf"}),
        ("q=./models/a=b.gguf", {"name": "q", "model": "./models/a=b.gguf"}),
        ("/m/My Model.Q4.gguf weight:1", {"name": "My-Model.Q4", "model": "/m/My Model.Q4.gguf", "weight": 1}),
        ("http://127.0.0.1:8100", {"name": "127.0.0.1-8100", "url": "http://127.0.0.1:8100"}),
        ("far=https://host/v1 top:20", {"name": "far", "url": "https://host/v1", "top": 20}),
        ("a=demo:x served_model:7", {"name": "a", "model": "demo:x", "served_model": "7"}),
    ],
)
def test_a_line_is_a_member(line: str, member: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.exists", lambda path: str(path).endswith("Model.Q4.gguf"))
    assert read_member(line) == member


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "a member is ''"),
        ("gemma=", "'gemma=' has no model"),
        ("my gemma=demo:x", "'my gemma' cannot be a name"),
        ("demo:x=demo:y", "'demo:x' cannot be a name"),
        ("demo:x wieght:2", "unknown key 'wieght' in the member 'demo:x wieght:2'; did you mean 'weight'?"),
        ("demo:x system:Hi", "unknown key 'system'"),
        ("demo:x weight:1 weight:2", "the key 'weight' of a member is given twice"),
        ("g=demo:x 0.5", "its last word is not KEY:VALUE"),
        ("demo:x weight=0.5", "'demo:x weight' cannot be a name"),
        ("duo.yaml", "is an ensemble file"),
    ],
)
def test_a_line_that_may_mean_something_else_is_refused(line: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_member(line)
    assert words in caught.value.message
    assert caught.value.hint


def test_a_file_and_a_name_before_a_model_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.gguf").touch()
    with pytest.raises(SpecError, match=r"may be the file 'a=b.gguf', or 'b.gguf' by the name 'a'") as caught:
        read_member("a=b.gguf")
    assert "./a=b.gguf" in str(caught.value.hint)
    assert read_member("./a=b.gguf")["model"] == "./a=b.gguf"


def test_values_are_checked_as_those_of_a_file() -> None:
    for line, words in (
        ("demo:x weight:heavy", "members[0].weight is 'heavy'"),
        ("demo:x backend:llama", "unknown backend 'llama'"),
        ("demo:x weight:0", "have no vote"),
    ):
        with pytest.raises(SpecError) as caught:
            load_spec([line])
        assert words in caught.value.message


def test_lists_and_keywords_are_ensembles() -> None:
    listed = load_spec(["smol=demo:a", {"model": "Org/B", "weight": 0.5}])
    assert [(each.name, each.model, each.weight) for each in listed.members] == [
        ("smol", "demo:a", 1.0),
        ("B", "Org/B", 0.5),
    ]
    assert listed == load_spec(named_members({"smol": "demo:a", "B": "Org/B weight:0.5"}))
    assert source_of("duo.yaml", {}) == "duo.yaml"
    for given, words in (
        (lambda: source_of(None, {}), "there is no ensemble"),
        (lambda: source_of("duo.yaml", {"smol": "demo:a"}), "a spec is given, and smol beside it"),
        (lambda: named_members({"smol": "gemma=demo:a"}), "with another name"),
        (lambda: named_members({"smol": {"name": "x", "model": "demo:a"}}), "has a name in its mapping, too"),
        (lambda: members_of(["demo:a", "demo:a"]), "two members are named 'a'"),
        (lambda: load_spec([]), "there are no members"),
        (lambda: load_spec([7]), "a member is 7"),  # type: ignore[list-item]
        (lambda: load_spec(7), "a spec cannot be 7"),  # type: ignore[arg-type]
    ):
        with pytest.raises(SpecError) as caught:
            given()
        assert words in caught.value.message


def test_names_come_from_models() -> None:
    names = {"Org/Model-1.5B": "Model-1.5B", "./m/x.gguf": "x", "a/b/": "b", "…": "model", "x" * 99: "x" * 64}
    assert {model: default_name(model) for model in names} == names


def test_a_model_alone_is_an_ensemble_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF....")
    (tmp_path / "duo.yaml").write_text("members: []")
    for folder in ("checkpoint", "samples"):
        (tmp_path / folder).mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    alone = ["demo:gemma3-270m", "http://host:1", "Org/Model", "./model.gguf", "model.gguf", "checkpoint"]
    assert [model_alone(word) for word in alone] == alone
    for word in ("duo.yaml", "duo", "samples", "samples/duo", "Org/duo.yaml", "none.gguf", "/dev/stdin", ""):
        assert model_alone(word) is None
    [member] = load_spec("Org/Model").members
    assert (member.name, member.model) == ("Model", "Org/Model")


def test_a_wrong_path_suggests_the_files_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples").mkdir()
    for name in ("duo.yaml", "it's ours.yaml", "samples/trio.yaml", "samples/notes.txt"):
        (tmp_path / name).touch()
    for path, meant in (
        ("duo.yml", "did you mean 'duo.yaml'?"),
        ("duo", "did you mean 'duo.yaml'?"),
        ("samples/tri.yaml", "did you mean 'samples/trio.yaml'?"),
        ("its ours.yaml", 'did you mean "it\'s ours.yaml"?'),
        ("smples/trio.yaml", "did you mean 'samples/trio.yaml'?"),
    ):
        with pytest.raises(SpecError) as caught:
            load_spec(path)
        assert f"there is no ensemble file {path!r}; {meant}" in caught.value.message
    with pytest.raises(SpecError) as caught:
        load_spec("samples/other.yaml")
    assert caught.value.hint == (
        "there is in 'samples': trio.yaml; a model alone is written demo:NAME, ORG/MODEL, or the path of its folder "
        "or GGUF file"
    )
    with pytest.raises(SpecError) as caught:
        load_spec("smol=demo:x")
    assert "-m 'smol=demo:x' names a member" in str(caught.value.hint)


def test_a_demo_model_that_is_a_base_model_reads_conversations_where_it_is_named_alone() -> None:
    pair = load_spec(["demo:smollm2-135m-instruct", "demo:gemma3-270m", "other=demo:gemma3-270m chat_template:mine"])
    assert [member.chat_template for member in pair.members] == [None, "plain", "mine"]
    assert load_spec("demo:gemma3-270m").members[0].chat_template == "plain"


@pytest.mark.parametrize(
    "path", ["", "/", "/v1", "/v1/", "//v1//", "/v1/completions", "/v1/chat/completions/", "/v1/models"]
)
@pytest.mark.parametrize("address", ["http://host:8000", "https://host/api", "http://v1", "http://models"])
def test_what_openai_has_at_the_end_of_an_address_is_dropped(address: str, path: str) -> None:
    far = {"name": "far", "url": address + path, "tokenizer": "fake:x"}
    assert load_spec({"members": [far]}).members[0].url == address
