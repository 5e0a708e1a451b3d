"""The boundary between the worker and plugins, with plugins that fail in every way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from natterjack.audio import AudioFormat
from natterjack.plugin import (
    Capabilities,
    Dropped,
    Final,
    PluginError,
    PluginFault,
    Provider,
    ProviderEvent,
    ProviderStream,
    RequestRefused,
    StreamRequest,
)
from tests.waiting import soon
from worker.providers import boundary
from worker.providers.boundary import GuardedProvider

REQUEST = StreamRequest("s", AudioFormat("linear16", 16_000, 1))


class OddStream(ProviderStream):
    """Raises or returns what the test sets."""

    def __init__(self, does: Any) -> None:
        self.does = does

    def _do(self) -> Any:
        if isinstance(self.does, BaseException):
            raise self.does
        return self.does

    async def send(self, audio: bytes) -> None:
        self._do()

    def send_nowait(self, audio: bytes) -> bool:
        return self._do()  # type: ignore[no-any-return]

    async def finish(self) -> None:
        self._do()

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        yield self._do()

    async def close(self) -> None:
        self._do()


class OddProvider(Provider):
    name = "odd"
    Settings = BaseSettings
    capabilities = Capabilities(encodings=("linear16",))

    def __init__(self, opens: Any) -> None:
        self.opens = opens

    async def open(self, request: StreamRequest) -> ProviderStream:
        if isinstance(self.opens, Exception):
            raise self.opens
        return self.opens  # type: ignore[no-any-return]

    async def close(self) -> None:
        raise KeyError("in close")


async def stream_that(does: Any) -> ProviderStream:
    return await GuardedProvider("p", OddProvider(OddStream(does))).open(REQUEST)


@pytest.mark.parametrize("opens", [KeyError("no such key"), None, "a stream"])
async def test_open(opens: Any) -> None:
    with pytest.raises(PluginFault, match="open") as caught:
        await GuardedProvider("p", OddProvider(opens)).open(REQUEST)
    assert (caught.value.provider, caught.value.cause) == ("p", "plugin")
    assert caught.value.retryable


async def call(stream: ProviderStream, method: str) -> None:
    match method:
        case "send":
            await stream.send(b"\0\0")
        case "finish":
            await stream.finish()
        case "send_nowait":
            stream.send_nowait(b"\0\0")
        case _:
            await anext(aiter(stream))


@pytest.mark.parametrize("method", ["send", "finish", "send_nowait", "iteration"])
async def test_errors_become_faults_with_a_traceback_in_the_log(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream = await stream_that(KeyError("no such key"))
    with pytest.raises(PluginFault, match=rf"KeyError in {method}") as caught:
        await call(stream, method)
    assert "no such key" not in str(caught.value), "subscribers see this text"
    [record] = caplog.records
    assert "no such key" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


async def test_a_traceback_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    provider = GuardedProvider("p", OddProvider(OddStream(KeyError("no such key"))))
    for _ in range(3):
        with pytest.raises(PluginFault):
            await anext(aiter(await provider.open(REQUEST)))
    assert [record.exc_info is not None for record in caplog.records] == [True, False, False]


@pytest.mark.parametrize("method", ["send", "finish", "send_nowait", "iteration"])
@pytest.mark.parametrize(
    "error",
    [SystemExit(1), BaseExceptionGroup("", [asyncio.CancelledError()]), StopIteration()],
    ids=lambda error: type(error).__name__,
)
async def test_no_error_of_a_plugin_ends_more_than_its_stream(
    method: str, error: BaseException
) -> None:
    with pytest.raises(PluginFault, match=f"in {method}"):
        await call(await stream_that(error), method)


async def test_an_error_can_be_published_whatever_it_says() -> None:
    failure = Dropped("odd", "not Unicode: \ud800")
    failure.cause = ["no", "cause"]  # type: ignore[assignment]
    failure.provider = None  # type: ignore[assignment]
    with pytest.raises(Dropped) as caught:
        await anext(aiter(await stream_that(failure)))
    assert str(caught.value) == "odd: not Unicode: \ufffd"
    assert (caught.value.provider, caught.value.cause) == ("p", "plugin")
    assert caught.value.__cause__ is None


LONG = "a page of HTML, " * 100_000


@pytest.mark.parametrize(
    "error",
    [
        Dropped("odd", LONG),
        RequestRefused("odd", "credit", LONG, LONG),
        PluginError(LONG),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_text_of_an_error_has_a_limit(error: Exception) -> None:
    with pytest.raises((Dropped, RequestRefused)) as caught:
        await GuardedProvider("odd", OddProvider(error)).open(REQUEST)
    text = str(caught.value)
    assert "a page of HTML, a page of HTML" in text
    assert text.endswith("…")
    assert len(text) < 600


async def test_provider_errors_are_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    failure = Dropped("odd", "the connection broke")
    stream = await stream_that(failure)
    with pytest.raises(Dropped) as caught:
        await anext(aiter(stream))
    assert caught.value is failure
    with pytest.raises(Dropped):
        stream.send_nowait(b"\0\0")
    assert not caplog.records


@pytest.mark.parametrize("method", ["send", "finish", "send_nowait", "iteration"])
async def test_a_settings_error_refuses_the_request(method: str) -> None:
    stream = await stream_that(PluginError("ODD_REGION is not set"))
    with pytest.raises(RequestRefused, match="ODD_REGION is not set") as caught:
        await call(stream, method)
    assert (caught.value.provider, caught.value.cause) == ("p", "request")
    with pytest.raises(RequestRefused, match="ODD_REGION is not set"):
        await GuardedProvider("p", OddProvider(PluginError("ODD_REGION is not set"))).open(REQUEST)


@pytest.mark.parametrize("value", [None, 1, "event"])
async def test_values_of_a_wrong_type_are_faults(value: Any) -> None:
    stream = await stream_that(value)
    with pytest.raises(PluginFault, match="not an event"):
        await anext(aiter(stream))
    with pytest.raises(PluginFault, match="not a bool"):
        stream.send_nowait(b"\0\0")


async def test_valid_values_are_passed_on() -> None:
    final = Final("word", 0, 1)
    assert [event async for event in await stream_that(final)] == [final]
    assert (await stream_that(True)).send_nowait(b"\0\0")


async def test_close_raises_nothing() -> None:
    await (await stream_that(KeyError("in close"))).close()
    await GuardedProvider("p", OddProvider(None)).close()


def test_a_provider_without_capabilities_is_refused() -> None:
    plugin = OddProvider(None)
    plugin.capabilities = None  # type: ignore[assignment]
    with pytest.raises(PluginError, match="capabilities"):
        GuardedProvider("p", plugin)


@pytest.mark.parametrize("method", ["send", "finish", "iteration"])
async def test_a_cancellation_inside_the_plugin_is_a_fault(method: str) -> None:
    stream = await stream_that(asyncio.CancelledError())
    with pytest.raises(PluginFault, match=rf"CancelledError in {method}"):
        await call(stream, method)


async def test_a_cancellation_inside_close_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    await (await stream_that(asyncio.CancelledError())).close()
    assert len(caplog.records) == 1


class PatientStream(OddStream):
    """Waits forever in each method."""

    async def send(self, audio: bytes) -> None:
        await asyncio.Event().wait()

    async def finish(self) -> None:
        await asyncio.Event().wait()

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        await asyncio.Event().wait()
        yield Final("", 0, 0)

    async def close(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("method", ["send", "finish", "iteration", "close"])
async def test_a_cancellation_from_outside_is_passed_on(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream = await GuardedProvider("p", OddProvider(PatientStream(None))).open(REQUEST)
    calling = asyncio.create_task(stream.close() if method == "close" else call(stream, method))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert not caplog.records


async def test_a_close_that_never_returns_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(boundary, "_CLOSE_SECONDS", 0.05)
    stream = await GuardedProvider("p", OddProvider(PatientStream(None))).open(REQUEST)
    await soon(stream.close(), 10)
    [record] = caplog.records
    assert "TimeoutError in close of a stream" in record.message


class SwiftStream(OddStream):
    """Closes in a few steps of the loop, during which the process is stopped once."""

    async def close(self) -> None:
        await asyncio.sleep(0)
        time.sleep(0.3)  # as if stopped: longer than the limit
        for _ in range(3):
            await asyncio.sleep(0)


async def test_a_close_is_not_blamed_for_time_in_which_the_process_was_stopped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(boundary, "_CLOSE_SECONDS", 0.2)
    stream = await GuardedProvider("p", OddProvider(SwiftStream(None))).open(REQUEST)
    await stream.close()
    assert not caplog.records


class UnreadableStream(OddStream):
    @property
    def reference(self) -> str | None:  # type: ignore[override]
        raise KeyError("reference")

    @property
    def used_seconds(self) -> float | None:  # type: ignore[override]
        return self._do()  # type: ignore[no-any-return]


@pytest.mark.parametrize("used", [KeyError("no figure"), "ten"])
async def test_unreadable_attributes_are_unknown(
    used: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stream = await GuardedProvider("p", OddProvider(UnreadableStream(used))).open(REQUEST)
    assert stream.used_seconds is None
    assert stream.used_seconds is None
    assert len(caplog.records) == 1
    assert stream.reference is None


async def test_a_number_is_passed_on() -> None:
    stream = await GuardedProvider("p", OddProvider(UnreadableStream(1))).open(REQUEST)
    assert stream.used_seconds == 1.0


class UnreadableProvider(OddProvider):
    @property
    def balance_seconds(self) -> float:  # type: ignore[override]
        raise KeyError("no interval")


def test_with_an_unreadable_interval_there_is_no_balance(
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider = GuardedProvider("p", UnreadableProvider(None))
    assert provider.balance_seconds == 0
    assert provider.balance_seconds == 0
    assert len(caplog.records) == 1
