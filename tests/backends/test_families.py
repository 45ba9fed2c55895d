"""Every family that packages carry answers through the whole product as transformers does by itself.

A family is a tokenizer and a chat template; its model is tiny and random. The prompt is transformers' own
`apply_chat_template`, the answer its `generate`, id for id.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import SecurityError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.covering import some  # noqa: E402
from support.families import Family, of_template, save_family, templates  # noqa: E402
from unisono.build import prepare  # noqa: E402
from unisono.chat.messages import Prompt  # noqa: E402
from unisono.chat.template_probe import as_given  # noqa: E402
from unisono.config.ensemble import load_spec  # noqa: E402
from unisono.config.reasoning import Reasoning  # noqa: E402
from unisono.engine.encoding import encode_for  # noqa: E402
from unisono.engine.engine import Engine  # noqa: E402
from unisono.ensemble import Ensemble  # noqa: E402
from unisono.errors import ModelUnsupported, PromptError  # noqa: E402
from unisono.garbage_collection import garbage_collection_paused  # noqa: E402
from unisono.loaded_models import load_models  # noqa: E402
from unisono.records import Limits  # noqa: E402
from unisono.tools import call_grammar, find_calls  # noqa: E402

pytestmark = pytest.mark.tokenizers

PIECES = 8
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "description": "Which.", "enum": ["red", "blué"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "paint", "description": "Paint <b>it</b>.", "parameters": SCHEMA}}
QUESTION: Any = [{"role": "user", "content": "Why is the sea <b>blue</b>, é 日本?"}]
HISTORY: Any = [*QUESTION, {"role": "assistant", "content": "It is so."}, {"role": "user", "content": "And  now?"}]
BRIEF: Any = [{"role": "system", "content": "Be brief."}, *QUESTION]
CALLED: Any = [
    *QUESTION,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "abcdefgh1",
                "type": "function",
                "function": {"name": "paint", "arguments": '{"colour": "blué"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "abcdefgh1", "content": "painted 42"},
]
PLAIN = "{{ tools | tojson if tools else '' }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
SMALL = ("npm:claude", "npm:gpt35turbo", "npm:llama2", "package:gpt-2", "package:claude-2", "package:mistral-v1")
LARGE = (
    *("npm:gemma3", "npm:gemini", "npm:llama3_1", "npm:llama3", "npm:qwen3", "package:qwen2"),
    *("npm:deepseek_v3", "package:deepseek-v4", "package:mon", "package:llama-bpe"),
    *("package:mistral-v2", "package:mistral-v3", "package:mistral-v7"),
)
"""Of a vocabulary that two packages carry, the second is the other one's."""
REFUSED = ("GigaChat3-10B-A1.8B", "Kimi-K3", "muse-glimmer")
"""Templates that write calls in a form that cannot be written."""
REAL = [
    *(pytest.param(Family(name), id=name) for name in SMALL),
    *(pytest.param(Family(name), id=name, marks=pytest.mark.slow) for name in some(LARGE, 2)),
    pytest.param(Family("npm:gptoss", "openai-gpt-oss-120b"), id="npm:gptoss", marks=pytest.mark.slow),
]
TINY = [pytest.param(of_template(name), id=name) for name in templates()]


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("second")
    save_family(folder, Family("bytes"))
    return folder


class Loaded:
    """A family alone, and with a second member, on weights that are loaded once."""

    def __init__(self, folder: Path, second: Path, theirs: Any) -> None:
        self.theirs = theirs
        self.model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype="float32")
        other = {"name": "second", "model": str(second), "chat_template": PLAIN}
        members = [{"name": "it", "model": str(folder)}, other]
        plain = {"backend": "transformers", "device": "cpu", "threads": 1, "options": {"pack_weights": False}}
        self.both = prepare(load_spec({"members": [member | plain for member in members]}))
        self.alone = self.both.alone("it")
        self.models = load_models([self.both])
        self.member = self.alone.members[0]

    def rendered(self, messages: Any, tools: Any) -> list[int] | Exception | None:
        """What transformers makes of a conversation, given in the form that our probe found, up to an answer's text.

        ``None`` where a template adds to its own lists, which transformers' sandbox refuses.
        """
        calls = any("tool_calls" in message for message in messages)
        style = self.member.encoder.tool_use(with_tools=tools is not None).style if calls else None
        given = as_given(messages, style) if calls else messages
        try:
            text = self.theirs.apply_chat_template(given, tools=tools, add_generation_prompt=True, tokenize=False)
        except SecurityError:
            return None
        except Exception as error:  # a template can refuse in any way
            return error
        opening = self.member.encoder.opening(with_tools=tools is not None)
        return list(self.theirs(text + opening, add_special_tokens=False)["input_ids"])

    def generated(self, ids: list[int]) -> list[int]:
        ends = self.member.vocabulary.end_ids
        ids_BT = torch.tensor([ids])
        whole = self.model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=PIECES,
            do_sample=False,
            eos_token_id=list(ends) or None,
            logits_processor=[self._folded],
        )[0, len(ids) :].tolist()
        return next((whole[:n] for n, token in enumerate(whole) if token in ends), whole)

    def _folded(self, _: Any, logits_BV: Any) -> Any:
        """Give what ids of one text have together to the first of them, and nothing to what is no text."""
        kept, first = self._firsts
        return torch.zeros_like(logits_BV).index_add_(1, first, logits_BV.softmax(-1)[:, kept]).log()

    @cached_property
    def _firsts(self) -> tuple[Any, Any]:
        """The ids that are text, END or a mark, and of each the first that is the same."""
        vocabulary = self.member.vocabulary
        first_V = [vocabulary.canonical.get(piece or b"", -1) for piece in vocabulary.pieces]
        for token in vocabulary.end_ids:
            first_V[token] = vocabulary.end_ids[0]
        for token in vocabulary.marks.first_ids - set(vocabulary.end_ids):
            first_V[token] = token
        first_V = torch.tensor(first_V)
        kept = (first_V >= 0).nonzero()[:, 0]
        return kept, first_V[kept]


@pytest.fixture(scope="module")
def frozen() -> Iterator[None]:
    """One thread; and the collection of garbage that ends each model leaves out what the libraries have made by now."""
    gc.collect()
    gc.freeze()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these models are too small for two
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def loaded(request: pytest.FixtureRequest, tmp_path: Path, second: Path, frozen: None) -> Iterator[Loaded]:
    with garbage_collection_paused():  # a tokenizer of a large vocabulary is a million objects
        found = Loaded(tmp_path, second, save_family(tmp_path, request.param))
    yield found
    found.models.unload()


@pytest.mark.slow
def test_a_file_that_this_transformers_misreads_is_refused_until_its_class_is_another(tmp_path: Path) -> None:
    save_family(tmp_path, Family("npm:gpt4o"))
    spec = load_spec({"members": [{"name": "it", "model": str(tmp_path), "backend": "transformers"}]})
    with pytest.raises(ModelUnsupported, match=r"misreads tokenizer\.json: its pre_tokenizer is ByteLevel and Split"):
        prepare(spec)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    assert prepare(spec).members[0].vocabulary.family == "byte-level BPE"


def own_ids(engine: Engine, prompt: Prompt) -> tuple[list[int], list[int]]:
    """The ids of a prompt up to where the answer begins, and those of the answer: without reasoning in channels."""
    member = engine.members[0]
    reasoning = Reasoning(off=bool(member.encoder.marks.at_opening))
    text = engine.add(prompt, Limits(max_new_tokens=PIECES), method=engine.method.but(reasoning=reasoning))
    while text.finish is None:
        engine.step()
    begin = encode_for(engine.members, prompt, reasoning)[0][member.name]
    ids = list(text.cursors[member.name].ids)
    engine.drop(text)
    assert ids[: len(begin)] == begin
    return begin, ids[len(begin) :]


def check_prompt(loaded: Loaded, messages: Any, tools: Any = None) -> list[int] | None:
    """Both read a conversation as the same ids, or both refuse it; or ours because something would not be written."""
    expected, prompt = loaded.rendered(messages, tools), Prompt(messages=messages, tools=tools)
    if isinstance(expected, Exception) or (tools and expected and drops(loaded, messages, tools)):
        with pytest.raises(PromptError):
            loaded.member.encoder.encode(prompt)
        return None
    ids = loaded.member.encoder.encode(prompt)
    assert ids == expected or expected is None
    return ids


def drops(loaded: Loaded, messages: Any, tools: Any) -> bool:
    """Whether a template writes the same for another description, other arguments or another result."""
    words = [json.dumps(each, ensure_ascii=False) for each in (messages, tools)]
    others = [(words[0], words[1].replace("Paint", "Draw"))]
    if messages is CALLED:
        others += [(words[0].replace(*change), words[1]) for change in (("blué", "red"), ("painted 42", "done"))]
    written = loaded.rendered(messages, tools)
    return any(loaded.rendered(*map(json.loads, other)) == written for other in others)


def check_continued(loaded: Loaded, content: str) -> None:
    """Both go on with an answer from the same ids; ours keep white space at its end that a template trims."""
    messages = [*QUESTION, {"role": "assistant", "content": content}]
    prompt = Prompt(messages=messages, continue_final_message=True)
    try:
        text = loaded.theirs.apply_chat_template(messages, continue_final_message=True, tokenize=False)
    except Exception:  # a template can refuse in any way
        with pytest.raises(PromptError):
            loaded.member.encoder.encode(prompt)
        return
    whole = text.rstrip() + content[len(content.rstrip()) :]
    assert loaded.member.encoder.encode(prompt) == loaded.theirs(whole, add_special_tokens=False)["input_ids"]


def check_call(loaded: Loaded, template: str | None) -> None:
    """An answer of both members that has to be a call is one, where the template's form can be written."""
    try:
        form, refusal = loaded.both.call_form("it"), ""
    except PromptError as error:
        form, refusal = None, str(error)
    if form is None:
        assert "does not know tools" in refusal or template in REFUSED
        return
    answer = Ensemble(loaded.both, loaded.models.engine(loaded.both)).generate(
        messages=QUESTION,
        tools=[TOOL],
        constraint={"lark": call_grammar(form, [TOOL])},
        sampling={"bias": dict.fromkeys((" ", "\n", "\t", "\r"), -60.0)},  # a random model would write no end of them
        reasoning="off",  # a random model would not end it
        max_new_tokens=400,
    )
    content, calls = find_calls(form, ["paint"], answer.text, tools=[TOOL])
    assert [call.name for call in calls] == ["paint"], answer.text
    assert json.loads(calls[0].arguments)["colour"] in ("red", "blué")
    assert not content.strip()


@pytest.mark.parametrize("loaded", [*TINY, *REAL], indirect=True)
def test_a_family_answers_and_calls_as_transformers_does(loaded: Loaded, request: pytest.FixtureRequest) -> None:
    ids = check_prompt(loaded, QUESTION)
    engine = loaded.models.engine(loaded.alone)
    if ids is not None:
        begin, answer = own_ids(engine, Prompt(messages=QUESTION))
        assert begin[: len(ids)] == ids
        assert answer == loaded.generated(begin)
    for messages in (BRIEF, HISTORY):
        check_prompt(loaded, messages)
    for content in ("The sea is", " It is, é: \n "):
        check_continued(loaded, content)
    for messages in (QUESTION, CALLED):
        check_prompt(loaded, messages, [TOOL])
    raw = " The sea,\n\tis 12345 é 日本"
    assert loaded.member.encoder.encode(Prompt(text=raw)) == list(loaded.theirs(raw)["input_ids"])
    assert own_ids(loaded.models.engine(loaded.both), Prompt(text=raw))[1]
    check_call(loaded, request.node.callspec.params["loaded"].template)
