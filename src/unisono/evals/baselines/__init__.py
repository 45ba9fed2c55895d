"""Ways to combine whole answers of the members, to see what combining tokens is worth beside them.

A baseline works in two parts. `Baseline.gather` runs models about one question, and what it finds (its evidence) is
kept with the answers, so that a run can go on after it was killed. `Baseline.decide` runs none: from all questions'
evidence it chooses, for each, one of the members' answers.
"""

from unisono.evals.baselines.base import Baseline, Case, Choice

__all__ = ["Baseline", "Case", "Choice"]
