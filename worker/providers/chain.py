"""The providers that a session may use, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import ProviderError, RequestRefused, Stalled
from natterjack.plugin.provider import StreamRequest
from natterjack.spec import SessionSpec

from .breaker import Breaker, Verdict, judge


class Exhausted(Exception):
    """Every provider of the chain refuses the session. The message has their reasons."""


class Chain:
    """The providers of a session in order of preference, each with the worker's breaker for it.

    The session leaves its provider for the next one after a refusal, after a stall, and after
    `failover_after` failures in a row. The first provider follows the last. A provider that has
    refused the request is not dialed again; one whose account refuses is, as its breaker allows.
    """

    def __init__(
        self, names: Sequence[str], breaker: Callable[[str], Breaker], failover_after: int
    ) -> None:
        self.names = list(dict.fromkeys(names))
        self._breaker = breaker
        self._failover_after = failover_after
        self._index = 0
        self._failures = 0
        self._failed: set[str] = set()
        """Providers that have failed since the last progress."""
        self._refusals: dict[str, ProviderError] = {}
        """Providers that will never serve the request, with their reasons."""
        self._served: dict[str, int] = {}
        """How many streams a provider had served when its account first refused this session."""

    @property
    def name(self) -> str:
        """The current provider."""
        return self.names[self._index]

    def choose(self, now: float) -> float:
        """Return 0 if the current provider may be dialed, and else the seconds to wait.

        Makes another provider the current one if the breaker of this one is open and that of the
        other is not. Raises Exhausted.
        """
        waits = []
        for offset in range(len(self.names)):
            index = (self._index + offset) % len(self.names)
            name = self.names[index]
            if name in self._refusals:
                continue
            wait = self._breaker(name).try_acquire(now)
            if wait == 0:
                self._move(index)
                return 0.0
            waits.append(wait)
        if not waits:
            raise self._exhausted()
        return min(waits)

    @property
    def faults(self) -> list[ProviderError]:
        """Why no provider can be dialed now: the last fault of each."""
        faults = [self._refusals.get(name) or self._breaker(name).fault for name in self.names]
        return [fault for fault in faults if fault is not None]

    @property
    def problem(self) -> str:
        """The faults, for people."""
        return "; ".join(f"{fault.cause}: {fault}" for fault in self.faults)

    @property
    def refused_account(self) -> bool:
        """Whether the account of the current provider refuses all sessions, or this one."""
        return self.name in self._served or self._breaker(self.name).refuses_account

    def _exhausted(self) -> Exhausted:
        return Exhausted("; ".join(str(refusal) for refusal in self._refusals.values()))

    def record_success(self, *, first_answer: bool) -> None:
        """Record an answer on the open stream; `first_answer` marks the first one."""
        if first_answer:
            self._served.pop(self.name, None)
        self._breaker(self.name).record_success(first_answer=first_answer)

    def record_failure(
        self,
        fault: ProviderError,
        now: float,
        *,
        answered: bool,
        progress: bool,
        repeated: bool = False,
    ) -> Verdict:
        """Record a failure of a stream, and choose the provider to dial next.

        `answered`: the provider had sent something on the stream. `progress`: the stream had moved
        the position of the session. `repeated`: the provider fails again and again at the same
        position. Raises Exhausted.
        """
        breaker = self._breaker(self.name)
        before = self._served.get(self.name)
        verdict = judge(fault, serves_others=before is not None and breaker.served > before)
        if verdict is Verdict.HOLD:
            breaker.record_failure(fault, now, again=before is not None)
            self._served.setdefault(self.name, breaker.served)
        elif not answered and verdict is Verdict.RETRY:
            breaker.record_failure(fault, now)
        if progress:
            self.reset()
        self._failures += 1
        self._failed.add(self.name)
        if verdict is Verdict.REFUSED:
            self._refusals[self.name] = fault
            if len(self._refusals) == len(self.names):
                raise self._exhausted()
        elif (
            verdict is Verdict.RETRY
            and not repeated
            and not isinstance(fault, Stalled)
            and self._failures < self._failover_after
        ):
            return verdict
        for offset in range(1, len(self.names)):
            index = (self._index + offset) % len(self.names)
            if self.names[index] not in self._refusals:
                self._move(index)
                break
        return verdict

    def reset(self) -> None:
        """Forget earlier failures: the session's position has moved."""
        self._failures = 0
        self._failed.clear()

    @property
    def usable(self) -> list[str]:
        """The providers that have not refused the session."""
        return [name for name in self.names if name not in self._refusals]

    @property
    def untried(self) -> bool:
        """Whether the current provider has not failed since the last progress."""
        return self.name not in self._failed

    def _move(self, index: int) -> None:
        if index != self._index:
            self._index, self._failures = index, 0

    def own_options(
        self, given: Mapping[str, Any], model: str | None
    ) -> tuple[Any, dict[str, Any]]:
        """The model and the options of a request that are for the current provider."""
        first = self._index == 0
        options: dict[str, Any] = {}
        if first:
            options |= {k: v for k, v in given.items() if k not in self.names}
        own = given.get(self.name)
        if isinstance(own, dict):
            options |= own
        elif own is not None:
            options[self.name] = own  # the plugin reports what is wrong with it
        return options.pop("model", model if first else None), options

    def request(
        self, spec: SessionSpec, audio_format: AudioFormat, configured: dict[str, Any]
    ) -> StreamRequest:
        """Return the parameters of the next stream, for the current provider.

        The session's `model` and `options` are for the first provider of the chain. Options under
        the name of a provider are for that provider, and may have a `model` too. Language and key
        terms are for every provider. `configured`, the changes made during the session, come last.
        Raises RequestRefused if the key terms are malformed.
        """
        model, options = self.own_options(spec.options, spec.model)
        options |= configured
        keyterms = options.pop("keyterms", spec.keyterms)
        if not isinstance(keyterms, list) or not all(isinstance(term, str) for term in keyterms):
            raise RequestRefused(self.name, "request", "keyterms must be a list of strings")
        return StreamRequest(
            session_id=spec.session_id,
            format=audio_format,
            language=spec.language,
            model=model,
            keyterms=tuple(keyterms),
            options=options,
        )
