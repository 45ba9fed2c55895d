"""Several large language models, with different tokenizers, write one text together.

Example::

    import unisono

    with unisono.Ensemble.load("duo.yaml") as duo:
        answer = duo.generate(messages=[{"role": "user", "content": "Why is the sky blue?"}])
        print(answer.text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unisono.benchmark import Benchmark, measure
    from unisono.constraint import Constraint
    from unisono.conversation import FunctionCall, FunctionTool, Message, Tool, ToolCall
    from unisono.diagnosis import Diagnosis, diagnose
    from unisono.engine.method import Method, Speculation
    from unisono.ensemble import Ensemble
    from unisono.errors import (
        BackendMissing,
        CacheError,
        DeviceError,
        ModelCorrupt,
        ModelError,
        ModelNotFound,
        ModelUnsupported,
        NoRoom,
        PromptError,
        SpecError,
        UnisonoError,
        VocabularyError,
    )
    from unisono.fusion.combine import Combine
    from unisono.fusion.draw import Draw
    from unisono.fusion.gate import Gate
    from unisono.member_spec import MemberSpec
    from unisono.request import Request
    from unisono.spec import EnsembleSpec, load_spec
    from unisono.stream import Stream
    from unisono.types import (
        DraftRecord,
        Finish,
        GateReading,
        Generation,
        Limits,
        PieceScore,
        Prompt,
        Score,
        Seconds,
        StepRecord,
        StepSeconds,
        Usage,
    )
    from unisono.vocab.call_form import CallForm
    from unisono.vocab.call_grammar import call_grammar
    from unisono.vocab.calls import CallFinder, find_calls

__all__ = [
    "BackendMissing",
    "Benchmark",
    "CacheError",
    "CallFinder",
    "CallForm",
    "Combine",
    "Constraint",
    "DeviceError",
    "Diagnosis",
    "DraftRecord",
    "Draw",
    "Ensemble",
    "EnsembleSpec",
    "Finish",
    "FunctionCall",
    "FunctionTool",
    "Gate",
    "GateReading",
    "Generation",
    "Limits",
    "MemberSpec",
    "Message",
    "Method",
    "ModelCorrupt",
    "ModelError",
    "ModelNotFound",
    "ModelUnsupported",
    "NoRoom",
    "PieceScore",
    "Prompt",
    "PromptError",
    "Request",
    "Score",
    "Seconds",
    "SpecError",
    "Speculation",
    "StepRecord",
    "StepSeconds",
    "Stream",
    "Tool",
    "ToolCall",
    "UnisonoError",
    "Usage",
    "VocabularyError",
    "call_grammar",
    "diagnose",
    "find_calls",
    "load_spec",
    "measure",
]

_HOMES = {
    "benchmark": ("Benchmark", "measure"),
    "conversation": ("FunctionCall", "FunctionTool", "Message", "Tool", "ToolCall"),
    "diagnosis": ("Diagnosis", "diagnose"),
    "constraint": ("Constraint",),
    "engine.method": ("Method", "Speculation"),
    "ensemble": ("Ensemble",),
    "request": ("Request",),
    "fusion.combine": ("Combine",),
    "fusion.draw": ("Draw",),
    "fusion.gate": ("Gate",),
    "member_spec": ("MemberSpec",),
    "stream": ("Stream",),
    "spec": ("EnsembleSpec", "load_spec"),
    "types": (
        "DraftRecord",
        "Finish",
        "GateReading",
        "Generation",
        "Limits",
        "PieceScore",
        "Prompt",
        "Score",
        "Seconds",
        "StepRecord",
        "StepSeconds",
        "Usage",
    ),
    "vocab.call_form": ("CallForm",),
    "vocab.call_grammar": ("call_grammar",),
    "vocab.calls": ("CallFinder", "find_calls"),
}
"""Where the public names live, but for the errors. They are imported when first used: the command
line's help needs none."""


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("unisono")
    if name not in __all__:
        raise AttributeError(f"module 'unisono' has no attribute {name!r}")
    home = next((home for home, names in _HOMES.items() if name in names), "errors")
    return getattr(importlib.import_module(f"unisono.{home}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
