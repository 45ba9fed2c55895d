"""Gates: sweeps over their threshold, and the least ensembled gate that is as good as always ensembling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from unisono.evals.records import Kind
from unisono.evals.report.cells import TaskTable, compare
from unisono.evals.report.records import GateClaim, GatePoint, Sweep, SystemFacts, TaskFigures, as_plain

PARAMETERS = ("threshold", "n")


def sweeps_of(systems: Sequence[SystemFacts]) -> tuple[Sweep, ...]:
    """Groups of two or more systems that differ only in their gate's threshold (or its ``n``)."""
    groups: dict[str, dict[float, SystemFacts]] = {}
    for system in systems:
        if system.is_gated and (threshold := _threshold(system)) is not None:
            gate = {key: value for key, value in system.gate.items() if key not in PARAMETERS}
            groups.setdefault(_but(system, gate, system.lead), {}).setdefault(threshold, system)
    swept = [dict(sorted(group.items())) for group in groups.values() if len(group) > 1]
    first = [next(iter(group.values())) for group in swept]
    named = [(str(system.gate["kind"]), system.lead or "?") for system in first]
    return tuple(
        Sweep(
            f"lead {lead}" if named.count((kind, lead)) == 1 else system.name,
            kind,
            tuple(GatePoint(each.name, threshold) for threshold, each in group.items()),
        )
        for (kind, lead), system, group in zip(named, first, swept, strict=True)
    )


def claims_of(
    systems: Sequence[SystemFacts], tables: Sequence[TaskTable], tasks: Sequence[TaskFigures]
) -> list[GateClaim]:
    """A claim about each task, and about all when there are several, where gates can be compared."""
    always = _always(systems)
    gated = [system.name for system in systems if system.is_gated]
    if always is None or not gated:
        return []
    claims = [_claim(always.name, gated, table, task) for table, task in zip(tables, tasks, strict=True)]
    return [claim for claim in (*claims, _overall_claim(always.name, gated, tasks)) if claim is not None]


def _always(systems: Sequence[SystemFacts]) -> SystemFacts | None:
    """The system that gates are compared with: the ensemble, or its ungated variant; ``None`` when there is none."""
    ensemble = next((system for system in systems if system.kind == Kind.ENSEMBLE), None)
    if ensemble is None or not ensemble.is_gated:
        return ensemble
    alike = [
        system
        for system in systems
        if system.votes and not system.is_gated and _but(system, {}, None) == _but(ensemble, {}, None)
    ]
    return next(iter(alike), None)


def _claim(always: str, gated: Sequence[str], table: TaskTable, task: TaskFigures) -> GateClaim | None:
    """About the gate of the smallest ensembled share among those as good on a task as `always`, which has none."""
    if (reference := task.cell(always)) is None:
        return None
    cells = [cell for cell in map(task.cell, gated) if cell is not None and cell.share is not None]
    pairs = [(cell, compare(always, table.values(cell.system), table.values(always))) for cell in cells]
    compared = [(cell, comparison) for cell, comparison in pairs if comparison is not None]
    good = [(cell, comparison) for cell, comparison in compared if comparison.difference >= 0]
    claim = GateClaim(task.facts.name, always, len(compared))
    if not good:
        return claim if compared else None
    cell, comparison = min(good, key=lambda pair: pair[0].share or 0.0)  # the first of the smallest
    return replace(
        claim,
        system=cell.system,
        difference=comparison.difference,
        interval=comparison.interval,
        share=cell.share,
        ms_a_piece=cell.ms_a_piece,
        ms_always=reference.ms_a_piece,
    )


def _overall_claim(always: str, gated: Sequence[str], tasks: Sequence[TaskFigures]) -> GateClaim | None:
    """The same for unweighted means over all tasks, without gates that were asked less of some task."""
    asked = [task for task in tasks if task.cell(always) is not None]
    reference = _mean_of(always, asked)
    alike = [system for system in gated if all(_questions(task, system) == _questions(task, always) for task in asked)]
    means = {system: mean for system in alike if (mean := _mean_of(system, asked)) is not None}
    if len(asked) < 2 or reference is None or not means:
        return None
    accuracy, _, ms_always = reference
    good = [system for system, mean in means.items() if mean[0] >= accuracy]
    if not good:
        return GateClaim(None, always, len(means))
    best = min(good, key=lambda system: means[system][1])
    own, share, ms = means[best]
    return GateClaim(None, always, len(means), best, own - accuracy, None, share, ms, ms_always)


def _questions(task: TaskFigures, system: str) -> int:
    cell = task.cell(system)
    return cell.questions if cell else 0


def _mean_of(system: str, tasks: Sequence[TaskFigures]) -> tuple[float, float, float | None] | None:
    """Mean accuracy, share and ms per piece of a system over tasks; ``None`` when one of them lacks it."""
    cells = [task.cell(system) for task in tasks]
    known = [
        (cell.accuracy, cell.share, cell.ms_a_piece)
        for cell in cells
        if cell is not None and cell.accuracy is not None and cell.share is not None
    ]
    if not known or len(known) < len(cells):
        return None
    speeds = [ms for _, _, ms in known if ms is not None]
    return (
        fmean(accuracy for accuracy, _, _ in known),
        fmean(share for _, share, _ in known),
        fmean(speeds) if len(speeds) == len(known) else None,
    )


def _threshold(system: SystemFacts) -> float | None:
    return next((float(system.gate[key]) for key in PARAMETERS if system.gate.get(key) is not None), None)


def _but(system: SystemFacts, gate: Mapping[str, object], lead: str | None) -> str:
    """A system with another gate and lead, in words."""
    method = {**(system.method or {}), "gate": gate, "lead": lead}
    return json.dumps(as_plain([system.members, system.weights, method]), sort_keys=True)
