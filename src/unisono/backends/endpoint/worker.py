"""A member of a `unisono member serve`: whole rows, and its own tokenizer."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unisono.backends.base import Array, Truncation
from unisono.backends.endpoint.adapter import Description, Question
from unisono.backends.endpoint.caller import Answer, Caller
from unisono.backends.endpoint.direct import Late, Refused, Steps, Unusual
from unisono.backends.endpoint.row_memory import ClientMemory
from unisono.backends.endpoint.worker_frames import TYPE, WORKER, Call, call_frame, read_rows_of, read_table
from unisono.backends.endpoint.worker_tokenizer import WorkerTokenizer
from unisono.backends.top_logprobs import TopLogprobs
from unisono.backends.wire import Buffer, Frame, FrameError, read_frame
from unisono.vocab.tokenizer import TokenTable

TABLE_BYTES = 1 << 28
"""The longest token table that is read."""
ADVANCE = "/v1/advance"
ROW_BYTES = 16
"""What an answer takes for each id of a distribution, at most."""
HEAD_BYTES = 1 << 20
"""What an answer has beside its rows, at most."""


class _Member(BaseModel):
    """What a worker says of its member."""

    model_config = ConfigDict(strict=True)  # what later versions add is not read

    unisono_member: int
    engine: str
    model: str
    table: str
    rows: int = Field(gt=0, lt=2**31)
    context: int = Field(gt=0)
    slots: int = Field(gt=0)
    truncated: list[int] | None = Field(min_length=3, max_length=3)
    keeps_prefixes: bool = False
    warnings: list[str]


class WorkerAdapter:
    """The worker holds what its slots have read, by sessions: this is one."""

    def __init__(self, client: Caller, top: int | None, direct: Steps) -> None:
        """Let ``top`` ids be told of each distribution, or all; ``direct`` carries the calls of steps, where it can."""
        self._client = client
        self._top = top
        self._direct = direct
        self._memory = ClientMemory(direct.is_near)
        self._session = secrets.token_hex(16)
        self._number = 0
        self._description: Description | None = None

    async def describe(self) -> Description:
        told = self._read_member(await self._client.get("/v1/member"))
        if self._description is None or self._description.model != told.model:
            table = self._read_table(await self._table(told), told.rows)
            truncated = self._truncation(told)
            self._description = Description(
                engine=told.engine,
                model=told.model,
                rows=told.rows,
                context=told.context,
                slots=told.slots,
                truncated=truncated,
                keeps_prefixes=told.keeps_prefixes,
                tokenizer=WorkerTokenizer(self._client, table, told.model),
                notes=("whole rows: exact, sampling included" if truncated is None else f"top {truncated.top}",),
                warnings=tuple(told.warnings),
            )
        return self._description

    def ask(self, questions: Sequence[Question]) -> Array | TopLogprobs:
        began = time.monotonic()
        told = self._description or self._client.run(self.describe())
        if told.truncated is not None:
            questions = [_with_top(question, told.truncated.top) for question in questions]
        self._number += 1
        call = Call(self._session, self._number, told.model, questions)
        wanted = sum(question.wanted for question in questions)
        frame = self._post(call, wanted * told.rows * ROW_BYTES + HEAD_BYTES, told.truncated is None, began)
        self._check_head(frame.head, call.number, told.model, questions)
        try:
            here = self._memory.read(frame, wanted, told.rows)
            rows = read_rows_of(frame, wanted, told.rows) if here is None else here
        except FrameError as error:
            raise self._client.failed(f"its answer cannot be read: {error}") from None
        if isinstance(rows, np.ndarray) and rows.size and not np.isfinite(rows.max(axis=1)).all():
            raise self._client.failed("its model gives logits that are no numbers")
        return rows

    def _check_head(self, head: Mapping[str, Any], number: int, model: str, questions: Sequence[Question]) -> None:
        """Check what an answer is about, as far as it says so."""
        if head.get("model") != model:
            raise self._client.failed("it answers for another model", refused=True)
        lengths = [len(question.ids) for question in questions]
        call = head.get("session", self._session), head.get("number", number)
        if head.get("lengths") != lengths or call != (self._session, number):
            raise self._client.failed("its answer is about another text")

    def _post(self, call: Call, most: int, dense: bool, began: float) -> Frame:
        """The answer to a call. What the connection for steps cannot do is asked again, for this call or for good."""
        answered = None
        if self._direct.usable:
            # What is asked again has its rows sent: a first call that is answered late writes nothing that is read.
            here = replace(call, memory=self._memory.name) if dense else call
            try:
                content = self._direct.ask(call_frame(here), most, began + self._client.timeout)
                self._client.hear()
                return self._read(content)
            except Refused as refused:
                answered = Answer(refused.status, refused.headers, refused.content)
            except Late:
                raise self._client.late(began) from None
            except Unusual:
                pass
        body, headers = b"".join(call_frame(call)), {"content-type": TYPE}
        request = self._client.request(
            "POST", ADVANCE, body, headers, limit=most, accepted=(200, 409), answered=answered
        )
        return self._frame(self._client.run(request, began=began))

    def leave(self, slots: Sequence[int] | None) -> Coroutine[Any, Any, None]:
        self._number += 1  # now: a later call has a larger one, whichever is sent first
        if slots is None:
            self._direct.close()
        left = None if slots is None else list(slots)
        return self._leave({"session": self._session, "number": self._number, "slots": left})

    async def _leave(self, said: Mapping[str, object]) -> None:
        await self._client.post("/v1/leave", said)

    def _read_member(self, told: object) -> _Member:
        try:
            member = _Member.model_validate(told)
        except ValidationError as error:
            wrong = sorted({str(each["loc"][0]) for each in error.errors(include_input=False) if each["loc"]})
            raise self._client.failed(f"it describes its member without a good {', '.join(wrong)}") from None
        if member.unisono_member != WORKER:
            raise self._client.failed(
                f"its worker speaks version {member.unisono_member}, not {WORKER}: use one unisono for both"
            )
        if member.truncated is not None and not _is_sound(*member.truncated):
            raise self._client.failed(f"it tells {member.truncated} of its distributions, which cannot be")
        return member

    def _truncation(self, told: _Member) -> Truncation | None:
        """How much is told: what the engine there tells at most, what is asked for, or all."""
        if told.truncated is not None:
            top, most, also = told.truncated
            return Truncation(min(self._top or top, most), most, also)
        return None if self._top is None else Truncation(min(self._top, told.rows), told.rows, told.rows)

    async def _table(self, told: _Member) -> Frame:
        answer = await self._client.request("GET", "/v1/member/table", limit=TABLE_BYTES)
        if hashlib.sha256(answer.content).hexdigest() != told.table:
            raise self._client.failed("its vocabulary is not the one that it describes")
        return self._frame(answer)

    def _read_table(self, frame: Frame, rows: int) -> TokenTable:
        try:
            table = read_table(frame)
        except FrameError as error:
            raise self._client.failed(f"its vocabulary cannot be read: {error}") from None
        if len(table.texts) > rows:
            raise self._client.failed(f"its vocabulary has {len(table.texts)} ids, and its model {rows} rows")
        return table

    def _frame(self, answer: Answer) -> Frame:
        if answer.status == 409:
            reason, code = refusal_of(answer)
            raise self._client.failed(reason, refused=code == "other_model")
        return self._read(answer.content)

    def _read(self, content: Buffer) -> Frame:
        try:
            return read_frame(content)
        except FrameError as error:
            raise self._client.failed(f"its answer is no frame: {error}") from None


def _is_sound(top: int, most: int, also: int) -> bool:
    return 1 <= top <= most and also >= 0


def _with_top(question: Question, top: int) -> Question:
    if question.top:
        return question
    return Question(question.slot, question.ids, question.held, question.wanted, top, question.also)


def refusal_of(answer: Answer) -> tuple[str, str]:
    """The words of a worker's refusal, and its code; empty where it gives none."""
    try:
        told: Any = json.loads(bytes(answer.content))["error"]
        return str(told["message"]), str(told.get("code"))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return f"it answers with the status {answer.status}", ""
