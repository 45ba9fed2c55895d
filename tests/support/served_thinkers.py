"""A real server of the fakes that tell a story, and of fakes that reason before it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from support.fakes import make_fakes
from support.real_server import DUO, Served, serving
from support.thinkers import make_thinkers
from unisono.backends.fake.backend import FAKE_MODELS


@contextlib.contextmanager
def serving_thinkers() -> Iterator[Served]:
    """Serve ``duo``, and ``thinkers``: a member that reasons beside a plain one."""
    make_fakes()
    make_thinkers()
    thinkers = {"members": [{"name": name, "model": f"fake:{name}"} for name in "tp"]}
    with serving({**DUO, "thinkers": thinkers}) as server:
        yield server
    FAKE_MODELS.clear()
