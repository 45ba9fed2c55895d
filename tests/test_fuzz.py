"""The fuzzing kit: it finds what is planted, makes it small, keeps it in a file, and damages what it should."""

from __future__ import annotations

import argparse
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, given, settings

from fuzz import requests
from fuzz.__main__ import Run
from fuzz.case import GGUF, Case, Outcome
from fuzz.heads import gguf_bytes, read_gguf
from fuzz.mutations import words
from support.tiny_gguf import tiny_tensors, write_tiny
from unisono.backends.gguf import read_head


class Planted:
    """A subject with a fault."""

    def run(self, case: Case) -> Outcome:
        text = (case.parts[0][1] or b"").decode(errors="replace")
        return Outcome("accepted", 0.01, f"crash at {len(text)}" if '"top_k"' in text else None)

    def check(self) -> str | None:
        return None

    def memory(self) -> int:
        return 0

    def close(self) -> None:
        pass


def test_a_planted_fault_is_found_once_and_its_smallest_case_can_be_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(minutes=0.05, seed=3, out=tmp_path)
    assert Run(Planted(), {"request": requests.requests()}, options).run() == 1
    [path] = tmp_path.iterdir()
    assert str(path) in capsys.readouterr().out
    found = Case.load(path)
    assert found.size < 400
    assert Planted().run(found).fault is not None


@pytest.mark.parametrize("data", [b"\xff\x00", "text: é".encode(), None])
def test_a_case_is_kept_byte_for_byte(tmp_path: Path, data: bytes | None) -> None:
    case = Case("gguf", ("gguf", "doctor"), (("model/a", data),))
    assert Case.load(case.save(tmp_path, Outcome("refused", 0.0, "slow"))) == case


def test_a_head_that_is_not_damaged_is_the_head_of_the_file(tmp_path: Path) -> None:
    sound = write_tiny(tmp_path / GGUF, tiny_tensors())
    again = tmp_path / "again.gguf"
    again.write_bytes(gguf_bytes(*read_gguf(sound)))
    one, other = read_head(sound), read_head(again)
    assert one.shapes == other.shapes
    assert one.metadata.keys() == other.metadata.keys()
    assert again.stat().st_size == sound.stat().st_size


@pytest.mark.parametrize("target", requests.TARGETS)
def test_cases_of_every_target_can_be_made(target: str) -> None:
    sizes: set[int] = set()

    @settings(max_examples=20, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(requests.TARGETS[target])
    def one(case: Case) -> None:
        sizes.add(case.size)

    hypothesis.seed(1)(one)()
    assert len(sizes) > 3


def test_words_have_their_characters() -> None:
    assert "\r\nHost: evil.com" in words("http")
    assert "\n  " in words("yaml")
    assert all(words(name) for name in ("lark", "regex", "schema", "spec", "template", "config", "settings", "gguf"))
