"""When the next attempt to connect is made, and how failures are classified."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from nats.errors import AuthorizationError, UnexpectedEOF
from nats.errors import Error as NatsError

from natterjack.broker.login.attempts import REASONS, Attempts, describe, last_error, reason


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pauses(chance: float, count: int, servers: int = 1) -> list[float]:
    attempts = Attempts(Clock(), lambda: chance)
    return [round(attempts.pause(servers), 3) for _ in range(count)]


def test_pauses_grow_from_200_ms_to_3_s_and_a_third_is_random() -> None:
    assert pauses(1, 7) == [0, 0.3, 0.6, 1.2, 2.4, 3, 3]
    assert pauses(0, 7) == [0, 0.2, 0.4, 0.8, 1.6, 2, 2]
    assert pauses(1, 10_000)[-1] == 3


def test_a_round_over_all_servers_takes_as_long_as_a_pause_for_one() -> None:
    assert pauses(1, 7, servers=3) == [0, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2]


@pytest.mark.parametrize(("held", "expected"), [(2.0, 0), (1.9, 1.2)])
def test_a_connection_that_is_lost_at_once_counts_as_a_failure(
    held: float, expected: float
) -> None:
    """A server that accepts the client and drops it is not asked five times a second."""
    clock = Clock()
    attempts = Attempts(clock, lambda: 1)
    for _ in range(3):
        attempts.pause()
    attempts.connected()
    clock.now += held
    assert attempts.pause() == pytest.approx(expected)


def verify_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
    error.reason, error.verify_message = "CERTIFICATE_VERIFY_FAILED", "unknown CA"
    return error


def alert(name: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {name}]")
    error.reason = name
    return error


@pytest.mark.parametrize(
    ("error", "label", "words"),
    [
        (NatsError("nats: 'Authorization Violation'"), "authorization",
         "the server refuses the credentials: Authorization Violation"),
        (AuthorizationError(), "authorization",
         "the server refuses the credentials: authorization failed"),
        (NatsError("nats: User Authentication Expired"), "expired",
         "the server refuses the credentials: User Authentication Expired"),
        (NatsError("nats: 'User Authentication Revoked'"), "authorization",
         "the server refuses the credentials: User Authentication Revoked"),
        (NatsError("nats: 'maximum account active connections exceeded'"), "limit",
         "maximum account active connections exceeded"),
        (NatsError("nats: maximum connections exceeded"), "limit", "maximum connections exceeded"),
        (NatsError("nats: Maximum Payload Violation"), "other", "Maximum Payload Violation"),
        (verify_error(), "tls", "the server's certificate is not valid: unknown CA"),
        (alert("SSLV3_ALERT_CERTIFICATE_EXPIRED"), "expired",
         "the server refuses the client certificate: certificate expired"),
        (alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "tls",
         "the server refuses the client certificate: certificate required"),
        (TimeoutError(), "timeout", "no answer in time"),
        (ConnectionRefusedError(111, "x"), "unreachable", "connection refused"),
        (UnexpectedEOF(), "unreachable", "unexpected EOF"),
        (ValueError("odd"), "other", "odd"),
    ],
)  # fmt: skip
def test_reasons_and_words(error: Exception, label: str, words: str) -> None:
    assert reason(error) == label
    assert reason(error) in REASONS
    assert describe(error) == words


def test_the_trouble_is_the_last_refusal_until_there_is_a_connection() -> None:
    attempts = Attempts()
    attempts.refused(UnexpectedEOF())
    assert attempts.trouble is None
    attempts.refused(NatsError("nats: User Authentication Expired"))
    assert "Expired" in str(attempts.trouble)
    assert not attempts.failures
    attempts.failed(ConnectionRefusedError())
    attempts.failed(ConnectionRefusedError())
    assert attempts.trouble == "connection refused"
    assert attempts.failures == {"unreachable": 2}
    attempts.connected()
    assert attempts.trouble is None


def test_refused_credentials_that_have_expired_say_so() -> None:
    """nats-server refuses an expired JWT with the words for a wrong key."""
    attempts = Attempts()
    attempts.failed(NatsError("nats: 'Authorization Violation'"), expired=True)
    assert attempts.failures == {"expired": 1}
    assert attempts.trouble == (
        "the server refuses the credentials, which have expired: Authorization Violation"
    )


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize(
    ("arrived", "words"),
    [
        (b"-ERR 'maximum connections exceeded'\r\n", "maximum connections exceeded"),
        (b"-ERR 'Authorization Violation'\r\nmore", "the server refuses the credentials"),
        (b"-ERR 'cut of", "cut of"),
        (b"PING\r\n", "the connection is gone"),
        (b"", "the connection is gone"),
    ],
)
async def test_what_the_server_said_before_it_closed(
    arrived: bytes, words: str, broken: bool
) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(arrived)
    if broken:
        reader.set_exception(ConnectionResetError("Connection lost"))
    assert words in describe(await last_error(reader))
