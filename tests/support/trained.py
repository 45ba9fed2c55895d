"""Tiny models that were really trained on one conversation each, with the templates and control tokens of real ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET

QUESTION = "What is two and two?"
ANSWER = "It is four."
STEPS = 250


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a model is trained to answer, as text with control tokens, behind its template's prompt."""

    template: str
    controls: tuple[str, ...]
    added: tuple[str, ...]
    answer: str
    end: str
    merges: tuple[tuple[str, str], ...] = ()


def tokenizer_of(lesson: Lesson) -> Any:
    """A byte-level tokenizer with a few merges and the lesson's tokens."""
    vocab = dict(BYTE_LEVEL_ALPHABET)
    for one, other in lesson.merges:
        vocab[one + other] = len(vocab)
    raw = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=list(lesson.merges)))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(list(lesson.controls))
    raw.add_tokens(list(lesson.added))
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=lesson.end)
    made.chat_template = lesson.template
    return made


def prompt_of(tokenizer: Any) -> list[int]:
    """The ids of the question, as transformers writes it."""
    messages = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def train(folder: Path, lesson: Lesson, others: tuple[tuple[str, str], ...] = (), seed: int = 0) -> list[int]:
    """Train a model on its lesson until it knows it, and save it; return the ids of prompt and answer.

    ``others`` are further continuations that it learns: what is appended to its prompt, and the answer behind that.
    """
    tokenizer = tokenizer_of(lesson)
    tokenizer.save_pretrained(folder)
    prompt = prompt_of(tokenizer)
    pairs = [("", lesson.answer), *others]
    texts = [
        (len(prompt + _ids(tokenizer, before)), prompt + _ids(tokenizer, before + answer + lesson.end))
        for before, answer in pairs
    ]
    config = transformers.LlamaConfig(
        vocab_size=-(-len(tokenizer) // 16) * 16,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    longest = max(len(ids) for _, ids in texts)
    ids_BT = torch.tensor([ids + [0] * (longest - len(ids)) for _, ids in texts])
    labels_BT = torch.tensor([[-100] * begin + ids[begin:] + [-100] * (longest - len(ids)) for begin, ids in texts])
    for _ in range(STEPS):
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 2e-3:
            break
    assert loss.item() < 0.02, loss.item()
    model.eval().save_pretrained(folder)
    return texts[0][1]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
