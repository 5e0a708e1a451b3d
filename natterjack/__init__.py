"""natterjack: live sound into live transcripts over NATS.

What downstream services use::

    async for event in natterjack.listen(tenant="acme", from_start=True):
        if event.type == "final":
            print(event.speaker, event.text)
"""

from .connection import Broker, connect, connected
from .control import ControlReply, ControlRequest, control_session
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
    "ControlReply",
    "ControlRequest",
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
    "control_session",
    "listen",
    "parse_event",
]
