"""An ensemble file of whatever content or kind is read or refused in a second and a few megabytes, never believed."""

from __future__ import annotations

import contextlib
import os
import re
import time
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from support.at_once import at_once
from unisono.cli.inputs import _read_constraint
from unisono.config.ensemble import load_spec
from unisono.config.yaml_source import DEEPEST, MOST_NODES, read_yaml
from unisono.errors import SpecError
from unisono.server.middleware import read_keys
from unisono.user_files import SETTINGS, complete_lines

SECOND = 2.0
"""Of a machine that does other things, too."""


def layers(form: str, count: int) -> str:
    """Anchors, each of which stands for the one before ten times."""
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{n}: &a{n} " + form.format(",".join([f"*a{n - 1}"] * 10), n) for n in range(1, count)]
    return "\n".join(lines)


HOSTILE = {
    "anchors in anchors": layers("[{0}]", 20),
    "merge keys": layers("{{<<: [{0}], k{1}: 1}}", 20),
    "an anchor inside itself": "members: &a [*a]",
    "lists in lists": "[" * 400_000,
    "dashes": "- " * 200_000,
    "mappings in mappings": "{a: " * 100_000,
    "aliases that nest": "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 300))]),
    "many values": "a:\n" + "- x\n" * 100_000,
    "a number of many digits": "a: " + "9" * 400_000,
    "a number in sixties": "a: 1" + ":1" * 200_000,
    "a hexadecimal number": "a: 0x" + "f" * 400_000,
    "a key given twice": "members: []\nmembers: []",
    "a key that is no text": "? [a]\n: b",
    "NUL": "members: \0",
    "a class of Python": "members: !!python/object/apply:os.system [ls]",
}


@pytest.mark.parametrize("number", ["010", "-017", "0_7", "1:30", "1:30.5", "22:22:22"])
def test_a_number_that_two_versions_of_yaml_read_differently_is_refused(number: str) -> None:
    for text in (f"seed: {number}", f"bias: {{{number}: 1}}", f"x-a: &a {number}\nseed: *a"):
        with pytest.raises(SpecError, match=rf"line \d, column \d+: {re.escape(number)} is read differently"):
            read_yaml(text, Path("duo.yaml"))
    read_yaml(
        f"name: '{number}'\nx-mine: {{{number}: {number}}}\na: [0, 00, 007, -01, 0.5, 0x10, 10, -1_000, 00.5]",
        Path("duo.yaml"),
    )


@pytest.mark.parametrize("kind", HOSTILE)
def test_content_that_grows_is_refused_where_it_stands(kind: str) -> None:
    tracemalloc.start()
    try:
        with at_once(3 * SECOND), pytest.raises(SpecError, match=r"^duo\.yaml, line \d+"):
            read_yaml(HOSTILE[kind], Path("duo.yaml"))  # tracemalloc takes three times as long
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", ["!!bool maybe", "!!int ''", "!!float ''", "!!timestamp x", "!!int x", "!!omap 5"])
def test_a_value_that_is_not_what_its_tag_says_is_an_error(value: str) -> None:
    with pytest.raises(SpecError, match=r"^duo\.yaml.* is not valid YAML"):
        read_yaml(f"members: {value}", Path("duo.yaml"))


def test_what_aliases_stand_for_is_counted_at_each_use() -> None:
    row = "a: &a [" + ",".join(["x"] * 98) + "]\nb: ["
    used = (MOST_NODES - 110) // 99
    assert len(read_yaml(row + ",".join(["*a"] * used) + "]", Path("duo.yaml"))[0]["b"]) == used
    with pytest.raises(SpecError, match="aliases written out"):
        read_yaml(row + ",".join(["*a"] * (used + 2)) + "]", Path("duo.yaml"))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_what_is_no_attack_is_read_as_the_library_reads_it(value: object) -> None:
    text = yaml.safe_dump(value)
    assert read_yaml(text, Path("duo.yaml"))[0] == yaml.safe_load(text)


@settings(deadline=None)
@given(st.text(alphabet="a:-[]{}&*<! \n\t\"'|>?#%0", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(SpecError):
        read_yaml(text, Path("duo.yaml"))


def no_files(folder: Path) -> list[Path]:
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "folder").mkdir()
    (folder / "huge").touch()
    os.truncate(folder / "huge", 200_000_000_000)
    (folder / "latin").write_bytes(b"caf\xe9: \xff")
    return [folder / name for name in ("pipe", "loop", "folder", "huge", "latin")] + [Path("/dev/zero")]


def test_what_is_no_file_is_refused_at_once_wherever_one_is_named(tmp_path: Path) -> None:
    for path in no_files(tmp_path):
        began = time.perf_counter()
        piped = path.name == "pipe"  # which a user may name, and which nobody writes to here
        reads = (load_spec, lambda path: _read_constraint(path, None), read_keys)
        for read in [partial(load_spec, again=True)] if piped else reads:
            with pytest.raises(SpecError, match=str(path)):
                read(path)
        if path.name != "latin":
            with pytest.raises(SpecError, match=str(path)):
                complete_lines(path, "id", what="an output", line_is="an answer")
        assert time.perf_counter() - began < SECOND


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "duo.yaml"
    text = "members: [{name: a, model: demo:x}]\n#"
    path.write_text(text + "#" * (SETTINGS - len(text)))
    assert load_spec(path).members[0].name == "a"
    with path.open("a") as file:
        file.write("#")
    with pytest.raises(SpecError, match=f"it has {SETTINGS + 1:,} bytes, and at most {SETTINGS:,} are read"):
        load_spec(path)


def test_nesting_is_read_up_to_its_bound() -> None:
    assert read_yaml("[" * DEEPEST + "]" * DEEPEST, Path("duo.yaml"))
    with pytest.raises(SpecError, match="nested too deeply"):
        read_yaml("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), Path("duo.yaml"))
