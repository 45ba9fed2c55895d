"""The key `spelling`, which has one value left: whoever still gives it, wherever, is told to leave it out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_line import Run
from support.fakes import make_fakes
from support.real_server import SAY, A, B, Served, serving
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.config.ensemble import load_spec
from unisono.config.method import Method
from unisono.config.setting import parse_setting
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.evals.respondent import Arguments

TOLD = "unisono: spelling: piecewise is what always happens; leave it out\n"
REFUSED = "spelling is 'canonical', but members only read each piece as it was chosen (piecewise)"
pytestmark = pytest.mark.filterwarnings("always::FutureWarning")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving({"duo": {"members": [A, B]}}) as server:
        yield server
    FAKE_MODELS.clear()


def writes(run: Run, duo: Path, *flags: str) -> tuple[int, str, str]:
    return run("run", duo, "Together", "--max-new-tokens", 4, "-q", *flags)


def test_the_flag_and_the_file_may_still_say_piecewise_and_are_told_once(run: Run, duo: Path) -> None:
    plain = writes(run, duo)
    assert writes(run, duo, "--spelling", "piecewise") == (0, plain[1], TOLD)
    duo.write_text(duo.read_text() + "spelling: piecewise\n")
    assert writes(run, duo, "--spelling", "piecewise") == (0, plain[1], TOLD)


def test_the_flag_and_the_file_are_refused_with_anything_else(run: Run, duo: Path) -> None:
    code, out, err = writes(run, duo, "--spelling", "canonical")
    assert (code, out) == (2, "")
    assert err.startswith(f"unisono: {REFUSED}\n  hint: leave spelling out: ")
    assert "docs/adr/0008" in err
    duo.write_text(duo.read_text() + "spelling: canonical\n")
    code, out, err = writes(run, duo)
    assert (code, out) == (2, "")
    assert f"line 4, column 1: {REFUSED}; leave spelling out" in err


def test_no_error_or_help_names_the_key_any_more(run: Run, duo: Path) -> None:
    with pytest.raises(SpecError) as refusal:
        load_spec({"members": [{"name": "a", "model": "fake:a"}], "speling": "x"})
    assert "known: members, lead, combine, gate, speculate, sampling, reasoning, vocabulary, tuned_on" in str(
        refusal.value
    )
    assert "spelling" not in run("run", "--help").out


def test_a_setting_may_still_say_piecewise_and_nothing_else() -> None:
    with pytest.warns(FutureWarning, match="leave it out"):
        assert Method().but(**parse_setting("spelling=piecewise")) == Method()
    with pytest.raises(SpecError, match="spelling is 'canonical'"):
        Method().but(**parse_setting("spelling=canonical"))


def test_arguments_of_lm_eval_may_still_say_piecewise_and_nothing_else() -> None:
    asked = Arguments.read({"spec": "duo.yaml", "spelling": "piecewise", "sampling": 0.7, "draw": None})
    with pytest.warns(FutureWarning, match="leave it out"):
        assert Method().but(**asked.method) == Method().but(sampling=0.7)
    with pytest.raises(SpecError, match="spelling is 'canonical'"):
        Method().but(**Arguments.read({"spec": "duo.yaml", "spelling": "canonical"}).method)


def test_arguments_in_python_may_still_say_piecewise_and_nothing_else(duo: Path) -> None:
    with Ensemble.load(duo) as ensemble:
        with pytest.warns(FutureWarning, match="leave it out"):
            same = ensemble.generate("Together", max_new_tokens=4, spelling="piecewise")
        assert same.data == ensemble.generate("Together", max_new_tokens=4).data
        with pytest.raises(SpecError, match="spelling is 'canonical'"):
            ensemble.generate("Together", spelling="canonical")


def test_a_run_folder_says_of_its_systems_what_it_always_said() -> None:
    assert Method().to_json()["spelling"] == "piecewise"


def test_requests_may_still_say_piecewise_and_are_refused_with_anything_else(served: Served) -> None:
    body = {"model": "duo", "messages": SAY, "max_tokens": 3}
    plain = served.post("/v1/chat/completions", body)
    with pytest.warns(FutureWarning, match="leave it out"):
        same = served.post("/v1/chat/completions", {**body, "unisono": {"spelling": "piecewise"}})
    assert plain.status_code == same.status_code == 200
    assert same.json()["choices"] == plain.json()["choices"]
    refused = served.post("/v1/chat/completions", {**body, "unisono": {"spelling": "canonical", "gate": "first:2"}})
    assert refused.status_code == 400
    error = json.loads(refused.text)["error"]
    assert error["param"] == "unisono.spelling"
    assert REFUSED in error["message"]
