"""How messages show values: as those who write JSON and YAML know them, short, and whatever they are."""

from __future__ import annotations

import datetime
import math

import pytest

from unisono.errors import LONGEST_SHOWN, shown


class Broken:
    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ([None, False, 1.5, -2], "[null, false, 1.5, -2]"),
        (("a", {"b": None}), '["a", {"b": null}]'),
        ({"type": "json", 1: []}, '{"type": "json", 1: []}'),
        ("it's", '"it\'s"'),
        ("json", "'json'"),
        (["it's"], '["it\'s"]'),
        (['"\\\n\ud800é\u202e'], r'["\"\\\n\ud800é\u202e"]'),
        (b"\xff", r"b'\xff'"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (math.nan, "nan"),
        (Broken(), "a value of type Broken that cannot be shown"),
        ([Broken()], "a value of type list that cannot be shown"),
    ],
)
def test_a_value_is_shown_as_json_and_yaml_write_it(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_number_of_thousands_of_digits_is_not_shown() -> None:
    assert shown(10**5000) == "a value of type int that cannot be shown"


def test_long_and_deep_values_are_cut_and_cost_little() -> None:
    deep: list[object] = []
    deep.append(deep)
    for value in (
        "x" * 1000,
        ["x" * 1000],
        list(range(10**6)),
        {str(n): n for n in range(1000)},
        deep,
        [[[]] * 50] * 50,
    ):
        assert len(shown(value)) <= LONGEST_SHOWN
        assert shown(value).endswith("…")
