"""The ledger of a session: use, billing, prices, and takeover by the next worker."""

from __future__ import annotations

import pytest
from pydantic_settings import BaseSettings

from natterjack.errors import UsageError
from natterjack.plugin import Capabilities, Provider, ProviderStream, StreamRequest
from worker.metering.ledger import Ledger
from worker.metering.prices import Price, parse_prices, price_of
from worker.metering.tally import Tally
from worker.metrics import Metrics
from worker.providers.loading import load_class

HOUR = Price(3600.0, "USD", "audio")
"""One dollar per second."""


class _Case:
    def __init__(self, day: str = "2026-11-20") -> None:
        self.day = day
        self.metrics = Metrics(1, most_tenants=1)
        self.tally = Tally("worker-1", lambda: self.day)
        self.ledger = Ledger("acme", 1000, self.metrics, self.tally)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"natterjack_{name}", labels)


def test_repeated_updates_count_a_stream_once() -> None:
    case = _Case()
    case.ledger.opened("deepgram", HOUR, 0)
    for second in (1, 2, 2, 3):
        case.ledger.progress(second * 1000, second, second + 0.5)
    case.ledger.closed(4000, 4.0, 4.5)
    case.ledger.closed(4000, 4.0, 9.9)
    row = case.ledger.usage()["deepgram"]
    assert (row.connections, row.sent_seconds, row.connected_seconds) == (1, 4, 4.5)
    assert (row.billed_seconds, row.cost, row.replayed_seconds) == (4, 4, 0)
    assert case.metric("audio_sent_seconds_total", provider="deepgram") == 4
    assert case.metric("audio_billed_seconds_total", provider="deepgram") == 4
    used = case.metric("credits_used_total", provider="deepgram", tenant="acme", currency="USD")
    assert used == 4
    assert case.tally.of("2026-11-20", "acme").providers["deepgram"] == row


def test_replayed_audio_is_billed_and_reported_separately() -> None:
    case = _Case()
    case.ledger.opened("deepgram", HOUR, 0)
    case.ledger.closed(10_000, 10.0, 10.0)
    case.ledger.opened("deepgram", HOUR, 6000)  # the end of the finals
    case.ledger.progress(8000, 2.0, 1.0)
    assert case.ledger.usage()["deepgram"].replayed_seconds == 2
    case.ledger.closed(16_000, 10.0, 9.0)
    row = case.ledger.usage()["deepgram"]
    assert (row.sent_seconds, row.billed_seconds, row.replayed_seconds) == (20, 20, 4)
    assert row.recovery_cost == pytest.approx(4)
    assert case.metric("audio_replayed_seconds_total", provider="deepgram") == 4
    assert case.metric("recovery_cost_total", provider="deepgram", currency="USD") == 4


def test_sending_audio_to_another_provider_is_a_replay() -> None:
    case = _Case()
    case.ledger.opened("deepgram", HOUR, 0)
    case.ledger.closed(10_000, 10.0, 10.0)
    case.ledger.opened("managed", HOUR, 7000)
    case.ledger.closed(12_000, 5.0, 5.0)
    assert case.ledger.usage()["managed"].replayed_seconds == 3
    assert case.ledger.sent_seconds == 15
    assert case.ledger.cost() == (15, "USD")


def test_the_providers_report_is_billed() -> None:
    case = _Case()
    case.ledger.opened("deepgram", HOUR, 0)
    case.ledger.progress(10_000, 10.0, 10.0)
    case.ledger.reported(9.5)
    case.ledger.closed(10_000, 10.0, 10.0)
    row = case.ledger.usage()["deepgram"]
    assert (row.sent_seconds, row.reported_seconds, row.billed_seconds) == (10, 9.5, 9.5)
    assert row.cost == pytest.approx(9.5)
    # A counter never decreases, and it had reached ten.
    assert case.metric("audio_billed_seconds_total", provider="deepgram") == 10


@pytest.mark.parametrize(
    ("price", "billed"),
    [
        (Price(1, "USD", "audio"), 10),
        (Price(1, "USD", "audio", channels=2), 20),
        (Price(1, "USD", "connected"), 12.3),
        (Price(1, "USD", "connected", 15), 15),
        (Price(1, "USD", "audio", 0.1), 10),
        (Price(1, "USD", "audio", 60), 60),
        (Price(1, "USD", "none"), 0),
    ],
)
def test_billing_rules(price: Price, billed: float) -> None:
    assert price.billed_seconds(10, 12.3, None) == pytest.approx(billed)


def test_the_next_worker_continues_and_counts_only_its_own_use() -> None:
    first, second = _Case(), _Case()
    first.ledger.opened("deepgram", HOUR, 0)
    first.ledger.progress(5000, 5.0, 5.0)
    second.ledger.adopt(first.ledger.usage(), first.ledger.sent_until(5000), 5.0)
    second.ledger.assume("deepgram", HOUR, 0.5)
    second.ledger.opened("deepgram", HOUR, 3000)
    second.ledger.closed(8000, 5.0, 5.0)
    row = second.ledger.usage()["deepgram"]
    assert (row.connections, row.sent_seconds, row.estimated_seconds) == (2, 10.5, 0.5)
    assert (row.replayed_seconds, row.cost) == (2, 10.5)
    own = second.tally.of("2026-11-20", "acme").providers["deepgram"]
    assert (own.connections, own.sent_seconds, own.cost) == (1, 5.5, 5.5)


def test_days_and_tenants_are_counted_separately() -> None:
    case = _Case()
    case.ledger.opened("deepgram", HOUR, 0)
    case.ledger.progress(1000, 1.0, 1.0)
    case.ledger.captured(1.5)
    case.day = "2026-11-21"
    case.ledger.progress(3000, 3.0, 3.0)
    case.ledger.captured(3.5)
    other = Ledger("other-tenant", 1000, case.metrics, case.tally)
    other.opened("deepgram", HOUR, 0)
    other.progress(500, 0.5, 0.5)
    days = case.tally.unwritten()
    assert {key: (day.captured_seconds, day.sent_seconds) for key, day in days.items()} == {
        "2026-11-20.acme.worker-1": (1.5, 1),
        "2026-11-21.acme.worker-1": (2, 2),
        "2026-11-21.other-tenant.worker-1": (0, 0.5),
    }
    assert case.metric("credits_used_total", provider="deepgram", tenant="other", currency="USD"), (
        "only one tenant may have its own label"
    )


def test_user_prices_are_parsed() -> None:
    own = parse_prices(" deepgram=0.5, deepgram/nova-2=0.7 ,")
    provider = load_class("sherpa")
    assert own == {"deepgram": 0.5, "deepgram/nova-2": 0.7}
    assert parse_prices("") == {}
    assert provider.capabilities.billing == "none"


@pytest.mark.parametrize("text", ["deepgram", "deepgram=", "=1", "deepgram=-1", "deepgram=nan"])
def test_bad_prices_are_named(text: str) -> None:
    with pytest.raises(UsageError, match="WORKER_PRICES"):
        parse_prices(text)


@pytest.mark.parametrize(
    ("model", "language", "own", "setting", "expected"),
    [
        (None, None, {}, None, 0.288),
        ("nova-3", "de", {}, None, 0.288),
        ("nova-3", "multi", {}, None, 0.348),
        ("nova-3", "multi", {}, "0.2", 0.2),
        ("nova-3", "multi", {"deepgram": 0.1}, "0.2", 0.1),
        ("nova-3", None, {"deepgram": 0.1, "deepgram/nova-3": 0.05}, None, 0.05),
        ("nova-9", None, {}, None, 0.288),
    ],
)
def test_price_precedence(
    monkeypatch: pytest.MonkeyPatch,
    model: str | None,
    language: str | None,
    own: dict[str, float],
    setting: str | None,
    expected: float,
) -> None:
    monkeypatch.setenv("DEEPGRAM_API_KEY", "a-test-key")
    if setting is not None:
        monkeypatch.setenv("DEEPGRAM_PRICE_PER_HOUR", setting)
    found = load_class("deepgram")
    price = price_of("deepgram", found(found.Settings()), model, language, 1, own)
    assert (price.per_hour, price.currency, price.billing) == (expected, "USD", "audio")


class BareProvider(Provider):
    """Has neither a name nor capabilities on its class."""

    Settings = BaseSettings

    def __init__(self, settings: BaseSettings) -> None:
        self.capabilities = Capabilities(encodings=("linear16",), price_per_hour=0.3)

    async def open(self, request: StreamRequest) -> ProviderStream:
        raise NotImplementedError


@pytest.mark.parametrize(("own", "expected"), [({}, 0.3), ({"bare": 0.1}, 0.1)])
def test_the_price_of_a_plugin_that_declares_little(own: dict[str, float], expected: float) -> None:
    price = price_of("bare", BareProvider(BaseSettings()), None, None, 1, own)
    assert price.per_hour == expected


@pytest.mark.parametrize("seconds", [-50.0, float("nan"), float("inf")])
def test_invalid_reports_are_ignored(seconds: float) -> None:
    case = _Case()
    case.ledger.opened("deepgram", HOUR, 0)
    case.ledger.reported(seconds)
    case.ledger.closed(10_000, 10.0, 10.0)
    row = case.ledger.usage()["deepgram"]
    assert (row.reported_seconds, row.billed_seconds) == (None, 10)


def test_a_late_lower_report_does_not_make_the_next_day_negative() -> None:
    case = _Case()
    case.ledger.opened("deepgram", HOUR, 0)
    case.ledger.progress(60_000, 60.0, 60.0)
    case.day = "2026-11-21"
    case.ledger.reported(59.9)
    case.ledger.progress(60_000, 60.0, 60.0)
    row = case.tally.unwritten()["2026-11-21.acme.worker-1"].providers["deepgram"]
    assert (row.billed_seconds, row.reported_seconds) == (0, 59.9)
    assert '"billed_seconds":59.900' in case.ledger.json()


def test_late_reports_are_not_counted_twice() -> None:
    case = _Case()
    case.ledger.opened("deepgram", HOUR, 0)
    for sent, reported in ((5, None), (6, 1), (8, 4), (10, 10)):
        if reported is not None:
            case.ledger.reported(reported)
        case.ledger.progress(sent * 1000, float(sent), float(sent))
    assert case.ledger.usage()["deepgram"].billed_seconds == 10
    assert case.metric("audio_billed_seconds_total", provider="deepgram") == 10
