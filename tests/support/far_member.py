"""An ensemble of which one member is behind a stand-in of an engine, against the same members at home."""

from __future__ import annotations

from support.fakes import PROMPTS
from unisono import Ensemble


def check_writes_as_at_home(url: str, **keys: object) -> None:
    """Hold four texts of a batch to those of fakes that are registered, and let none be uncertain."""
    near = [{"name": name, "model": f"fake:{name}"} for name in "bc"]
    far = {"name": "a", "url": url, "tokenizer": "fake:a", **keys}
    with Ensemble.load({"members": [far, *near]}, batch=4) as ensemble:
        texts = ensemble.generate(PROMPTS[:4], max_new_tokens=12)
    with Ensemble.load({"members": [{"name": "a", "model": "fake:a"}, *near]}, batch=4) as ensemble:
        expected = ensemble.generate(PROMPTS[:4], max_new_tokens=12)
    assert [text.usage.uncertain for text in texts] == [0] * 4
    assert [text.text for text in texts] == [text.text for text in expected]
