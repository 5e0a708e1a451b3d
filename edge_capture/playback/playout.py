"""Playing one key: the newest session, from its chunks to the frames of the output.

Pure, as its parts are: callers pass the times, in seconds on a clock that runs forward.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

from natterjack.voice.audio import SpeechHeader
from natterjack.voice.spec import Played

from .convert import Converter
from .order import Order
from .queue import Heard, PlayQueue
from .reports import Reports

MAX_QUEUED_S = 60.0
"""How much speech is queued at most. What comes beyond that is asked for again."""
HOLE_S = 20.0
"""How long missing chunks are waited for, without which words are lost: the session's worker may be
away until its lease has run out, and the broker until it has elected leaders. A player that joins
a session waits as long for the worker's answer, which says with which chunk it begins."""
PLAYED_S = 5.0
"""How long they are waited for at least once all before them was played: only then does the worker
speak again what is lost."""
ASK_S = 5.0
"""How long a player goes on asking, after it has joined or reconnected, for what it may lack."""
_EARLIER_SESSIONS = 64
_TOTALS = ("played_seconds", "late_seconds", "underruns")


class PlayOptions(NamedTuple):
    """How speech is played."""

    volume: float = 1.0
    """A factor; 1 leaves the speech as it is."""
    buffer_seconds: float = 0.1
    """Speech that is waited for before playback begins, and again after it has run out."""
    max_late_seconds: float = 30.0
    """Speech that could have been played earlier than this is not played."""


class _Session:
    """A session that is played."""

    def __init__(
        self, session_id: str, sample_rate: int, options: PlayOptions, rate: int, now: float
    ) -> None:
        self.order = Order(session_id, sample_rate)
        self.converter = Converter(sample_rate, rate, options.volume)
        self.queue = PlayQueue(rate, options.buffer_seconds, options.max_late_seconds)
        self.reports = Reports(session_id)
        self.start_at = now + HOLE_S
        self.ask_until = now + ASK_S
        self.hole: int | None = None
        """The missing chunk that is waited for, and below until when."""
        self.hole_until = 0.0

    def advance(self, now: float) -> None:
        """Queue the chunks that are next, as far as there is room."""
        while self.queue.seconds < MAX_QUEUED_S and (chunk := self.order.take()) is not None:
            if not chunk.header.cut:
                for block in self.converter.convert(chunk):
                    self.queue.put(block, now)

    def plays(self, now: float) -> bool:
        """True if speech is audible."""
        heard = self.queue.heard(now)
        return heard is not None and heard.state == "playing"

    @property
    def totals(self) -> dict[str, float]:
        return {name: getattr(self.queue, name) for name in _TOTALS}

    def lacks(self, now: float) -> int | None:
        """Return the number of the chunk to ask for, if one is missing or may be."""
        if self.queue.seconds >= MAX_QUEUED_S / 2:
            return None
        if self.order.missing is None and now < self.ask_until:
            return self.order.next or 0
        return self.order.missing


class Playout:
    """The speech of one key. `pull` is called in the thread of the output, everything else in the
    event loop."""

    def __init__(self, options: PlayOptions, rate: int) -> None:
        """`rate` is that of the output, in hertz."""
        self._options, self._rate = options, rate
        self._session: _Session | None = None
        self._earlier: deque[str] = deque(maxlen=_EARLIER_SESSIONS)
        """Sessions that a newer one has replaced, and whose chunks come too late."""
        self._totals: Counter[str] = Counter()
        self._held = False
        self._lost = False
        self.dropped: Counter[str] = Counter()
        """Chunks that were not played, by reason."""
        self.skipped = 0
        """How often missing chunks were given up."""

    @property
    def session_id(self) -> str | None:
        """The session that is played; None before the first one."""
        return self._session.order.session_id if self._session else None

    @property
    def totals(self) -> dict[str, float]:
        """The account of all sessions: `played_seconds`, `late_seconds` that were dropped because
        they were too late, and `underruns`: how often the speech of an open utterance ran out."""
        found = Counter(self._totals)
        found.update(self._session.totals if self._session else {})
        return {name: round(found[name], 2) for name in _TOTALS}

    def busy(self, now: float) -> bool:
        """True if something is about to be played, or waited for."""
        session = self._session
        return session is not None and (
            session.queue.seconds > 0 or session.order.missing is not None
            or now < session.ask_until
        )  # fmt: skip

    def receive(self, header: SpeechHeader, payload: bytes, now: float) -> bool:
        """Take a chunk. Returns True if the output must drop at once what it has not played: at a
        cut, or because a newer session replaces another."""
        replaces = self.join(header.session_id, header.sample_rate, now)
        session = self._session
        if session is None or session.order.session_id != header.session_id:
            self.dropped["session"] += 1
            return False
        if header.seq == 0 and session.order.next is None:
            session.ask_until = now  # there is nothing before it
        verdict = session.order.add(header, payload)
        if verdict != "taken":
            self.dropped[verdict] += 1
        elif header.cut:
            session.queue.cut(now, header.utterance, header.pos)
            session.converter.reset()
        session.advance(now)
        return replaces or (header.cut and verdict == "taken")

    def answered(self, session_id: str, seq: int, now: float) -> None:
        """The worker has published all chunks from this one on again, as far as there are any; all
        before it were played."""
        session = self._session
        if session is not None and session.order.session_id == session_id:
            session.order.begin(seq)
            session.advance(now)

    def join(self, session_id: str, sample_rate: int, now: float) -> bool:
        """Play this session from now on, unless it was replaced before. What was published of it
        is asked for. Returns True if the output must drop at once what it has not played."""
        replaced = self._session
        if replaced is not None and replaced.order.session_id == session_id:
            return False
        if session_id in self._earlier:
            return False
        if replaced is not None:
            self._earlier.append(replaced.order.session_id)
            self._totals.update(replaced.totals)
        self._session = _Session(session_id, sample_rate, self._options, self._rate, now)
        return replaced is not None

    def reconnected(self, now: float) -> None:
        """Chunks may have been missed."""
        if self._session is not None:
            self._session.ask_until = now + ASK_S

    def tick(self, now: float) -> None:
        """Do what is due. To be called several times a second."""
        session = self._session
        if session is None:
            return
        if now >= session.start_at:
            session.order.start()
        missing = session.order.missing
        if missing != session.hole:
            session.hole, session.hole_until = missing, now + HOLE_S
        elif missing is not None and session.plays(now):
            session.hole_until = max(session.hole_until, now + PLAYED_S)
        elif missing is not None and now >= session.hole_until:
            session.order.skip()
            self.skipped += 1
        session.advance(now)

    def report(self, now: float) -> Played | None:
        """Return the report that is due, if one is."""
        session = self._session
        if session is None:
            return None
        heard, missing = session.queue.heard(now), session.lacks(now)
        if heard is None:
            if missing is None:
                return None
            heard = Heard(0, 0, "starved")
        return session.reports.make(now, heard, lost=self._lost, missing=missing)

    def heard(self, now: float) -> Heard | None:
        """Return how far the session is audible; None if nothing of it has come."""
        return self._session.queue.heard(now) if self._session else None

    def pull(self, frames: int, at: float) -> bytes:
        """Return up to `frames` frames, of which the first will be audible at the time `at`."""
        session = self._session
        return b"" if session is None or self._held else session.queue.pull(frames, at)

    def hold(self) -> None:
        """Hand out nothing until `resume`, because the output drops what it has."""
        self._held = True

    def resume(self) -> None:
        """Hand out speech again."""
        self._held = False

    def lose(self, now: float) -> None:
        """The output is away: what it has not played is played when it is found again."""
        self._lost = True
        if self._session is not None:
            self._session.queue.take_back(now)

    def find(self) -> None:
        """The output plays again."""
        self._lost = False
