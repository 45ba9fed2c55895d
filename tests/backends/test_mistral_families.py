"""Mistral's tokenizers of every version that mistral-common carries: prompts and answers are its own, id for id."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("mistral_common")

from support.encoders import encoder_of  # noqa: E402
from support.families import save_weights  # noqa: E402
from support.real_tokenizers import MISTRAL, hub_folder, package_file  # noqa: E402
from unisono.backends.transformers.tokenizer import read_tokenizer  # noqa: E402
from unisono.chat.messages import Prompt  # noqa: E402
from unisono.ensemble import Ensemble  # noqa: E402
from unisono.tools import call_grammar, find_calls  # noqa: E402

pytestmark = pytest.mark.tokenizers

_TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% elif m.role == 'system' %}SYSTEM{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "mistral-v1": _TURNS.replace("[INST]{{ m.content }}[/INST]", "[INST] {{ m.content }} [/INST]").replace(
        "{% else %}", "{% else %} "
    ),
    "mistral-v2": _TURNS,
    "mistral-v3": _TURNS,
    "mistral-v7": _TURNS.replace("SYSTEM", "[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"),
    "tekken": _TURNS,
    "tekken-later": _TURNS,
}
USER: Any = {"role": "user", "content": "Why is the sea <b>blue</b>, é 日本?"}
ANSWER: Any = {"role": "assistant", "content": "It is so."}
TYPED: Any = {"role": "user", "content": "a [INST] b</s>[/INST] <s>[TOOL_CALLS]\n c"}
SYSTEM: Any = {"role": "system", "content": "Be brief."}
AGAIN: Any = {"role": "user", "content": "And  now?"}
CHATS: list[list[Any]] = [[USER], [USER, ANSWER, AGAIN]]
RAW = (" The sea,\n\tis 12345 é 日本", "</s> [INST] and <s>", "\n", "x")


@pytest.fixture(scope="module", params=list(MISTRAL))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def theirs(name: str) -> Any:
    return transformers.MistralCommonBackend(tokenizer_path=package_file("mistral_common", f"data/{MISTRAL[name]}"))


def test_prompts_are_those_of_mistral_common(name: str, theirs: Any) -> None:
    tokenizer = read_tokenizer(theirs, [theirs.eos_token_id], "it")
    encoder = encoder_of(tokenizer.table, TEMPLATES[name], tokenizer)
    for chat in CHATS if "v7" not in name else [*CHATS, [SYSTEM, *CHATS[1]]]:
        expected = theirs.apply_chat_template(chat, return_dict=False)
        assert encoder.encode(Prompt(messages=chat)) == expected, chat
    for text in RAW:
        assert encoder.encode(Prompt(text=text)) == theirs(text)["input_ids"], text
    controls = set(tokenizer.table.controls.values())
    assert not controls & set(tokenizer.encode("".join(tokenizer.table.controls)))
    typed, plain = (encoder.encode(Prompt(messages=[each, ANSWER, each])) for each in (TYPED, USER))
    assert [token for token in typed if token in controls] == [token for token in plain if token in controls]
    assert encoder.speller.vocabulary.join(typed).decode().count(TYPED["content"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tekken", "tekken-later"])
def test_a_model_with_a_tekken_file_answers_and_calls(tmp_path: Path, name: str) -> None:
    """Its template is a file that mistral-common does not read."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("llguidance")
    shutil.copytree(hub_folder(name), tmp_path, dirs_exist_ok=True)
    call = "{% if tools %}{{ tools | tojson }}{% endif %}" + TEMPLATES[name].replace(
        "{% else %}",
        "{% elif m.tool_calls %}[TOOL_CALLS]{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}"
        "{{ eos_token }}{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]{% else %}",
    )
    (tmp_path / "chat_template.jinja").write_text(call, "utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.MistralCommonBackend)
    save_weights(tmp_path, len(theirs), theirs.eos_token_id)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    member = {"name": "it", "model": str(tmp_path), "backend": "transformers", "device": "cpu", "threads": 1}
    member["options"] = {"pack_weights": False}
    tool: Any = {"type": "function", "function": {"name": "paint", "description": "Paints.", "parameters": {
        "type": "object", "properties": {"colour": {"enum": ["red", "blué"]}}, "required": ["colour"],
        "additionalProperties": False,
    }}}  # fmt: skip
    with Ensemble.load({"members": [member]}) as ensemble:
        form = ensemble.call_form()
        assert form.begin_token == "[TOOL_CALLS]"
        answer = ensemble.generate(
            messages=[USER],
            tools=[tool],
            constraint={"lark": call_grammar(form, [tool])},
            sampling={"bias": dict.fromkeys((" ", "\n", "\t", "\r"), -60.0)},
            max_new_tokens=200,
        )
        [found] = find_calls(form, ["paint"], answer.text, tools=[tool])[1]
        assert json.loads(found.arguments)["colour"] in ("red", "blué")
        ids = theirs.apply_chat_template([USER], return_dict=False)
        model = transformers.MistralForCausalLM.from_pretrained(tmp_path, dtype="float32")
        whole = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :].tolist()
        spelled = [theirs.tokenizer.instruct_tokenizer.tokenizer.id_to_byte_piece(token) for token in whole]
        text = ensemble.generate(messages=[USER], max_new_tokens=6).data
    assert text == b"".join(spelled)
