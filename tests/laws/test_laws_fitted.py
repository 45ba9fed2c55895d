"""Members with a temperature and a calibration: every way of writing equals the plain loop, and so do scores."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from support.command_line import Run
from support.fakes import PROMPTS, make_fakes, oracle
from support.methods import FixedDraftLength
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.config.ensemble import load_spec
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.fusion.calibration import Calibration
from unisono.fusion.fold import fold, plan_fold
from unisono.testing import fake_member

FITTED: dict[str, dict[str, Any]] = {
    "a": {"temperature": 2.5, "weight": 3},
    "b": {"temperature": 0.4, "calibrate": {" the": 0.9, " So": 0.05, "H": 0.05}},
    "c": {"calibrate": {" the cat": 0.001, "x": 0.4, "s": 0.3, "H": 0.2}},
}
PIECES = 8


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def members(**more: Any) -> list[dict[str, Any]]:
    return [{"name": name, "model": f"fake:{name}", **keys, **more} for name, keys in FITTED.items()]


def engine_of(batch: int = 8) -> Engine:
    loaded = Ensemble.load({"members": members()}, batch=batch)._engine
    return Engine(loaded.members, loaded.union, draft_length=FixedDraftLength())


@pytest.mark.parametrize("gate", ["always", "confidence:0.6", "entropy:1.5 boundary"])
@pytest.mark.parametrize("rule", ["mean", "geometric"])
def test_fitted_members_write_what_the_plain_loop_writes(rule: str, gate: str) -> None:
    method = Method(lead="b", combine=rule).but(gate=gate)  # type: ignore[arg-type]
    expected = oracle(engine_of(), PROMPTS, method, PIECES)
    for drafter, batch in (("off", 1), ("b:3", 8), ("c", 3), ("ngram", 8)):
        engine = engine_of(batch)
        for start in range(0, len(PROMPTS), batch):
            some = slice(start, start + batch)
            texts = [engine.add(prompt, method=method.but(speculate=drafter), trace=True) for prompt in PROMPTS[some]]
            for text in texts:
                while text.finish is None and text.pieces < PIECES:
                    engine.step([text])
            for text, plain in zip(texts, expected[some], strict=True):
                found = [step.piece for step in text.steps or ()][: len(plain)]
                assert found == [step.piece for step in plain][: len(found)]
                assert len(found) >= min(PIECES, len(plain))
                engine.drop(text)


def test_a_calibration_moves_mass_among_its_pieces_alone() -> None:
    p_BU = np.array([[0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]], np.float32)
    calibrated = Calibration((0, 2), (0.8, 0.1))(p_BU, [1])
    assert calibrated[0].tolist() == p_BU[0].tolist()
    np.testing.assert_allclose(calibrated[1], [0.6 * 0.5 / 2.5, 0.3, 0.6 * 2 / 2.5, 0.1], rtol=1e-6)
    assert Calibration((0, 2), (1, 1))(p_BU, []) is p_BU
    nothing = np.array([[0, 1, 0, 0]], np.float32)
    assert Calibration((0, 2), (0.5, 0.5))(nothing, [0]).tolist() == nothing.tolist()


def test_a_member_of_temperature_one_that_is_not_calibrated_is_itself() -> None:
    plain = {"members": [{"name": "a", "model": "fake:a"}]}
    named = {"members": [{"name": "a", "model": "fake:a", "temperature": 1.0, "calibrate": {}}]}
    with Ensemble.load(plain) as one, Ensemble.load(named) as other:
        for text, asked in itertools.product((" the cat", "Sofia"), ("the cat", "日")):
            assert one.score(text, asked)[0].pieces == other.score(text, asked)[0].pieces


def test_a_temperature_divides_logits() -> None:
    logits = np.array([[1.0, 2.0, -3.0]], np.float32)
    plan = plan_fold(np.array([0, 1, 2], np.int32), 4, temperature=2.0)
    expected = np.exp(logits[0] / 2) / np.exp(logits[0] / 2).sum()
    np.testing.assert_allclose(fold(logits, plan)[0, :3], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"temperature": 0}, r"members\[0\].temperature is 0"),
        ({"temperature": "hot"}, r"members\[0\].temperature"),
        ({"calibrate": {"A": 0.5}}, "calibrate has one answer, 'A'"),
        ({"calibrate": {"A": 0.5, "B": 0}}, r"members\[0\].calibrate.B is 0"),
        ({"calibrate": {"": 0.5, "B": 1}}, "calibrate"),
        ({"calibrate": {"no such piece": 0.5, "x": 1}}, "has the answer 'no such piece', which is no piece"),
    ],
)
def test_what_a_member_cannot_be_is_named(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Ensemble.load({"members": [{"name": "a", "model": "fake:a", **keys}]})


@pytest.mark.parametrize("keys", [{"temperature": 2.0}, {"calibrate": {"x": 0.5, "y": 1}}])
def test_a_member_that_tells_its_likeliest_ids_only_cannot_be_reshaped(keys: dict[str, Any]) -> None:
    fake_member("told").top = 3
    spec = load_spec({"members": [{"name": "told", "model": "fake:told", **keys}]})
    with pytest.raises(SpecError, match="of a member needs whole distributions, but member 'told' tells"):
        Ensemble.load(spec)


def test_doctor_shows_how_members_are_shaped(run: Run, tmp_path: Path) -> None:
    spec: Any = {"members": [{"name": "a", "model": "fake:a", "temperature": 1.5}, {"name": "b", "model": "fake:b"}]}
    (tmp_path / "duo.yaml").write_text(yaml.safe_dump(spec))
    shown = run("doctor", tmp_path / "duo.yaml")
    assert re.search(r"temperature\s.*1\.5\s", shown.out), shown.out
    assert "calibrated for" not in shown.out
    spec["members"][1]["calibrate"] = {"x": 0.5, "y": 0.25}
    (tmp_path / "duo.yaml").write_text(yaml.safe_dump(spec))
    told = json.loads(run("doctor", tmp_path / "duo.yaml", "--json").out)
    assert [each["calibrate"] for each in told["members"]] == [{}, {"x": 0.5, "y": 0.25}]
