"""A first test of a loaded model: whether it writes like a language model, and as its tokenizer reads.

It finds damage that no file shows: weights that are noise or of another revision, a tokenizer or a pre-tokenizer that
is not the model's, answers with control tokens. It takes two short passes and one short answer when a model is loaded
for the first time; what it found is kept in the cache. ``UNISONO_SELF_CHECK=off`` leaves it out.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from array_api_compat import array_namespace

from unisono.backends.base import Array, Backend, Feed, Slot, dense
from unisono.backends.gguf_parts import parts_of
from unisono.backends.registry import BACKENDS
from unisono.cache import cache_root, replace_file
from unisono.chat.messages import Message
from unisono.engine.member import read_losses
from unisono.errors import CacheError, PromptError, UnisonoError, shown
from unisono.members import PreparedMember
from unisono.user_files import SETTINGS, read_bytes
from unisono.vocab.marks import Ids, MarkForms
from unisono.vocab.pieces import Vocabulary

log = logging.getLogger(__name__)

SWITCH = "UNISONO_SELF_CHECK"
FORMAT = 3
"""Increment when the same model could be judged otherwise."""

PROSE = (
    "The Second World War ended in 1945. Paris is the capital of France, and it's one of the most visited cities in "
    "the world."
)
TEXT = (
    PROSE
    + """ I don't know what we've done, but they're here, aren't they? No, they aren't.
1 + 1 = 2, 10 + 10 = 20, 100 + 100 = 200, 1000 + 1000 = 2000.

def main():
    for number in range(10):
        print(number)

int main() {
    return 0;
}

<ul>
  <li>One</li>
  <li>Two</li>
  <li>Three</li>
</ul>
"""
)
"""Begins with `PROSE`; the rest has what tokenizers split differently: digits, contractions, marks, indented lines."""
QUESTION = "What is the capital of France?"
OTHERS = (
    "La Seconde Guerre mondiale s'est terminée en 1945. Paris est la capitale de la France et l'une des villes les "
    "plus visitées du monde.",
    "Der Zweite Weltkrieg endete 1945. Paris ist die Hauptstadt von Frankreich.",
    "La Segunda Guerra Mundial terminó en 1945. París es la capital de Francia.",
    "Вторая мировая война закончилась в 1945 году. Париж — столица Франции и один из самых посещаемых городов мира.",
    "第二次世界大战于1945年结束。巴黎是法国的首都，也是世界上游客最多的城市之一。",
    "第二次世界大戦は1945年に終わった。パリはフランスの首都で、世界で最も多くの人が訪れる都市の一つである。",
    "انتهت الحرب العالمية الثانية في عام 1945. باريس هي عاصمة فرنسا وواحدة من أكثر المدن زيارة في العالم.",
    "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result\n",
)
"""What models read that do not know English: seven languages and Python."""

NOISE = 1.0
"""Nats a byte of `PROSE`, or of the likeliest of `OTHERS`. Of the former SmolLM2 135M has 0.43 and Gemma 3 270M 0.45,
uniform noise over 49,152 ids 2.9, and SmolLM2 with a tenth of its embeddings permuted 1.1."""
ODD_PLACES = 3
"""From so many places on at which a model wants a longer token than its tokenizer makes, the tokenizer is not its own.
Both models above and Qwen2.5 Coder 0.5B want none; with the pre-tokenizer of another family, 3 to 13."""
LONGEST_ANSWER = 16
ALPHABET = "ĠĊ▁"
"""How vocabularies write a space and a line's end: in a text they show that a tokenizer was misread."""


def self_check(member: PreparedMember, backend: Backend) -> tuple[str, ...]:
    """What is wrong with a loaded model, in words, each naming its member; nothing for a model that is fine.

    ``backend`` has a free slot. What was found for these files before is read from the cache. Nothing is found where
    the check is `left_out`.
    """
    if left_out(member) or backend.facts.truncated is not None or len(text_ids(member)) > backend.facts.context:
        return ()
    path = _path(member)
    found = _read(path)
    if found is None:
        try:
            found = tuple(findings(member, backend))
        except (MemoryError, UnisonoError):
            raise
        except Exception as error:  # a check refuses no model
            found = (f"could not be checked ({type(error).__name__}: {error})",)
        else:
            _keep(path, member.source.location, found)
    return tuple(f"member {member.spec.name!r} {words}" for words in found)


def left_out(member: PreparedMember) -> str | None:
    """Why a model is not checked when it is loaded, in words; ``None`` where it is."""
    if (switch := os.environ.get(SWITCH, "")).lower() in ("off", "0", "no", "false"):
        return f"{SWITCH} is {switch!r}"
    if member.source.kind in ("endpoint", "ray"):
        return "who loads its weights checks them"
    if member.source.kind == "fake":
        return "it is no real model"
    if member.facts.truncated is not None:
        return "it tells its likeliest ids only"
    if (ids := len(text_ids(member))) > member.facts.context:
        return f"the check reads {ids} tokens, and its context is {member.facts.context}"
    return None


def why_not_done(member: PreparedMember) -> str:
    """Why nothing is `kept` of a check."""
    if (why := left_out(member)) is not None:
        return why
    if _path(member) is None:
        return "it is made at each start, for the revision of the model is not known"
    return "it is made when the model is first loaded, as --weights does"


def kept(member: PreparedMember) -> tuple[str, ...] | None:
    """What an earlier check of the same files found; ``None`` where there was none."""
    return _read(_path(member))


def _read(path: Path | None) -> tuple[str, ...] | None:
    try:
        kept = None if path is None else json.loads(read_bytes(path, SETTINGS))
        return tuple(kept["findings"]) if path and kept and kept["sum"] == _sum(path, kept["findings"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _sum(path: Path, findings: Sequence[str]) -> str:
    """What tells the findings of an entry from any others."""
    return hashlib.sha256(json.dumps([path.name, list(findings)]).encode()).hexdigest()


def _keep(path: Path | None, model: str, findings: Sequence[str]) -> None:
    if path is None:
        return
    content = json.dumps({"model": model, "findings": findings, "sum": _sum(path, findings)}, ensure_ascii=False)
    try:
        replace_file(path, partial(_write, content), "the result of a self-check")
    except CacheError as error:
        log.warning("%s; %s", error.message, error.hint)


def _write(content: str, path: Path) -> None:
    path.write_text(content, "utf-8")


def _path(member: PreparedMember) -> Path | None:
    """The cache entry: by the model's files and by all that decides how they are read."""
    files = _files(member)
    if files is None:
        return None
    encoder, libraries = member.encoder, BACKENDS[member.backend].libraries
    parts = [
        *(FORMAT, *files, member.backend, member.facts.dtype, member.facts.device, member.vocabulary.fingerprint),
        *(None if encoder.template is None else encoder.template.source, encoder.system, encoder.prefix),
        *(getattr(sys.modules.get(library), "__version__", None) for library in libraries),
        repr(sorted(member.owner.options.items())),
    ]
    return cache_root() / "self-checks" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.json"


def _files(member: PreparedMember) -> list[str] | None:
    """What tells the files of a model from others; ``None`` where that is not known."""
    source = member.source
    if source.kind in ("fake", "endpoint", "ray"):
        return None
    if source.kind == "hub":
        return [source.location, member.facts.revision] if member.facts.revision else None
    if source.sha256 is not None:
        return [source.sha256]
    paths = sorted(source.path.iterdir()) if source.kind == "folder" else parts_of(source.path)
    stats = [(path, path.stat()) for path in paths if path.is_file()]
    return [source.location, *(f"{path.name} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)]


def findings(member: PreparedMember, backend: Backend) -> Iterator[str]:
    """What is wrong with a loaded model, in words that follow its name; nothing is read from the cache or kept."""
    reading = _read_text(member, backend)
    if reading.nats_a_byte is None:
        yield "gives logits that are not numbers: its weights are damaged, or its number format is too small for them"
        return
    nats = reading.nats_a_byte
    if nats > NOISE and min(_nats_a_byte(member, backend, other) for other in OTHERS) > NOISE:
        yield (
            f"finds plain English hardly likelier than noise ({nats:.2f} nats a byte; language models have 0.3 to "
            "0.8), and seven other languages and Python likewise: its weights may be damaged, incomplete or of another "
            "revision than its tokenizer"
        )
    elif nats <= NOISE and len(reading.odd) >= ODD_PLACES:
        wanted, made = reading.odd[0]
        yield (
            f"expects other tokens than its tokenizer makes, at {len(reading.odd)} places of a short text (first "
            f"{shown(wanted)} where the tokenizer has {shown(made)}): the tokenizer, or how it splits texts before it "
            "merges, is not the model's"
        )
    if member.encoder.template is not None:
        yield from _answer_findings(member, backend)


@dataclass(frozen=True, slots=True)
class _Reading:
    nats_a_byte: float | None
    """Of `PROSE`; ``None`` where logits are not finite."""
    odd: Sequence[tuple[str, str]]
    """Where the model is surest of a token that goes on as the text does and is longer than the tokenizer's."""


def _read_text(member: PreparedMember, backend: Backend) -> _Reading:
    vocabulary, ids = member.vocabulary, text_ids(member)
    data, place, nats, read, odd = vocabulary.join(ids[1:]), 0, 0.0, 0, list[tuple[str, str]]()
    with _slot(backend) as slot:
        for token, (logits_V, loss) in zip(ids[1:], read_losses(backend, slot, ids), strict=False):
            if math.isnan(loss):
                return _Reading(None, odd)
            made, wanted = (vocabulary.pieces[each] or b"" for each in (token, _likeliest(logits_V)))
            if place < len(PROSE):
                nats, read = nats + loss, place + len(made)
            if made and len(wanted) > len(made) and data.startswith(wanted, place):
                odd.append((wanted.decode("utf-8", "replace"), made.decode("utf-8", "replace")))
            place += len(made)
    return _Reading(nats / max(1, read), odd)


def text_ids(member: PreparedMember) -> list[int]:
    """`TEXT` after the member's BOS or, where it has none, an END."""
    return member.encoder.opened(member.encoder.encode_text(TEXT))


def _nats_a_byte(member: PreparedMember, backend: Backend, text: str) -> float:
    ids = member.encoder.opened(member.encoder.encode_text(text))[: backend.facts.context]
    with _slot(backend) as slot:
        nats = sum(loss for _, loss in read_losses(backend, slot, ids))
    return nats / max(1, len(member.vocabulary.join(ids[1:])))


@contextlib.contextmanager
def _slot(backend: Backend) -> Iterator[Slot]:
    slot = backend.open()
    try:
        yield slot
    finally:
        backend.close(slot)


def _answer_findings(member: PreparedMember, backend: Backend) -> Iterator[str]:
    vocabulary = member.vocabulary
    try:
        ids = member.encoder.encode_messages([Message(role="user", content=QUESTION)])
    except PromptError as error:
        yield f"cannot be asked a plain question: {error.message}"
        return
    answer = _answer(backend, vocabulary, ids, member.facts.usable_rows)
    if answer[-1:] and answer[-1] >= member.facts.usable_rows:
        yield f"answers a plain question with the id {answer[-1]}, which it cannot read itself"
        return
    texts = member.tokenizer.table.texts
    marks = {token for form in _forms(vocabulary.marks) for token in form}
    controls = [token for token in answer if vocabulary.pieces[token] is None and token not in marks]
    if controls:
        names = dict.fromkeys(texts[token] if token < len(texts) else f"id {token}" for token in controls)
        yield (
            f"answers a plain question with control tokens ({', '.join(names)}), which an ensemble does not write: "
            "its answers here are not those of its own chat"
        )
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(vocabulary.join(answer))
    except UnicodeDecodeError:
        text = "\ufffd"
    if odd := next((character for character in text if character in f"\ufffd{ALPHABET}"), None):
        what = (
            "bytes that are no text"
            if odd == "\ufffd"
            else f"the character {odd!r}, by which vocabularies write a space"
        )
        yield f"answers a plain question with {what}: its tokenizer is not the model's, or misread"


def _forms(marks: MarkForms) -> tuple[Ids, ...]:
    return (*marks.anywhere.values(), *marks.at_opening.values(), marks.opening)


def _answer(backend: Backend, vocabulary: Vocabulary, ids: list[int], usable: int) -> list[int]:
    """The model's own likeliest answer, of all its ids, up to its END or a limit."""
    answer: list[int] = []
    with _slot(backend) as slot:
        feed = ids
        while len(answer) < LONGEST_ANSWER and len(ids) + len(answer) <= backend.facts.context:
            [logits_V] = dense(backend.advance([Feed(slot, feed)]))
            token = _likeliest(logits_V)
            if token in vocabulary.end_ids:
                break
            answer.append(token)
            feed = [token]
            if token >= usable:
                break
    return answer


def _likeliest(logits_V: Array) -> int:
    return int(array_namespace(logits_V).argmax(logits_V))
