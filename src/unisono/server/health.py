"""Whether models work: what fails again and again makes the server not ready, until it works once more."""

from __future__ import annotations

FAILURES = 3
"""Requests one after the other that a model's failure ended."""


class Health:
    """Counts failures by model."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}

    def failed(self, model: str) -> None:
        """Note that a request failed, and not by its own fault or for lack of time."""
        self._failures[model] = self._failures.get(model, 0) + 1

    def wrote(self, model: str) -> None:
        """Note that a text came to its end."""
        self._failures.pop(model, None)

    @property
    def failing(self) -> list[str]:
        """The models that fail."""
        return [model for model, failures in self._failures.items() if failures >= FAILURES]

    @property
    def reason(self) -> str | None:
        """Why the server is not ready, if it is so."""
        return f"it fails again and again: {', '.join(self.failing)}" if self.failing else None
