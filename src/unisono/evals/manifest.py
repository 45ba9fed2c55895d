"""The manifest of a run: everything needed to run it again."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import unisono
from unisono.config.ensemble import TunedOn
from unisono.evals.analysis import statistics
from unisono.evals.baselines.base import Baseline
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Kind, System, Task
from unisono.evals.systems import SEED as DRAWS_SEED
from unisono.evals.systems import to_json
from unisono.evals.tasks import definitions, may_hold
from unisono.identity import identity, sum_of

PACKAGES = (
    *("unisono", "lm-eval", "llama-cpp-python", "transformers", "torch", "tokenizers", "numpy"),
    *("datasets", "math-verify", "sympy"),
)
TASK = ("name", "metrics", "shots", "version", "source", "examples")


def make_manifest(
    pool: ModelPool,
    tasks: Sequence[Task],
    systems: Sequence[System],
    baselines: Sequence[Baseline],
    *,
    spec: str,
    chat: bool,
    tuned_on: Sequence[TunedOn] = (),
) -> dict[str, Any]:
    """Everything needed to run it again: spec, tasks, systems, versions, seeds, machine, hashes of data and models.

    `spec` is the text of the ensemble's file. Questions in `tuned_on` are left out where they can be recognised.
    """
    return {
        "spec": spec,
        "command": shlex.join(["unisono", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": _versions(),
        "machine": {
            "platform": platform.platform(terse=True),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "models": {member.spec.name: identity(member) for member in pool.prepared.members},
        "chat": chat,
        "seeds": {"draws": DRAWS_SEED, "examples": definitions.SEED, "intervals": statistics.SEED},
        "batch": pool.batch,
        "wave": pool.question_batch,
        "systems": [
            *map(to_json, systems),
            *({"name": each.name, "kind": Kind.BASELINE, "source": each.source} for each in baselines),
        ],
        "tasks": [{key: getattr(task, key) for key in TASK} for task in tasks],
        "tuned_on": [
            {**each.model_dump(), "may_be_asked": any(may_hold(task, each) for task in tasks)} for each in tuned_on
        ],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found | {"unisono's code": "sha256:" + sum_of(sorted(Path(unisono.__file__).parent.rglob("*.py")))}
