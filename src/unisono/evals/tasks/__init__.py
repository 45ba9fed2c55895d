"""Tasks: questions asked and graded by lm-evaluation-harness's definitions, from files or from the hub."""

from __future__ import annotations

from unisono.evals.tasks.loading import load_lm_eval, load_tasks, may_hold

__all__ = ["load_lm_eval", "load_tasks", "may_hold"]
