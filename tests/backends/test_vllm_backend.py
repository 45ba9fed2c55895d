"""A member in vLLM, on a stand-in: sessions as slots, rows through shared memory, an engine that lacks something."""

from __future__ import annotations

import contextlib
import functools
import importlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.vllm_stand_in import Engine, vllm_stands_in
from unisono.backends.base import Feed, LoadRequest, ModelSource
from unisono.backends.registry import make_loader
from unisono.backends.vllm import board, versions
from unisono.backends.vllm.backend import VllmBackend
from unisono.backends.vllm.board import RowBoard
from unisono.errors import BackendMissing, ModelError, SpecError
from unisono.testing import ContractCase, check_backend_contract, hashed_rule

ROWS = 40
CONTEXT = 60
RULE = functools.cache(hashed_rule(ROWS))
CASE = ContractCase(tuple(tuple(range(at, at + length)) for at, length in ((1, 9), (3, 12), (2, 19))), 0.0)


@contextlib.contextmanager
def loaded(engine: Engine, *, sessions: int = 4, slots: int = 4) -> Iterator[VllmBackend]:
    with vllm_stands_in(engine):
        local_core: Any = importlib.import_module("unisono.backends.vllm.local_core")
        core = local_core.LocalCore({"max_num_seqs": sessions, "memory_without_accelerator": 1}, CONTEXT)
        backend = VllmBackend("smol", core, slots)
        yield backend
        backend.unload()


def engine(**told: Any) -> Engine:
    return Engine(RULE, ROWS, **told)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"v2": True},
        {"sessions": 2},
        {"sessions": 1},
        {"tokens": 3},
        {"blocks": 14},
        {"blocks": 14, "tokens": 5, "sessions": 3},
    ],
    ids=[
        "room",
        "the second model runner",
        "two at once",
        "one at once",
        "short passes",
        "little memory",
        "little of all",
    ],
)
def test_an_engine_keeps_the_contract_whatever_it_is_short_of(told: dict[str, Any]) -> None:
    sessions = told.pop("sessions", 4)
    with loaded(engine(**told), sessions=sessions) as backend:
        check_backend_contract(backend, CASE)


def test_a_step_of_several_texts_is_one_pass_that_reads_one_id_of_each() -> None:
    made = engine()
    with loaded(made) as backend:
        slots = [backend.open() for _ in range(3)]
        backend.advance([Feed(slot, CASE.texts[n]) for n, slot in enumerate(slots)])
        for token in (5, 6):
            backend.advance([Feed(slot, [token]) for slot in slots])
        assert [list(each.values()) for each in made.passes] == [[9, 12, 19], [1, 1, 1], [1, 1, 1]]


def test_a_block_is_one_pass_with_all_its_rows() -> None:
    made = engine()
    with loaded(made) as backend:
        slot = backend.open()
        backend.advance([Feed(slot, CASE.texts[0])])
        backend.advance([Feed(slot, [1, 2, 3, 4, 5], 5)])
        assert [list(each.values()) for each in made.passes] == [[9], [5]]


def test_what_was_read_before_a_rewind_is_found_in_whole_blocks() -> None:
    made = engine(block=4)
    with loaded(made) as backend:
        slot = backend.open()
        backend.advance([Feed(slot, CASE.texts[2])])
        backend.rewind(slot, 14)
        backend.advance([Feed(slot, [9, 8, 7], 3)])
        assert [list(each.values()) for each in made.passes] == [[19], [5]]
        assert made.ended == 1


def test_rows_that_the_cache_hides_are_computed_by_a_second_session() -> None:
    """The engine computes nothing for ids that it has read in another session, whose rows are not there then."""
    made, ids = engine(block=4), CASE.texts[2]
    with loaded(made) as backend:
        first, second = backend.open(), backend.open()
        all_NV = np.array(backend.advance([Feed(first, ids, len(ids))]))
        backend.advance([Feed(second, ids[:2])])
        backend.rewind(second, 1)
        told_NV = backend.advance([Feed(second, ids[1:], len(ids) - 1)])
        assert np.array_equal(told_NV, all_NV[1:])


def test_more_rows_than_the_board_has_come_in_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    with vllm_stands_in(engine()):
        monkeypatch.setattr(importlib.import_module("unisono.backends.vllm.local_core"), "ROWS", 4)
        local_core: Any = importlib.import_module("unisono.backends.vllm.local_core")
        backend = VllmBackend("smol", local_core.LocalCore({"max_num_seqs": 4}, CONTEXT), 4)
        check_backend_contract(backend, CASE)


def test_texts_that_join_and_leave_at_random_get_what_each_gets_alone() -> None:
    draw, rule = random.Random(3), RULE
    with loaded(engine(blocks=30, tokens=11), sessions=3, slots=6) as backend:
        texts: dict[Any, list[int]] = {}
        for _ in range(80):
            if len(texts) < 6 and draw.random() < 0.5:
                texts[backend.open()] = []
            if texts and draw.random() < 0.2:
                slot = draw.choice(list(texts))
                backend.close(slot)
                del texts[slot]
            feeds = []
            for slot, held in texts.items():
                if held and draw.random() < 0.3:
                    length = draw.randrange(max(0, len(held) - 5), len(held))
                    backend.rewind(slot, length)
                    del held[length:]
                ids = [draw.randrange(ROWS) for _ in range(draw.choice((1, 1, 1, 4)))]
                if len(held) + len(ids) <= CONTEXT and draw.random() < 0.8:
                    feeds.append(Feed(slot, ids, draw.randrange(len(ids) + 1)))
            told = iter(np.array(backend.advance(feeds)))
            for feed in feeds:
                texts[feed.slot] += feed.ids
                held = texts[feed.slot]
                for end in range(len(held) - feed.wanted + 1, len(held) + 1):
                    assert np.array_equal(next(told), rule(tuple(held[:end])))


def test_a_text_for_which_there_is_no_memory_is_an_error_and_others_go_on() -> None:
    with loaded(engine(blocks=4)) as backend:
        slot, other = backend.open(), backend.open()
        backend.advance([Feed(other, CASE.texts[0])])
        with pytest.raises(ModelError, match=r"'smol' has too little memory"):
            backend.advance([Feed(slot, CASE.texts[2])])
        told_NV = backend.advance([Feed(other, [5])])
        assert np.array_equal(told_NV[0], RULE((*CASE.texts[0], 5)))


def test_an_engine_that_failed_is_not_asked_again() -> None:
    made = engine()
    with loaded(made) as backend:
        slot = backend.open()
        made.fails = True
        with pytest.raises(ModelError, match=r"the engine of member 'smol' has failed: out of memory"):
            backend.advance([Feed(slot, CASE.texts[0])])
        made.fails = False
        with pytest.raises(ModelError, match="has failed"):
            backend.advance([Feed(slot, CASE.texts[0])])


def test_what_others_ask_for_in_our_words_does_no_harm() -> None:
    with vllm_stands_in(engine()) as library, contextlib.ExitStack() as held:
        made = RowBoard.create(2, ROWS)
        held.callback(made.forget_name)
        sound: list[object] = [made.name, 0, 2, 5]
        plan = library._plan_of
        params = lambda told: library.vllm.SamplingParams(extra_args={library.KEY: told})  # noqa: E731
        assert plan(params(sound), ROWS) is not None
        other = RowBoard.create(2, ROWS + 1)
        held.callback(other.forget_name)
        for told in (
            None, "x", [], sound[:3], ["../x", 0, 1, 5], ["0" * 32, 0, 1, 5], [made.name, -1, 1, 5],
            [made.name, 1, 2, 5], [made.name, 0, 0, 5], [made.name, "0", 1, 5], [other.name, 0, 1, 5],
        ):  # fmt: skip
            assert plan(params(told), ROWS) is None, told
        assert plan(library.vllm.SamplingParams(extra_args=None), ROWS) is None


def test_a_board_that_is_none_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "_path", lambda name: tmp_path / name)
    for content in (b"", b"x" * 10, b"\xff" * 10_000, b"\0" * 10_000):
        (tmp_path / ("a" * 32)).write_bytes(content)
        assert RowBoard.find("a" * 32) is None
    assert RowBoard.find("b" * 32) is None
    made = RowBoard.create(3, 5)
    made.write(1, np.ones((2, 5), np.float32), 9)
    seen = RowBoard.find(made.name)
    assert seen is not None
    assert seen.has(1, 2, 9)
    assert not seen.has(0, 2, 9)
    assert seen.logits_NV.sum() == 10
    made.forget_name()
    assert RowBoard.find(made.name) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tensor_paralel_size": 2}, "did you mean 'tensor_parallel_size'"),
        ({"gpu_memory_utilization": 1.5}, "option gpu_memory_utilization is 1.5"),
        ({"max_num_seqs": 0}, "option max_num_seqs is 0"),
    ],
)
def test_options_are_validated_by_name(options: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        make_loader("vllm", LoadRequest("smol", ModelSource("folder", "nowhere"), options=options))


@pytest.mark.parametrize(("found", "words"), [(None, "needs vLLM, which"), ("0.31.2", r"vLLM is 0\.31\.2 here")])
def test_other_versions_are_refused_by_name(found: str | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: found)
    with pytest.raises(BackendMissing, match=words):
        versions.check_version("member 'smol'")
