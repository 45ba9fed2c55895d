"""The words of what `overall` finds: systems on all tasks together, beside each member alone."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.evals.report.phrases import NONE, SURELY_BETTER, SURELY_WORSE, chance, percent, points, span
from unisono.evals.report.records import Overall, OverTasks
from unisono.fusion.resampling import Interval


def caption(found: Overall, tasks: int) -> str:
    by = "The main metrics in %" if found.metric is None else "Nats a byte of the right answers, the less the better"
    of = "the tasks" if len(found.tasks) == tasks else ", ".join(found.tasks)
    return f"{by}: the mean of {of}, and the difference to each member"


def less(members: Sequence[str]) -> list[str]:
    return [f"less {name}" for name in members]


def mean(found: Overall, system: OverTasks) -> str:
    return percent(system.mean) if found.metric is None else f"{system.mean:.4f}"


def beside_members(found: Overall, system: OverTasks, members: Sequence[str]) -> list[str]:
    its = {each.member: each for each in system.beside}
    return [_apart(found, its[name].difference, its[name].interval) if name in its else NONE for name in members]


def beside_best(found: Overall, system: OverTasks) -> list[str]:
    """On each task, beside the member that is best on the whole."""
    its = next(each for each in system.beside if each.member == found.best_member)
    return [
        _apart(found, each.difference, each.interval) + ("" if each.p_holm is None else f", p {chance(each.p_holm)}")
        for each in its.tasks.values()
    ]


def _apart(found: Overall, difference: float, interval: Interval) -> str:
    """A difference with its interval, and a sign where it is sure."""
    if found.metric is None:
        sign = (SURELY_BETTER if difference > 0 else SURELY_WORSE) + " " if interval.excludes_zero else ""
        return f"{sign}{points(difference)} ({span(interval, signed=True)})"
    sign = (SURELY_BETTER if difference < 0 else SURELY_WORSE) + " " if interval.excludes_zero else ""
    return f"{sign}{difference:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"
