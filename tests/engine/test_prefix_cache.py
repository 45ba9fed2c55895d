"""The prefix store: a backend like any other, and the same texts for fewer tokens read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.demo import written
from support.fakes import PROMPTS, STORY, make_fakes
from unisono.backends.base import Feed
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.prefix_cache import PrefixCache, common
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.ensemble import Ensemble
from unisono.records import Limits
from unisono.testing import BACKEND_CONTRACT, ContractCase, check_unload

SYSTEM = STORY * 2
IDS = [tuple(range(start, start + 30)) for start in (10, 50, 90)]


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def engine_of(names: Sequence[str] = ("a", "b"), batch: int = 4, shortest: int | None = 1) -> Engine:
    """An engine of fakes; with slots that are kept, unless ``shortest`` is ``None``."""
    members = [{"name": name, "model": f"fake:{name}"} for name in names]
    engine = Ensemble.load({"members": members}, batch=batch)._engine
    if shortest is not None:
        for member in engine.members:
            member.backend = member.prefixes = PrefixCache(member.backend, shortest=shortest)
    for name in names:
        FAKE_MODELS[name].passes.clear()
    return engine


def store(slots: int = 3, shortest: int = 1) -> PrefixCache:
    found = engine_of(("a",), slots, shortest).members[0].backend
    assert isinstance(found, PrefixCache)
    return found


def tokens_read() -> int:
    return sum(model.tokens_read() for model in FAKE_MODELS.values())


def used(backend: PrefixCache, ids: Sequence[int]) -> int:
    """Read a prompt as the engine would and give its slot back; return how many ids were read for it."""
    slot, held = backend.resume(ids)
    backend.advance([Feed(slot, ids[held:])])
    backend.close(slot)
    return len(ids) - held


@pytest.mark.parametrize("rule", BACKEND_CONTRACT)
@pytest.mark.parametrize("shortest", [1, 16])
@pytest.mark.parametrize("neighbours", [False, True])
def test_a_store_is_a_backend(rule: str, shortest: int, neighbours: bool) -> None:
    """Also when its slots are full of what others have left."""
    FAKE_MODELS["a"].neighbours = neighbours
    backend = store(8, shortest)
    for ids in IDS:
        used(backend, ids)
    BACKEND_CONTRACT[rule](backend, ContractCase(texts=IDS, tolerance=0.0))
    assert len([backend.open() for _ in range(8)]) == 8


def test_a_store_is_unloaded_like_a_backend() -> None:
    backend = store()
    used(backend, IDS[0])
    check_unload(backend)


def test_a_prompt_goes_on_where_it_was_left_and_its_last_id_is_always_read() -> None:
    backend = store()
    assert used(backend, IDS[0]) == 30
    assert used(backend, IDS[0]) == 1
    assert used(backend, IDS[0] + IDS[1]) == 30
    assert used(backend, IDS[0][:20] + IDS[2]) == 30
    assert used(backend, IDS[0] + IDS[1]) == 1, "the copy left its original alone"
    assert backend.reused == 29 + 30 + 20 + 59


def test_what_somebody_still_uses_is_copied() -> None:
    backend = store()
    slot = backend.open()
    backend.advance([Feed(slot, IDS[0])])
    other, held = backend.resume(IDS[0][:20] + IDS[1])
    assert (held, other != slot) == (20, True)
    np.testing.assert_array_equal(
        np.array(backend.advance([Feed(other, IDS[0][20:21])])),
        np.array(alone(backend, IDS[0][:21])),
    )
    backend.rewind(slot, 10)
    assert backend.resume(IDS[0])[1] == 21, "of what is read now, not of what once was"


def alone(backend: PrefixCache, ids: Sequence[int]) -> Any:
    slot = backend.open()
    rows_NV = backend.advance([Feed(slot, ids)]).copy()
    backend.discard(slot)
    return rows_NV


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_where_neighbours_are_faster_slots_in_use_follow_one_another_as_texts_come(data: st.DataObject) -> None:
    FAKE_MODELS["a"].neighbours = True
    backend = store(5)
    opened: dict[Any, list[int]] = {}
    for _ in range(data.draw(st.integers(5, 25))):
        if opened and (len(opened) == 5 or data.draw(st.booleans())):
            slot = data.draw(st.sampled_from(sorted(opened)))
            backend.close(slot)
            del opened[slot]
            continue
        start = data.draw(st.sampled_from([10, 50]))
        ids = [start + step % 7 for step in range(data.draw(st.integers(2, 9)))]
        lowest = min(set(range(6)) - set(opened))
        alone, was_last = not opened, len(backend._open) + len(backend._kept) == 5 and len(backend._kept) == 1
        slot, held = backend.resume(ids)
        assert slot == lowest or alone or was_last
        backend.advance([Feed(slot, ids[held:])])
        opened[slot] = ids
        for each, expected in opened.items():
            assert list(backend._backend.read(each)) == expected  # type: ignore[attr-defined]
        for each, expected in backend._kept.items():
            assert list(backend._backend.read(each)) == expected  # type: ignore[attr-defined]


def test_the_least_recently_used_gives_way_at_once_and_only_when_slots_are_needed() -> None:
    backend = store(slots=3)
    for ids in IDS:
        used(backend, ids)
    assert used(backend, IDS[0]) == 1
    new = tuple(range(130, 160))
    assert used(backend, new) == 30
    assert [used(backend, ids) for ids in (IDS[2], IDS[0], new)] == [1, 1, 1]
    slots = [backend.open() for _ in range(3)]
    assert backend.kept == 0
    with pytest.raises(RuntimeError, match="slots are taken"):
        backend.resume(IDS[0])
    for slot in slots:
        backend.close(slot)


def test_the_only_slot_is_taken_over_though_more_is_lost_than_won() -> None:
    backend = store(slots=1)
    used(backend, IDS[0])
    assert used(backend, IDS[0][:10] + IDS[1]) == 30
    assert used(backend, IDS[0]) == 20


def test_when_all_slots_are_taken_what_costs_least_to_read_again_gives_way() -> None:
    """As with answers to prompts that are all asked once more, by somebody else."""
    backend = store(slots=3)
    answered = [ids + tuple(range(200, 205)) for ids in IDS]
    for ids in answered:
        used(backend, ids)
    assert [used(backend, ids) for ids in IDS] == [1, 1, 1]
    backend = store(slots=2)
    long, short = IDS[1] + IDS[2], IDS[0]
    used(backend, short)
    used(backend, long)
    assert used(backend, (*long[:20], 7)) == 1
    assert used(backend, long) == 1, "a copy was made in place of what was shorter"


def test_what_another_slot_holds_as_well_is_kept_once_and_short_things_not_at_all() -> None:
    backend = store(shortest=5)
    first, _ = backend.resume(IDS[0])
    second, _ = backend.resume(IDS[0])
    third, _ = backend.resume(IDS[1])
    backend.advance([Feed(first, IDS[0]), Feed(second, IDS[0][:12]), Feed(third, IDS[1][:4])])
    for slot in (second, first, third):
        backend.close(slot)
    assert backend.kept == 30
    assert backend.resume(IDS[0][:4] + IDS[1])[1] == 0


def test_memory_can_be_asked_back() -> None:
    backend = store()
    for ids in IDS:
        used(backend, ids)
    backend.limit(60)
    assert backend.kept == 60
    assert used(backend, IDS[0]) == 30
    backend.limit(-5)
    assert backend.kept == 0


def test_a_copy_of_a_slot_in_which_a_pass_failed_is_not_kept_either() -> None:
    backend = store()
    slot, _ = backend.resume([7, 8, 9])
    backend.advance([Feed(slot, [7, 8, 9])])
    advance = backend._backend.advance

    def failing(feeds: Any) -> Any:
        raise RuntimeError("out of memory")

    backend._backend.advance = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="memory"):
        backend.advance([Feed(slot, [10])])
    backend._backend.advance = advance  # type: ignore[method-assign]
    copy = backend.open(slot)
    backend.close(slot)
    backend.close(copy)
    assert backend.kept == 0
    assert backend.resume([7, 8, 9, 10])[1] == 0


def test_a_slot_in_which_a_pass_failed_is_not_kept() -> None:
    backend = store()
    slot, other = backend.open(), backend.open()
    backend.advance([Feed(slot, IDS[0]), Feed(other, IDS[1])])
    advance = backend._backend.advance

    def failing(feeds: Any) -> Any:
        advance(feeds)
        raise RuntimeError("half way")

    backend._backend.advance = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="half way"):
        backend.advance([Feed(slot, [1, 2])])
    with pytest.raises(ValueError, match="fed twice"):
        backend.advance([Feed(other, [1]), Feed(other, [1])])
    backend._backend.advance = advance  # type: ignore[method-assign]
    backend.close(slot)
    backend.close(other)
    assert backend.kept == 30
    assert (used(backend, IDS[0]), used(backend, IDS[1])) == (30, 1)


def chats(turns: int) -> list[Prompt]:
    """Two conversations under one system prompt, which is long; every turn sends all that was said."""
    prompts = []
    for turn in range(1, turns + 1):
        for topic in ("the cat", "日本"):
            said = [{"role": "system", "content": SYSTEM}]
            for past in range(turn):
                said.append({"role": "user", "content": f"{topic} {past}?"})
                if past < turn - 1:
                    said.append({"role": "assistant", "content": f"Hello, {topic} {past}."})
            prompts.append(Prompt(messages=said))  # type: ignore[arg-type]
    return prompts


def test_a_conversation_is_read_once_however_many_turns_it_has() -> None:
    prompts = chats(4)
    plain = [text.generation().data for text in written(engine_of(shortest=None), prompts, 8, 1)]
    whole = tokens_read()
    engine = engine_of(batch=4, shortest=16)
    assert [text.generation().data for text in written(engine, prompts, 8, 1)] == plain
    reused = sum(member.backend.reused for member in engine.members)  # type: ignore[attr-defined]
    assert tokens_read() == whole - reused
    longest = sum(len(member.encoder.encode(prompt)) for member in engine.members for prompt in prompts[-2:])
    assert tokens_read() < longest + 8 * 2 * 8 + 6 * 2 * 60, "each turn reads what is new, and what it writes"
    assert tokens_read() < whole / 3


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_prompts_in_any_batch_are_written_as_without_a_store(data: st.DataObject) -> None:
    """Every method, slots scarce or not, texts given up on the way."""
    make_fakes()
    for model in FAKE_MODELS.values():
        model.neighbours = data.draw(st.booleans())
    slots = data.draw(st.integers(1, 4))
    engine = engine_of(("a", "b", "c"), slots, data.draw(st.integers(1, 30)))
    pool = [*PROMPTS[:4], *chats(2), Prompt(text=STORY), Prompt(text=STORY[:30]), Prompt(text=STORY + "x")]
    texts = []
    for _ in range(data.draw(st.integers(2, 8))):
        prompt, pieces = data.draw(st.sampled_from(pool)), data.draw(st.integers(1, 12))
        method = Method(lead=data.draw(st.sampled_from("abc"))).but(
            gate=data.draw(st.sampled_from(["always", "confidence:0.6", "every:4", "first:0"])),
            speculate=data.draw(st.sampled_from(["off", "a", "ngram", "auto"])),
            combine=data.draw(st.sampled_from(["mean", {"rule": "mean", "weights": "perplexity"}])),
        )
        if data.draw(st.integers(0, 5)) == 0 and slots > 1:
            method = method.but(draw="beam_width:2", speculate="off")
        while engine.free < method.draw.beam_width:
            engine.step()
        texts.append((engine.add(prompt, Limits(pieces), method=method), prompt, pieces, method))
        for _ in range(data.draw(st.integers(0, 4))):
            engine.step()
        # Drawn in any case: which texts are still active depends on the clock, by which drafts are made.
        gives_up, place = data.draw(st.integers(0, 3)) == 0, data.draw(st.integers(0, 3))
        if engine.active and gives_up:
            engine.drop(engine.active[place % len(engine.active)])
    while engine.active:
        engine.step()
    for text, prompt, pieces, method in texts:
        if text.finish is not None:
            [alone] = written(engine_of(("a", "b", "c"), 2, None), [prompt], pieces, 1, method)
            assert text.generation().data == alone.generation().data
    for member in engine.members:
        assert len({member.backend.open() for _ in range(slots)}) == slots


def test_what_a_search_lets_go_of_does_not_push_out_what_is_worth_keeping() -> None:
    engine = engine_of(batch=4)
    written(engine, [Prompt(text=STORY)], 4, 1)
    written(engine, [Prompt(text="日")], 10, 1, Method().but(draw="beam_width:3"))
    before = tokens_read()
    written(engine, [Prompt(text=STORY)], 1, 1)
    assert tokens_read() - before == 2


def test_the_common_beginning_is_found_whatever_its_length() -> None:
    for left in range(9):
        for right in range(9):
            for same in range(min(left, right) + 1):
                one = [*range(same), *range(100, 100 + left - same)]
                other = [*range(same), *range(200, 200 + right - same)]
                assert common(one, other) == same
