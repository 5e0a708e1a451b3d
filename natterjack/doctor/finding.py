"""The result of a check, and how a check is run: in bounded time, and never with a traceback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from natterjack.errors import NatterjackError, NotAllowed
from natterjack.process.terminal import plain

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    state: State
    found: str
    cure: str = ""
    """The advice to follow; empty if nothing is to be done."""


def ok(check: str, found: str) -> Finding:
    """Nothing is to be done."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, cure: str) -> Finding:
    """Something that many installations do without."""
    return Finding(check, "warning", found, cure)


def failed(check: str, found: str, cure: str) -> Finding:
    """Something that does not work."""
    return Finding(check, "failed", found, cure)


def skipped(check: str, why: str, cure: str = "") -> Finding:
    """Something that cannot be checked, or need not be."""
    return Finding(check, "skipped", why, cure)


Check = tuple[str, Callable[[], Awaitable[Finding | Sequence[Finding]]]]
"""The name of a check, and what runs it."""


async def examined(check: Check, timeout_seconds: float) -> list[Finding]:
    """Run a check and return what it finds. Its errors are findings, and so is its timeout."""
    name, run = check
    try:
        async with asyncio.timeout(timeout_seconds):
            found = await run()
    except TimeoutError:
        text = f"no answer within {timeout_seconds:g} s"
        return [failed(name, text, "check what it depends on; --timeout waits longer")]
    except NotAllowed as refused:
        return [skipped(name, one_line(refused), "ask with the user of an operator")]
    except NatterjackError as error:
        return [failed(name, one_line(error), "")]
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks go on
        text = f"the check itself failed: {type(error).__name__}: {one_line(error)}"
        return [failed(name, text, "report this as a defect of natterjack")]
    return [found] if isinstance(found, Finding) else list(found)


def one_line(error: object, limit: int = 300) -> str:
    """The text of an error in one line, without control characters."""
    text = " ".join(plain(str(error)).split())
    return text if len(text) <= limit else text[:limit] + " ..."
