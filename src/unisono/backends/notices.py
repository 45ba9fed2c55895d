"""What a library warns of while it loads a model: what is not known to be harmless reaches the user, once."""

from __future__ import annotations

import re
from collections.abc import Iterable

from unisono.backends.gguf import GgufFile
from unisono.backends.gguf_optional import perhaps_lacking
from unisono.backends.gguf_parts import fewer_than_labelled, unlike_others
from unisono.backends.gguf_tokens import token_warnings
from unisono.backends.weight_files import named
from unisono.errors import shown

LONGEST = 300
"""Characters of one warning."""
READ = 4_000
"""Characters of one that are looked at: a library may cite all of a file in it."""
TEMPLATE = "tokenizer.chat_template"
RESHAPING = {"general.sampling.penalty_repeat": 1, "general.sampling.mirostat": 0}
"""Keys of a GGUF file that change greedy texts, and the value that does not."""
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\d+|blk\.\S+|\(.*?\)")

LLAMACPP_NOISE = (
    r"n_ctx_(seq|per_seq) .*n_ctx_train",  # `doctor` shows both
    r"full-size SWA cache",  # as we ask for
    r"control-looking token: +\d+ '</s>'",  # an HTML tag in Gemma's vocabulary; no user's text becomes it either way
    r"missing (or unrecognized )?pre-tokenizer type",  # told in our words
    r"^-+$|^\**$|GENERATION QUALITY WILL BE DEGRADED|CONSIDER REGENERATING",  # the frame of that one
    r"control token: .* is not marked as EOG",  # END is settled by us
    r"special_eog_ids contains both",
    r"special_e(os|ot|om)_id is not in",  # as above
    r"Phi SWA is currently disabled",  # told in our words, where a text can be longer than its window
    r"cannot be used with preferred buffer type",  # speed alone
    r"padding V cache",
)
"""Of llama.cpp: what changes nothing in what is written."""
TRANSFORMERS_NOISE = (
    r"Dequantizing the whole model",  # as we ask for
    r"GGUF checkpoint with its weights packed is fastest in",  # speed alone, of kernels that we do not run
    r"fast path is not available|flash[-_ ]linear[-_ ]attention|causal[-_]conv1d|mamba_ssm",  # speed alone
    r"unauthenticated requests to the HF Hub",
    r"`?(torch_dtype|use_fast)`? is deprecated",
    r"`tokenizer_class` is .* but `tokenizer\.json` is .*; loading",  # the file is right; we compare it
    r"legacy value of the official releases",  # of the first Gemma, whose right function is taken
    r"This model config has set a `rope_parameters\['original_max",  # advice to Phi-3's authors; the number is used
    r"generation flags are not valid and may be ignored",  # they are not ours
    r"present in the checkpoints with different values, so we will NOT tie",  # we compare them, and say so
    r"LOAD REPORT",  # read from `output_loading_info`, and told in our words
)
"""Of transformers and Python's `warnings`."""


class Notices:
    """Warnings that were heard, in order. Those that differ in a name or a number alone are told once."""

    def __init__(self, noise: Iterable[str] = ()) -> None:
        self._noise = re.compile("|".join(noise) or r"(?!)", re.IGNORECASE)
        self._heard: dict[str, list[str]] = {}

    def hear(self, words: str) -> None:
        said = " ".join(_STYLE.sub("", words[:READ]).split())
        if not said or self._noise.search(said):
            return
        short = said if len(said) <= LONGEST else said[:LONGEST] + " …"
        alike = self._heard.setdefault(_VARYING.sub("*", said), [])
        if short not in alike:
            alike.append(short)

    def hear_all(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            self.hear(warning)

    def told(self) -> tuple[str, ...]:
        return tuple(
            first + (f" (and {len(more):,} more like this)" if more else "") for first, *more in self._heard.values()
        )


def gguf_warnings(file: GgufFile) -> list[str]:
    """What the head of a GGUF file shows, whichever library reads it."""
    found = []
    if file.text("tokenizer.ggml.model") == "gpt2" and not file.text("tokenizer.ggml.pre"):
        found.append(
            "its file names no pre-tokenizer (tokenizer.ggml.pre), so text is probably split otherwise than in its "
            "training: convert the model again with a newer converter"
        )
    found += token_warnings(file)
    asked = {key: value for key in RESHAPING if isinstance(value := file.metadata.get(key), int | float)}
    if reshaped := [f"{key} {shown(value)}" for key, value in asked.items() if value != RESHAPING[key]]:
        found.append(
            f"its file asks for {', '.join(reshaped)}, which llama.cpp's own programs do and an ensemble does not: "
            "`sampling` and the request say how pieces are chosen"
        )
    if TEMPLATE in file.metadata and file.text(TEMPLATE) is None:
        found.append(f"its file has a chat template that is no text ({TEMPLATE}), and is not used")
    if lacking := unlike_others(file):
        found.append(f"its file perhaps lacks {named(lacking)}, which similar layers have")
    found += [f"its file perhaps lacks {name}, {why}" for name, why in perhaps_lacking(file)]
    if label := fewer_than_labelled(file):
        found.append(
            f"its file holds {file.parameters:,} parameters, and says that the model has {label} (general.size_label): "
            "a layer, or something else, may have been left out"
        )
    return found
