"""Virtual environments of the peers in `.venv-peers/<peer>`, created on first use."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("peers.txt")
CACHE = Path(__file__).parent.parent / ".venv-peers"
_INSTALL_S = 900.0


class NotInstalled(Exception):
    """A peer could not be installed; the message has the reason."""


async def installed(peer: str, cache: Path = CACHE) -> Path:
    """Return the Python interpreter that has the peer, after installing it if necessary.

    Raises: NotInstalled.
    """
    wanted = [line for line in REQUIREMENTS.read_text().splitlines() if line.startswith(f"{peer}-")]
    directory = cache / peer
    python, done = directory / "bin/python", directory / "installed.txt"
    if done.exists() and done.read_text().splitlines() == wanted and python.exists():
        return python
    try:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (cache / ".gitignore").write_text("*\n")
        await _run(sys.executable, "-m", "venv", str(directory))
        pip = (str(python), "-m", "pip", "--disable-pip-version-check", "--no-input")
        await _run(*pip, "install", "--quiet", "--retries", "1", *wanted)
        done.write_text("\n".join(wanted) + "\n")
    except OSError as error:
        raise NotInstalled(str(error)) from error
    return python


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_INSTALL_S):
            _, output = await process.communicate()
    except TimeoutError:
        raise NotInstalled(f"pip took more than {_INSTALL_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = output.decode(errors="replace").strip().splitlines() or ["no reason given"]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise NotInstalled((errors or lines)[-1].removeprefix("ERROR: "))
