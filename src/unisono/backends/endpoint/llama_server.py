"""llama.cpp's server: one distribution a call, whose likeliest ids it tells.

Its slots are ours: a prompt goes to the slot of its number, which reads what differs from what it has read. Measured in
docs/llama-server.md: the log-probabilities are those of the softmax over all ids, before any sampler.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from string import ascii_letters
from typing import Any
from urllib.parse import quote

from unisono.backends.base import Truncation
from unisono.backends.endpoint.adapter import Description, Question
from unisono.backends.endpoint.agreement import TEXT, check_agreement
from unisono.backends.endpoint.caller import Caller, together
from unisono.backends.endpoint.rows import Row, read_row, rows_of, top_rows
from unisono.backends.endpoint.settings import TOP, EndpointSource
from unisono.backends.endpoint.weights_print import TOP as PRINTED
from unisono.backends.endpoint.weights_print import WeightsPrint
from unisono.backends.top_logprobs import TopLogprobs
from unisono.errors import ModelUnsupported
from unisono.vocab.tokenizer import Tokenizer

_ENTRY_BYTES, _HEAD_BYTES = 2048, 1 << 18  # an id with its text and bytes; all else that an answer holds
_EXCESS = 0.02
"""How much more than 1 its probabilities may sum to: it adds up the masses of all ids one by one in float32, and loses
those below 6e-8. That all of a row are too large by one factor changes no order."""
ROUNDING = 6e-8
"""By how much of its sum each addition is off, at most: half of what float32 tells apart."""
_CERTAIN = 1e6  # nats
_FIELDS = ("completion_probabilities", "model", "tokens_evaluated", "truncated", "timings")
_OF_THE_MODEL = ("vocab_type", "n_vocab", "n_ctx_train", "n_embd", "n_params", "size", "ftype")


class LlamaServerAdapter:
    """Asks a llama-server."""

    def __init__(self, client: Caller, source: EndpointSource, tokenizer: Tokenizer) -> None:
        self._client = client
        self._source = source
        self._tokenizer = tokenizer
        self._rows = 0
        self._slots = 1
        self._name: object = None
        self._known: str | None = None
        self._chosen = _whole_token(tokenizer)
        self._print = WeightsPrint(client, tokenizer, self._printed)

    async def describe(self) -> Description:
        props, meta = await self._look()
        context, slots = props["default_generation_settings"].get("n_ctx"), props.get("total_slots")
        if not isinstance(context, int) or not isinstance(slots, int) or context < 2 or slots < 1:
            raise self._client.failed("it does not say how many slots it has, and of what length")
        self._refuse_other_models(props)
        content = {"content": TEXT, "add_special": False, "parse_special": False, **self._model}
        ids = (await self._client.post("/tokenize", content)).get("tokens")
        check_agreement(self._client.member, self._client.address, self._tokenizer, ids)
        rows = meta.get("n_vocab")
        self._rows = rows if isinstance(rows, int) and rows > 0 else len(self._tokenizer.table.texts)
        self._slots, self._name, self._known = slots, props.get("model_alias"), _fingerprint(props, meta)
        await self._print.check()
        return Description(
            engine=f"llama-server {props.get('build_info', '')}".strip(),
            model=self._known,
            rows=self._rows,
            context=context - 1,  # the last place is for the token that it chooses itself
            slots=slots,
            truncated=Truncation(min(self._source.top or TOP, self._rows), self._rows),
            tokenizer=None,
            notes=(
                f"it holds {slots} texts at once (-np); more of them would read each other's slots again",
                "one distribution a call: a draft of n pieces costs n + 1 calls one after the other",
            ),
        )

    def ask(self, questions: Sequence[Question]) -> TopLogprobs:
        return self._client.run(self._answer(questions))

    async def _answer(self, questions: Sequence[Question]) -> TopLogprobs:
        told = await rows_of(questions, self._rows_of, self._check_model, self._print)
        return top_rows(told, self._rows, _EXCESS, self._rows * ROUNDING)

    async def leave(self, slots: Sequence[int] | None) -> None:
        """What a slot holds is overwritten by the next text."""

    async def _rows_of(self, question: Question) -> list[Row]:
        """The wanted rows of one slot, one after the other."""
        ids, top = list(question.ids), question.top or min(self._source.top or TOP, self._rows)
        held, rows = question.held, []
        for end in range(len(ids) - question.wanted + 1, len(ids) + 1) if question.wanted else [len(ids)]:
            answer = await self._complete(ids[:end], question.slot, top if question.wanted else 0)
            if held > 1 and _cached(answer) == 0:  # it was restarted, or another text took the slot
                await self._check_model()
            held = end
            if question.wanted:
                rows.append(self._read(answer, top))
        return rows

    async def _printed(self, ids: list[int]) -> Row:
        top = min(PRINTED, self._rows)
        return self._read(await self._complete(ids, None, top), top)

    async def _complete(self, ids: list[int], slot: int | None, top: int) -> dict[str, Any]:
        body = {
            "prompt": ids,
            "n_predict": 1 if top else 0,
            "n_probs": top,
            "temperature": 0,
            "logit_bias": self._chosen,
            "cache_prompt": True,
            "n_cache_reuse": 0,  # else, started with --cache-reuse, it reads parts of a text as they stood in another
            "id_slot": -1 if slot is None else slot % self._slots,  # any
            "return_tokens": True,
            "response_fields": _FIELDS,
            **self._model,
        }
        answer = await self._client.post("/completion", body, _ENTRY_BYTES * top + _HEAD_BYTES)
        if not isinstance(answer, dict):
            raise self._client.failed("its answer is no JSON object")
        if answer.get("tokens_evaluated") != len(ids) or answer.get("truncated"):
            raise self._client.failed(
                f"it read {answer.get('tokens_evaluated')} of {len(ids)} ids, so it answers another text than was asked"
            )
        if answer.get("model") != self._name:
            raise self._client.failed(f"{answer.get('model')!r} answers, and not {self._name!r}", refused=True)
        return answer

    def _read(self, answer: dict[str, Any], top: int) -> Row:
        try:
            [told] = answer["completion_probabilities"]
            pairs = [(entry.get("id"), entry.get("logprob")) for entry in told["top_logprobs"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._client.failed("its answer holds no log-probabilities by id") from None
        return read_row(pairs, top, self._rows)

    async def _look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What it says of itself, and of its model."""
        query = f"?model={quote(self._source.served_model, safe='')}" if self._source.served_model else ""
        props, models = await together([self._client.get(f"/props{query}"), self._client.get("/v1/models")])
        if not isinstance(props, dict) or not isinstance(props.get("default_generation_settings"), dict):
            raise self._client.failed("it does not describe itself at /props as llama-server does")
        listed = models.get("data") if isinstance(models, dict) else None
        entries = [entry for entry in listed or () if isinstance(entry, dict)]
        wanted = self._source.served_model or props.get("model_alias")
        entry = next((entry for entry in entries if entry.get("id") == wanted), entries[0] if len(entries) == 1 else {})
        meta = entry.get("meta")
        return props, meta if isinstance(meta, dict) else {}

    async def _check_model(self) -> None:
        if self._known is not None and _fingerprint(*await self._look()) != self._known:
            raise self._client.failed("another model is served there now than when it was loaded", refused=True)
        await self._print.check()

    def _refuse_other_models(self, props: dict[str, Any]) -> None:
        wanted, alias = self._source.served_model, props.get("model_alias")
        if wanted is not None and alias != wanted:
            raise ModelUnsupported(
                f"member {self._client.member!r}: {self._client.address} serves {alias!r}, and not {wanted!r}",
                hint="correct its key served_model, or leave it out",
            )

    @property
    def _model(self) -> dict[str, str]:
        return {"model": self._source.served_model} if self._source.served_model else {}


def _whole_token(tokenizer: Tokenizer) -> list[tuple[int, float]]:
    """A bias by which the server chooses a letter; what it tells of the distribution comes before.

    Of a token that ends within a character it would tell nothing.
    """
    table = tokenizer.table
    pairs = enumerate(zip(table.texts, table.kinds, strict=True))
    letters = (token for token, (text, kind) in pairs if kind == "normal" and len(text) == 1 and text in ascii_letters)
    return [(token, _CERTAIN) for token in itertools.islice(letters, 1)]


def _cached(answer: dict[str, Any]) -> object:
    timings = answer.get("timings")
    return timings.get("cache_n") if isinstance(timings, dict) else None


def _fingerprint(props: dict[str, Any], meta: dict[str, Any]) -> str:
    told = [props.get(key) for key in ("model_path", "model_alias", "chat_template", "bos_token", "eos_token")]
    told += [meta.get(key) for key in _OF_THE_MODEL]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
