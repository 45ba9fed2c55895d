"""The ensemble file: what is right is read, what is wrong is named with its place and the way out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from unisono.errors import SpecError
from unisono.spec import EnsembleSpec, load_spec


def write(folder: Path, text: str) -> Path:
    path = folder / "duo.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(source: object) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(source)  # type: ignore[arg-type]
    return f"{caught.value} {caught.value.hint or ''}"


def member(**keys: object) -> dict[str, object]:
    return {"name": "a", "model": "m", **keys}


def test_the_specs_of_the_documentation_are_read(tmp_path: Path) -> None:
    spec = load_spec(
        write(
            tmp_path,
            """
members:
  - {name: smol, model: "demo:smollm2-135m-instruct"}
  - {name: gemma, model: "demo:gemma3-270m", backend: llamacpp, weight: 1, chat_template: "{{ messages }}"}
combine: mean
""",
        )
    )
    assert [member.name for member in spec.members] == ["smol", "gemma"]
    assert spec.members[1].backend == "llamacpp"
    assert spec.folder == tmp_path


def test_a_spec_is_passed_through_and_a_mapping_is_checked() -> None:
    spec = load_spec({"members": [member()]})
    assert isinstance(spec, EnsembleSpec)
    assert load_spec(spec) is spec


def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_known_one(tmp_path: Path) -> None:
    text = "members:\n  - name: a\n    model: m\n    wieght: 2\n"
    words = problem(write(tmp_path, text))
    assert "line 4, column 5" in words
    assert "'wieght'" in words
    assert "did you mean 'weight'" in words
    assert "did you mean 'combine'" in problem({"members": [member()], "combin": "mean"})


def test_broken_yaml_is_refused_with_line_and_column(tmp_path: Path) -> None:
    words = problem(write(tmp_path, "members:\n  - {name: a, model: m\ncombine: mean\n"))
    assert "line 3" in words
    assert "column" in words
    assert "not valid YAML" in words


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "line 2, column 1: the key 'combine' is given twice" in problem(
        write(tmp_path, "combine: mean\ncombine: mean\nmembers: [{name: a, model: m}]\n")
    )


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([-1.0, 1.0], "members[0].weight is -1.0"),
        ([math.nan, 1.0], "members[0].weight is nan"),
        ([math.inf, 1.0], "members[0].weight is inf"),
        ([0.0, 0.0], "all weights are 0"),
        (["heavy", 1.0], "members[0].weight is 'heavy'"),
    ],
)
def test_impossible_weights_are_refused(weights: list[object], words: str) -> None:
    spec = {"members": [member(weight=weights[0]), member(name="b", weight=weights[1])]}
    assert words in problem(spec)


def test_weight_zero_leaves_a_member_out_and_the_others_share_the_vote() -> None:
    spec = load_spec({"members": [member(weight=3), member(name="b", weight=0), member(name="c", weight=1)]})
    assert [(voter.name, weight) for voter, weight in spec.voters()] == [("a", 0.75), ("c", 0.25)]


def test_a_name_given_twice_is_refused() -> None:
    assert "two members are named 'a'" in problem({"members": [member(), member(model="other")]})


@pytest.mark.parametrize("spec", [{"members": []}, {}, {"members": None}])
def test_a_spec_without_members_is_refused(spec: dict[str, object]) -> None:
    assert "members" in problem(spec)


def test_an_unknown_backend_is_refused_with_the_nearest() -> None:
    words = problem({"members": [member(backend="lamacpp")]})
    assert "unknown backend 'lamacpp'" in words
    assert "did you mean 'llamacpp'" in words


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    assert "unknown rule 'means'; did you mean 'mean'" in problem({"members": [member()], "combine": "means"})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"name": "two words"}, "members[0].name is 'two words'"),
        ({"context": 0}, "members[0].context is 0"),
        ({"threads": 1.5}, "members[0].threads is 1.5"),
        ({"model": ""}, "members[0].model is ''"),
        ({"options": "fast"}, "members[0].options is 'fast'"),
    ],
)
def test_a_value_out_of_place_is_named(keys: dict[str, object], words: str) -> None:
    assert words in problem({"members": [member(**keys)]})


def test_a_member_without_a_model_is_refused() -> None:
    assert "members[0] lacks the key 'model'" in problem({"members": [{"name": "a"}]})


def test_what_is_no_mapping_is_refused(tmp_path: Path) -> None:
    assert "a spec is a mapping" in problem(write(tmp_path, "- just\n- a list\n"))
    assert "a spec is a mapping" in problem(write(tmp_path, ""))


def test_a_missing_file_and_an_unreadable_one_are_named(tmp_path: Path) -> None:
    assert "there is no spec file" in problem(tmp_path / "none.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "cannot read the spec file" in problem(binary)
    assert "cannot read the spec file" in problem(tmp_path)
