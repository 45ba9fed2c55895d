"""lm-evaluation-harness asks an ensemble as it asks any model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fakes import WORDS, make_fakes
from support.lm_eval_files import harness_results, harness_tasks, write_data
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.sampling import Sampling
from unisono.ensemble import Ensemble
from unisono.errors import SpecError, UnisonoError
from unisono.evals.records import NATS, Reply
from unisono.evals.requests import read_generation
from unisono.evals.respondent import Arguments, Respondent
from unisono.evals.tasks import load_tasks
from unisono.evals.windows import rolling_windows
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule, register_fake

pytest.importorskip("lm_eval")

TEXT = "the cat sings: ça va, 日本! Hello Sofia, the dog sees the cat. " * 3


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "duo.yaml"
    path.write_text("members:\n- {name: a, model: 'fake:a'}\n- {name: b, model: 'fake:b'}\n")
    return path


def model_of(spec: Path, **keys: Any) -> Any:
    from unisono.evals.lm_eval import UnisonoLM

    return UnisonoLM.create_from_arg_obj({"spec": str(spec), **keys}, {"batch_size": 1, "device": None})


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, 0, ("made-up", place, 1)) for place, given in enumerate(arguments)]


CONTEXTS = ["the cat", "", "Hello ", "the dog sings:\n", "the cat", "Hello"]


@pytest.mark.parametrize("keys", [{}, {"member": "b"}, {"gate": "confidence:0.6", "lead": "b"}, {"batch": 8}])
def test_it_answers_as_the_ensemble_does_in_the_order_asked(spec: Path, keys: dict[str, Any]) -> None:
    model = model_of(spec, **keys)
    texts = [" sees the dog", " Sofia", "日本", "x"]
    pairs = [(context, text) for text in texts for context in CONTEXTS]
    found = model.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    kwargs = [{"until": ["the", "."], "max_gen_toks": 6 + n, "do_sample": False, "temperature": 0.0} for n in range(5)]
    asked = [(context, each) for context, each in zip([c for c in CONTEXTS if c], kwargs, strict=True)]
    written = model.generate_until(requests("generate_until", *asked), disable_tqdm=True)
    model.close()
    own = {"members": [{"name": name, "model": f"fake:{name}"} for name in (keys.get("member") or "ab")]}
    method = {key: keys[key] for key in keys if key not in ("member", "batch")}
    with Ensemble.load(own, batch=2) as ensemble:
        for (context, text), (logp, is_greedy) in zip(pairs, found, strict=True):
            kept = context.rstrip()
            [score] = ensemble.score(context[len(kept) :] + text, kept, **method)
            assert logp == pytest.approx(score.logp, abs=1e-4)
            assert is_greedy == score.is_greedy
        for (context, each), text in zip(asked, written, strict=True):
            alone = ensemble.generate(context, max_new_tokens=each["max_gen_toks"], stop=each["until"], **method)
            assert text == alone.text


@pytest.mark.slow
def test_what_was_answered_before_a_failure_is_in_the_cache(spec: Path, tmp_path: Path) -> None:
    from lm_eval.api.model import CachingLM

    pairs = [("the cat", " sees"), ("the cat", " Sofia"), ("zz", " x" * 5000)]
    model = CachingLM(model_of(spec, batch=2), str(tmp_path / "cache.db"))
    with pytest.raises(UnisonoError, match=r"^task made-up, document 2: .*context"):
        model.loglikelihood(requests("loglikelihood", *pairs))
    FAKE_MODELS["a"].passes.clear()
    again = CachingLM(model_of(spec), str(tmp_path / "cache.db"))
    found = again.loglikelihood(requests("loglikelihood", *pairs[:2]))
    assert not FAKE_MODELS["a"].passes
    assert found == model_of(spec).loglikelihood(requests("loglikelihood", *pairs[:2]), disable_tqdm=True)
    model.dbdict.close()
    again.dbdict.close()


def test_a_context_that_many_texts_follow_is_read_once(spec: Path) -> None:
    model = model_of(spec, batch=4)
    context = "the cat sees the dog " * 10
    pairs = [(context, f" {letter}") for letter in "ABCD"]
    model.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    assert FAKE_MODELS["a"].tokens_read() < 2 * len(context)
    model.close()


def test_members_read_conversations_through_their_own_templates(spec: Path) -> None:
    model = model_of(spec, batch=2)
    messages = [{"role": "user", "content": "Hello"}]
    context = model.apply_chat_template(messages)
    [written] = model.generate_until(requests("generate_until", (context, {"until": ["."], "max_gen_toks": 9})), True)
    [(logp, _)] = model.loglikelihood(requests("loglikelihood", (context, " Sofia")), True)
    with Ensemble.load(spec) as ensemble:
        assert written == ensemble.generate(messages=messages, max_new_tokens=9, stop=".").text  # type: ignore[arg-type]
        assert logp == pytest.approx(ensemble.score(" Sofia", messages=messages)[0].logp)  # type: ignore[arg-type]
    assert model.tokenizer_name == model.chat_template(True)
    assert model.tokenizer_name != model_of(spec, member="a").tokenizer_name
    begun = [*messages, {"role": "assistant", "content": "Sure"}]
    context = model.apply_chat_template(begun, add_generation_prompt=False)
    assert context != model.apply_chat_template(begun)
    [written] = model.generate_until(requests("generate_until", (context, {"until": ["."], "max_gen_toks": 9})), True)
    with Ensemble.load(spec) as ensemble:
        answer = ensemble.generate(messages=begun, continue_final_message=True, max_new_tokens=9, stop=".")  # type: ignore[call-overload]
        assert written == answer.text
    with pytest.raises(SpecError, match="the chat template 'tools'"):
        model.chat_template("tools")


def test_wrong_arguments_are_named(spec: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"gait": "always"}, "unknown argument 'gait'; did you mean 'gate'"),
        ({"dtype": "float16"}, "unknown argument 'dtype'"),
        ({"member": "smol"}, "the member 'smol' is none that votes"),
        ({"member": "a", "gate": "always"}, "gate is given, but a answers alone"),
        ({"batch": 0}, "batch is 0"),
        ({"max_gen_toks": "many"}, "max_gen_toks is 'many'"),
        ({"combine": "middle"}, "middle"),
        ({"lead": "c"}, "lead"),
    ]
    for keys, words in cases:
        with pytest.raises(SpecError, match=words):
            model_of(spec, device="cuda:0", **keys)  # as its command line always says
    with pytest.raises(SpecError, match="spec is missing"):
        Arguments.read({})
    with pytest.raises(SpecError, match=r"^task made-up, document 0: unknown generation_kwargs 'num_beams'"):
        model_of(spec).generate_until(requests("generate_until", ("x", {"num_beams": 4})), disable_tqdm=True)


def test_generation_kwargs_are_read_as_the_hf_model_reads_them() -> None:
    own = Sampling.parse("0.7 seed:5")
    assert read_generation({}).limits.max_new_tokens == 256
    assert read_generation({"until": "x", "max_tokens": 9, "max_gen_toks": 3}).limits.max_new_tokens == 3
    assert read_generation({"do_sample": False, "temperature": 0.8, "top_p": 0.9}).draw(own).is_greedy
    assert read_generation({"temperature": 0.8}).draw(own) == Sampling(temperature=0.8, seed=5)
    assert read_generation({"do_sample": True, "temperature": 1.0, "top_k": 0}).draw(Sampling()) == Sampling(
        temperature=1.0
    )
    beam = Sampling(beam_width=3)
    assert read_generation({"do_sample": False, "temperature": 0.0}).draw(beam) == beam
    for wrong, words in (
        ({"do_sample": True}, "no temperature"),
        ({"max_gen_toks": 0}, "max_new_tokens is 0"),
        ({"until": ["", "x"]}, "stop"),  # there, it ends a text after one token
    ):
        with pytest.raises(SpecError, match=words):
            read_generation(wrong)


@pytest.mark.parametrize("context", [24, 40, 64, 1000])
def test_windows_hold_a_text_once_and_every_context_holds_them(context: int) -> None:
    for name, words in (("a", WORDS["a"]), ("b", WORDS["b"])):
        table = byte_level_table(words)
        register_fake(name, FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts), 3), context=context))
    with Ensemble.load({"members": [{"name": name, "model": f"fake:{name}"} for name in "ab"]}) as ensemble:
        engine = ensemble._engine
        windows = rolling_windows(engine, engine.members[0], TEXT)
        assert "".join(after for _, after in windows) == TEXT
        behind = ""
        for number, (before, after) in enumerate(windows):
            assert behind.endswith(before)
            assert bool(before) == bool(number)
            engine.score([(Prompt(text=before), after)])  # it fits
            behind += after
        assert len(windows) == 1 if context == 1000 else len(windows) > 1
        whole = sum(score.logp for before, after in windows for score in engine.score([(Prompt(text=before), after)]))
        respondent = Respondent(engine, engine.method)
        found = dict(respondent.score_whole([(TEXT, "one"), ("", "two")]))
        assert found == {0: pytest.approx(whole), 1: 0.0}
        for (before, after), (_, following) in itertools.pairwise(windows[:-1]):
            longer = after + following[:20]
            with pytest.raises(UnisonoError, match="context"):
                engine.score([(Prompt(text=before), longer)])


def test_a_context_that_holds_nothing_is_refused() -> None:
    table = byte_level_table(())
    register_fake("a", FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts), 3), context=2))
    with Ensemble.load({"members": [{"name": "a", "model": "fake:a"}]}) as ensemble:
        engine = ensemble._engine
        assert "".join(after for _, after in rolling_windows(engine, engine.members[0], "abcdef")) == "abcdef"


@pytest.mark.parametrize("name", ["arc_easy", "mmlu", "gsm8k", "triviaqa"])
@pytest.mark.parametrize("chat", [False, True])
def test_our_grades_are_the_metrics_of_lm_evaluation_harness(spec: Path, tmp_path: Path, name: str, chat: bool) -> None:
    """Its own run over the file, and our questions asked and graded one by one."""
    data = write_data(tmp_path / "data")
    model = model_of(spec, batch=4, max_gen_toks=12)
    theirs = harness_results(model, harness_tasks(data, name), apply_chat_template=chat, fewshot_as_multiturn=False)[
        "results"
    ]
    [task] = load_tasks([name], data=data, chat=chat)
    totals: dict[tuple[str, str], list[float]] = {}
    respondent = model._respondent
    for question in task.questions:
        context = question.prompt.text or model.apply_chat_template(list(question.prompt.messages or ()))
        if question.is_choice:
            asked = [(context, choice, question.id) for choice in question.choices]
            reply = Reply(choices=tuple(tuple(score) for _, score in sorted(respondent.score(asked))))
        else:
            [(_, text)] = respondent.write([(context, {"until": list(question.limits.stop)}, question.id)])
            reply = Reply(text=text)
        for metric, value in question.grade(reply).metrics.items():
            if metric == NATS:  # lm-eval has no such metric
                continue
            totals.setdefault((question.part, metric), []).append(value)
    model.close()
    assert totals
    for (part, metric), values in totals.items():
        key = metric if "," in metric else f"{metric},none"
        assert theirs[part][key] == pytest.approx(math.fsum(values) / len(values))


def test_the_verb_hands_all_arguments_on(capsys: pytest.CaptureFixture[str]) -> None:
    from unisono.evals.lm_eval import register, run_command_line

    with pytest.raises(SystemExit) as caught:
        run_command_line(["run", "--help"])
    assert caught.value.code == 0
    assert "--model_args" in capsys.readouterr().out
    register()
    from lm_eval.api.registry import get_model

    assert get_model("unisono").__name__ == "UnisonoLM"
    assert get_model("hf").__name__ == "HFLM"
