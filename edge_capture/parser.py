"""The command line of `natterjack-edge`."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

from natterjack.doctor.report import seconds
from natterjack.settings import add_flags

from .enrollment.command import add_arguments
from .settings import FLAGS, RequestSettings

CONFIG = Path("/etc/natterjack/edge.toml")
"""The configuration file of an agent that was installed."""
_EXAMPLES = """\
examples:
  natterjack-edge file meeting.flac --tenant acme --language en
  natterjack-edge file call.wav --split-channels agent,caller --speed max --wait
  ffmpeg -i rtsp://camera/1 -f s16le -ar 16000 -ac 1 - | natterjack-edge stdin
  natterjack-edge mic --device headset --provider deepgram,sherpa --keyterm natterjack
  natterjack-edge mic --spool /var/lib/natterjack --resume
  natterjack-edge mic --play --conversation call-17 --device headset --play-device headset
  natterjack-edge run --config /etc/natterjack/edge.toml
  natterjack-edge send --spool /var/lib/natterjack
  natterjack-edge play --tenant acme --conversation call-17 --device speakers
  natterjack-edge play --conversation call-17 --file - | aplay -t raw -f S16_LE -r 24000
  natterjack-edge probe interview.m4a talk.mp4
  natterjack-edge devices
  natterjack-edge enroll - < token
  natterjack-edge check --config /etc/natterjack/edge.toml

Most settings are also environment variables, named in brackets; a flag takes precedence.
Ctrl-C ends the session cleanly; a second Ctrl-C aborts.

exit status:
  0    everything is published and acknowledged, or playback was stopped
  1    some chunks are not acknowledged, some audio is known to be untranscribed, the end of a
       session cannot be read, the source failed, a request ended the session, another agent took
       over its key, or with --wait it did not end as closed
  2    an error in the command line, the settings, the source or the spool, or with --once NATS
       cannot be reached
  3    another agent captures the key; a later start may find it free
  130  aborted by a second Ctrl-C
"""
_PLAYING = """\
It plays the newest session of the key, whenever an application opens one, until Ctrl-C.
Most settings are also environment variables, named in brackets; a flag takes precedence.

examples:
  natterjack-edge play --tenant acme --conversation call-17 --device headset
  natterjack-edge play --conversation call-17 --file answer.wav
  natterjack-edge play --conversation call-17 --file - | aplay -t raw -f S16_LE -r 24000

exit status:
  0    stopped by Ctrl-C or SIGTERM, or nobody reads standard output any more
  1    the output failed, such as a full disk, or another agent took over the key
  2    an error in the command line, the settings or the output, the server refuses, or with --once
       NATS cannot be reached
  3    another agent plays the key; a later start may find it free
  130  aborted by a second Ctrl-C
"""
_RUNNING = """\
It captures until SIGTERM or Ctrl-C. A source that fails is tried again and does not disturb others.
SIGHUP reads the file again, without a gap in sources that did not change; a file that is not usable
changes nothing. The variables NATS_*, EDGE_SPOOL*, EDGE_TENANT and EDGE_AGENT precede the file.
`natterjack-edge check --config FILE` also tries the sources, the connection and the rights.

examples:
  natterjack-edge run --config /etc/natterjack/edge.toml
  natterjack-edge run --config edge.toml --check-config

exit status:
  0    everything that was captured is published and acknowledged
  1    some chunks are not acknowledged, or a session in the spool is damaged
  2    an error in the command line, the file or the spool, the server refuses, or with --once NATS
       cannot be reached
  130  aborted by a second Ctrl-C
"""

_SENDING = """\
It leaves sessions that another agent holds. Most settings are also environment variables, named in
brackets; a flag takes precedence.

examples:
  natterjack-edge send --spool /var/lib/natterjack

exit status:
  0    everything is published and acknowledged, or the spool has nothing to send
  1    some chunks are not acknowledged, or a session in the spool is damaged
  2    an error in the command line, the settings or the spool, or with --once NATS cannot be
       reached
  130  aborted by a second Ctrl-C
"""
_PROBING = """\
examples:
  natterjack-edge probe interview.m4a talk.mp4

exit status:
  0    all files can be transcribed
  2    one cannot, and its line has an error; or an error in the command line
"""
_LISTING = """\
It prints the names that --device and --play-device take, and marks the default with *. Those of a
sound server (PulseAudio, PipeWire) are found by the user who is logged in.

exit status:
  0    it found microphones or loudspeakers
  2    it found none, or an error in the command line
"""
_ENROLLING = """\
It makes a key on this machine, and stores the credentials that it gets, the address of NATS, the
tenant and the name, which the other commands use from then on. It may be repeated. Run it as the
user who captures, or as root for the units.

examples:
  natterjack-edge enroll - < token
  natterjack-edge enroll TOKEN --agent room-12

exit status:
  0    enrolled
  1    the registrar refuses, or does not answer, or NATS cannot be reached
  2    an error in the command line, the token or the settings
"""
_CHECKING = """\
It opens no session and publishes no audio. Run it as the user and with the settings with which the
agent runs: it takes the flags of `mic`. Most settings are also environment variables, named in
brackets; a flag takes precedence.

examples:
  natterjack-edge check --device headset --spool /var/lib/natterjack
  sudo -u natterjack env $(cat /etc/natterjack/edge.env) natterjack-edge check
  natterjack-edge check --config /etc/natterjack/edge.toml
  natterjack-edge check --no-input --json

exit status:
  0    nothing failed; warnings and what was skipped do not count
  1    something failed
  2    an error in the command line or the settings
"""


def _speed(text: str) -> float | None:
    if text in ("0", "max"):
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = -1
    if not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number, 0 or max")
    return speed


def _track(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 1000):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a track, from 1")
    return int(text)


def _parse_pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    return name, value


def _parse_option(text: str) -> tuple[str, object]:
    name, value = _parse_pair(text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _add_command_flags(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the flags of every settings model that `command` uses."""
    for flags in FLAGS:
        if command not in flags.commands:
            continue
        if flags.model is RequestSettings:
            _add_request_flags(parser)
        else:
            add_flags(parser, flags.model, flags.prefix)


def _add_request_flags(parser: argparse.ArgumentParser) -> None:
    """Add flags that may be repeated, for the collections of RequestSettings."""
    group = parser.add_argument_group(f"{RequestSettings.__doc__} Each flag may be repeated")
    for flag, field, metavar, parse, text, form in (
        (
            "--keyterm",
            "keyterms",
            "TERM",
            str,
            "a term that the provider should recognize",
            "comma-separated",
        ),
        (
            "--option",
            "options",
            "NAME=VALUE",
            _parse_option,
            "an option for the provider; a VALUE that is not JSON is a string",
            "a JSON object",
        ),
        (
            "--label",
            "labels",
            "NAME=VALUE",
            _parse_pair,
            "a label stored with the session",
            "a JSON object",
        ),
    ):
        group.add_argument(
            flag,
            dest=f"{RequestSettings.__name__}.{field}",
            action="append",
            default=argparse.SUPPRESS,
            type=parse,
            metavar=metavar,
            help=f"{text} [EDGE_{field.upper()}, {form}]",
        )


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""

    def command(name: str, help: str, epilog: str = _EXAMPLES) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    parser = argparse.ArgumentParser(
        prog="natterjack-edge",
        description="Capture audio and publish it to NATS, where workers transcribe it; play the "
        "speech that workers publish.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("natterjack"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    speed = "playback speed, such as 2 for twice real time; 0 or max: as fast as possible"

    file = command("file", "publish a recording: an audio or video file of any kind")
    file.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="the file: WAV, FLAC, OGG, MP3 and the like, or anything that ffmpeg decodes, such as "
        "M4A, MP4, WebM and AMR, if ffmpeg or PyAV (natterjack[media]) is installed",
    )
    file.add_argument("--speed", type=_speed, default=1.0, help=f"{speed} [default 1]")
    file.add_argument(
        "--leave-open",
        action="store_true",
        help="on Ctrl-C or SIGTERM, exit at once and leave the session open in the spool, for "
        "--resume",
    )
    stdin = command("stdin", "publish standard input: raw audio or a WAV file")
    stdin.add_argument(
        "--speed", type=_speed, default=None, help=f"{speed} [default: as the audio arrives]"
    )
    mic = command("mic", "publish a microphone")
    mic.add_argument(
        "--play",
        action="store_true",
        help="also play the speech of the conversation's voice session",
    )
    run = command("run", "capture the sources that a file describes", _RUNNING)
    run.add_argument(
        "--config",
        type=Path,
        default=CONFIG,
        metavar="FILE",
        help=f"the configuration file, in TOML [default {CONFIG}]",
    )
    run.add_argument(
        "--check-config",
        action="store_true",
        help="say whether the file is usable, and exit",
    )
    send = command("send", "send what earlier sessions have left in the spool, and exit", _SENDING)
    play = command("play", "play the speech of a voice session", _PLAYING)
    probe = command(
        "probe", "say as JSON whether files can be transcribed, and how long they are", _PROBING
    )
    probe.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="the files")
    for each in (file, probe):
        each.add_argument(
            "--track",
            type=_track,
            metavar="N",
            help="which audio track of a file, from 1 [default: the first one]",
        )
    devices = command("devices", "list the microphones and loudspeakers", _LISTING)
    enroll = command(
        "enroll", "enroll this machine with a token, and store its credentials", _ENROLLING
    )
    add_arguments(enroll)
    check = command(
        "check", "check the microphone, the network, the broker's rights and the disk", _CHECKING
    )
    check.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="check what `run --config FILE` would use, with each of its sources",
    )
    check.add_argument(
        "--no-input", action="store_true", help="open no microphone and no other source"
    )
    check.add_argument(
        "--listen",
        type=seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long to listen to each source, in seconds [default 5]",
    )
    check.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="time limit of each other check, in seconds [default 10]",
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    for each in (file, stdin, mic, run, send, play):
        each.add_argument(
            "--once", action="store_true", help="exit if the first attempt to reach NATS fails"
        )
    for each in (file, stdin, mic):
        each.add_argument(
            "--resume",
            action="store_true",
            help="continue the session that an earlier run of this source left in the spool, or "
            "start a new one if there is none",
        )
        each.add_argument(
            "--wait",
            action="store_true",
            help="wait until workers have ended the session, or the last that continues it, "
            "and print its text",
        )
    for each in (file, stdin, mic, run, send, play, probe, devices, check, enroll):
        _add_command_flags(each, each.prog.rpartition(" ")[2])
    return parser
