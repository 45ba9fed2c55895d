"""A server with the OpenAI API; each optional library is imported in one file of it."""

from __future__ import annotations

import importlib.util

from unisono.errors import BackendMissing

LIBRARIES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "openai": "openai", "prometheus_client": "prometheus-client"}
"""The modules that the server needs, with the names of their packages."""


def check_libraries() -> None:
    """Check that the server's libraries are there. Raises a `BackendMissing` that says what to install."""
    missing = [package for module, package in LIBRARIES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise BackendMissing(
            f"the server needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint="pip install 'unisono[server]'",
        )
