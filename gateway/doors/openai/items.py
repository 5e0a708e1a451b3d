"""The items of a realtime session: what is said in each, and which messages tell it. Pure.

An item is a stretch of the client's audio. With turn detection, it ends where the backend ends a
turn; otherwise where the client commits. Words belong to the item in which they begin. Clients
append deltas to one another, so a delta has only words that two interims in a row agree on;
`completed` has the whole text and replaces them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from natterjack.events import Event, FinalEvent, InterimEvent, StatusEvent

from ..turns import Turns
from ..words import TimedWord, delimiter, timed_words
from .protocol import Message, event, identifier

UNCOMMITTED_S = 60.0
"""Without turn detection and without a commit for so long, items end where turns end: a client that
never commits would see nothing completed."""
_TOLERANCE_S = 0.05
_PREFIX = "conversation.item.input_audio_transcription"


@dataclass(eq=False)
class Item:
    """One item."""

    previous: str | None
    start: float
    """Where it begins, in seconds of the client's audio."""
    id: str = field(default_factory=lambda: identifier("item"))
    until: float | None = None
    """Where it ends, once it is committed or cleared."""
    cleared: bool = False
    texts: list[str] = field(default_factory=list)
    """Its finals."""
    languages: dict[str, None] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    """Words of its present segment that deltas have told."""
    latest: list[str] = field(default_factory=list)
    """Words of its present segment, by the last interim."""
    told: bool = False
    """Whether it has had a delta."""
    end: float = 0.0
    """Where its finals end."""


class Items:
    """All items of one session. `messages` are those to send, in order."""

    def __init__(self, *, beta: bool = False) -> None:
        self._beta = beta
        self._turns = Turns()
        self._open = Item(None, 0.0)
        self._pending: deque[Item] = deque()
        """Items that have ended, whose text may be incomplete; the oldest first."""
        self._commits: deque[Item] = deque()
        """Items that the client has committed, whose audio is being finalized."""
        self._last: str | None = None
        """The last item that was committed."""
        self._forgotten = False
        """Whether the client seems to commit nothing."""
        self._speaking = False
        """Whether `speech_started` was told for the open item."""
        self.detects = True
        """Whether items end with turns."""
        self._done = 0.0
        """Where audio begins whose words count: what was cleared before, or told by an interim for
        want of a final, is not told again."""

    @property
    def quiet(self) -> bool:
        """Whether no speech is open."""
        return not self._turns.open and not self._pending

    # ---- what the client does --------------------------------------------------------------------

    def commit(self, at: float) -> list[Message]:
        """End the open item at `at`, in seconds of the client's audio. Its text follows, at the
        latest with `finalized`."""
        messages = []
        if self._speaking:
            messages.append(self._stopped(at))
        self._commits.append(self._open)
        self._forgotten = False
        return messages + self._end(at)

    def clear(self, at: float) -> list[Message]:
        """Drop the audio of the open item."""
        messages = [self._stopped(at)] if self._speaking else []
        self._open.cleared = True
        self._open.until = at
        self._pending.append(self._open)
        self._next(at)
        return [*messages, event("input_audio_buffer.cleared")]

    def uncommitted(self, at: float) -> float:
        """Seconds of audio that belong to no ended item."""
        return max(0.0, at - self._open.start)

    def finalized(self, complete: bool) -> list[Message]:
        """All audio was finalized for the oldest commit. If it could not be (`complete` is false),
        its last interim counts as its text."""
        committed = self._commits.popleft()
        messages = []
        while committed in self._pending:
            item = self._pending.popleft()
            if item.cleared:
                self._done = max(self._done, item.until or 0.0)
                continue
            if not complete and item.latest:
                item.texts.append(delimiter(_language(item)).join(item.latest))
                self._done = max(self._done, item.until or 0.0)
            messages += self._completed(item)
        return messages

    # ---- what is heard ---------------------------------------------------------------------------

    def receive(self, heard: Event, at: float) -> list[Message]:
        """The messages for an event, when the client has sent `at` seconds of audio."""
        messages: list[Message] = []
        self._forgotten = self._forgotten or self.uncommitted(at) > UNCOMMITTED_S
        automatic = self.detects or self._forgotten
        started = self._turns.starts(heard)
        if started is not None and self.detects and not self._speaking:
            messages.append(self._started(started))
        if isinstance(heard, InterimEvent | FinalEvent):
            messages += self._text(heard)
        ended = self._turns.ends(heard)
        if isinstance(heard, FinalEvent):
            messages += self._finish(heard.end)
        if ended is not None and automatic and (self._open.texts or self._speaking):
            at = max(ended, self._open.end, self._open.start)
            if self._speaking:
                messages.append(self._stopped(at))
            messages += self._end(at)
            messages += self._finish(at)
        if isinstance(heard, StatusEvent) and heard.closing:
            messages += self._finish(float("inf"))
        return messages

    def _text(self, heard: InterimEvent | FinalEvent) -> list[Message]:
        final = isinstance(heard, FinalEvent)
        messages: list[Message] = []
        all_words = timed_words(heard)
        for item, words in self._divided(all_words):
            if item.cleared:
                continue
            texts = [word.text for word in words]
            if heard.language and final:
                item.languages[heard.language] = None
            between = delimiter(heard.language)
            messages += _delta(item, texts, between, final=final)
            if final:
                whole = len(words) == len(all_words)
                item.texts.append(heard.text if whole else between.join(texts))
                item.sent, item.latest = [], []
                item.end = max(item.end, words[-1].end)
            else:
                item.latest = texts
        return messages

    def _divided(self, words: Sequence[TimedWord]) -> list[tuple[Item, list[TimedWord]]]:
        """The words of an event, by item; without those of items that are done."""
        items = [*self._pending, self._open]
        found: list[tuple[Item, list[TimedWord]]] = []
        for word in words:
            if word.start < self._done - _TOLERANCE_S:
                continue
            item = next(
                (one for one in items if one.until is None or word.start < one.until), self._open
            )
            if not found or found[-1][0] is not item:
                found.append((item, []))
            found[-1][1].append(word)
        return found

    def _finish(self, position: float) -> list[Message]:
        """Complete what ended before `position`, up to which all is final."""
        messages = []
        while self._pending:
            item = self._pending[0]
            if item.until is not None and item.until > position + _TOLERANCE_S:
                break
            self._pending.popleft()
            if item.cleared:
                self._done = max(self._done, item.until or 0.0)
            else:
                messages += self._completed(item)
        return messages

    # ---- messages --------------------------------------------------------------------------------

    def _started(self, at: float) -> Message:
        self._speaking = True
        self._open.start = max(self._open.start, at)
        return event(
            "input_audio_buffer.speech_started",
            audio_start_ms=round(at * 1000),
            item_id=self._open.id,
        )

    def _stopped(self, at: float) -> Message:
        self._speaking = False
        return event(
            "input_audio_buffer.speech_stopped",
            audio_end_ms=round(at * 1000),
            item_id=self._open.id,
        )

    def _end(self, at: float) -> list[Message]:
        item = self._open
        item.until, item.previous = at, self._last
        self._pending.append(item)
        self._last = item.id
        self._next(at)
        messages = [
            event("input_audio_buffer.committed", item_id=item.id, previous_item_id=item.previous)
        ]
        kinds = ("created",) if self._beta else ("added", "done")
        content = {
            "id": item.id, "type": "message", "object": "realtime.item", "status": "completed",
            "role": "user", "content": [{"type": "input_audio", "transcript": None}],
        }  # fmt: skip
        messages += [
            event(f"conversation.item.{kind}", previous_item_id=item.previous, item=content)
            for kind in kinds
        ]
        return messages

    def _next(self, at: float) -> None:
        self._speaking = False
        self._open = Item(None, at)

    def _completed(self, item: Item) -> list[Message]:
        between = delimiter(_language(item))
        members: Message = {}
        if item.languages:
            members["languages"] = [{"code": language} for language in item.languages]
        seconds = max(0.0, (item.until or item.end) - item.start)
        return [
            event(
                f"{_PREFIX}.completed",
                item_id=item.id,
                content_index=0,
                transcript=between.join(text for text in item.texts if text),
                usage={"type": "duration", "seconds": round(seconds, 3)},
                **members,
            )
        ]

    def failed(self, message: str) -> list[Message]:
        """The messages for items that get no text any more."""
        items, self._pending = list(self._pending), deque()
        problem = {"type": "server_error", "code": None, "message": message, "param": None}
        return [
            event(f"{_PREFIX}.failed", item_id=item.id, content_index=0, error=problem)
            for item in items
            if not item.cleared
        ]


def _language(item: Item) -> str | None:
    return next(iter(item.languages), None)


def _delta(item: Item, words: list[str], between: str, *, final: bool) -> list[Message]:
    """The words that are told now: all of a final, and of an interim those that the one before it
    had, too. The last word of an interim is often cut, so it does not count."""
    told = len(item.sent)
    if final:
        new = words[told:]
    else:
        stable = 0
        for ours, theirs in zip(words[:-1], item.latest[:-1], strict=False):
            if ours != theirs:
                break
            stable += 1
        if stable <= told or words[:told] != item.sent:
            return []
        new = words[told:stable]
    if not new:
        return []
    item.sent = item.sent + new
    lead = between if item.told else ""
    item.told = True
    return [
        event(f"{_PREFIX}.delta", item_id=item.id, content_index=0, delta=lead + between.join(new))
    ]
