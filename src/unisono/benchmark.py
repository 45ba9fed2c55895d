"""Measure an ensemble's speed against its members and other settings, interleaved, on the same loaded models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from unisono.benchmark_figures import Benchmark, Round, Setting, System, benchmark_of
from unisono.build import Prepared
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.member import Member
from unisono.errors import ModelError
from unisono.loaded_models import LoadedModels, load_models
from unisono.members import Report, silent
from unisono.records import Limits

TEXTS = (
    "The history of the lighthouse began when",
    "There are three reasons why bread rises. First,",
    "She opened the letter, read it twice, and",
    "In most cities the price of a flat depends on",
)
"""Raw texts to continue; none of them ends soon."""

ENSEMBLE = "ensemble"
PATIENCE = 8
"""Texts that may end at their first piece before a system is given up."""


def measure(
    prepared: Prepared,
    *,
    rounds: int = 5,
    pieces: int = 48,
    batch: int = 1,
    compare: Sequence[Setting] = (),
    prompts: Sequence[Prompt] = (),
    report: Report = silent,
    count: Callable[[], None] = lambda: None,
) -> Benchmark:
    """Time every member alone, the ensemble, and the ensemble in other settings, in turn, round by round.

    The models are loaded once; a member alone is an ensemble of one with the same model. Each round begins with another
    system, and all systems continue the same prompts. Reading the prompt and choosing the first piece are not timed. A
    first round warms up and is discarded.

    Args:
        prepared: the ensemble, prepared for ``batch`` texts or more.
        rounds: how many rounds are timed.
        pieces: how many pieces of each text a round times.
        batch: how many texts are written at once.
        compare: other settings of the ensemble to time.
        prompts: used in turn; raw texts by default.
        report: called with (member, fraction done, words) while models load.
        count: called after every turn.

    Raises:
        ModelError: all texts of a system end at their first piece, so that there is nothing to time.
    """
    prompts = prompts or [prepared.prompt(text) for text in TEXTS]
    with load_models([prepared], report) as models:
        systems = _systems(prepared, models, compare)
        turns: list[list[Round]] = [[] for _ in systems]
        for number in range(rounds + 1):
            for index in (*range(number % len(systems), len(systems)), *range(number % len(systems))):
                turn = _run(systems[index], pieces, batch, prompts, number)
                if number:
                    turns[index].append(turn)
                count()
        return benchmark_of(systems, turns, len(prepared.members), pieces, batch)


def _systems(prepared: Prepared, models: LoadedModels, compare: Sequence[Setting]) -> list[System]:
    names = [member.spec.name for member in prepared.members]
    own = Setting(ENSEMBLE, prepared.spec.method)
    return [
        *(System(name, Method(), engine=models.engine(prepared.alone(name))) for name in names),
        *(System(each.name, each.method, each.trace, engine=models.engine(prepared)) for each in (own, *compare)),
    ]


def _run(system: System, pieces: int, batch: int, prompts: Sequence[Prompt], first: int) -> Round:
    engine, turn = system.engine, Round()
    spent = forward = 0.0
    used = 0
    while turn.pieces < pieces * batch:
        texts = []
        for _ in range(batch):
            prompt = prompts[(first + used) % len(prompts)]
            used += 1
            limits = Limits(max_new_tokens=pieces - turn.pieces // batch + 1)
            texts.append(engine.add(prompt, limits, method=system.method, trace=system.trace))
            engine.prefill(texts[-1])
        engine.step()
        before = _forward_seconds(engine.members)
        began = time.perf_counter()
        while len(engine.active) == batch:
            engine.step()
        spent += time.perf_counter() - began
        forward += _forward_seconds(engine.members) - before
        for text in texts:
            engine.drop(text)
            turn.pieces += max(0, text.pieces - 1)
            turn.written += text.pieces
            turn.ensembled += text.ensembled
            turn.blocks += text.blocks
            turn.drafted += text.drafted
            turn.accepted += text.accepted
            turn.ends += text.finish == "end"
            turn.unasked += text.unasked
            turn.texts += (text.tail(1 << 20),)
        if not turn.pieces and used >= PATIENCE * batch:
            raise ModelError(
                f"{', '.join(member.name for member in engine.members)} ended {PATIENCE} texts at once: "
                "there is nothing to time",
                hint="look at what it writes: unisono run --raw",
            )
    turn.step, turn.forward = (seconds * 1e3 * batch / turn.pieces for seconds in (spent, forward))
    return turn


def _forward_seconds(members: Sequence[Member]) -> float:
    return sum(member.seconds for member in members)
