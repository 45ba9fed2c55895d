"""Whether a model's weights are those of its files: nothing left out, nothing of another shape, nothing unread."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from unisono.backends.transformers.listening import Unreported, unreported, without_adapters
from unisono.backends.weight_files import CONSTANTS, named
from unisono.errors import ModelCorrupt, ModelUnsupported

_UNREAD_HARMLESS = re.compile(CONSTANTS)
_PACKED = re.compile(r"[._](qweight|qzeros|weight_packed|packed_weight|trellis|q_weight|codes|SCB)$")
"""What holds quantised weights, as GPTQ, AWQ, compressed-tensors, EXL2 and EXL3, AQLM and bitsandbytes name it."""
_SCALES = re.compile(r"[._](weight_scale(_inv|_2)?|scale_weight|absmax|nested_absmax|quant_map)$")
"""Numbers by which quantised weights are to be multiplied. Those of a cache (``k_scale``) and of inputs are no such."""


def load_whole(library: Any, model_class: Any, place: Any, who: str, **wanted: Any) -> tuple[Any, list[str]]:
    """Load a model all of whose weights come from its files, and what of the files it does not read."""
    with unreported(library) as left_out, without_adapters(library):
        try:
            model, report = model_class.from_pretrained(
                place, output_loading_info=True, ignore_mismatched_sizes=True, **wanted
            )
        except RuntimeError:
            check_made(left_out.failed, who)
            raise
    return model, check_loaded(model, report, left_out, who)


def check_loaded(model: Any, told: Mapping[str, Any], left_out: Unreported, who: str) -> list[str]:
    """Return warnings of weights that nothing reads, or raise `ModelCorrupt` where a model lacks some.

    ``told`` is what transformers tells with ``output_loading_info``. Missing names that it leaves out of it by a
    pattern of the model's class are constants, which is harmless, or parameters, which would be random.
    """
    report = left_out.reports[0] if left_out.reports else told
    odd = {name: (tuple(found), tuple(wanted)) for name, found, wanted in report.get("mismatched_keys") or ()}
    if odd:
        name = min(odd)
        found, wanted = odd[name]
        raise ModelCorrupt(
            f"{who} has weights of other shapes than its configuration says, {named(odd)}; "
            f"{name} is {_shape(found)}, not {_shape(wanted)}",
            hint="its files are of different models: download all of them again",
        )
    parameters = dict(model.named_parameters())
    missing = {*(report.get("missing_keys") or ()), *(name for name in left_out.ignored if name in parameters)}
    others = {name for name, _ in model.named_parameters(remove_duplicate=False)}.difference(parameters)
    missing = missing.difference(others) or missing  # a tied weight has one name
    if missing:
        packed = next((name for name in report.get("unexpected_keys") or () if _PACKED.search(name)), None)
        if packed is not None:
            raise ModelUnsupported(
                f"{who} lacks {named(missing)}, and holds quantised weights in their place ({packed})",
                hint="its config.json has no quantization_config of a method that this transformers knows: take the "
                "model in another number format",
            )
        if prefix := _wrapping(missing, report.get("unexpected_keys") or ()):
            raise ModelUnsupported(
                f"{who} lacks {named(missing)}; its files hold them with {prefix!r} before their names, as a program "
                "saves them that wraps the model",
                hint="save the model without what wraps it, or take that from the names in its files",
            )
        raise ModelCorrupt(
            f"{who} lacks {named(missing)}; they would be random",
            hint="download or convert the model again, all its files",
        )
    if errors := report.get("error_msgs"):
        raise ModelCorrupt(f"{who} could not be loaded whole: {errors[0]}", hint="download the model again")
    drafting = _drafting_layers(model.config)
    unknown = [name for name in report.get("unexpected_keys") or () if not _is_in(drafting, name)]
    if scales := [name for name in unknown if _SCALES.search(name)]:
        raise ModelUnsupported(
            f"{who} holds scales of quantised weights, {named(scales)}, which nothing reads: without them its weights "
            "are wrong",
            hint="its config.json needs its quantization_config; or take the model in another number format",
        )
    return unread(unknown) + _unknown(parameters, model, left_out)


def _wrapping(missing: Iterable[str], unexpected: Iterable[str]) -> str:
    """What stands before the names of all missing weights in the files; empty where there is no such thing.

    torch's parallel and compiled modules write it, and PEFT.
    """
    lacking = sorted(missing)
    found = (name.removesuffix(lacking[0]) for name in unexpected if name.endswith(f".{lacking[0]}"))
    return next((prefix for prefix in found if {prefix + name for name in lacking} <= {*unexpected}), "")


def _unknown(parameters: Iterable[str], model: Any, left_out: Unreported) -> list[str]:
    """A warning of weights that may be missing where transformers does not tell what it leaves out."""
    patterns = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    found = [name for name in parameters if any(re.search(pattern, name) for pattern in patterns)]
    if left_out.deaf is None or not found:
        return []
    return [f"{left_out.deaf} does not tell whether its files hold {named(found)}; they would be random if not"]


def _drafting_layers(config: Any) -> range:
    """The layers that a configuration counts apart, because they draft further tokens."""
    text = config.get_text_config()
    own, more = (getattr(text, key, None) or 0 for key in ("num_hidden_layers", "num_nextn_predict_layers"))
    return range(own, own + more)


def _is_in(layers: range, name: str) -> bool:
    """Whether a weight is of one of these layers."""
    match = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    return match is not None and int(match[1]) in layers


def check_made(failed: Mapping[str, str], who: str) -> None:
    """Raise `ModelCorrupt` where weights could not be made of those in the files, as where one expert is missing."""
    if failed:
        why = failed[min(failed)]
        raise ModelCorrupt(
            f"{who} lacks, or has with other shapes, what {named(failed)} are made of ({last_line(why)})",
            hint="download or convert the model again, all its files",
        )


def last_line(words: str) -> str:
    return next((line.strip() for line in reversed(words.splitlines()) if line.strip()), words)[:200]


def unread(names: Iterable[str]) -> list[str]:
    """A warning of names in the files that no part of the model reads."""
    odd = [name for name in names if not _UNREAD_HARMLESS.search(name)]
    return [f"its files hold weights that are not read, {named(odd)}"] if odd else []


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a number"
