"""`natterjack export`: writes transcripts of conversations into files."""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from natterjack.broker.connection import Broker, connected
from natterjack.consume.changed import changed_conversations
from natterjack.consume.conversation import transcript
from natterjack.errors import NatterjackError, UsageError, ungrouped
from natterjack.settings import BrokerSettings, add_flags, load
from natterjack.subjects import check_token
from natterjack.transcripts.documents import clock
from natterjack.transcripts.files import encode, file_name, folds_case, remove_leftovers, save
from natterjack.transcripts.transcript import Transcript

from ..arguments import formats, parse_time, path

_STANDARD = Path("-")
_AT_ONCE = 4
"""Conversations that are read at the same time."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `export`."""
    command = commands.add_parser(
        "export",
        help="write transcripts into files",
        description="Write the transcripts of conversations into files: those that are named, or "
        "all of a tenant that have changed since a time. A conversation is written whole, as far "
        "as it is stored, into DIR/TENANT/CONVERSATION.FORMAT, with what voice sessions said in "
        "it. A file that has the same text is left alone, so the command may be repeated, after "
        "a failure for example. If the beginning is no longer stored, the time from which on it "
        "is becomes a part of the name, and no file that has more is replaced.",
        epilog="Exit status: 0 all is written; 1 a conversation that was named has nothing "
        "stored, or a file cannot be written; 2 wrong usage, no connection to NATS, or the server "
        "refused.",
    )
    command.add_argument(
        "conversations", nargs="*", metavar="CONVERSATION", help="tenant.conversation"
    )
    command.add_argument("--tenant", help="write conversations of this tenant; with --since")
    command.add_argument(
        "--since",
        metavar="TIME",
        help="only conversations with events since then: 24h, or 2026-11-29T14:00 (local time)",
    )
    command.add_argument(
        "--ended", action="store_true", help="leave out conversations that have not ended"
    )
    command.add_argument(
        "-o", "--output", type=path, default=Path(), metavar="DIR",
        help="where to write; -: one conversation on standard output [default: current folder]",
    )  # fmt: skip
    command.add_argument(
        "--format", type=formats, default=("txt",), metavar="FORMATS",
        help="comma-separated: txt, srt, vtt, md, json [default txt]",
    )  # fmt: skip
    command.add_argument(
        "--no-voice", action="store_true", help="leave out what voice sessions said"
    )
    add_flags(command, BrokerSettings, "nats-")


@dataclass
class _Done:
    """The outcome of exporting some conversations."""

    conversations: int = 0
    written: int = 0
    unchanged: int = 0
    left_out: int = 0
    failed: int = 0

    def __iadd__(self, other: _Done) -> _Done:
        for name, number in vars(other).items():
            setattr(self, name, getattr(self, name) + number)
        return self

    def summary(self) -> str:
        """One line for people."""
        text = f"conversations: {self.conversations}, files written: {self.written}"
        for name, number in (
            ("unchanged", self.unchanged), ("not ended", self.left_out), ("failed", self.failed),
        ):  # fmt: skip
            text += f", {name}: {number}" if number else ""
        return text


async def run(flags: argparse.Namespace) -> int:
    """Run the command and return the exit status. Raises UsageError, BrokerError."""
    named = [_conversation(name) for name in flags.conversations]
    if bool(named) == (flags.tenant is not None):
        raise UsageError("give either a CONVERSATION or --tenant with --since")
    if (flags.tenant is None) != (flags.since is None):
        raise UsageError("--tenant and --since belong together")
    if flags.output == _STANDARD and (len(named) != 1 or len(flags.format) != 1):
        raise UsageError("standard output has room for one CONVERSATION in one format")
    since = parse_time(flags.since, datetime.now(UTC)) if flags.since is not None else None
    if flags.tenant is not None:
        check_token("tenant", flags.tenant)
    if isinstance(sys.stdout, io.TextIOWrapper):  # transcripts may be in any script
        whole = flags.output == _STANDARD
        sys.stdout.reconfigure(encoding="utf-8" if whole else None, errors="replace")
    settings = load(BrokerSettings, flags)
    async with connected(settings, name="natterjack-export", once=True) as broker:
        voice = False if flags.no_voice else None
        if since is not None:
            changed = await changed_conversations(broker, flags.tenant, since, voice=voice)
            named = [(flags.tenant, conversation) for conversation in changed]
        done = await _export_all(broker, named, flags)
    if flags.output != _STANDARD:
        print(done.summary())
    return 1 if done.failed else 0


def _conversation(text: str) -> tuple[str, str]:
    """Parse `tenant.conversation`. Raises UsageError."""
    tenant, dot, conversation = text.partition(".")
    if not dot:
        raise UsageError(f"{text!r} is not <tenant>.<conversation>")
    return check_token("tenant", tenant), check_token("conversation", conversation)


async def _export_all(
    broker: Broker, conversations: Sequence[tuple[str, str]], flags: argparse.Namespace
) -> _Done:
    places, total = asyncio.Semaphore(_AT_ONCE), _Done()

    async def one(tenant: str, conversation: str) -> None:
        async with places:
            voice = False if flags.no_voice else None
            read = await transcript(tenant, conversation, voice=voice, broker=broker)
            if flags.output == _STANDARD and read.sessions and not (read.open and flags.ended):
                sys.stdout.write(encode(read, flags.format[0]))
                return
            try:
                # In a thread: subtitles of many hours take seconds, and the broker is to be heard.
                line, done = await asyncio.to_thread(_export, read, flags)
            except OSError as error:
                line, done = f"{error.filename}: {error.strerror or error}", _Done(failed=1)
            if flags.output == _STANDARD:
                print(f"natterjack export: {tenant}.{conversation}: {line}", file=sys.stderr)
            else:
                print(f"{tenant}.{conversation}: {line}", flush=True)
            nonlocal total
            total += done

    with ungrouped(NatterjackError, OSError):
        async with asyncio.TaskGroup() as tasks:
            for tenant, conversation in conversations:
                tasks.create_task(one(tenant, conversation))
    return total


def _export(read: Transcript, flags: argparse.Namespace) -> tuple[str, _Done]:
    """Write one transcript, and say so. Raises OSError."""
    if not read.sessions:
        return "nothing is stored of it", _Done(failed=1)
    if read.open and flags.ended:
        return "left out, since it has not ended", _Done(left_out=1)
    base = _base(read, flags.output)
    files = [base.with_name(f"{base.name}.{form}") for form in flags.format]
    written = [
        str(file)
        for file, form in zip(files, flags.format, strict=True)
        if save(encode(read, form), file)
    ]
    about = clock(read.duration)
    if read.open:
        about += ", has not ended"
    if read.gaps:
        about += f", gaps: {len(read.gaps)}"
    about += f": wrote {', '.join(written)}" if written else ": unchanged"
    return about, _Done(1, len(written), len(files) - len(written))


def _base(read: Transcript, output: Path) -> Path:
    """The path of a transcript's files, without extension. Their folder exists then."""
    output.mkdir(parents=True, exist_ok=True)
    folds = folds_case(output)
    folder = output / file_name(read.tenant, folds_case=folds)
    folder.mkdir(exist_ok=True)
    remove_leftovers(folder)
    stem = file_name(read.conversation, folds_case=folds)
    if (begin := read.stored_from) is not None:
        stem += f"%from-{begin:%Y%m%dT%H%M%SZ}"
    return folder / stem
