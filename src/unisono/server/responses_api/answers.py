"""A chat's answer as a response: items, whole or by typed events."""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, cast

from unisono.chat.tool_parser import Content, FoundCall
from unisono.engine.request import Ended, Wrote
from unisono.records import Finish, Generation
from unisono.server.answer import REASONS, Answer
from unisono.server.answer_schemas import Report
from unisono.server.api_call import ApiCall
from unisono.server.async_engine import AsyncEngine
from unisono.server.call_reader import CallReader, unended
from unisono.server.errors import Refusal
from unisono.server.logprobs import Held, Offsets, chat_logprobs
from unisono.server.request_handle import RequestHandle
from unisono.server.responses_api.requests import ResponseCall, renamed
from unisono.server.responses_api.store import ResponseStore, Stored, packed
from unisono.server.responses_api.tools import told_choice
from unisono.step_records import StepRecord

Json = dict[str, Any]
EVENT = b"event: %b\ndata: %b\n\n"


class ResponseAnswer(Answer):
    """Answers ``/v1/responses``."""

    prefix, end = "resp", b""
    is_apart = False  # it is kept in a store of the loop, and is one text

    def __init__(self, call: ApiCall, store: ResponseStore) -> None:
        super().__init__(call)
        self.id = f"resp_{secrets.token_hex(24)}"
        self._store = store
        self._own = cast(ResponseCall, call)
        assert self._own.asked is not None
        self._asked = self._own.asked
        self._stores = store.most > 0 and self._asked.store is not False
        self._output: list[Json] = []
        """The items so far; the last may be open."""
        self._is_open = False
        self._sequence = 0
        self._held, self._reader = Held(call.pending), CallReader(call.calling, call.begun)
        self._released: deque[tuple[int, int, Json]] = deque()
        """Log-probabilities that no event has told yet, by where the characters of their pieces begin and end."""
        self._offsets = Offsets(pending=call.pending)

    async def bodies(self, engine: AsyncEngine, handle: RequestHandle) -> AsyncIterator[bytes]:
        try:
            async for body in super().bodies(engine, handle):
                yield body
        except Refusal as refusal:
            raise renamed(refusal, self._own.offered) from None

    def framed(self, body: bytes) -> bytes:
        """An event; its type, which is its first value, is its name."""
        return EVENT % (body.split(b'"', 4)[3], body)

    def failed(self, refusal: Refusal) -> bytes:
        """The last event of a stream that breaks off."""
        code = "rate_limit_exceeded" if refusal.status == 429 else "server_error"
        error = {"code": code, "message": refusal.message}
        return self.framed(self._event("response.failed", response=self._response("failed", error=error)))

    def chunks(self, index: int, event: Wrote | Ended) -> Iterator[bytes]:
        """Typed events: the response is created, items are added, grow, and are done."""
        if not self._sequence:
            yield self._event("response.created", response=self._response("in_progress"))
            yield self._event("response.in_progress", response=self._response("in_progress"))
        if isinstance(event, Wrote):
            yield from self._reasoned(event.reasoning)
            self._note(self._held.release(event.text, event.steps))
            yield from self._said(event.text)
            return
        yield from self._finish(event.generation)

    def _finish(self, generation: Generation) -> Iterator[bytes]:
        self._note(self._held.rest(generation))
        yield from self._said("", ended=generation.finish_reason, thought=unended(generation))
        is_cut = REASONS[generation.finish_reason] == "length"
        is_thought = is_cut and self._is_open and self._output[-1]["type"] == "reasoning"
        if not is_thought and not any(item["type"] != "reasoning" for item in self._output):
            yield from self._open("message")
        if self._is_open:
            yield from self._close(is_last=True, is_cut=is_cut)

    def last_bodies(self, handle: RequestHandle) -> Iterator[bytes]:
        """The whole response; of a stream the event that has it."""
        [generation] = handle.ended.values()
        if not self.call.stream:
            for _ in self._reasoned((self.reasoning(generation.reasoning) and generation.reasoning) or ""):
                pass
            self._note(self._held.rest(generation))
            for _ in self._said(generation.text):
                pass
            for _ in self._finish(generation):
                pass
        cut = REASONS[generation.finish_reason] == "length"
        usage = self.usage(handle.ended)
        reasoned = 0 if usage.completion_tokens_details is None else usage.completion_tokens_details.reasoning_tokens
        response = self._response(
            "incomplete" if cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            usage={
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": reasoned or 0},
                "total_tokens": usage.total_tokens,
            },
        )
        if self._stores:
            response["store"] = self._store.put(self.id, self._kept(response, inside=handle.prepared[0].begins_inside))
        report = Report(choices=[self.report(0, generation, generation.steps)])
        response["unisono"] = report.model_dump(exclude_none=True)
        if self.call.stream:
            yield self._event(f"response.{response['status']}", response=response)
        else:
            yield _dumped(response)

    def _kept(self, response: Json, *, inside: bool) -> Stored:
        """What is kept of the response: neither its trace nor its probabilities.

        Where an answer begins ``inside`` reasoning, what is given before a mark was reasoned.
        """
        begin, asked, continued = self.call.first.begin, self._asked, self._own.continued
        begun, reasoned = ("", "") if begin is None else (begin.shown, begin.reasoned)
        if begin is not None and inside and not {"reasoning_begin", "reasoning_end"} & {*begin.marks}:
            begun, reasoned = "", begun
        return Stored(
            self._own.owner,
            asked.previous_response_id,
            packed(self._own.own),
            packed([_without_logprobs(item) for item in self._output]),
            packed({**response, "output": []}),
            (continued or "") + begun,
            reasoned if self.call.shows_reasoning else "",
            continued is not None,
            tuple(item["id"] for item in self._output),
        )

    def _response(self, status: str, **more: Any) -> Json:
        asked, text = self._asked, self._asked.text
        options = asked.reasoning
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": asked.model,
            "output": self._output if status != "in_progress" else [],
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": None if options is None else options.effort, "summary": None},
            "store": self._stores,
            "temperature": asked.temperature,
            "text": {"format": (None if text is None else text.format) or {"type": "text"}},
            "tool_choice": told_choice(asked.tool_choice),
            "tools": [*self._own.offered.told],
            "top_logprobs": asked.top_logprobs,
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": asked.user,
            "background": False,
            **more,
        }

    def _reasoned(self, text: str) -> Iterator[bytes]:
        if not text or not self.call.shows_reasoning:
            return
        yield from self._open("reasoning")
        self._output[-1]["content"][0]["text"] += text
        yield self._within("response.reasoning_text.delta", content_index=0, delta=text)

    def _said(self, text: str, *, ended: Finish | None = None, thought: str | None = None) -> Iterator[bytes]:
        """Take more of the answer's text, which is content and calls."""
        for part in self._reader.parts(text, ended=ended, thought=thought):
            if isinstance(part, Content):
                yield from self._content(part)
                continue
            _, identity, call = part
            yield from self._called(identity, call)

    def _called(self, identity: str, call: FoundCall) -> Iterator[bytes]:
        if self._is_open:
            yield from self._close()
        own = self._own.offered.call(call.name)
        given = own.given(call.arguments)
        self._output.append({**own.item(identity, secrets.token_hex(24)), own.key: "", "status": "in_progress"})
        yield self._item("response.output_item.added")
        yield self._within(f"{own.event}.delta", delta=given)
        yield self._within(f"{own.event}.done", **{own.key: given}, **({} if own.is_custom else own.own))
        self._output[-1] |= {own.key: given, "status": "incomplete" if call.is_cut else "completed"}
        yield self._item("response.output_item.done")

    def _content(self, content: Content) -> Iterator[bytes]:
        yield from self._open("message")
        part = self._output[-1]["content"][0]
        part["text"] += content.text
        told = self._told(content.at, content.at + len(content.text))
        part["logprobs"] += told
        yield self._within("response.output_text.delta", content_index=0, delta=content.text, logprobs=told)

    def _told(self, begin: int, end: int) -> list[Json]:
        """The log-probabilities of characters of the answer; those before them, of calls, are told nowhere."""
        told: list[Json] = []
        while self._released and self._released[0][0] < end:
            _, until, entry = self._released.popleft()
            if until > begin:
                told.append(entry)
        return told

    def _open(self, kind: str) -> Iterator[bytes]:
        """Add an item of a kind, unless the open one is of it."""
        if self._is_open and self._output[-1]["type"] == kind:
            return
        if self._is_open:
            yield from self._close()
        if kind == "reasoning":
            item: Json = {"type": kind, "id": _id("rs"), "summary": []}
            part: Json = {"type": "reasoning_text", "text": ""}
        else:
            item = {"type": kind, "id": _id("msg"), "role": "assistant"}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._output.append({**item, "content": [], "status": "in_progress"})
        self._is_open = True
        yield self._item("response.output_item.added")
        self._output[-1]["content"] = [part]
        yield self._within("response.content_part.added", content_index=0, part=part)

    def _close(self, *, is_last: bool = False, is_cut: bool = False) -> Iterator[bytes]:
        item, self._is_open = self._output[-1], False
        [part] = item["content"]
        if item["type"] == "reasoning":
            yield self._within("response.reasoning_text.done", content_index=0, text=part["text"])
        else:
            if is_last:  # of a character that is not whole
                part["logprobs"] += self._told(self._reader.taken, self._reader.taken + 2)
            told = {"text": part["text"], "logprobs": part["logprobs"]}
            yield self._within("response.output_text.done", content_index=0, **told)
        yield self._within("response.content_part.done", content_index=0, part=part)
        item["status"] = "incomplete" if is_cut else "completed"
        yield self._item("response.output_item.done")

    def _note(self, steps: Sequence[StepRecord]) -> None:
        if (count := self.call.logprobs) is None:
            return
        for step, entry in zip(steps, chat_logprobs(steps, count), strict=True):
            begin = self._offsets.before(step.piece or b"")
            told = entry.model_dump()
            tops = [{**top, "bytes": top["bytes"] or []} for top in told["top_logprobs"]]
            whole = {**told, "bytes": told["bytes"] or [], "top_logprobs": tops}
            self._released.append((begin, max(begin + 1, self._offsets.count), whole))

    def _item(self, kind: str) -> bytes:
        return self._event(kind, output_index=len(self._output) - 1, item=self._output[-1])

    def _within(self, kind: str, **more: Any) -> bytes:
        """An event within the last item."""
        return self._event(kind, item_id=self._output[-1]["id"], output_index=len(self._output) - 1, **more)

    def _event(self, kind: str, **more: Any) -> bytes:
        number, self._sequence = self._sequence, self._sequence + 1
        return _dumped({"type": kind, "sequence_number": number, **more})


def _without_logprobs(item: Json) -> Json:
    if item["type"] != "message":
        return item
    return {**item, "content": [{**part, "logprobs": []} for part in item["content"]]}


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()
