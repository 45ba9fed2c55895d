"""Several large language models, with different tokenizers, write one text together.

Example::

    import unisono

    with unisono.Ensemble.load("duo.yaml") as duo:
        answer = duo.generate(messages=[{"role": "user", "content": "Why is the sky blue?"}])
        print(answer.text)

`unisono.types` has the other records, `unisono.tools` the calls of tools, `unisono.errors` the errors and
`unisono.testing` what tests need.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unisono.async_ensemble import AsyncEnsemble
    from unisono.benchmark import measure
    from unisono.chat.messages import Prompt
    from unisono.config.ensemble import EnsembleSpec, load_spec
    from unisono.config.method import Method
    from unisono.config.sampling import Sampling
    from unisono.diagnosis import diagnose
    from unisono.engine.client import Stream
    from unisono.engine.request import Request
    from unisono.ensemble import Ensemble
    from unisono.errors import UnisonoError
    from unisono.records import Generation, Limits, Score, StepRecord

__all__ = [
    "AsyncEnsemble",
    "Ensemble",
    "EnsembleSpec",
    "Generation",
    "Limits",
    "Method",
    "Prompt",
    "Request",
    "Sampling",
    "Score",
    "StepRecord",
    "Stream",
    "UnisonoError",
    "diagnose",
    "load_spec",
    "measure",
]

_HOMES = {
    "AsyncEnsemble": "async_ensemble",
    "Ensemble": "ensemble",
    "EnsembleSpec": "config.ensemble",
    "Generation": "records",
    "Limits": "records",
    "Method": "config.method",
    "Prompt": "chat.messages",
    "Request": "engine.request",
    "Sampling": "config.sampling",
    "Score": "records",
    "StepRecord": "records",
    "Stream": "engine.client",
    "UnisonoError": "errors",
    "diagnose": "diagnosis",
    "load_spec": "config.ensemble",
    "measure": "benchmark",
}
"""Where the public names live. They are imported when first used: the command line's help needs none."""

_MOVED = {
    "types": (
        "Benchmark Combine Constraint Diagnosis DraftRecord Finish FunctionCall FunctionTool Gate GateReading "
        "MemberSpec Message PieceScore Seconds Speculation StepSeconds Tool ToolCall Usage"
    ),
    "tools": "CallFinder CallForm call_grammar find_calls",
    "errors": (
        "BackendMissing CacheError DeviceError ModelCorrupt ModelError ModelNotFound ModelUnsupported PromptError "
        "SpecError VocabularyError"
    ),
}
"""Names that used to be here, by the module that has them now."""
_RENAMED = {"Draw": ("config.sampling", "Sampling"), "NoRoom": ("errors", "CapacityError")}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("unisono")
    if name in _HOMES:
        return getattr(importlib.import_module(f"unisono.{_HOMES[name]}"), name)
    moved = next((home for home, names in _MOVED.items() if name in names.split()), "")
    home, new = _RENAMED.get(name, (moved, name))
    if not home:
        raise AttributeError(f"module 'unisono' has no attribute {name!r}")
    public = "unisono" if new in __all__ else f"unisono.{home}"
    warnings.warn(f"unisono.{name} is now {public}.{new}", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(f"unisono.{home}"), new)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
