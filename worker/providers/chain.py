"""The chain of a session: whose turn it is among the providers that its request names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import ProviderError, RequestRefused, Stalled
from natterjack.plugin.provider import StreamRequest
from natterjack.spec import SessionSpec

from .breaker import Breaker


class Exhausted(Exception):
    """Every provider of the chain has refused the session; the message is the last reason."""


class Chain:
    """Providers in the order of preference, each with this worker's breaker for it.

    The next one takes over on a permanent refusal, on a stall, and after `failover_after` failures
    in a row; behind the last comes the first again. One that has refused is not asked again.
    """

    def __init__(
        self, names: Sequence[str], breaker: Callable[[str], Breaker], failover_after: int
    ) -> None:
        self.names = list(dict.fromkeys(names))
        self._breaker = breaker
        self._failover_after = failover_after
        self._index = 0
        self._failures = 0
        self._tried: set[str] = set()
        self._refusals: dict[str, ProviderError] = {}

    @property
    def name(self) -> str:
        """The provider whose turn it is."""
        return self.names[self._index]

    def choose(self, now: float) -> float:
        """0 if the provider whose turn it is may be dialled; perhaps the turn has moved on past
        ones whose breaker is open. Else the seconds to wait. Raises Exhausted."""
        waits, refusals = [], [str(fault) for fault in self._refusals.values()]
        for offset in range(len(self.names)):
            index = (self._index + offset) % len(self.names)
            name = self.names[index]
            if name in self._refusals:
                continue
            breaker = self._breaker(name)
            wait = breaker.ask(now)
            if wait == 0:
                self._move(index)
                return 0.0
            if (refusal := breaker.refuses) is not None:
                refusals.append(str(refusal))
            else:
                waits.append(wait)
        if not waits:
            raise Exhausted("; ".join(refusals))
        return min(waits)

    def works(self, *, fresh: bool) -> None:
        """The provider has answered on the stream that is open; `fresh`: for the first time."""
        self._breaker(self.name).works(fresh=fresh)

    def fails(self, fault: ProviderError, now: float, *, answered: bool, progress: bool) -> None:
        """A stream has failed: after the provider had `answered` on it, and after finals had moved
        on (`progress`), or not. Raises Exhausted."""
        if not answered:
            self._breaker(self.name).fails(fault, now)
        if progress:
            self.progress()
        self._failures += 1
        self._tried.add(self.name)
        if not fault.retryable:
            self._refusals[self.name] = fault
            if len(self._refusals) == len(self.names):
                self._exhausted()
        elif not isinstance(fault, Stalled) and self._failures < self._failover_after:
            return
        for offset in range(1, len(self.names)):
            index = (self._index + offset) % len(self.names)
            if self.names[index] not in self._refusals:
                self._move(index)
                return

    def progress(self) -> None:
        """Finals have moved on, or a stream has lasted: what failed before counts no more."""
        self._failures = 0
        self._tried.clear()

    @property
    def untried(self) -> bool:
        """Whether the provider whose turn it is has not failed since there was progress."""
        return self.name not in self._tried

    def _move(self, index: int) -> None:
        if index != self._index:
            self._index, self._failures = index, 0

    def _exhausted(self) -> None:
        raise Exhausted("; ".join(str(fault) for fault in self._refusals.values()))

    def request(
        self, spec: SessionSpec, audio_format: AudioFormat, configured: dict[str, Any]
    ) -> StreamRequest:
        """What the provider whose turn it is is asked for.

        `model` and `options` of the request are for the first provider of the chain; options under
        a provider's name are for that one, its `model` among them. Language and key terms are for
        all. `configured` (changes in mid-stream) come last.
        """
        first = self._index == 0
        options: dict[str, Any] = {}
        if first:
            options |= {k: v for k, v in spec.options.items() if k not in self.names}
        own = spec.options.get(self.name)
        if isinstance(own, dict):
            options |= own
        elif own is not None:
            options[self.name] = own  # the provider says what is wrong with it
        model = options.pop("model", spec.model if first else None)
        options |= configured
        keyterms = options.pop("keyterms", spec.keyterms)
        if not isinstance(keyterms, list) or not all(isinstance(term, str) for term in keyterms):
            raise RequestRefused(self.name, "request", "keyterms must be a list of texts")
        return StreamRequest(
            session_id=spec.session_id,
            format=audio_format,
            language=spec.language,
            model=model,
            keyterms=tuple(keyterms),
            options=options,
        )
