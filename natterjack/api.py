"""The API for downstream services, which `natterjack` exports."""

from . import sync
from .broker.connection import Broker, connect, connected
from .broker.control import control_session, control_voice
from .consume.conversation import follow, transcript
from .consume.dead_letters import DeadLetter, dead_letters
from .consume.durable import Deliveries, Delivery, durable
from .consume.listener import listen
from .consume.markers import CaughtUp, HistoryLost, Marker, StreamReplaced
from .control import ControlReply, ControlRequest
from .decoding import AnyEvent, UnknownEvent, decode_event
from .errors import (
    BadEvent,
    BrokerError,
    BrokerUnreachable,
    InvalidKey,
    NatterjackError,
    NotAllowed,
    NoWorker,
    UsageError,
    VoiceEnded,
    VoiceError,
)
from .events import (
    Event,
    FinalEvent,
    InterimEvent,
    NoticeEvent,
    StatusEvent,
    TurnEvent,
    UsageEvent,
    parse_event,
)
from .position import Position
from .settings import BrokerSettings
from .speaking.events import VoiceEvents
from .speaking.opening import speak
from .speaking.session import Speaking
from .spec import SessionSpec
from .subjects import SessionKey
from .transcripts.builder import TranscriptBuilder
from .transcripts.model import Line, Segment, TimedWord, TranscriptGap, TranscriptSession
from .transcripts.transcript import Transcript
from .values import Account, Gap, Word
from .voice.control import VoiceReply, VoiceRequest
from .voice.events import (
    UtteranceEvent,
    VoiceEvent,
    VoiceStatusEvent,
    VoiceUsage,
    parse_voice_event,
)
from .voice.spec import VoiceSpec

__all__ = [
    "Account",
    "AnyEvent",
    "BadEvent",
    "Broker",
    "BrokerError",
    "BrokerSettings",
    "BrokerUnreachable",
    "CaughtUp",
    "ControlReply",
    "ControlRequest",
    "DeadLetter",
    "Deliveries",
    "Delivery",
    "Event",
    "FinalEvent",
    "Gap",
    "HistoryLost",
    "InterimEvent",
    "InvalidKey",
    "Line",
    "Marker",
    "NatterjackError",
    "NoWorker",
    "NotAllowed",
    "NoticeEvent",
    "Position",
    "Segment",
    "SessionKey",
    "SessionSpec",
    "Speaking",
    "StatusEvent",
    "StreamReplaced",
    "TimedWord",
    "Transcript",
    "TranscriptBuilder",
    "TranscriptGap",
    "TranscriptSession",
    "TurnEvent",
    "UnknownEvent",
    "UsageError",
    "UsageEvent",
    "UtteranceEvent",
    "VoiceEnded",
    "VoiceError",
    "VoiceEvent",
    "VoiceEvents",
    "VoiceReply",
    "VoiceRequest",
    "VoiceSpec",
    "VoiceStatusEvent",
    "VoiceUsage",
    "Word",
    "connect",
    "connected",
    "control_session",
    "control_voice",
    "dead_letters",
    "decode_event",
    "durable",
    "follow",
    "listen",
    "parse_event",
    "parse_voice_event",
    "speak",
    "sync",
    "transcript",
]
