"""Feeds of conversations that nobody views any more."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.api import feeds as module
from gateway.api.feeds import Feeds
from natterjack.broker.connection import Broker

from ...waiting import until

pytestmark = pytest.mark.process


async def test_feeds_that_nobody_views_are_bounded(ready_broker: Broker) -> None:
    """A client that opens one conversation after another does not make the gateway read all of
    them."""
    feeds = Feeds(ready_broker, 10)
    since = datetime.now(UTC)
    try:
        with feeds.viewing("acme", "viewed", since):
            for number in range(module.MAX_UNUSED + 10):
                with feeds.viewing("acme", f"c-{number}", since):
                    pass
            most = module.MAX_UNUSED + 1
            await until(lambda: feeds.conversations == most, "the oldest have ended")
            with feeds.viewing("acme", "viewed", since) as feed:
                assert feed.viewers == 2
    finally:
        await feeds.close()
    assert feeds.conversations == 0
