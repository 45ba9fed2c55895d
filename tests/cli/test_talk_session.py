"""A conversation with fake members: what is kept of it, what members read of it, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from support.chats import ANSWERS, make_talkers, session_of
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.cli.talk.answer import Answer
from unisono.cli.talk.conversation import Conversation, Turn
from unisono.cli.talk.session import Session
from unisono.cli.talk.transcript import Transcript
from unisono.errors import MemberUnavailable, PromptError, PromptTooLong, SpecError
from unisono.records import Limits
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule, register_fake


@pytest.fixture(autouse=True)
def talkers() -> Iterator[None]:
    make_talkers()
    yield
    FAKE_MODELS.clear()


def written(session: Session, answer: Answer) -> str:
    shown = "".join(event.text for event in answer)
    session.keep(answer)
    return shown


def test_an_answer_comes_in_whole_characters_and_is_kept() -> None:
    session = session_of()
    answer = session.ask("Hi")
    parts = [event.text for event in answer]
    assert len(parts) > 3
    assert "".join(parts) == ANSWERS["Hi"]
    assert session.conversation.turns == (), "nothing is kept that nobody keeps"
    assert session.keep(answer)
    assert written(session, session.ask("Who?")) == ANSWERS["Who?"]
    assert [(turn.question, turn.answer, turn.ending) for turn in session.conversation.turns] == [
        ("Hi", ANSWERS["Hi"], "end"),
        ("Who?", ANSWERS["Who?"], "end"),
    ]
    roles = [message["role"] for message in session.conversation.messages()]
    assert roles == ["user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("gate", ["always", "confidence:0.9", "first:2"])
def test_a_second_turn_reads_only_what_is_new(gate: str) -> None:
    """All of the first turn but what a shut gate kept from a member, and the last id, of which the row is wanted."""
    session = session_of()
    session.change("gate", gate)
    first = session.ask("Count")
    assert written(session, first) == ANSWERS["Count"]
    read = {name: model.tokens_read() for name, model in FAKE_MODELS.items()}
    second = session.ask("Hi")
    assert written(session, second) == ANSWERS["Hi"]
    for name, model in FAKE_MODELS.items():
        answer = len(model.tokenizer.encode(ANSWERS["Hi"]))
        needed = second.prompt_tokens[name] + answer
        known = second.prompt_tokens[name] - len(model.tokenizer.encode("Hi")) - 4  # END, two roles, END
        fresh = model.tokens_read() - read[name]
        if gate == "always":
            assert fresh == needed - known, name
        else:
            assert fresh <= needed, name
    assert read["talker"] <= first.prompt_tokens["talker"] + 41


def test_retrying_and_going_on_read_nothing_twice() -> None:
    session = session_of(Limits(10))
    session.speak_as("Be brief.")  # shorter prompts are not worth keeping
    first = session.ask("Count")
    assert written(session, first) == " one" * 10
    assert session.conversation.turns[0].ending == "length"
    for name in FAKE_MODELS:
        FAKE_MODELS[name].passes.clear()
    more = session.proceed()
    assert written(session, more) == " one" * 10
    assert session.conversation.turns == (Turn("Count", " one" * 20, None, "length"),)
    assert FAKE_MODELS["talker"].tokens_read() <= 12
    FAKE_MODELS["talker"].passes.clear()
    assert written(session, session.retry()) == " one" * 10
    assert session.conversation.turns == (Turn("Count", " one" * 10, None, "length"),)
    assert FAKE_MODELS["talker"].tokens_read() <= 11


def test_an_answer_that_is_stopped_stays_as_far_as_it_came() -> None:
    session = session_of()
    answer = session.ask("Count")
    for number, _ in enumerate(answer, 1):
        if number == 5:
            answer.stop()
    assert session.keep(answer)
    assert session.conversation.turns == (Turn("Count", " one" * 5, None, "stopped"),)
    assert written(session, session.proceed()) == " one" * 35
    assert session.conversation.turns == (Turn("Count", " one" * 40, None, "end"),)
    with pytest.raises(SpecError, match="is not cut off"):
        session.proceed()


def test_one_that_is_stopped_before_it_begins_leaves_the_question_to_be_asked_again() -> None:
    session = session_of()
    written(session, session.ask("Hi"))
    answer = session.ask("Who?")
    answer.stop()
    assert list(answer) == []
    assert not session.keep(answer)
    assert session.unanswered == "Who?"
    assert len(session.conversation.turns) == 1
    assert written(session, session.retry()) == ANSWERS["Who?"]
    assert session.unanswered == ""
    assert len(session.conversation.turns) == 2


def test_a_retry_that_fails_or_is_stopped_leaves_the_first_answer() -> None:
    session = session_of()
    written(session, session.ask("Hi"))
    answer = session.retry()
    answer.stop()
    list(answer)
    session.keep(answer)
    assert session.conversation.turns[0].answer == ANSWERS["Hi"]


def test_a_member_that_fails_in_the_middle_loses_nothing() -> None:
    session = session_of()
    written(session, session.ask("Hi"))
    answer = session.ask("Count")
    FAKE_MODELS["shy"].away = lambda feeds: "refused" if len(answer.turn.answer) > 20 else None
    with pytest.raises(MemberUnavailable):
        list(answer)
    assert session.keep(answer), "what was written is kept"
    assert session.conversation.turns[1].ending == "stopped"
    FAKE_MODELS["shy"].away = None
    for member in session._engine.members:
        member.breaker._clock = lambda: 1e9  # by then it is asked again
    written(session, session.proceed())
    assert session.conversation.turns[1] == Turn("Count", ANSWERS["Count"])


def test_another_answer_that_fails_does_not_take_the_place_of_a_whole_one() -> None:
    session = session_of()
    written(session, session.ask("Count"))
    whole = session.conversation
    answer = session.retry()
    FAKE_MODELS["shy"].away = lambda feeds: "refused" if len(answer.turn.answer) > 20 else None
    with pytest.raises(MemberUnavailable):
        list(answer)
    assert answer.turn.answer
    assert not session.keep(answer)
    assert session.conversation == whole


def test_a_conversation_that_is_too_long_tells_the_way_out_and_is_kept() -> None:
    make_talkers(context=100)
    session = session_of()
    written(session, session.ask("Hi"))
    written(session, session.ask("Who?"))
    before = session.conversation
    with pytest.raises(PromptTooLong) as caught:
        session.ask("x" * 70)
    assert "more than its context of 100" in caught.value.message
    assert "/forget" in (caught.value.hint or "")
    assert session.conversation == before
    assert session.unanswered == "x" * 70
    assert len(session.forget(1)) == 1
    assert [turn.question for turn in session.conversation.turns] == ["Who?"]
    session.undo(1)
    with pytest.raises(PromptTooLong, match="more than its context") as alone:
        session.ask("x" * 200)
    assert "shorter" in (alone.value.hint or "")


def test_an_answer_that_fills_the_context_says_so() -> None:
    make_talkers(context=40)
    session = session_of()
    answer = session.ask("Count")
    written(session, answer)
    assert session.conversation.turns[0].ending == "context"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("gate", "confidnce:0.5", "did you mean 'confidence'"),
        ("gate", "confidence:7", "confidence"),
        ("combine", "contrastive", "needs an amateur"),
        ("combine", "mean truncate:0", "truncate"),
        ("lead", "nobody", "is not a member that votes"),
        ("speculate", "nobody", "is not a member that votes"),
        ("sampling", "beam_width:4", "beam_width is 4"),
        ("temperature", -1, "temperature"),
        ("reasoning", "much", "reasoning is 'much'"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_as_in_the_file(name: str, value: object, words: str) -> None:
    session = session_of()
    before = session.method
    with pytest.raises(SpecError, match=words):
        session.change(name, value)
    assert session.method == before
    assert session.settings == {}


def test_settings_hold_for_what_follows_and_can_be_taken_back() -> None:
    session = session_of()
    session.change("gate", "first:0")
    answer = session.ask("Hi")
    written(session, answer)
    assert answer.generation is not None
    assert answer.generation.usage.ensembled == 0
    assert session.settings == {"gate": "first:0"}
    session.change("gate", None)
    assert session.method == session.prepared.spec.method
    session.change("temperature", 0.5)
    session.change("sampling", "0.9")
    assert session.method.sampling.temperature == 0.9, "an older temperature does not win over new sampling"


def test_a_system_message_is_read_and_one_that_cannot_be_is_refused() -> None:
    session = session_of()
    written(session, session.ask("Hi"))
    session.speak_as("Be brief")
    assert session.conversation.asked("Who?")[0] == {"role": "system", "content": "Be brief"}
    assert len(session.conversation.turns) == 1
    session.speak_as(None)
    assert session.conversation.system is None
    deaf = "{% for m in messages if m.role != 'system' %}<|user|>{{ m.content }}{% endfor %}<|assistant|>"
    table = byte_level_table(chat_template=deaf)
    register_fake("shy", FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts))))
    session = session_of()
    with pytest.raises(PromptError, match="cannot read system messages"):
        session.speak_as("Be brief")
    assert session.conversation.system is None


def test_text_that_is_no_unicode_is_refused() -> None:
    session = session_of()
    with pytest.raises(PromptError, match="is not Unicode text"):
        session.ask("caf\udce9")
    with pytest.raises(PromptError, match="is not Unicode text"):
        session.speak_as("caf\udce9")
    assert session.unanswered == ""


def test_there_is_nothing_to_retry_or_to_go_on_with_at_the_beginning() -> None:
    session = session_of()
    for act in (session.retry, session.proceed):
        with pytest.raises(SpecError, match="there is no answer"):
            act()
    assert session.undo(3) == session.forget(3) == []


def test_a_conversation_goes_on_from_a_transcript() -> None:
    told = Transcript(Conversation("Be brief", (Turn("Hi", ANSWERS["Hi"]),)), settings={"gate": "first:8"})
    session = session_of(begun=told)
    assert session.method.gate.kind == "first"
    written(session, session.ask("Who?"))
    assert session.transcript.conversation == told.conversation.with_turn(Turn("Who?", ANSWERS["Who?"]))
    assert session.transcript.settings == told.settings
    with pytest.raises(SpecError, match="unknown option"):
        session_of(begun=replace(told, settings={"gait": "always"}))
