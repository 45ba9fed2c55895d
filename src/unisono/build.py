"""The composition root: from a spec to an engine. The only module that names concrete parts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unisono.backends.base import Loader, LoadRequest, ModelFacts, ModelSource
from unisono.backends.registry import BACKENDS, BackendEntry, backend_entry, installed, make_loader
from unisono.demo import PREFIX, demo_model, demo_path
from unisono.engine.engine import Engine, check_length
from unisono.engine.member import Member
from unisono.errors import BackendMissing, ModelCorrupt, ModelNotFound, SpecError, nearest
from unisono.spec import EnsembleSpec, MemberSpec
from unisono.types import Prompt
from unisono.vocab.ending import end_ids
from unisono.vocab.pieces import Vocabulary, read_vocabulary
from unisono.vocab.probe import probe_answer_form
from unisono.vocab.prompt import PromptReader
from unisono.vocab.spelling import Speller
from unisono.vocab.template import ChatTemplate, TemplateFailure
from unisono.vocab.tokenizer import Tokenizer
from unisono.vocab.union import UnionMember, UnionVocabulary, check_essentials
from unisono.vocab.union_cache import load_union

log = logging.getLogger(__name__)

Report = Callable[[str, float, str], None]
"""Called while things load: the member, the fraction done (0 to 1), and what is being done."""

GGUF_MAGIC = b"GGUF"


def silent(member: str, fraction: float, words: str) -> None:
    """A `Report` that says nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedMember:
    """A member before its weights: everything that its vocabulary and templates tell."""

    spec: MemberSpec
    weight: float
    """Its share; the prepared members' weights sum to 1."""
    backend: str
    loader: Loader
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    speller: Speller
    reader: PromptReader
    endings: dict[int, str]
    """The ids that are END, and why."""
    leading_space: bool
    facts: ModelFacts


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An ensemble before its weights."""

    spec: EnsembleSpec
    members: list[PreparedMember]
    union: UnionVocabulary

    def check_prompt(self, prompt: Prompt) -> None:
        """Refuse early what no loaded ensemble could read. Raises a `PromptError`."""
        for member in self.members:
            check_length(member.spec.name, len(member.reader.read(prompt)), member.facts.context)

    def load(self, report: Report = silent) -> Engine:
        """Load all weights and return the engine; frees what was loaded when one fails."""
        members: list[Member] = []
        with contextlib.ExitStack() as loaded:
            for index, member in enumerate(self.members):
                backend = member.loader.load(_reporter(report, member.spec.name))
                loaded.callback(backend.unload)
                members.append(
                    Member(
                        member.spec.name,
                        member.weight,
                        backend,
                        member.reader,
                        member.speller,
                        self.union.maps[index],
                    )
                )
            loaded.pop_all()
        return Engine(members, self.union, self.spec.method)


def prepare(spec: EnsembleSpec, *, batch: int = 1, report: Report = silent) -> Prepared:
    """Find the models, read their vocabularies and templates, and build the union. No weights are loaded.

    Args:
        spec: checked.
        batch: texts to be written at once at most; a beam's width is counted in where the spec has one.
        report: told what is going on.

    Raises:
        UnisonoError: of the kind that fits, naming the member.
    """
    if not isinstance(batch, int) or batch < 1:
        raise SpecError(f"the batch is {batch!r}: it must be a whole number, 1 or more")
    for member in spec.members:
        if member.weight == 0:
            log.warning("member %r has weight 0 and is left out", member.name)
    members = [
        prepare_member(member, weight, folder=spec.folder, batch=batch * spec.draw.beam_width, report=report)
        for member, weight in spec.voters()
    ]
    report("the union", 0.0, "mapping the vocabularies")
    union = load_union(
        [UnionMember(member.spec.name, member.speller, leading_space=member.leading_space) for member in members]
    )
    report("the union", 1.0, f"{union.size:,} pieces")
    return Prepared(spec, members, union)


def prepare_member(
    spec: MemberSpec, weight: float = 1.0, *, folder: Path = Path(), batch: int = 1, report: Report = silent
) -> PreparedMember:
    """Prepare one member; see `prepare`."""
    say = _reporter(report, spec.name)
    say(0.0, "finding the model")
    source = find_model(spec, folder, say)
    entry = choose_backend(spec, source)
    request = LoadRequest(
        name=spec.name,
        source=source,
        dtype=spec.dtype,
        device=spec.device,
        context=spec.context,
        threads=spec.threads,
        slots=batch,
        options=spec.options,
    )
    loader = make_loader(entry.name, request)
    say(0.0, "reading the vocabulary")
    tokenizer = loader.tokenizer()
    template = _template(spec, tokenizer)
    form = probe_answer_form(template, tokenizer)
    endings = end_ids(tokenizer.table, form.turn_end_ids)
    facts = loader.facts()
    vocabulary = read_vocabulary(tokenizer.table, endings, facts.rows)
    speller = Speller(vocabulary, tokenizer.encode)
    check_essentials(UnionMember(spec.name, speller))
    reader = PromptReader(spec.name, tokenizer, speller, template, given_template=spec.chat_template is not None)
    return PreparedMember(
        spec, weight, entry.name, loader, tokenizer, vocabulary, speller, reader, endings, form.leading_space, facts
    )


def find_model(spec: MemberSpec, folder: Path, say: Callable[[float, str], None]) -> ModelSource:
    """Tell what a member's ``model`` is: a demo model, a GGUF file, a folder, or a hub id.

    Raises:
        ModelNotFound: it looks like a path, but nothing is there.
        ModelCorrupt: it is a file, but no GGUF file.
    """
    name = spec.model
    if name.startswith(PREFIX):
        model = name.removeprefix(PREFIX)
        return ModelSource("gguf", str(demo_path(model, progress=say)), demo_model(model).sha256)
    if name.startswith("fake:"):
        return ModelSource("fake", name.removeprefix("fake:"))
    try:
        path = folder / Path(name).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a user that is not there
        raise ModelNotFound(f"the model of member {spec.name!r}, {name!r}, cannot be looked up: {error}") from error
    if is_folder:
        return ModelSource("folder", str(path))
    if is_file:
        with path.open("rb") as file:
            if file.read(4) == GGUF_MAGIC:
                return ModelSource("gguf", str(path))
        raise ModelCorrupt(
            f"the model of member {spec.name!r}, {str(path)!r}, is not a GGUF file",
            hint="give a GGUF file, a folder with a Hugging Face model, or a hub id",
        )
    if name.endswith(".gguf") or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelNotFound(
            f"the model of member {spec.name!r}, {str(path)!r}, does not exist",
            hint="relative paths are taken from the folder of the spec; demo models are written demo:NAME",
        )
    return ModelSource("hub", name)


def choose_backend(spec: MemberSpec, source: ModelSource) -> BackendEntry:
    """Return the backend that a member names, or the first that reads its model, knows its keys and is installed.

    Raises:
        SpecError: the named backend cannot read this kind of model, or does not know a key or an option.
        BackendMissing: none that could is installed.
    """
    keys = {key for key in ("dtype", "device", "context", "threads") if getattr(spec, key) is not None}
    if spec.backend is not None:
        entry = backend_entry(spec.backend)
        _check_fit(spec, entry, source, keys)
        return entry
    able = [
        entry
        for entry in BACKENDS.values()
        if source.kind in entry.reads and keys <= entry.keys and set(spec.options) <= entry.options
    ]
    for entry in able:
        if installed(entry):
            return entry
    if able:
        raise BackendMissing(
            f"member {spec.name!r} needs one of the backends {', '.join(entry.name for entry in able)}, "
            "and none of them is installed",
            hint=f"install one: {able[0].install}",
        )
    readers = [entry for entry in BACKENDS.values() if source.kind in entry.reads]
    _check_fit(spec, readers[0], source, keys)
    return readers[0]


def _check_fit(spec: MemberSpec, entry: BackendEntry, source: ModelSource, keys: set[str]) -> None:
    if source.kind not in entry.reads:
        able = [other.name for other in BACKENDS.values() if source.kind in other.reads]
        kind = {"hub": "a hub id", "folder": "a folder", "gguf": "a GGUF file", "fake": "a fake"}[source.kind]
        raise SpecError(
            f"the backend {entry.name!r} of member {spec.name!r} cannot read {kind} ({spec.model!r})",
            hint=f"use backend: {' or '.join(able)}",
        )
    for key in sorted(keys - entry.keys):
        raise SpecError(
            f"the backend {entry.name!r} of member {spec.name!r} has no use for the key {key!r}",
            hint=f"leave it out, or use a backend that knows it; {entry.name} knows: {', '.join(sorted(entry.keys))}",
        )
    for key in sorted(set(spec.options) - entry.options):
        raise SpecError(
            f"the backend {entry.name!r} of member {spec.name!r} has no option {key!r}{nearest(key, entry.options)}",
            hint=f"its options: {', '.join(sorted(entry.options)) or 'none'}",
        )


def _template(spec: MemberSpec, tokenizer: Tokenizer) -> ChatTemplate | None:
    given = spec.chat_template
    source = tokenizer.table.chat_template if given is None else given
    if source is None:
        return None
    try:
        return ChatTemplate(source, tokenizer.table.special_texts)
    except TemplateFailure as failure:
        if given is None:
            log.warning("the chat template of member %r's own model is not valid: %s", spec.name, failure)
            return None
        raise SpecError(f"the chat_template of member {spec.name!r} is not valid Jinja: {failure}") from failure


def _reporter(report: Report, name: str) -> Callable[[float, str], None]:
    return lambda fraction, words: report(name, fraction, words)
