"""Configurations of the GaC release: what becomes of them, and that it means the same."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unisono.config.ensemble import EnsembleSpec, load_spec
from unisono.config.gac import Imported, import_gac, placed
from unisono.errors import SpecError

NORM, THRESHOLD, MODELS = "NORM_TYPE_API_SERVER", "THRESHOLD_API_SERVER", "CONFIG_API_SERVER"


def model(name: str = "solar", **keys: Any) -> dict[str, Any]:
    """A model as the release's examples have it."""
    known = {
        "weight": f"org/{name}",
        "max_memory": {0: "24GiB"},
        "num_gpus": 0.5,
        "name": name,
        "score": 100,
        "priority": "supportive",
        "quantization": "none",
    }
    return {key: value for key, value in {**known, **keys}.items() if value is not ...}


def config(*models: dict[str, Any], norm: str = "average", threshold: Any = 1.0) -> str:
    data = {NORM: norm, THRESHOLD: threshold, MODELS: list(models)}
    return yaml.safe_dump(data, sort_keys=False)


def converted(*models: dict[str, Any], **keys: Any) -> Imported:
    return import_gac(config(*models, **keys), Path("gac.yaml"))


def read_back(imported: Imported, folder: Path) -> EnsembleSpec:
    path = folder / "ours.yaml"
    path.write_text(imported.to_yaml("gac.yaml"), encoding="utf-8")
    return load_spec(path)


def whys(imported: Imported) -> dict[str, str]:
    return {key: note.why for note in imported.notes for key in note.keys}


def test_supportive_models_with_norm_average_vote_alike_at_every_step(tmp_path: Path) -> None:
    imported = converted(model("solar", score=60), model("openchat", score=70), threshold=0.3)
    assert yaml.safe_load(imported.to_yaml("x")) == {
        "members": [
            {"name": "solar", "model": "org/solar", "dtype": "float16", "device": "cuda:0"},
            {"name": "openchat", "model": "org/openchat", "dtype": "float16", "device": "cuda:0"},
        ]
    }
    spec = read_back(imported, tmp_path)
    assert [share for _, share in spec.voters()] == [0.5, 0.5]
    assert spec.gate.always_open
    assert {key.rpartition(".")[2] for key in whys(imported)} == {"max_memory", "score", THRESHOLD}


def test_scores_are_weights_with_norm_score(tmp_path: Path) -> None:
    imported = converted(model("a", score=30), model("b", score=70.0), norm="score")
    spec = read_back(imported, tmp_path)
    assert [share for _, share in spec.voters()] == pytest.approx([0.3, 0.7])
    assert spec.gate.always_open
    assert not any(key.endswith("score") for key in whys(imported))


@pytest.mark.parametrize("norm", ["average", "score"])
def test_a_primary_model_leads_and_the_threshold_is_a_gate_of_confidence(tmp_path: Path, norm: str) -> None:
    imported = converted(model("a"), model("b", priority="primary"), norm=norm, threshold=0.5)
    spec = read_back(imported, tmp_path)
    assert (spec.lead, str(spec.gate)) == ("b", "confidence:0.5")
    assert THRESHOLD not in whys(imported)


def asked_by_gac(scores: list[int], norm: str, primary: int, threshold: float, largest: float) -> bool:
    """`check_threshold_ensemble` in exact numbers: both sides carry the primary's share, and equality asks."""
    shares = [Fraction(1 if norm == "average" else score) for score in scores]
    share = shares[primary] / sum(shares)
    return not Fraction(largest) * share > Fraction(threshold) * share


EIGHTHS = [number / 8 for number in range(9)]


@pytest.mark.parametrize("norm", ["average", "score"])
@pytest.mark.parametrize("threshold", [-0.5, *EIGHTHS, 1.5])
def test_the_others_are_asked_exactly_where_gac_asks_them(norm: str, threshold: float) -> None:
    for scores, primary in itertools.product([[1, 3, 2], [0, 5, 1], [2, 0, 0]], [0, 1]):
        priorities = ["primary" if index == primary else "supportive" for index in range(3)]
        models = [model(f"m{i}", score=scores[i], priority=priorities[i]) for i in range(3)]
        spec = load_spec(dict(converted(*models, norm=norm, threshold=threshold).spec))
        for largest in EIGHTHS[1:]:  # no probability is 0
            score = 0.0 if spec.gate.kind == "first" else largest
            asked = asked_by_gac(scores, norm, primary, threshold, largest)
            alone = len(spec.voters()) == 1  # nobody to ask, whoever is asked
            assert alone or spec.gate.opens(score) == asked, (scores, primary, largest)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=4).filter(any), st.sampled_from(["average", "score"]))
def test_every_share_of_the_vote_is_that_of_gac(scores: list[int], norm: str) -> None:
    spec = load_spec(dict(converted(*(model(f"m{i}", score=s) for i, s in enumerate(scores)), norm=norm).spec))
    ours = {member.name: share for member, share in spec.voters()}
    theirs = [1] * len(scores) if norm == "average" else scores
    for index, score in enumerate(theirs):
        assert ours.get(f"m{index}", 0) == pytest.approx(score / sum(theirs))


def test_what_means_nothing_in_gac_either_is_said() -> None:
    assert "no model is 'primary'" in whys(converted(model(), threshold=None))[THRESHOLD]
    silent = converted(model("a", score=0, priority="primary"), model("b"), model("c"), norm="score", threshold=0.5)
    assert "gate" not in silent.spec
    assert "every step" in whys(silent)[f"{MODELS}[0].priority"]
    assert "not loaded" in whys(silent)[f"{MODELS}[0].score"]
    alone = whys(converted(model(priority="primary"), threshold=0.5))
    assert alone[THRESHOLD] == alone[f"{MODELS}[0].priority"] == "no effect, as in GaC: no other model has a vote"
    for threshold, gate in ((1.0, "always"), (7, "always"), (-1, "first:0")):
        imported = converted(model("a", priority="primary"), model("b"), threshold=threshold)
        assert imported.spec["gate"] == gate
        assert gate in whys(imported)[THRESHOLD]


def test_quantised_weights_have_no_counterpart_and_a_way_out() -> None:
    for words in ("8bit", "4bit"):
        assert "GGUF" in whys(converted(model(quantization=words)))[f"{MODELS}[0].quantization"]
    for words in ("none", ...):
        assert not any(key.endswith("quantization") for key in whys(converted(model(quantization=words))))


def test_names_become_names_of_members_and_stay_different(tmp_path: Path) -> None:
    names = ["Qwen/Qwen2 7B", "Qwen/Qwen2 7B", "日本", "x" * 80, "x" * 90, "_a", "ok-1.5"]
    imported = converted(*(model(name, weight="org/m") for name in names))
    given_names = [member.name for member in read_back(imported, tmp_path).members]
    assert given_names[:3] == ["Qwen-Qwen2-7B", "Qwen-Qwen2-7B-2", "model-3"]
    assert given_names[5:] == ["a", "ok-1.5"]
    assert len(set(given_names)) == len(names)
    assert set(whys(imported)) >= {f"{MODELS}[{index}].name" for index in range(6)}
    assert f"{MODELS}[6].name" not in whys(imported)


def test_paths_that_are_relative_are_told_of() -> None:
    for weight, told in (("./m", True), ("../m", True), ("a/b/c", True), ("/a/b/c", False), ("org/m", False)):
        imported = converted(model(weight=weight))
        assert imported.spec["members"][0]["model"] == weight
        assert (f"{MODELS}[0].weight" in whys(imported)) == told, weight


def test_models_get_gpus_as_ray_gives_them() -> None:
    assert placed([0.5, 0.5, 1, 0.25]) == [(0,), (0,), (1,), (2,)]
    assert placed([0.4, 0.7, 0.3]) == [(0,), (1,), (1,)]  # where it leaves the least, not where there is room first
    assert placed([0.1] * 11) == [(0,)] * 10 + [(1,)]
    assert placed([0.5, 2, 1]) == [(0,), (1, 2), (3,)]
    assert placed([0, None]) == [(), ()]


def test_devices_follow_from_gpus() -> None:
    gpus = [1, 1, 0, ..., 2]
    imported = converted(*(model(f"m{index}", num_gpus=count) for index, count in enumerate(gpus)))
    members = imported.spec["members"]
    assert [member.get("device") for member in members] == ["cuda:0", "cuda:1", "cpu", None, None]
    assert members[4]["options"] == {"device_map": "auto"}
    assert "all GPUs" in whys(imported)[f"{MODELS}[4].num_gpus"]


def test_every_key_is_translated_or_noted() -> None:
    """Each key's change shows, in the ensemble or in the notes."""
    changed: dict[str, Any] = {
        "weight": "org/other",
        "max_memory": ...,
        "num_gpus": 2,
        "name": "other",
        "score": 50,
        "priority": "primary",
        "quantization": "4bit",
    }
    assert changed.keys() == model().keys()
    for norm in ("score", "average"):
        before = converted(model("a"), model("b", score=7), norm=norm, threshold=0.5)
        for key, value in changed.items():
            after = converted(
                {**model("a"), key: value} if value is not ... else model("a", **{key: ...}),
                model("b", score=7),
                norm=norm,
                threshold=0.5,
            )
            same = (after.spec, after.notes) == (before.spec, before.notes)
            assert same == (norm == "average" and key == "score"), key  # noted, but without its value


def test_notes_are_comments_that_no_yaml_reads(tmp_path: Path) -> None:
    imported = converted(model('evil\nmembers: {} # "'), model("b", quantization="8bit"))
    text = imported.to_yaml("odd\nname: 1.yaml")
    assert yaml.safe_load(text) == imported.spec
    assert all(line.startswith("#") for line in text[: text.index("\nmembers:")].splitlines())
    joined = " ".join(line.lstrip("# -") for line in text.splitlines())
    for note in imported.notes:
        assert note.why.split(";")[0] in joined


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("THRESHOLD_API", "TRESHOLD_API", "line 2, column 1", "did you mean 'THRESHOLD_API_SERVER'?"),
        ("  score: 100", "  scores: 100", "line 9, column 3", "did you mean 'score'?"),
        ("average", "avarage", "line 1, column 1", "did you mean 'average'?"),
        ("priority: primary", "priority: first", "line 10, column 3", "primary, supportive"),
        ("none", "2bit", "line 11, column 3", "none, 8bit, 4bit"),
        ("0.5\nCONFIG", "5e-1\nCONFIG", "line 2, column 1", "write 0.5"),
        ("0.5\nCONFIG", ".nan\nCONFIG", "line 2, column 1", "not a number"),
        ("num_gpus: 0.5", "num_gpus: 1.5", "line 7, column 3", "whole ones"),
        ("weight: org/solar", "weight: '[Please replace it]'", "line 4, column 3", "placeholder"),
        ("weight: org/solar", "weight: ''", "line 4, column 3", "not a text"),
        ("name: solar", "name: 7", "line 8, column 3", "write it in quotes"),
        ("  priority: primary\n", "", "line 4, column 3", "lacks the key 'priority'"),
        ("score: 100", "score: 100\n  score: 100", "line 10, column 3", "given twice"),
        ("0: 24GiB", "", "line 5, column 3", "not a mapping"),
    ],
)
def test_mistakes_are_named_with_their_place(old: str, new: str, place: str, words: str) -> None:
    text = config(model(priority="primary"), threshold=0.5)
    assert old in text
    with pytest.raises(SpecError) as raised:
        import_gac(text.replace(old, new), Path("gac.yaml"))
    told = f"{raised.value.message}; {raised.value.hint}"
    assert told.startswith(f"gac.yaml, {place}: ")
    assert words in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the configuration is null, not a mapping"),
        ("[]", "not a mapping"),
        (config(), "not a list of models"),
        (config(model(), norm="score") + "---\n" + config(model()), "a second document begins here"),
        (config(model("a", score=0), norm="score"), "nobody would vote"),
        (config(model("a", score=-1), model("b"), norm="score"), "from 0 to"),
        (config(model("a", score=...), norm="score"), "lacks the key 'score'"),
        (config(model("a", priority="primary"), model("b", priority="primary")), "and so is that of"),
        (config("solar"), "not a mapping"),  # type: ignore[arg-type]
        (f"{NORM}: average\n{MODELS}: []\n", f"lacks the key '{THRESHOLD}'"),
        ("members: []", "is no key of GaC"),
    ],
)
def test_what_gac_could_not_run_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words.replace("[", r"\[")):
        import_gac(text, Path("gac.yaml"))
