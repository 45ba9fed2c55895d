"""What several files of laws begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.bytes_ensembles import make_tiny
from support.fakes import make_fakes
from unisono.backends.fake.backend import FAKE_MODELS


@pytest.fixture
def bytes_fakes() -> Iterator[None]:
    """The usual fakes, and the tiny ones that vote on bytes."""
    make_fakes()
    make_tiny()
    yield
    FAKE_MODELS.clear()
