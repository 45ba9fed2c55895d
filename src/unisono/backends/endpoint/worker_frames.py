"""What a worker and its clients say to each other, as frames: token tables, ids, questions, rows."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from unisono.backends.base import Array
from unisono.backends.endpoint.adapter import Question
from unisono.backends.top_logprobs import TopLogprobs
from unisono.backends.wire import Frame, FrameError, write_frame
from unisono.vocab.tokenizer import Kind, Scheme, TokenTable

WORKER = 2
"""The version of what is said, beside that of frames."""
KINDS: tuple[Kind, ...] = get_args(Kind)
TYPE = "application/x-unisono-frame"
STEPS = "unisono-steps"
"""The protocol to which a connection for calls is switched."""
CALL = struct.Struct("<Q")
"""Before a call on it: how many bytes its frame has."""
ANSWER = struct.Struct("<IIQ")
"""Before an answer: its status as of HTTP, seconds after which to try again or 0, and how many bytes it has."""


class _TableHead(BaseModel):
    """What a token table has beside its rows."""

    model_config = ConfigDict(extra="forbid", strict=True)

    scheme: Scheme
    family: str
    declared_end_ids: list[int]
    bos_id: int | None
    eos_id: int | None
    adds_bos: bool
    chat_template: str | None
    template_given: bool
    named_templates: dict[str, str]
    special_texts: dict[str, str]
    strips: list[tuple[int, bool, bool]]
    words: list[int] = []


def table_frame(table: TokenTable) -> list[memoryview]:
    head = {
        "scheme": table.scheme,
        "family": table.family,
        "declared_end_ids": list(table.declared_end_ids),
        "bos_id": table.bos_id,
        "eos_id": table.eos_id,
        "adds_bos": table.adds_bos,
        "chat_template": table.chat_template,
        "template_given": table.template_given,
        "named_templates": dict(table.named_templates),
        "special_texts": dict(table.special_texts),
        "strips": [[token, *sides] for token, sides in table.strips.items()],
    }
    if table.words:
        head["words"] = sorted(table.words)
    texts, kinds = [text for text, _ in table.beyond], [kind for _, kind in table.beyond]
    return write_frame(head, _rows(table.texts, table.kinds) | _rows(texts, kinds, "beyond_"))


def read_table(frame: Frame) -> TokenTable:
    """The token table of a frame. Raises a `FrameError`."""
    head = {**frame.head, "strips": [tuple(each) for each in _list(frame.head, "strips")]}
    try:
        facts = _TableHead.model_validate(head)
    except ValidationError as error:
        wrong = sorted({str(each["loc"][0]) for each in error.errors(include_input=False)})
        raise FrameError(f"its token table has no good {', '.join(wrong)}") from None
    texts, kinds = _read_rows(frame)
    named = [*facts.declared_end_ids, *(token for token, _, _ in facts.strips), *facts.words]
    named += [facts.bos_id or 0, facts.eos_id or 0]
    if not all(0 <= token < len(texts) for token in named):
        raise FrameError("its token table names ids that it does not have")
    return TokenTable(
        scheme=facts.scheme,
        family=facts.family,
        texts=texts,
        kinds=kinds,
        declared_end_ids=tuple(facts.declared_end_ids),
        bos_id=facts.bos_id,
        eos_id=facts.eos_id,
        adds_bos=facts.adds_bos,
        chat_template=facts.chat_template,
        template_given=facts.template_given,
        named_templates=facts.named_templates,
        special_texts=facts.special_texts,
        strips={token: (left, right) for token, left, right in facts.strips},
        words=frozenset(facts.words),
        beyond=tuple(zip(*_read_rows(frame, "beyond_"), strict=True)),
    )


def ids_frame(head: Mapping[str, object], ids: Sequence[Sequence[int]]) -> list[memoryview]:
    return write_frame(head, _ids(ids))


def read_ids(frame: Frame) -> list[NDArray[np.int32]]:
    """Lists of ids, none of them negative, as views. Raises a `FrameError`."""
    ids, lengths = frame.array("ids", "i4", 1), frame.array("lengths", "i4", 1)
    if (ids < 0).any():
        raise FrameError("it has negative ids")
    return [ids[start:end] for start, end in _spans(lengths, len(ids))]


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asks in one call: a question of each of some slots of its session."""

    session: str
    number: int
    """Grows from call to call of a session; what is older than another has been given up."""
    model: str
    """The fingerprint of the model that it means."""
    questions: Sequence[Question]
    memory: str | None = None
    """The memory in which rows may be left; empty where the client could open one, and has none."""


def call_frame(call: Call) -> list[memoryview]:
    asked = [[each.slot, each.held, each.wanted, each.top, list(each.also)] for each in call.questions]
    head = {"session": call.session, "number": call.number, "model": call.model, "questions": asked}
    if call.memory is not None:
        head["memory"] = call.memory
    return ids_frame(head, [each.ids for each in call.questions])


def read_call(frame: Frame) -> Call:
    """The call of a frame; its questions' ids are views. Raises a `FrameError`."""
    match frame.head:
        case {"session": str(session), "number": int(number), "model": str(model), "questions": list(asked)}:
            pass
        case _:
            raise FrameError("it lacks one of session, number, model and questions")
    memory = frame.head.get("memory")
    if not isinstance(memory, str | None):
        raise FrameError("its memory is no name")
    ids = read_ids(frame)
    if len(asked) != len(ids):
        raise FrameError(f"it has {len(asked)} questions and the ids of {len(ids)}")
    questions = [_read_question(each, its_ids) for each, its_ids in zip(asked, ids, strict=True)]
    return Call(session, number, model, questions, memory)


def rows_frame(head: Mapping[str, object], rows: Array | TopLogprobs) -> list[memoryview]:
    """An answer: ``rows``, V, and logits or what is told of the distributions."""
    if not isinstance(rows, TopLogprobs):
        return write_frame({**head, "rows": rows.shape[1]}, {"logits": rows})
    told: dict[str, NDArray[Any]] = {
        "ids": rows.ids_NK,
        "logp": rows.logp_NK,
        "unseen": rows.unseen_N,
        "kth": rows.kth_N,
    }
    return write_frame({**head, "rows": rows.rows}, told)


def left_frame(head: Mapping[str, object], rows: int, memory: str) -> list[memoryview]:
    """An answer whose logits over so many ids are left in the client's memory."""
    return write_frame({**head, "rows": rows, "memory": memory}, {})


def read_rows_of(frame: Frame, count: int, rows: int) -> Array | TopLogprobs:
    """So many distributions of an answer over so many ids. Raises a `FrameError`, and a `ModelError` for bad ones."""
    if frame.head.get("rows") != rows:
        raise FrameError(f"its distributions are over {frame.head.get('rows')} ids, not {rows}")
    if "logits" in frame.arrays:
        logits_NV = frame.array("logits", "f4", 2)
        _expect_shape("logits", logits_NV, (count, rows))
        return logits_NV
    ids_NK, logp_NK = frame.array("ids", "i4", 2), frame.array("logp", "f4", 2)
    unseen_N, kth_N = frame.array("unseen", "f8", 1), frame.array("kth", "f8", 1)
    _expect_shape("logp", logp_NK, (count, ids_NK.shape[1]))
    for name, array in (("ids", ids_NK), ("unseen", unseen_N), ("kth", kth_N)):
        _expect_shape(name, array, (count, *array.shape[1:]))
    return TopLogprobs(ids_NK.copy(), logp_NK.copy(), unseen_N.copy(), kth_N.copy(), rows)  # which outlive the answer


def _rows(texts: Sequence[str], kinds: Sequence[Kind], before: str = "") -> dict[str, NDArray[Any]]:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return {
        f"{before}texts": np.frombuffer(b"".join(encoded), np.uint8),
        f"{before}lengths": np.fromiter(map(len, encoded), np.int32, len(encoded)),
        f"{before}kinds": np.fromiter(map(KINDS.index, kinds), np.uint8, len(encoded)),
    }


def _read_rows(frame: Frame, before: str = "") -> tuple[tuple[str, ...], tuple[Kind, ...]]:
    data = frame.array(f"{before}texts", "u1", 1).tobytes()
    lengths, codes = frame.array(f"{before}lengths", "i4", 1), frame.array(f"{before}kinds", "u1", 1)
    if len(codes) != len(lengths) or (codes >= len(KINDS)).any():
        raise FrameError("its tokens have no good kinds")
    try:
        texts = [data[start:end].decode("utf-8", "surrogatepass") for start, end in _spans(lengths, len(data))]
    except UnicodeDecodeError:
        raise FrameError("its tokens are no text") from None
    return tuple(texts), tuple(KINDS[code] for code in codes.tolist())


def _ids(ids: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
    joined = [np.asarray(each, np.int32) for each in ids]
    return {
        "ids": np.concatenate(joined) if joined else np.empty(0, np.int32),
        "lengths": np.fromiter(map(len, joined), np.int32, len(joined)),
    }


def _spans(lengths: NDArray[np.int32], total: int) -> list[tuple[int, int]]:
    """Where parts of these lengths begin and end. Raises a `FrameError` unless they are all there is."""
    ends = list(accumulate(lengths.tolist(), initial=0))
    if (lengths < 0).any() or ends[-1] != total:
        raise FrameError(f"its lengths are not those of {total} in all")
    return list(pairwise(ends))


def _read_question(asked: object, ids: NDArray[np.int32]) -> Question:
    match asked:
        case [int(slot), int(held), int(wanted), int(top), list(also)] if all(type(token) is int for token in also):
            return Question(slot, ids, held, wanted, top, also)  # type: ignore[arg-type]
    raise FrameError("a question is not [slot, held, wanted, top, [ids]]")


def _list(head: Mapping[str, Any], key: str) -> list[list[Any]]:
    found = head.get(key)
    if not isinstance(found, list) or not all(isinstance(each, list) for each in found):
        raise FrameError(f"its {key} are no list of lists")
    return found


def _expect_shape(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise FrameError(f"its array {name!r} has the shape {array.shape}, not {shape}")
