"""The pieces of a text, as members cut it, and the tokens of one member."""

from __future__ import annotations

from unisono.chat.messages import Prompt
from unisono.engine.engine import Engine
from unisono.engine.plan import lead_of
from unisono.engine.request import GenerationRequest
from unisono.errors import shown
from unisono.records import Limits, is_unicode
from unisono.server.continued import as_continued
from unisono.server.errors import Refusal, invalid
from unisono.server.messages import read_messages
from unisono.server.token_schemas import (
    DetokenizeAnswer,
    DetokenizeRequest,
    Piece,
    PieceList,
    TokenizeAnswer,
    TokenizeRequest,
)
from unisono.vocab.union import ABSENT


def pieces_json(text: str, model: str, engine: Engine) -> str:
    """What `pieces_of` finds, each piece written once: half a million took seconds and 200 MB."""
    found = pieces_of(text, model, engine)
    written = {key: piece.model_dump_json() for key, piece in {piece.id: piece for piece in found.data}.items()}
    data = ",".join([written[piece.id] for piece in found.data])
    return found.model_copy(update={"data": []}).model_dump_json().replace('"data":[]', f'"data":[{data}]', 1)


def pieces_of(text: str, model: str, engine: Engine) -> PieceList:
    """Tokenise a text as the lead does. Ids are columns of the union, or, for a member alone, its own.

    Raises a `Refusal` where a member cannot spell the text.
    """
    if not is_unicode(text):
        raise Refusal(400, "the text has a lone surrogate", param="text", code="invalid_value")
    lead = lead_of(engine.method, engine.members)
    vocabulary = lead.speller.vocabulary
    ids = lead.speller.own_encoding(text.encode()) or lead.speller.longest_match(text.encode()) or ()
    column_V = lead.map.column_V
    if (text and not ids) or any(column_V[token] == ABSENT for token in set(ids)):
        raise Refusal(400, "the text has bytes that a member cannot write", param="text", code="invalid_value")
    alone = "/" in model  # one member by itself
    known: dict[int, Piece] = {}
    for token in set(ids):
        key, piece = token if alone else int(column_V[token]), vocabulary.pieces[token] or b""
        known[token] = Piece(id=key, text=piece.decode(errors="replace"), bytes=list(piece))
    found = [known[token] for token in ids]
    end = sorted(vocabulary.end_ids) if alone else [engine.union.end]
    return PieceList(model=model, data=found, end=end)


def tokenize(request: TokenizeRequest, engine: Engine, prompt: Prompt) -> TokenizeAnswer:
    """The ids that a member alone reads for a text or a conversation, its special tokens included.

    Raises a `PromptError` where it cannot read the prompt.
    """
    [member] = engine.members
    if prompt.messages is None and not request.prompt:
        ids: list[int] = []
    elif prompt.messages is None and request.add_special_tokens is False:
        ids = member.encoder.spell_text(prompt.text or "")
    else:
        ids = list(engine.prepare(GenerationRequest("", prompt, Limits(1)), may_be_longer=True).ids[member.name])
    texts = member.encoder.tokenizer.table.texts
    return TokenizeAnswer(
        count=len(ids),
        max_model_len=engine.context,
        tokens=ids,
        token_strs=[texts[token] for token in ids] if request.return_token_strs else None,
    )


def prompt_of(request: TokenizeRequest, engine: Engine, *, strict: bool) -> Prompt:
    """What is to be tokenised. Raises a `Refusal`."""
    _check_alone(request.model, engine)
    if (request.prompt is None) == (request.messages is None):
        name = "messages" if request.messages else "prompt"
        words = "prompt and messages are given: leave one out" if request.messages else "the field 'prompt' is missing"
        raise Refusal(400, words, param=name, code="invalid_value" if request.messages else "missing_field")
    if request.messages is None:
        if not is_unicode(request.prompt or ""):
            raise Refusal(400, "the prompt has a lone surrogate", param="prompt", code="invalid_value")
        return as_continued(Prompt(text=request.prompt), request)
    prompt = Prompt(messages=read_messages(request.messages, strict=strict), open_calls=not strict)
    return as_continued(prompt, request)


def detokenize(request: DetokenizeRequest, engine: Engine) -> DetokenizeAnswer:
    """The text of a member's ids, its special tokens as they are called. Raises a `Refusal` for what is no id."""
    _check_alone(request.model, engine)
    [member] = engine.members
    vocabulary, texts = member.speller.vocabulary, member.encoder.tokenizer.table.texts
    wrong = next((place for place, token in enumerate(request.tokens) if not 0 <= token < len(texts)), None)
    if wrong is not None:
        words = f"tokens[{wrong}] is {shown(request.tokens[wrong])}, and the ids of {member.name!r} are 0 to"
        raise invalid(f"tokens[{wrong}]", f"{words} {len(texts) - 1}")
    pieces = [vocabulary.pieces[token] for token in request.tokens]
    data = (
        texts[token].encode() if piece is None else piece for token, piece in zip(request.tokens, pieces, strict=True)
    )
    return DetokenizeAnswer(prompt=b"".join(data).decode(errors="replace"))


def _check_alone(model: str, engine: Engine) -> None:
    if len(engine.members) > 1:
        known = ", ".join(f"{model}/{member.name}" for member in engine.members)
        raise invalid("model", f"{model!r} is several members, each with tokens of its own: ask {known}, or /v1/pieces")
