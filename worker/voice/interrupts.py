"""Interrupting a voice session: what is cut, and what was heard of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from natterjack.plugin.errors import ProviderError
from worker.metrics import Metrics

from .playback import Heard, Place, Spoken
from .progress import Progress
from .relay import Relay
from .text.ordering import Utterance
from .text.phrases import Phrase

_STOP_SECONDS = 1.0
"""How long the player's answer to a cut is waited for."""


class Dropped(NamedTuple):
    """The text and the audio that an interrupt drops."""

    through: int
    """All utterances up to this one."""
    position: int
    """All audio before it was played."""
    texts: dict[int, Utterance]
    spoken: dict[int, Spoken]
    confirmed: bool = True
    """Whether the player has confirmed the position."""


class Interrupter:
    """Drops the text and the audio of a session that were not played, and says what was heard."""

    def __init__(
        self, progress: Progress, metrics: Metrics, sample_rate: int, order: asyncio.Lock
    ) -> None:
        self._progress = progress
        self._metrics = metrics
        self._rate = sample_rate
        self._order = order

    @property
    def nothing(self) -> bool:
        """True if there is nothing to interrupt."""
        return self._progress.idle and not self._progress.script.hole

    async def interrupt(
        self, reason: str, detail: str | None, relay: Relay | None, last: int | None = None
    ) -> tuple[int | None, float]:
        """Stop speaking, and drop all utterances, or those up to `last`. Return the number of the
        utterance that was cut, if there is one, and the seconds of the session's speech that were
        played. Raises LeaseLost, Overheard."""
        progress, playback = self._progress, self._progress.playback
        now = time.monotonic()
        at = playback.position(now)
        if self.nothing:
            return None, round(at / self._rate, 6)
        async with self._order:
            through = max(progress.script.newest, progress.utterance - 1)
            if last is not None:
                through = min(through, max(last, progress.utterance - 1))
            phrase = None if relay is None else relay.cut(through + 1)
            playback.expect_stop()
            await progress.speech.publish(max(0, through), cut=True)
            confirmed = await self._stopped()
            now = time.monotonic()
            at = playback.played if confirmed else playback.position(now)
            unplayed = playback.published - at
            dropped = self._drop(through, at, now, confirmed=confirmed)
        answer = None
        if relay is not None:
            with contextlib.suppress(ProviderError):  # `receive` fails as well
                answer = await relay.interrupt(unplayed)
        said = None if answer is None else answer.text_spoken
        await self.announce(dropped, reason, detail, phrase, said)
        first = min([*dropped.texts, *dropped.spoken], default=None)
        return first, round(at / self._rate, 6)

    async def _stopped(self) -> bool:
        """Wait for the player's report of how far it had played when it received the cut. False if
        there is none soon."""
        progress, playback = self._progress, self._progress.playback
        if playback.reachable(time.monotonic()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    while not playback.stopped:
                        progress.reported.clear()
                        await progress.reported.wait()
        return playback.stopped

    def _drop(self, through: int, at: int, now: float, *, confirmed: bool) -> Dropped:
        """Drop everything up to utterance `through`, of which audio before `at` was played."""
        progress, playback = self._progress, self._progress.playback
        progress.dropping = True
        texts = {n: u for n, u in progress.script.utterances.items() if n <= through}
        spoken = {n: s for n, s in playback.spoken.items() if n <= through}
        playback.drop()
        for number in spoken:
            del playback.spoken[number]
        progress.script.drop(through, now)
        progress.begin(through + 1, 0)
        return Dropped(through, at, texts, spoken, confirmed)

    async def finish(self, through: int) -> None:
        """Finish the interrupt of a former holder, of which only the cut was published."""
        confirmed = await self._stopped()
        at = self._progress.playback.played
        dropped = self._drop(through, at, time.monotonic(), confirmed=confirmed)
        await self.announce(dropped, "request", None, None, None)

    async def announce(
        self,
        dropped: Dropped,
        reason: str,
        detail: str | None,
        phrase: Phrase | None,
        said: str | None,
    ) -> None:
        """Publish what was heard of the utterances that were dropped. `said` is what of `phrase`
        the provider says it has spoken."""
        async with self._progress.announcing():
            await self._announce(dropped, reason, detail, phrase, said)

    async def _announce(
        self,
        dropped: Dropped,
        reason: str,
        detail: str | None,
        phrase: Phrase | None,
        said: str | None,
    ) -> None:
        rate = self._rate
        for number in sorted({*dropped.texts, *dropped.spoken}):
            utterance, spoken = dropped.texts.get(number), dropped.spoken.get(number)
            text = "" if utterance is None else utterance.text
            heard, start = Heard(0, estimated=False), dropped.position
            if spoken is not None:
                pace = self._progress.playback.pace(self._progress.phrase_voice)
                heard = spoken.heard(dropped.position, text, rate, pace)
                start = spoken.start
                if said is not None and phrase is not None and phrase.utterance == number:
                    heard = heard_as_said(said, phrase, spoken, dropped.position, text) or heard
                if not dropped.confirmed:
                    heard = heard._replace(estimated=True)
            await self._progress.writer.utterance(
                number,
                "interrupted",
                reason=reason,
                detail=detail or (None if utterance is None else utterance.problem),
                text_spoken=text[: heard.characters],
                text_remaining=text[heard.characters :],
                estimated=heard.estimated,
                start=round(start / rate, 6),
                end=round(max(start, dropped.position) / rate, 6),
            )
            self._metrics.voice_utterances.labels(reason).inc()
            self._progress.end(number)
        self._progress.over = max(self._progress.over, dropped.through)
        self._progress.dropping = False

    async def rewind(self, relay: Relay | None, write: Callable[[], Awaitable[None]]) -> None:
        """Have audio spoken again that was published and is lost, from where it was played on.
        `write` writes the checkpoint."""
        progress, playback = self._progress, self._progress.playback
        async with self._order:
            at = playback.played
            begun = [one for one in playback.spoken.values() if one.start <= at]
            if not begun or playback.published <= at:
                return
            spoken = begun[-1]
            places = [p for p in spoken.places if p.position <= at and not p.word]
            place = places[-1] if places else Place(spoken.start, 0)
            if relay is not None:
                relay.cut(spoken.number, place.character)
            for number in [n for n in playback.spoken if n > spoken.number]:
                del playback.spoken[number]
            spoken.places, spoken.end = places, None
            unplayed = playback.published - at
            progress.rewound = progress.speech.seq
            progress.begin(spoken.number, place.character, at - place.position)
            await write()
            await progress.speech.publish(spoken.number, cut=True)
            playback.drop()
        if relay is not None:
            with contextlib.suppress(ProviderError):  # `receive` fails as well
                await relay.interrupt(unplayed)

    async def give_up(self, reason: str) -> None:
        """Publish that nothing more of the utterances that are not over is spoken, since the
        session ends. Audio that is published goes on being played."""
        progress, now = self._progress, time.monotonic()
        at = progress.playback.position(now)
        texts = dict(progress.script.utterances)
        spoken = dict(progress.playback.spoken)
        dropped = Dropped(progress.script.newest, at, texts, spoken, confirmed=False)
        await self.announce(dropped, reason, None, None, None)

    async def finish_played(self) -> bool:
        """Publish the end of the utterances that were played to their ends. Return whether there
        was one."""
        progress, found = self._progress, False
        for one in list(progress.playback.spoken.values()):
            if one.end is None or progress.playback.played < one.end:
                break
            utterance = progress.script.utterances.get(one.number)
            if utterance is None and progress.script.hole:
                break  # its text may be behind the hole
            text = "" if utterance is None else utterance.text
            problem = None if utterance is None else utterance.problem
            ended: dict[str, Any] = {"text_spoken": text, "detail": problem}
            event = "finished"
            if utterance is not None and problem and (utterance.headless or not text):
                event = "interrupted"
                ended |= {"text_spoken": "", "text_remaining": text, "reason": "failed"}
            async with progress.announcing():
                await progress.writer.utterance(
                    one.number,
                    event,
                    start=round(one.start / self._rate, 6),
                    end=round(one.end / self._rate, 6),
                    **ended,
                )
                progress.end(one.number)
            self._metrics.voice_utterances.labels(ended.get("reason", "finished")).inc()
            found = True
        return found


def heard_as_said(
    said: str, phrase: Phrase, spoken: Spoken, position: int, text: str
) -> Heard | None:
    """Return how much of `text` was heard if the provider reports that it spoke `said` of a phrase.

    None if the player was not within that phrase, so that the provider could not know.
    """
    begin = phrase.start + len(phrase.text) - len(phrase.text.lstrip())
    within = any(
        place.character == phrase.start and place.position < position
        for place in spoken.places
        if not place.word
    )
    if not within or not text.startswith(said.strip(), begin):
        return None
    return Heard(begin + len(said.strip()), estimated=False)
