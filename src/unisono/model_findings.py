"""What is wrong with a loaded model: damage that no file shows.

That is weights that are noise or of another revision, a tokenizer or a pre-tokenizer that is not the model's, and
answers with control tokens. A model reads the beginning of a short text, as far as something of it can be found, and
answers one question, of which the likeliest answer is read with it in one pass.
"""

from __future__ import annotations

import bisect
import codecs
import contextlib
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace

from unisono.backends.base import Array, Backend, Feed, Slot, dense
from unisono.chat.messages import Message
from unisono.engine.member import loss_of, read_losses
from unisono.errors import PromptError, shown
from unisono.members import PreparedMember
from unisono.vocab.marks import Ids, MarkForms
from unisono.vocab.pieces import Vocabulary

PROSE = (
    "The Second World War ended in 1945. Paris is the capital of France, and it's one of the most visited cities in "
    "the world."
)
TEXT = (
    PROSE
    + """

def main():
    for number in range(10):
        print(number)

int main() {
    return 0;
}

I don't know what we've done, but they're here, aren't they? No, they aren't.
1 + 1 = 2, 10 + 10 = 20, 100 + 100 = 200, 1000 + 1000 = 2000.
"""
)
"""Begins with `PROSE`; the rest has what tokenizers split differently: indented lines, marks, contractions, digits."""
QUESTION = "What is the capital of France?"
LIKELY = "The capital of France is Paris."
"""What many models answer."""
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
NEAR = 8
"""Places so near are looked at in one pass: logits in between cost less than a pass."""
AT_ONCE = 32
"""Distributions that are held at once: each has megabytes."""
LONGEST_ANSWER = 8
ALPHABET = "ĠĊ▁"
"""How vocabularies write a space and a line's end: in a text they show that a tokenizer was misread."""


def findings(member: PreparedMember, backend: Backend) -> Iterator[str]:
    """What is wrong with a loaded model, in words that follow its name; nothing is read from the cache or kept."""
    reading = _read_text(member, backend)
    if reading.nats_a_byte is None:
        yield "gives logits that are not numbers: its weights are damaged, or its number format is too small for them"
        return
    nats = reading.nats_a_byte
    if _is_noise(member, backend, nats):
        yield (
            f"finds plain English hardly likelier than noise ({nats:.2f} nats a byte; language models have 0.3 to "
            "0.8), and likewise what its vocabulary spells of seven other languages and Python: its weights may be "
            "damaged, incomplete or of another revision than its tokenizer"
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


def adapter_findings(member: PreparedMember, backend: Backend) -> Iterator[str]:
    """What is wrong with a model with an adapter, as the ``backend`` has it: whether it knows any language still."""
    nats = _nats_a_byte(member, backend, PROSE)
    if not math.isfinite(nats):
        yield "gives logits that are not numbers with its adapter, which is damaged, or its scale is too large"
    elif _is_noise(member, backend, nats):
        yield (
            f"finds plain English hardly likelier than noise with its adapter ({nats:.2f} nats a byte), and "
            "likewise what its vocabulary spells of seven other languages and Python: the adapter may be damaged, or "
            "made for another model"
        )


@dataclass(frozen=True, slots=True)
class _Reading:
    nats_a_byte: float | None
    """Of `PROSE`; ``None`` where logits are not finite."""
    odd: Sequence[tuple[str, str]]
    """Where the model is surest of a token that goes on as the text does and is longer than the tokenizer's."""


def _read_text(member: PreparedMember, backend: Backend) -> _Reading:
    """Let a model read `PROSE`, and what is behind it up to where no more `ODD_PLACES` can be found."""
    ids, pieces = text_ids(member), member.vocabulary.pieces
    text = _Text([pieces[token] or b"" for token in ids[1:]])
    prose, odd, nats = text.tokens_before(len(PROSE)), list[tuple[str, str]](), 0.0
    left = text.places_for_longer(member.vocabulary.canonical)
    with _slot(backend) as slot:
        read, start, end = 0, 0, prose
        while start < end:
            for place, logits_V in _distributions(backend, slot, ids[read:end], range(start, end)):
                loss, wanted = loss_of(logits_V, ids[place + 1]), pieces[_likeliest(logits_V)] or b""
                if math.isnan(loss):
                    return _Reading(None, odd)
                nats += loss if place < prose else 0
                if text.could_be(wanted, place):
                    odd.append((_shown(wanted), _shown(text.pieces[place])))
            left = [place for place in left if place >= end]
            read, (start, end) = end, _next_places(left, ODD_PLACES - len(odd))
    return _Reading(nats / max(1, text.starts[prose]), odd)


class _Text:
    """What a tokenizer makes of a text."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces, self.data = pieces, b"".join(pieces)
        self.starts = list(itertools.accumulate(map(len, pieces), initial=0))

    def tokens_before(self, place: int) -> int:
        """How many tokens begin before a byte."""
        return min(bisect.bisect_left(self.starts, place), len(self.pieces))

    def could_be(self, wanted: bytes, place: int) -> bool:
        """Whether the text goes on with a piece that is longer than the token that its tokenizer has there."""
        made = self.pieces[place]
        return 0 < len(made) < len(wanted) and self.data.startswith(wanted, self.starts[place])

    def places_for_longer(self, known: Collection[bytes]) -> list[int]:
        """Where there is such a piece, so that a model could want it."""
        longest = max(map(len, known), default=0)
        return [
            place
            for place, start in enumerate(self.starts[:-1])
            if self.pieces[place]
            and any(
                self.data[start:end] in known
                for end in range(start + len(self.pieces[place]) + 1, min(start + longest, len(self.data)) + 1)
            )
        ]


def _next_places(left: Sequence[int], missing: int) -> tuple[int, int]:
    """The next run of places to look at, of those that are left; none where fewer are left than are ``missing``."""
    places = left[: len(left) - max(0, missing - 1)]
    if not places:
        return 0, 0
    apart = (place + 1 for place, after in itertools.pairwise(places) if after - place > NEAR)
    return places[0], next(apart, places[-1] + 1)


def _distributions(backend: Backend, slot: Slot, ids: Sequence[int], places: range) -> Iterator[tuple[int, Array]]:
    """Read ids, and give the logits behind the last of them with their places, until the next ones are asked for."""
    for first in places[::AT_ONCE]:
        last = min(first + AT_ONCE, places.stop)
        block, ids = ids[: len(ids) - (places.stop - last)], ids[len(ids) - (places.stop - last) :]
        logits_NV = dense(backend.advance([Feed(slot, block, last - first)]))
        yield from zip(range(first, last), logits_NV, strict=True)


def _shown(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def text_ids(member: PreparedMember) -> list[int]:
    """`TEXT` after the member's BOS or, where it has none, an END."""
    return member.encoder.opened(member.encoder.encode_text(TEXT))


def _nats_a_byte(member: PreparedMember, backend: Backend, text: str) -> float:
    ids = member.encoder.opened(member.encoder.encode_text(text))[: backend.facts.context]
    with _slot(backend) as slot:
        nats = sum(loss for _, loss in read_losses(backend, slot, ids))
    return nats / max(1, len(member.vocabulary.join(ids[1:])))


def _is_noise(member: PreparedMember, backend: Backend, nats: float) -> bool:
    """Whether a member finds plain English (``nats`` a byte) no likelier than noise, nor any of `OTHERS` it spells."""
    if nats <= NOISE:
        return False
    for other in OTHERS:
        with contextlib.suppress(PromptError):
            if _nats_a_byte(member, backend, other) <= NOISE:
                return False
    return True


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
    likely = member.tokenizer.encode_prompt(LIKELY)
    likely = likely[likely[:1] == [member.tokenizer.table.bos_id] :]
    answer = _answer(backend, vocabulary, ids, member.facts.usable_rows, likely)
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


def _answer(backend: Backend, vocabulary: Vocabulary, ids: list[int], usable: int, likely: list[int]) -> list[int]:
    """The model's own likeliest answer, of all its ids, up to its END or a limit.

    It does not depend on what is thought ``likely``: that is read with the question, and counts where it is the answer.
    """
    answer: list[int] = []
    room = min(LONGEST_ANSWER, backend.facts.context - len(ids) + 1)
    with _slot(backend) as slot:
        feed, guess = ids, likely[: max(0, room - 1)]
        while len(answer) < room:
            for place, logits_V in enumerate(dense(backend.advance([Feed(slot, [*feed, *guess], len(guess) + 1)]))):
                token = _likeliest(logits_V)
                if token in vocabulary.end_ids:
                    return answer
                answer.append(token)
                if token >= usable:
                    return answer
                if guess[place : place + 1] != [token]:
                    break
            backend.rewind(slot, len(ids) + len(answer) - 1)
            feed, guess = [token], []
    return answer


def _likeliest(logits_V: Array) -> int:
    return int(array_namespace(logits_V).argmax(logits_V))
