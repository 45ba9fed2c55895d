"""Free memory goes back to the system when the server has grown."""

from __future__ import annotations

import subprocess
import sys

import pytest

from unisono.free_pages import GROWTH, FreePages


def test_pages_are_given_back_when_the_process_has_grown_since() -> None:
    sizes, given = iter([100, 90, 90 + GROWTH // 2, 80, 80 + GROWTH, 85, 85]), list[int]()

    def trim(padding: int) -> int:
        given.append(padding)
        return 1

    pages = FreePages(lambda: next(sizes), trim)
    assert [pages.give_back() for _ in range(4)] == [True, False, False, True]
    assert given == [0, 0]


def test_a_system_that_does_not_say_what_is_held_is_left_alone() -> None:
    assert not FreePages(lambda: None, lambda _: 1).give_back()


HELD_BY_ONE = """
import ctypes
from unisono.free_pages import FreePages, _held
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
places = [libc.malloc(60_000) for _ in range(2000)]
for place in places:
    ctypes.memset(ctypes.c_void_p(place), 1, 60_000)
for place in places[:-1]:
    libc.free(place)
before = _held()
assert FreePages().give_back()
print(before - _held())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_what_is_free_below_something_that_is_used_is_given_back() -> None:
    found = subprocess.run([sys.executable, "-c", HELD_BY_ONE], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 80e6
