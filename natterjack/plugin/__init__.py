"""The API for plugins that add speech providers and voice providers.

A plugin imports this package and nothing of `worker`. Two of its modules need more than the base
installation: `natterjack.plugin.websocket` (`natterjack[worker]`) has WebSocket connections, and
`natterjack.plugin.contract` (`natterjack[plugin-test]`) has the tests that every provider passes.
"""

from natterjack.audio import AudioFormat, Encoding
from natterjack.events import TurnKind
from natterjack.settings import described

from .base import Balance, Plugin
from .errors import (
    Dropped,
    PluginError,
    PluginFault,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Stalled,
    Unavailable,
    http_error,
)
from .options import parse_options
from .provider import (
    Capabilities,
    Final,
    Interim,
    Notice,
    Provider,
    ProviderEvent,
    ProviderStream,
    ProviderWord,
    StreamRequest,
    Turn,
    Usage,
)
from .proxy import proxy_for
from .voice import (
    Interrupted,
    Mark,
    PhraseEnd,
    Speech,
    Voice,
    VoiceCapabilities,
    VoiceStream,
    VoiceStreamEvent,
    VoiceStreamRequest,
)

__all__ = [
    "AudioFormat",
    "Balance",
    "Capabilities",
    "Dropped",
    "Encoding",
    "Final",
    "Interim",
    "Interrupted",
    "Mark",
    "Notice",
    "PhraseEnd",
    "Plugin",
    "PluginError",
    "PluginFault",
    "Provider",
    "ProviderError",
    "ProviderEvent",
    "ProviderStream",
    "ProviderWord",
    "RemoteProtocolError",
    "RequestRefused",
    "Speech",
    "Stalled",
    "StreamRequest",
    "Turn",
    "TurnKind",
    "Unavailable",
    "Usage",
    "Voice",
    "VoiceCapabilities",
    "VoiceStream",
    "VoiceStreamEvent",
    "VoiceStreamRequest",
    "described",
    "http_error",
    "parse_options",
    "proxy_for",
]
