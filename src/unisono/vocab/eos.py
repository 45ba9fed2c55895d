"""Which ids of a vocabulary are END: what its files declare, its template closes with, or its names say.

One set of weights comes in several wrappings, and each tells a different part: a hub folder lists
every end in ``generation_config.json``, a GGUF file names a single ``eos``, a base model's chat
template is missing. So the sources are added up, and the names that control tokens bear by
convention fill the gaps: every wrapping of a model then gives the same ids.
"""

from __future__ import annotations

from collections.abc import Iterable

from unisono.vocab.tokenizer import TokenTable

END_NAMES = frozenset(
    {
        # The end of a text or document.
        "</s>",
        "<eos>",
        "[EOS]",
        "<EOS>",
        "<|eos|>",
        "<EOS_TOKEN>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<｜end▁of▁sentence｜>",
        # The end of a turn or message.
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|eot|>",
        "<|EOT|>",
        "<|eom|>",
        "<EOT>",
        "[EOT]",
        "<end_of_turn>",
        "<turn|>",
        "<|endofturn|>",
        "[|endofturn|]",
        "<|end_of_turn|>",
        "<|END_OF_TURN_TOKEN|>",
        "<end_of_utterance>",
        "<|return|>",
        "<|call|>",
    }
)
"""Names that a control token bears only when it ends a text or a turn. Left out because they also
stand inside a turn, or before one: ``<|end|>`` (ends a part of a turn in the harmony format, a whole
turn elsewhere: a template tells which), ``<EOP_TOKEN>``, ``[SEP]``, padding, infilling and file marks."""

DECLARED = "declared by the model's files"
EOS = "the tokenizer's eos"
TEMPLATE = "ends a turn in the chat template"


def end_ids(table: TokenTable, turn_end_ids: Iterable[int] = ()) -> dict[int, str]:
    """Return the ids that are END, ascending, each with the first reason found, for people.

    Args:
        table: the tokenizer's own description.
        turn_end_ids: control tokens that close an answer in the model's own chat template, see
            `unisono.chat.template_probe`.
    """
    reasons = dict.fromkeys(table.declared_end_ids, DECLARED)
    if table.eos_id is not None:
        reasons.setdefault(table.eos_id, EOS)
    for token in turn_end_ids:
        reasons.setdefault(token, TEMPLATE)
    for token, (text, kind) in enumerate(zip(table.texts, table.kinds, strict=True)):
        if kind == "control" and text in END_NAMES:
            reasons.setdefault(token, f"named {text}")
    return {token: reasons[token] for token in sorted(reasons) if token >= 0}
