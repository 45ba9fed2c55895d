"""SGLang's own ``/generate``: token ids in, the likeliest ids and those asked for by number out, in one request.

Models, lengths and the tokenizer are told as by other servers with OpenAI's interface. A position is a request: a
block's are in flight together, and what SGLang has read of a text it finds by itself, to the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unisono.backends.base import Truncation
from unisono.backends.endpoint.adapter import Description, Question
from unisono.backends.endpoint.caller import together
from unisono.backends.endpoint.completions import ENTRY_BYTES, HEAD_BYTES, CompletionsAdapter
from unisono.backends.endpoint.rows import Row, read_row

_MOST = 2000
_PLAIN = {
    "max_new_tokens": 1,
    "temperature": 0,
    "top_p": 1,
    "top_k": -1,
    "min_p": 0,
    "repetition_penalty": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "min_new_tokens": 0,
    "ignore_eos": True,
}
"""A request for one token, whatever the model's own generation config says."""


class SGLangAdapter(CompletionsAdapter):
    """Asks an SGLang server."""

    _weights: object = None
    """What it calls its weights, which can be replaced while it runs."""

    async def describe(self) -> Description:
        told = await super().describe()
        info = await self._client.probe("/server_info") or await self._client.probe("/get_server_info")
        version = info.get("version") if isinstance(info, dict) else None
        return replace(
            told,
            engine=f"SGLang {version}" if isinstance(version, str) else "SGLang",
            notes=(*told.notes[:-1], "one request a position; what it has read of a text is not read again"),
        )

    async def _rows_of(self, question: Question) -> list[Row]:
        ids, wanted, also = list(question.ids), question.wanted, list(question.also)
        if not wanted:
            await self._generate(ids, 0, [])
            return []
        ends = range(len(ids) - wanted + 1, len(ids) + 1)
        return await together(self._row(ids[:end], question.top or self._top, also) for end in ends)

    async def _row(self, ids: list[int], top: int, also: list[int]) -> Row:
        meta = await self._generate(ids, top, also)
        by_number = self._entries(meta, "output_token_ids_logprobs") if also else []
        return read_row(self._entries(meta, "output_top_logprobs"), top, self._rows, by_number, also)

    async def _generate(self, ids: list[int], top: int, also: Sequence[int]) -> dict[str, Any]:
        body: dict[str, object] = {"input_ids": ids, "sampling_params": _PLAIN}
        if top:
            body |= {"return_logprob": True, "logprob_start_len": -1, "top_logprobs_num": top}
        if also:
            body["token_ids_logprob"] = list(also)
        answer = await self._client.post("/generate", body, ENTRY_BYTES * (top + len(also)) + HEAD_BYTES)
        meta = answer.get("meta_info") if isinstance(answer, dict) else None
        if not isinstance(meta, dict):
            raise self._client.failed("its answer is not that of /generate")
        if meta.get("prompt_tokens") != len(ids):
            raise self._client.failed(f"it read {meta.get('prompt_tokens')} ids where it was sent {len(ids)}")
        if self._weights is not None and meta.get("weight_version") != self._weights:
            raise self._client.failed("its weights are other ones now than when it was loaded")
        return meta

    def _entries(self, meta: dict[str, Any], name: str) -> list[tuple[object, object]]:
        try:
            [told] = meta[name]
            return [(entry[1], entry[0]) for entry in told]
        except (KeyError, TypeError, ValueError, IndexError):
            raise self._client.failed("its answer holds no log-probabilities of the next token") from None

    async def _find_caps(self) -> Truncation:
        most, asked = min(_MOST, self._rows), list(range(min(3, self._rows)))
        meta = await self._generate(self._sample(), most, asked)
        read_row(
            self._entries(meta, "output_top_logprobs"),
            most,
            self._rows,
            self._entries(meta, "output_token_ids_logprobs"),
            asked,
        )
        self._weights = meta.get("weight_version")
        return self._truncation(most, also=True)
