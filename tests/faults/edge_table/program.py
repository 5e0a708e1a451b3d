"""The two programs that capture a microphone: how each is told what a row wants of its edge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

TENANT, CONVERSATION, SPEAKER = "t", "c", "s"
Program = Literal["mic", "run"]
"""`natterjack-edge mic`, or `natterjack-edge run --config` with a microphone as its only source."""
PROGRAMS: tuple[Program, ...] = get_args(Program)


@dataclass(frozen=True)
class Options:
    """Options of an edge, beside its key. An option that is None has its default."""

    spool: str | None = None
    """A directory below the row's own one."""
    catch_up_rate: int | None = None
    max_seconds: int | None = None


def arguments(program: Program, options: Options, directory: Path) -> tuple[str, ...]:
    """Return the arguments of an edge, whose configuration is written into the row's directory."""
    return _run(options, directory) if program == "run" else _mic(options, directory)


def _mic(options: Options, directory: Path) -> tuple[str, ...]:
    flags = {
        "--tenant": TENANT,
        "--conversation": CONVERSATION,
        "--speaker": SPEAKER,
        "--spool": options.spool and directory / options.spool,
        "--catch-up-rate": options.catch_up_rate,
        "--max-seconds": options.max_seconds,
    }
    given = [(name, str(value)) for name, value in flags.items() if value is not None]
    return ("mic", *(word for pair in given for word in pair))


def _run(options: Options, directory: Path) -> tuple[str, ...]:
    lines = [f'tenant = "{TENANT}"']
    if options.spool is not None:
        lines += ["[spool]", f'directory = "{directory / options.spool}"']
    if options.catch_up_rate is not None:
        lines += ["[delivery]", f"catch_up_rate = {options.catch_up_rate}"]
    lines += [
        "[[sources]]", 'name = "microphone"', 'kind = "microphone"',
        f'conversation = "{CONVERSATION}"', f'speaker = "{SPEAKER}"',
    ]  # fmt: skip
    if options.max_seconds is not None:
        lines.append(f"max_seconds = {options.max_seconds}")
    path = directory / "edge.toml"
    path.write_text("\n".join(lines) + "\n")
    return ("run", "--config", str(path))
