"""The plots of a report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unisono.evals.records import Kind
from unisono.evals.report.escaping import short
from unisono.evals.report.phrases import comparisons, milliseconds, percent, points
from unisono.evals.report.plots import INK, LABELS, LINE, WIDTH, Drawing, Label, Picture, Pictures, style
from unisono.evals.report.records import Cell, Report, Sweep, TaskFigures

if TYPE_CHECKING:
    from unisono.evals.report.plots import Axes

BLUE, ORANGE, GREEN, PURPLE, OCHRE = "#3f7fc1", "#d55e00", "#009e73", "#b8669b", "#a87f00"
"""After Okabe and Ito (2008): colour-blind people can tell them apart, on any ground. No meaning is in colour alone."""
LEFT, BOTTOM, TOP = 0.6, 0.5, 0.3
"""Inches around a panel."""


@dataclass(frozen=True, slots=True)
class _Look:
    colour: str
    marker: str
    size: float


LOOKS = {
    Kind.MEMBER: _Look(BLUE, "o", 7),
    Kind.ENSEMBLE: _Look(ORANGE, "*", 13),
    Kind.VARIANT: _Look(GREEN, "s", 6),
    Kind.BASELINE: _Look(PURPLE, "^", 7),
}
_SWEPT = [
    (_Look(colour, marker, 5), dash)
    for colour, marker, dash in zip(
        (BLUE, GREEN, PURPLE, ORANGE, OCHRE), "osD^v", ("-", "--", ":", "-.", "-"), strict=True
    )
]


def draw(report: Report) -> Pictures:
    """All plots that are not empty: ``differences``; per task ``pareto``, ``reliability`` and ``gate:KIND``."""
    pictures: dict[tuple[str, str | None], Picture | None] = {}
    with style():
        pictures["differences", None] = _differences(report)
        for place, task in enumerate(report.tasks, 1):
            name = task.facts.name
            prefix = f"{place:02}-{re.sub('[^A-Za-z0-9_-]+', '-', name)[:40]}"
            pictures["pareto", name] = _pareto(report, task, prefix)
            pictures["reliability", name] = _reliability(report, task, prefix)
            for kind in dict.fromkeys(sweep.kind for sweep in report.sweeps):
                pictures[f"gate:{kind}", name] = _gates(report, task, kind, prefix)
    return {key: picture for key, picture in pictures.items() if picture is not None}


def _differences(report: Report) -> Picture | None:
    ensemble = next((system.name for system in report.of_kind(Kind.ENSEMBLE)), "")
    compared = comparisons(ensemble, report.tasks)
    if not compared:
        return None
    colour, rows = LOOKS[Kind.ENSEMBLE].colour, range(len(compared))
    drawing = Drawing(BOTTOM + TOP + 0.3 * len(compared))
    axes = drawing.panel(1.6, BOTTOM, WIDTH - 1.8, 0.3 * len(compared))
    axes.axvline(0, color=INK, linewidth=1)
    for row, (_, each) in enumerate(compared):
        ends = [100 * each.interval.low, 100 * each.interval.high]
        axes.plot(ends, [row, row], color=colour, linewidth=2, solid_capstyle="round")
        face = colour if each.is_sure else "none"
        axes.plot(100 * each.difference, row, "o", markersize=7, markerfacecolor=face, markeredgecolor=colour)
    axes.set_yticks(rows, [short(task, 20) for task, _ in compared])
    axes.set_ylim(len(compared) - 0.5, -0.5)
    axes.set_xlabel("points; 95 % interval; the dot is filled where the difference is sure")
    alt = "; ".join(f"{task}: {points(each.difference)}" for task, each in compared)
    return Picture("differences", f"{ensemble} less the best member of each task", alt, drawing.svg())


def _pareto(report: Report, task: TaskFigures, prefix: str) -> Picture | None:
    looks = {system.name: LOOKS[system.kind] for system in report.systems}
    places = {
        cell.system: (cell.ms_a_piece, 100 * cell.accuracy)
        for cell in task.cells
        if cell.ms_a_piece is not None and cell.accuracy is not None
    }
    if not places:
        return None
    height = max(2.7, LINE * (len(places) + 1))
    drawing = Drawing(BOTTOM + TOP + height)
    axes = drawing.panel(LEFT, BOTTOM, WIDTH - LEFT - LABELS, height)
    axes.plot(
        [places[system][0] for system in task.front],
        [places[system][1] for system in task.front],
        color=INK,
        linewidth=1.2,
        alpha=0.55,
        linestyle="--",
        drawstyle="steps-post",
    )
    for system, (ms, accuracy) in places.items():
        look = looks[system]
        axes.plot(
            ms, accuracy, look.marker, color=look.colour, markersize=look.size, markeredgecolor=INK, markeredgewidth=0.5
        )
    speeds = [ms for ms, _ in places.values()]
    if min(speeds) > 0 and max(speeds) > 20 * min(speeds):
        axes.set_xscale("log")
    axes.margins(0.09, 0.08)
    axes.set_xlabel("ms per piece")
    axes.set_ylabel(_metric(task))
    strong = LOOKS[Kind.ENSEMBLE]
    drawing.label(
        axes,
        [
            Label(ms, accuracy, system, looks[system].colour, looks[system] is strong)
            for system, (ms, accuracy) in places.items()
        ],
    )
    said = (f"{system}: {accuracy:.1f} at {milliseconds(ms)} ms" for system, (ms, accuracy) in places.items())
    front = f"On the dashed line, which no other system beats: {', '.join(task.front)}"
    title = f"{task.facts.name}: {_metric(task)} against ms per piece; no system beats those on the dashed line"
    return Picture(f"{prefix}-accuracy-and-time", title, f"{'; '.join(said)}. {front}", drawing.svg())


def _gates(report: Report, task: TaskFigures, kind: str, prefix: str) -> Picture | None:
    swept = [(sweep, _swept(sweep, task)) for sweep in report.sweeps if sweep.kind == kind]
    swept = [(sweep, cells) for sweep, cells in swept if len(cells) > 1]
    if not swept:
        return None
    height, gap, labels = 2.2, 0.75, 1.5
    width = (WIDTH - LEFT - gap - labels) / 2
    drawing = Drawing(BOTTOM + TOP + height)
    share, accuracy = (drawing.panel(left, BOTTOM, width, height) for left in (LEFT, LEFT + width + gap))
    ends, said = [], []
    for place, (sweep, cells) in enumerate(swept):
        look, dash = _SWEPT[place % len(_SWEPT)]
        thresholds = [threshold for threshold, _ in cells]
        shares = [100 * (cell.share or 0) for _, cell in cells]
        right = [100 * (cell.accuracy or 0) for _, cell in cells]
        for axes, values in ((share, shares), (accuracy, right)):
            axes.plot(thresholds, values, color=look.colour, marker=look.marker, markersize=look.size, linestyle=dash)
        ends.append(Label(thresholds[-1], right[-1], short(sweep.label, 22), look.colour))
        steps = (f"{threshold:g}: {percent(cell.accuracy)}, {percent(cell.share)}" for threshold, cell in cells)
        said.append(f"{sweep.label}, by threshold {_metric(task)} and share: {'; '.join(steps)}")
    accuracy.set_ylabel(_metric(task))
    share.set_ylabel("% of pieces ensembled")
    share.set_ylim(-4, 104)
    for axes in (accuracy, share):
        axes.set_xlabel(f"threshold of {kind}")
    said += _reference(report, task, accuracy)
    drawing.label(accuracy, ends)
    measured = f"the share of pieces ensembled, and {_metric(task)}"
    title = f"{task.facts.name}: {measured}, by the threshold of {kind}; dotted: the ensemble"
    return Picture(f"{prefix}-gate-{kind}", title, ". ".join(said), drawing.svg())


def _reference(report: Report, task: TaskFigures, axes: Axes) -> list[str]:
    ensemble = next((task.cell(system.name) for system in report.of_kind(Kind.ENSEMBLE)), None)
    if ensemble is None or ensemble.accuracy is None:
        return []
    axes.axhline(100 * ensemble.accuracy, color=INK, alpha=0.6, linewidth=1, linestyle=(0, (1, 2)))
    return [f"Dotted: {ensemble.system}, {percent(ensemble.accuracy)}"]


def _swept(sweep: Sweep, task: TaskFigures) -> list[tuple[float, Cell]]:
    cells = [(point.threshold, task.cell(point.system)) for point in sweep.points]
    return [
        (threshold, cell)
        for threshold, cell in cells
        if cell is not None and cell.accuracy is not None and cell.share is not None
    ]


def _reliability(report: Report, task: TaskFigures, prefix: str) -> Picture | None:
    kinds = {system.name: system.kind for system in report.systems if system.kind in (Kind.MEMBER, Kind.ENSEMBLE)}
    shown = [(cell.system, cell.calibration) for cell in task.cells if cell.system in kinds and cell.calibration]
    if not shown:
        return None
    across, side, step, row_step = 4, 1.3, 1.66, 1.95
    down = -(-len(shown) // across)
    height = down * row_step + 0.2
    drawing = Drawing(height)
    for place, (system, found) in enumerate(shown):
        row, column = divmod(place, across)
        axes = drawing.panel(LEFT + column * step, height - (row + 1) * row_step + 0.3, side, side)
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, linewidth=1, linestyle="--")
        colour, largest = LOOKS[kinds[system]].colour, max(each.count for each in found.bins)
        axes.plot(
            [each.confidence for each in found.bins], [each.accuracy for each in found.bins], color=colour, alpha=0.7
        )
        for each in found.bins:
            size = 3 + 6 * (each.count / largest) ** 0.5
            axes.plot(each.confidence, each.accuracy, "o", color=colour, markersize=size, clip_on=False)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axes.set_title(f"{short(system, 12)}, ECE {percent(found.ece)} %")
        if column == 0:
            axes.set_ylabel("right")
        if place + across >= len(shown):
            axes.set_xlabel("confidence")
    said = (f"{system}: expected calibration error {percent(found.ece)} %" for system, found in shown)
    title = f"{task.facts.name}: the share of right answers by confidence, in 15 bins; larger dots for more answers"
    return Picture(f"{prefix}-reliability", title, "; ".join(said), drawing.svg())


def _metric(task: TaskFigures) -> str:
    return f"{short(task.facts.metrics[0])}, %"
