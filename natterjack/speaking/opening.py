"""speak(): text in, speech out, for applications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from natterjack.broker.connection import Broker
from natterjack.errors import UsageError, first_problem
from natterjack.settings import BrokerSettings
from natterjack.subjects import SessionKey
from natterjack.voice.spec import VoiceSpec

from .session import Speaking


def speak(
    tenant: str,
    conversation: str,
    speaker: str,
    *,
    voice: str | list[str] | None = None,
    model: str | None = None,
    language: str | None = None,
    sample_rate: int = 24_000,
    interrupt_on: str | None = None,
    options: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    worker_seconds: float = 30,
    broker: Broker | None = None,
    settings: BrokerSettings | None = None,
) -> Speaking:
    """Open a voice session for the block: workers make speech of its text, for players of the key.

    ::

        async with natterjack.speak("acme", "call-7", "assistant") as speaking:
            await speaking.say("Hello. How can I help?")
            await speaking.say(answer_of_a_language_model())

    `voice` is a provider, or a list to try in order, and `model` its name of the voice; None leaves
    them to the worker. `interrupt_on` is the key of a transcription session of the tenant, whose
    speaker interrupts the speech by starting a turn. `worker_seconds` is how long a worker may take
    to claim the session; NoWorker is raised after that.

    Uses `broker` or else makes a connection from `settings` or the environment (NATS_URL ...),
    which it retries until it succeeds. The user needs the role `application`.

    Raises: InvalidKey; UsageError if a value is not possible.
    """
    key = SessionKey.checked(tenant, conversation, speaker)
    try:
        spec = VoiceSpec(
            **key._asdict(), voice=voice, model=model, language=language, sample_rate=sample_rate,
            interrupt_on=interrupt_on, options=dict(options or {}), labels=dict(labels or {}),
        )  # fmt: skip
    except ValidationError as error:
        raise UsageError(first_problem(error)) from None
    return Speaking(spec, broker, settings, worker_seconds)
