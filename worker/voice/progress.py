"""How far a voice session has come: text received, spoken, published and played."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from natterjack.voice.spec import VoiceSpec
from worker.metering.voice_ledger import VoiceLedger
from worker.metrics import Metrics

from .checkpoint import OpenUtterance, VoiceAccount, VoiceCheckpoint
from .events import EventWriter
from .playback import Place, Playback, Spoken
from .speech import Speech
from .text.ordering import Script
from .text.phrases import SLOWEST_PACE, Phrase

LOOK_SECONDS = 0.25
"""Longest time after which the tasks of a session look for what is due, if nothing wakes them."""


class Recoveries:
    """Counts the recoveries of a session by their causes."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.counts: Counter[str] = Counter()

    def recovery(self, cause: str) -> None:
        """Count a recovery from a fault."""
        self.counts[cause] += 1
        self._metrics.recoveries.labels(cause).inc()


class Progress:
    """The place in the text and in the audio that a session has reached. Everything before it is
    published: `offset` characters of the text of `utterance`."""

    def __init__(
        self, spec: VoiceSpec, writer: EventWriter, speech: Speech, ledger: VoiceLedger,
        metrics: Metrics,
    ) -> None:  # fmt: skip
        self._rate = spec.sample_rate
        self.writer = writer
        self.speech = speech
        self.ledger = ledger
        self.account_builder = Recoveries(metrics)
        self.script = Script()
        self.playback = Playback(spec.sample_rate)
        self.ready = False
        """True if the state of a former holder was restored."""
        self.held_reason: str | None = None
        """Why no provider serves the session now; None if it is not held."""
        self.held_since: float | None = None
        self.utterance = 0
        self.offset = 0
        self.phrase_position = 0
        """Where the audio of the current phrase begins."""
        self.phrase_seq = 0
        """The number of the next chunk when that phrase began."""
        self.over = -1
        """All utterances up to this one are over."""
        self.started = -1
        """The event `started` of all utterances up to this one is published."""
        self.unfinished_cut: int | None = None
        """A former holder has published a cut of the utterances up to this one, and perhaps not
        their ends."""
        self.rewound = -1
        """The number of the last cut after which lost audio is spoken again."""
        self.sent_until = (-1, 0)
        """The place in the text up to which any was ever sent to a provider."""
        self.reported_characters = 0
        """Characters after that place that a former holder has reported as sent."""
        self.phrase_voice: str | None = None
        """The voice that has spoken what is published of the current phrase."""
        self.close_reason: str | None = None
        self.published_before = self.played_before = 0.0
        """Seconds that former holders have published and had played."""
        self._published_frames = 0
        self.first_sequence: Callable[[], int] = lambda: 1
        """Returns where the text of utterances that are not over begins in the stream."""
        self.wake: Callable[[], None] = lambda: None
        """Makes the session's tasks look again."""
        self.save: Callable[[], Awaitable[None]]
        """Writes the checkpoint."""
        self.reported = asyncio.Event()
        """Set by each report of the player."""
        self.dropping = False
        """True from an interrupt until the ends of what it has dropped are published."""
        self._announcing = asyncio.Lock()
        self._saved = (-1, -1)

    # ---- positions, as admission and the HTTP port know them ------------------------------------

    @property
    def final(self) -> int:
        """Position up to which speech is published; transcription has finals there."""
        return self.playback.published

    @property
    def frontier(self) -> int:
        """The same: a voice session publishes whatever it has."""
        return self.playback.published

    @property
    def final_seconds(self) -> float:
        """Seconds of speech that are published."""
        return self.playback.published / self._rate

    @property
    def lag_seconds(self) -> float:
        """Seconds that a held session has waited; 0 if it is not held."""
        return 0.0 if self.held_since is None else time.monotonic() - self.held_since

    # ---- taking over ----------------------------------------------------------------------------

    def restore(self, stored: VoiceCheckpoint) -> None:
        """Continue where a checkpoint was written."""
        self.over, self.started = stored.over, stored.started
        self.utterance, self.offset = stored.utterance, stored.offset
        self.phrase_position, self.phrase_seq = stored.position, stored.seq
        self.close_reason, self.rewound = stored.close_reason, stored.rewound
        self.script = Script(stored.over + 1)
        self.script.last = stored.last
        self.speech.seq, self.speech.position = stored.seq, stored.position
        self.playback.adopt(stored.position, stored.played, stored.cut, time.monotonic())
        self.playback.paces = dict(stored.paces)
        for one in stored.open:
            if one.number <= stored.over:
                continue
            spoken = Spoken(one.number, one.start, one.end)
            spoken.places = [Place(position, character) for position, character in one.places]
            spoken.characters = one.characters
            self.playback.spoken[one.number] = spoken
        self.phrase_voice = stored.provider
        self.sent_until = (stored.sent[0], stored.sent[1])
        self.ready = True

    def saved(self, checkpoint: VoiceCheckpoint) -> None:
        """Note that a checkpoint is stored."""
        self._saved = (checkpoint.started, checkpoint.over)

    def fill(self, checkpoint: VoiceCheckpoint) -> None:
        """Bring a checkpoint up to date; until the ends of what an interrupt has dropped are all
        published, only with those that are. A worker that takes over then finds the cut behind the
        checkpoint, and publishes the rest of them."""
        checkpoint.over, checkpoint.started = self.over, self.started
        if self.dropping:
            return
        playback = self.playback
        checkpoint.text_sequence = self.first_sequence()
        checkpoint.utterance, checkpoint.offset = self.utterance, self.offset
        checkpoint.position, checkpoint.seq = self.phrase_position, self.phrase_seq
        checkpoint.played, checkpoint.cut = playback.played, playback.cut
        checkpoint.rewound, checkpoint.paces = self.rewound, self.playback.paces
        checkpoint.sent = self.sent_until
        checkpoint.last, checkpoint.close_reason = self.script.last, self.close_reason
        checkpoint.open = [
            OpenUtterance(
                number=one.number, start=one.start, end=one.end,
                places=[(p.position, p.character) for p in one.places if not p.word][-100:],
                characters=one.characters,
            )
            for one in playback.spoken.values()
        ]  # fmt: skip

    # ---- speaking -------------------------------------------------------------------------------

    def published(self, frames: int, now: float) -> None:
        """Note that audio was published."""
        self._published_frames += frames
        self.playback.publish(frames, now)

    def begin(self, utterance: int, offset: int, heard: int = 0) -> None:
        """Note that all audio before this place in the text is published, and of the phrase that
        begins there, `heard` frames."""
        self.utterance, self.offset = utterance, offset
        self.phrase_position, self.phrase_seq = self.speech.position - heard, self.speech.seq

    def change_voice(self, voice: str) -> bool:
        """Note that `voice` goes on with the current phrase. Return whether it is another voice,
        which speaks at another pace: then the phrase is divided before the word within which the
        published audio ends, as far as that is known, and the rest is spoken as a phrase. Words are
        rather repeated than lost, so a voice whose pace is not known is taken for a slow one."""
        before, self.phrase_voice = self.phrase_voice, voice
        utterance = self.script.utterances.get(self.utterance)
        if before in (None, voice) or not self.skip or utterance is None:
            return False
        spoken, text = self.spoken(), utterance.text
        end = self.speech.position
        heard = spoken.heard(end, text, self._rate, self.playback.pace(before, SLOWEST_PACE))
        self.begin(self.utterance, max(self.offset, heard.characters))
        return True

    @property
    def skip(self) -> int:
        """Frames of the current phrase that are published already."""
        return self.speech.position - self.phrase_position

    def spoken(self) -> Spoken:
        """The current utterance, as far as it is spoken."""
        found = self.playback.spoken.get(self.utterance)
        if found is None:
            start = self.phrase_position
            found = self.playback.spoken[self.utterance] = Spoken(self.utterance, start)
        return found

    def begin_phrase(self, phrase: Phrase) -> Spoken:
        """Note that audio of a phrase comes, which may be published in part, and return its
        utterance."""
        self.utterance = phrase.utterance
        spoken = self.spoken()
        spoken.begin_phrase(self.phrase_position, phrase.start, phrase.end)
        spoken.unmarked = self.speech.position
        return spoken

    def end(self, number: int) -> None:
        """Forget an utterance that is over."""
        self.over = max(self.over, number)
        self.playback.spoken.pop(number, None)
        self.script.forget(number)

    @contextlib.asynccontextmanager
    async def announcing(self) -> AsyncIterator[None]:
        """Publish an event of an utterance in this block. Raises LeaseLost.

        A worker that takes over reads the newest one alone, so the checkpoint has those before it.
        """
        async with self._announcing:
            if (self.started, self.over) != self._saved:
                await self.save()
            yield

    @property
    def lacks_text(self) -> bool:
        """True if text has not arrived that a former holder had: its audio is published, or it was
        cut."""
        for number, spoken in self.playback.spoken.items():
            utterance = self.script.utterances.get(number)
            if utterance is None:
                return True
            if not utterance.complete and spoken.end is not None:
                return True
            if number == self.utterance and utterance.length < self.offset + (self.skip > 0):
                return True
        return self.unfinished_cut is not None and self.script.newest < self.unfinished_cut

    @property
    def idle(self) -> bool:
        """True if all text that has arrived is spoken and played."""
        return not self.script.utterances and not self.playback.spoken

    def count_sent(self, phrase: Phrase) -> None:
        """Count a phrase that is sent, and what a killed worker has sent and not reported of it."""
        place, size = (phrase.utterance, phrase.end), len(phrase.text)
        again = place <= self.sent_until
        current = (phrase.utterance, phrase.start) == (self.utterance, self.offset)
        if current and self.skip > 0 and not again:  # it was spoken in part
            again = True
            self.ledger.assume(max(0, size - self.reported_characters))
        self.reported_characters = 0
        self.sent_until = max(self.sent_until, place)
        self.ledger.sent(size, size if again else 0)

    # ---- accounts -------------------------------------------------------------------------------

    def account(self) -> VoiceAccount:
        played = self.playback.played_frames / self._rate
        return VoiceAccount(
            audio_seconds=round(self.published_before + self._published_frames / self._rate, 3),
            played_seconds=round(self.played_before + played, 3),
            repeated_characters=self.ledger.repeated_characters,
            providers=self.ledger.usage(),
        )

    async def publish_usage(self) -> None:
        """Publish what the session has used so far."""
        self.ledger.count()
        account, (cost, currency) = self.account(), self.ledger.cost()
        await self.writer.usage(
            characters=self.ledger.characters,
            repeated_characters=account.repeated_characters,
            audio_seconds=account.audio_seconds,
            played_seconds=account.played_seconds,
            connected_seconds=round(self.ledger.connected_seconds, 3),
            cost=None if currency is None else round(cost, 6),
            currency=currency,
        )

    def record_json(self) -> str:
        """The progress members of a roster record (SessionRecord), as JSON."""
        self.ledger.count()
        why = "" if self.held_reason is None else f'"reason":{json.dumps(self.held_reason)},'
        return (
            f'{why}"provider":{json.dumps(self.writer.provider)},'
            f'"lag_seconds":{self.lag_seconds:.2f},"final_seconds":{self.final_seconds:.3f},'
            f'"providers":{{{self.ledger.json()}}}'
        )


def record_prefix(spec: VoiceSpec, epoch: int, holder: str) -> str:
    """The constant beginning of a voice session's roster record (SessionRecord), as JSON."""
    return (
        f'{{"key":"{spec.key}","kind":"speak","session_id":"{spec.session_id}","epoch":{epoch},'
        f'"holder":"{holder}","opened_at":"{spec.opened_at.isoformat()}"'
    )
