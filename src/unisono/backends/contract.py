"""The contract of backends: rules that every one of them keeps. `unisono.testing` gives it to others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisono.backends.base import Backend, Feed, Slot
from unisono.backends.top_logprobs import TopLogprobs

Rows = np.ndarray[Any, np.dtype[np.float32]]

UNTOLD = -1e4  # the logit of an id that a truncated backend does not tell


@dataclass(frozen=True)
class ContractCase:
    """The texts and the tolerance with which a backend is checked."""

    texts: tuple[tuple[int, ...], ...]
    """Three texts or more, as ids, of different lengths and with 6 tokens or more each. For a model with sliding-window
    layers, one has to be longer than the window."""
    tolerance: float
    """The largest total variation distance (0 to 1) between two distributions that should be equal. Real kernels choose
    the order of their sums by the shape of a batch, so it is not 0."""


def check_backend_contract(backend: Backend, case: ContractCase) -> None:
    """Check a backend against the contract of `unisono.backends.base`, and unload it.

    Args:
        backend: a freshly loaded backend with four slots or more, all free.
        case: the texts and the tolerance.

    Raises:
        AssertionError: a rule is broken; the message names it.
    """
    for rule, check in BACKEND_CONTRACT.items():
        try:
            check(backend, case)
        except AssertionError as error:
            raise AssertionError(f"{rule}: {error}") from error
    check_unload(backend)


def alone(backend: Backend, ids: Sequence[int], wanted: int = 1) -> Rows:
    """What a slot of its own gives for a text read in one block: the oracle of the contract."""
    slot = backend.open()
    logits_NV = _advance(backend, Feed(slot, ids, wanted))
    backend.close(slot)
    return logits_NV


def check_block(backend: Backend, case: ContractCase) -> None:
    """Reading a block is reading its tokens one by one."""
    for text in case.texts:
        ids, slot = text[:20], backend.open()
        single_NV = np.concatenate([_advance(backend, Feed(slot, [token])) for token in ids])
        backend.close(slot)
        _same(alone(backend, ids, len(ids)), single_NV, case, "a block and its tokens one by one")


def check_wanted(backend: Backend, case: ContractCase) -> None:
    """Any number of last positions can be asked for, none and all included."""
    ids = case.texts[0]
    all_NV = alone(backend, ids, len(ids))
    for wanted in (0, 1, 2, len(ids) - 1):
        _same(alone(backend, ids, wanted), all_NV[len(ids) - wanted :], case, f"the last {wanted} positions")
    _expect(_advance(backend).shape == (0, backend.facts.rows), "no feeds give no rows")


def check_joined(backend: Backend, case: ContractCase) -> None:
    """Slots that read together do not change each other; rows come in the feeds' order, then in reading order."""
    for texts in (case.texts[:3], case.texts[2::-1]):
        slots = [backend.open() for _ in texts]
        feeds = [Feed(slot, ids, 1 + n) for n, (slot, ids) in enumerate(zip(slots, texts, strict=True))]
        joined_NV = _advance(backend, *feeds)
        for slot in slots:
            backend.close(slot)
        each = [alone(backend, feed.ids, feed.wanted) for feed in feeds]
        _same(joined_NV, np.concatenate(each), case, "prompts in one pass and each alone")


def check_ragged(backend: Backend, case: ContractCase) -> None:
    """A prompt may join, and a block be caught up, while other slots read one token."""
    one, block, prompt = case.texts[:3]
    slots = [backend.open() for _ in range(3)]
    _advance(backend, Feed(slots[0], one[:-2]), Feed(slots[1], block[:-4], 0))
    rows = [
        _advance(backend, Feed(slots[0], one[-2:-1]), Feed(slots[1], block[-4:-1]), Feed(slots[2], prompt[:-1])),
        _advance(backend, Feed(slots[2], prompt[-1:]), Feed(slots[1], block[-1:]), Feed(slots[0], one[-1:])),
    ]
    for slot in slots:
        backend.close(slot)
    each = [alone(backend, ids, 2) for ids in (one, block, prompt)]
    _same(rows[0], np.stack([row_NV[0] for row_NV in each]), case, "a ragged pass and each alone")
    _same(rows[1], np.stack([row_NV[1] for row_NV in each[::-1]]), case, "the pass after it and each alone")


def check_rewind(backend: Backend, case: ContractCase) -> None:
    """What is rewound was never read, wherever the cut is, and other slots do not notice."""
    for text, other in zip(case.texts, case.texts[1:] + case.texts[:1], strict=True):
        slot, witness = backend.open(), backend.open()
        _advance(backend, Feed(slot, text, 0), Feed(witness, other[:-1], 0))
        new = other[: min(len(other) // 2 + 1, 24)]
        for length in sorted({len(text), len(text) - 1, len(text) // 2, 0}, reverse=True):
            backend.rewind(slot, length)
            if length + len(new) <= backend.facts.context:
                read_NV = _advance(backend, Feed(slot, new, 1))
                _same(read_NV, alone(backend, (*text[:length], *new)), case, f"read on after a rewind to {length}")
        last_NV = _advance(backend, Feed(witness, other[-1:]))
        _same(last_NV, alone(backend, other), case, "a slot beside one that was rewound")
        backend.close(slot)
        backend.close(witness)


def check_copy(backend: Backend, case: ContractCase) -> None:
    """A copy continues as its original would, and neither changes the other."""
    for text, other in zip(case.texts, case.texts[1:] + case.texts[:1], strict=True):
        kept, new, last = text[:-4], other[-4:-1], other[-1:]
        short = kept[: len(kept) // 2]
        text_NV = alone(backend, text)
        kept_NV, short_NV = (alone(backend, (*ids, *new, *last), 2) for ids in (kept, short))
        first = backend.open()
        _advance(backend, Feed(first, kept, 0))
        second = backend.open(first)
        third = backend.open(second)
        backend.rewind(second, len(short))
        read_NV = _advance(backend, Feed(third, new), Feed(first, text[-4:]), Feed(second, new))
        _same(read_NV, np.stack([kept_NV[0], text_NV[0], short_NV[0]]), case, "a copy, its original, one rewound")
        backend.close(first)
        fourth = backend.open(third)
        backend.close(third)
        fifth = backend.open(fourth)
        backend.rewind(fifth, 0)
        backend.close(fifth)
        read_NV = _advance(backend, Feed(second, last), Feed(fourth, last))
        _same(read_NV, np.stack([short_NV[1], kept_NV[1]]), case, "copies whose originals and copies are closed")
        backend.rewind(fourth, len(short))
        _same(_advance(backend, Feed(fourth, new)), short_NV[:1], case, "a copy rewound to before it was made")
        backend.close(second)
        backend.close(fourth)
    empty = backend.open()
    copy = backend.open(empty)
    _same(_advance(backend, Feed(copy, case.texts[0])), alone(backend, case.texts[0]), case, "a copy of an empty slot")
    backend.close(empty)
    backend.close(copy)


def check_reuse(backend: Backend, case: ContractCase) -> None:
    """A slot given back leaves no trace, and there are as many slots as the facts say."""
    ids = case.texts[0]
    fresh_NV = alone(backend, ids)
    slots = [backend.open() for _ in range(backend.facts.slots)]
    _expect(len(set(slots)) == len(slots), "open slots have different names")
    _raises(RuntimeError, backend.open, "opening more slots than there are")
    _raises(RuntimeError, lambda: backend.open(slots[0]), "copying a slot when all are taken")
    feeds = [Feed(slot, case.texts[n % len(case.texts)]) for n, slot in enumerate(slots)]
    _advance(backend, *feeds)
    for slot in slots[::2] + slots[1::2]:
        backend.close(slot)
    _same(alone(backend, ids), fresh_NV, case, "a slot that was used before")


def check_misuse(backend: Backend, case: ContractCase) -> None:
    """What breaks the waist's rules raises `ValueError`, and nothing is read."""
    ids, rows, context = case.texts[0], backend.facts.rows, backend.facts.context
    slot, closed = backend.open(), backend.open()
    backend.close(closed)
    _advance(backend, Feed(slot, ids[:-1], 0))
    good = Feed(slot, ids[-1:])
    for feeds, what in (
        ([Feed(slot, [])], "feeding nothing"),
        ([Feed(slot, [-1])], "feeding a negative id"),
        ([Feed(slot, [*ids, rows])], "feeding an id beyond the rows"),
        ([Feed(slot, ids[:2], 3)], "wanting more rows than tokens"),
        ([Feed(slot, ids[:2], -1)], "wanting fewer rows than none"),
        ([good, good], "feeding a slot twice"),
        ([good, Feed(closed, ids)], "feeding a closed slot"),
        ([good, Feed(Slot(backend.facts.slots), ids)], "feeding a slot that never was"),
        ([Feed(slot, [ids[0]] * context)], "feeding beyond the context"),
    ):
        _raises(ValueError, lambda feeds=feeds: backend.advance(feeds), what)  # type: ignore[misc]
    _raises(ValueError, lambda: backend.rewind(slot, len(ids)), "rewinding to what was not read")
    _raises(ValueError, lambda: backend.rewind(slot, -1), "rewinding to a negative length")
    _raises(ValueError, lambda: backend.rewind(closed, 0), "rewinding a closed slot")
    _raises(ValueError, lambda: backend.close(closed), "closing a closed slot")
    _raises(ValueError, lambda: backend.open(closed), "copying a closed slot")
    _same(_advance(backend, good), alone(backend, ids), case, "reading on after misuse")
    backend.close(slot)


def check_told(backend: Backend, case: ContractCase) -> None:
    """A truncated backend tells at least its k likeliest ids, more when it is asked again, and what it leaves out."""
    truncation = backend.facts.truncated
    if truncation is None:
        return
    slot, ids = backend.open(), case.texts[0]
    tops = dict.fromkeys((0, 1, truncation.top, min(10 * truncation.top, truncation.most), truncation.most))
    _advance(backend, Feed(slot, ids[:-1], 0))
    before: dict[int, float] = {}
    for top in sorted(tops):
        also = range(min(truncation.also, 3))
        for its_also in ((), also) if also else ((),):
            told = backend.advance([Feed(slot, ids[-1:], 1, top, its_also)])
            assert isinstance(told, TopLogprobs)
            row = dict(zip(told.ids_NK[0].tolist(), np.exp(told.logp_NK[0], dtype=np.float64).tolist(), strict=True))
            row.pop(-1, None)
            ranked = sorted(row.values(), reverse=True)
            _expect(len(row) >= (top or truncation.top), f"{top} ids asked for are told")
            _expect(row.keys() >= set(its_also), "ids asked for by number are told")
            _expect(
                abs(sum(ranked) + told.unseen_N[0] - 1) <= case.tolerance + told.slack + 1e-5,
                "what is told and what is not sum to 1",
            )
            kth, bound = told.kth_N[0], ranked[(top or truncation.top) - 1]
            _expect(abs(kth - bound) <= 1e-5 * bound + 1e-12, "the k-th probability is that of the k-th likeliest id")
            apart = max((abs(row[token] - before[token]) for token in row.keys() & before.keys()), default=0.0)
            _expect(apart <= case.tolerance + 1e-6, "an id has the same probability when more is told")
            before |= row
            backend.rewind(slot, len(ids) - 1)
    _raises(ValueError, lambda: backend.advance([Feed(slot, ids[-1:], 1, truncation.most + 1)]), "asking for too many")
    _same(_advance(backend, Feed(slot, ids[-1:])), alone(backend, ids), case, "reading on after asking again")
    backend.close(slot)


def check_unload(backend: Backend) -> None:
    """Unloading twice is unloading once, and an unloaded model is not used by mistake."""
    backend.unload()
    backend.unload()
    _raises(RuntimeError, backend.open, "opening a slot of an unloaded model")


_CHECKS = (
    *(check_block, check_wanted, check_joined, check_ragged),
    *(check_rewind, check_copy, check_reuse, check_misuse, check_told),
)
BACKEND_CONTRACT = {check.__name__.removeprefix("check_"): check for check in _CHECKS}
"""The rules by name, each a function of a backend and a case. Each leaves all slots free."""


def _advance(backend: Backend, *feeds: Feed) -> Rows:
    logits_NV = backend.advance(feeds)
    is_truncated = isinstance(logits_NV, TopLogprobs)
    _expect(is_truncated == (backend.facts.truncated is not None), "its facts tell whether it is truncated")
    if isinstance(logits_NV, TopLogprobs):
        logits_NV = _told_alone(logits_NV)
    host_NV = np.array(logits_NV.detach().cpu() if hasattr(logits_NV, "detach") else logits_NV)
    expected = (sum(feed.wanted for feed in feeds), backend.facts.rows)
    _expect(host_NV.shape == expected, f"logits have the shape {host_NV.shape}, expected is {expected}")
    _expect(host_NV.dtype == np.float32, f"logits are {host_NV.dtype}, expected is float32")
    return host_NV


def _told_alone(told: TopLogprobs) -> Rows:
    """Logits that give mass to the ids that are told and to no others."""
    logits_NV = np.full(told.shape, UNTOLD, np.float32)
    for logits_V, ids, logp in zip(logits_NV, told.ids_NK, told.logp_NK, strict=True):
        logits_V[ids[ids >= 0]] = np.maximum(logp[ids >= 0], UNTOLD)
    return logits_NV


def _same(left_NV: Rows, right_NV: Rows, case: ContractCase, what: str) -> None:
    _expect(left_NV.shape == right_NV.shape, f"{what}: {left_NV.shape} and {right_NV.shape}")
    apart = max(
        (total_variation(left_V, right_V) for left_V, right_V in zip(left_NV, right_NV, strict=True)), default=0
    )
    _expect(apart <= case.tolerance, f"{what} are {apart:.3g} apart, more than {case.tolerance:.3g}")


def total_variation(left_V: Rows, right_V: Rows) -> float:
    """The distance between the distributions of two rows of logits: 0 for equal ones, at most 1."""
    if np.array_equal(left_V, right_V):
        return 0.0
    left, right = (np.exp(row_V - row_V.max(), dtype=np.float64) for row_V in (left_V, right_V))
    return float(0.5 * np.abs(left / left.sum() - right / right.sum()).sum())


def _raises(kind: type[Exception], call: Callable[[], object], what: str) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{what} has to raise {kind.__name__}")


def _expect(truth: bool, what: str) -> None:
    if not truth:
        raise AssertionError(what)
