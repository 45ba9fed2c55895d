"""Several chat templates of one model: transformers' rule chooses, a spec names one, through every backend."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.gguf_parts import read_gguf
from unisono.backends.gguf_tokens import read_table
from unisono.build import prepare
from unisono.chat.messages import Message, Prompt
from unisono.chat.tools import Tool
from unisono.config.ensemble import load_spec
from unisono.diagnosis import diagnose
from unisono.errors import PromptError, SpecError
from unisono.members import PreparedMember
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule, register_fake
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET
from unisono.vocab.tokenizer import TokenTable

BODY = "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}</s>{% endfor %}{{ tools | tojson if tools else '' }}"
SOURCES = {name: f"{name}|{BODY}" for name in ("default", "tool_use", "rag", "plan")}
TOOLS = (Tool(type="function", function={"name": "look", "description": "Look.", "parameters": {"type": "object"}}),)
QUESTION = (Message(role="user", content="Hi"),)
SETS = (("default", "tool_use"), ("default", "rag"), ("tool_use", "rag"), ("rag", "plan"), ("default",), ("plan",))


def prepared_of(table: TokenTable, **keys: Any) -> PreparedMember:
    register_fake("named", FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts))))
    spec = {"members": [{"name": "m", "model": "fake:named", "backend": "fake", **keys}]}
    return prepare(load_spec(spec)).members[0]


def named(*names: str, **keys: Any) -> PreparedMember:
    table = byte_level_table()
    templates = {name: SOURCES[name] for name in names}
    return prepared_of(
        dataclasses.replace(table, chat_template=templates.get("default"), named_templates=templates), **keys
    )


def read(member: PreparedMember, tools: tuple[Tool, ...] | None = None) -> str:
    ids = member.encoder.encode(Prompt(messages=QUESTION, tools=tools))
    return member.vocabulary.join(ids).decode()


def tokenizer_with(folder: Path, names: tuple[str, ...], how: str) -> Any:
    pytest.importorskip("transformers")
    from support.tiny_models import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {name: SOURCES[name] for name in names}
    tokenizer.save_pretrained(folder, save_jinja_files=how == "files")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 259, "eos_token_id": 257}))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert isinstance(config.get("chat_template"), list) is (how == "list")
    return tokenizer


@pytest.mark.parametrize(("names", "how"), list(itertools.product(SETS, ("list", "files"))))
def test_the_choice_is_that_of_transformers(tmp_path: Path, names: tuple[str, ...], how: str) -> None:
    theirs = tokenizer_with(tmp_path, names, how)
    spec = {"members": [{"name": "m", "model": str(tmp_path), "backend": "transformers"}]}
    member = prepare(load_spec(spec)).members[0]
    for tools in (None, TOOLS):
        given = None if tools is None else [dict(tool) for tool in tools]
        try:
            expected = theirs.apply_chat_template(list(QUESTION), tools=given, add_generation_prompt=True)["input_ids"]
        except ValueError:
            with pytest.raises(
                PromptError, match=f"templates ({', '.join(sorted(names))}|{', '.join(names)}), and none"
            ):
                member.encoder.encode(Prompt(messages=QUESTION, tools=tools))
        else:
            assert member.encoder.encode(Prompt(messages=QUESTION, tools=tools)) == expected


@pytest.mark.parametrize("names", SETS)
def test_a_gguf_file_means_the_same(tmp_path: Path, names: tuple[str, ...]) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*BYTE_LEVEL_ALPHABET, "ab", "<s>", "</s>"])
    writer.add_token_types([1] * 257 + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_chat_template([{"name": name, "template": SOURCES[name]} for name in names])
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    table = read_table(read_gguf(tmp_path / "v.gguf"))
    if names == ("default",):
        assert (table.chat_template, table.named_templates) == (SOURCES["default"], {})
        return
    assert table.named_templates == {name: SOURCES[name] for name in names}
    assert table.chat_template == table.named_templates.get("default")
    if pytest.importorskip("llama_cpp"):
        from unisono.backends.registry import make_loader

        loader = make_loader("llamacpp", LoadRequest("m", ModelSource("gguf", str(tmp_path / "v.gguf"))))
        assert loader.tokenizer().table.named_templates == table.named_templates


def test_tools_have_a_template_of_their_own() -> None:
    member = named("default", "tool_use")
    assert read(member).startswith("default|user:Hi")
    assert read(member, TOOLS).startswith("tool_use|user:Hi[{")
    assert read(named("default", "rag"), TOOLS).startswith("default|user:Hi[{")
    with pytest.raises(PromptError, match="'m' has the chat templates rag, plan, and none is the default"):
        read(named("rag", "plan"))


@pytest.mark.parametrize("name", ["default", "tool_use", "rag"])
def test_a_spec_names_one(name: str) -> None:
    member = named("default", "tool_use", "rag", chat_template=name)
    assert read(member).startswith(f"{name}|")
    assert read(member, TOOLS).startswith(f"{name}|")
    assert not member.encoder.given_template


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(SpecError, match=r"is 'tool_uze', and its model has none of that name; did you mean 'tool_use'"):
        named("default", "tool_use", chat_template="tool_uze")
    assert read(named("default", "tool_use", chat_template="mine|" + BODY)).startswith("mine|")
    assert read(prepared_of(byte_level_table(), chat_template="rag{{ messages[0].content }}")) == "ragHi"


def test_the_diagnosis_names_them() -> None:
    named("rag", "plan")
    spec = {"members": [{"name": "m", "model": "fake:named", "backend": "fake"}]}
    found = diagnose(prepare(load_spec(spec)))
    assert found.members[0].templates == ("rag", "plan")
    assert any("m has the chat templates rag, plan and none of them is the default" in each for each in found.warnings)


def test_a_turn_ends_as_either_template_ends_it() -> None:
    table = byte_level_table()
    templates = {"default": SOURCES["default"], "tool_use": SOURCES["tool_use"].replace("</s>", "<|system|>")}
    member = prepared_of(dataclasses.replace(table, chat_template=templates["default"], named_templates=templates))
    assert {table.texts[token] for token in member.endings} == {"</s>", "<|system|>"}
