"""Two fake models: one that reasons between ``<think>`` and ``</think>`` before it answers, and one that does not."""

from __future__ import annotations

import itertools
from dataclasses import replace

from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake, scripted_rule
from unisono.vocab.tokenizer import TokenTable

QUESTION, THOUGHT, ANSWER = "Why?", "Hm. Light scatters.", "Blue scatters most."
ASK = ({"role": "user", "content": QUESTION},)
THINKER, PLAIN = {"name": "thinker", "model": "fake:thinker"}, {"name": "plain", "model": "fake:plain"}
WORDS = [" scatters", " most", "Light", "Blue"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def thinking_table(template: str = TEMPLATE) -> TokenTable:
    table = byte_level_table(WORDS, chat_template=template)
    return replace(table, texts=(*table.texts, "<think>", "</think>"), kinds=(*table.kinds, "added", "added"))


def make_reasoners() -> None:
    """Register ``fake:thinker``, and ``fake:plain``, which would rather end than write, and so never wins."""
    table = thinking_table()
    answer = (*_cut(ANSWER), "</s>")
    script: dict[str | bytes, dict[str | bytes, float]] = {"": {"</s>": 1.0}}
    for begin, told in (
        (QUESTION, ("<think>", "\n", *_cut(THOUGHT), "\n", "</think>", "\n", "\n", *answer)),
        (f"{QUESTION}<think>\n\n</think>\n\n", answer),
    ):
        for read in range(len(told)):
            script[begin + "".join(told[:read])] = {told[read]: 1.0}
    for read in range(len(_cut(THOUGHT)) + 1):  # a budget ends reasoning anywhere
        begun, told = f"{QUESTION}<think>\n" + "".join(_cut(THOUGHT)[:read]), ("\n", "\n", *answer)
        for number, token in enumerate(told):
            script.setdefault(f"{begun}</think>" + "".join(told[:number]), {token: 1.0})
    register_fake("thinker", FakeModel(LongestMatchTokenizer(table), scripted_rule(table, script)))
    plain = byte_level_table(WORDS)
    rule = scripted_rule(plain, {"": {"</s>": 0.6, " ": 0.4}})
    register_fake("plain", FakeModel(LongestMatchTokenizer(plain), rule))


def _cut(text: str) -> tuple[str, ...]:
    """A text as the tokenizer cuts it."""
    tokenizer, table = LongestMatchTokenizer(byte_level_table(WORDS)), byte_level_table(WORDS)
    sizes = [len(table.texts[token]) for token in tokenizer.encode(text)]
    edges = itertools.accumulate(sizes, initial=0)
    return tuple(text[start:end] for start, end in itertools.pairwise(edges))
