"""Servers with OpenAI's ``/v1/completions`` that take token ids and tell log-probabilities by id, vLLM above all.

A slot is nothing there: each request brings all ids, and the server's own cache of prefixes finds what it has read.
What a server takes is found out by asking: the largest k, and of vLLM's additions whether ids can be asked for by
number (``logprob_token_ids``), and distributions within the prompt (``prompt_logprobs``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unisono.backends.base import Truncation
from unisono.backends.endpoint.adapter import Description, Question
from unisono.backends.endpoint.agreement import PLAIN, check_agreement
from unisono.backends.endpoint.caller import Caller, together
from unisono.backends.endpoint.rows import Row, read_row, rows_of, top_rows
from unisono.backends.endpoint.served_models import find_served, fingerprint
from unisono.backends.endpoint.settings import TOP, EndpointSource
from unisono.backends.endpoint.weights_print import TOP as PRINTED
from unisono.backends.endpoint.weights_print import WeightsPrint
from unisono.backends.top_logprobs import TopLogprobs
from unisono.errors import ModelError, ModelUnsupported, SpecError, shown
from unisono.vocab.tokenizer import Tokenizer

_PATH = "/v1/completions"
ENTRY_BYTES, HEAD_BYTES = 1024, 1 << 16
_CAPS = (2000, 1000, 200, 100, 50, 20, 10, 5, 2, 1)
ALSO = 128
"""vLLM's limit of ``logprob_token_ids``."""
_READ_AGAIN = 16
"""Ids that a request for one position may read again, as cached prefixes end with a block. A block of positions is
asked for at once, which reads all ids, where that is less."""
_PREFIX, _DIGITS = "token_id:", 10
_UNAGREED = "/tokenize tells no tokens, so nothing shows whether the tokenizer is its model's"
_PLAIN_OF_VLLM: dict[str, object] = {"top_k": 0, "min_p": 0, "repetition_penalty": 1, "ignore_eos": True}
"""A model's own generation config has other values of these, which distributions show in some modes of the server."""


class CompletionsAdapter:
    """Asks an OpenAI-compatible server."""

    def __init__(self, client: Caller, source: EndpointSource, tokenizer: Tokenizer) -> None:
        self._client = client
        self._source = source
        self._tokenizer = tokenizer
        self._rows = len(tokenizer.table.texts)
        self._name = ""
        self._names: frozenset[str] = frozenset()
        """All that the server calls the model: vLLM answers by the first of several."""
        self._top = 1
        self._known: str | None = None
        self._tells_prompts = False
        self._plain: dict[str, object] = {}
        self._print = WeightsPrint(client, tokenizer, self._printed)
        self._most = 1

    async def describe(self) -> Description:
        entry, version = await self._look(), await self._client.probe("/version")
        self._name, number = str(entry["id"]), version.get("version") if isinstance(version, dict) else None
        self._plain = _PLAIN_OF_VLLM if entry.get("owned_by") == "vllm" else {}
        agreed = await self._check_tokenizer()
        truncation = await self._find_caps()
        self._known, self._top, self._most = fingerprint(entry), truncation.top, truncation.most
        await self._print.check()
        length = entry.get("max_model_len")
        context = length - 1 if isinstance(length, int) and length > 1 else 0  # the last is for the token it chooses
        kind = "vLLM" if entry.get("owned_by") == "vllm" else "an OpenAI-compatible server"
        return Description(
            engine=f"{kind} {number}" if isinstance(number, str) else kind,
            model=self._known,
            rows=self._rows,
            context=context,
            slots=256,
            truncated=truncation,
            tokenizer=None,
            keeps_prefixes=True,
            notes=(
                *([] if agreed else [_UNAGREED]),
                *([] if context else ["it does not say how long a text may be: set context"]),
                "one request a token: what its cache of prefixes lacks, up to a block of a text, is read each step",
            ),
        )

    def ask(self, questions: Sequence[Question]) -> TopLogprobs:
        return self._client.run(self._answer(questions))

    async def _answer(self, questions: Sequence[Question]) -> TopLogprobs:
        told = await rows_of(questions, self._rows_of, self._check_model, self._print)
        return top_rows(told, self._rows)

    async def leave(self, slots: Sequence[int] | None) -> None:
        """The server forgets by itself."""

    async def _rows_of(self, question: Question) -> list[Row]:
        ids, wanted, top = list(question.ids), question.wanted, question.top or self._top
        if not wanted:
            await self._complete(ids, {})
            return []
        if wanted > 1 and self._tells_prompts and len(ids) <= _READ_AGAIN * wanted:
            return await self._block(ids, wanted, top)
        ends = range(len(ids) - wanted + 1, len(ids) + 1)
        return await together(self._row(ids[:end], top, list(question.also)) for end in ends)

    async def _printed(self, ids: list[int]) -> Row:
        return await self._row(ids, min(PRINTED, self._most), [])

    async def _row(self, ids: list[int], top: int, also: list[int]) -> Row:
        asked = [self._likeliest(ids, {"logprobs": top})]
        if also:  # asking by number leaves out the likeliest
            asked.append(self._likeliest(ids, {"logprobs": 1, "logprob_token_ids": also}))
        told = await together(asked)
        wanted = set(also)
        by_number = [(token, logp) for token, logp in told[-1] if token in wanted] if also else []
        return read_row(told[0], top, self._rows, by_number, also)

    async def _block(self, ids: list[int], wanted: int, top: int) -> list[Row]:
        """The last rows of a text by one request. Positions that a cache served are stale, so none may be."""
        choice = await self._complete(ids, {"logprobs": top, "prompt_logprobs": top}, len(ids) + 1)
        told = choice.get("prompt_logprobs")
        if not isinstance(told, list) or len(told) != len(ids):
            raise self._client.failed("it tells distributions of other positions than the prompt's")
        rows = []
        for place in range(len(ids) - wanted + 1, len(ids)):
            by_rank, by_number = _split(told[place], top)
            if ids[place] not in {token for token, _ in (*by_rank, *by_number)}:
                raise self._client.failed(f"its distribution at place {place} is not of the text that it was asked")
            rows.append(read_row(by_rank, top, self._rows))
        return [*rows, read_row(self._told(choice), top, self._rows)]

    async def _likeliest(self, ids: list[int], keys: dict[str, object]) -> list[tuple[object, object]]:
        return self._told(await self._complete(ids, keys))

    async def _complete(self, ids: list[int], keys: dict[str, Any], positions: int = 1) -> dict[str, Any]:
        entries = positions * (keys.get("logprobs", 0) + len(keys.get("logprob_token_ids", ())) + 2)
        answer = await self._client.post(_PATH, self._body(ids, keys), ENTRY_BYTES * entries + HEAD_BYTES)
        return self._choice(answer, ids, block="prompt_logprobs" in keys)

    def _choice(self, answer: object, ids: list[int], *, block: bool = False) -> dict[str, Any]:
        """The only choice of an answer about these ids."""
        try:
            [choice], usage = answer["choices"], answer["usage"]  # type: ignore[index]
            read, model, details = usage["prompt_tokens"], answer["model"], usage.get("prompt_tokens_details") or {}  # type: ignore[index]
            cached = details.get("cached_tokens") or 0
        except (KeyError, TypeError, ValueError, AttributeError):
            error = answer.get("error") if isinstance(answer, dict) else None
            said = f", but an error: {shown(error)}" if error else ""
            raise self._client.failed(f"its answer is not that of /v1/completions{said}") from None
        if not isinstance(choice, dict):
            raise self._client.failed("its answer is not that of /v1/completions")
        if read != len(ids):
            raise self._client.failed(f"it read {read} ids where it was sent {len(ids)}")
        if model not in self._names:
            raise self._client.failed(f"{model!r} answers, and not {self._name!r}", refused=True)
        if block and cached:
            raise self._client.failed(
                "it tells distributions of positions that it took from its cache, which are stale"
            )
        return choice

    def _told(self, choice: dict[str, Any]) -> list[tuple[object, object]]:
        """The ids and log-probabilities at the position behind the prompt."""
        try:
            [told] = choice["logprobs"]["top_logprobs"]
            pairs = list(told.items())
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._client.failed("its answer holds no log-probabilities of the next token") from None
        return [(_id_of(name), logp) for name, logp in pairs]

    def _body(self, ids: list[int], keys: dict[str, Any]) -> dict[str, Any]:
        """A request for one token. What a model's files would change of its distribution is set to nothing."""
        return {
            "model": self._name,
            "prompt": ids,
            "max_tokens": 1,
            "temperature": 0,
            "top_p": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            **self._plain,
            **({"return_tokens_as_token_ids": True} if keys else {}),
            **keys,
        }

    async def _find_caps(self) -> Truncation:
        """Ask for what the server may tell, on a few ids."""
        ids = self._sample()
        most = 0
        for cap in _CAPS:
            if cap > self._rows and cap != 1:
                continue
            answer = await self._client.attempt(_PATH, self._body(ids, {"logprobs": cap}))
            if answer is None:
                continue
            told = self._told(self._choice(answer, ids))
            if any(token is None for token, _ in told):
                raise ModelUnsupported(
                    f"member {self._client.member!r}: {self._client.address} tells log-probabilities by the texts of "
                    "tokens and not by their ids, so it cannot be a member",
                    hint="serve the model by vLLM, llama-server or `unisono member serve`",
                )
            most = min(cap, len(told))
            read_row(told, most, self._rows)
            break
        if not most:
            said = f": {self._client.refusal}" if self._client.refusal else ""
            raise self._client.failed(f"it takes no token ids as a prompt, or tells no log-probabilities{said}")
        also, self._tells_prompts = await together([self._takes_ids(ids), self._takes_prompts(ids)])
        return self._truncation(most, also=also)

    def _truncation(self, most: int, *, also: bool) -> Truncation:
        if (self._source.top or 0) > most:
            raise SpecError(
                f"member {self._client.member!r}: top is {self._source.top}, but {self._client.address} tells at most "
                f"{most} ids",
                hint="lower top, or raise the engine's own limit (vLLM: --max-logprobs)",
            )
        return Truncation(self._source.top or min(TOP, most), most, min(ALSO, self._rows) if also else 0)

    async def _takes_ids(self, ids: list[int]) -> bool:
        asked = list(range(min(3, self._rows)))
        answer = await self._client.attempt(_PATH, self._body(ids, {"logprobs": 1, "logprob_token_ids": asked}))
        return answer is not None and {token for token, _ in self._told(self._choice(answer, ids))} >= set(asked)

    async def _takes_prompts(self, ids: list[int]) -> bool:
        answer = await self._client.attempt(_PATH, self._body(ids, {"logprobs": 1, "prompt_logprobs": 1}))
        told = None if answer is None else self._choice(answer, ids).get("prompt_logprobs")
        if not isinstance(told, list) or len(told) != len(ids):
            return False
        try:
            return all(_split(each, 1)[0] for each in told[1:])
        except ModelError:
            return False

    def _sample(self) -> list[int]:
        return (self._tokenizer.encode_prompt("The capital of France is") or [0])[:16]

    async def _check_tokenizer(self) -> bool:
        body = {"model": self._name, "prompt": PLAIN, "add_special_tokens": False}
        told = await self._client.probe("/tokenize", body)
        if not isinstance(told, dict) or "tokens" not in told:
            return False
        check_agreement(self._client.member, self._client.address, self._tokenizer, told["tokens"], PLAIN)
        return True

    async def _look(self) -> dict[str, Any]:
        """The entry of the model among those that are served."""
        source = self._source
        models = await self._client.get("/v1/models")
        entry, self._names = find_served(models, source.served_model, self._client.member, self._client.address)
        return entry

    async def _check_model(self) -> None:
        if self._known is not None and fingerprint(await self._look()) != self._known:
            raise self._client.failed("another model is served there now than when it was loaded", refused=True)
        await self._print.check()


def _split(told: object, top: int) -> tuple[list[tuple[object, object]], list[tuple[object, object]]]:
    """What a position of the prompt tells: the likeliest ids, and the one that stands there where it is not."""
    if not isinstance(told, dict) or not all(isinstance(entry, dict) for entry in told.values()):
        raise ModelError("it told no distribution at a position of the prompt")
    by_rank: list[tuple[object, object]] = []
    by_number: list[tuple[object, object]] = []
    for name, entry in told.items():
        pair = (_number(name), entry.get("logprob"))
        rank = entry.get("rank")
        (by_rank if isinstance(rank, int) and rank <= top else by_number).append(pair)
    return by_rank, by_number


def _id_of(name: str) -> int | None:
    return _number(name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else None


def _number(digits: str) -> int | None:
    return int(digits) if digits.isdecimal() and digits.isascii() and len(digits) <= _DIGITS else None
