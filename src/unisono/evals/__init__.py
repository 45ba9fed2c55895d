"""Evaluation: whether, where and by how much an ensemble beats its members."""

from __future__ import annotations

import importlib.util

from unisono.errors import BackendMissing


def check_installed(what: str, *libraries: str) -> None:
    """Raises `BackendMissing`, which says what to install, when a library is missing."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise BackendMissing(
                f"{what} needs {library}, which is not installed", hint="install it: pip install 'unisono[evals]'"
            )
