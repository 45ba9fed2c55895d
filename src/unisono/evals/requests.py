"""lm-evaluation-harness's requests in our terms: prompts, and how to generate a text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unisono.chat.messages import Message, Prompt
from unisono.config.sampling import Sampling
from unisono.errors import SpecError, nearest, shown
from unisono.records import Limits

MAX_PIECES = 256
"""Default maximum of pieces, as in lm-evaluation-harness's ``hf`` model."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of that limit; the first one given counts."""
PENALTY = "repetition_penalty"
_GREEDY: dict[str, Any] = {"temperature": 0, "top_k": None, "top_p": 1, "min_p": 0, "typical_p": 1, "mixture": False}
_SHAPES = ("temperature", "top_k", "top_p", "min_p", "typical_p", PENALTY)
_KNOWN = (*LENGTHS, "until", "do_sample", *_SHAPES)


class Conversation(str):
    """A prompt of messages, where lm-evaluation-harness expects the text that a template makes of them."""

    prompt: Prompt

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> Conversation:
        """Replaces a model's ``apply_chat_template``; without ``add_generation_prompt`` the answer is begun already."""
        begun = not add_generation_prompt
        conversation = cls(json.dumps([*messages, *[{"continued": True}] * begun], ensure_ascii=False))
        its = tuple(Message(role=each["role"], content=each["content"]) for each in messages)
        conversation.prompt = Prompt(messages=its, continue_final_message=begun)
        return conversation


def prompt_of(context: str) -> Prompt:
    return context.prompt if isinstance(context, Conversation) else Prompt(text=context)


def split_pair(context: str, continuation: str) -> tuple[str, str]:
    """Move trailing spaces of a context to the continuation, as lm-evaluation-harness's models do."""
    if isinstance(context, Conversation):
        return context, continuation
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


@dataclass(frozen=True, slots=True)
class Wanted:
    limits: Limits
    samples: bool
    shapes: Mapping[str, Any]

    @property
    def changes_draw(self) -> bool:
        return self.samples or PENALTY in self.shapes

    def draw(self, own: Sampling) -> Sampling:
        """The sampling of a system that writes this text: sampled with its seed, else greedy or its own beam."""
        if self.samples:
            return Sampling(**self.shapes, seed=own.seed)
        greedy = own if own.is_greedy else replace(own, **_GREEDY)
        penalty = self.shapes.get(PENALTY)
        return greedy if penalty is None else replace(greedy, repetition_penalty=penalty)


def read_generation(kwargs: Mapping[str, Any], *, max_pieces: int = MAX_PIECES) -> Wanted:
    """Read ``generation_kwargs`` as lm-evaluation-harness's ``hf`` model does.

    Without ``do_sample``, a temperature above 0 samples; with ``do_sample: false`` nothing does. Raises a `SpecError`
    for an unknown key or a wrong value.
    """
    for key in kwargs:
        if key not in _KNOWN:
            raise SpecError(
                f"unknown generation_kwargs {shown(key)}{nearest(str(key), _KNOWN)}; known: {', '.join(_KNOWN)}",
                hint="leave it out, or say in the ensemble's file how pieces are drawn (sampling: …)",
            )
    length = next((kwargs[key] for key in LENGTHS if kwargs.get(key) is not None), max_pieces)
    until = kwargs.get("until") or []
    limits = Limits(length, tuple([until] if isinstance(until, str) else until))
    shapes = {key: kwargs[key] for key in _SHAPES if kwargs.get(key) is not None}
    samples = kwargs.get("do_sample")
    if samples not in (None, True, False):
        raise SpecError(f"do_sample is {shown(samples)}", hint="true or false")
    temperature = shapes.get("temperature", 0)
    if samples and not temperature:
        raise SpecError("do_sample is true, but there is no temperature above 0", hint="give one, such as 1.0")
    if shapes.get("top_k") == 0:  # as transformers says "all"
        del shapes["top_k"]
    return Wanted(limits, bool(temperature) if samples is None else samples, shapes)
