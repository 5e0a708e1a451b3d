"""`natterjack up`: a broker and workers that keep running, for development."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from natterjack.process.variables import NO_EFFECT
from natterjack.settings import BrokerSettings

from . import page
from .stack import Stack, run_stack, say

DEFAULT_PORT = 4222
_DEFAULT_URL = BrokerSettings.model_fields["url"].default


async def up(
    *,
    workers: int,
    provider: str | None,
    directory: Path | None,
    port: int,
    gateway: bool = True,
    gateway_port: int | None = None,
    opens: bool = False,
) -> int:
    """Run until Ctrl-C, SIGTERM or SIGHUP; returns the exit status.

    `port` -1 takes any free port. `gateway`: with a gateway, if its extra is installed. `opens`: it
    opens the gateway's page in the browser. Raises: UsageError if a port is taken, or there can be
    no page to open; PartFailed if the broker, a worker or the gateway ends.
    """
    variables = page.gateway_variables(os.environ, gateway_port) if gateway else None
    page.check_page(variables, wanted=opens or gateway_port is not None)

    async def serve(stack: Stack) -> int:
        return await _serve(stack, opens)

    stack = Stack("up", directory, workers=workers, provider=provider, port=port, gateway=variables)
    return await run_stack(stack, serve)


async def _serve(stack: Stack, opens: bool) -> int:
    for warning in _unknown(stack):
        say(f"warning: {warning}")
    say(_addresses(stack))
    if opens:
        await page.show(stack.page)
    try:
        raise await stack.failure()
    except asyncio.CancelledError:  # by a signal, which is how a stack that works is ended
        say("stopping; Ctrl-C again kills everything")
        return 0


def _unknown(stack: Stack) -> list[str]:
    """Return the parts' warnings about misspelled variables from their logs, which few people
    read."""
    found = [
        message
        for part in (*stack.workers, *filter(None, [stack.gateway]))
        for message in part.messages("warning")
        if NO_EFFECT in message
    ]
    return list(dict.fromkeys(found))


def _addresses(stack: Stack) -> str:
    url = stack.server.url
    lines = ["", f"page      {stack.page or f'none: {page.INSTALL}, or see --gateway'}"]
    lines += ["", f"NATS      {url}"]
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
