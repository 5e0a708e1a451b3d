"""The voice demo's dialogue: what a person said and what was said back, and whether it was heard.

Pure: it is told events, reports and times. Times are seconds of the wall clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from natterjack.decoding import AnyEvent
from natterjack.events import FinalEvent, StatusEvent, TurnEvent
from natterjack.voice.events import UtteranceEvent, VoiceEvent, VoiceStatusEvent
from natterjack.voice.spec import Played

from .wer import normalized_words, word_errors

MAX_WORD_ERROR_RATE = 0.25
"""From this rate on, something does not work properly. The texts are short: one wrong word of a
small model may be several percent."""


@dataclass(frozen=True)
class Turn:
    """One turn of the person."""

    text: str
    ended_at: float


@dataclass
class Answer:
    """A turn that is said back, as an utterance of the voice session."""

    turn: Turn
    began_at: float | None = None
    """When the player first reported that it plays it."""
    silent_at: float | None = None
    """When the player reported that it was interrupted."""
    end: UtteranceEvent | None = None

    @property
    def interrupted(self) -> bool:
        return self.end is not None and self.end.event == "interrupted"

    @property
    def heard(self) -> str:
        """The text that was played."""
        return (self.end.text_spoken if self.end else None) or ""


@dataclass
class Dialogue:
    """A person, whose turns are said back by the assistant."""

    turns: list[Turn] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    """The answers, by the numbers of their utterances."""
    closing: StatusEvent | None = None
    """The closing event of the person's session."""
    can_hear: bool = False
    can_speak: bool = False
    problem: str | None = None
    """Why a session is not served now, as its worker last said."""
    played: float = 0.0
    """Seconds of speech that were played."""
    _said: list[str] = field(default_factory=list)
    _started: list[TurnEvent] = field(default_factory=list)
    began_talking_at: float | None = None
    """When the person began to talk the last time, if that is known."""

    def add(self, event: AnyEvent) -> None:
        """Follow an event of the person's session."""
        at = _at(event)
        if isinstance(event, FinalEvent) and event.text.strip():
            self._said.append(event.text.strip())
        elif isinstance(event, TurnEvent) and event.event == "started":
            self._started.append(event)
        elif isinstance(event, TurnEvent) and event.event == "ended":
            self._end_turn(at)
        elif isinstance(event, StatusEvent):
            self.can_hear |= event.state == "streaming"
            self.closing = event if event.closing else None
            self.problem = _problem(event)
            if event.closing:
                self._end_turn(at)  # not every provider says where turns end

    def _end_turn(self, at: float) -> None:
        if self._said:
            self.turns.append(Turn(" ".join(self._said), at))
            self._said.clear()

    @property
    def unanswered(self) -> bool:
        return len(self.answers) < len(self.turns)

    def answer(self) -> Answer | None:
        """Return the answer to the next turn, which is to be said now; None if there is none."""
        if not self.unanswered:
            return None
        self.answers.append(Answer(self.turns[len(self.answers)]))
        return self.answers[-1]

    def add_speech(self, event: VoiceEvent) -> None:
        """Follow an event of the voice session."""
        if isinstance(event, VoiceStatusEvent):
            self.can_speak |= event.state == "streaming"
            self.problem = _problem(event)
        elif (
            isinstance(event, UtteranceEvent)
            and event.event != "started"
            and event.utterance < len(self.answers)
        ):
            self.answers[event.utterance].end = event

    def add_played(self, report: Played, rate: int, at: float) -> None:
        """Follow a report of the player, which arrived at `at`."""
        self.played = report.position / rate
        if report.utterance >= len(self.answers):
            return
        answer = self.answers[report.utterance]
        if report.state == "playing" and answer.began_at is None:
            answer.began_at = at
        elif report.state == "interrupted" and answer.silent_at is None:
            answer.silent_at = at

    # ---- the account ---------------------------------------------------------------------------

    @property
    def heard(self) -> str:
        """The text of everything that was played."""
        return " ".join(filter(None, (answer.heard for answer in self.answers)))

    def summary(self) -> list[str]:
        """Summarize the conversation in lines."""
        lines = []
        delays = [a.began_at - a.turn.ended_at for a in self.answers if a.began_at is not None]
        if delays:
            lines += [
                f"answered     {len(self.answers)} turns",
                f"             speech began at most {max(delays):.2f} s after the end of the turn",
            ]
        for answer in self.answers:
            if answer.interrupted:
                lines += self._interruption(answer)
        return lines

    def _interruption(self, answer: Answer) -> list[str]:
        spoken, all_of_it = len(answer.heard.split()), len(answer.turn.text.split())
        if not spoken:
            return ["interrupted  before a word was heard"]
        lines = [f"interrupted  after {spoken} of {all_of_it} words"]
        silent_at = answer.silent_at
        # Events and reports come on different ways: the one that was published first may be later.
        turns = [t for t in self._started if silent_at is not None and _at(t) <= silent_at]
        if silent_at is not None and turns:
            silence = silent_at - _at(turns[-1])
            line = (
                f"             the player was silent {1000 * silence:.0f} ms after the turn began"
            )
            if self.began_talking_at is not None:
                talking = silent_at - self.began_talking_at
                line += f", {1000 * talking:.0f} ms after the voice"
            lines.append(line)
        return lines

    def problems(self, questions: Sequence[str] = ()) -> list[str]:
        """List the questions and answers that were not heard or spoken as they should be.
        `questions` are the texts that the person reads; the second one interrupts the answer to the
        first."""
        problems = []
        for number, question in enumerate(questions, 1):
            said = self.turns[number - 1].text if number <= len(self.turns) else ""
            if too_different(question, said):
                problems.append(f"question {number} was not understood: {said!r}")
        for number, answer in enumerate(self.answers, 1):
            if answer.end is None:
                problems.append(f"answer {number} was not spoken to its end")
            elif answer.interrupted and answer.end.reason != "turn":
                why = ": ".join(filter(None, (answer.end.reason, answer.end.detail)))
                problems.append(f"answer {number} was not spoken to its end: {why}")
        if not self.answers:
            problems.append("nothing was said, so nothing was answered")
        if len(questions) > 1 and self.answers and not self.answers[0].interrupted:
            problems.append("the second question did not interrupt the first answer")
        return problems


def _problem(event: StatusEvent | VoiceStatusEvent) -> str | None:
    return event.reason if event.state in ("recovering", "failed") else None


def _at(event: AnyEvent) -> float:
    """When an event was published."""
    return event.published_at.timestamp()


def words_understood(reference: str, heard: str) -> tuple[int, int]:
    """How many words of `reference` are in `heard`, and how many words it has."""
    expected = normalized_words(reference)
    return max(0, len(expected) - word_errors(expected, normalized_words(heard))), len(expected)


def too_different(reference: str, heard: str) -> bool:
    """Whether `heard` has so many word errors that something does not work properly."""
    understood, words = words_understood(reference, heard)
    return words == 0 or (words - understood) / words >= MAX_WORD_ERROR_RATE
