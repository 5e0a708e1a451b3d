from __future__ import annotations

from typing import Any

import pytest

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RequestRefused,
    Stalled,
    Unavailable,
)
from natterjack.spec import SessionSpec
from worker.providers.breaker import Breaker
from worker.providers.chain import Chain, Exhausted

MONO = AudioFormat("linear16", 16_000, 1)


class Chains:
    """Chains that share breakers, as the sessions of a worker do."""

    def __init__(self, failures: int = 5) -> None:
        self._breakers: dict[str, Breaker] = {}
        self._failures = failures

    def breaker(self, name: str) -> Breaker:
        return self._breakers.setdefault(name, Breaker(self._failures, 10, 60))

    def chain(self, *names: str) -> Chain:
        return Chain(names, self.breaker, failover_after=3)


def _fail(chain: Chain, fault: ProviderError, **how: bool) -> None:
    chain.record_failure(fault, 0.0, **{"answered": True, "progress": False, **how})


def test_the_third_consecutive_drop_changes_the_provider() -> None:
    chain = Chains().chain("a", "b")
    for expected in ("a", "a", "b", "b", "b", "a"):
        _fail(chain, Dropped(chain.name, "gone"))
        assert chain.name == expected


def test_progress_between_drops_keeps_the_provider() -> None:
    chain = Chains().chain("a", "b")
    for _ in range(10):
        _fail(chain, Dropped("a", "gone"), progress=True)
        assert chain.name == "a"


def test_a_stall_or_a_refusal_changes_the_provider_at_once() -> None:
    chain = Chains().chain("a", "b", "c")
    _fail(chain, Stalled("a", "mute", "sends nothing"))
    assert chain.name == "b"
    _fail(chain, RequestRefused("b", "credit", "no money"))
    assert chain.name == "c"
    _fail(chain, Stalled("c", "mute", "sends nothing"))
    assert chain.name == "a"
    _fail(chain, Stalled("a", "mute", "sends nothing"))
    assert chain.name == "c", "b has refused and is not dialed again"


def test_a_single_provider_is_retried_until_it_refuses() -> None:
    chain = Chains().chain("a")
    for _ in range(4):
        _fail(chain, Stalled("a", "mute", "sends nothing"))
        assert chain.name == "a"
    with pytest.raises(Exhausted, match="wrong key"):
        _fail(chain, RequestRefused("a", "auth", "wrong key"))


def test_all_refusals_are_reported() -> None:
    chain = Chains().chain("a", "b")
    _fail(chain, RequestRefused("a", "auth", "wrong key"))
    with pytest.raises(Exhausted, match=r"wrong key.*no money"):
        _fail(chain, RequestRefused("b", "credit", "no money"))


def test_a_provider_that_is_not_dialed_is_skipped() -> None:
    chains = Chains(failures=2)
    first = chains.chain("a", "b")
    for _ in range(2):
        _fail(first, Unavailable("a", "connect", "refused"), answered=False)
    second = chains.chain("a", "b")
    assert second.choose(1.0) == 0
    assert second.name == "b"
    alone = chains.chain("a")
    assert alone.choose(1.0) == 9
    assert alone.choose(10.0) == 0


def test_a_provider_not_dialed_after_refusals_counts_as_refusing() -> None:
    chains = Chains(failures=1)
    first = chains.chain("a", "b")
    _fail(first, RequestRefused("a", "credit", "no money"), answered=False)
    with pytest.raises(Exhausted, match="no money"):
        chains.chain("a").choose(1.0)


def test_failures_after_an_answer_do_not_open_the_breaker() -> None:
    chains = Chains(failures=1)
    _fail(chains.chain("a"), Dropped("a", "gone"), answered=True)
    assert chains.chain("a").choose(1.0) == 0


def _spec(**values: Any) -> SessionSpec:
    return SessionSpec(tenant="t", conversation="c", speaker="s", **values)


def test_what_is_requested_of_each_provider_of_a_chain() -> None:
    chain = Chains().chain("a", "b")
    spec = _spec(
        model="m", language="de", keyterms=["x"],
        options={"tag": "1", "b": {"model": "n", "diarize": True}},
    )  # fmt: skip
    first = chain.request(spec, MONO, {})
    assert (first.model, first.language, first.options) == ("m", "de", {"tag": "1"})
    _fail(chain, Stalled("a", "mute", "sends nothing"))
    second = chain.request(spec, MONO, {"numerals": True, "keyterms": ["y"]})
    assert (second.model, second.language) == ("n", "de")
    assert second.options == {"diarize": True, "numerals": True}
    assert second.keyterms == ("y",)
