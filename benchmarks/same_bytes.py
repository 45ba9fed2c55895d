"""Record what unisono gives for a fixed set of runs, and compare two recordings: did a change keep the same bytes?

    PYTHONPATH=OLD/src python benchmarks/same_bytes.py record /tmp/old
    PYTHONPATH=NEW/src python benchmarks/same_bytes.py record /tmp/new
    python benchmarks/same_bytes.py compare /tmp/old /tmp/new

The tree that is recorded is the one whose `unisono` the interpreter imports. Its surfaces alone are used: the command
line, HTTP, the ensemble file and the public Python names. What follows the clock or the machine (times, identifiers,
ports, paths, versions, the counters of drafts) is hidden; all else is compared exactly.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import importlib
import itertools
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from same_bytes_cases import Case, Json, Workplace, comparable

PARTS: dict[str, tuple[str, ...]] = {
    "fakes": ("same_bytes_fakes.cases", "same_bytes_http.fakes", "same_bytes_evals.fakes"),
    "demo": ("same_bytes_demo.cases", "same_bytes_http.demo", "same_bytes_evals.demo"),
}
"""By part, the functions that make its cases."""
WIDTH = 120


def main() -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(
        description="Record what unisono gives for a fixed set of runs, and compare two recordings.",
        epilog="Set PYTHONPATH=TREE/src to record another tree than the installed one.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="record|compare|list")
    record = verbs.add_parser("record", help="run the cases and write a file of each: OUT/PART/CASE.json")
    record.add_argument("out", type=Path, metavar="OUT", help="the folder of the recording; files in it are replaced")
    compare = verbs.add_parser("compare", help="list cases that differ, are missing or new; exit 1 when there are any")
    compare.add_argument("old", type=Path, metavar="OLD", help="a recording")
    compare.add_argument("new", type=Path, metavar="NEW", help="another recording")
    compare.add_argument(
        "--renamed",
        nargs="+",
        action="extend",
        default=[],
        metavar="OLD=NEW",
        help="read the word OLD as NEW everywhere, in names of cases too: words that were renamed on purpose",
    )
    compare.add_argument("--lines", type=int, default=16, metavar="N", help="lines of each diff at most (default: 16)")
    for verb in (record, verbs.add_parser("list", help="name the cases")):
        verb.add_argument("--part", choices=(*PARTS, "all"), default="all", help="which cases (default: all)")
    for verb in verbs.choices.values():
        verb.add_argument("--only", metavar="PATTERN", default="*", help="only cases with such names, as in 'gate.*'")
    given = parser.parse_args()
    try:
        if given.verb == "compare":
            return compare_recordings(given.old, given.new, given.renamed, given.only, given.lines)
        parts = tuple(PARTS) if given.part == "all" else (given.part,)
        if given.verb == "record":
            return record_parts(given.out, parts, given.only)
        with Workplace() as work:
            for part in parts:
                print("\n".join(f"{part}/{case.name}" for case in find_cases(part, work, given.only)))
        return 0
    except KeyboardInterrupt:
        print("\nstopped; the files that were written stay", file=sys.stderr)
        return 130


def find_cases(part: str, work: Workplace, only: str) -> list[Case]:
    """The cases of a part in their order. Raises `ValueError` when two have one name."""
    makers = [place.rsplit(".", 1) for place in PARTS[part]]
    cases = [case for module, name in makers for case in getattr(importlib.import_module(module), name)(work)]
    names = [case.name for case in cases]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"cases of one name: {', '.join(sorted(twice))}")
    return [case for case in cases if fnmatch.fnmatch(case.name, only)]


def record_parts(out: Path, parts: Sequence[str], only: str) -> int:
    """Run cases and write their files; return 1 when one fails."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait for others do not starve them
    failed, began = [], time.monotonic()
    columns = (TextColumn("{task.description:40.40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Workplace() as work, Progress(*columns) as progress:
        progress.console.print(f"recording {work.package}", markup=False, highlight=False)
        for part in parts:
            (out / part).mkdir(parents=True, exist_ok=True)
            cases = find_cases(part, work, only)
            bar = progress.add_task(part, total=len(cases))
            for case in cases:
                progress.update(bar, description=f"{part}/{case.name}")
                try:
                    write_case(out / part / f"{case.name}.json", case, work)
                except Exception as error:
                    (out / part / f"{case.name}.json").unlink(missing_ok=True)
                    failed.append(case.name)
                    words = f"{part}/{case.name} failed: {type(error).__name__}: {error}"
                    progress.console.print(words, markup=False, highlight=False)
                progress.advance(bar)
            progress.update(bar, description=part)
    print(f"{out}: recorded in {time.monotonic() - began:.0f} s, {len(failed)} failed")
    return int(bool(failed))


def write_case(path: Path, case: Case, work: Workplace) -> None:
    """Run one case and write what it gives."""
    found = comparable(case.record(), work, drafts=case.drafts, digits=case.digits)
    shown = {"unordered": case.unordered, "recorded": found}
    path.write_bytes((pretty(shown) + "\n").encode("utf-8", "surrogatepass"))


def compare_recordings(old: Path, new: Path, renamed: Sequence[str], only: str, lines: int) -> int:
    """Print how two recordings differ; return 1 when they do."""
    words = dict(word.split("=", 1) if "=" in word else [word, ""] for word in renamed)
    if wrong := [word for word in words if not word or not words[word]]:
        raise SystemExit(f"--renamed {' '.join(wrong)}: write OLD=NEW")
    for folder in (old, new):
        if not folder.is_dir():
            raise SystemExit(f"{folder} is no folder of a recording")
    before, after = (read_recording(folder, words, only) for folder in (old, new))
    for name in sorted(before.keys() - after.keys()):
        print(f"missing: {name}")
    for name in sorted(after.keys() - before.keys()):
        print(f"new: {name}")
    both = sorted(before.keys() & after.keys())
    different = [name for name in both if before[name] != after[name]]
    for name in different:
        print(f"different: {name}")
        show_difference(before[name], after[name], lines)
    apart = len(before.keys() ^ after.keys())
    print(f"{len(both) - len(different)} cases equal, {len(different)} different, {apart} missing or new")
    return int(bool(different or apart or not both))


def read_recording(folder: Path, renamed: Mapping[str, str], only: str) -> dict[str, str]:
    """The text of each case, by name."""
    found = {}
    for path in folder.glob("*/*.json"):
        if fnmatch.fnmatch(path.stem, only):
            text = path.read_bytes().decode("utf-8", "surrogatepass")
            case = json.loads(rename(text, renamed))
            name = rename(f"{path.parent.name}/{path.stem}", renamed)
            found[name] = pretty(in_order(case["recorded"]) if case["unordered"] else case["recorded"])
    return found


def rename(text: str, renamed: Mapping[str, str]) -> str:
    """Replace whole words."""
    for old, new in renamed.items():
        text = re.sub(rf"(?<![\w-]){re.escape(old)}(?![\w-])", lambda _, new=new: new, text)  # type: ignore[misc]
    return text


def in_order(value: Json) -> Json:
    """The value with all keys sorted."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return [in_order(each) for each in value] if isinstance(value, list) else value


def show_difference(before: str, after: str, lines: int) -> None:
    """Print a short diff."""
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), "old", "new", n=1, lineterm="")
    shown = list(itertools.islice(diff, 2, lines + 3))
    for line in shown[:lines]:
        print(f"    {line if len(line) <= 2 * WIDTH else line[: 2 * WIDTH] + ' …'}")
    if len(shown) > lines:
        print("    …")


def pretty(value: Any, depth: int = 0) -> str:
    """JSON with a line for each part that is too long for one."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + depth <= WIDTH or not value or not isinstance(value, (dict, list)):
        return flat
    begin, end = "{}" if isinstance(value, dict) else "[]"
    lines = ",\n".join(_parts(value, depth + 1))
    return f"{begin}\n{lines}\n{' ' * depth}{end}"


def _parts(value: dict[str, Any] | list[Any], depth: int) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield f"{' ' * depth}{json.dumps(key, ensure_ascii=False)}: {pretty(each, depth)}"
    else:
        for each in value:
            yield f"{' ' * depth}{pretty(each, depth)}"


if __name__ == "__main__":
    sys.exit(main())
