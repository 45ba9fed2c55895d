"""Which ids of a vocabulary are END: what its files declare, its template closes with, or its names say.

One model comes in several wrappings, and each names some of the ends: a hub folder lists them in
``generation_config.json``, a GGUF file has a single ``eos``, a base model has no chat template. The union of
these sources, and of the names that control tokens have by convention, is the same for every wrapping.
"""

from __future__ import annotations

from collections.abc import Iterable

from unisono.vocab.tokenizer import TokenTable

END_OF_TEXT = """
    </s> <eos> [EOS] <EOS> <|eos|> <EOS_TOKEN> <|endoftext|> <|end_of_text|> <｜end▁of▁sentence｜>
"""
END_OF_TURN = """
    <|im_end|> <|eot_id|> <|eom_id|> <|eot|> <|EOT|> <|eom|> <EOT> [EOT] <end_of_turn> <turn|> <|endofturn|>
    [|endofturn|] <|end_of_turn|> <|END_OF_TURN_TOKEN|> <end_of_utterance> <|return|> <|call|>
"""
END_NAMES = frozenset((END_OF_TEXT + END_OF_TURN).split())
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
    rows = enumerate(zip(table.texts, table.kinds, strict=True))
    reasons = {token: f"named {text}" for token, (text, kind) in rows if kind == "control" and text in END_NAMES}
    reasons |= dict.fromkeys(turn_end_ids, TEMPLATE)
    reasons |= {} if table.eos_id is None else {table.eos_id: EOS}
    reasons |= dict.fromkeys(table.declared_end_ids, DECLARED)
    return {token: reason for token, reason in sorted(reasons.items()) if token >= 0}
