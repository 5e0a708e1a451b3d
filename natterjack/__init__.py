"""natterjack: live sound into live transcripts over NATS.

What downstream services use::

    async for event in natterjack.listen(tenant="acme", from_start=True):
        if event.type == "final":
            print(event.speaker, event.text)
"""

from .connection import Broker, connect, connected
from .errors import (
    BadEvent,
    BrokerError,
    BrokerUnreachable,
    InvalidKey,
    NatterjackError,
    UsageError,
)
from .events import (
    Account,
    Event,
    FinalEvent,
    Gap,
    InterimEvent,
    StatusEvent,
    TurnEvent,
    UsageEvent,
    Word,
    parse_event,
)
from .listener import listen
from .settings import BrokerSettings
from .spec import SessionSpec
from .subjects import SessionKey

__all__ = [
    "Account",
    "BadEvent",
    "Broker",
    "BrokerError",
    "BrokerSettings",
    "BrokerUnreachable",
    "Event",
    "FinalEvent",
    "Gap",
    "InterimEvent",
    "InvalidKey",
    "NatterjackError",
    "SessionKey",
    "SessionSpec",
    "StatusEvent",
    "TurnEvent",
    "UsageError",
    "UsageEvent",
    "Word",
    "connect",
    "connected",
    "listen",
    "parse_event",
]
