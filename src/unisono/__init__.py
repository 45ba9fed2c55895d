"""Several large language models, with different tokenizers, write one text together.

Example::

    import unisono

    with unisono.Ensemble.load("duo.yaml") as duo:
        answer = duo.generate(messages=[{"role": "user", "content": "Why is the sky blue?"}])
        print(answer.text)
"""

from __future__ import annotations

from importlib.metadata import version

from unisono.diagnosis import Diagnosis, diagnose
from unisono.ensemble import Ensemble, Request, Stream
from unisono.errors import (
    BackendMissing,
    CacheError,
    DeviceError,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    ModelUnsupported,
    PromptError,
    SpecError,
    UnisonoError,
    VocabularyError,
)
from unisono.measure import Benchmark, measure
from unisono.spec import EnsembleSpec, MemberSpec, load_spec
from unisono.types import Finish, Generation, Limits, Message, Prompt, Seconds, StepRecord, Usage

__version__ = version("unisono")

__all__ = [
    "BackendMissing",
    "Benchmark",
    "CacheError",
    "DeviceError",
    "Diagnosis",
    "Ensemble",
    "EnsembleSpec",
    "Finish",
    "Generation",
    "Limits",
    "MemberSpec",
    "Message",
    "ModelCorrupt",
    "ModelError",
    "ModelNotFound",
    "ModelUnsupported",
    "Prompt",
    "PromptError",
    "Request",
    "Seconds",
    "SpecError",
    "StepRecord",
    "Stream",
    "UnisonoError",
    "Usage",
    "VocabularyError",
    "diagnose",
    "load_spec",
    "measure",
]
