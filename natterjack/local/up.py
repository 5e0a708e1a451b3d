"""`natterjack up`: a broker and workers that keep running, for development."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from natterjack.settings import BrokerSettings

from .stack import Stack, run_stack, say

DEFAULT_PORT = 4222
_DEFAULT_URL = BrokerSettings.model_fields["url"].default


async def up(*, workers: int, provider: str | None, directory: Path | None, port: int) -> int:
    """Run until Ctrl-C, SIGTERM or SIGHUP; returns the exit status.

    `port` -1 takes any free port. Raises: UsageError if `port` is taken; PartFailed if the broker
    or a worker ends.
    """
    return await run_stack(
        Stack("up", directory, workers=workers, provider=provider, port=port), _serve
    )


async def _serve(stack: Stack) -> int:
    say(_addresses(stack))
    try:
        raise await stack.failure()
    except asyncio.CancelledError:  # by a signal, which is how a stack that works is ended
        say("stopping; Ctrl-C again kills everything")
        return 0


def _addresses(stack: Stack) -> str:
    url = stack.server.url
    lines = ["", f"NATS      {url}"]
    lines += [f"worker    {http}/sessions  /metrics  /readyz" for http in stack.http_urls]
    lines += ["", f"          export NATS_URL={url}"]
    if os.environ.get("NATS_URL", _DEFAULT_URL) != url:
        elsewhere = "the server of your NATS_URL" if "NATS_URL" in os.environ else _DEFAULT_URL
        lines += [f"          (without that line, the commands below go to {elsewhere})"]
    return (
        "\n".join(lines)
        + """
          natterjack tail --voice                      captions of every session, and speech
          natterjack-edge file speech.wav --wait       transcribe a file
          natterjack-edge mic                          transcribe the microphone
          natterjack-edge play --conversation say      play what the next one says
          natterjack say 'Good morning.'               speak text
          nats sub 'stt.transcript.>'                  the events, with any NATS client

Ctrl-C stops everything."""
    )
