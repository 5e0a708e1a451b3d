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
    http_error,
)
from natterjack.spec import SessionSpec
from worker.providers.breaker import Breaker, Verdict
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


def _fail(chain: Chain, fault: ProviderError, **how: bool) -> Verdict:
    return chain.record_failure(fault, 0.0, **{"answered": True, "progress": False, **how})


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
    assert chain.name == "b", "its account refused: it is dialed when its breaker allows"


def test_a_request_that_was_refused_is_not_sent_again() -> None:
    chain = Chains().chain("a", "b")
    _fail(chain, RequestRefused("a", "request", "no such model"))
    for _ in range(4):
        assert chain.name == "b"
        _fail(chain, Stalled("b", "mute", "sends nothing"))


def test_a_single_provider_is_retried_until_it_refuses_the_request() -> None:
    chain = Chains().chain("a")
    for _ in range(4):
        _fail(chain, Stalled("a", "mute", "sends nothing"))
        assert chain.name == "a"
    assert _fail(chain, RequestRefused("a", "auth", "wrong key")) is Verdict.HOLD
    with pytest.raises(Exhausted, match="no such model"):
        _fail(chain, RequestRefused("a", "request", "no such model"))


def test_all_refusals_are_reported() -> None:
    chain = Chains().chain("a", "b")
    _fail(chain, RequestRefused("a", "request", "no such model"))
    with pytest.raises(Exhausted, match=r"no such model.*no such language"):
        _fail(chain, RequestRefused("b", "request", "no such language"))


@pytest.mark.parametrize("answered", [False, True])
def test_an_account_that_refuses_is_left_alone_until_its_probe(answered: bool) -> None:
    chain = Chains().chain("a", "b")
    _fail(chain, RequestRefused("a", "credit", "no money"), answered=answered)
    assert chain.choose(1.0) == 0
    assert chain.name == "b"
    _fail(chain, RequestRefused("b", "auth", "wrong key"))
    assert chain.choose(1.0) == 9, "nobody serves it now"
    assert chain.problem == "credit: a: no money; auth: b: wrong key"
    assert chain.refused_account
    assert chain.choose(10.0) == 0
    chain.record_success(first_answer=True)
    assert not chain.refused_account


def test_a_403_is_of_the_request_if_the_account_serves_others() -> None:
    chains = Chains()
    greedy, other = chains.chain("a"), chains.chain("a")
    forbidden = http_error("a", 403, "this model is not yours")
    assert _fail(greedy, forbidden) is Verdict.HOLD
    assert _fail(greedy, forbidden) is Verdict.HOLD
    assert other.choose(1.0) == 0, "it counts once"
    other.record_success(first_answer=True)
    with pytest.raises(Exhausted, match="not yours"):
        _fail(greedy, forbidden)


def test_a_403_counts_anew_after_the_session_was_served() -> None:
    chain = Chains().chain("a")
    forbidden = http_error("a", 403, "suspended")
    for _ in range(3):
        assert _fail(chain, forbidden) is Verdict.HOLD
        chain.record_success(first_answer=True)


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
