"""Fine-tune members of an ensemble on the right answers of tasks, with LoRA (PEFT), on a CPU in minutes.

    train.py ENSEMBLE.yaml --tasks arc_easy,arc_challenge,piqa --data DIR --minutes 40 --out adapters
    train.py ENSEMBLE.yaml --prompts answers.jsonl --minutes 40 --out adapters

Each member that has a model is trained by itself, on the right answers to tasks' questions, with the tasks' own
prompts, or on those of a file of JSON lines {"prompt" or "messages": …, "answer": …}; the loss is that of the answer.
What is written is a folder in PEFT's form for each, and an ensemble file beside them, whose members have these
adapters and whose ``tuned_on`` lets `unisono eval` leave out the questions of tasks that they were trained on. Ctrl-C
ends the training of the member at hand, and saves what it has learned; while a model is loaded or measured, it ends
all, and the ensemble file has the members that are trained.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from unisono.build import Prepared, prepare
from unisono.cli.ensemble_file import check_out, write_ensemble
from unisono.config.ensemble import TunedOn, load_spec
from unisono.errors import SpecError, UnisonoError
from unisono.evals.analysis.references import read_answers, references_of
from unisono.evals.records import Question, Task
from unisono.evals.tasks import load_tasks
from unisono.members import PreparedMember
from unisono.reference_answers import Reference

CONSOLE = Console(stderr=True)
HELD_OUT = 0.1  # of the answers: no member is trained on them, and their loss is told
MOST_HELD_OUT = 100
TARGETS = "all-linear"


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its right answer, as one member reads them."""

    ids: list[int]
    answer: int
    """How many of the last ids are the answer."""


def main() -> None:
    flags = read_flags()
    try:
        train_all(flags)
    except UnisonoError as error:
        sys.exit(f"train.py: {error}" + (f"\n  {error.hint}" if error.hint else ""))
    except KeyboardInterrupt:
        sys.exit(130)


def read_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("ensemble", type=Path, help="an ensemble file")
    parser.add_argument("--member", action="append", help="train this member alone (may be given several times)")
    answers = parser.add_mutually_exclusive_group(required=True)
    answers.add_argument("--tasks", help="names of tasks, with commas between")
    answers.add_argument("--prompts", type=Path, help="a file of JSON lines with a prompt or messages, and the answer")
    parser.add_argument("--data", type=Path, help="a folder with NAME.jsonl of each task; by default the hub")
    parser.add_argument("--limit", type=int, help="questions of each task, its last ones (300)")
    parser.add_argument("--skip", type=int, help="leave out so many at the end, for `unisono fit` (0)")
    parser.add_argument("--minutes", type=float, default=40, help="end after so many for each member (40)")
    parser.add_argument("--epochs", type=int, default=3, help="or after so many passes over the answers (3)")
    parser.add_argument("--batch", type=int, default=8, help="answers a step (8)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-4, help="the largest learning rate (3e-4)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("adapters"))
    return parser.parse_args()


def train_all(flags: argparse.Namespace) -> None:
    spec = load_spec(flags.ensemble)
    named = [member.name for member, _ in spec.voters() if member.model is not None]
    chosen = flags.member or named
    if unknown := sorted(set(chosen) - set(named)):
        sys.exit(f"train.py: no member with a model is named {', '.join(unknown)}; there are: {', '.join(named)}")
    references, trained_on = answers_of_file(flags) if flags.prompts else answers_of_tasks(flags)
    flags.out.mkdir(parents=True, exist_ok=True)
    check_out(flags.out / flags.ensemble.name, flags.ensemble)
    torch.set_num_threads(flags.threads)
    trained: list[str] = []
    try:
        for name in chosen:
            member = prepare_alone(flags, name)
            examples = [example_of(member, reference.prompt, reference.answer) for reference in references]
            train(flags, member, examples)
            trained.append(name)
    finally:
        if trained:
            write_adapted(flags, trained, trained_on)


def answers_of_file(flags: argparse.Namespace) -> tuple[Sequence[Reference], Sequence[TunedOn]]:
    """All answers of a file, which are no task's."""
    of_tasks = [f"--{name}" for name in ("data", "limit", "skip") if getattr(flags, name) is not None]
    if of_tasks:
        sys.exit(f"train.py: {', '.join(of_tasks)} given with --prompts, whose answers are read as they are")
    return read_answers(flags.prompts)[0], ()


def answers_of_tasks(flags: argparse.Namespace) -> tuple[Sequence[Reference], Sequence[TunedOn]]:
    """The right answers to tasks' last questions but for those left out, and what evaluations are to leave out."""
    limit, skip = 300 if flags.limit is None else flags.limit, flags.skip or 0
    if limit < 1 or skip < 0:
        sys.exit(f"train.py: --limit is {limit} and --skip {skip}: they count questions, from 1 and 0 on")
    tasks = load_tasks(flags.tasks.split(","), data=flags.data, limit=limit + skip, last=True)
    kept = {task.name: {each.id for each in questions_of(task, limit, skip)} for task in tasks}
    trained_on = [TunedOn(task=task.name, source=task.source, last=len(task.questions)) for task in tasks]
    return [each for each in references_of(tasks) if each.id in kept[each.task]], trained_on


def questions_of(task: Task, limit: int, skip: int) -> Sequence[Question]:
    """What is trained on, of a task's last questions: not the ``skip`` last ones, and ``limit`` at most before these.

    Tasks give half of their questions at most, so there may be fewer. Raises a `SpecError` where none are left.
    """
    left = task.questions[: max(0, len(task.questions) - skip)][-limit:]
    if not left:
        raise SpecError(
            f"of the task {task.name!r}, nothing is left to train on: {len(task.questions)} questions, half of all, "
            f"may be used, and --skip leaves out {skip}",
            hint="give a smaller --skip, or more questions",
        )
    if len(left) < limit:
        CONSOLE.print(f"{task.name}: {len(left)} questions, not {limit}: half of all are kept for evaluations")
    return left


def prepare_alone(flags: argparse.Namespace, name: str) -> PreparedMember:
    """A member by itself, in the backend that can be trained."""
    owner = load_spec(flags.ensemble).member(name)
    keys: dict[str, Any] = {"backend": "transformers", "dtype": flags.dtype, "device": flags.device, "weight": 1.0}
    keys |= {"threads": None, "options": {}, "adapter": None}
    spec = load_spec({"members": [owner.model_copy(update=keys).model_dump(exclude_none=True)]})
    prepared: Prepared = prepare(spec.model_copy(update={"folder": flags.ensemble.parent}))
    return prepared.members[0]


def example_of(member: PreparedMember, prompt: Any, answer: str) -> Example:
    ids, its = member.encoder.encode(prompt, may_be_empty=True), member.tokenizer.encode(answer)
    return Example([*ids, *its], len(its))


def train(flags: argparse.Namespace, member: PreparedMember, examples: Sequence[Example]) -> None:
    """Train one member, and save its adapter."""
    name = member.spec.name
    torch.manual_seed(flags.seed)
    numbers = random.Random(flags.seed)
    shuffled = numbers.sample(list(examples), len(examples))
    held_out = min(MOST_HELD_OUT, int(len(shuffled) * HELD_OUT))
    tested, learned = shuffled[:held_out], shuffled[held_out:]
    with Progress(console=CONSOLE) as bar:
        task = bar.add_task(f"{name}: loading", total=1.0)
        base: Any = member.loader.model(lambda done, words: bar.update(task, completed=done))  # type: ignore[attr-defined]
    base.requires_grad_(False)
    lora = peft.LoraConfig(r=flags.rank, lora_alpha=2 * flags.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    model: Any = peft.get_peft_model(base, lora)
    model.peft_config["default"].base_model_name_or_path = member.spec.model
    best = Best(model, tested, flags)
    steps, ended, last = learn(flags, name, model, learned, numbers, best)
    try:
        best.look()
        best.restore()
        words = held_out_words(best.losses, len(tested))
    except KeyboardInterrupt:  # it is trained
        words = "the answers held out are not measured, and what was learned last is kept"
    folder = flags.out / name
    model.save_pretrained(folder, save_embedding_layers=False)
    CONSOLE.print(
        f"{name}: {steps} steps on {len(learned)} answers, {ended}; the last losses {last:.3f}; saved as {folder}"
    )
    CONSOLE.print(f"{name}: {words}")


class Best:
    """The adapter as it was when answers held out were likeliest: more training makes a small model learn by heart."""

    def __init__(self, model: Any, tested: Sequence[Example], flags: argparse.Namespace) -> None:
        self._model, self._tested, self._flags = model, tested, flags
        self._values: list[Any] = []
        self.losses: list[float] = []
        """Before training, and after each pass; the last one after the time."""
        self.look()

    def look(self) -> None:
        """Measure the answers held out, and keep the adapter if they are likelier than ever."""
        loss = loss_of(self._model, self._tested, self._flags)
        if not self.losses or not loss >= min(self.losses):  # without answers, it is no number: the last one is kept
            self._values = [each.detach().clone() for each in self._parameters()]
        self.losses.append(loss)

    def restore(self) -> None:
        with torch.no_grad():
            for each, value in zip(self._parameters(), self._values, strict=True):
                each.copy_(value)

    def _parameters(self) -> list[Any]:
        return [each for each in self._model.parameters() if each.requires_grad]


def held_out_words(losses: Sequence[float], count: int) -> str:
    if not count:
        return f"no answers held out: fewer than {math.ceil(1 / HELD_OUT)} are too few to measure"
    before, *after = losses
    passes = ", ".join(f"{loss:.3f}" for loss in after)
    found = f"of {count} answers held out {before:.3f} nats an id before, after each pass {passes}"
    if not after or min(after) >= before:
        return f"{found}: none is better, and the adapter changes nothing; a smaller --rate may help"
    return f"{found}; the best of these is kept"


def learn(
    flags: argparse.Namespace, name: str, model: Any, examples: Sequence[Example], numbers: random.Random, best: Best
) -> tuple[int, str, float]:
    """Train until the time, or the passes over all answers, are over. Returns steps, why, and the last loss.

    After each pass but the last, the best adapter is looked for.
    """
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=flags.rate, weight_decay=0.0)
    a_pass = math.ceil(len(examples) / flags.batch)
    total, began, losses = a_pass * flags.epochs, time.monotonic(), [math.inf]
    taken, ended = total, f"{flags.epochs} passes"
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE) as bar:
        task = bar.add_task(name, total=1.0, loss="")
        try:
            for step in range(total):
                if step % a_pass == 0:
                    if step:
                        best.look()
                    model.train()
                    batches = in_batches(numbers.sample(list(examples), len(examples)), flags.batch, numbers)
                done = max(step / total, (time.monotonic() - began) / (60 * flags.minutes))
                if done >= 1:
                    taken, ended = step, f"{flags.minutes:g} minutes"
                    break
                for group in optimizer.param_groups:
                    group["lr"] = flags.rate * min(1.0, (step + 1) / 20) * (1 - done)
                loss, count = summed_loss(model, batches[step % a_pass], flags.device)
                (loss / count).backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                losses = [*(each for each in losses[-19:] if each < math.inf), float(loss.detach()) / count]
                bar.update(task, completed=done, loss=f"loss {mean(losses):.3f}")
        except KeyboardInterrupt:
            taken, ended = step, "stopped"
    return taken, ended, mean(losses)


def in_batches(examples: list[Example], size: int, numbers: random.Random) -> list[list[Example]]:
    """Batches of answers of similar length, in a random order: padding costs time."""
    groups = [examples[start : start + 16 * size] for start in range(0, len(examples), 16 * size)]
    batches = []
    for group in groups:
        group.sort(key=lambda example: len(example.ids))
        batches += [group[start : start + size] for start in range(0, len(group), size)]
    numbers.shuffle(batches)
    return batches


def summed_loss(model: Any, batch: Sequence[Example], device: str) -> tuple[Any, int]:
    """The loss of the answers' ids, summed, and how many there are."""
    width = max(len(example.ids) for example in batch)
    ids = torch.tensor([[*example.ids, *[0] * (width - len(example.ids))] for example in batch], device=device)
    seen = torch.tensor([[1] * len(each.ids) + [0] * (width - len(each.ids)) for each in batch], device=device)
    logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits
    rows = [logits[row, len(each.ids) - each.answer - 1 : len(each.ids) - 1] for row, each in enumerate(batch)]
    wanted = torch.tensor([token for each in batch for token in each.ids[-each.answer :]], device=device)
    return torch.nn.functional.cross_entropy(torch.cat(rows).float(), wanted, reduction="sum"), len(wanted)


def loss_of(model: Any, examples: Sequence[Example], flags: argparse.Namespace) -> float:
    """The mean loss of answers, in nats an id."""
    model.eval()
    ordered = sorted(examples, key=lambda example: len(example.ids))
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(ordered), flags.batch):
            loss, ids = summed_loss(model, ordered[start : start + flags.batch], flags.device)
            total, count = total + float(loss), count + ids
    return total / count if count else math.nan


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def write_adapted(flags: argparse.Namespace, trained: Sequence[str], trained_on: Sequence[TunedOn]) -> None:
    """An ensemble file beside the adapters: the same members, which have them now."""
    content, folder = yaml.safe_load(flags.ensemble.read_text("utf-8")), flags.ensemble.resolve().parent
    for member in content["members"]:
        if member["name"] in trained:  # as seen from where the file was, as the other paths are
            adapter = os.path.relpath((flags.out / member["name"]).resolve(), folder)
            member |= {"adapter": adapter, "backend": "transformers"}
    known = [TunedOn.model_validate(each) for each in content.get("tuned_on", ())]
    if tuned_on := [each.model_dump() for each in dict.fromkeys([*known, *trained_on])]:
        content["tuned_on"] = tuned_on
    file = flags.out / flags.ensemble.name
    write_ensemble(file, folder, content)
    CONSOLE.print(f"the members with these adapters: {file}")


if __name__ == "__main__":
    main()
