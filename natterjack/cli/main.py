"""The `natterjack` command: parses its arguments and runs a subcommand."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import TypeAlias

from natterjack.process import without_aiohttp  # noqa: F401 - before what imports nats-py

# isort: split
from natterjack.enrollment.settings import RegistrarSettings
from natterjack.errors import BrokerError, NatterjackError, UsageError
from natterjack.local.demo import demo
from natterjack.local.up import DEFAULT_PORT, up
from natterjack.process.terminal import unread
from natterjack.process.variables import report_unknown
from natterjack.settings import MODELS, LogSettings, add_flags, load
from natterjack.telemetry import log as logs
from natterjack.webhook.settings import WebhookSettings

from . import budget, erase, keys, limits, plugins, say, sessions, streams, tail, users
from .arguments import add_command, number, path
from .conversations import control, export, transcribe
from .edges import command as edges
from .enrollment import registrar
from .local import doctor, emulate
from .webhook import command as webhook

log = logging.getLogger("natterjack")


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_demo(commands: Commands) -> None:
    command = commands.add_parser(
        "demo",
        help="transcribe a recording or the microphone on this machine",
        description="Start a broker, a worker and an edge on this machine, show captions, and stop "
        "everything at the end. This needs no account: the default provider is an engine that "
        "runs inside the worker. With --voice, the way back is shown as well: what is heard is "
        "said by a voice that runs inside the worker, too.",
        epilog="Exit status: 0 all of it was heard, and with --voice said and understood; 1 some "
        "was not, or a part of the demo ended; 2 wrong usage; 130 stopped by Ctrl-C.",
    )
    command.add_argument(
        "path", nargs="?", type=path, help="audio file to transcribe (default: a bundled recording)"
    )
    command.add_argument("--mic", action="store_true", help="transcribe the microphone")
    command.add_argument(
        "--open", action="store_true", help="show the captions in the browser, too"
    )
    command.add_argument("--device", help="which microphone: a number or part of its name")
    command.add_argument(
        "--voice",
        action="store_true",
        help="say back what is heard: two passages of the recording, of which the second "
        "interrupts the answer to the first, or each turn of the file or the microphone. What is "
        "played goes into a WAV file, to which the engine listens at the end",
    )
    command.add_argument(
        "--play",
        action="store_true",
        help="with --voice, play on the loudspeaker instead (EDGE_PLAY_DEVICE chooses it); with "
        "--mic, use a headset, so that the voice does not interrupt itself",
    )
    command.add_argument("--provider", help="speech provider (default: the embedded engine)")
    command.add_argument(
        "--store",
        type=path,
        help="directory for logs and the broker's data (default: a temporary "
        "one, removed at the end unless something failed)",
    )


def _add_up(commands: Commands) -> None:
    command = commands.add_parser(
        "up",
        help="run a broker and workers on this machine, for development",
        description="Run a broker and workers on this machine until Ctrl-C, for development.",
    )
    command.add_argument(
        "--workers", type=number(0, 1000), default=1, help="number of workers (default: 1)"
    )
    command.add_argument("--provider", help="speech provider (default: the embedded engine)")
    command.add_argument(
        "--gateway",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also run a gateway, which serves a page with captions and a microphone, if "
        "natterjack[gateway] is installed (default)",
    )
    command.add_argument(
        "--gateway-port",
        type=number(-1, 65_535),
        help="port of the gateway; -1 for any free port (default: GATEWAY_HTTP_PORT or 8080, or "
        "any free port if that is taken)",
    )
    command.add_argument("--open", action="store_true", help="open the page in the browser")
    command.add_argument(
        "--port",
        type=number(-1, 65_535),
        default=DEFAULT_PORT,
        help=f"port of NATS; -1 for any free port (default: {DEFAULT_PORT}, where other commands "
        "look for NATS)",
    )
    command.add_argument(
        "--store",
        type=path,
        help="directory for logs and the broker's data (default: a temporary "
        "one, removed at the end unless something failed)",
    )


def _add_plugins(commands: Commands) -> None:
    about = "list the installed providers and voices with their capabilities and settings"
    command = add_command(commands, "plugins", about)
    command.add_argument("--json", action="store_true", help="print JSON")


_ADDING: dict[str, Callable[[Commands], None]] = {
    "demo": _add_demo,
    "up": _add_up,
    "transcribe": transcribe.add_to,
    "tail": tail.add_to,
    "export": export.add_to,
    "say": say.add_to,
    **dict.fromkeys(control.COMMANDS, control.add_to),
    "plugins": _add_plugins,
    "doctor": doctor.add_to,
    "emulate": emulate.add_to,
    "webhook": webhook.add_to,
    "budget": budget.add_to,
    "limits": limits.add_to,
    "sessions": sessions.add_to,
    "edges": edges.add_to,
    "streams": streams.add_to,
    "erase": erase.add_to,
    "users": users.add_to,
    "registrar": registrar.add_to,
    "keys": keys.add_to,
}
"""The subcommands in the order of the help text, with what adds each."""


def parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of all subcommands, or, in a tenth of the time, of the one with which
    `arguments` begin."""
    parser = argparse.ArgumentParser(
        prog="natterjack",
        description="Live speech to live transcripts over NATS, and text to speech. The programs "
        "that do the work are natterjack-edge, which captures audio and plays speech, and "
        "natterjack-worker, which transcribes and speaks.",
        epilog="Exit status: 0 success, 1 failure, 2 wrong usage or no connection to NATS.",
    )
    parser.add_argument("--version", action="version", version=version("natterjack"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = _ADDING.get(arguments[0]) if arguments else None
    for add in dict.fromkeys([named] if named else _ADDING.values()):
        add(commands)
    for command in commands.choices.values():
        add_flags(command, LogSettings)
    return parser


def _start(flags: argparse.Namespace) -> Awaitable[int]:
    if flags.command == "demo":
        return demo(
            flags.path,
            microphone=flags.mic,
            device=flags.device,
            provider=flags.provider,
            directory=flags.store,
            voice=flags.voice,
            aloud=flags.play,
            opens=flags.open,
        )
    if flags.command == "up":
        return up(
            workers=flags.workers,
            provider=flags.provider,
            directory=flags.store,
            port=flags.port,
            gateway=flags.gateway,
            gateway_port=flags.gateway_port,
            opens=flags.open,
        )
    subcommands = {
        "transcribe": transcribe.run,
        "tail": tail.run,
        "export": export.run,
        "say": say.run,
        "budget": budget.run,
        "limits": limits.run,
        "sessions": sessions.run,
        "edges": edges.run,
        "streams": streams.run,
        "erase": erase.run,
        "doctor": doctor.run,
        "emulate": emulate.run,
        "webhook": webhook.run,
        "registrar": registrar.run,
        **dict.fromkeys(control.COMMANDS, control.run),
    }
    return subcommands[flags.command](flags)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Ends with SystemExit, which carries the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    flags = parser(given).parse_args(given)
    try:
        logs.configure(load(LogSettings, flags))
        if flags.command != "doctor":  # which has a line of its table for them
            others = (WebhookSettings, RegistrarSettings, transcribe.EdgeUserSettings)
            report_unknown({*MODELS, *others})
        if flags.command == "plugins":
            sys.exit(plugins.show(as_json=flags.json))
        if flags.command == "users":
            sys.exit(users.run(flags))
        if flags.command == "keys":
            sys.exit(keys.run(flags))

        async def run() -> int:
            return await _start(flags)

        sys.exit(asyncio.run(run()))
    except NatterjackError as error:
        print(f"natterjack {flags.command}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError | BrokerError) else 1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        if not unread(error):
            raise
        sys.exit(0)  # whoever reads the output has seen enough
