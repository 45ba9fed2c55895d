"""SGLang's own ``/generate``: token ids in, the likeliest ids and those asked for by number out, in one request.

Models, lengths and the tokenizer are told as by other servers with OpenAI's interface. What SGLang has read of a text
it finds by itself, to the token. A block of positions is one request (``logprob_start_len``): it reads again from the
first of them on, and tells the distribution before each id of the prompt.

Its sessions are not used. They would save the ids on the wire and nothing of the model's work, they cannot go back to
the beginning (an ``offset`` of 0 appends), and they drop a first id that is BOS from what is appended.
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
from unisono.errors import ModelError

_MOST = 2000
_PLAIN = {
    "max_new_tokens": 1,
    "temperature": 1,  # 0 is top_k 1 there, which what it tells shows while others draw with min_p: one id has all mass
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
    _tells_blocks = False

    async def describe(self) -> Description:
        told = await super().describe()
        info = await self._client.probe("/server_info") or await self._client.probe("/get_server_info")
        version = info.get("version") if isinstance(info, dict) else None
        return replace(
            told,
            engine=f"SGLang {version}" if isinstance(version, str) else "SGLang",
            notes=(
                *told.notes[:-1],
                f"one request a {'text' if self._tells_blocks else 'position'}; what it has read is not read again",
            ),
        )

    async def _rows_of(self, question: Question) -> list[Row]:
        ids, wanted, also = list(question.ids), question.wanted, list(question.also)
        if not wanted:
            await self._generate(ids, 0, [])
            return []
        top = question.top or self._top
        if wanted > 1 and self._tells_blocks:
            return await self._positions(ids, wanted, top, also)
        ends = range(len(ids) - wanted + 1, len(ids) + 1)
        return await together(self._row(ids[:end], top, also) for end in ends)

    async def _row(self, ids: list[int], top: int, also: list[int]) -> Row:
        [row] = await self._positions(ids, 1, top, also)
        return row

    async def _positions(self, ids: list[int], wanted: int, top: int, also: list[int]) -> list[Row]:
        """The last rows of a text by one request. Those within the prompt stand before its ids, which it repeats."""
        meta = await self._generate(ids, top, also, wanted)
        by_rank = self._within(meta, "input_top_logprobs", wanted)
        by_number = self._within(meta, "input_token_ids_logprobs", wanted) if also else [[]] * (wanted - 1)
        stand = [token for [(token, _)] in self._within(meta, "input_token_logprobs", wanted, each=False)]
        if any(there not in (token, 0) for there, token in zip(stand, ids[len(ids) - wanted + 1 :], strict=True)):
            # (it calls the last id of a vocabulary 0)
            raise self._client.failed("it tells distributions of another text than it was sent")
        by_rank.append(self._entries(meta, "output_top_logprobs"))
        by_number.append(self._entries(meta, "output_token_ids_logprobs") if also else [])
        return [
            read_row(likeliest, top, self._rows, others, also)
            for likeliest, others in zip(by_rank, by_number, strict=True)
        ]

    async def _generate(self, ids: list[int], top: int, also: Sequence[int], wanted: int = 1) -> dict[str, Any]:
        body: dict[str, object] = {"input_ids": ids, "sampling_params": _PLAIN}
        if top:
            start = len(ids) - wanted if wanted > 1 else -1
            body |= {"return_logprob": True, "logprob_start_len": start, "top_logprobs_num": top}
        if also:
            body["token_ids_logprob"] = list(also)
        answer = await self._client.post("/generate", body, ENTRY_BYTES * wanted * (top + len(also) + 1) + HEAD_BYTES)
        meta = answer.get("meta_info") if isinstance(answer, dict) else None
        if not isinstance(meta, dict):
            raise self._client.failed("its answer is not that of /generate")
        if meta.get("prompt_tokens") != len(ids):
            raise self._client.failed(f"it read {meta.get('prompt_tokens')} ids where it was sent {len(ids)}")
        if self._weights is not None and meta.get("weight_version") != self._weights:
            raise self._client.failed("its weights are other ones now than when it was loaded", refused=True)
        return meta

    def _within(
        self, meta: dict[str, Any], name: str, wanted: int, *, each: bool = True
    ) -> list[list[tuple[object, object]]]:
        """What is told at the last positions but the end's: lists of entries, or one entry each."""
        if wanted == 1:
            return []
        try:
            _, *told = meta[name]  # the first stands before what was asked about
            found = [[(entry[1], entry[0]) for entry in (told_here if each else [told_here])] for told_here in told]
        except (KeyError, TypeError, ValueError, IndexError):
            found = []
        if len(found) != wanted - 1:
            raise self._client.failed("its answer holds no log-probabilities within the prompt")
        return found

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
        self._tells_blocks = await self._takes_blocks()
        return self._truncation(most, also=True)

    async def _takes_blocks(self) -> bool:
        ids = self._sample()
        try:
            return len(ids) > 1 and bool(await self._positions(ids, 2, 1, [0]))
        except ModelError:
            return False
