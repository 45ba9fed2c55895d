"""Models that were trained to reason, each in its own form, answer alone as transformers does and together in one text.

They are tiny and really trained: one in gpt-oss's channels, one in Qwen3's tokens, one without reasoning.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.demo import written  # noqa: E402
from support.families import CHATML, TEMPLATES  # noqa: E402
from support.methods import FixedDraftLength  # noqa: E402
from support.real_tokenizers import SETUP  # noqa: E402
from support.trained import ANSWER, QUESTION, Lesson, prompt_of, train, write_gguf  # noqa: E402
from unisono.chat.messages import Prompt  # noqa: E402
from unisono.config.method import Method  # noqa: E402
from unisono.engine.engine import Engine  # noqa: E402
from unisono.engine.reference import plain_steps  # noqa: E402
from unisono.ensemble import Ensemble  # noqa: E402

pytestmark = pytest.mark.slow

THOUGHT = "Two, two."
ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"
NEXT = "<|end|><|start|>assistant"
HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOGETHER = f"\n{THOUGHT}\n"
PROMPT = Prompt(messages=({"role": "user", "content": QUESTION},))
MOST = 64
NAMES = ("think", "harmony", "plain")
WEIGHTS = {"think": 0.5, "harmony": 0.3, "plain": 0.2}


def lessons(channels: str, qwen3: str) -> dict[str, tuple[Lesson, tuple[tuple[str, str], ...]]]:
    """What each model learns for its own prompt, and behind what the others may have written."""
    think = Lesson(qwen3, CHAT, ("<think>", "</think>"), f"<think>{TOGETHER}</think>\n\n{ANSWER}", "<|im_end|>")
    harmony = Lesson(channels, HARMONY, (), f"{ANALYSIS}{THOUGHT}{NEXT}{FINAL}{ANSWER}", "<|return|>", (("t", "w"),))
    plain = Lesson(CHATML, CHAT, (), ANSWER, "<|im_end|>", (("f", "o"), ("fo", "u"), ("fou", "r")))
    return {
        "think": (think, (("<think>\n\n</think>\n\n", ANSWER), ("<think>\n</think>\n\n", ANSWER))),
        "harmony": (harmony, ((FINAL, ANSWER), (f"{ANALYSIS}\n", f"{THOUGHT}\n{NEXT}{FINAL}\n\n{ANSWER}"))),
        "plain": (plain, ((f"{TOGETHER}\n\n", ANSWER),)),
    }


class Class:
    """The models in their folders, with what each was taught as ids."""

    def __init__(self, folder: Path) -> None:
        sources = []
        for name in ("openai-gpt-oss-120b", "Qwen-Qwen3-0.6B"):
            file = TEMPLATES / f"{name}.jinja"
            if not file.is_file():
                pytest.skip(f"the chat templates in llama.cpp's source are not in {TEMPLATES}: {SETUP}")
            sources.append(file.read_text("utf-8"))
        self.folders = {name: folder / name for name in NAMES}
        self.taught: dict[str, list[int]] = {}
        for seed, (name, (lesson, others)) in enumerate(lessons(*sources).items()):
            self.taught[name] = train(self.folders[name], lesson, others, seed)

    def spec(self, *names: str, **keys: Any) -> dict[str, Any]:
        how = {"backend": "transformers", "device": "cpu", "threads": 1, "options": {"pack_weights": False}}
        members = [{"name": n, "model": str(self.folders[n]), "weight": WEIGHTS[n], **how} for n in names]
        return {"members": members, **keys}

    def generated(self, name: str) -> list[int]:
        """Prompt and answer, END left out, of transformers by itself."""
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folders[name])
        model = transformers.LlamaForCausalLM.from_pretrained(self.folders[name], dtype=torch.float32)
        ids_BT = torch.tensor([prompt_of(tokenizer)])
        whole = model.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=MOST, do_sample=False)
        ids: list[int] = whole[0].tolist()
        assert ids[-1] == tokenizer.eos_token_id
        return ids[:-1]

    def text(self, name: str, ids: list[int]) -> str:
        """The text of an answer, control tokens included."""
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folders[name])
        return str(tokenizer.decode(ids[len(prompt_of(tokenizer)) :]))


@pytest.fixture(scope="module")
def pupils(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Class]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these models are too small for two
    yield Class(tmp_path_factory.mktemp("pupils"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def three(pupils: Class) -> Iterator[Ensemble]:
    with Ensemble.load(pupils.spec(*NAMES), batch=4) as loaded:
        yield loaded


@pytest.mark.parametrize("name", NAMES)
def test_each_alone_is_what_transformers_generates(pupils: Class, name: str) -> None:
    expected = pupils.generated(name)
    assert expected == pupils.taught[name][:-1]
    with Ensemble.load(pupils.spec(name)) as alone:
        [text] = written(alone._engine, [PROMPT], MOST, 1)
    assert text.cursors[name].ids == expected
    made = text.generation()
    assert (made.text, made.reasoning) == (ANSWER, None if name == "plain" else THOUGHT)
    assert made.finish_reason == "end"


def test_llamacpp_writes_the_same_alone_and_together(pupils: Class, three: Ensemble, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    how = {"backend": "llamacpp", "device": "cpu", "threads": 1, "context": 1024}
    files = {name: str(write_gguf(tmp_path / f"{name}.gguf", pupils.folders[name])) for name in NAMES}
    members = [{"name": name, "model": files[name], "weight": WEIGHTS[name], **how} for name in NAMES]
    for member in members:
        with Ensemble.load({"members": [member]}) as alone:
            [text] = written(alone._engine, [PROMPT], MOST, 1)
        assert text.cursors[str(member["name"])].ids == pupils.taught[str(member["name"])][:-1]
    with Ensemble.load({"members": members}) as together:
        [text] = written(together._engine, [PROMPT], MOST, 1)
    [expected] = written(three._engine, [PROMPT], MOST, 1)
    assert {name: text.cursors[name].ids for name in NAMES} == {name: expected.cursors[name].ids for name in NAMES}
    assert text.generation().reasoning == THOUGHT


def test_together_each_writes_in_its_own_form(pupils: Class, three: Ensemble) -> None:
    [text] = written(three._engine, [PROMPT], MOST, 1)
    made = text.generation()
    assert (made.text, made.reasoning, made.finish_reason) == (ANSWER, THOUGHT, "end")
    assert {name: pupils.text(name, text.cursors[name].ids) for name in NAMES} == {
        "think": f"<think>{TOGETHER}</think>\n\n{ANSWER}",
        "harmony": f"{ANALYSIS}{TOGETHER}{NEXT}{FINAL}\n\n{ANSWER}",
        "plain": f"{TOGETHER}\n\n{ANSWER}",
    }
    assert [step.mark for step in made.steps or () if step.mark] == ["reasoning_begin", "reasoning_end"]
    assert made.usage.reasoning == len(TOGETHER)


@pytest.mark.parametrize("names", [*itertools.permutations(NAMES), ("think", "plain"), ("harmony",)])
def test_without_reasoning_nobody_reasons(pupils: Class, names: tuple[str, ...]) -> None:
    with Ensemble.load(pupils.spec(*names)) as loaded:
        made = loaded.generate(messages=list(PROMPT.messages or ()), reasoning="off", max_new_tokens=MOST)
    assert (made.text, made.reasoning, made.finish_reason) == (ANSWER, None, "end")


def test_reasoning_ends_after_so_many_pieces(three: Ensemble) -> None:
    made = three.generate(messages=list(PROMPT.messages or ()), reasoning=3, max_new_tokens=MOST, trace=True)
    assert made.usage.reasoning == 3
    assert made.reasoning == "Tw"
    marks = [place for place, step in enumerate(made.steps or ()) if step.mark]
    assert marks == [0, 4]


def test_reasoning_is_free_where_the_answer_is_bound(three: Ensemble) -> None:
    messages = list(PROMPT.messages or ())
    made = three.generate(messages=messages, constraint={"json_schema": {"enum": ["It is four.", "No."]}})
    assert (made.text, made.reasoning) in [(f'"{answer}"', THOUGHT) for answer in ("It is four.", "No.")]
    made = three.generate(messages=messages, constraint={"regex": "It is fo+ur"}, reasoning="off")
    assert (made.text, made.reasoning) == ("It is four", None)


METHODS = {
    "gate": {"gate": "confidence:0.6"},
    "gate by the plain one": {"gate": "confidence:0.9", "lead": "plain"},
    "boundary": {"gate": "confidence:0.9", "boundary": True, "lead": "harmony"},
    "ngram": {"speculate": "ngram"},
    "draft": {"speculate": "think:4"},
    "draft of the plain one": {"speculate": "plain:3", "gate": "confidence:0.9", "lead": "plain"},
    "draft in channels": {"speculate": "harmony:4"},
    "geometric": {"combine": "geometric", "speculate": "think:4"},
    "limited": {"reasoning": 5, "speculate": "think:4"},
}


@pytest.mark.parametrize("how", METHODS)
def test_gates_drafts_and_batches_write_what_the_plain_loop_writes(three: Ensemble, how: str) -> None:
    given = three._engine
    method = Method().but(**METHODS[how])  # type: ignore[arg-type]
    engine = Engine(given.members, given.union, draft_length=FixedDraftLength())
    other = Prompt(messages=({"role": "user", "content": "What is two"},))
    if method.reasoning.max_pieces is None:
        for prompt in (PROMPT, other):
            plain = [step.piece for step in plain_steps(given.members, given.union, prompt, MOST, method)]
            [text] = written(engine, [prompt], MOST, 1, method)
            assert [step.piece for step in text.steps] == plain
    alone = [written(engine, [prompt], MOST, 1, method)[0].generation() for prompt in (PROMPT, other)]
    both = [text.generation() for text in written(engine, [PROMPT, other, PROMPT], MOST, 3, method)]
    assert [(made.text, made.reasoning) for made in both] == [
        (made.text, made.reasoning) for made in (*alone, alone[0])
    ]
