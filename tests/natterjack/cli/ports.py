"""Asking the HTTP port of a `natterjack` command."""

from __future__ import annotations

import re

import aiohttp

from tests.waiting import until

from .commands import Command


async def get(command: Command, path: str) -> tuple[int, str]:
    """Ask the command's HTTP port, whose address is in its log."""
    found = await until(lambda: re.search(r'"http": "(http:[^"]+)"', command.errors), "its address")
    async with aiohttp.ClientSession() as http, http.get(f"{found[1]}{path}") as response:
        return response.status, await response.text()
