"""Checks of this machine: Python, packages, ffmpeg, sound devices, ports and disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from natterjack.local.ports import port_owner
from natterjack.local.program import command
from natterjack.process.variables import names_of_all_programs, unknown_names

from .finding import Finding, failed, ok, one_line, skipped, warning
from .versions import extras

OLDEST_PYTHON = (3, 11)
_NATS_PORT = 4222
_MOST_UNKNOWN = 10
GIB, _MIB = 1024**3, 1024**2


async def python() -> Finding:
    """The interpreter."""
    text = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {sys.prefix}"
    if sys.version_info < OLDEST_PYTHON:  # not by pip, but from a checkout
        return failed("python", text, "install Python 3.11 or newer")
    return ok("python", text)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


async def packages() -> list[Finding]:
    """The package and its extras."""
    version = _version("natterjack")
    if version is None:
        return [failed("natterjack", "is not installed", "pip install natterjack")]
    states = extras(metadata.requires("natterjack") or (), _version)
    findings = []
    base = states.pop("", None)
    lacking = [*base.missing, *base.wrong] if base else []
    text = f"{version}, {Path(__file__).parents[2]}"
    if lacking:
        findings.append(
            failed(
                "natterjack", f"{text}; {', '.join(lacking)}", "pip install --upgrade natterjack"
            )
        )
    else:
        findings.append(ok("natterjack", text))
    for name in ("dev", "docs", "plugin-test"):
        states.pop(name, None)
    wrong = {name: state.wrong for name, state in states.items() if state.wrong}
    present = sorted(name for name, state in states.items() if not state.missing)
    absent = sorted(name for name, state in states.items() if state.missing)
    text = f"installed: {', '.join(present) or 'none'}"
    text += f"; not installed: {', '.join(absent)}" if absent else ""
    if wrong:
        packages = sorted({package for found in wrong.values() for package in found})
        cure = f"pip install --upgrade 'natterjack[{','.join(sorted(wrong))}]'"
        findings.append(failed("extras", f"wrong versions: {', '.join(packages)}", cure))
    elif not present:
        cure = "pip install 'natterjack[local]' for all of it on one machine, or [worker], [edge]"
        findings.append(warning("extras", text, cure))
    else:
        findings.append(ok("extras", text))
    return findings


async def _output(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a program and return its status and output. It ends with the check."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    try:
        out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(errors="replace"), errors.decode(errors="replace")


async def ffmpeg() -> Finding:
    """Find the decoder of media files other than WAV, FLAC, OGG and MP3."""
    cure = "install ffmpeg, or pip install 'natterjack[media]'"
    found = shutil.which("ffmpeg")
    library = "PyAV " + (_version("av") or "") if find_spec("av") else ""
    if found is None:
        if library:
            return ok("ffmpeg", f"not found; {library} decodes in its place")
        return warning("ffmpeg", "not found: WAV, FLAC, OGG and MP3 only", cure)
    try:
        status, out, errors = await _output(found, "-hide_banner", "-version")
    except OSError as error:
        return failed("ffmpeg", f"{found} cannot be run: {one_line(error)}", cure)
    if status:
        return failed("ffmpeg", f"{found} fails: {one_line(errors or out, 100)}", cure)
    return ok("ffmpeg", f"{one_line(out.partition(' Copyright')[0], 60)}, {found}")


async def sound() -> Finding:
    """PortAudio and its devices. Another process asks for them, since it may hang or crash."""
    if find_spec("sounddevice") is None:
        cure = "pip install 'natterjack[edge]', if this machine is to capture or play"
        return skipped("sound", "sounddevice is not installed", cure)
    environment = {**os.environ, "NATTERJACK_LOG_LEVEL": "error"}
    status, out, errors = await _output(*command("natterjack-edge"), "devices", env=environment)
    if status:
        text = one_line(errors.strip().rpartition("\n")[2]).removeprefix("natterjack-edge: ")
        cure = "connect a device or set up a sound server; files can be transcribed without"
        if "PortAudio library" in text:
            cure = "apt-get install libportaudio2, or reinstall the package sounddevice"
        return warning("sound", text or f"`natterjack-edge devices` ends with {status}", cure)
    lines = out.splitlines()
    kinds = [n for n, line in enumerate(lines) if line.endswith("s:")]
    counts = [
        f"{stop - start - 1} {lines[start].rstrip(':')}"
        for start, stop in zip(kinds, [*kinds[1:], len(lines)], strict=True)
    ]
    return ok("sound", ", ".join(counts))


async def ports(environment: Mapping[str, str]) -> list[Finding]:
    """The ports that `natterjack up` and the programs listen on."""
    wanted = [
        ("port of NATS", _NATS_PORT, "", "natterjack up --port"),
        ("port of a worker", 9464, "WORKER_HTTP_PORT", "WORKER_HTTP_PORT"),
        ("port of the gateway", 8080, "GATEWAY_HTTP_PORT", "GATEWAY_HTTP_PORT"),
    ]
    findings = []
    for name, default, variable, setting in wanted:
        value = environment.get(variable, "") if variable else ""
        if value and not (value.isdecimal() and int(value) < 65536):
            findings.append(failed(name, f"{variable}={value}", "give a port from 0 to 65535"))
            continue
        port = int(value) if value else default
        if port == 0:
            findings.append(ok(name, "any free one"))
            continue
        owner = await asyncio.to_thread(port_owner, port)
        if owner is None:
            findings.append(ok(name, f"{port} is free"))
        else:
            cure = f"if it is not part of natterjack, stop it, or choose another port: {setting}"
            findings.append(Finding(name, "ok", f"{port} is used by {owner}", cure))
    return findings


async def variables(environment: Mapping[str, str]) -> Finding:
    """Variables that look like settings of one of the programs but are not."""
    unknown = unknown_names(environment, *names_of_all_programs())
    if not unknown:
        return ok("variables", "all that look like settings are settings")
    text = "; ".join(str(each) for each in unknown[:_MOST_UNKNOWN])
    text += f"; and {len(unknown) - _MOST_UNKNOWN} more" if len(unknown) > _MOST_UNKNOWN else ""
    return warning("variables", text, "correct the names, or remove them")


async def disk(environment: Mapping[str, str]) -> list[Finding]:
    """The space where stacks, logs and the spool are."""
    places = {"disk": tempfile.gettempdir()}
    if spool := environment.get("EDGE_SPOOL"):
        places["disk of the spool"] = spool
    return [await asyncio.to_thread(space, name, place) for name, place in places.items()]


def existing(place: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def space(name: str, place: str) -> Finding:
    """Whether files can be written at a place, and how much room is left there."""
    try:
        folder = existing(Path(place))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return failed(name, one_line(error), "choose another directory")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return failed(name, f"{folder} is not a writable folder", "choose another directory")
    return judged_space(name, place, free)


def judged_space(name: str, place: str, free_bytes: int) -> Finding:
    """Judge the space that is left at a place. Pure."""
    text = f"{free_bytes / GIB:.1f} GiB free at {place}"
    cure = f"free some space at {place}"
    if free_bytes < 100 * _MIB:
        return failed(name, text, cure)
    return warning(name, text, cure) if free_bytes < GIB else ok(name, text)
