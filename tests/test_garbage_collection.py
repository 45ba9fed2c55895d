"""The collection of garbage is paused, and goes on as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from unisono.garbage_collection import garbage_collection_paused


@pytest.fixture(autouse=True)
def on_again() -> Iterator[None]:
    yield
    gc.enable()


def test_it_is_paused_until_the_last_pause_ends() -> None:
    with garbage_collection_paused():
        with garbage_collection_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_a_failure() -> None:
    @garbage_collection_paused()
    def failing() -> None:
        assert not gc.isenabled()
        raise ValueError("of the work")

    for _ in range(2):
        with pytest.raises(ValueError, match="of the work"):
            failing()
        assert gc.isenabled()


def test_where_it_was_off_it_stays_off() -> None:
    gc.disable()
    with garbage_collection_paused():
        pass
    assert not gc.isenabled()
