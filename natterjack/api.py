"""The API for downstream services, which `natterjack` exports."""

from .broker.connection import Broker, connect, connected
from .broker.control import control_session
from .consume.listener import listen
from .control import ControlReply, ControlRequest
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
