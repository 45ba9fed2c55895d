"""What goes on while a worker is away: its tokenizer is there, too."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from support.fakes import PROMPTS, make_fakes
from support.workers import working
from unisono.backends.endpoint.worker_tokenizer import WorkerTokenizer
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.ensemble import Ensemble
from unisono.errors import MemberUnavailable
from unisono.records import Limits

A, B = {"name": "a", "model": "fake:a"}, {"name": "b", "model": "fake:b"}


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def test_the_pieces_that_a_worker_lacks_are_learned_behind_the_loading() -> None:
    with working(B) as worker, Ensemble.load({"members": [A, worker.spec("b")]}) as ensemble:
        [_, member] = ensemble.prepared.members
        tokenizer = member.foresighted
        assert isinstance(tokenizer, WorkerTokenizer)
        union = ensemble._engine.union
        own = {piece.decode() for piece in member.vocabulary.pieces if piece and piece.isascii()}
        lacking = {piece.decode() for n in range(union.texts) if (piece := union.piece(n)) and piece.isascii()} - own
        deadline = time.monotonic() + 10
        while not lacking <= tokenizer._learned.keys():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert lacking
        for text in lacking:
            assert tokenizer.encode(text) == FAKE_MODELS["b"].tokenizer.encode(text)


@pytest.mark.parametrize("method", [{}, {"lead": "a", "gate": "confidence:0.9 boundary"}, {"speculate": "a:3"}])
def test_a_text_goes_on_and_its_pieces_are_spelled(method: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker ends behind the first steps, and knows nothing of the pieces that come."""
    monkeypatch.setattr(WorkerTokenizer, "expect", lambda self, texts: None)
    with working(B) as worker:
        spec = worker.spec("b", on_failure="degrade", timeout=5, retries=0)
        ensemble = Ensemble.load({"members": [A, spec], **method})
        engine = ensemble._engine
        far = next(member for member in engine.members if member.name == "b")
        text = engine.add(PROMPTS[0], Limits(24), trace=True)
        engine.step()
    far.speller._known.clear()
    began = time.monotonic()
    ids: list[int] = []
    while engine.active:
        ids = engine.groups[0].open[0].cursors["b"].ids
        engine.step()
    assert time.monotonic() - began < 3
    written = text.generation()
    assert written.finish_reason in ("end", "length")
    assert written.usage.degraded
    chosen = b"".join(step.piece or b"" for step in written.steps or ())
    assert far.speller.vocabulary.join(ids).endswith(chosen)
    with pytest.raises(MemberUnavailable, match="connection fails") as failed:
        far.encoder.tokenizer.encode("a text that is not known")
    assert failed.value.address == worker.url
    ensemble.close()


def test_who_is_known_to_be_away_is_not_asked_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with working(B) as worker:
        ensemble = Ensemble.load({"members": [A, worker.spec("b", timeout=5, retries=0)]})
    tokenizer = ensemble.prepared.members[1].foresighted
    assert isinstance(tokenizer, WorkerTokenizer)
    client = tokenizer._client
    with pytest.raises(MemberUnavailable):
        client.run(client.get("/v1/member"))
    monkeypatch.setattr(client, "run", None)  # whoever asked would fail otherwise
    with pytest.raises(MemberUnavailable, match="the connection fails") as failed:
        tokenizer.encode("unknown text")
    assert failed.value.retry_after
    monkeypatch.undo()
    client.hear()
    with pytest.raises(MemberUnavailable) as failed:
        tokenizer.encode("unknown text")
    assert failed.value.retry_after is None
    ensemble.close()
