"""The report: its figures are those by hand, it says the same in three forms, and no answer can do anything in it."""

from __future__ import annotations

import html.parser
import importlib.util
import json
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.config.method import Method
from unisono.errors import BackendMissing, SpecError
from unisono.evals.records import Answer, Disagreement, Results, Times
from unisono.evals.report import check_plots, check_report, figures, write_report
from unisono.evals.report.escaping import cut, one_line, visible
from unisono.evals.report.page import HTML, MARKDOWN, environment, render_content
from unisono.evals.report.phrases import chance, confidence, points
from unisono.evals.report.plots import spread
from unisono.evals.report.sentences import claim

needs_plots = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
HOSTILE = "<script>alert(1)</script> | `x` \x1b[31m \u202eevil\u202c ![x](http://a.b) $x$ ]]> <!-- \n# no heading"
GATE = Method(lead="a", gate="confidence:0.5")
WIDE = Method(lead="a", gate="confidence:0.9")


def system(name: str, kind: str, method: Method | None = None) -> dict[str, Any]:
    members = [name] if kind == "member" else ["a", "b"]
    return {"name": name, "kind": kind, "members": members, "method": method.to_json() if method else None}


SYSTEMS = [
    system("a", "member", Method()),
    system("b", "member", Method()),
    system("ensemble", "ensemble", Method()),
    system("gate 0.5", "variant", GATE),
    system("gate 0.9", "variant", WIDE),
    {"name": "vote", "kind": "baseline", "members": ["a", "b"], "method": None, "source": "somebody, 2023"},
]
RIGHT = {"a": "1100", "b": "1110", "ensemble": "1101", "gate 0.5": "1101", "gate 0.9": "1111", "vote": "1100"}
ENSEMBLED = {"ensemble": 10, "gate 0.5": 2, "gate 0.9": 5}


def answered(name: str, place: int, right: bool, text: str = "so it is") -> Answer:
    disputes = (Disagreement(3, "", 0.6, {"a": (" x", 0.5), "b": ("", 0.7)}),) if name == "ensemble" else ()
    metrics = {"exact_match": float(right), "other": 0.25}
    return Answer(
        "math",
        f"q{place}",
        name,
        metrics,
        str(place),
        text,
        (),
        10,
        ENSEMBLED.get(name, 0),
        (0.5, 0.5),
        disputes,
        "end",
    )


def small() -> Results:
    """Four questions, six systems; all that is in it can be counted by hand."""
    answers = [
        answered(name, place, digit == "1") for name, marks in RIGHT.items() for place, digit in enumerate(marks)
    ]
    times = [
        Times("math", f"q{place}", name, 2.0, 0.1 * (place + 1), 10)
        for name in ("a", "b", *ENSEMBLED)
        for place in range(4)
    ]
    task = {"name": "math", "metrics": ["exact_match", "other"], "shots": 2, "version": "3.0", "source": "math.jsonl"}
    about = {
        "seeds": {"intervals": 0},
        "command": "unisono eval duo.yaml",
        "earlier": [{"command": "unisono eval before", "date": "2026-01-01", "versions": {"unisono": "0"}}],
        "systems": SYSTEMS,
        "models": {"a": {"sha256": "aa"}, "b": {"sha256": "bb"}},
        "tasks": [{**task, "questions": ["q0", "q1", "q2", "q3"]}],
        "examples": {"math": {f"q{place}": {"prompt": f"What is {place}?", "target": "it"} for place in range(4)}},
        "further": {"key": [1, 2]},
    }
    return Results(about, answers, times)


def scored(values: dict[str, list[Iterable[float]]]) -> Results:
    """Choices of the task ``arc``, by system the log-probabilities at each question, the first choice being right."""
    answers = [
        Answer("arc", f"q{place}", name, {"acc": float(max(row) == row[0])}, "A", None, tuple(row))
        for name, rows in values.items()
        for place, row in enumerate(map(list, rows))
    ]
    return Results({}, answers)


def test_accuracy_share_and_times_are_those_by_hand() -> None:
    [task] = figures(small()).tasks
    gate, a = task.cell("gate 0.5"), task.cell("a")
    assert gate is not None
    assert a is not None
    assert (a.accuracy, gate.accuracy, gate.questions, gate.failed) == (0.5, 0.75, 4, 0)
    assert gate.metrics == {"exact_match": 0.75, "other": 0.25}
    assert (gate.share, gate.pieces) == (0.2, 40)
    assert gate.ms_a_piece == pytest.approx(1000 * (0.1 + 0.2 + 0.3 + 0.4) / 40)
    assert (gate.median_ms_a_piece, gate.ms_a_question) == (pytest.approx(25), 2000)
    assert gate.confidence == pytest.approx(0.5)
    assert gate.calibration is not None
    assert gate.calibration.ece == pytest.approx(0.25)


def test_comparisons_are_with_the_best_member_on_the_same_questions() -> None:
    [task] = figures(small()).tasks
    assert (task.best_member, task.shared) == ("b", 4)
    ensemble, best = task.cell("ensemble"), task.cell("b")
    assert ensemble is not None
    assert best is not None
    assert best.comparison is None
    compared = ensemble.comparison
    assert compared is not None
    assert (compared.other, compared.difference, compared.better, compared.worse, compared.p) == ("b", 0, 1, 1, 1)
    assert compared.interval.low == -compared.interval.high == -0.75
    assert all(cell.comparison.p_holm == 1 for cell in task.cells if cell.comparison)


def test_the_best_member_is_chosen_on_questions_that_all_members_share() -> None:
    results = small()
    kept = [each for each in results.answers if not (each.system == "b" and each.question == "q2")]
    [task] = figures(replace(results, answers=kept)).tasks
    assert (task.best_member, task.shared) == ("a", 3)  # 2 of 3 each, and a comes first
    more = [each for each in kept if not (each.system == "a" and each.question == "q0")]
    [task] = figures(replace(results, answers=more)).tasks
    assert (task.best_member, task.shared) == ("a", 2)
    ensemble = task.cell("ensemble")
    assert ensemble is not None
    assert ensemble.comparison is not None
    assert ensemble.comparison.questions == 3


def test_the_best_gate_is_the_one_that_asks_least_and_is_no_worse_than_always() -> None:
    report = figures(small())
    [found] = report.gate_claims
    assert (found.always, found.system, found.gates, found.share, found.difference) == (
        "ensemble",
        "gate 0.5",
        2,
        0.2,
        0,
    )
    assert "20.0 % of the pieces" in claim(found)
    [sweep] = report.sweeps
    assert [(point.system, point.threshold) for point in sweep.points] == [("gate 0.5", 0.5), ("gate 0.9", 0.9)]


def test_where_every_gate_is_worse_the_report_says_so() -> None:
    results = small()
    worse = [
        replace(each, metrics={"exact_match": 0.0, "other": 0}) if each.system.startswith("gate") else each
        for each in results.answers
    ]
    [found] = figures(replace(results, answers=worse)).gate_claims
    assert found.system is None
    assert claim(found) == "On math, each of the 2 gates is less accurate than ensemble, which asks always."


def test_an_ensemble_with_a_gate_is_no_reference_for_gates_but_its_ungated_twin_is() -> None:
    results = small()
    changed = [{**each, "method": GATE.to_json()} if each["name"] == "ensemble" else each for each in SYSTEMS]
    assert figures(replace(results, about={**results.about, "systems": changed})).gate_claims == ()
    twin = [*changed[:4], system("gate 0.9", "variant", Method()), changed[5]]
    [found] = figures(replace(results, about={**results.about, "systems": twin})).gate_claims
    assert found.always == "gate 0.9"


def test_repaired_and_spoiled_answers_are_those_that_ensemble_and_best_member_do_not_share() -> None:
    [task] = figures(small()).tasks
    assert [each.question for each in task.repaired] == ["q3"]
    assert [each.question for each in task.spoiled] == ["q2"]
    assert (task.repaired[0].members_right, task.spoiled[0].members_right) == ((), ("b",))
    assert task.repaired[0].prompt == "What is 3?"


def test_at_most_five_examples_of_a_kind_are_kept_and_all_are_counted() -> None:
    values = {"a": [(-2.0, -1.0)] * 8, "ensemble": [(-1.0, -2.0)] * 8}
    results = replace(scored(values), about={"models": {"a": {}}})
    [task] = figures(results).tasks
    assert [each.question for each in task.repaired] == ["q0", "q1", "q2", "q3", "q4"]
    assert task.repaired_in_all == 8


def test_the_ensemble_is_held_against_each_baseline() -> None:
    [task] = figures(small()).tasks
    [(name, compared)] = task.against_baselines
    assert (name, compared.difference, compared.better, compared.worse) == ("vote", 0.25, 1, 0)


@needs_plots
def test_times_are_compared_only_where_they_were_taken_side_by_side(tmp_path: Path) -> None:
    results = small()
    later = [
        replace(each, wave=int(each.system == "gate 0.5") if each.question != "q3" else 4) for each in results.times
    ]
    later.append(Times("math", "q0", "vote", 2.0, 0.1, 10, wave=2))
    report = write_report(Results(results.about, results.answers, later), tmp_path)
    [task] = report.tasks
    cells = {cell.system: cell for cell in task.cells}
    assert cells["gate 0.5"].ms_a_piece == pytest.approx(40), "only the last question was asked together with others"
    assert cells["gate 0.9"].ms_a_piece == pytest.approx(25)
    assert (cells["vote"].ms_a_piece, "vote" in task.front) == (None, False)
    assert task.apart == {"gate 0.5": 3, "vote": 1}
    assert "left out of the times: 3 of gate 0.5, 1 of vote." in (tmp_path / "report.md").read_text().replace("\\", "")


@needs_plots
def test_who_was_asked_less_is_held_against_others_on_that_and_says_how_much(tmp_path: Path) -> None:
    results = small()
    few = [answer for answer in results.answers if answer.system != "vote" or answer.question in ("q0", "q2", "q3")]
    write_report(Results(results.about, few, results.times), tmp_path)
    shown = (tmp_path / "report.md").read_text().replace("\\", "")
    assert "| vote | baseline | 33.3 of 3 ▽ −33.3 |" in shown
    assert "| vote | math | 33.3 | 6.1 to 79.2 | 66.7 | △ +33.3 |" in shown
    assert "| **ensemble** | **ensemble** | **75.0 =** |" in shown


def test_who_was_asked_less_of_a_task_is_on_no_line_and_makes_no_claim_over_all() -> None:
    first = small()
    second = [replace(each, task="logic") for each in first.answers]
    times = [*first.times, *(replace(each, task="logic") for each in first.times)]
    about = {**first.about, "tasks": [*first.about["tasks"], {**first.about["tasks"][0], "name": "logic"}]}
    whole = figures(Results(about, [*first.answers, *second], times))
    assert [(claim.task, claim.system, claim.gates) for claim in whole.gate_claims][-1] == (None, "gate 0.5", 2)
    assert [task.front for task in whole.tasks] == [("gate 0.9",), ("gate 0.9",)]
    kept = [each for each in second if each.system not in ("gate 0.5", "gate 0.9") or each.question == "q0"]
    part = figures(Results(about, [*first.answers, *kept], times))
    assert [claim.task for claim in part.gate_claims] == ["math", "logic"]
    assert [task.front for task in part.tasks] == [("gate 0.9",), ("b", "ensemble")]


def test_a_confidence_that_is_known_within_bounds_is_a_range_and_has_no_calibration_error(tmp_path: Path) -> None:
    results = small()
    answers = [replace(each, at_most=(0.5, 0.98)) if each.system == "ensemble" else each for each in results.answers]
    [task] = figures(replace(results, answers=answers)).tasks
    ensemble, gate = task.cell("ensemble"), task.cell("gate 0.5")
    assert ensemble is not None
    assert gate is not None
    assert (ensemble.confidence, ensemble.confidence_most) == (pytest.approx(0.5), pytest.approx(0.7))
    assert (ensemble.calibration, gate.confidence_most) == (None, None)
    assert [confidence(cell) for cell in (ensemble, gate)] == ["50.0 to 70.0", "50.0"]
    assert Answer.from_json(answers[8].to_json()) == answers[8]


def test_a_baseline_is_as_sure_as_it_says() -> None:
    first = small()
    answers = [replace(each, p=(), sure=0.75) if each.system == "vote" else each for each in first.answers]
    [task] = figures(replace(first, answers=answers)).tasks
    vote = task.cell("vote")
    assert vote is not None
    assert vote.confidence == 0.75
    assert vote.calibration is not None
    assert vote.calibration.ece == pytest.approx(0.25)


def test_failures_count_as_wrong_and_are_told() -> None:
    results = small()
    failed = [
        replace(each, metrics={}, error="too long") if each.system == "a" and each.question == "q0" else each
        for each in results.answers
    ]
    [task] = figures(replace(results, answers=failed)).tasks
    cell = task.cell("a")
    assert cell is not None
    assert (cell.accuracy, cell.failed, cell.questions) == (0.25, 1, 4)
    assert task.failures == {"a: too long": 1}


def test_a_question_answered_twice_is_refused() -> None:
    results = small()
    with pytest.raises(SpecError, match="'q0' of math twice"):
        figures(replace(results, answers=[*results.answers, results.answers[0]]))


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"b": "000000", "ensemble": "111111"}, "On its one task the ensemble is surely better than its best member"),
        ({"b": "111111", "ensemble": "000000"}, "On its one task the ensemble is surely worse than its best member"),
        (
            {"b": "0000", "ensemble": "1111"},  # the bootstrap alone would be sure
            "On its one task the ensemble is better than its best member, but not surely",
        ),
        (
            {"b": "0110", "ensemble": "0111"},
            "On its one task the ensemble is better than its best member, but not surely",
        ),
        ({"b": "0111", "ensemble": "0111"}, "On its one task the ensemble is as good as its best member"),
        ({"ensemble": "0111"}, "No member was asked alone"),
        ({"b": "0111"}, "No ensemble was asked"),
    ],
)
def test_the_headline_says_what_the_figures_say(marks: dict[str, str], said: str) -> None:
    answers = [answered(name, place, digit == "1") for name, own in marks.items() for place, digit in enumerate(own)]
    about = {"systems": [each for each in SYSTEMS if each["name"] in marks]}
    assert figures(Results(about, answers)).headline.startswith(said)


def test_the_headline_counts_tasks() -> None:
    better = [answered(name, place, name == "ensemble") for name in ("b", "ensemble") for place in range(6)]
    worse = [replace(each, task="other", metrics={"acc": 1 - each.metrics["exact_match"]}) for each in better]
    found = figures(Results({"systems": SYSTEMS[1:3]}, [*better, *worse])).headline
    assert found == (
        "On 1 of 2 tasks the ensemble is better than its best member, surely; on 1 it is worse, surely. "
        "Over all tasks the difference is 0.0 points on average."
    )


def over_tasks(marks: dict[str, tuple[str, str]]) -> Results:
    """Two tasks of different length, by system and task which questions it has right; a right answer has one nat."""
    answers = [
        Answer(task, f"q{place}", name, {"acc": float(digit), "nats_a_byte": 2.0 - float(digit)}, digit)
        for name, both in marks.items()
        for task, own in zip(("long", "short"), both, strict=True)
        for place, digit in enumerate(own)
    ]
    return Results({"systems": [each for each in SYSTEMS if each["name"] in marks]}, answers)


def test_on_the_whole_each_task_counts_alike_and_each_member_is_compared_with() -> None:
    marks = {"a": ("0000", "11"), "b": ("1110", "00"), "ensemble": ("1110", "11")}
    by_accuracy, by_nats = figures(over_tasks(marks)).overall
    assert (by_accuracy.metric, by_accuracy.best_member, by_nats.best_member) == (None, "a", "a")
    means = {each.system: each.mean for each in by_accuracy.systems}
    assert means == {"a": 0.5, "b": 0.375, "ensemble": 0.875}
    assert {each.system: each.mean for each in by_nats.systems} == {"a": 1.5, "b": 1.625, "ensemble": 1.125}
    whole = by_accuracy.systems[-1].beside
    assert [(each.member, each.difference) for each in whole] == [("a", 0.375), ("b", 0.5)]
    assert whole[0].interval.low == pytest.approx(0.125, abs=0.13)  # of the four, one to four are drawn
    assert whole[0].tasks["long"].difference == 0.75
    assert whole[0].tasks["long"].p_holm == pytest.approx(2 * 0.25)
    assert by_nats.systems[-1].beside[0].difference == pytest.approx(-0.375)


def test_who_was_asked_less_or_of_one_task_alone_has_no_place_on_the_whole() -> None:
    marks = {"a": ("0000", "11"), "b": ("1110", "00"), "ensemble": ("111", "11")}
    assert [each.system for each in figures(over_tasks(marks)).overall[0].systems] == ["a", "b"]
    assert figures(small()).overall == ()
    alone = {name: (both[0], "") for name, both in marks.items()}
    assert figures(over_tasks(alone)).overall == ()


def test_a_failure_is_worth_nothing_on_the_whole_and_has_no_nats() -> None:
    results = over_tasks({"a": ("1111", "11"), "ensemble": ("1111", "11")})
    failed = [
        replace(each, metrics={}, error="too long") if (each.system, each.question) == ("ensemble", "q0") else each
        for each in results.answers
    ]
    by_accuracy, by_nats = figures(replace(results, answers=failed)).overall
    assert [each.mean for each in by_accuracy.systems] == [1, 0.625]
    assert [(each.system, each.mean) for each in by_nats.systems] == [("a", 1)]


def test_metrics_that_are_no_shares_are_not_averaged_with_others() -> None:
    results = over_tasks({"a": ("1111", "11"), "ensemble": ("1111", "11")})
    third = [replace(each, task="f1", metrics={"f1": 87.5}) for each in results.answers if each.task == "short"]
    by_accuracy, by_nats = figures(replace(results, answers=[*results.answers, *third])).overall
    assert by_accuracy.tasks == by_nats.tasks == ("long", "short")


@needs_plots
def test_the_same_results_give_the_same_bytes_in_whatever_order_they_came(tmp_path: Path) -> None:
    results = small()
    write_report(results, tmp_path / "one")
    shuffled = list(results.answers)
    random.Random(1).shuffle(shuffled)
    write_report(replace(results, answers=shuffled, times=results.times[::-1]), tmp_path / "two")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 3 + 4  # differences, Pareto, reliability and one kind of gate
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


@needs_plots
def test_the_json_has_all_figures_and_only_what_json_has(tmp_path: Path) -> None:
    results = small()
    infinite = {"odd": [float("nan"), float("inf")], **results.about}
    report = write_report(replace(results, about=infinite), tmp_path)
    written = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert written == report.to_json()
    assert written["about"]["odd"] == ["nan", "inf"]
    assert written["tasks"][0]["cells"][3]["share"] == 0.2
    assert "examples" not in written["about"]


class _Page(html.parser.HTMLParser):
    """Elements that are open and not closed, ids, tables without heads, and whatever would act or load."""

    VOID = ("meta", "br", "img", "link")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href"):
                self.links.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def hostile() -> Results:
    """The small run, all of whose words are somebody's attempt."""
    results = small()
    about = json.loads(json.dumps(dict(results.about)).replace("math.jsonl", json.dumps(HOSTILE)[1:-1]))
    about["spec"] = about["command"] = HOSTILE
    about["versions"] = {HOSTILE: HOSTILE}
    about["further"] = {HOSTILE: HOSTILE}
    about["systems"][3]["name"] = about["tasks"][0]["name"] = HOSTILE
    about["examples"] = {HOSTILE: {f"q{place}": {"prompt": HOSTILE, "target": HOSTILE} for place in range(4)}}
    answers = [
        replace(
            each,
            task=HOSTILE,
            system=HOSTILE if each.system == "gate 0.5" else each.system,
            answer=HOSTILE,
            text=HOSTILE * 200,
            disputes=(Disagreement(1, HOSTILE, 0.5, {HOSTILE: (HOSTILE, 0.5)}),) * 30,
            error=HOSTILE if each.system == "vote" else None,
        )
        for each in results.answers
    ]
    times = [
        replace(each, task=HOSTILE, system=HOSTILE if each.system == "gate 0.5" else each.system)
        for each in results.times
    ]
    return Results(about, answers, times)


@needs_plots
@pytest.mark.parametrize("results", [small(), hostile()], ids=["small", "hostile"])
def test_the_page_is_sound_and_nothing_in_it_runs_or_loads(results: Results, tmp_path: Path) -> None:
    write_report(results, tmp_path)
    raw = (tmp_path / "index.html").read_text()
    page = _Page(raw)
    assert page.open == []
    assert not {"script", "iframe", "img", "link", "object", "foreignobject"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert page.tags.count("caption") == page.tags.count("table") > 0
    assert "\x1b" not in raw
    assert "\u202e" not in raw
    if results.about["command"] == HOSTILE:
        assert any("<script>alert(1)</script>" in text for text in page.text)
        assert "[U+202E]evil" in raw


@needs_plots
@pytest.mark.parametrize("results", [small(), hostile()], ids=["small", "hostile"])
def test_the_markdown_has_whole_tables_and_links_to_plots_that_are_there(results: Results, tmp_path: Path) -> None:
    write_report(results, tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    outside = re.sub(r"(?ms)^(`{3,})text\n.*?\n\1$", "", markdown)
    assert "<" not in outside
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    for table in re.findall(r"(?m)(?:^\|.*\n)+", outside):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table
    assert len(rows) > 20
    linked = re.findall(r"!\[(?:\\.|[^\]\\])*\]\((plots/[A-Za-z0-9_-]+\.svg)\)", outside)
    assert sorted(linked) == sorted(f"plots/{path.name}" for path in (tmp_path / "plots").iterdir())
    for link in linked:
        assert ElementTree.parse(tmp_path / link).getroot().tag == "{http://www.w3.org/2000/svg}svg"


@needs_plots
def test_html_and_markdown_say_the_same_numbers(tmp_path: Path) -> None:
    write_report(small(), tmp_path)
    text = " ".join(_Page((tmp_path / "index.html").read_text()).text)
    for cell in re.findall(r"(?<=\| )[^|\n]*\d\.\d[^|\n]*(?= \|)", (tmp_path / "report.md").read_text()):
        assert re.sub(r"\\(.)", r"\1", cell.strip("* ").replace("&lt;", "<")) in text


@needs_plots
@pytest.mark.parametrize(
    "results",
    [
        Results({}, []),
        Results({"tasks": [{"name": "empty", "metrics": ["acc"], "questions": ["q0"]}], "systems": SYSTEMS}, []),
        Results({}, [Answer("arc", "q", "only", {"acc": 1.0}, "A", choices=(-1.0, -2.0))]),
        Results({}, [Answer("arc", "q", "only", {}, error="failed")]),
        Results(
            {"systems": SYSTEMS},
            [Answer("arc", f"q{n}", str(s["name"]), {}, error="failed") for s in SYSTEMS for n in range(3)],
        ),
        scored({"a": [(float("-inf"), float("-inf"))], "ensemble": [(-1.0, float("-inf"))]}),
        Results({"systems": SYSTEMS[:3]}, [Answer("wiki", "q", n, {"perplexity": 12.5}) for n in ("a", "ensemble")]),
        replace(small(), times=[]),
        replace(small(), answers=[each for each in small().answers if each.question == "q0"]),
        replace(small(), answers=[each for each in small().answers if each.system == "ensemble"]),
    ],
)
def test_degenerate_runs_have_a_report_too(results: Results, tmp_path: Path) -> None:
    report = write_report(results, tmp_path)
    assert _Page((tmp_path / "index.html").read_text()).open == []
    assert report.headline in (tmp_path / "report.md").read_text().replace("\\", "")
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_json()


@needs_plots
def test_what_the_run_says_of_itself_is_all_there(tmp_path: Path) -> None:
    write_report(small(), tmp_path)
    page = (tmp_path / "index.html").read_text()
    for said in (
        "unisono eval duo.yaml",
        "sha256: aa",
        "math.jsonl",
        "somebody, 2023",
        "further",
        "intervals",
        "unisono eval before",
    ):
        assert said in page


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendMissing) as refused:
        check_plots()
    assert refused.value.hint is not None
    assert "unisono[evals]" in refused.value.hint
    with pytest.raises(BackendMissing):
        write_report(small(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(st.text())
def test_any_text_is_one_cell_and_one_listing_in_both_forms(text: str) -> None:
    table = "{% call(row) table(text, numbers(text, 'x')) %}\n{{ row(text, text) }}\n{% endcall %}\n"
    written = table + "{{ paragraph(text) }}\n{{ listing('t', text) }}\n"

    def page_of(form: str) -> str:
        content = environment(form).from_string(written)
        return render_content(form, content, text, text, text=text)

    page = _Page(page_of(HTML))
    assert page.open == []
    assert page.tags.count("td") == page.tags.count("pre") == 1
    lines = page_of(MARKDOWN).splitlines()
    fence = next(line for line in lines if re.fullmatch("`{3,}text", line)).removesuffix("text")
    assert lines.count(fence) == 1
    _, _, row = [line for line in lines[: lines.index(f"{fence}text")] if line.startswith("| ")]
    assert len(re.findall(r"(?<!\\)\|", row.replace("\\\\", ""))) == 3


@given(st.text())
def test_nothing_is_hidden_in_a_shown_text(text: str) -> None:
    shown = visible(text)
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", shown
    )
    assert "\n" not in one_line(text)
    assert visible(shown) == shown


def test_long_texts_are_cut_in_the_middle_and_say_by_how_much() -> None:
    assert cut("abcdefgh", 2, 3) == "ab […3 characters…] fgh"
    assert cut("abcde", 2, 3) == "abcde"
    assert cut("abcdef", 3, 0) == "abc […3 characters…] "


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.floats(0.1, 30))
def test_labels_keep_their_distance_and_their_order(places: list[float], gap: float) -> None:
    places = sorted(places)
    moved = spread(places, gap)
    assert len(moved) == len(places)
    assert all(after - before >= gap - 1e-6 for before, after in pairwise(moved))
    if all(after - before >= gap for before, after in pairwise(places)):
        assert moved == pytest.approx(places)


def test_numbers_are_written_with_their_sign_and_never_as_minus_zero() -> None:
    assert [points(value) for value in (0.0312, -0.05, 0.0001, -0.0001)] == ["+3.1", "−5.0", "0.0", "0.0"]
    assert [chance(value) for value in (None, 0.0004, 0.0126, 1.0)] == ["–", "<0.001", "0.013", "1.000"]


@pytest.mark.parametrize(
    ("made", "words"), [("file", "is a file"), ("folder", "holds 'index.html', which is of no report")]
)
def test_a_report_takes_no_place_of_something_else(tmp_path: Path, made: str, words: str) -> None:
    place = tmp_path / "out"
    if made == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "index.html").write_text("mine")
    with pytest.raises(SpecError, match=words):
        check_report(place)
    check_report(tmp_path / "new")
