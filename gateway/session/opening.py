"""The wishes of a door that opens a session, and the request that is made from them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from natterjack.audio import AudioFormat, Encoding
from natterjack.broker.streams import MAX_SPEC_BYTES
from natterjack.errors import UsageError, first_problem
from natterjack.spec import SessionSpec
from natterjack.subjects import SessionKey

from ..access import Grant

_HEADROOM_BYTES = 4 * 1024
"""The stream's limit of a request includes its headers."""
_DIGEST_CHARACTERS = 12
_MAX_SPEAKER = 64 - _DIGEST_CHARACTERS - 1


@dataclass(frozen=True, slots=True)
class Opening:
    """A session that a client wants."""

    conversation: str | None = None
    """Second token of the key; None for a new one."""
    speaker: str = "speaker"
    """Third token of the key."""
    encoding: Encoding = "linear16"
    """Encoding of what is passed to `ClientSession.send`."""
    sample_rate: int = 16_000
    """Frames per second."""
    channels: int = 1
    """Interleaved channels, which are mixed down. A session for each channel is up to the door."""
    language: str | None = None
    provider: str | Sequence[str] | None = None
    """A provider, or several in order of preference; None leaves it to the worker."""
    model: str | None = None
    """Model of the provider; None for its default."""
    keyterms: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the provider, which validates them."""
    labels: Mapping[str, str] = field(default_factory=dict)
    max_seconds: float | None = None
    """Seconds of audio after which the session ends."""
    interim_results: bool = True
    """Whether the session yields interims."""
    rejoin: str | None = None
    """An ID that the client repeats when it connects again after its connection was lost."""

    @property
    def audio_format(self) -> AudioFormat:
        return AudioFormat(self.encoding, self.sample_rate, self.channels)


def client_digest(grant: Grant, rejoin: str) -> str:
    """Token that stands for a client: its key and the ID that it repeats. The same on each gateway,
    and of no use with another key."""
    text = f"{grant.tenant}\0{grant.key_id}\0{rejoin}"
    return sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]


def session_key(grant: Grant, opening: Opening) -> SessionKey:
    """The key of a new session. Raises InvalidKey, and Refused for a conversation that the grant
    does not allow."""
    conversation = grant.conversation_for(opening.conversation)
    return SessionKey.checked(grant.tenant, conversation, speaker_of(grant, opening))


def speaker_of(grant: Grant, opening: Opening) -> str:
    """The speaker of a new session. That of a client which repeats an ID tells it from others, so
    that its sessions can be found in all conversations."""
    if opening.rejoin is None:
        return opening.speaker
    return f"{opening.speaker[:_MAX_SPEAKER]}-{client_digest(grant, opening.rejoin)}"


def with_grant(grant: Grant, opening: Opening, default_providers: Sequence[str] = ()) -> Opening:
    """The session that a client gets, from what it wants and what its key says: the key decides on
    providers, labels and limits; its model, language and options are for clients that name none.

    `default_providers` are those of keys that name none.
    """
    limits = [n for n in (opening.max_seconds, grant.max_session_seconds) if n is not None]
    return replace(
        opening,
        provider=grant.provider or opening.provider or default_providers or None,
        model=opening.model or grant.model,
        language=opening.language or grant.language,
        keyterms=tuple(dict.fromkeys((*opening.keyterms, *grant.keyterms))),
        options={**grant.options, **opening.options},
        labels={**opening.labels, **grant.labels},
        max_seconds=min(limits, default=None),
    )


def session_spec(key: SessionKey, opening: Opening) -> SessionSpec:
    """The request of a new session. Raises UsageError, whose message names the field."""
    provider = opening.provider
    if provider is not None and not isinstance(provider, str):
        provider = list(provider)
    try:
        spec = SessionSpec(
            **key._asdict(),
            **opening.audio_format._asdict(),
            language=opening.language,
            provider=provider,
            model=opening.model,
            keyterms=list(opening.keyterms),
            options=dict(opening.options),
            labels=dict(opening.labels),
            max_seconds=opening.max_seconds,
            successor=str(uuid4()),
        )
    except ValidationError as error:
        raise UsageError(first_problem(error)) from None
    size = len(spec.model_dump_json())
    if size > MAX_SPEC_BYTES - _HEADROOM_BYTES:
        raise UsageError(f"the request has {size} bytes: use fewer keyterms, options or labels")
    return spec
