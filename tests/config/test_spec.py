"""The ensemble file: what is right is read, what is wrong is named with its place and the way out."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml

from unisono.backends.registry import BACKENDS, CHOICES
from unisono.config.ensemble import EnsembleSpec, MemberSpec, load_spec
from unisono.config.gate import Gate
from unisono.config.method import Method
from unisono.config.speculation import Speculation
from unisono.errors import SpecError
from unisono.fusion.gate_scores import GATE_KINDS

ROOT = Path(__file__).parents[2]


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


def trio(**keys: object) -> dict[str, object]:
    """Two members that vote and one that does not."""
    return {"members": [member(), member(name="b"), member(name="mute", weight=0)], **keys}


def whole_specs(page: str) -> list[str]:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in blocks if re.search(r"^members:", block, re.MULTILINE)]


@pytest.mark.parametrize("page", ["docs/spec.md", "README.md"])
def test_the_specs_of_the_documentation_are_read(tmp_path: Path, page: str) -> None:
    known = (
        ["smol", "gemma"],
        ["thinker", "other"],
        ["plain", "teacher", "shots"],
        ["base", "medic", "lawyer"],
        ["large", "tuned", "untuned"],
    )
    for block in whole_specs(page):
        spec = load_spec(write(tmp_path, block))
        assert [member.name for member in spec.members] in known
        assert spec.folder == tmp_path
    assert whole_specs(page)


def test_the_documentation_has_every_key_and_every_gate() -> None:
    page = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    members = MemberSpec.model_fields.keys()
    for key in (
        *EnsembleSpec.model_fields.keys() - {"folder"},
        *members,
        "boundary",
        "threshold",
        "n",
        "drafter",
        "max_pieces",
    ):
        assert f"`{key}`" in page or f"## {key}" in page, key
    for kind in GATE_KINDS:
        assert f"| `{kind}`" in page, kind


def test_the_examples_are_read() -> None:
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        assert load_spec(path).members
    gated = load_spec(ROOT / "examples" / "duo-gated.yaml").method
    assert gated == Method("smol", "mean", Gate("confidence", 0.7, boundary=True), Speculation("smol"))
    assert load_spec(ROOT / "examples" / "duo.yaml").method == Method()


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
        ([-1.0, 1.0], "'mean' has no use for a negative weight"),
        ([math.nan, 1.0], "members[0].weight is nan"),
        ([math.inf, 1.0], "members[0].weight is inf"),
        ([0.0, 0.0], "no weight is positive"),
        (["heavy", 1.0], "members[0].weight is 'heavy'"),
    ],
)
def test_impossible_weights_are_refused(weights: list[object], words: str) -> None:
    spec = {"members": [member(weight=weights[0]), member(name="b", weight=weights[1])]}
    assert words in problem(spec)


@pytest.mark.parametrize("rule", ["logits", "contrastive"])
def test_a_lead_may_be_named_beside_a_negative_weight(rule: str) -> None:
    members = [member(), member(name="b", weight=-0.5)]
    assert load_spec({"members": members, "lead": "a", "combine": rule}).method.lead == "a"
    assert "the lead 'b' has a negative weight" in problem({"members": members, "lead": "b", "combine": rule})
    assert "'mean' has no use for a negative weight" in problem({"members": members, "lead": "a"})


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


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ("{name: b}", "3, column 5",
         "members[1] lacks the key 'model'; give it one, or share_weights_with with the name"),
        ("{name: b, share_weights_with: a, model: m}", "3, column 15",
         "is 'a', but this member has a model of its own"),
        ("{name: b, share_weights_with: aa}", "3, column 15",
         "no such member; did you mean 'a'?; members with a model: a"),
        ("{name: b, share_weights_with: b}", "3, column 15",
         "members[1].share_weights_with is 'b': that is the member itself"),
        ("{name: b, share_weights_with: [a]}", "3, column 15", "members[1].share_weights_with is [\"a\"]"),
        ("{name: b, share_weights_with: c}\n  - {name: c, share_weights_with: a}", "3, column 15",
         "share_weights_with is 'c': that member takes its own weights from 'a'; write share_weights_with: a here too"),
        ("{name: b, share_weights_with: c}\n  - {name: c, share_weights_with: b}", "3, column 15",
         "members with a model: a"),
        ("{name: b, share_weights_with: a, backend: llamacpp}", "3, column 38",
         "members[1].backend is 'llamacpp', which is for the weights to say, and those are of 'a'; give it to 'a'"),
        ("{name: b, share_weights_with: a, dtype: float32}", "3, column 38",
         "members[1].dtype is 'float32', which is for the"),
        ("{name: b, share_weights_with: a, device: cpu}", "3, column 38",
         "members[1].device is 'cpu', which is for the"),
        ("{name: b, share_weights_with: a, context: 9}", "3, column 38",
         "members[1].context is 9, which is for the weights"),
        ("{name: b, share_weights_with: a, threads: 2}", "3, column 38",
         "members[1].threads is 2, which is for the weights"),
        ("{name: b, share_weights_with: a, options: {mmap: on}}", "3, column 38", "which is for the weights to say"),
        ("{name: b, model: m, system: ''}", "3, column 25", "system is '': it is empty; write some text, or leave"),
        ("{name: b, model: m, prefix: ''}", "3, column 25", "prefix is '': it is empty"),
        ('{name: b, model: m, prefix: "\\ud800"}', "3, column 25", "it is not Unicode text; repair its encoding"),
        ("{name: b, model: m, system: [1]}", "3, column 25", "system is [1]"),
    ],
)  # fmt: skip
def test_weights_and_words_that_cannot_be_are_refused_with_their_place(
    tmp_path: Path, line: str, place: str, words: str
) -> None:
    found = problem(write(tmp_path, f"members:\n  - {{name: a, model: m}}\n  - {line}\n"))
    assert f"line {place}: " in found
    assert words in found


def test_members_may_share_weights_and_have_words_of_their_own() -> None:
    members = [
        member(weight=0, dtype="float32", system="S"),
        {
            "name": "b",
            "share_weights_with": "a",
            "prefix": "P",
            "chat_template": "x",
            "weight": 2,
            "dtype": None,
            "options": {},
        },
        {"name": "c", "share_weights_with": "a"},
    ]
    spec = load_spec({"members": members})
    assert [each.owner for each in spec.members] == ["a", "a", "a"]
    assert [name.name for name, _ in spec.voters()] == ["b", "c"]
    assert load_spec(spec.model_dump()) == spec
    assert load_spec(spec.model_dump(exclude_defaults=True)) == spec


def test_what_is_no_mapping_is_refused(tmp_path: Path) -> None:
    assert "a spec is a mapping" in problem(write(tmp_path, "- just\n- a list\n"))
    assert "duo.yaml is empty" in problem(write(tmp_path, ""))


def test_a_missing_file_and_an_unreadable_one_are_named(tmp_path: Path) -> None:
    assert "there is no ensemble file" in problem(tmp_path / "none.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "cannot read the ensemble file" in problem(binary)
    assert "cannot read the ensemble file" in problem(tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"members: [{name: a, model: m}]\n---\nmembers: []\n", "line 2: a second document begins here"),
        ("# Méthode\nmembers: [{name: a, model: m}]".encode("latin-1"), "not UTF-8, at byte 3, in line 1: save it as"),
        ("members: [{name: a, model: m}]".encode("utf-16"), "it is UTF-16: save it as UTF-8"),
        ("members: [{name: a, model: m}]".encode("utf-16-le"), "if the file is UTF-16, save it as UTF-8"),
        (b"x: &a {name: a, model: m}\nmembers: [*a]\n", "a key of your own begins with x-"),
        (b"members: [{name: a, model: m, weight: 1e3}]", "'1e3': it must be a number; write 1000"),
        (b"members: [{name: a, model: m, context: '4096'}]", "'4096': it must be a whole number; write 4096"),
    ],
)
def test_a_file_that_is_nearly_one_says_the_way_out(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "duo.yaml"
    path.write_bytes(data)
    with pytest.raises(SpecError) as refused:
        load_spec(path)
    assert words in f"{refused.value.message}; {refused.value.hint}"


def test_keys_at_the_top_that_begin_with_x_are_the_authors_own(tmp_path: Path) -> None:
    text = "x-model: &model m\nx-method: {gate: x}\nmembers: [{name: a, model: *model}]\n"
    assert load_spec(write(tmp_path, text)).members == load_spec({"members": [member(name="a", model="m")]}).members
    assert "unknown key 'x-y' in members[0]" in problem(write(tmp_path, "members: [{name: a, model: m, x-y: 1}]"))


def test_the_backends_that_an_error_and_the_documentation_list_are_those_that_a_file_names() -> None:
    found = problem({"members": [member(backend="lamacpp")]})
    row = next(line for line in (ROOT / "docs/spec.md").read_text().splitlines() if line.startswith("| `backend` |"))
    for name in BACKENDS:
        assert (name in found) == (f"`{name}`" in row) == (name in CHOICES), name


def test_the_default_is_the_papers_method() -> None:
    assert load_spec(trio()).method == Method() == Method(None, "mean", Gate("always"), None)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("always", Gate()),
        ("confidence:0.5", Gate("confidence", threshold=0.5)),
        ("margin:0", Gate("margin", threshold=0)),
        ("entropy:1.5", Gate("entropy", threshold=1.5)),
        ("every:4", Gate("every", n=4)),
        ("first:10", Gate("first", n=10)),
        ("{kind: confidence, threshold: 0.5, boundary: true}", Gate("confidence", threshold=0.5, boundary=True)),
        ("{kind: every, n: 4}", Gate("every", n=4)),
        ("{boundary: true}", Gate(boundary=True)),
    ],
)
def test_a_gate_is_a_word_or_a_mapping(given: str, meant: Gate) -> None:
    assert load_spec(trio(gate=yaml.safe_load(given))).method.gate == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("a", Speculation("a")),
        ("b:4", Speculation("b", 4)),
        ("ngram", Speculation("ngram")),
        ("auto:64", Speculation("auto", 64)),
        ("{drafter: a}", Speculation("a", 6)),
        ("{drafter: a, max_pieces: 1}", Speculation("a", 1)),
        ("off", None),  # which YAML reads as False
        ("'off'", None),
        ("~", None),
    ],
)
def test_speculation_is_a_word_or_a_mapping_or_off(given: str, meant: Speculation | None) -> None:
    assert load_spec(trio(speculate=yaml.safe_load(given))).method.speculate == meant


def test_the_first_member_that_votes_leads_unless_another_is_named() -> None:
    assert load_spec(trio()).method.lead is None
    assert load_spec(trio(lead="b")).method.lead == "b"


def test_a_spec_survives_being_written_down_and_read_again() -> None:
    spec = load_spec(trio(lead="b", gate="confidence:0.5", speculate="a:3"))
    assert load_spec(spec.model_dump()) == spec
    assert EnsembleSpec.model_validate_json(spec.model_dump_json()) == spec
    assert load_spec(load_spec(trio()).model_dump(exclude_defaults=True)) == load_spec(trio())


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ("gate: off", "4, column 1", "the gate is off; write always"),
        ("gate: [1]", "4, column 1", "gate is [1]; write it as always"),
        ("gate: confidance:0.5", "4, column 1", "unknown gate 'confidance:0.5'; did you mean 'confidence'"),
        ("gate: confidence", "4, column 1", "the gate 'confidence' needs threshold"),
        ("gate: confidence:high", "4, column 1", "'high': it must be a number from 0 to 1"),
        ("gate: confidence:1.01", "4, column 1", "1.01: it must be a number from 0 to 1"),
        ("gate: margin:-0.1", "4, column 1", "-0.1: it must be a number from 0 to 1"),
        ("gate: entropy:.nan", "4, column 1", "it must be a number from 0 to 20"),
        ("gate: every:0", "4, column 1", "0: it must be a whole number of 1 or more"),
        ("gate: first:1.5", "4, column 1", "1.5: it must be a whole number of 0 or more"),
        ("gate: {kind: every,\n  n: 0}", "5, column 3", "the n of the gate 'every' is 0"),
        ("gate: {kind: every, n: 2,\n  threshold: 1}", "5, column 3", "the gate 'every' has no threshold"),
        ("gate: {kind: confidence,\n  treshold: 1}", "5, column 3", "'treshold' in gate; did you mean 'threshold'"),
        ("gate: {threshold: 0.5,\n  boundary: 1, kind: margin}", "5, column 3", "boundary is 1; it is true or false"),
        ("lead: mute", "4, column 1", "the lead 'mute' has weight 0, so it is left out; members that vote: a, b"),
        ("lead: c", "4, column 1", "the lead 'c' is not a member that votes; members that vote: a, b"),
        ("lead: 3", "4, column 1", "lead is 3"),
        ("speculate: mute", "4, column 1", "the drafter 'mute' has weight 0, so it is left out"),
        ("speculate: ngrams", "4, column 1", "the drafter 'ngrams' is not a member that votes; did you mean 'ngram'"),
        ("speculate: {drafter: c}", "4, column 13", "name one of a, b, or ngram, auto, or off for nobody"),
        ("speculate: on", "4, column 1", "speculate is true; write it as smol"),
        ("speculate: a:65", "4, column 1", "max_pieces is 65: it must be a whole number from 1 to 64"),
        ("speculate: {drafter: a,\n  max_pieces: 0}", "5, column 3", "max_pieces is 0"),
        ("speculate: {drafter: a,\n  max_piece: 3}", "5, column 3", "did you mean 'max_pieces'"),
        ("speculate: {max_pieces: 3}", "4, column 1", "speculate lacks the key 'drafter'"),
    ],
)
def test_a_method_that_cannot_be_is_refused_with_its_place(tmp_path: Path, line: str, place: str, words: str) -> None:
    members = ["{name: a, model: m}", "{name: b, model: m}", "{name: mute, model: m, weight: 0}"]
    found = problem(write(tmp_path, f"# three\nmembers: [{', '.join(members)}]\n\n{line}\n"))
    assert f"line {place}: " in found
    assert words in found


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"gate": "confidence:0.5"}, "the gate 'confidence:0.5' has no other member to ask: a votes alone"),
        ({"gate": {"boundary": True}}, "has no other member to ask"),
        ({"speculate": "a"}, "'a' votes alone: drafts of its own would be verified by nobody"),
    ],
)
def test_a_member_that_votes_alone_has_nobody_to_spare(keys: dict[str, object], words: str) -> None:
    assert words in problem({"members": [member(), member(name="mute", weight=0)], **keys})
    assert load_spec({"members": [member()], "speculate": "ngram"}).method.speculate == Speculation("ngram")


def test_a_member_may_not_bear_the_name_of_a_drafter_that_drafts() -> None:
    spec = {"members": [member(), member(name="ngram")]}
    assert load_spec(spec).members[1].name == "ngram"
    assert "'ngram' could be the member of that name" in problem({**spec, "speculate": "ngram"})


def test_some_keys_of_a_spec_can_be_replaced() -> None:
    spec = load_spec(trio(gate="confidence:0.5", speculate="a:3"))
    assert spec.but() == spec
    assert spec.but(lead="b", boundary=True).method == Method(
        "b", "mean", Gate("confidence", 0.5, boundary=True), Speculation("a", 3)
    )
    assert spec.but(gate="always", speculate="off").method == Method()
    assert spec.but(max_pieces=9).method.speculate == Speculation("a", 9)
    for keys, words in (
        ({"lead": "mute"}, "has weight 0"),
        ({"speculate": "off", "max_pieces": 2}, "max_pieces is given, but nobody drafts"),
        ({"gate": "confidence:2"}, "from 0 to 1"),
    ):
        with pytest.raises(SpecError, match=words):
            spec.but(**keys)


def test_a_key_left_empty_is_a_key_left_out() -> None:
    assert load_spec(trio(lead=None, gate=None, speculate=None)).method == Method()


def test_a_duplicate_key_is_named_once_and_is_not_called_bad_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, "members: [{name: a, model: m}]\ngate: always\ngate: always\n")
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert str(caught.value) == f"{path}, line 3, column 1: the key 'gate' is given twice"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gate: off", "the gate is off; write always, which asks the others at every step, or first:0"),
        ("gate: {kind: off}", "the gate is off; write always"),
        ("gate: {confidence: 0.5}", "write confidence:0.5 or {kind: confidence, threshold: 0.5}"),
        ("gate: confidence: 0.5", "write gate: confidence:0.5"),
        ("gate: {kind: confidence, threshold: 1e-1}", "write confidence:0.1 or threshold: 0.1"),
        ("speculate: a: 4", "write speculate: a:4"),
        ("speculate: {drafter: off}", "the drafter is off; write speculate: off"),
        ("speculate: none", "or ngram, auto, or off for nobody"),
        ("lead: no", "the lead is false; members that vote: a, b"),
    ],
)
def test_the_likeliest_slips_are_told_the_way_out(tmp_path: Path, line: str, words: str) -> None:
    path = write(tmp_path, f"members:\n  - {{name: a, model: m}}\n  - {{name: b, model: m}}\n{line}\n")
    found = problem(path)
    assert words in found
    assert "did you mean 'always'" not in found


def test_nobody_and_a_member_named_off_are_not_confused() -> None:
    spec = {"members": [member(), member(name="off")]}
    for value in ("off", False):
        assert "'off' could be the member of that name" in problem({**spec, "speculate": value})
    with pytest.raises(SpecError, match="'off' could be the member"):
        load_spec(spec).but(speculate="off")


def test_huge_values_are_shortened() -> None:
    for keys in ({"lead": "x" * 9000}, {"gate": "x" * 9000}, {"speculate": "a:" + "9" * 9000}, {"x" * 9000: 1}):
        assert len(problem(trio(**keys))) < 500


def test_a_file_may_still_say_piecewise_and_no_other_spelling() -> None:
    members = [{"name": "a", "model": "demo:smollm2-135m-instruct"}]
    with pytest.warns(FutureWarning, match="leave it out"):
        assert load_spec({"members": members, "spelling": "piecewise"}) == load_spec({"members": members})
    with pytest.raises(SpecError, match="spelling is 'canonical', but members only read"):
        load_spec({"members": members, "spelling": "canonical"})
