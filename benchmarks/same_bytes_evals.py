"""The cases of `unisono eval`, `report`, `tune` and `match`, on a few questions that are made here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from same_bytes_cases import Case, Json, Workplace, read_output

ANIMALS = ("cat", "dog", "cow", "hen", "pig", "fox", "owl", "bee")
DIGITS = 6


def fakes(work: Workplace) -> Iterator[Case]:
    """Fake members, all digits."""
    from same_bytes_fakes import A, B, C

    spec = work.file("evals/fakes.yaml", {"members": [A, B, C]})
    words = ("--variant", "gate=confidence:0.3 lead=b", "--variant", "weights=a:3,b:1,c:1", "--baseline", "all")
    matched = [f"{member['name']}={member['model']}" for member in (A, B, C)]
    yield from _cases(work, spec, (*words, "--variant", "combine=geometric"), matched, 6, True)


def demo(work: Workplace) -> Iterator[Case]:
    """The demo pair, through llama.cpp."""
    from same_bytes_demo import duo

    pair = duo("llamacpp", context=1024)
    spec = work.file("evals/demo.yaml", pair)
    words = ("--variant", "gate=confidence:0.5", "--baseline", "majority", "--baseline", "best-member")
    matched = [f"{member['name']}={member['model']}" for member in pair["members"]]
    yield from _cases(work, spec, words, matched, 4, False)


def _cases(
    work: Workplace, spec: Path, settings: tuple[str, ...], matched: list[str], limit: int, fake: bool
) -> Iterator[Case]:
    data, digits = _data(work), None if fake else DIGITS
    tasks = ("--tasks", "arc_easy,triviaqa", "--data", data)
    run = work.scratch / f"evals/run-{spec.stem}"
    asked = ("eval", spec, *tasks, "--shots", 1, "--limit", limit, "--compare", *settings, "--out", run, "--json", "-q")

    def case(name: str, record: Any) -> Case:
        return Case(f"eval.{name}", record, digits=digits)

    def begun() -> Path:
        if not (run / "answers.jsonl").exists():
            work.unisono(*asked, fakes=fake)
        return run

    def folder() -> Json:
        return {path.name: read_output(path.read_text()) for path in sorted(begun().iterdir()) if path.suffix}

    def reported(*names: str) -> Json:
        out = work.scratch / f"evals/report-{spec.stem}"
        done = work.unisono("report", _settled(begun()), "--out", out, "-q", fakes=fake)
        return {**done, **{name: (out / name).read_text().split("\n") for name in names}}

    def figures() -> Json:
        out = work.scratch / f"evals/report-{spec.stem}"
        done = work.unisono("report", _settled(begun()), "--out", out, "--json", "-q", fakes=fake)
        return {**done, "report.json": json.loads((out / "report.json").read_text()), "files": _names(out)}

    def tuned() -> Json:
        out, where = work.scratch / f"evals/tuned-{spec.stem}.yaml", work.scratch / f"evals/tune-{spec.stem}"
        words = ("--task", "arc_easy", "--data", data, "--limit", 4, "--gates", "margin:0.1", "--out", out)
        done = work.unisono("tune", spec, *words, "--folder", where, "--json", "-q", fakes=fake)
        kept = [line for line in out.read_text().split("\n") if not line.startswith("#")]
        return {**done, "file": kept, "answers": read_output((where / "answers.jsonl").read_text())}

    def paired() -> Json:
        out = work.scratch / f"evals/match-{spec.stem}"
        words = ("--tasks", "arc_easy,triviaqa", "--data", data, "--limit", 4, "--shots", 1, "--out", out)
        return work.unisono("match", *matched, *words, "--json", "-q", fakes=fake)

    yield case("folder", folder)
    yield case("report-html", lambda: reported("index.html"))
    yield case("report-markdown", lambda: reported("report.md"))
    yield case("report-json", figures)
    yield case("report-wrong", lambda: work.unisono("report", work.scratch / "evals", "-q", fakes=fake))
    yield case(
        "task-wrong", lambda: work.unisono("eval", spec, "--tasks", "arc_eazy", "--data", data, "-q", fakes=fake)
    )
    yield case("tune", tuned)
    yield case("match", paired)


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _settled(run: Path) -> Path:
    """A copy of a run's folder in which the times and facts of the machine are always the same."""
    settled = run.with_name(f"settled-{run.name}")
    settled.mkdir(exist_ok=True)
    about = json.loads((run / "run.json").read_text())
    about |= {"command": "unisono eval", "date": "2026-01-01", "versions": {"unisono": "0"}}
    about["machine"] = {"platform": "Linux", "processor": "one", "cores": 2, "python": "3.11"}
    (settled / "run.json").write_text(json.dumps(about, indent=2, ensure_ascii=False))
    for name in ("questions.jsonl", "answers.jsonl"):
        (settled / name).write_bytes((run / name).read_bytes())
    times: list[dict[str, Any]] = [json.loads(line) for line in (run / "times.jsonl").read_text().splitlines()]
    for number, each in enumerate(times):
        each |= {"seconds": 0.5 + number / 64, "writing": 0.25 + number / 128}
    (settled / "times.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in times))
    return settled


def _data(work: Workplace) -> Path:
    """Questions with choices, and questions that ask for a text."""
    choice = [
        {
            "id": f"arc_easy.{number}",
            "question": f"Which of these is the {animal}?",
            "choices": [f"the {animal}", "a stone", "Sofia — 日本", "the sea"],
            "answer": "A",
            "answer_index": 0,
        }
        for number, animal in enumerate(ANIMALS)
    ]
    text = [
        {"id": f"triviaqa.{number}", "question": f"Which animal is a {animal}", "answer": [animal, f"the {animal}"]}
        for number, animal in enumerate(ANIMALS)
    ]
    shots = [
        {"id": f"shot.{number}", "question": f"Which animal says {number}", "answer": ["cat"]} for number in range(6)
    ]
    train = [{**each, "id": f"train.{number}"} for number, each in enumerate(choice[:3])]
    work.lines("evals/data/shots/triviaqa.shots.jsonl", shots)
    work.lines("evals/data/shots/arc_easy.train.jsonl", train)
    work.lines("evals/data/triviaqa.jsonl", text)
    return work.lines("evals/data/arc_easy.jsonl", choice).parent
