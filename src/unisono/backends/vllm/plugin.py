"""What vLLM calls in each of its processes where unisono is installed (``vllm.general_plugins``)."""

from __future__ import annotations

import importlib
import logging

from unisono.backends.vllm.versions import SERIES, installed_version

log = logging.getLogger(__name__)


def register() -> None:
    """Let chunks of a step enter an engine together. Nothing is touched in a vLLM of another series."""
    found = installed_version() or ""
    if found != SERIES and not found.startswith(f"{SERIES}."):
        log.info("unisono: vLLM %s is left as it is; it is written for %s", found, SERIES)
        return
    importlib.import_module("unisono.backends.vllm.library").gather_groups()
