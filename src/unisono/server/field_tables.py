"""Which fields of clients are not honoured, by endpoint: OpenAI's, and those of vLLM, SGLang, llama.cpp and others.

Each is accepted without effect, or refused, as `unisono.server.fields` reads the tables. What is empty (``""``, ``[]``,
``{}``) asks for nothing, unless a field says otherwise.
"""

from __future__ import annotations

from typing import TypedDict, Unpack

from unisono.server.fields import Field


class _Conditions(TypedDict, total=False):
    """When a field that is refused asks for nothing, as `Field` has it."""

    at_most: float | None
    only_with: tuple[str, ...]
    of_penalties: bool
    of_beams: bool
    unmarked: tuple[object, ...]
    empty_asks: bool


def _harmless(names: str, why: str, *neutral: object) -> dict[str, Field]:
    """Fields that cannot change an answer."""
    return dict.fromkeys(names.split(), Field(why, neutral, matters=False))


def _refused(names: str, why: str, *neutral: object, **conditions: Unpack[_Conditions]) -> dict[str, Field]:
    """Fields that are refused, but with the neutral values, which ask for nothing."""
    return dict.fromkeys(names.split(), Field(why, neutral, **conditions))


_CACHED = "prompts that begin alike are read once without being asked to, and kept as long as slots are free"
_STORED = "nothing is stored here"
_QUEUED = "all requests are served alike, in the order in which they come"
_ROUTED = "one server answers, and no other has a part of the request"
_REASONING = "what a model reasons is reasoning_content, and to leave it out there is include_reasoning"
_UNPICKED = "pieces are drawn by temperature, top_k, top_p, min_p and typical_p"
_ALL = "penalties count all that was written: leave it out, or the penalty"
_PENALTY = "to repeat less, use repetition_penalty, presence_penalty or frequency_penalty"
_JSON = ("guided_json", "json_schema", "structured_outputs", "response_format", "unisono")
_TEXTS = "members share text and no special tokens, which are never written"
_GRAMMAR = "restrict the answer with response_format or unisono.constraint (json_schema, regex, lark)"
WRITE_LARK = f"{_GRAMMAR}; llguidance.gbnf_to_lark writes llama.cpp's grammars (GBNF) as lark"
"""What to do about a grammar that is none of llguidance."""
_GIVEN_GRAMMAR = "it says how a grammar is used, which is refused"
_TEMPLATES = "conversations are written by each member's own template: to change it, give chat_template in the file"
_BEAM = 'for a beam search, use unisono.sampling: "beam_width:4"'
_OF_BEAM = 'of a beam search, unisono.sampling says all: "beam_width:4 length_penalty:0.6"'
_WHOLE = "prompts are read whole, or refused: shorten it"
_MARKS = "reasoning ends with the mark of each member's own template"
_CLIENT = "it is a client's own option, or names a conversation"
_TOLD = "for more about an answer, use logprobs, or unisono.trace"
_IDS = "members have different ids; /v1/pieces lists those of a text"
_TALK = "for conversations, use /v1/chat/completions"
_PICTURES = "it says how pictures are read, and there are none: messages are text"
_DRAFTS = "drafts change no text: unisono.speculate says how they are made"
_SEARCH = "nothing is searched for"
_PARTS = "answers have all their fields"
_LOADED = "models are loaded as the file says"

_WITHOUT_EFFECT: dict[str, Field] = {
    **_harmless("prompt_cache_key prompt_cache_options prompt_cache_retention cache_prompt cache_salt", _CACHED),
    **_harmless("n_cache_reuse extra_key prompt_cache_isolation_key cache_control", _CACHED),
    **_harmless("store", _STORED, False),
    **_harmless("metadata", _STORED, {}),
    **_harmless("service_tier", _QUEUED, "auto", "default"),
    **_harmless("priority", _QUEUED, 0),
    **_harmless("id_slot slot_id", _QUEUED, -1),
    **_harmless("custom_labels", _QUEUED),
    **_harmless("bootstrap_host bootstrap_port bootstrap_room", _ROUTED),
    **_harmless("routed_dp_rank disagg_prefill_dp_rank data_parallel_rank", _ROUTED),
    **_harmless("request_id rid", "the server names requests itself: x-request-id"),
    **_harmless("chat_id session_id conversation_id thread_id trace_id timeout extra_headers extra_query", _CLIENT),
    **_harmless("drop_params keep_alive caching fallbacks num_retries tags cache", _CLIENT),
    **_harmless("litellm_metadata litellm_session_id litellm_trace_id", _CLIENT),
    **_harmless("request_timeout stream_timeout max_retries ttl", _CLIENT),
    **_harmless("api_key api_base base_url api_version custom_llm_provider", _CLIENT),
    **_harmless("background_tasks model_item variables", _CLIENT),  # Open WebUI
    **_harmless("client_metadata", _CLIENT),  # Codex
    **_harmless("api_type api_server legacy_api", _CLIENT, False),  # SillyTavern
    **_harmless("num_gpu main_gpu num_thread num_batch low_vram f16_kv use_mmap use_mlock numa vocab_only", _LOADED),
    # The Responses API's, and OpenRouter's, of tools that their servers run.
    **_harmless("max_tool_calls deferred_tools stop_server_tools_when", "no tool is run here"),
    **_harmless("disable_tool_validation", "calls in messages are read as they are"),  # Groq
    **_harmless("provider route models", "the request's model answers, here"),
    **_harmless("usage include_usage", "usage is told anyway; in a stream, with stream_options"),
    # The size of a context, and what to do where it is too small: what does not fit is refused.
    **_harmless("num_ctx max_context_length n_discard truncation_side", _WHOLE),
    **_harmless("n_keep num_keep", _WHOLE, 0, -1),
    **_harmless("context_length_exceeded_behavior context_overflow_policy contextOverflowPolicy", _WHOLE),
    **_harmless("timings_per_token perf_metrics_in_response", "seconds stand under unisono, at the end", False),
    **_harmless("verbose debug", "a request is not repeated; what was done stands under unisono", False),
    **_harmless("return_progress", "a prompt's progress is not reported", False),
    **_harmless("sse_ping_interval stream_interval", "a stream has an event for each step"),
    **_harmless("guided_decoding_backend", "one library reads all constraints", "auto"),
    **_harmless("backend_sampling", "pieces are drawn in one place"),
    **_harmless("stream_reasoning", "reasoning streams as it is written", True),  # SGLang
    **_harmless("spaces_between_special_tokens", _TEXTS, True),
    **_harmless("draft_model num_draft_tokens prompt_lookup_num_tokens ngram_corpus_id speculation", _DRAFTS),
    **_harmless("draft_num_predict speculative_ngram", _DRAFTS, False),
    **_harmless("speculative.n_max speculative.n_min speculative.p_min speculative.type", _DRAFTS),
    **_harmless("mm_processor_kwargs media_io_kwargs images_config image_config", _PICTURES),
    **_harmless("disable_search citation_options", _SEARCH),  # Perplexity, Groq
    **_harmless("max_dynamic_patch min_dynamic_patch use_audio_in_video vl_high_resolution_images", _PICTURES),
    # Parameters of what is refused below: alone they change nothing.
    **_harmless("mirostat_tau mirostat_eta xtc_threshold dynatemp_exponent smoothing_curve adaptive_decay", _UNPICKED),
    **_harmless("dynatemp_low dynatemp_high mirostat_lr mirostat_target", _UNPICKED),
    **_harmless("rep_pen_slope", _ALL, 1),  # of rep_pen_range
    **_harmless("dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers", _PENALTY),
    **_harmless("grammar_lazy grammar_type grammar_triggers preserved_tokens", _GIVEN_GRAMMAR),
    **_harmless("custom_params", "it is of a custom_logit_processor"),  # SGLang
    **_harmless("routed_experts_prompt_start routed_experts_start_len", "it is of return_routed_experts"),
    **_harmless("return_mm_kwargs return_token_offsets", "it is of endpoints that render prompts"),  # vLLM, as there
    **_harmless("reasoning_control", "a budget of reasoning needs no preparation"),
    **_harmless("reasoning_budget_start_tag reasoning_budget_end_tag reasoning_budget_end_tags", _MARKS),
}

SHARED: dict[str, Field] = {
    **_WITHOUT_EFFECT,
    # Neutral is what is done here: what a model reasons stands apart from its answer.
    **_refused("separate_reasoning", _REASONING, True, unmarked=(False,)),  # SGLang
    **_refused(
        "reasoning_format",  # llama.cpp, Groq
        _REASONING,
        *("auto", "deepseek", "parsed"),
        unmarked=("none", "raw", "hidden", "deepseek-legacy"),
    ),
    **_refused("reasoning_budget_message", _MARKS),
    **_refused("mirostat mirostat_mode xtc_probability dynatemp_range top_a", _UNPICKED, at_most=0),
    **_refused("epsilon_cutoff eta_cutoff smoothing_factor penalty_alpha", _UNPICKED, at_most=0),
    **_refused("top_n_sigma nsigma", _UNPICKED, at_most=0),
    **_refused("skew", _UNPICKED, 0),
    **_refused("adaptive_target", _UNPICKED, at_most=-1e-9),
    **_refused("tfs_z tfs", _UNPICKED, 1),
    **_refused("min_keep", _UNPICKED, at_most=1),
    **_refused("samplers sampler_order sampler_priority", _UNPICKED),
    **_refused("dynamic_temperature temperature_last", _UNPICKED, False),
    **_refused("dry_multiplier no_repeat_ngram_size", _PENALTY, at_most=0),
    **_refused("encoder_repetition_penalty", _PENALTY, 1),
    **_refused("repeat_last_n", _ALL, -1, of_penalties=True),
    **_refused("penalize_nl penalize_newline", _ALL, True, of_penalties=True),
    **_refused("repetition_penalty_range rep_pen_range repetition_context_size", _ALL, at_most=0, of_penalties=True),
    **_refused("repetition_decay", _ALL, at_most=0, of_penalties=True),
    **_refused("repetition_detection", "a text ends at END, at a stop string, or at max_tokens"),
    **_refused("guided_whitespace_pattern", "the whitespace of JSON is settled: leave it out", only_with=_JSON),
    **_refused("use_beam_search", _BEAM, False),
    **_refused("num_beams", _BEAM, 1),
    **_refused("early_stopping", _OF_BEAM, False, of_beams=True),
    **_refused("length_penalty", _OF_BEAM, 1, of_beams=True),
    # Other servers' names of what has a name here, and their values that turn it off.
    # Of these two, what they hold is read as if it stood at the top level: see `body.spread`.
    **_refused("extra_body options", "write what it holds at the top level"),
    **_refused("params", "write what it holds at the top level, by the names that are honoured here"),
    **_refused("format", "use response_format"),
    **_refused("max_length", "it counts the prompt, too: use max_tokens"),
    **_refused("min_length", "it counts the prompt, too: use min_tokens", 0),
    **_refused("auto_max_new_tokens", "leave max_tokens out to write as much as the server allows", False),
    **_refused("max_tokens_second", "use max_tokens", at_most=0),
    **_refused("custom_stopping_strings", "use stop"),
    **_refused("guidance_scale", "members are combined, not contrasted with a prompt", 1),
    **_refused("negative_prompt", "members are combined, not contrasted with a prompt"),
    **_refused("custom_token_bans banned_tokens banned_strings", "use logit_bias"),
    **_harmless("transforms", _WHOLE),  # OpenRouter's way to shorten what does not fit
    **_harmless("truncation", _WHOLE, "disabled"),  # or "auto": the same
    **_refused("incremental_output", "a stream has what is new", True, only_with=("stream",)),  # DashScope
    **_refused("plugins guardrails", "there are none"),
    **_refused("safety_model", "nothing is moderated here"),
    **_refused("tool_ids tool_servers", "give tools"),  # Open WebUI
    **_refused("files", "write into a message what a file says"),
    **_refused("features search_parameters search_domain_filter", _SEARCH),
    **_refused("enable_search return_images", _SEARCH, False),
    **_refused("stop_regex", "texts end at strings: use stop"),
    **_refused("skip_special_tokens safe_tokenization", _TEXTS, True),
    **_refused("background", "an answer goes to who waits for it", False),
    **_refused("include", _TOLD),
    **_refused("details decoder_input_details return_meta_info return_cached_tokens_details", _TOLD, False),
    **_refused("return_routed_experts return_prompt_text", _TOLD, False),
    **_refused("logprob_token_ids", "use top_logprobs, which lists the most likely pieces"),
    **_refused("response_fields", _PARTS),
    **_refused("result_format", _PARTS, "message"),  # DashScope
    **_refused("top_n_tokens", "use logprobs", 0),
    **_refused("return_full_text", "for a prompt and its text, use echo of /v1/completions", False),
    **_refused("watermark watermarking", "no text is marked", False),
    **_refused("nvext vllm_xargs", "there are no further arguments"),
    **_refused("t_max_predict_ms t_max_prompt_ms", "use max_tokens, or leave: the request is cancelled", at_most=0),
    **_refused("n_indent", "restrict the answer with unisono.constraint", at_most=0),
    **_refused("allowed_token_ids", _GRAMMAR),
    **_refused("bad_words", "use logit_bias, or unisono.sampling with a bias"),
    **_refused("logits_processors custom_logit_processor", "use logit_bias, or unisono.sampling"),
    **_refused("grammar grammar_string ebnf", WRITE_LARK),
    **_refused("structural_tag guideline", _GRAMMAR),
    **_refused("return_token_ids return_tokens_as_token_ids return_tokens return_prompt_token_ids", _IDS, False),
    **_refused("input_ids", "use prompt of /v1/completions, which takes the ids of a member alone"),
    **_refused("prompt_embeds image_data", "messages and answers are text"),
    **_refused("return_hidden_states", "members have nothing in common but pieces", False),
    **_refused("post_sampling_probs", "logprobs are those before sampling options", False),
    **_refused("lora lora_path adapter_id adapters", "adapters are part of a member, in the file"),
    **_refused("kv_transfer_params ec_transfer_params", "caches stay in this server"),
    **_refused("session_params", "requests stand alone"),
    **_refused("system_prompt", "write a message with the role system"),
    **_refused("generation_prompt chat_format chat_parser", _TEMPLATES),
    **_refused("mode", "one endpoint reads conversations, and another prompts", "instruct"),  # textgen
    **_refused("character instruction_template preset", "it is kept in another server: write it into the request"),
    **_refused("exclude_top_choices", _UNPICKED, at_most=0),
}
"""Fields of all endpoints."""

OF_CHATS: dict[str, Field] = {
    **SHARED,
    **_harmless("tool_stream", "a call is sent when it is complete", False),
    **_harmless("verbosity", "models write as much as they do", "medium"),
    **_harmless("prediction", "to draft, use unisono.speculate"),
    **_refused("audio", "answers are text"),
    **_refused("modalities", "answers are text", ["text"]),
    **_refused("safe_prompt", "write it into a message: no text is put before those of a request", False),
    **_refused("safety_settings", "nothing is moderated here"),
    **_refused("moderation", "nothing is moderated here", empty_asks=True),
    **_refused("web_search_options", _SEARCH, empty_asks=True),
    **_refused("echo", "for a prompt and its text, use /v1/completions", False),
    **_refused("echo_last", "for a prompt and its text, use /v1/completions", at_most=0),
    **_refused("suffix", "messages are answered, not filled in"),
    **_refused("raw_output", "conversations are written by templates: for a prompt, use /v1/completions", False),
    # Mistral's
    **_refused("prompt_mode", "conversations are written by each member's own template: use reasoning_effort"),
    **_refused("reasoning_history", "each template says what it writes of past reasoning, by chat_template_kwargs"),
    **_refused(
        "prompt_logprobs top_prompt_logprobs",
        "members read a conversation each in its own template: to score text, use /v1/completions",
    ),
    **_refused("add_special_tokens thinking_forced_open", _TEMPLATES, False),
    **_refused("add_bos_token", _TEMPLATES, True),
    **_refused("parse_tool_calls", "calls are parsed where tools are given", True),
    **_refused("chat_template tool_prompt task", _TEMPLATES),
    **_refused("documents", "write them into a message"),
}
OF_COMPLETIONS: dict[str, Field] = {
    **SHARED,
    **_harmless("verbosity", "models write as much as they do", "medium"),
    **_harmless("prediction", "to draft, use unisono.speculate"),
    **_harmless("parallel_tool_calls parse_tool_calls tool_stream", _TALK),
    **_refused("suffix", "texts are continued, not filled in"),
    **_refused("tools functions documents audio chat_template reasoning thinking", _TALK),
    **_refused("modalities", "answers are text", ["text"]),
    **_refused("web_search_options", _SEARCH, empty_asks=True),
    **_refused("tool_choice function_call", _TALK, "none", "auto"),
    **_refused("reasoning_effort", f"a prompt is read as it is: {_TALK}", "none", "default"),
    **_refused("enable_thinking think", f"a prompt is read as it is: {_TALK}", False),
    **_refused("chat_template_kwargs chat_template_args", f"a prompt is read as it is: {_TALK}"),
    **_refused("clear_thinking preserve_thinking disable_reasoning", f"a prompt is read as it is: {_TALK}", False),
    **_refused("echo_last", "use echo", at_most=0),
    **_refused("top_logprobs", "logprobs is the number of the most likely pieces to list", 0),
    **_refused("add_special_tokens add_bos_token", "a prompt begins as its member's tokenizer begins it", True),
}
OF_RESPONSES: dict[str, Field] = {
    **{name: field for name, field in SHARED.items() if name not in ("store", "metadata", "include")},
    **_harmless("max_tool_calls", "functions alone are called, and by the client"),
    **_harmless("verbosity", "models write as much as they do", "medium"),
    **_harmless("prediction", "to draft, use unisono.speculate"),
    **_refused("background", "a response is written while its client waits", False),
    **_refused("background_options", "a response is written while its client waits"),
    **_refused("access_programs", "there are no such programs"),
    **_refused("image audio", "answers are text"),
    **_refused("modalities", "answers are text", ["text"]),
    **_refused("conversation", "conversations go on by previous_response_id"),
    **_refused("previous_input_messages", "conversations go on by previous_response_id"),  # vLLM
    **_refused("enable_response_messages", _TOLD, False),  # vLLM
    **_refused("prompt", "no prompts are stored here: send instructions and input"),
    **_refused("context_management", _WHOLE),
    **_refused("moderation", "nothing is moderated here", empty_asks=True),
    **_refused("web_search_options", _SEARCH, empty_asks=True),
    **_refused("echo", "for a prompt and its text, use /v1/completions", False),
    **_refused("response_format", "use text.format", {"type": "text"}),
    **_refused("functions", "use tools"),
    **_refused("function_call", "use tool_choice", "none", "auto"),
    **_refused(
        "reasoning_effort enable_thinking thinking think disable_reasoning", "use reasoning, or chat_template_kwargs"
    ),
    **_refused("logprobs", "use include: ['message.output_text.logprobs'], and top_logprobs", False),
    **_refused("documents", "write them into the input"),
    **_refused("chat_template", _TEMPLATES),
}
"""Those of ``/v1/responses``."""
OF_TOKENS: dict[str, Field] = {
    **_refused("chat_template", _TEMPLATES),
    **_refused("skip_special_tokens", "special tokens are written by their names", False),
    **_refused("tools chat_template_kwargs", "messages are read without tools and further variables"),
    **_refused("content text input", "use prompt"),  # llama.cpp, SGLang
    **_harmless("mm_processor_kwargs media_io_kwargs return_mm_kwargs", _PICTURES),
}
"""Those of ``/tokenize`` and ``/detokenize``."""
OF_MESSAGES: dict[str, Field] = {
    **_refused("audio", "messages are text"),
    **_refused("refusal", "the content is another text: write it there"),
    **_refused("function_call", "it is deprecated: use tool_calls"),
    **_refused("images", "messages are text"),
}
"""Keys of a past message. Others that are unknown are handed to the members' templates, most of which ignore them."""
