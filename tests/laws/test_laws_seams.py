"""The laws for calls by seams, on fakes: the engine equals the plain loop, mass is kept, and no text is a call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from support.callers import FIRST, SCRIPTS, caller_table, follows, make_callers
from support.fakes import check
from support.tool_templates import PING, WEATHER, call, exchange
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Message, Prompt
from unisono.chat.tool_grammar import call_grammar
from unisono.chat.tool_parser import find_calls
from unisono.chat.tools import Tool
from unisono.config.constraint import LARK, Constraint
from unisono.config.method import Method
from unisono.config.reasoning import Reasoning
from unisono.constraints.reasoning import BesideReasoning
from unisono.engine.reference import plain_steps
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.records import Limits
from unisono.testing import FakeModel, LongestMatchTokenizer, register_fake

PIECES = 60
GROUPS = [("harmony",), ("deepseek",), ("kimi", "tagged"), ("harmony", "mistral"), ("mistral", "harmony", "deepseek")]
TOOLS = tuple(
    Tool(type="function", function={"name": name, "parameters": {"type": "object"}}) for name in ("ping", "ping_all")
)
ASK = Message(role="user", content="Hi")


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_callers(noise=3.0)
    yield
    FAKE_MODELS.clear()


def load(names: Sequence[str], **keys: Any) -> Ensemble:
    return Ensemble.load({"members": [{"name": name, "model": f"fake:{name}"} for name in names], **keys}, batch=8)


def bound(ensemble: Ensemble, **how: Any) -> Constraint:
    return Constraint(LARK, call_grammar(ensemble.call_form(), TOOLS, several=True, **how))


@pytest.mark.parametrize("keys", ["greedy", "0.9 seed:3"])
@pytest.mark.parametrize("names", GROUPS)
def test_the_engine_writes_what_the_plain_loop_writes(names: tuple[str, ...], keys: str) -> None:
    prompt = Prompt(messages=(ASK,), tools=TOOLS)
    with load(names) as ensemble:
        engine = ensemble._engine
        for free in (False, True):
            constraint = bound(ensemble, free=free)
            start = BesideReasoning(Reasoning(), engine.union, ensemble.prepared.grammars(constraint))
            assert start.by_seams
            for gate, drafter in (("always", "off"), ("confidence:0.5", f"{names[-1]}:3"), ("always", "ngram")):
                if drafter.partition(":")[0] == names[0]:
                    continue
                method = Method(lead=names[0]).but(gate=gate, speculate=drafter, sampling=keys)
                text = engine.add(prompt, Limits(PIECES), method=method, trace=True, constraint=constraint)
                while engine.active:
                    engine.step()
                steps = plain_steps(engine.members, engine.union, prompt, PIECES, method, parse=start.copy())
                check([text], [list(steps)], names)


@pytest.mark.parametrize("names", GROUPS)
def test_mass_is_kept_and_marks_are_no_text(names: tuple[str, ...]) -> None:
    with load(names) as ensemble:
        for member in ensemble._engine.members:
            rows = np.zeros((1, len(member.map.column_V)), np.float32)
            assert member.map.turns
            for turn in member.map.turns:
                assert member.fold(rows, [turn]).sum() == pytest.approx(1.0)
        answer = ensemble.generate(messages=[ASK], tools=TOOLS, constraint=bound(ensemble), trace=True)
        assert answer.steps is not None
        marks = [step.mark for step in answer.steps if step.mark and step.mark.startswith("call")]
        assert marks[:3] == ["call_begin", "call_arguments", "call_end"]
        assert all(step.piece == b"" for step in answer.steps if step.mark)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "tagged"])
def test_a_model_that_spells_the_form_in_letters_makes_no_call(name: str) -> None:
    table, script = caller_table(name), SCRIPTS[name][1]
    letters = "Like this: " + script[script.rfind("assistant") :].removeprefix("assistant|>").removesuffix("</s>")
    if name == "harmony":  # which names its channel first
        letters = f"<|start|>assistant<|channel|>final<|message|>{letters.replace('assistant', '')}"
    register_fake("letters", FakeModel(LongestMatchTokenizer(table), follows(table, letters, letters=True)))
    with load(["letters"]) as ensemble:
        form = ensemble.call_form()
        answer = ensemble.generate(
            messages=[ASK], tools=TOOLS, constraint=bound(ensemble, free=True), max_new_tokens=60, trace=True
        )
        assert answer.steps is not None
        assert not any((step.mark or "").startswith("call") for step in answer.steps)
        assert len(answer.text) > 8
        assert find_calls(form, ["ping", "ping_all"], answer.text) == (answer.text, ())


@pytest.mark.parametrize("name", SCRIPTS)
def test_text_of_a_user_holds_no_mark_and_past_calls_are_written_as_the_template_writes_them(name: str) -> None:
    with load([name]) as ensemble:
        encoder = ensemble._engine.members[0].encoder
        table = encoder.tokenizer.table
        history = [ASK, *exchange(call("ping", json.loads(FIRST)))]
        ids = encoder.encode(Prompt(messages=tuple(history), tools=TOOLS))
        plain = encoder.encode(Prompt(messages=(ASK,), tools=TOOLS))
        marks = set(encoder.marks.seams)
        script = SCRIPTS[name][1]
        typed = encoder.encode(Prompt(messages=(Message(role="user", content=script),), tools=TOOLS))
        assert [token for token in typed if token in marks] == [token for token in plain if token in marks]
        assert bool(set(ids) & marks) is bool(marks)
        assert encoder.own_template().render([{"role": "user", "content": "Hi"}])
        assert table.texts


def test_a_tool_whose_name_goes_on_as_the_form_does_is_refused() -> None:
    with load(["kimi"]) as ensemble:
        tools = [PING, Tool(type="function", function={**WEATHER["function"], "name": "ping:more"})]
        with pytest.raises(SpecError, match=r"'ping:more' cannot be told from 'ping': calls have ':' behind a name"):
            call_grammar(ensemble.call_form(), tools)
