"""Every vocabulary that comes with llama.cpp answers and calls through the whole product as llama.cpp does by itself.

Its model is tiny and random. Prompts are what transformers makes of the chat template and llama.cpp of the text; the
answer is the likeliest id after each, by llama.cpp's own pass.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

llama_cpp = pytest.importorskip("llama_cpp")
pytest.importorskip("transformers")
pytest.importorskip("gguf")

from transformers.utils.chat_template_utils import render_jinja_template  # noqa: E402

from support.covering import some  # noqa: E402
from support.real_tokenizers import gguf_path  # noqa: E402
from support.tiny_gguf import tiny_tensors, write_tiny  # noqa: E402
from support.tool_templates import TAGGED  # noqa: E402
from support.vocabulary_files import write_with_vocabulary  # noqa: E402
from unisono.backends.gguf_parts import read_gguf  # noqa: E402
from unisono.build import prepare  # noqa: E402
from unisono.chat.messages import Prompt  # noqa: E402
from unisono.config.ensemble import load_spec  # noqa: E402
from unisono.config.reasoning import Reasoning  # noqa: E402
from unisono.engine.engine import Engine  # noqa: E402
from unisono.ensemble import Ensemble  # noqa: E402
from unisono.errors import PromptError  # noqa: E402
from unisono.loaded_models import load_models  # noqa: E402
from unisono.records import Limits  # noqa: E402
from unisono.tools import call_grammar, find_calls  # noqa: E402

pytestmark = pytest.mark.tokenizers

PIECES = 8
VOCABULARIES = (
    *("llama-spm", "gpt-2", "phi-3", "deepseek-coder", "starcoder", "refact", "mpt", "gpt-neox", "falcon", "baichuan"),
    *("deepseek-llm", "llama-bpe", "qwen2", "qwen35", "command-r", "gemma-4"),
)
"""The large ones come last. Aquila's calls its END a text, which llama.cpp corrects; the rest writes nothing."""
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "blué"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "paint", "description": "Paint it.", "parameters": SCHEMA}}
QUESTION: Any = [{"role": "user", "content": "Why is the sea <b>blue</b>, é 日本?"}]
HISTORY: Any = [*QUESTION, {"role": "assistant", "content": "It is so."}, {"role": "user", "content": "And  now?"}]
RAW = " The sea,\n\tis 12345 é 日本"


def own_model(path: Path) -> Any:
    return llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, verbose=False)


def rendered(member: Any, messages: Any) -> str:
    """What transformers makes of a conversation, up to where an answer begins."""
    table = member.tokenizer.table
    [text], _ = render_jinja_template(
        [messages], chat_template=table.chat_template, add_generation_prompt=True, **table.special_texts
    )
    return str(text) + str(member.encoder.opening())


def check_likeliest(own: Any, member: Any, ids: list[int], answer: list[int]) -> None:
    """Each id of an answer is the likeliest by llama.cpp's own pass, ids of one text together, and so is its end."""
    vocabulary, end = member.vocabulary, member.vocabulary.end_ids[0]
    first = {token: vocabulary.canonical[piece] for token, piece in enumerate(vocabulary.pieces) if piece}
    first |= dict.fromkeys(vocabulary.end_ids, end)
    first |= {token: token for token in vocabulary.marks.first_ids - set(vocabulary.end_ids)}
    kept = np.array(list(first))
    own.reset()
    own.eval(ids)
    for token in [*answer, end][:PIECES]:
        logits_V = np.ctypeslib.as_array(llama_cpp.llama_get_logits(own.ctx), (vocabulary.rows,)).astype(np.float64)
        mass_V = np.zeros(vocabulary.rows)
        np.add.at(mass_V, np.array(list(first.values())), np.exp(logits_V - logits_V.max())[kept])
        assert mass_V[token] > 0.98 * mass_V.max()  # a batch of another size rounds otherwise
        own.eval([token])


def written_by(engine: Engine, prompt: Prompt) -> tuple[list[int], list[int]]:
    """The ids of a prompt, and of the answer."""
    member = engine.members[0]
    reasoning = Reasoning(off=bool(member.encoder.marks.at_opening))
    text = engine.add(prompt, Limits(max_new_tokens=PIECES), method=engine.method.but(reasoning=reasoning))
    while text.finish is None:
        engine.step()
    ids, begin = list(text.cursors[member.name].ids), member.encoder.encode(prompt)
    assert ids[: len(begin)] == begin
    return begin, ids[len(begin) :]


def check_call(ensemble: Ensemble, member: str) -> None:
    """An answer of both members that has to be a call is one, where the template's form can be written."""
    try:
        form = ensemble.call_form(member)
    except PromptError:
        return
    answer = ensemble.generate(
        messages=QUESTION,
        tools=[TOOL],
        constraint={"lark": call_grammar(form, [TOOL])},
        sampling={"bias": dict.fromkeys((" ", "\n", "\t", "\r"), -60.0)},  # a random model would write no end of them
        reasoning="off",
        max_new_tokens=400,
    )
    content, [call] = find_calls(form, ["paint"], answer.text, tools=[TOOL])
    assert json.loads(call.arguments)["colour"] in ("red", "blué")
    assert not content.strip()


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("second")
    metadata = read_gguf(write_tiny(folder / "tiny.gguf", tiny_tensors())).metadata
    return write_with_vocabulary(folder / "second.gguf", metadata, TAGGED)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if n < 2 else [pytest.mark.slow]) for n, name in enumerate(some(VOCABULARIES, 8))],
)
def test_a_vocabulary_answers_and_calls_as_llama_cpp_does(name: str, tmp_path: Path, second: Path) -> None:
    path = write_with_vocabulary(tmp_path / "it.gguf", read_gguf(gguf_path(name)).metadata, TAGGED)
    plain: dict[str, Any] = {"backend": "llamacpp", "device": "cpu", "threads": 1, "context": 2048}
    both = prepare(
        load_spec({"members": [{"name": n, "model": str(p), **plain} for n, p in (("it", path), ("second", second))]})
    )
    alone = both.alone("it")
    member, own = alone.members[0], own_model(path)
    tokenize: Callable[..., list[int]] = own.tokenize
    with load_models([both]) as models:
        for messages in (QUESTION, HISTORY):
            ids, answer = written_by(models.engine(alone), Prompt(messages=messages))
            assert ids == tokenize(rendered(member, messages).encode(), add_bos=False, special=True)
            check_likeliest(own, member, ids, answer)
        ids, answer = written_by(models.engine(alone), Prompt(text=RAW))
        assert ids == tokenize(RAW.encode(), add_bos=True, special=False)
        check_likeliest(own, member, ids, answer)
        assert written_by(models.engine(both), Prompt(text=RAW))[1]
        check_call(Ensemble(both, models.engine(both)), "it")
