"""Sessions of clients: opened and published as an edge does, read as a subscriber does."""

from .channels import ChannelEvent, Channels
from .opening import Opening
from .session import ClientSession, SessionEvent
from .sessions import Sessions

__all__ = ["ChannelEvent", "Channels", "ClientSession", "Opening", "SessionEvent", "Sessions"]
