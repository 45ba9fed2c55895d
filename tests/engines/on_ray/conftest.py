"""Ray on this machine, with fakes in its workers: `make test-engines` installs it, in a network of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
HERE = importlib.util.find_spec("ray") is not None and "UNISONO_ENGINES" in os.environ
collect_ignore_glob = [] if HERE else ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def own_home() -> Iterator[None]:
    """What Ray keeps, tokens above all, is kept apart from the user's, and short: sockets lie there."""
    home = tempfile.mkdtemp(prefix="ur", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        cache = os.environ.get("UNISONO_CACHE") or Path("~/.cache/unisono").expanduser()
        patch.setenv("UNISONO_CACHE", str(cache))
        patch.setenv("HOME", home)
        patch.setenv("RAY_TMPDIR", home)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "a-token-of-these-tests-and-no-other")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        tests = FOLDER.parent.parent
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tests.parent / "src"), str(tests)]))
        yield
    shutil.rmtree(home, ignore_errors=True)
