"""Ensembles of very many members are prepared in time that grows with their number, not with its cube."""

from __future__ import annotations

import time

import pytest

from unisono.config.ensemble import load_spec
from unisono.errors import SpecError
from unisono.members import find_models, silent

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


def test_two_of_a_thousand_names_are_found_alike() -> None:
    names = [*(f"m{n}" for n in range(MANY)), "m7"]
    with pytest.raises(SpecError, match="two members are named 'm7'"):
        load_spec({"members": [{"name": name, "model": "fake:one"} for name in names]})
