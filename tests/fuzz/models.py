"""Writes the sound models that are damaged or served: ``python -m fuzz.models FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import transformers as _transformers

from fuzz.case import FOLDERS, GGUF, SERVED
from support.families import Family, save_family
from support.gguf_files import rewrite_gguf
from support.reasoners import TEMPLATE
from support.tiny_gguf import tiny_tensors, write_tiny
from support.tiny_models import COMMON, byte_tokenizer, save_tiny
from support.tool_templates import TAGGED

transformers: Any = _transformers
"""Untyped, because its own annotations are incomplete."""


def main(root: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    for name in FOLDERS[:-1]:
        save_tiny(root / name, name)
    save_family(root / "spaced", Family("sentencepiece"))
    (root / "gguf").mkdir()
    write_tiny(root / "gguf" / GGUF, tiny_tensors())
    _save_served(root)


def _save_served(root: Path) -> None:
    """Members with room for a conversation: one reasons, one has SentencePiece, two are of llama.cpp and call tools."""
    config = transformers.LlamaConfig(**COMMON | {"max_position_embeddings": 2048})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(root / "thinker")
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["</think>"])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(root / "thinker")
    for seed in (5, 6):
        made = write_tiny(root / f"short{seed}.gguf", tiny_tensors(seed))
        rewrite_gguf(made, root / f"long{seed}.gguf", metadata={"llama.context_length": 2048})
        made.unlink()
    hf = [_member("a", "thinker"), _member("b", "spaced")]
    gguf = [_member("a", "long5.gguf", TAGGED), _member("b", "long6.gguf", TAGGED)]
    ensembles = dict(
        zip(SERVED, (hf, gguf, [_member("a", "thinker"), _member("b", "long6.gguf", TAGGED)]), strict=True)
    )
    for name, members in ensembles.items():
        (root / f"{name}.yaml").write_text(json.dumps({"members": members}))


def _member(name: str, model: str, template: str | None = None) -> dict[str, object]:
    given: dict[str, object] = {} if template is None else {"chat_template": template}
    return {"name": name, "model": f"./{model}", "threads": 1, **given}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
