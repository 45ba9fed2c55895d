"""Ray on this machine, with fakes in its workers: `make test-engines` installs it, in a network of its own."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
import warnings
from pathlib import Path

TESTS = Path(__file__).parent.parent.parent
HERE = importlib.util.find_spec("ray") is not None and "UNISONO_ENGINES" in os.environ
collect_ignore_glob = [] if HERE else ["test_*.py"]

if HERE:  # before Ray is imported, which reads some of it once
    # What Ray keeps, tokens above all, is kept apart from the user's; the name is short because sockets lie there.
    home = tempfile.mkdtemp(prefix="ur", dir="/tmp")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= {
        "UNISONO_CACHE": os.environ.get("UNISONO_CACHE", str(Path("~/.cache/unisono").expanduser())),
        "HOME": home,
        "RAY_TMPDIR": home,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-of-these-tests-and-no-other",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else these wait for whatever else runs here
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns of what it will do without it
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic's, as Ray uses it
        importlib.import_module("ray.serve")
