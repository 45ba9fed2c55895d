"""A cut that a beam would drop, as another one is far likelier, and which the text then needs after all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from unisono.backends.fake.backend import FAKE_MODELS
from unisono.ensemble import Ensemble
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake

WORDS = (" cover", " covers", " you", " me", " covered", " me you")
TABLE = byte_level_table(WORDS)
COVER, COVERS, YOU, ME, COVERED, ME_YOU = (TABLE.texts.index(word.replace(" ", "Ġ")) for word in WORDS)
LIKELY = {COVERS: 14.0, COVER: 4.0, COVERED: 1.0}
"""Behind anything else: `` covers`` is twenty thousand times as likely as `` cover``."""
BEHIND = {COVER: {YOU: 6.0, ME: 5.0, ME_YOU: 1.0}, COVERS: {ME: 6.0, YOU: 5.0}}


def logits(read: Sequence[int]) -> np.ndarray:
    logits_V = np.full(len(TABLE.texts), -2.0, np.float32)
    for token, logit in BEHIND.get(read[-1], LIKELY).items():
        logits_V[token] = logit
    return logits_V


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    register_fake("m", FakeModel(LongestMatchTokenizer(TABLE), logits))
    yield
    FAKE_MODELS.clear()


def load(vocabulary: str, members: int = 1) -> Ensemble:
    its = [{"name": f"m{number}", "model": "fake:m"} for number in range(members)]
    return Ensemble.load({"members": its, "vocabulary": vocabulary})


TEXTS = [" cover you", " cover me", " cover me you", " covers me", " cover cover", " covered", " cover", " cov me"]


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("beam", ["beam:1", "beam:2", "beam:5", "beam:5 least:0.2"])
def test_a_given_text_has_nearly_the_mass_of_all_its_cuts(beam: str, members: int) -> None:
    with load("bytes beam:64 least:0", members) as exact, load(f"bytes {beam}", members) as short:
        for text in TEXTS:
            [expected], [score] = exact.score([text], "so it"), short.score([text], "so it")
            assert score.logp == pytest.approx(expected.logp, abs=0.3), text


def test_a_grammar_gets_what_the_member_would_write_within_it() -> None:
    for vocabulary in ("union", "bytes", "bytes beam:1"):
        with load(vocabulary) as ensemble:
            text = ensemble.generate("so it", constraint={"regex": " cover (me|you)"}, max_new_tokens=12)
            assert text.text == " cover you", vocabulary


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_what_a_grammar_could_need_takes_no_place_of_what_is_likelier_in_it(beam: int) -> None:
    with load(f"bytes beam:{beam}") as ensemble:
        assert (
            ensemble.generate("so it", constraint={"regex": " cover(s me| you)"}, max_new_tokens=12).text
            == " covers me"
        )
