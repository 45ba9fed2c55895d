"""Whether an adapter was made for the model that it is to change, by what both are called (docs/adr/0029)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from unisono.errors import ModelUnsupported, shown

_WORDS = {
    *("final", "best", "last", "latest", "output", "outputs", "out", "result", "results", "base", "merged", "model"),
    *("models", "llm", "checkpoint", "checkpoints", "snapshot", "tmp", "run", "step", "epoch", "version", "v", ""),
}
"""What names of folders are made of that training gives to any model, beside numbers."""
_FORMATS = (
    r"i?q\d\w{0,9}|b?f16|f32|fp(4|8|16|32)|nf4|gguf|int[48]|[48]bits?|bnb|unsloth|ud|awq|gptq|mlx|w\d+a\d+|dynamic|"
    r"quantized|\d{5}-of-\d{5}"
)
"""What names of files and repositories have at their ends of the format of their numbers, and who made it."""
_OF_THE_CACHE = re.compile(r"models--([^/\\]+)[/\\]snapshots[/\\]")


def check_base(base: object, names: Collection[str], who: str, otherwise: str) -> tuple[str, ...]:
    """Hold what an adapter was trained on, which may be unknown, against what its model is called.

    Returns what is to be warned of. Raises a `ModelUnsupported` that says how to let it in ``otherwise``.
    """
    if base is None or base == "":
        return ()
    known = {plain(name) for name in names if not says_nothing(name)} - {""}
    if isinstance(base, str) and known and not says_nothing(base) and plain(base) in known:
        return ()
    called = " or ".join(sorted({_last_part(name) for name in names if name})) or "without a name"
    if isinstance(base, str) and plain(base) and (not known or says_nothing(base)):
        adapter = who.rpartition(": ")[2]
        return (f"{adapter} was trained on {shown(base)}, and whether that is this model ({called}) is not known",)
    raise ModelUnsupported(
        f"{who} was trained on {shown(base)}, and the model is {called}",
        hint="an adapter of another model spoils this one without a word. If it is the same model by another name, "
        f"{otherwise}",
    )


def says_nothing(name: str) -> bool:
    """Whether a name is one that any model may have, such as ``checkpoint-500``."""
    words = re.split(r"[\W\d_]+", _last(name))
    return any(words) and _WORDS.issuperset(words)


def plain(name: str) -> str:
    """The last part of a name without case, signs, a maker that some leave out, and the number formats at its end.

    Adapters are trained on quantised weights, and are for the model in any format. Signs between digits stay: Phi-3.5
    is not Phi-35. The names inside GGUF files have spaces where those of repositories have hyphens.
    """
    last = re.sub(r"\s+", "-", _last(name).strip())
    for _ in range(6):  # such as -unsloth-bnb-4bit, and -UD-Q4_K_XL-00001-of-00002.gguf
        last = re.sub(rf"[-._]({_FORMATS})$", "", last)
    last = last.removeprefix("meta-")
    last = re.sub(r"(?<=\d)[\W_]+(?=\d)", "\0", last)  # which stands in no name
    return re.sub(r"[^\w\0]|_", "", last).replace("\0", ".")


def _last(name: str) -> str:
    name = unicodedata.normalize("NFKC", name)
    if (cached := _OF_THE_CACHE.search(name)) is not None:  # where folders are named by their commits
        return cached[1].split("--")[-1].casefold()
    return _last_part(name).casefold()


def _last_part(name: str) -> str:
    return re.split(r"[/\\:]", name.rstrip("/\\"))[-1]
