"""One step: draft, ask, combine, choose, commit. Where a model fails, what was chosen stays and the rest is undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unisono.engine.commit import Committer
from unisono.engine.member import Member
from unisono.engine.prefill import Prefill
from unisono.engine.runner import Runner
from unisono.engine.sequence import TextSequence
from unisono.engine.speculation import Speculator
from unisono.engine.step_state import StepState


class Stepping:
    """Takes steps for an engine that knows the texts."""

    def __init__(
        self, members: Sequence[Member], hearing: Runner, backlog: Prefill, drafting: Speculator, settling: Committer
    ) -> None:
        """Bind it to an engine's parts."""
        self.lost: list[TextSequence] = []
        """Texts of which a member could not be brought back to what its log says: they cannot go on."""
        self._members = members
        self._hearing = hearing
        self._backlog = backlog
        self._drafting = drafting
        self._settling = settling

    def write(self, windows: dict[TextSequence, list[StepState]]) -> None:
        """Write on at texts. Those that turn out to have a backlog are taken out of the windows."""
        states = all_windows(windows)
        for state in states:
            if state.plan.weighs_prompt:
                self.weigh_prompt(state.text)
        if any(state.plan.drafter is not None for state in states):
            self._drafting.extend(states)
        if any(state.plan.is_gated for state in states):
            self._hearing.run_leads(states)
        if self._backlog.longest_block is not None:
            for text, its_windows in list(windows.items()):
                if late := {member for window in its_windows for member in self._backlog.late(window)}:
                    self.undo(text, windows.pop(text))
                    self._backlog.await_all(text, late)
            states = all_windows(windows)
        beams = [text for text in windows if text.beam is not None]
        self._hearing.run_voters(states, keep=bool(beams))
        if beams:
            states = [state for text in windows if text.beam is None for state in windows[text]]
        self._settling.settle(states)
        for text in beams:
            windows[text] += self._settling.spread(text, windows[text])

    def weigh_prompt(self, text: TextSequence) -> None:
        """Let all members score a text's prompt before they read it, where weights follow from that."""
        if text.plan.weighs_prompt and not text.losses:
            text.losses = {
                member.name: member.prompt_loss(text.prompt, text.cursors[member.name].slot) for member in self._members
            }

    def undo(self, text: TextSequence, windows: Sequence[StepState]) -> None:
        """Keep what was chosen and forget the rest, so that a step can begin anew."""
        following = [window for window in windows if window.text.cursors]  # others were let go of
        try:
            for window in following:
                self._settling.commit(window)
        except Exception:
            self.lost.append(text)
        else:
            self.restore(text, [window.text for window in following])

    def restore(self, text: TextSequence, hypotheses: Sequence[TextSequence]) -> None:
        """Make models hold what the logs say, after a failure; a text of which one cannot is lost."""
        try:
            for hypothesis in hypotheses:
                for member in self._members:
                    member.restore(hypothesis.cursors[member.name])
        except Exception:
            self.lost.append(text)


def all_windows(windows: Mapping[TextSequence, Sequence[StepState]]) -> list[StepState]:
    """The windows of all texts."""
    return [window for its_windows in windows.values() for window in its_windows]
