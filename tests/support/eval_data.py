"""Small files of questions, in the shape of real ones, with rows made up here."""

from __future__ import annotations

import json
from pathlib import Path

ANIMALS = ("cat", "dog", "cow", "hen", "pig", "fox", "owl", "bee", "ant", "ape", "elk", "emu")


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_data(folder: Path, count: int = 12) -> Path:
    """Questions of arc_easy, piqa and triviaqa, with examples."""
    arc = [
        {
            "id": f"arc_easy.{index}",
            "question": f"Which of these is the {animal}?",
            "choices": [f"the {animal}", "a stone", "Sofia — 日本", "the sea"],
            "answer": "A",
            "answer_index": 0,
        }
        for index, animal in enumerate(ANIMALS[:count])
    ]
    piqa = [
        {
            "id": f"piqa.{index}",
            "question": f"feed the {animal}",
            "choices": ["give it food", "give it a stone"],
            "answer": "A",
            "answer_index": 0,
        }
        for index, animal in enumerate(ANIMALS[:count])
    ]
    trivia = [
        {"id": f"triviaqa.{index}", "question": f"Which animal is a {animal}", "answer": [animal, f"the {animal}"]}
        for index, animal in enumerate(ANIMALS[:count])
    ]
    for name, rows in (("arc_easy", arc), ("piqa", piqa), ("triviaqa", trivia)):
        write_rows(folder / f"{name}.jsonl", rows)
    shots = [{"id": f"shot.{index}", "question": f"Which animal says {index}", "answer": ["cat"]} for index in range(6)]
    write_rows(folder / "shots" / "triviaqa.shots.jsonl", shots)
    return folder
