"""`natterjack emulate`: a provider's interface on this machine, without an account."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from natterjack.emulators.catalog import EMULATORS, TRANSCRIBING, load, settings
from natterjack.errors import UsageError, first_problem
from natterjack.local.ports import port_owner
from natterjack.process.signals import receiving, stop_signals
from natterjack.process.start import requires_extra

from ..arguments import number

if TYPE_CHECKING:
    from natterjack.emulators.server import Emulator

log = logging.getLogger(__name__)

CANNED = "The words are NOT what is said: any voice is answered with words of one fixed passage."


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `emulate`."""
    command = commands.add_parser(
        "emulate",
        help="imitate a provider on this machine, to test clients without an account",
        description="Imitate a provider's interface on this machine, until SIGTERM or Ctrl-C, to "
        "test clients and to see words without an account. Any key is accepted. It prints the "
        f"addresses and the settings of a worker that uses it. {CANNED} With --words tones, it "
        "recognizes words that are encoded as tones instead, so that a test can compare them.",
        epilog="Exit status: 0 stopped by a signal; 2 wrong usage. This needs natterjack[worker]; "
        "the emulators of Speechmatics need natterjack[emulators].",
    )
    command.add_argument("provider", choices=sorted(EMULATORS), metavar="PROVIDER",
                         help=f"one of {', '.join(sorted(EMULATORS))}")  # fmt: skip
    command.add_argument(
        "--words",
        choices=("canned", "tones"),
        default="canned",
        help="canned: words of a fixed passage, not what is said, for as long as there is a voice; "
        "tones: what natterjack.emulators.tones encodes (default: canned). Voices speak in tones",
    )
    port = number(0, 65_535)
    command.add_argument(
        "--port", type=port, default=0, help="port to listen on; 0 for any free port (default: 0)"
    )
    command.add_argument(
        "--control-port",
        type=port,
        default=0,
        help="port of the control endpoint, for the log and for faults (default: any free port)",
    )
    command.add_argument("--api-key", help="the only key to accept (default: any key)")
    command.add_argument(
        "--faults",
        type=_object,
        default={},
        help='faults to begin with, as a JSON object such as {"drop_after_seconds": 10}; the '
        "README of natterjack.emulators lists them",
    )
    command.add_argument(
        "--receive-timeout-seconds",
        type=float,
        default=10.0,
        help="close a stream that sends nothing for this long (default: 10)",
    )


def _object(text: str) -> dict[str, Any]:
    """The type of a JSON object as an argument."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


async def run(flags: argparse.Namespace) -> int:
    """Serve until a signal, and return the exit status. Raises: UsageError."""
    with requires_extra("natterjack emulate", "emulators"):
        kind = load(flags.provider)
    try:
        emulator = kind(
            port=flags.port,
            control_port=flags.control_port,
            api_key=flags.api_key,
            receive_timeout_seconds=flags.receive_timeout_seconds,
            **{"words": flags.words, **flags.faults},
        )
    except ValidationError as error:
        raise UsageError(f"--faults: {first_problem(error)}; see --help") from None
    except TypeError:  # a name that is an argument of the emulator
        raise UsageError("--faults: port, control_port, api_key and "
                         "receive_timeout_seconds are not faults") from None  # fmt: skip
    for port in (flags.port, flags.control_port):
        if port and (owner := port_owner(port)) is not None:
            raise UsageError(f"port {port} is taken by {owner}: choose another one")
    stop = asyncio.Event()
    with receiving(stop_signals(), lambda _: stop.set()):
        try:
            await emulator.start()
        except OSError as error:  # since the check
            await emulator.stop()
            raise UsageError(f"{error}: choose another --port or --control-port") from None
        try:
            print(_addresses(flags.provider, emulator), flush=True)
            if emulator.faults.words == "canned" and flags.provider in TRANSCRIBING:
                log.warning("%s", CANNED)
            await stop.wait()
        finally:
            await emulator.stop()
    return 0


def _addresses(provider: str, emulator: Emulator) -> str:
    lines = [f"listening on {emulator.url}", f"control on {emulator.control_url}"]
    if variables := settings(provider, emulator.url):
        lines += ["", "A worker uses it with", ""]
        lines += [f"    export {name}={value}" for name, value in variables.items()]
        lines += ["", "for example `natterjack up` in that terminal. Ctrl-C stops the emulator."]
    return "\n".join(lines)
