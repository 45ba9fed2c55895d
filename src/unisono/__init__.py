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
    from unisono.async_ensemble import AsyncEnsemble as AsyncEnsemble
    from unisono.benchmark import measure as measure
    from unisono.chat.messages import Prompt as Prompt
    from unisono.config.ensemble import EnsembleSpec as EnsembleSpec
    from unisono.config.ensemble import load_spec as load_spec
    from unisono.config.method import Method as Method
    from unisono.config.sampling import Sampling as Sampling
    from unisono.diagnosis import diagnose as diagnose
    from unisono.engine.client import Stream as Stream
    from unisono.engine.request import Request as Request
    from unisono.ensemble import Ensemble as Ensemble
    from unisono.errors import UnisonoError as UnisonoError
    from unisono.records import Generation as Generation
    from unisono.records import Limits as Limits
    from unisono.records import Score as Score
    from unisono.step_records import StepRecord as StepRecord

_HOMES = {
    "async_ensemble": "AsyncEnsemble",
    "ensemble": "Ensemble",
    "config.ensemble": "EnsembleSpec load_spec",
    "records": "Generation Limits Score",
    "step_records": "StepRecord",
    "config.method": "Method",
    "chat.messages": "Prompt",
    "engine.request": "Request",
    "config.sampling": "Sampling",
    "engine.client": "Stream",
    "errors": "UnisonoError",
    "diagnosis": "diagnose",
    "benchmark": "measure",
}
"""The public names, by module. They are imported when first used: the command line's help needs none."""
__all__ = sorted(name for names in _HOMES.values() for name in names.split())

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
    if home := _home(name, _HOMES):
        return getattr(importlib.import_module(f"unisono.{home}"), name)
    home, new = _RENAMED.get(name, (_home(name, _MOVED), name))
    if not home:
        raise AttributeError(f"module 'unisono' has no attribute {name!r}")
    public = "unisono" if new in __all__ else f"unisono.{home}"
    warnings.warn(f"unisono.{name} is now {public}.{new}", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(f"unisono.{home}"), new)


def _home(name: str, homes: dict[str, str]) -> str:
    return next((home for home, names in homes.items() if name in names.split()), "")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
