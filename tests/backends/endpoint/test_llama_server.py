"""A member behind llama-server: the contract over its wire format, and what its answers must hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from support.fakes import make_fakes
from support.far_member import check_writes_as_at_home
from support.http_stand_in import RESET, Reply, Request, as_json
from support.llama_server_stand_in import LlamaServerStandIn
from unisono.backends.base import Feed, LoadRequest, ModelSource
from unisono.backends.endpoint.backend import EndpointBackend
from unisono.backends.endpoint.llama_server import ROUNDING
from unisono.backends.endpoint.loader import EndpointLoader
from unisono.backends.endpoint.rows import Row, top_rows
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.top_logprobs import TopLogprobs
from unisono.errors import MemberUnavailable, ModelUnsupported, SpecError
from unisono.fusion.bounds import Whole, certify, kinds_of
from unisono.fusion.fold_top import fold_top, plan_top
from unisono.testing import ContractCase, check_backend_contract, fake_member

TEXTS = tuple(tuple((7 * n + 3 * size) % 250 for n in range(size)) for size in (9, 14, 21))
IDS = TEXTS[0]


def load(url: str, slots: int = 5, **keys: Any) -> EndpointBackend:
    keys = {"tokenizer": ModelSource("fake", "served"), "tokenizer_backend": "fake", "top": 8, **keys}
    source = EndpointSource("endpoint", url, **keys)
    return EndpointLoader(LoadRequest("far", source, slots=slots)).load(lambda *_: None)


@pytest.fixture
def engine() -> Iterator[LlamaServerStandIn]:
    stand_in = LlamaServerStandIn(fake_member("served", [" the", "日本"]), slots=5)
    with stand_in.serve():
        yield stand_in


def test_it_keeps_the_contract(engine: LlamaServerStandIn) -> None:
    engine.model.context = 64
    check_backend_contract(load(engine.url), ContractCase(TEXTS, tolerance=1e-6))


def test_an_ensemble_writes_the_text_of_its_members_at_home() -> None:
    make_fakes()
    stand_in = LlamaServerStandIn(FAKE_MODELS["a"])
    with stand_in.serve() as url:
        check_writes_as_at_home(url, top=20)
    slots = {request.body["id_slot"] for request in stand_in.asked("/completion") if request.body}
    assert slots == {0, 1, 2, 3}


def test_a_slot_goes_to_the_slot_of_its_number_and_sends_what_stands_before(engine: LlamaServerStandIn) -> None:
    backend = load(engine.url)
    first, second = backend.open(), backend.open()
    backend.advance([Feed(second, IDS, 0)])
    backend.rewind(second, 3)
    backend.advance([Feed(second, [5]), Feed(first, [7])])
    sent = [request.body for request in engine.asked("/completion")]
    bodies = {body["id_slot"]: body for body in sent[1:] if body}
    assert sent[0]["n_predict"] == 0
    assert sent[0]["prompt"] == list(IDS)
    assert bodies[1]["prompt"] == [*IDS[:3], 5]
    assert bodies[0]["prompt"] == [7]
    assert bodies[0]["n_probs"] == 8
    assert {body["n_cache_reuse"] for body in sent if body} == {0}  # whatever --cache-reuse says


Tamper = Callable[[dict[str, Any]], object]


def _entries(told: dict[str, Any]) -> list[dict[str, Any]]:
    return told["completion_probabilities"][0]["top_logprobs"]


def _changed(change: Callable[[list[dict[str, Any]]], object]) -> Tamper:
    return lambda told: (change(_entries(told)), told)[1]


WRONG: dict[str, tuple[Tamper, str]] = {
    "too few ids": (_changed(lambda entries: entries.pop()), "it told 7 ids where the 8 likeliest"),
    "an entry without an id": (_changed(lambda entries: entries[2].pop("id")), "a token without an id"),
    "an id twice": (_changed(lambda entries: entries[2].update(id=entries[1]["id"])), "twice"),
    "a logprob that is none": (_changed(lambda entries: entries[2].update(logprob=None)), "as the log-probability"),
    "more mass than 1": (_changed(lambda entries: [each.update(logprob=-0.5) for each in entries]), "more mass than 1"),
    "rows of another text": (lambda told: told | {"tokens_evaluated": 3}, "3 of 9 ids"),
    "a text that it cut": (lambda told: told | {"truncated": True}, "another text"),
    "another model": (lambda told: told | {"model": "other.gguf"}, "'other.gguf' answers"),
    "no distribution": (lambda told: told | {"completion_probabilities": []}, "no log-probabilities"),
    "a list": (lambda told: [told], "no JSON object"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_an_error_and_the_slot_is_as_before(engine: LlamaServerStandIn, wrong: str) -> None:
    tamper, words = WRONG[wrong]
    backend = load(engine.url, retries=0)
    slot = backend.open()
    engine.faults["/completion"] = [lambda request: as_json(tamper(json.loads(engine.answer(request).content)))]
    with pytest.raises(MemberUnavailable, match=words) as raised:
        backend.advance([Feed(slot, IDS)])
    assert raised.value.member == "far"
    assert raised.value.address == engine.url
    assert raised.value.refused == (wrong == "another model")
    told = backend.advance([Feed(slot, IDS)])
    assert isinstance(told, TopLogprobs)
    assert told.ids_NK[0, 0] == int(np.argmax(engine.model.next_token(IDS)))


LOST = {
    "reset": RESET,
    "half": Reply(content=b"x" * 500, sends=0.5),
    "busy": Reply(503, b"busy", {"retry-after": "0"}),
    "limited": Reply(429, b"slow down", {"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}),
}


@pytest.mark.parametrize("lost", LOST)
def test_a_lost_request_is_sent_again(engine: LlamaServerStandIn, lost: str) -> None:
    backend = load(engine.url, retries=1)
    slot = backend.open()
    engine.faults["/completion"] = [LOST[lost]]
    backend.advance([Feed(slot, IDS)])
    assert len(engine.asked("/completion")) == 2


@pytest.mark.parametrize("lost", LOST)
def test_retries_are_bounded(engine: LlamaServerStandIn, lost: str) -> None:
    backend = load(engine.url, retries=1)
    slot = backend.open()
    engine.faults["/completion"] = [LOST[lost]] * 3
    with pytest.raises(MemberUnavailable, match=r"(?i)connection|answers (503|429)"):
        backend.advance([Feed(slot, IDS)])
    assert len(engine.asked("/completion")) == 2


def test_who_wants_to_be_asked_later_than_the_time_out_is_not_waited_for(engine: LlamaServerStandIn) -> None:
    backend = load(engine.url)
    engine.faults["/completion"] = [Reply(503, b"loading", {"retry-after": "3600"})]
    with pytest.raises(MemberUnavailable, match="answers 503") as raised:
        backend.advance([Feed(backend.open(), IDS)])
    assert raised.value.retry_after == 3600


def test_garbage_and_answers_without_end_are_errors(engine: LlamaServerStandIn) -> None:
    backend = load(engine.url)
    slot = backend.open()
    for content, words in (
        (b"<html>no</html>", "no JSON: '<html>"),
        (b"[" * 100_000, "no JSON"),
        (b" " * 10**6, "longer"),
    ):
        engine.faults["/completion"] = [Reply(content=content)]
        with pytest.raises(MemberUnavailable, match=words):
            backend.advance([Feed(slot, IDS)])


def test_another_model_behind_the_address_is_noticed_when_a_text_begins(engine: LlamaServerStandIn) -> None:
    backend = load(engine.url)
    slot = backend.open()
    backend.advance([Feed(slot, IDS)])
    engine.size += 1
    backend.advance([Feed(slot, [5])])
    with pytest.raises(MemberUnavailable, match="another model is served"):
        backend.advance([Feed(backend.open(), IDS)])


def test_a_restart_is_noticed_within_a_text_and_costs_only_time(engine: LlamaServerStandIn) -> None:
    backend = load(engine.url)
    slot = backend.open()
    backend.advance([Feed(slot, IDS)])
    engine.held = {slot: [] for slot in engine.held}
    looked = len(engine.asked("/props"))
    backend.advance([Feed(slot, [5])])
    assert len(engine.asked("/props")) == looked + 1
    engine.held = {slot: [] for slot in engine.held}
    engine.size += 1
    with pytest.raises(MemberUnavailable, match="another model is served"):
        backend.advance([Feed(slot, [6])])


def test_a_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    key, stand_in = "sesame-1234", LlamaServerStandIn(fake_member("served"), key="sesame-1234")

    def reflect(request: Request) -> Reply:
        return Reply(500, f"no: {request.headers}".encode())

    with stand_in.serve() as url:
        with pytest.raises(MemberUnavailable, match="it wants a key: name its api_key_env"):
            load(url)
        with pytest.raises(SpecError, match="'MEMBER_KEY', which its api_key_env names, is not set"):
            load(url, api_key_env="MEMBER_KEY")
        monkeypatch.setenv("MEMBER_KEY", "wrong")
        with pytest.raises(MemberUnavailable, match="the key is not accepted"):
            load(url, api_key_env="MEMBER_KEY")
        monkeypatch.setenv("MEMBER_KEY", key + "\n")
        backend = load(url, api_key_env="MEMBER_KEY", retries=0)
        stand_in.faults["/completion"] = [reflect]
        with pytest.raises(MemberUnavailable, match="answers 500") as raised:
            backend.advance([Feed(backend.open(), [5, 6])])
        assert key not in str(raised.value)


def test_a_tokenizer_of_another_model_is_refused(engine: LlamaServerStandIn) -> None:
    fake_member("other", ["Hello"])
    with pytest.raises(SpecError, match=r"not that of the model at .*: .* the 79\. token is \d+ \('Hello'\) here and"):
        load(engine.url, tokenizer=ModelSource("fake", "other"))
    with pytest.raises(SpecError, match="lacks the key 'tokenizer'"):
        load(engine.url, tokenizer=None)


def test_the_served_model_is_the_one_that_is_named(engine: LlamaServerStandIn) -> None:
    load(engine.url, served_model="fake.gguf")
    with pytest.raises(ModelUnsupported, match=r"serves 'fake\.gguf', and not 'mistral'"):
        load(engine.url, served_model="mistral")


def test_an_address_without_an_engine_is_refused() -> None:
    class Other(LlamaServerStandIn):
        def answer(self, request: Request) -> Reply:
            return Reply(200, b"<html>Welcome</html>")

    with Other(fake_member("served")).serve() as url, pytest.raises(MemberUnavailable, match="no engine"):
        load(url)


def test_doctor_shows_what_the_engine_can_do_and_how_long_it_takes(engine: LlamaServerStandIn) -> None:
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec
    from unisono.diagnosis import diagnose

    spec = {"members": [{"name": "far", "url": engine.url, "tokenizer": "fake:served", "top": 5}]}
    [member] = diagnose(prepare(load_spec(spec))).members
    assert member.endpoint is not None
    assert member.endpoint.engine == "llama-server b1-stand-in"
    assert member.endpoint.truncated == (5, engine.model.output_rows, 0)
    assert member.endpoint.latency_ms > 0
    assert "greedy choices are exact where they are certified" in member.endpoint.notes[0]
    assert (member.model, member.backend, member.facts.device) == (engine.url, "endpoint", engine.url)


def test_more_texts_than_the_engine_holds_are_warned_of(engine: LlamaServerStandIn) -> None:
    assert load(engine.url).facts.warnings == ()
    [warning] = load(engine.url, slots=6).facts.warnings
    assert "holds 5 texts at once, and up to 6 are written" in warning


def test_masses_that_float32_loses_are_known_to_be_unknown() -> None:
    rows, ids = 262_144, list(range(20))
    mass_V = np.full(rows, 5e-8)  # each is lost beside the sum of those before it
    mass_V[:2] = 1, 1e-7
    p_V = mass_V / float(np.cumsum(mass_V.astype(np.float32), dtype=np.float32)[-1])
    assert p_V.sum() > 1.013
    row = Row(ids, np.log(p_V[ids]).tolist(), float(p_V[19]))
    told = top_rows([row], rows, 0.02, rows * ROUNDING)
    its = plan_top(np.arange(rows, dtype=np.int32), rows)
    folded = fold_top(told.ids_NK[0], told.logp_NK[0], float(told.unseen_N[0]), float(told.kth_N[0]), its, told.slack)
    total = p_V.sum() / p_V[:20].sum() * folded.known.sum()
    assert folded.least <= total <= folded.most
    assert folded.bounds(np.array([rows - 1]))[1] <= folded.each == pytest.approx(5e-8, rel=1e-3)
    other_U = np.zeros(rows)
    other_U[[1, 2]] = 0.99, 0.01  # between 1 and what the first id really has
    found = certify([folded, Whole(other_U)], (0.5, 0.5), kinds_of([its.ids_U]), "mean")
    assert not found.is_certain


def test_masses_that_float32_has_made_a_little_too_large_are_scaled(engine: LlamaServerStandIn) -> None:
    backend = load(engine.url)
    slot = backend.open()

    def larger(by: float) -> TopLogprobs:
        def enlarge(entries: list[dict[str, Any]]) -> None:
            off = np.log(by / sum(np.exp(entry["logprob"]) for entry in entries))
            for entry in entries:
                entry["logprob"] += off

        tamper = _changed(enlarge)
        engine.faults["/completion"] = [lambda request: as_json(tamper(json.loads(engine.answer(request).content)))]
        told = backend.advance([Feed(slot, IDS)])
        backend.rewind(slot, 0)
        assert isinstance(told, TopLogprobs)
        return told

    told = larger(1.002)
    assert np.exp(told.logp_NK, dtype=np.float64).sum() == pytest.approx(1, abs=1e-6)
    assert told.kth_N[0] == pytest.approx(np.exp(told.logp_NK[0, -1]), rel=1e-5)
    assert 0 < told.unseen_N[0] < 1e-5
    with pytest.raises(MemberUnavailable, match="more mass than 1"):
        larger(1.05)
