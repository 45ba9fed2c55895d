"""Scripted ensembles, and the exact distribution of their texts, worked out piece by piece from the definition.

Nothing here calls the product, but for what reads an option: docs/spec.md is what it is written from.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import exp, log
from typing import NamedTuple

import numpy as np

from unisono.config.method import Method
from unisono.config.sampling import Sampling
from unisono.testing import FakeModel, LongestMatchTokenizer, register_fake, scripted_rule, sentencepiece_table

END = "</s>"
Chances = dict[str, float]
"""By piece, or `END`."""
Path = tuple[str, ...]
"""A text's pieces, with `END` last where it ended."""


class Fake(NamedTuple):
    """A member: its tokens beside ASCII's characters, and by the end of a text what comes after it."""

    words: Sequence[str]
    script: Mapping[str, Chances]
    weight: float = 1


Fakes = Mapping[str, Fake]


def register(fakes: Fakes) -> None:
    for name, fake in fakes.items():
        table = sentencepiece_table(fake.words, byte_fallback=False)
        register_fake(name, FakeModel(LongestMatchTokenizer(table), scripted_rule(table, fake.script)))


def texts(fakes: Fakes, method: Method, prompt: str, pieces: int) -> dict[Path, float]:
    """The probability of every text of so many pieces, or that ended before."""
    found: dict[Path, float] = {}

    def go_on(path: Path, probability: float) -> None:
        if len(path) == pieces or path[-1:] == (END,):
            found[path] = probability
            return
        for piece, chance in next_piece(fakes, method, prompt, path).items():
            go_on((*path, piece), probability * chance)

    go_on((), 1.0)
    return found


def next_piece(fakes: Fakes, method: Method, prompt: str, path: Path) -> Chances:
    """What the piece after a path is drawn from."""
    draw, lead = method.draw, method.lead or next(iter(fakes))
    raw = {name: said(fakes[name], prompt + "".join(path)) for name in fakes}
    own = {name: shaped(chances, draw, path, "member_") for name, chances in raw.items()}
    if not opens(fakes, method, raw[lead], path):
        return own[lead] if draw.mixture else shaped(own[lead], draw, path)
    total = sum(fake.weight for fake in fakes.values())
    weighted = [(own[name], fake.weight / total) for name, fake in fakes.items()]
    if draw.mixture:
        return RULES["mean"](weighted)
    return shaped(RULES[method.combine.rule](weighted), draw, path)


def said(fake: Fake, text: str) -> Chances:
    """A member's own chances: of ASCII and END, as nobody else could spell anything else."""
    key = max((end for end in fake.script if text.endswith(end)), key=len)
    return normalised({piece: p for piece, p in fake.script[key].items() if piece.isascii() and piece != "<unk>"})


def opens(fakes: Fakes, method: Method, lead: Chances, path: Path) -> bool:
    gate = method.gate
    wanted = {
        "always": lambda: True,
        "confidence": lambda: max(lead.values()) <= (gate.threshold or 0),
        "every": lambda: len(path) % (gate.n or 1) == 0,
        "first": lambda: len(path) < (gate.n or 0),
    }[gate.kind]()
    likeliest = max(lead, key=lambda piece: lead[piece])
    name = method.lead or next(iter(fakes))
    others = [fake for other, fake in fakes.items() if other != name]
    return wanted and not (gate.boundary and any(inside("".join(path), likeliest, fake) for fake in others))


def inside(text: str, following: str, fake: Fake) -> bool:
    """Whether a member that reads the last word and what follows has a token across the border."""
    if not text or following == END:
        return False
    word = text[len(text.rstrip().rsplit(" ", 1)[0].rstrip()) :] if " " in text.strip() else text
    whole, at = word + following, 0
    while at < len(word):
        at += max([len(token) for token in fake.words if whole.startswith(token, at)], default=1)
    return at > len(word)


def mean(weighted: Sequence[tuple[Chances, float]]) -> Chances:
    return {piece: sum(w * p.get(piece, 0) for p, w in weighted) for piece in pieces_of(weighted)}


def geometric(weighted: Sequence[tuple[Chances, float]]) -> Chances:
    logs = {piece: sum(w * log(max(p.get(piece, 0), 1e-10)) for p, w in weighted) for piece in pieces_of(weighted)}
    return normalised({piece: exp(value) for piece, value in logs.items()})


def largest(weighted: Sequence[tuple[Chances, float]]) -> Chances:
    return normalised({piece: max(w * p.get(piece, 0) for p, w in weighted) for piece in pieces_of(weighted)})


def minimum(weighted: Sequence[tuple[Chances, float]]) -> Chances:
    most = max(w for _, w in weighted)
    least = {piece: min(p.get(piece, 0) ** (w / most) for p, w in weighted) for piece in pieces_of(weighted)}
    least = {piece: mass for piece, mass in least.items() if mass > 1e-10}
    return normalised(least) if least else mean(weighted)


def logits(weighted: Sequence[tuple[Chances, float]]) -> Chances:
    """Of weights that sum to 1, some of them negative."""
    scores = {}
    for piece in pieces_of(weighted):
        silent = sum(w for p, w in weighted if not p.get(piece, 0))
        said = sum(w * log(max(p[piece], 1e-10)) for p, w in weighted if p.get(piece, 0))
        if any(p.get(piece, 0) > 1e-10 for p, w in weighted if w > 0):
            scores[piece] = said + silent * log(1e-10) if silent > 0 else said / (1 - silent)
    return normalised({piece: exp(score) for piece, score in scores.items()})


RULES: dict[str, Callable[[Sequence[tuple[Chances, float]]], Chances]] = {
    "mean": mean,
    "geometric": geometric,
    "max": largest,
    "minimum": minimum,
    "logits": logits,
}


def pieces_of(weighted: Sequence[tuple[Chances, float]]) -> list[str]:
    return list(dict.fromkeys(piece for p, _ in weighted for piece in p))


def normalised(masses: Chances) -> Chances:
    total = sum(masses.values())
    return {piece: mass / total for piece, mass in masses.items() if mass}


def shaped(chances: Chances, draw: Sampling, path: Path, prefix: str = "") -> Chances:
    """Every option in turn, in the order of docs/spec.md."""
    option = {name: getattr(draw, prefix + name) for name in ("temperature", "top_k", "top_p", "min_p", "typical_p")}
    penalty, presence, frequency = (
        getattr(draw, prefix + name) for name in ("repetition_penalty", "presence_penalty", "frequency_penalty")
    )
    count, bias = Counter(path), getattr(draw, prefix + "bias").items()
    more = {piece: sum(added for text, added in bias if completes(text.decode(), path, piece)) for piece in chances}
    p = normalised({piece: mass * exp(more[piece]) for piece, mass in chances.items()})
    p = normalised({piece: mass ** (penalty if count[piece] else 1) for piece, mass in p.items()})
    p = {piece: mass * exp(-presence * bool(count[piece]) - frequency * count[piece]) for piece, mass in p.items()}
    p = normalised({piece: mass ** (1 / option["temperature"]) for piece, mass in normalised(p).items()})
    p = first(p, lambda piece: -p[piece], count=option["top_k"])
    p = first(p, lambda piece: -p[piece], mass=option["top_p"])
    p = normalised({piece: mass for piece, mass in p.items() if mass >= option["min_p"] * max(p.values())})
    entropy = -sum(mass * log(mass) for mass in p.values())
    return first(p, lambda piece: abs(-log(p[piece]) - entropy), mass=option["typical_p"])


def completes(text: str, path: Path, piece: str) -> bool:
    return text.endswith(piece) and "".join(path).endswith(text.removesuffix(piece))


def first(p: Chances, key: Callable[[str], float], count: int | None = None, mass: float = 1) -> Chances:
    """The first few pieces, so many or until they have this much mass together."""
    kept: Chances = {}
    for piece in sorted(p, key=key):
        if len(kept) == count or (mass < 1 and sum(kept.values()) >= mass):
            break
        kept[piece] = p[piece]
    return normalised(kept)


def grown(seed: int, words: Mapping[str, Sequence[str]], sizes: Sequence[int], prompt: str = "x") -> dict[str, Fake]:
    """An ensemble of random scripts: at each position every member gives mass to so many of its pieces.

    Args:
        seed: scripts of different seeds are different ones.
        words: by member, its tokens; all have the letters a and b beside them.
        sizes: by position; where it is 1, all members are certain of the same letter.
        prompt: what the text begins with.
    """
    generator = np.random.default_rng(seed)
    scripts: defaultdict[str, dict[str, Chances]] = defaultdict(lambda: {"": {END: 1.0}})
    reached = {prompt}
    for size in sizes:
        following = set()
        for text in sorted(reached):
            certain = str(generator.choice(["a", "b"]))
            for name, own in words.items():
                choices = generator.choice([*own, "a", "b", END], size, replace=False) if size > 1 else [certain]
                masses = generator.dirichlet(np.ones(size)) + 0.1
                chances = dict(zip(map(str, choices), (masses / masses.sum()).tolist(), strict=True))
                scripts[name][text] = chances
                following |= {text + piece for piece in chances if piece != END}
        reached = following
    return {name: Fake(own, scripts[name], float(generator.integers(1, 4))) for name, own in words.items()}
