"""`natterjack transcribe`: transcripts of files, on this machine or with an installation."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from natterjack.errors import UsageError
from natterjack.local.recordings.conversation import Options
from natterjack.local.recordings.run import transcribe
from natterjack.settings import BrokerSettings, FsPath, add_flags, described, load, variable
from natterjack.subjects import SessionKey
from natterjack.transcripts.files import FORMATS

from ..arguments import formats, path

_STANDARD = Path("-")


class EdgeUserSettings(BaseSettings):
    """The user who publishes audio, where the one who reads transcripts may not."""

    model_config = SettingsConfigDict(
        env_prefix="TRANSCRIBE_EDGE_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    creds: FsPath | None = described(None, "credentials file (JWT and seed) of the edge's user")
    nkey: FsPath | None = described(None, "file with an NKey seed of the edge's user")
    user: str | None = described(None, "user name of the edge's user")
    password: SecretStr | None = described(None, "password of the edge's user")
    inbox_prefix: str | None = described(
        None, "prefix of the subjects on which replies arrive for the edge's user"
    )


def _positive(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 1000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 999")
    return int(text)


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `transcribe`."""
    command = commands.add_parser(
        "transcribe",
        help="transcribe recordings into files",
        description="Transcribe audio and video files, all recordings of a folder, or standard "
        "input (-), into text, subtitles, Markdown or JSON. Without an installation (--nats-url, "
        "NATS_URL) it starts a broker and a worker with the embedded engine for as long as it "
        "takes; nothing leaves this machine. A transcript that is there is not made again. What is "
        "interrupted, even by a crash, is continued when the same command is run again.",
        epilog="Progress is on standard error. Exit status: 0 all of it is transcribed, or was "
        "before; 1 some of it is not, or is incomplete; 2 wrong usage, nothing that can be "
        "transcribed, or no connection to NATS; 130 stopped by Ctrl-C.",
    )
    command.add_argument(
        "paths", nargs="+", type=path, metavar="FILE", help="file or folder; -: standard input"
    )
    command.add_argument(
        "-o",
        "--output",
        type=path,
        metavar="DIR",
        help="folder for the transcripts; -: standard output [default: beside each recording; "
        "standard output for standard input]",
    )
    command.add_argument(
        "--format",
        type=formats,
        default=("txt",),
        metavar="FORMATS",
        help=f"comma-separated: {', '.join(FORMATS)} [default txt]",
    )
    command.add_argument(
        "--overwrite", action="store_true", help="transcribe again what has a transcript"
    )
    command.add_argument(
        "--jobs",
        type=_positive,
        metavar="N",
        help="how many recordings are transcribed at once [default: one for each core]",
    )
    command.add_argument("--tenant", default="default", help="tenant [default default]")
    command.add_argument(
        "--speaker", default="speaker", help="name of the speaker [default speaker]"
    )
    command.add_argument(
        "--split-channels",
        metavar="NAMES",
        help="comma-separated speakers, one for each channel in order",
    )
    command.add_argument(
        "--track", type=_positive, metavar="N", help="audio track of each file [default: the first]"
    )
    command.add_argument("--language", help="language tag, such as en-US")
    command.add_argument(
        "--provider",
        help="speech provider [default: the embedded engine, or the one of the installation]",
    )
    command.add_argument("--model", help="model of the provider")
    command.add_argument(
        "--keyterm",
        action="append",
        default=[],
        metavar="TERM",
        help="a term that the provider should recognize; may be repeated",
    )
    command.add_argument(
        "--local", action="store_true", help="use the embedded engine although NATS_URL is set"
    )
    command.add_argument(
        "--store",
        type=path,
        help="directory for what is unfinished: logs, audio, the broker's data [default: one below "
        "~/.local/state/natterjack/transcribe, removed at the end]",
    )
    command.add_argument(
        "--quiet", action="store_true", help="say what is done, and show no progress"
    )
    add_flags(command, BrokerSettings, "nats-")
    add_flags(command, EdgeUserSettings, "edge-")


async def run(flags: argparse.Namespace) -> int:
    """Run the command and return the exit status. Raises: UsageError, BrokerError, PartFailed."""
    printed = flags.output == _STANDARD or (flags.output is None and _STANDARD in flags.paths)
    if printed and len(flags.format) > 1:
        raise UsageError("standard output has room for one format; name a folder with -o")
    if printed and flags.output is None and len(flags.paths) > 1:
        raise UsageError("with standard input among several recordings, name a folder with -o")
    speakers = (flags.speaker,)
    if flags.split_channels is not None:
        speakers = tuple(name.strip() for name in flags.split_channels.split(","))
        if len(set(speakers)) < len(speakers):
            raise UsageError("--split-channels: each channel needs a speaker of its own")
    for speaker in speakers:
        SessionKey.checked(flags.tenant, "any", speaker)
    edge = [f"--keyterm={term}" for term in flags.keyterm]
    edge += [
        f"--{name}={value}"
        for name in ("language", "provider", "model")
        if (value := getattr(flags, name)) is not None
    ]
    options = Options(
        formats=flags.format,
        directory=None if printed else flags.output,
        printed=printed,
        overwrite=flags.overwrite,
        jobs=flags.jobs,
        tenant=flags.tenant,
        speakers=speakers,
        provider=flags.provider,
        edge=tuple(edge),
        track=flags.track,
        quiet=flags.quiet,
    )
    broker = _installation(flags)
    return await transcribe(
        flags.paths, options, flags.store, broker, broker and _publisher(broker, flags)
    )


def _installation(flags: argparse.Namespace) -> BrokerSettings | None:
    """The broker of the installation to use, or None for one of our own."""
    named = f"{BrokerSettings.__name__}.url" in vars(flags)
    if flags.local and named:
        raise UsageError("--local and --nats-url exclude each other")
    if flags.local or not (named or os.environ.get(variable(BrokerSettings, "url"))):
        return None
    return load(BrokerSettings, flags)


def _publisher(broker: BrokerSettings, flags: argparse.Namespace) -> BrokerSettings:
    """The settings of the edge: those of `broker`, with another user if one is named."""
    user = load(EdgeUserSettings, flags)
    named = {
        name: value for name in EdgeUserSettings.model_fields if (value := getattr(user, name))
    }
    if not named:
        return broker
    anonymous = {"creds": None, "nkey": None, "user": None, "password": None}
    return broker.model_copy(update=anonymous | named)
