"""Imports nats-py without aiohttp, for programs that have no other use for it.

nats-py imports aiohttp, if it is installed, for WebSockets, and goes without if it is not. Ours
come from `natterjack.broker.websocket`, so that import is 10 MB for nothing. A program imports this
module before anything else that imports nats-py; later imports of aiohttp succeed. In a process
that has imported one of the two already, nothing happens.

Only for programs: a library must not decide it for the application that imports it, which may use
nats-py's own WebSockets.
"""

from __future__ import annotations

import sys
from importlib import import_module

_HIDDEN, _TRANSPORT = "aiohttp", "nats.aio.transport"


def _import_nats() -> None:
    if _HIDDEN in sys.modules or _TRANSPORT in sys.modules:
        return
    sys.modules[_HIDDEN] = None  # type: ignore[assignment] # makes an import fail, as documented
    try:
        import_module(_TRANSPORT)
    finally:
        del sys.modules[_HIDDEN]


_import_nats()
