"""The contract suites: one pytest class with the tests that every provider passes, one for voices.

The author of a provider subclasses `ProviderContract` and overrides two fixtures. The suite needs
pytest and pytest-asyncio, which `natterjack[plugin-test]` installs.

    class TestMyProvider(ProviderContract):
        @pytest_asyncio.fixture
        async def provider(self):
            provider = MyProvider(MySettings())
            yield provider
            await provider.close()

        @pytest.fixture
        def speech(self):
            return Speech(pcm, AudioFormat("linear16", 16000, 1), words=("good", "morning"))

The author of a voice subclasses `VoiceContract`, and overrides one fixture.

    class TestMyVoice(VoiceContract):
        @pytest_asyncio.fixture
        async def voice(self):
            voice = MyVoice(MySettings())
            yield voice
            await voice.close()

For values in the messages of failed assertions, call
`pytest.register_assert_rewrite("natterjack.plugin.contract")` in a conftest.py.
"""

try:
    import pytest  # noqa: F401
    import pytest_asyncio  # noqa: F401
except ImportError as error:
    needed = "natterjack.plugin.contract needs pytest: pip install 'natterjack[plugin-test]'"
    raise ImportError(needed) from error

from .case import Speech, finals, plain_words, text_of
from .streams import EndTests, ResourceTests
from .transcripts import DeclarationTests, TranscriptTests
from .voice_ends import InterruptTests, VoiceEndTests
from .voice_speech import SpeechTests, VoiceDeclarationTests

__all__ = ["ProviderContract", "Speech", "VoiceContract", "finals", "plain_words", "text_of"]


class ProviderContract(DeclarationTests, TranscriptTests, ResourceTests, EndTests):
    """The tests that every provider passes. A subclass overrides `provider` and `speech`."""


class VoiceContract(VoiceDeclarationTests, SpeechTests, InterruptTests, VoiceEndTests):
    """The tests that every voice passes. A subclass overrides `voice`; the other fixtures of
    VoiceCase turn on more tests."""
