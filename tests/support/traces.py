"""Steps of traces as the page gets them."""

from __future__ import annotations

from typing import Any

ABOUT = {
    "version": 2,
    "members": [{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.5}],
    "lead": "a",
    "gate": {"kind": "always", "parameter": None, "boundary": False},
    "prompt": "Say <b>it</b>",
}


def step(piece: bytes | None, **more: Any) -> dict[str, Any]:
    its = None if piece is None else list(piece)
    top = [{"bytes": its, "p": 0.5}, {"bytes": list(b"</script>"), "p": 0.25}]
    told = {"bytes": its, "p": 0.5, "voted": ["a", "b"], "members": {"a": 0.5, "b": 0.5}, "top": {"a": top, "b": top}}
    return {**told, "likeliest": top, "kind": "agreed", "winners": ["a", "b"], "entropy": 1.0, "variation": 0.1, **more}
