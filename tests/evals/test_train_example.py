"""The example that trains adapters: on which questions, and what it writes when it is stopped."""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

pytest.importorskip("peft")

from unisono.config.ensemble import load_spec
from unisono.errors import SpecError
from unisono.evals.tasks.loading import Slice

SCRIPT = Path(__file__).parents[2] / "examples" / "adapters" / "train.py"


@pytest.fixture(scope="module")
def train() -> Any:
    spec = importlib.util.spec_from_file_location("train_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["train_example"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["train_example"]


def last(count: int, limit: int) -> list[tuple[str, str]]:
    ordered = [("", str(place)) for place in range(count)]
    return Slice(limit, False, True, ()).of("t", "x", ordered)


@pytest.mark.parametrize(("count", "limit", "skip"), [(400, 250, 100), (2000, 250, 100), (400, 10, 199), (40, 5, 0)])
def test_no_question_is_trained_on_that_is_kept_for_a_fit(train: Any, count: int, limit: int, skip: int) -> None:
    task = SimpleNamespace(name="t", questions=last(count, limit + skip))
    kept = train.questions_of(task, limit, skip)
    assert len(kept) == min(limit, count // 2 - skip)
    assert not set(kept) & set(last(count, skip) if skip else ())
    assert [*kept, *(last(count, skip) if skip else ())] == last(count, limit + skip)


def test_nothing_left_to_train_on_is_refused(train: Any) -> None:
    task = SimpleNamespace(name="t", questions=last(100, 300))
    with pytest.raises(SpecError, match="nothing is left to train on: 50 questions"):
        train.questions_of(task, 200, 100)


@pytest.mark.parametrize("place", ["loading", "nothing"])
def test_members_that_are_trained_are_in_the_file_though_the_next_is_stopped(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Paths of the others hold from the new folder, and the adapters from there, too."""
    for folder in ("specs/models/x", "specs/old", "specs/b", "specs/a"):
        (tmp_path / folder).mkdir(parents=True)
    members = [{"name": "a", "model": "models/x"}, {"name": "b", "model": "models/x", "adapter": "old"}]
    spec = tmp_path / "specs" / "duo.yaml"
    spec.write_text(yaml.safe_dump({"members": members}))
    out = tmp_path / "far" / "out"

    def trains(flags: argparse.Namespace, member: Any, examples: Any) -> None:
        if member == "b" and place == "loading":
            raise KeyboardInterrupt
        (flags.out / member).mkdir()

    monkeypatch.setattr(train, "load_tasks", lambda *args, **keys: [])
    monkeypatch.setattr(train, "prepare_alone", lambda flags, name: name)
    monkeypatch.setattr(train, "train", trains)
    flags = argparse.Namespace(
        ensemble=spec, member=None, tasks="t", prompts=None, data=None, limit=1, skip=0, out=out, threads=1
    )
    if place == "loading":
        with pytest.raises(KeyboardInterrupt):
            train.train_all(flags)
    else:
        train.train_all(flags)
    found = load_spec(out / "duo.yaml")
    adapters = [Path(found.folder, str(member.adapter)).resolve() for member in found.members]
    assert adapters == [out / "a", tmp_path / "specs" / "old" if place == "loading" else out / "b"]
    assert all(Path(found.folder, str(each.model)).samefile(spec.parent / "models" / "x") for each in found.members)
    assert found.members[0].backend == "transformers"


def test_an_adapter_s_loss_of_no_answers_is_none(train: Any) -> None:
    assert "nan" not in train.held_out_words([float("nan"), float("nan")], 0)
    assert (
        train.held_out_words([2.0, 1.0, 1.5], 12)
    ) == "of 12 answers held out 2.000 nats an id before, after each pass 1.000, 1.500; the best of these is kept"
    assert "changes nothing" in train.held_out_words([2.0, 2.1], 12)


def test_the_ensemble_itself_is_not_overwritten(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tmp_path / "duo.yaml"
    spec.write_text(yaml.safe_dump({"members": [{"name": "a", "model": "fake:a"}]}))
    monkeypatch.setattr(train, "load_tasks", lambda *args, **keys: [])
    flags = argparse.Namespace(
        ensemble=spec, member=None, tasks="t", prompts=None, data=None, limit=1, skip=0, out=tmp_path, threads=1
    )
    with pytest.raises(SpecError, match="the ensemble file itself"):
        train.train_all(flags)


def test_answers_of_a_file_are_trained_on_and_no_task_is_named(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, answers, out = tmp_path / "duo.yaml", tmp_path / "answers.jsonl", tmp_path / "out"
    spec.write_text(yaml.safe_dump({"members": [{"name": "a", "model": "x"}]}))
    answers.write_text('{"prompt": "1 + 1 =", "answer": " 2"}\n{"prompt": "2 + 1 =", "answer": " 3"}\n')
    seen: list[Any] = []
    monkeypatch.setattr(train, "prepare_alone", lambda flags, name: name)
    monkeypatch.setattr(train, "example_of", lambda member, prompt, answer: (prompt.text, answer))
    monkeypatch.setattr(train, "train", lambda flags, member, examples: seen.extend(examples))
    monkeypatch.setattr(sys, "argv", ["train.py", str(spec), "--prompts", str(answers), "--out", str(out)])
    train.main()
    assert seen == [("1 + 1 =", " 2"), ("2 + 1 =", " 3")]
    assert "tuned_on" not in yaml.safe_load((out / "duo.yaml").read_text())
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--limit", "3"])
    with pytest.raises(SystemExit, match="--limit given with --prompts"):
        train.main()


@pytest.mark.parametrize(
    ("losses", "kept"),
    [([3.0, 1.0, 2.0], 1.0), ([1.0, 2.0, 3.0], 0.0), ([3.0, 2.0, 1.0], 2.0), ([float("nan")] * 3, 2.0)],
)
def test_the_adapter_of_the_best_pass_is_kept(
    train: Any, monkeypatch: pytest.MonkeyPatch, losses: list[float], kept: float
) -> None:
    import torch

    model, coming = torch.nn.Linear(1, 1, bias=False), iter(losses)
    monkeypatch.setattr(train, "loss_of", lambda *given: next(coming))
    with torch.no_grad():
        model.weight.fill_(0.0)
        best = train.Best(model, [], argparse.Namespace())
        for value in (1.0, 2.0):
            model.weight.fill_(value)
            best.look()
    best.restore()
    assert float(model.weight.detach()) == kept


def test_more_passes_than_help_are_taken_back(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of one number: training pulls it to 1, and what is held out likes it best on the way there."""
    import torch

    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    monkeypatch.setattr(train, "summed_loss", lambda model, batch, device: (((model.weight - 1) ** 2).sum(), 1))
    monkeypatch.setattr(train, "loss_of", lambda model, tested, flags: abs(float(model.weight.detach()) - 0.4))
    flags = argparse.Namespace(rate=0.05, batch=1, epochs=12, minutes=1, device="cpu")
    best = train.Best(model, [], flags)
    steps, ended, _ = train.learn(flags, "one", model, [train.Example([1], 1)] * 5, random.Random(0), best)
    best.look()
    best.restore()
    assert (steps, ended) == (60, "12 passes")
    assert len(best.losses) == 13
    assert min(best.losses) < best.losses[-1]
    assert abs(float(model.weight.detach()) - 0.4) == min(best.losses)
