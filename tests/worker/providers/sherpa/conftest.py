"""The real engine and real speech: a provider that tests share, and the bundled recording."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from worker.providers.sherpa import SherpaProvider
from worker.providers.sherpa.settings import SherpaSettings

from .speech import PART_SECONDS, Take, seconds, take_of, two_cities


@pytest.fixture(scope="package")
def provider(engine: None) -> Iterator[SherpaProvider]:
    provider = SherpaProvider(SherpaSettings())
    yield provider
    asyncio.run(provider.close())


@pytest.fixture(scope="session")
def speech() -> bytes:
    """44.4 s: the opening of A Tale of Two Cities, as 16 kHz linear16."""
    return two_cities()


@pytest.fixture(scope="package")
def whole_take(provider: SherpaProvider, speech: bytes) -> Take:
    """The whole recording, transcribed in one go with interims."""
    return asyncio.run(take_of(provider, speech))


@pytest.fixture(scope="session")
def part(speech: bytes) -> bytes:
    """The first sentences of the recording."""
    return seconds(0, PART_SECONDS, speech)


@pytest.fixture(scope="package")
def part_take(provider: SherpaProvider, part: bytes) -> Take:
    """The first sentences, transcribed without interims."""
    return asyncio.run(take_of(provider, part, interim_seconds=0))
