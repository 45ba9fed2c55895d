"""Drawing on the demo models: one member draws as transformers does, and a seed writes one text."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from support.covering import ALL, some
from support.demo import written
from support.methods import FixedDraftLength
from support.prompts import CHATS, RAW
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.config.sampling import Sampling
from unisono.engine import sampler
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.engine import Engine
from unisono.engine.plan import Plan
from unisono.ensemble import Ensemble
from unisono.records import Limits

pytestmark = pytest.mark.models

STEPS, PIECES = 8, 12 if ALL else 8
PROMPTS = some((CHATS[3], CHATS[0], RAW[2]), 2)
OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": None, "typical_p": 1.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "1": {},
    "0.7": {"temperature": 0.7},
    "1 top_k:20": {"top_k": 20},
    "1.3 top_k:50 top_p:0.9": {"temperature": 1.3, "top_k": 50, "top_p": 0.9},
    "0.8 top_p:0.95 min_p:0.02": {"temperature": 0.8, "top_p": 0.95, "min_p": 0.02},
    "1.5 min_p:0.05 typical_p:0.9": {"temperature": 1.5, "min_p": 0.05, "typical_p": 0.9},
    "1 typical_p:0.6": {"typical_p": 0.6},
    "1 repetition_penalty:1.4": {},
    "1 bias:%20the=3": {"sequence_bias": {" the": 3.0}},
    "1.2 top_k:200 top_p:0.97 min_p:0.001 typical_p:0.8 repetition_penalty:1.2": {
        "temperature": 1.2,
        "top_k": 200,
        "top_p": 0.97,
        "min_p": 0.001,
        "typical_p": 0.8,
    },
}
"""By draw, what `generate` is told. The penalty it gets as a processor, which is to see log-probabilities."""


def test_an_ensemble_of_one_draws_from_what_transformers_draws_from(load_demo: Callable[..., Ensemble]) -> None:
    """What `generate` hands to its random numbers, along one text, with its own processors in its own order.

    Told apart from `generate` as it comes is only what the spec does: ids of one piece, those of END above
    all, are one class, what is no piece has no mass, and the prompt is not penalised.
    """
    engine = load_demo("smol", backend="transformers", dtype="float32")._engine
    apart = 0
    for prompt in PROMPTS:
        columns, ours = drawn_from(engine, prompt)
        for draw, found in ours.items():
            theirs = generated_from(engine, prompt, columns, draw)
            assert len(found) == len(theirs) == len(columns)
            for one_U, other_U in zip(found, theirs, strict=True):
                both = (one_U > 0) & (other_U > 0)
                apart += int(((one_U > 0) ^ (other_U > 0)).sum())
                one, other = one_U[both] / one_U[both].sum(), other_U[both] / other_U[both].sum()
                np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert apart <= 1, "which piece is the last one kept, rounding could decide once in a thousand times"


def drawn_from(engine: Engine, prompt: Prompt) -> tuple[list[int], dict[str, list[Any]]]:
    """Write one text, drawn at temperature 1, and tell what each draw would draw its pieces from."""
    columns: list[int] = []
    found: dict[str, list[Any]] = {draw: [] for draw in OPTIONS}
    plans = {draw: Plan(Method().but(draw=draw), engine.members, engine.union) for draw in OPTIONS}
    real = sampler._draw

    def recorded(q_U: Any, p_U: Any, window: Any, position: int) -> int:
        own = window.plan
        for draw, window.plan in plans.items():
            found[draw].append(np.array(sampler._shaped(q_U[None], [window], position)[0], np.float64))
        window.plan = own
        columns.append(real(q_U, p_U, window, position))
        return columns[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "_draw", recorded)
        engine.add(prompt, Limits(STEPS), method=Method().but(draw="1 seed:5"))
        while engine.active:
            engine.step()
    return columns, found


def generated_from(engine: Engine, prompt: Prompt, columns: list[int], draw: str) -> list[Any]:
    """By column, what `generate` draws from along a text: where it would draw, the text's piece is given to it."""
    import torch
    from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

    [member] = engine.members
    model = member.backend._forward._model  # type: ignore[attr-defined]
    token_of = {int(column): token for token, column in reversed([*enumerate(member.map.column_V)])}
    kept = torch.tensor([token_of[column] for column in range(engine.union.size)])
    ids = member.encoder.encode(prompt)
    found: list[Any] = []

    def fold(ids_BT: Any, scores_BV: Any) -> Any:
        p_V, column_V = scores_BV[0].double().softmax(0).numpy(), member.map.column_V
        p_U = np.bincount(column_V[column_V >= 0], p_V[column_V >= 0], engine.union.size)
        folded_BV = torch.full_like(scores_BV, -torch.inf)
        folded_BV[0, kept] = torch.tensor(p_U / p_U.sum()).log().float()
        return folded_BV

    def give(probs_BV: Any, num_samples: int) -> Any:
        found.append(probs_BV[0, kept].double().numpy())
        return torch.tensor([[token_of[columns[len(found) - 1]]]])

    options = {**OFF, **OPTIONS[draw]}
    if bias := options.pop("sequence_bias", {}):
        [[text, more]] = bias.items()
        options["sequence_bias"] = [[list(member.speller.spell(text.encode()) or ()), more]]
    penalty = Sampling.parse(draw).repetition_penalty
    processors = [RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=len(ids))] if penalty != 1 else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "multinomial", give)
        patch.setattr(model, "forward", recited(model, ids + [token_of[column] for column in columns[:-1]]))
        model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones((1, len(ids)), dtype=torch.int64),
            max_new_tokens=len(columns),
            do_sample=True,
            use_cache=False,
            logits_processor=LogitsProcessorList([fold, *processors]),
            eos_token_id=sorted(member.speller.vocabulary.end_ids),
            **options,
        )
    return found


@functools.lru_cache(maxsize=1)
def _logits(model: Any, ids: tuple[int, ...]) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([ids])).logits


def recited(model: Any, ids: list[int]) -> Callable[..., Any]:
    """A forward pass that looks up what the model said of one text, which it is told as a whole, and once."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    logits_BTV = _logits(model, tuple(ids))

    def forward(input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:
        assert input_ids[0].tolist() == ids[: input_ids.shape[1]]
        return CausalLMOutputWithPast(logits=logits_BTV[:, input_ids.shape[1] - 1 : input_ids.shape[1]])

    return forward


def test_a_seed_writes_one_text_alone_in_batches_and_however_far_drafts_go(load_demo: Callable[..., Ensemble]) -> None:
    """Of one drafting member, or of none: look-up, and whoever ``auto`` chooses, write what is written without them.

    Blocks and batches are summed up in another order, which moves masses by 2e-6 (total variation, mean
    of the pair) and the outcome of about two draws in 100,000: here one of a dozen texts would come out
    otherwise in one run of more than 100, and a second in one of more than 10,000.
    """
    pair = load_demo(backend="transformers", dtype="float32")._engine
    prompts = some((*CHATS[2:5], *RAW[17:20]), 2)

    def texts(drafter: str, size: int, draft_length: DraftLengthController) -> list[list[bytes | None]]:
        engine = Engine(pair.members, pair.union, draft_length=draft_length)
        found = written(engine, prompts, PIECES, size, Method().but(draw="0.8 top_p:0.95 seed:7", speculate=drafter))
        assert any(text.drafted for text in found) or not drafter.startswith("smol:")
        return [[step.piece for step in text.steps] for text in found]

    alone, drafted = texts("off", 1, DraftLengthController()), texts("smol:4", 1, FixedDraftLength())
    assert len({str(text) for text in alone + drafted}) > len(prompts)
    compared = {
        "off": (alone, texts("off", 3, DraftLengthController())),
        "auto": (alone, texts("auto", 3, DraftLengthController())),
        "ngram": (alone, texts("ngram", 3, FixedDraftLength())),
        "smol": (drafted, texts("smol", 3, DraftLengthController())),
    }
    differing = {
        (number, drafter == "smol")
        for drafter, (expected, found) in compared.items()
        for number, (one, other) in enumerate(zip(expected, found, strict=True))
        if one != other
    }
    assert len(differing) <= 1, differing
