"""What `spelling` lets ensembles write: questions with short answers, passages, code and other languages."""

from __future__ import annotations

import json
import random
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unisono.chat.messages import Message, Prompt

SEED = 20261122
SPELLINGS = ("piecewise", "canonical")
REREAD = "reread"
REREADS = 20
"""Passages that are written in that setting too."""
PASSAGE_CHARACTERS = (80, 320)
MULTILINGUAL = (
    "Die Geschichte der Leuchttürme beginnt im Altertum, als",
    "Le boulanger du village se lève chaque matin à quatre heures, parce que",
    "La biblioteca de la ciudad fue construida en el siglo",
    "Il mercato del pesce apre all'alba e",
    "Зимой река замерзает, и дети",
    "Ο παλιός φάρος στο λιμάνι",
    "春になると、町の公園では",
    "图书馆位于城市的中心，",
    "서울의 겨울은 춥고",
    "नदी के किनारे एक छोटा गाँव था, जहाँ",
    "كان الميناء القديم مكانا",
    "Thành phố cổ nằm bên bờ sông và",
)


@dataclass(frozen=True)
class Task:
    """Some texts to write."""

    name: str
    count: int
    pieces: int
    judged: bool = False
    """Whether it is raw text to go on with, as far as the pieces go, and is read afterwards; else the first line
    of an answer is wanted."""


@dataclass(frozen=True)
class Item:
    """One text to write."""

    id: str
    prompt: Prompt
    answers: tuple[str, ...] = ()
    settings: tuple[str, ...] = SPELLINGS


TASKS = {
    ("smol", "gemma"): (
        Task("passages", 30, 48, judged=True),
        Task("multilingual", len(MULTILINGUAL), 48, judged=True),
        Task("code", 10, 48, judged=True),
        Task("triviaqa", 100, 16),
        Task("nq_open", 100, 16),
    ),
    ("qwen", "smol"): (Task("gsm8k", 30, 48),),
}


def items(task: Task, data: Path, count: int) -> list[Item]:
    """The first of a task's texts, in an order drawn once."""
    if task.name == "multilingual":
        return [Item(str(number), Prompt(text=text)) for number, text in enumerate(MULTILINGUAL)][:count]
    if task.name == "passages":
        found = _passages(data)[:count]
        return [replace(item, settings=(*SPELLINGS, REREAD)) for item in found[:REREADS]] + found[REREADS:]
    if task.name == "code":
        rows = _rows(data / "humaneval.jsonl")
        random.Random(SEED).shuffle(rows)
        return [Item(row["id"], Prompt(text=row["question"])) for row in rows if len(row["question"]) < 600][:count]
    rows = _rows(data / f"{task.name}.jsonl")
    random.Random(SEED).shuffle(rows)
    shots = _shots(task.name, data)
    return [_question(row, shots) for row in rows[:count]]


def _question(row: dict[str, Any], shots: list[Message]) -> Item:
    answer = row["answer"]
    asked = Message(role="user", content=row["question"])
    return Item(row["id"], Prompt(messages=(*shots, asked)), (answer,) if isinstance(answer, str) else tuple(answer))


def _shots(task: str, data: Path) -> list[Message]:
    """Few-shot turns; those of GSM8K answer with the bare calculations, so that answers are short."""
    if task == "gsm8k":
        rows = [row for row in _rows(data / "shots/gsm8k.train.jsonl") if len(row["question"]) < 180]
        pairs = [(row["question"], _calculations(row)) for row in rows if row["solution"].count("<<") in (2, 3)][:4]
    else:
        rows = [row for row in _rows(data / f"shots/{task}.shots.jsonl") if len(row["question"]) < 80]
        pairs = [(row["question"], row["answer"][-1 if task == "triviaqa" else 0]) for row in rows[:5]]
    return [
        Message(role=role, content=text)
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _calculations(row: dict[str, Any]) -> str:
    return ", ".join(re.findall(r"<<(.+?)>>", row["solution"])) + f". The answer is {row['answer']}."


def _passages(data: Path) -> list[Item]:
    """Beginnings of texts: half of HellaSwag's how-to texts and scenes, half of questions told as stories (GSM8K)."""
    low, high = PASSAGE_CHARACTERS
    found = []
    for name in ("hellaswag", "gsm8k"):
        rows = [row for row in _rows(data / f"{name}.jsonl") if low <= len(row["question"]) <= high]
        random.Random(SEED).shuffle(rows)
        found.append([Item(row["id"], Prompt(text=_cut(row["question"]))) for row in rows])
    return [item for pair in zip(*found, strict=False) for item in pair]


def _cut(text: str) -> str:
    """The text without its last quarter, up to a whole word: so that there is something to go on with."""
    return text[: len(text) * 3 // 4].rsplit(" ", 1)[0].rstrip()


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def grade(task: str, text: str, answers: Sequence[str]) -> dict[str, float]:
    """Exact match and the best F1 of words, as SQuAD normalises; of GSM8K whether the last number is the answer."""
    if task == "gsm8k":
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
        found = float(numbers[-1].replace(",", "")) if numbers else None
        return {"correct": float(found == float(answers[0].replace(",", "")))}
    said = _normal(text)
    return {
        "correct": float(any(said == _normal(answer) for answer in answers)),
        "f1": max(_f1(said.split(), _normal(answer).split()) for answer in answers),
    }


def _normal(text: str) -> str:
    """Lower case, without punctuation and articles."""
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def _f1(said: list[str], wanted: list[str]) -> float:
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted)) if shared else 0.0
