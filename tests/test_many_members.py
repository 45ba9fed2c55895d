"""Ensembles of very many members are prepared in time that grows with their number, not with its cube."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from rich.console import Console

from unisono import member_template
from unisono.build import prepare
from unisono.chat.template import ChatTemplate
from unisono.chat.template_probe import AnswerForm, probe_answer_form
from unisono.cli.doctor import _show
from unisono.config.ensemble import load_spec
from unisono.diagnosis import PAIRED, diagnose
from unisono.errors import SpecError
from unisono.members import silent
from unisono.vocab.tokenizer import Tokenizer
from unisono.wanted_models import find_models

MANY = 1_000


@pytest.mark.parametrize("shared", [False, True])
def test_a_thousand_members_are_found_at_once(shared: bool) -> None:
    first = {"name": "m0", "model": "fake:one"}
    others = {"share_weights_with": "m0"} if shared else {"model": "fake:one"}
    began = time.perf_counter()
    spec = load_spec({"members": [first, *({"name": f"m{n}", **others} for n in range(1, MANY))]})
    found = find_models(spec, 1, silent)
    assert time.perf_counter() - began < 2
    assert [each.copy for each in found.values()] == list(range(1 if shared else MANY))
    assert found["m0"].slots == (MANY if shared else 1)


def lines_of(function: Callable[[], Any]) -> int:
    """How many lines of Python a call runs."""
    count, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def test_a_diagnosis_grows_with_the_number_of_members_and_not_with_its_square(duo: Path) -> None:
    counts = []
    for many in (2 * PAIRED, 4 * PAIRED):
        members = [{"name": f"m{n}", "model": f"fake:{'ab'[n % 2]}"} for n in range(many)]
        prepared = prepare(load_spec({"members": members, "lead": "m5"}))
        found = diagnose(prepared)
        assert [pair.members[0] for pair in found.pairs] == ["m5"] * (many - 1)
        console = Console(file=io.StringIO(), soft_wrap=True)
        counts.append((lines_of(partial(diagnose, prepared)), lines_of(partial(_show, found, console))))
    for few, more in zip(*counts, strict=True):
        assert more < 2.3 * few


def test_copies_of_a_model_ask_its_template_once_and_other_templates_are_asked(
    duo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ChatTemplate | None] = []

    def counted(template: ChatTemplate | None, tokenizer: Tokenizer) -> AnswerForm:
        asked.append(template)
        return probe_answer_form(template, tokenizer)

    monkeypatch.setattr(member_template, "probe_answer_form", counted)
    own = {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    members = [{"name": f"m{n}", "model": f"fake:{'ab'[n % 2]}", **(own if n > 7 else {})} for n in range(12)]
    prepared = prepare(load_spec({"members": members}))
    assert len(asked) == 4  # of each model, its own and the other
    templates = [member.encoder.template for member in prepared.members]
    assert len({id(template) for template in templates}) == 4
    assert templates[0] is templates[6] is not templates[8]


def test_two_of_a_thousand_names_are_found_alike() -> None:
    names = [*(f"m{n}" for n in range(MANY)), "m7"]
    with pytest.raises(SpecError, match="two members are named 'm7'"):
        load_spec({"members": [{"name": name, "model": "fake:one"} for name in names]})
