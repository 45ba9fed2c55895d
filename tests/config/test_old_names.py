"""Old names of keys and flags still work, with a word of warning; both names at once are refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import unisono
from support.command_line import Run
from unisono import errors
from unisono.config.ensemble import load_spec
from unisono.config.method import Method
from unisono.config.sampling import Sampling
from unisono.config.setting import parse_setting
from unisono.errors import OldNameWarning, SpecError

TWINS = [{"name": "a", "model": "fake:a"}, {"name": "b", "share_weights_with": "a", "system": "Be brief."}]


def test_a_file_may_use_the_old_names_of_keys() -> None:
    old: dict[str, Any] = {"members": [TWINS[0], {"name": "b", "weights_of": "a", "system": "Be brief."}], "draw": 0.5}
    with pytest.warns(OldNameWarning) as told:
        spec = load_spec(old)
    assert spec == load_spec({"members": TWINS, "sampling": 0.5})
    assert [str(warning.message) for warning in told] == [
        "draw is now called sampling",
        "members[1].weights_of is now called share_weights_with",
    ]
    assert "draw" in old, "what the caller gave is left alone"


def test_a_wrong_value_under_an_old_name_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "duo.yaml"
    path.write_text("members:\n  - {name: a, model: 'fake:a'}\ndraw: 0.7 top_q:1\n")
    with pytest.warns(OldNameWarning), pytest.raises(SpecError, match=r"line 3, column 1.*top_q"):
        load_spec(path)


@pytest.mark.parametrize(
    ("old", "new"), [({"draw": 1, "sampling": 1}, "sampling and draw"), ({"draw": 1, "sampling": None}, "sampling and")]
)
def test_a_key_under_both_names_is_refused(old: dict[str, Any], new: str) -> None:
    with pytest.raises(SpecError, match=f"{new}.*its old name, are both given"):
        load_spec({"members": TWINS, **old})


def test_flags_have_their_old_names_too(run: Run, duo: Path) -> None:
    words = ("run", duo, " the", "--max-new-tokens", 4, "--json")
    new = run(*words, "--sampling", "1 seed:3")
    with warnings.catch_warnings():
        warnings.simplefilter("default", OldNameWarning)
        old = run(*words, "--draw", "1 seed:3")
    assert "--draw is now --sampling" in old.err
    assert "--sampling" not in new.err
    assert (new.code, old.code) == (0, 0)
    assert new.out.split('"seconds"')[0] == old.out.split('"seconds"')[0]
    both = run(*words, "--draw", "1", "--sampling", "1")
    assert both.code == 2
    assert "--sampling and --draw, its old name, are both given" in both.err
    same = run(*words, "--temperature", 1, "--seed", 3)
    assert same.out.split('"seconds"')[0] == new.out.split('"seconds"')[0]


def test_a_setting_may_use_the_old_name() -> None:
    with pytest.warns(OldNameWarning, match="sampling"):
        assert parse_setting("draw=0.5") == parse_setting("sampling=0.5")


@pytest.mark.parametrize("name", ["Draw", "NoRoom", "Combine", "SpecError", "find_calls", "Message"])
def test_names_that_moved_are_still_at_the_top(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"unisono\.{name} is now unisono\."):
        assert getattr(unisono, name) is not None


def test_errors_have_their_old_names_too() -> None:
    with pytest.warns(OldNameWarning, match="NoRoom is now CapacityError"):
        assert errors.NoRoom is errors.CapacityError  # type: ignore[attr-defined]


@pytest.mark.parametrize("new", ["mixture seed:3", {"mixture": True, "seed": 3}])
def test_mixture_is_the_name_of_one_member(new: Any) -> None:
    assert Sampling.parse(new) == Sampling.parse("one-member seed:3") == Sampling.parse({"one_member": True, "seed": 3})


def test_the_record_takes_the_old_name_of_mixture_and_answers_to_it() -> None:
    old: dict[str, Any] = {"temperature": 1, "one_member": True}
    assert Sampling(**old) == Sampling(temperature=1, mixture=True)
    assert Sampling(**old).one_member
    assert replace(Sampling(temperature=1), one_member=True) == Sampling(**old)  # type: ignore[call-arg]
    assert not replace(Sampling(**old), mixture=False).mixture
    assert "one_member" in Method(sampling=Sampling(**old)).to_json()["draw"]  # type: ignore[operator]


BOTH = "its old name, are both given"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sampling(temperature=1, mixture=True, one_member=False), "mixture and one_member"),  # type: ignore[call-arg]
        (lambda: Sampling.parse({"one_member": False, "mixture": True}), "mixture and one_member"),
        (lambda: Sampling.parse({"mixture": True, "one_member": True}), "mixture and one_member"),
        (lambda: Method().but(sampling={"mixture": False, "one_member": True}), "mixture and one_member"),
        (lambda: Method().but(sampling=1, draw=1), "sampling and draw"),
        (lambda: parse_setting("draw=1 sampling=1"), "sampling and draw"),
        (
            lambda: load_spec({"members": [{**TWINS[1], "weights_of": "a"}]}),
            r"members\[0\].share_weights_with and weights",
        ),
        (
            lambda: load_spec({"members": TWINS, "draw": {"mixture": True, "one_member": True}}),
            "mixture and one_member",
        ),
    ],
)
def test_both_names_of_one_thing_are_refused(make: Callable[[], object], words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldNameWarning)
        with pytest.raises(SpecError, match=f"{words}.*{BOTH}"):
            make()


@pytest.mark.parametrize("name", ["mixture", "one-member", "one_member"])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("greedy", "draws a member and a piece"),
        ("top_p:0.9", "runs a single member, but top_p acts"),
        ("beam_width:2", "draws, and a beam searches"),
    ],
)
def test_errors_say_the_name_that_was_written(name: str, more: str, words: str) -> None:
    with pytest.raises(SpecError, match=f"^{name} {words}"):
        Sampling.parse(f"{more} {name}")


@pytest.mark.parametrize("name", ["mixture", "one_member"])
def test_errors_say_the_key_that_was_written(name: str) -> None:
    with pytest.raises(SpecError, match=f"^{name} is 3$"):
        Sampling.parse({name: 3})
    with pytest.raises(SpecError, match=f"^{name} is 3$"):
        Sampling(**{name: 3})  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=f"^{name} draws a member"):
        Sampling.parse({name: True}).but({"temperature": 0})
    with pytest.raises(SpecError, match=f"^{name} draws from the weighted mean"):
        Method(combine="max", sampling={name: True})  # type: ignore[arg-type]


def test_a_file_is_told_the_key_that_it_has() -> None:
    with pytest.warns(OldNameWarning), pytest.raises(SpecError, match=r"members\[1\].weights_of is 'c': there is no"):
        load_spec({"members": [TWINS[0], {"name": "b", "weights_of": "c"}]})
    with pytest.warns(OldNameWarning), pytest.raises(SpecError, match="in draw; did you mean"):
        load_spec({"members": TWINS, "draw": "top_q:1"})
    with pytest.raises(SpecError, match="in draw; did you mean"):
        Method().but(draw="top_q:1")
    with pytest.raises(SpecError, match="in sampling; did you mean"):
        Method().but(sampling="top_q:1")
