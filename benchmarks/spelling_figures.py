"""What the lines of `spelling` say: paired differences, with bootstrap intervals over texts."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Line = dict[str, Any]
RESAMPLES = 10_000
PIECEWISE = "piecewise"


def figures(lines: Sequence[Line]) -> dict[str, Any]:
    """Figures by pair and task. A text counts where it was written in both settings."""
    found: defaultdict[str, defaultdict[str, dict[str, Line]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        setting = line["setting"] + (f"/{line['reader']}" if "reader" in line else "")
        found[f"{line['pair']}/{line['task']}"][line["id"]][setting] = line
    return {name: _task(list(texts.values())) for name, texts in found.items()}


def _task(texts: list[dict[str, Line]]) -> dict[str, Any]:
    settings = list(dict.fromkeys(key for text in texts for key in sorted(text, reverse=True) if "/" not in key))
    readers = sorted({key.split("/")[1] for text in texts for key in text if "/" in key})
    both = {setting: [text for text in texts if PIECEWISE in text and setting in text] for setting in settings}
    return {
        "texts": {setting: len(both[setting]) for setting in settings},
        "settings": {setting: _setting([text[setting] for text in both[setting]]) for setting in settings},
        **{
            f"{setting} - {PIECEWISE}": _difference(both[setting], setting, readers)
            for setting in settings
            if setting != PIECEWISE and both[setting]
        },
    }


def _setting(lines: list[Line]) -> dict[str, Any]:
    """What one setting's texts are like, all together."""
    pieces = sum(line["pieces"] for line in lines)
    found: dict[str, Any] = {
        "pieces": pieces,
        "bytes a piece": _ratio(sum(line["size"] for line in lines), pieces),
        "processor ms a piece": _ratio(1000 * sum(line["seconds"] for line in lines), pieces),
        "repetition": float(np.mean([repetition(line["text"]) for line in lines])),
        "texts with four line breaks in a row": sum("\n" * 4 in line["text"] for line in lines),
        "members": {},
    }
    for name in ("correct", "f1"):
        if name in lines[0]:
            found[name] = float(np.mean([line[name] for line in lines]))
    for member in lines[0]["members"]:
        total = {key: sum(line["members"][member][key] for line in lines) for key in lines[0]["members"][member]}
        found["members"][member] = {
            **total,
            "foreign contexts": _ratio(total["foreign"], total["contexts"]),
            "texts with one": _ratio(sum(line["members"][member]["foreign"] > 0 for line in lines), len(lines)),
            "nats a byte at the chosen pieces": _ratio(total["nats"], total["bytes"]),
        }
    return found


def _difference(texts: list[dict[str, Line]], setting: str, readers: list[str]) -> dict[str, Any]:
    """A setting less piecewise, text by text."""
    pairs = [(text[PIECEWISE], text[setting]) for text in texts]
    other = [one["text"] != two["text"] for one, two in pairs]
    found: dict[str, Any] = {"texts that differ": sum(other), "first difference, in bytes": _first(pairs)}
    for name in ("correct", "f1"):
        if name in pairs[0][0]:
            found[name] = _mean_difference([(one[name], two[name]) for one, two in pairs])
    if "correct" in pairs[0][0]:
        won = sum(two["correct"] > one["correct"] for one, two in pairs)
        lost = sum(two["correct"] < one["correct"] for one, two in pairs)
        most = share_at_most(won + lost, len(pairs))
        found["McNemar"] = {"won": won, "lost": lost, "p": sign_test(won, lost), "share that changes, at most": most}
    found["repetition"] = _mean_difference([(repetition(one["text"]), repetition(two["text"])) for one, two in pairs])
    found["time a piece, times"] = _ratio_of_ratios(
        [(one["seconds"], one["pieces"], two["seconds"], two["pieces"]) for one, two in pairs]
    )
    for member in pairs[0][0]["members"]:
        chosen = [(one["members"][member], two["members"][member]) for one, two in pairs]
        found[f"nats a byte at the chosen pieces, {member}"] = _mean_difference(
            [
                (one["nats"] / one["bytes"], two["nats"] / two["bytes"])
                for one, two in chosen
                if one["bytes"] and two["bytes"]
            ]
        )
    for reader in readers:
        read = [(text.get(f"{PIECEWISE}/{reader}"), text.get(f"{setting}/{reader}")) for text in texts]
        found[f"nats a byte of the text, {reader}"] = _mean_difference(
            [
                (one["nats"] / one["bytes"], two["nats"] / two["bytes"])
                for one, two in read
                if one and two and one["bytes"] and two["bytes"]
            ]
        )
    return found


def repetition(text: str) -> float:
    """The share of a text's runs of three that stood in it before, of words and line breaks."""
    words = re.findall(r"\n|\S+", text)
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def sign_test(won: int, lost: int) -> float:
    """Two-sided exact p that as many or more of the pairs that differ fall to one side: McNemar's test."""
    many, few = won + lost, min(won, lost)
    tail = sum(math.comb(many, count) for count in range(few + 1))
    return min(1.0, math.ldexp(tail, 1 - many))


def share_at_most(found: int, of: int) -> float:
    """The upper end of a share's exact 95 % interval (Clopper and Pearson). A bootstrap of no changes shows none."""
    low, high = found / of, 1.0
    for _ in range(50):
        share = (low + high) / 2
        tail = sum(math.comb(of, count) * share**count * (1 - share) ** (of - count) for count in range(found + 1))
        low, high = (share, high) if tail > 0.025 else (low, share)
    return high


def _mean_difference(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    differences = values[:, 1] - values[:, 0]
    if not len(differences):
        return {"texts": 0}
    return {
        "texts": len(differences),
        "means": [float(mean) for mean in values.mean(axis=0)],
        "mean": float(differences.mean()),
        "interval": _interval(len(differences), lambda drawn: differences[drawn].mean(axis=1)),
        "lower": int((differences < 0).sum()),
        "higher": int((differences > 0).sum()),
        "sign test": sign_test(int((differences > 0).sum()), int((differences < 0).sum())),
    }


def _ratio_of_ratios(rows: list[tuple[float, float, float, float]]) -> dict[str, Any]:
    values = np.array(rows, dtype=np.float64)

    def ratio(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        one, per_one, two, per_two = np.moveaxis(values[drawn].sum(axis=1), -1, 0)
        quotient: NDArray[np.float64] = (two / per_two) / (one / per_one)
        return quotient

    return {"ratio": float(ratio(np.arange(len(rows))[None])[0]), "interval": _interval(len(rows), ratio)}


def _interval(count: int, statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> list[float]:
    """The middle 95 % of a statistic over texts drawn anew with replacement."""
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    return [float(bound) for bound in np.percentile(statistic(drawn), [2.5, 97.5])]


def _first(pairs: list[tuple[Line, Line]]) -> float | None:
    """Where texts that differ do so first: the median."""
    places = []
    for one, two in pairs:
        left, right = one["text"].encode(), two["text"].encode()
        if left != right:
            same = (place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
            places.append(next(same, min(len(left), len(right))))
    return float(np.median(places)) if places else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
