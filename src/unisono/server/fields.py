"""The fields that no record of `schemas` has, but that clients send: each is accepted without effect, or refused.

What cannot change the answer is accepted. What would change it is refused by name, except for the values that ask for
nothing. The records' own fields are honoured. ``unisono serve --strict`` refuses the fields without effect, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unisono.config.sampling import MEMBER, Sampling
from unisono.errors import shown
from unisono.server.errors import Refusal, invalid


@dataclass(frozen=True, slots=True)
class Field:
    """A field that is not honoured, and why."""

    why: str
    neutral: tuple[object, ...] = ()
    """Values, beside null, that ask for nothing."""
    matters: bool = True
    """Whether its other values would change the answer."""
    only_with: tuple[str, ...] = ()
    """The fields without which its other values change nothing."""
    of_penalties: bool = False
    """Whether its other values change nothing where no penalty is on, which the method says: see `check_penalties`."""
    unmarked: tuple[object, ...] = ()
    """Values that ask for nothing where no member marks reasoning: see `check_reasoning`."""

    def asks(self, value: object) -> bool:
        """Whether a value asks for something."""
        return value is not None and not any(same(value, each) for each in (*self.neutral, *self.unmarked))


def _harmless(why: str, *neutral: object) -> Field:
    return Field(why, neutral, matters=False)


_CACHED = "prompts that begin alike are read once without being asked to, and kept as long as slots are free"
_STORED = "nothing is stored here"
_QUEUED = "all requests are served alike, in the order in which they come"
_NAMED = "the server names requests itself: x-request-id"
_REASONING = "what a model reasons is reasoning_content, and to leave it out there is include_reasoning"
_UNPICKED = "pieces are drawn by temperature, top_k, top_p, min_p and typical_p"
_ALL = "penalties count all that was written: leave it out, or the penalty"
_PENALTY = "to repeat less, use repetition_penalty, presence_penalty or frequency_penalty"
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
_JSON = ("guided_json", "json_schema", "structured_outputs", "response_format", "unisono")
_TEXTS = "members share text and no special tokens, which are never written"
_GRAMMAR = "restrict the answer with response_format or unisono.constraint (json_schema, regex, lark)"
_TEMPLATES = "conversations are written by each member's own template: to change it, give chat_template in the file"
_BEAM = 'for a beam search, use unisono.sampling: "beam_width:4"'
_WHOLE = "prompts are read whole, or refused: shorten it"
_THINKING = "what a template reads of this, give in chat_template_kwargs; or use reasoning_effort or enable_thinking"
_CLIENT = "it is a client's own option, or names a conversation"
_TOLD = "for more about an answer, use logprobs, or unisono.trace"
_TALK = "for conversations, use /v1/chat/completions"
_ONE_MODEL = "the request's model answers, here"

SHARED: dict[str, Field] = {
    "prompt_cache_key": _harmless(_CACHED),
    "prompt_cache_options": _harmless(_CACHED),
    "prompt_cache_retention": _harmless(_CACHED),
    "cache_prompt": _harmless(_CACHED),
    "cache_salt": _harmless(_CACHED),
    "store": _harmless(_STORED, False),
    "metadata": _harmless(_STORED, {}),
    "service_tier": _harmless(_QUEUED, "auto", "default"),
    "priority": _harmless(_QUEUED, 0),
    **dict.fromkeys(("id_slot", "slot_id"), _harmless(_QUEUED, -1)),
    "request_id": _harmless(_NAMED),
    "rid": _harmless(_NAMED),
    **dict.fromkeys(
        ("chat_id", "session_id", "conversation_id", "timeout", "extra_headers", "extra_query"), _harmless(_CLIENT)
    ),
    **dict.fromkeys(("drop_params", "keep_alive", "caching", "fallbacks", "num_retries", "tags"), _harmless(_CLIENT)),
    **dict.fromkeys(("litellm_metadata", "litellm_session_id", "litellm_trace_id"), _harmless(_CLIENT)),
    "max_tool_calls": _harmless("no tool is run here"),  # the Responses API's, of tools that its server runs
    **dict.fromkeys(("provider", "route", "models"), _harmless(_ONE_MODEL)),
    **dict.fromkeys(("usage", "include_usage"), _harmless("usage is told anyway; in a stream, with stream_options")),
    # The size of a context: what does not fit is refused anyway.
    **dict.fromkeys(("num_ctx", "truncation_length", "max_context_length"), _harmless(_WHOLE)),
    "timings_per_token": _harmless("seconds stand under unisono, at the end", False),
    "return_progress": _harmless("a prompt's progress is not reported", False),
    "guided_decoding_backend": _harmless("one library reads all constraints", "auto"),
    # Neutral is what is done here: what a model reasons stands apart from its answer.
    "separate_reasoning": Field(_REASONING, (True,), unmarked=(False,)),  # SGLang
    "stream_reasoning": _harmless("reasoning streams as it is written", True),  # SGLang
    "reasoning_format": Field(_REASONING, ("auto", "deepseek", "parsed"), unmarked=("none", "raw")),  # llama.cpp, Groq
    "spaces_between_special_tokens": _harmless(_TEXTS, True),
    # Parameters of what is refused below: alone they change nothing.
    **dict.fromkeys(("mirostat_tau", "mirostat_eta", "xtc_threshold", "dynatemp_exponent"), _harmless(_UNPICKED)),
    **dict.fromkeys(
        ("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"), _harmless(_PENALTY)
    ),
    "mirostat": Field(_UNPICKED, (0,)),
    "xtc_probability": Field(_UNPICKED, (0,)),
    "dynatemp_range": Field(_UNPICKED, (0,)),
    "top_n_sigma": Field(_UNPICKED, (-1, 0)),
    "tfs_z": Field(_UNPICKED, (1,)),
    "top_a": Field(_UNPICKED, (0,)),
    "min_keep": Field(_UNPICKED, (0, 1)),
    "samplers": Field(_UNPICKED, ([],)),
    "dry_multiplier": Field(_PENALTY, (0,)),
    "no_repeat_ngram_size": Field(_PENALTY, (0,)),
    "repeat_last_n": Field(_ALL, (-1,), of_penalties=True),
    "penalize_nl": Field(_ALL, (True,), of_penalties=True),
    "guided_whitespace_pattern": Field("the whitespace of JSON is settled: leave it out", ("",), only_with=_JSON),
    "use_beam_search": Field(_BEAM, (False,)),
    "num_beams": Field(_BEAM, (1,)),
    "early_stopping": Field(_BEAM, (False,)),
    "length_penalty": Field(_BEAM, (1,)),
    # Other servers' names of what has a name here, and their values that turn it off.
    "extra_body": Field("openai's clients write what it holds at the top level: do so", ({},)),
    "options": Field("write what it holds at the top level, by the names that are honoured here", ({},)),
    "format": Field("use response_format", ("",)),
    "do_sample": Field("use temperature: 0 is greedy"),
    "max_length": Field("it counts the prompt, too: use max_tokens"),
    "min_length": Field("it counts the prompt, too: use min_tokens", (0,)),
    "custom_stopping_strings": Field("use stop", ([], "")),
    "tfs": Field(_UNPICKED, (1,)),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "smoothing_factor", "penalty_alpha"), Field(_UNPICKED, (0,))),
    "smoothing_curve": _harmless(_UNPICKED),
    "nsigma": Field(_UNPICKED, (-1, 0)),
    "mirostat_mode": Field(_UNPICKED, (0,)),
    "temperature_last": Field(_UNPICKED, (False,)),
    **dict.fromkeys(("sampler_order", "sampler_priority"), Field(_UNPICKED, ([],))),
    "encoder_repetition_penalty": Field(_PENALTY, (1,)),
    **dict.fromkeys(
        ("repetition_penalty_range", "rep_pen_range", "repetition_context_size"),
        Field(_ALL, (0, -1), of_penalties=True),
    ),
    "guidance_scale": Field("members are combined, not contrasted with a prompt", (1,)),
    "negative_prompt": Field("members are combined, not contrasted with a prompt", ("",)),
    **dict.fromkeys(("custom_token_bans", "banned_tokens", "banned_strings"), Field("use logit_bias", ([], ""))),
    "grammar_string": Field(_GRAMMAR, ("",)),
    "transforms": Field(_WHOLE, ([],)),
    "plugins": Field("there are none", ([],)),
    "stop_regex": Field("texts end at strings: use stop", ([], "")),
    "include_stop_str_in_output": Field("a text ends before its stop string", (False,)),
    "no_stop_trim": Field("a text ends before its stop string", (False,)),
    "skip_special_tokens": Field(_TEXTS, (True,)),
    "truncate_prompt_tokens": Field(_WHOLE),
    "n_keep": Field(_WHOLE, (0, -1)),
    "truncation": Field(_WHOLE, ("disabled",)),
    "background": Field("an answer goes to who waits for it", (False,)),
    "include": Field(_TOLD, ([],)),
    **dict.fromkeys(("details", "decoder_input_details", "return_meta_info"), Field(_TOLD, (False,))),
    **dict.fromkeys(("return_cached_tokens_details", "return_routed_experts"), Field(_TOLD, (False,))),
    "top_n_tokens": Field("use logprobs", (0,)),
    "return_full_text": Field("for a prompt and its text, use echo of /v1/completions", (False,)),
    "watermark": Field("no text is marked", (False,)),
    "nvext": Field("there are no further arguments", ({},)),
    "t_max_predict_ms": Field("use max_tokens, or leave: the request is cancelled", (0, -1)),
    "allowed_token_ids": Field(_GRAMMAR, ([],)),
    "bad_words": Field("use logit_bias, or unisono.sampling with a bias", ([],)),
    "logits_processors": Field("use logit_bias, or unisono.sampling", ([],)),
    "custom_logit_processor": Field("use logit_bias, or unisono.sampling"),
    "grammar": Field(_GRAMMAR, ("",)),
    "ebnf": Field(_GRAMMAR),
    "guided_grammar": Field(_GRAMMAR),
    "structural_tag": Field(_GRAMMAR),
    "return_token_ids": Field("members have different ids; /v1/pieces lists those of a text", (False,)),
    "return_tokens_as_token_ids": Field("members have different ids; /v1/pieces lists those of a text", (False,)),
    "return_tokens": Field("members have different ids; /v1/pieces lists those of a text", (False,)),
    "return_hidden_states": Field("members have nothing in common but pieces", (False,)),
    "n_probs": Field("use logprobs", (0,)),
    "post_sampling_probs": Field("logprobs are those before sampling options", (False,)),
    "lora": Field("adapters are part of a member, in the file", ([],)),
    **dict.fromkeys(("lora_path", "adapter_id"), Field("adapters are part of a member, in the file")),
    "kv_transfer_params": Field("caches stay in this server", ({},)),
    "session_params": Field("requests stand alone", ({},)),
    "vllm_xargs": Field("there are no further arguments", ({},)),
}
"""Fields of both endpoints: OpenAI's, and those of vLLM, SGLang and llama.cpp."""

OF_CHATS: dict[str, Field] = {
    **SHARED,
    "think": Field(_THINKING),
    "tool_stream": _harmless("a call is sent when it is complete", False),
    "verbosity": _harmless("models write as much as they do", "medium"),
    "prediction": _harmless("to draft, use unisono.speculate"),
    "audio": Field("answers are text"),
    "modalities": Field("answers are text", (["text"],)),
    "safe_prompt": Field("write it into a message: no text is put before those of a request", (False,)),
    "moderation": Field("nothing is moderated here"),
    "web_search_options": Field("nothing is searched for"),
    "echo": Field("for a prompt and its text, use /v1/completions", (False,)),
    "prompt_logprobs": Field(
        "members read a conversation each in its own template: to score text, use /v1/completions"
    ),
    "add_special_tokens": Field(_TEMPLATES, (False,)),
    "add_bos_token": Field(_TEMPLATES, (True,)),
    "thinking_forced_open": Field(_TEMPLATES, (False,)),
    "parse_tool_calls": Field("calls are parsed where tools are given", (True,)),
    "chat_template": Field(_TEMPLATES),
    "documents": Field("write them into a message", ([],)),
    "mm_processor_kwargs": Field("messages are text", ({},)),
}
OF_COMPLETIONS: dict[str, Field] = {
    **SHARED,
    "suffix": Field("texts are continued, not filled in", ("",)),
    "response_format": Field("use json_schema, regex or unisono.constraint", ({"type": "text"},)),
    **dict.fromkeys(("tools", "functions"), Field(_TALK, ([],))),
    **dict.fromkeys(("tool_choice", "function_call"), Field(_TALK, ("none", "auto"))),
    "parallel_tool_calls": _harmless(_TALK),
    "reasoning_effort": Field(f"a prompt is read as it is: {_TALK}", ("none",)),
    "enable_thinking": Field(f"a prompt is read as it is: {_TALK}", (False,)),
    "chat_template_kwargs": Field(f"a prompt is read as it is: {_TALK}", ({},)),
    **dict.fromkeys(
        ("add_special_tokens", "add_bos_token"), Field("a prompt begins as its member's tokenizer begins it", (True,))
    ),
}
OF_RESPONSES: dict[str, Field] = {
    **{name: field for name, field in SHARED.items() if name not in ("store", "metadata", "include")},
    "background": Field("a response is written while its client waits", (False,)),
    "background_options": Field("a response is written while its client waits", ({},)),
    "access_programs": Field("there are no such programs", ({},)),
    "image": Field("answers are text"),
    "conversation": Field("conversations go on by previous_response_id"),
    "prompt": Field("no prompts are stored here: send instructions and input"),
    "truncation": _harmless(_WHOLE, "disabled"),
    "max_tool_calls": _harmless("functions alone are called, and by the client"),
    "context_management": Field(_WHOLE, ([],)),
    "moderation": Field("nothing is moderated here"),
    "echo": Field("for a prompt and its text, use /v1/completions", (False,)),
}
"""Those of ``/v1/responses``."""
OF_TOKENS: dict[str, Field] = {
    "add_generation_prompt": Field("a conversation is written as it is to be answered", (True,)),
    "continue_final_message": Field("a conversation is written as it is to be answered", (False,)),
    "chat_template": Field(_TEMPLATES),
    "skip_special_tokens": Field("special tokens are written by their names", (False,)),
}
"""Those of ``/tokenize`` and ``/detokenize``."""
OF_MESSAGES: dict[str, Field] = {
    "audio": Field("messages are text"),
    "refusal": Field("the content is another text: write it there", ("",)),
    "function_call": Field("it is deprecated: use tool_calls", ({},)),
    "images": Field("messages are text", ([],)),
}
"""Keys of a past message. Others that are unknown are handed to the members' templates, most of which ignore them."""

STOPS = ("stop", "stop_sequences", "stopping_strings")
NAMES_OF_ONE = (
    ("max_tokens", "max_completion_tokens", "n_predict", "max_new_tokens", "num_predict", "max_output_tokens"),
    ("min_tokens", "min_new_tokens"),
    ("repetition_penalty", "repeat_penalty", "rep_pen"),
    ("thinking_token_budget", "thinking_budget_tokens", "reasoning_budget_tokens", "thinking_budget"),
    STOPS,
    ("typical_p", "typical"),
    ("seed", "random_seed"),
    ("ignore_eos", "ban_eos_token"),
    ("n", "num_return_sequences", "best_of"),
)
"""Names of one thing. The records know all of them but ``best_of``: texts are not ranked, so it has to be ``n``."""


def read_fields(body: Mapping[str, Any], table: Mapping[str, Field], *, strict: bool) -> dict[str, Any]:
    """Return a body without the fields that have no effect, such as every null: it stands for leaving a field out.

    Raises a `Refusal` that names one that would have an effect.
    """
    given = {name: value for name, value in body.items() if name not in table and value is not None}
    for name, value in body.items():
        field = table.get(name)
        if field is None or not field.asks(value):
            continue
        alone = field.of_penalties or (field.only_with and all(body.get(other) is None for other in field.only_with))
        if strict or (field.matters and not alone):
            raise unsupported(name, value, field.why)
    if same(given.get("logprobs"), False):
        del given["logprobs"]
    if "logprobs" not in given and same(given.get("top_logprobs"), 0):
        del given["top_logprobs"]
    for names in NAMES_OF_ONE:
        first, *others = [name for name in names if given.get(name) is not None] or [""]
        for other in others:
            if not (
                same(given[first], given[other]) or (first in STOPS and _listed(given[first]) == _listed(given[other]))
            ):
                raise contradiction(first, given[first], other, given[other])
        given = {name: value for name, value in given.items() if name == first or name not in names}
    if (best := given.pop("best_of", None)) is not None and not same(best, 1):
        raise unsupported("best_of", best, "texts are not ranked: ask for n texts and choose")
    return given


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def check_penalties(body: Mapping[str, Any], table: Mapping[str, Field], sampling: Sampling) -> None:
    """Refuse fields that say what the sampling's penalties count, where one is on. Raises a `Refusal`."""
    if not any(sampling.changes(prefix + name) for prefix in ("", MEMBER) for name in _PENALTIES):
        return
    for name, value in body.items():
        field = table.get(name)
        if field is not None and field.of_penalties and field.asks(value):
            raise unsupported(name, value, field.why)


def check_reasoning(body: Mapping[str, Any], table: Mapping[str, Field]) -> None:
    """Refuse what asks for reasoning within an answer's text, of an ensemble that marks it. Raises a `Refusal`."""
    for name, value in body.items():
        field = table.get(name)
        if field is not None and any(same(value, each) for each in field.unmarked):
            raise unsupported(name, value, field.why)


def same(value: object, other: object) -> bool:
    """Whether two values of JSON are the same; true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def unsupported(name: str, value: object, why: str) -> Refusal:
    return Refusal(400, f"{name} is {shown(value)}, which is not supported: {why}", param=name, code="unsupported")


def contradiction(name: str, value: object, other: str, its_value: object) -> Refusal:
    """The refusal of two names of one thing with different values."""
    return invalid(name, f"{name} is {shown(value)}, but {other} is {shown(its_value)}: leave one out")
